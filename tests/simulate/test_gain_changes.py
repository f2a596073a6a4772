"""Temperatures of boards, steps of gains, curvature and the gains given to the reduction, against the configuration."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.table import Table

from permil.camera import Camera
from permil.config.simulate import SimulateConfig, SimulateGainSteps
from permil.errors import ConfigError
from permil.simulate import Bench, handover
from permil.simulate.electronics import gain_steps
from permil.simulate.handover import amplifier_table, board_table

SMALL = {"leds": ["red"], "campaign": {"scan_size": 4, "images": 1, "biases": 1}}
SECONDS = 3.07


def bench(seed: int = 1, **changes: object) -> Bench:
    return Bench(SimulateConfig.model_validate(SMALL | {"seed": seed} | changes))


def test_each_board_swings_with_the_asked_amplitude_and_period_and_its_own_phase():
    campaign = bench(81, electronics={"temperature_amplitude": 1.5, "temperature_period_s": 40 * SECONDS})
    boards = board_table(campaign)
    phases = []
    for name in ("Reb0", "Reb1", "Reb2"):
        board = boards[(boards["board"] == name)]
        seconds = (board["mjd"] - boards["mjd"][0]) * 86400
        waves = np.stack([np.sin(2 * np.pi * seconds / (40 * SECONDS)), np.cos(2 * np.pi * seconds / (40 * SECONDS))], axis=1)
        (sine, cosine), *_ = np.linalg.lstsq(waves, board["temperature"], rcond=None)
        np.testing.assert_allclose(waves @ (sine, cosine), board["temperature"], atol=1e-4)
        assert np.hypot(sine, cosine) == pytest.approx(1.5, abs=1e-4)
        phases.append(np.arctan2(cosine, sine))
    assert min(abs(np.diff(sorted(phases)))) > 0.01
    np.testing.assert_allclose(boards["counts_factor"] - 1, -6.5e-4 * boards["temperature"], atol=1e-15)
    scan = [exposure for exposure in campaign.exposures if exposure.kind == "scan"]
    assert len(boards) == len(scan) + 3 * (len(campaign.exposures) - len(scan)), "the scan reads one board"


def test_detectors_of_a_board_share_its_temperature():
    campaign = bench(82, electronics={"temperature_amplitude": 1.5})
    exposure = campaign.exposures[-1]
    temperatures = {
        name: campaign.board_temperature(campaign.camera[name], exposure) for name in ("R22_S10", "R22_S12", "R22_S20")
    }
    assert temperatures["R22_S10"] == temperatures["R22_S12"] != temperatures["R22_S20"]


def test_the_coefficient_is_in_the_configuration_unless_withheld(tmp_path):
    warm = {"electronics": {"temperature_amplitude": 1.5}}
    known = bench(83, **warm)
    withheld = bench(83, **warm, handover={"temperature_coefficient": False, "linearity": False})
    assert handover.configuration(known, {})["isr"]["temperature_coefficient"] == 6.5e-4
    assert not any("temperature" in key for key in handover.configuration(withheld, {})["isr"])
    assert "linearity" in handover.write_tables(known, tmp_path / "a")
    assert "linearity" not in handover.write_tables(withheld, tmp_path / "b")
    assert not (tmp_path / "b" / "linearity.ecsv").exists()


@pytest.mark.parametrize(("unit", "count", "amplifiers"), [("amplifier", 5, 5), ("board", 2, 2 * 3 * 16)])
def test_gains_step_once(unit, count, amplifiers):
    campaign = bench(84, gain_steps={"count": count, "unit": unit, "size": 2e-3, "at": 0.4}, effects={"temperature_drift": False})
    stepped = 0
    for detector in campaign.read:
        before, after = (
            campaign.gains_in(detector, next(exposure for exposure in order if (exposure.phase >= 0.4) == late))
            for order, late in ((campaign.exposures, False), (campaign.exposures, True))
        )
        np.testing.assert_array_equal(before, campaign.gains(detector))
        change = after / before - 1
        moved = np.abs(change) > 1e-12
        np.testing.assert_allclose(np.abs(change[moved]), 2e-3, rtol=1e-9)
        np.testing.assert_allclose(change, campaign.gain_steps(detector), atol=1e-12)
        stepped += moved.sum()
        if unit == "board":
            assert moved.all() or not moved.any()
    assert stepped == amplifiers
    table = amplifier_table(campaign)
    assert np.count_nonzero(table["gain_step"]) == np.count_nonzero(np.isfinite(table["gain_step_mjd"])) == amplifiers


def test_steps_go_up_and_down_by_the_seed(bin8: Camera):
    detector, settings = bin8["R22_S11"], SimulateGainSteps(count=1)
    steps = np.array([gain_steps(seed, [detector], settings)["R22_S11"] for seed in range(900, 1100)])
    assert np.all(np.count_nonzero(steps, axis=1) == 1)
    assert abs(np.sum(steps > 0) - 100) < 4 * 50**0.5
    assert np.all(np.count_nonzero(steps, axis=0) > 0), "any amplifier may step"


def test_more_steps_than_amplifiers_are_an_error():
    with pytest.raises(ConfigError, match=r"gain_steps\.count is 17, but the campaign reads 16 amplifiers; set it to 16 or less"):
        bench(detectors=["R22_S11"], gain_steps={"count": 17})
    bench(detectors=["R22_S11"], gain_steps={"count": 17}, effects={"gain_steps": False})


def test_curvature_has_its_mean_and_scatter_and_may_change_sign():
    for mean, rms in ((2e-3, 6e-4), (0.0, 2e-3)):
        campaign = bench(85, electronics={"curvature": mean, "curvature_rms": rms, "curvature_level_adu": 40_000.0})
        loss = 40_000.0 * np.array(amplifier_table(campaign)["a1"])
        assert loss.size == 144
        assert loss.mean() == pytest.approx(mean, abs=4 * rms / 12)
        assert loss.std() == pytest.approx(rms, rel=4 / (2 * 144) ** 0.5)
        assert (loss.min() < 0) == (mean == 0.0)


def test_measured_gains_of_both_kinds_are_written_and_one_is_used(tmp_path):
    measured = {"gains": "fe55", "fe55_rms": 5e-3, "ptc_rms": 1e-3, "ptc_bias": 8e-3}
    campaign = bench(88, handover=measured)
    tables = handover.write_tables(campaign, tmp_path)
    assert tables["gains"] == "gains_fe55.ecsv"
    assert not (tmp_path / "gains.ecsv").exists()
    true = np.concatenate([campaign.gains(detector) for detector in campaign.read])
    fe55, ptc = (np.array(Table.read(tmp_path / f"gains_{kind}.ecsv")["gain"]) / true - 1 for kind in ("fe55", "ptc"))
    assert np.std(fe55) == pytest.approx(5e-3, rel=4 / (2 * true.size) ** 0.5)
    assert np.mean(fe55) == pytest.approx(0.0, abs=4 * 5e-3 / true.size**0.5)
    assert np.std(ptc) == pytest.approx(1e-3, rel=4 / (2 * true.size) ** 0.5)
    assert np.mean(ptc) == pytest.approx(8e-3, abs=4 * 1e-3 / true.size**0.5)
    assert abs(np.corrcoef(fe55, ptc)[0, 1]) < 4 / true.size**0.5
    assert handover.configuration(campaign, tables)["isr"]["gains"] == "gains_fe55.ecsv"


def test_true_gains_are_one_table(tmp_path):
    campaign = bench(87)
    assert handover.write_tables(campaign, tmp_path)["gains"] == "gains.ecsv"
    assert sorted(path.name for path in tmp_path.glob("gains*")) == ["gains.ecsv"]
