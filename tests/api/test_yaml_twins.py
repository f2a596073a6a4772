"""A configuration in YAML and its twin in Python do the same, bit by bit."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from astropy.io import fits
from typer.testing import CliRunner

import permil
from permil.cli import app
from permil.products import read_table

from .conftest import CHEAP, OPTIONS, STAGES

PAGES = sorted((Path(__file__).resolve().parents[2] / "docs").rglob("*.md"))
SECTIONS = set(permil.Config.model_fields)
BLOCK = r"^```(yaml|python)\n(.*?)^```"
TABS = re.compile(r"^::::\{tab-set\}\n(.*?)^::::$", re.MULTILINE | re.DOTALL)


def _blocks(text: str) -> list[tuple[str, str]]:
    """Return language and text of the blocks of YAML and Python in a text."""
    return re.findall(BLOCK, text, flags=re.MULTILINE | re.DOTALL)


EXAMPLES = [
    (page.name, content)
    for page in PAGES
    for language, block in _blocks(page.read_text(encoding="utf-8"))
    if language == "yaml" and isinstance(content := yaml.safe_load(block), dict) and set(content) <= SECTIONS
]
TWINS = [
    (page.name, dict(found))
    for page in PAGES
    for tabs in TABS.findall(page.read_text(encoding="utf-8"))
    for found in [_blocks(tabs)]
    if [language for language, _ in found] == ["yaml", "python"]
]
"""Pages and the two blocks of each pair of tabs."""


def _permil(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output + str(result.exception)
    return result.output


def test_there_are_examples() -> None:
    assert len(EXAMPLES) > 5


@pytest.mark.parametrize(("page", "content"), EXAMPLES, ids=[f"{number} {page}" for number, (page, _) in enumerate(EXAMPLES)])
def test_every_example_of_the_documentation_loads_alike(
    page: str, content: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    from_yaml, from_python = permil.load_config("config.yaml"), permil.load_config(content)
    assert from_yaml == from_python
    assert permil.load_config(from_python) == from_python


def test_every_example_has_its_twin_beside_it() -> None:
    shown = [(page, yaml.safe_load(twin["yaml"])) for page, twin in TWINS]
    assert shown == EXAMPLES


@pytest.mark.parametrize(("page", "twin"), TWINS, ids=[f"{number} {page}" for number, (page, _) in enumerate(TWINS)])
def test_twins_are_the_same_configuration(
    page: str, twin: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text(twin["yaml"], encoding="utf-8")
    names: dict[str, object] = {}
    exec(twin["python"], names)  # noqa: S102
    assert names["config"] == permil.load_config("config.yaml")


def _images(folder: Path) -> dict[str, list[bytes]]:
    """Return the data of all HDUs of all FITS files below a folder."""
    found = {}
    for path in sorted(folder.rglob("*.fits")):
        with fits.open(path) as hdus:
            found[str(path.relative_to(folder))] = [b"" if hdu.data is None else np.asarray(hdu.data).tobytes() for hdu in hdus]
    return found


@pytest.mark.full
def test_a_run(made: Path, tmp_path: Path) -> None:
    folder = made / "campaign"
    content = yaml.safe_load((folder / "config.yaml").read_text())
    tables = {name: str(folder / value) if str(value).endswith(".ecsv") else value for name, value in content["isr"].items()}
    content |= {"exposures": {"roots": [folder / "raw"]}, "isr": tables, "output": tmp_path}
    permil.run(content, [*CHEAP, "beam.leds=[red]", "flat.leds=[red]"], stages=STAGES[:-1])
    from_yaml, from_python = _images(made / "out"), _images(tmp_path)
    assert "flat/red/R22_S11.fits" in from_python
    assert from_python == {name: from_yaml[name] for name in from_python}


def test_a_simulation(tmp_path: Path) -> None:
    section = OPTIONS | {"leds": ["red"], "campaign": OPTIONS["campaign"] | {"scan_size": 2, "images": 1}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"simulate": section, "output": "yaml"}), encoding="utf-8")
    _permil("simulate", tmp_path / "config.yaml", "pipeline.workers=1")
    campaign = permil.simulate_campaign(tmp_path / "python", **section)
    raw = [sorted((tmp_path / kind / "raw").rglob("*.fits")) for kind in ("yaml", "python")]
    assert len(raw[0]) == len(campaign.exposures)
    for one, other in zip(*raw, strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert _images(tmp_path / "yaml" / "truth") == _images(tmp_path / "python" / "truth")
    shutil.rmtree(tmp_path / "yaml")


def test_a_plan(tmp_path: Path) -> None:
    section = {"detectors": ["R22_S11"], "pointings": {}, "cells": 6, "beam_knots_mm": 10.0}
    content = {"camera": "lsstcam-bin8", "plan": section, "output": "out"}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    printed = _permil("plan", "check", tmp_path / "plan.yaml")
    check = permil.check_plan(None, "lsstcam-bin8", **section)
    written = read_table(tmp_path / "out" / "plan" / "check.ecsv")
    for name in written.colnames:
        assert list(written[name]) == list(np.asarray(check.detectors[name])), name
    assert str(check) in printed


def test_a_flat_applied_and_compared(made: Path, tmp_path: Path) -> None:
    flat, other = (made / "out" / "flat" / led / "R22_S11.fits" for led in ("red", "nm960"))
    _permil("flat", "apply", flat, other, "--out", tmp_path / "yaml.fits")
    permil.Flat.read(flat).apply(other, out=tmp_path / "python.fits")
    assert _images(tmp_path)["yaml.fits"] == _images(tmp_path)["python.fits"]
    printed = _permil("flat", "diff", flat, other)
    assert str(permil.Flat.read(flat).difference(permil.Flat.read(other))) in printed
