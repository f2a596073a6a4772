"""Presets and what wins over them."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from permil.config.simulate import NO_NUISANCES, PRESETS, SimulateBeam, SimulateConfig, SimulateEffects


def test_explicit_keys_win_over_preset_and_switches():
    config = SimulateConfig(
        preset="raft", light=True, nuisances=False, camera="lsstcam-bin8", campaign={"images": 3}, effects={"ring": True}
    )
    assert config.camera == "lsstcam-bin8"
    assert config.rafts == ("R22",)
    assert config.campaign.images == 3
    assert config.campaign.compression == "rice"
    assert config.effects.ring
    assert not config.effects.structure


def test_sections_given_as_models_are_merged_like_keys():
    config = SimulateConfig(beam=SimulateBeam(structure_rms=0.0), nuisances=False, effects=SimulateEffects(ring=True))
    assert config.beam.structure_rms == 0.0
    assert config.effects.ring
    assert not config.effects.jitter


def test_a_resolved_configuration_gives_itself():
    for preset in PRESETS:
        config = SimulateConfig(preset=preset, light=True, nuisances=False)
        assert SimulateConfig(**config.model_dump(mode="json")) == config


def test_nuisances_off_leaves_the_flat_and_the_noise():
    effects = SimulateConfig(nuisances=False).effects
    assert {name for name, on in effects if not on} == set(NO_NUISANCES["effects"])
    for name in ("read_noise", "gain_scatter", "prnu", "tree_rings", "detector_response", "bad_columns"):
        assert getattr(effects, name)


@pytest.mark.parametrize(
    "wrong", [{"preset": "huge"}, {"leds": ["green"]}, {"leds": []}, {"campaign": {"scans": 3}}, {"seed": -1}]
)
def test_wrong_values_are_errors(wrong):
    with pytest.raises(ValidationError):
        SimulateConfig(**wrong)
