"""Tables of defects in the layout of Rubin's curated defects, and the boxes of masks.

A table has the columns ``x0, y0, width, height`` (pixels of the trimmed detector, DM frame, 0-based, the first two those of the lower
left pixel) and the cards of the class ``Defects`` of the package ip_isr of the LSST stack, which reads it; the other columns are specific
to permil.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from astropy.table import Table

from permil.arrays import BoolArray, FloatArray

NOTHING = "-"
"""Entry of a text column without a value."""


def _column(kind: type | str, unit: str, description: str, **default: Any) -> Any:
    return field(metadata={"column": (kind, unit, description)}, **default)


@dataclass(frozen=True)
class DefectBox:
    """One box of a defect: a row of the table, with its columns in this order.

    The value of a defect that was given by the user is not known (NaN).
    """

    x0: int = _column(np.int32, "pix", "X coordinate of bottom left corner of box")
    y0: int = _column(np.int32, "pix", "Y coordinate of bottom left corner of box")
    width: int = _column(np.int32, "pix", "X extent of box")
    height: int = _column(np.int32, "pix", "Y extent of box")
    reason: str = _column("U16", "", "kind of the defect")
    source: str = _column("U5", "", "found in the data, given by the user, or both", default="found")
    amp: str = _column("U8", "", "amplifier of the first pixel", default="")
    defect: int = _column(np.int32, "", "number of the defect; boxes of one defect share it", default=0)
    value: float = _column(np.float64, "", "size of the deviation, in the quantity of its kind", default=np.nan)
    value_err: float = _column(np.float64, "", "its standard error", default=np.nan)
    quantity: str = _column("U13", "", "quantity of the value", default="")
    significance: float = _column(
        np.float64, "", "deviation over the local scatter of the response, over all pixels of the defect", default=np.nan
    )
    leds: tuple[str, ...] = _column("U64", "", "LEDs that show the defect", default=())
    searched: tuple[str, ...] = _column("U64", "", "LEDs in which its pixels were searched", default=())

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns of the box."""
        return slice(self.y0, self.y0 + self.height), slice(self.x0, self.x0 + self.width)


COLUMNS: dict[str, tuple[type | str, str, str]] = {entry.name: entry.metadata["column"] for entry in fields(DefectBox)}
"""Type, unit and description of each column."""


def defect_table(boxes: Iterable[DefectBox], *, cards: Mapping[str, Any] | None = None) -> Table:
    """Return a table of defects, sorted by row and column.

    Parameters
    ----------
    cards
        Further cards, such as INSTRUME, DETECTOR (the number) and CALIBDATE.
    """
    rows = []
    for box in sorted(boxes, key=lambda each: (each.y0, each.x0, each.reason)):
        entries = {name: getattr(box, name) for name in COLUMNS}
        rows.append([_text(entry) if COLUMNS[name][0] != np.int32 else entry for name, entry in entries.items()])
    columns: list[Any] = list(zip(*rows, strict=True)) if rows else [[] for _ in COLUMNS]
    table = Table(columns, names=list(COLUMNS), dtype=[kind for kind, _, _ in COLUMNS.values()])
    for name, (kind, unit, description) in COLUMNS.items():
        table[name].unit = unit or None
        table[name].description = description
        if kind is np.float64:
            table[name].format = ".6g"
    table.meta = {"OBSTYPE": "defects", "DEFECTS_SCHEMA": "Simple", "DEFECTS_SCHEMA_VERSION": 1, **(cards or {})}
    return table


def _text(entry: Any) -> Any:
    """Return an entry of a table: names joined by commas; - for none, since an empty text is read as a missing one."""
    text = ",".join(entry) if isinstance(entry, tuple) else entry
    return text if text != "" else NOTHING


def table_boxes(table: Table) -> list[DefectBox]:
    """Return the defects in a table that `defect_table` made."""
    boxes = []
    for row in table:
        entries: dict[str, Any] = {name: row[name].item() for name in COLUMNS}
        entries = {name: "" if entry == NOTHING else entry for name, entry in entries.items()}
        for name in ("leds", "searched"):
            entries[name] = tuple(part for part in entries[name].split(",") if part)
        boxes.append(DefectBox(**entries))
    return boxes


def boxes_of(mask: BoolArray) -> list[tuple[int, int, int, int]]:
    """Return boxes (x0, y0, width, height) that cover the pixels of a mask: runs along columns, equal adjacent runs joined."""
    padded = np.pad(mask.T.astype(np.int8), ((0, 0), (1, 1)))
    steps = np.diff(padded, axis=1)
    columns, begins = np.nonzero(steps == 1)
    _, ends = np.nonzero(steps == -1)
    boxes: list[tuple[int, int, int, int]] = []
    open_boxes: dict[tuple[int, int], tuple[int, int]] = {}
    for column, begin, end in zip(columns.tolist(), begins.tolist(), ends.tolist(), strict=True):
        first, last = open_boxes.get((begin, end), (-1, -2))
        if last == column - 1:
            open_boxes[begin, end] = first, column
            continue
        if first >= 0:
            boxes.append((first, begin, last - first + 1, end - begin))
        open_boxes[begin, end] = column, column
    boxes += [(first, begin, last - first + 1, end - begin) for (begin, end), (first, last) in open_boxes.items()]
    return sorted(boxes, key=lambda box: (box[1], box[0]))


def with_given(found: Sequence[DefectBox], given: Sequence[tuple[int, int, int, int]], shape: tuple[int, int]) -> list[DefectBox]:
    """Return the defects that were found and those that the user gave; both have the source ``both`` where they overlap.

    Parameters
    ----------
    given
        Boxes (x0, y0, width, height) of the user.
    shape
        Rows and columns of the detector.
    """
    in_found, in_given = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    own = [DefectBox(*box, reason="given", source="given") for box in given]
    for boxes, mask in ((found, in_found), (own, in_given)):
        for box in boxes:
            mask[box.slices] = True
    last = max((box.defect for box in found), default=0)
    united = [_marked(box, bool(in_given[box.slices].any())) for box in found]
    return united + [_marked(box, bool(in_found[box.slices].any()), defect=last + 1 + number) for number, box in enumerate(own)]


def _marked(box: DefectBox, is_both: bool, **changes: Any) -> DefectBox:
    return replace(box, source="both" if is_both else box.source, **changes)


def led_agreement(table: Table, leds: Sequence[str]) -> tuple[FloatArray, FloatArray]:
    """Return, for pairs of LEDs, the fraction of defects found in both among those searched in both and found in either.

    Parameters
    ----------
    table
        Table of defects; those of the superbias and those that the user gave do not count.
    leds
        Names of the LEDs.

    Returns
    -------
    share, error : ndarray, shape (n, n)
        The share, NaN where no defect was searched in both, and its standard error: that of a binomial distribution of probability
        ``(k + 1/2) / (n + 1)`` for k of n defects, which is above 0 also where all agree.
    """
    _, first = np.unique(np.asarray(table["defect"]), return_index=True)
    seen, searched = (
        np.array([[led in str(table[name][row]).split(",") for led in leds] for row in first], dtype=bool).reshape(-1, len(leds))
        for name in ("leds", "searched")
    )
    share, error = (np.full((len(leds), len(leds)), np.nan) for _ in range(2))
    for one in range(len(leds)):
        for other in range(len(leds)):
            both = searched[:, one] & searched[:, other]
            either = np.count_nonzero(both & (seen[:, one] | seen[:, other]))
            if either:
                agreeing = int(np.count_nonzero(both & seen[:, one] & seen[:, other]))
                chance = (agreeing + 0.5) / (either + 1)
                share[one, other], error[one, other] = agreeing / either, np.sqrt(chance * (1 - chance) / (either + 1))
    return share, error
