"""The joint solution: beam, flat and scales, their errors, and how close the solution is to the optimum."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from scipy import sparse

from permil.arrays import BoolArray, FloatArray
from permil.errors import FlatError
from permil.flat.joint.data import DetectorSignals
from permil.flat.joint.exposure_tests import ExposureTests
from permil.flat.joint.grouped import GroupedFactor
from permil.flat.joint.model import JointModel
from permil.flat.joint.normal import DetectorFit, fit_detector
from permil.flat.joint.photodiode import stuck_readings
from permil.flat.joint.prior import Prior
from permil.flat.joint.weather import Weather

_PROBES = 16
"""Random vectors from which a trace is estimated."""


@dataclass(frozen=True)
class Certificate:
    """Distance of the vector from the optimum of the exact objective.

    Parameters
    ----------
    decrement : float
        Newton decrement ``sqrt(g' H^-1 g)``: no linear function of the unknowns is farther from its optimum than this many
        standard errors. The gradient ``g`` is that at the vector; the curvature ``H`` may be that of a vector a few standard errors
        away, or with nearly the same rows and weights (`permil.flat.joint.newton.NEAR`, ``SAME_ROWS``).
    gradient : float
        Norm of the gradient over its norm at the start, in units of the unknowns' scales ``diag(H)^-1/2``.
    passes : int
        Passes through the data.
    tolerance : float
        Of the decrement.
    """

    decrement: float
    gradient: float
    passes: int
    tolerance: float

    @property
    def converged(self) -> bool:
        """Whether the decrement is within its tolerance."""
        return self.decrement <= self.tolerance


@dataclass(frozen=True)
class DetailErrors:
    """Errors from the fine structure of the beam (`permil.flat.joint.details`), beyond those of the dense factor.

    Parameters
    ----------
    determined : float
        Coefficients that the signals determine.
    noise_share : float
        Mean variance that they add to a super-pixel, over that of its own noise.
    band : sparse array, shape (m, m), optional
        Normal equations of the fine splines of the beam alone, which later equations of the same exposures are preconditioned with.
    """

    determined: float = 0.0
    noise_share: float = 0.0
    band: sparse.csr_array | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class JointSolution:
    """Beam, flat and exposure scales.

    Parameters
    ----------
    model : JointModel
    prior : Prior
        As estimated from the data.
    vector : ndarray, shape (n,)
        All unknowns but the response.
    log_response : dict
        ``log F`` on the super-pixels of each detector, mean 0 over all of them.
    factor : GroupedFactor
        Of the inverse covariance of ``vector``; see `Certificate` for where it was computed.
    exposure_weights : ndarray
        Factor of the weight of each exposure.
    threshold : float
        Huber's.
    tests : ExposureTests
    certificate : Certificate
    objective : float
        Twice the minimum of the data's part.
    signals, responses : int
        Numbers.
    weather : Weather, optional
        Of the light path; None where it was not measured.
    detail_errors : DetailErrors
    """

    model: JointModel
    prior: Prior
    vector: FloatArray
    log_response: dict[str, FloatArray]
    factor: GroupedFactor = field(repr=False)
    exposure_weights: FloatArray
    threshold: float
    tests: ExposureTests
    certificate: Certificate
    objective: float
    signals: int
    responses: int
    weather: Weather | None = None
    detail_errors: DetailErrors = DetailErrors()

    @property
    def log_scales(self) -> FloatArray:
        """``s`` of each exposure, up to a constant."""
        return self.vector[self.model.scales]

    @property
    def left_out(self) -> BoolArray:
        """Exposures that do not fit and are excluded."""
        return self.exposure_weights < 0.5

    @cached_property
    def determined(self) -> float:
        """Number of unknowns that the signals determine: ``n - tr(P V)`` with the prior's precision ``P`` and the covariance ``V``.

        What the prior determines takes no degree of freedom from the signals (Gull 1989; MacKay 1992, Neural Computation 4, 415). The
        trace is estimated from random vectors (Hutchinson 1990, Communications in Statistics 19, 433): its error is a few unknowns.
        The part of the gains, whose unknowns have very different sizes, is exact.
        """
        probes = np.random.default_rng(0).choice([-1.0, 1.0], (_PROBES, self.model.size))
        gains = slice(self.model.board_gains.start, self.model.step_sizes.stop)
        probes[:, gains] = 0.0
        weighted = np.array([self.prior.times(probe) for probe in probes])
        from_prior = float(np.sum(probes.T * self.factor.solve(weighted.T))) / _PROBES
        covariance = self.covariance_of(gains)
        for where, precision in self.prior.gain_blocks():
            inside = slice(where.start - gains.start, where.stop - gains.start)
            from_prior += float(np.sum(precision * covariance[inside, inside]))
        return min(max(self.model.size - from_prior, 0.0), float(self.model.size))

    @property
    def freedom(self) -> float:
        """Degrees of freedom of the objective."""
        return max(self.signals - self.responses - self.determined - self.detail_errors.determined, 1.0)

    @property
    def reduced_chi_square(self) -> float:
        """Objective over its degrees of freedom."""
        return self.objective / self.freedom

    def findings(self) -> dict[int, str]:
        """Return the faults of exposures that were left out, or whose photodiode reading was left out."""
        exposures = self.model.exposures
        unread = np.isfinite(exposures.log_photodiode) & ~self.prior.has_photodiode
        stuck = unread & stuck_readings(exposures.log_photodiode, exposures.time)
        reasons = {int(number): self.tests.reason(int(number)) for number in np.flatnonzero(self.left_out | unread)}
        for number in np.flatnonzero(stuck & ~self.left_out):
            reasons[int(number)] = "photodiode reading repeated or saturated"
        return {number: reason or "photodiode reading off" for number, reason in reasons.items()}

    def fit(self, detector: DetectorSignals) -> DetectorFit:
        """Solve for the response of a detector at the solution."""
        return fit_detector(self.model, detector, self.vector, threshold=self.threshold, exposure_weights=self.exposure_weights)

    def log_beam(self, ux: FloatArray, uy: FloatArray) -> FloatArray:
        """Return ``log B`` at places relative to the projector (mm), up to a constant; NaN where there is no data."""
        grid, coefficients = self.model.beam(self.vector)
        return grid.evaluate(coefficients, ux, uy)

    def error_of(self, places: slice) -> FloatArray:
        """Return the standard errors of some of the unknowns."""
        return np.sqrt(np.diag(self.covariance_of(places)))

    def covariance_of(self, places: slice) -> FloatArray:
        """Return the covariance of some of the unknowns, shape (m, m)."""
        first, stop = self.model.board_gains.start, self.model.step_sizes.stop
        if first <= places.start < places.stop <= stop:
            own = slice(places.start - first, places.stop - first)
            return self._covariance_of_gains[own, own]
        return self.factor.covariance(np.arange(places.start, places.stop))

    @cached_property
    def _covariance_of_gains(self) -> FloatArray:
        """Covariance of the unknowns of readout boards and steps of amplifiers, computed once."""
        return self.factor.covariance(np.arange(self.model.board_gains.start, self.model.step_sizes.stop))

    @property
    def rotation(self) -> tuple[float, float]:
        """Rotation of the stage's axes and its error, radians; zero if it is not fitted."""
        if not self.model.geometry:
            return 0.0, 0.0
        return float(self.vector[self.model.stage.start]), float(self.error_of(self.model.stage)[0])


LEVEL = 0.9
"""The centre is the centroid of the beam above this fraction of its maximum, weighted with the height above it."""

_STEP_MM = 0.5
_DRAWS = 200


def beam_centre(solution: JointSolution) -> tuple[FloatArray, FloatArray]:
    """Return the centre of the beam in its own coordinates (mm) and its covariance, from draws of the posterior.

    A stage offset is a shift of these coordinates; the centre moves by it. Where the part above the level reaches the edge of
    what was lit it is the centroid of what was lit.

    Raises
    ------
    FlatError
        If the beam is nowhere within the area of the signals.
    """
    (grid, coefficients), where = solution.model.beam(solution.vector), solution.model.pattern_slices[0]
    axes = [np.arange(low, high, _STEP_MM) for low, high in zip(grid.lower, grid.upper, strict=True)]
    x, y = (part.ravel() for part in np.meshgrid(*axes, indexing="ij"))
    logarithm = solution.log_beam(x, y)
    if not np.isfinite(logarithm).any():
        raise FlatError("the beam is not defined anywhere", remedy="check positions")
    # Only places that may lie above the level in some draw matter.
    near = logarithm > np.nanmax(logarithm) + np.log(LEVEL) - 0.05
    x, y = x[near], y[near]
    design = grid.design(x, y)
    whole = design @ coefficients
    of_pattern = design if solution.model.details is None else design @ solution.model.details.prolongation
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((solution.model.size, _DRAWS))
    draws = solution.factor.unwhiten(noise)[where]
    centre = centroid(x, y, np.exp(whole))
    beams = np.exp(whole[:, None] + of_pattern @ (draws - draws.mean(axis=0)))
    offsets = np.array([centroid(x, y, beam) for beam in beams.T]) - centre
    return centre, offsets.T @ offsets / _DRAWS


def centroid(x: FloatArray, y: FloatArray, beam: FloatArray) -> FloatArray:
    """Return the centroid of a beam on a regular lattice above 0.9 of its maximum, weighted with the height above that."""
    height = np.maximum(beam - LEVEL * np.nanmax(beam), 0.0)
    return np.array([np.nansum(height * x), np.nansum(height * y)]) / np.nansum(height)
