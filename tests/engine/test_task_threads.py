"""Threads within a task: as many as there are cores for, in order, and only where fewer tasks than workers are left."""

from __future__ import annotations

import threading
import time

import pytest

from permil.engine import Executor, InProcess, LocalProcesses, ahead, behind, session
from permil.progress import parallel_map

from . import sample_tasks


def _allowed(executor: Executor, tasks: int) -> list[int]:
    with session(executor):
        return parallel_map(sample_tasks.allowed_threads, list(range(tasks)), workers=1, description="sample_tasks")


@pytest.mark.parametrize(("workers", "tasks", "expected"), [(4, 1, 4), (4, 2, 2), (4, 3, 1), (2, 5, 1)])
def test_cores_are_shared_out(workers: int, tasks: int, expected: int) -> None:
    assert _allowed(LocalProcesses(workers), tasks) == [expected] * tasks


def test_one_process_has_one_thread() -> None:
    assert _allowed(InProcess(), 1) == [1]


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_come_in_order(threads: int) -> None:
    def slow(number: int) -> int:
        time.sleep(0.002 * (number % 3))
        return number

    assert list(ahead(slow, range(20), threads=threads)) == list(range(20))


@pytest.mark.parametrize(("depth", "expected"), [(0, 2), (2, 2), (6, 5)])
def test_only_so_many_are_under_way(depth: int, expected: int) -> None:
    begun, lock, most = 0, threading.Lock(), []

    def begin(number: int) -> int:
        nonlocal begun
        with lock:
            begun += 1
        return number

    for used, _ in enumerate(ahead(begin, range(12), threads=3, depth=depth), start=1):
        time.sleep(0.005)
        most.append(begun - used)
    assert max(most) == expected


def test_first_error_is_raised_and_the_rest_dropped() -> None:
    done: list[int] = []

    def fail(number: int) -> int:
        if number == 2:
            raise ValueError(f"number {number}")
        done.append(number)
        return number

    with pytest.raises(ValueError, match="number 2"):
        list(ahead(fail, range(100), threads=2))
    assert len(done) < 10


@pytest.mark.parametrize("threads", [1, 2])
def test_calls_behind_are_made_in_order_and_done_at_the_end(threads: int) -> None:
    done: list[int] = []

    def slow(number: int) -> None:
        time.sleep(0.005)
        done.append(number)

    with behind(threads) as later:
        for number in range(5):
            later(lambda number=number: slow(number))
            # One is under way at most.
            assert len(done) >= number
    assert done == list(range(5))


@pytest.mark.parametrize("threads", [1, 2])
def test_an_error_behind_reaches_the_one_who_goes_on(threads: int) -> None:
    def fail() -> None:
        raise ValueError("behind")

    with pytest.raises(ValueError, match="behind"), behind(threads) as later:
        later(fail)
