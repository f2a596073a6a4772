"""The stage `stability`: whether light, photodiode, electronics and beam repeat over the exposures of each LED.

Light, fluxes and the shape of the beam are those of the joint solution. Without one (``flat.solver: divide``) only the photodiode and the
temperatures of the headers are analysed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table, vstack

from permil.arrays import FloatArray, IntArray
from permil.camera import shared_camera
from permil.config import Config
from permil.context import Run
from permil.engine import State, Task, Work
from permil.errors import ConfigError, InputError, PermilError
from permil.exposures import POINTING, SCAN
from permil.flat.joint.file import open_joint, read_light
from permil.flat.joint.residuals import FittedDetector, fitted_detectors
from permil.flat.stage import led_flats
from permil.flat.steps.exposures import unique_exposures
from permil.products import RunFolder, origin_entries, write_table
from permil.progress import StageReport, do_tasks
from permil.stability.findings import DRIFT, SCATTER, SUCCESSIVE, Finding, SeriesGroup, analyse, call, means_of
from permil.stability.residuals import TERMS, BeamResiduals, amplifier_fluxes, first_to_last, shape_change, stack_chi_square
from permil.stages import StageFunctions

LIGHT, PHOTODIODE, RATIO = "light", "photodiode", "photodiode_over_light"
"""Series of a whole LED: joint scale, reading of the photodiode, and their ratio."""
FIRST_TO_LAST, STACK, SHAPE = "first_to_last", "stack", "beam_shape"
"""Quantity of repeated images; series of their chi-square, and of the beam."""
LED_TEMPERATURES = ("led_temp", "led_back_temp", "sphere_temp", "board_temp")
TEMPERATURES = (*LED_TEMPERATURES, "ccd_temp", "readout_temp")
"""Columns of the table of exposures: the projector's, and the means over detectors of sensor and readout board."""
_INDEX_COLUMNS = (
    "obsid", "detector", "mjd", "purpose", "position_id", "photodiode", *LED_TEMPERATURES, "ccd_temp", "run", "serial", "filter",
)  # fmt: skip
_MOST_RESIDUALS = 100_000
"""Largest number of residuals for the shape of the beam; of more, every n-th super-pixel is used."""
_NONE = "-"


@dataclass(frozen=True)
class StabilityRequest:
    """The exposures of one LED: rows of the index, one for each file, and the detectors with signals."""

    config: Config
    root: Path
    led: str
    rows: Table
    detectors: tuple[str, ...]
    fingerprint: str
    origin: Mapping[str, Any] = field(default_factory=dict)


def measure_stability(run: Run) -> StageReport:
    """Measure the stability of each LED with a scan or pointings.

    Raises
    ------
    InputError
        If the joint solution of an LED is not up to date.
    """
    report = StageReport("stability")
    tasks = [stability_task(run, led) for led in stability_leds(run)]
    ends = do_tasks(tasks)
    report.count(ends)
    for end in ends.values():
        report.messages += end.messages if end.error is None else [f"LED {end.task.key[1]} is left out: {end.error}"]
        if end.state == State.EMPTY:
            report.messages.append(f"LED {end.task.key[1]} is left out: it has no exposures with a time or a joint solution")
    return report


def stability_leds(run: Run) -> list[str]:
    """Return the LEDs with a scan or pointings, in order of wavelength."""
    wanted = run.config.flat.leds
    return [led for led in run.index.leds if len(_rows(run, led)) and (not wanted or led in wanted)]


def stability_task(run: Run, led: str) -> Task:
    """Declare the stability of one LED, which needs its joint solution and the signals of all detectors.

    Raises
    ------
    ConfigError
        If the LED has neither scan nor pointings.
    """
    rows, folder = _rows(run, led), run.folder
    if not len(rows):
        raise ConfigError(
            f"LED {led} has neither scan nor pointings",
            remedy=f"LEDs that have: {', '.join(stability_leds(run)) or 'none'}",
            value=led,
        )
    try:
        solutions = tuple(task for task in led_flats(run, led).tasks if task.key[0] == "solution")
    except PermilError:
        # Without pointings there is no flat, but a photodiode.
        solutions = ()

    def work(task: Task) -> Work:
        signals = [need for solution in task.needs for need in solution.needs if folder.super_pixels(led, need.key[2]).is_file()]
        names = tuple(need.key[2] for need in signals)
        origin = origin_entries(run.origin(rows, led=led))
        return Work(measure_led, [StabilityRequest(run.config, folder.root, led, rows, names, task.fingerprint, origin)])

    return Task(
        ("stability", led),
        "stability",
        work,
        outputs=(
            folder.stability(led),
            folder.stability_exposures(led),
            folder.stability_amplifiers(led),
            folder.stability_readings(led),
        ),
        options=run.options("camera", "validity"),
        facts=[[str(row[name]) for name in _INDEX_COLUMNS] for row in rows],
        needs=solutions,
        leaves_out=(InputError,),
        command=("stability", "--led", led),
        seconds=1.0 + 2e-3 * len(rows),
        size=400.0 * len(rows),
    )


STAGE = StageFunctions(
    measure_stability,
    is_wanted=lambda run: run.has_bench_exposures,
    tasks=lambda run, _earlier: [stability_task(run, led) for led in stability_leds(run)] if run.has_exposures else [],
    single=lambda run, _step, led, _detector: [stability_task(run, led)],
)


def _rows(run: Run, led: str) -> Table:
    rows = [run.index.select(purpose=purpose, led=led) for purpose in (SCAN, POINTING)]
    return vstack([part[list(_INDEX_COLUMNS)] for part in rows], metadata_conflicts="silent")


def measure_led(request: StabilityRequest) -> list[str]:
    """Measure the stability of one LED, write its tables, and return the messages for the user.

    Raises
    ------
    InputError
        If the joint solution or the signals cannot be read.
    """
    folder, camera = RunFolder(request.root), shared_camera(request.config.camera)
    exposures = _exposure_table(request.rows)
    findings: list[Finding] = []
    readings: list[Table] = []
    path = folder.joint(request.led)
    if request.detectors:
        with open_joint(path) as hdus:
            solved = Table(hdus["EXPOSURES"].data)
            least, threshold = (float(hdus[0].header[name]) for name in ("LEASTSIG", "THRESHLD"))
        exposures = _with_solution(exposures, solved)
        signals = [folder.super_pixels(request.led, name) for name in request.detectors]
        of_beam = _BeamSums(len(request.rows))
        boards = []
        for fitted in fitted_detectors(read_light(path), signals, least_signal=least, threshold=threshold):
            names = [amplifier.name for amplifier in camera[fitted.stored.detector].amplifiers]
            table, board = _detector_readings(fitted, exposures, names)
            boards.append(board)
            findings += _of_amplifiers(table, exposures, fitted.stored.detector, names, board)
            findings += _of_stack(fitted, exposures)
            of_beam.add(fitted, exposures)
            readings.append(_as_rows(table, fitted.stored.detector, names, exposures))
        if boards:
            exposures["readout_temp"] = _mean_of(np.array(boards))
        findings += of_beam.findings()
    findings = call([*_of_led(exposures), *findings])
    whole = [row for row in findings if not row.amp]
    meta = {**request.origin, "fingerprint": request.fingerprint, "led": request.led, "time": exposures.meta["time"]}
    for target, table in (
        (folder.stability(request.led), _finding_table(whole)),
        (folder.stability_exposures(request.led), exposures),
        (folder.stability_amplifiers(request.led), _finding_table([row for row in findings if row.amp])),
        (folder.stability_readings(request.led), vstack(readings) if readings else _as_rows({}, "", [], exposures)),
    ):
        table.meta = dict(meta)
        write_table(target, table)
    return _messages(request.led, findings)


def _exposure_table(rows: Table) -> Table:
    """Return one row for each exposure, in the order of time, with hours since the first one."""
    ordered = rows.copy()
    ordered["day_obs"], ordered["seqnum"] = "", 0
    table = unique_exposures(ordered)["obsid", "mjd", "purpose", "position_id", "photodiode", *LED_TEMPERATURES]
    sensors = _group_means(rows, table["obsid"], "ccd_temp")
    mjd = np.asarray(table["mjd"], dtype=np.float64)
    has_times = len(mjd) > 0 and bool(np.isfinite(mjd).all()) and np.ptp(mjd) > 0
    table["hours"] = 24.0 * (mjd - mjd[0]) if has_times else np.arange(len(mjd), dtype=np.float64)
    position = np.asarray(table["position_id"])
    begins = np.concatenate([[True], (np.diff(position) != 0) | (position[1:] < 0)])[: len(position)]
    table["move"] = np.cumsum(begins)
    table["ccd_temp"] = sensors
    for name in ("readout_temp", "light", "light_err", "chi_square"):
        table[name] = np.full(len(table), np.nan)
    table["is_used"] = np.ones(len(table), dtype=bool)
    table.remove_column("position_id")
    table.meta = {"time": "h" if has_times else "exposure"}
    return table


def _group_means(rows: Table, obsids: Sequence[str], name: str) -> FloatArray:
    """Return the mean over detectors of a column for each exposure."""
    number = {str(obsid): place for place, obsid in enumerate(obsids)}
    values = np.asarray(rows[name], dtype=np.float64)
    known = np.isfinite(values)
    place = np.array([number[str(obsid)] for obsid in rows["obsid"]])[known]
    count = np.bincount(place, minlength=len(number))
    total = np.bincount(place, weights=values[known], minlength=len(number))
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _mean_of(boards: FloatArray) -> FloatArray:
    known = np.isfinite(boards)
    return np.where(known.any(axis=0), np.where(known, boards, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1), np.nan)


def _with_solution(exposures: Table, solved: Table) -> Table:
    """Add scales and chi-squares of a joint solution; exposures that it left out or does not contain are not used."""
    place = {str(obsid).strip(): number for number, obsid in enumerate(solved["obsid"])}
    exposures["is_used"] = False
    for row, obsid in enumerate(exposures["obsid"]):
        number = place.get(str(obsid))
        if number is not None and not solved["left_out"][number]:
            exposures["is_used"][row] = True
            for target, name in (("light", "scale"), ("light_err", "scale_err"), ("chi_square", "chi_square")):
                exposures[target][row] = solved[name][number]
    return exposures


def _times_of(exposures: Table) -> tuple[FloatArray, list[str]]:
    """Return the hours of exposures, and their observations."""
    return np.asarray(exposures["hours"], dtype=np.float64), [str(obsid) for obsid in exposures["obsid"]]


def _rows_of(exposures: Table, obsids: Iterable[str]) -> IntArray:
    """Return the rows of observations in the table of exposures."""
    row_of = {str(obsid): row for row, obsid in enumerate(exposures["obsid"])}
    return np.array([row_of[obsid] for obsid in obsids], dtype=np.int64)


def _of_led(exposures: Table) -> Iterator[Finding]:
    """Yield the findings on light, photodiode and temperatures."""
    used = exposures[np.asarray(exposures["is_used"], dtype=bool)]
    if not len(used):
        return
    hours, obsids = _times_of(used)
    temperatures = {name: np.asarray(used[name], dtype=np.float64) for name in TEMPERATURES}
    of_projector = {name: temperatures[name] for name in LED_TEMPERATURES}
    light, photodiode, error = (np.asarray(used[name], dtype=np.float64) for name in ("light", "photodiode", "light_err"))
    with np.errstate(invalid="ignore", divide="ignore"):
        series = {
            LIGHT: (np.log(light), error),
            PHOTODIODE: (np.log(photodiode), None),
            RATIO: (np.log(photodiode) - np.log(light), error),
            "chi_square": (np.asarray(used["chi_square"], dtype=np.float64), None),
        }
    move = np.asarray(used["move"], dtype=np.int64)
    for name, (values, errors) in series.items():
        finite = np.where(np.isfinite(values), values, np.nan)[:, None]
        if not np.isfinite(finite).any():
            continue
        group = SeriesGroup(name, "", finite, errors=None if errors is None else errors[:, None])
        yield from analyse(group, hours, obsids, of_projector)
        if name != "chi_square":
            mean, own_error, count = first_to_last(move, finite[:, 0])
            yield Finding(name, FIRST_TO_LAST, mean, own_error, n=count)
    for name, temperature in temperatures.items():
        if np.isfinite(temperature).any() and np.nanmax(temperature) > np.nanmin(temperature):
            rows = analyse(SeriesGroup(name, "deg_C", temperature[:, None]), hours, obsids, {})
            # Temperatures swing, and their readings are coarse: both would be called.
            kept = (row for row in rows if row.quantity in (SCATTER, SUCCESSIVE, DRIFT))
            yield from (replace(row, p_value=np.nan, p_adjusted=np.nan) for row in kept)


_READINGS = ("flux_over_light", "flux_over_light_err", "overscan_level", "read_noise")


def _detector_readings(
    fitted: FittedDetector, exposures: Table, names: Sequence[str]
) -> tuple[dict[str, FloatArray], FloatArray]:
    """Return the readings of the amplifiers of a detector, shape (e, amplifiers), and the temperature of its board, shape (e,)."""
    shape = (len(exposures), len(names))
    table = {name: np.full(shape, np.nan) for name in _READINGS}
    lit = _rows_of(exposures, fitted.obsids)
    # Gains that the solution has found to change are part of what changes.
    residual = np.where(fitted.fit.weights > 0, fitted.fit.residual + fitted.gains, 0.0)
    mean, error = amplifier_fluxes(residual, fitted.fit.weights, fitted.stored.amplifier, len(names))
    table["flux_over_light"][lit], table["flux_over_light_err"][lit] = mean, error
    own = np.flatnonzero(np.isin(fitted.stored.obsid, np.asarray(exposures["obsid"], dtype=np.str_)))
    read = _rows_of(exposures, (str(obsid) for obsid in fitted.stored.obsid[own]))
    for name in ("overscan_level", "read_noise"):
        values = getattr(fitted.stored, name)
        if values.shape[1] == len(names):
            table[name][read] = values[own]
    board = np.full(len(exposures), np.nan)
    board[read] = _mean_of(fitted.stored.temperature[own].T)
    used = np.asarray(exposures["is_used"], dtype=bool)
    for values in table.values():
        values[~used] = np.nan
    return table, board


def _of_amplifiers(
    table: Mapping[str, FloatArray], exposures: Table, detector: str, names: Sequence[str], board: FloatArray
) -> Iterator[Finding]:
    """Yield the findings on fluxes, bias levels and read noise of the amplifiers of a detector."""
    hours, obsids = _times_of(exposures)
    labels = [(detector, name) for name in names]
    with np.errstate(invalid="ignore", divide="ignore"):
        light, photodiode = (np.log(np.asarray(exposures[name], dtype=np.float64))[:, None] for name in ("light", "photodiode"))
    flux, error = table["flux_over_light"], table["flux_over_light_err"]
    temperatures = {"readout_temp": board, "ccd_temp": np.asarray(exposures["ccd_temp"], dtype=np.float64)}
    for name, unit, values, errors in (
        ("flux", "", flux + light, error),
        ("flux_over_photodiode", "", flux + light - photodiode, error),
        ("flux_over_light", "", flux, error),
        ("overscan_level", "adu", table["overscan_level"], None),
        ("read_noise", "electron", table["read_noise"], None),
    ):
        group = SeriesGroup(name, unit, np.where(np.isfinite(values), values, np.nan), labels, errors)
        if unit:
            yield from analyse(group, hours, obsids, temperatures)
        else:
            yield from _of_fluxes(group, exposures, temperatures)


def _of_fluxes(group: SeriesGroup, exposures: Table, temperatures: Mapping[str, FloatArray]) -> Iterator[Finding]:
    """Yield scatter from images, and trends from the means of the images of a position, which share the error of the beam model there.

    With too few positions, trends are those of images, and are not tested.
    """
    hours, obsids = _times_of(exposures)
    scatters = (SCATTER, SUCCESSIVE)
    of_images = analyse(group, hours, obsids, temperatures)
    yield from (row for row in of_images if row.quantity in scatters)
    move = np.asarray(exposures["move"], dtype=np.int64)
    _, first = np.unique(move, return_index=True)
    means = replace(group, values=means_of(group.values, move), errors=None)
    averaged = {name: means_of(values[:, None], move)[:, 0] for name, values in temperatures.items()}
    of_moves = analyse(means, means_of(hours[:, None], move)[:, 0], [obsids[row] for row in first], averaged)
    tested = {(row.detector, row.amp) for row in of_moves}
    yield from (row for row in of_moves if row.quantity not in scatters)
    yield from (
        replace(row, p_value=np.nan, p_adjusted=np.nan)
        for row in of_images
        if row.quantity not in scatters and (row.detector, row.amp) not in tested
    )


def _of_stack(fitted: FittedDetector, exposures: Table) -> Iterator[Finding]:
    """Yield the chi-square of the repeated images of a detector."""
    moves = np.asarray(exposures["move"], dtype=np.int64)[_rows_of(exposures, fitted.obsids)]
    weight = fitted.signals.weights
    found = stack_chi_square(moves, np.where(weight > 0, fitted.signals.log_signal, 0.0), weight)
    if found.freedom:
        yield Finding(STACK, "chi_square", *found.reduced, detector=fitted.stored.detector, n=found.freedom)


class _BeamSums:
    """Residuals of all detectors for the shape of the beam.

    Parameters
    ----------
    files
        Number of files, from which the number of residuals is guessed.
    """

    def __init__(self, files: int) -> None:
        self._files = files
        self._parts: list[BeamResiduals] = []
        self._pixels = 0

    def add(self, fitted: FittedDetector, exposures: Table) -> None:
        """Add every n-th super-pixel of a detector."""
        step = max(1, round(self._files * fitted.fit.weights.shape[1] / _MOST_RESIDUALS))
        chosen = slice(step // 2, None, step)
        weight, residual = fitted.fit.weights[:, chosen], fitted.fit.residual[:, chosen]
        number = _rows_of(exposures, fitted.obsids)
        places = np.column_stack([fitted.signals.x_mm[chosen], fitted.signals.y_mm[chosen]])
        row, column = np.nonzero(weight > 0)
        self._parts.append(
            BeamResiduals(
                number[row],
                column + self._pixels,
                places[column] - fitted.projector[row],
                residual[row, column],
                weight[row, column],
            )
        )
        self._pixels += weight.shape[1]

    def findings(self) -> Iterator[Finding]:
        """Yield the change of each term, with the probability of all together."""
        if not self._parts:
            return
        joined = {each.name: np.concatenate([getattr(part, each.name) for part in self._parts]) for each in fields(BeamResiduals)}
        found = shape_change(BeamResiduals(**joined))
        chance = found.p_value
        for term, change, error in zip(TERMS, found.change, found.error, strict=True):
            if np.isfinite(change):
                yield Finding(
                    SHAPE, term, float(change), float(error), n=len(joined["residual"]), p_value=chance, p_adjusted=chance
                )


def _as_rows(table: Mapping[str, FloatArray], detector: str, names: Sequence[str], exposures: Table) -> Table:
    """Return the readings of the amplifiers of a detector with one row for each exposure and amplifier that has some."""
    kept = np.zeros((len(exposures), len(names)), dtype=bool)
    for values in table.values():
        kept |= np.isfinite(values)
    row, column = np.nonzero(kept)
    result = Table(
        {
            "obsid": np.asarray(exposures["obsid"], dtype=np.str_)[row],
            "hours": np.asarray(exposures["hours"], dtype=np.float64)[row],
            "detector": np.full(len(row), detector, dtype="U8"),
            "amp": np.array(list(names), dtype="U8")[column],
        }
    )
    for name in _READINGS:
        result[name] = table[name][row, column] if name in table else np.zeros(0)
    return result


def _finding_table(findings: Sequence[Finding]) -> Table:
    """Return findings as a table; an empty text in ECSV is read as missing."""
    rows = [tuple((entry or _NONE) if isinstance(entry, str) else entry for entry in astuple(row)) for row in findings]
    names = [each.name for each in fields(Finding)]
    kinds = [{"str": np.str_, "float": float, "int": int, "bool": bool}[str(each.type)] for each in fields(Finding)]
    columns = zip(*rows, strict=True) if rows else ([] for _ in names)
    return Table({name: np.array(column, dtype=kind) for name, column, kind in zip(names, columns, kinds, strict=True)})


def _messages(led: str, findings: Sequence[Finding]) -> list[str]:
    of_light = {row.quantity: row for row in findings if row.series == LIGHT}
    of_light = of_light or {row.quantity: row for row in findings if row.series == PHOTODIODE}
    if SCATTER not in of_light:
        return [f"{led}: too few exposures to judge their stability"]
    name = next(iter(of_light.values())).series
    scatter, drift = of_light[SCATTER], of_light[DRIFT]
    called = sorted({f"{row.series}: {row.quantity}" for row in findings if row.called and not row.amp})
    amplifiers = len({(row.detector, row.amp) for row in findings if row.called and row.amp})
    repeats = f"{led}: {name} repeats to {1e3 * scatter.value:.2f} +- {1e3 * scatter.error:.2f} per mil"
    return [
        f"{repeats}, drifts by {1e3 * drift.value:+.2f} +- {1e3 * drift.error:.2f} per mil per hour",
        *([f"{led}: changes beyond noise: {', '.join(called).replace('_', ' ')}"] if called else []),
        *([f"{led}: {amplifiers} amplifiers change beyond noise"] if amplifiers else []),
    ]
