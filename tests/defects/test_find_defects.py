"""Defects in flats and superbias: complete and pure, with true errors, whatever the scale; nothing in what is good."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from permil.camera import Camera
from permil.config.flat import DefectsConfig
from permil.defects import DefectKind, find_defects
from permil.defects.find import DarkImage
from permil.errors import InputError

from .flats import bench_of, noisy_flats
from .scores import Score, scores

COUNTS = {"dark_pixels": 30, "vampire_pixels": 30, "dark_clusters": 30, "weak_columns": 9, "dead_columns": 6}
SEEDS = (101, 102, 103)


@pytest.fixture(scope="module")
def total(bin8: Camera) -> dict[str, Score]:
    result: dict[str, Score] = {}
    for seed in SEEDS:
        bench = bench_of(seed, **COUNTS)
        for name in ("R22_S11", "R02_S02"):
            detector = bin8[name]
            found = find_defects(noisy_flats(bench, detector), detector)
            for kind, score in scores(found, bench.sensors.defects(detector), detector, brightest=5e4).items():
                result[kind] = result.get(kind, Score()) + score
    return result


@pytest.mark.parametrize("kind", ["dark", "vampire", "cluster", "weak_column", "dead_column"])
def test_complete_and_pure(total: dict[str, Score], kind: str) -> None:
    score = total[kind]
    assert score.drawn >= 25
    assert score.complete >= 0.98 * score.drawn, score
    assert score.pure >= 0.98 * score.found, score


def test_nothing_else_is_found(total: dict[str, Score]) -> None:
    assert total["other"] == Score()
    for kind in ("unstable", "nonlinear", "hot"):
        assert total[kind].found == 0


@pytest.mark.parametrize("electrons", [1e6, 3e4, 1e3])
def test_a_good_sensor_has_no_defects(bin8: Camera, electrons: float) -> None:
    detector = bin8["R22_S11"]
    for seed in (7, 8):
        assert find_defects(noisy_flats(bench_of(seed), detector, electrons=electrons), detector) == []


def test_ends_of_columns(bin8: Camera) -> None:
    bench, detector = bench_of(31, weak_columns=20, weak_column_depth=(0.0625, 0.5)), bin8["R22_S11"]
    found = {(box.x0, box.y0, box.height) for box in find_defects(noisy_flats(bench, detector), detector)}
    drawn = {(each.x, each.y, each.height) for each in bench.sensors.defects(detector)}
    assert len(drawn) == 20
    ends = [(first, end - first) for _, first, end in [(x, y, y + height) for x, y, height in sorted(found)]]
    truth = [(first, end - first) for _, first, end in [(x, y, y + height) for x, y, height in sorted(drawn)]]
    assert np.abs(np.array(ends) - np.array(truth)).max() <= 2


def test_a_column_does_not_reach_for_a_defect_beyond_its_end(bin8: Camera) -> None:
    detector = bin8["R22_S11"]
    flats = noisy_flats(bench_of(32), detector)
    for flat in flats:
        flat.response[80:250, 400] *= 0.9
        flat.response[70:73, 399:402] *= 0.2
    found = {box.reason: box.slices for box in find_defects(flats, detector)}
    assert found["weak_column"] == (slice(80, 250), slice(400, 401))
    assert found["dark_cluster"] == (slice(70, 73), slice(399, 402))


def test_values_have_true_errors(bin8: Camera) -> None:
    detector, pulls = bin8["R22_S11"], []
    for seed in (41, 42, 43):
        bench = bench_of(seed, dark_pixels=60, pixel_strength=(0.25, 0.9), weak_columns=6, weak_column_depth=(0.1, 0.4))
        exact = find_defects(noisy_flats(bench, detector, electrons=1e12), detector)
        truth = {(box.x0, box.y0): box.value for box in exact}
        noisy = find_defects(noisy_flats(bench, detector, electrons=1e5), detector)
        matched = [box for box in noisy if (box.x0, box.y0) in truth]
        pulls += [(box.value - truth[box.x0, box.y0]) / box.value_err for box in matched]
    assert len(pulls) > 150
    assert np.std(pulls) == pytest.approx(1, abs=0.15)
    assert abs(np.mean(pulls)) < 0.25


def test_values_are_those_that_were_drawn(bin8: Camera) -> None:
    bench, detector = bench_of(44, dark_pixels=40, vampire_pixels=40, pixel_strength=(0.25, 0.9)), bin8["R22_S11"]
    found = {(box.x0, box.y0): box for box in find_defects(noisy_flats(bench, detector), detector)}
    for each in bench.sensors.defects(detector):
        box = found[each.x, each.y]
        sign = -1 if each.kind == "dark" else 1
        # Ordinary pixels scatter by 2 per mil.
        assert box.value == pytest.approx(sign * each.strength, abs=0.015)
        assert box.significance > 50
        assert box.amp in {amplifier.name for amplifier in detector.amplifiers}


def test_scale_and_gains_do_not_matter(bin8: Camera) -> None:
    bench, detector = bench_of(51, **COUNTS), bin8["R22_S11"]
    flats = noisy_flats(bench, detector)
    gains = np.random.default_rng(1).uniform(0.8, 1.2, 16).astype(np.float32)[detector.amplifier_map()] * np.float32(3e4)
    scaled = [replace(flat, response=flat.response * gains, variance=flat.variance * gains**2) for flat in flats]
    boxes = [(box.x0, box.y0, box.width, box.height, box.reason) for box in find_defects(flats, detector)]
    assert [(box.x0, box.y0, box.width, box.height, box.reason) for box in find_defects(scaled, detector)] == boxes


def test_leds_that_show_a_defect(bin8: Camera) -> None:
    detector = bin8["R22_S11"]
    red, infrared = noisy_flats(bench_of(61), detector)
    red.response[100, 100] *= 0.5
    for flat in (red, infrared):
        flat.response[120, 130] *= 0.5
    infrared.response[140, 300] = np.nan
    red.response[140, 300] *= 0.5
    found = {(box.x0, box.y0): box for box in find_defects([red, infrared], detector)}
    assert found[100, 100].leds == ("red",)
    assert found[100, 100].searched == ("red", "nm960")
    assert found[130, 120].leds == ("red", "nm960")
    assert (found[300, 140].leds, found[300, 140].searched) == (("red",), ("red",))
    # The value is that of the LEDs that show it.
    assert found[100, 100].value == pytest.approx(-0.5, abs=0.01)


def test_bright_without_a_dark_surround_is_no_vampire(bin8: Camera) -> None:
    detector = bin8["R22_S11"]
    flats = noisy_flats(bench_of(62), detector)
    for flat in flats:
        flat.response[100, 100] *= 1.6
        flat.response[180:183, 200:203] *= 1.3
        flat.response[60:200, 330] *= 1.2
        # A wide vampire: three rings lose what the middle gains.
        flat.response[302:309, 302:309] *= 0.96
        flat.response[305, 305] *= 3.0
    found = {box.reason: box for box in find_defects(flats, detector)}
    assert set(found) == {"bright_pixel", "bright_cluster", "bright_column", "vampire"}
    assert found["vampire"].slices == (slice(302, 309), slice(302, 309))
    assert found["bright_column"].slices == (slice(60, 200), slice(330, 331))
    assert found["bright_cluster"].slices == (slice(180, 183), slice(200, 203))


def test_a_dead_amplifier_is_one_box(bin8: Camera) -> None:
    detector = bin8["R22_S11"]
    flats = noisy_flats(bench_of(63), detector)
    own = detector.amplifier("C12").slices
    for flat in flats:
        flat.response[own] *= 0.01
    mask = np.zeros(detector.shape, dtype=bool)
    for box in find_defects(flats, detector):
        mask[box.slices] = True
        assert box.value < -0.9
    inside = np.isfinite(flats[0].response)
    assert mask[own][inside[own]].mean() > 0.98
    mask[own] = False
    assert not mask.any()


def test_hot_pixels_and_others_that_the_reduction_masks(bin8: Camera) -> None:
    detector, rng = bin8["R22_S11"], np.random.default_rng(3)
    bias = (2.0 * rng.standard_normal(detector.shape)).astype(np.float32)
    bias += np.linspace(0, 300, detector.nx, dtype=np.float32) + 200 * np.exp(
        -np.arange(detector.ny, dtype=np.float32)[:, None] / 20
    )
    bias[40, 50] += 90
    bias[70, 80] += 45
    outliers = np.zeros(detector.shape, dtype=bool)
    outliers[[40, 70], [50, 80]] = True
    dark = DarkImage(bias, np.full(detector.shape, 4.0, dtype=np.float32), outliers)
    hot, other = sorted(find_defects([], detector, dark=dark), key=lambda box: box.x0)
    assert (hot.x0, hot.y0, hot.reason, hot.quantity) == (50, 40, DefectKind.HOT_BIAS, "electrons")
    assert hot.value == pytest.approx(90, abs=8)
    assert hot.value_err == pytest.approx(2.0)
    assert (other.x0, other.y0, other.reason) == (80, 70, DefectKind.BIAS_OUTLIER)


def test_limits_are_those_of_the_options(bin8: Camera) -> None:
    bench, detector = bench_of(71, dark_pixels=60, pixel_strength=(0.1, 0.9)), bin8["R22_S11"]
    flats = noisy_flats(bench, detector)
    strengths = {(each.x, each.y): each.strength for each in bench.sensors.defects(detector)}
    for limit in (0.15, 0.5):
        found = {(box.x0, box.y0) for box in find_defects(flats, detector, options=DefectsConfig(pixel=limit))}
        assert all(strengths[place] > limit - 0.015 for place in found)
        assert all(place in found for place, strength in strengths.items() if strength > limit + 0.015)


def test_images_of_another_shape_are_refused(bin8: Camera) -> None:
    flats = noisy_flats(bench_of(1, leds=("red",)), bin8["R22_S11"])
    with pytest.raises(InputError, match=r"red has \(500, 512\) pixels, detector R02_S02 has"):
        find_defects(flats, bin8["R02_S02"])
