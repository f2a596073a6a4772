"""A model of a large campaign: its declared tasks in the engine's own order, on a virtual clock, each as long as its estimate."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from astropy.table import Table, vstack

from permil.camera import Detector, load_camera
from permil.camera.frames import detector_to_ccs
from permil.config import load_config
from permil.context import Run
from permil.engine import Call, Executor, Outcome, Task, Work, run_tasks
from permil.exposures import BIAS, POINTING, SCAN
from permil.products import RunFolder, read_table, write_table
from permil.tasks import declared_tasks

EMITTERS = ("uv", "blue", "red", "nm750", "nm850", "nm960")


class VirtualCluster(Executor):
    """Workers whose tasks take the seconds that are their arguments, of a clock that does not wait."""

    def __init__(self, workers: int, overhead: float) -> None:
        self.workers, self.overhead = workers, overhead
        self.now = 0.0
        self._ends: list[tuple[float, int, Call]] = []

    def has_capacity(self) -> bool:
        """Return whether a worker is idle."""
        return len(self._ends) < self.workers

    def begin(self, call: Call) -> None:
        """Let an idle worker begin now."""
        heapq.heappush(self._ends, (self.now + call.argument + self.overhead, call.number, call))

    def outcome(self) -> Outcome:
        """Let the clock go on to the next end of a task."""
        self.now, _, call = heapq.heappop(self._ends)
        return Outcome(call)

    def drop(self) -> None:
        """Forget what goes on."""
        self._ends.clear()

    def rest(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def campaign_tasks(config: Path, detector: str, folder: Path) -> list[Task]:
    """Declare the tasks of a campaign on the whole focal plane: one board watches the scans, a pointing is read by the CCD aimed at.

    Parameters
    ----------
    config
        Of a small campaign with an index, whose exposures of one LED are repeated.
    detector
        Detector that watched its scan and has pointings.
    folder
        Empty folder for the index.
    """
    loaded = load_config(config, [f"output={folder}", "camera=lsstcam", "flat.detectors=[]"])
    camera = load_camera("lsstcam")
    rows = read_table(RunFolder(config.parent).exposures)
    own = rows[rows["detector"] == detector]
    scan, pointings, biases = (own[own["purpose"] == purpose] for purpose in (SCAN, POINTING, BIAS))
    middle_x, middle_y = _middle(camera[detector])
    parts: list[Table] = []
    for target in camera.science:
        name = target.name
        parts.append(_copied(biases, name, "bias"))
        for led in EMITTERS:
            moved = _copied(pointings, name, f"{led}_{name}", led=led, aimed=name)
            x, y = _middle(target)
            for column, shift in (("x", x - middle_x), ("y", y - middle_y)):
                moved[f"{column}_mm"] += shift
            parts.append(moved)
            if target.raft == detector[:3] and target.reb == camera[detector].reb:
                parts.append(_copied(scan, name, led, led=led))
    table = vstack(parts, metadata_conflicts="silent")
    _, table["position_id"] = np.unique(np.round([table["x_mm"], table["y_mm"]], 1), axis=1, return_inverse=True)
    write_table(RunFolder(folder).exposures, table)
    return declared_tasks(Run(loaded, camera, RunFolder(folder)))


def _middle(detector: Detector) -> tuple[float, float]:
    x, y = detector_to_ccs(detector, (detector.nx - 1) / 2, (detector.ny - 1) / 2)
    return float(x), float(y)


def _copied(rows: Table, detector: str, suffix: str, **changes: str) -> Table:
    """Return rows of the index as those of another detector and LED."""
    copy = rows.copy()
    for name, value in {"detector": detector, **changes}.items():
        copy[name] = np.full(len(copy), value)
    for name in ("obsid", "path"):
        copy[name] = np.array([f"{each}_{suffix}" for each in rows[name]])
    return copy


def campaign_seconds(tasks: Sequence[Task], *, workers: int, overhead: float) -> float:
    """Return the modelled time of tasks; each occupies one worker for its estimated seconds."""
    virtual: dict[tuple[str, ...], Task] = {}
    for task in tasks:
        needs = tuple(virtual[need.key] for need in (*task.after, *task.needs))
        virtual[task.key] = replace(task, needs=needs, after=(), outputs=(), pending=None, work=_virtual_work(task.seconds))
    cluster = VirtualCluster(workers, overhead)
    # The stages of a run follow one another.
    for kinds in ({"superbias"}, {"nodes", "beam"}, {"signals", "solution", "flat", "composite"}):
        own = [task for task in virtual.values() if task.key[0] in kinds]
        inside = {task.key for task in own}
        stage = {}
        for task in own:
            needs = tuple(stage[need.key] for need in task.needs if need.key in inside)
            stage[task.key] = replace(task, needs=needs)
        run_tasks(list(stage.values()), cluster, display=_silent, records=[])
    return cluster.now


def _virtual_work(seconds: float) -> Callable[[Task], Work]:
    return lambda _: Work(abs, [seconds], lambda _: ())


@contextmanager
def _silent(_description: str, _total: int) -> Iterator[Callable[[float], None]]:
    yield _nothing


def _nothing(_: float) -> None:
    pass
