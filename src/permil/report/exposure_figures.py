"""Figure of the exposures in time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from permil.report.style import ALARM, INK, led_colour, plain_axes, styled

_MARKERS = {"scan": ".", "pointing": "o", "other": "x"}


@dataclass(frozen=True)
class PhotodiodeSeries:
    """Readings of the photodiode with one LED: ``mjd``, ``reading`` (NaN where unusable) and ``purpose`` of each exposure."""

    mjd: NDArray[np.float64]
    reading: NDArray[np.float64]
    purpose: NDArray[np.str_]


@styled
def photodiode_timeline(series: Mapping[str, PhotodiodeSeries]) -> Figure:
    """Draw the photodiode against time, one panel per LED, over its median for scan and pointings each.

    Exposures whose reading cannot be used are marked at the foot of their panel.
    """
    height = 0.75 + 1.25 * len(series)
    figure = Figure(figsize=(11.6, height))
    figure.subplots_adjust(left=0.085, right=0.985, bottom=0.5 / height, top=1 - 0.3 / height, hspace=0.3)
    panels = figure.subplots(len(series), 1, sharex=True, squeeze=False)[:, 0]
    start = min((float(np.nanmin(entry.mjd)) for entry in series.values() if np.isfinite(entry.mjd).any()), default=0.0)
    for axes, (led, entry) in zip(panels, series.items(), strict=True):
        hours = 24.0 * (entry.mjd - start)
        for purpose, marker in _MARKERS.items():
            chosen = entry.purpose == purpose
            usable = chosen & np.isfinite(entry.reading)
            if usable.any():
                relative = entry.reading[usable] / np.median(entry.reading[usable]) - 1
                size = 3.0 if marker == "." else 4.0
                axes.plot(
                    hours[usable], 1e3 * relative, marker, color=led_colour(led), markeredgecolor=INK, markeredgewidth=0.3,
                    markersize=size, label=purpose,
                )  # fmt: skip
            lost = chosen & ~np.isfinite(entry.reading)
            if lost.any():
                axes.plot(
                    hours[lost], np.zeros(lost.sum()), "|", color=ALARM, markersize=8, transform=axes.get_xaxis_transform(),
                    label=f"{purpose}, unusable",
                )  # fmt: skip
        axes.set_ylabel(f"{led}\nphotodiode (‰)")
        if axes.has_data():
            axes.legend(loc="upper right", ncols=4, borderaxespad=0.0, handletextpad=0.2)
        axes.margins(y=0.25)
        plain_axes(axes)
    panels[0].set_title("photodiode over its median - 1, for scan and pointings each")
    panels[-1].set_xlabel(f"hours since MJD {start:.5f}")
    return figure
