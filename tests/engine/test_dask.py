"""The executor of a Dask cluster, and jobs of batch systems."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("distributed", reason="distributed (extra `cluster`) is not installed")

from distributed import LocalCluster

from permil.config.model import JobsConfig
from permil.engine import Call, InProcess, session
from permil.engine.cluster import DaskCluster, cluster_options, make_cluster
from permil.errors import EngineError, FlatError
from permil.progress import parallel_map

from . import sample_tasks
from .sample_tasks import SampleTask


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs=50) as cluster:
        yield cluster.scheduler_address


def _map(address: str, folder: Path, function, tasks: list):
    with session(DaskCluster(address, folder=folder, show=print)) as opened:
        results = parallel_map(function, tasks, workers=1, description="sample_tasks")
        (record,) = opened.records
    return results, record


def test_results_are_those_of_this_process(address: str, tmp_path: Path) -> None:
    with session(InProcess()):
        here = parallel_map(sample_tasks.sum_of_sines, list(range(6)), workers=1, description="sums")
    there, record = _map(address, tmp_path, sample_tasks.sum_of_sines, list(range(6)))
    assert there == here
    assert (len(record.measures), len({measure.process for measure in record.measures})) == (6, 2)
    assert sum(measure.cpu_seconds for measure in record.measures) > 0
    assert not any(measure.is_own for measure in record.measures)


def test_each_task_has_one_thread(address: str, tmp_path: Path) -> None:
    results, _ = _map(address, tmp_path, sample_tasks.threads, [1, 2])
    for library_threads in results:
        assert set(library_threads) <= {1}


def test_an_error_keeps_its_data(address: str, tmp_path: Path) -> None:
    with pytest.raises(FlatError, match="the third is refused; leave it out") as caught:
        _map(address, tmp_path, sample_tasks.refuse, list(range(20)))
    assert caught.value.data == {"number": 3}


def test_worker_killed_in_the_middle_of_a_write_changes_nothing(address: str, tmp_path: Path) -> None:
    tasks = [SampleTask(f"R22_S{number:02d}", tmp_path, deaths=int(number == 1)) for number in range(4)]
    names, _ = _map(address, tmp_path, sample_tasks.write_and_die, tasks)
    assert names == [task.detector for task in tasks]
    for task in tasks:
        assert (tmp_path / f"{task.detector}.txt").read_text() == "first half, second half"
    assert (tmp_path / "R22_S01.deaths").read_text() == "1"


def test_task_that_kills_its_workers_is_named(address: str, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="sample_tasks, R22_S12: 4 workers died during this task"):
        _map(address, tmp_path, sample_tasks.write_and_die, [SampleTask("R22_S12", tmp_path, deaths=99)])


def test_folder_that_workers_do_not_see(address: str, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="cannot access this folder"):
        DaskCluster(address, folder=tmp_path / "elsewhere", show=print)


@pytest.mark.parametrize(
    "wrong", ["tcp://127.0.0.1:9", "127.0.0.1:8786", "tcp://nobody.invalid:8786", "tcp://127.0.0.1", "nonsense"]
)
def test_address_that_does_not_answer(wrong: str, tmp_path: Path) -> None:
    with pytest.raises(
        EngineError, match=r"no Dask scheduler answers at .*; check the address, which has the form tcp://host:port"
    ):
        DaskCluster(wrong, folder=tmp_path, show=print)


def test_scheduler_that_goes_away_is_an_error(tmp_path: Path) -> None:
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0", silence_logs=50) as cluster:
        executor = DaskCluster(cluster.scheduler_address, folder=tmp_path, show=print)
    with executor:
        executor.begin(Call(0, sample_tasks.square, 2, "square"))
        with pytest.raises(EngineError, match=r"scheduler at .* no longer answers"):
            executor.outcome()


def test_jobs_are_asked_for_in_the_words_of_the_batch_system(tmp_path: Path) -> None:
    from dask_jobqueue import HTCondorCluster, SLURMCluster

    slurm = JobsConfig(system="slurm", count=3, cores=4, memory="16 GiB", walltime="01:30:00", options={"queue": "milano"})
    with SLURMCluster(**cluster_options(slurm, folder=tmp_path)) as cluster:
        script = cluster.job_script()
    assert "#SBATCH -p milano" in script
    assert "#SBATCH -t 01:30:00" in script
    assert "--cpus-per-task=4" in script
    assert "--nworkers 4" in script
    assert "--nthreads 1" in script
    condor = JobsConfig(system="htcondor", cores=2, memory="8 GiB", options={"disk": "1 GB"})
    with HTCondorCluster(**cluster_options(condor, folder=tmp_path)) as cluster:
        script = cluster.job_script()
    assert "RequestCpus = MY.DaskWorkerCores" in script
    assert "MY.DaskWorkerCores = 2" in script


def test_batch_system_that_is_not_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EngineError, match="the command sbatch is not available here"):
        make_cluster(JobsConfig(system="slurm"), folder=tmp_path)


# dask-jobqueue leaves what it had begun to make.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_options_that_the_batch_system_does_not_know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = tmp_path / "sbatch"
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EngineError, match="rejects these options"):
        make_cluster(JobsConfig(system="slurm", options={"no_such_option": 1}), folder=tmp_path)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are not told what to do with memory")
def test_memory_is_used_again(address: str, tmp_path: Path) -> None:
    pages, _ = _map(address, tmp_path, sample_tasks.fresh_pages, list(range(4)))
    # An array is 512 pages.
    assert max(pages) < 10 * 512
