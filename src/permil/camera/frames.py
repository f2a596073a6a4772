"""Transformations between coordinate frames; all flips and axis swaps of the package are here.

Frames (0-based pixels with centres at integers, millimetres elsewhere):

``segment``
    Trimmed raw segment (column, row): the active pixels in the order of readout, next to the output node first.
``detector``
    DM pixel frame (x, y) of the assembled detector.
``DVCS``
    Focal plane of the obs_lsst package (x, y), mm.
``CCS``
    Camera coordinate system (X, Y), mm: ``X_ccs = y_dvcs``, ``Y_ccs = x_dvcs``. Projector positions are CCS.
``u``
    Pixel minus projector, CCS mm: the coordinates of the beam.
``DETSEC``
    1-based frame of raw headers; mirror image in y of the detector frame.
``eotest mosaic``
    Array (row, column) of the display mosaic of eotest and ccob-wb; mirror image in x of the detector frame.

Source: obs_lsst commit 0e84d755 (cameraTransforms.py, policy/cameraHeader.yaml); ccob-wb commit 47248c9.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from permil.errors import CameraError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from permil.arrays import FloatArray, IntArray
    from permil.camera.model import Amplifier, Detector


def _as_floats(*coordinates: ArrayLike) -> tuple[FloatArray, ...]:
    return tuple(np.asarray(coordinate, dtype=np.float64) for coordinate in coordinates)


def _rotation(detector: Detector) -> tuple[float, float]:
    """Return cosine and sine of the yaw, exact for quarter turns."""
    quarter_turns = detector.yaw_deg / 90.0
    if quarter_turns == round(quarter_turns):
        return [(1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0)][round(quarter_turns) % 4]
    angle = np.deg2rad(detector.yaw_deg)
    return float(np.cos(angle)), float(np.sin(angle))


def segment_to_detector(amplifier: Amplifier, column: ArrayLike, row: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Convert (column, row) of the trimmed raw segment into detector pixels (x, y)."""
    column, row = _as_floats(column, row)
    x = amplifier.x_min + (amplifier.nx - 1 - column if amplifier.flip_x else column)
    y = amplifier.y_min + (amplifier.ny - 1 - row if amplifier.flip_y else row)
    return x, y


def detector_to_segment(amplifier: Amplifier, x: ArrayLike, y: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Convert detector pixels (x, y) into (column, row) of the trimmed raw segment of an amplifier."""
    x, y = _as_floats(x, y)
    column, row = x - amplifier.x_min, y - amplifier.y_min
    return (
        amplifier.nx - 1 - column if amplifier.flip_x else column,
        amplifier.ny - 1 - row if amplifier.flip_y else row,
    )


def amplifier_at(detector: Detector, x: ArrayLike, y: ArrayLike) -> IntArray:
    """Return the index of the amplifier that holds each detector point, -1 outside the array."""
    x, y = np.broadcast_arrays(*_as_floats(x, y))
    index = np.full(x.shape, -1, dtype=np.int64)
    for number, amplifier in enumerate(detector.amplifiers):
        inside_x = (x >= amplifier.x_min - 0.5) & (x < amplifier.x_min + amplifier.nx - 0.5)
        inside_y = (y >= amplifier.y_min - 0.5) & (y < amplifier.y_min + amplifier.ny - 0.5)
        index[inside_x & inside_y] = number
    return index


def place_segment(amplifier: Amplifier, trimmed: NDArray[Any]) -> NDArray[Any]:
    """Return a view of a trimmed raw segment in the orientation of the detector frame."""
    return trimmed[:: -1 if amplifier.flip_y else 1, :: -1 if amplifier.flip_x else 1]


def take_segment(amplifier: Amplifier, detector_array: NDArray[Any]) -> NDArray[Any]:
    """Return a view of the pixels of an amplifier, in the orientation of the trimmed raw segment (inverse of `place_segment`)."""
    return place_segment(amplifier, detector_array[amplifier.slices])


def box_in_detector(amplifier: Amplifier, *, row: int, column: int, box: int) -> tuple[slice, slice]:
    """Return the detector slices of a square bunch of pixels given in the trimmed raw segment.

    Parameters
    ----------
    row, column
        Centre of the bunch, 0-based; the bunch covers ``row - box // 2`` to ``row - box // 2 + box - 1``.
    box
        Side in pixels.

    Raises
    ------
    CameraError
        If the bunch extends beyond the segment.
    """
    first_row, first_column = row - box // 2, column - box // 2
    if min(first_row, first_column) < 0 or first_row + box > amplifier.ny or first_column + box > amplifier.nx:
        raise CameraError(
            f"a box of {box} pixels at row {row}, column {column} extends beyond amplifier {amplifier.name}",
            remedy=f"its active pixels are {amplifier.ny} rows by {amplifier.nx} columns",
            value=(row, column, box),
        )
    x, y = segment_to_detector(
        amplifier,
        np.array([first_column, first_column + box - 1]),
        np.array([first_row, first_row + box - 1]),
    )
    return slice(int(y.min()), int(y.max()) + 1), slice(int(x.min()), int(x.max()) + 1)


def detector_to_dvcs(detector: Detector, x: ArrayLike, y: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Convert detector pixels into DVCS millimetres."""
    x, y = _as_floats(x, y)
    cosine, sine = _rotation(detector)
    from_x = (x - detector.reference_pixel[0]) * detector.pixel_mm
    from_y = (y - detector.reference_pixel[1]) * detector.pixel_mm
    return (
        detector.centre_dvcs[0] + cosine * from_x - sine * from_y,
        detector.centre_dvcs[1] + sine * from_x + cosine * from_y,
    )


def dvcs_to_detector(detector: Detector, x_mm: ArrayLike, y_mm: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Convert DVCS millimetres into detector pixels (also outside the array)."""
    x_mm, y_mm = _as_floats(x_mm, y_mm)
    cosine, sine = _rotation(detector)
    from_x = (x_mm - detector.centre_dvcs[0]) / detector.pixel_mm
    from_y = (y_mm - detector.centre_dvcs[1]) / detector.pixel_mm
    return (
        detector.reference_pixel[0] + cosine * from_x + sine * from_y,
        detector.reference_pixel[1] - sine * from_x + cosine * from_y,
    )


def dvcs_to_ccs(x_mm: ArrayLike, y_mm: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Convert DVCS (x, y) into CCS (X, Y): a pure transpose."""
    x_mm, y_mm = _as_floats(x_mm, y_mm)
    return y_mm, x_mm


def ccs_to_dvcs(x_ccs: ArrayLike, y_ccs: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Convert CCS (X, Y) into DVCS (x, y): a pure transpose."""
    x_ccs, y_ccs = _as_floats(x_ccs, y_ccs)
    return y_ccs, x_ccs


def detector_to_ccs(detector: Detector, x: ArrayLike, y: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Convert detector pixels into CCS millimetres."""
    return dvcs_to_ccs(*detector_to_dvcs(detector, x, y))


def ccs_to_detector(detector: Detector, x_ccs: ArrayLike, y_ccs: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Convert CCS millimetres into detector pixels (also outside the array)."""
    return dvcs_to_detector(detector, *ccs_to_dvcs(x_ccs, y_ccs))


def ccs_affine(detector: Detector) -> tuple[FloatArray, FloatArray]:
    """Return the affine map of detector pixels to CCS.

    Returns
    -------
    origin : ndarray, shape (2,)
        CCS (X, Y) of pixel (0, 0), mm.
    matrix : ndarray, shape (2, 2)
        ``(X, Y) = origin + matrix @ (x, y)``, mm per pixel.
    """
    x_ccs, y_ccs = detector_to_ccs(detector, np.array([0.0, 1.0, 0.0]), np.array([0.0, 0.0, 1.0]))
    origin = np.array([x_ccs[0], y_ccs[0]])
    return origin, np.array([x_ccs[1:] - x_ccs[0], y_ccs[1:] - y_ccs[0]])


def projector_relative(
    x_ccs: ArrayLike, y_ccs: ArrayLike, projector_x: ArrayLike, projector_y: ArrayLike
) -> tuple[FloatArray, FloatArray]:
    """Return ``u``, the position minus the projector position, both in CCS mm. The beam is a function of ``u`` alone."""
    x_ccs, y_ccs, projector_x, projector_y = _as_floats(x_ccs, y_ccs, projector_x, projector_y)
    return x_ccs - projector_x, y_ccs - projector_y


def detector_to_detsec(detector: Detector, x: ArrayLike, y: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Convert detector pixels into the 1-based DETSEC frame of raw headers (mirrored in y)."""
    x, y = _as_floats(x, y)
    return x + 1, detector.ny - y


def detsec_to_detector(detector: Detector, x: ArrayLike, y: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Convert the 1-based DETSEC frame of raw headers into detector pixels."""
    x, y = _as_floats(x, y)
    return x - 1, detector.ny - y


def detsec_view(detector_array: NDArray[Any]) -> NDArray[Any]:
    """Return a view of a detector array in DETSEC order (row 0 is DETSEC y = 1)."""
    return detector_array[::-1, :]


def detector_to_eotest_mosaic(detector: Detector, x: ArrayLike, y: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Convert detector pixels into (row, column) of the display mosaic of eotest."""
    x, y = _as_floats(x, y)
    return y, detector.nx - 1 - x


def eotest_mosaic_to_detector(detector: Detector, row: ArrayLike, column: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Convert (row, column) of the display mosaic of eotest into detector pixels (x, y)."""
    row, column = _as_floats(row, column)
    return detector.nx - 1 - column, row


def eotest_mosaic_view(detector_array: NDArray[Any]) -> NDArray[Any]:
    """Return a view of a detector array as the display mosaic of eotest (mirrored in x)."""
    return detector_array[:, ::-1]
