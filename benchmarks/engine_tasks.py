"""Tasks of the benchmark of the engine, in a module that loads quickly in a worker."""

from __future__ import annotations

import time

TIMES_READ = 80


def compute(passes: int) -> tuple[float, float]:
    """Keep one core busy with work that no memory and no disk delays; return a number and the processor's seconds."""
    begin = time.process_time()
    state = 1
    for _ in range(passes):
        state = state * 48271 % 2147483647
    return float(state), time.process_time() - begin


def nothing(_: int) -> None:
    """Do nothing: all its time is overhead."""


def read_often(path: str) -> float:
    """Read and assemble a raw file `TIMES_READ` times, a tenth of the work of the smallest task of a full-size CCD; return its mean."""
    import numpy as np

    from permil.camera import shared_camera
    from permil.exposures import assemble, read_raw

    camera = shared_camera("lsstcam-bin8")
    return float(np.mean([assemble(read_raw(path, camera)).mean(dtype=np.float64) for _ in range(TIMES_READ)]))
