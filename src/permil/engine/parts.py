"""How far a task is: it says so while it runs, and whoever shows the progress hears it.

A listener belongs to the process, not to a thread: a task may say it from any thread of its own, and a process does one task at a time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_SECONDS_BETWEEN = 0.5


class _Listener:
    """Who hears the task that runs now."""

    def __init__(self) -> None:
        self.hear: Callable[[float], None] | None = None
        self.heard = 0.0
        self.lock = threading.Lock()


_LISTENER = _Listener()


def tell_part(part: float) -> None:
    """Say which part of the task that runs is done, from 0 to 1; it may be said as often as one likes."""
    with _LISTENER.lock:
        now = time.monotonic()
        if _LISTENER.hear is not None and now - _LISTENER.heard > _SECONDS_BETWEEN:
            _LISTENER.heard = now
            _LISTENER.hear(part)


@contextmanager
def heard_by(hear: Callable[[float], None]) -> Iterator[None]:
    """Let someone hear the task that runs within."""
    with _LISTENER.lock:
        before, _LISTENER.hear = _LISTENER.hear, hear
        # Of a task that takes no longer than that nobody wants to know.
        _LISTENER.heard = time.monotonic()
    try:
        yield
    finally:
        with _LISTENER.lock:
            _LISTENER.hear = before
