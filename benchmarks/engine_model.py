"""A model of a larger cluster: the engine's own order of tasks on a virtual clock, with task times that were measured."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from permil.engine import Call, Executor, Outcome, Task, Work, run_tasks


@dataclass(frozen=True)
class TaskTimes:
    """Seconds of one task of each kind; ``overhead`` is what each costs besides."""

    superbias: float
    beam: float
    signals: float
    solution: float
    flat: float
    composite: float
    overhead: float


class VirtualCluster(Executor):
    """Workers whose tasks take the seconds that are their arguments, of a clock that does not wait."""

    def __init__(self, workers: int, overhead: float) -> None:
        self.workers, self.overhead = workers, overhead
        self.now = 0.0
        self._ends: list[tuple[float, int, Call]] = []

    def has_capacity(self) -> bool:
        """Return whether a worker is idle."""
        return len(self._ends) < self.workers

    def begin(self, call: Call) -> None:
        """Let an idle worker begin now."""
        heapq.heappush(self._ends, (self.now + call.argument + self.overhead, call.number, call))

    def outcome(self) -> Outcome:
        """Let the clock go on to the next end of a task."""
        self.now, _, call = heapq.heappop(self._ends)
        return Outcome(call)

    def drop(self) -> None:
        """Forget what goes on."""
        self._ends.clear()

    def rest(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def campaign_seconds(times: TaskTimes, *, workers: int, detectors: int, leds: int, side_by_side: bool = True) -> float:
    """Return the modelled time of a campaign.

    Parameters
    ----------
    side_by_side
        Whether LEDs go side by side, as the engine lets them; else each kind of task waits for the last of the kind before.
    """
    cluster = VirtualCluster(workers, times.overhead)
    for stage in ([_task("superbias", [times.superbias] * detectors)], [_task("beam", [times.beam] * leds)]):
        run_tasks(stage, cluster, display=_silent, records=[])
    steps = {
        "signals": [times.signals] * detectors,
        "solution": [times.solution],
        "flat": [times.flat] * detectors,
        "composite": [times.composite] * detectors,
    }
    tasks: list[Task] = []
    if side_by_side:
        for led in range(leds):
            before: tuple[Task, ...] = ()
            for step, seconds in steps.items():
                tasks.append(_task(f"{step} {led}", seconds, before))
                before = (tasks[-1],)
    else:
        for step, seconds in steps.items():
            tasks.append(_task(step, seconds * leds, tuple(tasks[-1:])))
    run_tasks(tasks, cluster, display=_silent, records=[])
    return cluster.now


def _task(name: str, seconds: list[float], needs: tuple[Task, ...] = ()) -> Task:
    return Task((name,), name, lambda _: Work(abs, seconds, lambda _: ()), needs=needs)


@contextmanager
def _silent(_description: str, _total: int) -> Iterator[Callable[[float], None]]:
    yield _nothing


def _nothing(_: float) -> None:
    pass
