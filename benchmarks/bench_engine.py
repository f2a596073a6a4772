"""The engine: two Dask workers over one, overhead per task, processes, and a model of a cluster."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from distributed import LocalCluster

from engine_model import campaign_seconds, campaign_tasks
from engine_tasks import TIMES_READ, compute, nothing, read_often
from harness import REPEATS, publish
from permil.config import load_config
from permil.config.simulate import SimulateConfig
from permil.engine import Executor, InProcess, LocalProcesses, Task, Work, session
from permil.engine.cluster import DaskCluster
from permil.pipeline import run_pipeline
from permil.progress import do_tasks
from permil.simulate.stage import simulate_bench

TASKS = 8
MOST_WORKERS = 4
EMPTY_TASKS = 200
PASSES = 1_500_000
TURNS = 10
"""Repeats of what other programs on the machine disturb most."""
WORKERS = (1, 2, 8, 32, 128, 512)
DETECTOR = "R22_S11"
SCAN, POINTINGS, IMAGES, BIASES = 12, 5, 5, 10
FILES = 24


def main() -> None:
    """Print all tables."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        clusters = {
            workers: stack.enter_context(
                LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=":0", silence_logs=50)
            )
            for workers in (1, 2)
        }

        def dask(workers: int) -> Executor:
            return DaskCluster(clusters[workers].scheduler_address, folder=folder, show=_silent)

        _speed(
            {
                "this process": InProcess,
                "Dask, 1 worker": lambda: dask(1),
                "Dask, 2 workers": lambda: dask(2),
                "1 process": lambda: LocalProcesses(1),
                "2 processes": lambda: LocalProcesses(2),
                "4 processes": lambda: LocalProcesses(4),
            }
        )
        overhead = _overhead(
            {"this process": InProcess, "2 processes": lambda: LocalProcesses(2), "Dask, 2 workers": lambda: dask(2)}
        )
        config = _simulate(folder)
        _raw_files(config, {"Dask, 1 worker": clusters[1], "Dask, 2 workers": clusters[2]}, folder)
        _model(folder, config, overhead["Dask, 2 workers"])


def _timed(make: Callable[[], Executor], function: Callable[..., object], tasks: Sequence[object]) -> tuple[float, list[object]]:
    """Return the seconds of tasks on workers that are there already, and their results."""
    found: list[object] = []
    begin: list[float] = []

    def timed(_: Task) -> Work:
        begin.append(time.perf_counter())
        return Work(function, tasks, lambda results: found.extend(results) or ())

    # The workers stay as long as there are tasks.
    warm = Task(("warm",), "warm", lambda _: Work(function, tasks[:MOST_WORKERS], lambda _: ()))
    with session(make()):
        do_tasks([warm, Task(("timed",), "timed", timed, needs=(warm,))])
        return time.perf_counter() - begin[0], found


def _silent(_: str) -> None:
    """Show nothing."""


def _speed(executors: dict[str, Callable[[], Executor]]) -> None:
    seconds: dict[str, list[float]] = {name: [] for name in executors}
    processor: dict[str, list[float]] = {name: [] for name in executors}
    for repeat in range(TURNS + 1):
        for name, make in executors.items():
            spent, results = _timed(make, compute, [PASSES] * TASKS)
            if repeat:
                seconds[name].append(spent)
                processor[name].append(statistics.median(entry[1] for entry in results))
    publish(
        f"{TASKS} tasks that only compute, executors in turn, {TURNS} times",
        ("executor", "processor s per task", *_TIMES),
        [
            (name, f"{statistics.median(processor[name]):.3f}", *_times(entries, seconds[_ONE_OF.get(name, "1 process")]))
            for name, entries in seconds.items()
        ],
        remark=f"{len(os.sched_getaffinity(0))} cores. What else "
        "runs on the machine takes cores from several workers more than from one: the least times are those with the least of that.",
    )


_ONE_OF = {"Dask, 1 worker": "Dask, 1 worker", "Dask, 2 workers": "Dask, 1 worker"}
_TIMES = ("median s", "least s", "times one worker, medians", "times one worker, least")


def _times(entries: list[float], of_one: list[float]) -> tuple[str, ...]:
    median, least = statistics.median(entries), min(entries)
    return f"{median:.2f}", f"{least:.2f}", f"{statistics.median(of_one) / median:.2f}", f"{min(of_one) / least:.2f}"


def _overhead(executors: dict[str, Callable[[], Executor]]) -> dict[str, float]:
    seconds: dict[str, list[float]] = {name: [] for name in executors}
    for repeat in range(REPEATS + 1):
        for name, make in executors.items():
            few, _ = _timed(make, nothing, list(range(MOST_WORKERS)))
            many, _ = _timed(make, nothing, list(range(EMPTY_TASKS)))
            if repeat:
                seconds[name].append((many - few) / (EMPTY_TASKS - MOST_WORKERS))
    medians = {name: statistics.median(entries) for name, entries in seconds.items()}
    publish(
        f"Overhead per task, from {EMPTY_TASKS} empty tasks less the time of {MOST_WORKERS}, medians of {REPEATS}",
        ("executor", "milliseconds"),
        [(name, f"{1e3 * median:.2f}") for name, median in medians.items()],
    )
    return medians


def _simulate(folder: Path) -> Path:
    """Return the configuration of a small campaign with an index."""
    campaign = {"scan_size": SCAN, "images": IMAGES, "biases": BIASES, "readout": "target"}
    options = {"preset": "mini", "seed": 3, "detectors": [DETECTOR, "R22_S12"], "leds": ["red"], "campaign": campaign}
    simulate_bench(SimulateConfig.model_validate(options), folder / "small", workers=2)
    config = folder / "small" / "config.yaml"
    run_pipeline(load_config(config), stages=("index",))
    return config


def _raw_files(config: Path, clusters: dict[str, LocalCluster], folder: Path) -> None:
    raw = [str(path) for path in sorted((config.parent / "raw").rglob("*.fits"))]
    seconds: dict[str, list[float]] = {name: [] for name in clusters}
    for repeat in range(TURNS + 1):
        for name, cluster in clusters.items():
            spent, _ = _timed(
                partial(DaskCluster, cluster.scheduler_address, folder=folder, show=_silent), read_often, raw[:FILES]
            )
            if repeat:
                seconds[name].append(spent)
    publish(
        f"{FILES} raw files of 1/64 of the full number of pixels, each read and assembled {TIMES_READ} times, {TURNS} times in turn",
        ("executor", *_TIMES),
        [(name, *_times(entries, seconds["Dask, 1 worker"])) for name, entries in seconds.items()],
    )


def _model(folder: Path, config: Path, overhead: float) -> None:
    """Follow a full campaign on a virtual clock."""
    (folder / "model").mkdir()
    tasks = campaign_tasks(config, DETECTOR, folder / "model")
    kinds = dict.fromkeys(task.key[0] for task in tasks)
    totals = {kind: [task.seconds for task in tasks if task.key[0] == kind] for kind in kinds}
    publish(
        "Processor seconds of the tasks of a campaign (189 full-size CCDs, six LEDs), as `permil run` estimates them",
        ("task", "number", "seconds of one, mean", "hours of all"),
        [
            (kind, str(len(seconds)), f"{statistics.mean(seconds):.1f}", f"{sum(seconds) / 3600:.2f}")
            for kind, seconds in totals.items()
        ],
        remark=f"A scan of {SCAN} x {SCAN} positions that one readout board watches, {POINTINGS} x {IMAGES} images of each CCD, "
        f"{BIASES} biases. Estimates of full-size tasks are fitted to measurements of one CCD; those of solutions to campaigns of up to "
        "1,089 exposures, and extrapolated here.",
    )
    alone = campaign_seconds(tasks, workers=1, overhead=overhead)
    rows = []
    for workers in WORKERS:
        spent = campaign_seconds(tasks, workers=workers, overhead=overhead)
        rows.append((str(workers), f"{spent / 3600:.2f}", f"{alone / spent:.1f}", f"{alone / spent / workers:.2f}"))
    publish(
        "A model, not a measurement: these tasks in the engine's own order, on a virtual clock",
        ("workers", "hours", "times as fast as 1", "efficiency"),
        rows,
        text_columns=0,
        remark="Assumptions: each worker is as fast as a core of this machine, file system and network are as fast as the page cache "
        "here, and no worker dies. With many workers, the solution of the last LED limits the time.",
    )


if __name__ == "__main__":
    main()
