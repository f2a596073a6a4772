"""Results of many runs in an SQLite file or on a PostgreSQL server, which several processes may fill at once, and their outliers."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sql
from scipy import special
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from permil.arrays import FloatArray
from permil.config.base import is_uri
from permil.errors import InputError
from permil.products import RunFolder, read_table

_COLUMNS = ("metric", "detector", "amp", "led", "value", "error", "spec", "pass")
_WAIT_SECONDS = 300
_CONNECT_SECONDS = 30
_SERVERS = ("postgresql", "postgres", "postgresql+psycopg")

_TABLES = sql.MetaData()
_RUNS = sql.Table(
    "runs",
    _TABLES,
    sql.Column("id", sql.Integer, primary_key=True),
    sql.Column("name", sql.Text, nullable=False),
    sql.Column("folder", sql.Text, nullable=False, unique=True),
    sql.Column("digest", sql.Text, nullable=False, unique=True),
    sql.Column("mjd", sql.Double),
)
_RESULTS = sql.Table(
    "results",
    _TABLES,
    sql.Column("run", sql.ForeignKey(_RUNS.c.id), primary_key=True),
    *(sql.Column(name, sql.Text, primary_key=True) for name in ("metric", "detector", "amp", "led")),
    *(sql.Column(name, sql.Double) for name in ("value", "error", "spec")),
    sql.Column("verdict", sql.Text, nullable=False),
)
_BEGIN_READING = {"sqlite": "BEGIN", "postgresql": "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"}
"""Statement that begins a transaction with a consistent view of both tables."""
_BEGIN_WRITING = {
    "sqlite": "BEGIN IMMEDIATE",
    # The number names the lock.
    "postgresql": "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; SELECT pg_advisory_xact_lock(7095726)",
}
"""Statement that begins a transaction for which other writers wait."""

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
        """Digest of date and results."""
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
        """Key of the same result in other runs."""
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
        raise InputError("a result is duplicated in the summary", path=folder.summary, remedy="make it again (permil report)")
    mjd = np.array([])
    if folder.exposures.is_file():
        dates = np.asarray(read_table(folder.exposures, columns=("mjd",), purpose="index of exposures")["mjd"], dtype=float)
        mjd = dates[np.isfinite(dates)]
    absolute = root.resolve()
    return RunSummary(absolute.name, absolute, float(mjd.mean()) if mjd.size else math.nan, rows)  # type: ignore[arg-type]


def _number(value: object) -> float | None:
    number = math.nan if np.ma.is_masked(value) else float(value)  # type: ignore[arg-type]
    return number if math.isfinite(number) else None


def add_runs(database: str | Path, runs: Sequence[RunSummary]) -> list[str]:
    """Add runs to a database, which is made if it does not exist; return for each run ``added``, ``replaced`` or ``known``.

    A run with known results changes nothing; one with other results in the same folder replaces those. Each run is one
    transaction.

    Parameters
    ----------
    database
        SQLite file, or ``postgresql://USER@HOST/NAME``.
    runs
        Runs with their results.

    Raises
    ------
    InputError
        If it is not such a database, or cannot be written.
    """
    states = []
    with _connected(database) as connection:
        for run in runs:
            with connection.begin():
                connection.exec_driver_sql(_BEGIN_WRITING[connection.dialect.name])
                _TABLES.create_all(connection)
                states.append(_add(connection, run))
    return states


def _add(connection: sql.Connection, run: RunSummary) -> str:
    if connection.execute(sql.select(_RUNS.c.id).where(_RUNS.c.digest == run.digest)).first():
        return "known"
    earlier = connection.execute(sql.select(_RUNS.c.id).where(_RUNS.c.folder == str(run.folder))).scalar()
    if earlier is not None:
        connection.execute(sql.delete(_RESULTS).where(_RESULTS.c.run == earlier))
        connection.execute(sql.delete(_RUNS).where(_RUNS.c.id == earlier))
    mjd = None if math.isnan(run.mjd) else run.mjd
    entry = sql.insert(_RUNS).values(name=run.name, folder=str(run.folder), digest=run.digest, mjd=mjd)
    (number,) = connection.execute(entry).inserted_primary_key or (None,)
    names = _RESULTS.c.keys()
    connection.execute(sql.insert(_RESULTS), [dict(zip(names, (number, *row), strict=True)) for row in run.rows])
    return "added" if earlier is None else "replaced"


def read_history(database: str | Path) -> History:
    """Read all runs and results of a database.

    Parameters
    ----------
    database
        SQLite file, or ``postgresql://USER@HOST/NAME``.

    Raises
    ------
    InputError
        If it does not exist or is not such a database.
    """
    if not is_uri(str(database)) and not Path(database).is_file():
        raise InputError("the database of trends does not exist", path=database, remedy="add runs to it (permil trend RUN...)")
    in_order = sql.select(_RUNS.c.id, _RUNS.c.name, _RUNS.c.folder, _RUNS.c.mjd).order_by(
        _RUNS.c.mjd.is_(None), _RUNS.c.mjd, _RUNS.c.id
    )
    with _connected(database) as connection, connection.begin():
        connection.exec_driver_sql(_BEGIN_READING[connection.dialect.name])
        runs = connection.execute(in_order).all()
        rows = connection.execute(sql.select(_RESULTS)).all()
    order = {number: place for place, (number, *_) in enumerate(runs)}
    entries = tuple(RunEntry(name, folder, _or_nan(mjd)) for _, name, folder, mjd in runs)
    results = [
        Result(order[row[0]], row[1], row[2], row[3], row[4], _or_nan(row[5]), _or_nan(row[6]), _or_nan(row[7]), row[8])
        for row in rows
    ]
    return History(entries, tuple(sorted(results, key=lambda entry: (entry.series, entry.run))))


def database_name(database: str | Path) -> str:
    """Return a database as it may be shown: a path, or a URL without its password.

    Raises
    ------
    InputError
        If it is a URL, but not of a PostgreSQL server.
    """
    if not is_uri(str(database)):
        return str(database)
    url = _url(database)
    hidden = {name: "hidden" for name in url.query if "password" in name}
    return url.set(drivername=_SERVERS[0]).update_query_dict(hidden).render_as_string()


def _url(database: str | Path) -> sql.URL:
    """Return the URL of a SQLite file or of a PostgreSQL server, with its driver."""
    text = str(database)
    if not is_uri(text):
        return sql.URL.create("sqlite", database=text)
    scheme = text.partition(":")[0]
    try:
        if scheme in _SERVERS:
            return sql.make_url(text).set(drivername="postgresql+psycopg")
    except (ArgumentError, ValueError):
        pass
    # The rest of it may hold a password.
    raise InputError(
        f"{scheme}:... is not the URL of a PostgreSQL server",
        remedy="give a file (SQLite), or postgresql://USER@HOST:PORT/NAME",
        value=scheme,
    )


def _or_nan(number: float | None) -> float:
    return math.nan if number is None else float(number)


@contextlib.contextmanager
def _connected(database: str | Path) -> Iterator[sql.Connection]:
    url = _url(database)
    is_file = url.drivername == "sqlite"
    options: dict[str, Any] = {"timeout": _WAIT_SECONDS} if is_file else {"connect_timeout": _CONNECT_SECONDS}
    try:
        engine = sql.create_engine(url, connect_args=options)
    except ModuleNotFoundError as error:
        raise InputError(
            f"a database on a server needs {error.name}, not installed here",
            path=database_name(database),
            remedy="install the extra `postgres` (pip install 'permil[postgres]')",
        ) from error
    try:
        with engine.connect() as connection:
            yield connection
    except SQLAlchemyError as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        reason = str(cause).strip().partition("\n")[0].rstrip(":")
        raise InputError(
            f"cannot be used as a database of trends ({reason})",
            path=database_name(database),
            remedy="name another file (--database), or check it" if is_file else "check the URL, the server and its permissions",
        ) from error
    finally:
        engine.dispose()


FEWEST_RUNS = 5
"""Runs that must have a result before it is tested."""

FALSE_DISCOVERIES = 0.01
"""Largest expected fraction of chance results among those listed."""

_TO_SIGMA = 1.4826
_EFFICIENCY = 0.37
"""Efficiency of the median absolute deviation for normal values."""
_MEDIAN_VARIANCE = math.pi / 2


@dataclass(frozen=True)
class DeviatingResult:
    """A result that deviates: the result, the median of the other runs with its error, deviation over its error, and p-value."""

    result: Result
    others: float
    others_error: float
    pull: float
    p_value: float


def find_outliers(results: Sequence[Result], *, false_discoveries: float = FALSE_DISCOVERIES) -> list[DeviatingResult]:
    """Return the results that deviate from the median of the same result in the other runs, the most significant first.

    The pull of a result is its deviation from that median over the errors of both. Where the pulls of a metric, over all detectors,
    amplifiers, LEDs and runs, scatter significantly more than 1 (median absolute deviation), runs differ by more than their errors:
    pulls are divided by that scatter, and their distribution is Student's with its degrees of freedom. Results without errors are
    tested against the scatter of their series. Benjamini and Hochberg (1995, J. R. Stat. Soc. B 57, 289) limit the fraction of false
    discoveries over all tests.

    Parameters
    ----------
    results
        Results of all runs.
    false_discoveries
        Largest expected fraction of chance among the outliers.
    """
    series: dict[tuple[str, str, str, str], list[Result]] = {}
    for entry in results:
        if math.isfinite(entry.value):
            series.setdefault(entry.series, []).append(entry)
    metrics: dict[str, list[DeviatingResult]] = {}
    for (metric, *_), entries in series.items():
        if len({entry.run for entry in entries}) >= FEWEST_RUNS:
            metrics.setdefault(metric, []).extend(_pulls(entries))
    tested = [entry for entries in metrics.values() for entry in _with_scatter(entries)]
    tested.sort(key=lambda entry: entry.p_value)
    limits = false_discoveries * (np.arange(len(tested)) + 1) / max(len(tested), 1)
    below = np.flatnonzero(np.array([entry.p_value for entry in tested]) <= limits)
    return tested[: below[-1] + 1] if below.size else []


def _pulls(entries: Sequence[Result]) -> list[DeviatingResult]:
    """Return each result of a series against the median of the others, with its pull."""
    values, errors = np.array([entry.value for entry in entries]), np.array([entry.error for entry in entries])
    known = np.isfinite(errors) & (errors > 0)
    # Row by row, the values and errors of all results but one.
    is_other = ~np.eye(len(entries), dtype=bool)
    others, rest = (np.broadcast_to(each, is_other.shape)[is_other].reshape(len(entries), -1) for each in (values, errors))
    middles = np.median(others, axis=1)
    scatters = _TO_SIGMA * np.median(np.abs(others - middles[:, None]), axis=1)
    typicals = np.sqrt(np.median(rest**2, axis=1)) if known.all() else scatters
    number = others.shape[1]
    found = []
    for entry, middle, scatter, typical in zip(entries, middles.tolist(), scatters.tolist(), typicals.tolist(), strict=True):
        own = entry.error if known.all() else scatter
        error = math.sqrt(_MEDIAN_VARIANCE / number) * typical
        total = math.hypot(own, error)
        if total > 0:
            pull = (entry.value - middle) / total
            degrees = math.inf if known.all() else max(_EFFICIENCY * (number - 1), 1.0)
            found.append(DeviatingResult(entry, middle, error, pull, _chance(pull, degrees)))
    return found


def _with_scatter(entries: Sequence[DeviatingResult]) -> list[DeviatingResult]:
    """Return pulls of a metric and their p-values, allowing for a scatter of runs beyond their errors."""
    pulls: FloatArray = np.array([entry.pull for entry in entries])
    if not pulls.size:
        return []
    series = len({entry.result.series for entry in entries})
    degrees = max(_EFFICIENCY * (pulls.size - series), 1.0)
    scatter = _TO_SIGMA * float(np.median(np.abs(pulls)))
    # The variance of a median absolute deviation is that of a standard deviation with these degrees of freedom.
    if scatter <= 1 + 2 / math.sqrt(2 * degrees):
        return list(entries)
    return [
        DeviatingResult(
            entry.result, entry.others, entry.others_error, entry.pull / scatter, _chance(entry.pull / scatter, degrees)
        )
        for entry in entries
    ]


def _chance(pull: float, degrees: float) -> float:
    return float(2 * (special.ndtr(-abs(pull)) if math.isinf(degrees) else special.stdtr(degrees, -abs(pull))))
