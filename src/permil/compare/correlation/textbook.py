"""Textbook tests: the t-test for independent points, and the modified t-test with plug-in covariances."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from permil.compare.correlation.cells import Cells

FloatArray = NDArray[np.float64]

_CLASSES = 30
_SHARE_OF_DIAGONAL = 0.5


def t_test(r: float, n_eff: float) -> float:
    """Return the two-sided p-value of r from ``n_eff`` independent pairs; NaN for less than three."""
    if not n_eff > 2.0:
        return np.nan
    return float(2.0 * stats.t.sf(abs(r) * np.sqrt((n_eff - 2.0) / max(1.0 - r * r, 1e-15)), n_eff - 2.0))


def fisher_interval(r: float, error: float, sigmas: float = 1.0) -> tuple[float, float]:
    """Return the interval of ``sigmas`` standard errors, symmetric in ``arctanh(r)`` (Fisher 1915)."""
    z, half = np.arctanh(np.clip(r, -1.0 + 1e-15, 1.0 - 1e-15)), sigmas * error / max(1.0 - r * r, 1e-12)
    return float(np.tanh(z - half)), float(np.tanh(z + half))


def naive_error(r: float, n: float) -> float:
    """Return the standard error of r of ``n`` independent normal pairs."""
    return float((1.0 - r * r) / np.sqrt(n - 1.0))


def plug_in_n_eff(cells: Cells, a: FloatArray, b: FloatArray) -> float:
    """Return ``1 + n^2 / sum_k N_k Ca(k) Cb(k)`` with the covariances measured in classes of distance.

    As in Clifford, Richardson & Hemon (1989), equation 3.2, up to half of the longest distance. The covariances of centred maps are
    biased low, and for long correlation lengths the result is far too large.
    """
    distance = np.hypot(cells.lag_y[:, None], cells.lag_x[None, :])
    longest = _SHARE_OF_DIAGONAL * cells.diagonal
    used = (distance <= longest) & (cells.pairs > 0)
    number = np.where(distance[used] == 0.0, 0, 1 + (distance[used] / longest * _CLASSES).astype(np.int64))
    pairs = np.bincount(number, cells.pairs[used])
    products = [np.bincount(number, cells.lag_products(values)[used]) for values in (a, b)]
    # Pairs at lag 0 are exactly those of each point with itself only if no two points share a cell.
    total = np.sum(np.divide(products[0] * products[1], pairs, out=np.zeros_like(pairs), where=pairs > 0))
    return float(1.0 + cells.n**2 / total) if total > 0 else np.nan
