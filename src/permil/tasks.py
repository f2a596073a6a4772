"""Single tasks of a run, each by itself as one process, and the list of them all.

For batch systems and other programs that start processes (HTCondor, BPS, GNU parallel). A task makes its own product and nothing else:
what it needs and is not there is an error that says what to run first. Tasks share the folder of the run; each product appears under its
name only when it is complete, and is made once even if two processes are told to make it.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from permil.beam.stage import fit_beams, reference_bunches
from permil.camera import Camera, load_camera
from permil.config import Config
from permil.config.names import led_named
from permil.engine import InProcess, session
from permil.engine.locks import locked_folder, locked_task
from permil.errors import ConfigError, InputError
from permil.exposures import POINTING, SCAN, Index
from permil.flat.stage import OF_DETECTOR, STEPS, FlatStep, list_steps, make_step
from permil.isr.calibrate import make_superbias, superbias_task
from permil.pipeline import Run, describe_warnings, read_run_index, reduced_detectors, tell, tell_report
from permil.products import is_current
from permil.progress import StageReport

GROUPS = ("superbias", "beam", *STEPS, "finish")
"""Groups of tasks: those of a group need nothing of each other, and all of the groups before."""


def run_superbias(config: Config, *, detector: str) -> StageReport:
    """Make the superbias of one detector.

    Raises
    ------
    ConfigError
        If the configuration asks for none.
    PermilError
        Whatever a user has to mend.
    """
    if config.isr.bias != "auto":
        raise ConfigError(f"there is no superbias to make with isr.bias={config.isr.bias}", remedy="leave this task out")

    def make(run: Run, index: Index) -> StageReport:
        report = StageReport(f"superbias {detector}")
        task = superbias_task(config, run.folder, index, run.camera[detector].name)
        is_done = is_current(task.output, task.fingerprint)
        if not is_done:
            make_superbias(task)
        report.count(done=int(not is_done), of=1)
        return report

    return _run_task(config, f"superbias_{detector}", make)


def run_beam(config: Config, *, led: str) -> StageReport:
    """Measure the nodes of one LED and fit its beam.

    Raises
    ------
    PermilError
        Whatever a user has to mend.
    """
    led = led_named(config, led)
    of_led = config.model_copy(update={"beam": config.beam.model_copy(update={"leds": [led]})})

    def make(run: Run, index: Index) -> StageReport:
        if led in _beam_leds(config, index):
            _require_superbias(run, index, sorted({bunch.detector for bunch in reference_bunches(config, run.camera)}))
        return fit_beams(of_led, run.camera, run.folder, index, workers=1)

    return _run_task(config, f"beam_{led}", make)


def run_flat_step(config: Config, *, step: str, led: str, detector: str) -> StageReport:
    """Do one step of the flats of an LED, of one detector where the step is of a detector.

    Raises
    ------
    ConfigError
        If a detector is missing, or named for a step of the whole LED.
    PermilError
        Whatever a user has to mend.
    """
    if step not in STEPS:
        raise ConfigError(f"there is no step {step}", remedy=f"steps are {', '.join(STEPS)}", value=step, allowed=STEPS)
    if (step in OF_DETECTOR) != bool(detector):
        what = "is of one detector" if step in OF_DETECTOR else "is of all detectors of an LED"
        raise ConfigError(
            f"the step {step} {what}", remedy="name one with --detector" if step in OF_DETECTOR else "leave --detector out"
        )
    led = led_named(config, led)
    if detector:
        detector = load_camera(config.camera)[detector].name
    task = FlatStep(step, led, detector)

    def make(run: Run, index: Index) -> StageReport:
        if detector:
            _require_superbias(run, index, [run.camera[detector].name])
        source = config.flat.beam_of.get(led, led)
        if source in _beam_leds(config, index) and not run.folder.beam(source).is_file():
            raise InputError(
                f"there is no beam model of LED {source} yet", remedy=f"run `permil beam CONFIG --led {source}` first"
            )
        return make_step(config, run.camera, run.folder, index, task)

    return _run_task(config, "_".join(word for word in ("flat", step, led, detector) if word), make)


def _require_superbias(run: Run, index: Index, detectors: list[str]) -> None:
    """Raise an error if a detector has no superbias of just these biases and options."""
    if run.config.isr.bias != "auto":
        return
    for name in detectors:
        task = superbias_task(run.config, run.folder, index, name)
        if not is_current(task.output, task.fingerprint):
            raise InputError(
                f"the superbias of {name} is not there, or no longer up to date",
                remedy=f"run `permil isr CONFIG --detector {name}` first",
                detector=name,
            )


def _run_task(config: Config, name: str, make: Callable[[Run, Index], StageReport]) -> StageReport:
    run = Run.from_config(config)
    index = read_run_index(run.folder)
    root, state = run.folder.root, run.folder.state
    begin = time.perf_counter()
    with locked_folder(root, state, shared=True, tell=tell), locked_task(root, state, name), session(InProcess()) as opened:
        report = make(run, index)
        report.messages += describe_warnings(opened.take_records())
    report.seconds = time.perf_counter() - begin
    tell_report(report)
    return report


@dataclass(frozen=True)
class CommandGroup:
    """Command lines that need nothing of each other."""

    name: str
    commands: tuple[str, ...]


def list_tasks(config: Config, path: Path, overrides: list[str]) -> list[CommandGroup]:
    """Return the command lines of all tasks of a run, in groups of which each needs those before.

    Parameters
    ----------
    config
        The configuration.
    path, overrides
        What it was loaded from, which the command lines repeat.

    Raises
    ------
    InputError
        If there is no index yet.
    """
    run = Run.from_config(config)
    index = read_run_index(run.folder)

    def command(stage: str, **options: str) -> str:
        words = [word for name, entry in options.items() if entry for word in (f"--{name}", entry)]
        return shlex.join(["permil", stage, str(path), *overrides, *words])

    groups: dict[str, list[str]] = {name: [] for name in GROUPS}
    if config.isr.bias == "auto":
        groups["superbias"] = [command("isr", detector=name) for name in reduced_detectors(run, index)]
    groups["beam"] = [command("beam", led=led) for led in _beam_leds(config, index)]
    for one in _flat_steps(config, run.camera, run, index):
        groups[one.step].append(command("flat", step=one.step, led=one.led, detector=one.detector))
    groups["finish"] = [command("run")]
    return [CommandGroup(name, tuple(commands)) for name, commands in groups.items() if commands]


def _beam_leds(config: Config, index: Index) -> list[str]:
    scanned = set(index.select(purpose=SCAN)["led"])
    return [led for led in index.leds if led in scanned and (not config.beam.leds or led in config.beam.leds)]


def _flat_steps(config: Config, camera: Camera, run: Run, index: Index) -> list[FlatStep]:
    pointed, beams = set(index.select(purpose=POINTING)["led"]), _beam_leds(config, index)
    leds = [led for led in index.leds if led in pointed and (not config.flat.leds or led in config.flat.leds)]
    with_beam = [led for led in leds if config.flat.beam_of.get(led, led) in beams]
    return list_steps(config, camera, run.folder, index, with_beam)
