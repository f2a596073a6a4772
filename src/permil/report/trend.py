"""The page of trends: each metric of many runs against run and date, with errors, limits and outliers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from astropy.time import Time

from permil.report.kit.chart import Chart, chart_picture
from permil.report.kit.elements import (
    Column,
    Grid,
    Picture,
    chance_column,
    decimal_column,
    measured_cell,
    table_of,
    text_column,
)
from permil.report.kit.figures import ACCENT, ALARM, FAINT
from permil.report.kit.pages import render
from permil.report.kit.results import MISSING, NONE, QUANTITIES, Quantity
from permil.trend import FALSE_DISCOVERIES, FEWEST_RUNS, DeviatingResult, History, Result, RunEntry

_MOST_WITH_ERRORS = 200
_SIZE = (400.0, 150.0)
_WHOLE = ("", NONE, "all")


def name_of_result(result: Result) -> str:
    """Return metric, detector, amplifier and LED of a result for a sentence."""
    place = [part for part in (result.detector, result.amp, result.led) if part not in _WHOLE]
    return " ".join([quantity_of(result.metric).label, *([f"({', '.join(place)})"] if place else [])])


def quantity_of(metric: str) -> Quantity:
    """Return how pages show a metric; one of another version under its own name."""
    return QUANTITIES.get(metric) or Quantity(metric, metric.replace("_", " "))


def make_trend_page(history: History, outliers: Sequence[DeviatingResult], database: str) -> str:
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
    shifted = sorted({entry.result.run for entry in outliers})
    sentence = (
        f"Results deviate in {len(shifted)} of {len(history.runs)} runs: {', '.join(history.runs[run].name for run in shifted)}."
        if shifted
        else f"No result of {len(history.runs)} runs deviates from those of the other runs."
    )
    return render(
        "trend.html",
        __name__,
        fingerprint="",
        title=f"Trends of {database} - permil",
        runs=history.runs,
        sentence=sentence,
        outliers=outliers,
        results=results,
        named=named,
        fewest=FEWEST_RUNS,
        rate=f"{100 * FALSE_DISCOVERIES:g} %",
    )


def outlier_table(outliers: Sequence[DeviatingResult], runs: Sequence[RunEntry]) -> Grid:
    """Return the results that deviate, with the other runs."""

    def place(heading: str, name: str) -> Column:
        return text_column(heading, lambda entry: _shown(getattr(entry.result, name)))

    def measured(heading: str, pair: Callable[[DeviatingResult], tuple[float, float]]) -> Column:
        return Column(heading, lambda entry: measured_cell(*pair(entry), scale=quantity_of(entry.result.metric).scale))

    columns = (
        text_column("run", lambda entry: runs[entry.result.run].name),
        text_column("result", lambda entry: quantity_of(entry.result.metric).heading),
        place("detector", "detector"),
        place("amplifier", "amp"),
        place("LED", "led"),
        measured("value", lambda entry: (entry.result.value, entry.result.error)),
        measured("other runs", lambda entry: (entry.others, entry.others_error)),
        decimal_column("deviation over error", "pull", 1),
        chance_column("p-value"),
    )
    return table_of(outliers, columns)


def _shown(name: str) -> str:
    return MISSING if name == NONE else name


def run_table(runs: Sequence[RunEntry], named: set[tuple[int, tuple[str, str, str, str]]]) -> Grid:
    """Return the runs, with the number of results that deviate."""
    deviating = Counter(number for number, _ in named)
    columns = (
        decimal_column("number", lambda item: float(item[0] + 1), 0),
        text_column("run", lambda item: item[1].name),
        text_column("date", lambda item: Time(item[1].mjd, format="mjd").iso[:16] if math.isfinite(item[1].mjd) else MISSING),
        text_column("folder", lambda item: item[1].folder),
        decimal_column("results that deviate", lambda item: deviating[item[0]], 0),
    )
    return table_of(enumerate(runs), columns)


def metric_picture(
    entries: Sequence[Result], led: str, runs: Sequence[RunEntry], named: set[tuple[int, tuple[str, str, str, str]]]
) -> Picture:
    """Return a metric in one LED against run and date; outliers are red."""
    quantity = quantity_of(entries[0].metric)
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
