"""All tasks of a run: the estimate, the list of their commands, and single tasks.

For batch systems and other programs that start processes (HTCondor, BPS, GNU parallel). A command makes its own products; if an input is
missing, the error names the command to run first, but for the last steps of stars and colour, which make what is missing. Commands
share the folder of the run; each product appears under its name only when it is complete, and is made once even if two processes start
the same command.
"""

from __future__ import annotations

import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from permil.config import Config
from permil.config.names import led_named
from permil.context import Run, with_measured_tables
from permil.engine import MEMORY_OF_PROCESS, InProcess, State, Task, needs_first, session
from permil.engine.locks import locked_folder, locked_task
from permil.engine.submission import Form, Job, job_name, submission_text
from permil.errors import ConfigError, OutputError
from permil.products import RunFolder, make_folder
from permil.progress import StageReport, describe_warnings, do_tasks, show_message, show_report
from permil.stages import STAGES

_STEPS = {step: names for stage in STAGES.values() for step, names in stage.steps.items()}
"""Kinds of tasks with a command, in the order of their dependencies, and the keys of each (detector, LED)."""
_FINISH = "finish"
"""Name of the last job and group: products of all detectors together, and the report."""


def declared_tasks(run: Run) -> list[Task]:
    """Return all tasks that can be declared before the run begins, each after those that it needs."""
    tasks: list[Task] = []
    for stage in STAGES.values():
        tasks += stage.functions.tasks(run, tasks)
    return needs_first(tasks)


def estimate(run: Run) -> str:
    """Return the time and disk that the run needs beyond the products that are up to date; check that the disk has it.

    Raises
    ------
    OutputError
        If the disk cannot hold the products.
    """
    # Tasks keep their fingerprints, which files made by the next stages may change: those of this run are not asked.
    tasks, workers = declared_tasks(Run(run.config, run.camera, run.folder)), run.workers
    left = list(_left(tasks))
    need = sum(task.size for task in left)
    free = shutil.disk_usage(_existing(run.folder.root)).free
    if need > free:
        raise OutputError(
            f"the products need about {need / 1e9:.2g} GB, the disk has {free / 1e9:.2g} GB free",
            path=run.folder.root,
            remedy="choose another output folder, fewer detectors (flat.detectors), or set flat.keep_pointings=false",
            value=need,
            allowed=free,
        )
    serial = [task.seconds for task in left if task.is_serial]
    seconds = sum(task.seconds for task in left if not task.is_serial) / workers
    seconds += sum(serial) / max(min(workers, len(serial)), 1)
    needed = f"about {_duration(seconds)} and {max(need, 1e6) / 1e9:.2g} GB of disk"
    if len(left) == len(tasks):
        return f"this run will take {needed}"
    return f"{len(tasks) - len(left)} of {len(tasks)} products are up to date; the others will take {needed}"


def _left(tasks: Sequence[Task]) -> Iterator[Task]:
    """Yield the tasks whose products are not up to date or depend on such a task; without products, those that need one."""
    left: set[tuple[str, ...]] = set()
    changed: set[str] = set()
    for task in tasks:
        if task.outputs:
            is_left = not _is_current(task) or any(str(path) in changed for path in (*task.products, *task.files))
        else:
            is_left = any(need.key in left for need in task.needs)
        if is_left:
            left.add(task.key)
            changed.update(map(str, task.outputs))
            yield task


def _is_current(task: Task) -> bool:
    """Return whether the products of a task are up to date; without any product, its inputs are not read."""
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
    """Command lines that are independent of each other."""

    name: str
    commands: tuple[str, ...]


def list_tasks(config: Config, path: Path, overrides: list[str]) -> list[CommandGroup]:
    """Return one command line per task, in groups that run in order.

    Parameters
    ----------
    config
        The configuration.
    path, overrides
        File or values that it was loaded from, which the command lines repeat.

    Raises
    ------
    InputError
        If there is no index yet.
    """
    groups: dict[str, list[str]] = {name: [] for name in (*_STEPS, _FINISH)}
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
    names = {task.key: job_name(*_of_command(tasks[-1])) for tasks in commands.values() for task in tasks}
    jobs = []
    for tasks in commands.values():
        name, (kind, *parts) = names[tasks[-1].key], _of_command(tasks[-1])
        needs = {names[need.key]: None for task in tasks for need in (*task.after, *task.needs)}
        jobs.append(
            Job(
                name=name,
                array=job_name(kind, *(parts[:1] if "led" in _STEPS[kind] else [])),
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
    """Return the tasks of each command, in the order of their last one."""
    commands: dict[tuple[str, ...], list[Task]] = {}
    for task in tasks:
        if task.command:
            commands[task.command] = [*commands.pop(task.command, []), task]
    return commands


def _of_command(task: Task) -> tuple[str, ...]:
    """Return kind, LED and detector of a command from one of its tasks."""
    return task.key[: 1 + len(_STEPS[task.key[0]])]


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


def run_single(config: Config, stage: str, step: str = "", *, led: str = "", detector: str = "") -> StageReport:
    """Run one command: a step of a stage, of an LED or a detector.

    Parameters
    ----------
    config
        The configuration.
    stage, step
        Name of a stage; one of its steps, by default that which names alone mean.
    led, detector
        What the step is of.

    Raises
    ------
    ConfigError
        If there is no such step, a name is missing or one too many.
    PermilError
        Whatever a user has to mend.
    """
    steps, step = STAGES[stage].steps, step or STAGES[stage].default_step
    names = steps.get(step)
    if names is None:
        raise ConfigError(f"there is no step {step}", remedy=f"steps are {', '.join(steps)}", value=step, allowed=list(steps))
    if ("detector" in names) != bool(detector):
        what = f"is of all detectors{' of an LED' if 'led' in names else ''}" if detector else "is of one detector"
        raise ConfigError(f"the step {step} {what}", remedy="leave --detector out" if detector else "name one with --detector")
    if "led" in names and not led:
        raise ConfigError("the LED of this task is missing", remedy="name it with --led")
    run = Run.from_config(with_measured_tables(config))
    led = led_named(led, camera=config.camera, leds=config.exposures.leds)
    detector = run.camera[detector].name if detector else ""
    return _run_tasks(
        run, "_".join(filter(None, (step, led, detector))), STAGES[stage].functions.single(run, step, led, detector)
    )


def _run_tasks(run: Run, name: str, tasks: list[Task]) -> StageReport:
    """Run the tasks of one command.

    Raises
    ------
    PermilError
        If all tasks that no other of them needs failed.
    """
    root, state = run.folder.root, run.folder.state
    report, begin = StageReport(name.replace("_", " ")), time.perf_counter()
    with (
        locked_folder(root, state, shared=True, show=show_message),
        locked_task(root, state, name),
        session(InProcess()) as opened,
    ):
        ends = do_tasks(tasks)
        report.count(ends)
        needed = {need.key for task in tasks for need in task.needs}
        errors = {key: end.error for key, end in ends.items() if end.error is not None}
        if errors and {key for key in ends if key not in needed} <= errors.keys():
            raise next(iter(errors.values()))
        report.messages += [f"left out: {error}" for error in errors.values()]
        for end in ends.values():
            report.messages += end.messages
            if end.state == State.EMPTY:
                report.messages.append(f"{' '.join(end.task.key)}: no exposure illuminates it, so that it has no flat")
        if not tasks:
            report.messages.append(f"{report.stage}: {State.EMPTY.value}")
        report.messages += describe_warnings(opened.take_records())
    report.seconds = time.perf_counter() - begin
    show_report(report)
    return report
