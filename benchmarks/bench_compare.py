"""Correlation of two maps with all errors and tests, beside what SciPy does with values taken as independent."""

from __future__ import annotations

import time

import numpy as np
from scipy import fft, stats

from harness import compare, print_rows
from permil.compare import correlate
from permil.compare.correlation import METHODS

SIDE, LARGE_SIDE = 49, 400
LENGTH = 3.0
RESAMPLES = 1000


def simulated_maps(side: int) -> tuple[np.ndarray, np.ndarray]:
    """Return two maps of Gaussian correlation that correlate by 0.3."""
    rng = np.random.default_rng(0)
    k = np.hypot(fft.fftfreq(2 * side)[:, None], fft.fftfreq(2 * side)[None, :])
    noise = rng.standard_normal((2, 2 * side, 2 * side))
    field = fft.ifft2(fft.fft2(noise[0] + 1j * noise[1]) * np.exp(-0.25 * (2.0 * np.pi * k * LENGTH) ** 2))[:side, :side]
    return field.real, 0.3 * field.real + np.sqrt(0.91) * field.imag


def scipy_bootstrap(a: np.ndarray, b: np.ndarray) -> object:
    """Return SciPy's bootstrap of pearsonr over single values, and its p-value."""
    pair = (a.ravel(), b.ravel())
    r = stats.pearsonr(*pair)
    rng = np.random.default_rng(0)
    error = stats.bootstrap(
        pair,
        lambda x, y, axis: stats.pearsonr(x, y, axis=axis).statistic,
        paired=True,
        n_resamples=RESAMPLES,
        method="percentile",
        rng=rng,
    )
    return r, error


def main() -> None:
    """Print the comparisons and the time of each method."""
    a, b = simulated_maps(SIDE)
    row, column = np.mgrid[:SIDE, :SIDE]
    print_rows(
        [
            compare(
                "2401 values, everything",
                ("correlate, all methods", lambda: correlate(a, b, column, row, resamples=RESAMPLES)),
                ("pearsonr and bootstrap", lambda: scipy_bootstrap(a, b)),
            ),
            compare(
                "2401 values, r, error, p",
                ("correlate, summary", lambda: correlate(a, b, column, row, methods=())),
                ("pearsonr", lambda: stats.pearsonr(a.ravel(), b.ravel())),
            ),
        ]
    )
    for side in (SIDE, LARGE_SIDE):
        a, b = simulated_maps(side)
        row, column = np.mgrid[:side, :side]
        for methods in ((), *((name,) for name in METHODS), METHODS):
            begin = time.perf_counter()
            correlate(a, b, column, row, methods=methods, resamples=RESAMPLES)
            name = (
                "all, and the summary" if methods == METHODS else methods[0] if methods else "summary, first time at these places"
            )
            print(f"{side * side} values, {name}: {time.perf_counter() - begin:.3f} s")


if __name__ == "__main__":
    main()
