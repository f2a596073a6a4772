"""Residuals of a joint solution, from its file and the files of its signals: on detectors, and in the frames of beam and reflection.

A pattern that is sharp in one of these frames, and smeared in the other, shows its cause.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from permil.arrays import BoolArray, FloatArray, IntArray
from permil.flat.joint.data import DetectorSignals, ExposureList
from permil.flat.joint.light import JointLight
from permil.flat.joint.model import JointModel, Pattern
from permil.flat.joint.normal import DetectorFit, fit_detector
from permil.flat.joint.spline import SplineGrid
from permil.flat.joint.weather import WeatherFrame
from permil.flat.signals import SuperPixelSignals, read_signals

_FEWEST_IN_HALF = 2
_CELL_MM = 2.0
"""Side of the cells of the maps of a joint solution, mm."""


@dataclass(frozen=True)
class ResidualMap:
    """Residuals of logarithms, binned in one frame.

    Parameters
    ----------
    lower : ndarray, shape (2,)
        Corner of the first cell, mm.
    cell_mm : float
        Side of the cells.
    mean, error : ndarray, shape (nx, ny)
        Weighted mean residual of each cell and the error that noise alone gives it; NaN without signals.
    chi_square : ndarray, shape (nx, ny)
        Mean squared residual over its error.
    """

    lower: FloatArray
    cell_mm: float
    mean: FloatArray
    error: FloatArray
    chi_square: FloatArray

    @property
    def rms(self) -> float:
        """Weighted root mean square of the means."""
        weights, filled = self._weights()
        return float(np.sqrt(np.sum(weights * self.mean[filled] ** 2) / weights.sum()))

    @property
    def noise(self) -> float:
        """Expectation of `rms` for noise alone, without a fit."""
        weights, _ = self._weights()
        return float(np.sqrt(weights.size / weights.sum()))

    @property
    def excess_rms(self) -> float:
        """Root mean square of the means beyond noise; 0 if noise explains them."""
        return float(np.sqrt(max(self.rms**2 - self.noise**2, 0.0)))

    def _weights(self) -> tuple[FloatArray, BoolArray]:
        filled = np.isfinite(self.mean)
        return self.error[filled] ** -2, filled


class FrameSums:
    """Sums of residuals in the cells of one frame, to which detectors are added one at a time.

    Parameters
    ----------
    sign
        Sign of the projector's position that is added to the place of a super-pixel: -1 for the beam, +1 for a reflection.
    cell_mm
        Side of the cells, whose corners are multiples of it.
    """

    def __init__(self, sign: float, cell_mm: float) -> None:
        self._sign, self._cell_mm = sign, cell_mm
        self._first = np.zeros(2, dtype=np.int64)
        self._sums = np.zeros((4, 0, 0))

    def add(self, places: FloatArray, centres: FloatArray, weights: FloatArray, residual: FloatArray) -> None:
        """Add the residuals of a detector.

        Parameters
        ----------
        places : ndarray, shape (p, 2)
            Of its super-pixels, mm.
        centres : ndarray, shape (e, 2)
            Of the projector in its exposures, mm.
        weights, residual : ndarray, shape (e, p)
            Weights are 0 where there is no signal.
        """
        if not len(centres):
            return
        moved = self._sign * centres
        low, high = places.min(axis=0) + moved.min(axis=0), places.max(axis=0) + moved.max(axis=0)
        self._reach(*(np.floor(corner / self._cell_mm).astype(np.int64) for corner in (low, high)))
        shape = self._sums.shape[1:]
        flat = self._sums.reshape(4, -1)
        for centre, weight, deviation in zip(moved, weights, residual, strict=True):
            cell = np.floor((places + centre) / self._cell_mm).astype(np.int64) - self._first
            number = cell[:, 0] * shape[1] + cell[:, 1]
            parts = (weight > 0, weight, weight * deviation, weight * deviation**2)
            for total, values in zip(flat, parts, strict=True):
                total += np.bincount(number, weights=values, minlength=total.size)

    def _reach(self, low: IntArray, high: IntArray) -> None:
        """Extend the sums to the range between two cells."""
        if self._sums.size == 0:
            self._first, self._sums = low, np.zeros((4, *(high - low + 1)))
            return
        before = np.maximum(self._first - low, 0)
        after = np.maximum(high - (self._first + self._sums.shape[1:] - 1), 0)
        self._sums = np.pad(self._sums, [(0, 0), *zip(before.tolist(), after.tolist(), strict=True)])
        self._first = self._first - before

    @property
    def signal_error(self) -> float:
        """Error of a typical signal, from the mean of all weights; NaN without signals."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return float(np.sqrt(np.divide(self._sums[0].sum(), self._sums[1].sum())))

    def map(self) -> ResidualMap:
        """Return the map of the added residuals, over the range with signals."""
        lit = self._sums[0] > 0
        filled = [_range_of(lit.any(axis=axis)) for axis in (1, 0)]
        count, weight, moment, square = self._sums[:, *filled]
        lower = (self._first + [part.start for part in filled]) * self._cell_mm
        with np.errstate(invalid="ignore", divide="ignore"):
            error = np.where(weight > 0, weight**-0.5, np.nan)
            return ResidualMap(lower, self._cell_mm, moment / weight, error, square / count)


def _range_of(is_filled: BoolArray) -> slice:
    """Return the range from the first to the last filled row or column."""
    filled = np.flatnonzero(is_filled)
    return slice(int(filled[0]), int(filled[-1]) + 1) if filled.size else slice(0, 0)


@dataclass(frozen=True)
class DetectorResiduals:
    """Residuals of the signals of one detector on its grid of super-pixels, shape (rows, columns); NaN without signals.

    Parameters
    ----------
    log_response, error : ndarray
        Logarithm of the response minus its mean over all detectors, and its error from its own signals.
    change, change_error : ndarray
        Mean residual of the later half of the exposures that light the detector minus that of the earlier, and the error that noise
        gives it; NaN where a half has fewer than two signals.
    chi_square : ndarray
        Mean squared residual over its error, per degree of freedom that the response leaves.
    """

    log_response: FloatArray
    error: FloatArray
    change: FloatArray
    change_error: FloatArray
    chi_square: FloatArray


@dataclass(frozen=True)
class JointResiduals:
    """Residuals of a joint solution.

    Parameters
    ----------
    beam, reflected : ResidualMap
        By place minus projector, and by their sum.
    detectors : dict
        By name.
    signal_error : float
        Relative error of a typical signal.
    """

    beam: ResidualMap
    reflected: ResidualMap
    detectors: Mapping[str, DetectorResiduals]
    signal_error: float

    @property
    def change_rms(self) -> tuple[float, float]:
        """Root mean square of all changes, weighted with their errors, and its expectation for noise alone; NaN without any."""
        change = np.concatenate([one.change.ravel() for one in self.detectors.values()])
        error = np.concatenate([one.change_error.ravel() for one in self.detectors.values()])
        filled = np.isfinite(change)
        if not filled.any():
            return np.nan, np.nan
        weights = error[filled] ** -2
        return float(np.sqrt(np.sum(weights * change[filled] ** 2) / weights.sum())), float(np.sqrt(filled.sum() / weights.sum()))


def joint_residuals(light: JointLight, signals: Sequence[Path], *, least_signal: float, threshold: float) -> JointResiduals:
    """Subtract a joint solution from its signals; one detector at a time is in memory.

    Parameters
    ----------
    light
        The solution.
    signals
        Files of the signals of its detectors.
    least_signal, threshold
        With which it was solved: electrons below which signals are not used, and Huber's limit in standard deviations.

    Raises
    ------
    InputError
        If a file is missing or damaged.
    """
    beam, reflected = FrameSums(-1.0, _CELL_MM), FrameSums(1.0, _CELL_MM)
    found: dict[str, DetectorResiduals] = {}
    for fitted in fitted_detectors(light, signals, least_signal=least_signal, threshold=threshold):
        places = np.column_stack([fitted.signals.x_mm, fitted.signals.y_mm])
        for sums in (beam, reflected):
            sums.add(places, fitted.projector, fitted.fit.weights, fitted.fit.residual)
        found[fitted.stored.detector] = _of_detector(fitted)
    mean = np.nanmean(np.concatenate([one.log_response.ravel() for one in found.values()])) if found else 0.0
    for one in found.values():
        np.subtract(one.log_response, mean, out=one.log_response)
    return JointResiduals(beam.map(), reflected.map(), found, beam.signal_error)


@dataclass(frozen=True)
class FittedDetector:
    """Signals of one detector after a joint solution.

    Parameters
    ----------
    stored : SuperPixelSignals
        As written.
    signals : DetectorSignals
        Those that are lit, corrected for gains; exposures are numbered as in ``light.exposures``.
    obsids : tuple of str
        Observations of these signals.
    projector : ndarray, shape (e, 2)
        Where the projector stood, CCS mm.
    gains : ndarray, shape (e, p)
        Logarithm of the change of the signals by gains.
    fit : DetectorFit
        Response, residuals and weights.
    """

    stored: SuperPixelSignals
    signals: DetectorSignals
    obsids: tuple[str, ...]
    projector: FloatArray
    gains: FloatArray
    fit: DetectorFit


def fitted_detectors(
    light: JointLight, signals: Sequence[Path], *, least_signal: float, threshold: float
) -> Iterator[FittedDetector]:
    """Yield the signals of each detector with some light; see `joint_residuals`."""
    model, vector = _model(light)
    listed = list(light.exposures)
    number_of = {obsid: number for number, obsid in enumerate(listed)}
    for path in signals:
        stored = read_signals(path)
        detector = stored.to_detector(number_of, least_signal)
        if not len(detector.exposures):
            continue
        obsids = tuple(listed[number] for number in detector.exposures)
        gains = light.log_gains(stored.detector, obsids, stored.amplifier)
        detector = replace(detector, log_signal=detector.log_signal - gains)
        fit = fit_detector(model, detector, vector, threshold=threshold, exposure_weights=np.ones(len(model.exposures)))
        yield FittedDetector(stored, detector, obsids, model.exposures.positions[detector.exposures], gains, fit)


def _model(light: JointLight) -> tuple[JointModel, FloatArray]:
    """Return the model with fitted projector positions, and its vector."""
    patterns, vector = [], []
    for table, sign in light.tables:
        shape = (table.coefficients.shape[0], table.coefficients.shape[1])
        grid = SplineGrid((float(table.origin[0]), float(table.origin[1])), table.step, shape)
        patterns.append(Pattern(grid, sign))
        vector.append(table.coefficients.ravel())
    exposures = light.exposures.values()
    x_mm, y_mm, scale = (np.array([getattr(one, name) for one in exposures]) for name in ("x_mm", "y_mm", "scale"))
    # The file has them in the order of time.
    listed = ExposureList(x_mm, y_mm, np.full(len(scale), np.nan), np.arange(len(scale), dtype=np.float64))
    if not light.weather_frame:
        return JointModel(tuple(patterns), listed), np.concatenate([*vector, np.log(scale)])
    centre_x, centre_y, half_mm = light.weather_frame
    frame = WeatherFrame(listed.positions, np.array([centre_x, centre_y]), half_mm)
    weather = np.array([one.weather for one in exposures]).T.ravel()
    return JointModel(tuple(patterns), listed, weather_frame=frame), np.concatenate([*vector, np.log(scale), weather])


def _of_detector(fitted: FittedDetector) -> DetectorResiduals:
    weights, residual = fitted.fit.weights, fitted.fit.residual
    lit = weights > 0
    # Exposures are numbered in the order of time.
    rank = np.argsort(np.argsort(fitted.signals.exposures, kind="stable"))
    later = rank >= (len(rank) + 1) // 2
    with np.errstate(invalid="ignore", divide="ignore"):
        means, variances = [], []
        for half in (~later, later):
            total = weights[half].sum(axis=0)
            enough = lit[half].sum(axis=0) >= _FEWEST_IN_HALF
            means.append(np.where(enough, (weights[half] * residual[half]).sum(axis=0) / total, np.nan))
            variances.append(1.0 / total)
        change = means[1] - means[0]
        change_error = np.where(np.isfinite(change), np.sqrt(variances[0] + variances[1]), np.nan)
        freedom = lit.sum(axis=0) - 1.0
        chi_square = np.where(freedom > 0, (weights * residual**2).sum(axis=0) / freedom, np.nan)
        error = np.where(lit.any(axis=0), weights.sum(axis=0) ** -0.5, np.nan)
    parts = (fitted.fit.log_response, error, change, change_error, chi_square)
    return DetectorResiduals(*(_on_grid(fitted.stored, part) for part in parts))


def _on_grid(stored: SuperPixelSignals, values: FloatArray) -> FloatArray:
    grid = np.full(stored.shape, np.nan)
    grid[stored.row, stored.column] = values
    return grid
