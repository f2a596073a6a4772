"""Maps of the defects of a detector, by family of kinds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from permil.camera import Detector
from permil.defects import DefectBox, DefectKind
from permil.report.kit.chart import Chart, chart_picture
from permil.report.kit.elements import Picture
from permil.report.kit.results import format_count

_WIDTH = 205.0
_PER_ROW = 4
_MOST_POINTS = 3000
_LONG = 20


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
    chart = Chart(
        (_WIDTH, round(_WIDTH * detector.ny / detector.nx, 1)),
        (-0.5, detector.nx - 0.5),
        (-0.5, detector.ny - 0.5),
        title=f"{family.name}: {format_count(count_defects(boxes))}",
        labels=("column (pixel)", "row (pixel)" if has_rows else ""),
    )
    shown = sorted(boxes, key=lambda box: -np.nan_to_num(box.significance))[:_MOST_POINTS]
    middles = [(box.x0 + (box.width - 1) / 2, box.y0 + (box.height - 1) / 2) for box in shown if box.height < _LONG]
    for box in shown:
        if box.height >= _LONG:
            middle = box.x0 + (box.width - 1) / 2
            ends = np.array([box.y0, box.y0 + box.height - 1], dtype=np.float64)
            chart.line(np.array([middle, middle]), ends, family.colour, width=1.4)
    if middles:
        chart.points(np.array(middles), family.colour, radius=1.8, is_edged=False)
    outlines = []
    for amplifier in detector.amplifiers:
        left, bottom = amplifier.x_min - 0.5, amplifier.y_min - 0.5
        right, top = left + amplifier.nx, bottom + amplifier.ny
        outlines.append(np.array([(left, bottom), (right, bottom), (right, top), (left, top), (left, bottom)]))
    chart.outlines(outlines, width=0.4)
    return chart
