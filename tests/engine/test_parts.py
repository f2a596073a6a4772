"""Tasks report their completed fractions, and the display of progress receives them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from permil import progress
from permil.engine import Executor, InProcess, LocalProcesses, Task, Work, call, report_part, run_tasks
from permil.engine.call import reports_to

from . import sample_tasks


def _reached(executor: Executor, function: Callable[[int], int], tasks: list[int]) -> list[float]:
    """Return the parts that the display of a batch receives."""
    parts: list[float] = []

    @contextmanager
    def display(_: str, total: int) -> Iterator[Callable[[float], None]]:
        yield parts.append
        assert parts[-1] == total

    returned: list[int] = []
    task = Task(("parts",), "parts", lambda _: Work(function, tasks, lambda results: returned.extend(results) or ()))
    with executor:
        run_tasks([task], executor, display=display, records=[])
    assert returned == tasks
    return parts


@pytest.mark.parametrize("executor", [InProcess(), LocalProcesses(1)], ids=["here", "process"])
def test_parts_of_tasks_count(executor: Executor) -> None:
    assert _reached(executor, sample_tasks.report_how_far, [7, 8]) == [0.25, 0.75, 1.0, 1.25, 1.75, 2.0]


def test_parts_of_tasks_that_run_side_by_side_are_added() -> None:
    parts = _reached(LocalProcesses(2), sample_tasks.report_how_far, [7, 8])
    assert parts == sorted(parts)
    assert (len(parts), parts[0], parts[-1]) == (6, 0.25, 2.0)


def test_frequent_reports_are_rate_limited() -> None:
    assert len(_reached(LocalProcesses(2), sample_tasks.report_at_once, [1, 2])) < 10


def test_progress_without_a_listener(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call, "_SECONDS_BETWEEN", -1.0)
    report_part(0.5)
    received: list[float] = []
    with reports_to(received.append):
        report_part(0.25)
    report_part(0.75)
    assert received == [0.25]


def test_lines_show_parts(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", -1.0)
    with contextmanager(progress._lines)("flats", 4) as reached:
        for number in (0.5, 1, 3.25):
            reached(number)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" in ")[0].strip() for line in lines] == [
        "flats: 0.5 of 4",
        "flats: 1 of 4",
        "flats: 3.2 of 4",
        "flats: 3.2 of 4",
    ]
    assert "s left" in lines[0]
