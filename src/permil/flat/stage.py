"""The stage `flat`: pointings to the composite flat of each detector and LED, its metrics and the mosaic.

With the solver `joint`, beam, flat and scales of an LED are solved for together on super-pixels first. Then each detector is made
by itself and written with its own scale below ``.relative``; once all detectors of an LED are there, the composite median is known
and the scaled flats take their names. A run that is killed anywhere goes on where it was.
"""

from __future__ import annotations

import numpy as np
from astropy.table import Table, vstack

from permil.beam.stage import load_beam, reference_bunches
from permil.camera import Camera
from permil.config import Config
from permil.errors import FlatError, PermilError
from permil.exposures import POINTING, SCAN, Index, require_one_kind
from permil.flat.joint_file import read_light
from permil.flat.tasks.compose import compose
from permil.flat.tasks.divide import divide_detector
from permil.flat.tasks.joint import joint_detector
from permil.flat.tasks.pointings import pointing_groups, wanted_detectors
from permil.flat.tasks.signals import nearest_exposures
from permil.flat.tasks.solution import joint_task, solve_led
from permil.flat.tasks.task import FlatTask, is_done, write_relative
from permil.isr.calibrate import calibration_fingerprint
from permil.products import RunFolder, fingerprint, stored_fingerprint
from permil.progress import StageReport, parallel_map

_NOT_IN_FLAT = {"mosaic_mm", "detectors", "leds"}
"""Options that do not change the flat of a detector."""


def make_flats(config: Config, camera: Camera, folder: RunFolder, index: Index, *, workers: int) -> StageReport:
    """Make the flats of all detectors and LEDs that the data and the configuration allow.

    Raises
    ------
    FlatError
        If there are no pointings, or an LED that is asked for has none or no beam model.
    """
    report = StageReport("flat")
    leds = _flat_leds(config, folder, index, report)
    tasks = []
    for led in leds:
        if _solver(config, index, led, report) == "joint":
            tasks += _joint_tasks(config, camera, folder, index, led, workers=workers, report=report)
        else:
            tasks += _divide_tasks(config, camera, folder, index, led)
    current = [task for task in tasks if is_done(folder, task)]
    waiting = [task for task in tasks if task not in current]
    report.done += len(waiting)
    report.skipped += len(current)
    parallel_map(make_detector, waiting, workers=workers, description="flats")
    for led in leds:
        of_led = [task for task in tasks if task.led == led]
        compose(config, camera, folder, led, of_led, workers=workers, report=report)
    return report


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


def _flat_leds(config: Config, folder: RunFolder, index: Index, report: StageReport) -> list[str]:
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
    leds = []
    for led in wanted:
        source = config.flat.beam_of.get(led, led)
        if folder.beam(source).is_file():
            leds.append(led)
            continue
        message = f"LED {led}: no flat, since there is no beam model of {source} (scan it, or name another LED in flat.beam_of)"
        if led in config.flat.leds or source != led:
            raise FlatError(
                f"there is no beam model of LED {source}", remedy="scan it, or name another LED in flat.beam_of", led=led
            )
        report.messages.append(message)
    if not leds:
        raise FlatError("no LED has both pointings and a beam model", remedy="name a beam for each in flat.beam_of")
    return leds


def _solver(config: Config, index: Index, led: str, report: StageReport) -> str:
    """Return the solver of an LED: one whose beam stands in from another LED can only be divided."""
    source = config.flat.beam_of.get(led, led)
    if config.flat.solver == "joint" and source != led:
        report.messages.append(f"LED {led}: divided by the beam of {source}; a joint solution needs a scan of its own")
        return "divide"
    if config.flat.solver == "joint" and not len(index.select(purpose=SCAN, led=led)):
        report.messages.append(f"LED {led}: divided by the beam that is there; a joint solution needs its scan")
        return "divide"
    return config.flat.solver


def _divide_tasks(config: Config, camera: Camera, folder: RunFolder, index: Index, led: str) -> list[FlatTask]:
    """Return one task per detector that a pointing of this LED puts light on.

    Raises
    ------
    FlatError
        If a detector that is asked for was not read with this LED.
    """
    source = config.flat.beam_of.get(led, led)
    beam = load_beam(folder.beam(source))
    beam_print = stored_fingerprint(folder.beam(source)) or ""
    exposures = index.select(purpose=POINTING, led=led)
    scan = index.select(purpose=SCAN, led=source)
    if len(scan):
        require_one_kind(scan, exposures)
    else:
        require_one_kind(exposures)
    wanted = wanted_detectors(config, camera, exposures)
    if config.isr.photodiode == "header":
        exposures = exposures[np.isfinite(exposures["photodiode"])]
    else:
        exposures["photodiode"] = 1.0
    options = config.flat.model_dump(mode="json", exclude=_NOT_IN_FLAT | {"joint", "solver"})
    tasks = []
    for name in wanted:
        groups = tuple(pointing_groups(exposures[exposures["detector"] == name], camera[name], beam.hull.contains))
        if not groups:
            continue
        files = [path for group in groups for path in group.paths]
        positions = [[group.number, group.x_mm, group.y_mm, list(group.photodiodes)] for group in groups]
        print_ = fingerprint(
            {"flat": {"solver": "divide", **options}, "groups": positions},
            files=files,
            upstream=[beam_print, calibration_fingerprint(config, folder, name)],
        )
        tasks.append(FlatTask(config, folder.root, name, led, groups, print_))
    if not tasks:
        raise FlatError(
            f"no pointing of LED {led} puts light on a detector that was read",
            remedy="check the positions of the pointings against the area of the beam scan",
            led=led,
        )
    return tasks


def _joint_tasks(
    config: Config, camera: Camera, folder: RunFolder, index: Index, led: str, *, workers: int, report: StageReport
) -> list[FlatTask]:
    """Solve for beam and scales of an LED and return one task per detector.

    Raises
    ------
    FlatError
        If a detector that is asked for was not read with this LED, or there is no solution.
    """
    pointings = index.select(purpose=POINTING, led=led)
    wanted = wanted_detectors(config, camera, pointings)
    watching = [bunch.detector for bunch in reference_bunches(config, camera)]
    solution = joint_task(config, camera, folder, index, led, list(dict.fromkeys([*wanted, *watching])))
    solve_led(solution, config, camera, folder, workers=workers, report=report)
    light = read_light(folder.joint(led)).exposures
    rows = vstack([index.select(purpose=SCAN, led=led), pointings], metadata_conflicts="silent")
    rows = rows[np.isin(np.asarray(rows["obsid"], dtype=np.str_), list(light))]
    options = config.flat.model_dump(mode="json", exclude=_NOT_IN_FLAT | {"joint", "beam_of"})
    prints = {task.detector: task.fingerprint for task in solution.signals}
    tasks = []
    for name in wanted:
        own = _with_moves(rows[rows["detector"] == name], solution.exposures)
        if not len(own):
            continue
        groups = tuple(pointing_groups(own, camera[name], lambda x, y: np.ones(np.broadcast(x, y).shape, dtype=bool)))
        print_ = fingerprint({"flat": options}, upstream=[solution.fingerprint, prints[name]])
        nearest = nearest_exposures(own, camera[name])
        tasks.append(FlatTask(config, folder.root, name, led, groups, print_, "joint", nearest))
    return tasks


def _with_moves(rows: Table, exposures: Table) -> Table:
    """Return rows of the index whose ``position_id`` numbers the moves of the stage: a place that is visited again counts anew."""
    position = np.asarray(exposures["position_id"])
    begins = np.concatenate([[0], (np.diff(position) != 0) | (position[1:] < 0)]).astype(np.int64)
    number_of = dict(zip((str(obsid) for obsid in exposures["obsid"]), np.cumsum(begins), strict=True))
    rows = rows.copy()
    rows["position_id"] = [int(number_of[str(obsid)]) for obsid in rows["obsid"]]
    return rows
