"""Factors of large dense matrices: Cholesky factor, in place with the threads of a task, and tridiagonal form of a symmetric matrix.

Blocks of Cholesky factors are computed by matrix products alone, which let other threads run, unlike SciPy's factors, and take no memory.
The bits do not depend on the number of threads, since one thread computes each block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import numpy as np
from scipy import linalg
from scipy.linalg import lapack

from permil._kernels.joint import mirror_upper
from permil.arrays import FloatArray
from permil.engine import threaded_map

Argument = TypeVar("Argument")

_PANEL = 192
_PIECE = 320


def factorise_rows(matrix: FloatArray, first: int, last: int) -> None:
    """Factorise rows of a symmetric matrix, and update the rows that follow.

    Parameters
    ----------
    matrix : ndarray, shape (n, n)
        Upper triangle. Rows from ``first`` to ``last`` become those of ``U``, ``U' U`` the matrix from ``first`` on; those that follow
        become the Schur complement.

    Raises
    ------
    numpy.linalg.LinAlgError
        If the matrix is not positive definite.
    """
    size = len(matrix)
    for start in range(first, last, _PANEL):
        stop = min(start + _PANEL, last)
        following = (stop, min(stop + _PANEL, last))
        corner: FloatArray = np.linalg.cholesky(matrix[start:stop, start:stop], upper=True).astype(np.float64, copy=False)
        inverse = _inverse(corner).T
        matrix[start:stop, start:stop] = corner
        matrix[start:stop, slice(*following)] = inverse @ matrix[start:stop, slice(*following)]
        known = slice(first, stop)

        def complete(
            piece: tuple[int, int],
            rows: slice = slice(start, stop),
            following: tuple[int, int] = following,
            inverse: FloatArray = inverse,
            known: slice = known,
        ) -> None:
            columns = slice(*piece)
            if piece != following:
                matrix[rows, columns] = inverse @ matrix[rows, columns]
            # The rows that come next are made ready, with all that is known so far at once: each number is touched once.
            _subtract_square(matrix, known, slice(*following), columns)

        _by_threads(complete, [following, *_pieces(following[1], size)])

    def subtract(block: tuple[slice, slice]) -> None:
        _subtract_square(matrix, slice(first, last), *block)

    left = [slice(*piece) for piece in _pieces(last, size)]
    _by_threads(subtract, [(rows, columns) for place, rows in enumerate(left) for columns in left[place:]])


def _subtract_square(matrix: FloatArray, known: slice, rows: slice, columns: slice) -> None:
    """Subtract the product of known rows of the factor from a block of the matrix."""
    matrix[rows, columns] -= matrix[known, rows].T @ matrix[known, columns]


def lower_factor(matrix: FloatArray) -> FloatArray:
    """Return ``L = U'`` of a matrix that holds ``U`` in its upper triangle, in the same memory."""
    for start in range(0, len(matrix), _PANEL):
        rows = matrix[start : start + _PANEL]
        rows[:, :start] = 0.0
        rows[:, start : start + _PANEL] = np.triu(rows[:, start : start + _PANEL])
    return np.asarray(matrix.T)


def inverse_of(factor: FloatArray) -> FloatArray:
    """Return ``(L L')^-1``, shape (n, n).

    Parameters
    ----------
    factor : ndarray, shape (n, n)
        ``L``.
    """
    inverse, _ = lapack.dpotri(np.array(factor, order="F"), lower=1, overwrite_c=1)
    mirror_upper(inverse.T)
    return np.asarray(inverse.T)


def _inverse(upper: FloatArray) -> FloatArray:
    return np.asarray(linalg.solve_triangular(upper, np.eye(len(upper)), check_finite=False))


def _pieces(start: int, stop: int) -> list[tuple[int, int]]:
    return [(place, min(place + _PIECE, stop)) for place in range(start, stop, _PIECE)]


def _by_threads(function: Callable[[Argument], None], arguments: Iterable[Argument]) -> None:
    for _ in threaded_map(function, arguments):
        pass


class Tridiagonal:
    """A symmetric matrix ``A``, without negative eigenvalues, for quadratic forms and determinants of ``I + v A`` for many numbers v.

    The matrix is made tridiagonal once, which takes half the time of eigenvectors: ``A = Q T Q'`` with Householder reflections (Golub & Van
    Loan 2013, Matrix Computations, section 8.3.1); the rest are the routines of LAPACK for tridiagonal matrices.

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
