"""Tables of the index page, and the results of a beam model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import numpy as np
from astropy.table import Table, unique
from astropy.time import Time

from permil import __version__
from permil.beam import BeamModel
from permil.config.report import ReportConfig
from permil.engine.performance import WHOLE_STAGE
from permil.flat.metrics import WHOLE_DETECTOR
from permil.products import RunFolder, read_table
from permil.report.kit.elements import (
    Cell,
    Grid,
    count_cell,
    decimal_cell,
    grid,
    measured_cell,
    number_cell,
    result_cell,
    text_cell,
)
from permil.report.kit.quantities import MISSING, QUANTITIES, format_chance, format_count
from permil.report.kit.results import measurement_cell, pull_cell, result_cells, verdict_cell
from permil.report.kit.run import RunProducts
from permil.report.kit.summary import NO, Measurement, MetricVerdict

_COST_COLUMNS = (
    "stage", "step", "tasks", "workers", "seconds", "task_seconds", "cpu_seconds", "gigabytes_read", "gigabytes_per_second",
    "peak_memory_mib", "restarted",
)  # fmt: skip
_COST_HEADINGS = (
    "stage", "step", "tasks", "workers", "time (s)", "sum over tasks (s)", "processor (s)", "read (GB)", "GB/s",
    "most memory of a process (MiB)", "run again",
)  # fmt: skip


def facts(run: RunProducts) -> tuple[tuple[str, str], ...]:
    """Return name and content of the facts below the title."""
    exposures = run.exposures
    taken = MISSING
    if exposures is not None and np.isfinite(exposures["mjd"]).any():
        known = np.asarray(exposures["mjd"])[np.isfinite(exposures["mjd"])]
        first, last = Time([known.min(), known.max()], format="mjd").strftime("%Y-%m-%d %H:%M")
        taken = f"{first} to {last}"
    numbers = (
        MISSING if exposures is None else f"{format_count(len(unique(exposures, keys='obsid')))}, {format_count(len(exposures))}"
    )
    return (
        ("folder", str(run.folder.root)),
        ("camera", f"{run.camera.name}: {run.camera.title}"),
        ("exposed", taken),
        ("exposures, files", numbers),
        ("LEDs", ", ".join(led.led for led in run.leds) or MISSING),
        ("detectors with a flat", str(len({name for led in run.leds for name in led.detectors}))),
        ("configuration digest", run.digest or MISSING),
        ("versions", ", ".join(f"{name} {version}" for name, version in run.versions.items()) or MISSING),
        ("pages made", f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC by permil {__version__}"),
    )


def verdict_table(judged: Sequence[MetricVerdict], limits: ReportConfig) -> Grid:
    """Return the verdict on each result and LED, with the largest value."""
    rows = []
    for verdict in judged:
        quantity, worst = QUANTITIES[verdict.metric], verdict.worst
        where = " ".join(part for part in (worst.detector, "" if worst.amp == WHOLE_DETECTOR else worst.amp) if part)
        rows.append(
            (
                text_cell(quantity.heading),
                text_cell(verdict.led or MISSING),
                verdict_cell(verdict.state),
                measurement_cell(worst, limits),
                text_cell(where or "beam"),
                number_cell(quantity.show(verdict.spec), verdict.spec),
                count_cell(verdict.checked),
                count_cell(verdict.failed),
                count_cell(verdict.undecided),
            )
        )
    headings = ("result", "LED", "verdict", "largest", "where", "specification", "checked", "beyond", "open")
    return grid(headings, rows, text_columns=(0, 1, 2, 4))


def truth_plane_table(planes: Mapping[str, Mapping[str, float]]) -> Grid:
    """Return the deviations from the truth of all detectors of each LED together, relative to their stated errors."""
    rows = []
    for led, found in planes.items():
        cells = [text_cell(led), measured_cell(found["super_pull"], found["super_pull_err"])]
        for axis in "xy":
            tilt, error = found[f"tilt_{axis}"], found[f"tilt_{axis}_err"]
            cells += [result_cell(f"tilt_{axis}", tilt, error), pull_cell(tilt / error if error > 0 else np.nan)]
        chi_square = found["chi_square"]
        shown = f"{chi_square:.1f} of {found['freedom']}" if np.isfinite(chi_square) else MISSING
        cells += [number_cell(shown, chi_square), number_cell(format_chance(found["p_value"]), found["p_value"])]
        rows.append(cells)
    tilts = (part for axis in "xy" for part in (QUANTITIES[f"tilt_{axis}"].heading, "over its error"))
    headings = ("LED", "super-pixels over their errors, rms", *tilts, "χ² of levels and gradients", "probability of a larger one")
    return grid(headings, rows)


def exposure_table(exposures: Table) -> Grid:
    """Return the numbers of exposures, files and positions for each purpose and LED."""
    purposes, leds, detectors, obsids = (
        np.asarray(exposures[name], dtype=np.str_) for name in ("purpose", "led", "detector", "obsid")
    )
    places = np.round(np.column_stack([np.asarray(exposures[name], dtype=float) for name in ("x_mm", "y_mm")]), 1)
    rows = []
    for purpose, led in sorted(set(zip(purposes.tolist(), leds.tolist(), strict=True))):
        chosen = (purposes == purpose) & (leds == led)
        known = places[chosen & np.isfinite(places).all(axis=1)]
        unusable = int(np.sum(~np.isfinite(np.asarray(exposures["photodiode"][chosen], dtype=float)))) if led else 0
        rows.append(
            (
                text_cell(purpose),
                text_cell(led or MISSING),
                count_cell(len(np.unique(obsids[chosen]))),
                count_cell(int(chosen.sum())),
                count_cell(len(np.unique(detectors[chosen]))),
                count_cell(len(np.unique(known, axis=0))) if led else Cell(MISSING),
                number_cell(format_count(unusable), unusable, verdict=NO if unusable else ""),
            )
        )
    headings = ("purpose", "LED", "exposures", "files", "detectors", "positions", "files without photodiode")
    return grid(headings, rows, text_columns=(0, 1))


def noted_files(exposures: Table | None) -> Table | None:
    """Return path and note (column ``reason``) of the files with a note, None without notes."""
    if exposures is None or "note" not in exposures.colnames:
        return None
    noted = exposures[np.asarray(exposures["note"], dtype=np.str_) != ""]
    return Table({"path": noted["path"], "reason": noted["note"]})


def stage_table(stages: Table) -> Grid:
    """Return the time and the products of each stage of the last run."""
    rows = []
    for row in stages:
        counts = [count_cell(float(row[name])) if name in stages.colnames else Cell(MISSING) for name in ("done", "skipped")]
        rows.append((text_cell(row["stage"]), decimal_cell(float(row["seconds"]), 1), *counts))
    return grid(("stage", "time (s)", "products made", "up to date"), rows)


def cost_table(folder: RunFolder) -> Grid | None:
    """Return the costs of each stage and of its kinds of tasks; None if nothing was recorded.

    Raises
    ------
    InputError
        If the table cannot be read.
    """
    if not folder.performance.is_file():
        return None
    table = read_table(folder.performance, columns=_COST_COLUMNS, purpose="table of costs")
    return grid(_COST_HEADINGS, [_cost_row(row) for row in table if _has_tasks(row)], text_columns=(0, 1))


def _has_tasks(row: Table.Row) -> bool:
    return row["step"] == WHOLE_STAGE or row["tasks"] > 0


def _cost_row(row: Table.Row) -> tuple[Cell, ...]:
    step = "" if row["step"] == WHOLE_STAGE else str(row["step"])
    return (
        text_cell(row["stage"]),
        text_cell(step),
        count_cell(row["tasks"]),
        count_cell(row["workers"]),
        decimal_cell(float(row["seconds"]), 1),
        decimal_cell(float(row["task_seconds"]), 1),
        decimal_cell(float(row["cpu_seconds"]), 1),
        decimal_cell(float(row["gigabytes_read"]), 3),
        decimal_cell(float(row["gigabytes_per_second"]), 3),
        count_cell(row["peak_memory_mib"]),
        count_cell(row["restarted"]),
    )


def beam_table(measurements: Sequence[Measurement], limits: ReportConfig) -> Grid:
    """Return the results of one beam."""
    rows = [result_cells(entry, limits) for entry in measurements]
    return grid(("result", "unit", "value", "specification"), rows, text_columns=(0, 1))


def outlier_table(beam: BeamModel) -> Grid:
    """Return the nodes that were down-weighted."""
    rows = [
        (
            text_cell(outlier.bunch),
            decimal_cell(outlier.x_mm, 2),
            decimal_cell(outlier.y_mm, 2),
            measured_cell(outlier.deviation, abs(outlier.deviation / outlier.pull), scale=1e3),
            decimal_cell(outlier.pull, 1),
        )
        for outlier in beam.outliers
    ]
    return grid(("bunch", "X (mm, CCS)", "Y (mm, CCS)", "deviation (‰)", "over its error"), rows)


def beam_measurements(model: BeamModel, led: str) -> list[Measurement]:
    """Return the results of a beam model for the summary.

    The error of the node noise is that of a variance whose degrees of freedom are those left to the nodes by the model: the sum of
    ``1 - leverage``, the ratio of a node's noise variance to its left-out variance. The error of the left-out width is that of a
    normal distribution.
    """
    deviation, pull = model.left_out_pulls()
    count = deviation.size
    low, high = np.percentile(deviation, [15.865, 84.135])
    spread = float(high - low) / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        share = (model.node_noise * pull / deviation) ** 2
    freedom = float(np.nansum(np.minimum(share, 1.0)))
    maximum, centroid = model.maximum, model.centroid
    return [
        Measurement("beam_node_noise", led, model.node_noise, model.node_noise / np.sqrt(2 * freedom)),
        Measurement("beam_left_out_rms", led, spread, 1.17 * spread / np.sqrt(count)),
        Measurement("beam_maximum_x", led, maximum.ux, maximum.ux_err),
        Measurement("beam_maximum_y", led, maximum.uy, maximum.uy_err),
        Measurement("beam_centroid_x", led, centroid.ux, centroid.ux_err),
        Measurement("beam_centroid_y", led, centroid.uy, centroid.uy_err),
    ]
