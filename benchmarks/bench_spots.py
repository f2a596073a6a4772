"""Artificial stars: a whole sensor measured beside sep with galsim, and the grid of 49 x 49 spots found from the points alone."""

from __future__ import annotations

import galsim
import numpy as np
import sep

from harness import compare, print_rows
from permil.config.simulate import SimulateSpotsConfig
from permil.simulate.spots import SpotBench, draw_exposure
from permil.spots.grid import find_grid
from permil.spots.measure import measure_spots

_APERTURE = 12.0
_HALF_STAMP = 20


def _with_sep_and_galsim(image: np.ndarray, noise: float) -> list[float]:
    """Do what a script does: sep's background, detection and aperture, galsim's adaptive moments on stamps."""
    subtracted = image - sep.Background(image).back()
    found = sep.extract(subtracted, 5.0, err=noise)
    sep.sum_circle(subtracted, found["x"], found["y"], _APERTURE, err=noise)
    widths = []
    for x, y in zip(found["x"], found["y"], strict=True):
        row, column = round(float(y)), round(float(x))
        stamp = subtracted[max(0, row - _HALF_STAMP) : row + _HALF_STAMP, max(0, column - _HALF_STAMP) : column + _HALF_STAMP]
        widths.append(galsim.hsm.FindAdaptiveMom(galsim.Image(np.ascontiguousarray(stamp)), strict=False).moments_sigma)
    return widths


def main() -> None:
    """Print the comparisons."""
    bench = SpotBench(
        SimulateSpotsConfig.model_validate({"camera": "lsstcam", "mask": {"spots": 49}, "campaign": {"exposures": 1}})
    )
    image = np.ascontiguousarray(draw_exposure(bench, bench.exposures()[0]), dtype=np.float32)
    detector = bench.detector
    read_noise = detector.amplifiers[0].read_noise
    variance = np.maximum(image, 0) + np.float32(read_noise**2)
    mask = np.zeros(detector.shape, dtype=np.int16)
    catalog = measure_spots(image, variance, mask, detector).catalog
    rows = [
        compare(
            f"{len(catalog)} spots on a whole sensor",
            ("measure_spots (8 apertures, errors, flags)", lambda: measure_spots(image, variance, mask, detector)),
            ("sep + galsim HSM", lambda: _with_sep_and_galsim(image, float(np.sqrt(np.median(variance))))),
        ),
        compare(
            "grid of 49 x 49 from the points",
            ("find_grid", lambda: find_grid(catalog.x, catalog.y)),
            ("NumPy: all pair differences alone", lambda: np.histogram2d(*_differences(catalog.x, catalog.y), bins=400)),
        ),
    ]
    print_rows(rows)


def _differences(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return (x[:, None] - x).ravel(), (y[:, None] - y).ravel()


if __name__ == "__main__":
    main()
