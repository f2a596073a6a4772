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

from astropy.table import Table
from distributed import LocalCluster

from engine_model import TaskTimes, campaign_seconds
from engine_tasks import TIMES_READ, compute, nothing, read_often
from harness import REPEATS, publish
from permil.config import load_config
from permil.config.simulate import SimulateConfig
from permil.engine import Executor, InProcess, LocalProcesses, Task, Work, session
from permil.engine.cluster import DaskCluster
from permil.pipeline import run_pipeline
from permil.products import RunFolder, read_table
from permil.progress import do_tasks
from permil.simulate.stage import simulate_bench

TASKS = 8
MOST_WORKERS = 4
EMPTY_TASKS = 200
PASSES = 1_500_000
TURNS = 10
"""Repeats of what other programs on the machine disturb most."""
SCIENCE_DETECTORS, LEDS = 189, 6
WORKERS = (1, 2, 8, 32, 128, 512)
DETECTOR = "R22_S11"
SCAN, POINTINGS, IMAGES, BIASES = 12, 5, 5, 10
FILES = 24
_COARSE = (
    "flat.joint.spacing_mm=6", "flat.joint.checks=false", "flat.joint.drift=false", "flat.joint.geometry=false",
    "flat.keep_pointings=false", "report.detector_pages=false",
)  # fmt: skip
"""A solution from few exposures, good enough to time what comes after it."""


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
            return DaskCluster(clusters[workers].scheduler_address, folder=folder, tell=_silent)

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
        _raw_files(folder, {"Dask, 1 worker": clusters[1], "Dask, 2 workers": clusters[2]})
        _model(folder, overhead["Dask, 2 workers"])


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
    """Tell nobody."""


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
        ("who works", "processor s per task", *_TIMES),
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
        ("who works", "milliseconds"),
        [(name, f"{1e3 * median:.2f}") for name, median in medians.items()],
    )
    return medians


def _simulate(folder: Path, name: str, **changes: object) -> Path:
    campaign = {"scan_size": SCAN, "images": IMAGES, "biases": BIASES, "readout": "target"}
    options: dict[str, object] = {
        "preset": "mini",
        "seed": 3,
        "detectors": [DETECTOR, "R22_S12"],
        "leds": ["red"],
        "campaign": campaign,
    }
    simulate_bench(SimulateConfig.model_validate(options | changes), folder / name, workers=2)
    return folder / name / "config.yaml"


def _raw_files(folder: Path, clusters: dict[str, LocalCluster]) -> None:
    config = _simulate(folder, "small")
    raw = [str(path) for path in sorted((config.parent / "raw").rglob("*.fits"))]
    seconds: dict[str, list[float]] = {name: [] for name in clusters}
    for repeat in range(TURNS + 1):
        for name, cluster in clusters.items():
            spent, _ = _timed(
                partial(DaskCluster, cluster.scheduler_address, folder=folder, tell=_silent), read_often, raw[:FILES]
            )
            if repeat:
                seconds[name].append(spent)
    publish(
        f"{FILES} raw files of 1/64 of the full number of pixels, each read and assembled {TIMES_READ} times, {TURNS} times in turn",
        ("who works", *_TIMES),
        [(name, *_times(entries, seconds["Dask, 1 worker"])) for name, entries in seconds.items()],
    )


def _costs(config: Path, *overrides: str) -> Table:
    """Reduce a campaign in one process and return what its tasks cost."""
    out = config.parent / "tasks"
    run_pipeline(
        load_config(config, [f"output={out}", "pipeline.workers=1", *overrides]), stages=("index", "isr", "beam", "flat")
    )
    return read_table(RunFolder(out).performance)


def _per_task(table: Table, step: str) -> float:
    """Return the processor's seconds per task, which other programs on the machine change least."""
    (row,) = [row for row in table if str(row["step"]).startswith(step)]
    return float(row["cpu_seconds"] / row["tasks"])


def _task_times(folder: Path, overhead: float) -> TaskTimes:
    small = _costs(folder / "small" / "config.yaml")
    side, images, biases = 6, 2, 3
    few = {"scan_size": side, "images": images, "biases": biases, "readout": "target"}
    config = _simulate(folder, "full", camera="lsstcam", detectors=[DETECTOR], campaign=few)
    full = _costs(config, *_COARSE)
    nodes = next(row for row in full if str(row["step"]).startswith("beam nodes"))
    # Costs are linear in the number of exposures.
    taken, exposures = side**2 + POINTINGS * images, SCAN**2 + POINTINGS * IMAGES
    times = TaskTimes(
        superbias=_per_task(full, "superbias") * BIASES / biases,
        beam=float(nodes["cpu_seconds"]) * SCAN**2 / side**2 + _per_task(small, "beam models"),
        signals=_per_task(full, "super-pixels") * exposures / taken,
        solution=_per_task(small, "joint solution") * SCIENCE_DETECTORS / 2,
        flat=_per_task(full, "flats") * exposures / taken,
        composite=_per_task(full, "composite"),
        overhead=overhead,
    )
    seconds = (times.superbias, times.beam, times.signals, times.solution, times.flat, times.composite)
    publish(
        f"Processor seconds of one task of a full-size CCD, measured with {taken} exposures, for {exposures} ({SCAN} x {SCAN} scan)",
        ("superbias", "beam of an LED", "signals", "solution of an LED", "flat", "composite"),
        [tuple(f"{entry:.1f}" for entry in seconds)],
        text_columns=0,
        remark=f"The solution is measured on 2 CCDs and taken as linear in their number ({SCIENCE_DETECTORS}).",
    )
    return times


def _model(folder: Path, overhead: float) -> None:
    """Measure tasks in one process and follow a full campaign on a virtual clock."""
    times = _task_times(folder, overhead)
    alone = campaign_seconds(times, workers=1, detectors=SCIENCE_DETECTORS, leds=LEDS)
    rows = []
    for workers in WORKERS:
        chained = campaign_seconds(times, workers=workers, detectors=SCIENCE_DETECTORS, leds=LEDS)
        staged = campaign_seconds(times, workers=workers, detectors=SCIENCE_DETECTORS, leds=LEDS, side_by_side=False)
        rows.append(
            (
                str(workers),
                f"{chained / 3600:.2f}",
                f"{alone / chained:.1f}",
                f"{alone / chained / workers:.2f}",
                f"{staged / 3600:.2f}",
            )
        )
    publish(
        f"A model, not a measurement: {SCIENCE_DETECTORS} CCDs, {LEDS} LEDs, the engine's own order of tasks on a virtual clock",
        ("workers", "hours", "times as fast as 1", "efficiency", "hours if each kind of task waited for all of the kind before"),
        rows,
        text_columns=0,
        remark="Takes every worker as fast as this machine's core, file system and network as fast as the page cache here, and no worker "
        "as dying.",
    )


if __name__ == "__main__":
    main()
