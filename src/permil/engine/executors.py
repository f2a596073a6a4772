"""What an executor is, and the simplest one: this process."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Self

from permil.engine.call import Call, Outcome, measured, one_thread
from permil.engine.parts import heard_by

MOST_DEATHS = 3
"""Workers that may die of one task before it is the task's fault."""


def _hear_nothing(_: Call, __: float) -> None:
    """Hear nothing."""


class Executor(ABC):
    """Whoever does the tasks.

    Used by one thread: `begin` calls as long as it `has_capacity`, take each `outcome` as it comes. An executor is a context: it holds
    workers from entering to leaving it.

    Attributes
    ----------
    hear_part
        Called with a call that runs and the part of it that is done (0 to 1), by executors that hear it.
    """

    hear_part: Callable[[Call, float], None] = staticmethod(_hear_nothing)

    @property
    def cores(self) -> int:
        """Cores that tasks may use together, as far as they can be shared out."""
        return 1

    @abstractmethod
    def has_capacity(self) -> bool:
        """Return whether another call may begin."""

    @abstractmethod
    def begin(self, call: Call) -> None:
        """Take a call; it runs now or later."""

    @abstractmethod
    def outcome(self) -> Outcome:
        """Wait until some call has ended and return what became of it; errors of tasks are in the outcome."""

    @abstractmethod
    def drop(self) -> None:
        """Forget all calls that have not ended, after an error."""

    def rest(self) -> None:  # noqa: B027 - an executor need not have any
        """Give back what idle workers hold; called when no call is left for now."""

    def close(self) -> None:  # noqa: B027 - an executor need not have any
        """Let the workers go."""

    def __enter__(self) -> Self:
        """Return the executor itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Drop what is left and let the workers go."""
        if error is not None:
            self.drop()
        self.close()


class InProcess(Executor):
    """The main process itself, one task after the other."""

    def __init__(self) -> None:
        self._calls: deque[Call] = deque()

    def has_capacity(self) -> bool:
        """Return whether no call waits."""
        return not self._calls

    def begin(self, call: Call) -> None:
        """Take a call."""
        self._calls.append(call)

    def outcome(self) -> Outcome:
        """Do the call that waits; an error of the task is raised where it happens."""
        call = self._calls.popleft()
        with one_thread(), heard_by(lambda part: self.hear_part(call, part)):
            result, measure = measured(call.function, call.argument)
        return Outcome(call, result, measure)

    def drop(self) -> None:
        """Forget the call that waits."""
        self._calls.clear()
