"""Curvature of the objective in two steps: the patterns first, then all other unknowns, whose prior alone changes between passes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from permil._kernels.joint import mirror_upper
from permil.flat.joint.factor import factorise_rows, lower_factor
from permil.flat.joint.normal import NormalEquations
from permil.flat.joint.prior import Prior

FloatArray = NDArray[np.float64]


class Curvature:
    """Factor of the normal equations with a prior, made where the vector was at that time.

    Patterns are eliminated once: the strengths of the other priors then need no more than the small matrix of the other unknowns.

    Parameters
    ----------
    equations : NormalEquations
        Their matrix becomes the factor: a copy would be one of the largest things in memory.
    prior : Prior
        Its part of the patterns holds as long as the curvature lives.

    Raises
    ------
    numpy.linalg.LinAlgError
        If patterns are not determined.
    """

    def __init__(self, equations: NormalEquations, prior: Prior) -> None:
        self.vector, self.weight = equations.vector, equations.weight
        self._prior: Prior | None = None
        self._matrix = matrix = equations.matrix
        self._model = prior.model
        self._start = start = prior.model.scales.start
        self._data_diagonal = np.diag(matrix)[start:].copy()
        self._hold = prior.scale_hold(matrix)
        prior.add_to_patterns(matrix)
        self._diagonal = np.diag(matrix).copy()
        factorise_rows(matrix, 0, start)
        self._reduced = np.ascontiguousarray(matrix[start:, start:])
        mirror_upper(self._reduced)

    def factorise(self, prior: Prior) -> None:
        """Complete the factor with the prior of the other unknowns.

        Raises
        ------
        numpy.linalg.LinAlgError
            If they are not determined.
        """
        if prior is self._prior:
            return
        start = self._start
        others = self._matrix[start:, start:]
        np.copyto(others, self._reduced)
        prior.add_to_others(others, self._hold)
        self._diagonal[start:] = self._data_diagonal + np.diag(others) - np.diag(self._reduced)
        factorise_rows(self._matrix, start, len(self._matrix))
        self._prior = prior

    def solve(self, pull: FloatArray) -> FloatArray:
        """Return the Newton step for a gradient."""
        whitened = linalg.solve_triangular(self._matrix.T, pull, lower=True, check_finite=False)
        return np.asarray(linalg.solve_triangular(self._matrix.T, whitened, lower=True, trans="T", check_finite=False))

    def distance(self, vector: FloatArray) -> float:
        """Return how many standard errors a vector is away from where the curvature was made, over all unknowns."""
        return float(np.linalg.norm(linalg.blas.dtrmv(self._matrix.T, vector - self.vector, lower=1, trans=1)))

    def change(self, vector: FloatArray) -> float:
        """Return how far the rows of the signals differ, relatively, between a vector and where the curvature was made.

        The rows of patterns depend on the positions in units of the knots; those of position errors, rotation and scale are slopes
        of the patterns, whose mean square is what counts.
        """
        model = self._model
        moved = np.abs(model.centres(vector) - model.centres(self.vector)).max()
        parts = [float(moved) / pattern.grid.spacing for pattern in model.patterns]
        if model.position_errors or model.geometry:
            for pattern, where in zip(model.patterns, model.pattern_slices, strict=True):
                before, bent = (_bend(part[where], pattern.grid.shape) for part in (self.vector, vector - self.vector))
                parts.append(bent / before if before > 0 else np.inf)
        return max(parts)

    def relative_norm(self, gradient: FloatArray) -> float:
        """Return the norm of a gradient in the unknowns' scales."""
        return float(np.linalg.norm(gradient / np.sqrt(self._diagonal)))

    def information(self, prior: Prior, gradient: FloatArray, pull: FloatArray, block: slice) -> tuple[FloatArray, FloatArray]:
        """Return what the signals know of a block of the unknowns behind the patterns, all others free within their prior.

        Parameters
        ----------
        gradient, pull : ndarray, shape (n,)
            Without and with the prior.

        Returns
        -------
        information : ndarray, shape (m, m)
        pull : ndarray, shape (m,)
            Of the signals.
        """
        start = self._start
        patterns = linalg.solve_triangular(self._matrix[:start, :start].T, pull[:start], lower=True, check_finite=False)
        explained = patterns @ self._matrix[:start, start:]
        inside = np.arange(block.start - start, block.stop - start)
        others = np.setdiff1d(np.arange(len(self._reduced)), inside)
        total = self._reduced.copy()
        prior.add_to_others(total, self._hold)
        factor = linalg.cho_factor(total[np.ix_(others, others)], lower=True, overwrite_a=True, check_finite=False)
        cross = self._reduced[np.ix_(others, inside)]
        right = np.column_stack([cross, pull[start + others] - explained[others]])
        solved = linalg.cho_solve(factor, right, overwrite_b=True, check_finite=False)
        information = self._reduced[np.ix_(inside, inside)] - cross.T @ solved[:, :-1]
        of_signals = gradient[block] - explained[inside] - cross.T @ solved[:, -1]
        return (information + information.T) / 2, of_signals

    def release(self) -> FloatArray:
        """Return the lower Cholesky factor of all unknowns; the curvature cannot be used any more."""
        return lower_factor(self._matrix)


def _bend(coefficients: FloatArray, shape: tuple[int, int]) -> float:
    """Return the root of the sum of squared differences of neighbouring coefficients."""
    grid = coefficients.reshape(shape)
    return float(np.sqrt(sum(np.square(np.diff(grid, axis=axis)).sum() for axis in (0, 1))))
