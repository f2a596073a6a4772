"""The photodiode's response over a campaign against what the sizes say."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.table import Table
from pydantic import ValidationError

from permil.config.simulate import SimulateConfig
from permil.simulate import Bench
from permil.simulate.handover import scale_table
from permil.simulate.projector import photodiode_response
from permil.simulate.randoms import generator

SHORT = {"detectors": ["R22_S11"], "leds": ["red"], "campaign": {"scan_size": 4, "images": 2, "biases": 2}}
CHANGES = ("photodiode_drift", "photodiode_walk", "photodiode_step")
SEEDS = range(5000, 5400)
PHASES = np.linspace(0.0, 1.0, 31)
STEPPED = PHASES > 0.5


def responses(**sizes: float) -> np.ndarray:
    """Return the responses of many campaigns less one, shape (n_seeds, n_exposures)."""
    sizes = {"drift": 0.0, "walk": 0.0, "step": 0.0} | sizes
    return np.array([photodiode_response(generator(seed, "photodiode"), PHASES, STEPPED, **sizes) for seed in SEEDS]) - 1.0


def rms_error(size: float) -> float:
    """Return four standard errors of an rms over the seeds."""
    return 4 * size / (2 * len(SEEDS)) ** 0.5


def bench(*, on: tuple[str, ...] = (), **lamp: object) -> Bench:
    """Return a short campaign with a steady lamp; of what the photodiode does, only the effects ``on``."""
    switches = ("led_drift", "led_instability", "photodiode_noise", *CHANGES)
    effects = {name: name in on for name in switches}
    return Bench(SimulateConfig.model_validate(SHORT | {"effects": effects, "lamp": lamp}))


def test_linear_drift_has_its_size_and_is_centred_on_the_campaign():
    drifts = responses(drift=3e-3)
    change = drifts[:, -1] - drifts[:, 0]
    assert np.sqrt(np.mean(change**2)) == pytest.approx(3e-3, abs=rms_error(3e-3))
    np.testing.assert_allclose(drifts, change[:, None] * (PHASES - 0.5), atol=1e-15)


def test_walk_has_its_size_at_the_end_and_independent_increments():
    walks = responses(walk=1e-3)
    assert not walks[:, 0].any()
    for exposure in (6, 15, 30):
        expected = 1e-3 * PHASES[exposure] ** 0.5
        assert np.sqrt(np.mean(walks[:, exposure] ** 2)) == pytest.approx(expected, abs=rms_error(expected))
    increments = np.diff(walks, axis=1)
    correlation = np.mean(increments[:, 1:] * increments[:, :-1]) / np.mean(increments**2)
    assert abs(correlation) < 4 / increments[:, 1:].size ** 0.5


def test_step_has_its_size_and_its_place():
    steps = responses(step=2e-3)
    assert not steps[:, ~STEPPED].any()
    assert np.ptp(steps[:, STEPPED], axis=1).max() == 0
    assert np.sqrt(np.mean(steps[:, -1] ** 2)) == pytest.approx(2e-3, abs=rms_error(2e-3))


def test_one_effect_does_not_change_the_others():
    together = responses(drift=3e-3, walk=1e-3, step=2e-3)
    product = (1 + responses(drift=3e-3)) * (1 + responses(walk=1e-3)) * (1 + responses(step=2e-3)) - 1
    np.testing.assert_allclose(together, product, atol=1e-15)


@pytest.mark.parametrize("at", ["pointings", 0.25, 0.9])
def test_step_stands_where_it_is_asked_for(at):
    campaign = bench(on=("photodiode_step",), photodiode_step=0.1, photodiode_step_at=at)
    for exposure, truth in zip(campaign.exposures, campaign.exposure_truths(), strict=True):
        if exposure.kind != "bias":
            after = exposure.kind == "pointing" if at == "pointings" else exposure.phase >= at
            assert (truth.photodiode != 0.3319) == after
            assert truth.photodiode == 0.3319 * truth.photodiode_response


def test_the_photodiode_changes_and_not_the_light():
    drifting, steady = bench(on=CHANGES), bench()
    pairs = list(zip(drifting.exposure_truths(), steady.exposure_truths(), strict=True))
    lit = [(first, second) for first, second in pairs if first.electrons]
    assert all(first.electrons == second.electrons for first, second in lit)
    ratios = np.array([first.photodiode / second.photodiode for first, second in lit])
    np.testing.assert_allclose(ratios, [first.photodiode_response for first, _ in lit], rtol=1e-14)
    assert np.ptp(ratios) > 1e-4


def test_effects_that_are_off_leave_no_trace():
    off, zero = bench(**dict.fromkeys(CHANGES, 0.3)), bench(on=CHANGES, **dict.fromkeys(CHANGES, 0.0))
    assert off.exposure_truths() == zero.exposure_truths()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"photodiode_drift": -1e-3}, "greater than or equal to 0"),
        ({"photodiode_walk": 2.0}, "less than 1"),
        ({"photodiode_step_at": 1.0}, "less than 1"),
        ({"photodiode_step_at": "scan"}, "'pointings'"),
    ],
)
def test_sizes_and_places_that_cannot_be_are_errors(wrong, message):
    with pytest.raises(ValidationError, match=message):
        bench(**wrong)


def test_truth_records_the_response_and_the_time():
    campaign = bench(on=CHANGES)
    truths = campaign.exposure_truths()
    table: Table = scale_table(campaign, truths)
    lit = [truth for truth in truths if truth.electrons]
    assert list(table["photodiode_response"]) == [truth.photodiode_response for truth in lit]
    assert np.diff(table["mjd"])[:10] * 86400 == pytest.approx(3.07, abs=1e-3)
