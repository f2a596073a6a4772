"""Executors of this machine: order, errors, deaths, threads, cost."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path

import pytest

from permil.engine import Executor, InProcess, LocalProcesses, session
from permil.engine.session import CallCosts
from permil.errors import EngineError, FlatError
from permil.progress import parallel_map

from . import sample_tasks
from .sample_tasks import SampleTask


def _map(executor: Executor, function, tasks: list, name: str = "sample_tasks"):
    with session(executor):
        return parallel_map(function, tasks, workers=1, description=name)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_results_come_in_the_order_of_tasks(workers: int) -> None:
    executor = LocalProcesses(workers) if workers > 1 else InProcess()
    assert _map(executor, sample_tasks.square, list(range(40))) == [number**2 for number in range(40)]


def test_no_tasks_need_no_worker() -> None:
    with session(LocalProcesses(2)) as opened:
        assert parallel_map(sample_tasks.square, [], workers=1, description="none") == []
        assert opened.take_records() == []


def test_numbers_are_the_same_bits_everywhere() -> None:
    seeds = list(range(4))
    here = _map(InProcess(), sample_tasks.sum_of_sines, seeds)
    assert _map(LocalProcesses(2), sample_tasks.sum_of_sines, seeds) == here
    assert _map(LocalProcesses(4), sample_tasks.sum_of_sines, seeds) == here


def test_work_is_done_by_several_processes_and_not_by_this_one() -> None:
    workers = set(_map(LocalProcesses(2), sample_tasks.process_id, list(range(8))))
    assert len(workers) == 2
    assert os.getpid() not in workers


def test_a_single_quick_task_is_done_here() -> None:
    def processes(tasks: int) -> set[int]:
        return set(parallel_map(sample_tasks.process_id, list(range(tasks)), workers=1, description="who", is_quick=True))

    with session(LocalProcesses(2)) as opened:
        assert processes(1) == {os.getpid()}
        (record,) = opened.take_records()
        assert [measure.is_own for measure in record.measures] == [True]
        assert os.getpid() not in processes(2)


@pytest.mark.skipif("forkserver" not in multiprocessing.get_all_start_methods(), reason="the system cannot copy processes")
def test_workers_begin_with_everything_loaded() -> None:
    for has_tasks, shared in _map(LocalProcesses(2), sample_tasks.what_was_loaded, [1, 2]):
        assert has_tasks
        assert shared > 10_000


@pytest.mark.parametrize("executor", [InProcess(), LocalProcesses(2)], ids=["here", "processes"])
def test_each_task_has_one_thread(executor: Executor) -> None:
    for library_threads in _map(executor, sample_tasks.threads, [1, 2]):
        assert set(library_threads) <= {1}


@pytest.mark.parametrize("executor", [InProcess(), LocalProcesses(2)], ids=["here", "processes"])
def test_an_error_keeps_its_data(executor: Executor) -> None:
    with pytest.raises(FlatError, match="the third is refused; leave it out") as caught:
        _map(executor, sample_tasks.refuse, list(range(20)))
    assert caught.value.data == {"number": 3}


def test_calls_that_cannot_be_sent_are_explained() -> None:
    with pytest.raises(RuntimeError, match="cannot travel"):
        _map(LocalProcesses(2), sample_tasks.raise_what_cannot_travel, [1, 2])
    with pytest.raises(Exception, match="pickle"):
        _map(LocalProcesses(2), sample_tasks.unpicklable_result, [1, 2])
    with pytest.raises(Exception, match=r"pickle|local object"):
        _map(LocalProcesses(2), lambda number: number, [1, 2])


def test_executor_can_be_used_again_after_an_error() -> None:
    with session(LocalProcesses(2)):
        with pytest.raises(FlatError):
            parallel_map(sample_tasks.refuse, list(range(20)), workers=1, description="refused")
        assert parallel_map(sample_tasks.square, [1, 2, 3], workers=1, description="squares") == [1, 4, 9]


def test_worker_killed_in_the_middle_of_a_write_changes_nothing(tmp_path: Path) -> None:
    tasks = [SampleTask(f"R22_S{number:02d}", tmp_path, deaths=2 if number in (1, 4) else 0) for number in range(6)]
    with session(LocalProcesses(2)) as opened:
        names = parallel_map(sample_tasks.write_and_die, tasks, workers=1, description="writing")
        (record,) = opened.take_records()
    assert names == [task.detector for task in tasks]
    for task in tasks:
        assert (tmp_path / f"{task.detector}.txt").read_text() == "first half, second half"
    assert record.restarted == 4
    assert len(record.measures) == 6


def test_task_that_kills_its_workers_is_named(tmp_path: Path) -> None:
    tasks = [SampleTask("R22_S11", tmp_path), SampleTask("R22_S12", tmp_path, deaths=99), SampleTask("R22_S20", tmp_path)]
    with pytest.raises(EngineError, match=r"writing, R22_S12: 3 worker processes died during this task.*SIGKILL") as caught:
        _map(LocalProcesses(2), sample_tasks.write_and_die, tasks, "writing")
    assert (caught.value.data["task"], caught.value.data["deaths"]) == ("writing, R22_S12", 3)
    assert (tmp_path / "R22_S12.deaths").read_text() == "3"
    assert not (tmp_path / "R22_S12.txt").exists()


def test_workers_end_with_the_session(tmp_path: Path) -> None:
    with session(LocalProcesses(2)):
        workers = set(parallel_map(sample_tasks.process_id, list(range(8)), workers=1, description="who"))
    deadline = time.monotonic() + 60
    while any(_is_alive(process) for process in workers) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not [process for process in workers if _is_alive(process)]


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_costs_are_measured(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(3_000_000))
    with session(LocalProcesses(2)) as opened:
        parallel_map(sample_tasks.read_file, [path, path], workers=1, description="reading")
        (reading,) = opened.take_records()
        parallel_map(sample_tasks.allocate, [400, 8], workers=1, description="allocating")
        (allocating,) = opened.take_records()
    assert (reading.description, len(reading.measures)) == ("reading", 2)
    assert 6_000_000 <= sum(measure.bytes_read for measure in reading.measures) < 6_600_000
    assert not any(measure.is_own for measure in reading.measures)
    assert _peak(allocating) > 400 * 2**20
    assert _peak(reading) < 400 * 2**20
    assert all(measure.cpu_seconds > 0 for measure in allocating.measures)
    assert sum(measure.seconds for measure in allocating.measures) < 2 * allocating.seconds + 1


def _peak(costs: CallCosts) -> int:
    return max(measure.peak_bytes for measure in costs.measures)


def test_peak_is_that_of_the_task_not_of_those_before() -> None:
    with session(LocalProcesses(2)) as opened:
        parallel_map(sample_tasks.allocate, [400], workers=1, description="much")
        parallel_map(sample_tasks.allocate, [8], workers=1, description="little")
        much, little = opened.take_records()
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("the system cannot forget the peak of memory")
    assert _peak(little) < _peak(much) - 300 * 2**20


def test_a_worker_is_ended_also_while_it_deletes_objects(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    marker, begin = tmp_path / "marker", time.monotonic()
    with pytest.raises(FlatError, match="enough"):
        _map(LocalProcesses(2), sample_tasks.work_on_either, [("delete", marker), ("refuse", marker)])
    # It is killed after five seconds if it ignores the request.
    assert time.monotonic() - begin < 4.5
    assert "Traceback" not in capfd.readouterr().err
