"""What this process has used so far: bytes read, peak memory."""

from __future__ import annotations

import contextlib
import resource
import sys
import threading
from pathlib import Path

_COUNTERS = Path("/proc/self/io")
_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_FORGET_PEAK = "5"
"""What the Linux kernel takes as: reset the peak of resident memory (proc(5))."""


class _Mapped:
    """Bytes of files that were looked at in memory, which the system does not count as read."""

    def __init__(self) -> None:
        self.count = 0
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        with self._lock:
            self.count += count


_MAPPED = _Mapped()


def count_mapped(count: int) -> None:
    """Count bytes of a file that is mapped into memory as read."""
    _MAPPED.add(count)


def bytes_read() -> int:
    """Return the bytes that this process has taken from files, from disk or from the page cache.

    Where the system does not tell, only those of `count_mapped` are counted.
    """
    try:
        lines = _COUNTERS.read_text(encoding="ascii").splitlines()
    except OSError:
        lines = []
    return _MAPPED.count + int(next((line.split()[1] for line in lines if line.startswith("rchar")), 0))


def peak_memory() -> int:
    """Return the most memory (bytes) that this process held, since `forget_peak` where the system can forget."""
    try:
        lines = _STATUS.read_text(encoding="ascii").splitlines()
    except OSError:
        lines = []
    kilobytes = next((line.split()[1] for line in lines if line.startswith("VmHWM")), None)
    if kilobytes is not None:
        return 1024 * int(kilobytes)
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else 1024 * largest


def forget_peak() -> None:
    """Let the peak of memory begin anew, where the system can do that."""
    with contextlib.suppress(OSError):
        _CLEAR.write_text(_FORGET_PEAK, encoding="ascii")
