"""The kernels of one level of instructions after the other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from permil import _kernels

LEVELS = _kernels.levels()


@contextmanager
def kernels_of(level: str) -> Iterator[None]:
    """Use the kernels of a level."""
    _kernels.use_level(level)
    try:
        yield
    finally:
        _kernels.use_level(LEVELS[-1])
