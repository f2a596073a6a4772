"""The content of the index page: the run as a whole, its verdicts, each LED."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
from astropy.table import Table, unique
from astropy.time import Time

from permil import __version__
from permil.flat.metrics import WHOLE_DETECTOR
from permil.report.compare_page import compare_section
from permil.report.detector_page import comparison_grid, pull_cell, result_cells
from permil.report.exposure_figures import PhotodiodeSeries, photodiode_timeline
from permil.report.inputs import RunProducts
from permil.report.pages import (
    Cell,
    Grid,
    IndexPage,
    LedSection,
    Picture,
    count_cell,
    grid,
    raster,
    reason_lists,
    result_cell,
    text_cell,
)
from permil.report.performance import performance_grid
from permil.report.quantities import MISSING, QUANTITIES, format_chance, format_count, format_measurement
from permil.report.spots_page import spots_section
from permil.report.summary import NO, OPEN, YES, Measurement, Verdict, judge, verdicts, with_verdict

if TYPE_CHECKING:
    from permil.camera import Camera
    from permil.config.report import ReportConfig

_SHORT = {
    "median": "median",
    "rms": "rms (‰)",
    "noise": "error (‰)",
    "scatter_noise": "scatter by noise (‰)",
    "scatter_excess": "beyond noise (‰)",
}
"""Headings in the table of detectors, which is wide."""
_STATES = {YES: "pass", NO: "fail", OPEN: "open"}


def index_page(
    products: RunProducts,
    camera: Camera,
    measurements: Sequence[Measurement],
    sections: Sequence[LedSection],
    *,
    limits: ReportConfig,
    spots_address: Callable[[str, str], str],
    compare_address: Callable[[str, str], str],
    fingerprint: str,
) -> IndexPage:
    """Return the content of the index page; the addresses are those of the pages of a detector and band, "" without pages."""
    judged = verdicts(measurements, limits)
    comparison = products.comparison
    return IndexPage(
        title=f"Run {products.folder.root.name}",
        facts=_facts(products, camera),
        absent=products.absent,
        verdicts=_verdicts(judged, limits) if judged else None,
        state=next((state for state in (NO, OPEN) if any(verdict.state == state for verdict in judged)), YES),
        truth=comparison_grid(comparison, with_led=True) if comparison is not None and len(comparison) else None,
        truth_planes=_truth_planes(comparison.meta["planes"])
        if comparison is not None and comparison.meta.get("planes")
        else None,
        exposures=_exposures(products.exposures) if products.exposures is not None else None,
        timeline=_timeline(products),
        unused=(
            ("Files that are not used", reason_lists(products.unreadable)),
            ("Exposures left out", reason_lists(products.left_out)),
            ("Files that are used, with a note", reason_lists(_notes(products.exposures))),
        ),
        sections=tuple(sections),
        spots=spots_section(products.spots, spots_address, limits) if products.spots is not None else None,
        compare=compare_section(products.compare, compare_address) if products.compare is not None else None,
        stages=_stages(products.stages) if products.stages is not None else None,
        performance=performance_grid(products.folder),
        configuration=products.configuration,
        fingerprint=fingerprint,
    )


def _notes(exposures: Table | None) -> Table | None:
    """Return path and note of the files that have one."""
    if exposures is None or "note" not in exposures.colnames:
        return None
    noted = exposures[np.asarray(exposures["note"], dtype=np.str_) != ""]
    return Table({"path": noted["path"], "reason": noted["note"]})


def detector_grid(
    measurements: Sequence[Measurement],
    detectors: Sequence[str],
    links: Mapping[str, str],
    rejected: Mapping[str, float],
    *,
    limits: ReportConfig,
) -> Grid:
    """Return the table of the detectors of one LED.

    Parameters
    ----------
    measurements
        Results of this LED.
    detectors
        Names in the order of the rows.
    links
        Address of the page of each detector that has one.
    rejected
        Rejected values per million of each detector.
    """
    whole = {(entry.detector, entry.metric): entry for entry in measurements if entry.amp == WHOLE_DETECTOR}
    steps: dict[str, Measurement] = {}
    for entry in measurements:
        if entry.metric == "step" and (entry.detector not in steps or abs(entry.number) > abs(steps[entry.detector].number)):
            steps[entry.detector] = entry
    failed, undecided = (
        {detector: len(entries) for (_, detector), entries in with_verdict(measurements, limits, verdict).items()}
        for verdict in (NO, OPEN)
    )
    metrics = ("median", "rms", "noise", "scatter_noise", "scatter_excess", "gradient_x", "gradient_y")
    rows = []
    for name in detectors:
        measured = any(entry.detector == name for entry in measurements)
        cells = [text_cell(name, link=links.get(name, ""))]
        # First, so that it is seen however wide the table is.
        cells.append(_verdict_cell(failed.get(name, 0), undecided.get(name, 0), measured=measured))
        cells += [_measurement_cell(whole.get((name, metric)), limits) for metric in metrics]
        cells.append(_measurement_cell(steps.get(name), limits))
        rate = rejected.get(name, np.nan)
        cells.append(Cell(f"{rate:.3g}", rate) if np.isfinite(rate) else Cell(MISSING))
        rows.append(cells)
    named = [_SHORT.get(metric, QUANTITIES[metric].heading) for metric in metrics]
    headings = ("detector", "verdict", *named, "largest step (‰)", "rejected (10⁻⁶)")
    return grid(headings, rows, text_columns=2)


def _verdict_cell(failed: int, undecided: int, *, measured: bool) -> Cell:
    if failed:
        return Cell(f"{failed} beyond", 2, NO)
    if undecided:
        return Cell(f"{undecided} open", 1, OPEN)
    return Cell("pass" if measured else MISSING, 0)


def beam_grid(measurements: Sequence[Measurement], *, limits: ReportConfig) -> Grid:
    """Return the table of the results of one beam."""
    rows = [result_cells(entry, limits) for entry in measurements]
    return grid(("result", "unit", "value", "specification"), rows, text_columns=2)


def _measurement_cell(entry: Measurement | None, limits: ReportConfig) -> Cell:
    if entry is None:
        return Cell(MISSING)
    return result_cell(entry.metric, entry.number, entry.error, verdict=judge(entry, limits))


def _facts(products: RunProducts, camera: Camera) -> tuple[tuple[str, str], ...]:
    exposures = products.exposures
    taken = MISSING
    if exposures is not None and np.isfinite(exposures["mjd"]).any():
        known = np.asarray(exposures["mjd"])[np.isfinite(exposures["mjd"])]
        first, last = Time([known.min(), known.max()], format="mjd").strftime("%Y-%m-%d %H:%M")
        taken = f"{first} to {last}"
    numbers = (
        MISSING if exposures is None else f"{format_count(len(unique(exposures, keys='obsid')))}, {format_count(len(exposures))}"
    )
    return (
        ("folder", str(products.folder.root)),
        ("camera", f"{camera.name}: {camera.title}"),
        ("exposed", taken),
        ("exposures, files", numbers),
        ("LEDs", ", ".join(led.led for led in products.leds) or MISSING),
        ("detectors with a flat", str(len({name for led in products.leds for name in led.detectors}))),
        ("configuration digest", products.digest or MISSING),
        ("versions", ", ".join(f"{name} {version}" for name, version in products.versions.items()) or MISSING),
        ("pages made", f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC by permil {__version__}"),
    )


def _verdicts(judged: Sequence[Verdict], limits: ReportConfig) -> Grid:
    rows = []
    for verdict in judged:
        quantity, worst = QUANTITIES[verdict.metric], verdict.worst
        where = " ".join(part for part in (worst.detector, "" if worst.amp == WHOLE_DETECTOR else worst.amp) if part)
        rows.append(
            (
                text_cell(quantity.heading),
                text_cell(verdict.led),
                Cell(_STATES[verdict.state], verdict=verdict.state),
                result_cell(verdict.metric, worst.number, worst.error, verdict=judge(worst, limits)),
                text_cell(where or "beam"),
                Cell(quantity.show(verdict.spec), verdict.spec),
                count_cell(verdict.checked),
                count_cell(verdict.failed),
                count_cell(verdict.undecided),
            )
        )
    headings = ("result", "LED", "verdict", "largest", "where", "specification", "checked", "beyond", "open")
    content = grid(headings, rows, text_columns=3)
    return Grid(content.headings, content.rows, (False, False, False, True, False, True, True, True, True))


def _truth_planes(planes: Mapping[str, Mapping[str, float]]) -> Grid:
    """Return the deviations of all detectors of each LED together from the truth, over their stated errors."""
    rows = []
    for led, found in planes.items():
        cells = [text_cell(led), Cell(format_measurement(found["super_pull"], found["super_pull_err"]), found["super_pull"])]
        for axis in "xy":
            tilt, error = found[f"tilt_{axis}"], found[f"tilt_{axis}_err"]
            cells += [result_cell(f"tilt_{axis}", tilt, error), pull_cell(tilt / error if error > 0 else np.nan)]
        chi_square = found["chi_square"]
        shown = f"{chi_square:.1f} of {found['freedom']}" if np.isfinite(chi_square) else MISSING
        cells += [Cell(shown, chi_square), Cell(format_chance(found["p_value"]), found["p_value"])]
        rows.append(cells)
    tilts = (part for axis in "xy" for part in (QUANTITIES[f"tilt_{axis}"].heading, "over its error"))
    headings = ("LED", "super-pixels over their errors, rms", *tilts, "χ² of levels and gradients", "chance of a larger one")
    return grid(headings, rows)


def _exposures(exposures: Table) -> Grid:
    keys = sorted({(str(row["purpose"]), str(row["led"])) for row in exposures})
    rows = []
    for purpose, led in keys:
        chosen = exposures[(exposures["purpose"] == purpose) & (exposures["led"] == led)]
        positions = {
            (round(float(row["x_mm"]), 1), round(float(row["y_mm"]), 1))
            for row in chosen
            if np.isfinite(row["x_mm"] + row["y_mm"])
        }
        unusable = int(np.sum(~np.isfinite(np.asarray(chosen["photodiode"], dtype=float)))) if led else 0
        rows.append(
            (
                text_cell(purpose),
                text_cell(led or MISSING),
                count_cell(len(set(chosen["obsid"]))),
                count_cell(len(chosen)),
                count_cell(len(set(chosen["detector"]))),
                count_cell(len(positions)) if led else Cell(MISSING),
                Cell(format_count(unusable), unusable, NO if unusable else ""),
            )
        )
    headings = ("purpose", "LED", "exposures", "files", "detectors", "positions", "files without photodiode")
    return grid(headings, rows, text_columns=2)


def _timeline(products: RunProducts) -> Picture | None:
    exposures = products.exposures
    if exposures is None:
        return None
    lit = exposures[exposures["led"] != ""]
    series = {}
    for led in dict.fromkeys([*(led.led for led in products.leds), *sorted(set(lit["led"]))]):
        chosen = lit[lit["led"] == led]
        if len(chosen):
            # One reading belongs to all detectors of an exposure.
            chosen = unique(chosen, keys="obsid")
            purpose = np.asarray(chosen["purpose"], dtype=np.str_)
            series[led] = PhotodiodeSeries(np.asarray(chosen["mjd"]), np.asarray(chosen["photodiode"]), purpose)
    if not series:
        return None
    return raster(
        photodiode_timeline(series), "Control photodiode in time; bars at the foot are exposures whose reading cannot be used."
    )


def _stages(stages: Table) -> Grid:
    rows = []
    for row in stages:
        counts = [count_cell(float(row[name])) if name in stages.colnames else Cell(MISSING) for name in ("done", "skipped")]
        rows.append((text_cell(row["stage"]), Cell(f"{float(row['seconds']):.1f}", float(row["seconds"])), *counts))
    return grid(("stage", "time (s)", "products made", "up to date"), rows)
