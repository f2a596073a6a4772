"""Modules that the server of worker processes loads once, so that they are in the memory of every worker from its start.

No other module imports this one.
"""

from __future__ import annotations

import gc
from importlib import import_module

_MODULES = (
    "permil.cli",  # the main module of a run
    "permil.flat.stage",  # the tasks, with all numerical libraries
    "astropy.io.misc.yaml",  # needed to read the first table
    "scipy.stats",  # needed by solutions and comparisons, not by commands
)


def _load() -> None:
    for name in _MODULES:
        import_module(name)


gc.disable()
try:
    _load()
    # Loaded modules remain shared with the workers if they are excluded from garbage collection.
    gc.freeze()
finally:
    gc.enable()
