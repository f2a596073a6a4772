"""Figures of the exposures of a joint solution: scales against the photodiode, and where the stage stood."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from numpy.typing import NDArray

from permil.report.joint_inputs import JointProducts
from permil.report.joint_numbers import two_digits
from permil.report.quantities import format_measurement
from permil.report.style import ACCENT, ALARM, FAINT, INK, led_colour, plain_axes, styled

FloatArray = NDArray[np.float64]
Mask = NDArray[np.bool_]

_SIZES = {"scan": 2.4, "pointing": 3.8, "": 2.4}
"""Markers of each purpose, points."""
_MEANS = 12
_FEWEST_IN_MEAN = 4
_REACH = 5.0
_FEW_HOURS = 3.0
_BINS = 31
_MOST_ARROWS = 1500
_LEAST_ARROW = 1e-3
_ARROW = 0.09
"""Longest shift (µm) that is drawn as nothing; length of the longest arrow over the width of what is shown."""


@styled
def photodiode_figure(products: JointProducts) -> Figure:
    """Draw photodiode over joint scale against time, its distribution, and against the LED's temperature; the scale against time."""
    time, label = _time(products)
    deviation, error = (1e3 * part for part in products.deviations)
    used = np.isfinite(products.column("deviation")) & ~products.left_out
    reach = _REACH * float(np.median(error[used])) if used.any() else 1.0
    figure = Figure(figsize=(12.0, 6.0))
    figure.subplots_adjust(left=0.06, right=0.985, bottom=0.085, top=0.95, wspace=0.2, hspace=0.38)
    cells = figure.add_gridspec(2, 3)
    time_axes, histogram = figure.add_subplot(cells[0, :2]), figure.add_subplot(cells[0, 2])
    scale_axes, temperature_axes = figure.add_subplot(cells[1, :2]), figure.add_subplot(cells[1, 2])
    _against(time_axes, products, time, deviation, error, reach)
    time_axes.set(xlabel=label, ylabel="photodiode / scale - 1 (‰)", title="photodiode over joint scale")
    time_axes.legend(loc="upper left", ncols=6, handletextpad=0.2, columnspacing=1.0, borderaxespad=0.0)
    time_axes.set_ylim(-reach, 1.25 * reach)
    _histogram(histogram, deviation[used], error[used], reach)
    kept = ~products.left_out
    for purpose, size in _SIZES.items():
        chosen = kept & _of_purpose(products, purpose)
        if chosen.any():
            scale = products.column("scale")[chosen]
            scale_axes.plot(
                time[chosen], 1e3 * (scale / np.median(scale) - 1), "o", color=led_colour(products.led), markeredgecolor=INK,
                markeredgewidth=0.3, markersize=size, label=purpose or "exposures",
            )  # fmt: skip
    median = 1e3 * products.error_of("exposure_scale")
    scale_axes.set(
        xlabel=label,
        ylabel="scale over its median - 1 (‰)",
        title=f"joint scale: the light itself (median error {two_digits(median)} ‰)",
    )
    scale_axes.legend(loc="upper left", ncols=3, handletextpad=0.2, borderaxespad=0.0)
    scale_axes.margins(y=0.2)
    _temperature(temperature_axes, products, deviation, error, reach)
    for axes in (time_axes, histogram, scale_axes, temperature_axes):
        plain_axes(axes)
    return figure


@styled
def scale_figure(products: JointProducts) -> Figure:
    """Draw the joint scales against time, for a solution without photodiode."""
    time, label = _time(products)
    figure = Figure(figsize=(12.0, 3.0))
    figure.subplots_adjust(left=0.06, right=0.985, bottom=0.16, top=0.9)
    axes = figure.subplots()
    kept = ~products.left_out
    scale, error = products.column("scale")[kept], products.column("scale_err")[kept]
    axes.errorbar(
        time[kept], 1e3 * (scale / np.median(scale) - 1), yerr=1e3 * error, fmt=".", color=led_colour(products.led), markersize=4,
        elinewidth=0.5,
    )  # fmt: skip
    axes.set(xlabel=label, ylabel="scale over its median - 1 (‰)", title="joint scale: the light itself")
    plain_axes(axes)
    return figure


@styled
def stage_figure(products: JointProducts) -> Figure:
    """Draw fitted minus recorded positions, with and without rotation and scale, over the focal plane and against each other."""
    figure = Figure(figsize=(12.4, 4.1))
    figure.subplots_adjust(left=0.055, right=0.985, bottom=0.13, top=0.91, wspace=0.28)
    whole_axes, own_axes, scatter_axes = figure.subplots(1, 3)
    kept = np.flatnonzero(~products.left_out & np.isfinite(products.column("shift_x_mm")))
    recorded = np.column_stack([products.column("x_mm"), products.column("y_mm")])
    first = np.unique(recorded, axis=0, return_index=True)[1]
    moves = np.intersect1d(kept, first)[:_MOST_ARROWS]
    fitted = np.column_stack([products.column("fitted_x_mm"), products.column("fitted_y_mm")])
    shift = 1e3 * np.column_stack([products.column("shift_x_mm"), products.column("shift_y_mm")])
    error = 1e3 * np.column_stack([products.column("shift_x_err_mm"), products.column("shift_y_err_mm")])
    _arrows(whole_axes, recorded[moves], 1e3 * (fitted - recorded)[moves], "fitted minus recorded position")
    _arrows(own_axes, recorded[moves], shift[moves], "the same without rotation and scale")
    colours = {"scan": INK, "pointing": led_colour(products.led), "": INK}
    for purpose, colour in colours.items():
        chosen = kept[_of_purpose(products, purpose)[kept]]
        if chosen.size:
            scatter_axes.errorbar(
                *shift[chosen].T, xerr=error[chosen, 0], yerr=error[chosen, 1], fmt=".", color=colour, ecolor=FAINT, elinewidth=0.4,
                markersize=3, label=purpose or "exposures",
            )  # fmt: skip
    jitter = 1e3 * products.error_of("position")
    if np.isfinite(jitter):
        for number in (1, 2):
            circle = Circle(
                (0, 0), number * jitter, fill=False, color=ACCENT, linewidth=1.0, linestyle="-" if number == 1 else ":"
            )
            scatter_axes.add_patch(circle)
        scatter_axes.plot([], [], color=ACCENT, label=f"1, 2 × {two_digits(jitter)} µm")  # noqa: RUF001
    reach = 1.3 * float(np.percentile(np.abs(shift[kept]), 99.5)) if kept.size else 1.0
    reach = max(reach, 2.4 * jitter if np.isfinite(jitter) else 0.0, 1e-6)
    scatter_axes.set(
        xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xlabel="along CCS X (µm)", ylabel="along CCS Y (µm)"
    )
    scatter_axes.set_title("single exposures, rotation and scale taken off")
    scatter_axes.legend(loc="upper left", borderaxespad=0.0, handletextpad=0.3)
    return figure


def _time(products: JointProducts) -> tuple[FloatArray, str]:
    time = products.column("time")
    if not products.in_hours:
        return time, "exposures in the order of time"
    hours = 24 * (time - time.min())
    if hours.max() < _FEW_HOURS:
        return 60 * hours, f"minutes since MJD {time.min():.5f}"
    return hours, f"hours since MJD {time.min():.5f}"


def _of_purpose(products: JointProducts, purpose: str) -> Mask:
    found = np.asarray(products.exposures["purpose"], dtype=np.str_)
    return found == purpose if purpose else ~np.isin(found, ["scan", "pointing"])


def _against(
    axes: Axes, products: JointProducts, place: FloatArray, deviation: FloatArray, error: FloatArray, reach: float
) -> None:
    """Draw deviations with errors; those that were not used in red; what lies beyond the axes stands at their edge."""
    used = np.isfinite(products.column("deviation")) & ~products.left_out
    shown = np.clip(deviation, -0.97 * reach, 0.97 * reach)
    for purpose, size in _SIZES.items():
        chosen = used & _of_purpose(products, purpose)
        if chosen.any():
            axes.errorbar(
                place[chosen], shown[chosen], yerr=error[chosen], fmt="o", color=led_colour(products.led), markeredgecolor=INK,
                markeredgewidth=0.3, markersize=size, ecolor=FAINT, elinewidth=0.4, label=purpose or "exposures", zorder=2,
            )  # fmt: skip
    for name, marker, chosen in (
        ("reading not used", "s", products.unused_reading & ~products.left_out),
        ("left out", "x", products.left_out & np.isfinite(deviation)),
    ):
        if chosen.any():
            axes.plot(
                place[chosen], shown[chosen], marker, color=ALARM, markerfacecolor="none", markersize=7, label=name, zorder=4
            )
    means = _means(place[used], deviation[used], error[used])
    if len(means):
        axes.errorbar(
            means[:, 0], means[:, 1], yerr=means[:, 2], fmt="o", color=INK, markerfacecolor="white", markersize=5, elinewidth=1.1,
            label="means of equal numbers", zorder=3,
        )  # fmt: skip
    axes.axhline(0.0, color=INK, linewidth=0.6, zorder=1)


def _means(place: FloatArray, deviation: FloatArray, error: FloatArray) -> FloatArray:
    """Return place, mean and error of the mean of equal numbers of points, shape (n, 3)."""
    if place.size < 2 * _FEWEST_IN_MEAN:
        return np.zeros((0, 3))
    groups = np.array_split(np.argsort(place, kind="stable"), min(_MEANS, place.size // _FEWEST_IN_MEAN))
    return np.array([(place[g].mean(), deviation[g].mean(), np.sqrt(np.mean(error[g] ** 2) / g.size)) for g in groups])


def _histogram(axes: Axes, deviation: FloatArray, error: FloatArray, reach: float) -> None:
    edges = np.linspace(-reach, reach, _BINS + 1)
    axes.hist(np.clip(deviation, -reach, reach), bins=edges.tolist(), color=FAINT, label=f"{deviation.size} readings")
    middle = (edges[1:] + edges[:-1]) / 2
    width = edges[1] - edges[0]
    expected = np.zeros(middle.size)
    for size in error:
        expected += width * np.exp(-((middle / size) ** 2) / 2) / (size * np.sqrt(2 * np.pi))
    axes.plot(middle, expected, color=INK, label="expected from the errors")
    axes.set(xlabel="photodiode / scale - 1 (‰)", ylabel="readings", title="distribution")
    if deviation.size > 1:
        spread = float(np.std(deviation))
        axes.set_title(f"distribution: rms {format_measurement(spread, spread / np.sqrt(2 * deviation.size))} ‰")
    axes.margins(y=0.3)
    axes.set_ylim(top=1.35 * max(axes.get_ylim()[1] / 1.3, 1.0))
    axes.legend(loc="upper left", borderaxespad=0.0)


def _temperature(axes: Axes, products: JointProducts, deviation: FloatArray, error: FloatArray, reach: float) -> None:
    temperature = products.column("led_temp")
    known = np.isfinite(temperature)
    if not known.any() or np.ptp(temperature[known]) == 0:
        axes.text(
            0.5, 0.5, "the LED's temperature is not known\nor does not change", transform=axes.transAxes, ha="center", va="center"
        )
        axes.set_axis_off()
        return
    _against(axes, products, temperature, deviation, error, reach)
    axes.set(xlabel="temperature of the LED (°C)", ylabel="photodiode / scale - 1 (‰)", title="over the LED's temperature")
    axes.set_ylim(-reach, reach)


def _arrows(axes: Axes, places: FloatArray, shifts: FloatArray, title: str) -> None:
    """Draw shifts (µm) as arrows at places (mm), with one for scale."""
    axes.set(xlabel="X (mm, CCS)", ylabel="Y (mm, CCS)", title=title, aspect="equal")
    if not len(places):
        return
    low, high = places.min(axis=0), places.max(axis=0)
    span = max(float((high - low).max()), 1.0)
    longest = float(np.percentile(np.hypot(*shifts.T), 98))
    if longest > _LEAST_ARROW:
        unit = _round_number(longest)
        arrows = axes.quiver(
            *places.T, *shifts.T, angles="xy", scale_units="xy", scale=longest / (_ARROW * span), width=0.0035, color=INK
        )
        axes.quiverkey(arrows, 0.86, 1.035, unit, f"{unit:g} µm", labelpos="E", coordinates="axes", labelsep=0.05)
    else:
        axes.plot(*places.T, ".", color=INK, markersize=2)
        axes.set_title(f"{title}: none")
    middle = (low + high) / 2
    axes.set(xlim=(middle[0] - 0.6 * span, middle[0] + 0.6 * span), ylim=(middle[1] - 0.6 * span, middle[1] + 0.6 * span))


def _round_number(size: float) -> float:
    """Return the largest of 1, 2, 5 times a power of ten that is not above a size."""
    power = 10.0 ** np.floor(np.log10(size))
    return float(max(step for step in (1.0, 2.0, 5.0) if step * power <= size * (1 + 1e-9)) * power)
