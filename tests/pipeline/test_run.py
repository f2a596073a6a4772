"""The main job, from raw files to the composite flat, on a very small campaign."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from permil.camera import Camera
from permil.config import load_config
from permil.config.simulate import SimulateSpotsConfig
from permil.context import Run
from permil.demo import StarCampaign, pull_table, reduce_stars
from permil.pipeline import run_pipeline
from permil.products import RunFolder, read_image, read_table, stored_fingerprint
from permil.progress import console
from permil.tasks import declared_tasks
from permil.truth import compare_with_truth, summarise

from .conftest import DETECTOR

TO_FLAT = ("index", "isr", "beam", "flat")


def _config(folder: Path, *overrides: str):
    return load_config(folder / "config.yaml", ["pipeline.workers=1", *overrides])


def test_flat_is_the_true_one(reduced: Path, bin8: Camera) -> None:
    (figures,) = summarise(compare_with_truth(RunFolder(reduced), bin8, super_pixel_mm=0.64))
    # Photon noise of a super-pixel is 0.066 per mil here. The plane is as good as the photodiode: its error is another test's.
    side = bin8[DETECTOR].nx * bin8[DETECTOR].pixel_mm
    assert figures.rms_super < 0.15e-3
    assert figures.rms_super**2 - (figures.gradient * side) ** 2 / 12 < (1.5 * figures.super_noise) ** 2
    assert figures.chi_square == pytest.approx(1, abs=0.05)
    # One detector: two gradients, and no level of its own.
    assert figures.planes_freedom == 2
    assert figures.p_value > 1e-3
    assert 0.5 < figures.super_pull < 1 + 4 * figures.super_pull_err
    assert figures.led in str(pull_table([figures]).columns[0]._cells)
    comparison = read_table(RunFolder(reduced).comparison)
    assert str(comparison["gradient_x"].unit) == "1 / mm"
    assert all(comparison[name].description for name in comparison.colnames)
    assert comparison["gradient_y_pull"][0] == pytest.approx(comparison["gradient_y"][0] / comparison["gradient_y_err"][0])


def test_data_as_simulated_have_no_red_verdict(reduced: Path) -> None:
    summary = read_table(RunFolder(reduced).summary)
    passed = [row["metric"] for row in summary if str(row["pass"]) == "yes"]
    assert {"scatter_excess", "step", "noise"} <= set(passed)
    assert "no" not in set(summary["pass"])
    assert 'class="badge no"' not in RunFolder(reduced).report.read_text(encoding="utf-8")


def test_products_are_those_of_the_design(reduced: Path) -> None:
    folder = RunFolder(reduced)
    expected = [
        folder.configuration, folder.exposures, folder.unreadable, folder.left_out, folder.gains, folder.superbias(DETECTOR),
        folder.beam("red"), folder.beam_nodes("red"), folder.flat("red", DETECTOR), folder.pointing("red", DETECTOR, 5),
        folder.focal_plane("red"), folder.metrics("red"), folder.report, folder.summary,
    ]  # fmt: skip
    assert [path for path in expected if not path.is_file()] == []
    assert not list(reduced.rglob("*.partial*"))
    assert not list((reduced / "flat" / "red" / ".relative").glob("*"))


def test_composite_median_is_one(reduced: Path) -> None:
    flat = read_image(RunFolder(reduced).flat("red", DETECTOR))
    good = flat.mask == 0
    assert np.median(flat.image[good]) == pytest.approx(1, abs=2e-5)
    assert flat.header["PDNORM"] == "header"
    assert flat.header["GRADXERR"] > 0


def test_photodiode_columns_hold_readings_and_the_composite_scale_has_their_unit(reduced: Path) -> None:
    folder = RunFolder(reduced)
    index = read_table(folder.exposures)
    light = index[(index["purpose"] == "pointing") & (index["led"] == "red")]
    with fits.open(folder.flat("red", DETECTOR)) as hdus:
        pointings, scale = Table(hdus["POINTINGS"].data), hdus[0].header["FLATSCAL"]
    for row in pointings:
        here = np.hypot(light["x_mm"] - row["x_mm"], light["y_mm"] - row["y_mm"]) < 0.1
        assert here.sum() == row["exposures"] == 5
        assert row["photodiode"] == pytest.approx(np.mean(light["photodiode"][here]), rel=1e-9)
        # The scale of the joint solution differs by noise, and by the drift of the readings.
        assert row["scale"] == pytest.approx(row["photodiode"], rel=0.01)
    # 50,000 electrons per pixel at the maximum of the beam; the response of detectors scatters by 1 per cent.
    assert scale == pytest.approx(50_000 / np.mean(light["photodiode"]), rel=0.05)


def test_every_metric_has_an_error(reduced: Path) -> None:
    metrics = read_table(RunFolder(reduced).metrics("red"))
    assert len(metrics) == 17
    for name in ("median", "rms", "noise", "scatter"):
        assert np.all(np.asarray(metrics[f"{name}_err"]) > 0), name
    whole = metrics[metrics["amp"] == "all"]
    assert np.all(np.asarray(whole["gradient_x_err"]) > 0)


def test_gradient_error_covers_the_gradient(reduced: Path, bin8: Camera) -> None:
    comparison = compare_with_truth(RunFolder(reduced), bin8, super_pixel_mm=0.64)
    whole = read_table(RunFolder(reduced).metrics("red"))
    whole = whole[whole["amp"] == "all"]
    for axis in "xy":
        assert abs(comparison[f"gradient_{axis}"][0]) < 4 * whole[f"gradient_{axis}_err"][0]


def test_products_pass_fitsverify(reduced: Path) -> None:
    if shutil.which("fitsverify") is None:
        pytest.skip("fitsverify (Debian package of that name) is not installed")
    products = list(reduced.rglob("*.fits"))
    assert len(products) >= 9
    run = subprocess.run(["fitsverify", "-q", *map(str, products)], capture_output=True, text=True, check=False)  # noqa: S603, S607
    bad = [line for line in run.stdout.splitlines() if line.startswith("verification") and "OK" not in line]
    assert bad == []


def test_second_run_does_nothing(copied: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in copied.rglob("*.fits")}
    reports = {report.stage: report for report in run_pipeline(_config(copied), stages=TO_FLAT)}
    assert [reports[name].done for name in ("isr", "beam", "flat")] == [0, 0, 0]
    assert {path: path.stat().st_mtime_ns for path in copied.rglob("*.fits")} == before


def test_a_flat_that_was_deleted_comes_back(copied: Path) -> None:
    flat = RunFolder(copied).flat("red", DETECTOR)
    before = read_image(flat)
    flat.unlink()
    run_pipeline(_config(copied), stages=("flat",))
    after = read_image(flat)
    np.testing.assert_array_equal(after.image, before.image)
    np.testing.assert_array_equal(after.variance, before.variance)


def test_changed_option_redoes_what_depends_on_it(campaign: Path, copied: Path) -> None:
    run = RunFolder(copied)
    products = {
        "superbias": run.superbias(DETECTOR),
        "beam": run.beam("red"),
        "flat": run.flat("red", DETECTOR),
        "composite": run.focal_plane("red"),
    }

    def prints() -> dict[str, str | None]:
        return {name: stored_fingerprint(path) for name, path in products.items()}

    def outdated(*overrides: str) -> list[str]:
        tasks = declared_tasks(Run.from_config(_config(copied, *overrides)))
        return [task.key[0] for task in tasks if task.outputs and not task.is_current]

    first = prints()
    assert outdated() == []
    mosaic = "flat.mosaic_mm=1.28"
    assert outdated(mosaic) == ["composite"]
    done = {report.stage: report.done for report in run_pipeline(_config(copied, mosaic), stages=TO_FLAT)}
    assert [done[name] for name in ("isr", "beam", "flat")] == [0, 0, 1]
    second = prints()
    assert [name for name in products if first[name] != second[name]] == ["composite"]
    assert outdated(mosaic) == []
    assert outdated(mosaic, "flat.remove_amplifier_steps=true") == ["flat", "composite"]
    gains = Table.read(campaign / "gains.ecsv", format="ascii.ecsv")
    gains["gain"] *= 1.01
    gains.write(copied / "new_gains.ecsv", format="ascii.ecsv")
    remade = ["nodes", "beam", "signals", "solution", "flat", "composite", "stability", "defects"]
    assert outdated(mosaic, "isr.gains=new_gains.ecsv") == remade


def test_interrupted_nodes_are_not_measured_again(reduced: Path, copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from permil.beam import stage

    folder, run = copied, RunFolder(copied)
    for path in (run.beam_nodes("red"), run.beam("red")):
        path.unlink()
    (run.state / "nodes_red.jsonl").unlink()
    measured: list[str] = []
    real = stage.box_signals

    def counted(path: str, *arguments: object, **options: object) -> object:
        measured.append(path)
        if len(measured) == 30:
            raise KeyboardInterrupt
        return real(path, *arguments, **options)

    monkeypatch.setattr(stage, "box_signals", counted)
    with pytest.raises(KeyboardInterrupt):
        run_pipeline(_config(folder), stages=("beam",))
    run_pipeline(_config(folder), stages=("beam",))
    assert len(measured) < 64 + 8
    before, after = (read_table(RunFolder(place).beam_nodes("red")) for place in (reduced, folder))
    np.testing.assert_array_equal(before["signal"], after["signal"])


def test_nodes_survive_a_journal_that_ends_in_the_middle_of_a_line(reduced: Path, copied: Path) -> None:
    folder, run = copied, RunFolder(copied)
    run.beam_nodes("red").unlink()
    journal = run.state / "nodes_red.jsonl"
    content = journal.read_bytes()
    journal.write_bytes(content[: int(len(content) * 0.6)])
    run_pipeline(_config(folder), stages=("beam",))
    before, after = (read_table(RunFolder(place).beam_nodes("red")) for place in (reduced, folder))
    np.testing.assert_array_equal(before["signal"], after["signal"])


def test_only_one_run_works_in_a_folder(copied: Path) -> None:
    import fcntl

    from permil.errors import OutputError

    with (copied / ".state" / "lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(OutputError, match="another run is using this folder"):
            run_pipeline(_config(copied))


def test_a_superbias_that_is_remade_is_read_again(campaign: Path, tmp_path: Path) -> None:
    """In one process, too: the calibration is kept only as long as nothing that it is made from changes."""
    from permil.isr.inputs import shared_calibration

    folder = tmp_path / "run"
    shutil.copytree(campaign, folder, copy_function=os.link)
    config, run = _config(folder), RunFolder(folder)
    run_pipeline(config, stages=("index", "isr"))
    first = shared_calibration(config, run, DETECTOR)
    assert shared_calibration(config, run, DETECTOR) is first
    next((folder / "raw").rglob("bias_*/*.fits")).unlink()
    run_pipeline(config, stages=("index", "isr"))
    second = shared_calibration(config, run, DETECTOR)
    assert first.superbias is not None
    assert second.superbias is not None
    assert np.any(first.superbias.image != second.superbias.image)


def test_a_campaign_beside_others_is_reduced_in_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}
    monkeypatch.setattr(
        "permil.demo.simulate_spots",
        lambda config, folder, *, workers: seen.update(config=config, folder=folder, workers=workers),
    )
    monkeypatch.setattr("permil.demo.load_config", lambda path, overrides: (path, overrides))
    monkeypatch.setattr("permil.demo.run_pipeline", lambda config, *, stages: [(config, stages[-1], console.quiet)])
    campaign = StarCampaign(tmp_path, SimulateSpotsConfig(), ("pipeline.workers=1",))
    assert reduce_stars(campaign) == [((tmp_path / "config.yaml", ("pipeline.workers=1",)), "compare", True)]
    assert seen == {"config": campaign.config, "folder": tmp_path, "workers": 1}
    assert not console.quiet
