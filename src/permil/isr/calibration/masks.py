"""Mask planes that do not depend on the exposure: edges, mid-line, defects, hot pixels; and growth of saturated areas."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from permil.arrays import Float32Array, median
from permil.camera import Amplifier, Camera, Detector
from permil.engine import threaded_map
from permil.errors import CalibrationError
from permil.isr.calibration.tables import DetectorTable
from permil.products.masks import MaskPlane
from permil.products.tables import PathName

Mask = NDArray[np.int16]

_OTHER_NAMES = {"width": ("w", "dx", "nx", "x_size", "xsize"), "height": ("h", "dy", "ny", "y_size", "ysize")}

# Columns by which other programs give the size of a defect.
_EXTENT = re.compile(
    r"[xy]_?(?:0|1|2|min|max|first|last|begin|end|start|stop|low|high|lo|hi)"
    r"|(?:col(?:umn)?|row)_?(?:1|2|min|max|first|last|begin|end|start|stop|low|high)"
    r"|radius|diameter|length|side|size|box|n_?(?:pix|pixels?|x|y|cols?|columns?|rows?)"
)


def zone_pixels(width_mm: float, pixel_mm: float) -> int:
    """Return the width of a zone in pixels, rounded up, at least 1; 0 for width 0."""
    return 0 if width_mm <= 0 else max(1, int(np.ceil(width_mm / pixel_mm - 1e-6)))


def zone_mask(detector: Detector, *, edge_mm: float, midline_mm: float) -> Mask:
    """Return the planes EDGE (along the outline) and MIDLINE (on both sides of the line between the halves).

    Parameters
    ----------
    edge_mm
        Width of the zone along the outline.
    midline_mm
        Half width of the zone along the mid-line; a detector of one half (wavefront) has none.
    """
    mask = np.zeros(detector.shape, dtype=np.int16)
    edge = zone_pixels(edge_mm, detector.pixel_mm)
    interior = np.zeros(detector.shape, dtype=bool)
    interior[edge : detector.ny - edge, edge : detector.nx - edge] = True
    mask[~interior] |= MaskPlane.EDGE
    half_width = zone_pixels(midline_mm, detector.pixel_mm)
    for line in sorted({amplifier.y_min for amplifier in detector.amplifiers} - {0}):
        mask[max(line - half_width, 0) : line + half_width] |= MaskPlane.MIDLINE
    return mask


Box = tuple[int, int, int, int]
"""First column, first row, width and height, pixels of the detector, DM frame, 0-based."""


def defect_boxes(table: Table, detector: Detector, *, path: PathName = None, camera: Camera | None = None) -> list[Box]:
    """Return the boxes of a detector in a table ``detector, x, y`` (DM frame, 0-based) and optionally ``width, height``.

    All are whole numbers of pixels. A detector without a row has no defects.

    Raises
    ------
    CalibrationError
        If a column is missing or misspelt, a size is given in another way, an entry is no whole number of pixels, or a box leaves the
        detector.
    """
    own = DetectorTable(
        table,
        detector,
        what="defect",
        path=path,
        camera=camera,
        needed=("x", "y"),
        optional=("width", "height"),
        hints=_OTHER_NAMES,
    )
    extent = [name for name in table.colnames if _EXTENT.fullmatch(name.strip().lower())]
    if extent and not (own.has("width") and own.has("height")):
        raise CalibrationError(
            f"the defect table has a column {extent[0]!r}, which would be ignored: sizes are given by width and height",
            path=path,
            remedy="give width and height in pixels, with x and y of the lower left pixel, or remove the column",
            value=extent,
        )
    boxes = []
    columns = [own.numbers(name, unit="pixel") if own.has(name) else np.ones(len(own)) for name in ("x", "y", "width", "height")]
    for place, box in enumerate(zip(*columns, strict=True)):
        x, y, width, height = (int(number) for number in box)
        if box != (x, y, width, height):
            raise own.error(
                f"holds the box {', '.join(f'{number:g}' for number in box)}, which is not in whole pixels",
                place,
                remedy="give columns and rows as whole numbers, counted from 0",
                value=box,
            )
        if min(x, y) < 0 or min(width, height) < 1 or x + width > detector.nx or y + height > detector.ny:
            raise own.error(
                f"holds the defect x {x}, y {y}, width {width}, height {height}, which leaves detector {detector.name}",
                place,
                remedy=f"the detector has {detector.nx} columns and {detector.ny} rows, counted from 0",
                value=(x, y, width, height),
            )
        boxes.append((x, y, width, height))
    return boxes


def mask_of_boxes(boxes: Iterable[Box], detector: Detector) -> Mask:
    """Return the plane BAD in some boxes."""
    mask = np.zeros(detector.shape, dtype=np.int16)
    for x, y, width, height in boxes:
        mask[y : y + height, x : x + width] |= MaskPlane.BAD
    return mask


def hot_pixel_mask(superbias: Float32Array, detector: Detector, *, threshold: float) -> Mask:
    """Return the plane BAD where the superbias differs from its column by `threshold` sigma.

    Sigma is 1.4826 times the median absolute deviation from the column medians, per amplifier (at least 0.1 adu).
    """
    mask = np.zeros(detector.shape, dtype=np.int16)

    def flag(amplifier: Amplifier) -> None:
        segment = superbias[amplifier.slices]
        residual = np.abs(segment - median(segment, axis=0))
        sigma = max(1.4826 * float(median(residual)), 0.1)
        mask[amplifier.slices][residual > threshold * sigma] |= MaskPlane.BAD

    for _ in threaded_map(flag, detector.amplifiers):
        pass
    return mask


def grow_saturated(mask: Mask, pixels: int) -> None:
    """Flag the neighbours (square of ``2 pixels + 1``) of saturated pixels as saturated, in place."""
    saturated = mask & MaskPlane.SAT
    if not saturated.any():
        return
    rows, columns = np.nonzero(saturated)
    n_rows, n_columns = mask.shape
    for row_step in range(-pixels, pixels + 1):
        for column_step in range(-pixels, pixels + 1):
            row, column = rows + row_step, columns + column_step
            inside = (row >= 0) & (row < n_rows) & (column >= 0) & (column < n_columns)
            mask[row[inside], column[inside]] |= MaskPlane.SAT
