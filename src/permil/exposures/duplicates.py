"""The same detector of the same exposure found in two places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from permil.errors import InputError
from permil.exposures.hdu import fits_stream
from permil.exposures.record import Exposure

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Duplicate:
    """Two files with the same content: the one that is used and the one that is left out."""

    kept: str
    left_out: str


def leave_out_duplicates(exposures: Sequence[Exposure]) -> tuple[list[Exposure], list[Duplicate]]:
    """Keep one file per exposure and detector.

    Returns
    -------
    exposures
        Sorted by exposure and detector.
    duplicates
        Files that are left out because their content (decompressed, if need be) is that of a file that is kept.

    Raises
    ------
    InputError
        If two files of one exposure and detector differ.
    """
    kept: list[Exposure] = []
    duplicates: list[Duplicate] = []
    for exposure in sorted(exposures, key=lambda entry: (entry.obsid, entry.detector, entry.path)):
        if not kept or (kept[-1].obsid, kept[-1].detector) != (exposure.obsid, exposure.detector):
            kept.append(exposure)
        elif _same_content(kept[-1].path, exposure.path):
            duplicates.append(Duplicate(kept[-1].path, exposure.path))
        else:
            raise InputError(
                f"differs from {kept[-1].path}, although both are {exposure.detector} of exposure {exposure.obsid}",
                path=exposure.path,
                remedy="remove the wrong one, or search fewer folders (exposures.roots)",
                other=kept[-1].path,
            )
    return kept, duplicates


def _same_content(first: str | Path, second: str | Path) -> bool:
    with fits_stream(first) as one, fits_stream(second) as other:
        return all(
            left == right
            for left, right in zip_longest(iter(lambda: one.read(_CHUNK), b""), iter(lambda: other.read(_CHUNK), b""))
        )
