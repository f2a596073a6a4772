"""The stage `flat`: pointings to the composite flat of each detector and LED, its metrics and the mosaic.

With the solver `joint`, beam, flat and scales of an LED are solved for together on super-pixels first. Then each detector is made
by itself and written with its own scale below ``.relative``; once all detectors of an LED are there, the composite median is known
and the scaled flats take their names. A run that is killed anywhere goes on where it was. LEDs need nothing of each other: while one is
solved for, the detectors of the next are measured.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from permil.camera import Camera
from permil.config import Config
from permil.errors import FlatError, InputError, PermilError
from permil.exposures import Index
from permil.flat.led import LedFlats, flat_leds, make_detector
from permil.flat.measured_linearity import write_measured_linearity
from permil.flat.tasks.signals import is_measured, measure_detector
from permil.flat.tasks.solution import is_solved, solve_led
from permil.flat.tasks.task import is_done
from permil.products import RunFolder
from permil.progress import StageReport, parallel_chains

STEPS = ("signals", "solution", "flat", "composite")
"""Kinds of tasks, in the order in which they need each other; the first two are of the solver `joint`."""
OF_DETECTOR = ("signals", "flat")
"""Those of one detector and LED; the others are of an LED."""


def make_flats(config: Config, camera: Camera, folder: RunFolder, index: Index, *, workers: int) -> StageReport:
    """Make the flats of all detectors and LEDs that the data and the configuration allow.

    Raises
    ------
    FlatError
        If there are no pointings, or an LED that is asked for has none or no beam model.
    PermilError
        If the exposures of no LED make a flat.
    """
    leds, reasons = flat_leds(config, folder, index)
    report = StageReport("flat", messages=reasons)
    chains = [LedFlats(config, camera, folder, index, led).chain() for led in leds]
    results = parallel_chains(chains, workers=workers)
    failed = {led: result for led, result in zip(leds, results, strict=True) if isinstance(result, PermilError)}
    if len(failed) == len(leds):
        raise failed[leds[0]]
    report.messages += [f"LED {led} is left out: {error}" for led, error in failed.items()]
    for of_led in results:
        if isinstance(of_led, PermilError):
            continue
        report.done += of_led.done
        report.skipped += of_led.skipped
        report.messages += of_led.messages
    if config.isr.linearity != "measured":
        report.messages += write_measured_linearity(config, camera, folder, [led for led in leds if led not in failed])
    return report


@dataclass(frozen=True)
class FlatStep:
    """One task that can be done by itself; ``detector`` is empty for those of an LED."""

    step: str
    led: str
    detector: str = ""


def list_steps(config: Config, camera: Camera, folder: RunFolder, index: Index, leds: list[str]) -> list[FlatStep]:
    """Return all tasks of some LEDs, in an order in which each comes after those that it needs."""
    flats = [LedFlats(config, camera, folder, index, led) for led in leds]
    joint = [of_led for of_led in flats if of_led.solver == "joint"]
    steps = [FlatStep("signals", of_led.led, task.detector) for of_led in joint for task in of_led.solution.signals]
    steps += [FlatStep("solution", of_led.led) for of_led in joint]
    steps += [FlatStep("flat", of_led.led, name) for of_led in flats for name in of_led.wanted]
    return steps + [FlatStep("composite", of_led.led) for of_led in flats]


def make_step(config: Config, camera: Camera, folder: RunFolder, index: Index, task: FlatStep) -> StageReport:
    """Do one task, if it is not up to date, of what others have left in the folder.

    Raises
    ------
    FlatError
        If there is no such task.
    InputError
        If what it needs is not there or not up to date, naming the step that makes it.
    """
    leds, _ = flat_leds(config.model_copy(update={"flat": config.flat.model_copy(update={"leds": [task.led]})}), folder, index)
    of_led = LedFlats(config, camera, folder, index, leds[0])
    if task.step == "composite":
        return _compose(of_led)
    report = StageReport(f"flat, {task.step}")
    is_current, make, argument = _single(of_led, task)
    if argument is None:
        report.messages.append(f"{task.detector}: no exposure of LED {task.led} puts light on it, so that it has no flat")
        return report
    if is_current():
        report.count(done=0, of=1)
        return report
    report.messages += make(argument) or []
    report.count(done=1, of=1)
    return report


def _single(of_led: LedFlats, task: FlatStep) -> tuple[Callable[[], bool], Callable[[Any], list[str] | None], Any]:
    """Return what tells whether a task is done, what does it, and its argument."""
    if task.step in ("signals", "solution") and of_led.solver != "joint":
        raise FlatError(of_led.reason or "the solver divide has no such step", remedy="go on with the step flat", value=task.step)
    if task.step == "signals":
        signals = _of_detector(list(of_led.solution.signals), task)
        return lambda: is_measured(signals), measure_detector, signals
    if task.step == "solution":
        _require([(is_measured(one), one.detector) for one in of_led.solution.signals], "signals", of_led.led)
        return lambda: is_solved(of_led.solution), solve_led, of_led.solution
    if of_led.solver == "joint":
        _require([(is_solved(of_led.solution), "")], "solution", of_led.led)
    if task.detector in of_led.wanted and task.detector not in {one.detector for one in of_led.flat_tasks()}:
        return lambda: False, make_detector, None
    flat = _of_detector(of_led.flat_tasks(), task)
    return lambda: is_done(of_led.folder, flat), make_detector, flat


def _compose(of_led: LedFlats) -> StageReport:
    if of_led.solver == "joint":
        _require([(is_solved(of_led.solution), "")], "solution", of_led.led)
    _require([(is_done(of_led.folder, one), one.detector) for one in of_led.flat_tasks()], "flat", of_led.led)
    # With all detectors there, what is left of the chain is the composite.
    (result,) = parallel_chains([of_led.chain()], workers=1)
    if isinstance(result, PermilError):
        raise result
    return result


def _of_detector(tasks: list[Any], task: FlatStep) -> Any:
    for one in tasks:
        if one.detector == task.detector:
            return one
    raise FlatError(
        f"there is no step {task.step} of {task.detector}, LED {task.led}",
        remedy=f"detectors that have one: {', '.join(one.detector for one in tasks)}",
        value=task.detector,
    )


def _require(done: list[tuple[bool, str]], step: str, led: str) -> None:
    missing = [name for is_there, name in done if not is_there]
    if missing:
        count = (
            f" of {len(missing)} detectors ({', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''})" if missing[0] else ""
        )
        detector = f" --detector {missing[0]}" if missing[0] else ""
        raise InputError(
            f"LED {led}: the step {step}{count} is not done, or no longer up to date",
            remedy=f"run `permil flat CONFIG --step {step} --led {led}{detector}` first",
            step=step,
            led=led,
            missing=missing,
        )
