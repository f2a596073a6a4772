"""Defects in maps, tables and sentences: the block on the page of a detector, and the section of the index page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table, vstack
from markupsafe import Markup

from permil.camera import Amplifier, Detector
from permil.defects import DefectBox, DefectKind
from permil.defects.table import COLUMNS, led_agreement, table_boxes
from permil.products import read_table
from permil.report.detector.figures import detector_chart, draw_amplifiers
from permil.report.kit.chart import Chart, chart_picture
from permil.report.kit.elements import (
    Cell,
    Column,
    Grid,
    Picture,
    count_column,
    measured_cell,
    number_cell,
    number_column,
    table_of,
    text_cell,
    text_column,
)
from permil.report.kit.pages import Declaration, IndexPart, PageKind, RunProducts, index_address, page_path, render
from permil.report.kit.results import MISSING, Measurement, format_count, format_measurement, three_digits

_WIDTH = 205.0
_PER_ROW = 4
_MOST_POINTS = 3000
_LONG = 20
_MOST_LISTED = 100
_QUANTITIES = {"deviation": (1e2, "%"), "scatter": (1e2, "%"), "nonlinearity": (1e2, "%"), "electrons": (1.0, "e⁻")}
"""Scale and unit in which pages show the value of a defect."""


@dataclass(frozen=True)
class Family:
    """Kinds of defects that are drawn and counted together."""

    name: str
    kinds: tuple[DefectKind, ...]
    colour: str


FAMILIES = (
    Family("dark", (DefectKind.DARK_PIXEL, DefectKind.DARK_CLUSTER), "#4477aa"),
    Family("bright, vampire", (DefectKind.BRIGHT_PIXEL, DefectKind.BRIGHT_CLUSTER, DefectKind.VAMPIRE), "#ccbb44"),
    Family("columns", (DefectKind.WEAK_COLUMN, DefectKind.DEAD_COLUMN, DefectKind.BRIGHT_COLUMN), "#aa3377"),
    Family("hot in bias", (DefectKind.HOT_BIAS, DefectKind.BIAS_OUTLIER), "#ee6677"),
    Family("unstable", (DefectKind.UNSTABLE,), "#228833"),
    Family("non-linear", (DefectKind.NONLINEAR,), "#66ccee"),
    Family("given", (DefectKind.GIVEN,), "#777777"),
)
"""In the order of tables and maps."""


def count_defects(boxes: Sequence[DefectBox]) -> int:
    """Return the number of defects, each of one box or several."""
    return len({box.defect for box in boxes})


def defect_maps(boxes: Sequence[DefectBox], detector: Detector) -> Picture:
    """Return a map of each family that the detector has."""
    charts: list[Chart] = []
    for family in FAMILIES:
        own = [box for box in boxes if box.reason in family.kinds]
        if own:
            charts.append(_map(own, family, detector, has_rows=len(charts) % _PER_ROW == 0))
    caption = "Places of the defects and the amplifiers; columns are drawn with their length."
    if len(boxes) > _MOST_POINTS:
        caption += f" At most {format_count(_MOST_POINTS)} of a family are drawn, the most significant ones."
    return chart_picture([charts[first : first + _PER_ROW] for first in range(0, len(charts), _PER_ROW)], caption)


def _map(boxes: Sequence[DefectBox], family: Family, detector: Detector, *, has_rows: bool) -> Chart:
    chart = detector_chart(detector, _WIDTH, f"{family.name}: {format_count(count_defects(boxes))}", has_rows=has_rows)
    shown = sorted(boxes, key=lambda box: -np.nan_to_num(box.significance))[:_MOST_POINTS]
    middles = [(box.x0 + (box.width - 1) / 2, box.y0 + (box.height - 1) / 2) for box in shown if box.height < _LONG]
    for box in shown:
        if box.height >= _LONG:
            middle = box.x0 + (box.width - 1) / 2
            ends = np.array([box.y0, box.y0 + box.height - 1], dtype=np.float64)
            chart.line(np.array([middle, middle]), ends, family.colour, width=1.4)
    if middles:
        chart.points(np.array(middles), family.colour, radius=1.8, is_edged=False)
    draw_amplifiers(chart, detector, width=0.4)
    return chart


@dataclass(frozen=True)
class DetectorDefects:
    """The defects of a detector: their boxes, the table, and the LEDs whose flats were searched."""

    detector: Detector
    boxes: tuple[DefectBox, ...]
    table: Table
    leds: tuple[str, ...]

    @property
    def mask(self) -> np.ndarray:
        """Pixels in one of the boxes, shape (ny, nx)."""
        mask = np.zeros(self.detector.shape, dtype=bool)
        for box in self.boxes:
            mask[box.slices] = True
        return mask


def read_defects(path: Path, detector: Detector) -> DetectorDefects | None:
    """Return the defects of a detector, None if they were not searched.

    Raises
    ------
    InputError
        If the table cannot be read.
    """
    if not path.is_file():
        return None
    table = read_table(path, columns=tuple(COLUMNS), purpose="table of defects")
    return DetectorDefects(detector, tuple(table_boxes(table)), table, tuple(table.meta.get("leds", ())))


def detector_block(path: Path, detector: Detector) -> Markup | None:
    """Return the block on the page of a detector, None if its defects were not searched.

    Raises
    ------
    InputError
        If the table cannot be read.
    """
    defects = read_defects(path, detector)
    if defects is None:
        return None
    listed = sorted({box.defect: box for box in defects.boxes}.values(), key=lambda box: -np.nan_to_num(box.significance))
    return render("defects_block.html", __name__, defects=defects, listed=listed, most=_MOST_LISTED, file=path.name)


def defects_text(defects: DetectorDefects) -> str:
    """Return the number of defects and pixels, and the LEDs searched."""
    pixels = int(np.count_nonzero(defects.mask))
    share = 1e3 * pixels / defects.mask.size
    leds = ", ".join(defects.leds) or "no LED"
    searched = defects.table.meta.get("exposures_searched", {})
    exposures = ", ".join(f"{count} of {led}" for led, count in searched.items() if count)
    first = f"{format_count(count_defects(defects.boxes))} defects cover {format_count(pixels)} pixels ({share:.3g} ‰)."
    second = f" The flats of {leds} and the superbias were searched"
    third = f", and single exposures ({exposures}) for unstable and non-linear pixels." if exposures else "; no single exposures."
    return first + second + third


def kind_table(defects: DetectorDefects) -> Grid:
    """Return number, pixels, size and agreement of the defects of each kind."""
    boxes: dict[str, list[DefectBox]] = {kind: [] for family in FAMILIES for kind in family.kinds}
    for box in defects.boxes:
        boxes[box.reason].append(box)
    each = {kind: list({box.defect: box for box in own}.values()) for kind, own in boxes.items()}

    def in_all_leds(kind: str) -> Cell:
        in_light = [box for box in each[kind] if box.searched]
        in_all = sum(box.leds == box.searched for box in in_light)
        return number_cell(f"{in_all} of {len(in_light)}", in_all / len(in_light)) if in_light else Cell(MISSING)

    columns = (
        text_column("kind", lambda kind: kind.replace("_", " ")),
        count_column("defects", lambda kind: len(each[kind])),
        count_column("pixels", lambda kind: sum(box.width * box.height for box in boxes[kind])),
        Column("median size", lambda kind: _median_cell(each[kind])),
        Column("in all LEDs", in_all_leds),
        count_column("found and given", lambda kind: sum(box.source == "both" for box in each[kind])),
    )
    return table_of([kind for kind, own in boxes.items() if own], columns)


def _median_cell(boxes: Sequence[DefectBox]) -> Cell:
    """Return the median of the values, with the standard error of a median from their scatter."""
    values = np.array([box.value for box in boxes])
    values = values[np.isfinite(values)]
    if not values.size:
        return Cell(MISSING)
    scale, unit = _QUANTITIES[boxes[0].quantity]
    low, middle, high = np.percentile(values, [15.865, 50, 84.135])
    error = 1.2533 * (high - low) / 2 / np.sqrt(values.size) if values.size > 2 else boxes[0].value_err
    return number_cell(f"{format_measurement(scale * middle, scale * error)} {unit}", float(middle))


def amplifier_table(defects: DetectorDefects) -> Grid:
    """Return the number of defects of each family in each amplifier, and the share of pixels in any."""
    mask = defects.mask

    def boxes_in(amplifier: Amplifier) -> list[DefectBox]:
        return [box for box in defects.boxes if _begins_in(box, amplifier.slices)]

    columns = (
        text_column("amplifier", "name"),
        *(_family_column(family, boxes_in) for family in FAMILIES if any(box.reason in family.kinds for box in defects.boxes)),
        number_column("pixels (‰)", lambda amplifier: float(mask[amplifier.slices].mean()), three_digits, scale=1e3),
    )
    return table_of(defects.detector.amplifiers, columns)


def _family_column(family: Family, boxes_of: Callable[[Any], Sequence[DefectBox]]) -> Column:
    return count_column(family.name, lambda row: count_defects([box for box in boxes_of(row) if box.reason in family.kinds]))


def _begins_in(box: DefectBox, part: tuple[slice, slice]) -> bool:
    rows, columns = part
    return rows.start <= box.y0 < rows.stop and columns.start <= box.x0 < columns.stop


def agreement_table(defects: Sequence[DetectorDefects]) -> Grid | None:
    """Return the fraction of the defects found in either of two LEDs that is found in both; None for a single LED."""
    leds = list(dict.fromkeys(led for own in defects for led in own.leds))
    tables = [own.table for own in defects if len(own.table)]
    if len(leds) < 2 or not tables:
        return None
    share, error = led_agreement(_together(tables), leds)

    def column(other: int) -> Column:
        def cell(own: int) -> Cell:
            return Cell("") if own == other else measured_cell(share[own, other], error[own, other], scale=1e2)

        return Column(leds[other], cell)

    places = range(len(leds))
    return table_of(places, (text_column("found in both, of either (%)", lambda own: leds[own]), *map(column, places)))


def _together(tables: Sequence[Table]) -> Table:
    """Return the tables of several detectors as one, with numbers of defects that differ."""
    parts, first = [], 0
    for table in tables:
        part = table["defect", "leds", "searched"].copy()
        part["defect"] += first
        first = int(part["defect"].max()) + 1
        part.meta.clear()
        parts.append(part)
    return vstack(parts)


def largest_table(boxes: Sequence[DefectBox]) -> Grid:
    """Return defects with place, kind, size and LEDs."""

    def size(box: DefectBox) -> Cell:
        scale, unit = _QUANTITIES.get(box.quantity, (1.0, ""))
        shown = f"{format_measurement(scale * box.value, scale * box.value_err)} {unit}".strip()
        return number_cell(shown if np.isfinite(box.value) else MISSING, box.value)

    columns = (
        text_column("kind", lambda box: box.reason.replace("_", " ")),
        text_column("source"),
        text_column("amplifier", "amp", absent=MISSING),
        count_column("column", "x0"),
        count_column("row", "y0"),
        count_column("width"),
        count_column("height"),
        Column("size", size),
        number_column("over scatter", "significance", three_digits),
        text_column("LEDs", lambda box: ", ".join(box.leds), absent=MISSING),
    )
    return table_of(boxes, columns)


def declare_section(run: RunProducts) -> Declaration | None:
    """Declare the section of the index page, None where defects were not searched."""
    names = [name for name in run.camera.detectors if run.folder.defects(name).is_file()]
    if not names:
        return None
    pages = {name: _page_of(run, name) for name in names}
    sources = tuple(run.folder.defects(name) for name in names)
    return Declaration(sources, {"links": sorted(pages.items())}, partial(make_section, run, pages))


def _page_of(run: RunProducts, detector: str) -> str:
    """Return the address of the first page of a detector, "" without one."""
    led = next((led.led for led in run.leds if detector in led.detectors), None)
    return "" if led is None else index_address(run.config, run.folder, page_path(run.folder, "detectors", led, detector))


def make_section(run: RunProducts, pages: dict[str, str]) -> IndexPart:
    """Return the section.

    Raises
    ------
    InputError
        If a table cannot be read.
    """
    found = [read_defects(run.folder.defects(name), run.camera[name]) for name in pages]
    defects = [own for own in found if own is not None]
    share = {own.detector.name: int(np.count_nonzero(own.mask)) / own.mask.size for own in defects}
    columns = (
        Column("detector", lambda own: text_cell(own.detector.name, link=pages[own.detector.name]), is_text=True),
        count_column("defects", lambda own: count_defects(own.boxes)),
        *(_family_column(family, lambda own: own.boxes) for family in FAMILIES),
        number_column("pixels (‰)", lambda own: share[own.detector.name], three_digits, scale=1e3),
    )
    measurements = []
    for own in defects:
        numbers = (("defects", float(count_defects(own.boxes))), ("defective_pixels", share[own.detector.name]))
        measurements += [Measurement(metric, "", number, np.nan, own.detector.name) for metric, number in numbers]
    total = sum(count_defects(own.boxes) for own in defects)
    content = render(
        "defects_section.html",
        sentence=f"{format_count(total)} defects in {len(defects)} detector{'s' if len(defects) > 1 else ''}.",
        detectors=table_of(defects, columns),
        agreement=agreement_table(defects),
    )
    return IndexPart(content, measurements)


DEFECTS_SECTION = PageKind(
    "defects", "defects", lambda _run: [], section=declare_section, link="Defects", heading="Defects of the sensors"
)
