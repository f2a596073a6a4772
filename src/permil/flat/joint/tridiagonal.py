"""Quadratic forms and determinants of ``I + v A`` for many numbers v.

The matrix is made tridiagonal once, which takes half the time of eigenvectors:
``A = Q T Q'`` with Householder reflections (Golub & Van Loan 2013, Matrix Computations, section 8.3.1); the rest are the routines of LAPACK
for tridiagonal matrices.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import lapack

from permil.arrays import FloatArray


class Tridiagonal:
    """A symmetric matrix, without negative eigenvalues, in tridiagonal form.

    Parameters
    ----------
    matrix : ndarray, shape (n, n)
        ``A``; the lower triangle is used.
    """

    def __init__(self, matrix: FloatArray) -> None:
        work, _ = lapack.dsytrd_lwork(len(matrix), lower=1)
        reflectors, self._diagonal, self._beside, self._factors, _ = lapack.dsytrd(matrix, lower=1, lwork=int(work))
        self._reflectors = np.asfortranarray(reflectors[1:, :-1])

    def turned(self, columns: FloatArray) -> FloatArray:
        """Return ``Q'`` times some columns, shape (n, k)."""
        result = np.array(columns, dtype=np.float64, order="F")
        if len(result) > 1:
            rest = np.asfortranarray(result[1:])
            result[1:], _, _ = lapack.dormqr("L", "T", self._reflectors, self._factors, rest, 64 * rest.shape[1], overwrite_c=1)
        return result

    def products(self, turned: FloatArray, variance: float) -> tuple[FloatArray, float]:
        """Return ``C' (I + v A)^-1 C`` of some columns, shape (k, k), and the logarithm of the determinant of ``I + v A``.

        Parameters
        ----------
        turned : ndarray, shape (n, k)
            ``Q' C``, see `turned`.
        variance
            ``v``.
        """
        diagonal, beside, _ = lapack.dpttrf(1.0 + variance * self._diagonal, variance * self._beside)
        solved, _ = lapack.dpttrs(diagonal, beside, turned)
        return turned.T @ solved, float(np.log(diagonal).sum())
