"""The page of trends: each metric against run and date, with errors, limits and outliers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from astropy.time import Time
from numpy.typing import NDArray

from permil.report.kit.chart import Chart, chart_picture
from permil.report.kit.elements import Grid, Picture, decimal_cell, grid, measured_cell, number_cell, text_cell
from permil.report.kit.figures import ACCENT, ALARM, FAINT
from permil.report.kit.pages import render
from permil.report.kit.results import MISSING, NONE, QUANTITIES, Quantity, format_chance
from permil.trend.database import History, Result, RunEntry
from permil.trend.outliers import FALSE_DISCOVERIES, FEWEST_RUNS, Outlier

FloatArray = NDArray[np.float64]

_MOST_WITH_ERRORS = 200
_SIZE = (400.0, 150.0)
_WHOLE = ("", NONE, "all")


def name_of_result(result: Result) -> str:
    """Return metric, detector, amplifier and LED of a result for a sentence."""
    place = [part for part in (result.detector, result.amp, result.led) if part not in _WHOLE]
    return " ".join([_quantity(result.metric).label, *([f"({', '.join(place)})"] if place else [])])


def _quantity(metric: str) -> Quantity:
    """Return how pages show a metric; one of another version under its own name."""
    return QUANTITIES.get(metric) or Quantity(metric, metric.replace("_", " "))


def make_trend_page(history: History, outliers: Sequence[Outlier], database: str) -> str:
    """Return the page as HTML.

    Parameters
    ----------
    history
        Runs and their results.
    outliers
        Results that deviate from those of the other runs.
    database
        Name of the database, for the page.
    """
    named = {(entry.result.run, entry.result.series) for entry in outliers}
    results: dict[str, dict[str, list[Result]]] = {}
    unlike = {series for _, series in named}
    of_detectors = {entry.metric for entry in history.results if entry.amp in _WHOLE}
    for entry in history.results:
        is_shown = entry.amp in _WHOLE or entry.metric not in of_detectors or entry.series in unlike
        if is_shown and math.isfinite(entry.value):
            results.setdefault(entry.metric, {}).setdefault(entry.led, []).append(entry)
    metrics = [
        {
            "name": metric,
            "label": _quantity(metric).label,
            "pictures": [_picture(entries, led, history.runs, named) for led, entries in by_led.items()],
        }
        for metric, by_led in results.items()
    ]
    shifted = sorted({entry.result.run for entry in outliers})
    sentence = (
        f"Results deviate in {len(shifted)} of {len(history.runs)} runs: {', '.join(history.runs[run].name for run in shifted)}."
        if shifted
        else f"No result of {len(history.runs)} runs deviates from those of the other runs."
    )
    return render(
        "trend/page.html",
        fingerprint="",
        title=f"Trends of {database} - permil",
        runs=history.runs,
        sentence=sentence,
        method=(
            f"Each result is compared with the median of the same result in the other runs, from {FEWEST_RUNS} runs on. Where runs "
            "scatter by more than their errors, that scatter is the measure. At most "
            f"{100 * FALSE_DISCOVERIES:g} % of the results named here are expected to be chance. A trend of all runs is not an outlier: "
            "see the pictures."
        ),
        outliers=_outlier_table(outliers, history.runs) if outliers else None,
        metrics=metrics,
        run_table=_run_table(history.runs, named),
    )


def _outlier_table(outliers: Sequence[Outlier], runs: Sequence[RunEntry]) -> Grid:
    rows = []
    for entry in outliers:
        result, quantity = entry.result, _quantity(entry.result.metric)
        rows.append(
            (
                text_cell(runs[result.run].name),
                text_cell(quantity.heading),
                *(text_cell(part if part != NONE else MISSING) for part in (result.detector, result.amp, result.led)),
                measured_cell(result.value, result.error, scale=quantity.scale),
                measured_cell(entry.others, entry.others_error, scale=quantity.scale),
                decimal_cell(entry.pull, 1),
                number_cell(format_chance(entry.p_value), entry.p_value),
            )
        )
    headings = ("run", "result", "detector", "amplifier", "LED", "value", "other runs", "deviation over error", "p-value")
    return grid(headings, rows, text_columns=range(5))


def _run_table(runs: Sequence[RunEntry], named: set[tuple[int, tuple[str, str, str, str]]]) -> Grid:
    rows = []
    for number, run in enumerate(runs):
        date = Time(run.mjd, format="mjd").iso[:16] if math.isfinite(run.mjd) else MISSING
        count = sum(place == number for place, _ in named)
        rows.append(
            (
                decimal_cell(float(number + 1), 0),
                text_cell(run.name),
                text_cell(date),
                text_cell(run.folder),
                decimal_cell(count, 0),
            )
        )
    return grid(("number", "run", "date", "folder", "results that deviate"), rows, text_columns=(1, 2, 3))


def _picture(
    entries: Sequence[Result], led: str, runs: Sequence[RunEntry], named: set[tuple[int, tuple[str, str, str, str]]]
) -> Picture:
    """Return a metric in one LED against run and date; outliers are red."""
    quantity = _quantity(entries[0].metric)
    value, error, spec = (
        quantity.scale * np.array([getattr(entry, name) for entry in entries]) for name in ("value", "error", "spec")
    )
    number = np.array([entry.run + 1.0 for entry in entries])
    mjd = np.array([runs[entry.run].mjd for entry in entries])
    is_named = np.array([(entry.run, entry.series) in named for entry in entries])
    bars = np.where(np.isfinite(error), error, 0.0)
    limits = np.unique(np.abs(spec[np.isfinite(spec)]))
    low, high = float((value - bars).min()), float((value + bars).max())
    if limits.size and max(abs(low), abs(high)) > 0.3 * limits.max():
        low, high = min(low, -limits.max() if low < 0 else low), max(high, limits.max())
    margin = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
    places = [(number, (0.5, len(runs) + 0.5), "run")]
    dates = np.array([run.mjd for run in runs])
    if np.isfinite(mjd).any():
        first, last = np.nanmin(dates), np.nanmax(dates)
        edge = 0.05 * (last - first) or 0.5
        places.append((mjd, (first - edge, last + edge), "date (MJD)"))
    charts = []
    for x, extent, label in places:
        chart = Chart(
            _SIZE,
            extent,
            (low - margin, high + margin),
            title=quantity.label if led == NONE else f"{quantity.label}, {led}",
            labels=(label, quantity.unit or "value"),
        )
        for limit in limits:
            chart.level(limit, ALARM, dashed=True)
            chart.level(-limit, ALARM, dashed=True)
        if value.size <= _MOST_WITH_ERRORS:
            chart.errors(x, value, error)
        elif is_named.any():
            chart.errors(x[is_named], value[is_named], error[is_named])
        for flags, colour in ((~is_named, ACCENT if value.size <= _MOST_WITH_ERRORS else FAINT), (is_named, ALARM)):
            if flags.any():
                chart.points(np.column_stack([x[flags], value[flags]]), colour, radius=3.0)
        charts.append(chart)
    series = len({entry.series for entry in entries})
    caption = f"{quantity.heading}: {series} series over {len(set(number))} runs. Red: deviates from the other runs."
    if limits.size:
        caption += " Dashed: limit."
    return chart_picture([charts], caption)
