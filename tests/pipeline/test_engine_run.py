"""A whole run by different executors: the same bits, whoever does the work and whoever is killed at it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from astropy.io import fits

from permil import progress
from permil.config import load_config
from permil.engine import call
from permil.pipeline import run_pipeline
from permil.products import RunFolder, read_table

from .conftest import linked

# A coarse solution: these tests compare bits, not errors.
QUICK = ("flat.joint.spacing_mm=5.5", "flat.joint.checks=false", "flat.joint.modes=4", "flat.super_pixel_mm=2.56")
STAGES_TO_FLAT = ("index", "isr", "beam", "flat")
NOT_COMPARED = {"DATE", "CHECKSUM", "DATASUM"}


@pytest.fixture(scope="module")
def raw(two_ccds: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the raw files of two CCDs; runs write beside them."""
    return linked(two_ccds, tmp_path_factory.mktemp("runs") / "two")


def _run(raw: Path, name: str, *overrides: str, stages: tuple[str, ...] = STAGES_TO_FLAT) -> Path:
    out = raw / name
    run_pipeline(load_config(raw / "config.yaml", [f"output={out}", *QUICK, *overrides]), stages=stages)
    return out


@pytest.fixture(scope="module")
def run_in_process(raw: Path) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """Return the content of all products, made in this process, and the progress that was displayed meanwhile."""
    reached: dict[str, list[float]] = {}

    @contextmanager
    def display(description: str, _: int | None) -> Iterator[Callable[[float], None]]:
        yield reached.setdefault(description, []).append

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "_display", display)
        patch.setattr(call, "_SECONDS_BETWEEN", -1.0)
        return products(_run(raw, "reference", "pipeline.workers=1")), reached


@pytest.fixture
def reference(run_in_process: tuple[dict[str, Any], dict[str, list[float]]]) -> dict[str, Any]:
    return run_in_process[0]


def products(out: Path, *folders: str) -> dict[str, Any]:
    """Return the content of all products in folders, by default those of isr, beam and flat, but for dates and checksums."""
    content: dict[str, Any] = {}
    for stage in folders or ("calib", "beam", "flat"):
        for path in sorted(entry for entry in (out / stage).rglob("*") if entry.is_file()):
            name = str(path.relative_to(out))
            content[name] = _hdus(path) if path.suffix == ".fits" else path.read_bytes()
    return content


def _hdus(path: Path) -> list[Any]:
    with fits.open(path, memmap=False) as hdus:
        return [
            (
                [str(card) for card in hdu.header.cards if card.keyword not in NOT_COMPARED],
                None if hdu.data is None else hdu.data.tobytes(),
            )
            for hdu in hdus
        ]


def assert_same(out: Path, reference: dict[str, Any]) -> None:
    found = products(out)
    assert sorted(found) == sorted(reference)
    assert len(found) > 15
    assert [name for name in found if found[name] != reference[name]] == []


def test_processes_give_the_same_bits(raw: Path, reference: dict[str, Any]) -> None:
    out = _run(raw, "processes", "pipeline.workers=3")
    assert_same(out, reference)
    table = read_table(RunFolder(out).performance)
    whole = {row["stage"]: row for row in table if row["step"] == "all"}
    assert list(whole) == list(STAGES_TO_FLAT)
    steps = {row["step"]: row["tasks"] for row in table if row["stage"] == "flat"}
    assert steps == {"all": 7, "super-pixels red": 2, "joint solution red": 1, "flats red": 2, "composite red": 2}
    raw_bytes = sum(path.stat().st_size for path in (raw / "raw").rglob("*.fits"))
    # Every file is read by the first pass over super-pixels.
    assert whole["flat"]["gigabytes_read"] > 0.9e-9 * raw_bytes
    assert 50 < whole["flat"]["peak_memory_mib"] < 3000


@pytest.fixture
def scheduler() -> Iterator[Any]:
    distributed = pytest.importorskip("distributed", reason="distributed (extra `cluster`) is not installed")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs=50) as cluster:
        yield cluster


@pytest.mark.full
def test_dask_gives_the_same_bits_and_a_killed_worker_changes_nothing(
    raw: Path, reference: dict[str, Any], scheduler: Any
) -> None:
    out = raw / "dask"
    killed = _kill_when(lambda: _a_flat_is_being_written(out), lambda: scheduler.workers[0].pid)
    _run(raw, "dask", f"pipeline.scheduler={scheduler.scheduler_address}")
    killed.join(10)
    assert killed.victims
    assert_same(out, reference)
    assert not list(out.rglob("*.partial*"))


def test_killed_worker_process_changes_nothing(raw: Path, reference: dict[str, Any]) -> None:
    psutil = pytest.importorskip("psutil", reason="psutil is not installed")
    out = raw / "killed"
    command = [sys.executable, "-m", "permil", "flat", str(raw / "config.yaml"), f"output={out}", *QUICK, "pipeline.workers=2"]
    _run(raw, "killed", "pipeline.workers=1", stages=("index", "isr", "beam"))
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)  # noqa: S603

    def worker() -> int:
        # The main process starts a server of processes, and that the workers.
        (server,) = [child for child in psutil.Process(process.pid).children() if child.children()]
        return max(server.children(), key=lambda child: child.cpu_times().user).pid

    killed = _kill_when(lambda: _a_flat_is_being_written(out), worker)
    _, messages = process.communicate(timeout=600)
    killed.join(10)
    assert process.returncode == 0, messages
    assert killed.victims
    assert_same(out, reference)
    assert not list(out.rglob("*.partial*"))
    table = read_table(RunFolder(out).performance)
    assert table["restarted"][(table["stage"] == "flat") & (table["step"] == "all")][0] >= 1


def test_killed_run_goes_on_to_the_same_result(raw: Path, reference: dict[str, Any]) -> None:
    out = raw / "begun"
    moments = random.Random(5)  # noqa: S311 - moments to kill at, not secrets
    options = [f"output={out}", *QUICK]
    command = [sys.executable, "-m", "permil", "run", str(raw / "config.yaml"), *options, "pipeline.workers=2"]
    # Each time a stage further: with the index, in the scan, among the signals, and in the pass that follows the solution.
    folder = RunFolder(out)
    for begun in (folder.exposures, folder.state / "nodes_red.jsonl", folder.beam("red"), folder.joint("red")):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)  # noqa: S603
        while not begun.exists():
            assert process.poll() is None
            time.sleep(0.02)
        time.sleep(moments.uniform(0.0, 0.4))
        assert process.poll() is None
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    _run(raw, "begun", "pipeline.workers=1")
    assert_same(out, reference)
    assert not list(out.rglob("*.partial*"))


def test_long_tasks_say_how_far_they_are(run_in_process: tuple[dict[str, Any], dict[str, list[float]]]) -> None:
    displayed = run_in_process[1]
    for description, fewest in (("super-pixels red", 36), ("joint solution red", 2), ("flats red", 2 * 7)):
        reached = displayed[description]
        assert reached == sorted(reached)
        assert sum(number % 1 != 0 for number in reached) >= fewest


@pytest.mark.parametrize("begun", ["exposures.parquet", "calib/*.fits"], ids=["workers are loading", "workers are at work"])
def test_interrupt_ends_the_run_with_a_sentence(raw: Path, tmp_path: Path, begun: str) -> None:
    out = tmp_path / "interrupted"
    # Where the tests run in the background interrupts are ignored, and a process inherits that: it starts as in a terminal.
    start = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from permil.cli import main; main()"
    command = [sys.executable, "-c", start, "run", str(raw / "config.yaml"), f"output={out}", *QUICK, "pipeline.workers=2"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)  # noqa: S603
    deadline = time.monotonic() + 300
    while not list(out.glob(begun)) and time.monotonic() < deadline:
        time.sleep(0.05)
    # As a terminal does: every process of the run gets the signal.
    os.killpg(process.pid, signal.SIGINT)
    _, messages = process.communicate(timeout=300)
    assert process.returncode == 130, messages
    assert messages.endswith("permil: interrupted; nothing is lost, run the same command again to continue\n")
    assert "Traceback" not in messages
    assert not list(out.rglob("*.partial*"))


def _a_flat_is_being_written(out: Path) -> bool:
    if not RunFolder(out).joint("red").exists():
        # Until then there is nothing to miss.
        time.sleep(0.02)
        return False
    return any((out / "flat").rglob("*.partial*"))


class _Killer(threading.Thread):
    def __init__(self, is_time: Callable[[], bool], victim: Callable[[], int]) -> None:
        super().__init__(daemon=True)
        self.is_time, self.victim, self.victims = is_time, victim, []

    def run(self) -> None:
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            if self.is_time():
                process = self.victim()
                os.kill(process, signal.SIGKILL)
                self.victims.append(process)
                return
            time.sleep(0.0005)


def _kill_when(is_time: Callable[[], bool], victim: Callable[[], int]) -> _Killer:
    killer = _Killer(is_time, victim)
    killer.start()
    return killer


@pytest.mark.parametrize("stage", ["run", "flat", "isr"])
def test_wrong_scheduler_is_one_sentence(raw: Path, permil: Callable[..., tuple[int, str, str]], stage: str) -> None:
    pytest.importorskip("distributed", reason="distributed (extra `cluster`) is not installed")
    code, _, messages = permil(stage, raw / "config.yaml", f"output={raw / 'none'}", "--scheduler", "tcp://127.0.0.1:9")
    assert code == 2
    assert messages.count("\n") == 1
    assert "no Dask scheduler answers at tcp://127.0.0.1:9" in messages


def test_scheduler_and_jobs_exclude_each_other(raw: Path, permil: Callable[..., tuple[int, str, str]]) -> None:
    code, _, messages = permil(
        "run", raw / "config.yaml", f"output={raw / 'none'}", "pipeline.jobs.system=slurm", "--scheduler", "tcp://host:1"
    )
    assert (code, "not both" in messages) == (2, True)


def test_dask_is_not_loaded_where_it_is_not_asked_for(raw: Path) -> None:
    code = (
        "import sys\nfrom permil.config import load_config\nfrom permil.pipeline import run_pipeline\nimport permil.cli, permil.tasks\n"
        f"run_pipeline(load_config({str(raw / 'config.yaml')!r}, ['output={raw / 'plain'}', 'pipeline.workers=2']), stages=('index',))\n"
        "print(sorted({name.split('.')[0] for name in sys.modules} & {'dask', 'distributed', 'tornado'}))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603
    assert run.stdout.splitlines()[-1] == "[]"
