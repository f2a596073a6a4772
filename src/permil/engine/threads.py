"""Threads within a task: with fewer tasks than workers, a task may use the idle cores.

Threads only compute results that do not depend on their order, so that the bits of a product are the same for any number of threads;
numerical libraries use one thread (`one_thread`).
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

Argument = TypeVar("Argument")
Result = TypeVar("Result")

_THREADS: ContextVar[int] = ContextVar("threads", default=1)


def available_threads() -> int:
    """Return the number of threads that the running task may use."""
    return _THREADS.get()


@contextmanager
def allow_threads(number: int) -> Iterator[None]:
    """Set the number of threads of the task in this context."""
    token = _THREADS.set(number)
    try:
        yield
    finally:
        _THREADS.reset(token)


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit numerical libraries to one thread.

    There is one worker per core, so that more threads would wait for each other, and the order of sums, hence the last bit, depends on
    the number of threads. Public functions do the same for themselves (as a decorator): on a busy machine, threads that wait for each
    other take twenty times as long.
    """
    with _libraries(len(sys.modules)).limit(limits=1):
        yield


@lru_cache(maxsize=1)
def _libraries(_n_modules: int) -> ThreadpoolController:
    """Return the libraries with threads; the search, which takes milliseconds, is repeated after more modules have been loaded."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def threaded_map(
    function: Callable[[Argument], Result], arguments: Iterable[Argument], *, depth: int = 0, most: int = 0
) -> Generator[Result]:
    """Yield the results of a function for each argument, in order, while the threads of the running task compute the next ones.

    With one thread all calls are made in turn. Calls in threads share the remaining threads of the task.

    Parameters
    ----------
    depth
        Number of results computed ahead, for a caller that uses several at a time; at least the number of threads.
    most
        Number of calls at a time; 0 for the number of threads.

    Raises
    ------
    Exception
        The error of the first call that fails, in the order of the arguments.
    """
    available = available_threads()
    threads = min(available, most or available)
    if threads == 1:
        yield from map(function, arguments)
        return

    def call(argument: Argument) -> Result:
        with allow_threads(available // threads):
            return function(argument)

    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for argument in arguments:
                waiting.append(pool.submit(call, argument))
                if len(waiting) == max(threads, depth):
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for left in waiting:
                left.cancel()


@contextmanager
def background_calls() -> Iterator[Callable[[Callable[[], None]], None]]:
    """Yield a function that runs calls in a background thread; all calls have ended when the context ends.

    One call runs at a time: the next one waits for it, and raises its error. If the task has one thread, calls are made directly.
    """
    if available_threads() == 1:
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
