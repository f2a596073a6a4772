"""Consistency of the files of a run: duplicates, wrong but plausible cards, different sensors in one bay, entries of a registry.

Cards are compared between the files of one exposure and between the exposures of one run. A bay may hold different sensors in different
campaigns; a superbias or flat that mixes them is wrong for both.
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import zip_longest
from pathlib import Path

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from permil.arrays import FloatArray, IntArray
from permil.camera import Camera
from permil.camera.model import serial_key
from permil.errors import ConfigError, InputError
from permil.exposures.exposure import Exposure, time_order
from permil.exposures.file_names import parse_obsid
from permil.exposures.hdu import fits_stream
from permil.exposures.photodiode import repeated_readings, saturated_readings
from permil.exposures.positions import OFFSET_TOLERANCE_MM, groups
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


def _same_content(first: str, second: str) -> bool:
    with fits_stream(Path(first)) as one, fits_stream(Path(second)) as other:
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
    alike: dict[tuple[str, ...], list[Exposure]] = {}
    for exposure in (entry for together in at_one_time.values() if len(together) > 1 for entry in together):
        alike.setdefault(tuple(repr(getattr(exposure, name)) for name in _names(_OF_PLACE | _OF_NAME)), []).append(exposure)
    duplicates: dict[str, Duplicate] = {}
    for group in alike.values():
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


# Cards that describe an exposure as a whole, so that all its files agree: name, and the largest difference between two files
# (relative; positions in mm).
_SHARED_TEXTS = {"image_type": "IMGTYPE", "led": "CCOBLED"}
_SHARED_NUMBERS = {
    "exposure_s": ("EXPTIME", 0.0, 0.01),
    "current_a": ("CCOBCURR", 0.0, 0.01),
    "photodiode": ("CCOBADC", 0.0, 0.01),
    "x_header_mm": ("BOTXCAM", OFFSET_TOLERANCE_MM, 0.0),
    "y_header_mm": ("BOTYCAM", OFFSET_TOLERANCE_MM, 0.0),
}
# Fewer exposures do not define a usual value.
_FEWEST = 5
# A setting or a constant of the stage is unusual if at most this number of exposures of a run differ from all others.
_UNUSUAL_SHARE = 0.05
# A photodiode reading that differs by this factor from the median at the same settings is not a measurement of that light.
_PHOTODIODE_FACTOR = 2.0
# Light at the same settings changes by less than this, relative, unless its LED does; and readings scatter.
_USUAL_CHANGE, _USUAL_SIGMAS = 0.03, 10.0


def leave_out_disagreeing(exposures: Sequence[Exposure]) -> tuple[list[Exposure], list[tuple[Exposure, str]]]:
    """Exclude files that contradict the other files of their exposure.

    Image type, LED, current, time, photodiode and position belong to the exposure: a file whose value differs from that of the majority has
    a wrong header. Without a majority all files of the exposure are left out.

    Returns
    -------
    kept, left_out
        Files to use, and excluded files with the reason.
    """
    together: dict[str, list[Exposure]] = {}
    for exposure in exposures:
        together.setdefault(exposure.obsid, []).append(exposure)
    reasons: dict[str, str] = {}
    for files in together.values():
        if len(files) > 1:
            reasons |= _disagreeing(files)
    kept = [exposure for exposure in exposures if exposure.path not in reasons]
    return kept, [(exposure, reasons[exposure.path]) for exposure in exposures if exposure.path in reasons]


def _disagreeing(files: list[Exposure]) -> dict[str, str]:
    reasons: dict[str, str] = {}
    for name, card in _SHARED_TEXTS.items():
        texts = [(file, getattr(file, name)) for file in files if getattr(file, name)]
        counts = sorted({text: sum(other == text for _, other in texts) for _, text in texts}.items(), key=lambda item: -item[1])
        if len(counts) > 1:
            reasons |= _against(card, texts, counts[0][0], [text == counts[0][0] for _, text in texts])
    for name, (card, absolute, relative) in _SHARED_NUMBERS.items():
        numbers = [(file, getattr(file, name)) for file in files if getattr(file, name) == getattr(file, name)]
        values = np.array([number for _, number in numbers])
        if values.size < 2 or np.ptp(values) <= absolute + relative * np.abs(values).max():
            continue
        middle = float(np.sort(values)[values.size // 2])
        agrees = np.abs(values - middle) <= absolute + relative * abs(middle)
        reasons |= _against(card, numbers, middle, agrees.tolist())
    return reasons


def _against(
    card: str, files: list[tuple[Exposure, str]] | list[tuple[Exposure, float]], usual: str | float, agrees: list[bool]
) -> dict[str, str]:
    """Return the reason against each file with another value than the majority, or against all files without a majority."""
    if 2 * sum(agrees) <= len(agrees):
        return {file.path: f"the files of exposure {file.obsid} disagree about {card}" for file, _ in files}
    return {
        file.path: f"{card} is {value}, but {usual} in {sum(agrees)} other files of exposure {file.obsid}"
        for (file, value), same in zip(files, agrees, strict=True)
        if not same
    }


def leave_out_moved(exposures: Sequence[Exposure]) -> tuple[list[Exposure], list[tuple[Exposure, str]]]:
    """Exclude files whose camera position contradicts the stage position, unless the folder name decides which is right.

    BOTXCAM + BOTX and BOTYCAM + BOTY are constants of a run: a file with another sum has a wrong position.

    Returns
    -------
    kept, left_out
        Files to use, and excluded files with the reason.
    """
    sums = np.array([(row.x_header_mm + row.x_stage_mm, row.y_header_mm + row.y_stage_mm) for row in exposures]).reshape(-1, 2)
    known = np.flatnonzero(np.isfinite(sums).all(axis=1))
    # Each projector has its own constants.
    job_of = [f"{exposure.run}/{exposure.job}/{exposure.image_type}" for exposure in exposures]
    reasons: dict[int, str] = {}
    for _, members in groups(np.array(job_of, dtype=np.str_)[known]):
        rows = known[members]
        centre = np.median(sums[rows], axis=0)
        off = np.abs(sums[rows] - centre).max(axis=1)
        moved = rows[off > OFFSET_TOLERANCE_MM].tolist()
        if len(rows) < _FEWEST or len(moved) > max(1.0, _UNUSUAL_SHARE * len(rows)):
            continue
        for row in moved:
            if np.isnan(exposures[row].x_folder_mm):
                reasons[row] = (
                    f"the position in the camera (BOTXCAM, BOTYCAM) differs from that of the stage (BOTX, BOTY) by "
                    f"{np.abs(sums[row] - centre).max():.3f} mm"
                )
    kept = [exposure for row, exposure in enumerate(exposures) if row not in reasons]
    return kept, [(exposures[row], reason) for row, reason in reasons.items()]


def note_unusual(exposures: Table) -> None:
    """Note settings and photodiode readings that differ from the other exposures of the run and LED, and times out of order.

    Parameters
    ----------
    exposures
        Classified index table; its column ``note`` is changed in place, and ``photodiode`` is NaN where a reading is no measurement of
        the light of its exposure.
    """
    notes: dict[int, list[str]] = {}
    text = {name: np.asarray(exposures[name], dtype=np.str_) for name in ("obsid", "led", "run", "purpose")}
    _, first = np.unique(text["obsid"], return_index=True)
    lit = first[(text["led"][first] != "") & np.isin(text["purpose"][first], ("scan", "pointing"))]
    readings = _unusual_readings(exposures, lit, text)
    noted = [
        *_unusual_settings(exposures, lit, text),
        *((row, note) for row, (note, _) in readings.items()),
        *_unusual_times(exposures, first, text),
    ]
    files = dict(groups(text["obsid"])) if noted else {}
    for row, note in noted:
        for file in files[(str(text["obsid"][row]),)]:
            notes.setdefault(int(file), []).append(note)
    for row, (_, is_used) in readings.items():
        if not is_used:
            exposures["photodiode"][files[(str(text["obsid"][row]),)]] = np.nan
    if notes:
        column = exposures["note"].astype(object)
        for row, added in notes.items():
            column[row] = "; ".join([part for part in (str(column[row]),) if part] + added)
        replacement = exposures["note"].astype(np.asarray(column.tolist(), dtype=np.str_).dtype)
        replacement[:] = column.tolist()
        exposures["note"] = replacement


def _unusual_settings(exposures: Table, lit: IntArray, text: dict[str, NDArray[np.str_]]) -> Iterable[tuple[int, str]]:
    columns = {name: np.asarray(exposures[name], dtype=float) for name in ("exposure_s", "current_a")}
    for (run, led, _), members in groups(text["run"][lit], text["led"][lit], text["purpose"][lit]):
        rows = lit[members]
        if len(rows) < _FEWEST:
            continue
        for name, card in (("exposure_s", "EXPTIME"), ("current_a", "CCOBCURR")):
            values, counts = np.unique(columns[name][rows], return_counts=True)
            usual = values[counts.argmax()]
            other = rows[~np.isclose(columns[name][rows], usual, rtol=0.01, atol=0, equal_nan=True)]
            if 0 < len(other) <= max(1.0, _UNUSUAL_SHARE * len(rows)):
                for row in other:
                    yield (
                        int(row),
                        f"{card} is {columns[name][row]:g}, but {usual:g} in the other exposures of run {run} with LED {led}",
                    )


def _unusual_readings(exposures: Table, lit: IntArray, text: dict[str, NDArray[np.str_]]) -> dict[int, tuple[str, bool]]:
    """Return the faults of the photodiode readings of rows with light, by row, and whether the readings are used."""
    readings, exposure_s, current_a = (
        np.asarray(exposures[name], dtype=float) for name in ("photodiode", "exposure_s", "current_a")
    )
    settings = np.array([f"{current_a[row]:.6g} {exposure_s[row]:.6g}" for row in lit], dtype=np.str_)
    found: dict[int, tuple[str, bool]] = {}
    for (run, _, _, _), members in groups(text["run"][lit], text["led"][lit], text["purpose"][lit], settings):
        same = lit[members][np.isfinite(readings[lit[members]])]
        if len(same) < _FEWEST:
            continue
        usual = float(np.median(readings[same]))
        deviation = np.abs(readings[same] / usual - 1.0)
        limit = max(_USUAL_CHANGE, _USUAL_SIGMAS * 1.4826 * float(np.median(deviation)))
        for row in same[deviation > limit].tolist():
            is_used = 1 / _PHOTODIODE_FACTOR <= readings[row] / usual <= _PHOTODIODE_FACTOR
            found[row] = (
                f"CCOBADC is {readings[row]:g}, but {usual:g} in exposures of run {run} with the same settings"
                + ("" if is_used else ": the reading is not used"),
                is_used,
            )
    return _repeated_readings(readings, lit[time_order(exposures[lit])], text["led"]) | found


def _repeated_readings(readings: FloatArray, ordered: IntArray, led: NDArray[np.str_]) -> dict[int, tuple[str, bool]]:
    """Return the readings that repeat the previous exposure's, of any LED, or are the largest of many equal ones of an LED.

    They are used: they differ from the light by no more than its changes.

    Parameters
    ----------
    ordered
        Rows with light in the order of time, of all LEDs.
    led
        LED of each row.
    """
    found: dict[int, tuple[str, bool]] = {}
    for name in np.unique(led[ordered]):
        rows = ordered[led[ordered] == name]
        largest = rows[saturated_readings(readings[rows])].tolist()
        found |= {row: (f"CCOBADC is {readings[row]:g} in {len(largest)} exposures, none is larger", True) for row in largest}
    for row in ordered[repeated_readings(readings[ordered])].tolist():
        found.setdefault(row, (f"CCOBADC {readings[row]:g} repeats that of the exposure before", True))
    return found


def _unusual_times(exposures: Table, first: IntArray, text: dict[str, NDArray[np.str_]]) -> Iterable[tuple[int, str]]:
    mjd = np.asarray(exposures["mjd"], dtype=float)
    # OBSID numbers count the exposures of a controller and day; other numbers may restart with each test.
    series: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for row in first[np.isfinite(mjd[first])].tolist():
        obsid = str(text["obsid"][row])
        numbered = parse_obsid(obsid)
        if numbered is not None:
            series.setdefault((numbered[0], obsid[:5]), []).append((numbered[1], row))
    for (day, _), numbers in sorted(series.items()):
        rows = [row for _, row in sorted(numbers)]
        in_order = set(_longest_rise(mjd[rows]))
        if 2 * len(in_order) <= len(rows):
            continue
        for place, row in enumerate(rows):
            if place not in in_order:
                yield row, f"MJD {mjd[row]:.5f} contradicts the order of the exposures of day {day}"


def _longest_rise(values: FloatArray) -> list[int]:
    """Return the indices of the longest non-decreasing subsequence."""
    ends: list[float] = []
    last: list[int] = []
    before = np.full(len(values), -1)
    for place, number in enumerate(values.tolist()):
        length = bisect_right(ends, number)
        before[place] = last[length - 1] if length else -1
        ends[length : length + 1], last[length : length + 1] = [number], [place]
    rise = []
    place = last[-1] if last else -1
    while place >= 0:
        rise.append(place)
        place = int(before[place])
    return rise


def choose_sensors(
    exposures: Sequence[Exposure], camera: Camera, serials: Mapping[str, Sequence[str]]
) -> tuple[list[Exposure], list[tuple[Exposure, str]]]:
    """Select the exposures of the requested sensors.

    Parameters
    ----------
    serials
        Serial numbers by detector; exposures of other detectors, and headers without a serial number, are kept.

    Returns
    -------
    kept, left_out
        Files to use, and excluded files with the reason.

    Raises
    ------
    ConfigError
        If the camera has no such detector.
    InputError
        If a detector has no exposure of a requested sensor.
    """
    wanted: dict[str, Sequence[str]] = {}
    for label, names in serials.items():
        detector = camera.find(label)
        if detector is None:
            raise ConfigError(
                f"camera {camera.name} has no detector {label!r}", remedy="correct exposures.serials", key="exposures.serials"
            )
        wanted[detector.name] = names
    kept: list[Exposure] = []
    left_out: list[tuple[Exposure, str]] = []
    for exposure in exposures:
        names = wanted.get(exposure.detector, ())
        if not names or not exposure.serial or serial_key(exposure.serial) in map(serial_key, names):
            kept.append(exposure)
        else:
            left_out.append((exposure, f"{exposure.detector} is sensor {exposure.serial}, requested is {' or '.join(names)}"))
    for name, names in wanted.items():
        others = [exposure for exposure, _ in left_out if exposure.detector == name]
        if others and not any(exposure.detector == name and exposure.serial for exposure in kept):
            raise InputError(
                f"none of the {len(others)} exposures of {name} is of sensor {' or '.join(names)}; they are of {others[0].serial}",
                path=others[0].path,
                remedy="correct exposures.serials",
                detector=name,
            )
    return kept, left_out


def require_one_sensor(exposures: Table, serials: Mapping[str, Sequence[str]], camera: Camera) -> None:
    """Check that all exposures that may enter a product of a detector are of one sensor.

    Parameters
    ----------
    exposures
        Classified index table; exposures without a purpose and headers without a serial number are ignored.
    serials
        Sensors requested by detector: several of one detector may be used together.

    Raises
    ------
    InputError
        If a detector has two sensors; the message names both, with an example file of each.
    """
    named = {detector.name for label in serials if (detector := camera.find(label)) is not None}
    detectors, found, purposes = (np.asarray(exposures[name], dtype=np.str_) for name in ("detector", "serial", "purpose"))
    mixed: list[str] = []
    first: dict[str, list[int]] = {}
    for name in np.unique(detectors):
        rows: dict[str, list[int]] = {}
        for row in np.flatnonzero((detectors == name) & (found != "") & (purposes != "other")):
            rows.setdefault(serial_key(found[row]), []).append(int(row))
        if len(rows) > 1 and str(name) not in named:
            mixed.append(str(name))
            first = first or rows
    if not mixed:
        return
    most = max(first.values(), key=len)
    parts = [f"{found[rows[0]]} in {len(rows)} files ({exposures['path'][rows[0]]})" for rows in first.values()]
    more = f"; {len(mixed) - 1} more detectors also have two sensors" if len(mixed) > 1 else ""
    raise InputError(
        f"the exposures of {mixed[0]} are of different sensors: {' and '.join(parts)}{more}",
        remedy=f"search the folders of one campaign (exposures.roots), or name the sensor to use, "
        f"for example exposures.serials: {{{mixed[0]}: {found[most[0]]}}}",
        detectors=mixed,
        serials=[str(found[rows[0]]) for rows in first.values()],
    )


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
