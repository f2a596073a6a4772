"""Tasks on the cores of this machine or of a cluster: declared with what they need, run by executors behind one interface.

Every call is idempotent: it writes its product atomically, so that one whose worker died can simply run again.
"""

from permil.engine.call import Call, Outcome
from permil.engine.executor import Executor, InProcess
from permil.engine.parts import tell_part
from permil.engine.processes import LocalProcesses
from permil.engine.session import Session, current_session, make_executor, prepare_workers, session
from permil.engine.task import End, Ends, State, Task, Work, needs_first, run_tasks
from permil.engine.threads import ahead, behind, own_threads

__all__ = [
    "Call",
    "End",
    "Ends",
    "Executor",
    "InProcess",
    "LocalProcesses",
    "Outcome",
    "Session",
    "State",
    "Task",
    "Work",
    "ahead",
    "behind",
    "current_session",
    "make_executor",
    "needs_first",
    "own_threads",
    "prepare_workers",
    "run_tasks",
    "session",
    "tell_part",
]
