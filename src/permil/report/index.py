"""The index page and the table of all results: the whole run, its verdicts, a section for each LED, and the sections of other pages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from astropy.table import Row, Table, unique
from astropy.time import Time
from contourpy import contour_generator
from markupsafe import Markup

from permil import __version__
from permil.arrays import BoolArray, FloatArray
from permil.beam import BeamModel
from permil.beam.stage import load_beam
from permil.config.model import ReportConfig
from permil.engine import Task, Work
from permil.engine.performance import WHOLE_STAGE
from permil.errors import InputError
from permil.flat.metrics import WHOLE_DETECTOR
from permil.products import RunFolder, read_table, write_table
from permil.report.kit.chart import Chart, chart_picture, colour_of
from permil.report.kit.elements import (
    Cell,
    Column,
    Grid,
    Picture,
    chance_column,
    count_column,
    decimal_column,
    measured_column,
    measurement_cell,
    number_cell,
    result_column,
    result_columns,
    specification_cell,
    table_of,
    text_column,
    verdict_cell,
)
from permil.report.kit.figures import (
    ACCENT,
    ALARM,
    DIVERGING,
    FAINT,
    INK,
    SEQUENTIAL,
    SPREAD,
    led_colour,
    robust_limits,
    symmetric_limits,
)
from permil.report.kit.pages import (
    LAYOUT,
    Declaration,
    IndexPart,
    LedContext,
    LedProducts,
    PageKind,
    RunProducts,
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
    format_count,
    summary_table,
    verdicts,
    with_minus,
    with_verdict,
)

_LATTICE = 97
_PROFILE_POINTS = 121
_CONTOURS = (0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995)
_MOST_NAMED_CONTOUR = 0.95
# Nodes of a profile lie within this fraction of the scanned width from its axis.
_NEAR_AXIS = 0.06
# Margin around the outermost nodes, as a fraction of the scanned width.
_NODE_MARGIN = 0.04
_RADII = {"scan": 1.5, "pointing": 2.5, "other": 2.0}
"""Sizes of points by purpose."""

_MAP, _PROFILE = 246.0, (300.0, 190.0)
"""Width of maps, and size of profiles, pixels."""


def beam_pictures(beam: BeamModel) -> list[Picture]:
    """Return the pictures of a beam model."""
    content = view_beam(beam)
    of_maps = (
        "The beam as a function of position minus projector. Each node is compared with the prediction from all other nodes."
    )
    of_profiles = "Profiles through the maximum, and deviations of the nodes relative to their errors."
    return [chart_picture([beam_maps(content)], of_maps), chart_picture([beam_profiles(content)], of_profiles)]


def timeline_picture(run: RunProducts) -> Picture | None:
    """Return the photodiode against time, None without exposures with an LED."""
    exposures = run.exposures
    if exposures is None:
        return None
    lit = exposures[exposures["led"] != ""]
    series = {}
    for led in dict.fromkeys([*(led.led for led in run.leds), *sorted(set(lit["led"]))]):
        chosen = lit[lit["led"] == led]
        if len(chosen):
            # All detectors of an exposure share one reading.
            series[led] = unique(chosen, keys="obsid")
    if not series:
        return None
    caption = "Control photodiode in time, over its median separately for scan and pointings; exposures without a usable reading are red."
    return chart_picture([[chart] for chart in photodiode_timeline(series)], caption)


@dataclass(frozen=True)
class Profile:
    """Beam along one axis through its maximum: ``u`` mm, ``beam`` and its standard ``error``, NaN without data."""

    u: FloatArray
    beam: FloatArray
    error: FloatArray


@dataclass(frozen=True)
class BeamView:
    """A beam model on a lattice, with the fitted nodes.

    Attributes
    ----------
    extent
        Left, right, bottom, top of the lattice's cells, mm.
    beam, error
        Beam and its relative error on the lattice, ``[row = u_y, column = u_x]``, NaN without data.
    along_x, along_y
        Profiles through the maximum.
    node_x, node_y
        Positions of the nodes in the beam, mm.
    node_beam
        Signal of each node over the gain of its bunch, on the scale of the beam.
    deviation, pull
        Relative deviation of each node from the prediction of all others, and the same relative to its predicted error.
    outlier
        Nodes that were down-weighted.
    maximum, maximum_error
        Position of the maximum (u_x, u_y) and its standard errors, mm.
    """

    extent: tuple[float, float, float, float]
    beam: FloatArray
    error: FloatArray
    along_x: Profile
    along_y: Profile
    node_x: FloatArray
    node_y: FloatArray
    node_beam: FloatArray
    deviation: FloatArray
    pull: FloatArray
    outlier: BoolArray
    maximum: tuple[float, float]
    maximum_error: tuple[float, float]


def view_beam(model: BeamModel) -> BeamView:
    """Evaluate a beam model for its figures."""
    nodes = model.nodes
    lower, upper = np.array([nodes.ux.min(), nodes.uy.min()]), np.array([nodes.ux.max(), nodes.uy.max()])
    step = (upper - lower) / (_LATTICE - 1)
    ux, uy, along_x, along_y = (np.linspace(lower[axis], upper[axis], n) for n in (_LATTICE, _PROFILE_POINTS) for axis in (0, 1))
    beam, error = model.evaluate(ux[None, :], uy[:, None])
    maximum = model.maximum
    deviation, pull = model.left_out_pulls()
    gains = np.array([model.gains[label][0] for label in nodes.bunch.tolist()])
    top, _ = model.predict_signal(maximum.ux, maximum.uy)
    left_out = {outlier.row for outlier in model.outliers}
    return BeamView(
        extent=(lower[0] - step[0] / 2, upper[0] + step[0] / 2, lower[1] - step[1] / 2, upper[1] + step[1] / 2),
        beam=beam,
        error=error / beam,
        along_x=Profile(along_x, *model.evaluate(along_x, maximum.uy)),
        along_y=Profile(along_y, *model.evaluate(maximum.ux, along_y)),
        node_x=nodes.ux,
        node_y=nodes.uy,
        node_beam=nodes.signal / (gains * float(top)),
        deviation=np.expm1(deviation),
        pull=pull,
        outlier=np.isin(nodes.rows, sorted(left_out)),
        maximum=(maximum.ux, maximum.uy),
        maximum_error=(maximum.ux_err, maximum.uy_err),
    )


def beam_maps(view: BeamView) -> list[Chart]:
    """Draw the beam with contours and nodes, its relative error, and the nodes relative to the prediction of all others."""
    left, right, bottom, top = view.extent
    margin = _NODE_MARGIN * (right - left)
    count = int(view.outlier.sum())
    beam, error, nodes = (
        Chart(
            (_MAP, round(_MAP * (top - bottom) / (right - left), 1)),
            (left - edge, right + edge),
            (bottom - edge, top + edge),
            title=title,
            labels=("u_x (mm, CCS)", label),
        )
        for title, label, edge in (
            ("beam, nodes (white), maximum (red)", "u_y (mm, CCS)", 0.0),
            ("relative error of the model", "", 0.0),
            (f"nodes against all others ({count} down-weighted)", "", margin),
        )
    )
    places = np.column_stack([view.node_x, view.node_y])
    limits = robust_limits(view.beam, percent=0.0)
    beam.image(view.beam, view.extent, limits, SEQUENTIAL, "beam (maximum = 1)")
    _draw_contours(beam, view)
    beam.points(places, "#ffffff90", radius=1.0, is_edged=False)
    (x, y), (x_err, y_err) = view.maximum, view.maximum_error
    beam.line(np.array([x - x_err, x + x_err]), np.array([y, y]), ALARM, width=1.6)
    beam.line(np.array([x, x]), np.array([y - y_err, y + y_err]), ALARM, width=1.6)

    per_mil = 1e3 * view.error
    error.image(per_mil, view.extent, (0.0, robust_limits(per_mil)[1]), SPREAD, "error (‰)")

    deviation = 1e3 * view.deviation
    limits = symmetric_limits(deviation[~view.outlier], centre=0.0)
    nodes.points(places[view.outlier], ALARM, radius=5.5)
    for place, number in zip(places, deviation, strict=True):
        nodes.points(place[None], colour_of(float(number), limits, DIVERGING), radius=3.0)
    nodes.colour_bar(limits, DIVERGING, "deviation (‰)")
    return [beam, error, nodes]


def beam_profiles(view: BeamView) -> list[Chart]:
    """Draw the profiles through the maximum with error bands, and the distribution of the nodes' deviations relative to their errors."""
    charts = []
    for axis, profile, along, across, value in (
        ("X", view.along_x, view.node_x, view.node_y, view.maximum[1]),
        ("Y", view.along_y, view.node_y, view.node_x, view.maximum[0]),
    ):
        near = np.abs(across - value) < _NEAR_AXIS * np.ptp(across)
        charts.append(_profile_chart(axis, profile, np.column_stack([along[near], view.node_beam[near]]), value))
    return [*charts, _pull_chart(view.pull)]


def _draw_contours(chart: Chart, view: BeamView) -> None:
    rows, columns = view.beam.shape
    left, right, bottom, top = view.extent
    x = left + (np.arange(columns) + 0.5) * (right - left) / columns
    y = bottom + (np.arange(rows) + 0.5) * (top - bottom) / rows
    generator = contour_generator(x, y, np.ma.masked_invalid(view.beam))
    for level in _CONTOURS:
        lines = [line for line in generator.lines(level) if isinstance(line, np.ndarray)]
        for line in lines:
            chart.line(line[::2, 0], line[::2, 1], width=0.7)
        if lines and level <= _MOST_NAMED_CONTOUR:
            longest = max(lines, key=len)
            place = longest[np.argmin(longest[:, 1])]
            chart.write((float(place[0]), float(place[1])), f"{level:g}", size=8.5)


def _profile_chart(axis: str, profile: Profile, nodes: FloatArray, through: float) -> Chart:
    low, high = profile.beam - 2 * profile.error, profile.beam + 2 * profile.error
    everything = np.concatenate([low, high, nodes[:, 1]])
    margin = 0.04 * float(np.nanmax(everything) - np.nanmin(everything))
    other = "y" if axis == "X" else "x"
    chart = Chart(
        _PROFILE,
        (float(profile.u[0]), float(profile.u[-1])),
        (float(np.nanmin(everything)) - margin, float(np.nanmax(everything)) + margin),
        title=with_minus(f"along {axis} at u_{other} = {through:.1f} mm"),
        labels=(f"u_{axis.lower()} (mm, CCS)", "beam (maximum = 1)"),
    )
    known = np.isfinite(profile.beam)
    chart.area(profile.u[known], low[known], high[known], ACCENT)
    chart.line(profile.u[known], profile.beam[known], ACCENT)
    chart.points(nodes, INK, radius=1.8, is_edged=False)
    chart.legend([(ACCENT, "model, ± 2 standard errors"), (INK, "nodes")], at_foot=True)
    return chart


def _pull_chart(pull: FloatArray) -> Chart:
    edges = np.linspace(-5.0, 5.0, 41)
    counts, _ = np.histogram(np.clip(pull, edges[0], edges[-1]), bins=edges)
    middle = (edges[1:] + edges[:-1]) / 2
    expected = pull.size * (edges[1] - edges[0]) * np.exp(-(middle**2) / 2) / np.sqrt(2 * np.pi)
    chart = Chart(
        _PROFILE,
        (edges[0], edges[-1]),
        (0.0, 1.15 * float(max(counts.max(), expected.max()))),
        title="nodes against all others",
        labels=("deviation over predicted error (ends: beyond ± 5)", "nodes (number)"),
    )
    chart.steps(edges, counts.astype(np.float64))
    chart.line(middle, expected)
    chart.legend([(FAINT, "nodes"), (INK, "normal, width 1")])
    return chart


def photodiode_timeline(series: Mapping[str, Table]) -> list[Chart]:
    """Draw the photodiode against time, one panel per LED, relative to its median, separately for scan and pointings.

    Exposures without a usable reading are marked at the lower edge of their panel.

    Parameters
    ----------
    series
        Exposures of each LED: ``mjd``, ``photodiode`` (NaN where unusable) and ``purpose``.
    """
    times = np.concatenate([np.asarray(entry["mjd"]) for entry in series.values()])
    start, end = (float(np.nanmin(times)), float(np.nanmax(times))) if np.isfinite(times).any() else (0.0, 0.0)
    span = max(24.0 * (end - start), 1e-3)
    charts: list[Chart] = []
    for led, entry in series.items():
        reading, purposes = np.asarray(entry["photodiode"]), np.asarray(entry["purpose"], dtype=np.str_)
        hours, parts = 24.0 * (np.asarray(entry["mjd"]) - start), {}
        for purpose in _RADII:
            usable = (purposes == purpose) & np.isfinite(reading)
            if usable.any():
                relative = 1e3 * (reading[usable] / np.median(reading[usable]) - 1)
                parts[purpose] = np.column_stack([hours[usable], relative])
        lost = hours[~np.isfinite(reading)]
        reach = 1.25 * max([float(np.abs(part[:, 1]).max()) for part in parts.values()] + [1e-3])
        chart = Chart(
            (1050.0, 84.0),
            (-0.01 * span, 1.01 * span),
            (-reach, reach),
            title=f"LED {led}",
            labels=(f"hours since MJD {start:.5f} (h)" if len(charts) == len(series) - 1 else "", "photodiode (‰)"),
        )
        for purpose, part in parts.items():
            chart.points(part, led_colour(led), radius=_RADII[purpose], is_edged=purpose != "scan")
        chart.points(np.column_stack([lost, np.full(lost.size, -0.93 * reach)]), ALARM, radius=2.5, is_edged=False)
        names = [
            f"{purpose} ({'larger' if purpose == 'pointing' else 'smaller'} points)" for purpose in parts if purpose != "other"
        ]
        chart.legend([(led_colour(led), name) for name in names] + [(ALARM, "unusable")] * bool(lost.size))
        charts.append(chart)
    return charts


_COST_COLUMNS = (
    "stage", "step", "tasks", "workers", "seconds", "task_seconds", "cpu_seconds", "gigabytes_read", "gigabytes_per_second",
    "peak_memory_mib", "restarted",
)  # fmt: skip


def facts(run: RunProducts) -> tuple[tuple[str, str], ...]:
    """Return name and content of the facts below the title."""
    exposures, validity = run.exposures, run.config.validity
    taken = runs = MISSING
    if exposures is not None and np.isfinite(exposures["mjd"]).any():
        known = np.asarray(exposures["mjd"])[np.isfinite(exposures["mjd"])]
        first, last = Time([known.min(), known.max()], format="mjd").strftime("%Y-%m-%d %H:%M")
        taken = f"{first} to {last}"
    if exposures is not None and "run" in exposures.colnames:
        runs = ", ".join(sorted({str(entry) for entry in exposures["run"]} - {""})) or MISSING
    numbers = (
        MISSING if exposures is None else f"{format_count(len(unique(exposures, keys='obsid')))}, {format_count(len(exposures))}"
    )
    valid = f"{validity.begin or 'any time'} to {validity.end or 'any time'}" if validity.begin or validity.end else "not stated"
    return (
        ("folder", str(run.folder.root)),
        ("runs", runs),
        ("camera", f"{run.camera.name}: {run.camera.title}"),
        ("exposed", taken),
        ("exposures, files", numbers),
        ("LEDs", ", ".join(led.led for led in run.leds) or MISSING),
        ("detectors with a flat", str(len({name for led in run.leds for name in led.detectors}))),
        ("valid", valid),
        ("configuration digest", run.digest or MISSING),
        ("versions", ", ".join(f"{name} {version}" for name, version in run.versions.items()) or MISSING),
        ("pages made", f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC by permil {__version__}"),
    )


def verdict_table(judged: Sequence[MetricVerdict], limits: ReportConfig) -> Grid:
    """Return the verdict on each result and LED, with the largest value."""

    def place(verdict: MetricVerdict) -> str:
        worst = verdict.worst
        return " ".join(part for part in (worst.detector, "" if worst.amp == WHOLE_DETECTOR else worst.amp) if part)

    columns = (
        text_column("result", lambda verdict: QUANTITIES[verdict.metric].heading),
        text_column("LED", "led", absent=MISSING),
        Column("verdict", lambda verdict: verdict_cell(verdict.state), is_text=True),
        Column("largest", lambda verdict: measurement_cell(verdict.worst, limits)),
        text_column("where", place, absent="beam"),
        Column("specification", lambda verdict: specification_cell(verdict.metric, limits)),
        count_column("checked"),
        count_column("beyond", "failed"),
        count_column("open", "undecided"),
    )
    return table_of(judged, columns)


def truth_plane_table(planes: Mapping[str, Mapping[str, float]]) -> Grid:
    """Return the deviations from the truth of all detectors of each LED together, relative to their stated errors."""
    table = Table(rows=[{"led": led, **found} for led, found in planes.items()])

    def over_error(axis: str) -> Callable[[Row], float]:
        return lambda row: row[f"tilt_{axis}"] / row[f"tilt_{axis}_err"] if row[f"tilt_{axis}_err"] > 0 else np.nan

    def chi_square(row: Row) -> Cell:
        size = row["chi_square"]
        return number_cell(f"{size:.1f} of {row['freedom']}" if np.isfinite(size) else MISSING, size)

    columns = (
        text_column("LED", "led"),
        measured_column("super-pixels over their errors, rms", "super_pull"),
        result_column("tilt_x", "tilt_x"),
        decimal_column("over its error", over_error("x"), 2),
        result_column("tilt_y", "tilt_y"),
        decimal_column("over its error", over_error("y"), 2),
        Column("χ² of levels and gradients", chi_square),
        chance_column("probability of a larger one"),
    )
    return table_of(table, columns)


def exposure_table(exposures: Table) -> Grid:
    """Return the numbers of exposures, files and positions for each purpose and LED."""

    def positions(files: Table) -> float:
        places = np.round(np.column_stack([np.asarray(files[name], dtype=float) for name in ("x_mm", "y_mm")]), 1)
        return len(np.unique(places[np.isfinite(places).all(axis=1)], axis=0)) if files["led"][0] else np.nan

    def unusable(files: Table) -> Cell:
        count = int(np.sum(~np.isfinite(np.asarray(files["photodiode"], dtype=float)))) if files["led"][0] else 0
        return number_cell(format_count(count), count, verdict=NO if count else "")

    columns = (
        text_column("purpose", lambda files: str(files["purpose"][0])),
        text_column("LED", lambda files: str(files["led"][0]), absent=MISSING),
        count_column("exposures", lambda files: len(set(files["obsid"]))),
        count_column("files", len),
        count_column("detectors", lambda files: len(set(files["detector"]))),
        count_column("positions", positions),
        Column("files without photodiode", unusable),
    )
    return table_of(exposures.group_by(["purpose", "led"]).groups if len(exposures) else (), columns)


def noted_files(exposures: Table | None) -> Table | None:
    """Return path and note (column ``reason``) of the files with a note, None without notes."""
    if exposures is None or "note" not in exposures.colnames:
        return None
    noted = exposures[np.asarray(exposures["note"], dtype=np.str_) != ""]
    return Table({"path": noted["path"], "reason": noted["note"]})


def stage_table(stages: Table) -> Grid:
    """Return the time and the products of each stage of the last run."""
    columns = (
        text_column("stage"),
        decimal_column("time (s)", "seconds", 1),
        count_column("products made", "done"),
        count_column("up to date", "skipped"),
    )
    return table_of(stages, columns)


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
    columns = (
        text_column("stage"),
        text_column("step", lambda row: "" if row["step"] == WHOLE_STAGE else str(row["step"])),
        count_column("tasks"),
        count_column("workers"),
        decimal_column("time (s)", "seconds", 1),
        decimal_column("sum over tasks (s)", "task_seconds", 1),
        decimal_column("processor (s)", "cpu_seconds", 1),
        decimal_column("read (GB)", "gigabytes_read", 3),
        decimal_column("GB/s", "gigabytes_per_second", 3),
        count_column("most memory of a process (MiB)", "peak_memory_mib"),
        count_column("run again", "restarted"),
    )
    return table_of((row for row in table if row["step"] == WHOLE_STAGE or row["tasks"] > 0), columns)


def outlier_table(beam: BeamModel) -> Grid:
    """Return the nodes that were down-weighted."""
    columns = (
        text_column("bunch"),
        decimal_column("X (mm, CCS)", "x_mm", 2),
        decimal_column("Y (mm, CCS)", "y_mm", 2),
        measured_column("deviation (‰)", lambda node: (node.deviation, abs(node.deviation / node.pull)), scale=1e3),
        decimal_column("over its error", "pull", 1),
    )
    return table_of(beam.outliers, columns)


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
class IndexSection(IndexPart):
    """A section of the index page: its anchor, the text of the link to it, and its heading in HTML."""

    anchor: str = ""
    link: str = ""
    heading: Markup | str = ""


def index_task(run: RunProducts, kinds: Sequence[PageKind]) -> Task:
    """Declare the index page of a run and the table of results.

    Raises
    ------
    InputError
        If the folder holds no products.
    """
    blocks = {led.led: [found for kind in kinds if (found := kind.led_block(run, led)) is not None] for led in run.leds}
    sections = [(kind, found) for kind in kinds if (found := kind.section(run)) is not None]
    if run.exposures is None and not run.leds and not sections:
        raise InputError("the folder holds no products of a run", path=run.folder.root, remedy="run other stages first")
    # Flats are not needed if there are other sections.
    absent = run.absent if run.leds else () if sections else (*run.absent, "beam models and flats")
    parts = [*(part for _, part in sections), *(block for of_led in blocks.values() for block in of_led)]
    folder = run.folder
    facts = {
        "layout": LAYOUT,
        "camera": run.config.camera,
        "validity": run.config.validity.model_dump(mode="json"),
        "limits": run.config.report.model_dump(mode="json"),
        "absent": absent,
        "parts": [part.facts for part in parts],
    }
    tables = (
        folder.configuration, folder.exposures, folder.unreadable, folder.left_out, folder.stages, folder.performance,
        folder.comparison,
    )  # fmt: skip
    products = [path(led.led) for led in run.leds for path in (folder.beam, folder.metrics)]

    def write(of_leds: list[IndexSection], fingerprint: str) -> tuple[str, ...]:
        made = [
            IndexSection(**vars(part.make()), anchor=kind.folder, link=kind.link, heading=kind.heading) for kind, part in sections
        ]
        subjects = [*[_FLATS] * bool(of_leds or not made), *(section.link.lower() for section in made)]
        _write_index(run, subjects, absent, [*of_leds, *made], fingerprint)
        return ()

    def work(task: Task) -> Work:
        requests = [(_context(run, led), blocks[led.led]) for led in run.leds]
        return Work(make_led_section, requests, lambda of_leds: write(of_leds, task.fingerprint))

    return Task(
        ("report",),
        "LEDs",
        work,
        outputs=(folder.report, folder.summary),
        facts=facts,
        files=tables,
        products=[*products, *(path for part in parts for path in part.sources)],
    )


def _context(run: RunProducts, led: LedProducts) -> LedContext:
    exposures = run.exposures[np.asarray(run.exposures["led"]) == led.led] if run.exposures is not None else None
    return LedContext(run.config, run.folder, led, exposures, flat_measurements(led.metrics) if led.metrics is not None else [])


def make_led_section(request: tuple[LedContext, Sequence[Declaration]]) -> IndexSection:
    """Return the section of one LED, with the blocks added by other pages.

    Raises
    ------
    InputError
        If a product cannot be read.
    """
    context, declared = request
    led, limits = context.products.led, context.config.report
    beam = load_beam(context.products.beam) if context.products.beam is not None else None
    blocks = [block.make(context) for block in declared]
    of_beam = beam_measurements(beam, led) if beam is not None else []
    measurements = [*of_beam, *context.measurements, *(entry for block in blocks for entry in block.measurements)]
    failed, undecided = (
        sum(len(entries) for entries in with_verdict(measurements, limits, verdict).values()) for verdict in (NO, OPEN)
    )
    heading = render("led_heading.html", led=led, failed=failed, undecided=undecided)
    content = render("led.html", __name__, beam=beam, results=table_of(of_beam, result_columns(limits)), blocks=blocks)
    return IndexSection(content, measurements, f"led-{led}", f"LED {led}", heading)


def _write_index(
    run: RunProducts, subjects: Sequence[str], absent: Sequence[str], sections: Sequence[IndexSection], fingerprint: str
) -> None:
    """Write the index page and the table of results."""
    limits = run.config.report
    measurements = [entry for section in sections for entry in section.measurements]
    summary, judged = summary_table(measurements, limits), verdicts(measurements, limits)
    summary.meta = {"fingerprint": fingerprint}
    write_table(run.folder.summary, summary)
    page = render(
        "index.html",
        __name__,
        fingerprint=fingerprint,
        title=f"Run {run.folder.root.name}",
        run=run,
        subjects=subjects,
        absent=absent,
        verdicts=verdict_table(judged, limits) if judged else None,
        state=next((state for state in (NO, OPEN) if any(verdict.state == state for verdict in judged)), YES),
        sections=sections,
        costs=cost_table(run.folder),
    )
    write_html(run.folder.report, page)
