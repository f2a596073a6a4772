"""Exposures without any usable pixel, and thresholds that reject nothing: a reason or a result, and no warning."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from raw_frames import exposures, write
from segments_in_memory import measure_segments

from permil.errors import InputError, PhotodiodeError
from permil.isr import OverscanOptions
from permil.isr.exposure_group import has_light, stack_group
from permil.isr.photodiode import photodiode_scale
from permil.products import MaskPlane


def saturated(segments):
    """Return segments of which all active pixels are saturated."""
    found = {name: counts.copy() for name, counts in segments.items()}
    for counts in found.values():
        counts[:, 3:-54] = 262143
    return found


def noise_only(detector, make_raw):
    return make_raw(detector, np.zeros(detector.shape), np.random.default_rng(9))


@pytest.fixture
def paths(detector, make_raw, tmp_path):
    every = list(exposures(detector, make_raw, number=4, hits=0))
    return [write(tmp_path / f"{number}.fits", detector, each, coding="plain") for number, each in enumerate(every)], every


@pytest.mark.parametrize("method", ["row_median", "smoothed"])
def test_a_saturated_exposure_among_others_is_left_out(paths, detector, bin8, calibration, tmp_path, method):
    files, every = paths
    bright = write(tmp_path / "bright.fits", detector, saturated(every[0]), coding="plain")
    own = replace(calibration, overscan=OverscanOptions(method))
    for order in ([bright, *files], [*files, bright]):
        stacked = stack_group(order, [1.0] * 5, bin8, own)
        assert set(stacked.used) == set(files)
        assert [(entry.path, entry.reason) for entry in stacked.left_out] == [
            (bright, "none of its pixels can be used: all are saturated, masked or without data")
        ]


@pytest.mark.parametrize("kind", ["saturated", "masked", "blank"])
def test_a_pointing_without_a_usable_exposure_is_a_sentence(paths, detector, bin8, calibration, tmp_path, kind):
    files, every = paths
    own = calibration
    if kind == "masked":
        own = replace(calibration, static_mask=np.full(detector.shape, MaskPlane.BAD, dtype=np.int16))
    else:
        spoiled = [
            saturated(each) if kind == "saturated" else {name: np.zeros_like(each[name]) for name in each} for each in every
        ]
        files = [write(tmp_path / f"{kind}{number}.fits", detector, each, coding="plain") for number, each in enumerate(spoiled)]
    for number in (1, 4):
        with pytest.raises(
            InputError, match=rf"none of {number} exposures of R22_S11 can be used \(none of its pixels can be used"
        ):
            stack_group(files[:number], [1.0] * number, bin8, own)


def test_exposures_that_are_all_beyond_the_linearity_curve_keep_their_signal(paths, bin8, calibration):
    # SUSPECT pixels are no measure of the light, but they are not lost.
    files, _ = paths
    own = replace(calibration, static_mask=np.full(calibration.detector.shape, MaskPlane.SUSPECT, dtype=np.int16))
    stacked = stack_group(files, [1.0, 1.1, 0.9, 1.0], bin8, own)
    assert len(stacked.used) == 4
    assert np.isfinite(stacked.stack.image).all()


def test_dark_exposures_have_no_light_of_their_own(detector, bin8, calibration, make_raw, tmp_path):
    files = [write(tmp_path / f"{number}.fits", detector, noise_only(detector, make_raw), coding="plain") for number in range(3)]
    stacked = stack_group(files, [1.0] * 3, bin8, calibration)
    assert len(stacked.used) == 3
    assert abs(np.median(stacked.stack.image)) < 1
    assert not has_light([5000.0, np.nan])
    assert not has_light([np.nan, 5000.0])
    assert has_light([5000.0, 4000.0])


@pytest.mark.parametrize(
    ("light", "readings"), [([1.0, np.nan], [1.0, 1.0]), ([0.0, 1.0], [1.0, 1.0]), ([1.0], [np.nan]), ([], [])]
)
def test_a_scale_without_light_or_reading_is_a_sentence(light, readings):
    with pytest.raises(PhotodiodeError, match="frames have no positive light or photodiode reading"):
        photodiode_scale(light, readings)


def test_an_infinite_threshold_rejects_nothing(paths, detector, bin8, calibration):
    files, every = paths
    stacked = stack_group(files, [1.0] * 4, bin8, calibration, threshold=np.inf)
    assert stacked.stack.n_rejected == 0
    assert np.isfinite(stacked.stack.chi_square).all()
    place = {"amplifier": "C14", "row": 125, "column": 32, "box": 30}
    assert measure_segments(every[0], calibration, **place, threshold=np.inf).count == 900
    quiet = {name: np.full_like(counts, 25000) for name, counts in every[0].items()}
    for counts in quiet.values():
        counts[:, detector.amplifiers[0].prescan : detector.amplifiers[0].prescan + detector.amplifiers[0].nx] += 1000
    assert measure_segments(quiet, calibration, **place, threshold=np.inf).count == 900
