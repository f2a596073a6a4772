"""Crosstalk between the segments of a detector.

Segments are read at the same time, so what couples are pixels of the same raw (row, column): the sources are taken in readout
orientation. With linear adu ``s`` at the amplifiers' outputs the converters see ``m = (1 + C) s``; ``s = (1 + C)^-1 m``.
"""

from __future__ import annotations

import numpy as np
from astropy.table import Table
from numba import njit
from numpy.typing import NDArray

from permil.camera import Camera, Detector
from permil.errors import CalibrationError
from permil.isr.rows import Placement, copy_flipped, copy_row, subtract_crosstalk_row
from permil.isr.tables import DetectorTable
from permil.products.tables import PathName

FloatArray = NDArray[np.float64]

# Correction terms below this are far below the noise of any stack: they are not computed, nor are their segments read.
NEGLIGIBLE = 1e-9


def crosstalk_from_table(table: Table, detector: Detector, *, path: PathName = None, camera: Camera | None = None) -> FloatArray:
    """Take the matrix of a detector from a table with columns ``detector, victim, source, coefficient``.

    Coefficients are fractions; a column in per cent (or another dimensionless unit) is converted.

    Returns
    -------
    ndarray, shape (n_amplifiers, n_amplifiers)
        Element [victim, source], the fraction of the source's adu that the victim sees; pairs that are not listed are 0.

    Raises
    ------
    CalibrationError
        If columns or the detector are missing, a segment is unknown, a pair is given twice, or a coefficient cannot be one.
    """
    own = DetectorTable(table, detector, what="crosstalk", path=path, camera=camera, needed=("victim", "source", "coefficient"))
    if not len(own):
        raise CalibrationError(
            f"the crosstalk table has no row for detector {detector.name}",
            path=path,
            remedy="add its pairs, or set isr.crosstalk to none",
            detector=detector.name,
        )
    index = {amplifier.name: place for place, amplifier in enumerate(detector.amplifiers)}
    matrix = np.zeros((len(index), len(index)))
    seen = set()
    coefficients = own.numbers("coefficient", unit="")
    pairs = zip(own.amplifiers("victim"), own.amplifiers("source"), strict=True)
    for place, (victim, source) in enumerate((index[victim.name], index[source.name]) for victim, source in pairs):
        coefficient = float(coefficients[place])
        if victim == source or (victim, source) in seen or abs(coefficient) >= 0.1:
            raise own.error(
                f"gives {own.entry('source', place)} to {own.entry('victim', place)} of {detector.name} the coefficient "
                f"{coefficient}, which is given twice, couples a segment to itself or is not small",
                place,
                remedy="give each pair of different segments once, with a fraction below 0.1",
                value=coefficient,
            )
        seen.add((victim, source))
        matrix[victim, source] = coefficient
    return matrix


def correction_matrix(crosstalk: FloatArray) -> FloatArray:
    """Return ``K = 1 - (1 + C)^-1``: the correction subtracts ``K m`` from the measured ``m``; negligible terms are 0."""
    identity = np.eye(crosstalk.shape[0])
    correction = identity - np.linalg.inv(identity + crosstalk)
    return np.where(np.abs(correction) < NEGLIGIBLE, 0.0, correction)


def source_segments(correction: FloatArray, victim: int) -> list[int]:
    """Return the indices of the segments that the correction of one segment needs (itself, when it matters, left out)."""
    return [int(source) for source in np.flatnonzero(correction[victim]) if source != victim]


def subtract_crosstalk(image: NDArray[np.float32], detector: Detector, correction: FloatArray) -> None:
    """Correct an assembled image (adu, DM frame) in place.

    Parameters
    ----------
    image
        Overscan and bias taken off, shape (ny, nx).
    correction
        From `correction_matrix`.
    """
    places = [Placement.of(amplifier) for amplifier in detector.amplifiers]
    x_min, _, flip_x, y_first, y_step = (np.array(column) for column in zip(*places, strict=True))
    rows = (detector.amplifiers[0].ny, detector.amplifiers[0].nx)
    _correct_image(image, rows, x_min, flip_x, y_first, y_step, correction.astype(np.float32))


@njit(cache=True, nogil=True)
def _correct_image(
    image: NDArray[np.float32],
    size: tuple[int, int],
    x_min: NDArray[np.int64],
    flip_x: NDArray[np.bool_],
    y_first: NDArray[np.int64],
    y_step: NDArray[np.int64],
    factors: NDArray[np.float32],
) -> None:
    n_rows, n_columns = size
    measured = np.empty((x_min.size, n_columns), dtype=np.float32)
    corrected, total = np.empty_like(measured), np.empty(n_columns, dtype=np.float32)
    for row in range(n_rows):
        for segment in range(x_min.size):
            place = image[y_first[segment] + y_step[segment] * row, x_min[segment] : x_min[segment] + n_columns]
            if flip_x[segment]:
                copy_flipped(place, measured[segment])
            else:
                copy_row(place, measured[segment])
        subtract_crosstalk_row(measured, factors, total, corrected)
        for segment in range(x_min.size):
            place = image[y_first[segment] + y_step[segment] * row, x_min[segment] : x_min[segment] + n_columns]
            if flip_x[segment]:
                copy_flipped(corrected[segment], place)
            else:
                copy_row(corrected[segment], place)
