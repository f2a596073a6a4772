"""Declared tasks: their order, what is up to date, what is left out, and how they share the workers."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.table import Table
from hypothesis import given
from hypothesis import strategies as st

from permil.engine import Executor, InProcess, LocalProcesses, State, Task, Work, needs_first, run_tasks, session
from permil.errors import FlatError, InputError
from permil.products import write_table
from permil.progress import do_tasks, parallel_map

from . import sample_tasks


def _call(name: str, function: Callable[[Any], Any], arguments: Sequence[Any], **more: Any) -> Task:
    """Return a task without products that calls a function."""
    return Task((name,), name, lambda _: Work(function, arguments, lambda results: [str(results)]), **more)


def _writing(path: Path, log: list[str], **more: Any) -> Task:
    """Return a task that writes a table with its fingerprint and logs that it did."""

    def write(task: Task) -> Sequence[str]:
        table = Table({"x": [len(task.needs)]})
        table.meta = {"fingerprint": task.fingerprint}
        write_table(path, table)
        log.append(path.stem)
        return ()

    declared = Task((path.stem,), path.stem, lambda task: Work.here(lambda: write(task)), outputs=(path,), **more)
    return replace(declared, command=("make", path.stem))


@pytest.mark.parametrize("executor", [InProcess(), LocalProcesses(2)], ids=["here", "processes"])
def test_a_task_begins_with_what_its_needs_have_made(executor: Executor) -> None:
    squares: dict[str, list[int]] = {}

    def keep(name: str, results: list[int]) -> Sequence[str]:
        squares[name] = results
        return [f"{name}: {sum(results)}"]

    first = Task(("squares",), "squares", lambda _: Work(sample_tasks.square, [1, 2, 3], partial(keep, "squares")))
    second = Task(
        ("fourth powers",),
        "fourth powers",
        lambda _: Work(sample_tasks.square, squares["squares"], partial(keep, "fourth powers")),
        needs=(first,),
    )
    with session(executor) as opened:
        # The order of the list does not matter.
        ends = do_tasks([second, first])
        assert [(record.description, len(record.measures)) for record in opened.records] == [("squares", 3), ("fourth powers", 3)]
    assert list(ends["fourth powers",].messages) == ["fourth powers: 98"]
    assert [end.state for end in ends.values()] == [State.DONE, State.DONE]


def test_a_task_without_calls_is_done_at_once() -> None:
    none = _call("none", sample_tasks.square, [])
    one = _call("one", sample_tasks.square, [3], needs=(none,))
    ends = do_tasks([none, one])
    assert [list(end.messages) for end in ends.values()] == [["[]"], ["[9]"]]
    assert do_tasks([]) == {}


def test_a_task_that_waits_leaves_the_workers_to_others(tmp_path: Path) -> None:
    # The first task ends only when a task that needs another one has run.
    marker = tmp_path / "marker"
    long = _call("long", sample_tasks.wait_for_file, [marker])
    before = _call("before", sample_tasks.square, [1, 2])
    after = _call("after", sample_tasks.write_moment, [marker], needs=(before,))
    with session(LocalProcesses(2)):
        ends = do_tasks([long, before, after])
    seen, written = (float(ends[name,].messages[0].strip("[]")) for name in ("long", "after"))
    assert seen >= written


def test_an_error_ends_all_and_names_itself() -> None:
    refused = _call("refused", sample_tasks.refuse, list(range(8)))
    later = _call("later", sample_tasks.square, [1], needs=(refused,))
    with session(LocalProcesses(2)), pytest.raises(FlatError, match="refused"):
        do_tasks([_call("patient", sample_tasks.square, list(range(100))), refused, later])


def test_an_error_at_the_begin_of_a_task_is_raised() -> None:
    def work(_: Task) -> Work:
        raise FlatError("the declaration breaks")

    with session(LocalProcesses(2)), pytest.raises(FlatError, match="the declaration breaks"):
        do_tasks([_call("one", sample_tasks.square, [1]), Task(("broken",), "broken", work)])


def test_work_within_a_task_does_not_meet_the_tasks_of_the_run() -> None:
    def inner() -> list[str]:
        return [str(parallel_map(sample_tasks.square, [1, 4, 9], workers=2, description="inner"))]

    tasks = [Task((name,), "outer", lambda _: Work.here(inner)) for name in "ab"]
    with session(LocalProcesses(2)):
        ends = do_tasks(tasks)
    assert [list(end.messages) for end in ends.values()] == [["[1, 16, 81]"]] * 2


@pytest.fixture
def _interrupts_handled() -> Iterator[None]:
    """Handle interrupts as in a terminal, also where the tests run in the background and they are ignored."""
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_interrupts_handled")
@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupt_that_is_dropped_ends_the_run_all_the_same(workers: int) -> None:
    done: list[object] = []

    def work(_: Task) -> Work:
        # What compiled libraries do with an exception during a look-up of an attribute.
        with suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        return Work(sample_tasks.square, [1], lambda results: done.append(results) or ())

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), session(LocalProcesses(workers) if workers > 1 else InProcess()):
        do_tasks([Task(("one",), "one", work)])
    assert done == []
    assert signal.getsignal(signal.SIGINT) is before
    with session(InProcess()):
        assert parallel_map(sample_tasks.square, [1, 2], workers=1, description="squares") == [1, 4]


@pytest.mark.usefixtures("_interrupts_handled")
def test_an_interrupt_while_an_object_is_deleted_is_not_lost_and_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt), session(InProcess()):
        parallel_map(sample_tasks.interrupt_while_deleting, [1, 2], workers=1, description="interrupted")
    assert "Traceback" not in capfd.readouterr().err


def test_only_what_depends_on_a_change_is_made_again(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.write_text("one")

    def made(option: int) -> list[str]:
        log: list[str] = []
        bias = _writing(tmp_path / "bias.ecsv", log, files=(raw,))
        beam = _writing(tmp_path / "beam.ecsv", log, options={"option": option}, needs=(bias,))
        flat = _writing(tmp_path / "flat.ecsv", log, needs=(beam,), after=(bias,))
        do_tasks([flat, beam, bias])
        return log

    assert made(1) == ["bias", "beam", "flat"]
    assert made(1) == []
    assert made(2) == ["beam", "flat"]
    raw.write_text("other")
    assert made(2) == ["bias", "beam", "flat"]
    (tmp_path / "beam.ecsv").unlink()
    assert made(2) == ["beam"]


def test_a_product_may_wait_in_another_place(tmp_path: Path) -> None:
    log: list[str] = []
    task = _writing(tmp_path / "waiting.ecsv", log)
    do_tasks([task])
    moved = replace(task, outputs=(tmp_path / "final.ecsv",), pending=tmp_path / "waiting.ecsv")
    assert moved.is_current
    (tmp_path / "waiting.ecsv").rename(tmp_path / "final.ecsv")
    assert moved.is_current


def _failing(path: Path) -> Task:
    """Return a task whose inputs are at fault, and which leaves its product out."""
    work = Work(sample_tasks.refuse, [3])
    return Task((path.stem,), path.stem, lambda _: work, outputs=(path,), leaves_out=(FlatError,))


def test_what_needs_a_failed_task_is_dropped_and_others_go_on(tmp_path: Path) -> None:
    log: list[str] = []
    stale = tmp_path / "bad.ecsv"
    stale.write_text("of an earlier run")
    bad, good = _failing(stale), _writing(tmp_path / "good.ecsv", log)
    strict = _writing(tmp_path / "strict.ecsv", log, needs=(bad, good))
    tolerant = _writing(tmp_path / "tolerant.ecsv", log, needs=(bad, good), tolerant=True)
    alone = _writing(tmp_path / "alone.ecsv", log, needs=(bad,), tolerant=True)
    later = _writing(tmp_path / "later.ecsv", log, needs=(good,), after=(bad,), tolerant=True)
    ends = do_tasks([bad, good, strict, tolerant, alone, later])
    assert [end.state for end in ends.values()] == [
        State.FAILED,
        State.DONE,
        State.DROPPED,
        State.DONE,
        State.DROPPED,
        State.DROPPED,
    ]
    assert str(ends["strict",].error) == str(ends["bad",].error) == "the third is refused; leave it out"
    # It must not be taken for what these inputs make.
    assert not stale.exists()
    assert log == ["good", "tolerant"]
    assert ends["tolerant",].task.needs == (good,)
    # The same again, whether what failed is declared or not.
    again = do_tasks([_writing(tmp_path / "tolerant.ecsv", log, needs=(good,), tolerant=True)])
    assert [end.state for end in again.values()] == [State.CURRENT]


def test_a_task_may_find_nothing_to_do(tmp_path: Path) -> None:
    log: list[str] = []
    nothing = Task(("nothing",), "nothing", lambda _: None, outputs=(tmp_path / "nothing.ecsv",))
    good = _writing(tmp_path / "good.ecsv", log)
    tolerant = _writing(tmp_path / "tolerant.ecsv", log, needs=(nothing, good), tolerant=True)
    strict = _writing(tmp_path / "strict.ecsv", log, needs=(nothing,))
    ends = do_tasks([nothing, good, tolerant, strict])
    assert [end.state for end in ends.values()] == [State.EMPTY, State.DONE, State.DONE, State.DROPPED]
    assert ends["strict",].error is None
    # The need that made nothing counts no more where it is not done now.
    assert do_tasks([tolerant])["tolerant",].state == State.CURRENT


def test_a_need_that_is_not_done_now_must_be_up_to_date(tmp_path: Path) -> None:
    log: list[str] = []
    bias = _writing(tmp_path / "bias.ecsv", log)
    beam = _writing(tmp_path / "beam.ecsv", log, needs=(bias,))
    flat = _writing(tmp_path / "flat.ecsv", log, needs=(beam,))
    # What must be made first is named first.
    with pytest.raises(InputError, match=r"bias: this product is missing.*run `permil make CONFIG bias` first"):
        do_tasks([flat])
    do_tasks([bias])
    with pytest.raises(InputError, match="run `permil make CONFIG beam` first"):
        do_tasks([flat])
    do_tasks([beam])
    do_tasks([flat])
    assert log == ["bias", "beam", "flat"]
    with pytest.raises(InputError, match="beam: this product is missing or out of date"):
        do_tasks([replace(flat, needs=(replace(beam, facts="changed"),))])


def test_calls_of_similar_tasks_are_counted_together() -> None:
    tasks = [Task((name,), "squares", lambda _: Work(sample_tasks.square, [1, 2], lambda _: ())) for name in "abc"]
    with session(InProcess()) as opened:
        do_tasks(tasks)
    assert [(record.description, len(record.measures)) for record in opened.records] == [("squares", 6)]


def test_similar_tasks_that_begin_one_after_the_other_are_shown_together() -> None:
    shown: dict[str, int] = {}
    counts: dict[str, list[float]] = {}

    @contextmanager
    def display(description: str, total: int) -> Iterator[Callable[[float], None]]:
        shown[description] = total
        yield counts.setdefault(description, []).append

    nodes = [Task((f"nodes {led}",), f"nodes {led}", lambda _: Work(sample_tasks.square, [1], lambda _: ())) for led in "ab"]
    models = [
        Task((f"model {led}",), "models", lambda _: Work(sample_tasks.square, [1], lambda _: ()), needs=(nodes[place],))
        for place, led in enumerate("ab")
    ]
    with InProcess() as executor:
        run_tasks([nodes[0], models[0], nodes[1], models[1]], executor, display=display, records=[])
    assert shown == {"nodes a": 1, "nodes b": 1, "models": 2}
    assert counts["models"][0] == 1


@given(st.integers(0, 2**32 - 1))
def test_every_task_comes_after_those_it_needs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tasks: list[Task] = []
    for number in range(12):
        some = tuple(task for task in tasks if rng.random() < 0.3)
        tasks.append(Task((str(number),), "", lambda _: None, needs=some[::2], after=some[1::2]))
    chosen = [tasks[place] for place in rng.permutation(12)[:4]]
    found = needs_first(chosen)
    place = {task.key: number for number, task in enumerate(found)}
    assert len(place) == len(found)
    assert set(place) >= {task.key for task in chosen}
    assert all(place[need.key] < place[task.key] for task in found for need in (*task.needs, *task.after))
    # Nothing that nobody needs.
    needed = {need.key for task in found for need in (*task.needs, *task.after)}
    assert set(place) == needed | {task.key for task in chosen}


def test_progress_and_costs_of_tasks_begin_with_their_first_call() -> None:
    # With one worker, tasks that are ready wait for earlier ones: their clock must not run meanwhile.
    log: list[str] = []

    @contextmanager
    def display(description: str, _total: int) -> Iterator[Callable[[float], None]]:
        log.append(f"{description} shown")
        yield lambda count: log.append(f"{description} {count:g}")

    tasks = [_call("first", sample_tasks.square, [1, 2]), _call("second", sample_tasks.square, [3])]
    with InProcess() as executor:
        run_tasks(tasks, executor, display=display, records=[])
    assert log == ["first shown", "first 1", "first 2", "second shown", "second 1"]
