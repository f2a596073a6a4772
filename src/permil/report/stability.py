"""The page on the stability of light, photodiode, electronics and beam, and its section of the index page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Row, Table
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from permil.arrays import Float32Array, FloatArray
from permil.camera import shared_camera
from permil.config import Config
from permil.config.model import ReportConfig
from permil.products import RunFolder, open_product, read_table
from permil.report.kit.elements import (
    Cell,
    Column,
    Grid,
    Link,
    Picture,
    captioned,
    chance_column,
    count_column,
    decimal_column,
    measured_cell,
    measured_column,
    measurement_cell,
    number_cell,
    number_column,
    raster,
    table_of,
    text_column,
    verdict_cell,
)
from permil.report.kit.figures import (
    ACCENT,
    ALARM,
    DIVERGING,
    FAINT,
    LED_COLOURS,
    colour_bar,
    led_colour,
    show_image,
    styled,
    subplots,
    symmetric_limits,
)
from permil.report.kit.pages import (
    Declaration,
    IndexPart,
    Page,
    PageKind,
    RunProducts,
    index_address,
    page_path,
    relative_address,
    render,
)
from permil.report.kit.results import MISSING, NO, OPEN, YES, Measurement, format_chance, format_measurement, judge, two_digits
from permil.stability.findings import DRIFT, JUMP, SCATTER, SUCCESSIVE
from permil.stability.residuals import UNIT_MM
from permil.stability.stage import FIRST_TO_LAST, LIGHT, PHOTODIODE, RATIO, SHAPE, STACK, TEMPERATURES
from permil.stability.trends import CALLED

_FINDINGS = (
    "series", "quantity", "value", "error", "detector", "amp", "n", "with_time", "p_value", "p_adjusted", "called", "at",
)  # fmt: skip
_READINGS = ("hours", "detector", "amp", "flux_over_light", "overscan_level", "read_noise")


@dataclass(frozen=True)
class LedStability:
    """Tables of one LED; see `permil.products.RunFolder`."""

    led: str
    findings: Table
    exposures: Table
    amplifiers: Table
    readings: Table

    def result(self, series: str, quantity: str) -> Table.Row | None:
        """Return a result of the whole LED, None without one."""
        return result_of(self.findings, series, quantity)

    @property
    def time_label(self) -> str:
        """Label of the axis of time."""
        return "hours since the first exposure" if self.findings.meta.get("time") == "h" else "number of the exposure"

    @property
    def per_time(self) -> str:
        """Unit of a drift, after that of the series."""
        return "per hour" if self.findings.meta.get("time") == "h" else "per exposure"


def result_of(findings: Table, series: str, quantity: str) -> Table.Row | None:
    """Return the first finding of a series and quantity, None without one."""
    for row in findings:
        if row["series"] == series and row["quantity"] == quantity:
            return row
    return None


@dataclass(frozen=True)
class SuperbiasStability:
    """Superbias of one detector: amplifiers, their level and read noise in each exposure (n, amplifiers), and a small image, adu."""

    detector: str
    serial: str
    amplifiers: Table
    level: FloatArray
    read_noise: FloatArray
    image: Float32Array


def read_findings(folder: RunFolder, led: str) -> Table:
    """Read the results on the stability of an LED.

    Raises
    ------
    InputError
        If the table is missing or damaged.
    """
    return read_table(folder.stability(led), columns=_FINDINGS, purpose="table of stability")


def read_led(folder: RunFolder, led: str) -> LedStability:
    """Read the tables of one LED.

    Raises
    ------
    InputError
        If one is missing or damaged.
    """
    return LedStability(
        led,
        read_findings(folder, led),
        read_table(folder.stability_exposures(led), columns=("obsid", "hours", "is_used"), purpose="table of exposures"),
        read_table(folder.stability_amplifiers(led), columns=_FINDINGS, purpose="table of stability"),
        read_table(folder.stability_readings(led), columns=_READINGS, purpose="table of readings"),
    )


def read_superbias_stability(path: Path) -> SuperbiasStability | None:
    """Read the tables and the small image of a superbias; None for a file without them.

    Raises
    ------
    InputError
        If the file is damaged.
    """
    with open_product(path, "a superbias", remedy="run `permil isr` again") as hdus:
        if "FRAMES" not in hdus or "CELLS" not in hdus:
            return None
        frames, header = hdus["FRAMES"].data, hdus[0].header
        return SuperbiasStability(
            str(header["DETECTOR"]),
            str(header.get("LSST_NUM", "")),
            Table(hdus["AMPLIFIERS"].data),
            np.array(frames["overscan_level"], dtype=np.float64).reshape(len(frames), -1),
            np.array(frames["read_noise"], dtype=np.float64).reshape(len(frames), -1),
            np.array(hdus["CELLS"].data, dtype=np.float32),
        )


def with_stability(folder: RunFolder, leds: Sequence[str]) -> list[str]:
    """Return those LEDs whose stability was measured."""
    paths = (folder.stability, folder.stability_exposures, folder.stability_amplifiers, folder.stability_readings)
    return [led for led in leds if all(path(led).is_file() for path in paths)]


_MOST_LINES = 20
_MOST_MAPS = 30
_COLUMNS = 6


@captioned(
    "Above: light and photodiode of each exposure over their means, their ratio, and the temperatures of the headers minus their "
    "means. Below: amplifiers, each minus its own mean; the bands hold 68 % and 95 % of them at each exposure, and red lines are those "
    "that change beyond noise. Dashed lines mark jumps beyond noise."
)
def led_picture(led: LedStability) -> Figure:
    """Draw light, photodiode, ratio, temperatures, fluxes, bias levels and read noise against time."""
    used = led.exposures[np.asarray(led.exposures["is_used"], dtype=bool)]
    hours = _numbers(used, "hours")
    figure, axes = subplots((12.0, 10.4), (0.07, 0.985, 0.05, 0.97), 4, 2, wspace=0.18, hspace=0.42)
    axes = axes.ravel()
    with np.errstate(invalid="ignore", divide="ignore"):
        light, photodiode = np.log(_numbers(used, "light")), np.log(_numbers(used, "photodiode"))
    for own, series, name, values in (
        (axes[0], "light", "light (joint scale)", light),
        (axes[1], "photodiode", "photodiode", photodiode),
        (axes[2], "photodiode_over_light", "photodiode over light", photodiode - light),
    ):
        known, jump = np.isfinite(values), led.result(series, "jump")
        if known.any():
            own.plot(hours[known], 1e3 * (values[known] - values[known].mean()), ".", color=led_colour(led.led), markersize=4)
        else:
            _write_not_measured(own)
        if jump is not None and jump["called"]:
            place = np.flatnonzero(np.asarray(used["obsid"], dtype=np.str_) == jump["at"])
            own.axvline(float(hours[place[0]]), color=ALARM, linestyle="--", linewidth=1.0)
        own.set(title=name, ylabel="over its mean - 1 (‰)")
    for colour, name in zip(LED_COLOURS.values(), TEMPERATURES, strict=True):
        values = _numbers(used, name)
        if np.isfinite(values).any():
            axes[3].plot(hours, values - np.nanmean(values), color=colour, linewidth=1.0, label=REGRESSORS[name])
    axes[3].set(title="temperatures", ylabel="minus the mean (°C)")
    if axes[3].lines:
        axes[3].legend(loc="upper left", ncols=3)
        axes[3].margins(y=0.25)
    scales = dict(zip(used["obsid"], zip(light, photodiode, strict=True), strict=True))
    flux, level = _numbers(led.readings, "flux_over_light"), led.readings
    light, photodiode = np.array([scales.get(obsid, (np.nan, np.nan)) for obsid in level["obsid"]]).reshape(-1, 2).T
    for own, series, name, values, unit in (
        (axes[4], "flux", "flux of amplifiers, raw", 1e3 * (flux + light), "‰"),
        (axes[5], "flux_over_photodiode", "flux of amplifiers over photodiode", 1e3 * (flux + light - photodiode), "‰"),
        (axes[6], "overscan_level", "bias level", _numbers(level, "overscan_level"), "adu"),
        (axes[7], "read_noise", "read noise", _numbers(level, "read_noise"), "electrons"),
    ):
        _bands(own, led, series, values)
        own.set(title=name, ylabel=f"minus the mean ({unit})")
    for own in axes:
        own.set_xlabel(led.time_label)
    return figure


def _numbers(table: Table, name: str) -> FloatArray:
    return np.ma.filled(np.ma.asarray(table[name], dtype=np.float64), np.nan)


def _write_not_measured(axes: Axes) -> None:
    axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", color=FAINT)


def _bands(axes: Axes, led: LedStability, series: str, values: FloatArray) -> None:
    """Draw the middle of all amplifiers, and those that change beyond noise."""
    table = led.readings
    names = np.char.add(np.char.add(np.asarray(table["detector"], dtype=np.str_), " "), np.asarray(table["amp"], dtype=np.str_))
    hours, own = np.unique(_numbers(table, "hours"), return_inverse=True)
    amplifiers, number = np.unique(names, return_inverse=True)
    grid = np.full((len(hours), len(amplifiers)), np.nan)
    grid[own, number] = values
    known = np.isfinite(grid)
    if not known.any():
        _write_not_measured(axes)
        return
    count = known.sum(axis=0)
    grid = grid - np.where(known, grid, 0.0).sum(axis=0) / np.maximum(count, 1)
    some = known.any(axis=1)
    _draw_bands(axes, hours[some], grid[some])
    called = [f"{row['detector']} {row['amp']}" for row in led.amplifiers if row["called"] and row["series"] == series]
    for name in list(dict.fromkeys(called))[:_MOST_LINES]:
        line = grid[:, amplifiers == name][:, 0]
        axes.plot(hours[np.isfinite(line)], line[np.isfinite(line)], color=ALARM, linewidth=0.7)


def _draw_bands(axes: Axes, places: FloatArray, grid: FloatArray) -> None:
    """Draw the middle of all columns of a grid, and the bands that hold 68 % and 95 % of them."""
    low, lower, middle, upper, high = np.nanpercentile(grid, [2.5, 16, 50, 84, 97.5], axis=1)
    axes.fill_between(places, low, high, color=FAINT, alpha=0.4, linewidth=0)
    axes.fill_between(places, lower, upper, color=FAINT, alpha=0.9, linewidth=0)
    axes.plot(places, middle, color=ACCENT, linewidth=0.8)


def superbias_picture(superbiases: Sequence[SuperbiasStability]) -> Picture:
    """Return small images of superbiases."""
    caption = "Superbiases, binned; the colour scale holds 98 % of the pixels of all detectors that are shown."
    if len(superbiases) > _MOST_MAPS:
        caption += f" The first {_MOST_MAPS} of {len(superbiases)} detectors."
    return raster(superbias_maps(superbiases[:_MOST_MAPS]), caption)


@styled
def superbias_maps(superbiases: Sequence[SuperbiasStability]) -> Figure:
    """Draw small images of superbiases."""
    columns = min(_COLUMNS, len(superbiases))
    rows = -(-len(superbiases) // columns)
    figure = Figure(figsize=(12.0 if columns > 2 else 4.2 * columns, 0.4 + (12.0 / _COLUMNS if columns > 2 else 3.6) * rows))
    axes = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    limits = symmetric_limits(*(one.image for one in superbiases), centre=0.0)
    for own, one in zip(axes, superbiases, strict=False):
        height, width = one.image.shape
        shown = show_image(own, one.image, extent=(0, width, 0, height), limits=limits, colours=DIVERGING)
        own.set(title=one.detector, xticks=[], yticks=[])
    for own in axes[len(superbiases) :]:
        own.set_axis_off()
    last = axes[len(superbiases) - 1]
    colour_bar(figure, shown, last, "adu")
    figure.tight_layout()
    return figure


@captioned(
    "Bias exposures in order: mean level of the overscan minus its mean, and read noise over its mean, for each amplifier; the bands "
    "hold 68 % and 95 % of all amplifiers."
)
def level_picture(superbiases: Sequence[SuperbiasStability]) -> Figure:
    """Draw levels and read noise of all amplifiers against the number of the bias exposure."""
    figure, (level_axes, noise_axes) = subplots((12.0, 3.0), (0.07, 0.985, 0.16, 0.9), 1, 2, wspace=0.18)
    longest = max(len(one.level) for one in superbiases)
    number = np.arange(1.0, longest + 1)

    def joined(parts: Iterable[FloatArray]) -> FloatArray:
        padded = [np.pad(part, ((0, longest - len(part)), (0, 0)), constant_values=np.nan) for part in parts]
        return np.concatenate(padded, axis=1)

    with np.errstate(invalid="ignore", divide="ignore"):
        noise = [100.0 * (one.read_noise / one.read_noise.mean(axis=0) - 1.0) for one in superbiases]
    _draw_bands(level_axes, number, joined(one.level - one.level.mean(axis=0) for one in superbiases))
    _draw_bands(noise_axes, number, joined(noise))
    level_axes.set(xlabel="bias exposure", ylabel="minus the mean (adu)", title="bias level")
    noise_axes.set(xlabel="bias exposure", ylabel="over the mean - 1 (%)", title="read noise")
    return figure


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
_OF_AMPLIFIERS = ("flux", "flux_over_photodiode", "flux_over_light", "overscan_level", "read_noise")
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
                found.append(_measurement(metric, led, row))
    for row in findings:
        if row["series"] == STACK:
            found.append(replace(_measurement("stack_chi_square", led, row), detector=str(row["detector"]), amp="all"))
        if row["series"] == SHAPE:
            found.append(_measurement(f"beam_change_{row['quantity']}", led, row))
    return found


def _measurement(metric: str, led: str, row: Row) -> Measurement:
    return Measurement(metric, led, float(row["value"]), float(row["error"]))


def _per_mil(row: Row) -> str:
    return format_measurement(1e3 * row["value"], 1e3 * row["error"])


def sentence(findings: Table, led: str, limits: ReportConfig) -> str:
    """Return the verdict on the light of an LED and its drift."""
    series = LIGHT if result_of(findings, LIGHT, SCATTER) is not None else PHOTODIODE
    row, drift = result_of(findings, series, SCATTER), result_of(findings, series, DRIFT)
    if row is None or drift is None:
        return f"{led}: too few exposures to judge the light."
    limit = two_digits(1e3 * limits.repeatability_limit)
    verdict = _WORDS.get(judge(_measurement(f"{series}_scatter", led, row), limits), "has no")
    per = "hour" if findings.meta.get("time") == "h" else "exposure"
    text = (
        f"{led}: the {SERIES[series]} repeats to {_per_mil(row)} ‰, which {verdict} the required {limit} ‰; it drifts by "
        f"{_per_mil(drift)} ‰ per {per}"
    )
    ratio = result_of(findings, RATIO, SCATTER)
    if ratio is not None and series == LIGHT:
        text += f"; the photodiode follows it to {_per_mil(ratio)} ‰"
    return f"{text}."


def repeatability_table(found: Mapping[str, Table], limits: ReportConfig) -> Grid:
    """Return scatter, verdict and drift of light, photodiode and their ratio, from the findings of each LED."""
    scatters = {
        (led, series): _measurement(f"{series}_scatter", led, row)
        for led, findings in found.items()
        for series in (LIGHT, PHOTODIODE, RATIO)
        if (row := result_of(findings, series, SCATTER)) is not None
    }

    def finding(quantity: str) -> Callable[[tuple[str, str]], Row | None]:
        return lambda key: result_of(found[key[0]], key[1], quantity)

    def change(heading: str, quantity: str) -> Column:
        return measured_column(heading, "value", error="error", scale=1e3).of(finding(quantity))

    per = "h" if all(findings.meta.get("time") == "h" for findings in found.values()) else "h, or exposure"
    columns = (
        text_column("LED", itemgetter(0)),
        text_column("series", lambda key: SERIES[key[1]]),
        count_column("exposures", "n").of(finding(SCATTER)),
        Column("scatter (‰)", lambda key: measurement_cell(scatters[key], limits)),
        number_column("required (‰)", lambda _: limits.repeatability_limit, two_digits, scale=1e3),
        # The photodiode is a reading: what must repeat is the light, and the light after division by it.
        Column("verdict", lambda key: verdict_cell(judge(scatters[key], limits)), is_text=True),
        change("successive (‰)", SUCCESSIVE),
        change(f"drift (‰/{per})", DRIFT),
        change("first to last (‰)", FIRST_TO_LAST),
    )
    return table_of(scatters, columns)


def method_text(leds: Sequence[LedStability]) -> str:
    """Return a description of the fit of regressors, and the number of tests."""
    tests = sum(int(np.isfinite(np.asarray(table["p_value"], dtype=float)).sum()) for led in leds for table in _tables(led))
    series = len({(led.led, *key) for led in leds for table in _tables(led) for key in _keys(table)})
    return (
        "Each regressor (time, a jump at any time, each temperature) is fitted alone: temperatures change with time, and a few hours of "
        "data do not separate several regressors. Where a temperature correlates with time, its slope may be due to a drift, and vice "
        "versa. Errors allow for correlated noise. A change is significant if such noise alone causes it with a probability p of at most "
        f"{CALLED:g}, adjusted for the number of regressors of the series (Holm) and, among amplifiers, for their number (false-discovery "
        f"rate). {tests} tests were made on {series} series."
    )


def _tables(led: LedStability) -> tuple[Table, Table]:
    return led.findings, led.amplifiers


def _keys(table: Table) -> set[tuple[str, str, str]]:
    known = np.isfinite(np.asarray(table["p_value"], dtype=float))
    columns = [np.asarray(table[name], dtype=np.str_)[known].tolist() for name in ("series", "detector", "amp")]
    return set(zip(*columns, strict=True))


def trend_table(led: LedStability) -> Grid:
    """Return drift, jump and temperature slopes of light, photodiode and their ratio."""
    rows = [
        row for row in led.findings if row["series"] in SERIES and row["quantity"] in REGRESSORS and np.isfinite(row["value"])
    ]
    return table_of(rows, _trend_columns(led))


def _trend_columns(led: LedStability) -> tuple[Column, ...]:
    def per(row: Row) -> str:
        return {DRIFT: led.per_time, JUMP: ""}.get(str(row["quantity"]), "per °C")

    def change(row: Row) -> Cell:
        return measured_cell(float(row["value"]), float(row["error"]), scale=_scale_of(row["series"])[0])

    return (
        text_column("series", lambda row: SERIES[str(row["series"])]),
        text_column("regressor", lambda row: REGRESSORS[str(row["quantity"])]),
        Column("change", change),
        text_column("unit", lambda row: f"{_scale_of(row['series'])[1]} {per(row)}".strip()),
        # The correlation of time with itself says nothing.
        decimal_column("correlation with time", lambda row: np.nan if row["quantity"] == DRIFT else float(row["with_time"]), 2),
        chance_column("p"),
        chance_column("p, adjusted", "p_adjusted"),
        text_column("beyond noise", lambda row: "yes" if row["called"] else "no"),
        text_column("at", lambda row: str(row["at"]) if row["quantity"] == JUMP and row["called"] else MISSING),
    )


def _scale_of(series: str) -> tuple[float, str]:
    """Return the factor and the unit in which pages show a series."""
    return {"overscan_level": (1.0, "adu"), "read_noise": (1.0, "electrons"), "chi_square": (1.0, "")}.get(series, (1e3, "‰"))


def shape_table(led: LedStability) -> tuple[Grid, str] | None:
    """Return the change of the beam's shape and a sentence, None if it is not determined."""
    found = [row for row in led.findings if row["series"] == SHAPE]
    if not found:
        return None
    names = {"x": "along X", "y": "along Y", "xx": "curvature along X", "xy": "astigmatism", "yy": "curvature along Y"}
    columns = (
        text_column("term", lambda row: names[str(row["quantity"])]),
        measured_column("change (‰)", "value", error="error", scale=1e3),
    )
    chance = float(found[0]["p_value"])
    verdict = "significant" if chance <= CALLED else "consistent with noise"
    text = (
        f"Change of the beam from the first to the second half of the exposures, at {UNIT_MM:g} mm from its middle, from "
        f"{found[0]['n']} residuals; responses, scales and the mean beam are free at the same time. All terms together: "
        f"p = {format_chance(chance)}, {verdict}."
    )
    return table_of(found, columns), text


def stack_table(led: LedStability) -> Grid | None:
    """Return the chi-square of repeated images of each detector, None without any."""
    columns = (
        text_column("detector"),
        measured_column("χ² per degree of freedom", "value", error="error"),
        count_column("degrees of freedom", "n"),
    )
    rows = [row for row in led.findings if row["series"] == STACK]
    return table_of(rows, columns) if rows else None


def amplifier_summary(led: LedStability) -> Grid:
    """Return scatter and drift of all amplifiers together for each kind of series."""
    table = led.amplifiers
    series, quantity, detector, amp = (
        np.asarray(table[name], dtype=np.str_) for name in ("series", "quantity", "detector", "amp")
    )
    value, called = np.asarray(table["value"], dtype=float), np.asarray(table["called"], dtype=bool)
    names = np.char.add(detector, amp)

    def values(name: str, kind: str) -> FloatArray:
        return value[(series == name) & (quantity == kind)]

    def median(heading: str, kind: str) -> Column:
        return Column(heading, lambda name: _median_cell(values(name, kind), _scale_of(name)[0]))

    def spread(name: str) -> Cell:
        drifts = values(name, DRIFT)
        shown = two_digits(_scale_of(name)[0] * float(drifts.std(ddof=1))) if len(drifts) > 1 else MISSING
        return number_cell(shown, float(np.std(drifts)))

    columns = (
        text_column("series", lambda name: SERIES[name]),
        text_column("unit", lambda name: _scale_of(name)[1]),
        count_column("amplifiers", lambda name: len(values(name, DRIFT))),
        median("scatter, median", SCATTER),
        median("successive, median", SUCCESSIVE),
        median(f"drift {led.per_time}, median", DRIFT),
        Column("drift, rms over amplifiers", spread),
        count_column("beyond noise", lambda name: len(set(names[(series == name) & called]))),
    )
    return table_of([name for name in _OF_AMPLIFIERS if (series == name).any()], columns)


def _median_cell(values: FloatArray, scale: float) -> Cell:
    """Return a median with its error from the scatter of the values."""
    values = values[np.isfinite(values)]
    if values.size < 3:
        return Cell(MISSING)
    spread = 1.4826 * float(np.median(np.abs(values - np.median(values))))
    return measured_cell(float(np.median(values)), 1.2533 * spread / np.sqrt(values.size), scale=scale)


def _changed(led: LedStability) -> tuple[Table, dict[str, tuple[int, int]]]:
    """Return the significant changes of single amplifiers, and the kinds of series that change in most amplifiers: in how many of all."""
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
    """Return a sentence on each kind of series that changes in most amplifiers."""
    return [
        f"{SERIES[name].capitalize()}: {changed} of {count} amplifiers change together; see light, photodiode and temperatures above."
        for name, (changed, count) in _changed(led)[1].items()
    ]


def called_table(led: LedStability) -> Grid | None:
    """Return the changes beyond noise of amplifiers that change alone, None without any."""
    rows = _changed(led)[0][:_MOST_AMPLIFIERS]
    columns = (text_column("detector"), text_column("amplifier", "amp"), *_trend_columns(led))
    return table_of(rows, columns) if len(rows) else None


def amplifier_table(led: LedStability) -> Grid | None:
    """Return scatter and drift of each amplifier, at most `_MOST_AMPLIFIERS`; None without any."""
    found = {tuple(str(row[name]) for name in ("detector", "amp", "series", "quantity")): row for row in led.amplifiers}

    def column(name: str, kind: str) -> Column:
        scale, unit = _scale_of(name)
        heading = f"{SERIES[name]}: {f'drift ({unit} {led.per_time})' if kind == DRIFT else f'scatter ({unit})'}"
        own = measured_column(heading, "value", error="error", scale=scale)
        return own.of(lambda amplifier: found.get((*amplifier, name, kind)))

    columns = [column(name, kind) for name in _OF_AMPLIFIERS for kind in (SCATTER, DRIFT)]
    amplifiers = _amplifiers(led)[:_MOST_AMPLIFIERS]
    names = (text_column("detector", itemgetter(0)), text_column("amplifier", itemgetter(1)))
    return table_of(amplifiers, (*names, *columns)) if amplifiers else None


def _amplifiers(led: LedStability) -> list[tuple[str, str]]:
    """Return detector and amplifier of all series."""
    return list(dict.fromkeys((str(row["detector"]), str(row["amp"])) for row in led.amplifiers))


def is_cut(led: LedStability) -> bool:
    """Return whether `amplifier_table` does not show all amplifiers."""
    return len(_amplifiers(led)) > _MOST_AMPLIFIERS


def superbias_table(superbiases: Sequence[SuperbiasStability]) -> Grid:
    """Return structure and stability of the superbias of each detector: medians over its amplifiers."""

    def median(heading: str, name: str) -> Column:
        return Column(heading, lambda one: _median_cell(np.asarray(one.amplifiers[name], dtype=float), 1.0))

    def level(one: SuperbiasStability) -> Cell:
        return _median_cell(one.level.std(axis=0, ddof=1), 1.0) if len(one.level) > 1 else Cell(MISSING)

    columns = (
        text_column("detector"),
        text_column("sensor", "serial", absent=MISSING),
        count_column("exposures", lambda one: len(one.level)),
        median("structure of pixels (adu)", "pixels_structure"),
        median("of rows (adu)", "rows_structure"),
        median("of columns (adu)", "columns_structure"),
        median("χ²", "chi_square"),
        Column("level (adu)", level),
        median("read noise (adu)", "read_noise"),
    )
    return table_of(superbiases, columns)


_NAME = "stability"


@dataclass(frozen=True)
class StabilityPageRequest:
    """The page of a run: LEDs whose stability was measured, and detectors with a superbias."""

    config: Config
    folder: RunFolder
    leds: tuple[str, ...]
    detectors: tuple[str, ...]


def stability_path(folder: RunFolder) -> Path:
    """Return the path of the page."""
    return page_path(folder, _NAME)


def stability_pages(run: RunProducts) -> list[Page]:
    """Return the page, none if the stability of no LED was measured."""
    request = _request(run)
    if not request.leds:
        return []
    return [Page(_sources(request), _options(request), partial(make_stability_page, request), stability_path(run.folder))]


def _request(run: RunProducts) -> StabilityPageRequest:
    leds = with_stability(run.folder, [led.led for led in run.leds])
    detectors = tuple(name for name in run.camera.detectors if run.folder.superbias(name).is_file())
    return StabilityPageRequest(run.config, run.folder, tuple(leds), detectors)


def _sources(request: StabilityPageRequest) -> tuple[Path, ...]:
    folder = request.folder
    paths = (folder.stability, folder.stability_exposures, folder.stability_amplifiers, folder.stability_readings)
    return (*(path(led) for led in request.leds for path in paths), *(folder.superbias(name) for name in request.detectors))


def _options(request: StabilityPageRequest) -> dict[str, Any]:
    return {"leds": request.leds, "detectors": request.detectors, "limit": request.config.report.repeatability_limit}


def make_stability_page(request: StabilityPageRequest, fingerprint: str) -> str:
    """Return the page as HTML.

    Raises
    ------
    InputError
        If a product cannot be read.
    """
    folder, limits = request.folder, request.config.report
    camera, home = shared_camera(request.config.camera), relative_address(stability_path(folder), folder.report)
    found = [read_superbias_stability(folder.superbias(name)) for name in request.detectors if name in camera.detectors]
    leds = [read_led(folder, led) for led in request.leds]
    return render(
        "stability.html",
        __name__,
        fingerprint=fingerprint,
        title=f"Stability of run {folder.root.name} - permil",
        links=[Link("all results", f"{home}#{_NAME}")],
        facts=(),
        folder=folder,
        limits=limits,
        limit=two_digits(1e3 * limits.repeatability_limit),
        leds=leds,
        found={led.led: led.findings for led in leds},
        superbiases=[one for one in found if one is not None],
    )


def declare_section(run: RunProducts) -> Declaration | None:
    """Declare the section of the index page, None if the stability of no LED was measured."""
    request = _request(run)
    if not request.leds:
        return None
    return Declaration(
        tuple(run.folder.stability(led) for led in request.leds), _options(request), partial(make_section, request)
    )


def make_section(request: StabilityPageRequest) -> IndexPart:
    """Return the section of the index page.

    Raises
    ------
    InputError
        If a table cannot be read.
    """
    limits = request.config.report
    found = {led: read_findings(request.folder, led) for led in request.leds}
    address = index_address(request.config, request.folder, stability_path(request.folder))
    content = render("stability_section.html", __name__, found=found, limits=limits, address=address)
    return IndexPart(content, [entry for led, findings in found.items() for entry in measurements(findings, led)])


STABILITY_PAGES = PageKind(
    _NAME, "page on stability", stability_pages, section=declare_section, link="Stability", heading="Stability"
)
