"""Progress of long work, its rate and the time left; reports of stages; parallel maps and tasks on the workers of a run."""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Task as Bar
from rich.text import Text

from permil.engine import Ends, InProcess, LocalProcesses, State, Task, Work, current_session, run_tasks
from permil.engine.session import CallCosts
from permil.errors import FileWarning


@dataclass
class StageReport:
    """Report of a stage: numbers of products made and of those already up to date, and messages for the user."""

    stage: str
    done: int = 0
    skipped: int = 0
    seconds: float = 0.0
    messages: list[str] = field(default_factory=list)

    def count(self, ends: Ends) -> None:
        """Count tasks that are done, and those that were up to date."""
        states = [end.state for end in ends.values()]
        self.done += states.count(State.DONE)
        self.skipped += states.count(State.CURRENT)


Item = TypeVar("Item")
Result = TypeVar("Result")

# Notebooks get lines, as files do: their kernels request colours, but cannot move the cursor.
_TERMINAL = False if "ipykernel" in sys.modules else None
console = Console(stderr=True, markup=False, emoji=False, force_jupyter=False, force_terminal=_TERMINAL)
"""Console for messages to the user; names of files with brackets and colons are shown unchanged."""

_SECONDS_BETWEEN_LINES = 20.0
_WARNINGS_SHOWN = 10


def show_message(sentence: str) -> None:
    """Print a sentence for the user."""
    say(f"  {sentence}")


def say(text: str) -> None:
    """Print a text for the user as it is; the terminal breaks long lines."""
    console.print(text, highlight=False, soft_wrap=True)


class _RateColumn(ProgressColumn):
    """Items per second."""

    def render(self, task: Bar) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.3g}/s", style="progress.data.speed")


class _Bars:
    """Bars of all running work on a terminal; they appear and vanish together."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._shown = 0

    @contextmanager
    def bar(self, description: str, total: int) -> Iterator[Callable[[float], None]]:
        """Show a bar; yield a function of the number of completed items."""
        progress = self._progress = self._progress or self._start()
        self._shown += 1
        task = progress.add_task(description, total=total)
        try:
            yield lambda count: progress.update(task, completed=count)
        finally:
            self._shown -= 1
            progress.stop_task(task)
            if not self._shown:
                progress.stop()
                self._progress = None

    @staticmethod
    def _start() -> Progress:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            _RateColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        progress = Progress(*columns, console=console)
        progress.start()
        return progress


_BARS = _Bars()


@contextmanager
def _display(description: str, total: int) -> Iterator[Callable[[float], None]]:
    """Show a bar on a terminal, occasional lines elsewhere; yield a function of the number of completed items."""
    if not console.is_terminal:
        yield from _lines(description, total)
        return
    with _BARS.bar(description, total) as reached:
        yield reached


def _lines(description: str, total: int) -> Iterator[Callable[[float], None]]:
    begin = shown = time.monotonic()
    count = 0.0

    def show() -> None:
        seconds = time.monotonic() - begin
        rate = count / max(seconds, 1e-3)
        left = "" if count >= total else f", {(total - count) / max(rate, 1e-9):.0f} s left"
        number = f"{count:.0f}" if count == int(count) else f"{count:.1f}"
        say(f"  {description}: {number} of {total} in {seconds:.1f} s, {rate:.3g}/s{left}")

    def reached(number: float) -> None:
        nonlocal count, shown
        count = number
        if time.monotonic() - shown > _SECONDS_BETWEEN_LINES and count != total:
            shown = time.monotonic()
            show()

    yield reached
    if count:
        show()


def default_workers() -> int:
    """Return the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parallel_map(
    function: Callable[[Item], Result],
    arguments: Sequence[Item],
    *,
    workers: int,
    description: str,
    is_quick: bool = False,
) -> list[Result]:
    """Apply a function to all arguments, on the workers of this run; results come in the order of the arguments.

    Parameters
    ----------
    function
        Importable by its name (workers are separate processes).
    arguments
        Picklable, one for each call.
    workers
        Number of processes outside of a run (see `permil.engine`); with 1, or a single call, everything runs in this process.
    description
        What the progress bar says.
    is_quick
        Whether a call takes less time than a worker takes to begin: a single one is done in this process.

    Raises
    ------
    Exception
        The first error of any call, after calls that have not begun are dropped.
    """
    found: list[Result] = []

    def finish(results: list[Result]) -> tuple[str, ...]:
        found.extend(results)
        return ()

    task = Task((description,), description, lambda _: Work(function, arguments, finish))
    is_single = len(arguments) <= 1
    do_tasks([task], workers=1 if is_single else min(workers, len(arguments)), is_local=is_single and is_quick)
    return found


def do_tasks(tasks: Sequence[Task], *, workers: int = 1, is_local: bool = False) -> Ends:
    """Run the tasks that are not up to date on the workers of this run; return the end of each.

    Parameters
    ----------
    tasks
        See `permil.engine.Task`.
    workers
        Number of processes outside of a run.
    is_local
        Whether this process runs the tasks of a run itself.

    Raises
    ------
    Exception
        See `permil.engine.run_tasks`.
    """
    opened = current_session()
    if opened is None or opened.is_busy:
        # Work within the work of a run, or outside of any.
        with LocalProcesses(workers) if workers > 1 and opened is None else InProcess() as executor:
            records: list[CallCosts] = []
            ends = run_tasks(tasks, executor, display=_display, records=records)
        for sentence in dict.fromkeys(sentence for record in records for sentence in record.file_warnings):
            warnings.warn(sentence, FileWarning, stacklevel=2)
        return ends
    opened.is_busy = True
    try:
        chosen = InProcess() if is_local else opened.executor
        return run_tasks(tasks, chosen, display=_display, records=opened.records)
    finally:
        opened.is_busy = False


def describe_warnings(records: list[CallCosts], *, but: set[str] | None = None) -> list[str]:
    """Return the warnings about files, each sentence once, and a selection if there are many.

    Parameters
    ----------
    records
        Of the calls in which the files were read.
    but
        Sentences shown before; new ones are added.
    """
    seen = set() if but is None else but
    sentences = list(dict.fromkeys(each for record in records for each in record.file_warnings if each not in seen))
    seen.update(sentences)
    more = [f"... and {len(sentences) - _WARNINGS_SHOWN} more warnings of files"] if len(sentences) > _WARNINGS_SHOWN else []
    return [f"warning: {sentence}" for sentence in sentences[:_WARNINGS_SHOWN]] + more


def show_report(report: StageReport) -> None:
    """Show the report of a stage."""
    for message in report.messages:
        show_message(message)
    skipped = f", {report.skipped} up to date" if report.skipped else ""
    say(f"{report.stage}: {report.done} done{skipped}, {report.seconds:.1f} s")
