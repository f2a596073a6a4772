"""The index page and the table of all results: dependencies, tables and sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from astropy.table import Table, unique
from astropy.time import Time

from permil import __version__
from permil.beam import BeamModel
from permil.beam.stage import load_beam
from permil.config.model import ReportConfig
from permil.engine import Task, Work
from permil.engine.performance import WHOLE_STAGE
from permil.errors import InputError
from permil.flat.metrics import WHOLE_DETECTOR
from permil.products import RunFolder, read_table, write_table
from permil.report.index.figures import beam_pictures, timeline_picture
from permil.report.kit.elements import (
    Cell,
    Grid,
    count_cell,
    decimal_cell,
    grid,
    measured_cell,
    measurement_cell,
    number_cell,
    pull_cell,
    reason_lists,
    result_cell,
    result_cells,
    text_cell,
    truth_grid,
    verdict_cell,
)
from permil.report.kit.pages import (
    LAYOUT,
    Declaration,
    IndexSection,
    LedContext,
    PageKind,
    render,
    write_html,
)
from permil.report.kit.results import (
    MISSING,
    NO,
    OPEN,
    QUANTITIES,
    YES,
    Measurement,
    MetricVerdict,
    flat_measurements,
    format_chance,
    format_count,
    summary_table,
    verdicts,
    with_verdict,
)
from permil.report.kit.run import LedProducts, RunProducts

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
        ("runs", _runs(exposures)),
        ("camera", f"{run.camera.name}: {run.camera.title}"),
        ("exposed", taken),
        ("exposures, files", numbers),
        ("LEDs", ", ".join(led.led for led in run.leds) or MISSING),
        ("detectors with a flat", str(len({name for led in run.leds for name in led.detectors}))),
        ("valid", _validity(run)),
        ("configuration digest", run.digest or MISSING),
        ("versions", ", ".join(f"{name} {version}" for name, version in run.versions.items()) or MISSING),
        ("pages made", f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC by permil {__version__}"),
    )


def _runs(exposures: Table | None) -> str:
    if exposures is None or "run" not in exposures.colnames:
        return MISSING
    return ", ".join(sorted({str(entry) for entry in exposures["run"]} - {""})) or MISSING


def _validity(run: RunProducts) -> str:
    validity = run.config.validity
    if not (validity.begin or validity.end):
        return "not stated"
    return f"{validity.begin or 'any time'} to {validity.end or 'any time'}"


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


_FLATS = "composite flat field"


@dataclass(frozen=True)
class LedRequest:
    """The section of one LED, with the blocks added by other pages."""

    context: LedContext
    blocks: tuple[Declaration, ...]


@dataclass(frozen=True)
class IndexRequest:
    """The index page of a run, with the blocks and sections added by other pages.

    Attributes
    ----------
    blocks
        Blocks by the name of the LED.
    """

    run: RunProducts
    blocks: Mapping[str, tuple[Declaration, ...]]
    sections: tuple[Declaration, ...]

    @property
    def absent(self) -> tuple[str, ...]:
        """Names of the products that are missing; flats are not needed if there are other sections."""
        if self.run.leds:
            return self.run.absent
        return () if self.sections else (*self.run.absent, "beam models and flats")


def request_index(run: RunProducts, kinds: Sequence[PageKind]) -> IndexRequest:
    """Return the content of the index page of a run, declared but not yet made.

    Raises
    ------
    InputError
        If the folder holds no products.
    """
    blocks = {led.led: tuple(found for kind in kinds if (found := kind.led_block(run, led)) is not None) for led in run.leds}
    sections = tuple(found for kind in kinds if (found := kind.section(run)) is not None)
    if run.exposures is None and not run.leds and not sections:
        raise InputError("the folder holds no products of a run", path=run.folder.root, remedy="run other stages first")
    return IndexRequest(run, blocks, sections)


def index_task(request: IndexRequest) -> Task:
    """Declare the index page and the table of results."""
    run, folder = request.run, request.run.folder
    parts = [*request.sections, *(block for blocks in request.blocks.values() for block in blocks)]
    facts = {
        "layout": LAYOUT,
        "camera": run.config.camera,
        "validity": run.config.validity.model_dump(mode="json"),
        "limits": run.config.report.model_dump(mode="json"),
        "absent": request.absent,
        "parts": [part.facts for part in parts],
    }
    tables = (
        folder.configuration, folder.exposures, folder.unreadable, folder.left_out, folder.stages, folder.performance,
        folder.comparison,
    )  # fmt: skip
    products = [path(led.led) for led in run.leds for path in (folder.beam, folder.metrics)]

    def work(task: Task) -> Work:
        requests = [LedRequest(_context(run, led), request.blocks[led.led]) for led in run.leds]
        return Work(make_led_section, requests, lambda sections: _write_index(request, sections, task.fingerprint))

    return Task(
        ("report",),
        "LEDs",
        work,
        outputs=(folder.report, folder.summary),
        facts=facts,
        files=tables,
        products=[*products, *(path for part in parts for path in part.sources)],
    )


def _write_index(request: IndexRequest, sections: list[IndexSection], print_: str) -> tuple[str, ...]:
    """Write the index page and the table of results."""
    run, folder = request.run, request.run.folder
    sections = [*sections, *(section.make() for section in request.sections)]
    measurements = [entry for section in sections for entry in section.measurements]
    summary = summary_table(measurements, run.config.report)
    summary.meta = {"fingerprint": print_}
    write_table(folder.summary, summary)
    write_html(folder.report, _index_html(request, sections, measurements, print_))
    return ()


def make_led_section(request: LedRequest) -> IndexSection:
    """Return the section of one LED.

    Raises
    ------
    InputError
        If a product cannot be read.
    """
    context, limits = request.context, request.context.config.report
    led = context.products.led
    beam = load_beam(context.products.beam) if context.products.beam is not None else None
    blocks = [block.make(context) for block in request.blocks]
    of_beam = beam_measurements(beam, led) if beam is not None else []
    measurements = [*of_beam, *context.measurements, *(entry for block in blocks for entry in block.measurements)]
    failed, undecided = (
        sum(len(entries) for entries in with_verdict(measurements, limits, verdict).values()) for verdict in (NO, OPEN)
    )
    return IndexSection(
        anchor=f"led-{led}",
        link=f"LED {led}",
        subject=_FLATS,
        heading=render("index/led_heading.html", led=led, failed=failed, undecided=undecided),
        content=render(
            "index/led.html",
            results=beam_table(of_beam, limits) if beam is not None else None,
            pictures=beam_pictures(beam) if beam is not None else (),
            outliers=outlier_table(beam) if beam is not None and beam.outliers else None,
            blocks=blocks,
        ),
        measurements=measurements,
    )


def _context(run: RunProducts, led: LedProducts) -> LedContext:
    exposures = run.exposures
    return LedContext(
        config=run.config,
        folder=run.folder,
        products=led,
        exposures=exposures[np.asarray(exposures["led"]) == led.led] if exposures is not None else None,
        measurements=flat_measurements(led.metrics) if led.metrics is not None else [],
    )


def _index_html(
    request: IndexRequest, sections: Sequence[IndexSection], measurements: Sequence[Measurement], current: str
) -> str:
    run, judged, comparison = request.run, verdicts(measurements, request.run.config.report), request.run.comparison
    return render(
        "index/page.html",
        fingerprint=current,
        title=f"Run {run.folder.root.name}",
        subjects=list(dict.fromkeys(section.subject for section in sections)) or [_FLATS],
        facts=facts(run),
        absent=request.absent,
        verdicts=verdict_table(judged, run.config.report) if judged else None,
        state=next((state for state in (NO, OPEN) if any(verdict.state == state for verdict in judged)), YES),
        truth=truth_grid(comparison, with_led=True) if comparison is not None and len(comparison) else None,
        truth_planes=truth_plane_table(comparison.meta["planes"])
        if comparison is not None and comparison.meta.get("planes")
        else None,
        exposures=exposure_table(run.exposures) if run.exposures is not None else None,
        timeline=timeline_picture(run),
        unused=(
            ("Files not used", reason_lists(run.unreadable)),
            ("Exposures left out", reason_lists(run.left_out)),
            ("Files used with a note", reason_lists(noted_files(run.exposures))),
        ),
        sections=sections,
        stages=stage_table(run.stages) if run.stages is not None else None,
        costs=cost_table(run.folder),
        configuration=run.configuration,
    )
