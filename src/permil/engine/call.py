"""One task: the call, and what it cost where it ran."""

from __future__ import annotations

import os
import platform
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from permil.engine.threads import allow_threads
from permil.engine.usage import bytes_read, forget_peak, peak_memory
from permil.errors import FileWarning

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""What numerical libraries look at, when they are loaded, for the number of their threads."""

_ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True)
class Call:
    """A function and its argument; a lower ``rank`` goes first, ``label`` names the task to people, it may use ``threads``."""

    number: int
    function: Callable[[Any], Any]
    argument: Any
    label: str
    rank: int = 0
    threads: int = 1


@dataclass(frozen=True)
class Measure:
    """Where a task ran, and what it took.

    ``peak_bytes`` is the most memory that its process held during the task, ``file_warnings`` are the sentences of each `FileWarning`.
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
    """What became of a call: its result and measure, or its error; ``deaths`` are workers that died of it."""

    call: Call
    result: Any = None
    measure: Measure | None = None
    error: BaseException | None = None
    deaths: int = 0


def label(argument: object) -> str:
    """Return a name for a task by what its argument says of itself: detector, LED, band, file."""
    parts = [getattr(argument, name, None) for name in ("detector", "led", "band", "path")]
    words = [str(part) for part in parts if part]
    if isinstance(argument, str | Path):
        words = [str(argument)]
    return " ".join(words)


def run_measured(function: Callable[[Any], Any], argument: object, threads: int = 1) -> tuple[Any, Measure]:
    """Run a task in a worker: one at a time in this process, numerical libraries on one thread, measured."""
    with _ONE_AT_A_TIME, one_thread(), allow_threads(threads):
        forget_peak()
        return measured(function, argument)


def measured(function: Callable[[Any], Any], argument: object) -> tuple[Any, Measure]:
    """Run a task and measure it; what it warns of files is taken down, other warnings are shown when it is done."""
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


@contextmanager
def one_thread() -> Iterator[None]:
    """Hold the threads of numerical libraries at one.

    Workers are one per core, so that more threads would wait for each other; and the order of sums, with it the last bit, depends on
    their number.
    """
    with _libraries(len(sys.modules)).limit(limits=1):
        yield


@lru_cache(maxsize=1)
def _libraries(_n_modules: int) -> ThreadpoolController:
    """Return the libraries that have threads; they are looked for, which takes milliseconds, when more modules have been loaded."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
