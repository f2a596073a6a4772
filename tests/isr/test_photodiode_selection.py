"""Which exposures the photodiode can normalise, and the scale that it gives a stack."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from permil.errors import PhotodiodeError
from permil.isr import photodiode_scale, select_by_photodiode

PATHS = [f"exposure_{number}.fits" for number in range(6)]


def test_unusable_readings_are_left_out_and_listed():
    selection = select_by_photodiode([0.5, np.nan, 0.0, -0.1, None, 0.7], PATHS)
    assert selection.used.tolist() == [True, False, False, False, False, True]
    assert [entry.path for entry in selection.left_out] == [Path(path) for path in PATHS[1:5]]
    assert [entry.reason for entry in selection.left_out] == [
        "photodiode reading is missing",
        "photodiode reading is 0",
        "photodiode reading is -0.1",
        "photodiode reading is missing",
    ]


@pytest.mark.parametrize("reading", [None, np.nan, 0.0, -1.0, np.inf])
def test_no_usable_reading_at_all_is_an_error_that_names_the_way_out(reading):
    with pytest.raises(PhotodiodeError, match=r"exposure_0\.fits.*isr\.photodiode"):
        select_by_photodiode([reading] * 6, PATHS)


def test_without_normalisation_all_are_used():
    selection = select_by_photodiode([np.nan, None, 0.3], PATHS[:3], normalise=False)
    assert selection.used.all()
    assert selection.photodiode.tolist() == [1, 1, 1]
    assert selection.left_out == ()


def test_no_exposures_are_no_error():
    assert select_by_photodiode([], []).used.size == 0


def test_the_scale_has_the_error_of_its_readings():
    rng = np.random.default_rng(1)
    pulls, errors = [], []
    for _ in range(3000):
        light = 50000 * rng.uniform(0.9, 1.1, 25)
        readings = light / 1e5 * (1 + 3e-4 * rng.standard_normal(25))
        scale = photodiode_scale(light, readings)
        # Stack at mean light, times factor, over the mean reading: the calibration 1e5.
        calibration = light.mean() * scale.factor / scale.mean
        pulls.append((calibration / 1e5 - 1) / scale.error)
        errors.append(scale.error)
        assert scale.outliers == ()
    assert np.mean(errors) == pytest.approx(3e-4 / 5, rel=0.03)
    assert np.std(pulls) == pytest.approx(1, abs=0.1)


def test_a_reading_that_contradicts_the_light_does_not_set_the_scale():
    light = np.array([50000.0, 50100.0, 49900.0, 50000.0, 60000.0])
    readings = light / 1e5
    readings[2] *= 1.03
    scale = photodiode_scale(light, readings)
    assert scale.outliers == (2,)
    assert light.mean() * scale.factor / scale.mean == pytest.approx(1e5)


def test_one_or_two_readings_are_taken_as_they_are():
    scale = photodiode_scale([100.0], [2.0])
    assert (scale.factor, scale.mean, scale.outliers) == (1, 2, ())
    assert np.isnan(scale.error)
    scale = photodiode_scale([100.0, 100.0], [1.0, 1.1])
    assert scale.factor == 1
    assert scale.error == pytest.approx(np.std([1, 1 / 1.1], ddof=1) / np.mean([1, 1 / 1.1]) / np.sqrt(2))
