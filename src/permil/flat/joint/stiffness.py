"""How stiff the patterns should be: the largest marginal likelihood."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, sparse

from permil.flat.joint.factor import factorise_rows
from permil.flat.joint.normal import subtract_products
from permil.flat.joint.prior import Prior, free_functions, hold_strength, roughness_of
from permil.flat.joint.spline import SplineGrid

FloatArray = NDArray[np.float64]

_BOUNDS = (1.0, 1e12)
_FIRST_STEP = 1.0
_NARROW = 2.5
"""Of the logarithm of the stiffness."""
_INSIDE = 0.5
"""How far from the best place met the vertex may be that is taken without a look, where places are narrow."""
_MOST_STEPS = 30


@lru_cache(maxsize=8)
def _roughness_determinant(grid: SplineGrid) -> float:
    """Return the logarithm of the pseudo-determinant of the roughness; planes have none.

    Notes
    -----
    Without the rows and columns of three knots that are not on a line, the determinant is the pseudo-determinant times ``det(P_3)^2 /
    det(P' P)``, with ``P`` the planes and ``P_3`` their rows there (as for the minors of a graph's Laplacian).
    """
    planes = grid.planes()
    corners = [0, grid.shape[1] - 1, grid.size - 1]
    kept = np.setdiff1d(np.arange(grid.size), corners)
    rough = sparse.triu(roughness_of(grid)[kept][:, kept]).tocoo()
    banded = np.zeros((int((rough.col - rough.row).max()) + 1, kept.size))
    banded[len(banded) - 1 + rough.row - rough.col, rough.col] = rough.data
    minor = 2 * np.log(linalg.cholesky_banded(banded, overwrite_ab=True, check_finite=False)[-1]).sum()
    return float(minor + np.linalg.slogdet(planes.T @ planes)[1] - 2 * np.linalg.slogdet(planes[corners])[1])


def best_stiffness(
    matrix: FloatArray, gradient: FloatArray, prior: Prior, *, tolerance: float = 0.2
) -> tuple[Prior, float, FloatArray]:
    """Return the prior whose common stiffness of the patterns has the largest evidence, the logarithm of that, and a Newton step.

    The step, shape (n,), is that of the stiffness tried last, near the best one.

    Parameters
    ----------
    matrix, gradient
        Of the data at coefficients 0 of the patterns, with the prior's pull there added to ``gradient``. The matrix, of which the
        upper triangle is used, is overwritten.
    prior
        The search begins at its stiffness, which does not matter otherwise.
    tolerance
        Of the logarithm of the stiffness.

    Notes
    -----
    The marginal likelihood is comparable between knots: patterns have the same flat prior of planes and the same kind of roughness.
    All unknowns but the patterns' are eliminated first.
    """
    model, size = prior.model, prior.model.scales.start
    fixed = 0.0
    for number, (pattern, where) in enumerate(zip(model.patterns, model.pattern_slices, strict=True)):
        free = free_functions(pattern.grid, number).shape[1]
        slopes = pattern.grid.planes()[:, free:]
        fixed += _roughness_determinant(pattern.grid)
        fixed += free * np.log(hold_strength(matrix[where, where])) - np.linalg.slogdet(slopes.T @ slopes)[1]
    prior.with_stiffness((0.0,) * len(prior.stiffness)).add_to(matrix)
    others = linalg.cholesky(matrix[size:, size:], check_finite=False)
    columns = np.column_stack([matrix[:size, size:].T, gradient[size:]])
    solved = linalg.solve_triangular(others, columns, trans="T", overwrite_b=True, check_finite=False)
    reduced = matrix[:size, :size]
    subtract_products(reduced, [(np.arange(size), np.ascontiguousarray(solved[:, :-1]))])
    pull = gradient[:size] - solved[:, :-1].T @ solved[:, -1]
    fixed += float(solved[:, -1] @ solved[:, -1] - 2 * np.log(np.diag(others)).sum())
    rough = sparse.triu(sparse.block_diag([roughness_of(pattern.grid) for pattern in model.patterns])).tocoo()
    rank = size - 3 * len(model.patterns)
    factor, whitened = np.empty((size, size)), np.empty(size)

    def evidence(log_stiffness: float) -> float:
        np.copyto(factor, reduced)
        factor[rough.row, rough.col] += np.exp(log_stiffness) * rough.data
        factorise_rows(factor, 0, size)
        whitened[:] = linalg.solve_triangular(factor.T, pull, lower=True, check_finite=False)
        return 0.5 * float(fixed + whitened @ whitened - 2 * np.log(np.diag(factor)).sum() + rank * log_stiffness)

    first = float(np.log(prior.stiffness[0]))
    found, log_evidence = _highest(evidence, first, (float(np.log(_BOUNDS[0])), float(np.log(_BOUNDS[1]))), tolerance)
    of_patterns = linalg.solve_triangular(factor.T, whitened, lower=True, trans="T", check_finite=False)
    of_others = linalg.solve_triangular(others, solved[:, -1] - solved[:, :-1] @ of_patterns, check_finite=False)
    step = np.concatenate([of_patterns, of_others])
    return prior.with_stiffness((float(np.exp(found)),) * len(prior.stiffness)), log_evidence, step


def _highest(
    function: Callable[[float], float], first: float, bounds: tuple[float, float], tolerance: float
) -> tuple[float, float]:
    """Return the place of the maximum of a smooth function with one maximum, and the value there: each value is dear.

    Steps from the first place, twice as wide each time, until the maximum is between the last; then vertices of ``a + b x - c e^x``,
    the form of the evidence where the signals know the coefficients: the determinants are linear in the logarithm of the stiffness,
    the roughness of the coefficients counts with the stiffness itself.
    """
    value = lru_cache(maxsize=None)(function)
    middle = min(max(first, bounds[0] + _FIRST_STEP), bounds[1] - _FIRST_STEP)
    step = _FIRST_STEP if value(middle + _FIRST_STEP) > value(middle) else -_FIRST_STEP
    behind = middle - step
    if step > 0:
        behind, middle = middle, middle + step
    ahead = min(max(middle + step, bounds[0]), bounds[1])
    while value(ahead) > value(middle):
        if ahead in bounds:
            return ahead, value(ahead)
        step *= 2
        behind, middle, ahead = middle, ahead, min(max(ahead + step, bounds[0]), bounds[1])
    for _ in range(_MOST_STEPS):
        move, rise = _vertex(*((place - middle, value(middle) - value(place)) for place in (behind, ahead)))
        if abs(ahead - behind) < _NARROW and abs(move) < max(_INSIDE, tolerance / 2):
            return middle + move, value(middle) + rise
        if abs(move) < tolerance / 2:
            # Places so far apart say little: halve the larger part.
            move = max((ahead - middle) / 2, (behind - middle) / 2, key=abs)
        if value(middle + move) > value(middle):
            ends = (middle, ahead) if move * step > 0 else (behind, middle)
            behind, middle, ahead = ends[0], middle + move, ends[1]
        elif move * step > 0:
            ahead = middle + move
        else:
            behind = middle + move
    return middle, value(middle)


def _vertex(*sides: tuple[float, float]) -> tuple[float, float]:
    """Return where ``b x - c (e^x - 1)`` through two places on both sides of 0 is highest, and its value.

    Parameters
    ----------
    sides
        Place, and by how much the value there is lower than at 0.
    """
    (left, before), (right, after) = sorted(sides)
    ratio = right / -left
    bend = (after + before * ratio) / (np.expm1(right) + np.expm1(left) * ratio)
    if bend <= 0:
        return 0.0, 0.0
    slope = (before - bend * np.expm1(left)) / -left
    place = float(np.log(slope / bend))
    return place, float(slope * place - bend * np.expm1(place))
