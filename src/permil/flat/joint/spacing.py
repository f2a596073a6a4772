"""Distance of the beam's knots, chosen by the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from permil.errors import FlatError
from permil.flat.joint.data import DetectorSignals, ExposureList
from permil.flat.joint.model import make_model
from permil.flat.joint.normal import fit_detector, normal_equations
from permil.flat.joint.photodiode import PhotodiodeModel
from permil.flat.joint.prior import Prior
from permil.flat.joint.spline import SplineGrid
from permil.flat.joint.stiffness import best_stiffness

_FIRST_SPACING_MM = 12.0
_RATIO = 2**-0.5
_GAIN = 5.0
_GAIN_PER_SIGNAL = 0.005
"""Gain of the evidence, in all and per signal, below which finer knots are not worth their time: 1 % of chi-square."""
_MOST_UNKNOWNS = 4000
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
        Whether finer knots were out of reach though the last step still paid.
    stiffness : float
        Of the beam, with the largest evidence at the choice.
    """

    spacing_mm: float
    tried_mm: tuple[float, ...]
    log_evidence: tuple[float, ...]
    limited: bool
    stiffness: float


def choose_spacing(
    exposures: ExposureList,
    detectors: Sequence[DetectorSignals],
    *,
    first_mm: float = _FIRST_SPACING_MM,
    most_unknowns: int = _MOST_UNKNOWNS,
) -> SpacingChoice:
    """Return the distance of knots beyond which the evidence grows no more, from the detector with the most signals.

    Knots are made finer by the square root of 2 as long as the logarithm of the evidence is expected to grow by what is worth the
    time. The smoothness is estimated for each: finer knots than needed do no harm.

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
    richest = [first.only(~_stands_out(exposures, first, first_mm))]
    whole = make_model(exposures, detectors, spacing_mm=first_mm).patterns[0].grid
    tried: list[float] = []
    stiffness: list[float] = []
    evidence: list[float] = []
    spacing = first_mm
    while True:
        size = SplineGrid.covering(np.array(whole.lower), np.array(whole.upper), spacing).size
        if size > most_unknowns:
            if not tried:
                raise FlatError(f"knots {spacing} mm apart make {size} coefficients", remedy="choose a larger spacing")
            limited = True
            break
        model = make_model(exposures, richest, spacing_mm=spacing)
        first_stiffness = stiffness[-1] if stiffness else _STIFFNESS
        prior = Prior(model, (first_stiffness,), _PHOTODIODE, np.isfinite(exposures.log_photodiode))
        equations = normal_equations(model, richest, model.start())
        pull = equations.gradient + prior.gradient(equations.vector)
        tried.append(spacing)
        chosen, log_evidence = best_stiffness(equations.matrix, pull, prior)
        stiffness.append(chosen.stiffness[0])
        evidence.append(log_evidence)
        limited = False
        if len(tried) > 2 and _expected_gain(evidence) < max(_GAIN, _GAIN_PER_SIGNAL * max(signals)):
            break
        spacing *= _RATIO
    best = int(np.argmax(evidence))
    relative = tuple(value - evidence[best] for value in evidence)
    return SpacingChoice(tried[best], tuple(tried), relative, limited and best == len(tried) - 1, stiffness[best])


def _stands_out(exposures: ExposureList, richest: DetectorSignals, spacing_mm: float) -> NDArray[np.bool_]:
    """Return which exposures stand out with coarse knots already: one defective exposure would ask for the finest knots."""
    model = make_model(exposures, [richest], spacing_mm=spacing_mm)
    prior = Prior(model, (_STIFFNESS,), _PHOTODIODE, np.isfinite(exposures.log_photodiode))
    equations = normal_equations(model, [richest], model.start())
    prior.add_to(equations.matrix)
    pull = equations.gradient + prior.gradient(equations.vector)
    vector = equations.vector + linalg.solve(equations.matrix, pull, assume_a="pos", overwrite_a=True)
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
