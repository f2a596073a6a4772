"""Chains of batches: each batch of a chain needs the one before, chains need nothing of each other.

A chain is a generator: it yields a `Batch` and is given its results. While one chain waits for a long task, the workers do the batches of
others, so that no worker rests as long as there is anything that can be done.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import Any, TypeVar

from permil.engine.call import Call, label
from permil.engine.executor import Executor
from permil.engine.interrupt import raise_if_interrupted
from permil.engine.session import BatchRecord

Result = TypeVar("Result")
Display = Callable[[str, int], AbstractContextManager[Callable[[float], None]]]
"""Given a description and a number of tasks, shows them as long as it is entered; yields what to call with how many are done."""


@dataclass(frozen=True)
class Batch:
    """Tasks of one kind that need nothing of each other."""

    function: Callable[[Any], Any]
    tasks: Sequence[Any]
    description: str


Chain = Generator[Batch, list[Any], Result]
"""What yields batches, is sent the results of each in the order of its tasks, and returns something in the end."""


@dataclass
class _Link:
    """The batch that a chain waits for."""

    chain: int
    batch: Batch
    waiting: deque[Call]
    results: dict[int, Any]
    record: BatchRecord
    reached: Callable[[float], None]
    stack: ExitStack
    parts: dict[int, float] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        return len(self.results) == len(self.batch.tasks)

    def tell(self) -> None:
        """Tell how many tasks are done, parts of those that run included."""
        self.reached(len(self.results) + sum(self.parts.values()))


class _Weaver:
    """Takes the calls of several chains to one executor."""

    def __init__(self, chains: Sequence[Chain[Any]], executor: Executor, display: Display, records: list[BatchRecord]) -> None:
        self.chains, self.executor, self.display, self.records = chains, executor, display, records
        self.returned: dict[int, Any] = {}
        self.links: dict[int, _Link] = {}
        self.begun: dict[int, tuple[_Link, int]] = {}
        self.numbers = 0
        executor.hear_part = self._hear_part

    def run(self) -> list[Any]:
        for number in range(len(self.chains)):
            self._next_batch(number, None)
            # What the executor can begin at once need not wait until all chains have said what they want.
            self._begin_calls()
        while self.links:
            raise_if_interrupted()
            self._begin_calls()
            self._take_outcome()
        return [self.returned[number] for number in range(len(self.chains))]

    def _next_batch(self, number: int, results: list[Any] | None) -> None:
        """Give a chain its results and take its next batch that has any tasks."""
        chain = self.chains[number]
        while True:
            try:
                batch = next(chain) if results is None else chain.send(results)
            except StopIteration as end:
                self.returned[number] = end.value
                return
            if batch.tasks:
                break
            results = []
        record = BatchRecord(batch.description)
        self.records.append(record)
        calls: deque[Call] = deque()
        stack = ExitStack()
        reached = stack.enter_context(self.display(batch.description, len(batch.tasks)))
        link = _Link(number, batch, calls, {}, record, reached, stack)
        # Tasks of other chains that wait or run want cores as well.
        threads = max(1, self.executor.cores // (len(self.begun) + len(batch.tasks)))
        for place, task in enumerate(batch.tasks):
            name = label(task) or f"{place + 1} of {len(batch.tasks)}"
            call = Call(self.numbers, batch.function, task, f"{batch.description}, {name}", number, threads)
            self.begun[call.number] = (link, place)
            self.numbers += 1
            calls.append(call)
        self.links[number] = link

    def _begin_calls(self) -> None:
        while self.executor.has_capacity():
            link = next((self.links[number] for number in sorted(self.links) if self.links[number].waiting), None)
            if link is None:
                return
            self.executor.begin(link.waiting.popleft())

    def _take_outcome(self) -> None:
        outcome = self.executor.outcome()
        if outcome.error is not None:
            raise outcome.error
        link, place = self.begun.pop(outcome.call.number)
        link.results[place] = outcome.result
        link.parts.pop(place, None)
        link.record.add(outcome)
        link.tell()
        if link.is_complete:
            del self.links[link.chain]
            link.stack.close()
            self._next_batch(link.chain, [link.results[place] for place in range(len(link.batch.tasks))])

    def _hear_part(self, call: Call, part: float) -> None:
        link, place = self.begun[call.number]
        link.parts[place] = part
        link.tell()

    def close(self) -> None:
        for link in self.links.values():
            link.stack.close()
        for chain in self.chains:
            chain.close()


def run_chains(
    chains: Sequence[Chain[Result]], executor: Executor, *, display: Display, records: list[BatchRecord]
) -> list[Result]:
    """Run chains to their ends; tasks of earlier chains go first.

    Parameters
    ----------
    chains
        Generators, see `Chain`.
    display
        Shows how far each batch is.
    records
        To which the cost of each batch is added.

    Returns
    -------
    list
        What each chain returned.

    Raises
    ------
    Exception
        The first error of any task or chain; what has not begun is dropped then.
    """
    weaver = _Weaver(chains, executor, display, records)
    try:
        returned = weaver.run()
    except BaseException:
        executor.drop()
        raise
    finally:
        weaver.close()
    executor.rest()
    return returned
