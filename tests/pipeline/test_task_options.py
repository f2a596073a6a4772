"""Every key of the configuration that a task reads is one of those that it declares: a change of it makes the products again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from permil.config import Config, load_config
from permil.config.base import Section
from permil.context import Run
from permil.engine import Task, needs_first
from permil.engine.executors import InProcess
from permil.engine.session import session
from permil.pipeline import run_pipeline
from permil.tasks import declared_tasks

from .conftest import linked
from .test_engine_run import QUICK

UNRELATED = {"output", "exposures.roots"}
"""Where products and raw files lie: their names are part of the fingerprints."""


def _sections(section: type[Section], path: str = "") -> Iterator[tuple[type[Section], str]]:
    yield section, path
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from _sections(field.annotation, f"{path}{name}.")


PATHS = dict(_sections(Config))


@contextmanager
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """Yield the keys that are read within."""
    read: set[str] = set()

    def get(section: Section, name: str) -> Any:
        value = object.__getattribute__(section, name)
        kind = type(section)
        if name in kind.model_fields and kind in PATHS and not isinstance(value, Section):
            read.add(PATHS[kind] + name)
        return value

    with monkeypatch.context() as patch:
        patch.setattr(Section, "__getattribute__", get)
        yield read


def declared(task: Task) -> set[str]:
    """Return the keys that a task, or one that it needs, declares."""
    return {key for each in needs_first([task]) for key in each.options}


def undeclared(task: Task, read: set[str]) -> set[str]:
    known = declared(task) | UNRELATED
    return {key for key in read if not any(key == each or key.startswith(f"{each}.") for each in known)}


@pytest.mark.parametrize("solver", ["joint", "divide"])
def test_tasks_declare_the_options_that_they_read(
    solver: str, one_ccd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    campaign = linked(one_ccd, tmp_path / "run")
    config = load_config(campaign / "config.yaml", [*QUICK, f"flat.solver={solver}", "pipeline.workers=1"])
    run_pipeline(config, stages=("index",))
    kinds = []
    with session(InProcess()):
        for task in (task for task in declared_tasks(Run.from_config(config)) if task.outputs):
            with recorded(monkeypatch) as read:
                work = task.work(task)
                assert work is not None
                work.finish([work.function(argument) for argument in work.arguments])
            assert undeclared(task, read) == set(), task.key
            kinds.append(task.key[0])
            assert task.is_current
    first = ["superbias", "nodes", "beam"]
    flats = ["signals", "solution", "flat", "composite"] if solver == "joint" else ["flat", "composite"]
    assert kinds == [*first, *flats, "stability", "defects"]


def test_the_recorder_sees_what_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config()
    with recorded(monkeypatch) as read:
        assert config.flat.joint.modes == config.flat.joint.modes
        assert config.seed == 0
        assert config.isr.overscan == "row_median"
    assert read == {"flat.joint.modes", "seed", "isr.overscan"}
    task = Task(
        ("some",),
        "some",
        lambda _: None,
        options={"flat.joint": {}},
        needs=(Task(("other",), "", lambda _: None, options={"seed": 0}),),
    )
    assert undeclared(task, read) == {"isr.overscan"}
