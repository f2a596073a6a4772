"""The section of the index page on gains and linearity measured from the campaign, beside the amplifier steps of the flats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from operator import itemgetter
from pathlib import Path

import numpy as np
from astropy.table import Row, Table
from matplotlib.figure import Figure
from numpy.typing import NDArray

from permil.products import read_table
from permil.report.kit.elements import (
    Cell,
    Column,
    Grid,
    Picture,
    decimal_column,
    drawing,
    measured_column,
    number_in,
    pull_cell,
    result_cell,
    table_of,
    text_column,
)
from permil.report.kit.figures import ACCENT, FAINT, INK, plain_axes, styled
from permil.report.kit.pages import Declaration, IndexSection, PageKind, RunProducts, render
from permil.report.kit.results import NO, QUANTITIES, Measurement

FloatArray = NDArray[np.float64]
Amplifier = tuple[str, str]
"""Names of detector and amplifier."""

_GAIN_COLUMNS = (
    "detector", "amp", "handed_over", "measured", "measured_err", "systematic_err", "ratio", "ratio_err", "pull", "contradicts",
)  # fmt: skip


def declare_section(run: RunProducts) -> Declaration | None:
    """Declare the section, None where neither gains nor linearity were measured."""
    folder = run.folder
    sources = (folder.measured_gains, folder.measured_linearity)
    if not any(path.is_file() for path in sources):
        return None
    return Declaration((*sources, *(folder.metrics(led.led) for led in run.leds)), {}, partial(make_section, run))


def make_section(run: RunProducts) -> IndexSection:
    """Return the section.

    Raises
    ------
    InputError
        If a table cannot be read.
    """
    gains, losses = _gains(run.folder.measured_gains), _losses(run.folder.measured_linearity)
    steps = {led.led: _steps(led.metrics) for led in run.leds if led.metrics is not None}
    amplifiers = list(dict.fromkeys([*gains, *losses]))
    return IndexSection(
        anchor="calibration",
        link="Gains and linearity",
        subject="gains and linearity",
        heading="Gains and linearity from the campaign",
        content=render(
            "calibration_section.html",
            sentence=_sentence(gains, losses),
            pictures=_pictures(gains, steps),
            amplifiers=amplifier_table(amplifiers, gains, losses, steps),
        ),
        measurements=_measurements(gains, losses),
    )


def _gains(path: Path) -> dict[Amplifier, Row]:
    """Return the row of each amplifier whose gain was measured."""
    if not path.is_file():
        return {}
    table = read_table(path, columns=_GAIN_COLUMNS, purpose="table of measured gains")
    return {(str(row["detector"]), str(row["amp"])): row for row in table if np.isfinite(row["measured"])}


def _losses(path: Path) -> dict[Amplifier, tuple[float, float]]:
    """Return the loss of each amplifier at 50,000 electrons and its error."""
    if not path.is_file():
        return {}
    table = read_table(path, columns=("detector", "amp", "loss", "loss_err"), purpose="table of measured linearity")
    return {
        (str(row["detector"]), str(row["amp"])): (float(row["loss"]), float(row["loss_err"]))
        for row in table
        if np.isfinite(row["loss_err"])
    }


def _steps(metrics: Table) -> dict[Amplifier, tuple[float, float]]:
    if "step" not in metrics.colnames:
        return {}
    return {(str(row["detector"]), str(row["amp"])): (float(row["step"]), float(row["step_err"])) for row in metrics}


def _sentence(gains: Mapping[Amplifier, Row], losses: Mapping[Amplifier, tuple[float, float]]) -> str:
    parts = []
    if gains:
        wrong = sum(bool(row["contradicts"]) for row in gains.values())
        scatter = 1e3 * float(np.std([float(row["ratio"]) for row in gains.values()]))
        parts.append(
            f"The noise of repeated images contradicts the configured gain of {wrong} of {len(gains)} amplifiers; the ratios of measured "
            f"to configured gains scatter by {scatter:.2g} ‰."
        )
    if losses:
        scatter = 1e3 * float(np.std([loss for loss, _ in losses.values()]))
        parts.append(f"Losses of signal at 50,000 electrons scatter by {scatter:.2g} ‰ between {len(losses)} amplifiers.")
    return " ".join(parts)


def amplifier_table(
    amplifiers: Sequence[Amplifier],
    gains: Mapping[Amplifier, Row],
    losses: Mapping[Amplifier, tuple[float, float]],
    steps: Mapping[str, Mapping[Amplifier, tuple[float, float]]],
) -> Grid:
    """Return the table of amplifiers: gains, ratios, losses, and the steps of the flat of each LED."""

    def measured(name: Amplifier) -> tuple[float, float]:
        row = gains.get(name)
        return number_in(row, "measured"), float(np.hypot(number_in(row, "measured_err"), number_in(row, "systematic_err")))

    def ratio(name: Amplifier) -> Cell:
        row = gains.get(name)
        verdict = NO if row is not None and row["contradicts"] else ""
        return result_cell("gain_ratio", number_in(row, "ratio") - 1.0, number_in(row, "ratio_err"), verdict=verdict)

    def result(heading: str, metric: str, found: Mapping[Amplifier, tuple[float, float]]) -> Column:
        return Column(heading, lambda name: result_cell(metric, *found.get(name, (np.nan, np.nan))))

    step = QUANTITIES["step"]
    columns = (
        text_column("detector", itemgetter(0)),
        text_column("amplifier", itemgetter(1)),
        decimal_column("configured gain (e⁻/adu)", lambda name: number_in(gains.get(name), "handed_over"), 4),
        measured_column("measured (e⁻/adu)", measured),
        Column(QUANTITIES["gain_ratio"].heading, ratio),
        Column("over its error", lambda name: pull_cell(number_in(gains.get(name), "pull"))),
        result(QUANTITIES["linearity_loss"].heading, "linearity_loss", losses),
        *(result(f"{step.label}, {led} ({step.unit})", "step", of_led) for led, of_led in steps.items()),
    )
    return table_of(amplifiers, columns)


def _measurements(gains: Mapping[Amplifier, Row], losses: Mapping[Amplifier, tuple[float, float]]) -> list[Measurement]:
    ratios = [
        Measurement("gain_ratio", "", float(row["ratio"]) - 1.0, float(row["ratio_err"]), *name) for name, row in gains.items()
    ]
    return ratios + [Measurement("linearity_loss", "", *found, *name) for name, found in losses.items()]


def _pictures(
    gains: Mapping[Amplifier, Row], steps: Mapping[str, Mapping[Amplifier, tuple[float, float]]]
) -> tuple[Picture, ...]:
    """Return the picture of steps against wrong gains, none where either is missing."""
    points = []
    for name, row in gains.items():
        own = np.array([of_led[name] for of_led in steps.values() if name in of_led]).reshape(-1, 2)
        own = own[np.isfinite(own).all(axis=1)]
        if len(own):
            error = float(np.sqrt(np.sum(own[:, 1] ** 2))) / len(own)
            points.append((1.0 / float(row["ratio"]) - 1.0, float(row["ratio_err"]), float(own[:, 0].mean()), error))
    if not points:
        return ()
    caption = (
        "Excess of each amplifier in the flats (mean over LEDs) against the error of its configured gain, from the noise of repeated "
        "images. Wrong gains lie on the line; steps of the response itself do not."
    )
    return (drawing(steps_against_gains(np.array(points)), caption, narrow=True),)


@styled
def steps_against_gains(points: FloatArray) -> Figure:
    """Draw error of the gain, its error, step and its error, shape (n, 4), relative."""
    figure = Figure(figsize=(5.2, 4.0))
    axes = figure.add_axes((0.15, 0.14, 0.82, 0.82))
    x, x_err, y, y_err = 1e3 * points.T
    reach = 1.1 * float(np.max([np.abs(x) + x_err, np.abs(y) + y_err]))
    axes.plot([-reach, reach], [-reach, reach], color=INK, linewidth=0.8, linestyle="--")
    axes.errorbar(x, y, xerr=x_err, yerr=y_err, fmt="o", color=ACCENT, ecolor=FAINT, markersize=3.5, elinewidth=0.8)
    axes.set(
        xlim=(-reach, reach), ylim=(-reach, reach), xlabel="configured over measured gain - 1 (‰)", ylabel="amplifier step (‰)"
    )
    plain_axes(axes)
    return figure


CALIBRATION_SECTION = PageKind("calibration", "gains and linearity", lambda _run: [], section=declare_section)
