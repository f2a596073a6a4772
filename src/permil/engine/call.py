"""A call of a task in a worker: how it runs, its reports of progress, and its costs in time, bytes read and memory."""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from permil.engine.threads import allow_threads, one_thread
from permil.errors import FileWarning

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Environment variables from which numerical libraries take the number of their threads when they are loaded."""

_ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True)
class Call:
    """A function and its argument; lower ``rank`` runs first, ``label`` names the task in messages, ``threads`` is its limit of threads."""

    number: int
    function: Callable[[Any], Any]
    argument: Any
    label: str
    rank: int = 0
    threads: int = 1


@dataclass(frozen=True)
class Measure:
    """Host and process of a task, and its costs.

    ``peak_bytes`` is the peak memory of the process during the task, ``file_warnings`` are the messages of each `FileWarning`.
    """

    host: str
    process: int
    seconds: float
    cpu_seconds: float
    bytes_read: int
    peak_bytes: int
    file_warnings: tuple[str, ...] = ()

    @property
    def is_own(self) -> bool:
        """Whether it ran in this process."""
        return (self.host, self.process) == (platform.node(), os.getpid())


@dataclass(frozen=True)
class Outcome:
    """The outcome of a call: its result and measure, or its error; ``deaths`` is the number of workers that died of it."""

    call: Call
    result: Any = None
    measure: Measure | None = None
    error: BaseException | None = None
    deaths: int = 0


def label(argument: object) -> str:
    """Return a name for a task from its argument: detector, LED, band, file."""
    if isinstance(argument, str | Path):
        return str(argument)
    parts = [getattr(argument, name, None) for name in ("detector", "led", "band", "path")]
    return " ".join(str(part) for part in parts if part)


def run_measured(function: Callable[[Any], Any], argument: object, threads: int = 1) -> tuple[Any, Measure]:
    """Run and measure a task in a worker: one at a time in this process, numerical libraries on one thread."""
    with _ONE_AT_A_TIME, one_thread(), allow_threads(threads):
        forget_peak()
        return measured(function, argument)


def measured(function: Callable[[Any], Any], argument: object) -> tuple[Any, Measure]:
    """Run and measure a task; warnings about files are recorded, other warnings are shown after it has ended."""
    begin, cpu, read = time.perf_counter(), time.process_time(), bytes_read()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", FileWarning)
        result = function(argument)
    of_files = [warning for warning in caught if issubclass(warning.category, FileWarning)]
    for warning in caught:
        if warning not in of_files:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    measure = Measure(
        host=platform.node(),
        process=os.getpid(),
        seconds=time.perf_counter() - begin,
        cpu_seconds=time.process_time() - cpu,
        bytes_read=bytes_read() - read,
        peak_bytes=peak_memory(),
        file_warnings=tuple(dict.fromkeys(str(warning.message) for warning in of_files)),
    )
    return result, measure


_COUNTERS = Path("/proc/self/io")
_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_FORGET_PEAK = "5"
"""Command to the Linux kernel to reset the peak of resident memory (proc(5))."""


class _Mapped:
    """Bytes of memory-mapped files, which the system does not count as read."""

    def __init__(self) -> None:
        self.count = 0
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        with self._lock:
            self.count += count


_MAPPED = _Mapped()


def count_mapped(count: int) -> None:
    """Count bytes of a file that is mapped into memory as read."""
    _MAPPED.add(count)


def bytes_read() -> int:
    """Return the bytes that this process has read from files, on disk or in the page cache.

    If the system has no such counter, only the bytes of `count_mapped` are included.
    """
    try:
        lines = _COUNTERS.read_text(encoding="ascii").splitlines()
    except OSError:
        lines = []
    return _MAPPED.count + int(next((line.split()[1] for line in lines if line.startswith("rchar")), 0))


def peak_memory() -> int:
    """Return the peak memory of this process in bytes, since `forget_peak` if the system supports it."""
    try:
        lines = _STATUS.read_text(encoding="ascii").splitlines()
    except OSError:
        lines = []
    kilobytes = next((line.split()[1] for line in lines if line.startswith("VmHWM")), None)
    if kilobytes is not None:
        return 1024 * int(kilobytes)
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else 1024 * largest


def forget_peak() -> None:
    """Reset the peak of memory if the system supports it."""
    with contextlib.suppress(OSError):
        _CLEAR.write_text(_FORGET_PEAK, encoding="ascii")


_SECONDS_BETWEEN = 0.5


class _Receiver:
    """The receiver of progress reports of the running task.

    It belongs to the process, not to a thread: a task may report from any of its threads, and a process runs one task at a time.
    """

    def __init__(self) -> None:
        self.receive: Callable[[float], None] | None = None
        self.last_time = 0.0
        self.lock = threading.Lock()


_RECEIVER = _Receiver()


def report_part(part: float) -> None:
    """Report the completed fraction of the running task, from 0 to 1; rate-limited."""
    with _RECEIVER.lock:
        now = time.monotonic()
        if _RECEIVER.receive is not None and now - _RECEIVER.last_time > _SECONDS_BETWEEN:
            _RECEIVER.last_time = now
            _RECEIVER.receive(part)


@contextmanager
def reports_to(receive: Callable[[float], None]) -> Iterator[None]:
    """Receive the progress reports of the task that runs in this context."""
    with _RECEIVER.lock:
        before, _RECEIVER.receive = _RECEIVER.receive, receive
        # Short tasks do not report.
        _RECEIVER.last_time = time.monotonic()
    try:
        yield
    finally:
        with _RECEIVER.lock:
            _RECEIVER.receive = before
