"""Threads within a task: as many as there are cores for, in order, and only where fewer tasks than workers are left."""

from __future__ import annotations

import threading
import time

import pytest

from permil.engine import Executor, InProcess, LocalProcesses, background_calls, session, threaded_map
from permil.engine.threads import allow_threads, available_threads
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

    with allow_threads(threads):
        assert list(threaded_map(slow, range(20))) == list(range(20))


@pytest.mark.parametrize(("most", "expected"), [(0, 1), (1, 4), (2, 2), (3, 1), (9, 1)])
def test_calls_share_the_threads_of_the_task(most: int, expected: int) -> None:
    with allow_threads(4):
        assert list(threaded_map(lambda _: available_threads(), range(5), most=most)) == [expected] * 5
        assert available_threads() == 4


@pytest.mark.parametrize(("depth", "expected"), [(0, 2), (2, 2), (6, 5)])
def test_only_so_many_are_under_way(depth: int, expected: int) -> None:
    begun, lock, most = 0, threading.Lock(), []

    def begin(number: int) -> int:
        nonlocal begun
        with lock:
            begun += 1
        return number

    with allow_threads(3):
        for used, _ in enumerate(threaded_map(begin, range(12), depth=depth), start=1):
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

    with pytest.raises(ValueError, match="number 2"), allow_threads(2):
        list(threaded_map(fail, range(100)))
    assert len(done) < 10


@pytest.mark.parametrize("threads", [1, 2])
def test_background_calls_are_made_in_order_and_end_with_the_context(threads: int) -> None:
    done: list[int] = []

    def slow(number: int) -> None:
        time.sleep(0.005)
        done.append(number)

    with allow_threads(threads), background_calls() as later:
        for number in range(5):
            later(lambda number=number: slow(number))
            # One is under way at most.
            assert len(done) >= number
    assert done == list(range(5))


@pytest.mark.parametrize("threads", [1, 2])
def test_an_error_of_a_background_call_is_raised(threads: int) -> None:
    def fail() -> None:
        raise ValueError("background")

    with pytest.raises(ValueError, match="background"), allow_threads(threads), background_calls() as later:
        later(fail)
