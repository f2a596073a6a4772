"""Find catalogs with the same measurements, whatever their file names, so that each measurement counts once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from permil.camera import detector_key
from permil.spots.catalog import QUANTITIES, SpotCatalog
from permil.spots.errors import SpotError
from permil.spots.file_names import exposure_key

# Different exposures share rows only through rounding.
_LEAST_COMMON, _COMMON_PART = 5, 0.1


@dataclass(frozen=True)
class RepeatedCatalog:
    """A catalog that repeats an earlier one, by their indices in the input."""

    number: int
    of: int


def repeated_catalogs(catalogs: Sequence[SpotCatalog], names: Sequence[str]) -> list[RepeatedCatalog]:
    """Find catalogs of the same exposure and detector, or of one detector with equal values and any exposure name.

    Values are equal if positions, moments and fluxes of all sources are identical in single precision, in any order of the rows. Repeated
    images of one position are different measurements, with different values.

    Parameters
    ----------
    catalogs
        Catalogs with normalised detector names.
    names
        Name of each catalog in messages (its file).

    Raises
    ------
    SpotError
        If catalogs of one exposure and detector differ, catalogs of two detectors are equal, or a catalog contains part of the rows of
        another.
    """
    repeated: list[RepeatedCatalog] = []
    by_exposure: dict[tuple[str, str | int], int] = {}
    by_values: dict[bytes, int] = {}
    rows = [_row_keys(catalog) for catalog in catalogs]
    for number, catalog in enumerate(catalogs):
        detector = detector_key(catalog.detector)
        equal = by_values.setdefault(rows[number].tobytes(), number)
        same = by_exposure.setdefault((exposure_key(catalog.exposure), detector), number) if catalog.exposure else number
        if same != number and not np.array_equal(rows[same], rows[number]):
            raise SpotError(
                f"{names[number]} and {names[same]} differ, although both hold {catalog.detector or 'the same detector'} "
                f"of exposure {catalog.exposure}",
                remedy="give only the right one: an exposure is used once, whichever program measured it",
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
    again = {copy.number for copy in repeated}
    _require_no_parts([rows[number] if number not in again else rows[number][:0] for number in range(len(rows))], names)
    return repeated


def _require_no_parts(rows: Sequence[NDArray[np.uint64]], names: Sequence[str]) -> None:
    """Raise an error if many rows of one catalog are also in another."""
    keys = np.concatenate([*rows, np.zeros(0, dtype=np.uint64)])
    owner = np.repeat(np.arange(len(rows)), [len(entry) for entry in rows])
    order = np.argsort(keys, kind="stable")
    twice = np.flatnonzero(keys[order[1:]] == keys[order[:-1]])
    pairs = np.stack([owner[order[twice]], owner[order[twice + 1]]], axis=1)
    pairs, counts = np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0, return_counts=True)
    for (first, second), count in zip(pairs, counts, strict=True):
        if count > max(_LEAST_COMMON, _COMMON_PART * min(len(rows[first]), len(rows[second]))):
            raise SpotError(
                f"{count} rows of {names[second]} are identical to rows of {names[first]}: they hold parts of one measurement",
                remedy="give each exposure once",
                value=int(count),
                other=names[first],
            )


def _row_keys(catalog: SpotCatalog) -> NDArray[np.uint64]:
    """Return a sorted array of 64-bit hashes of the rows with a position."""
    located = np.isfinite(catalog.x) & np.isfinite(catalog.y)
    values = np.stack([getattr(catalog, name)[located] for name in QUANTITIES], axis=1)
    # Single precision, to recognise copies in that format; adding 0 converts -0 to 0.
    bits = (np.nan_to_num(values.astype(np.float32), nan=np.inf) + np.float32(0)).view(np.uint32)
    keys = np.zeros(len(bits), dtype=np.uint64)
    for column in bits.T:
        # Mixing function of splitmix64 (Steele et al. 2014).
        keys = (keys ^ column) * np.uint64(0xBF58476D1CE4E5B9)
        keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        keys ^= keys >> np.uint64(31)
    return np.sort(keys)
