"""Which model does the measured 16-amplifier scan prefer? Variants of ``log signal = log g + log B + log s`` and what each leaves.

Run as ``python benchmarks/study_real_scan.py FOLDER`` with the folder that holds ``ccob_scan_red_12x12_16amps.ecsv``.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray
from scipy import linalg

from permil.camera import frames, load_camera
from permil.flat.joint.spline import SplineGrid

FloatArray = NDArray[np.float64]
SCAN = "ccob_scan_red_12x12_16amps.ecsv"
ROW, COLUMN = 1000, 256
PHOTON_NOISE = 1.3e-4
MIDDLE_MM = 20.0
HOLD = 1e-6
STIFFNESS = np.geomspace(1e-2, 1e8, 21)


@dataclass(frozen=True)
class Scan:
    """Logarithms of signals, places of amplifiers (relative to their mean), projector positions, numbers of both."""

    log_signal: FloatArray
    place: FloatArray
    projector: FloatArray
    amplifier: NDArray[np.int64]
    exposure: NDArray[np.int64]


@dataclass(frozen=True)
class Variant:
    """A model: patterns of light as functions of ``sign * place - projector`` (per axis), or of the projector alone (sign 0)."""

    name: str
    patterns: tuple[tuple[int, int], ...]
    free_scales: bool


@dataclass(frozen=True)
class Outcome:
    """What a variant leaves, and what it needs for it: curvatures, and ``sizes`` of what patterns have beyond a paraboloid."""

    rms: float
    left_out: float
    parameters: float
    curvatures: list[float]
    sizes: list[float]
    scale_range: float
    scale_curvature: float
    gain_range: float


def read_scan(folder: Path) -> Scan:
    """Read the scan; the bunch of each amplifier is at row 1000, column 256 of its segment (stated for later runs only)."""
    table = Table.read(folder / SCAN)
    detector = load_camera("lsstcam")["R22_S11"]
    pixels = [frames.segment_to_detector(detector.amplifier(number), COLUMN, ROW) for number in range(1, 17)]
    places = np.array([frames.detector_to_ccs(detector, *pixel) for pixel in pixels])
    places -= places.mean(axis=0)
    amplifier = np.asarray(table["amp"], dtype=np.int64) - 1
    positions = np.column_stack([table["x_mm"], table["y_mm"]])
    projector, exposure = np.unique(positions, axis=0, return_inverse=True)
    middle = projector.mean(axis=0)
    return Scan(np.log(np.asarray(table["signal"])), places[amplifier], positions - middle, amplifier, exposure.ravel())


def fit(scan: Scan, variant: Variant, spacing_mm: float) -> Outcome:
    """Fit by penalised least squares; the smoothness minimises the residual of left-out nodes (PRESS, Allen 1974)."""
    blocks, penalties, grids = [], [], []
    for signs in variant.patterns:
        u = np.asarray(signs) * scan.place - scan.projector
        grid = SplineGrid.covering(u.min(axis=0) - 0.01, u.max(axis=0) + 0.01, spacing_mm)
        blocks.append(grid.design(u[:, 0], u[:, 1]).toarray())
        penalties.append(grid.roughness().toarray())
        grids.append(grid)
    blocks.append(np.eye(16)[scan.amplifier])
    penalties.append(np.zeros((16, 16)))
    if variant.free_scales:
        count = scan.exposure.max() + 1
        blocks.append(np.eye(count)[scan.exposure])
        penalties.append(np.zeros((count, count)))
    design, penalty = np.hstack(blocks), linalg.block_diag(*penalties)
    target = scan.log_signal - scan.log_signal.mean()
    best = None
    for stiffness in STIFFNESS:
        # What is degenerate (levels, gradients) is held by a term too small to matter elsewhere.
        factor = linalg.cho_factor(design.T @ design + stiffness * penalty + HOLD * np.eye(len(penalty)))
        solution = linalg.cho_solve(factor, design.T @ target)
        leverage = np.einsum("ij,ji->i", design, linalg.cho_solve(factor, design.T))
        residual = target - design @ solution
        left_out = float(np.sqrt(np.mean((residual / (1 - leverage)) ** 2)))
        if best is None or left_out < best[0]:
            best = left_out, solution, residual, float(leverage.sum())
    left_out, solution, residual, parameters = best
    curvatures, sizes, start = [], [], 0
    for grid in grids:
        part = slice(start, start + grid.size)
        curvatures.append(curvature_of(grid, solution[part]))
        u = np.asarray(variant.patterns[len(sizes)]) * scan.place - scan.projector
        sizes.append(structure_of(u, design[:, part] @ solution[part]))
        start += grid.size
    gains, scales = solution[start : start + 16], solution[start + 16 :]
    rest = without_plane(scan, scales) if variant.free_scales else np.zeros(1)
    return Outcome(
        rms=float(np.sqrt(np.mean(residual**2))),
        left_out=left_out,
        parameters=parameters,
        curvatures=curvatures,
        sizes=sizes,
        scale_range=float(np.ptp(rest)),
        scale_curvature=scale_curvature(scan, scales) if variant.free_scales else 0.0,
        gain_range=float(np.ptp(gains)),
    )


def positions_of(scan: Scan) -> FloatArray:
    """Return the projector position of each exposure."""
    first = np.unique(scan.exposure, return_index=True)[1]
    return scan.projector[first]


def without_plane(scan: Scan, scales: FloatArray) -> FloatArray:
    """Return scales less a plane in the projector's position, which no signal determines."""
    plane = np.column_stack([np.ones(len(scales)), positions_of(scan)])
    return scales - plane @ np.linalg.lstsq(plane, scales, rcond=None)[0]


def scale_curvature(scan: Scan, scales: FloatArray) -> float:
    """Return the mean second derivative of the logarithm of the scales with the projector's position, 1/mm^2."""
    return quadratic(positions_of(scan), scales)


def curvature_of(grid: SplineGrid, coefficients: FloatArray) -> float:
    """Return the mean second derivative of a pattern within 20 mm of the middle, 1/mm^2."""
    axis = np.linspace(-MIDDLE_MM, MIDDLE_MM, 15)
    x, y = (part.ravel() for part in np.meshgrid(axis, axis))
    return quadratic(np.column_stack([x, y]), grid.evaluate(coefficients, x, y))


def structure_of(places: FloatArray, heights: FloatArray) -> float:
    """Return the rms of a pattern without its best paraboloid."""
    x, y = places.T
    terms = np.column_stack([np.ones(len(x)), x, y, x**2, x * y, y**2])
    return float(np.std(heights - terms @ np.linalg.lstsq(terms, heights, rcond=None)[0]))


def quadratic(places: FloatArray, heights: FloatArray) -> float:
    """Return the mean of the second derivatives along both axes of the best paraboloid."""
    x, y = places.T
    terms = np.column_stack([np.ones(len(x)), x, y, x**2 / 2, x * y, y**2 / 2])
    solution = np.linalg.lstsq(terms, heights, rcond=None)[0]
    return float((solution[3] + solution[5]) / 2)


UPRIGHT, REVERSED, STATIC = (1, 1), (-1, -1), (0, 0)
VARIANTS = (
    Variant("upright", (UPRIGHT,), False),
    Variant("x reversed", ((-1, 1),), False),
    Variant("y reversed", ((1, -1),), False),
    Variant("both reversed (c -> -c)", (REVERSED,), False),
    Variant("static alone", (STATIC,), False),
    Variant("upright, static", (UPRIGHT, STATIC), False),
    Variant("both reversed, static", (REVERSED, STATIC), False),
    Variant("upright, both reversed", (UPRIGHT, REVERSED), False),
    Variant("upright, static, both reversed", (UPRIGHT, STATIC, REVERSED), False),
    Variant("upright, free s", (UPRIGHT,), True),
    Variant("x reversed, free s", ((-1, 1),), True),
    Variant("y reversed, free s", ((1, -1),), True),
    Variant("both reversed (c -> -c), free s", (REVERSED,), True),
    Variant("upright, both reversed, free s", (UPRIGHT, REVERSED), True),
    Variant("upright, x reversed, free s", (UPRIGHT, (-1, 1)), True),
    Variant("upright, y reversed, free s", (UPRIGHT, (1, -1)), True),
    Variant("no beam at all, free s", (), True),
)


def main() -> None:
    """Print the table of variants."""
    scan = read_scan(Path(sys.argv[1]))
    for spacing in (6.6, 4.4):
        print(f"knots {spacing} mm apart; photon noise about {PHOTON_NOISE:.1e}")
        heads = f"{'rms':>8s} {'left out':>8s} {'params':>7s} {'curvature, 1/mm2':>26s} {'rms of structure':>26s}"
        print(f"{'model':34s} {heads} {'s range':>8s} {'s curv':>9s}")
        for variant in VARIANTS:
            found = fit(scan, variant, spacing)
            curvatures = " ".join(f"{curvature:+.1e}" for curvature in found.curvatures)
            sizes = " ".join(f"{size:.1e}" for size in found.sizes)
            print(
                f"{variant.name:34s} {found.rms:8.1e} {found.left_out:8.1e} {found.parameters:7.0f} {curvatures:>26s} {sizes:>26s} "
                f"{found.scale_range:8.3f} {found.scale_curvature:+9.1e}",
                flush=True,
            )


if __name__ == "__main__":
    main()
