"""Residuals of a joint solution: fluxes of amplifiers, whether images of one position repeat, changes of the beam's shape."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy

from permil.arrays import FloatArray, IntArray

_LEAST_LIT = 0.25
"""Minimum fraction of an amplifier's super-pixels that an exposure must light."""


def amplifier_fluxes(residual: FloatArray, weight: FloatArray, amplifier: IntArray, count: int) -> tuple[FloatArray, FloatArray]:
    """Return the mean residual of each amplifier and its error from the noise of its signals, shape (e, count).

    Parameters
    ----------
    residual, weight : ndarray, shape (e, p)
        Residual of the logarithm of the signals after light and response, and its inverse variance, 0 without signal.
    amplifier : ndarray of int, shape (p,)
        Number of the amplifier of each super-pixel.
    count
        Amplifiers.

    Examples
    --------
    >>> import numpy as np
    >>> from permil.stability.residuals import amplifier_fluxes
    >>> mean, error = amplifier_fluxes(np.array([[0.1, 0.3, 0.5]]), np.array([[4.0, 4.0, 0.0]]), np.array([0, 0, 1]), 2)
    >>> mean.tolist(), error.round(3).tolist()
    ([[0.2, nan]], [[0.354, nan]])
    """
    member = (amplifier[:, None] == np.arange(count)).astype(np.float64)
    total, lit = weight @ member, (weight > 0).astype(np.float64) @ member
    enough = lit >= np.maximum(_LEAST_LIT * member.sum(axis=0), 1.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean, error = (weight * residual) @ member / total, total**-0.5
    return np.where(enough, mean, np.nan), np.where(enough, error, np.nan)


def first_to_last(position: IntArray, series: FloatArray) -> tuple[float, float, int]:
    """Return the mean change from the first to the last image of a position, its error, and the number of positions.

    Parameters
    ----------
    position : ndarray of int, shape (n,)
        Number of the stage's move of each reading, ascending.
    series : ndarray, shape (n,)
        Readings; those that are not finite do not count.

    Returns
    -------
    mean, error
        NaN for fewer than two positions with two images or more. The error is that of the scatter between positions.

    Examples
    --------
    >>> import numpy as np
    >>> from permil.stability.residuals import first_to_last
    >>> first_to_last(np.array([1, 1, 1, 2, 2, 3]), np.array([1.0, 5.0, 2.0, 1.0, 4.0, 7.0]))
    (2.0, 1.0, 2)
    """
    position, series = position[np.isfinite(series)], series[np.isfinite(series)]
    _, first, count = np.unique(position, return_index=True, return_counts=True)
    several = count > 1
    change = series[first[several] + count[several] - 1] - series[first[several]]
    if len(change) < 2:
        return float("nan"), float("nan"), len(change)
    return float(change.mean()), float(change.std(ddof=1) / np.sqrt(len(change))), len(change)


@dataclass(frozen=True)
class StackChiSquare:
    """Sum over positions of squared differences of repeated images over their errors, and its degrees of freedom."""

    chi_square: float
    freedom: int

    @property
    def reduced(self) -> tuple[float, float]:
        """Chi-square per degree of freedom and its error from normal noise; NaN without repeated images."""
        if not self.freedom:
            return float("nan"), float("nan")
        return self.chi_square / self.freedom, float(np.sqrt(2.0 / self.freedom))


def stack_chi_square(position: IntArray, log_signal: FloatArray, weight: FloatArray) -> StackChiSquare:
    """Compare the images of each position on super-pixels, after a factor for each image.

    Parameters
    ----------
    position : ndarray of int, shape (e,)
        Number of the stage's move of each exposure.
    log_signal, weight : ndarray, shape (e, p)
        Logarithm of the signals and its inverse variance, 0 without signal.

    Notes
    -----
    Mean of each super-pixel and factor of each image are fitted by weighted means in turn; of ``n`` images on ``p`` super-pixels they leave
    ``(n - 1) (p - 1)`` degrees of freedom. Super-pixels that one of the images does not have are left out.
    """
    total, freedom = 0.0, 0
    for move in np.unique(position):
        own = np.flatnonzero(position == move)
        lit = (weight[own] > 0).all(axis=0)
        if len(own) < 2 or lit.sum() < 2:
            continue
        values, weights = log_signal[np.ix_(own, lit)], weight[np.ix_(own, lit)]
        for _ in range(5):
            values = values - (weights * values).sum(axis=0) / weights.sum(axis=0)
            values = values - ((weights * values).sum(axis=1) / weights.sum(axis=1))[:, None]
        total += float((weights * values**2).sum())
        freedom += (len(own) - 1) * (int(lit.sum()) - 1)
    return StackChiSquare(total, freedom)


TERMS = ("x", "y", "xx", "xy", "yy")
"""Powers of the position in the beam; the change of the logarithm is a sum of these terms."""
UNIT_MM = 20.0
"""Distance from the middle of the beam at which each term is 1."""
_CELL_MM = 4.0
"""Side of the cells of the beam with a free mean residual: the fitted beam has absorbed the part common to both halves."""
_SWEEPS, _ENOUGH = 300, 1e-5
_LEAST_SHARE = 1e-4
"""Fraction of a term that must remain after fitting responses, scales and beam."""


@dataclass(frozen=True)
class ShapeChange:
    """Change of the logarithm of the beam, later minus earlier half, in the terms `TERMS`.

    Attributes
    ----------
    exposures : int
        From whose scatter the errors are.
    change, error : ndarray, shape (5,)
        Coefficients with positions in `UNIT_MM`; NaN for those that the exposures do not determine.
    covariance : ndarray, shape (5, 5)
        Of those that are determined.
    """

    exposures: int
    change: FloatArray
    error: FloatArray
    covariance: FloatArray

    @property
    def p_value(self) -> float:
        """Probability of changes of at least this significance from noise, by Hotelling's distribution; NaN if nothing is determined."""
        known = np.isfinite(self.change)
        if not known.any():
            return float("nan")
        change, covariance = self.change[known], self.covariance[np.ix_(known, known)]
        squared, terms = float(change @ np.linalg.solve(covariance, change)), int(known.sum())
        freedom = self.exposures - terms
        return float(scipy.stats.f.sf(squared * freedom / (terms * (self.exposures - 1)), terms, freedom))


@dataclass(frozen=True)
class BeamResiduals:
    """Residuals of signals, one entry each.

    Attributes
    ----------
    exposure, pixel : ndarray of int, shape (n,)
        Numbers of exposures, ascending in time, and of super-pixels of all detectors.
    place : ndarray, shape (n, 2)
        Position minus projector, mm.
    residual, weight : ndarray, shape (n,)
        Of the logarithm; inverse variance.
    """

    exposure: IntArray
    pixel: IntArray
    place: FloatArray
    residual: FloatArray
    weight: FloatArray


def shape_change(data: BeamResiduals) -> ShapeChange:
    """Fit the change of the beam's shape between the halves of the exposures.

    Responses of super-pixels, scales of exposures and the mean beam are free at the same time: their parts are subtracted from the terms by
    weighted means in turn (the theorem of Frisch and Waugh 1933, Econometrica 1, 387), to which their residuals are orthogonal. Errors
    are those of the jackknife over exposures (Bell and McCaffrey 2002, Survey Methodology 28, 169), and so hold any correlation within one.

    Examples
    --------
    >>> import numpy as np
    >>> from permil.stability.residuals import BeamResiduals, shape_change
    >>> rng = np.random.default_rng(3)
    >>> exposure, pixel = (part.ravel() for part in np.indices((40, 60)))
    >>> centre, own = rng.uniform(-20, 20, (40, 2)), rng.uniform(-10, 10, (60, 2))
    >>> place = own[pixel] - centre[exposure]
    >>> true = np.where(exposure < 20, -0.5, 0.5) * 0.01 * place[:, 0] / 20
    >>> noise = 1e-4 * rng.standard_normal(exposure.size)
    >>> found = shape_change(BeamResiduals(exposure, pixel, place, true + noise, np.ones(exposure.size)))
    >>> round(float(found.change[0]), 3)
    0.01
    """
    _, exposure = np.unique(data.exposure, return_inverse=True)
    count = int(exposure.max()) + 1 if exposure.size else 0
    size = len(TERMS)
    found = ShapeChange(count, np.full(size, np.nan), np.full(size, np.nan), np.full((size, size), np.nan))
    if count < 2 * size:
        return found
    _, pixel = np.unique(data.pixel, return_inverse=True)
    cells = np.floor(data.place / _CELL_MM).astype(np.int64)
    _, cell = np.unique(cells[:, 0] * 100_000 + cells[:, 1], return_inverse=True)
    half = np.where(exposure < count / 2, -0.5, 0.5)
    x, y = (data.place / UNIT_MM).T
    terms = half * np.array([x, y, x * x, x * y, y * y])
    before = (data.weight * terms**2).sum(axis=1)
    groups = (pixel, cell, exposure)
    rest = _without_means(np.vstack([terms, data.residual]), data.weight, groups)
    terms, residual = rest[:-1], rest[-1]
    known = (data.weight * terms**2).sum(axis=1) > _LEAST_SHARE * before
    if not known.any():
        return found
    own = terms[known]
    normals = np.array([[np.bincount(exposure, data.weight * first * second, count) for second in own] for first in own])
    scores = np.array([np.bincount(exposure, data.weight * term * residual, count) for term in own])
    change = np.linalg.pinv(normals.sum(axis=2), hermitian=True) @ scores.sum(axis=1)
    without = np.array(
        [
            np.linalg.pinv(normals.sum(axis=2) - normals[..., number], hermitian=True) @ (scores.sum(axis=1) - scores[:, number])
            for number in range(count)
        ]
    )
    deviation = without - without.mean(axis=0)
    covariance = (count - 1) / count * deviation.T @ deviation
    found.change[known], found.error[known] = change, np.sqrt(np.diag(covariance))
    found.covariance[np.ix_(known, known)] = covariance
    return found


def _without_means(columns: FloatArray, weight: FloatArray, groups: tuple[IntArray, ...]) -> FloatArray:
    """Return rows of values whose weighted means over the members of each group vanish, shape (k, n)."""
    totals = [np.bincount(group, weights=weight) for group in groups]
    size = np.sqrt((weight * columns**2).sum(axis=1))
    rest = columns.copy()
    for _ in range(_SWEEPS):
        largest = 0.0
        for group, total in zip(groups, totals, strict=True):
            for row, own in enumerate(rest):
                mean = np.bincount(group, weights=weight * own) / total
                own -= mean[group]
                largest = max(largest, float(np.sqrt(np.sum(total * mean**2)) / max(size[row], np.finfo(float).tiny)))
        if largest < _ENOUGH:
            break
    return rest
