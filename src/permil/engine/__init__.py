"""Tasks on the cores of this machine or of a cluster: declared with their dependencies, run by executors with one interface.

Every call is idempotent: it writes its product atomically, and can run again if its worker died.
"""

from permil.engine.call import Call, Outcome, report_part
from permil.engine.executors import Executor, InProcess, LocalProcesses
from permil.engine.session import Session, current_session, make_executor, prepare_workers, session
from permil.engine.task import MEMORY_OF_PROCESS, End, Ends, State, Task, Work, needs_first, run_tasks
from permil.engine.threads import background_calls, threaded_map

__all__ = [
    "MEMORY_OF_PROCESS",
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
    "background_calls",
    "current_session",
    "make_executor",
    "needs_first",
    "prepare_workers",
    "report_part",
    "run_tasks",
    "session",
    "threaded_map",
]
