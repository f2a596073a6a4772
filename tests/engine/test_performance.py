"""The table of costs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from permil.engine import InProcess, LocalProcesses, session
from permil.engine.performance import WHOLE_STAGE, StepCost, metered_stage, performance_table
from permil.products import RunFolder, read_table, write_table
from permil.progress import parallel_map
from permil.report.index import cost_table

from . import sample_tasks

ORDER = ("index", "isr", "flat")


def _cost(stage: str, step: str = WHOLE_STAGE, tasks: int = 1, seconds: float = 1.0) -> StepCost:
    return StepCost(stage, step, tasks, 1, seconds, seconds, seconds, 0.5, 0.5 / seconds, 100.0, 0)


@pytest.mark.parametrize("workers", [1, 2])
def test_stage_counts_tasks_of_workers_and_its_own_work_once(tmp_path: Path, workers: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(5_000_000))
    executor = LocalProcesses(workers) if workers > 1 else InProcess()
    with session(executor) as opened, metered_stage("isr", opened) as meter:
        parallel_map(sample_tasks.read_file, [path, path], workers=1, description="reading")
        sample_tasks.read_file(path)
    whole, step = meter.costs
    assert (whole.stage, whole.step, whole.tasks) == ("isr", WHOLE_STAGE, 2)
    assert (step.step, step.tasks, step.workers <= workers) == ("reading", 2, True)
    assert 0.010 <= step.gigabytes_read < 0.0115
    assert 0.015 <= whole.gigabytes_read < 0.0215
    assert whole.seconds >= step.seconds
    assert whole.peak_memory_mib >= step.peak_memory_mib > 10


def test_stage_that_had_nothing_to_do_keeps_what_it_cost(tmp_path: Path) -> None:
    first = performance_table([_cost("index"), _cost("isr", seconds=5), _cost("isr", "superbias"), _cost("flat")], order=ORDER)
    path = tmp_path / "performance.ecsv"
    write_table(path, first)
    again = performance_table(
        [_cost("index", seconds=2), _cost("isr", tasks=0, seconds=0.1), _cost("flat", seconds=3)],
        order=ORDER,
        before=read_table(path),
    )
    assert list(again["stage"]) == ["index", "isr", "isr", "flat"]
    assert list(again["seconds"]) == [2, 5, 1, 3]
    alone = performance_table([_cost("flat", seconds=4)], order=ORDER, before=again)
    assert list(alone["stage"]) == ["index", "isr", "isr", "flat"]
    assert alone["seconds"][-1] == 4


def test_table_has_units_and_reaches_the_page(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert cost_table(folder) is None
    costs = [_cost("isr", seconds=2.5), _cost("isr", "superbias", tasks=7)]
    write_table(folder.performance, performance_table(costs, order=ORDER))
    table = read_table(folder.performance)
    assert str(table["gigabytes_per_second"].unit) == "Gbyte / s"
    assert np.all(np.isfinite(table["peak_memory_mib"]))
    grid = cost_table(folder)
    assert [[cell.text for cell in row][:5] for row in grid.rows] == [
        ["isr", "", "1", "1", "2.5"],
        ["isr", "superbias", "7", "1", "1.0"],
    ]
