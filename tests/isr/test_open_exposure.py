"""Strips of an open exposure, and samples of its rows, have the bits of the exposure reduced as a whole."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from raw_frames import exposures, write
from test_file_stack import full_calibration, of_sensor

from permil.arrays import ArrayPool
from permil.camera.frames import take_segment
from permil.errors import InputError, RawFormatError
from permil.exposures import RawFile
from permil.isr import OverscanOptions
from permil.isr.open_exposure import FEW_PIXELS, OpenExposure, RowSample, strips_of
from permil.isr.reduce import reduce_raw_file
from permil.products import MaskPlane

DETECTORS = ("R22_S11", "R02_S02", "R00_SW0", "R44_SG1")


def crosstalk(detector, *, seed=4):
    """Return a matrix with some neighbours, and a far one."""
    rng = np.random.default_rng(seed)
    count = len(detector.amplifiers)
    matrix = np.zeros((count, count))
    for victim in range(count):
        for distance in (1, 2, count // 2 + 1):
            if (source := (victim + distance) % count) != victim:
                matrix[victim, source] = rng.normal(0, 3e-4)
    return matrix


def whole(path, camera, calibration):
    with RawFile(path, camera) as file:
        return reduce_raw_file(file, calibration)[0]


def assert_strips_are_those_of(reduced, path, camera, calibration, *, rows=23, step=4):
    strips = strips_of(calibration.detector, rows=rows, neighbours=calibration.saturation_grow)
    # Read strip by strip, and as a whole when it is opened.
    for few_pixels in (0, FEW_PIXELS):
        seen = np.zeros(reduced.image.shape[0], dtype=int)
        with (
            patch("permil.isr.open_exposure.FEW_PIXELS", few_pixels),
            OpenExposure(path, camera, calibration, RowSample.of(calibration, step)) as exposure,
        ):
            for strip in strips:
                image, mask = exposure.read(strip)
                for run, own in zip(strip.runs, strip.own_rows, strict=True):
                    np.testing.assert_array_equal(image[own], reduced.image[run])
                    np.testing.assert_array_equal(mask[own], reduced.mask[run])
                    seen[run] += 1
                    # The caller may change them.
                    image[own], mask[own] = np.nan, 0
        np.testing.assert_array_equal(seen, 1)


@pytest.mark.parametrize("grow", [0, 1, 3])
@pytest.mark.parametrize("coupled", [False, True])
def test_strips_have_the_bits_of_the_whole(detector, bin8, calibration, make_raw, tmp_path, grow, coupled):
    segments = next(exposures(detector, make_raw, hits=3e-3))
    # Also in the last row of one side, beside the other one.
    segments["C03"][detector.amplifier("C03").ny - 1, 100:110] = 200000
    path = write(tmp_path / "a.fits", detector, segments)
    full = full_calibration(calibration, np.random.default_rng(1), saturation_grow=grow)
    full = replace(full, crosstalk=crosstalk(detector) if coupled else None)
    reduced = whole(path, bin8, full)
    saturated = np.flatnonzero((reduced.mask & MaskPlane.SAT).any(axis=1))
    # Saturation reaches over the limits of strips, and over the line between the two sides.
    assert saturated.size > 200
    beside_line = (reduced.mask[detector.ny // 2 - 1 : detector.ny // 2 + 1] & MaskPlane.SAT) != 0
    assert beside_line.all(axis=0).any() == (grow > 0)
    for rows in (1, 23, detector.ny):
        assert_strips_are_those_of(reduced, path, bin8, full, rows=rows)


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("coding", ["plain", "gzip", "squares"])
def test_every_sensor_and_coding(name, coding, bin8, calibration, stored):
    sensor = bin8[name]
    own = of_sensor(calibration, sensor)
    path = stored(sensor, 1, coding=coding)[0]
    full = replace(full_calibration(own, np.random.default_rng(2)), crosstalk=crosstalk(sensor))
    assert_strips_are_those_of(whole(path, bin8, full), path, bin8, full)


@pytest.mark.parametrize("method", ["row_mean", "smoothed", "constant"])
def test_every_method_of_the_overscan(detector, bin8, calibration, stored, method):
    path = stored(detector, 1)[0]
    own = replace(calibration, overscan=OverscanOptions(method))
    assert_strips_are_those_of(whole(path, bin8, own), path, bin8, own)


def test_a_dead_channel_has_no_data_and_one_that_only_begins_like_one_has(detector, bin8, calibration, make_raw, tmp_path):
    segments = next(exposures(detector, make_raw))
    segments["C10"][:] = 25000
    varied = segments["C11"].copy()
    segments["C11"][:] = 25000
    # Not in the sample of every fourth row.
    segments["C11"][1::4] = varied[1::4]
    path = write(tmp_path / "a.fits", detector, segments)
    reduced = whole(path, bin8, calibration)
    assert np.isnan(reduced.image[detector.amplifier("C10").slices]).all()
    finite = np.isfinite(take_segment(detector.amplifier("C11"), reduced.image)).all(axis=1)
    np.testing.assert_array_equal(np.flatnonzero(finite), np.arange(finite.size)[1::4])
    assert_strips_are_those_of(reduced, path, bin8, calibration)


@pytest.mark.parametrize("step", [1, 2, 3, 5, 16])
@pytest.mark.parametrize("name", DETECTORS)
def test_sampled_rows_have_the_bits_of_the_whole(name, step, bin8, calibration, stored):
    sensor = bin8[name]
    own = replace(of_sensor(calibration, sensor), saturation_grow=0)
    full = replace(full_calibration(own, np.random.default_rng(3)), crosstalk=crosstalk(sensor))
    path = stored(sensor, 1)[0]
    sample = RowSample.of(full, step)
    with RawFile(path, bin8) as file:
        found, _, _ = reduce_raw_file(file, sample.calibration, rows=sample.raw_rows)
    reduced = whole(path, bin8, full)
    np.testing.assert_array_equal(found.image, reduced.image[sample.detector_rows])
    np.testing.assert_array_equal(found.mask, reduced.mask[sample.detector_rows])
    np.testing.assert_array_equal(np.concatenate([np.r_[rows] for rows in sample.regular_rows]), sample.detector_rows)
    assert sample.detector_rows.size == pytest.approx(sensor.ny / step, abs=2)
    # The noise is the same noise, from fewer counts.
    assert np.abs((found.read_noise - reduced.read_noise) / found.read_noise_err).max() < 5


@given(name=st.sampled_from(DETECTORS), rows=st.integers(1, 300), neighbours=st.integers(0, 5))
def test_every_row_belongs_to_one_strip_with_its_neighbours(bin8, name, rows, neighbours):
    detector = bin8[name]
    seen = np.zeros(detector.ny, dtype=int)
    for strip in strips_of(detector, rows=rows, neighbours=neighbours):
        read = set(strip.detector_rows.tolist())
        for run, own in zip(strip.runs, strip.own_rows, strict=True):
            seen[run] += 1
            np.testing.assert_array_equal(strip.detector_rows[own], np.r_[run])
            wanted = range(max(run.start - neighbours, 0), min(run.stop + neighbours, detector.ny))
            assert read.issuperset(wanted)
        adjoining = [strip.detector_rows[part] for part in strip.adjoining]
        assert all((np.diff(part) == 1).all() for part in adjoining)
        np.testing.assert_array_equal(np.concatenate(adjoining), strip.detector_rows)
    np.testing.assert_array_equal(seen, 1)


def test_damaged_rows_are_named_with_their_file(detector, bin8, calibration, make_raw, tmp_path):
    path = write(tmp_path / "a.fits", detector, next(exposures(detector, make_raw)))
    with RawFile(path, bin8) as file:
        places = file.stored_rows("C14")
    content = bytearray(path.read_bytes())
    start, stop = (int(place[0]) for place in places.bounds(np.array([51])))
    content[start:stop] = b"\xff" * (stop - start)
    path.write_bytes(content)
    sample = RowSample.of(calibration, 4)
    with pytest.raises(RawFormatError, match=r"a\.fits.*rows 0 to 249 of segment Segment14 cannot be decompressed"):
        OpenExposure(path, bin8, calibration, sample)
    with patch("permil.isr.open_exposure.FEW_PIXELS", 0), OpenExposure(path, bin8, calibration, sample) as exposure:
        first, second, *_ = strips_of(detector, rows=40, neighbours=0)
        exposure.read(first)
        with pytest.raises(RawFormatError, match=r"a\.fits.*rows 40 to 79 of segment Segment14 cannot be decompressed"):
            exposure.read(second)


def test_the_file_of_another_detector_is_refused(detector, itl, bin8, calibration, stored):
    path = stored(itl, 1)[0]
    with pytest.raises(InputError, match="holds detector R02_S02, not R22_S11"):
        OpenExposure(path, bin8, calibration, RowSample.of(calibration, 4))


def test_memory_of_an_image_is_used_again(detector, bin8, calibration, stored):
    path = stored(detector, 1)[0]
    expected = whole(path, bin8, calibration)
    pool = ArrayPool()
    places = []
    for array in (pool.empty(detector.shape, np.float32), pool.empty(detector.shape, np.int16)):
        array.fill(7)
        places.append(array.ctypes.data)
    del array
    with RawFile(path, bin8) as file:
        image = reduce_raw_file(file, calibration, pool=pool)[0]
        assert [image.image.ctypes.data, image.mask.ctypes.data] == places
        other = reduce_raw_file(file, calibration, pool=pool)[0]
    assert not {other.image.ctypes.data, other.mask.ctypes.data} & set(places)
    for each in (image, other):
        np.testing.assert_array_equal(each.image, expected.image)
        np.testing.assert_array_equal(each.mask, expected.mask)
