"""Announced time, disk space and memory of a run."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from astropy.table import vstack

from permil.camera import load_camera
from permil.config import load_config
from permil.context import Run
from permil.errors import OutputError
from permil.exposures import BIAS, SPOT
from permil.products import RunFolder, read_table, write_table
from permil.tasks import declared_tasks, estimate


@pytest.fixture
def begun(reduced: Path, tmp_path: Path) -> Path:
    """Return a folder with the configuration and the index of a run alone."""
    for name in ("config.yaml", RunFolder(reduced).exposures.name):
        shutil.copy(reduced / name, tmp_path / name)
    return tmp_path


def _said(folder: Path, *options: str, camera: str = "lsstcam-bin8", workers: int = 1) -> str:
    config = load_config(folder / "config.yaml", [*options, f"pipeline.workers={workers}"])
    return estimate(Run(config, load_camera(camera), RunFolder(folder)))


def _seconds(said: str) -> float:
    number, unit = re.search(r"about ([\d.]+) (s|min|h) and", said).groups()
    return float(number) * {"s": 1, "min": 60, "h": 3600}[unit]


def _work(folder: Path, *options: str) -> float:
    """Return the seconds of all tasks with products, which the sentence rounds."""
    run = Run(load_config(folder / "config.yaml", list(options)), load_camera("lsstcam-bin8"), RunFolder(folder))
    return sum(task.seconds for task in declared_tasks(run) if task.outputs)


def test_the_joint_solution_takes_its_time(begun: Path) -> None:
    joint = _work(begun)
    assert _work(begun, "flat.joint.checks=false") < 0.95 * joint
    assert _work(begun, "flat.solver=divide") < 0.7 * joint


def test_exposures_of_stars_and_their_comparison_take_time(begun: Path) -> None:
    without = _seconds(_said(begun))
    path = RunFolder(begun).exposures
    table = read_table(path)
    stars = table[table["purpose"] == BIAS]
    stars["purpose"], stars["filter"] = SPOT, ["red"] * len(stars)
    write_table(path, vstack([table, stars]))
    assert _seconds(_said(begun)) > without + 9 + 0.1 * len(stars) - 1


def test_colour_takes_time_with_two_leds(begun: Path) -> None:
    path = RunFolder(begun).exposures
    table = read_table(path)
    second = table[table["led"] == "red"]
    second["led"] = ["uv"] * len(second)
    write_table(path, vstack([table, second]))
    run = Run(load_config(begun / "config.yaml"), load_camera("lsstcam-bin8"), RunFolder(begun))
    tasks = {task.key[0]: task for task in declared_tasks(run)}
    assert tasks["colour"].seconds > 1.5
    assert tasks["colour"].key in {need.key for need in tasks["report"].needs}


def test_larger_detectors_take_longer_and_more_workers_less(begun: Path) -> None:
    large = _seconds(_said(begun, camera="lsstcam"))
    assert large > 1.5 * _seconds(_said(begun))
    assert _seconds(_said(begun, camera="lsstcam", workers=4)) < large


def test_products_that_are_up_to_date_do_not_count(reduced: Path, begun: Path) -> None:
    said = _said(reduced, "flat.remove_amplifier_steps=true")
    assert re.match(r"\d+ of \d+ products are up to date; the others will take about", said)
    assert _seconds(said) < _seconds(_said(begun))


def test_the_disk_that_is_announced_is_what_the_products_take(reduced: Path, begun: Path) -> None:
    written = [path for name in ("calib", "beam", "flat", "report") for path in (reduced / name).rglob("*") if path.is_file()]
    announced = float(re.search(r"and ([\d.]+) GB", _said(begun)).group(1))
    assert announced == pytest.approx(sum(path.stat().st_size for path in written) / 1e9, rel=0.3)


def test_a_disk_that_is_too_small_is_reported_at_once(begun: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("permil.tasks.shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(OutputError, match=r"fewer detectors \(flat.detectors\)"):
        _said(begun)
