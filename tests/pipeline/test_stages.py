"""A stage is declared once: run, tables, single task and command follow."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import typer
from typer.testing import CliRunner

from permil import cli
from permil.config import load_config
from permil.context import Run
from permil.engine import Task, Work
from permil.errors import ConfigError
from permil.pipeline import run_pipeline
from permil.products import RunFolder, read_table
from permil.progress import StageReport, do_tasks
from permil.stages import STAGES, Stage, StageFunctions
from permil.tasks import declared_tasks, run_single

DETECTORS = ("R22_S11", "R22_S12")


def _task(run: Run, detector: str) -> Task:
    def write() -> list[str]:
        path = run.folder.root / "transfer" / f"{detector}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(detector, encoding="utf-8")
        return [f"{detector} is measured"]

    return Task(("transfer", detector), "transfer", lambda _: Work.here(write), command=("transfer", "--detector", detector))


def _run(run: Run) -> StageReport:
    report = StageReport("transfer")
    report.count(do_tasks([_task(run, name) for name in DETECTORS]))
    return report


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    module = ModuleType("transfer_stage")
    module.STAGE = StageFunctions(  # type: ignore[attr-defined]
        _run,
        tasks=lambda run, _earlier: [_task(run, name) for name in DETECTORS],
        single=lambda run, _step, _led, detector: [_task(run, detector)] if detector in DETECTORS else [],
    )
    entry = Stage("transfer", "Measure the photon transfer.", {"transfer": ("detector",)}, module=module.__name__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    # The other stages need exposures; they come back in their order.
    others = dict(STAGES)
    STAGES.clear()
    STAGES[entry.name] = entry
    yield entry
    STAGES.clear()
    STAGES.update(others)


def _config(folder: Path) -> Path:
    path = folder / "config.yaml"
    path.write_text("camera: lsstcam-bin8\noutput: out\npipeline: {workers: 1}\n", encoding="utf-8")
    return path


def _made(folder: Path) -> set[str]:
    return {path.stem for path in (folder / "out" / "transfer").glob("*.txt")}


@pytest.mark.usefixtures("stage")
def test_a_run_does_it_and_its_tables_list_it(tmp_path: Path) -> None:
    (report,) = run_pipeline(load_config(_config(tmp_path)))
    assert (report.stage, report.done, _made(tmp_path)) == ("transfer", 2, set(DETECTORS))
    folder = RunFolder(tmp_path / "out")
    assert list(read_table(folder.stages)["stage"]) == ["transfer"]
    assert list(read_table(folder.performance)["stage"]) == ["transfer"]


@pytest.mark.usefixtures("stage")
def test_a_single_task_is_done_alone(tmp_path: Path) -> None:
    config = load_config(_config(tmp_path))
    assert [task.key[1] for task in declared_tasks(Run.from_config(config))] == list(DETECTORS)
    report = run_single(config, "transfer", detector="r22-s12")
    assert (report.stage, report.done, report.messages) == ("transfer R22 S12", 1, ["R22_S12 is measured"])
    assert _made(tmp_path) == {"R22_S12"}
    assert run_single(config, "transfer", detector="R22_S10").messages == ["transfer R22 S10: there was nothing to do"]
    with pytest.raises(ConfigError, match="the step transfer is of one detector; name one with --detector"):
        run_single(config, "transfer")


def test_its_command_takes_the_names_of_its_steps(stage: Stage, tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(cli._stage_command(stage))
    config, runner = str(_config(tmp_path)), CliRunner()
    text = runner.invoke(app, ["--help"]).output
    assert "Measure the photon transfer." in text
    assert "--detector" in text
    assert "--led" not in text
    assert "--step" not in text
    assert runner.invoke(app, [config, "--detector", "R22_S11"]).exit_code == 0
    assert _made(tmp_path) == {"R22_S11"}
    assert runner.invoke(app, [config]).exit_code == 0
    assert _made(tmp_path) == set(DETECTORS)
