"""Drawn defects: each is in the signals of exposures what its truth says, and none touches another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from permil.config.simulate import SimulateConfig
from permil.errors import ConfigError
from permil.products import MaskPlane, read_table
from permil.simulate import Bench, simulate_bench
from permil.simulate.bench import ExposedDetector
from permil.simulate.sensor import REFERENCE_ELECTRONS
from permil.simulate.simulated import simulate_campaign

COUNTS = {
    "dark_pixels": 12, "vampire_pixels": 12, "dark_clusters": 12, "weak_columns": 5, "dead_columns": 4, "unstable_pixels": 12,
    "nonlinear_pixels": 12, "hot_pixels": 0, "bad_columns": 0,
}  # fmt: skip
KINDS = {"dark": 12, "vampire": 12, "cluster": 12, "weak_column": 5, "dead_column": 4, "unstable": 12, "nonlinear": 12}


def bench(**changes):
    options = {
        "leds": ["red"],
        "detectors": ["R22_S11"],
        "sensor": COUNTS,
        "campaign": {"scan_size": 2, "images": 4, "biases": 1},
    }
    return Bench(SimulateConfig.model_validate(options | {"nuisances": False} | changes))


def drawn(made):
    return made.sensors.defects(made.camera["R22_S11"])


def test_as_many_as_asked_for_and_none_touches_another():
    made = bench()
    found = drawn(made)
    assert {kind: sum(each.kind == kind for each in found) for kind in KINDS} == KINDS
    taken = np.zeros(made.camera["R22_S11"].shape, dtype=int)
    for each in found:
        rows, columns = each.slices
        taken[rows.start - 1 : rows.stop + 1, columns.start - 1 : columns.stop + 1] += 1
        assert 0.0 < each.strength < 1.0
    # Rings of one pixel around two defects may meet, their own pixels do not.
    own = np.zeros_like(taken)
    for each in found:
        own[each.slices] += 1
    assert own.max() == 1
    assert np.all(taken[own == 1] == 1)


def test_none_by_default_and_no_trace_when_switched_off():
    assert drawn(bench(sensor={})) == ()
    off = bench(effects={"sensor_defects": False})
    without = bench(sensor={"hot_pixels": 0, "bad_columns": 0})
    detector = off.camera["R22_S11"]
    assert np.array_equal(off.sensors.response(detector, "red"), without.sensors.response(detector, "red"))


def test_response_and_mask():
    made, without = bench(), bench(sensor={"hot_pixels": 0, "bad_columns": 0})
    detector = made.camera["R22_S11"]
    ratio = made.sensors.response(detector, "red") / without.sensors.response(detector, "red")
    mask = made.sensors.mask(detector)
    for each in drawn(made):
        own = ratio[each.slices]
        assert np.all(mask[each.slices] & MaskPlane.BAD)
        if each.kind == "vampire":
            assert own[1, 1] == pytest.approx(1 + each.strength, rel=1e-5)
            assert own.mean() == pytest.approx(1, rel=1e-6)
        else:
            expected = 1.0 if each.kind in ("unstable", "nonlinear") else 1 - each.strength
            assert own == pytest.approx(np.full(own.shape, expected), rel=1e-5)
    assert np.count_nonzero(np.abs(ratio - 1) > 1e-6) == sum(
        each.width * each.height for each in drawn(made) if each.kind not in ("unstable", "nonlinear")
    )


def test_columns_end_at_the_mid_line():
    made = bench()
    for each in drawn(made):
        if each.kind.endswith("column"):
            assert each.y == 250 or each.y + each.height == 250


def test_unstable_pixels_have_two_levels_and_nonlinear_ones_lose_with_the_signal():
    # Response 1 otherwise, and many electrons, so that noise is small.
    flat = dict.fromkeys(
        ("prnu", "tree_rings", "edge_rolloff", "midline", "dust", "annealing", "detector_response", "response_gradient"), False
    )
    flat |= {"gain_scatter": False, "read_noise": False, "saturation": False}
    made = bench(effects=flat | {"nonlinearity": False})
    detector = made.camera["R22_S11"]
    exposed = ExposedDetector(made, detector, {"red": 1.0})
    pairs = [
        pair for pair in zip(made.exposures, made.exposure_truths(), strict=True) if pair[0].kind == "pointing" and pair[0].target
    ]
    assert len(pairs) >= 12
    image = np.empty(detector.shape)
    seen: dict[tuple[int, int], list[float]] = {}
    for exposure, truth in pairs:
        segments = exposed.raw_segments(exposure, truth)
        electrons = made.electronics(detector)
        for amplifier, segment, gain, bias in zip(detector.amplifiers, segments, electrons.gain, electrons.bias, strict=True):
            own = segment - bias
            active = own[: amplifier.ny, amplifier.prescan : amplifier.prescan + amplifier.nx] * gain
            image[amplifier.slices] = active[:: -1 if amplifier.flip_y else 1, :: -1 if amplifier.flip_x else 1]
        light = truth.electrons * made.beam("red").on_detector(detector, truth.beam_centre)
        for each in drawn(made):
            if each.kind == "unstable":
                seen.setdefault((each.y, each.x), []).append(image[each.y, each.x] / light[each.y, each.x])
            elif each.kind == "nonlinear":
                charge = light[each.y, each.x]
                expected = charge * (1 - each.strength * charge / REFERENCE_ELECTRONS)
                assert image[each.y, each.x] == pytest.approx(expected, rel=0.03)
    for each in drawn(made):
        if each.kind == "unstable":
            levels = np.array(seen[each.y, each.x])
            assert np.abs(levels - 1) == pytest.approx(np.full(levels.size, each.strength), abs=0.03)
    assert 0.2 < np.mean([np.mean(np.array(levels) > 1) for levels in seen.values()]) < 0.8


def test_a_range_begins_with_its_smaller_value():
    with pytest.raises(ConfigError, match="give the smaller value first"):
        simulate_campaign(preset="mini", sensor={"pixel_strength": (0.5, 0.2)})


def test_truth_is_written_and_not_given_to_the_reduction(tmp_path: Path):
    made = bench(handover={"defects": False}, sensor=COUNTS | {"hot_pixels": 5})
    simulate_bench(made.config, tmp_path, workers=1)
    table = read_table(tmp_path / "truth" / "defects.ecsv")
    assert len(table) == sum(KINDS.values())
    assert set(table["kind"]) == set(KINDS)
    assert not (tmp_path / "defects.ecsv").exists()
    assert "defects" not in yaml.safe_load((tmp_path / "config.yaml").read_text())["isr"]
