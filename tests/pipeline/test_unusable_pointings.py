"""Pointings, detectors and LEDs whose exposures cannot be used are left out and listed, and the others go on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from permil.beam import stage as beam_stage
from permil.camera import load_camera
from permil.config import load_config
from permil.errors import BeamError, FlatError
from permil.flat import stage as flat_stage
from permil.flat.led import LedFlats
from permil.pipeline import run_pipeline
from permil.products import RunFolder, read_image
from permil.progress import StageReport

from .conftest import DETECTOR, edit_header, raw_files

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
    assert "is left out: none of 5 exposures of R22_S11 can be used (none of its pixels can be used" in saturated
    (dark,) = reasons["dark"]
    assert "is left out: it is dark: the median signal where the beam is brightest is" in dark
    assert len(notes) == 10
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


def stub(outcomes: dict[str, object]) -> type:
    """Return what stands in for the flats of LEDs."""

    class Stub:
        def __init__(self, *arguments: object) -> None:
            self.led = str(arguments[-1])

        def chain(self) -> object:
            yield from ()
            return outcomes[self.led]

    return Stub


def test_an_led_that_fails_does_not_end_the_others(monkeypatch: pytest.MonkeyPatch, campaign: Path) -> None:
    config, camera = load_config(campaign / "config.yaml"), load_camera("lsstcam-bin8")
    monkeypatch.setattr(flat_stage, "flat_leds", lambda *_: (["red", "blue"], []))
    error = FlatError("no exposure can be used")
    monkeypatch.setattr(
        flat_stage, "LedFlats", stub({"red": error, "blue": StageReport("flat", done=2, messages=["blue: fine"])})
    )
    report = flat_stage.make_flats(config, camera, RunFolder(campaign), None, workers=1)  # type: ignore[arg-type]
    assert report.done == 2
    assert report.messages == ["LED red is left out: no exposure can be used", "blue: fine"]
    monkeypatch.setattr(flat_stage, "LedFlats", stub({"red": error, "blue": FlatError("neither")}))
    with pytest.raises(FlatError, match="no exposure can be used"):
        flat_stage.make_flats(config, camera, RunFolder(campaign), None, workers=1)  # type: ignore[arg-type]


def test_a_detector_that_fails_does_not_end_the_others() -> None:
    of_led = object.__new__(LedFlats)
    of_led.__dict__.update(left_out={}, wanted=["R22_S11", "R22_S12"], solution="of both")
    tasks = [type("Task", (), {"detector": name})() for name in ("R22_S11", "R22_S12")]
    of_led._leave_out(tasks, [None, FlatError("saturated")])
    assert list(of_led.left_out) == ["R22_S12"]
    # The solution is made anew, of those that are left.
    assert "solution" not in of_led.__dict__
    with pytest.raises(FlatError, match="saturated, too"):
        of_led._leave_out(tasks[:1], [FlatError("saturated, too")])


def test_a_beam_that_cannot_be_fitted_leaves_its_led_out(monkeypatch: pytest.MonkeyPatch) -> None:
    error = BeamError("0 nodes are too few")

    def fail(_: object) -> str:
        raise error

    monkeypatch.setattr(beam_stage, "_fit_model", fail)
    assert beam_stage._attempt_model(None) is error  # type: ignore[arg-type]
