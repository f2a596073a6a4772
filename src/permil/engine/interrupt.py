"""An interrupt is not lost.

It is an exception at whatever line the main thread happens to be, and code that drops all exceptions (look-ups of attributes in compiled
libraries do) drops this one too, or prints it where none can leave (when objects are deleted). So it is noted as well, and raised again
before the next task.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

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
