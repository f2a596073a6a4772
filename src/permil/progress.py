"""Long work shows its progress and its rate, and uses the cores of the machine."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text
from threadpoolctl import threadpool_limits


@dataclass
class StageReport:
    """What a stage did: pieces of work done and skipped because they were up to date, and what a person should know."""

    stage: str
    done: int = 0
    skipped: int = 0
    seconds: float = 0.0
    messages: list[str] = field(default_factory=list)


Item = TypeVar("Item")
Result = TypeVar("Result")

console = Console(stderr=True)

_SECONDS_BETWEEN_LINES = 20.0


class _RateColumn(ProgressColumn):
    """Items per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.3g}/s", style="progress.data.speed")


@contextmanager
def _display(description: str, total: int | None) -> Iterator[Callable[[], None]]:
    """Show a bar on a terminal, a line now and then elsewhere; yield what to call after each item."""
    if not console.is_terminal:
        yield from _lines(description, total)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        _RateColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(description, total=total)
        yield lambda: progress.advance(task)


def _lines(description: str, total: int | None) -> Iterator[Callable[[], None]]:
    begin = told = time.monotonic()
    count = 0

    def tell() -> None:
        seconds = time.monotonic() - begin
        of_total = "" if total is None else f" of {total}"
        console.print(
            f"  {description}: {count}{of_total} in {seconds:.1f} s, {count / max(seconds, 1e-3):.3g}/s", highlight=False
        )

    def advance() -> None:
        nonlocal count, told
        count += 1
        if time.monotonic() - told > _SECONDS_BETWEEN_LINES:
            told = time.monotonic()
            tell()

    yield advance
    if count:
        tell()


def track(items: Iterable[Item], *, description: str, total: int | None = None) -> Iterator[Item]:
    """Yield items while a bar shows how far the work is and how fast it goes."""
    if total is None and isinstance(items, Sequence):
        total = len(items)
    with _display(description, total) as advance:
        for item in items:
            yield item
            advance()


def default_workers() -> int:
    """Return the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _quiet_threads() -> None:
    # One core per worker: threads of numerical libraries on top of processes only slow each other down.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = "1"


def parallel_map(
    function: Callable[[Item], Result],
    tasks: Sequence[Item],
    *,
    workers: int,
    description: str,
) -> list[Result]:
    """Apply a function to all tasks in worker processes; results come in the order of the tasks.

    Parameters
    ----------
    function
        Importable by its name (workers are separate processes).
    tasks
        Picklable arguments, one per call.
    workers
        Number of processes; with 1, or a single task, everything runs in this process.
    description
        What the progress bar says.

    Raises
    ------
    Exception
        The first error of any task, after tasks that have not begun are dropped.
    """
    if workers <= 1 or len(tasks) <= 1:
        # One thread as in the workers: the order of sums in numerical libraries, and so the last bit, depends on their threads.
        with threadpool_limits(1):
            return [function(task) for task in track(tasks, description=description)]
    results: dict[int, Result] = {}
    with _worker_pool(min(workers, len(tasks))) as pool, _display(description, len(tasks)) as advance:
        waiting: dict[Future[Result], int] = {}
        queue = iter(enumerate(tasks))
        try:
            # Few tasks are handed over ahead, so that an error or an interrupt ends the work at once.
            for _ in range(2 * workers):
                _submit_next(pool, function, queue, waiting)
            while waiting:
                done, _ = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    results[waiting.pop(future)] = future.result()
                    advance()
                    _submit_next(pool, function, queue, waiting)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [results[index] for index in range(len(tasks))]


def _submit_next(
    pool: ProcessPoolExecutor,
    function: Callable[[Any], Any],
    queue: Iterator[tuple[int, Any]],
    waiting: dict[Future[Any], int],
) -> None:
    entry = next(queue, None)
    if entry is not None:
        waiting[pool.submit(function, entry[1])] = entry[0]


@contextmanager
def _worker_pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    # The environment must be set before the workers import numerical libraries; forkserver workers inherit it.
    saved = dict(os.environ)
    _quiet_threads()
    try:
        context = multiprocessing.get_context(
            "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
        )
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            yield pool
    finally:
        os.environ.clear()
        os.environ.update(saved)
