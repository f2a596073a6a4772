"""Residuals of a joint solution from its file and the files of its signals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from permil.arrays import FloatArray
from permil.flat.joint.data import DetectorSignals, ExposureList
from permil.flat.joint.model import JointModel, Pattern
from permil.flat.joint.normal import DetectorFit, fit_detector
from permil.flat.joint.residuals import FrameSums, ResidualMap
from permil.flat.joint.spline import SplineGrid
from permil.flat.joint.weather import WeatherFrame
from permil.flat.joint_file import JointLight
from permil.flat.signals import SuperPixelSignals, read_signals

_FEWEST_IN_HALF = 2


@dataclass(frozen=True)
class DetectorResiduals:
    """What the signals of one detector leave, on its grid of super-pixels, shape (rows, columns); NaN without signals.

    Parameters
    ----------
    log_response, error : ndarray
        Logarithm of the response, its mean over all detectors taken off, and its error from its own signals.
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
        """Root mean square of all changes in the weights of their errors, and what noise alone gives it; NaN without any."""
        change = np.concatenate([one.change.ravel() for one in self.detectors.values()])
        error = np.concatenate([one.change_error.ravel() for one in self.detectors.values()])
        filled = np.isfinite(change)
        if not filled.any():
            return np.nan, np.nan
        weights = error[filled] ** -2
        return float(np.sqrt(np.sum(weights * change[filled] ** 2) / weights.sum())), float(np.sqrt(filled.sum() / weights.sum()))


def joint_residuals(
    light: JointLight, signals: Sequence[Path], *, least_signal: float, threshold: float, cell_mm: float = 2.0
) -> JointResiduals:
    """Subtract a joint solution from its signals; one detector at a time is in memory.

    Parameters
    ----------
    light
        The solution.
    signals
        Files of the signals of its detectors.
    least_signal, threshold
        With which it was solved: electrons below which a signal says nothing, and Huber's limit in standard deviations.
    cell_mm
        Side of the cells of the maps in the frames of beam and reflection.

    Raises
    ------
    InputError
        If a file is missing or damaged.
    """
    model, _ = _model(light)
    centres = model.exposures.positions
    beam, reflected = FrameSums("beam", cell_mm), FrameSums("reflected", cell_mm)
    found: dict[str, DetectorResiduals] = {}
    for fitted in fitted_detectors(light, signals, least_signal=least_signal, threshold=threshold):
        stored, detector, fit = fitted.stored, fitted.signals, fitted.fit
        places = np.column_stack([detector.x_mm, detector.y_mm])
        for sums in (beam, reflected):
            sums.add(places, centres[detector.exposures], fit.weights, fit.residual)
        found[stored.detector] = _of_detector(stored, detector, fit, model.exposures.time)
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
        Those that are lit, without what gains make of them; exposures are numbered as in ``light.exposures``.
    gains : ndarray, shape (e, p)
        Logarithm of what gains make of them.
    fit : DetectorFit
        Response, residuals and weights.
    """

    stored: SuperPixelSignals
    signals: DetectorSignals
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
        gains = light.log_gains(stored.detector, [listed[number] for number in detector.exposures], stored.amplifier)
        detector = replace(detector, log_signal=detector.log_signal - gains)
        fit = fit_detector(model, detector, vector, threshold=threshold, exposure_weights=np.ones(len(model.exposures)))
        yield FittedDetector(stored, detector, gains, fit)


def _model(light: JointLight) -> tuple[JointModel, FloatArray]:
    """Return the model whose projector stands where it was fitted, and its vector."""
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


def _of_detector(stored: SuperPixelSignals, detector: DetectorSignals, fit: DetectorFit, time: FloatArray) -> DetectorResiduals:
    weights, residual = fit.weights, fit.residual
    lit = weights > 0
    rank = np.argsort(np.argsort(time[detector.exposures], kind="stable"))
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
    return DetectorResiduals(*(_on_grid(stored, part) for part in (fit.log_response, error, change, change_error, chi_square)))


def _on_grid(stored: SuperPixelSignals, values: FloatArray) -> FloatArray:
    grid = np.full(stored.shape, np.nan)
    grid[stored.row, stored.column] = values
    return grid
