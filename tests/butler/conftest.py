"""A small campaign of two sensors, its run, and a repository with its raw files, made once."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from permil import Flat, run, simulate_campaign
from permil.camera import Camera
from pipeline.conftest import permil

FillOnce = Callable[[str, Callable[[Path], object]], Path]
STAGES = ("index", "isr", "beam", "flat")
CAMPAIGN = {"scan_size": 7, "images": 1, "biases": 2, "readout": "target"}

__all__ = ["permil"]


@pytest.fixture(scope="session")
def made(fill_once: FillOnce) -> Path:
    """Return a folder with the campaign (``campaign``) and its run (``out``). It is shared: write nothing into it."""

    def fill(folder: Path) -> None:
        campaign = simulate_campaign(
            folder / "campaign", preset="mini", seed=21, detectors=["R22_S11", "R22_S12"], leds=["red"], campaign=CAMPAIGN
        )
        run(campaign.configuration, [f"output={folder / 'out'}", "pipeline.workers=1", "flat.solver=divide"], stages=STAGES)

    return fill_once("butler", fill)


@pytest.fixture(scope="session")
def lsst() -> Any:
    """Return the helpers that make repositories; skip without the extra."""
    pytest.importorskip("lsst.daf.butler", reason="needs the extra butler (lsst-daf-butler)")
    from . import repository

    return repository


@pytest.fixture(scope="session")
def shared_repository(lsst: Any, made: Path, bin8: Camera, fill_once: FillOnce) -> Path:
    """Return a repository with the raw files of the campaign, which stay where they are. It is shared: see `repo`."""

    def fill(folder: Path) -> None:
        with lsst.make_repository(folder / "repo", bin8) as butler:
            lsst.ingest_raws(butler, raw_files(made), bin8)

    return fill_once("repository", fill) / "repo"


@pytest.fixture
def repo(shared_repository: Path, tmp_path: Path) -> Path:
    """Return a copy of the repository that a test may change."""
    return shutil.copytree(shared_repository, tmp_path / "repo")


@pytest.fixture
def changed(made: Path, tmp_path: Path) -> Path:
    """Return a copy of the run in which one flat has changed."""
    folder = shutil.copytree(made / "out", tmp_path / "changed")
    path = folder / "flat" / "red" / "R22_S11.fits"
    (Flat.read(path) * 1.001).write(path)
    return folder


def raw_files(made: Path) -> list[Path]:
    """Return the raw files of the campaign."""
    return sorted((made / "campaign" / "raw").rglob("*.fits"))


def write_config(made: Path, path: Path, repo: Path | str, **query: Any) -> Path:
    """Write a configuration that takes the raw files from a repository."""
    config = yaml.safe_load((made / "campaign" / "config.yaml").read_text())
    config["exposures"] = {"butler": {"repo": str(repo), "collections": ["LSSTCam/raw/all"], **query}}
    for name in ("gains", "linearity", "crosstalk", "defects"):
        config["isr"][name] = str(made / "campaign" / f"{name}.ecsv")
    config |= {"flat": {"solver": "divide"}, "pipeline": {"workers": 1}, "output": "out"}
    path.write_text(yaml.safe_dump(config))
    return path
