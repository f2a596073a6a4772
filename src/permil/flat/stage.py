"""The stage `flat`: pointings to the composite flat of each detector and LED, its metrics and the mosaic.

With the solver `joint`, beam, flat and scales of an LED are solved for together on super-pixels first. Then each detector is made
separately and written with its own scale below ``.relative``; once all detectors of an LED exist, the composite median is known
and the scaled flats take their names. LEDs are independent: while one is solved for, the detectors of the next are measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table, vstack

from permil.beam.stage import beam_leds, beam_task, reference_bunches
from permil.context import Run
from permil.engine import MEMORY_OF_PROCESS, Ends, State, Task, Work
from permil.errors import FlatError, PermilError
from permil.exposures import POINTING, SCAN, require_one_kind
from permil.flat.joint.file import JOINT_FORMAT
from permil.flat.measured_linearity import write_measured_linearity
from permil.flat.signals import SIGNALS_FORMAT, SignalsRequest, measure_detector, nearest_exposures
from permil.flat.steps.divided_flat import beam_of, divide_detector
from permil.flat.steps.exposures import LEAVES_OUT, FlatRequest, pointing_groups, unique_exposures, wanted_detectors
from permil.flat.steps.flat_files import MadeFlat, compose, relative_path, write_relative
from permil.flat.steps.joint_flat import joint_detector, joint_light
from permil.flat.steps.solve_led import SolutionRequest, solve_led
from permil.isr.stage import memory_for, reduction_of, size_of_image
from permil.products import RunFolder
from permil.progress import StageReport, do_tasks, show_message
from permil.stages import StageFunctions

_EXPOSURE_FACTS = ("obsid", "x_mm", "y_mm", "photodiode", "mjd", "position_id", "led_temp", "purpose", "run", "job")
"""Columns of the index on which a solution depends."""
_MOST_NAMES = 5
_SOLUTION_BYTES_PER_SIGNAL = 650


def make_flats(run: Run) -> StageReport:
    """Make the flats of all detectors and LEDs that the data and the configuration allow.

    Raises
    ------
    FlatError
        If there are no pointings, or an LED that is asked for has none or no beam model.
    PermilError
        If the exposures of no LED make a flat.
    """
    leds, reasons = flat_leds(run)
    report = StageReport("flat", messages=reasons)
    declared: list[LedFlats] = []
    failed: dict[str, PermilError] = {}
    for led in leds:
        try:
            declared.append(led_flats(run, led))
        except LEAVES_OUT as error:
            failed[led] = error
    ends = do_tasks([task for flats in declared for task in flats.tasks])
    report.count(ends)
    messages = {flats.led: _messages(flats, ends) for flats in declared}
    failed |= {flats.led: why for flats in declared if (why := _error(flats, ends)) is not None}
    if len(failed) == len(leds):
        raise failed[leds[0]]
    report.messages += [f"LED {led} is left out: {failed[led]}" for led in leds if led in failed]
    report.messages += [sentence for led, sentences in messages.items() if led not in failed for sentence in sentences]
    if run.config.isr.linearity != str(run.folder.measured_linearity):
        report.messages += write_measured_linearity(run, [led for led in leds if led not in failed])
    return report


def _error(flats: LedFlats, ends: Ends) -> PermilError | None:
    """Return why an LED has no flat, None if it has."""
    composite = ends[flats.composite.key]
    if composite.is_there or composite.state == State.FAILED:
        return composite.error
    dark = FlatError(
        f"no pointing of LED {flats.led} illuminates a detector that was read out",
        remedy="check the positions of the pointings against the area of the beam scan",
        led=flats.led,
    )
    return next((error for task in flats.tasks if (error := ends[task.key].error) is not None), dark)


def _messages(flats: LedFlats, ends: Ends) -> list[str]:
    """Return the messages for the user on the flats of an LED."""
    left_out = {
        task.key[2]: ends[task.key].error for task in flats.tasks if len(task.key) > 2 and ends[task.key].state != State.DROPPED
    }
    dark = [task.key[2] for task in flats.flats if ends[task.key].state == State.EMPTY]
    shown = ", ".join(dark[:_MOST_NAMES]) + (", ..." if len(dark) > _MOST_NAMES else "")
    return [
        *([flats.reason] if flats.reason else []),
        *(sentence for task in flats.tasks[:-1] for sentence in ends[task.key].messages),
        *(f"{flats.led}: {name} is left out: {error}" for name, error in left_out.items() if error is not None),
        *([f"{flats.led}: no flat of {shown}: no usable exposure illuminates it"] if dark else []),
        *ends[flats.composite.key].messages,
    ]


def flat_leds(run: Run, *, planned: bool = False) -> tuple[list[str], list[str]]:
    """Return the LEDs that have pointings and a beam model, and why others that have pointings are left out.

    Parameters
    ----------
    planned
        Whether a beam model that a run will make counts.

    Raises
    ------
    FlatError
        If there are no pointings, or an LED that is asked for has none or no beam model.
    """
    config, index = run.config.flat, run.index
    pointings = index.select(purpose=POINTING)
    available = [led for led in index.leds if led in set(pointings["led"])]
    wanted = config.leds or available
    missing = [led for led in wanted if led not in available]
    if missing or not available:
        what = f"LED {', '.join(missing)} has no pointings" if missing else "there are no pointings among the exposures"
        raise FlatError(
            what,
            remedy=f"LEDs with pointings: {', '.join(available) or 'none'}; check exposures.roots and flat.leds",
            value=missing,
        )
    scanned = beam_leds(run) if planned else []
    leds, reasons = [], []
    for led in wanted:
        source = config.beam_of.get(led, led)
        if source in scanned or run.folder.beam(source).is_file():
            leds.append(led)
            continue
        if led in config.leds or source != led:
            raise FlatError(
                f"there is no beam model of LED {source}", remedy="scan it, or name another LED in flat.beam_of", led=led
            )
        reasons.append(
            f"LED {led}: no flat, since there is no beam model of {source} (scan it, or name another LED in flat.beam_of)"
        )
    if not leds:
        raise FlatError("no LED has both pointings and a beam model", remedy="name a beam for each in flat.beam_of")
    return leds, reasons


@dataclass(frozen=True)
class LedFlats:
    """The tasks of one LED.

    Attributes
    ----------
    reason
        Why its solver is not that of the configuration.
    tasks
        All tasks; each comes after those that it needs.
    """

    led: str
    reason: str
    tasks: tuple[Task, ...]

    @property
    def flats(self) -> list[Task]:
        """Tasks that make the flat of a detector."""
        return [task for task in self.tasks if task.key[0] == "flat"]

    @property
    def composite(self) -> Task:
        """Task that puts all flats on one scale."""
        return self.tasks[-1]


def led_flats(run: Run, led: str) -> LedFlats:
    """Declare all tasks of one LED.

    Raises
    ------
    FlatError
        If a requested detector was not read with this LED.
    PositionError
        If the positions of its exposures are of two kinds.
    """
    solver, reason = _solver(run, led)
    wanted = wanted_detectors(run.config, run.camera, run.index.select(purpose=POINTING, led=led))
    tasks = _joint_tasks(run, led, wanted) if solver == "joint" else _divide_tasks(run, led, wanted)
    flats = tuple(task for task in tasks if task.key[0] == "flat")
    return LedFlats(led, reason, (*tasks, _composite_task(run, led, flats)))


def _tasks(run: Run, _earlier: Sequence[Task]) -> list[Task]:
    """Declare the flats of a run; LEDs whose exposures do not make a flat are left out with a message."""
    tasks: list[Task] = []
    try:
        leds = flat_leds(run, planned=True)[0] if run.has_exposures else []
    except FlatError:
        leds = []
    for led in leds:
        try:
            tasks += led_flats(run, led).tasks
        except PermilError as error:
            show_message(f"LED {led}: {error}")
    return tasks


def _single(run: Run, step: str, led: str, detector: str) -> list[Task]:
    """Declare one step of the flats of an LED.

    Raises
    ------
    FlatError
        If there is no such task.
    """
    leds, reasons = flat_leds(run, planned=True)
    if led not in leds:
        remedy = "; ".join(reasons) or f"LEDs with pointings: {', '.join(leds)}; check exposures.roots and flat.leds"
        raise FlatError(f"LED {led} has no pointings or no beam model", remedy=remedy, value=led)
    flats = led_flats(run, led)
    tasks = {task.key[2] if detector else "": task for task in flats.tasks if task.key[0] == step}
    if not tasks:
        raise FlatError(flats.reason or "the solver divide has no such step", remedy="continue with the step flat", value=step)
    if detector not in tasks:
        remedy = f"detectors that have one: {', '.join(tasks)}"
        raise FlatError(f"there is no step {step} of {detector}, LED {led}", remedy=remedy, value=detector)
    return [tasks[detector]]


STAGE = StageFunctions(
    make_flats, is_wanted=lambda run: run.has_bench_exposures or not run.has_stars, tasks=_tasks, single=_single
)


def _solver(run: Run, led: str) -> tuple[str, str]:
    """Return the solver of an LED, and the reason if it is not the configured one: only `divide` can use the beam of another LED."""
    config = run.config.flat
    source = config.beam_of.get(led, led)
    if config.solver == "joint" and source != led:
        return "divide", f"LED {led}: divided by the beam of {source}; a joint solution needs its own scan"
    if config.solver == "joint" and not len(run.index.select(purpose=SCAN, led=led)):
        return "divide", f"LED {led}: divided by the existing beam model; a joint solution needs its scan"
    return config.solver, ""


def _joint_tasks(run: Run, led: str, wanted: Sequence[str]) -> list[Task]:
    """Declare the signals of all detectors that take part, the solution, and the flats of the wanted detectors."""
    scan, pointings = (run.index.select(purpose=purpose, led=led) for purpose in (SCAN, POINTING))
    require_one_kind(*(rows for rows in (scan, pointings) if len(rows)))
    watching = [bunch.detector for bunch in reference_bunches(run.config, run.camera)]
    rows = _by_detector(vstack([scan, pointings], metadata_conflicts="silent"), {*wanted, *watching})
    # An LED without a beam model has no flat.
    beams = _beam_tasks(run, led)
    signals = {name: _signals_task(run, led, name, rows[name], beams) for name in run.camera.detectors if name in rows}
    solution = _solution_task(run, led, rows, tuple(signals.values()))
    moves = cache(partial(_moves_of, rows))
    flats = [_joint_flat_task(run, led, name, rows, solution, signals[name], moves) for name in wanted]
    return [*signals.values(), solution, *flats]


def _signals_task(run: Run, led: str, detector: str, rows: Table, beams: tuple[Task, ...]) -> Task:
    reduction, rows = reduction_of(run, detector), rows.copy()
    rows.sort(["mjd", "obsid"])
    paths, obsids = (tuple(str(entry) for entry in rows[name]) for name in ("path", "obsid"))
    nearest = nearest_exposures(rows, run.camera[detector])

    def work(task: Task) -> Work:
        request = SignalsRequest(run.config, run.folder.root, detector, led, paths, obsids, nearest, task.fingerprint)
        return Work(measure_detector, [request])

    return Task(
        ("signals", led, detector),
        f"super-pixels {led}",
        work,
        outputs=(run.folder.super_pixels(led, detector),),
        options=reduction.options | run.options("flat.super_pixel_mm", "flat.joint.signal_pixels"),
        facts=[SIGNALS_FORMAT, *nearest],
        files=[*paths, *reduction.files],
        needs=reduction.needs,
        after=beams,
        leaves_out=LEAVES_OUT,
        command=step_command("signals", led, detector),
        # A sample of rows is read of each file.
        seconds=0.05 + len(paths) * (0.007 + 1.25e-9 * run.camera[detector].nx * run.camera[detector].ny),
        size=len(paths) * 8 * _super_pixels(run, detector),
        memory=memory_for(run.camera[detector], bytes_per_pixel=30),
    )


def _solution_task(run: Run, led: str, rows: Mapping[str, Table], signals: tuple[Task, ...]) -> Task:
    options, every = run.config.flat, unique_exposures(vstack(list(rows.values()), metadata_conflicts="silent"))

    def work(task: Task) -> Work:
        detectors = _detectors_of(task)
        exposures = _exposures_of(rows, detectors)
        origin = run.origin(exposures, led=led)
        return Work(
            solve_led, [SolutionRequest(run.config, run.folder.root, led, exposures, detectors, task.fingerprint, origin)]
        )

    n_signals = sum(len(own) * _super_pixels(run, name) for name, own in rows.items())
    return Task(
        ("solution", led),
        f"joint solution {led}",
        work,
        outputs=(run.folder.joint(led),),
        options=run.options("flat.joint", "isr.photodiode", "seed", "validity"),
        facts=[JOINT_FORMAT, run.camera.temperature_coefficient, [[str(row[name]) for name in _EXPOSURE_FACTS] for row in every]],
        needs=signals,
        tolerant=True,
        leaves_out=LEAVES_OUT,
        command=step_command("solution", led),
        seconds=(0.5 + 7.3e-6 * n_signals + 1e-5 * len(every) ** 2 + 0.4 * len(rows)) * (1.0 if options.joint.checks else 0.85),
        size=sum(4 * (options.joint.modes + 3) * _super_pixels(run, name) for name in rows),
        is_serial=True,
        memory=MEMORY_OF_PROCESS + _SOLUTION_BYTES_PER_SIGNAL * n_signals,
    )


def _joint_flat_task(
    run: Run,
    led: str,
    detector: str,
    rows: Mapping[str, Table],
    solution: Task,
    signals: Task,
    moves: Callable[[tuple[str, ...]], Mapping[str, int]],
) -> Task:
    def work(task: Task) -> Work | None:
        solved = task.needs[0]
        light = joint_light(run.folder.joint(led)).exposures
        own = rows[detector]
        own = own[np.isin(np.asarray(own["obsid"], dtype=np.str_), list(light))]
        if not len(own):
            return None
        # Each visit of a place is a separate position.
        number_of = moves(_detectors_of(solved))
        own["position_id"] = [number_of[str(obsid)] for obsid in own["obsid"]]
        groups = tuple(pointing_groups(own, run.camera[detector], lambda x, y: np.ones(np.broadcast(x, y).shape, dtype=bool)))
        nearest, origin = nearest_exposures(own, run.camera[detector]), run.origin(own, detector=detector, led=led)
        request = FlatRequest(run.config, run.folder.root, detector, led, groups, task.fingerprint, "joint", nearest, origin)
        return Work(_make_detector, [request])

    return _flat_task(run, led, detector, rows[detector], work=work, needs=(solution, signals))


def _divide_tasks(run: Run, led: str, wanted: Sequence[str]) -> list[Task]:
    """Declare the flat of each wanted detector, with the beam of its LED or of another."""
    source = run.config.flat.beam_of.get(led, led)
    rows, scan = run.index.select(purpose=POINTING, led=led), run.index.select(purpose=SCAN, led=source)
    require_one_kind(*([scan] if len(scan) else []), rows)
    if run.config.isr.photodiode == "header":
        rows = rows[np.isfinite(rows["photodiode"])]
    else:
        rows["photodiode"] = 1.0
    by_detector = _by_detector(rows, wanted)
    return [_divide_task(run, led, name, by_detector.get(name, rows[:0])) for name in wanted]


def _divide_task(run: Run, led: str, detector: str, rows: Table) -> Task:
    source = run.config.flat.beam_of.get(led, led)
    reduction, beam_path = reduction_of(run, detector), run.folder.beam(source)

    def work(task: Task) -> Work | None:
        beam = beam_of(beam_path, led=source)
        groups = tuple(pointing_groups(rows, run.camera[detector], beam.hull.contains))
        origin = run.origin(rows, detector=detector, led=led)
        request = FlatRequest(run.config, run.folder.root, detector, led, groups, task.fingerprint, origin=origin)
        return Work(_make_detector, [request]) if groups else None

    beams = _beam_tasks(run, source)
    return _flat_task(
        run,
        led,
        detector,
        rows,
        work=work,
        facts=[[str(row[name]) for name in (*_EXPOSURE_FACTS, "aimed")] for row in rows],
        files=[*(str(path) for path in rows["path"]), *reduction.files],
        products=() if beams else (beam_path,),
        needs=(*reduction.needs, *beams),
        options=reduction.options | run.options("flat.beam_of"),
    )


def _beam_tasks(run: Run, led: str) -> tuple[Task, ...]:
    """Return the task that makes the beam of an LED; none if it was not scanned and its model exists."""
    return (beam_task(run, led),) if led in beam_leds(run) else ()


def _flat_task(
    run: Run,
    led: str,
    detector: str,
    rows: Table,
    *,
    work: Callable[[Task], Work | None],
    needs: tuple[Task, ...],
    options: Mapping[str, Any] | None = None,
    facts: Any = None,
    files: Sequence[str | Path] = (),
    products: tuple[Path, ...] = (),
) -> Task:
    """Declare the flat of a detector by either solver, from exposures in the index."""
    own = run.options("flat.solver", "flat.remove_amplifier_steps", "flat.keep_pointings", "flat.super_pixel_mm", "validity")
    is_kept = (np.asarray(rows["aimed"]) == detector) & (np.asarray(rows["purpose"]) == POINTING)
    kept = np.unique(np.asarray(rows["position_id"])[is_kept]).size
    # Modes, remainder and halves, and small maps of each pointing.
    small = 4 * _super_pixels(run, detector) * (run.config.flat.joint.modes + 4 + 3 * kept)
    pixels = run.camera[detector].nx * run.camera[detector].ny
    return Task(
        ("flat", led, detector),
        f"flats {led}",
        work,
        outputs=(run.folder.flat(led, detector),),
        pending=relative_path(run.folder, led, detector),
        options=dict(options or {}) | own,
        facts=facts,
        files=files,
        products=products,
        needs=needs,
        leaves_out=LEAVES_OUT,
        command=step_command("flat", led, detector),
        seconds=0.2 + (1.5e-7 + 0.9e-7 * kept) * pixels + len(rows) * (0.0105 + 1e-8 * pixels),
        size=size_of_image(run.camera[detector]) * (1 + (kept if run.config.flat.keep_pointings else 0)) + small,
        memory=memory_for(run.camera[detector], bytes_per_pixel=100),
    )


def _super_pixels(run: Run, detector: str) -> float:
    """Return the number of super-pixels of a detector."""
    own = run.camera[detector]
    return own.nx * own.ny * own.pixel_mm**2 / run.config.flat.super_pixel_mm**2


def _make_detector(task: FlatRequest) -> None:
    """Make the flat of one detector and LED and write it on its own scale.

    Raises
    ------
    PermilError
        With the detector in the message if it names no file.
    """
    try:
        solution, noted = (joint_detector if task.solver == "joint" else divide_detector)(task)
    except PermilError as error:
        if error.path is None:
            error.path = f"flat of {task.detector}, LED {task.led}"
        raise
    write_relative(RunFolder(task.root), task, solution, noted)


def _composite_task(run: Run, led: str, flats: tuple[Task, ...]) -> Task:
    def work(task: Task) -> Work:
        made = [MadeFlat(led, need.key[2], need.fingerprint) for need in task.needs]
        names = [flat.detector for flat in made]
        rows = [run.index.select(purpose=purpose, led=led) for purpose in (SCAN, POINTING)]
        used = vstack(rows, metadata_conflicts="silent")
        used = used[np.isin(np.asarray(used["detector"]), names)]
        return compose(run.config, run.camera, run.folder, made, task.fingerprint, origin=run.origin(used, led=led))

    return Task(
        ("composite", led),
        f"composite {led}",
        work,
        outputs=(run.folder.metrics(led), run.folder.focal_plane(led)),
        options=run.options("flat.mosaic_mm", "validity"),
        needs=flats,
        tolerant=True,
        leaves_out=LEAVES_OUT,
        command=step_command("composite", led),
        seconds=sum(0.04 + 2e-8 * run.camera[need.key[2]].nx * run.camera[need.key[2]].ny for need in flats),
        memory=max((memory_for(run.camera[need.key[2]], bytes_per_pixel=60) for need in flats), default=MEMORY_OF_PROCESS),
    )


def step_command(step: str, led: str, detector: str = "") -> tuple[str, ...]:
    """Return the arguments of the command that runs one task."""
    return ("flat", "--step", step, "--led", led, *(("--detector", detector) if detector else ()))


def _by_detector(rows: Table, wanted: Iterable[str]) -> dict[str, Table]:
    """Return the rows of each detector."""
    read = np.asarray(rows["detector"], dtype=np.str_)
    return {name: rows[read == name] for name in set(wanted) & set(read.tolist())}


def _detectors_of(solution: Task) -> tuple[str, ...]:
    """Return the detectors whose signals a solution uses."""
    return tuple(need.key[2] for need in solution.needs)


def _exposures_of(rows: Mapping[str, Table], detectors: Sequence[str]) -> Table:
    """Return the exposures that read some of the detectors."""
    return unique_exposures(vstack([rows[name] for name in detectors], metadata_conflicts="silent"))


def _moves_of(rows: Mapping[str, Table], detectors: Sequence[str]) -> dict[str, int]:
    """Return the number of the move of the stage before each exposure that read some of the detectors: each visit of a place is a move."""
    exposures = _exposures_of(rows, detectors)
    position = np.asarray(exposures["position_id"])
    begins = np.concatenate([[0], (np.diff(position) != 0) | (position[1:] < 0)]).astype(np.int64)
    return dict(zip(map(str, exposures["obsid"]), np.cumsum(begins).tolist(), strict=True))
