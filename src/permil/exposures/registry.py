"""Comparison of raw files with the registry of a repository."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from permil.exposures.exposure import Exposure
from permil.exposures.file_names import parse_obsid

_TIME_TOLERANCE_D = 120 / 86400
"""Times in headers are UTC (37 s behind TAI) or TAI, of the beginning, the end or the readout of an exposure."""
_EXPOSURE_TOLERANCE = 0.01


@dataclass(frozen=True, kw_only=True)
class RegistryEntry:
    """Entry of a registry for one raw file. Unknown text is "", an unknown number NaN, an unknown counter -1.

    Attributes
    ----------
    detector
        Name (``R22_S11``).
    obsid
        Name of the exposure.
    day_obs
        Day of the observation, YYYYMMDD.
    seqnum
        Number of the exposure on that day.
    exposure_s
        Exposure time, s.
    begin_mjd, end_mjd
        Begin and end of the exposure, modified Julian date, TAI.
    """

    detector: str = ""
    obsid: str = ""
    day_obs: str = ""
    seqnum: int = -1
    exposure_s: float = math.nan
    begin_mjd: float = math.nan
    end_mjd: float = math.nan


def compare_with_registry(
    exposures: Iterable[Exposure], entries: Mapping[str, RegistryEntry]
) -> tuple[list[Exposure], list[tuple[Exposure, str]]]:
    """Compare the headers of raw files with a registry.

    Parameters
    ----------
    entries
        Entries by path. Files without an entry are kept.

    Returns
    -------
    kept
        Files of the detector and exposure that the registry names. Other times are added to their notes: the header is used.
    others
        Files of another detector or exposure, with the reason.
    """
    kept: list[Exposure] = []
    others: list[tuple[Exposure, str]] = []
    for exposure in exposures:
        entry = entries.get(exposure.path)
        if entry is None:
            kept.append(exposure)
            continue
        contradiction = _contradiction(exposure, entry)
        if contradiction:
            others.append((exposure, f"{contradiction}; correct the registry, or leave the file out of the query"))
        else:
            kept.append(replace(exposure, note="; ".join(filter(None, [exposure.note, *_other_times(exposure, entry)]))))
    return kept, others


def _contradiction(exposure: Exposure, entry: RegistryEntry) -> str:
    """Return how the identity of a file contradicts the registry, "" if it does not."""
    own, registered = parse_obsid(exposure.obsid), parse_obsid(entry.obsid)
    same_names = own == registered if own and registered else True
    pairs = [
        ("detector", exposure.detector, entry.detector, exposure.detector == entry.detector),
        ("exposure", exposure.obsid, entry.obsid, same_names),
        ("day", exposure.day_obs, entry.day_obs, exposure.day_obs == entry.day_obs),
        ("exposure number", exposure.seqnum, entry.seqnum, exposure.seqnum == entry.seqnum),
    ]
    for what, in_header, in_registry, is_same in pairs:
        known = "" not in (in_header, in_registry) and -1 not in (in_header, in_registry)
        if known and not is_same:
            return f"the registry says {what} {in_registry}, the header {in_header}"
    return ""


def _other_times(exposure: Exposure, entry: RegistryEntry) -> list[str]:
    """Return descriptions of times that differ; comparisons with NaN are false."""
    notes = []
    early, late = entry.begin_mjd - _TIME_TOLERANCE_D, entry.end_mjd + _TIME_TOLERANCE_D
    if exposure.mjd < early or exposure.mjd > late:
        notes.append(
            f"MJD is {exposure.mjd:.5f} in the header, {entry.begin_mjd:.5f} to {entry.end_mjd:.5f} (TAI) in the registry"
        )
    if abs(exposure.exposure_s - entry.exposure_s) > _EXPOSURE_TOLERANCE * abs(entry.exposure_s):
        notes.append(f"the exposure time is {exposure.exposure_s:g} s in the header, {entry.exposure_s:g} s in the registry")
    return notes
