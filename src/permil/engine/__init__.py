"""Tasks on the cores of this machine or of a cluster: executors behind one interface, chains of batches, what the work cost.

A task is a function that can be imported by its name, with one argument that can be pickled. Every task is idempotent: it writes its
product atomically, so that one whose worker died can simply run again.
"""

from permil.engine.call import Call, Outcome
from permil.engine.chains import Batch, Chain, run_chains
from permil.engine.choose import make_executor, prepare_workers
from permil.engine.errors import EngineError
from permil.engine.executor import Executor, InProcess
from permil.engine.parts import tell_part
from permil.engine.processes import LocalProcesses
from permil.engine.session import Session, current_session, session
from permil.engine.threads import ahead, behind, own_threads

__all__ = [
    "Batch",
    "Call",
    "Chain",
    "EngineError",
    "Executor",
    "InProcess",
    "LocalProcesses",
    "Outcome",
    "Session",
    "ahead",
    "behind",
    "current_session",
    "make_executor",
    "own_threads",
    "prepare_workers",
    "run_chains",
    "session",
    "tell_part",
]
