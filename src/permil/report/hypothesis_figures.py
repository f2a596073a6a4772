"""Figures of the three hypotheses, and of tree rings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from permil.report.style import ACCENT, FAINT, INK, LED_COLOURS, plain_axes, styled

FloatArray = NDArray[np.float64]

KIND_COLOURS = (ACCENT, LED_COLOURS["red"], LED_COLOURS["nm850"])
_MARKERS = ("o", "s", "D")
_WELL_KNOWN = 0.5
"""Fractions with larger errors do not decide how far a panel reaches."""
_LEAST_REACH = (-0.1, 1.1)
_MOST_REACH = (-1.0, 2.0)


@dataclass(frozen=True)
class FractionPanel:
    """Fractions of the flat's variance: ``value`` and ``error`` of shape (kinds, places), and what the places are called."""

    title: str
    places: tuple[str, ...]
    value: FloatArray
    error: FloatArray


@styled
def fractions(panels: Sequence[FractionPanel], kinds: Sequence[str]) -> Figure:
    """Draw fractions with errors as points, and as bars from the share of nothing."""
    widths = [max(len(panel.places), 2) for panel in panels]
    figure = Figure(figsize=(11.6, 3.9))
    figure.subplots_adjust(left=0.06, right=0.985, bottom=0.14, top=0.85, wspace=0.1)
    axes_of = figure.subplots(1, len(panels), squeeze=False, width_ratios=widths)[0]
    for axes, panel in zip(axes_of, panels, strict=True):
        _panel(axes, panel, kinds)
    axes_of[0].set_ylabel("fraction of the flat's variance")
    handles, labels = axes_of[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", ncols=len(labels), bbox_to_anchor=(0.5, 1.0))
    return figure


def _panel(axes: Axes, panel: FractionPanel, kinds: Sequence[str]) -> None:
    x = np.arange(len(panel.places), dtype=float)
    for number, kind in enumerate(kinds):
        shift = 0.26 * (number - (len(kinds) - 1) / 2)
        colour = KIND_COLOURS[number % len(KIND_COLOURS)]
        axes.bar(x + shift, panel.value[number], width=0.24, color=colour, alpha=0.3)
        axes.errorbar(
            x + shift, panel.value[number], yerr=panel.error[number], fmt=_MARKERS[number % len(_MARKERS)],
            color=colour, markersize=4.5, elinewidth=1.3, capsize=2, label=kind,
        )  # fmt: skip
    for level, style in ((0.0, "-"), (1.0, ":")):
        axes.axhline(level, linestyle=style, color=INK, linewidth=0.6)
    axes.set_ylim(*_reach(panel))
    axes.set_xticks(x, panel.places)
    axes.set_title(panel.title)
    plain_axes(axes)


def _reach(panel: FractionPanel) -> tuple[float, float]:
    known = np.isfinite(panel.value + panel.error) & (panel.error <= _WELL_KNOWN)
    low = np.min((panel.value - panel.error)[known], initial=_LEAST_REACH[0])
    high = np.max((panel.value + panel.error)[known], initial=_LEAST_REACH[1])
    return max(float(low) - 0.05, _MOST_REACH[0]), min(float(high) + 0.05, _MOST_REACH[1])


@styled
def ring_profile(radius: FloatArray, level: FloatArray, error: FloatArray) -> Figure:
    """Draw the flat averaged along circles around the centre of tree rings; radius in pixels, all else in per mil."""
    figure = Figure(figsize=(11.6, 2.9))
    axes = figure.add_axes((0.06, 0.17, 0.925, 0.73))
    known = np.isfinite(radius + level + error)
    radius, level, error = radius[known], level[known], error[known]
    axes.fill_between(radius, level - error, level + error, color=FAINT, linewidth=0, label="± standard error")
    axes.plot(radius, level, color=ACCENT, linewidth=0.9, label="flat")
    axes.axhline(0.0, color=INK, linewidth=0.6)
    if radius.size:
        reach = 1.3 * float(np.max(np.abs(level[error <= 2 * np.median(error)])))
        axes.set_ylim(-reach, reach)
        axes.set_xlim(radius[0], radius[-1])
    axes.set(xlabel="distance from the centre of the rings (pixels)", ylabel="flat (‰)", title="flat along the radius")
    axes.legend(loc="upper right", ncols=2)
    plain_axes(axes)
    return figure
