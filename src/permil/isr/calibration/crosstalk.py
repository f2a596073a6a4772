"""Crosstalk between the segments of a detector.

All segments are read at the same time, so that pixels of the same raw (row, column) couple: the sources are taken in readout
orientation. With linear adu ``s`` at the amplifiers' outputs the converters measure ``m = (1 + C) s``; ``s = (1 + C)^-1 m``.
"""

from __future__ import annotations

import numpy as np
from astropy.table import Table

from permil.arrays import FloatArray
from permil.camera import Camera, Detector
from permil.errors import CalibrationError
from permil.isr.calibration.tables import DetectorTable
from permil.products.tables import PathName, labels

# Correction terms below this are far below the noise of any stack: they are set to 0, and their segments are not read.
NEGLIGIBLE = 1e-9
# Columns that name the detector of a segment in tables of other programs.
_DETECTORS = ("source_detector", "victim_detector")


def crosstalk_from_table(table: Table, detector: Detector, *, path: PathName = None, camera: Camera | None = None) -> FloatArray:
    """Return the matrix of a detector from a table with columns ``detector, victim, source, coefficient``.

    Coefficients are fractions; a column in per cent (or another dimensionless unit) is converted.

    Returns
    -------
    ndarray, shape (n_amplifiers, n_amplifiers)
        Element [victim, source], the fraction of the source's adu in the victim; 0 for pairs that are not listed.

    Raises
    ------
    CalibrationError
        If columns or the detector are missing, a segment is unknown or of another detector, a pair is duplicated, or a coefficient is
        not below 0.1.
    """
    own = DetectorTable(table, detector, what="crosstalk", path=path, camera=camera, needed=("victim", "source", "coefficient"))
    if not len(own):
        raise CalibrationError(
            f"the crosstalk table has no row for detector {detector.name}",
            path=path,
            remedy="add its pairs, or set isr.crosstalk to none",
            detector=detector.name,
        )
    for column in filter(own.has, _DETECTORS):
        named = labels(own.table, column, path=own.path)
        for place, row in enumerate(own.rows):
            if not detector.is_called(named[row]):
                raise own.error(
                    f"names {own.entry(column, place)} in column {column}: crosstalk between detectors is not corrected",
                    place,
                    remedy="take these rows out",
                    value=named[row],
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
    """Return ``K = 1 - (1 + C)^-1``, to subtract ``K m`` from the measured ``m``; negligible terms are 0."""
    identity = np.eye(crosstalk.shape[0])
    correction = identity - np.linalg.inv(identity + crosstalk)
    return np.where(np.abs(correction) < NEGLIGIBLE, 0.0, correction)


def source_segments(correction: FloatArray, victim: int) -> list[int]:
    """Return the indices of the other segments that the correction of one segment needs."""
    return [int(source) for source in np.flatnonzero(correction[victim]) if source != victim]
