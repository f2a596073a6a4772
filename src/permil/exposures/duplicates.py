"""Find measurements that are present in two files, and keep one of them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import zip_longest
from pathlib import Path

from permil.camera import Camera
from permil.errors import InputError
from permil.exposures.exposure import Exposure
from permil.exposures.hdu import fits_stream
from permil.exposures.raw_file import RawFile

_CHUNK = 1 << 20
# Fields that depend on the path of a file, not on its content.
_OF_PLACE = frozenset({"path", "run", "job", "test_seqnum", "x_folder_mm", "y_folder_mm", "note"})
# Fields that name an exposure.
_OF_NAME = frozenset({"obsid", "day_obs", "seqnum"})


@dataclass(frozen=True)
class Duplicate:
    """Two files with the same content: one is used, the other is left out."""

    kept: str
    left_out: str


def leave_out_duplicates(exposures: Sequence[Exposure], camera: Camera) -> tuple[list[Exposure], list[Duplicate]]:
    """Keep one file per exposure and detector.

    Two files hold the same measurement if they belong to one exposure and detector, or if two exposures of a detector have the same time,
    readings and identical pixels (a copy with another name or OBSID). The copy that is kept is the one without contradictions, in the
    folder of its position.

    Returns
    -------
    exposures
        Sorted by exposure and detector.
    duplicates
        Excluded files whose content is that of a file that is kept: the same bytes (after decompression), or the same pixels and readings
        with another compression.

    Raises
    ------
    InputError
        If two files of one exposure and detector differ.
    """
    kept: list[Exposure] = []
    duplicates: list[Duplicate] = []
    for exposure in sorted(exposures, key=_rank):
        if not kept or (kept[-1].obsid, kept[-1].detector) != (exposure.obsid, exposure.detector):
            kept.append(exposure)
            continue
        if not _same_content(kept[-1].path, exposure.path):
            _require_same_exposure(kept[-1], exposure, camera)
        duplicates.append(Duplicate(kept[-1].path, exposure.path))
    kept, renamed = _leave_out_renamed(kept, camera)
    return kept, duplicates + renamed


def _rank(exposure: Exposure) -> tuple[str, str, bool, bool, str]:
    return exposure.obsid, exposure.detector, exposure.note != "", math.isnan(exposure.x_folder_mm), exposure.path


def _same_content(first: str | Path, second: str | Path) -> bool:
    with fits_stream(first) as one, fits_stream(second) as other:
        return all(
            left == right
            for left, right in zip_longest(iter(lambda: one.read(_CHUNK), b""), iter(lambda: other.read(_CHUNK), b""))
        )


def _require_same_exposure(kept: Exposure, other: Exposure, camera: Camera) -> None:
    """Check that two files of one exposure and detector hold the same pixels and readings.

    Raises
    ------
    InputError
        If they do not.
    """
    pixels = _pixels(kept, camera)
    if pixels is None or pixels != _pixels(other, camera):
        raise InputError(
            f"differs from {kept.path}, although both hold {other.detector} of exposure {other.obsid}",
            path=other.path,
            remedy="remove the wrong one, or search fewer folders (exposures.roots)",
            other=kept.path,
        )
    differing = [name for name in _names(_OF_PLACE) if repr(getattr(kept, name)) != repr(getattr(other, name))]
    if differing:
        values = ", ".join(f"{name} {getattr(other, name)} instead of {getattr(kept, name)}" for name in differing)
        raise InputError(
            f"has the same pixels as {kept.path}, but a different header: {values}",
            path=other.path,
            remedy="remove the wrong one, or search fewer folders (exposures.roots)",
            other=kept.path,
        )


def _leave_out_renamed(exposures: Sequence[Exposure], camera: Camera) -> tuple[list[Exposure], list[Duplicate]]:
    """Exclude copies named as another exposure: two readouts never share time, readings and pixels."""
    at_one_time: dict[tuple[str, float], list[Exposure]] = {}
    for exposure in exposures:
        if not math.isnan(exposure.mjd):
            at_one_time.setdefault((exposure.detector, exposure.mjd), []).append(exposure)
    groups: dict[tuple[str, ...], list[Exposure]] = {}
    for exposure in (entry for together in at_one_time.values() if len(together) > 1 for entry in together):
        groups.setdefault(tuple(repr(getattr(exposure, name)) for name in _names(_OF_PLACE | _OF_NAME)), []).append(exposure)
    duplicates: dict[str, Duplicate] = {}
    for group in groups.values():
        found: dict[bytes, str] = {}
        for exposure in sorted(group, key=_rank) if len(group) > 1 else ():
            pixels = _pixels(exposure, camera)
            if pixels is not None and found.setdefault(pixels, exposure.path) != exposure.path:
                duplicates[exposure.path] = Duplicate(found[pixels], exposure.path)
    return [exposure for exposure in exposures if exposure.path not in duplicates], list(duplicates.values())


def _names(left_out: frozenset[str]) -> list[str]:
    return [entry.name for entry in fields(Exposure) if entry.name not in left_out]


def _pixels(exposure: Exposure, camera: Camera) -> bytes | None:
    """Return a digest of all pixels of a file, None if it cannot be read."""
    digest = hashlib.blake2b()
    try:
        with RawFile(exposure.path, camera) as opened:
            for amplifier in opened.detector.amplifiers:
                digest.update(opened.segment(amplifier.name).data)
    except InputError:
        return None
    return digest.digest()
