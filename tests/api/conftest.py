"""A very small campaign of one sensor with two LEDs and its run, made once for all tests of the public interface."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import permil
from pictures import without_pictures

FillOnce = Callable[[str, Callable[[Path], object]], Path]

OPTIONS = {
    "preset": "mini",
    "seed": 11,
    "detectors": ["R22_S11"],
    "leds": ["red", "nm960"],
    "campaign": {"scan_size": 6, "images": 2, "biases": 2, "readout": "target", "compression": "none"},
}
CHEAP = [
    "flat.joint.spacing_mm=6.0",
    "flat.joint.checks=false",
    "flat.joint.modes=6",
    "flat.super_pixel_mm=2.56",
    "report.detector_pages=false",
    "pipeline.workers=1",
]
STAGES = ("index", "isr", "beam", "flat", "report")


@pytest.fixture(scope="session")
def made(fill_once: FillOnce) -> Path:
    """Return a folder with the campaign (``campaign``) and its run (``out``). It is shared: write nothing into it."""

    def fill(folder: Path) -> None:
        campaign = permil.simulate_campaign(folder / "campaign", **OPTIONS)
        with without_pictures():
            permil.run(campaign.configuration, [f"output={folder / 'out'}", *CHEAP], stages=STAGES)

    return fill_once("api", fill)


@pytest.fixture
def notebook(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Work in an empty folder with links to ``out`` and ``raw``, as a notebook does; its figures are closed."""
    (tmp_path / "out").symlink_to(made / "out")
    (tmp_path / "raw").symlink_to(made / "campaign" / "raw")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    yield tmp_path
    import matplotlib.pyplot as plt

    plt.close("all")
