"""Memory that a task has freed serves its next arrays.

The C library of GNU keeps freed memory by itself, more the larger the arrays are. Dask tells it otherwise in its workers
(``MALLOC_TRIM_THRESHOLD_``), so that they look small between tasks: then each array is fresh memory, and our tasks take up to half as
long again.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from functools import lru_cache

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameters of ``mallopt`` (malloc.h)."""
_LARGEST_KEPT = 32 << 20
"""Bytes of an array; to this value, and twice as much for the other, the library goes up by itself."""


@lru_cache(maxsize=1)
def keep_freed_memory() -> None:
    """Undo what Dask tells the C library; where there is no such library nothing happens."""
    if "MALLOC_TRIM_THRESHOLD_" not in os.environ:
        return
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT)
        mallopt(_TRIM_THRESHOLD, 2 * _LARGEST_KEPT)
