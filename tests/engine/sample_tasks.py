"""Tasks for tests; workers import them by their names."""

from __future__ import annotations

import gc
import os
import resource
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from permil.engine import report_part
from permil.engine.threads import available_threads
from permil.errors import FlatError
from permil.products import atomic_output


@dataclass(frozen=True)
class SampleTask:
    """What a task of a test works on."""

    detector: str
    folder: Path
    deaths: int = 0


def square(number: int) -> int:
    return number * number


def sum_of_sines(seed: int) -> float:
    # The last bit of a sum of matrix products depends on the number of threads.
    matrix = np.random.default_rng(seed).normal(size=(300, 300))
    return float(np.linalg.svd(matrix @ matrix.T, compute_uv=False).sum())


def process_id(_: int) -> int:
    time.sleep(0.05)
    return os.getpid()


def threads(_: int) -> list[int]:
    """Return how many threads the numerical libraries of this process may use."""
    from threadpoolctl import threadpool_info

    return [entry["num_threads"] for entry in threadpool_info()]


def fresh_pages(_: int) -> int:
    """Use arrays of 2 MB one after the other; return how many pages of fresh memory that took."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(50):
        np.ones(1 << 18)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def what_was_loaded(_: int) -> tuple[bool, int]:
    """Return whether the worker began with the tasks in memory, and how many objects it shares with the server."""
    return "permil.flat.stage" in sys.modules, gc.get_freeze_count()


def allowed_threads(_: int) -> int:
    return available_threads()


def refuse(number: int) -> int:
    if number == 3:
        raise FlatError("the third is refused", remedy="leave it out", number=number)
    return number


class _StubbornError(Exception):
    def __init__(self, *, stream: object) -> None:
        self.stream = stream
        super().__init__("cannot travel")

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("not to be pickled")


def raise_what_cannot_travel(_: int) -> None:
    raise _StubbornError(stream=None)


def unpicklable_result(_: int) -> object:
    return lambda: None


def allocate(megabytes: int) -> int:
    return int(np.ones(megabytes * 2**17).sum())


def read_file(path: Path) -> int:
    return len(path.read_bytes())


def write_and_die(task: SampleTask) -> str:
    """Write a product; be killed in the middle of writing as often as the task says."""
    count = task.folder / f"{task.detector}.deaths"
    deaths = int(count.read_text()) if count.is_file() else 0
    with atomic_output(task.folder / f"{task.detector}.txt") as temporary, temporary.open("w") as stream:
        stream.write("first half, ")
        stream.flush()
        if deaths < task.deaths:
            count.write_text(str(deaths + 1))
            os.kill(os.getpid(), signal.SIGKILL)
        stream.write("second half")
    return task.detector


def wait_for_file(path: Path) -> float:
    """Wait until a file is there; return when that was."""
    while not path.is_file():
        time.sleep(0.01)
    return time.time()


def write_moment(path: Path) -> float:
    """Write a file; return a moment before."""
    moment = time.time()
    path.write_text("now")
    return moment


class _Deleted:
    """Says by a file that it is being deleted, and takes its time."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __del__(self) -> None:
        self.marker.write_text("now")
        time.sleep(1.0)


def delete_slowly(marker: Path) -> None:
    """Delete an object, during which exceptions are ignored, then run for long."""
    thing = _Deleted(marker)
    del thing
    time.sleep(60.0)


def wait_and_refuse(marker: Path) -> None:
    """Raise an error as soon as a file is there."""
    wait_for_file(marker)
    time.sleep(0.2)
    raise FlatError("enough", remedy="stop")


def work_on_either(task: tuple[str, Path]) -> None:
    """Do one of the two above."""
    name, marker = task
    {"delete": delete_slowly, "refuse": wait_and_refuse}[name](marker)


class _Interrupting:
    """Interrupts this process when it is deleted."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


def interrupt_while_deleting(_: int) -> None:
    """Delete an object, during which an interrupt comes."""
    thing = _Interrupting()
    del thing


def report_how_far(number: int) -> int:
    """Say twice how far the task is, at moments that are far enough from each other."""
    for part in (0.25, 0.75):
        time.sleep(0.6)
        report_part(part)
    return number


def report_at_once(number: int) -> int:
    """Say very often how far the task is."""
    for step in range(10_000):
        report_part(step / 10_000)
    return number
