"""The stages of a run, in the order of their dependencies.

A stage is an entry of `STAGES`, which the command line shows, and a `StageFunctions` named ``STAGE`` in its package. All else
follows: order, command and options, single tasks, lists of tasks, submissions, estimate, progress and costs. Modules of stages are
imported when they are needed, so that the command line starts quickly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from permil.context import Run
    from permil.engine import Task
    from permil.progress import StageReport


@dataclass(frozen=True)
class StageFunctions:
    """Functions of a stage.

    Attributes
    ----------
    run
        Function that does the tasks of a run that are not up to date.
    is_wanted
        Function that returns whether there are data for the stage, from the index and the products of earlier stages.
    tasks
        Function that declares the tasks that can be declared before the run begins, from the run and the tasks of earlier stages. A task
        without outputs stands for work that depends on its needs, for the estimate.
    single
        Function that declares the tasks of one command, from the run, a step of the entry, LED and detector ("" where the step has none).
        Raises a `PermilError` if the step or its names are wrong; returns none if the data leave nothing to do.
    """

    run: Callable[[Run], StageReport]
    is_wanted: Callable[[Run], bool] = lambda _run: True
    tasks: Callable[[Run, Sequence[Task]], list[Task]] = lambda _run, _earlier: []
    single: Callable[[Run, str, str, str], list[Task]] = lambda _run, _step, _led, _detector: []


@dataclass(frozen=True)
class Stage:
    """Name, command and place of a stage.

    Attributes
    ----------
    name
        Name of the stage and its command.
    purpose
        Help of the command.
    steps
        Kinds of tasks (first part of `Task.key`) that have a command, in the order in which they need each other, and whether each is of
        an LED or a detector.
    step
        Step that the options ``--led`` and ``--detector`` mean without ``--step``, by default the first.
    keys
        Options of the command that set a key of the configuration: ``{"led": "flat.leds=[{}]"}``.
    examples
        Further examples of the command.
    module
        Module with the functions of the stage, by default ``permil.<name>.stage``.
    """

    name: str
    purpose: str
    steps: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    step: str = ""
    keys: Mapping[str, str] = field(default_factory=dict)
    examples: tuple[str, ...] = ()
    module: str = ""

    @property
    def default_step(self) -> str:
        """Step without ``--step``."""
        return self.step or next(iter(self.steps))

    @property
    def functions(self) -> StageFunctions:
        """What the stage does."""
        functions: StageFunctions = import_module(self.module or f"permil.{self.name}.stage").STAGE
        return functions


_STAGES = (
    Stage(
        "index",
        "List the exposures: one row per detector file.",
        examples=("permil index raw/6840D raw/6841D --out exposures.parquet",),
        module="permil.indexing",
    ),
    Stage(
        "isr",
        "Make superbias and gains of a run, or the superbias of one detector.",
        {"superbias": ("detector",), "noise": ("detector",)},
        examples=("permil isr config.yaml --detector R22_S11",),
    ),
    Stage("beam", "Measure the beam nodes of a run and fit the beam models, or those of one LED.", {"beam": ("led",)}),
    Stage(
        "flat",
        "Make the flats of a run, or run one task: a step of an LED, for one detector if the step has detectors.",
        {"signals": ("led", "detector"), "solution": ("led",), "flat": ("led", "detector"), "composite": ("led",)},
        step="flat",
        keys={"led": "flat.leds=[{}]"},
    ),
    Stage(
        "stability",
        "Test whether light, photodiode, electronics and beam of a run repeat, for all LEDs or one.",
        {"stability": ("led",)},
        examples=("permil stability config.yaml --led red",),
    ),
    Stage(
        "defects",
        "Find dark, bright, hot, unstable and non-linear pixels, weak and dead columns of the detectors of a run, or of one.",
        {"defects": ("detector",)},
        examples=("permil defects config.yaml --detector R22_S11",),
    ),
    Stage(
        "colour",
        "Compare the flats of all LEDs: ratios, vendors, structure common to LEDs.",
        {"colour": ("detector",), "colour_tables": ()},
        examples=("permil colour config.yaml --detector R22_S11",),
    ),
    Stage(
        "spots",
        "Measure, label and calibrate the artificial stars of a run, or measure those of one detector.",
        {"catalog": ("detector",), "spots": ()},
    ),
    Stage(
        "compare",
        "Compare the artificial stars of a run with its flats: correlation, significance, QE, pixel area or diffusion.",
        {"comparison": ("detector",)},
        keys={"flat_out": "compare.flat_out={}"},
        examples=("permil compare config.yaml --no-flat-out",),
    ),
    Stage("report", "Write the pages of the report of a run."),
)

STAGES = {stage.name: stage for stage in _STAGES}
"""Stages in the order of their dependencies."""
