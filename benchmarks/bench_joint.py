"""Processor time and memory of the joint solution against the number of detectors: bin8 data of a focal plane, a scan and pointings.

``python benchmarks/bench_joint.py`` runs 1, 9 and 45 detectors; ``--full`` adds 189.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator, Sequence

import numpy as np

from harness import publish
from permil.flat.joint import DetectorSignals, ExposureList, solve_joint

SPACING_MM = 5.0
PITCH_MM = 42.0
SUPER_PIXEL_MM = 0.64
SIDE = 63
SCAN, SCAN_WIDTH_MM = 12, 80.0
IMAGES = 5
ELECTRONS = 3.2e6
PHOTODIODE_NOISE = 2e-3
AIM_MM = 10.2
AIMS = AIM_MM * np.array([[-1, 1], [1, 1], [0, 0], [-1, -1], [1, -1]])


class SimulatedDetectors(Sequence[DetectorSignals]):
    """Detectors that are simulated when asked for, so that memory holds one at a time: a pointing reads the detector aimed at."""

    def __init__(self, count: int) -> None:
        columns = int(np.ceil(np.sqrt(count)))
        self.centres = [PITCH_MM * np.array([number // columns, number % columns]) for number in range(count)]
        axis = np.linspace(-SCAN_WIDTH_MM / 2, SCAN_WIDTH_MM / 2, SCAN)
        positions = [self.centres[0] + (x, y) for x in axis for y in axis]
        self.exposures = [np.arange(len(positions))] + [np.zeros(0, dtype=np.int64)] * (count - 1)
        for number, centre in enumerate(self.centres):
            first = len(positions)
            positions += [centre + aim for aim in AIMS for _ in range(IMAGES)]
            self.exposures[number] = np.concatenate([self.exposures[number], np.arange(first, len(positions))])
        self.positions = np.array(positions)
        rng = np.random.default_rng(0)
        reading = PHOTODIODE_NOISE * rng.standard_normal(len(positions))
        self.list = ExposureList(self.positions[:, 0], self.positions[:, 1], reading, np.arange(len(positions), dtype=float))

    def __len__(self) -> int:
        """Return the number of detectors."""
        return len(self.centres)

    def __iter__(self) -> Iterator[DetectorSignals]:
        """Simulate one after the other."""
        return (self[number] for number in range(len(self)))

    def __getitem__(self, number):  # type: ignore[no-untyped-def]
        """Simulate one."""
        rng = np.random.default_rng((1, number))
        inside = (np.arange(SIDE) - (SIDE - 1) / 2) * SUPER_PIXEL_MM
        x, y = (part.ravel() for part in np.meshgrid(inside, inside, indexing="ij"))
        x, y = x + self.centres[number][0], y + self.centres[number][1]
        chosen = self.exposures[number]
        ux, uy = x - self.positions[chosen, :1], y - self.positions[chosen, 1:]
        radius = (ux**2 + uy**2) / 40.0**2
        logarithm = -0.2 * radius**3 / (radius**2 + 1) + 3e-3 * np.sin(ux / 6.0) * np.cos(uy / 7.0)
        variance = np.exp(-logarithm) / ELECTRONS
        response = 2e-3 * rng.standard_normal(x.size)
        noise = np.sqrt(variance) * rng.standard_normal(variance.shape)
        signals = (logarithm + response + noise).astype(np.float32)
        return DetectorSignals(f"D{number:03d}", x, y, chosen, signals, variance.astype(np.float32))


def main() -> None:
    """Print time and memory for growing numbers of detectors, and the exponent."""
    counts = [1, 9, 45] + ([189] if "--full" in sys.argv else [])
    first = SimulatedDetectors(1)
    solve_joint(first.list, first, spacing_mm=12.0)
    seconds, rows = [], []
    for count in counts:
        detectors = SimulatedDetectors(count)
        start = time.process_time()
        solution = solve_joint(detectors.list, detectors, spacing_mm=SPACING_MM)
        seconds.append(time.process_time() - start)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        certificate = solution.certificate
        rows.append(
            (
                f"{count}",
                f"{len(detectors.list)}",
                f"{solution.model.size}",
                f"{certificate.passes}",
                f"{seconds[-1]:.1f}",
                f"{peak:.2f}",
                f"{certificate.decrement:.1e}",
                f"{solution.reduced_chi_square:.4f}",
            )
        )
    exponent = np.polyfit(np.log(counts[1:]), np.log(seconds[1:]), 1)[0]
    publish(
        f"Joint solution of a scan of one CCD and pointings of all, knots {SPACING_MM:.0f} mm apart, 1 thread",
        ("CCDs", "exposures", "unknowns", "passes", "processor s", "peak GiB", "Newton decrement", "reduced chi-square"),
        rows,
        remark=f"Processor time grows as the {exponent:.2f}th power of the number of CCDs (from {counts[1]}).",
    )


if __name__ == "__main__":
    main()
