"""All tasks of a run: the estimate, the list of commands that do them, and single tasks.

For batch systems and other programs that start processes (HTCondor, BPS, GNU parallel). A command makes its own products and nothing
else: if an input is missing, the error names the command to run first. Commands share the folder of the run; each product
appears under its name only when it is complete, and is made once even if two processes start the same command.
"""

from __future__ import annotations

import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from permil.beam.stage import beam_leds, beam_task, reference_bunches
from permil.config import Config
from permil.config.names import led_named
from permil.context import Run, with_measured_tables
from permil.defects.stage import defects_task
from permil.engine import MEMORY_OF_PROCESS, InProcess, State, Task, needs_first, session
from permil.engine.locks import locked_folder, locked_task
from permil.engine.submission import Form, Job, job_name, submission_text
from permil.errors import ConfigError, FlatError, InputError, OutputError, PermilError
from permil.exposures import POINTING, SCAN, SPOT
from permil.flat.stage import STEPS, flat_leds, led_flats
from permil.isr.stage import superbias_task
from permil.products import RunFolder, make_folder
from permil.progress import StageReport, describe_warnings, do_tasks, tell, tell_report
from permil.stability.stage import stability_task

KINDS = {"superbias": ("detector",), "beam": ("led",), **STEPS, "stability": ("led",), "defects": ("detector",)}
"""Kinds of tasks that have a command, in the order in which they need each other, and what each is of."""
_FINISH = "finish"
"""Name of the last job and group: tables of all detectors, stars, report."""

_SECONDS_OF_REPORT, _SECONDS_OF_PAGE, _SECONDS_OF_PAGE_PIXEL = 2.0, 0.15, 1.5e-7
_SECONDS_OF_COMPARISON = 9.0
_SIZE_OF_PAGE = 1.5e5


def reduced_detectors(run: Run) -> list[str]:
    """Return the detectors that are reduced: those with pointings or stars that are wanted, and those that watch the beam."""
    index, wanted = run.index, run.config.flat.detectors
    pointed = set(index.select(purpose=POINTING)["detector"])
    names = {name for name in pointed if not wanted or name in wanted or name[:3] in wanted}
    if len(index.select(purpose=SCAN)):
        names |= {bunch.detector for bunch in reference_bunches(run.config, run.camera)} & set(
            index.select(purpose=SCAN)["detector"]
        )
    stars = set(index.select(purpose=SPOT)["detector"])
    chosen = {run.camera[label].name for label in run.config.spots.detectors}
    names |= stars & chosen if chosen else stars
    return [name for name in run.camera.detectors if name in names]


def declared_tasks(run: Run) -> list[Task]:
    """Return all tasks that can be declared before the run begins, each after those that it needs.

    LEDs whose exposures do not make a flat are left out; the stages say why.
    """
    superbiases = [superbias_task(run, name) for name in reduced_detectors(run)] if run.config.isr.bias == "auto" else []
    tasks = [*superbiases, *(beam_task(run, led) for led in beam_leds(run))]
    for led in _planned_leds(run):
        try:
            tasks += led_flats(run, led).tasks
            tasks.append(stability_task(run, led))
        except PermilError as error:
            tell(f"LED {led}: {error}")
    # The final place of a flat is that which the composite gives it.
    composites = tuple(task for task in tasks if task.key[0] == "composite")
    detectors = dict.fromkeys(task.key[2] for task in tasks if task.key[0] == "flat")
    return needs_first([*tasks, *(replace(defects_task(run, name), after=composites) for name in detectors)])


def _planned_leds(run: Run) -> list[str]:
    try:
        return flat_leds(run, planned=True)[0]
    except FlatError:
        return []


def estimate(run: Run) -> str:
    """Return the time and disk that the run needs beyond the products that are up to date; check that the disk has it.

    Raises
    ------
    OutputError
        If the disk cannot hold the products.
    """
    # Tasks keep their fingerprints, which files made by the next stages may change: those of this run are not asked.
    fresh, workers = Run(run.config, run.camera, run.folder), run.workers
    tasks = [*declared_tasks(fresh), *_catalogs(fresh)]
    left = [task for task in tasks if not _is_current(task)]
    flats = [run.camera[task.key[2]] for task in left if task.key[0] == "flat"] if run.config.report.detector_pages else []
    need = sum(task.size for task in left) + _SIZE_OF_PAGE * len(flats)
    free = shutil.disk_usage(_existing(run.folder.root)).free
    if need > free:
        raise OutputError(
            f"the products need about {need / 1e9:.2g} GB, the disk has {free / 1e9:.2g} GB free",
            path=run.folder.root,
            remedy="choose another output folder, fewer detectors (flat.detectors), or set flat.keep_pointings=false",
            value=need,
            allowed=free,
        )
    pages = sum(_SECONDS_OF_PAGE + _SECONDS_OF_PAGE_PIXEL * detector.nx * detector.ny for detector in flats)
    flat_fielded = {task.key[2] for task in tasks if task.key[0] == "flat"}
    compared = {task.key[1] for task in left if task.key[0] == "catalog"} & flat_fielded
    serial = [task.seconds for task in left if task.is_serial] + [_SECONDS_OF_COMPARISON] * len(compared)
    seconds = (sum(task.seconds for task in left if not task.is_serial) + pages) / workers
    seconds += sum(serial) / max(min(workers, len(serial)), 1) + _SECONDS_OF_REPORT
    needed = f"about {_duration(seconds)} and {max(need, 1e6) / 1e9:.2g} GB of disk"
    if len(left) == len(tasks):
        return f"this run will take {needed}"
    return f"{len(tasks) - len(left)} of {len(tasks)} products are up to date; the others will take {needed}"


def _catalogs(run: Run) -> list[Task]:
    """Return the tasks that measure raw exposures of stars."""
    if run.config.spots.catalogs or not run.config.exposures.has_raw_files or not len(run.index.select(purpose=SPOT)):
        return []
    from permil.spots.inputs import catalog_tasks

    try:
        return catalog_tasks(run)
    except InputError as error:
        tell(f"stars: {error}")
        return []


def _is_current(task: Task) -> bool:
    """Return whether the products of a task are up to date; without any product, its inputs are not looked at."""
    return any(path.exists() for path in (task.pending, *task.outputs) if path is not None) and task.is_current


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _existing(path: Path) -> Path:
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


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
    groups: dict[str, list[str]] = {name: [] for name in (*KINDS, _FINISH)}
    for tasks in _by_command(declared_tasks(Run.from_config(with_measured_tables(config)))).values():
        groups[tasks[-1].key[0]].append(shlex.join(["permil", *_words(tasks[-1].command, path, overrides)]))
    groups[_FINISH] = [shlex.join(["permil", "run", str(path), *overrides])]
    return [CommandGroup(name, tuple(lines)) for name, lines in groups.items() if lines]


def list_jobs(config: Config, path: Path, overrides: list[str]) -> list[Job]:
    """Return one job for each command of a run and a last one for the rest, with dependencies and memory; needed ones first.

    Parameters
    ----------
    config, path, overrides
        See `list_tasks`. The path in the jobs is absolute.

    Raises
    ------
    InputError
        If there is no index yet.
    """
    path = path.absolute()
    commands = _by_command(declared_tasks(Run.from_config(with_measured_tables(config))))
    names = {task.key: job_name(*tasks[-1].key) for tasks in commands.values() for task in tasks}
    jobs = []
    for tasks in commands.values():
        name, (kind, *parts) = names[tasks[-1].key], tasks[-1].key
        needs = {names[need.key]: None for task in tasks for need in (*task.after, *task.needs)}
        jobs.append(
            Job(
                name=name,
                array=job_name(kind, *(parts[:1] if "led" in KINDS[kind] else [])),
                words=_words(tasks[-1].command, path, overrides),
                needs=tuple(need for need in needs if need != name),
                memory=max(task.memory for task in tasks),
            )
        )
    # One core is asked for; a value of the user comes later and wins.
    words = ("run", str(path), "pipeline.workers=1", *overrides)
    memory = max((job.memory for job in jobs), default=MEMORY_OF_PROCESS)
    return [*jobs, Job(_FINISH, _FINISH, words, tuple(job.name for job in jobs), memory)]


def _by_command(tasks: Sequence[Task]) -> dict[tuple[str, ...], list[Task]]:
    """Return the tasks that each command does, in the order of the last one."""
    commands: dict[tuple[str, ...], list[Task]] = {}
    for task in tasks:
        if task.command:
            commands[task.command] = [*commands.pop(task.command, []), task]
    return commands


def _words(command: Sequence[str], path: Path, overrides: Sequence[str]) -> tuple[str, ...]:
    """Return the arguments of `permil` for a task."""
    stage, *words = command
    return (stage, str(path), *overrides, *words)


def submission(config: Config, path: Path, overrides: list[str], form: Form) -> str:
    """Return a file that submits all tasks of a run, and make the folder for the logs of its jobs.

    Parameters
    ----------
    config, path, overrides
        See `list_tasks`.
    form
        Format of the file.

    Raises
    ------
    InputError
        If there is no index yet.
    """
    jobs = list_jobs(config, path, overrides)
    logs = make_folder(RunFolder(config.output).state.absolute() / "jobs")
    return submission_text(form, jobs, program=(sys.executable, "-m", "permil"), logs=logs)


def run_single(config: Config, kind: str, *, led: str = "", detector: str = "") -> StageReport:
    """Do what one command does: superbias or defects of a detector, beam or stability of an LED, or one step of its flats.

    Raises
    ------
    ConfigError
        If there is no such kind of task, a name is missing or one too many.
    PermilError
        Whatever a user has to mend.
    """
    names = KINDS.get(kind)
    if names is None:
        raise ConfigError(f"there is no step {kind}", remedy=f"steps are {', '.join(STEPS)}", value=kind, allowed=list(STEPS))
    if ("detector" in names) != bool(detector):
        what = "is of all detectors of an LED" if detector else "is of one detector"
        raise ConfigError(f"the step {kind} {what}", remedy="leave --detector out" if detector else "name one with --detector")
    if "led" in names and not led:
        raise ConfigError("the LED of this task is missing", remedy="name it with --led")
    run = Run.from_config(with_measured_tables(config))
    led = led_named(led, camera=config.camera, leds=config.exposures.leds)
    detector = run.camera[detector].name if detector else ""
    if kind == "superbias":
        if config.isr.bias != "auto":
            raise ConfigError(f"there is no superbias to make with isr.bias={config.isr.bias}", remedy="leave this task out")
        return _run_tasks(run, [superbias_task(run, detector)])
    if kind == "defects":
        return _run_tasks(run, [defects_task(run, detector)])
    if kind == "beam":
        if led not in beam_leds(run):
            scanned = ", ".join(beam_leds(run)) or "none"
            raise ConfigError(f"there is no scan of LED {led} to fit", remedy=f"scanned LEDs: {scanned}; check beam.leds")
        model = beam_task(run, led)
        return _run_tasks(run, [*model.needs, model])
    if kind == "stability":
        return _run_tasks(run, [stability_task(run, led)])
    return _run_tasks(run, [_flat_task(run, kind, led, detector)])


def _flat_task(run: Run, step: str, led: str, detector: str) -> Task:
    """Return one step of the flats of an LED.

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
        raise FlatError(flats.reason or "the solver divide has no such step", remedy="go on with the step flat", value=step)
    if detector not in tasks:
        remedy = f"detectors that have one: {', '.join(tasks)}"
        raise FlatError(f"there is no step {step} of {detector}, LED {led}", remedy=remedy, value=detector)
    return tasks[detector]


def _run_tasks(run: Run, tasks: list[Task]) -> StageReport:
    """Do the tasks of one command."""
    root, state, name = run.folder.root, run.folder.state, "_".join(tasks[-1].key)
    report, begin = StageReport(name.replace("_", " ")), time.perf_counter()
    with locked_folder(root, state, shared=True, tell=tell), locked_task(root, state, name), session(InProcess()) as opened:
        ends = do_tasks(tasks)
        report.count(ends)
        for end in ends.values():
            if end.error is not None:
                raise end.error
            report.messages += end.messages
            if end.state == State.EMPTY:
                report.messages.append(f"{' '.join(end.task.key)}: no exposure puts light on it, so that it has no flat")
        report.messages += describe_warnings(opened.take_records())
    report.seconds = time.perf_counter() - begin
    tell_report(report)
    return report
