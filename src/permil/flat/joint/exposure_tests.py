"""Tests of exposures against a joint solution: shape of the light, position of the projector, photodiode reading."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from permil._kernels.joint import slopes_along
from permil.arrays import FloatArray
from permil.flat.joint.data import DetectorSignals
from permil.flat.joint.model import JointModel
from permil.flat.joint.normal import DetectorFit, fit_detector
from permil.flat.joint.photodiode import READING_LIMIT, constants, deviations_from_others
from permil.flat.joint.prior import Prior
from permil.flat.joint.weather import ORDERS, PATTERNS, pattern_values

LEFT_OUT = 1e-12
"""Factor of the weight of an exposure that is left out: it has no effect, but its faults can still be tested."""

SHAPE_LIMIT = 7.0
"""Robust standard deviations of the chi-square of exposures."""

_CLIP = 5.0
_SMALLEST_EXCESS = 0.2
_FITTED = 3
"""Scale and position of an exposure are fitted to it before its chi-square is taken."""
_MOST_BYTES = 2**27
"""Memory of the fits of all detectors up to which they are kept."""
_FEWEST_FREE = 10.0
"""Degrees of freedom below which the shape of an exposure is not tested."""


@dataclass(frozen=True)
class ExposureTests:
    """Tests of each exposure, after a fit of its own scale and position; shape (n,) each.

    Parameters
    ----------
    chi_square
        Sum of squared residuals over their variances, each at most 25, over the degrees of freedom that the response leaves; NaN where
        there are too few of these.
    excess
        Deviation of that from the other exposures, in robust standard deviations.
    shift, shift_err : ndarray, shape (n, 2)
        Where the projector stood minus where the record has it (turned and scaled as the stage's axes are), mm.
    scale
        Correction of the logarithm of its scale from its own signals.
    photodiode
        Deviation of the photodiode reading from the prediction of all others, in standard deviations; NaN without reading.
    """

    chi_square: FloatArray
    excess: FloatArray
    shift: FloatArray
    shift_err: FloatArray
    scale: FloatArray
    photodiode: FloatArray

    @property
    def moved(self) -> FloatArray:
        """Deviation of the position from those of the other exposures, in robust standard deviations."""
        deviation = self.shift - np.nanmedian(self.shift, axis=0)
        spread = np.maximum(1.4826 * np.nanmedian(np.abs(deviation), axis=0), np.nanmedian(self.shift_err, axis=0))
        return np.sqrt(np.sum((deviation / np.hypot(spread, self.shift_err)) ** 2, axis=1))

    @property
    def shape(self) -> FloatArray:
        """Deviation of the shape of the light, in robust standard deviations; 0 where it is too small to matter."""
        known = np.isfinite(self.chi_square)
        usual = float(np.median(self.chi_square[known])) if known.any() else np.inf
        return np.where(self.chi_square > (1 + _SMALLEST_EXCESS) * usual, self.excess, 0.0)

    @property
    def misfit(self) -> FloatArray:
        """The larger of the deviations of shape and position; 0 without signals."""
        return np.nan_to_num(np.maximum(self.shape, self.moved))

    def reason(self, exposure: int) -> str:
        """Describe the faults of an exposure."""
        faults = []
        if self.shape[exposure] > SHAPE_LIMIT:
            faults.append(f"light of a different shape (chi-square {self.chi_square[exposure]:.3g})")
        if self.moved[exposure] > SHAPE_LIMIT:
            x, y = self.shift[exposure]
            faults.append(f"projector displaced by ({x:.3f}, {y:.3f}) mm")
        if abs(self.photodiode[exposure]) > READING_LIMIT:
            faults.append(f"photodiode reading off by {self.photodiode[exposure]:.1f} standard deviations")
        return ", ".join(faults)


def exposure_tests(
    model: JointModel,
    detectors: Sequence[DetectorSignals],
    vector: FloatArray,
    prior: Prior,
    *,
    threshold: float,
    exposure_weights: FloatArray,
) -> ExposureTests:
    """Fit scale and position (and weather, if it is an unknown) of each exposure to its residuals, and test the remaining residuals."""
    fits = _DetectorFits(model, detectors, vector, threshold, exposure_weights)
    weather = _precision_of_weather(model, prior)
    solution, covariance = _solve(*_normal_equations(fits, _FITTED + len(weather), exposure_weights), weather)
    fitted = np.full(len(solution), float(_FITTED))
    if weather.size:
        # Coefficients that their prior determines take no degree of freedom.
        fitted += weather.size - np.nan_to_num(np.einsum("ekk->ek", covariance[:, _FITTED:, _FITTED:])) @ weather
    total, freedom = _residuals(fits, solution, fitted, exposure_weights)
    with np.errstate(invalid="ignore", divide="ignore"):
        chi_square = np.where(freedom >= _FEWEST_FREE, total / freedom, np.nan)
        usual = np.nanmedian(chi_square) if np.isfinite(chi_square).any() else np.nan
        spread = 1.4826 * np.nanmedian(np.abs(chi_square - usual)) if np.isfinite(usual) else np.nan
        excess = (chi_square - usual) / np.maximum(spread, usual * np.sqrt(2 / freedom))
    shift = solution[:, 1:_FITTED]
    if model.position_errors:
        shift = shift + vector[model.errors].reshape(-1, 2)[model.move_numbers]
    # Where nothing fits, rounding may make a variance negative.
    errors = np.sqrt(np.maximum(np.stack([covariance[:, 1, 1], covariance[:, 2, 2]], axis=1), 0.0))
    return ExposureTests(chi_square, excess, shift, errors, solution[:, 0], _photodiode_deviations(vector, solution[:, 0], prior))


@dataclass
class _DetectorFits:
    """Detectors with their fits and bases (`_basis`); kept for the second iteration if they fit into memory, else recomputed."""

    model: JointModel
    detectors: Sequence[DetectorSignals]
    vector: FloatArray
    threshold: float
    exposure_weights: FloatArray
    _kept: list[tuple[DetectorSignals, DetectorFit, FloatArray]] = field(default_factory=list)

    def __iter__(self) -> Iterator[tuple[DetectorSignals, DetectorFit, FloatArray]]:
        if self._kept:
            yield from self._kept
            return
        size = 0
        for detector in self.detectors:
            fit = fit_detector(
                self.model, detector, self.vector, threshold=self.threshold, exposure_weights=self.exposure_weights
            )
            basis = _basis(self.model, detector, self.vector)
            size += basis.nbytes + 2 * fit.residual.nbytes
            if size <= _MOST_BYTES:
                self._kept.append((detector, fit, basis))
            else:
                self._kept.clear()
            yield detector, fit, basis


def _normal_equations(fits: _DetectorFits, fitted: int, exposure_weights: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return matrix and right-hand side of the unknowns of each exposure, shapes (n, fitted, fitted) and (n, fitted)."""
    count = len(exposure_weights)
    matrix, pull = np.zeros((count, fitted, fitted)), np.zeros((count, fitted))
    for detector, fit, basis in fits:
        weights = fit.weights / exposure_weights[detector.exposures, None]
        for number, exposure in enumerate(detector.exposures):
            weighted = basis[number] * weights[number]
            matrix[exposure] += weighted @ basis[number].T
            pull[exposure] += weighted @ fit.residual[number]
    return matrix, pull


def _residuals(
    fits: _DetectorFits, solution: FloatArray, fitted: FloatArray, exposure_weights: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return the sum of squared residuals of each exposure over their variances, and its degrees of freedom.

    Parameters
    ----------
    fitted
        Degrees of freedom of the fit of each exposure.
    """
    total, freedom = np.zeros(len(solution)), -fitted
    for detector, fit, basis in fits:
        weights = detector.weights
        expected = _degrees_of_freedom(weights, exposure_weights[detector.exposures])
        for number, exposure in enumerate(detector.exposures):
            residual = fit.residual[number] - solution[exposure] @ basis[number]
            deviation = np.square(residual) * weights[number]
            total[exposure] += np.minimum(deviation, _CLIP**2).sum()
            freedom[exposure] += expected[number].sum()
    return total, freedom


def _photodiode_deviations(vector: FloatArray, correction: FloatArray, prior: Prior) -> FloatArray:
    """Return the deviation of each reading from the prediction of the others, in standard deviations, shape (n,); NaN without reading."""
    exposures = prior.model.exposures
    result = np.full(len(exposures), np.nan)
    if prior.has_photodiode.sum() < 3:
        return result
    read = np.isfinite(exposures.log_photodiode)
    deviation = vector[prior.model.scales] + np.nan_to_num(correction) - exposures.log_photodiode
    covariance = prior.photodiode.covariance(exposures.time[read], exposures.epoch[read])
    fixed = constants(exposures.regressors[read], int(read.sum()))
    result[read] = -deviations_from_others(covariance, fixed, deviation[read], prior.has_photodiode[read])
    return result


def _degrees_of_freedom(weights: FloatArray, factors: FloatArray) -> FloatArray:
    """Return the expected square of each residual over its variance, given that the response is fitted to it, shape (e, p).

    An exposure has the share ``h = w_e / W_p`` in the response of a super-pixel: its residual keeps ``1 - h``. One that is left out
    has no share, and the error of the response adds to its residual: ``1 + w_e / W_p``.
    """
    total = np.einsum("ep,e->p", weights, factors)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(weights > 0, weights / total, 0.0)
    kept = factors[:, None] > 0.5
    return np.where(weights > 0, np.where(kept, np.maximum(1.0 - share, 0.0), 1.0 + np.minimum(share, 1.0)), 0.0)


def _basis(model: JointModel, detector: DetectorSignals, vector: FloatArray) -> FloatArray:
    """Return 1, the derivatives of the logarithm with respect to the projector's position, and the patterns of weather, shape (e, m, p)."""
    counts, places = model.pattern_arrays()
    fitted = _FITTED if model.weather_frame is None else _FITTED + len(PATTERNS)
    basis = np.ones((len(detector.exposures), fitted, len(detector.x_mm)))
    centres = model.centres(vector)[detector.exposures]
    slopes_along(detector.x_mm, detector.y_mm, centres, counts, places, vector, basis[:, 1:_FITTED])
    if model.weather_frame is not None:
        frames = model.frames[detector.exposures]
        along_x, along_y = (
            (place - frames[:, axis, None]) / frames[:, 2:] for axis, place in enumerate((detector.x_mm, detector.y_mm))
        )
        basis[:, _FITTED:] = pattern_values(along_x, along_y).transpose(1, 0, 2)
    return basis


def _precision_of_weather(model: JointModel, prior: Prior) -> FloatArray:
    """Return the prior precision of each coefficient of the weather; empty without weather."""
    if model.weather_frame is None or prior.weather is None:
        return np.empty(0)
    return np.asarray(prior.weather.amplitudes[ORDERS] ** -2.0)


def _solve(matrix: FloatArray, pull: FloatArray, held: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Solve for scale, position and weather of each exposure; NaN where there are no signals."""
    solution, covariance = np.full(pull.shape, np.nan), np.full(matrix.shape, np.nan)
    for number in np.flatnonzero(matrix[:, 0, 0] > 0):
        # Where the beam is level a displacement cannot be seen: a weak prior of 1 mm keeps it at zero.
        inverse = np.linalg.inv(matrix[number] + np.diag([0.0, 1.0, 1.0, *held]))
        solution[number], covariance[number] = inverse @ pull[number], inverse
    return solution, covariance
