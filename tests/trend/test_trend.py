"""Trends: a shifted run is named, adding twice changes nothing, two processes lose nothing, and each bad input is one sentence."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.table import Table
from typer.testing import CliRunner

from permil.cli import app
from permil.errors import InputError
from permil.products import RunFolder, write_table
from permil.report.stage import follow_runs
from permil.trend import Result, add_runs, database_name, find_outliers, read_history, read_summary

from .conftest import empty_database

SERIES = [
    ("gradient_x", "R22_S11", "all", "red", 2e-5, 1e-6, np.nan),
    ("step", "R22_S11", "C14", "red", 1e-3, 1e-4, 3e-3),
    ("step", "R22_S12", "C10", "blue", -1e-3, 2e-4, 3e-3),
    ("noise", "R22_S11", "all", "red", 1e-3, 5e-5, 2e-3),
    ("light_drift", "-", "-", "red", 1e-3, 1e-4, np.nan),
]


def write_run(root: Path, number: int, rng: np.random.Generator, *, shift: float = 0.0, scatter: float = 1.0) -> Path:
    """Write the summary of a run and the date of its exposures; all results are shifted by so many errors."""
    rows = [
        (metric, detector, amp, led, level + error * (scatter * rng.standard_normal() + shift), error, spec, "-")
        for metric, detector, amp, led, level, error, spec in SERIES
    ]
    names = ("metric", "detector", "amp", "led", "value", "error", "spec", "pass")
    folder = RunFolder(root / f"run{number:02d}")
    folder.root.mkdir(parents=True, exist_ok=True)
    write_table(folder.summary, Table(rows=rows, names=names))
    write_table(folder.exposures, Table({"mjd": [59500.0 + 3 * number, 59500.2 + 3 * number]}))
    return folder.root


def contents(database: Path | str) -> tuple[Any, ...]:
    history = read_history(database)
    return history.runs, history.results


@pytest.mark.parametrize("scatter", [1.0, 4.0], ids=["errors", "scatter beyond errors"])
def test_a_shifted_run_is_named_and_no_other(tmp_path: Path, scatter: float) -> None:
    """One of twenty runs is shifted by five sigma; sigma is the scatter of the runs."""
    rng = np.random.default_rng(41)
    shifts = [5 * scatter if number == 13 else 0.0 for number in range(20)]
    runs = [write_run(tmp_path, number, rng, shift=shift, scatter=scatter) for number, shift in enumerate(shifts)]
    done = follow_runs(runs, tmp_path / "trends.sqlite", tmp_path / "trends.html")
    assert {entry["run"] for entry in done.facts["outliers"]} == {"run13"}
    assert all(entry["pull"] > 3 for entry in done.facts["outliers"])
    assert "run run13: " in done
    page = (tmp_path / "trends.html").read_text(encoding="utf-8")
    assert "Results deviate in 1 of 20 runs: run13." in page
    for text in ("amplifier step (‰): 1 series over 20 runs", "date (MJD)", "Dashed: limit.", "2021-12-"):
        assert text in page


def results_of_runs(rng: np.random.Generator, *, shift: float, scatter: float = 1.0) -> list[Result]:
    """Return 20 runs of 30 series with unit errors; all results of run 7 are shifted."""
    values = scatter * rng.standard_normal((20, 30))
    values[7] += shift
    return [
        Result(run, f"metric{series % 3}", str(series), "all", "red", float(values[run, series]), 1.0, np.nan, "-")
        for run in range(20)
        for series in range(30)
    ]


# The chance of any false discovery in a history without outliers is 1 per cent: more than these are improbable (2e-4).
@pytest.mark.parametrize(("histories", "most"), [(12, 2), pytest.param(30, 3, marks=pytest.mark.full)])
@pytest.mark.parametrize("scatter", [1.0, 3.0])
def test_false_discoveries_are_few_and_shifts_are_found(scatter: float, histories: int, most: int) -> None:
    alarms, found = 0, []
    for seed in range(500, 500 + histories):
        rng = np.random.default_rng(seed)
        alarms += bool(find_outliers(results_of_runs(rng, shift=0.0, scatter=scatter)))
        outliers = find_outliers(results_of_runs(rng, shift=5 * scatter, scatter=scatter))
        found.append(sum(entry.result.run == 7 for entry in outliers) / 30)
        assert sum(entry.result.run != 7 for entry in outliers) <= 2
    assert alarms <= most
    assert np.mean(found) > 0.7


def test_results_without_errors_or_with_few_runs() -> None:
    rng = np.random.default_rng(3)
    values = np.append(rng.standard_normal(30), 30.0)
    unknown = [Result(run, "m", "d", "all", "red", float(value), np.nan, np.nan, "-") for run, value in enumerate(values)]
    assert find_outliers(unknown)[0].result.run == 30
    few = [Result(run, "m", "d", "all", "red", float(run == 3) * 100, 1.0, np.nan, "-") for run in range(4)]
    assert find_outliers(few) == []
    assert find_outliers([]) == []


def content_of_file(database: str) -> bytes:
    """Return the bytes of a database in a file, none of one on a server."""
    return b"" if "://" in database else Path(database).read_bytes()


def test_adding_a_run_twice_changes_nothing(tmp_path: Path, database: str) -> None:
    rng = np.random.default_rng(1)
    runs = [write_run(tmp_path, number, rng) for number in range(3)]
    assert add_runs(database, [read_summary(run) for run in runs]) == ["added"] * 3
    before, content = contents(database), content_of_file(database)
    assert add_runs(database, [read_summary(run) for run in [*runs, *runs]]) == ["known"] * 6
    assert contents(database) == before
    assert content_of_file(database) == content
    # Results made again replace those of the same folder.
    write_run(tmp_path, 1, rng)
    assert add_runs(database, [read_summary(runs[1])]) == ["replaced"]
    changed = contents(database)
    assert changed[0] == before[0]
    assert [entry for entry in changed[1] if entry.run != 1] == [entry for entry in before[1] if entry.run != 1]
    assert [entry for entry in changed[1] if entry.run == 1] != [entry for entry in before[1] if entry.run == 1]


def test_two_processes_at_once_lose_nothing(tmp_path: Path, database: str) -> None:
    rng = np.random.default_rng(2)
    runs = [write_run(tmp_path, number, rng) for number in range(20)]
    code = (
        "import sys; from pathlib import Path; from permil.trend import add_runs, read_summary\n"
        "for run in sys.argv[2:]: add_runs(sys.argv[1], [read_summary(Path(run))])"
    )
    # The halves overlap in four runs.
    halves = (runs[:12], runs[8:][::-1])
    processes = [subprocess.Popen([sys.executable, "-c", code, database, *map(str, half)]) for half in halves]  # noqa: S603
    assert [process.wait() for process in processes] == [0, 0]
    history = read_history(database)
    assert [run.name for run in history.runs] == [run.name for run in runs]
    assert len(history.results) == 20 * len(SERIES)


def test_the_command(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    runs = [str(write_run(tmp_path, number, rng)) for number in range(6)]
    places = ["--database", str(tmp_path / "t.sqlite"), "--out", str(tmp_path / "t.html")]
    first = CliRunner().invoke(app, ["trend", *runs, *places, "--json"])
    assert first.exit_code == 0, first.output
    assert set(json.loads(first.output)["states"].values()) == {"added"}
    again = CliRunner().invoke(app, ["trend", *places])
    assert "6 runs, 30 results" in again.output


def test_the_command_on_a_server(tmp_path: Path, database: str) -> None:
    """File and server give the same results to the last bit; a page is made from each."""
    rng = np.random.default_rng(6)
    runs = [str(write_run(tmp_path, number, rng)) for number in range(2)]
    add_runs(tmp_path / "other.sqlite", [read_summary(Path(run)) for run in runs])
    ended = CliRunner().invoke(app, ["trend", *runs, "--database", database, "--out", str(tmp_path / "t.html"), "--json"])
    assert ended.exit_code == 0, ended.output
    assert json.loads(ended.output)["runs"] == 2
    assert contents(database) == contents(tmp_path / "other.sqlite")
    shown = database_name(database) if "://" in database else Path(database).name
    assert f"Trends of {shown} - permil" in (tmp_path / "t.html").read_text(encoding="utf-8")


def test_a_password_is_never_shown(tmp_path: Path) -> None:
    for url, message in (
        ("postgresql://me:secret@127.0.0.1:1/trends", None),
        ("postgresql://me@127.0.0.1:1/trends?password=secret", None),
        ("postgresql://me:secret@host:port/trends", "postgresql:... is not the URL of a PostgreSQL server; give a file"),
        ("mysql://me:secret@host/x", "mysql:... is not the URL of a PostgreSQL server; give a file"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            follow_runs([], url, tmp_path / "t.html")
        assert "secret" not in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1
    shown = database_name("postgres://me:secret@host:5433/trends?sslmode=require")
    assert shown == "postgresql://me:***@host:5433/trends?sslmode=require"


def test_a_server_needs_its_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(
        InputError, match=r"needs psycopg, not installed here; install the extra `postgres` \(pip install 'permil"
    ):
        follow_runs([], "postgresql://host/trends", tmp_path / "t.html")


@pytest.mark.full
def test_other_tables_on_a_server_are_left_alone(tmp_path: Path, server: str) -> None:
    import psycopg

    url = empty_database(server, "others")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE runs (kilometres integer)")
    said = r"""cannot be used as a database of trends \(column "id" .*does not exist\); check the URL"""
    with pytest.raises(InputError, match=said) as caught:
        follow_runs([write_run(tmp_path, 0, np.random.default_rng(0))], url, tmp_path / "t.html")
    assert len(str(caught.value).splitlines()) == 1
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT relname FROM pg_stat_user_tables").fetchall() == [("runs",)]


def test_a_run_without_a_date_is_shown_last(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    runs = [write_run(tmp_path, number, rng) for number in range(2)]
    RunFolder(runs[0]).exposures.unlink()
    follow_runs(runs, tmp_path / "t.sqlite", tmp_path / "t.html")
    assert [run.name for run in read_history(tmp_path / "t.sqlite").runs] == ["run01", "run00"]


def damaged(root: Path, kind: str) -> tuple[Path, Path]:
    """Return a run and a database of which one is damaged."""
    run, database = write_run(root, 0, np.random.default_rng(0)), root / "t.sqlite"
    summary = RunFolder(run).summary
    table = Table.read(summary)
    if kind == "missing":
        summary.unlink()
    elif kind == "empty":
        table[:0].write(summary, overwrite=True)
    elif kind == "column":
        table["value"].name = "number"
        table.write(summary, overwrite=True)
    elif kind == "twice":
        table.add_row(table[0])
        table.write(summary, overwrite=True)
    elif kind == "text":
        database.write_text("no database, but a text that is long enough to be one" * 40, encoding="utf-8")
    elif kind == "folder":
        database = root / "absent" / "t.sqlite"
    return run, database


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", r"summary\.ecsv: the run has no summary; make it first"),
        ("empty", r"summary\.ecsv: the summary of the run is empty"),
        ("column", r"summary\.ecsv: .*value"),
        ("twice", r"summary\.ecsv: a result is duplicated"),
        ("text", r"t\.sqlite: cannot be used as a database of trends \(file is not a database\)"),
        ("folder", r"t\.sqlite: cannot be used as a database of trends"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path: Path, kind: str, message: str) -> None:
    run, database = damaged(tmp_path, kind)
    with pytest.raises(InputError, match=message):
        follow_runs([run], database, tmp_path / "t.html")
    assert not (tmp_path / "t.html").exists()


def test_a_database_that_does_not_exist_is_not_made_for_a_page(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the database of trends does not exist"):
        follow_runs([], tmp_path / "t.sqlite", tmp_path / "t.html")
    assert not (tmp_path / "t.sqlite").exists()
