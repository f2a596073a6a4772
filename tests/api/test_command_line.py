"""The command line: version, help by purpose with examples, what a file is, pictures, JSON."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

import permil
from permil.cli import app
from permil.errors import PermilError

RUNNER = CliRunner()


def _permil(*arguments: object, code: int = 0) -> str:
    result = RUNNER.invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output + str(result.exception)
    return result.output


def _commands(command: object = None, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Return the words of all commands and groups that are not hidden."""
    command = get_command(app) if command is None else command
    found = [path]
    for name, sub in getattr(command, "commands", {}).items():
        if not sub.hidden:
            found += _commands(sub, (*path, name))
    return found


def test_version() -> None:
    assert _permil("--version") == f"permil {permil.__version__}\n"


def test_help_is_grouped_by_purpose() -> None:
    text = _permil("--help")
    headings = re.findall(r"^(\w[\w ]+):$", text, flags=re.MULTILINE)
    assert headings == [
        "Options", "Reduce a campaign", "Single stages of a run", "Single files", "Look at results", "Plan and simulate",
        "Configurations", "Examples",
    ]  # fmt: skip
    assert text.index("  index ") < text.index("  isr ") < text.index("  beam ") < text.index("  flat ") < text.index("  report ")
    assert "--install-completion" in text


def test_help_of_a_stage_shows_what_it_takes() -> None:
    for stage, options in (("flat", ("--led", "--detector", "--step")), ("beam", ("--led",)), ("spots", ("--scheduler",))):
        text = _permil(stage, "--help")
        assert "CONFIG" in text.splitlines()[0]
        for option in options:
            assert option in text
    assert "SECTION.KEY=VALUE" in _permil("simulate", "--help")


@pytest.mark.parametrize("command", _commands(), ids=" ".join)
def test_examples_of_help_parse(command: tuple[str, ...]) -> None:
    text = _permil(*command, "--help")
    examples = text.partition("\nExamples:\n")[2].strip().splitlines()
    assert examples or len(command) > 1 or command == (), command
    for example in examples:
        words = shlex.split(re.sub(r"( {3,}.*| > .*)$", "", example.strip()))
        assert words[0] == "permil"
        found, rest = get_command(app), words[1:]
        while hasattr(found, "commands") and rest and rest[0] in found.commands:
            found, rest = found.commands[rest[0]], rest[1:]
        found = found.commands["run"] if hasattr(found, "commands") else found
        found.make_context("permil", list(rest), resilient_parsing=True)
        known = {option for one in found.params for option in one.opts}
        assert {word for word in rest if word.startswith("--")} <= known, example


def test_show_says_what_a_file_is(made: Path) -> None:
    out = made / "out"
    flat = _permil("show", out / "flat" / "red" / "R22_S11.fits")
    for said in (f"run                 {out}", "LED                 red", "error of a pixel", "modes"):
        assert said in flat
    kinds = {
        "beam/red.fits": "beam model",
        "flat/red/joint.fits": "joint solution",
        "flat/red/.superpixels/R22_S11.fits": "signals on super-pixels",
        "calib/superbias_R22_S11.fits": "superbias",
        "exposures.parquet": "table",
        "summary.ecsv": "table",
        "run.yaml": "run",
        "": "run",
    }
    for name, kind in kinds.items():
        facts = json.loads(_permil("show", out / name, "--json"))
        assert (facts["kind"], facts["run"]) == (kind, str(out)), name
    raw = next((made / "campaign" / "raw").rglob("*.fits"))
    facts = json.loads(_permil("show", raw, "--json"))
    assert (facts["kind"], facts["run"]) == ("raw file", None)


def test_show_of_what_is_not_there(tmp_path: Path) -> None:
    result = RUNNER.invoke(app, ["show", str(tmp_path / "none.fits")])
    assert isinstance(result.exception, PermilError)
    assert str(result.exception).endswith("does not exist; check the path")
    result = RUNNER.invoke(app, ["show", str(tmp_path)])
    assert "this is not the folder of a run" in str(result.exception)


@pytest.mark.parametrize("name", ["flat/red/R22_S11.fits", "beam/red.fits", "calib/superbias_R22_S11.fits"])
def test_plot_draws_a_picture(made: Path, tmp_path: Path, name: str) -> None:
    _permil("plot", made / "out" / name, "--out", tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes()[:4] == b"\x89PNG"


def test_plot_of_what_has_no_picture(made: Path, tmp_path: Path) -> None:
    result = RUNNER.invoke(app, ["plot", str(made / "out" / "summary.ecsv"), "--out", str(tmp_path / "a.png")])
    assert "there is no picture of a table" in str(result.exception)
    result = RUNNER.invoke(app, ["plot", str(made / "out" / "beam" / "red.fits"), "--out", str(tmp_path / "a.gif")])
    assert "use .png, .pdf or .svg" in str(result.exception)


def test_lists_as_json(made: Path) -> None:
    config = made / "campaign" / "config.yaml"
    listed = json.loads(_permil("tasks", config, f"output={made / 'out'}", "--json"))
    assert list(listed)[-1] == "finish"
    assert all(line.startswith("permil ") for lines in listed.values() for line in lines)
    assert json.loads(_permil("tasks", config, f"output={made / 'out'}", "--groups", "--json")) == list(listed)
