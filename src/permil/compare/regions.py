"""Regions of a detector: bulk, edge, amplifier boundary, mid-line, tree rings."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from permil.arrays import BoolArray, FloatArray
from permil.camera import Detector
from permil.compare.rings.profile import RingZone
from permil.errors import CompareError


class Region(IntEnum):
    """Regions of a detector. A point in several regions has the lowest of their numbers (except `OUTSIDE`)."""

    OUTSIDE = 0
    """Not on the detector, or not finite."""
    EDGE = 1
    """Near the border of the array, where field lines bend outwards."""
    MID_LINE = 2
    """Near the line between the two halves of the sensor."""
    AMPLIFIER_BOUNDARY = 3
    """Near a border between adjacent segments: gains differ, and columns at the border differ in size."""
    TREE_RINGS = 4
    """Where tree rings are significant in the flat."""
    BULK = 5
    """Everything else."""

    @property
    def title(self) -> str:
        """Name for tables and messages."""
        return self.name.lower().replace("_", " ")


@dataclass(frozen=True)
class RegionWidths:
    """Width of each region on either side of its border.

    The defaults are a few times the thickness of the sensor (0.1 mm), the scale on which its field becomes uniform.

    Attributes
    ----------
    edge, mid_line, amplifier_boundary
        Widths; 0 for no such region.
    unit
        ``mm`` or ``pixel``.
    """

    edge: float = 0.3
    mid_line: float = 0.1
    amplifier_boundary: float = 0.1
    unit: Literal["mm", "pixel"] = "mm"

    def __post_init__(self) -> None:
        """Check the widths."""
        for name in ("edge", "mid_line", "amplifier_boundary"):
            width = getattr(self, name)
            if not (np.isfinite(width) and width >= 0):
                raise CompareError(f"the width {width} of {name} is not valid", remedy="give 0 or a positive width", value=width)
        if self.unit not in ("mm", "pixel"):
            raise CompareError(f"the unit {self.unit!r} of the widths is unknown", remedy="use mm or pixel", value=self.unit)

    def in_pixels(self, width: float, detector: Detector) -> float:
        """Return one of the widths in pixels of a detector."""
        return width if self.unit == "pixel" else width / detector.pixel_mm


def region_labels(
    detector: Detector,
    x: ArrayLike,
    y: ArrayLike,
    *,
    widths: RegionWidths | None = None,
    reach_px: float = 0.0,
    rings: RingZone | None = None,
) -> NDArray[np.int8]:
    """Return the `Region` of points of a detector.

    Parameters
    ----------
    detector
        Detector with the borders of the array and of the segments.
    x, y
        DM pixels, 0-based, pixel centres at integers; any shapes that broadcast.
    widths
        Widths of the regions; None for the defaults of `RegionWidths`.
    reach_px
        Half the size of the object at each point (radius of a star's aperture, half a cell): it belongs to every region that it
        touches.
    rings
        Zone of significant tree rings (from `permil.compare.rings.profile.ring_zone`); None for no such region.
    """
    if not (np.isfinite(reach_px) and reach_px >= 0):
        raise CompareError(f"the reach {reach_px} pixels is not valid", remedy="give 0 or a positive number", value=reach_px)
    widths = RegionWidths() if widths is None else widths
    x, y = np.broadcast_arrays(np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64))
    labels = np.full(x.shape, Region.BULK, dtype=np.int8)
    if rings is not None:
        labels[rings.contains(x, y)] = Region.TREE_RINGS
    vertical, horizontal = _segment_borders(detector)
    near = _near(x, vertical, widths.in_pixels(widths.amplifier_boundary, detector), reach_px)
    labels[near] = Region.AMPLIFIER_BOUNDARY
    labels[_near(y, horizontal, widths.in_pixels(widths.mid_line, detector), reach_px)] = Region.MID_LINE
    edge = widths.in_pixels(widths.edge, detector)
    at_edge = _near(x, [-0.5, detector.nx - 0.5], edge, reach_px) | _near(y, [-0.5, detector.ny - 0.5], edge, reach_px)
    labels[at_edge] = Region.EDGE
    # Comparisons with NaN are false, so that points without a position are outside.
    inside = (x >= -0.5) & (x < detector.nx - 0.5) & (y >= -0.5) & (y < detector.ny - 0.5)
    labels[~inside] = Region.OUTSIDE
    return labels


def region_image(
    detector: Detector,
    *,
    cell_px: int = 1,
    widths: RegionWidths | None = None,
    rings: RingZone | None = None,
) -> NDArray[np.int8]:
    """Return the `Region` of each pixel, or of each square cell of ``cell_px`` pixels, of a detector.

    A cell belongs to a region that it touches; rings are evaluated at its centre. Cells start at pixel (0, 0); the last ones may extend
    beyond the detector, which they cover completely.
    """
    if cell_px < 1:
        raise CompareError(f"cells of {cell_px} pixels are not valid", remedy="give at least 1", value=cell_px)
    x, y = (cell_px * np.arange(-(-size // cell_px)) + (cell_px - 1) / 2 for size in (detector.nx, detector.ny))
    # The centre of a last cell that extends beyond the detector is moved onto it.
    x, y = np.minimum(x, detector.nx - 1.0), np.minimum(y, detector.ny - 1.0)
    return region_labels(detector, x[None, :], y[:, None], widths=widths, reach_px=cell_px / 2, rings=rings)


def _segment_borders(detector: Detector) -> tuple[list[float], list[float]]:
    """Return x of the vertical borders between segments and y of the horizontal ones."""
    columns = {amplifier.x_min for amplifier in detector.amplifiers}
    rows = {amplifier.y_min for amplifier in detector.amplifiers}
    return [column - 0.5 for column in sorted(columns - {0})], [row - 0.5 for row in sorted(rows - {0})]


def _near(place: FloatArray, borders: list[float], width: float, reach: float) -> BoolArray:
    """Return which objects with a given reach come nearer to a border than a width."""
    near = np.zeros(place.shape, dtype=bool)
    if width > 0:
        for border in borders:
            near |= np.abs(place - border) - reach < width - 1e-9
    return near
