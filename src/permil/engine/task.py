"""Declared tasks, with dependencies, relevant options, products and function, and the loop that runs them.

Order, skipping, single commands, estimate, progress and costs follow from the declarations. Decisions that depend on the products of
earlier tasks, such as the exposures of a solution, are made when a task begins (`Task.work`).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from permil.engine.call import Call, label
from permil.engine.executors import Executor
from permil.engine.session import CallCosts, raise_if_interrupted
from permil.errors import InputError, PermilError
from permil.products import fingerprint, is_current, source_fingerprint

Key = tuple[str, ...]
Display = Callable[[str, int], AbstractContextManager[Callable[[float], None]]]
"""Takes a description and a number of calls and shows their progress in its context; yields a function of the number of completed calls."""

MEMORY_OF_PROCESS = 300e6
"""Memory of a process before it has data, bytes."""


class State(Enum):
    """Final states of a task."""

    CURRENT = "its products were up to date"
    DONE = "its products were made"
    EMPTY = "there was nothing to do"
    FAILED = "its inputs are faulty"
    DROPPED = "a task that it needs failed"


def _messages(results: list[Any]) -> list[str]:
    """Return the messages from all calls of a task; each returns a list or None."""
    return [sentence for sentences in results for sentence in sentences or []]


@dataclass(frozen=True)
class Work:
    """Independent calls of a function.

    Attributes
    ----------
    function
        Importable by its name, since workers are separate processes. A call is repeated if its worker dies.
    arguments
        One picklable argument per call.
    finish
        Called in the main process with the results in the order of the arguments; returns messages for the user.
    """

    function: Callable[[Any], Any]
    arguments: Sequence[Any]
    finish: Callable[[list[Any]], Sequence[str]] = _messages

    @classmethod
    def here(cls, function: Callable[[], Sequence[str]]) -> Work:
        """Return work for the main process; the function returns messages for the user."""
        return cls(str, (), lambda _: function())


@dataclass(frozen=True, eq=False)
class Task:
    """Products that are made together, and all their dependencies.

    Attributes
    ----------
    key
        Kind and unique name of the task: ``("flat", "red", "R22_S11")``.
    description
        Title of this and similar tasks in progress and costs.
    work
        Called with the task, whose needs are those with existing products; returns its work, or None if there is nothing to do.
    outputs, pending
        Products with the fingerprint of the task; temporary place of the product until another task moves it.
    options, facts
        Options of the configuration that affect the products, with their values (`permil.context.Run.options`); other facts, as JSON.
    files, products
        Input files: identified by size and modification time, or by the fingerprint in a product of permil.
    needs, after
        Tasks whose products are used; tasks that must have succeeded, but whose products are not used.
    tolerant
        Whether the task runs without failed needs, as long as one is left.
    leaves_out
        Errors of the inputs for which the products of this task are left out; any other error ends the run.
    command
        Arguments of the command for this task: ``("beam", "--led", "red")``; empty if there is none.
    seconds, size, is_serial, memory
        Estimates: processor time of one core, bytes of the products, whether additional cores are of no use, and peak memory of a
        process, bytes.
    """

    key: Key
    description: str
    work: Callable[[Task], Work | None]
    outputs: tuple[Path, ...] = ()
    pending: Path | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    facts: Any = None
    files: Sequence[str | Path] = ()
    products: Sequence[Path] = ()
    needs: tuple[Task, ...] = ()
    after: tuple[Task, ...] = ()
    tolerant: bool = False
    leaves_out: tuple[type[PermilError], ...] = ()
    command: tuple[str, ...] = ()
    seconds: float = 0.0
    size: float = 0.0
    is_serial: bool = False
    memory: float = MEMORY_OF_PROCESS

    @cached_property
    def fingerprint(self) -> str:
        """Digest of all dependencies of the products."""
        content = {"key": self.key, "options": dict(self.options), "facts": self.facts}
        upstream = [*(need.fingerprint for need in self.needs), *map(source_fingerprint, self.products)]
        return fingerprint(content, files=self.files, upstream=upstream)

    @property
    def is_current(self) -> bool:
        """Whether the products exist and have the fingerprint of the task."""
        if not self.outputs or any(need.is_pending for need in self.needs):
            return False
        if self.is_pending:
            return True
        return all(is_current(path, self.fingerprint) for path in self.outputs)

    @property
    def is_pending(self) -> bool:
        """Whether the product waits in its temporary place for the task that moves it."""
        return self.pending is not None and is_current(self.pending, self.fingerprint)


@dataclass(frozen=True)
class End:
    """End of a task: the task with its available needs, state, messages for the user, and the error if it failed or was dropped."""

    task: Task
    state: State
    messages: Sequence[str] = ()
    error: PermilError | None = None

    @property
    def is_there(self) -> bool:
        """Whether the products exist."""
        return self.state in (State.CURRENT, State.DONE)


Ends = dict[Key, End]
"""Ends of tasks by key, in the order of declaration."""


@dataclass
class _CallGroup:
    """Progress and costs of the calls with one description; shown and timed from the start of the first call."""

    record: CallCosts
    display: AbstractContextManager[Callable[[float], None]]
    stack: ExitStack = field(default_factory=ExitStack)
    reached: Callable[[float], None] | None = None
    done: int = 0
    parts: dict[int, float] = field(default_factory=dict)

    def begin(self) -> None:
        """Show the group, unless it is shown already."""
        if self.reached is None:
            self.record.start()
            self.reached = self.stack.enter_context(self.display)

    def show_progress(self) -> None:
        """Show the number of completed calls, including fractions of running ones."""
        if self.reached is not None:
            self.reached(self.done + sum(self.parts.values()))


@dataclass
class _Opened:
    """A task in progress."""

    task: Task
    work: Work
    group: _CallGroup
    rank: int
    waiting: deque[int]
    results: dict[int, Any] = field(default_factory=dict)


class _Loop:
    """Passes tasks to an executor when their needs have ended."""

    def __init__(self, tasks: Sequence[Task], executor: Executor, display: Display, records: list[CallCosts]) -> None:
        self.tasks, self.executor, self.display, self.records = tasks, executor, display, records
        self.ranks = {task.key: rank for rank, task in enumerate(tasks)}
        self.waiting = list(tasks)
        self.ends: Ends = {}
        self.groups: dict[str, _CallGroup] = {}
        self.recorded: dict[str, CallCosts] = {}
        self.opened: list[_Opened] = []
        self.running: dict[int, tuple[_Opened, int]] = {}
        self.unopened = 0
        self.numbers = 0
        executor.receive_part = self._receive_part

    def run(self) -> Ends:
        while self.waiting or self.opened:
            self._open_ready()
            if not self.opened:
                continue
            raise_if_interrupted()
            self._begin_calls()
            self._take_outcome()
        return {task.key: self.ends[task.key] for task in self.tasks}

    def _open_ready(self) -> None:
        """Open the tasks whose needs have all ended."""
        ready, tasks, self.waiting = [], self.waiting, []
        for task in tasks:
            if any(need.key in self.ranks and need.key not in self.ends for need in (*task.after, *task.needs)):
                self.waiting.append(task)
            elif isinstance(found := self._resolve(task), End):
                self.ends[task.key] = found
            else:
                ready.append(found)
        self.unopened = len(ready)
        # Waiting tasks of the same description are shown together with those that begin now.
        totals = Counter(task.description for task in (*ready, *self.waiting))
        for task in ready:
            self._open(task, totals[task.description])
            # The executor begins calls before all tasks are open.
            self._begin_calls()

    def _resolve(self, task: Task) -> Task | End:
        """Return a task with its available needs, or its end if it is current or dropped."""
        ends = [self._end_of(need) for need in (*task.after, *task.needs)]
        there = [end.task for end in ends[len(task.after) :] if end.is_there]
        lost = [end for number, end in enumerate(ends) if not end.is_there and not (task.tolerant and number >= len(task.after))]
        if lost or (task.needs and not there):
            first = next((end.error for end in (*lost, *ends) if end.error is not None), None)
            return End(task, State.DROPPED, error=first)
        if there != list(task.needs):
            task = replace(task, needs=tuple(there))
        return End(task, State.CURRENT) if task.is_current else task

    def _end_of(self, need: Task) -> End:
        """Return the end of a need; one outside this set of tasks must be up to date."""
        if need.key not in self.ends:
            found = self._resolve(need)
            self.ends[need.key] = found if isinstance(found, End) else _require_nothing(found)
        return self.ends[need.key]

    def _open(self, task: Task, total: int) -> None:
        self.unopened -= 1
        try:
            work = task.work(task)
        except task.leaves_out as error:
            self._fail(task, error)
            return
        if work is None:
            self.ends[task.key] = End(task, State.EMPTY)
        elif not work.arguments:
            self._finish(task, work, [])
        else:
            group = self.groups.get(task.description) or self._new_group(task.description, total - 1 + len(work.arguments))
            self.opened.append(_Opened(task, work, group, self.ranks[task.key], deque(range(len(work.arguments)))))
            self.opened.sort(key=lambda opened: opened.rank)

    def _new_group(self, description: str, total: int) -> _CallGroup:
        record = self.recorded.get(description)
        if record is None:
            record = self.recorded[description] = CallCosts(description)
            self.records.append(record)
        group = self.groups[description] = _CallGroup(record, self.display(description, total))
        return group

    def _begin_calls(self) -> None:
        while self.executor.has_capacity():
            opened = next((opened for opened in self.opened if opened.waiting), None)
            if opened is None:
                return
            # Cores are shared with waiting and running calls.
            calls = len(self.running) + sum(len(each.waiting) for each in self.opened) + self.unopened
            threads = max(1, self.executor.cores // calls)
            place = opened.waiting.popleft()
            opened.group.begin()
            task, argument = opened.task, opened.work.arguments[place]
            name = label(argument) or f"{place + 1} of {len(opened.work.arguments)}"
            function = partial(_attempt, opened.work.function, task.leaves_out) if task.leaves_out else opened.work.function
            call = Call(self.numbers, function, argument, f"{task.description}, {name}", opened.rank, threads)
            self.numbers += 1
            self.running[call.number] = opened, place
            self.executor.begin(call)

    def _take_outcome(self) -> None:
        outcome = self.executor.outcome()
        if outcome.error is not None:
            raise outcome.error
        opened, place = self.running.pop(outcome.call.number)
        group = opened.group
        opened.results[place] = outcome.result
        group.parts.pop(outcome.call.number, None)
        group.done += 1
        group.record.add(outcome)
        group.show_progress()
        if len(opened.results) < len(opened.work.arguments):
            return
        self.opened.remove(opened)
        description = opened.task.description
        if not any(task.description == description for task in (*self.waiting, *(each.task for each in self.opened))):
            group.stack.close()
            del self.groups[description]
        self._finish(opened.task, opened.work, [opened.results[number] for number in range(len(opened.results))])

    def _finish(self, task: Task, work: Work, results: list[Any]) -> None:
        errors = [result for result in results if isinstance(result, task.leaves_out)]
        if errors:
            self._fail(task, errors[0])
            return
        try:
            self.ends[task.key] = End(task, State.DONE, work.finish(results))
        except task.leaves_out as error:
            self._fail(task, error)

    def _fail(self, task: Task, error: PermilError) -> None:
        # Products of an earlier run must not be mistaken for those of these inputs.
        for path in task.outputs:
            path.unlink(missing_ok=True)
        self.ends[task.key] = End(task, State.FAILED, error=error)

    def _receive_part(self, call: Call, part: float) -> None:
        opened, _ = self.running[call.number]
        opened.group.parts[call.number] = part
        opened.group.show_progress()

    def close(self) -> None:
        for group in self.groups.values():
            group.stack.close()


def _attempt(function: Callable[[Any], Any], errors: tuple[type[PermilError], ...], argument: object) -> Any:
    """Return the result of a function, or its error if it is one of the given kinds."""
    try:
        return function(argument)
    except errors as error:
        return error


def _require_nothing(task: Task) -> End:
    """Return the end of a task outside this set that is not up to date, if there is nothing to do.

    Raises
    ------
    InputError
        If there is work to do; the error names the command.
    """
    if task.work(task) is None:
        return End(task, State.EMPTY)
    name = " ".join(task.key)
    stage, *arguments = task.command or ("run",)
    raise InputError(
        f"{name}: this product is missing or out of date",
        remedy=f"run `{' '.join(('permil', stage, 'CONFIG', *arguments))}` first",
        task=name,
    )


def run_tasks(tasks: Sequence[Task], executor: Executor, *, display: Display, records: list[CallCosts]) -> Ends:
    """Run the tasks that are not up to date; earlier ones have priority.

    Parameters
    ----------
    tasks
        Declared tasks. Other tasks that they need must be up to date.
    display
        Shows the progress of the calls of each description.
    records
        List to which the costs of the calls of each description are added.

    Raises
    ------
    InputError
        If another task that is needed is not up to date.
    Exception
        The first error of a call that does not leave a product out; other calls are dropped.
    """
    loop = _Loop(tasks, executor, display, records)
    try:
        ends = loop.run()
    except BaseException:
        executor.drop()
        raise
    finally:
        loop.close()
    executor.rest()
    return ends


def needs_first(tasks: Sequence[Task]) -> list[Task]:
    """Return tasks and all their needs, each once and after its own needs."""
    ordered: dict[Key, Task] = {}

    def add(task: Task) -> None:
        if task.key not in ordered:
            for need in (*task.after, *task.needs):
                add(need)
            ordered[task.key] = task

    for task in tasks:
        add(task)
    return list(ordered.values())
