"""Memory for large arrays that is used again: fresh memory costs as much time as filling it.

An array of `ArrayPool` is an ordinary array. When nobody refers to it nor to a part of it any more, its memory is free for the next one;
nobody has to give it back.
"""

from __future__ import annotations

from collections import defaultdict
from math import prod
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

_Memory = NDArray[np.uint8]


class ArrayPool:
    """Memory that is used again, by any thread; what is free is given up with this object."""

    def __init__(self) -> None:
        self._free: dict[int, list[_Memory]] = defaultdict(list)

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Return an array that is still to be filled."""
        kind = np.dtype(dtype)
        size = prod(shape) * kind.itemsize
        free = self._free[size]
        try:
            memory = free.pop()
        except IndexError:
            memory = np.empty(size, dtype=np.uint8)
        return np.asarray(_Tenant(memory, free)).view(kind).reshape(shape)


class _Tenant:
    """Stands behind an array and all of its parts, and goes with the last of them."""

    def __init__(self, memory: _Memory, free: list[_Memory]) -> None:
        self.__array_interface__ = memory.__array_interface__
        self._memory, self._free = memory, free

    def __del__(self) -> None:
        self._free.append(self._memory)
