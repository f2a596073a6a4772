"""What a run is said to need before it begins."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from permil.camera import load_camera
from permil.config import load_config
from permil.errors import OutputError
from permil.products import RunFolder
from permil.run import Run
from permil.tasks import estimate


def _seconds(reduced: Path, *options: str, camera: str = "lsstcam-bin8", workers: int = 1) -> float:
    config = load_config(reduced / "config.yaml", [*options, f"pipeline.workers={workers}"])
    said = estimate(Run(config, load_camera(camera), RunFolder(reduced)))
    number, unit = re.search(r"about ([\d.]+) (s|min|h) and", said).groups()
    return float(number) * {"s": 1, "min": 60, "h": 3600}[unit]


def test_the_joint_solution_takes_its_time(reduced: Path) -> None:
    joint = _seconds(reduced)
    assert _seconds(reduced, "flat.joint.checks=false") < joint
    assert _seconds(reduced, "flat.solver=divide") < 0.7 * joint


def test_larger_detectors_take_longer_and_more_workers_less(reduced: Path) -> None:
    assert _seconds(reduced, camera="lsstcam") > 1.5 * _seconds(reduced)
    assert _seconds(reduced, camera="lsstcam", workers=4) < _seconds(reduced, camera="lsstcam")


def test_a_disk_that_is_too_small_is_said_at_once(reduced: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("permil.tasks.shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(OutputError, match=r"fewer detectors \(flat.detectors\)"):
        _seconds(reduced)
