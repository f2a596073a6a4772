"""Structure of a superbias: what stays the same from one bias exposure to the next, by rows, by columns and in all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from permil.arrays import Float32Array, median
from permil.excess_scatter import root_of_variance

_CLIP = 6.0


@dataclass(frozen=True)
class BiasStructure:
    """Root mean squares of the structure of one amplifier beyond noise, with errors, adu.

    Attributes
    ----------
    pixels, pixels_err
        Of all pixels about their mean.
    rows, rows_err
        Of the means of rows.
    columns, columns_err
        Of the means of columns.
    """

    pixels: float
    pixels_err: float
    rows: float
    rows_err: float
    columns: float
    columns_err: float


def measure_structure(image: NDArray[np.floating], variance: NDArray[np.floating]) -> BiasStructure:
    """Measure the structure of the superbias of one amplifier.

    Parameters
    ----------
    image, variance : ndarray, shape (rows, columns)
        Superbias and its variance, adu; pixels without a value, and those far from the others (hot ones), do not count.

    Examples
    --------
    >>> import numpy as np
    >>> from permil.isr.calibration.bias_structure import measure_structure
    >>> rng = np.random.default_rng(1)
    >>> image = 2.0 * rng.standard_normal((200, 1)) + 0.5 * rng.standard_normal((200, 60))
    >>> found = measure_structure(image, np.full(image.shape, 0.25))
    >>> round(found.rows, 1), found.columns < 0.3
    (1.9, True)
    """
    known = np.isfinite(image) & np.isfinite(variance)
    if not known.any():
        return BiasStructure(*(np.nan,) * 6)
    centre = median(image[known])
    known &= np.abs(image - centre) <= _CLIP * 1.4826 * max(float(median(np.abs(image[known] - centre))), 1e-3)
    values, noise = np.where(known, image, 0.0).astype(np.float64), np.where(known, variance, 0.0).astype(np.float64)
    found: dict[str, tuple[float, float]] = {}
    # Structure of rows and columns is shared by pixels, whose variance is as uncertain as theirs.
    shared = 0.0
    for name, axis in (("rows", 1), ("columns", 0), ("pixels", None)):
        count = known.astype(np.float64) if axis is None else known.sum(axis=axis).astype(np.float64)
        some = count > 0
        total, total_noise = (part if axis is None else part.sum(axis=axis) for part in (values, noise))
        means, mean_noise = total[some] / count[some], total_noise[some] / count[some] ** 2
        if means.size < 3:
            found[name] = (np.nan, np.nan)
            continue
        spread = float(means.var(ddof=1))
        error = spread * (2.0 / (means.size - 1)) ** 0.5
        found[name] = root_of_variance(
            spread - float(mean_noise.mean()), float(np.hypot(error, shared)) if axis is None else error
        )
        shared = float(np.hypot(shared, error))
    return BiasStructure(*found["pixels"], *found["rows"], *found["columns"])


def cell_means(image: NDArray[np.floating], most: int) -> tuple[Float32Array, int]:
    """Return the means of the finite pixels of square cells, at most ``most`` along either axis, and the side of a cell.

    Examples
    --------
    >>> import numpy as np
    >>> from permil.isr.calibration.bias_structure import cell_means
    >>> cell_means(np.array([[1.0, 3.0, 5.0], [np.nan, 2.0, 5.0]]), 2)
    (array([[2., 5.]], dtype=float32), 2)
    """
    side = max(1, -(-max(image.shape) // most))
    known = np.isfinite(image)
    total, count = (
        np.add.reduceat(
            np.add.reduceat(part, np.arange(0, image.shape[0], side), axis=0), np.arange(0, image.shape[1], side), axis=1
        )
        for part in (np.where(known, image, 0.0).astype(np.float64), known.astype(np.float64))
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(count > 0, total / count, np.nan).astype(np.float32), side
