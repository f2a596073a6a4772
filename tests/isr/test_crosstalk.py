"""Crosstalk: a ghost put in by hand is taken out, in readout orientation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from astropy.table import Table
from segments_in_memory import reduce_segments

from permil.camera.frames import take_segment
from permil.errors import CalibrationError
from permil.isr import Calibration, Gains
from permil.isr.calibration.crosstalk import correction_matrix, crosstalk_from_table, source_segments

COLUMNS = ("detector", "victim", "source", "coefficient")


def test_a_ghost_lies_at_the_same_raw_pixel_of_the_victim(itl, make_raw):
    matrix = np.zeros((16, 16))
    names = [amplifier.name for amplifier in itl.amplifiers]
    matrix[names.index("C03"), names.index("C14")] = 2e-3
    image = np.zeros(itl.shape)
    take_segment(itl.amplifier("C14"), image)[40, 7] = 50000
    raw = make_raw(itl, image, np.random.default_rng(2))
    plain = Calibration(itl, Gains(np.ones(16), np.zeros(16), "test"), np.zeros(itl.shape, dtype=np.int16), np.full(16, np.inf))
    before = reduce_segments(raw, plain).image
    taken = before - reduce_segments(raw, replace(plain, crosstalk=matrix)).image
    assert take_segment(itl.amplifier("C03"), taken)[40, 7] == pytest.approx(100, rel=1e-3)
    take_segment(itl.amplifier("C03"), taken)[40, 7] = 0
    # Elsewhere it is the noise of the source.
    assert np.abs(taken).max() < 0.1
    assert np.flatnonzero([np.any(taken[amplifier.slices]) for amplifier in itl.amplifiers]).tolist() == [names.index("C03")]


def test_mixed_segments_are_unmixed(detector, calibration, make_raw):
    rng = np.random.default_rng(1)
    matrix = rng.normal(0, 1e-3, (16, 16))
    np.fill_diagonal(matrix, 0)
    image = rng.uniform(2e4, 8e4, detector.shape)
    clean = np.stack([take_segment(amplifier, image) for amplifier in detector.amplifiers])
    mixed_segments = clean + np.einsum("vs,sij->vij", matrix, clean)
    mixed = np.empty(detector.shape)
    for amplifier, segment in zip(detector.amplifiers, mixed_segments, strict=True):
        take_segment(amplifier, mixed)[:] = segment
    plain = replace(calibration, gains=Gains(np.ones(16), np.zeros(16), "test"))
    raw = make_raw(detector, mixed, rng, noise=1.0)
    found = reduce_segments(raw, replace(plain, crosstalk=matrix)).image
    assert np.abs(reduce_segments(raw, plain).image - image).max() > 200
    assert np.abs(found - image).max() < 8


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
