"""Gains and linearity that a run measures from its own images, and runs that apply them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table

from permil.camera import load_camera
from permil.config import load_config
from permil.config.isr import IsrConfig
from permil.context import Run
from permil.errors import CalibrationError
from permil.flat.measured_linearity import write_measured_linearity
from permil.isr.calibration.gains import read_gains
from permil.isr.calibration.linearity import linearity_from_table
from permil.pipeline import run_pipeline
from permil.products import RunFolder, read_image, read_table, write_table
from permil.simulate.stage import simulate_bench

from .conftest import DETECTOR, small_campaign

ISR = ("index", "isr")


def truth_of(folder: Path) -> dict[str, tuple[float, float]]:
    """Return true gain and curvature (1/adu) of each amplifier."""
    table = read_table(RunFolder(folder).truth / "gains.ecsv")
    return {str(row["segment"]): (float(row["gain"]), float(row["a1"])) for row in table}


@pytest.fixture(scope="module")
def measured(campaign: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run that measured its gains, without flats; one gain that it was given is wrong by 5 %."""
    folder = tmp_path_factory.mktemp("measured") / "run"
    shutil.copytree(campaign, folder, copy_function=os.link)
    table = read_table(folder / "gains.ecsv")
    table["gain"][4] *= 1.05
    (folder / "gains.ecsv").unlink()
    write_table(folder / "gains.ecsv", table)
    reports = run_pipeline(load_config(folder / "config.yaml", ["pipeline.workers=1", "isr.photon_transfer=true"]), stages=ISR)
    (folder / "messages.txt").write_text("\n".join(reports[-1].messages))
    return folder


def test_gains_of_a_run_are_measured_and_a_wrong_one_is_named(measured: Path) -> None:
    table, truth = read_table(RunFolder(measured).measured_gains), truth_of(measured)
    assert table["amp"].tolist() == [amplifier.name for amplifier in load_camera("lsstcam-bin8")[DETECTOR].amplifiers]
    wrong = str(table["amp"][4])
    true = np.array([truth[str(amp)][0] for amp in table["amp"]])
    deviation = np.log(np.asarray(table["measured"]) / true)
    error = np.hypot(table["measured_err"], table["systematic_err"]) / table["measured"]
    assert np.all(np.abs(deviation) < 5 * error)
    others = np.arange(16) != 4
    assert np.all(np.abs(table["pull"][others]) < 5)
    assert table["ratio"][4] == pytest.approx(1 / 1.05, abs=5 * table["ratio_err"][4])
    assert table["contradicts"].tolist() == (~others).tolist()
    messages = (measured / "messages.txt").read_text()
    assert f"{DETECTOR} {wrong}: the noise of its images indicates a gain" in messages
    # The mean of the configured gains is kept.
    assert np.mean(table["gain"]) == pytest.approx(np.mean(table["configured"]), rel=1e-9)


def test_measured_gains_are_a_table_of_gains(measured: Path) -> None:
    folder, camera = RunFolder(measured), load_camera("lsstcam-bin8")
    gains = read_gains(IsrConfig(gains=str(folder.measured_gains)), camera[DETECTOR], camera=camera)
    table = read_table(folder.measured_gains)
    assert gains.gain == pytest.approx(np.asarray(table["gain"]))
    assert gains.gain_err == pytest.approx(np.asarray(table["gain_err"]))


def test_a_run_with_measured_gains_uses_them_and_nothing_is_measured_again(measured: Path) -> None:
    folder = RunFolder(measured)
    before = folder.measured_gains.read_bytes()
    run_pipeline(load_config(measured / "config.yaml", ["pipeline.workers=1", "isr.gains=measured"]), stages=ISR)
    used, found = read_table(folder.gains), read_table(folder.measured_gains)
    assert np.asarray(used["gain"]) == pytest.approx(np.asarray(found["gain"]))
    assert folder.measured_gains.read_bytes() == before
    settings = ["pipeline.workers=1", "isr.gains=measured", "isr.photon_transfer=true"]
    with pytest.raises(CalibrationError, match="gains cannot be measured with"):
        run_pipeline(load_config(measured / "config.yaml", settings), stages=ISR)


@pytest.mark.parametrize(("key", "maker"), [("gains", "isr.photon_transfer"), ("linearity", "flat.solver")])
def test_what_was_not_measured_cannot_be_used(spoiled: Path, key: str, maker: str) -> None:
    with pytest.raises(CalibrationError, match=f"there is no measured table of {key} yet") as raised:
        run_pipeline(load_config(spoiled / "config.yaml", ["pipeline.workers=1", f"isr.{key}=measured"]), stages=("index", "isr"))
    assert maker in str(raised.value.remedy)


def test_without_repeated_images_nothing_can_be_measured(tmp_path: Path) -> None:
    single = small_campaign(campaign={"scan_size": 3, "images": 1, "biases": 2, "readout": "target"})
    simulate_bench(single, tmp_path, workers=1)
    with pytest.raises(CalibrationError, match="no position has two images"):
        run_pipeline(load_config(tmp_path / "config.yaml", ["pipeline.workers=1", "isr.photon_transfer=true"]), stages=ISR)


def test_linearity_of_a_run_adds_differences_to_the_configured_table(reduced: Path) -> None:
    folder, camera = RunFolder(reduced), load_camera("lsstcam-bin8")
    table, truth = read_table(folder.measured_linearity), truth_of(reduced)
    configured = np.array([truth[str(amp)][1] for amp in table["amp"]])
    change = np.asarray(table["a1"]) - configured
    assert np.asarray(table["loss"]).mean() == pytest.approx(0.0, abs=1e-12)
    # The configured table is the true one.
    assert np.all(np.abs(change) < 5 * np.asarray(table["a1_err"]))
    curves = linearity_from_table(table, camera[DETECTOR], camera=camera)
    assert [curve.coefficients[0, 2] for curve in curves] == pytest.approx(np.asarray(table["a1"]).tolist())
    flat = read_image(folder.flat("red", DETECTOR))
    budget = {str(row["term"]): float(row["error"]) for row in flat.extensions["BUDGET"].data}
    assert 0 <= budget["linearity_scale"] < 1e-3


def test_linearity_by_knots_stays_by_knots(copied: Path, tmp_path: Path) -> None:
    folder, camera = RunFolder(copied), load_camera("lsstcam-bin8")
    adu = np.array([10_000.0, 30_000.0, 60_000.0])
    rows = [
        (DETECTOR, amplifier.name, place, place * (1 + 4e-8 * place))
        for amplifier in camera[DETECTOR].amplifiers
        for place in adu
    ]
    path = tmp_path / "knots.ecsv"
    write_table(path, Table(rows=rows, names=("detector", "segment", "adu", "corrected_adu")))
    plain = read_table(folder.measured_linearity)
    config = load_config(copied / "config.yaml", [f"isr.linearity={path}"])
    write_measured_linearity(Run.from_config(config), ["red"])
    table = read_table(folder.measured_linearity)
    curves = linearity_from_table(table, camera[DETECTOR], camera=camera)
    gains = read_gains(config.isr, camera[DETECTOR], camera=camera).gain
    for curve, loss, gain in zip(curves, plain["loss"], gains, strict=True):
        linear = adu * (1 + 4e-8 * adu)
        assert curve(adu) == pytest.approx(linear * (1 + loss * gain / 50_000 * linear), rel=1e-9)


@pytest.mark.full
def test_runs_that_apply_what_was_measured(tmp_path: Path) -> None:
    """Curvature of 2e-3 that differs between amplifiers and that no table holds, gains wrong by 1 %: seed not used in development."""
    wrong = {
        "seed": 61_213,
        "electronics": {"curvature": 0.0, "curvature_rms": 2e-3},
        "handover": {"gains": "fe55", "fe55_rms": 1e-2, "linearity": False},
    }
    simulate_bench(small_campaign(**wrong), tmp_path, workers=1)
    with (tmp_path / "config.yaml").open("a") as stream:
        stream.write("flat: {joint: {checks: false}}\n")
    folder, truth = RunFolder(tmp_path), truth_of(tmp_path)

    def run(*settings: str) -> None:
        config = load_config(tmp_path / "config.yaml", ["pipeline.workers=1", *settings])
        run_pipeline(config, stages=("index", "isr", "beam", "flat"))

    run()
    linearity = read_table(folder.measured_linearity)
    true = np.array([truth[str(amp)][1] for amp in linearity["amp"]])
    deviation = np.asarray(linearity["a1"]) - (true - true.mean())
    print(f"losses: true {true.std() * 45_000:.2e} rms, measured less true {deviation.std() * 45_000:.2e}", end=", ")
    print(f"pulls {np.sqrt(np.mean((deviation / linearity['a1_err']) ** 2)):.2f}")
    assert np.std(deviation) < 0.15 * np.std(true)
    run("isr.linearity=measured", "isr.photon_transfer=true")
    gains = read_table(folder.measured_gains)
    true_gains = np.array([truth[str(amp)][0] for amp in gains["amp"]])
    before, after = (np.std(np.log(np.asarray(gains[name]) / true_gains)) for name in ("configured", "gain"))
    print(f"gains: configured {before:.2e} rms, measured {after:.2e}, errors {np.median(gains['ratio_err']):.2e}")
    assert after < 0.6 * before
    run("isr.linearity=measured", "isr.gains=measured")
    header = read_image(folder.flat("red", DETECTOR)).header
    assert (header["GAINSRC"], header["LINEAR"]) == (folder.measured_gains.name, folder.measured_linearity.name)


@pytest.mark.full
@pytest.mark.parametrize("seed", [61_391, 61_392])
def test_wrong_gains_are_measured_with_brighter_fatter(tmp_path: Path, seed: int) -> None:
    """Gains wrong by 5e-3 rms, two LEDs, from raw files; seeds not used in development."""
    changes = {
        "seed": seed,
        "leds": ["red", "nm960"],
        "effects": {"brighter_fatter": True},
        "campaign": {"scan_size": 2, "images": 5, "biases": 4, "readout": "target"},
        "handover": {"gains": "fe55", "fe55_rms": 5e-3},
    }
    simulate_bench(small_campaign(**changes), tmp_path, workers=1)
    run_pipeline(load_config(tmp_path / "config.yaml", ["pipeline.workers=1", "isr.photon_transfer=true"]), stages=ISR)
    gains, truth = read_table(RunFolder(tmp_path).measured_gains), truth_of(tmp_path)
    true = np.array([truth[str(amp)][0] for amp in gains["amp"]])
    before, after = (np.std(np.log(np.asarray(gains[name]) / true)) for name in ("configured", "gain"))
    print(f"gains: configured {before:.2e} rms, measured {after:.2e}, errors {np.median(gains['gain_err'] / gains['gain']):.2e}")
    assert after < 0.6 * before
    assert after < 1.6 * float(np.median(gains["gain_err"] / gains["gain"]))
