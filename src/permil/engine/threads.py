"""Threads within a task: where there are fewer tasks than workers, a task may use the cores that would rest.

Only work whose result does not depend on the order of its parts is given to threads, so that the bits of a product are the same
whatever their number; those of numerical libraries stay at one (`permil.engine.call.one_thread`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

Argument = TypeVar("Argument")
Result = TypeVar("Result")

_THREADS: ContextVar[int] = ContextVar("threads", default=1)


def own_threads() -> int:
    """Return how many threads the task that asks may use."""
    return _THREADS.get()


@contextmanager
def allow_threads(number: int) -> Iterator[None]:
    """Let the task that runs within use a number of threads."""
    token = _THREADS.set(number)
    try:
        yield
    finally:
        _THREADS.reset(token)


def ahead(
    function: Callable[[Argument], Result], arguments: Iterable[Argument], *, threads: int, depth: int = 0
) -> Generator[Result]:
    """Yield what a function returns for each argument, in order, while threads already work on the next ones.

    Parameters
    ----------
    threads
        How many work, with the one that uses the results: so many calls less one are under way meanwhile; with 1 all is done in turn.
    depth
        Results that are made ahead, for one who uses several at a time; at least as many as there are threads.

    Raises
    ------
    Exception
        The error of the first call that fails, in the order of the arguments.
    """
    if threads == 1:
        yield from map(function, arguments)
        return
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for argument in arguments:
                waiting.append(pool.submit(function, argument))
                if len(waiting) == max(threads, depth):
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for left in waiting:
                left.cancel()


@contextmanager
def behind(threads: int) -> Iterator[Callable[[Callable[[], None]], None]]:
    """Give a function that makes calls in a thread of their own, behind the one who goes on; at the end all are done.

    One call is under way at a time: who asks for the next one waits for it, and gets its error. With one thread calls are made at once.
    """
    if threads == 1:
        yield lambda call: call()
        return
    waiting: list[Future[None]] = []
    with ThreadPoolExecutor(1) as pool:

        def later(call: Callable[[], None]) -> None:
            while waiting:
                waiting.pop().result()
            waiting.append(pool.submit(call))

        yield later
        while waiting:
            waiting.pop().result()
