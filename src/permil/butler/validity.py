"""Validity ranges of a calibration: what has to be certified, and what would be replaced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Certified:
    """A dataset that is certified for a range.

    Attributes
    ----------
    dataset
        The dataset.
    digest
        Of its content; "" if unknown.
    timespan : lsst.daf.butler.Timespan
        Range.
    """

    dataset: Any
    digest: str
    timespan: Any


@dataclass(frozen=True)
class Change:
    """What makes a product valid in a range.

    Attributes
    ----------
    replaced
        Other products that are valid in the range, wholly or in part; the range must be cleared of them.
    known
        A dataset with the content of the product, None if it must be written.
    timespans
        Ranges to certify; none if nothing is to do.
    """

    replaced: tuple[Certified, ...]
    known: Any
    timespans: tuple[Any, ...]


def change_needed(present: Sequence[Certified], digest: str, wanted: Any) -> Change:
    """Return what makes a product valid in a range.

    Parameters
    ----------
    present
        All datasets that are certified under its name.
    digest
        Of the content of the product.
    wanted : lsst.daf.butler.Timespan
        Range.
    """
    inside = [entry for entry in present if entry.timespan.overlaps(wanted)]
    replaced = tuple(entry for entry in inside if entry.digest != digest)
    known = next((entry.dataset for entry in present if entry.digest == digest), None)
    if replaced:
        # Clearing the range removes also what is valid in a part of it.
        return Change(replaced, known, (wanted,))
    left = [wanted]
    for entry in inside:
        left = [part for timespan in left for part in timespan.difference(entry.timespan)]
    return Change((), known, tuple(left))
