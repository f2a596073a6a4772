"""Defects in tables and sentences: the block on the page of a detector, and the section of the index page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from astropy.table import Table, vstack
from markupsafe import Markup

from permil.camera import Detector
from permil.defects import DefectBox
from permil.defects.table import COLUMNS, led_agreement, table_boxes
from permil.products import read_table
from permil.report.defects.figures import FAMILIES, count_defects, defect_maps
from permil.report.kit.elements import Cell, Grid, count_cell, grid, measured_cell, number_cell, text_cell
from permil.report.kit.pages import Declaration, IndexSection, PageKind, index_address, page_path, render
from permil.report.kit.results import MISSING, Measurement, format_count, format_measurement
from permil.report.kit.run import RunProducts

_MOST_LISTED = 100
_QUANTITIES = {"deviation": (1e2, "%"), "scatter": (1e2, "%"), "nonlinearity": (1e2, "%"), "electrons": (1.0, "e⁻")}
"""Scale and unit in which pages show the value of a defect."""


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
    boxes = defects.boxes
    listed = sorted({box.defect: box for box in boxes}.values(), key=lambda box: -np.nan_to_num(box.significance))
    return render(
        "defects/block.html",
        sentence=_sentence(defects),
        pictures=[defect_maps(boxes, detector)] if boxes else [],
        kinds=kind_table(defects) if boxes else None,
        amplifiers=amplifier_table(defects) if boxes else None,
        agreement=agreement_table([defects]),
        largest=largest_table(listed[:_MOST_LISTED]) if listed else None,
        number=len(listed),
        file=path.name,
    )


def _sentence(defects: DetectorDefects) -> str:
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
    rows = []
    for family in FAMILIES:
        for kind in family.kinds:
            own = [box for box in defects.boxes if box.reason == kind]
            if not own:
                continue
            each = list({box.defect: box for box in own}.values())
            in_light = [box for box in each if box.searched]
            in_all = sum(box.leds == box.searched for box in in_light)
            rows.append(
                (
                    text_cell(kind.replace("_", " ")),
                    count_cell(len(each)),
                    count_cell(sum(box.width * box.height for box in own)),
                    _median_cell(each),
                    number_cell(f"{in_all} of {len(in_light)}", in_all / len(in_light)) if in_light else Cell(MISSING),
                    count_cell(sum(box.source == "both" for box in each)),
                )
            )
    headings = ("kind", "defects", "pixels", "median size", "in all LEDs", "found and given")
    return grid(headings, rows, text_columns=(0,))


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
    families = [family for family in FAMILIES if any(box.reason in family.kinds for box in defects.boxes)]
    rows = []
    for amplifier in defects.detector.amplifiers:
        inside = amplifier.slices
        own = [box for box in defects.boxes if _begins_in(box, inside)]
        counts = [count_defects([box for box in own if box.reason in family.kinds]) for family in families]
        share = float(mask[inside].mean())
        rows.append((text_cell(amplifier.name), *map(count_cell, counts), number_cell(f"{1e3 * share:.3g}", share)))
    return grid(("amplifier", *(family.name for family in families), "pixels (‰)"), rows)


def _begins_in(box: DefectBox, part: tuple[slice, slice]) -> bool:
    rows, columns = part
    return rows.start <= box.y0 < rows.stop and columns.start <= box.x0 < columns.stop


def agreement_table(defects: Sequence[DetectorDefects]) -> Grid | None:
    """Return how many of the defects that one of two LEDs shows the other shows as well; None for a single LED."""
    leds = list(dict.fromkeys(led for own in defects for led in own.leds))
    tables = [own.table for own in defects if len(own.table)]
    if len(leds) < 2 or not tables:
        return None
    share, error = led_agreement(_together(tables), leds)
    rows = []
    for own, led in enumerate(leds):
        shares = (measured_cell(share[own, other], error[own, other], scale=1e2) for other in range(len(leds)) if other != own)
        cells = list(shares)
        rows.append((text_cell(led), *cells[:own], Cell(""), *cells[own:]))
    return grid(("both show, of either (%)", *leds), rows)


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
    rows = []
    for box in boxes:
        scale, unit = _QUANTITIES.get(box.quantity, (1.0, ""))
        value = f"{format_measurement(scale * box.value, scale * box.value_err)} {unit}".strip()
        rows.append(
            (
                text_cell(box.reason.replace("_", " ")),
                text_cell(box.source),
                text_cell(box.amp or MISSING),
                *(count_cell(each) for each in (box.x0, box.y0, box.width, box.height)),
                number_cell(value if np.isfinite(box.value) else MISSING, box.value),
                number_cell(f"{box.significance:.3g}" if np.isfinite(box.significance) else MISSING, box.significance),
                text_cell(", ".join(box.leds) or MISSING),
            )
        )
    headings = ("kind", "source", "amplifier", "column", "row", "width", "height", "size", "over scatter", "LEDs")
    return grid(headings, rows, text_columns=(0, 1, 2, 9))


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


def make_section(run: RunProducts, pages: dict[str, str]) -> IndexSection:
    """Return the section.

    Raises
    ------
    InputError
        If a table cannot be read.
    """
    found = [read_defects(run.folder.defects(name), run.camera[name]) for name in pages]
    defects = [own for own in found if own is not None]
    rows, measurements = [], []
    for own in defects:
        name, pixels = own.detector.name, int(np.count_nonzero(own.mask))
        share = pixels / own.mask.size
        counts = [count_defects([box for box in own.boxes if box.reason in family.kinds]) for family in FAMILIES]
        cells = [count_cell(count_defects(own.boxes)), *map(count_cell, counts), number_cell(f"{1e3 * share:.3g}", share)]
        rows.append((text_cell(name, link=pages[name]), *cells))
        measurements += [
            Measurement("defects", "", float(count_defects(own.boxes)), np.nan, name),
            Measurement("defective_pixels", "", share, np.nan, name),
        ]
    total = sum(count_defects(own.boxes) for own in defects)
    places = f"{len(defects)} detector{'s' if len(defects) > 1 else ''}"
    return IndexSection(
        anchor="defects",
        link="Defects",
        subject="defects",
        heading="Defects of the sensors",
        content=render(
            "defects/section.html",
            sentence=f"{format_count(total)} defects in {places}.",
            detectors=grid(("detector", "defects", *(family.name for family in FAMILIES), "pixels (‰)"), rows),
            agreement=agreement_table(defects),
        ),
        measurements=measurements,
    )


DEFECTS_SECTION = PageKind("defects", "defects", lambda _run: [], section=declare_section)
