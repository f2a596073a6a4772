"""The executor that the work of a run goes to, and the record of what it cost."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from permil.engine.call import Outcome
from permil.engine.executor import Executor
from permil.engine.interrupt import noted_interrupts


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
