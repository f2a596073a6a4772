"""The section of the index page on gains and linearity measured from the campaign, with the amplifier steps of the flats."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from operator import itemgetter
from pathlib import Path

import numpy as np
from astropy.table import Row, Table
from matplotlib.figure import Figure

from permil.arrays import FloatArray
from permil.products import read_table
from permil.report.kit.elements import (
    Cell,
    Column,
    Grid,
    Picture,
    captioned,
    decimal_column,
    measured_column,
    number_in,
    result_cell,
    result_column,
    table_of,
    text_column,
)
from permil.report.kit.figures import ACCENT, FAINT, INK, subplots
from permil.report.kit.pages import Declaration, IndexPart, PageKind, RunProducts, render
from permil.report.kit.results import NO, QUANTITIES, Measurement

Amplifiers = Mapping[tuple[str, str], Row]
"""Rows of a table by the names of detector and amplifier."""

_GAIN_COLUMNS = (
    "detector", "amp", "configured", "measured", "measured_err", "systematic_err", "ratio", "ratio_err", "pull", "contradicts",
)  # fmt: skip


def declare_section(run: RunProducts) -> Declaration | None:
    """Declare the section, None where neither gains nor linearity were measured."""
    folder = run.folder
    sources = (folder.measured_gains, folder.measured_linearity)
    if not any(path.is_file() for path in sources):
        return None
    return Declaration((*sources, *(folder.metrics(led.led) for led in run.leds)), {}, partial(make_section, run))


def make_section(run: RunProducts) -> IndexPart:
    """Return the section.

    Raises
    ------
    InputError
        If a table cannot be read.
    """
    gains = _read(run.folder.measured_gains, _GAIN_COLUMNS, "gains", "measured")
    losses = _read(run.folder.measured_linearity, ("detector", "amp", "loss", "loss_err"), "linearity", "loss_err")
    steps = {led.led: _by_amplifier(led.metrics, "step") for led in run.leds if led.metrics is not None}
    measurements = [
        Measurement("gain_ratio", "", float(row["ratio"]) - 1.0, float(row["ratio_err"]), *name) for name, row in gains.items()
    ]
    for name, row in losses.items():
        measurements.append(Measurement("linearity_loss", "", float(row["loss"]), float(row["loss_err"]), *name))
    return IndexPart(render("calibration_section.html", __name__, gains=gains, losses=losses, steps=steps), measurements)


def _read(path: Path, columns: tuple[str, ...], purpose: str, known: str) -> Amplifiers:
    """Return the rows of a table of measured amplifiers, none without the table."""
    return (
        _by_amplifier(read_table(path, columns=columns, purpose=f"table of measured {purpose}"), known) if path.is_file() else {}
    )


def _by_amplifier(table: Table, known: str) -> Amplifiers:
    """Return the rows of the amplifiers with a number in a column."""
    return {(str(row["detector"]), str(row["amp"])): row for row in table if np.isfinite(number_in(row, known))}


def calibration_text(gains: Amplifiers, losses: Amplifiers) -> str:
    """Return the contradictions of gains, and the scatter of gains and losses."""
    parts = []
    if gains:
        wrong = sum(bool(row["contradicts"]) for row in gains.values())
        scatter = 1e3 * float(np.std([float(row["ratio"]) for row in gains.values()]))
        parts.append(
            f"The noise of repeated images contradicts the configured gain of {wrong} of {len(gains)} amplifiers; the ratios of measured "
            f"to configured gains scatter by {scatter:.2g} ‰."
        )
    if losses:
        scatter = 1e3 * float(np.std([float(row["loss"]) for row in losses.values()]))
        parts.append(f"Losses of signal at 50,000 electrons scatter by {scatter:.2g} ‰ between {len(losses)} amplifiers.")
    return " ".join(parts)


def amplifier_table(gains: Amplifiers, losses: Amplifiers, steps: Mapping[str, Amplifiers]) -> Grid:
    """Return the table of amplifiers: gains, ratios, losses, and the steps of the flat of each LED."""

    def measured(row: Row | None) -> tuple[float, float]:
        return number_in(row, "measured"), float(np.hypot(number_in(row, "measured_err"), number_in(row, "systematic_err")))

    def ratio(row: Row | None) -> Cell:
        verdict = NO if row is not None and row["contradicts"] else ""
        return result_cell("gain_ratio", number_in(row, "ratio") - 1.0, number_in(row, "ratio_err"), verdict=verdict)

    of_gains = (
        decimal_column("configured gain (e⁻/adu)", "configured", 4),
        measured_column("measured (e⁻/adu)", measured),
        Column(QUANTITIES["gain_ratio"].heading, ratio),
        decimal_column("over its error", "pull", 2),
    )
    step = QUANTITIES["step"]
    columns = (
        text_column("detector", itemgetter(0)),
        text_column("amplifier", itemgetter(1)),
        *(column.of(gains.get) for column in of_gains),
        result_column("linearity_loss", "loss").of(losses.get),
        *(
            result_column("step", "step", heading=f"{step.label}, {led} ({step.unit})").of(of_led.get)
            for led, of_led in steps.items()
        ),
    )
    return table_of(dict.fromkeys([*gains, *losses]), columns)


def steps_picture(gains: Amplifiers, steps: Mapping[str, Amplifiers]) -> Picture | None:
    """Return the picture of steps against wrong gains, None where either is missing."""
    points = []
    for name, row in gains.items():
        found = [of_led[name] for of_led in steps.values() if name in of_led]
        own = np.array([(float(each["step"]), float(each["step_err"])) for each in found]).reshape(-1, 2)
        own = own[np.isfinite(own).all(axis=1)]
        if len(own):
            error = float(np.sqrt(np.sum(own[:, 1] ** 2))) / len(own)
            points.append((1.0 / float(row["ratio"]) - 1.0, float(row["ratio_err"]), float(own[:, 0].mean()), error))
    return steps_against_gains(np.array(points)) if points else None


@captioned(
    "Excess of each amplifier in the flats (mean over LEDs) against the error of its configured gain, from the noise of repeated images. "
    "Wrong gains lie on the line; steps of the response itself do not.",
    kind="svg",
    narrow=True,
)
def steps_against_gains(points: FloatArray) -> Figure:
    """Draw error of the gain, its error, step and its error, shape (n, 4), relative."""
    figure, axes = subplots((5.2, 4.0), (0.15, 0.97, 0.14, 0.96))
    x, x_err, y, y_err = 1e3 * points.T
    reach = 1.1 * float(np.max([np.abs(x) + x_err, np.abs(y) + y_err]))
    axes.plot([-reach, reach], [-reach, reach], color=INK, linewidth=0.8, linestyle="--")
    axes.errorbar(x, y, xerr=x_err, yerr=y_err, fmt="o", color=ACCENT, ecolor=FAINT, markersize=3.5, elinewidth=0.8)
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach))
    axes.set(xlabel="configured over measured gain - 1 (‰)", ylabel="amplifier step (‰)")
    return figure


CALIBRATION_SECTION = PageKind(
    "calibration",
    "gains and linearity",
    lambda _run: [],
    section=declare_section,
    link="Gains and linearity",
    heading="Gains and linearity from the campaign",
)
