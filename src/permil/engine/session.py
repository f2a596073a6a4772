"""The session of a run: its executor, the costs of calls, and the handling of interrupts."""

from __future__ import annotations

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

from permil.config.model import PipelineConfig
from permil.engine.call import Measure, Outcome
from permil.engine.executors import Executor, InProcess, LocalProcesses, start_server


@dataclass
class CallCosts:
    """Costs of the calls with one description.

    Attributes
    ----------
    seconds
        Time from the start of the first call to the last outcome.
    restarted
        Number of repeated calls after the death of a worker.
    """

    description: str
    seconds: float = 0.0
    restarted: int = 0
    measures: list[Measure] = field(default_factory=list)
    _begin: float = field(default_factory=time.perf_counter)

    def start(self) -> None:
        """Note the start of the first call."""
        if not self.measures:
            self._begin = time.perf_counter()

    def add(self, outcome: Outcome) -> None:
        """Add the outcome of a call."""
        self.restarted += outcome.deaths
        self.seconds = time.perf_counter() - self._begin
        if outcome.measure is not None:
            self.measures.append(outcome.measure)

    @property
    def file_warnings(self) -> list[str]:
        """Messages of each `FileWarning`, in the order in which calls ended."""
        return [sentence for measure in self.measures for sentence in measure.file_warnings]


@dataclass
class Session:
    """An executor and the costs of its calls since ``records`` was last taken; it runs one set of tasks at a time."""

    executor: Executor
    records: list[CallCosts] = field(default_factory=list)
    is_busy: bool = False

    def take_records(self) -> list[CallCosts]:
        """Return and clear the records."""
        taken, self.records = self.records, []
        return taken


_SESSION: ContextVar[Session | None] = ContextVar("session", default=None)


def current_session() -> Session | None:
    """Return the current session; None outside of a run."""
    return _SESSION.get()


@contextmanager
def session(executor: Executor) -> Iterator[Session]:
    """Use an executor for all calls in this context."""
    opened = Session(executor)
    with noted_interrupts(), executor:
        token = _SESSION.set(opened)
        try:
            yield opened
        finally:
            _SESSION.reset(token)


def prepare_workers(options: PipelineConfig) -> None:
    """Start to load the libraries of worker processes on this machine, if the configuration uses any."""
    if options.jobs.system == "none" and not options.scheduler and options.workers != 1:
        start_server()


def make_executor(options: PipelineConfig, *, workers: int, folder: Path, show: Callable[[str], None]) -> Executor:
    """Return the executor: jobs of a batch system, a Dask cluster, processes of this machine, or this process.

    Parameters
    ----------
    options
        Section ``pipeline``.
    workers
        Processes on this machine.
    folder
        Folder of the run.
    show
        Called with messages about the workers.

    Raises
    ------
    EngineError
        If no workers are available.
    """
    # Dask takes a second to load and is loaded on demand.
    if options.jobs.system != "none":
        from permil.engine.cluster import JobCluster

        return JobCluster(options.jobs, folder=folder, show=show)
    if options.scheduler:
        from permil.engine.cluster import DaskCluster

        return DaskCluster(options.scheduler, folder=folder, show=show)
    return LocalProcesses(workers) if workers > 1 else InProcess()


_RECEIVED = threading.Event()


@contextmanager
def noted_interrupts() -> Iterator[None]:
    """Record interrupts, unless they are ignored or handled elsewhere."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _note)
    hook = sys.unraisablehook

    def pass_others(dropped: sys.UnraisableHookArgs) -> None:
        if dropped.exc_type is not KeyboardInterrupt:
            hook(dropped)

    sys.unraisablehook = pass_others
    try:
        yield
    finally:
        sys.unraisablehook = hook
        signal.signal(signal.SIGINT, before)
        _RECEIVED.clear()


def raise_if_interrupted() -> None:
    """Raise a recorded interrupt.

    Raises
    ------
    KeyboardInterrupt
        If an interrupt was recorded.
    """
    if _RECEIVED.is_set():
        raise KeyboardInterrupt


def _note(_signal: int, _frame: FrameType | None) -> None:
    _RECEIVED.set()
    raise KeyboardInterrupt
