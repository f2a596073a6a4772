"""Pointings, detectors and LEDs whose exposures cannot be used are left out and listed, and the others go on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from permil.beam import stage as beam_stage
from permil.config import load_config
from permil.context import Run
from permil.engine import Task, Work
from permil.errors import BeamError, FlatError
from permil.exposures import POINTING, SCAN
from permil.flat import stage as flat_stage
from permil.flat.stage import LedFlats
from permil.flat.steps.exposures import LEAVES_OUT
from permil.pipeline import run_pipeline
from permil.products import RunFolder, read_image, stored_fingerprint

from .conftest import DETECTOR, edit_header, linked, raw_files, replace_bytes
from .test_engine_run import QUICK

STAGES_TO_FLAT = ("index", "isr", "beam", "flat")


def positions(folder: Path) -> list[str]:
    """Return the folders of the pointings up to their running number."""
    names = {path.parent.name.rsplit("_", 1)[0] for path in raw_files(folder, "6841D/BOT_acq/v0/*/ccob_*")}
    return sorted(names)


def segments(hdus: fits.HDUList) -> list[fits.ImageHDU]:
    return [hdu for hdu in hdus[1:] if hdu.name.upper().startswith("SEGMENT")]


def saturate(hdus: fits.HDUList) -> None:
    for hdu in segments(hdus):
        hdu.data[:, 3:-54] = 262143


def darken(hdus: fits.HDUList) -> None:
    for hdu in segments(hdus):
        level = np.median(hdu.data[:, -20:-2], axis=1, keepdims=True)
        noise = np.random.default_rng(1).normal(0, 5, hdu.data.shape)
        hdu.data = np.rint(level + noise).astype(np.int32)


def unread(hdus: fits.HDUList) -> None:
    hdus[0].header["CCOBADC"] = 0.0


def test_pointings_that_cannot_be_used_are_left_out_and_listed(spoiled: Path) -> None:
    changes = {"saturated": saturate, "dark": darken, "without reading": unread}
    chosen = dict(zip(positions(spoiled), changes, strict=False))
    for place, kind in chosen.items():
        for path in raw_files(spoiled, f"6841D/BOT_acq/v0/*/{place}_*"):
            edit_header(path, changes[kind])
    options = ["pipeline.workers=1", "flat.solver=divide", "flat.keep_pointings=false"]
    reports = run_pipeline(load_config(spoiled / "config.yaml", options), stages=STAGES_TO_FLAT)
    flat = RunFolder(spoiled).flat("red", DETECTOR)
    notes = Table.read(flat, "LEFT_OUT")
    reasons = {kind: {str(row["reason"]) for row in notes if place in str(row["path"])} for place, kind in chosen.items()}
    (saturated,) = reasons["saturated"]
    assert "is left out: none of 2 exposures of R22_S11 can be used (none of its pixels can be used" in saturated
    (dark,) = reasons["dark"]
    assert "is left out: it is dark: the median signal where the beam is brightest is" in dark
    assert len(notes) == 4
    # One message for each pointing: its files share the reason.
    assert sum("is left out" in message for message in reports[-1].messages) == 2
    assert fits.getheader(flat)["NPOINT"] == 2
    found, truth = read_image(flat), read_image(spoiled / "truth" / "flat" / "red" / f"{DETECTOR}.fits")
    ratio = (found.image / truth.image)[(found.mask & 71) == 0]
    assert np.abs(np.percentile(ratio / np.median(ratio), [1, 99]) - 1).max() < 0.02


def test_a_detector_without_a_usable_pointing_is_named(spoiled: Path) -> None:
    for path in raw_files(spoiled, "6841D/BOT_acq/v0/*/ccob_*"):
        edit_header(path, saturate)
    options = ["pipeline.workers=1", "flat.solver=divide"]
    with pytest.raises(FlatError, match=r"no exposure of R22_S11 with LED red can be used .*saturated.*flat\.detectors"):
        run_pipeline(load_config(spoiled / "config.yaml", options), stages=STAGES_TO_FLAT)


def led(name: str, error: FlatError | None) -> LedFlats:
    """Return the tasks of an LED whose composite is made, or cannot be."""

    def work(_: Task) -> Work:
        if error is not None:
            raise error
        return Work.here(lambda: [f"{name}: fine"])

    return LedFlats(name, "", (Task(("composite", name), "composite", work, leaves_out=LEAVES_OUT),))


def test_an_led_that_fails_does_not_end_the_others(monkeypatch: pytest.MonkeyPatch, campaign: Path) -> None:
    run = Run.from_config(load_config(campaign / "config.yaml"))
    errors: dict[str, FlatError | None] = {"red": FlatError("no exposure can be used"), "blue": None}
    monkeypatch.setattr(flat_stage, "flat_leds", lambda _: (["red", "blue"], []))
    monkeypatch.setattr(flat_stage, "led_flats", lambda _, name: led(name, errors[name]))
    report = flat_stage.make_flats(run)
    assert report.done == 1
    assert report.messages == ["LED red is left out: no exposure can be used", "blue: fine"]
    errors["blue"] = FlatError("neither")
    with pytest.raises(FlatError, match="no exposure can be used"):
        flat_stage.make_flats(run)


def test_a_detector_that_fails_does_not_end_the_others(two_ccds: Path, tmp_path: Path) -> None:
    campaign = linked(two_ccds, tmp_path / "run")
    config, folder = load_config(campaign / "config.yaml", [*QUICK, "pipeline.workers=1"]), RunFolder(campaign)
    run_pipeline(config, stages=("index", "isr", "beam"))
    run = Run.from_config(config)
    first = {task.key: task.fingerprint for task in flat_stage.led_flats(run, "red").tasks}
    for purpose in (SCAN, POINTING):
        for path in run.index.select(purpose=purpose, detector="R22_S12")["path"]:
            replace_bytes(Path(path), Path(path).read_bytes()[:100_000])
    report = run_pipeline(config, stages=("flat",))[0]
    assert sum("red: R22_S12 is left out:" in message for message in report.messages) == 1
    assert folder.flat("red", DETECTOR).is_file()
    assert not folder.flat("red", "R22_S12").exists()
    # The solution is that of the detectors that are left.
    assert stored_fingerprint(folder.joint("red")) not in (None, first["solution", "red"])
    # What was left out is tried again, and the rest is up to date.
    again = run_pipeline(config, stages=("flat",))[0]
    assert (again.done, again.skipped) == (0, 4)
    assert sum("red: R22_S12 is left out:" in message for message in again.messages) == 1


def test_a_beam_that_cannot_be_fitted_leaves_its_led_out(monkeypatch: pytest.MonkeyPatch, spoiled: Path) -> None:
    config = load_config(spoiled / "config.yaml", ["pipeline.workers=1"])
    run_pipeline(config, stages=("index", "isr", "beam"))
    run = Run.from_config(config)
    red = beam_stage.beam_task(run, "red")
    nodes = red.needs[0]

    def fail(_: str, **_options: object) -> list[str]:
        raise BeamError("0 nodes are too few")

    monkeypatch.setattr(beam_stage, "_fit_model", fail)
    # Another LED goes on; the model of an earlier run is not taken for that of these nodes.
    other = Task(("beam", "blue"), "beam models", lambda _: Work.here(lambda: ["blue: fine"]))
    changed = replace(red, facts="other nodes")
    monkeypatch.setattr(beam_stage, "beam_leds", lambda _: ["red", "blue"])
    monkeypatch.setattr(beam_stage, "beam_task", lambda _, led: {"red": changed, "blue": replace(other, needs=(nodes,))}[led])
    report = beam_stage.fit_beams(run)
    assert report.messages == ["LED red is left out: 0 nodes are too few", "blue: fine"]
    assert not run.folder.beam("red").exists()
    monkeypatch.setattr(beam_stage, "beam_leds", lambda _: ["red"])
    with pytest.raises(BeamError, match="0 nodes are too few"):
        beam_stage.fit_beams(run)
