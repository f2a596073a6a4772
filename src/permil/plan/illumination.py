"""Planned signals of the detectors: the beam, cells of detectors, and photon noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from permil.camera import Detector, frames
from permil.flat.joint import DetectorSignals, footprint
from permil.plan.positions import PlannedPosition

FloatArray = NDArray[np.float64]
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
