"""The command line: version, help by purpose with examples, what a file is, pictures, JSON."""

from __future__ import annotations

import json
import math
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.table import Table
from typer.main import get_command
from typer.testing import CliRunner

import permil
from permil.cli import app
from permil.config import Config
from permil.errors import PermilError
from permil.products import Description, plain_facts, read_table
from permil.spots.catalog import write_catalog

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
        "Options", "Reduce a campaign", "Single stages of a run", "Single files", "Look at results",
        "Exchange with the LSST stack", "Plan and simulate", "Configurations", "Examples",
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
        known = {option for one in found.params for option in (*one.opts, *one.secondary_opts)}
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
    facts = json.loads(_permil("show", out, "--json"))
    assert facts["LEDs"] == ["nm960", "red"]
    verdicts = [str(verdict) for verdict in permil.open_run(out).summary["pass"]]
    assert facts["specifications"] == {name: verdicts.count(name) for name in sorted({*verdicts} - {"-"})}
    assert "LEDs                nm960, red" in _permil("show", out)
    assert json.loads(_permil("show", out / "exposures.parquet", "--json"))["columns"]["x_mm"] == "mm"
    assert "x_mm (mm)" in _permil("show", out / "exposures.parquet")
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
    assert "a table cannot be plotted" in str(result.exception)
    result = RUNNER.invoke(app, ["plot", str(made / "out" / "beam" / "red.fits"), "--out", str(tmp_path / "a.gif")])
    assert "use .png, .pdf or .svg" in str(result.exception)


def test_lists_as_json(made: Path) -> None:
    config = made / "campaign" / "config.yaml"
    listed = json.loads(_permil("tasks", config, f"output={made / 'out'}", "--json"))
    assert list(listed)[-1] == "finish"
    assert all(line.startswith("permil ") for lines in listed.values() for line in lines)
    assert json.loads(_permil("tasks", config, f"output={made / 'out'}", "--groups", "--json")) == list(listed)


def _json(*arguments: object) -> Any:
    """Return what a command writes to standard output as JSON; NaN and infinity, which it does not have, are an error."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    result = RUNNER.invoke(app, [*(str(argument) for argument in arguments), "--json"])
    assert result.exit_code == 0, result.output + str(result.exception)
    return json.loads(result.stdout, parse_constant=refuse)


def test_difference_of_flats_as_json(made: Path) -> None:
    paths = [made / "out" / "flat" / led / "R22_S11.fits" for led in ("red", "nm960")]
    found = _json("flat", "diff", *paths)
    difference = permil.Flat.read(paths[0]).difference(permil.Flat.read(paths[1]))
    assert (found["first"], found["detector"], found["leds"]) == (str(paths[0]), "R22_S11", ["red", "nm960"])
    assert {name: found[name] for name in difference.facts()} == plain_facts(difference.facts())
    assert found["amplifiers"]["C14"] == dict(zip(("ratio", "error"), difference.amplifiers["C14"], strict=True))


def test_application_of_a_flat_as_json(made: Path, tmp_path: Path) -> None:
    flat, out = made / "out" / "flat" / "red" / "R22_S11.fits", tmp_path / "out.fits"
    found = _json("flat", "apply", flat, flat, "--out", out)
    lost = np.count_nonzero(permil.Flat.read(out).mask & permil.MaskPlane.NO_DATA)
    assert (found["out"], found["led"], found["pixels_without_data"]) == (str(out), "red", lost)


def test_beam_of_nodes_as_json(tmp_path: Path) -> None:
    x, y = (axis.ravel() for axis in np.meshgrid(np.linspace(-40, 40, 7), np.linspace(-40, 40, 7)))
    signal = 5e4 * np.exp(-(x**2 + y**2) / 6000) * (1 + 1e-3 * np.random.default_rng(1).standard_normal(x.size))
    Table({"x_mm": x, "y_mm": y, "signal": signal}).write(tmp_path / "nodes.ecsv")
    found = _json("beam", "fit", tmp_path / "nodes.ecsv", "--out", tmp_path / "beam.fits")
    model = permil.load_beam(tmp_path / "beam.fits")
    assert (found["nodes"], found["node_noise"]) == (49, pytest.approx(model.node_noise))
    assert found["maximum_mm"] == pytest.approx([model.maximum.ux, model.maximum.uy])
    Table({"x_mm": [0.0, 400.0], "y_mm": [0.0, 0.0]}).write(tmp_path / "points.ecsv")
    points = ("beam", "predict", tmp_path / "beam.fits", tmp_path / "points.ecsv", "--out", tmp_path / "values.ecsv")
    assert _json(*points)["without_data"] == 1


@pytest.mark.full
def test_spots_as_json(tmp_path: Path) -> None:
    i, j = (axis.ravel() for axis in np.meshgrid(np.arange(5), np.arange(5)))
    rng, paths = np.random.default_rng(0), []
    for number in range(3):
        flux = 1e5 * rng.normal(1, 1e-3, 25)
        place = 80.0 + 60 * i + 7 * number, 90.0 + 60 * j + 5 * number
        errors = {f"{name}_err": np.full(25, 0.01) for name in ("x", "y")} | {"flux_err": np.full(25, 100.0)}
        catalog = permil.SpotCatalog(*place, flux=flux, detector="R22_S11", exposure=f"e{number}", band="red", **errors)
        paths.append(tmp_path / f"e{number}.fits")
        write_catalog(paths[-1], catalog)
    size = ("--columns", 5, "--rows", 5)
    found = _json("spots", "grid", paths[0], "--out", tmp_path / "grid.fits", *size, "--degree", 1)
    assert (found["sources"], found["spots"], found["window"]) == (25, 25, "decided")
    assert found["parameters"]["xstep"] == pytest.approx(60, abs=1e-6)
    found = _json("spots", "calibrate", *paths, "--out", tmp_path / "calibration.fits", *size)
    assert (found["detector"], found["band"], found["metrics"]["spots"]["value"]) == ("R22_S11", "red", 25)


def test_check_of_a_plan_as_json(tmp_path: Path) -> None:
    section = {"detectors": ["R22_S11"], "pointings": {}, "cells": 6, "beam_knots_mm": 10.0}
    content = {"camera": "lsstcam-bin8", "plan": section, "output": "out"}
    (tmp_path / "plan.yaml").write_text(json.dumps(content), encoding="utf-8")
    found = _json("plan", "check", tmp_path / "plan.yaml")
    check = permil.check_plan(None, "lsstcam-bin8", **section)
    assert {name: found[name] for name in check.facts()} == plain_facts(check.facts())
    assert found["super_pixel_error"] == check.super_pixel_error
    assert [row["detector"] for row in found["detectors"]] == ["R22_S11"]
    assert all(Path(path).is_file() for path in found["files"])


def test_a_plan_is_improved_and_written(tmp_path: Path) -> None:
    section = {
        "detectors": ["R22_S11"], "scan": {"nx": 5, "ny": 4, "width_mm": 60.0}, "photodiode_noise": 2e-4, "photodiode_drift": 3e-3,
        "cells": 6, "beam_knots_mm": 20.0, "files": {"leds": [{"led": "red", "electrons": 1e5}], "biases": 1},
    }  # fmt: skip
    content = {"camera": "lsstcam-bin8", "plan": section, "seed": 4, "output": "out"}
    config = tmp_path / "plan.yaml"
    config.write_text(json.dumps(content), encoding="utf-8")
    found = _json("plan", "improve", config)
    assert [step["change"] for step in found["steps"]][:2] == ["as planned", "positions in random order"]
    assert found["steps"][-1]["gradient_error"] < 0.3 * found["steps"][0]["gradient_error"]
    assert read_table(Path(found["files"][0]))["gain"][1] == found["steps"][1]["gain"]
    improved = found["files"][1]
    written = _json("plan", "write", improved, "--out", tmp_path / "acquisition")
    assert [Path(path).name for path in written["files"]] == ["ccob_sequence_red.cfg"]
    assert written["leds"] == [{"led": "red", "current_a": 0.009, "exposure_s": 0.035}]
    assert written["seconds"] == found["steps"][-1]["seconds"]
    text = Path(written["files"][0]).read_text(encoding="utf-8")
    assert text.startswith("# 20 points, 20 exposures of red, 2 biases: ")
    assert f"gradient along X {written['errors']['gradient_error_x_per_mm']:.2g}" in text
    checked = _json("plan", "check", improved)
    assert checked["gradient_error_x_per_mm"] == written["errors"]["gradient_error_x_per_mm"]
    # The order in the file is that of the prediction.
    again = _json("plan", "check", config, f"plan={{scan: null, acquisition: [{written['files'][0]}]}}")
    assert again["gradient_error_x_per_mm"] == pytest.approx(checked["gradient_error_x_per_mm"], rel=1e-3)
    result = RUNNER.invoke(app, ["plan", "improve", str(config), "plan.budget_hours=0.01"])
    assert "does not fit into 0.6 min" in str(result.exception)


def test_a_run_validates_its_configuration_once(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    validated: list[object] = []
    validate = Config.model_validate
    monkeypatch.setattr(
        Config, "model_validate", lambda content, **options: validated.append(content) or validate(content, **options)
    )
    _permil("index", made / "campaign" / "config.yaml", f"output={tmp_path}")
    assert len(validated) == 1


def test_facts_are_plain() -> None:
    given = {1: np.float32(0.5), "nan": np.array([1.0, np.nan]), "path": Path("a"), "no": None, "list": (True, math.inf, "text")}
    assert plain_facts(given) == {"1": 0.5, "nan": [1.0, None], "path": "a", "no": None, "list": [True, None, "text"]}
    text = Description("as it is", given)
    assert text == "as it is"
    assert text.facts == plain_facts(given)
