"""Projection of the calibration terms (means of spots, terms of exposures) out of star residuals and templates.

Residuals are relative to the mean of each spot over its dithers and to the brightness, grid or focus of each exposure, and therefore
contain only part of the effect of the flat on stars. A regression on templates from which the same terms are projected out, with the same
weights, equals the regression with these terms as free parameters (Frisch & Waugh 1933; Lovell 1963).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, sparse

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_RANK = 1e-9


class FixedEffects:
    """A mean for each spot and terms for each exposure.

    Parameters
    ----------
    spot, exposure : ndarray of int, shape (n,)
        Spot and exposure of each row.
    weight : ndarray, shape (n,)
        Weight of each row, positive.
    trend : ndarray, shape (n, terms)
        Terms with a free factor per exposure: ones, or ones, x and y.
    """

    def __init__(self, spot: IntArray, exposure: IntArray, weight: FloatArray, trend: FloatArray) -> None:
        rows, terms = trend.shape
        spot, exposure = np.unique(spot, return_inverse=True)[1], np.unique(exposure, return_inverse=True)[1]
        row = np.arange(rows)
        self._spots = sparse.csr_array((np.ones(rows), (row, spot)), shape=(rows, spot.max() + 1))
        columns = exposure[:, None] * terms + np.arange(terms)
        shape = (rows, (exposure.max() + 1) * terms)
        self._terms = sparse.csr_array((trend.ravel(), (np.repeat(row, terms), columns.ravel())), shape=shape)
        self._weight = weight
        self._sums: FloatArray = np.asarray(self._spots.T @ weight)
        weighted = sparse.diags_array(weight) @ self._terms
        shared = (self._spots.T @ weighted).toarray()
        normal = (self._terms.T @ weighted).toarray() - shared.T @ (shared / self._sums[:, None])
        # Exposure terms that equal spot terms (a mean, a gradient over the mask) are redundant.
        values, vectors = linalg.eigh((normal + normal.T) / 2)
        kept = values > _RANK * values.max()
        self._inverse = (vectors[:, kept] / values[kept]) @ vectors[:, kept].T
        self.rank = int(self._sums.size + kept.sum())
        """Number of degrees of freedom projected out."""

    def residuals(self, columns: FloatArray) -> FloatArray:
        """Return columns (n, c) minus their weighted fit by the terms."""
        left = columns - self._spots @ self._spot_means(columns)
        factors = self._inverse @ (self._terms.T @ (self._weight[:, None] * left))
        left = columns - self._terms @ factors
        return np.asarray(left - self._spots @ self._spot_means(left))

    def _spot_means(self, columns: FloatArray) -> FloatArray:
        return np.asarray(self._spots.T @ (self._weight[:, None] * columns)) / self._sums[:, None]
