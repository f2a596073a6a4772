"""Chains: each batch needs the one before, chains need nothing of each other."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from permil.engine import Batch, Chain, Executor, InProcess, LocalProcesses, session
from permil.errors import FlatError
from permil.progress import parallel_chains, parallel_map

from . import chores


def _sum_of_squares(numbers: list[int]) -> Chain[int]:
    squares = yield Batch(chores.square, numbers, "squares")
    fourth = yield Batch(chores.square, squares, "fourth powers")
    return sum(fourth)


@pytest.mark.parametrize("executor", [InProcess(), LocalProcesses(2)], ids=["here", "processes"])
def test_results_go_through_the_chain(executor: Executor) -> None:
    with session(executor) as opened:
        assert parallel_chains([_sum_of_squares([1, 2, 3]), _sum_of_squares([4])], workers=1) == [1 + 16 + 81, 256]
        assert sorted(record.description for record in opened.records) == ["fourth powers"] * 2 + ["squares"] * 2


def test_empty_batches_are_passed_over() -> None:
    def chain() -> Chain[list[object]]:
        first = yield Batch(chores.square, [], "none")
        second = yield Batch(chores.square, [3], "one")
        return [first, second]

    assert parallel_chains([chain()], workers=1) == [[[], [9]]]
    assert parallel_chains([], workers=2) == []


def test_a_chain_that_waits_leaves_the_workers_to_others(tmp_path: Path) -> None:
    # The first task of the first chain ends only when the second batch of the second chain has run.
    marker = tmp_path / "marker"

    def first() -> Chain[float]:
        return (yield Batch(chores.wait_for_file, [marker], "long"))[0]

    def second() -> Chain[float]:
        yield Batch(chores.square, [1, 2], "before")
        return (yield Batch(chores.write_moment, [marker], "after"))[0]

    with session(LocalProcesses(2)):
        seen, written = parallel_chains([first(), second()], workers=1)
    assert seen >= written


def test_error_in_one_chain_ends_all_and_names_itself() -> None:
    ended = []

    def patient() -> Chain[None]:
        try:
            while True:
                yield Batch(chores.square, list(range(4)), "squares")
        finally:
            ended.append("patient")

    def failing() -> Chain[None]:
        yield Batch(chores.refuse, list(range(8)), "refused")

    with session(LocalProcesses(2)), pytest.raises(FlatError, match="refused"):
        parallel_chains([patient(), failing()], workers=1)
    assert ended == ["patient"]


def test_error_of_the_chain_itself_is_raised() -> None:
    def chain() -> Chain[None]:
        yield Batch(chores.square, [1], "one")
        raise FlatError("the chain breaks")

    with session(LocalProcesses(2)), pytest.raises(FlatError, match="the chain breaks"):
        parallel_chains([chain()], workers=1)


def test_work_within_a_chain_does_not_meet_the_work_of_the_chain() -> None:
    def chain() -> Chain[list[int]]:
        first = yield Batch(chores.square, [1, 2, 3], "outer")
        return parallel_map(chores.square, first, workers=2, description="inner")

    with session(LocalProcesses(2)):
        assert parallel_chains([chain(), chain()], workers=1) == [[1, 16, 81]] * 2


@pytest.fixture
def _interrupts_heard() -> Iterator[None]:
    """Handle interrupts as in a terminal, also where the tests run in the background and they are ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_interrupts_heard")
@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupt_that_someone_drops_ends_the_run_all_the_same(workers: int) -> None:
    done: list[object] = []

    def chain() -> Chain[None]:
        # What compiled libraries do with an exception during a look-up of an attribute.
        with suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        done.append((yield Batch(chores.square, [1], "one")))
        done.append((yield Batch(chores.square, [2], "two")))

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), session(LocalProcesses(workers) if workers > 1 else InProcess()):
        parallel_chains([chain()], workers=1)
    assert done == []
    assert signal.getsignal(signal.SIGINT) is before
    with session(InProcess()):
        assert parallel_chains([_sum_of_squares([1, 2])], workers=1) == [1 + 16]


@pytest.mark.usefixtures("_interrupts_heard")
def test_an_interrupt_while_an_object_is_deleted_is_not_lost_and_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt), session(InProcess()):
        parallel_map(chores.interrupt_while_deleting, [1, 2], workers=1, description="interrupted")
    assert "Traceback" not in capfd.readouterr().err
