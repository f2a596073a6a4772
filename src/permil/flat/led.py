"""The tasks of one LED in the order in which they need each other: signals, solution, flats of detectors, composite."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np
from astropy.table import Table, vstack

from permil.beam.stage import load_beam, reference_bunches
from permil.camera import Camera
from permil.config import Config
from permil.engine import Batch, Chain
from permil.errors import FlatError, PermilError
from permil.exposures import POINTING, SCAN, Index, require_one_kind
from permil.flat.joint_file import read_light
from permil.flat.tasks.compose import compose
from permil.flat.tasks.divide import divide_detector
from permil.flat.tasks.joint import joint_detector
from permil.flat.tasks.pointings import pointing_groups, wanted_detectors
from permil.flat.tasks.signals import SignalsTask, is_measured, measure_detector, nearest_exposures
from permil.flat.tasks.solution import JointTask, is_solved, joint_task, solve_led
from permil.flat.tasks.task import LEAVES_OUT, FlatTask, is_done, write_relative
from permil.isr.calibrate import calibration_fingerprint, common_serial
from permil.products import RunFolder, fingerprint, stored_fingerprint
from permil.progress import StageReport

_MOST_NAMES = 5
_NOT_IN_FLAT = {"mosaic_mm", "detectors", "leds"}
"""Options that do not change the flat of a detector."""


class LedFlats:
    """The flats of one LED.

    Attributes
    ----------
    solver
        ``joint`` or ``divide``: what is asked for, as far as the data allow.
    reason
        Why it is not the solver that is asked for.
    left_out
        Detectors whose exposures cannot be used, with the reason.
    """

    def __init__(self, config: Config, camera: Camera, folder: RunFolder, index: Index, led: str) -> None:
        self.config, self.camera, self.folder, self.index, self.led = config, camera, folder, index, led
        self.solver, self.reason = _solver(config, index, led)
        self.left_out: dict[str, PermilError] = {}

    @cached_property
    def wanted(self) -> list[str]:
        """Names of the detectors whose flats are asked for.

        Raises
        ------
        FlatError
            If one that is asked for was not read with this LED.
        """
        return wanted_detectors(self.config, self.camera, self.index.select(purpose=POINTING, led=self.led))

    @cached_property
    def solution(self) -> JointTask:
        """The joint solution and the signals that it is fitted to, without the detectors that are left out."""
        watching = [bunch.detector for bunch in reference_bunches(self.config, self.camera)]
        detectors = [name for name in dict.fromkeys([*self.wanted, *watching]) if name not in self.left_out]
        return joint_task(self.config, self.camera, self.folder, self.index, self.led, detectors)

    def chain(self) -> Chain[StageReport | PermilError]:
        """Do all that is not up to date; return the error where exposures of this LED make no flat of any detector."""
        report = StageReport("flat", messages=[self.reason] if self.reason else [])
        try:
            yield from self._steps(report)
        except LEAVES_OUT as error:
            return error
        return report

    def _steps(self, report: StageReport) -> Chain[None]:
        if self.solver == "joint":
            waiting = [task for task in self.solution.signals if not is_measured(task)]
            report.count(done=len(waiting), of=len(self.solution.signals))
            self._leave_out(waiting, (yield Batch(partial(_attempt, measure_detector), waiting, f"super-pixels {self.led}")))
            unsolved = [task for task in [self.solution] if not is_solved(task)]
            report.count(done=len(unsolved), of=1)
            for messages in (yield Batch(partial(_attempt, solve_led), unsolved, f"joint solution {self.led}")):
                if isinstance(messages, PermilError):
                    raise messages
                report.messages += messages
        tasks = self.flat_tasks()
        undone = [task for task in tasks if not is_done(self.folder, task)]
        report.count(done=len(undone), of=len(tasks))
        self._leave_out(undone, (yield Batch(partial(_attempt, make_detector), undone, f"flats {self.led}")))
        report.messages += [f"{self.led}: {name} is left out: {error}" for name, error in self.left_out.items()]
        report.messages += _without_light(self.led, [name for name in self.wanted if name not in self.left_out], tasks)
        tasks = [task for task in tasks if task.detector not in self.left_out]
        yield from compose(self.config, self.camera, self.folder, self.led, tasks, report)

    def _leave_out(self, tasks: Sequence[SignalsTask | FlatTask], results: Sequence[object]) -> None:
        """Leave out the detectors whose task failed, as long as any other is left.

        Raises
        ------
        PermilError
            If none is left.
        """
        failed = {task.detector: result for task, result in zip(tasks, results, strict=True) if isinstance(result, PermilError)}
        if not failed:
            return
        self.left_out |= failed
        if not any(name not in self.left_out for name in self.wanted):
            raise next(iter(failed.values()))
        # The solution is that of the detectors that are left.
        self.__dict__.pop("solution", None)

    def flat_tasks(self) -> list[FlatTask]:
        """Return one task per detector; a joint solution must be there.

        Raises
        ------
        FlatError
            If no pointing puts light on a detector that was read.
        """
        return self._joint_tasks() if self.solver == "joint" else self._divide_tasks()

    def _divide_tasks(self) -> list[FlatTask]:
        config, folder, led = self.config, self.folder, self.led
        source = config.flat.beam_of.get(led, led)
        beam = load_beam(folder.beam(source), led=source)
        beam_print = stored_fingerprint(folder.beam(source)) or ""
        exposures = self.index.select(purpose=POINTING, led=led)
        scan = self.index.select(purpose=SCAN, led=source)
        if len(scan):
            require_one_kind(scan, exposures)
        else:
            require_one_kind(exposures)
        if config.isr.photodiode == "header":
            exposures = exposures[np.isfinite(exposures["photodiode"])]
        else:
            exposures["photodiode"] = 1.0
        options = config.flat.model_dump(mode="json", exclude=_NOT_IN_FLAT | {"joint", "solver"})
        tasks = []
        for name in self.wanted:
            groups = tuple(pointing_groups(exposures[exposures["detector"] == name], self.camera[name], beam.hull.contains))
            if not groups:
                continue
            files = [path for group in groups for path in group.paths]
            positions = [[group.number, group.x_mm, group.y_mm, list(group.photodiodes)] for group in groups]
            print_ = fingerprint(
                {"flat": {"solver": "divide", **options}, "groups": positions},
                files=files,
                upstream=[beam_print, calibration_fingerprint(config, folder, name)],
            )
            serial = common_serial(exposures, name)
            tasks.append(FlatTask(config, folder.root, name, led, groups, print_, serial=serial))
        if not tasks:
            raise FlatError(
                f"no pointing of LED {led} puts light on a detector that was read",
                remedy="check the positions of the pointings against the area of the beam scan",
                led=led,
            )
        return tasks

    def _joint_tasks(self) -> list[FlatTask]:
        config, folder, led = self.config, self.folder, self.led
        light = read_light(folder.joint(led)).exposures
        scan, pointings = (self.index.select(purpose=purpose, led=led) for purpose in (SCAN, POINTING))
        rows = vstack([scan, pointings], metadata_conflicts="silent")
        rows = rows[np.isin(np.asarray(rows["obsid"], dtype=np.str_), list(light))]
        options = config.flat.model_dump(mode="json", exclude=_NOT_IN_FLAT | {"joint", "beam_of"})
        prints = {task.detector: task.fingerprint for task in self.solution.signals}
        tasks = []
        for name in (name for name in self.wanted if name not in self.left_out):
            own = _with_moves(rows[rows["detector"] == name], self.solution.exposures)
            if not len(own):
                continue
            groups = tuple(pointing_groups(own, self.camera[name], lambda x, y: np.ones(np.broadcast(x, y).shape, dtype=bool)))
            print_ = fingerprint({"flat": options}, upstream=[self.solution.fingerprint, prints[name]])
            nearest = nearest_exposures(own, self.camera[name])
            tasks.append(FlatTask(config, folder.root, name, led, groups, print_, "joint", nearest, common_serial(own, name)))
        return tasks


def _attempt(function: Callable[[Any], Any], task: Any) -> Any:
    """Return what a function returns, or its error where the exposures of the task are at fault."""
    try:
        return function(task)
    except LEAVES_OUT as error:
        return error


def _without_light(led: str, wanted: Sequence[str], tasks: Sequence[FlatTask]) -> list[str]:
    """Return which detectors have no flat for want of light."""
    lit = {task.detector for task in tasks}
    dark = [name for name in wanted if name not in lit]
    shown = ", ".join(dark[:_MOST_NAMES]) + (", ..." if len(dark) > _MOST_NAMES else "")
    return [f"{led}: no flat of {shown}: no exposure that can be used puts light there"] if dark else []


def make_detector(task: FlatTask) -> None:
    """Make the flat of one detector and LED and write it on its own scale.

    Raises
    ------
    PermilError
        Naming the detector where no file is named.
    """
    try:
        solution, noted = (joint_detector if task.solver == "joint" else divide_detector)(task)
    except PermilError as error:
        if error.path is None:
            error.path = f"flat of {task.detector}, LED {task.led}"
        raise
    write_relative(RunFolder(task.root), task, solution, noted)


def flat_leds(config: Config, folder: RunFolder, index: Index) -> tuple[list[str], list[str]]:
    """Return the LEDs that have pointings and a beam model, and why others that have pointings are left out.

    Raises
    ------
    FlatError
        If there are no pointings, or an LED that is asked for has none or no beam model.
    """
    pointings = index.select(purpose=POINTING)
    available = [led for led in index.leds if led in set(pointings["led"])]
    wanted = config.flat.leds or available
    missing = [led for led in wanted if led not in available]
    if missing or not available:
        what = f"LED {', '.join(missing)} has no pointings" if missing else "there are no pointings among the exposures"
        raise FlatError(
            what,
            remedy=f"LEDs with pointings: {', '.join(available) or 'none'}; check exposures.roots and flat.leds",
            value=missing,
        )
    leds, reasons = [], []
    for led in wanted:
        source = config.flat.beam_of.get(led, led)
        if folder.beam(source).is_file():
            leds.append(led)
            continue
        if led in config.flat.leds or source != led:
            raise FlatError(
                f"there is no beam model of LED {source}", remedy="scan it, or name another LED in flat.beam_of", led=led
            )
        reasons.append(
            f"LED {led}: no flat, since there is no beam model of {source} (scan it, or name another LED in flat.beam_of)"
        )
    if not leds:
        raise FlatError("no LED has both pointings and a beam model", remedy="name a beam for each in flat.beam_of")
    return leds, reasons


def _solver(config: Config, index: Index, led: str) -> tuple[str, str]:
    """Return the solver of an LED, and why if not the one that is asked for: what borrows a beam can only be divided."""
    source = config.flat.beam_of.get(led, led)
    if config.flat.solver == "joint" and source != led:
        return "divide", f"LED {led}: divided by the beam of {source}; a joint solution needs a scan of its own"
    if config.flat.solver == "joint" and not len(index.select(purpose=SCAN, led=led)):
        return "divide", f"LED {led}: divided by the beam that is there; a joint solution needs its scan"
    return config.flat.solver, ""


def _with_moves(rows: Table, exposures: Table) -> Table:
    """Return rows of the index whose ``position_id`` numbers the moves of the stage: a place that is visited again counts anew."""
    position = np.asarray(exposures["position_id"])
    begins = np.concatenate([[0], (np.diff(position) != 0) | (position[1:] < 0)]).astype(np.int64)
    number_of = dict(zip((str(obsid) for obsid in exposures["obsid"]), np.cumsum(begins), strict=True))
    rows = rows.copy()
    rows["position_id"] = [int(number_of[str(obsid)]) for obsid in rows["obsid"]]
    return rows
