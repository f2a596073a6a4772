"""A worker process of this machine: takes calls from a pipe, sends back what became of them."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from types import FrameType

from permil.engine.call import THREAD_VARIABLES, run_measured
from permil.engine.parts import heard_by

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
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told where a person looks
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
