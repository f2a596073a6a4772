"""Fixtures of the tests of the report."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from synthetic_joint import SolvedCampaign, solved_campaign
from synthetic_run import SyntheticRun, make_pages, write_run

from permil.camera import Camera
from permil.config import Config
from permil.products import RunFolder

FillOnce = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def written_run(fill_once: FillOnce, bin8: Camera) -> SyntheticRun:
    """Return a run's folder with its pages; tests must not change it."""
    leds, detectors = ("red", "nm960"), ("R22_S00", "R22_S01", "R01_S00")

    def fill(root: Path) -> None:
        written = write_run(root, bin8, leds=leds, detectors=detectors)
        make_pages(written.config, bin8, written.folder)

    root = fill_once("written_run", fill)
    return SyntheticRun(RunFolder(root), Config(camera=bin8.name, output=root), leds, detectors)


@pytest.fixture
def run(written_run: SyntheticRun, tmp_path: Path) -> SyntheticRun:
    """Return a copy of the run's folder, pages included, that a test may change."""
    return written_run.copy(tmp_path / "run")


@pytest.fixture(scope="session")
def solved(fill_once: FillOnce, bin8: Camera) -> SolvedCampaign:
    """Return a solved campaign; tests must not change it."""

    def fill(folder: Path) -> None:
        (folder / "run").mkdir()
        (folder / "campaign").write_bytes(pickle.dumps(solved_campaign(folder / "run", bin8)))

    return pickle.loads((fill_once("solved", fill) / "campaign").read_bytes())  # noqa: S301
