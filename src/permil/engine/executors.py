"""Executors of this machine: the main process itself, and worker processes, which are replaced when they die."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import forkserver, parent_process, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from types import FrameType, TracebackType
from typing import Any, Self

from permil.engine.call import THREAD_VARIABLES, Call, Outcome, measured, reports_to, run_measured
from permil.engine.threads import one_thread
from permil.errors import EngineError

MOST_DEATHS = 3
"""Number of workers that may die of one task before the task fails."""


def _ignore_part(_: Call, __: float) -> None:
    """Ignore a progress report."""


class Executor(ABC):
    """Interface of executors, which run calls.

    Used by one thread: `begin` calls while it `has_capacity`, and take each `outcome` as it comes. An executor is a context manager, which
    holds its workers.

    Attributes
    ----------
    receive_part
        Called with a running call and its completed fraction (0 to 1), by executors that receive progress reports.
    """

    receive_part: Callable[[Call, float], None] = staticmethod(_ignore_part)

    @property
    def cores(self) -> int:
        """Number of cores that can be shared between tasks."""
        return 1

    @abstractmethod
    def has_capacity(self) -> bool:
        """Return whether another call may begin."""

    @abstractmethod
    def begin(self, call: Call) -> None:
        """Accept a call, which runs now or later."""

    @abstractmethod
    def outcome(self) -> Outcome:
        """Wait until a call has ended and return its outcome, which contains errors of the task."""

    @abstractmethod
    def drop(self) -> None:
        """Forget all calls that have not ended, after an error."""

    def rest(self) -> None:  # noqa: B027 - an executor need not have any
        """Release the resources of idle workers; called when no calls are left."""

    def close(self) -> None:  # noqa: B027 - an executor need not have any
        """End the workers."""

    def __enter__(self) -> Self:
        """Return the executor itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Drop remaining calls after an error, and end the workers."""
        if error is not None:
            self.drop()
        self.close()


class InProcess(Executor):
    """Run tasks in the main process, one after the other."""

    def __init__(self) -> None:
        self._calls: deque[Call] = deque()

    def has_capacity(self) -> bool:
        """Return whether no call is waiting."""
        return not self._calls

    def begin(self, call: Call) -> None:
        """Accept a call."""
        self._calls.append(call)

    def outcome(self) -> Outcome:
        """Run the waiting call; errors of the task are raised directly."""
        call = self._calls.popleft()
        with one_thread(), reports_to(lambda part: self.receive_part(call, part)):
            result, measure = measured(call.function, call.argument)
        return Outcome(call, result, measure)

    def drop(self) -> None:
        """Forget the waiting call."""
        self._calls.clear()


_PRELOAD = ("permil.engine.preloaded",)
_SECONDS_TO_END = 5.0


@dataclass
class _Worker:
    """One process, the pipe to it, and its current call."""

    process: BaseProcess
    pipe: Connection
    call: Call | None = None


class LocalProcesses(Executor):
    """Up to ``workers`` processes, started when there are calls for them."""

    def __init__(self, workers: int) -> None:
        self._most = workers
        self._workers: list[_Worker] = []
        self._again: deque[Call] = deque()
        self._deaths: dict[int, int] = {}

    @property
    def cores(self) -> int:
        """Number of cores that can be shared between tasks: one per worker."""
        return self._most

    def __enter__(self) -> Self:
        """Start to load the libraries of the workers."""
        start_server()
        return super().__enter__()

    def has_capacity(self) -> bool:
        """Return whether a worker is idle or can be started."""
        return sum(worker.call is not None for worker in self._workers) + len(self._again) < self._most

    def begin(self, call: Call) -> None:
        """Send a call to an idle or new worker."""
        idle = next((worker for worker in self._workers if worker.call is None), None)
        worker = idle or self._new_worker()
        worker.call = call
        try:
            # A dead worker is noticed while waiting for its outcome.
            with suppress(OSError):
                worker.pipe.send((call.function, call.argument, call.threads))
        except BaseException:
            worker.call = None
            raise

    def outcome(self) -> Outcome:
        """Wait for a worker; replace those that died."""
        while True:
            while self._again:
                self.begin(self._again.popleft())
            busy = {worker.pipe: worker for worker in self._workers if worker.call is not None}
            for pipe in wait(list(busy)):
                outcome = self._receive(busy[pipe])  # type: ignore[index]
                if outcome is not None:
                    return outcome

    def drop(self) -> None:
        """Terminate the workers, which may be in the middle of a task."""
        self._again.clear()
        self._deaths.clear()
        for worker in self._workers:
            worker.process.terminate()
        self._join()

    def rest(self) -> None:
        """End the idle workers, whose memory holds data of one kind of task."""
        self.close()

    def close(self) -> None:
        """Close the pipes, which ends the workers."""
        for worker in self._workers:
            worker.pipe.close()
        self._join()
        self._deaths.clear()

    def _join(self) -> None:
        for worker in self._workers:
            worker.process.join(_SECONDS_TO_END)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.pipe.close()
        self._workers.clear()

    def _receive(self, worker: _Worker) -> Outcome | None:
        """Return the outcome from a worker; None for a progress report, or if it died and its call runs again."""
        call = worker.call
        assert call is not None  # noqa: S101 - only busy workers are waited for
        try:
            kind, result, extra = worker.pipe.recv()
        except (EOFError, OSError):
            return self._died(worker, call)
        if kind == PART:
            self.receive_part(call, result)
            return None
        worker.call = None
        deaths = self._deaths.pop(call.number, 0)
        if kind == RESULT:
            return Outcome(call, result, extra, deaths=deaths)
        result.add_note(f"in a worker process:\n{extra}")
        return Outcome(call, error=result, deaths=deaths)

    def _died(self, worker: _Worker, call: Call) -> Outcome | None:
        self._remove(worker)
        deaths = self._deaths.get(call.number, 0) + 1
        if deaths < MOST_DEATHS:
            self._deaths[call.number] = deaths
            self._again.append(call)
            return None
        self._deaths.pop(call.number, None)
        error = EngineError(
            f"{call.label}: {deaths} worker processes died during this task, the last {_cause(worker.process.exitcode)}",
            remedy="check the memory, or use fewer workers (pipeline.workers)",
            task=call.label,
            deaths=deaths,
        )
        return Outcome(call, error=error, deaths=deaths)

    def _remove(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        worker.pipe.close()
        worker.process.join(_SECONDS_TO_END)

    def _new_worker(self) -> _Worker:
        context = _context()
        ours, theirs = context.Pipe()
        with _one_thread_each(), _deaf_to_interrupts():
            process = context.Process(target=work, args=(theirs,), daemon=True)  # type: ignore[attr-defined]
            process.start()
        theirs.close()
        worker = _Worker(process, ours)
        self._workers.append(worker)
        return worker


def start_server() -> None:
    """Start the server of worker processes, if the system has one, without waiting for its libraries."""
    if _context().get_start_method() == "forkserver":
        with _one_thread_each(), _deaf_to_interrupts():
            forkserver.ensure_running()


def _context() -> BaseContext:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(_PRELOAD))
    return context


@contextmanager
def _one_thread_each() -> Iterator[None]:
    # New processes inherit the variables before they load numerical libraries.
    saved = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, before in saved.items():
            if before is None:
                del os.environ[name]
            else:
                os.environ[name] = before


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    # An interrupt from the terminal reaches all processes, but only the main one reacts. New processes inherit the blocked signal until
    # they ignore it. The resource tracker unblocks it and is therefore started before.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _cause(exitcode: Any) -> str:
    if exitcode is not None and exitcode < 0:
        name = signal.Signals(-exitcode).name
        return f"by signal {name}" + (" (the system's answer to too little memory)" if name == "SIGKILL" else "")
    return f"with exit code {exitcode}"


PART, RESULT, ERROR = "part", "result", "error"
"""Messages of a worker: completed fraction of its call; result and measure; error and traceback."""

_SECONDS_TO_ELSEWHERE = 0.01


def work(pipe: Connection) -> None:
    """Run calls until the pipe is closed."""
    # An interrupt from the terminal reaches all processes, but only the main one reacts. SIGTERM allows temporary files to be removed.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGALRM, _end)
    sys.unraisablehook = _end_elsewhere
    for name in THREAD_VARIABLES:
        os.environ[name] = "1"
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            function, argument, threads = pipe.recv()
        except (EOFError, OSError):
            return
        except Exception as error:  # noqa: BLE001 - the main process reports a task that cannot be unpickled
            pipe.send((ERROR, error, traceback.format_exc()))
            continue
        try:
            with reports_to(lambda part: pipe.send((PART, part, None))):
                result, measure = run_measured(function, argument, threads)
            pipe.send((RESULT, result, measure))
        except Exception as error:  # noqa: BLE001 - any error is reported to the user
            _send_error(pipe, error)


def _send_error(pipe: Connection, error: Exception) -> None:
    trace = traceback.format_exc()
    try:
        pipe.send((ERROR, error, trace))
    except Exception:  # noqa: BLE001 - an error that cannot be pickled is sent as text
        pipe.send((ERROR, RuntimeError(f"{type(error).__name__}: {error}"), trace))


def _end(_signal: int, _frame: FrameType | None) -> None:
    sys.exit(128 + signal.SIGTERM)


def _end_elsewhere(dropped: sys.UnraisableHookArgs) -> None:
    """Request the exit again after code that swallowed it."""
    if dropped.exc_type is SystemExit:
        signal.setitimer(signal.ITIMER_REAL, _SECONDS_TO_ELSEWHERE)
    else:
        sys.__unraisablehook__(dropped)


def _end_with_parent() -> None:
    """End this process when the main process has ended for any reason."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
