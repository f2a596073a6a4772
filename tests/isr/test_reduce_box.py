"""The mean of a bunch of pixels: the same as from the whole image, with a true error, and blind to cosmic rays."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from segments_in_memory import measure_segments, reduce_segments

from permil.camera.frames import box_in_detector
from permil.errors import CalibrationError, CameraError, RawFormatError
from permil.isr import LinearityCurve, Superbias
from permil.products import MaskPlane

BOX = {"amplifier": "C14", "row": 125, "column": 32, "box": 30}


def box_slices(detector):
    return box_in_detector(detector.amplifier("C14"), row=125, column=32, box=30)


def test_it_is_the_mean_of_the_reduced_image(detector, calibration, make_raw):
    rng = np.random.default_rng(1)
    adu = rng.normal(30000, 170, detector.shape)
    matrix = np.zeros((16, 16))
    matrix[4, 3] = matrix[4, 5] = matrix[4, 12] = 5e-4
    full = replace(
        calibration,
        superbias=Superbias(rng.normal(0, 3, detector.shape).astype(np.float32), np.ones(detector.shape, dtype=np.float32)),
        crosstalk=matrix,
        linearity=tuple(LinearityCurve.quadratic(1e-7) for _ in range(16)),
        temperature_coefficient=6.5e-4,
    )
    segments = make_raw(detector, adu, rng)
    needed = full.needed_segments("C14")
    assert sorted(needed) == ["C03", "C13", "C14", "C15"]
    measured = measure_segments({name: segments[name] for name in needed}, full, temperature=3.0, **BOX)
    image = reduce_segments(segments, full, temperature=3.0)
    assert measured.signal == pytest.approx(image.image[box_slices(detector)].mean(dtype=float), rel=1e-6)
    assert (measured.count, measured.saturated, measured.rejected) == (900, 0, 0)
    assert measured.read_noise == pytest.approx(image.read_noise[4])


@pytest.mark.parametrize("electrons", [30.0, 40000.0])
def test_the_error_is_the_scatter(detector, calibration, make_raw, electrons):
    rng = np.random.default_rng(2)
    gain = calibration.gains.gain[4]
    needed = detector.amplifier("C14")
    pulls = []
    for _ in range(250):
        adu = np.zeros(detector.shape)
        adu[needed.slices] = rng.poisson(electrons, (needed.ny, needed.nx)) / gain
        segments = make_raw(replace(detector, amplifiers=(needed,)), adu, rng)
        measured = measure_segments(segments, calibration, **BOX)
        pulls.append((measured.signal - electrons) / measured.error)
    assert np.std(pulls) == pytest.approx(1, abs=0.15)
    assert np.mean(pulls) == pytest.approx(0, abs=0.25)


def test_cosmic_rays_are_left_out_and_pixels_with_another_response_are_not(detector, calibration, make_raw):
    rng = np.random.default_rng(3)
    response = rng.normal(1, 0.007, detector.shape)
    adu = 30000 * response + rng.normal(0, 170, detector.shape)
    clean = measure_segments(make_raw(detector, adu, rng), calibration, **BOX)
    assert clean.rejected == 0
    rows, columns = box_slices(detector)
    hit = adu.copy()
    hit[rows.start + 3, columns.start + np.arange(5)] += 20000
    dirty = measure_segments(make_raw(detector, hit, rng), calibration, **BOX)
    assert dirty.rejected == 5
    assert dirty.count == 895
    assert abs(dirty.signal - clean.signal) < 3 * clean.error + 5 / 900 * 30000 * 0.007 * 3


def test_saturated_and_bad_pixels_are_left_out(detector, calibration, make_raw):
    rng = np.random.default_rng(4)
    adu = np.full(detector.shape, 30000.0)
    rows, columns = box_slices(detector)
    adu[rows.start, columns.start : columns.start + 4] = 200000
    static = np.zeros(detector.shape, dtype=np.int16)
    static[rows.start + 9, columns] = MaskPlane.BAD
    adu[rows.start + 9, columns] = 31000
    masked = replace(calibration, static_mask=static)
    measured = measure_segments(make_raw(detector, adu, rng), masked, **BOX)
    assert (measured.saturated, measured.count) == (4, 900 - 34)
    assert measured.signal == pytest.approx(30000 * calibration.gains.gain[4], rel=1e-4)
    saturated = measure_segments(make_raw(detector, np.full(detector.shape, 2e5), rng), calibration, **BOX)
    assert saturated.saturated == 900
    assert saturated.count == 0
    assert np.isnan(saturated.signal)


def test_a_bunch_without_a_usable_pixel_is_an_error(detector, calibration, make_raw):
    segments = make_raw(detector, np.full(detector.shape, 1000.0), np.random.default_rng(5))
    all_bad = replace(calibration, static_mask=np.full(detector.shape, MaskPlane.BAD, dtype=np.int16))
    with pytest.raises(CalibrationError, match="R22_S11 C14"):
        measure_segments(segments, all_bad, **BOX)
    segments["C14"] = np.zeros_like(segments["C14"])
    # A segment may be blank in one exposure only: that exposure is at fault, not the choice of the bunch.
    with pytest.raises(RawFormatError, match="segment Segment14 is blank: all its counts are 0"):
        measure_segments(segments, calibration, **BOX)


def test_a_bunch_off_its_segment_is_an_error(detector, calibration, make_raw):
    segments = make_raw(detector, np.zeros(detector.shape), np.random.default_rng(6))
    with pytest.raises(CameraError, match="extends beyond amplifier"):
        measure_segments(segments, calibration, amplifier="C14", row=5, column=32, box=30)
