"""Catalogs that are given more than once: the same measurement is counted once, whatever the file is called."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from permil.camera import detector_key
from permil.spots.catalog import QUANTITIES, SpotCatalog
from permil.spots.errors import SpotError


@dataclass(frozen=True)
class RepeatedCatalog:
    """A catalog that repeats an earlier one: the numbers of both in their sequence."""

    number: int
    of: int


def repeated_catalogs(catalogs: Sequence[SpotCatalog], names: Sequence[str]) -> list[RepeatedCatalog]:
    """Find catalogs of the same exposure and detector, or of one detector with equal values, whatever the exposure is called.

    Values are equal where positions, moments and fluxes of all sources are, bit by bit in single precision, in any order of the rows.
    Repeated images of one place are other measurements: their values differ.

    Parameters
    ----------
    catalogs
        Catalogs whose detectors have one spelling.
    names
        What each is called in messages (its file).

    Raises
    ------
    SpotError
        If catalogs of one exposure and detector differ, or catalogs of two detectors are equal.
    """
    repeated: list[RepeatedCatalog] = []
    by_exposure: dict[tuple[str, str | int], int] = {}
    by_values: dict[str, int] = {}
    digests = [_digest(catalog) for catalog in catalogs]
    for number, catalog in enumerate(catalogs):
        detector = detector_key(catalog.detector)
        equal = by_values.setdefault(digests[number], number)
        same = by_exposure.setdefault((catalog.exposure, detector), number) if catalog.exposure else number
        if same != number and digests[same] != digests[number]:
            raise SpotError(
                f"{names[number]} and {names[same]} differ, although both are {catalog.detector or 'the same detector'} "
                f"of exposure {catalog.exposure}",
                remedy="give the one that is right: an exposure counts once, whichever program measured it",
                value=names[number],
                other=names[same],
            )
        if detector_key(catalogs[equal].detector) != detector:
            raise SpotError(
                f"{names[number]} and {names[equal]} have equal values, but one is of {catalog.detector or 'an unknown detector'}, "
                f"the other of {catalogs[equal].detector or 'an unknown detector'}",
                remedy="give each catalog under its own detector",
                value=names[number],
                other=names[equal],
            )
        if equal != number:
            repeated.append(RepeatedCatalog(number, equal))
    return repeated


def _digest(catalog: SpotCatalog) -> str:
    located = np.isfinite(catalog.x) & np.isfinite(catalog.y)
    values = np.stack([getattr(catalog, name)[located] for name in QUANTITIES], axis=1)
    # Single precision, so that a copy in that format is told; adding 0 makes -0 one with 0.
    rows = np.nan_to_num(values.astype(np.float32), nan=np.inf) + np.float32(0)
    return hashlib.sha256(rows[np.lexsort(rows.T)].tobytes()).hexdigest()
