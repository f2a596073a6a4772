"""Random generators with seeds independent of the order of work: NumPy's, and a compiled generator of normals.

The latter (``_kernels/randoms.hpp``) is a ziggurat of 256 layers (Marsaglia & Tsang 2000, J. Stat. Softw. 5, 8; layer constants after
Doornik 2005) on xoshiro256++ (Blackman & Vigna 2021, ACM Trans. Math. Softw. 47, 36). A bench draws several 10^9 normals; compiled
loops need a quarter of the time of `numpy.random.Generator`.
"""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray


def _spawn_key(names: tuple[str | int, ...]) -> tuple[int, ...]:
    return tuple(zlib.crc32(name.encode()) if isinstance(name, str) else name for name in names)


def generator(seed: int, *names: str | int) -> np.random.Generator:
    """Return the generator with a name, for example ``generator(seed, "prnu", "R22_S11", "red")``.

    The same seed and names give the same numbers, independent of all other draws and of the number of workers.
    """
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=_spawn_key(names))))


def normal_state(seed: int, *names: str | int) -> NDArray[np.uint64]:
    """Return the initial state, shape (4,), of the compiled generator of normals; kernels advance it."""
    return np.random.SeedSequence(seed, spawn_key=_spawn_key(names)).generate_state(4, np.uint64).astype(np.uint64)
