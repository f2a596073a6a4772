"""Planned signals of the detectors, predicted errors of the flat of a plan, and a table of the undetermined modes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from permil.arrays import FloatArray
from permil.camera import Detector, frames
from permil.errors import FlatError
from permil.flat.joint import DesignReport, DetectorSignals, ExposureList, check_design, footprint
from permil.flat.joint.design import UndeterminedMode
from permil.flat.joint.photodiode import Drift
from permil.plan.photodiode import DriftEstimate, PlannedPhotodiode, scale_variances
from permil.plan.positions import PlannedPosition

BeamShape = Callable[[FloatArray, FloatArray], FloatArray]
"""Beam relative to its maximum, as a function of position minus projector (mm); NaN where it is unknown."""

_EXPONENT = 2.5
_CELLS_PER_KNOT = 1.5
_FINEST_KNOTS_MM = 2.0
_KNOTS_IN_ALL = 3000
_CELLS_IN_ALL = 8000

FEWEST_CELLS = 4
"""Smallest number of cells along each side of a detector."""


def plateau(fwhm_mm: float) -> BeamShape:
    """Return a round beam of a given width: ``exp(-ln 2 (2 r / fwhm)^2.5)``.

    The exponent was fitted to scans of the projector: 0.84 at 40 mm and 0.66 in the corners of a window of 80 mm (fwhm 140 mm).
    """

    def shape(ux: FloatArray, uy: FloatArray) -> FloatArray:
        return np.exp(-np.log(2.0) * (2.0 * np.hypot(ux, uy) / fwhm_mm) ** _EXPONENT)

    return shape


@dataclass(frozen=True)
class PlannedSignals:
    """Planned signals of one detector.

    Parameters
    ----------
    detector : Detector
    footprint : DetectorSignals
        Cells, exposures that illuminate them, and the relative variance of the mean of each cell.
    electrons : ndarray, shape (cells,)
        Electrons per pixel, summed over all images.
    pixel_error : ndarray, shape (cells,)
        Error of the response of one pixel from photon and read noise; infinite without light.
    images : int
        Number of images that illuminate the detector.
    """

    detector: Detector
    footprint: DetectorSignals
    electrons: FloatArray
    pixel_error: FloatArray
    images: int

    def independent_error(self, side_mm: float) -> float:
        """Return the median error, from photon and read noise, of the mean over a square of this side (at least a pixel)."""
        return float(np.median(self.pixel_error)) * min(self.detector.pixel_mm / side_mm, 1.0)


def cells_for(detectors: Sequence[Detector], knots_mm: float) -> int:
    """Return the number of cells along each side of a detector.

    Cells are finer than the knots of the beam, since otherwise waves between the knots would seem undetermined. With many detectors they
    are coarser, so that the check takes minutes at most; this overestimates the number of undetermined modes.
    """
    side_mm = max(max(detector.nx, detector.ny) * detector.pixel_mm for detector in detectors)
    wanted = np.ceil(_CELLS_PER_KNOT * side_mm / knots_mm)
    return int(max(min(wanted, np.sqrt(_CELLS_IN_ALL / len(detectors))), FEWEST_CELLS))


def knots_for(signals: Sequence[PlannedSignals], positions: Sequence[PlannedPosition]) -> float:
    """Return the knot spacing of the beam (mm): the finest that can be solved in a minute, at least 2 mm."""
    lower, upper = np.full(2, np.inf), np.full(2, -np.inf)
    centres = np.array([(position.x_mm, position.y_mm) for position in positions])
    for each in signals:
        seen = each.footprint
        exposure, cell = np.nonzero(np.isfinite(seen.log_signal))
        u = np.column_stack([seen.x_mm, seen.y_mm])[cell] - centres[seen.exposures[exposure]]
        lower, upper = np.minimum(lower, u.min(axis=0)), np.maximum(upper, u.max(axis=0))
    return float(max(np.ceil(10 * np.sqrt(np.prod(upper - lower) / _KNOTS_IN_ALL)) / 10, _FINEST_KNOTS_MM))


def planned_signals(
    detector: Detector,
    positions: Sequence[PlannedPosition],
    beam: BeamShape,
    *,
    cells: int,
    electrons: float,
    lit_above: float,
) -> PlannedSignals | None:
    """Return the planned signals of a detector, or None if no position illuminates it.

    Parameters
    ----------
    positions
        All positions of the plan; images at one position count as one exposure.
    beam
        Shape of the beam.
    cells
        Number of cells along each side of the detector.
    electrons
        Electrons per pixel of one image at the maximum of the beam.
    lit_above
        Fraction of the maximum of the beam above which a cell counts as illuminated.
    """
    x_mm, y_mm = cell_places(detector, cells)
    read = np.array([number for number, position in enumerate(positions) if detector.name in position.read], dtype=np.int64)
    if not read.size:
        return None
    centres = np.array([(positions[number].x_mm, positions[number].y_mm) for number in read])
    images = np.array([positions[number].images for number in read])
    relative = np.nan_to_num(beam(x_mm - centres[:, :1], y_mm - centres[:, 1:]))
    lit = relative >= lit_above
    used = lit.any(axis=1)
    if not used.any():
        return None
    read, images, relative, lit = read[used], images[used], relative[used], lit[used]
    signal = np.where(lit, electrons * relative, np.nan)
    read_noise = float(np.sqrt(np.mean([amplifier.read_noise**2 for amplifier in detector.amplifiers])))
    pixel_variance = (signal + read_noise**2) / signal**2 / images[:, None]
    pixels = detector.nx * detector.ny / cells**2
    signals = footprint(detector.name, x_mm, y_mm, read, np.sqrt(np.where(lit, pixel_variance, 1.0) / pixels))
    with np.errstate(divide="ignore"):
        pixel_error = np.nansum(1.0 / pixel_variance, axis=0) ** -0.5
    return PlannedSignals(
        detector=detector,
        footprint=replace(signals, log_signal=np.where(lit, 0.0, np.nan)),
        electrons=np.nansum(signal * images[:, None], axis=0),
        pixel_error=pixel_error,
        images=int(images.sum()),
    )


def cell_places(detector: Detector, cells: int) -> tuple[FloatArray, FloatArray]:
    """Return the CCS positions (mm) of the centres of equal cells, shape (cells^2,); x of the detector varies fastest."""
    along_x, along_y = ((np.arange(cells) + 0.5) / cells * side - 0.5 for side in (detector.nx, detector.ny))
    x, y = np.meshgrid(along_x, along_y)
    return frames.detector_to_ccs(detector, x.ravel(), y.ravel())


@dataclass(frozen=True)
class PlanPrediction:
    """Predicted errors of a plan.

    Parameters
    ----------
    positions : list of PlannedPosition
    signals : list of PlannedSignals
        Signals of the illuminated detectors.
    design : DesignReport
        Undetermined modes and large-scale errors.
    """

    positions: list[PlannedPosition]
    signals: list[PlannedSignals]
    design: DesignReport

    @property
    def images(self) -> int:
        """Total number of images."""
        return sum(position.images for position in self.positions)

    @property
    def pixel_error(self) -> float:
        """Median over all pixels of the error from photon and read noise."""
        return float(np.median(np.concatenate([signals.pixel_error for signals in self.signals])))

    def mode_error_maps(self) -> list[FloatArray]:
        """Return the error from undetermined modes under the prior, for the cells of each detector; NaN without light."""
        variance = np.square(self.design.basis) @ np.square(self.design.mode_errors) * len(self.design.basis)
        maps, start = [], 0
        for signals in self.signals:
            lit = np.isfinite(signals.pixel_error)
            error = np.full(lit.size, np.nan)
            error[lit] = np.sqrt(variance[start : start + int(lit.sum())])
            start += int(lit.sum())
            maps.append(error)
        return maps

    def super_pixel_error(self, side_mm: float) -> float:
        """Return the error of super-pixels of this side: photon noise and correlated errors."""
        independent = np.median([signals.independent_error(side_mm) for signals in self.signals])
        return float(np.hypot(independent, self.design.large_scale_error))


def predict(
    positions: Sequence[PlannedPosition],
    signals: Sequence[PlannedSignals],
    *,
    photodiode_noise: float | None,
    photodiode_drift: float,
    knots_mm: float,
    limit: float,
    drift_length: float = 1.0,
    estimate: DriftEstimate | None = None,
) -> PlanPrediction:
    """Predict the errors of a flat from planned positions.

    Parameters
    ----------
    positions
        Positions in time order.
    signals
        Signals of the detectors at these positions.
    photodiode_noise
        Relative noise of one reading; None without a photodiode.
    photodiode_drift
        Relative rms change of its response from start to end; smooth.
    knots_mm
        Knot spacing of the beam.
    limit
        See `permil.flat.joint.check_design`.
    drift_length
        Correlation length of the drift as a fraction of the time of these positions.
    estimate
        How the joint solution's estimate of the drift is simulated; None: the drift is taken as known.

    Raises
    ------
    FlatError
        If the positions determine so little that the errors cannot be computed.
    """
    images = np.array([position.images for position in positions])
    first = np.cumsum(images) - images
    reading = np.full(len(positions), np.nan if photodiode_noise is None else 0.0)
    exposures = ExposureList(
        np.array([position.x_mm for position in positions]),
        np.array([position.y_mm for position in positions]),
        reading,
        first + (images - 1) / 2,
    )
    is_estimated = photodiode_noise is not None and photodiode_drift > 0
    drifts = (Drift(photodiode_drift, drift_length, 1.0),) if photodiode_drift > 0 else ()
    footprints = [each.footprint for each in signals]
    variances = scale_variances(footprints, images)
    photodiode = PlannedPhotodiode(
        photodiode_noise or 1.0, 0.0, drifts, images=tuple(images.tolist()), scale_variance=tuple(variances.tolist())
    )
    try:
        design = check_design(
            exposures,
            footprints,
            spacing_mm=knots_mm,
            photodiode=photodiode,
            limit=limit,
            scale_deviations=partial(estimate.deviations, photodiode, exposures.time) if estimate and is_estimated else None,
        )
    except np.linalg.LinAlgError as error:
        raise FlatError(
            f"{len(positions)} positions hardly constrain a beam with knots every {knots_mm:g} mm",
            remedy="add pointings that illuminate the same detectors, or choose coarser knots",
        ) from error
    return PlanPrediction(list(positions), list(signals), design)


def mode_table(prediction: PlanPrediction) -> Table:
    """Return one row for each undetermined mode.

    Returns
    -------
    Table
        ``name``; ``wave_x``, ``wave_y`` (radians per mm) and ``period_mm`` of a lattice wave; ``detectors`` of a set; ``part``, the
        undetermined fraction of the square of the named pattern; ``error``, its relative error (rms over the flat) with photodiode and
        smoothness prior, NaN for a mode without a name.
    """
    modes = prediction.design.modes
    table = Table(
        {
            "name": np.array([mode.name for mode in modes], dtype=str),
            "wave_x": np.array([mode.wave_vector[0] for mode in modes], dtype=float),
            "wave_y": np.array([mode.wave_vector[1] for mode in modes], dtype=float),
            "period_mm": np.array([mode.period_mm for mode in modes], dtype=float),
            "detectors": np.array([" ".join(mode.detectors) for mode in modes], dtype=str),
            "part": np.array([mode.part for mode in modes], dtype=float),
            "error": errors_of_modes(prediction),
        }
    )
    for name in ("wave_x", "wave_y"):
        table[name].unit = "rad / mm"
    table["period_mm"].unit = "mm"
    return table


def errors_of_modes(prediction: PlanPrediction) -> FloatArray:
    """Return the relative error of each undetermined mode under the prior, rms over the flat; NaN for modes without a name."""
    design = prediction.design
    lit = [np.isfinite(signals.pixel_error) for signals in prediction.signals]
    places = [
        np.column_stack([signals.footprint.x_mm, signals.footprint.y_mm])[used]
        for signals, used in zip(prediction.signals, lit, strict=True)
    ]
    names = np.repeat([signals.detector.name for signals in prediction.signals], [len(place) for place in places])
    patterns = [_pattern(mode, np.concatenate(places), names) for mode in design.modes]
    errors = np.full(len(patterns), np.nan)
    for number, pattern in enumerate(patterns):
        if pattern is not None:
            inside = np.abs(design.basis.T @ (pattern / np.linalg.norm(pattern)))
            errors[number] = np.linalg.norm(inside * design.mode_errors)
    return errors


def _pattern(mode: UndeterminedMode, places: FloatArray, names: NDArray[np.str_]) -> NDArray[np.complex128] | None:
    """Return the pattern of a mode over the cells, minus its mean; complex for a wave (sine and cosine)."""
    inside = np.isin(names, mode.detectors) if mode.detectors else np.ones(len(names), dtype=bool)
    if mode.name == "lattice":
        pattern = np.exp(1j * (places @ mode.wave_vector))
    elif mode.name == "set of detectors":
        pattern = inside.astype(complex)
    elif mode.name.startswith("gradient"):
        along = places[:, 0 if mode.name.endswith("x") else 1]
        pattern = (inside * (along - along[inside].mean())).astype(complex)
    else:
        return None
    return pattern - pattern.mean()
