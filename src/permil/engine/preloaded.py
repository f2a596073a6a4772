"""What the server of worker processes loads once, so that its copies, the workers, begin with everything in memory.

Nothing else imports this module.
"""

from __future__ import annotations

import gc
from importlib import import_module

_MODULES = (
    "permil.cli",  # the main module of a run, which each worker would load again
    "permil.flat.stage",  # the tasks, with all numerical libraries
    "astropy.io.misc.yaml",  # what the first table that is read would load
)


def _load() -> None:
    for name in _MODULES:
        import_module(name)


gc.disable()
try:
    _load()
    # What is loaded stays shared with the workers as long as they do not look through it for garbage.
    gc.freeze()
finally:
    gc.enable()
