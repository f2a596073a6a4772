"""Where the joint solution stands between passes through the data: vector, prior, exposures that count."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from permil.flat.joint.curvature import Curvature
from permil.flat.joint.data import DetectorSignals
from permil.flat.joint.exposure_tests import LEFT_OUT, PHOTODIODE_LIMIT, SHAPE_LIMIT, exposure_tests
from permil.flat.joint.model import JointModel
from permil.flat.joint.normal import NormalEquations, normal_equations
from permil.flat.joint.photodiode import PhotodiodeModel, fit_photodiode, marginal
from permil.flat.joint.prior import Prior, common_deviation
from permil.flat.joint.stiffness import best_stiffness

FloatArray = NDArray[np.float64]

_FIRST_PHOTODIODE = PhotodiodeModel(0.01, 0.01)
_FIRST_STIFFNESS = 1e4
_POSITION_ERRORS_MM = (1e-5, 0.1)
_FEWEST_READINGS = 6
NEAR = 3.0
"""Distance ``sqrt(dz' H dz)``, in standard errors, within which the curvature holds."""

SAME_ROWS, SAME_WEIGHT = 1e-2, 1e-3
"""Relative difference of the signals' rows, and of the sum of their weights, within which it holds however far away: the errors of flat
and scales then agree to 0.001, those of the beam at the edge of the light to 0.01."""

_ROUNDS = 2
"""Passes without a change of what is left out after which the prior is kept."""


@dataclass(frozen=True)
class Start:
    """Where a solution may begin: a vector of a model without reflection, position errors or geometry.

    Parameters
    ----------
    model : JointModel
    vector : ndarray, shape (n,)
    """

    model: JointModel
    vector: FloatArray

    def of(self, model: JointModel) -> FloatArray | None:
        """Return the vector for another model of the same exposures and patterns, what is new at 0; None if it has others."""
        if model.patterns != self.model.patterns or len(model.exposures) != len(self.model.exposures):
            return None
        return np.concatenate([self.vector, np.zeros(model.size - len(self.vector))])


class Solver:
    """Where the solution stands between passes."""

    def __init__(
        self,
        model: JointModel,
        detectors: Sequence[DetectorSignals],
        threshold: float,
        with_drift: bool,
        progress: Callable[[str], None] | None,
        stiffness: float | None = None,
        *,
        start: Start | None = None,
        near: float = NEAR,
        held_out: NDArray[np.bool_] | None = None,
    ) -> None:
        self.model, self.detectors, self.threshold = model, detectors, threshold
        self.with_drift, self.progress = with_drift, progress
        vector = None if start is None else start.of(model)
        self.begun = vector is not None
        self.vector = model.start() if vector is None else vector
        self.exposure_weights = np.ones(len(model.exposures))
        self.steady = False
        self.curvatures = 0
        self._near, self._held_out = near, held_out
        self._curvature: Curvature | None = None
        self._state: tuple[bool, bytes] | None = None
        self._rounds = 0
        self._stiffness_given = self._stiffness_known = stiffness is not None
        known = np.isfinite(model.exposures.log_photodiode)
        self.prior = Prior(
            model, (stiffness or _FIRST_STIFFNESS,) * len(model.patterns), _FIRST_PHOTODIODE, known, stage_as_recorded=True
        )

    def equations(self, *, robust: bool) -> tuple[NormalEquations, Curvature]:
        """Pass through the data: for the gradient alone as long as the curvature holds, else for both; estimate the prior.

        Raises
        ------
        numpy.linalg.LinAlgError
            If the unknowns are not determined.
        """
        state = (robust, self.exposure_weights.tobytes())
        if state != self._state or not self._stiffness_known:
            self._curvature = None
        is_near = self._curvature is None or self._curvature.distance(self.vector) <= self._near
        if not is_near and self._curvature is not None and self._curvature.change(self.vector) > SAME_ROWS:
            self._curvature = None
        equations = self._pass(robust=robust)
        if not is_near and self._curvature is not None and abs(equations.weight / self._curvature.weight - 1.0) > SAME_WEIGHT:
            self._curvature = None
            equations = self._pass(robust=robust)
        if self._curvature is None:
            if not (self._stiffness_known or self.steady):
                self._estimate_stiffness(equations)
            self._stiffness_known = True
            self._curvature, self._state = Curvature(equations, self.prior), state
            self.curvatures += 1
        if not self.steady:
            self._estimate_strengths(self._curvature, equations.gradient)
        self._curvature.factorise(self.prior)
        return equations, self._curvature

    def _pass(self, *, robust: bool) -> NormalEquations:
        """Pass through the data, for the matrix too where there is no curvature."""
        return normal_equations(
            self.model,
            self.detectors,
            self.vector,
            threshold=self.threshold if robust else np.inf,
            exposure_weights=self.exposure_weights,
            held_out=self._held_out,
            with_matrix=self._curvature is None,
            progress=self.progress,
        )

    def refresh(self) -> None:
        """Have the curvature made again in the next pass."""
        self._curvature = None

    def _estimate_strengths(self, curvature: Curvature, gradient: FloatArray) -> None:
        """Estimate photodiode and position errors."""
        known = np.flatnonzero(self.prior.has_photodiode)
        if known.size >= _FEWEST_READINGS:
            pull = gradient + self.prior.gradient(self.vector)
            information, at_vector = curvature.information(self.prior, gradient, pull, self.model.scales)
            at_readings = at_vector + information @ (self.vector[self.model.scales] - self.prior.scale_centre)
            information, at_readings = marginal(information, at_readings, known)
            times, regressors = self.model.exposures.time[known], self.model.exposures.regressors[known]
            photodiode = fit_photodiode(times, regressors, information, at_readings, with_drift=self.with_drift)
            self.prior = replace(self.prior, photodiode=photodiode)
        if self.model.position_errors and not self.prior.stage_as_recorded:
            errors = self.vector[self.model.errors]
            pull = gradient + self.prior.gradient(self.vector)
            information, at_vector = curvature.information(self.prior, gradient, pull, self.model.errors)
            # Their mean is held: only differences count.
            pairs = np.arange(len(errors)) % 2
            differences = np.eye(len(errors)) - 2.0 / len(errors) * (pairs[:, None] == pairs)
            pull = differences @ (at_vector + information @ errors)
            size = common_deviation(differences @ information @ differences, pull, _POSITION_ERRORS_MM)
            self.prior = replace(self.prior, position_error_mm=size)

    def _estimate_stiffness(self, equations: NormalEquations) -> None:
        # The evidence wants the pull at coefficients 0; the equations are linear in them.
        at_zero, matrix = np.zeros(self.model.size), equations.full_matrix
        for where in self.model.pattern_slices:
            at_zero[where] = self.vector[where]
        pull = equations.gradient + matrix @ at_zero + self.prior.gradient(self.vector - at_zero)
        self.prior, *_ = best_stiffness(matrix, pull, self.prior)

    def advance(self, *, judge: bool) -> None:
        """After a step: judge the exposures, then let the stage differ from its record, then keep the prior.

        Before exposures that do not fit are left out, positions fitted to a beam that they have spoilt could lead anywhere.
        """
        if self.steady:
            return
        changed = judge and self.judge_exposures()
        self._rounds = 0 if changed else self._rounds + 1
        if self._rounds and self.prior.stage_as_recorded:
            self.prior = replace(self.prior, stage_as_recorded=False)
            self._rounds = 0
            self._stiffness_known = self._stiffness_given
        self.steady = self._rounds >= _ROUNDS

    def judge_exposures(self) -> bool:
        """Leave out the exposures, and readings, that fit worst, take back those that fit; return whether anything changed.

        Half the worst deviation is the limit of each round, since a bad exposure makes others look bad.
        """
        tests = exposure_tests(
            self.model, self.detectors, self.vector, self.prior, threshold=self.threshold, exposure_weights=self.exposure_weights
        )
        misfit, left_out = tests.misfit, self.exposure_weights < 0.5
        worst = misfit[~left_out].max(initial=0.0)
        bad = np.where(left_out, misfit > SHAPE_LIMIT, misfit > max(SHAPE_LIMIT, worst / 2))
        self.exposure_weights = np.where(bad, LEFT_OUT, 1.0)
        deviation = np.abs(np.nan_to_num(tests.photodiode))
        known = self.prior.has_photodiode
        limit = max(PHOTODIODE_LIMIT, deviation[known].max(initial=0.0) / 2)
        trusted = np.isfinite(self.model.exposures.log_photodiode) & np.where(
            known, deviation <= limit, deviation <= PHOTODIODE_LIMIT
        )
        changed = bool((bad != left_out).any() or (trusted != known).any())
        if (trusted != known).any():
            self.prior = replace(self.prior, has_photodiode=trusted)
        return changed
