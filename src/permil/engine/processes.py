"""Worker processes on this machine; one that dies is replaced, and its call runs again."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import forkserver, parent_process, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any, Self

from permil.engine.call import THREAD_VARIABLES, Call, Outcome, run_measured
from permil.engine.executor import MOST_DEATHS, Executor
from permil.engine.parts import heard_by
from permil.errors import EngineError

_PRELOAD = ("permil.engine.preloaded",)
_SECONDS_TO_END = 5.0


@dataclass
class _Worker:
    """One process, the pipe to it, and the call it is at."""

    process: BaseProcess
    pipe: Connection
    call: Call | None = None


class LocalProcesses(Executor):
    """Up to ``workers`` processes, which begin when there is work for them."""

    def __init__(self, workers: int) -> None:
        self._most = workers
        self._workers: list[_Worker] = []
        self._again: deque[Call] = deque()
        self._deaths: dict[int, int] = {}

    @property
    def cores(self) -> int:
        """Cores that tasks may use together: one for each worker."""
        return self._most

    def __enter__(self) -> Self:
        """Let the libraries of the workers be loaded while there is no work yet."""
        start_server()
        return super().__enter__()

    def has_capacity(self) -> bool:
        """Return whether a worker is idle or may still be made."""
        return sum(worker.call is not None for worker in self._workers) + len(self._again) < self._most

    def begin(self, call: Call) -> None:
        """Give a call to an idle worker, or a new one."""
        idle = next((worker for worker in self._workers if worker.call is None), None)
        worker = idle or self._new_worker()
        worker.call = call
        try:
            # A worker that is dead already is noticed when its outcome is waited for.
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
        """End the workers, since they may be in the middle of a task."""
        self._again.clear()
        self._deaths.clear()
        for worker in self._workers:
            worker.process.terminate()
        self._join()

    def rest(self) -> None:
        """End the idle workers: what they keep in memory serves one kind of task."""
        self.close()

    def close(self) -> None:
        """Let the workers end by themselves."""
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
        """Return what a worker sends in the end; None if it tells how far it is, or died and its call runs again."""
        call = worker.call
        assert call is not None  # noqa: S101 - only busy workers are waited for
        try:
            kind, result, extra = worker.pipe.recv()
        except (EOFError, OSError):
            return self._died(worker, call)
        if kind == PART:
            self.hear_part(call, result)
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
            f"{call.label}: {deaths} worker processes died of this task, the last {_cause(worker.process.exitcode)}",
            remedy="see whether the memory suffices, or use fewer workers (pipeline.workers)",
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
    """Start the server of worker processes, where there is one, and do not wait until it has loaded its libraries."""
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
    # New processes inherit this, and libraries that count their threads when they are loaded see it in time.
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
    # An interrupt of the terminal reaches all processes; it is the main one that tells. New processes inherit that they wait with it,
    # until they have loaded what makes them ignore it. The tracker of resources, which comes first, would end this.
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
"""What a worker sends: the part of its call that is done; the result and what it cost; the error and where it happened."""

_SECONDS_TO_ELSEWHERE = 0.01


def work(pipe: Connection) -> None:
    """Do calls until the pipe ends."""
    # An interrupt of the terminal reaches all processes; it is the main one that decides. A request to end lets files be cleaned up.
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
        except Exception as error:  # noqa: BLE001 - a task that cannot be read here is the main process's to report
            pipe.send((ERROR, error, traceback.format_exc()))
            continue
        try:
            with heard_by(lambda part: pipe.send((PART, part, None))):
                result, measure = run_measured(function, argument, threads)
            pipe.send((RESULT, result, measure))
        except Exception as error:  # noqa: BLE001 - any error is reported to the user
            _send_error(pipe, error)


def _send_error(pipe: Connection, error: Exception) -> None:
    trace = traceback.format_exc()
    try:
        pipe.send((ERROR, error, trace))
    except Exception:  # noqa: BLE001 - an error that cannot travel is told in words
        pipe.send((ERROR, RuntimeError(f"{type(error).__name__}: {error}"), trace))


def _end(_signal: int, _frame: FrameType | None) -> None:
    sys.exit(128 + signal.SIGTERM)


def _end_elsewhere(dropped: sys.UnraisableHookArgs) -> None:
    """Ask again for the end where it came upon code from which no exception can leave."""
    if dropped.exc_type is SystemExit:
        signal.setitimer(signal.ITIMER_REAL, _SECONDS_TO_ELSEWHERE)
    else:
        sys.__unraisablehook__(dropped)


def _end_with_parent() -> None:
    """End this process when the main one is gone, however it went."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
