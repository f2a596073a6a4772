"""The true response: each pattern where and as large as it says."""

from __future__ import annotations

import numpy as np
import pytest

from permil.camera import Camera
from permil.config.simulate import SimulateConfig, SimulateEffects
from permil.products import MaskPlane
from permil.simulate import Bench, sensor
from permil.simulate.bench import ExposedDetector
from permil.simulate.randoms import generator

PATTERNS = (
    "prnu",
    "tree_rings",
    "edge_rolloff",
    "midline",
    "dust",
    "annealing",
    "detector_response",
    "response_gradient",
    "bad_columns",
)


def response(led="uv", **effects):
    bench = Bench(SimulateConfig(leds=[led], effects=dict.fromkeys(PATTERNS, False) | effects))
    return bench.sensors.response(bench.camera["R22_S11"], led)


def test_without_effects_the_response_is_one():
    assert np.all(response() == 1)


@pytest.mark.parametrize("effect", PATTERNS)
def test_each_switch_does_something(effect):
    assert np.any(response(**{effect: True}) != 1)


def test_every_switch_is_used():
    short = {"leds": ["uv", "red"], "detectors": ["R22_S11"], "campaign": {"scan_size": 2, "images": 1, "biases": 1}}
    short |= {"weather": {"rms": 1e-2}, "gain_steps": {"count": 16, "size": 1e-2}, "electronics": {"board_drift": 1e-3}}
    short |= {"sensor": {"dark_pixels": 3}}
    switches = dict.fromkeys(SimulateEffects.model_fields, True)
    on = _traces(Bench(SimulateConfig(**short, effects=switches)))
    for name in SimulateEffects.model_fields:
        assert _traces(Bench(SimulateConfig(**short, effects=switches | {name: False}))) != on, name


def _traces(bench: Bench) -> tuple[bytes, ...]:
    """Return everything that a switch can change."""
    detector = bench.camera["R22_S11"]
    exposure, truth = bench.exposures[-1], bench.exposure_truths()[-1]
    exposed = ExposedDetector(bench, detector, {"uv": 1.0, "red": 1.0})
    return (
        bench.sensors.response(detector, "uv").tobytes(),
        repr(bench.exposure_truths()).encode(),
        exposed.raw_segments(exposure, truth).tobytes(),
        bench.electronics(detector).full_well.tobytes(),
    )


def test_pixel_response_is_partly_common_to_leds():
    common = {"prnu": True}
    red, blue = response("red", **common), response("blue", **common)
    assert red.std() == pytest.approx(2e-3, rel=0.02)
    assert np.corrcoef(red.ravel(), blue.ravel())[0, 1] == pytest.approx(0.9, abs=0.01)


def test_tree_rings_run_around_their_axis_and_are_stronger_in_the_blue():
    uv, infrared = response("uv", tree_rings=True) - 1, response("nm960", tree_rings=True) - 1
    assert uv.std() == pytest.approx(2e-3, rel=0.5)
    assert infrared.std() / uv.std() == pytest.approx(0.4, rel=0.01)
    assert np.corrcoef(uv.ravel(), infrared.ravel())[0, 1] > 0.999


def test_gradient_is_smooth_and_of_its_size(bin8: Camera):
    detector = bin8["R22_S11"]
    sizes = [
        sensor.evaluate(detector, slice(0, detector.ny), [sensor.smooth_gradient(detector, generator(seed), rms=2e-3)]).std()
        for seed in range(60)
    ]
    assert np.sqrt(np.mean(np.square(sizes))) == pytest.approx(2e-3, rel=0.15)


def test_edges_and_midline():
    edge = response(edge_rolloff=True)
    assert edge[0, 250] < edge[1, 250] < edge[3, 250] < 1
    assert edge[250, 250] == pytest.approx(1, abs=1e-6)
    line = response(midline=True)
    rows = np.flatnonzero(line[:, 100] < 1 - 1e-3)
    assert set(rows) == {249, 250}


def test_annealing_is_seen_in_the_blue_only():
    assert response("uv", annealing=True).std() > 3e-3
    assert np.all(response("red", annealing=True) == 1)


def test_vendors_differ(bin8: Camera):
    responses = [sensor.detector_response("ITL", "uv", generator(n), generator(n, "own"), rms=0.01) for n in range(100)]
    assert np.mean(responses) == pytest.approx(0.92, abs=0.004)
    assert np.std(responses) == pytest.approx(0.0092, rel=0.25)


def test_strips_do_not_show(lsstcam: Camera):
    detector = lsstcam["R22_S11"]
    pattern = sensor.tree_rings(detector, generator(1), rms=2e-3, width=0.12)
    strips = sensor.strips(detector)
    assert len(strips) > 1
    assert [rows.start for rows in strips[1:]] == [rows.stop for rows in strips[:-1]]
    border = strips[0].stop
    across = sensor.evaluate(detector, slice(border - 2, border + 2), [pattern])
    below = sensor.evaluate(detector, slice(border - 2, border), [pattern])
    assert np.array_equal(across[:2], below)


def test_mask_names_defects_edges_and_midline():
    bench = Bench(SimulateConfig())
    detector = bench.camera["R22_S11"]
    mask = bench.sensors.mask(detector)
    for rows, columns, left in bench.sensors.bad_columns(detector):
        assert np.all(mask[rows, columns] & MaskPlane.BAD)
        assert 0 <= left < 0.7
    (rows, columns), rates = bench.sensors.hot_pixels(detector)
    assert np.all(mask[rows, columns] & MaskPlane.BAD)
    assert np.all(rates > 0)
    assert np.all(mask[:2] & MaskPlane.EDGE)
    assert not np.any(mask[2:-2, 2:-2] & MaskPlane.EDGE)
    assert np.all(mask[249:251] & MaskPlane.MIDLINE)
    assert not np.any(mask[100] & MaskPlane.MIDLINE)
