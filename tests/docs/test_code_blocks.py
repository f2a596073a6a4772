"""Every code block of the documentation runs, parses, or is a valid configuration."""

from __future__ import annotations

import fcntl
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import click
import matplotlib as mpl
import pytest
import typer.main

from documentation_pages import DOCS, PAGES, blocks, pages_with
from permil.cli import app
from permil.config import load_config

FillOnce = Callable[[str, Callable[[Path], object]], Path]


LONG = ("gallery.md", "tutorials/judging_a_flat.md", "tutorials/stars_and_flat.md")
"""Pages whose campaigns take more than ten seconds."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.full if name in LONG else ()) for name in pages_with("python")]
)
def test_python_blocks_run(name: str, fill_once: FillOnce, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a page run one after the other; the tutorials share a folder, as in the build of the site."""
    shared = fill_once("documentation", lambda _: None)
    monkeypatch.setenv("PERMIL_DOCS_WORK", str(shared))
    monkeypatch.chdir(tmp_path)
    mpl.use("Agg")
    names: dict[str, object] = {"__name__": "page"}
    with (shared / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for block in blocks(DOCS / name):
            if block.language == "python":
                code = compile("\n" * (block.line - 1) + block.text, name, "exec")
                exec(code, names)  # noqa: S102
    import matplotlib.pyplot as plt

    plt.close("all")


def _commands(text: str) -> list[str]:
    """Return the commands of permil in shell lines, without comments, pipes and loops."""
    lines = re.sub(r"\\\n", " ", text).splitlines()
    return [
        match.strip()
        for line in lines
        for match in re.findall(r"(?:^|\$\(|[|;&] *)\s*(permil (?:'[^']*'|[^|;)&'])*)", line.split(" # ")[0])
    ]


COMMANDS = [(name, command) for name in pages_with("bash") for block in blocks(DOCS / name) if block.language == "bash"
            for command in _commands(block.text)]  # fmt: skip


@pytest.mark.parametrize(("name", "command"), COMMANDS)
def test_commands_parse(name: str, command: str, tmp_path: Path) -> None:
    """Commands, options and overrides of shell blocks exist."""
    arguments = shlex.split(command)[1:]
    node: click.Command = typer.main.get_command(app)
    if arguments == ["--version"]:
        return
    context = node.make_context("permil", list(arguments))
    while isinstance(node, click.Group):
        chosen, found, rest = node.resolve_command(context, [*context._protected_args, *context.args])
        assert found is not None, f"{name}: {command}"
        node = found
        context = node.make_context(chosen, rest, parent=context)
    overrides = [word for word in arguments if re.match(r"[a-z_]+(\.[a-z_]+)*=", word)]
    (tmp_path / "empty.yaml").write_text("{}\n")
    load_config(tmp_path / "empty.yaml", overrides)


CONFIGURATIONS = [(f"{name}:{block.line}", block.text) for name in pages_with("yaml") for block in blocks(DOCS / name)
                  if block.language == "yaml"]  # fmt: skip


@pytest.mark.parametrize("text", [text for _, text in CONFIGURATIONS], ids=[name for name, _ in CONFIGURATIONS])
def test_configurations_are_valid(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(text)
    load_config(tmp_path / "config.yaml")


def test_blocks_have_a_language_that_is_tested() -> None:
    """A block without a language, or of another one, would not be tested; excerpts are blocks of text."""
    known = {"python", "bash", "yaml", "text"}
    found = {(page.name, block.language) for page in PAGES for block in blocks(page)}
    unknown = {(page, language) for page, language in found if language not in known and not re.match(r"\{[\w-]+\}", language)}
    assert unknown == set()
