"""Sentences, tables and results of the page on stability."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from permil.config.model import ReportConfig
from permil.report.kit.elements import (
    Cell,
    Grid,
    count_cell,
    grid,
    measured_cell,
    number_cell,
    pull_cell,
    result_cell,
    text_cell,
    verdict_cell,
)
from permil.report.kit.results import MISSING, NO, OPEN, YES, Measurement, format_chance, format_measurement, judge, two_digits
from permil.report.stability.inputs import LedStability, SuperbiasStability, result_of
from permil.stability.findings import DRIFT, JUMP, SCATTER, SUCCESSIVE
from permil.stability.shape import UNIT_MM
from permil.stability.stage import FIRST_TO_LAST, LIGHT, PHOTODIODE, RATIO, SHAPE, STACK
from permil.stability.trends import CALLED

FloatArray = NDArray[np.float64]

SERIES = {
    LIGHT: "light",
    PHOTODIODE: "photodiode",
    RATIO: "photodiode over light",
    "chi_square": "χ² of an exposure",
    "flux": "flux, raw",
    "flux_over_photodiode": "flux over photodiode",
    "flux_over_light": "flux over light",
    "overscan_level": "bias level",
    "read_noise": "read noise",
}
REGRESSORS = {
    DRIFT: "time",
    JUMP: "jump",
    "led_temp": "LED, front",
    "led_back_temp": "LED, back",
    "sphere_temp": "sphere",
    "board_temp": "projector board",
    "ccd_temp": "CCDs",
    "readout_temp": "readout board",
}
_SUMMARY = {
    LIGHT: ((SCATTER, "light_scatter"), (DRIFT, "light_drift"), (FIRST_TO_LAST, "light_first_to_last")),
    PHOTODIODE: ((SCATTER, "photodiode_scatter"), (DRIFT, "photodiode_drift")),
    RATIO: ((SCATTER, "photodiode_over_light_scatter"), (DRIFT, "photodiode_over_light_drift")),
}
"""Results of whole LEDs in the summary, and their metrics."""
_SCALES = {"": (1e3, "‰"), "adu": (1.0, "adu"), "electron": (1.0, "electrons"), "deg_C": (1.0, "°C")}
_MOST_AMPLIFIERS = 400
_FEWEST_TOGETHER = 8
_WORDS = {YES: "is within", NO: "exceeds", OPEN: "is too uncertain to judge against"}


def measurements(findings: Table, led: str) -> list[Measurement]:
    """Return the results of an LED for the summary."""
    found = []
    for series, metrics in _SUMMARY.items():
        for quantity, metric in metrics:
            row = result_of(findings, series, quantity)
            if row is not None and np.isfinite(row["value"]):
                found.append(Measurement(metric, led, float(row["value"]), float(row["error"])))
    for row in findings:
        if row["series"] == STACK:
            found.append(
                Measurement("stack_chi_square", led, float(row["value"]), float(row["error"]), str(row["detector"]), "all")
            )
        if row["series"] == SHAPE:
            found.append(Measurement(f"beam_change_{row['quantity']}", led, float(row["value"]), float(row["error"])))
    return found


def _of_light(findings: Table) -> str:
    return LIGHT if result_of(findings, LIGHT, SCATTER) is not None else PHOTODIODE


def sentence(findings: Table, led: str, limits: ReportConfig) -> str:
    """Return the verdict on the light of an LED and its drift."""
    series = _of_light(findings)
    row, drift = result_of(findings, series, SCATTER), result_of(findings, series, DRIFT)
    if row is None or drift is None:
        return f"{led}: too few exposures to judge the light."
    scatter = Measurement(f"{series}_scatter", led, float(row["value"]), float(row["error"]))
    limit = two_digits(1e3 * limits.repeatability_limit)
    verdict = _WORDS.get(judge(scatter, limits), "has no")
    per = "hour" if findings.meta.get("time") == "h" else "exposure"
    text = (
        f"{led}: the {SERIES[series]} repeats to {format_measurement(1e3 * row['value'], 1e3 * row['error'])} ‰, which {verdict} the "
        f"required {limit} ‰; it drifts by {format_measurement(1e3 * drift['value'], 1e3 * drift['error'])} ‰ per {per}"
    )
    ratio = result_of(findings, RATIO, SCATTER)
    if ratio is not None and series == LIGHT:
        text += f"; the photodiode follows it to {format_measurement(1e3 * ratio['value'], 1e3 * ratio['error'])} ‰"
    return f"{text}."


def repeatability_table(leds: Sequence[tuple[str, Table]], limits: ReportConfig) -> Grid:
    """Return scatter, verdict and drift of light, photodiode and their ratio for each LED."""
    rows = []
    for led, findings in leds:
        for series in (LIGHT, PHOTODIODE, RATIO):
            row = result_of(findings, series, SCATTER)
            if row is None:
                continue
            scatter = Measurement(f"{series}_scatter", led, float(row["value"]), float(row["error"]))
            # The photodiode is a reading: what must repeat is the light, and the light after division by it.
            verdict = judge(scatter, limits)
            rows.append(
                (
                    text_cell(led),
                    text_cell(SERIES[series]),
                    count_cell(float(row["n"])),
                    result_cell(scatter.metric, scatter.number, scatter.error, verdict=verdict),
                    number_cell(two_digits(1e3 * limits.repeatability_limit), limits.repeatability_limit),
                    verdict_cell(verdict),
                    *(_relative(result_of(findings, series, quantity)) for quantity in (SUCCESSIVE, DRIFT, FIRST_TO_LAST)),
                )
            )
    per = "h" if all(findings.meta.get("time") == "h" for _, findings in leds) else "h, or exposure"
    headings = (
        "LED", "series", "exposures", "scatter (‰)", "required (‰)", "verdict", "successive (‰)", f"drift (‰/{per})", "first to last (‰)",
    )  # fmt: skip
    return grid(headings, rows, text_columns=(0, 1, 5))


def _relative(row: Table.Row | None) -> Cell:
    return Cell(MISSING) if row is None else measured_cell(float(row["value"]), float(row["error"]), scale=1e3)


def method_text(leds: Sequence[LedStability]) -> str:
    """Return how regressors are fitted, and how many tests were made."""
    tests = sum(int(np.isfinite(np.asarray(table["p_value"], dtype=float)).sum()) for led in leds for table in _tables(led))
    series = len({(led.led, *key) for led in leds for table in _tables(led) for key in _keys(table)})
    return (
        "Each regressor (time, a jump anywhere, each temperature) is fitted alone: temperatures change with time, and with a few hours of "
        "data several at once cannot be told apart. Where a temperature correlates with time, its slope may be that of a drift, and the "
        "other way round. Errors allow for noise that wanders. A change is called if such noise gives it with a probability p of at most "
        f"{CALLED:g}, after an adjustment for the number of regressors of the series (Holm) and, among amplifiers, for their number "
        f"(false-discovery rate). Here {tests} tests were made on {series} series."
    )


def _tables(led: LedStability) -> tuple[Table, Table]:
    return led.findings, led.amplifiers


def _keys(table: Table) -> set[tuple[str, str, str]]:
    known = np.isfinite(np.asarray(table["p_value"], dtype=float))
    columns = [np.asarray(table[name], dtype=np.str_)[known].tolist() for name in ("series", "detector", "amp")]
    return set(zip(*columns, strict=True))


def trend_table(led: LedStability) -> Grid:
    """Return drift, jump and temperature slopes of light, photodiode and their ratio."""
    rows = []
    for row in led.findings:
        quantity, series = str(row["quantity"]), str(row["series"])
        if series not in SERIES or quantity not in REGRESSORS or not np.isfinite(row["value"]):
            continue
        rows.append((text_cell(SERIES[series]), *_trend_cells(row, series, led)))
    headings = ("series", "regressor", "change", "unit", "correlation with time", "p", "p, adjusted", "beyond noise", "at")
    return grid(headings, rows, text_columns=(0, 1, 3, 7, 8))


def _trend_cells(row: Table.Row, series: str, led: LedStability) -> tuple[Cell, ...]:
    quantity = str(row["quantity"])
    scale, unit = _SCALES[_UNITS.get(series, "")] if series != "chi_square" else (1.0, "")
    per = {DRIFT: led.per_time, JUMP: ""}.get(quantity, "per °C")
    # The correlation of time with itself says nothing.
    with_time = np.nan if quantity == DRIFT else float(row["with_time"])
    return (
        text_cell(REGRESSORS[quantity]),
        measured_cell(float(row["value"]), float(row["error"]), scale=scale),
        text_cell(f"{unit} {per}".strip()),
        pull_cell(with_time),
        number_cell(format_chance(float(row["p_value"])), float(row["p_value"])),
        number_cell(format_chance(float(row["p_adjusted"])), float(row["p_adjusted"])),
        text_cell("yes" if row["called"] else "no"),
        text_cell(row["at"] if quantity == JUMP and row["called"] else MISSING),
    )


_UNITS = {"overscan_level": "adu", "read_noise": "electron"}


def shape_table(led: LedStability) -> tuple[Grid, str] | None:
    """Return the change of the beam's shape and a sentence, None if it is not determined."""
    found = [row for row in led.findings if row["series"] == SHAPE]
    if not found:
        return None
    names = {"x": "along X", "y": "along Y", "xx": "curvature along X", "xy": "astigmatism", "yy": "curvature along Y"}
    rows = [
        (text_cell(names[str(row["quantity"])]), measured_cell(float(row["value"]), float(row["error"]), scale=1e3))
        for row in found
    ]
    chance = float(found[0]["p_value"])
    verdict = "noise does not explain it" if chance <= CALLED else "noise explains it"
    text = (
        f"Change of the beam from the first to the second half of the exposures, at {UNIT_MM:g} mm from its middle, from "
        f"{found[0]['n']} residuals; responses, scales and the mean beam are free at the same time. All terms together: "
        f"p = {format_chance(chance)}, {verdict}."
    )
    return grid(("term", "change (‰)"), rows), text


def stack_table(led: LedStability) -> Grid | None:
    """Return the chi-square of repeated images of each detector, None without any."""
    rows = [
        (text_cell(row["detector"]), measured_cell(float(row["value"]), float(row["error"])), count_cell(float(row["n"])))
        for row in led.findings
        if row["series"] == STACK
    ]
    return grid(("detector", "χ² per degree of freedom", "degrees of freedom"), rows) if rows else None


def amplifier_summary(led: LedStability) -> Grid:
    """Return scatter and drift of all amplifiers together for each kind of series."""
    rows = []
    table = led.amplifiers
    series, quantity = (np.asarray(table[name], dtype=np.str_) for name in ("series", "quantity"))
    value, called = np.asarray(table["value"], dtype=float), np.asarray(table["called"], dtype=bool)
    names = np.char.add(np.asarray(table["detector"], dtype=np.str_), np.asarray(table["amp"], dtype=np.str_))
    for name in ("flux", "flux_over_photodiode", "flux_over_light", "overscan_level", "read_noise"):
        own = series == name
        if not own.any():
            continue
        scale, unit = _SCALES[_UNITS.get(name, "")]
        drifts = value[own & (quantity == DRIFT)]
        cells = [_median_cell(value[own & (quantity == kind)], scale) for kind in (SCATTER, SUCCESSIVE, DRIFT)]
        rows.append(
            (
                text_cell(SERIES[name]),
                text_cell(unit),
                count_cell(len(drifts)),
                *cells,
                number_cell(two_digits(scale * float(drifts.std(ddof=1))) if len(drifts) > 1 else MISSING, float(np.std(drifts))),
                count_cell(len(set(names[own & called]))),
            )
        )
    headings = (
        "series", "unit", "amplifiers", "scatter, median", "successive, median", f"drift {led.per_time}, median",
        "drift, rms over amplifiers", "beyond noise",
    )  # fmt: skip
    return grid(headings, rows, text_columns=(0, 1))


def _median_cell(values: FloatArray, scale: float) -> Cell:
    """Return a median with its error from the scatter of the values."""
    values = values[np.isfinite(values)]
    if values.size < 3:
        return Cell(MISSING)
    spread = 1.4826 * float(np.median(np.abs(values - np.median(values))))
    return measured_cell(float(np.median(values)), 1.2533 * spread / np.sqrt(values.size), scale=scale)


def _changed(led: LedStability) -> tuple[Table, dict[str, tuple[int, int]]]:
    """Return the changes of amplifiers beyond noise, and the kinds of series of which most amplifiers change: how many of how many."""
    called, series = np.asarray(led.amplifiers["called"], dtype=bool), np.asarray(led.amplifiers["series"], dtype=np.str_)
    names = np.char.add(np.asarray(led.amplifiers["detector"], dtype=np.str_), np.asarray(led.amplifiers["amp"], dtype=np.str_))
    common, kept = {}, called.copy()
    for name in dict.fromkeys(series.tolist()):
        own = series == name
        changed, all_of_them = len(set(names[own & called])), len(set(names[own]))
        if changed >= _FEWEST_TOGETHER and 2 * changed > all_of_them:
            common[name] = changed, all_of_them
            kept &= ~own
    return led.amplifiers[kept], common


def called_sentences(led: LedStability) -> list[str]:
    """Return a sentence on each kind of series of which most amplifiers change together."""
    return [
        f"{SERIES[name].capitalize()}: {changed} of {count} amplifiers change together; see light, photodiode and temperatures above."
        for name, (changed, count) in _changed(led)[1].items()
    ]


def called_table(led: LedStability) -> Grid | None:
    """Return the changes beyond noise of amplifiers that change alone, None without any."""
    rows = []
    for row in _changed(led)[0][:_MOST_AMPLIFIERS]:
        series = str(row["series"])
        place = (text_cell(row["detector"]), text_cell(row["amp"]), text_cell(SERIES[series]))
        rows.append((*place, *_trend_cells(row, series, led)))
    headings = (
        "detector", "amplifier", "series", "regressor", "change", "unit", "correlation with time", "p", "p, adjusted", "beyond noise", "at",
    )  # fmt: skip
    return grid(headings, rows, text_columns=(0, 1, 2, 3, 5, 9, 10)) if rows else None


def amplifier_table(led: LedStability) -> Grid | None:
    """Return scatter and drift of each amplifier, at most `_MOST_AMPLIFIERS`; None without any."""
    cells: dict[tuple[str, str], dict[tuple[str, str], tuple[float, float]]] = {}
    for row in led.amplifiers:
        own = cells.setdefault((str(row["detector"]), str(row["amp"])), {})
        own[str(row["series"]), str(row["quantity"])] = float(row["value"]), float(row["error"])
    columns = [
        (name, kind)
        for name in ("flux", "flux_over_photodiode", "flux_over_light", "overscan_level", "read_noise")
        for kind in (SCATTER, DRIFT)
    ]
    rows = []
    for (detector, amp), own in list(cells.items())[:_MOST_AMPLIFIERS]:
        shown = []
        for name, kind in columns:
            scale = _SCALES[_UNITS.get(name, "")][0]
            found = own.get((name, kind))
            shown.append(Cell(MISSING) if found is None else measured_cell(*found, scale=scale))
        rows.append((text_cell(detector), text_cell(amp), *shown))
    headings = ["detector", "amplifier"]
    for name, kind in columns:
        unit = _SCALES[_UNITS.get(name, "")][1]
        headings.append(f"{SERIES[name]}: {f'drift ({unit} {led.per_time})' if kind == DRIFT else f'scatter ({unit})'}")
    return grid(headings, rows, text_columns=(0, 1)) if rows else None


def is_cut(led: LedStability) -> bool:
    """Return whether `amplifier_table` does not show all amplifiers."""
    columns = [np.asarray(led.amplifiers[name], dtype=np.str_).tolist() for name in ("detector", "amp")]
    return len(set(zip(*columns, strict=True))) > _MOST_AMPLIFIERS


def superbias_table(superbiases: Sequence[SuperbiasStability]) -> Grid:
    """Return structure and stability of the superbias of each detector: medians over its amplifiers."""
    rows = []
    for one in superbiases:
        columns = [np.asarray(one.amplifiers[f"{name}_structure"], dtype=float) for name in ("pixels", "rows", "columns")]
        columns.append(np.asarray(one.amplifiers["chi_square"], dtype=float))
        columns.append(one.level.std(axis=0, ddof=1) if len(one.level) > 1 else np.full(one.level.shape[1], np.nan))
        columns.append(np.asarray(one.amplifiers["read_noise"], dtype=float))
        rows.append(
            (
                text_cell(one.detector),
                text_cell(one.serial or MISSING),
                count_cell(len(one.level)),
                *(_median_cell(column, 1.0) for column in columns),
            )
        )
    headings = (
        "detector", "sensor", "exposures", "structure of pixels (adu)", "of rows (adu)", "of columns (adu)", "χ²", "level (adu)",
        "read noise (adu)",
    )  # fmt: skip
    return grid(headings, rows, text_columns=(0, 1))
