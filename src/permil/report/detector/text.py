"""Tables and sentences of the page of a detector."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray

from permil.camera import Detector
from permil.config.model import ReportConfig
from permil.flat.metrics import WHOLE_DETECTOR
from permil.products import MaskPlane
from permil.report.detector.inputs import composite_scale, pointing_name
from permil.report.kit.elements import Grid, count_cell, decimal_cell, grid, measured_cell, number_cell, text_cell
from permil.report.kit.quantities import FLAT_METRICS, MISSING, QUANTITIES
from permil.report.kit.results import measurement_cell, result_cells, result_grid, verdict_cell
from permil.report.kit.summary import Measurement, judge, specification


def facts(header: fits.Header, detector: Detector) -> tuple[tuple[str, str], ...]:
    """Return name and content of the facts below the heading of the page.

    Parameters
    ----------
    header
        Primary header of the flat.
    """
    scale = composite_scale(header)
    return (
        ("sensor", f"{detector.serial}, {detector.kind}"),
        ("raft", f"{detector.raft} {detector.raft_serial}"),
        ("pixels", f"{detector.nx} x {detector.ny} of {1e3 * detector.pixel_mm:g} µm"),
        ("pointings, exposures", f"{header.get('NPOINT', MISSING)}, {header.get('NEXPOSUR', MISSING)}"),
        ("solver", str(header.get("SOLVER", MISSING))),
        ("photodiode normalisation", str(header.get("PDNORM", MISSING))),
        ("gains", str(header.get("GAINSRC", MISSING))),
        ("amplifier steps removed", {True: "yes", False: "no"}.get(header.get("STEPSREM"), MISSING)),
        ("1 on the composite scale", f"{scale:.6g} e⁻ per photodiode unit" if np.isfinite(scale) else MISSING),
    )


def results_with_verdict(measurements: Sequence[Measurement], limits: ReportConfig, verdict: str) -> list[str]:
    """Return the results with a verdict, each with its value and specification."""
    found = []
    for entry in measurements:
        spec = specification(entry.metric, limits)
        if judge(entry, limits) == verdict:
            quantity = QUANTITIES[entry.metric]
            where = "" if entry.amp == WHOLE_DETECTOR else f" of {entry.amp}"
            shown = f"{quantity.show(entry.number, entry.error)} {quantity.unit}".strip()
            found.append(f"{quantity.label}{where}: {shown} (specification {quantity.show(spec)})")
    return found


def result_table(measurements: Sequence[Measurement], limits: ReportConfig) -> Grid | None:
    """Return the results of the whole detector, None without any."""
    entries = [entry for entry in measurements if entry.amp == WHOLE_DETECTOR]
    return (
        result_grid([(*result_cells(entry, limits), verdict_cell(judge(entry, limits))) for entry in entries])
        if entries
        else None
    )


def amplifier_table(measurements: Sequence[Measurement], detector: Detector, limits: ReportConfig) -> Grid | None:
    """Return the results of each amplifier, None without any."""
    found = {(entry.amp, entry.metric): entry for entry in measurements if entry.amp != WHOLE_DETECTOR}
    metrics = [name for name in FLAT_METRICS if any(metric == name for _, metric in found)]
    if not metrics:
        return None
    rows = [
        (text_cell(amplifier.name), *(measurement_cell(found.get((amplifier.name, metric)), limits) for metric in metrics))
        for amplifier in detector.amplifiers
    ]
    return grid(("amplifier", *(QUANTITIES[name].heading for name in metrics)), rows)


def pointing_table(pointings: Table) -> Grid:
    """Return the pointings of the flat; missing columns show dashes."""

    def number(row: Table.Row, name: str) -> float:
        return float(row[name]) if name in pointings.colnames else np.nan

    rows = []
    for index, row in enumerate(pointings):
        reading, scale_error = number(row, "photodiode"), number(row, "scale_error")
        rows.append(
            (
                number_cell(pointing_name(pointings, index), index),
                text_cell("yes" if row["aimed"] else "no"),
                *(decimal_cell(float(row[name]), 2) for name in ("x_mm", "y_mm")),
                *(count_cell(number(row, name)) for name in ("exposures", "rejected")),
                measured_cell(reading, reading * scale_error),
                measured_cell(scale_error, np.nan, scale=1e3),
                decimal_cell(number(row, "chi_square"), 3),
            )
        )
    headings = (
        "pointing", "aimed here", "X (mm, CCS)", "Y (mm, CCS)", "exposures", "values rejected", "photodiode", "scale error (‰)",
        "χ² per value",
    )  # fmt: skip
    return grid(headings, rows, text_columns=(0, 1))


def mask_table(mask: NDArray[np.int32]) -> Grid:
    """Return number and fraction of the pixels in each mask plane."""
    rows = [
        (text_cell(name), count_cell(count), number_cell(f"{1e3 * count / mask.size:.3g}", count / mask.size))
        for name, count in mask_counts(mask).items()
    ]
    return grid(("mask plane", "pixels", "share (‰)"), rows)


def mask_counts(mask: NDArray[np.int32]) -> dict[str, int]:
    """Return the number of pixels in each mask plane, and in none."""
    counts = {str(plane.name): int(np.count_nonzero(mask & int(plane))) for plane in MaskPlane}
    return counts | {"none": int(np.count_nonzero(mask == 0))}
