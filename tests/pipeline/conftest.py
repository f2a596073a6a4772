"""A very small campaign, simulated once, and ways to spoil copies of it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from astropy.io import fits

from permil import cli
from permil.config import load_config
from permil.config.simulate import SimulateConfig
from permil.pipeline import run_pipeline
from permil.simulate.stage import simulate_bench
from pictures import without_pictures

DETECTOR = "R22_S11"
FillOnce = Callable[[str, Callable[[Path], object]], Path]
Permil = Callable[..., tuple[int, str, str]]


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
def campaign(fill_once: FillOnce) -> Path:
    """Return a folder with raw files, truth and configuration. It is shared: copy before changing anything."""

    def fill(folder: Path) -> None:
        simulate_bench(small_campaign(), folder, workers=1)
        # Coarse knots, no halves: a joint solution in a few seconds.
        with (folder / "config.yaml").open("a") as stream:
            stream.write("flat: {joint: {spacing_mm: 6.0, checks: false}}\n")

    return fill_once("campaign", fill)


TINY = {"scan_size": 6, "images": 2, "biases": 3, "readout": "target"}
SCANNED, POINTED = 6**2, 5 * 2
"""Exposures of the scan and of the pointings of a tiny campaign."""


@pytest.fixture(scope="session")
def two_ccds(fill_once: FillOnce) -> Path:
    """Return a folder with raw files of two CCDs and their configuration. It is shared: see `linked`."""
    detectors = [DETECTOR, "R22_S12"]
    return fill_once(
        "two_ccds", lambda folder: simulate_bench(small_campaign(detectors=detectors, campaign=TINY), folder, workers=1)
    )


@pytest.fixture(scope="session")
def one_ccd(fill_once: FillOnce) -> Path:
    """Return a folder with few raw files of one CCD and their configuration. It is shared: see `linked`."""
    return fill_once("one_ccd", lambda folder: simulate_bench(small_campaign(campaign=TINY), folder, workers=1))


def linked(campaign: Path, copy: Path) -> Path:
    """Make a copy of a campaign that consists of hard links, without its truth, and return it."""
    return shutil.copytree(campaign, copy, copy_function=os.link, ignore=shutil.ignore_patterns("truth"))


@pytest.fixture(scope="session")
def reduced(campaign: Path, fill_once: FillOnce) -> Path:
    """Return a folder with all products of the campaign and its truth. It is shared: see `copied`."""

    def fill(folder: Path) -> None:
        shutil.copytree(campaign / "truth", folder / "truth", copy_function=os.link)
        write_config(folder, campaign)
        with without_pictures():
            run_pipeline(load_config(folder / "config.yaml", ["pipeline.workers=1"]))

    return fill_once("reduced", fill)


def write_config(folder: Path, campaign: Path) -> Path:
    """Write the configuration of a run of the raw files and tables of a campaign; halves are compared, too."""
    config = yaml.safe_load((campaign / "config.yaml").read_text())
    config["exposures"]["roots"] = [str(campaign / "raw")]
    for name in ("gains", "linearity", "crosstalk", "defects"):
        config["isr"][name] = str(campaign / f"{name}.ecsv")
    config["flat"] = {"joint": {"spacing_mm": 4.3}}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture
def copied(reduced: Path, tmp_path: Path) -> Path:
    """Return a copy of the products of the campaign, up to date, that a test may change."""
    return shutil.copytree(reduced, tmp_path / "run", ignore=shutil.ignore_patterns("truth"))


@pytest.fixture
def spoiled(one_ccd: Path, tmp_path: Path) -> Path:
    """Return a copy (hard links) of few raw files that a test may spoil; joint solutions are coarse, the report has one page."""
    copy = shutil.copytree(one_ccd, tmp_path / "campaign", copy_function=os.link)
    config = yaml.safe_load((copy / "config.yaml").read_text())
    config["flat"] = {"super_pixel_mm": 2.56, "joint": {"spacing_mm": 5.5, "checks": False, "modes": 4}}
    config["report"] = {"detector_pages": False}
    replace_bytes(copy / "config.yaml", yaml.safe_dump(config).encode())
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


def edit_primary(path: Path, change: Callable[[fits.Header], object]) -> None:
    """Change the primary header of a raw file as `edit_header` does, but leave its other HDUs alone."""
    with path.open("rb") as stream:
        hdu = fits.PrimaryHDU(header=fits.Header.fromfile(stream))
        others = stream.read()
    change(hdu.header)
    if "CHECKSUM" in hdu.header:
        hdu.add_checksum()
    replace_bytes(path, hdu.header.tostring().encode("ascii") + others)


@pytest.fixture
def permil(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Permil:
    """Return a function that runs the command line in this process and returns exit code, output and messages."""

    def run(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", ["permil", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = capfd.readouterr()
        return int(caught.value.code or 0), out, err

    return run


@pytest.fixture
def make_flats(permil: Permil) -> Permil:
    """Return a function that runs the commands from `index` to `flat` with one process, and none after one that fails."""

    def run(config: Path, *overrides: str) -> tuple[int, str, str]:
        code, printed, messages = 0, "", ""
        for command in ("index", "isr", "beam", "flat"):
            code, out, err = permil(command, config, "pipeline.workers=1", *overrides)
            printed, messages = printed + out, messages + err
            if code:
                break
        return code, printed, messages

    return run
