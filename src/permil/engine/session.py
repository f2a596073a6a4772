"""The executor of a run: which one, what goes to it, what that cost, and that an interrupt is not lost."""

from __future__ import annotations

import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from permil.config.pipeline import PipelineConfig
from permil.engine.call import Outcome
from permil.engine.executor import Executor, InProcess
from permil.engine.processes import LocalProcesses, start_server


@dataclass
class BatchRecord:
    """What a batch of tasks cost.

    Attributes
    ----------
    seconds
        From the begin of the batch to its last outcome.
    task_seconds, cpu_seconds, bytes_read
        Sums over the tasks.
    own_cpu_seconds, own_bytes_read
        The part of these that this process did.
    peak_bytes
        The most memory that one process held during a task.
    restarted
        Tasks that ran again because their worker died, counted as often as that happened.
    file_warnings
        Sentences of each `FileWarning`, in the order of the tasks that ended.
    """

    description: str
    tasks: int = 0
    seconds: float = 0.0
    task_seconds: float = 0.0
    cpu_seconds: float = 0.0
    bytes_read: int = 0
    own_cpu_seconds: float = 0.0
    own_bytes_read: int = 0
    peak_bytes: int = 0
    restarted: int = 0
    workers: set[tuple[str, int]] = field(default_factory=set)
    file_warnings: list[str] = field(default_factory=list)
    _begin: float = field(default_factory=time.perf_counter)

    def add(self, outcome: Outcome) -> None:
        """Count one task."""
        self.tasks += 1
        self.restarted += outcome.deaths
        self.seconds = time.perf_counter() - self._begin
        measure = outcome.measure
        if measure is None:
            return
        self.task_seconds += measure.seconds
        self.cpu_seconds += measure.cpu_seconds
        self.bytes_read += measure.bytes_read
        self.peak_bytes = max(self.peak_bytes, measure.peak_bytes)
        self.workers.add((measure.host, measure.process))
        self.file_warnings += measure.file_warnings
        if (measure.host, measure.process) == (platform.node(), os.getpid()):
            self.own_cpu_seconds += measure.cpu_seconds
            self.own_bytes_read += measure.bytes_read


@dataclass
class Session:
    """An executor and what was done with it since the last look at ``records``; it does one set of tasks at a time."""

    executor: Executor
    records: list[BatchRecord] = field(default_factory=list)
    is_busy: bool = False

    def take_records(self) -> list[BatchRecord]:
        """Return the records since the last time."""
        taken, self.records = self.records, []
        return taken


_SESSION: ContextVar[Session | None] = ContextVar("session", default=None)


def current_session() -> Session | None:
    """Return the session that work goes to; None outside of a run."""
    return _SESSION.get()


@contextmanager
def session(executor: Executor) -> Iterator[Session]:
    """Let all work within the context go to an executor."""
    opened = Session(executor)
    with noted_interrupts(), executor:
        token = _SESSION.set(opened)
        try:
            yield opened
        finally:
            _SESSION.reset(token)


def prepare_workers(options: PipelineConfig) -> None:
    """Let the libraries of worker processes of this machine, where a configuration asks for any, be loaded from now on."""
    if options.jobs.system == "none" and not options.scheduler and options.workers != 1:
        start_server()


def make_executor(options: PipelineConfig, *, workers: int, folder: Path, tell: Callable[[str], None]) -> Executor:
    """Return the executor: jobs of a batch system, a Dask cluster, processes of this machine, or this process.

    Parameters
    ----------
    options
        Section ``pipeline``.
    workers
        Processes on this machine.
    folder
        Of the run.
    tell
        Called with what a person should know of the workers.

    Raises
    ------
    EngineError
        If there are no workers to be had.
    """
    # Dask takes a second to load: it is loaded only where it is asked for.
    if options.jobs.system != "none":
        from permil.engine.cluster import JobCluster

        return JobCluster(options.jobs, folder=folder, tell=tell)
    if options.scheduler:
        from permil.engine.cluster import DaskCluster

        return DaskCluster(options.scheduler, folder=folder, tell=tell)
    return LocalProcesses(workers) if workers > 1 else InProcess()


_RECEIVED = threading.Event()


@contextmanager
def noted_interrupts() -> Iterator[None]:
    """Note interrupts; where they are ignored, or someone else handles them, nothing changes."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _note)
    hook = sys.unraisablehook

    def tell_others(dropped: sys.UnraisableHookArgs) -> None:
        if dropped.exc_type is not KeyboardInterrupt:
            hook(dropped)

    sys.unraisablehook = tell_others
    try:
        yield
    finally:
        sys.unraisablehook = hook
        signal.signal(signal.SIGINT, before)
        _RECEIVED.clear()


def raise_if_interrupted() -> None:
    """Raise the interrupt that was noted.

    Raises
    ------
    KeyboardInterrupt
        If there was one.
    """
    if _RECEIVED.is_set():
        raise KeyboardInterrupt


def _note(_signal: int, _frame: FrameType | None) -> None:
    _RECEIVED.set()
    raise KeyboardInterrupt
