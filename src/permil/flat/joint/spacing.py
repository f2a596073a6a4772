"""Distance of the beam's knots, chosen by the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from permil.errors import FlatError
from permil.flat.joint.data import DetectorSignals, ExposureList
from permil.flat.joint.model import JointModel, make_model
from permil.flat.joint.normal import NormalEquations, fit_detector, normal_equations
from permil.flat.joint.photodiode import PhotodiodeModel
from permil.flat.joint.prior import Prior
from permil.flat.joint.solver import Start
from permil.flat.joint.spline import SplineGrid
from permil.flat.joint.stiffness import best_stiffness

_FIRST_SPACING_MM = 12.0
_RATIO = 2**-0.5
_GAIN = 5.0
_GAIN_PER_SIGNAL = 0.005
"""Gain of the evidence, in all and per signal, below which finer knots are not worth their time: 1 % of chi-square."""
_SIGNIFICANT = 5.0
"""Standard deviations of chi-square beyond which the beam may have structure that the knots do not follow."""

_MOST_UNKNOWNS = 2000
_STANDS_OUT = 10.0
"""Chi-square of an exposure over the usual one with coarse knots."""
_PHOTODIODE = PhotodiodeModel(3e-3, 0.0)
_STIFFNESS = 1e4


@dataclass(frozen=True)
class SpacingChoice:
    """What the data say of the distance of knots.

    Parameters
    ----------
    spacing_mm : float
        The choice.
    tried_mm : tuple of float
        All that were tried.
    log_evidence : tuple of float
        Of each, relative to the best.
    limited : bool
        Whether finer knots were out of reach though the last step still paid, or left a chi-square larger than noise allows.
    stiffness : float
        Of the beam, with the largest evidence at the choice.
    start : Start
        Beam and scales with these knots, of one detector: where a solution may begin.
    """

    spacing_mm: float
    tried_mm: tuple[float, ...]
    log_evidence: tuple[float, ...]
    limited: bool
    stiffness: float
    start: Start = field(repr=False, compare=False)


def choose_spacing(
    exposures: ExposureList,
    detectors: Sequence[DetectorSignals],
    *,
    first_mm: float = _FIRST_SPACING_MM,
    most_unknowns: int = _MOST_UNKNOWNS,
) -> SpacingChoice:
    """Return the distance of knots beyond which the evidence grows no more, from the detector with the most signals.

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
        If not even the first spacing can be tried.
    """
    signals = [int(np.isfinite(detector.log_signal).sum()) for detector in detectors]
    first = detectors[int(np.argmax(signals))]
    model, equations = _at_start(exposures, first, first_mm)
    stands_out = _stands_out(model, first, equations)
    richest = first.only(~stands_out) if stands_out.any() else first
    whole = make_model(exposures, detectors, spacing_mm=first_mm).patterns[0].grid
    tried: list[float] = []
    stiffness: list[float] = []
    evidence: list[float] = []
    starts: list[Start] = []
    spacing = first_mm
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
        chosen, log_evidence, step = best_stiffness(equations.matrix, pull, prior)
        starts.append(Start(model, equations.vector + step))
        stiffness.append(chosen.stiffness[0])
        evidence.append(log_evidence)
        worth = max(_GAIN, _GAIN_PER_SIGNAL * max(signals))
        chi_square = equations.objective + prior.chi_square(equations.vector) - float(pull @ step)
        freedom = max(equations.signals - equations.responses - model.size, 1)
        unexplained = chi_square - freedom > max(2 * worth, _SIGNIFICANT * (2 * freedom) ** 0.5)
        if len(tried) > 2 and _expected_gain(evidence) < worth and not unexplained:
            limited = False
            break
        spacing *= _RATIO
    best = int(np.argmax(evidence))
    relative = tuple(value - evidence[best] for value in evidence)
    return SpacingChoice(tried[best], tuple(tried), relative, limited, stiffness[best], starts[best])


def coarse_spacing(
    exposures: ExposureList, detectors: Sequence[DetectorSignals], spacing_mm: float, *, most_unknowns: int = _MOST_UNKNOWNS
) -> float:
    """Return the distance of the knots of a dense solution that `permil.flat.joint.details` turns into the wanted one by halving.

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


def _stands_out(model: JointModel, richest: DetectorSignals, equations: NormalEquations) -> NDArray[np.bool_]:
    """Return which exposures stand out with coarse knots already: one defective exposure would ask for the finest knots."""
    exposures = model.exposures
    prior = Prior(model, (_STIFFNESS,), _PHOTODIODE, np.isfinite(exposures.log_photodiode))
    matrix = equations.full_matrix
    prior.add_to(matrix)
    pull = equations.gradient + prior.gradient(equations.vector)
    vector = equations.vector + linalg.solve(matrix, pull, assume_a="pos", overwrite_a=True)
    fit = fit_detector(model, richest, vector, threshold=np.inf, exposure_weights=np.ones(len(exposures)))
    lit = fit.weights > 0
    chi_square = (fit.weights * np.square(fit.residual)).sum(axis=1) / np.maximum(lit.sum(axis=1), 1)
    usual = np.median(chi_square[lit.any(axis=1)])
    result = np.zeros(len(exposures), dtype=bool)
    result[richest.exposures] = chi_square > _STANDS_OUT * usual
    return result


def _expected_gain(evidence: Sequence[float]) -> float:
    """Return what the next step is expected to gain: gains go on to fall by the same factor, or stay as they are."""
    before, last = np.diff(evidence[-3:])
    if last <= 0:
        return 0.0
    return float(last * min(last / before, 1.0)) if before > 0 else float(last)
