"""Knots of the beam's splines: spacing and stiffness with the largest evidence (marginal likelihood)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from scipy import linalg, sparse

from permil.arrays import BoolArray, FloatArray
from permil.errors import FlatError
from permil.flat.joint.data import DetectorSignals, ExposureList
from permil.flat.joint.factor import factorise_rows
from permil.flat.joint.model import JointModel, Start, make_model, require_determined
from permil.flat.joint.normal import NormalEquations, fit_detector, normal_equations, subtract_products
from permil.flat.joint.photodiode import PhotodiodeModel
from permil.flat.joint.prior import Prior, free_functions, hold_strength, roughness_of
from permil.flat.joint.spline import SplineGrid

_FIRST_SPACING_MM = 12.0
_RATIO = 2**-0.5
_GAIN = 5.0
_GAIN_PER_SIGNAL = 0.005
"""Gain of the evidence, in total and per signal, below which finer knots are not worth their time: 1 % of chi-square."""
_SIGNIFICANT = 5.0
"""Standard deviations of chi-square beyond which the beam may have structure finer than the knots."""

_PLANE = 3
_MOST_UNKNOWNS = 2000
_STANDS_OUT = 10.0
"""Chi-square of an exposure over the usual one with coarse knots."""
_PHOTODIODE = PhotodiodeModel(3e-3, 0.0)
_STIFFNESS = 1e4


@dataclass(frozen=True)
class SpacingChoice:
    """Evidence of the data for the distance of knots.

    Parameters
    ----------
    spacing_mm : float
        The choice.
    limited : bool
        Whether finer knots were out of reach though the last step still paid, or left a chi-square larger than noise allows.
    stiffness : float
        Of the beam, with the largest evidence at the choice.
    start : Start
        Beam and scales with these knots, of one detector: where a solution may begin.
    """

    spacing_mm: float
    limited: bool
    stiffness: float
    start: Start = field(repr=False, compare=False)


def choose_spacing(
    exposures: ExposureList,
    detectors: Sequence[DetectorSignals],
    *,
    most_unknowns: int = _MOST_UNKNOWNS,
) -> SpacingChoice:
    """Return the knot spacing below which the evidence stops growing, from the detector with the most signals.

    Knots are made finer by the square root of 2 as long as the logarithm of the evidence is expected to grow by what is worth the
    time, or chi-square is larger than noise allows: a beam whose structure is finer than the knots gains nothing until they resolve it.
    The smoothness is estimated for each: finer knots than needed do no harm.

    Parameters
    ----------
    most_unknowns
        Coefficients that the beam of all detectors together may have.

    Raises
    ------
    FlatError
        If there is no signal, or not even the first spacing can be tried.
    """
    whole = make_model(exposures, detectors, spacing_mm=_FIRST_SPACING_MM).patterns[0].grid
    signals = [int(np.isfinite(detector.log_signal).sum()) for detector in detectors]
    first = detectors[int(np.argmax(signals))]
    model, equations = _at_start(exposures, first, _FIRST_SPACING_MM)
    with require_determined(model):
        stands_out = _stands_out(model, first, equations)
    richest = first.only(~stands_out) if stands_out.any() else first
    tried: list[float] = []
    stiffness: list[float] = []
    evidence: list[float] = []
    starts: list[Start] = []
    spacing = _FIRST_SPACING_MM
    while True:
        size = SplineGrid.covering(np.array(whole.lower), np.array(whole.upper), spacing).size
        if size > most_unknowns:
            if not tried:
                raise FlatError(f"knots {spacing} mm apart make {size} coefficients", remedy="choose a larger spacing")
            limited = True
            break
        if tried or stands_out.any():
            model, equations = _at_start(exposures, richest, spacing)
        first_stiffness = stiffness[-1] if stiffness else _STIFFNESS
        prior = Prior(model, (first_stiffness,), _PHOTODIODE, np.isfinite(exposures.log_photodiode))
        pull = equations.gradient + prior.gradient(equations.vector)
        tried.append(spacing)
        with require_determined(model):
            chosen, log_evidence, step = best_stiffness(equations.matrix, pull, prior)
        starts.append(Start(model, equations.vector + step))
        stiffness.append(chosen.stiffness[0])
        evidence.append(log_evidence)
        worth = max(_GAIN, _GAIN_PER_SIGNAL * max(signals))
        chi_square = equations.objective + prior.chi_square(equations.vector) - float(pull @ step)
        # Coefficients have a prior, but for a plane.
        freedom = max(equations.signals - equations.responses - len(exposures) - _PLANE, 1)
        unexplained = chi_square - freedom > max(2 * worth, _SIGNIFICANT * (2 * freedom) ** 0.5)
        if len(tried) > 2 and _expected_gain(evidence) < worth and not unexplained:
            limited = False
            break
        spacing *= _RATIO
    best = int(np.argmax(evidence))
    return SpacingChoice(tried[best], limited, stiffness[best], starts[best])


def coarse_spacing(
    exposures: ExposureList, detectors: Sequence[DetectorSignals], spacing_mm: float, *, most_unknowns: int = _MOST_UNKNOWNS
) -> float:
    """Return the knot spacing of a dense solution that becomes the wanted one by halving (`permil.flat.joint.details`).

    Parameters
    ----------
    spacing_mm
        That is wanted.
    most_unknowns
        Coefficients that the beam of the dense solution may have.
    """
    whole = make_model(exposures, detectors, spacing_mm=_FIRST_SPACING_MM).patterns[0].grid
    while SplineGrid.covering(np.array(whole.lower), np.array(whole.upper), spacing_mm).size > most_unknowns:
        spacing_mm *= 2
    return spacing_mm


def _at_start(exposures: ExposureList, detector: DetectorSignals, spacing_mm: float) -> tuple[JointModel, NormalEquations]:
    """Return the model of one detector and its equations at a level beam."""
    model = make_model(exposures, [detector], spacing_mm=spacing_mm)
    return model, normal_equations(model, [detector], model.start())


def _stands_out(model: JointModel, richest: DetectorSignals, equations: NormalEquations) -> BoolArray:
    """Return which exposures deviate already with coarse knots: one defective exposure would lead to the finest knots."""
    exposures = model.exposures
    prior = Prior(model, (_STIFFNESS,), _PHOTODIODE, np.isfinite(exposures.log_photodiode))
    matrix = equations.full_matrix
    prior.add_to(matrix)
    pull = equations.gradient + prior.gradient(equations.vector)
    vector = equations.vector + linalg.cho_solve(linalg.cho_factor(matrix, overwrite_a=True), pull)
    fit = fit_detector(model, richest, vector, threshold=np.inf, exposure_weights=np.ones(len(exposures)))
    lit = fit.weights > 0
    chi_square = (fit.weights * np.square(fit.residual)).sum(axis=1) / np.maximum(lit.sum(axis=1), 1)
    usual = np.median(chi_square[lit.any(axis=1)])
    result = np.zeros(len(exposures), dtype=bool)
    result[richest.exposures] = chi_square > _STANDS_OUT * usual
    return result


def _expected_gain(evidence: Sequence[float]) -> float:
    """Return the expected gain of the next step: gains continue to fall by the same factor, or stay constant."""
    before, last = np.diff(evidence[-3:])
    if last <= 0:
        return 0.0
    return float(last * min(last / before, 1.0)) if before > 0 else float(last)


_BOUNDS = (1.0, 1e12)
_FIRST_STEP = 1.0
_NARROW = 2.5
"""Distance, in the logarithm of the stiffness, below which evaluated places are narrow."""
_INSIDE = 0.5
"""Distance from the best evaluated place up to which a vertex is accepted without evaluation, if places are narrow."""
_TOLERANCE = 0.2
"""Tolerance of the logarithm of the stiffness with the largest evidence."""
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


def best_stiffness(matrix: FloatArray, gradient: FloatArray, prior: Prior) -> tuple[Prior, float, FloatArray]:
    """Return the prior whose common stiffness of the patterns has the largest evidence, the logarithm of that, and a Newton step.

    The step, shape (n,), is that of the stiffness tried last, near the best one.

    Parameters
    ----------
    matrix, gradient
        Of the data at coefficients 0 of the patterns, with the prior's pull there added to ``gradient``. Of the matrix the
        upper triangle is used; it is overwritten.
    prior
        The search begins at its stiffness, which does not matter otherwise.

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
    found, log_evidence = _highest(evidence, first, (float(np.log(_BOUNDS[0])), float(np.log(_BOUNDS[1]))))
    of_patterns = linalg.solve_triangular(factor.T, whitened, lower=True, trans="T", check_finite=False)
    of_others = linalg.solve_triangular(others, solved[:, -1] - solved[:, :-1] @ of_patterns, check_finite=False)
    step = np.concatenate([of_patterns, of_others])
    return prior.with_stiffness((float(np.exp(found)),) * len(prior.stiffness)), log_evidence, step


def _highest(function: Callable[[float], float], first: float, bounds: tuple[float, float]) -> tuple[float, float]:
    """Return the place of the maximum of a smooth function with one maximum, and the value there, in few evaluations.

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
        if abs(ahead - behind) < _NARROW and abs(move) < max(_INSIDE, _TOLERANCE / 2):
            return middle + move, value(middle) + rise
        if abs(move) < _TOLERANCE / 2:
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
    """Return the maximum of ``b x - c (e^x - 1)`` through two places on both sides of 0, and its value.

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
