"""Change of the beam's shape from the first to the second half of the exposures, from the residuals of a joint solution."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from permil.arrays import FloatArray, IntArray

TERMS = ("x", "y", "xx", "xy", "yy")
"""Powers of the position in the beam, of which the change of the logarithm is a sum."""
UNIT_MM = 20.0
"""Distance from the middle of the beam at which each term is 1."""
_CELL_MM = 4.0
"""Side of the cells of the beam whose mean residual is free: the fitted beam has absorbed what both halves share."""
_SWEEPS, _ENOUGH = 300, 1e-5
_LEAST_SHARE = 1e-4
"""Part of a term that must be left beside responses, scales and beam."""


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
        return float(stats.f.sf(squared * freedom / (terms * (self.exposures - 1)), terms, freedom))


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

    Responses of super-pixels, scales of exposures and the mean beam are free at the same time: their parts are taken off the terms by
    weighted means in turn (the theorem of Frisch and Waugh 1933, Econometrica 1, 387), to which their residuals are orthogonal. Errors
    are those of the jackknife over exposures (Bell and McCaffrey 2002, Survey Methodology 28, 169), and so hold any correlation within one.

    Examples
    --------
    >>> import numpy as np
    >>> from permil.stability.shape import BeamResiduals, shape_change
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
    nothing = ShapeChange(count, np.full(size, np.nan), np.full(size, np.nan), np.full((size, size), np.nan))
    if count < 2 * len(TERMS):
        return nothing
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
        return nothing
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
    for target, values in ((nothing.change, change), (nothing.error, np.sqrt(np.diag(covariance)))):
        target[known] = values
    nothing.covariance[np.ix_(known, known)] = covariance
    return nothing


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
