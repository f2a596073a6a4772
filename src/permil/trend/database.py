"""Results of many runs in one SQLite file, which several processes may fill at once."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from permil.errors import InputError
from permil.products import RunFolder, read_table

_COLUMNS = ("metric", "detector", "amp", "led", "value", "error", "spec", "pass")
_WAIT_SECONDS = 300.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, folder TEXT NOT NULL UNIQUE, digest TEXT NOT NULL UNIQUE, mjd REAL
);
CREATE TABLE IF NOT EXISTS results (
    run INTEGER NOT NULL REFERENCES runs (id), metric TEXT NOT NULL, detector TEXT NOT NULL, amp TEXT NOT NULL, led TEXT NOT NULL,
    value REAL, error REAL, spec REAL, verdict TEXT NOT NULL,
    PRIMARY KEY (run, metric, detector, amp, led)
);
"""

Row = tuple[str, str, str, str, float | None, float | None, float | None, str]


@dataclass(frozen=True)
class RunSummary:
    """Results of one run: name, folder, mean date of its exposures (MJD, NaN if not known), and rows of its summary."""

    name: str
    folder: Path
    mjd: float
    rows: tuple[Row, ...]

    @property
    def digest(self) -> str:
        """Digest of date and results: that of a run with the same results is the same."""
        content = json.dumps([None if math.isnan(self.mjd) else self.mjd, sorted(self.rows, key=lambda row: row[:4])])
        return hashlib.sha256(content.encode()).hexdigest()


@dataclass(frozen=True)
class RunEntry:
    """A run in the database: name, folder, date (MJD, NaN if not known)."""

    name: str
    folder: str
    mjd: float


@dataclass(frozen=True)
class Result:
    """A result of a run; ``run`` is the number of the run in the order of the history."""

    run: int
    metric: str
    detector: str
    amp: str
    led: str
    value: float
    error: float
    spec: float
    verdict: str

    @property
    def series(self) -> tuple[str, str, str, str]:
        """What identifies the same result in other runs."""
        return self.metric, self.detector, self.amp, self.led


@dataclass(frozen=True)
class History:
    """Runs by rising date, those without a date last, and their results."""

    runs: tuple[RunEntry, ...]
    results: tuple[Result, ...]


def read_summary(root: Path) -> RunSummary:
    """Read the summary of a run, and the date of its exposures.

    Raises
    ------
    InputError
        If the run has no summary, or a table cannot be read.
    """
    folder = RunFolder(root)
    if not folder.summary.is_file():
        raise InputError("the run has no summary", path=folder.summary, remedy="make it first (permil report)")
    table = read_table(folder.summary, columns=_COLUMNS, purpose="summary of a run")
    rows = tuple(
        (
            *(str(row[name]) for name in _COLUMNS[:4]),
            *(_number(row[name]) for name in _COLUMNS[4:7]),
            str(row["pass"]),
        )
        for row in table
    )
    if not rows:
        raise InputError("the summary of the run is empty", path=folder.summary, remedy="reduce the run first (permil run)")
    if len({row[:4] for row in rows}) < len(rows):
        raise InputError("a result is there twice in the summary", path=folder.summary, remedy="make it again (permil report)")
    mjd = np.array([])
    if folder.exposures.is_file():
        dates = np.asarray(read_table(folder.exposures, columns=("mjd",), purpose="index of exposures")["mjd"], dtype=float)
        mjd = dates[np.isfinite(dates)]
    absolute = root.resolve()
    return RunSummary(absolute.name, absolute, float(mjd.mean()) if mjd.size else math.nan, rows)  # type: ignore[arg-type]


def _number(value: object) -> float | None:
    number = math.nan if np.ma.is_masked(value) else float(value)  # type: ignore[arg-type]
    return number if math.isfinite(number) else None


def add_runs(database: Path, runs: Sequence[RunSummary]) -> list[str]:
    """Add runs to a database, which is made if it does not exist; return for each run ``added``, ``replaced`` or ``known``.

    A run whose results are there already changes nothing; one with other results in the same folder replaces those. Each run is one
    transaction.

    Raises
    ------
    InputError
        If the file is not such a database, or cannot be written.
    """
    with _connected(database) as connection:
        return [_add(connection, run) for run in runs]


def _add(connection: sqlite3.Connection, run: RunSummary) -> str:
    # Other processes wait here, so that none decides on what is about to change.
    connection.execute("BEGIN IMMEDIATE")
    with connection:
        if connection.execute("SELECT 1 FROM runs WHERE digest = ?", (run.digest,)).fetchone():
            return "known"
        earlier = connection.execute("SELECT id FROM runs WHERE folder = ?", (str(run.folder),)).fetchone()
        if earlier is not None:
            connection.execute("DELETE FROM results WHERE run = ?", earlier)
            connection.execute("DELETE FROM runs WHERE id = ?", earlier)
        mjd = None if math.isnan(run.mjd) else run.mjd
        number = connection.execute(
            "INSERT INTO runs (name, folder, digest, mjd) VALUES (?, ?, ?, ?)", (run.name, str(run.folder), run.digest, mjd)
        ).lastrowid
        connection.executemany("INSERT INTO results VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", [(number, *row) for row in run.rows])
    return "added" if earlier is None else "replaced"


def read_history(database: Path) -> History:
    """Read all runs and results of a database.

    Raises
    ------
    InputError
        If the file does not exist or is not such a database.
    """
    if not database.is_file():
        raise InputError("the database of trends does not exist", path=database, remedy="add runs to it (permil trend RUN...)")
    with _connected(database) as connection:
        connection.execute("BEGIN")
        runs = connection.execute("SELECT id, name, folder, mjd FROM runs ORDER BY mjd IS NULL, mjd, id").fetchall()
        order = {number: place for place, (number, *_) in enumerate(runs)}
        rows = connection.execute("SELECT * FROM results ORDER BY metric, led, detector, amp, run").fetchall()
        connection.rollback()
    entries = tuple(RunEntry(name, folder, _or_nan(mjd)) for _, name, folder, mjd in runs)
    results = [
        Result(order[row[0]], row[1], row[2], row[3], row[4], _or_nan(row[5]), _or_nan(row[6]), _or_nan(row[7]), row[8])
        for row in rows
    ]
    return History(entries, tuple(sorted(results, key=lambda entry: (entry.series, entry.run))))


def _or_nan(number: float | None) -> float:
    return math.nan if number is None else float(number)


@contextlib.contextmanager
def _connected(database: Path) -> Iterator[sqlite3.Connection]:
    try:
        with contextlib.closing(sqlite3.connect(database, timeout=_WAIT_SECONDS, isolation_level=None)) as connection:
            connection.executescript(_SCHEMA)
            yield connection
    except sqlite3.Error as error:
        raise InputError(
            f"cannot be used as a database of trends ({error})",
            path=database,
            remedy="name another file (--database), or check it",
        ) from error
