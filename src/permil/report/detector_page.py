"""The content of the page of one detector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from permil.flat.metrics import WHOLE_DETECTOR
from permil.report.detector_pictures import detector_pictures, pointing_name, truth_picture
from permil.report.detector_view import mask_counts
from permil.report.inputs import DetectorProducts, composite_scale, provenance_cards
from permil.report.pages import (
    Cell,
    DetectorPage,
    Grid,
    Link,
    count_cell,
    grid,
    result_cell,
    text_cell,
)
from permil.report.quantities import FLAT_METRICS, MISSING, QUANTITIES, format_measurement, with_minus
from permil.report.summary import NO, OPEN, Measurement, flat_measurements, judge, specification

if TYPE_CHECKING:
    from permil.camera import Detector
    from permil.config.report import ReportConfig

_TRUTH_COLUMNS = (
    "rms_pixel", "rms_super", "super_pull", "chi_square", "level", "level_pull", "gradient_x", "gradient_x_pull", "gradient_y",
    "gradient_y_pull",
)  # fmt: skip
_PULL = "_pull"
_OVER_ERROR = "over its error"


@dataclass(frozen=True)
class Neighbours:
    """Where the page's links lead."""

    home: Link
    previous: Link | None
    following: Link | None
    others: tuple[Link, ...]


def detector_page(
    products: DetectorProducts,
    detector: Detector,
    led: str,
    *,
    limits: ReportConfig,
    comparison: Table | None,
    links: Neighbours,
    fingerprint: str,
) -> DetectorPage:
    """Return the content of the page of one detector and LED.

    Parameters
    ----------
    comparison
        Rows of recovered over true for this detector and LED, None where there are none.
    """
    header = products.product.header
    absent: list[str] = []
    measurements = flat_measurements(products.metrics) if products.metrics is not None else []
    if products.metrics is None:
        absent.append("metrics (extension METRICS)")
    pictures = detector_pictures(products, detector, led, limits=limits, absent=absent)
    facts = (
        ("sensor", f"{detector.serial}, {detector.kind}"),
        ("raft", f"{detector.raft} {detector.raft_serial}"),
        ("pixels", f"{detector.nx} x {detector.ny} of {1e3 * detector.pixel_mm:g} µm"),
        ("pointings, exposures", f"{header.get('NPOINT', MISSING)}, {header.get('NEXPOSUR', MISSING)}"),
        ("solver", str(header.get("SOLVER", MISSING))),
        ("photodiode normalisation", str(header.get("PDNORM", MISSING))),
        ("gains", str(header.get("GAINSRC", MISSING))),
        ("amplifier steps removed", {True: "yes", False: "no"}.get(header.get("STEPSREM"), MISSING)),
        ("1 on the composite scale", _scale(composite_scale(header))),
    )
    return DetectorPage(
        title=f"{detector.name}, LED {led} - permil",
        detector=detector.name,
        led=led,
        facts=facts,
        results=_results([entry for entry in measurements if entry.amp == WHOLE_DETECTOR], limits),
        truth=comparison_grid(comparison, with_led=False) if comparison is not None and len(comparison) else None,
        pictures=tuple(pictures),
        truth_picture=truth_picture(products, detector),
        amplifiers=_amplifiers([entry for entry in measurements if entry.amp != WHOLE_DETECTOR], detector, limits),
        pointings=_pointings(products.pointings, absent),
        mask=_mask(products.product.mask),
        provenance=grid(
            ("card", "content", "meaning"),
            [[text_cell(part) for part in card] for card in provenance_cards(header)],
            text_columns=3,
        ),
        absent=tuple(absent),
        home=links.home,
        previous=links.previous,
        following=links.following,
        others=links.others,
        fingerprint=fingerprint,
        failed=tuple(_with_verdict(measurements, limits, NO)),
        undecided=tuple(_with_verdict(measurements, limits, OPEN)),
    )


def comparison_grid(comparison: Table, *, with_led: bool) -> Grid:
    """Return recovered over true as a table; columns that are absent are left out."""
    columns = [name for name in _TRUTH_COLUMNS if name in comparison.colnames]
    names = ("led", "detector") if with_led else ("detector",)
    rows = []
    for row in comparison:
        cells = [text_cell(row[name]) for name in names]
        for name in columns:
            number = float(row[name])
            if name.endswith(_PULL):
                cells.append(pull_cell(number))
            else:
                cells.append(
                    result_cell(name, number, float(row[f"{name}_err"]) if f"{name}_err" in comparison.colnames else np.nan)
                )
        rows.append(cells)
    headings = [name.upper() if name == "led" else name for name in names]
    for name in columns:
        of_super = "super-pixels over error" if name == "super_pull" else _OVER_ERROR
        headings.append(of_super if name.endswith(_PULL) else QUANTITIES[name].heading)
    return grid(headings, rows, text_columns=len(names))


def pull_cell(number: float) -> Cell:
    """Return a cell with a deviation over its error."""
    return Cell(with_minus(f"{number:.2f}"), number) if np.isfinite(number) else Cell(MISSING)


def _with_verdict(measurements: Sequence[Measurement], limits: ReportConfig, verdict: str) -> list[str]:
    found = []
    for entry in measurements:
        spec = specification(entry.metric, limits)
        if judge(entry, limits) == verdict:
            quantity = QUANTITIES[entry.metric]
            where = "" if entry.amp == WHOLE_DETECTOR else f" of {entry.amp}"
            shown = f"{quantity.show(entry.number, entry.error)} {quantity.unit}".strip()
            found.append(f"{quantity.label}{where}: {shown} (specification {quantity.show(spec)})")
    return found


def result_cells(entry: Measurement, limits: ReportConfig) -> tuple[Cell, Cell, Cell, Cell]:
    """Return the cells of one result: name, unit, number with error (marked where it fails), specification."""
    quantity, spec = QUANTITIES[entry.metric], specification(entry.metric, limits)
    return (
        text_cell(quantity.label),
        text_cell(quantity.unit),
        result_cell(entry.metric, entry.number, entry.error, verdict=judge(entry, limits)),
        Cell(quantity.show(spec), spec if np.isfinite(spec) else ""),
    )


def _results(measurements: Sequence[Measurement], limits: ReportConfig) -> Grid | None:
    if not measurements:
        return None
    rows = [(*result_cells(entry, limits), Cell(verdict := judge(entry, limits), verdict, verdict)) for entry in measurements]
    content = grid(("result", "unit", "value", "specification", "pass"), rows, text_columns=2)
    return Grid(content.headings, content.rows, (False, False, True, True, False))


def _amplifiers(measurements: Sequence[Measurement], detector: Detector, limits: ReportConfig) -> Grid | None:
    if not measurements:
        return None
    found = {(entry.amp, entry.metric): entry for entry in measurements}
    metrics = [name for name in FLAT_METRICS if any(entry.metric == name for entry in measurements)]
    rows = []
    for amplifier in detector.amplifiers:
        cells = [text_cell(amplifier.name)]
        for metric in metrics:
            entry = found.get((amplifier.name, metric))
            if entry is None:
                cells.append(Cell(MISSING))
                continue
            cells.append(result_cell(metric, entry.number, entry.error, verdict=judge(entry, limits)))
        rows.append(cells)
    return grid(("amplifier", *(QUANTITIES[name].heading for name in metrics)), rows)


def _pointings(pointings: Table | None, absent: list[str]) -> Grid | None:
    if pointings is None:
        absent.append("the list of pointings (extension POINTINGS)")
        return None
    known = set(pointings.colnames)
    rows = []
    for index, row in enumerate(pointings):
        scale_error = float(row["scale_error"]) if "scale_error" in known else np.nan
        cells = [Cell(pointing_name(pointings, index), float(index)), text_cell("yes" if row["aimed"] else "no")]
        cells += [Cell(f"{float(row[name]):.2f}", float(row[name])) for name in ("x_mm", "y_mm")]
        for name in ("exposures", "rejected"):
            cells.append(count_cell(float(row[name])) if name in known else Cell(MISSING))
        reading = float(row["photodiode"]) if "photodiode" in known else np.nan
        cells.append(Cell(format_measurement(reading, reading * scale_error), reading if np.isfinite(reading) else ""))
        cells.append(Cell(format_measurement(1e3 * scale_error), scale_error if np.isfinite(scale_error) else ""))
        chi_square = float(row["chi_square"]) if "chi_square" in known else np.nan
        cells.append(
            Cell(f"{chi_square:.3f}" if np.isfinite(chi_square) else MISSING, chi_square if np.isfinite(chi_square) else "")
        )
        rows.append(cells)
    headings = (
        "pointing", "aimed here", "X (mm, CCS)", "Y (mm, CCS)", "exposures", "values rejected", "photodiode", "scale error (‰)",
        "χ² per value",
    )  # fmt: skip
    return grid(headings, rows, text_columns=2)


def _mask(mask: NDArray[np.int32]) -> Grid:
    rows = [
        (text_cell(name), count_cell(count), Cell(f"{1e3 * count / mask.size:.3g}", count / mask.size))
        for name, count in mask_counts(mask).items()
    ]
    return grid(("mask plane", "pixels", "share (‰)"), rows)


def _scale(scale: float) -> str:
    return f"{scale:.6g} e⁻ per photodiode unit" if np.isfinite(scale) else MISSING
