"""Light in bias exposures is named, whatever structure the biases have; structure alone is not."""

from __future__ import annotations

import numpy as np
import pytest
from raw_frames import write

from permil.config.isr import IsrConfig
from permil.errors import RawFormatError
from permil.isr import OverscanOptions
from permil.isr.bias_exposures import bias_light, build_superbias, carries_light, mean_with_error
from permil.isr.calibration.superbias import superbias_notes
from permil.products import read_image
from permil.simulate.electronics import bias_pattern, level_drift


class InMemory:
    """Raw segments in place of a file."""

    def __init__(self, segments):
        self.segments = segments

    def stored_rows(self, _):
        """Return that rows are not stored one by one."""
        return

    def segment(self, name):
        """Return the counts of a segment."""
        return self.segments[name]


def biases(detector, rng, lights, *, part=slice(None), pedestal=2.0):
    """Return segments of bias exposures with structure, each with its light in electrons on a part of the amplifiers."""
    amplifiers = detector.amplifiers
    patterns = [bias_pattern(each, rng, size=3.0) for each in amplifiers]
    for pattern, each in zip(patterns, amplifiers, strict=True):
        pattern[:, each.prescan : each.prescan + each.nx] += rng.normal(0, pedestal)
    lit = {each.name for each in amplifiers[part]}
    every = []
    for light in lights:
        drift = level_drift(rng, (len(amplifiers), amplifiers[0].ny_raw), exposure=5.0, row=1.0)
        segments = {}
        for each, pattern, rows in zip(amplifiers, patterns, drift, strict=True):
            raw = 25000 + pattern + rows[:, np.newaxis] + rng.normal(0, 5, pattern.shape)
            if each.name in lit:
                raw[: each.ny, each.prescan : each.prescan + each.nx] += rng.poisson(light, (each.ny, each.nx)) / each.gain
            segments[each.name] = np.rint(raw).astype(np.int32)
        every.append(segments)
    return every


def measured(detector, every):
    return bias_light([InMemory(each) for each in every], detector, overscan=OverscanOptions())


def test_structure_is_no_light(detector, itl):
    for seed in range(10):
        found = measured(
            itl if seed % 2 else detector, biases(detector if not seed % 2 else itl, np.random.default_rng(seed), [0.0] * 3)
        )
        assert not found.is_lit.any()
        assert not carries_light(*map(np.array, found.mean))
        mean, error = found.mean
        assert abs(mean) < 5 * error


@pytest.mark.parametrize("light", [6.0, 15.0, 50.0, 400.0])
def test_light_in_every_bias_is_measured(detector, light):
    mean, error = measured(detector, biases(detector, np.random.default_rng(11), [light] * 3)).mean
    assert mean == pytest.approx(light, abs=5 * error)
    assert carries_light(np.array(mean), np.array(error))


def test_light_on_half_of_the_amplifiers_is_light(detector):
    for seed in range(5):
        found = measured(detector, biases(detector, np.random.default_rng(20 + seed), [30.0] * 3, part=slice(0, 8)))
        assert carries_light(*map(np.array, found.mean))


def test_one_bias_with_light_among_others_is_left_out(detector, bin8, tmp_path):
    every = biases(detector, np.random.default_rng(12), [0.0, 0.0, 40.0, 0.0])
    paths = [write(tmp_path / f"{number}.fits", detector, each) for number, each in enumerate(every)]
    product = build_superbias(paths, detector, bin8, IsrConfig(), tmp_path / "superbias.fits")
    (note,) = superbias_notes(product)
    assert note.startswith(f"{paths[2]}: it carries light: ")
    header = read_image(product).header
    assert (header["NFRAMES"], header["NLEFTOUT"]) == (3, 1)
    assert abs(header["LIGHT"]) < 3


@pytest.mark.parametrize("lights", [[40.0] * 4, [15.0, 60.0, 30.0, 90.0], [0.0, 40.0, 40.0]])
def test_a_superbias_that_carries_light_is_named(detector, bin8, tmp_path, lights):
    every = biases(detector, np.random.default_rng(13), lights)
    paths = [write(tmp_path / f"{number}.fits", detector, each, coding="plain") for number, each in enumerate(every)]
    product = build_superbias(paths, detector, bin8, IsrConfig(), tmp_path / "superbias.fits")
    (note,) = superbias_notes(product)
    assert "the bias exposures carry light: " in note
    assert "take biases with the shutter closed" in note
    header = read_image(product).header
    assert header["LIGHT"] == pytest.approx(np.mean(lights), rel=0.05)
    assert header["LIGHTERR"] < 1


def test_blank_and_damaged_segments_do_not_hide_light(detector):
    (segments,) = biases(detector, np.random.default_rng(14), [40.0])
    segments["C03"][:] = 0
    segments["C12"][-20:] = 0
    found = measured(detector, [segments])
    assert np.isnan(found.light[0]).sum() == 2
    assert found.is_lit.all()

    class Damaged(InMemory):
        def segment(self, name):
            raise RawFormatError(f"segment {name} cannot be decompressed")

    both = bias_light([Damaged(segments), InMemory(segments)], detector, overscan=OverscanOptions())
    assert both.is_lit.tolist() == [False, True]
    assert np.isnan(mean_with_error(np.array([1.0, np.nan, 2.0]))).all()
