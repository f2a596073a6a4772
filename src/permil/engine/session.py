"""The executor of a run: which one, what goes to it, what that cost, and that an interrupt is not lost."""

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
from permil.engine.executor import Executor, InProcess
from permil.engine.processes import LocalProcesses, start_server


@dataclass
class CallCosts:
    """What the calls of one description cost.

    Attributes
    ----------
    seconds
        From the begin of the first call to the last outcome.
    restarted
        Calls that were made again because their worker died, counted as often as that happened.
    """

    description: str
    seconds: float = 0.0
    restarted: int = 0
    measures: list[Measure] = field(default_factory=list)
    _begin: float = field(default_factory=time.perf_counter)

    def add(self, outcome: Outcome) -> None:
        """Count one call."""
        self.restarted += outcome.deaths
        self.seconds = time.perf_counter() - self._begin
        if outcome.measure is not None:
            self.measures.append(outcome.measure)

    @property
    def file_warnings(self) -> list[str]:
        """Sentences of each `FileWarning`, in the order of the calls that ended."""
        return [sentence for measure in self.measures for sentence in measure.file_warnings]


@dataclass
class Session:
    """An executor and what was done with it since the last look at ``records``; it does one set of tasks at a time."""

    executor: Executor
    records: list[CallCosts] = field(default_factory=list)
    is_busy: bool = False

    def take_records(self) -> list[CallCosts]:
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
