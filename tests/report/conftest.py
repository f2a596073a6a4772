"""Fixtures of the tests of the report."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from synthetic_run import SyntheticRun, make_pages, write_run

from permil.camera import Camera
from permil.products import RunFolder


@pytest.fixture(scope="session")
def written_run(tmp_path_factory: pytest.TempPathFactory, bin8: Camera) -> SyntheticRun:
    """Return a run's folder with its pages; tests must not change it."""
    root = tmp_path_factory.mktemp("written") / "run"
    written = write_run(root, bin8, leds=("red", "nm960"), detectors=("R22_S00", "R22_S01", "R01_S00"))
    make_pages(written.config, bin8, written.folder)
    return written


@pytest.fixture
def run(written_run: SyntheticRun, tmp_path: Path) -> SyntheticRun:
    """Return a copy of the run's folder, pages included, that a test may change."""
    root = tmp_path / "run"
    shutil.copytree(written_run.folder.root, root)
    config = written_run.config.model_copy(update={"output": root})
    return SyntheticRun(RunFolder(root), config, written_run.leds, written_run.detectors)
