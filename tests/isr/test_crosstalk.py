"""Crosstalk: a ghost put in by hand is taken out, in readout orientation."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.table import Table

from permil.camera.frames import take_segment
from permil.errors import CalibrationError
from permil.isr.crosstalk import correction_matrix, crosstalk_from_table, source_segments, subtract_crosstalk

COLUMNS = ("detector", "victim", "source", "coefficient")


def test_a_ghost_lies_at_the_same_raw_pixel_of_the_victim(itl):
    matrix = np.zeros((16, 16))
    names = [amplifier.name for amplifier in itl.amplifiers]
    matrix[names.index("C03"), names.index("C14")] = 2e-3
    image = np.zeros(itl.shape, dtype=np.float32)
    take_segment(itl.amplifier("C14"), image)[40, 7] = 50000
    take_segment(itl.amplifier("C03"), image)[40, 7] = 100
    subtract_crosstalk(image, itl, correction_matrix(matrix))
    assert take_segment(itl.amplifier("C03"), image)[40, 7] == pytest.approx(0, abs=1e-3)
    assert take_segment(itl.amplifier("C14"), image)[40, 7] == 50000
    assert np.count_nonzero(np.abs(image) > 1e-3) == 1


def test_mixed_segments_are_unmixed_exactly(detector):
    rng = np.random.default_rng(1)
    matrix = rng.normal(0, 1e-3, (16, 16))
    np.fill_diagonal(matrix, 0)
    image = rng.uniform(2e4, 8e4, detector.shape)
    clean = np.stack([take_segment(amplifier, image) for amplifier in detector.amplifiers])
    mixed_segments = clean + np.einsum("vs,sij->vij", matrix, clean)
    mixed = np.empty(detector.shape, dtype=np.float32)
    for amplifier, segment in zip(detector.amplifiers, mixed_segments, strict=True):
        take_segment(amplifier, mixed)[:] = segment
    subtract_crosstalk(mixed, detector, correction_matrix(matrix))
    np.testing.assert_allclose(mixed, image, rtol=3e-7)


def test_only_segments_that_matter_are_sources():
    matrix = np.zeros((16, 16))
    matrix[3, 2] = matrix[3, 4] = 3e-4
    assert source_segments(correction_matrix(matrix), 3) == [2, 4]
    assert source_segments(correction_matrix(matrix), 5) == []


def test_a_table_fills_the_matrix(detector):
    table = Table(rows=[("R22_S11", "C10", "C11", 3e-4), ("R00_S00", "C10", "C12", 9e-4)], names=COLUMNS)
    matrix = crosstalk_from_table(table, detector)
    assert matrix[0, 1] == 3e-4
    assert np.count_nonzero(matrix) == 1


@pytest.mark.parametrize(
    "rows",
    [
        [("R22_S11", "C10", "C10", 1e-4)],
        [("R22_S11", "C10", "C11", 0.5)],
        [("R22_S11", "C10", "C11", 1e-4), ("R22_S11", "C10", "C11", 1e-4)],
        [("R22_S11", "C10", "C11", np.nan)],
        [("R22_S11", "C10", "C19", 1e-4)],
        [("R01_S11", "C10", "C11", 1e-4)],
    ],
)
def test_impossible_tables_are_errors(detector, rows):
    with pytest.raises(CalibrationError):
        crosstalk_from_table(Table(rows=rows, names=COLUMNS), detector, path="crosstalk.ecsv")


def test_a_table_without_a_column_is_an_error(detector):
    table = Table(rows=[("R22_S11", "C10", "C11")], names=COLUMNS[:3])
    with pytest.raises(CalibrationError, match="coefficient"):
        crosstalk_from_table(table, detector)
