"""Raw files whose pixels are not those that were written, in a run: left out and named once, used only where that is asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from permil.config import load_config
from permil.pipeline import run_pipeline
from permil.products import RunFolder, read_image, read_table

from .conftest import DETECTOR, POINTED, raw_files, replace_bytes

Permil = Callable[..., tuple[int, str, str]]


def spoil_pixels(path: Path, *, number: int = 5) -> None:
    """Change some pixels of a segment behind the back of its checksum."""
    with fits.open(path) as hdus:
        begin, size = hdus[number].fileinfo()["datLoc"], hdus[number].size
    content = bytearray(path.read_bytes())
    content[begin + size // 2 : begin + size // 2 + 400] = bytes(400)
    replace_bytes(path, bytes(content))


def test_damaged_pixels_and_odd_files_in_a_run(permil: Permil, spoiled: Path) -> None:
    bias, *others = raw_files(spoiled, "bias_*")
    scan = raw_files(spoiled, "6840D/BOT_acq/v0/*/*")[20]
    pointing, edited, longer = raw_files(spoiled, "6841D/BOT_acq/v0/*/ccob_red_*")[:3]
    # The nodes look at the segment C14, HDU 5.
    for path in (bias, scan, pointing):
        spoil_pixels(path)
    replace_bytes(edited, edited.read_bytes().replace(b"SEQFILE =", b"SEQFILL =", 1).replace(b"TSTAND  =", b"TSTANT  =", 1))
    replace_bytes(longer, longer.read_bytes() + bytes(512))
    config = spoiled / "config.yaml"
    code, _, messages = permil("run", config, "pipeline.workers=2", "flat.solver=divide")
    assert code == 0, messages
    folder = RunFolder(spoiled)
    reported = [line for line in messages.splitlines() if "warning: " in line]
    assert [bias.name in line and f"superbias of {DETECTOR}" in line for line in messages.splitlines()].count(True) == 1
    assert [edited.name in line and "header was changed" in line for line in reported].count(True) == 1
    assert [longer.name in line and "512 bytes after the last HDU" in line for line in reported].count(True) == 1
    assert fits.getheader(folder.superbias(DETECTOR))["NFRAMES"] == len(others)
    assert scan.name in messages
    assert np.isnan(read_table(folder.beam_nodes("red"))["signal"]).sum() == 1
    flat = read_image(folder.flat("red", DETECTOR))
    assert flat.header["NEXPOSUR"] == POINTED - 1
    assert any(pointing.name in line and "its data have changed" in line for line in messages.splitlines())
    # Products that were made without these files are not those of a run that uses them.
    reports = run_pipeline(load_config(config, ["pipeline.workers=1", "exposures.checksums=off"]), stages=("index", "isr"))
    assert reports[1].done == 1
    assert fits.getheader(folder.superbias(DETECTOR))["NFRAMES"] == len(others) + 1


def test_a_run_without_a_single_sound_bias_names_the_option(permil: Permil, spoiled: Path) -> None:
    for path in raw_files(spoiled, "bias_*"):
        spoil_pixels(path)
    code, _, messages = permil("run", spoiled / "config.yaml", "pipeline.workers=1")
    assert code == 2
    last = messages.strip().splitlines()[-1]
    assert "no usable bias exposure" in last
    assert "set exposures.checksums to warn" in last
    assert "Traceback" not in messages


@pytest.mark.filterwarnings("default::permil.errors.FileWarning")
@pytest.mark.parametrize("way", ["refuse", "warn", "off"])
def test_assemble(permil: Permil, spoiled: Path, tmp_path: Path, way: str) -> None:
    raw = raw_files(spoiled, "bias_*")[0]
    spoil_pixels(raw)
    out = tmp_path / "image.fits"
    code, _, messages = permil("assemble", raw, "--out", out, "--camera", "lsstcam-bin8", "--checksums", way)
    assert code == (2 if way == "refuse" else 0)
    assert out.exists() == (way != "refuse")
    if way == "off":
        assert not messages
    else:
        assert messages.startswith(
            f"permil: {'warning: ' if way == 'warn' else ''}{raw}: HDU 5 (Segment14): its data have changed"
        )
        assert len(messages.strip().splitlines()) == 1
