"""A very small campaign, simulated once, and ways to spoil copies of it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from astropy.io import fits

from permil import cli
from permil.config import load_config
from permil.config.simulate import SimulateConfig
from permil.pipeline import run_pipeline
from permil.simulate.stage import simulate_bench

DETECTOR = "R22_S11"


def small_campaign(**changes: object) -> SimulateConfig:
    """Return one CCD, one LED, a coarse scan, five pointings of five images."""
    options: dict[str, object] = {
        "preset": "mini",
        "seed": 11,
        "detectors": [DETECTOR],
        "leds": ["red"],
        "campaign": {"scan_size": 8, "images": 5, "biases": 4, "readout": "target"},
    }
    return SimulateConfig.model_validate(options | changes)


@pytest.fixture(scope="session")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with raw files, truth and configuration. It is shared: copy before changing anything."""
    folder = tmp_path_factory.mktemp("campaign")
    simulate_bench(small_campaign(), folder, workers=1)
    # Coarse knots, no halves: a joint solution in a few seconds.
    with (folder / "config.yaml").open("a") as stream:
        stream.write("flat: {joint: {spacing_mm: 6.0, checks: false}}\n")
    return folder


@pytest.fixture(scope="session")
def reduced(campaign: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the campaign and all its products. It is shared: copy before changing anything."""
    folder = tmp_path_factory.mktemp("reduced") / "run"
    shutil.copytree(campaign, folder, copy_function=os.link)
    quick = (folder / "config.yaml").read_text()
    replace_bytes(folder / "config.yaml", quick.replace("{spacing_mm: 6.0, checks: false}", "{spacing_mm: 4.3}").encode())
    run_pipeline(load_config(folder / "config.yaml", ["pipeline.workers=1"]))
    return folder


@pytest.fixture
def spoiled(campaign: Path, tmp_path: Path) -> Path:
    """Return a copy of the campaign (hard links) that a test may spoil with `Spoil`; its report has the index page alone."""
    copy = tmp_path / "campaign"
    shutil.copytree(campaign, copy, copy_function=os.link)
    replace_bytes(copy / "config.yaml", (copy / "config.yaml").read_bytes() + b"report: {detector_pages: false}\n")
    return copy


def raw_files(folder: Path, pattern: str) -> list[Path]:
    """Return raw files below folders of a name pattern."""
    return sorted((folder / "raw").rglob(f"{pattern}/*.fits"))


def replace_bytes(path: Path, content: bytes) -> None:
    """Give a file new content without touching what it is linked to."""
    path.unlink()
    path.write_bytes(content)


def edit_header(path: Path, change: Callable[[fits.HDUList], None]) -> None:
    """Change the HDUs of a raw file without touching what it is linked to."""
    replace_bytes(path, path.read_bytes())
    with fits.open(path, mode="update", memmap=False) as hdus:
        change(hdus)


@pytest.fixture
def permil(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Return a function that runs the command line in this process and returns exit code, output and messages."""

    def run(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", ["permil", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = capfd.readouterr()
        return int(caught.value.code or 0), out, err

    return run
