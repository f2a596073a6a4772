"""One exposure of one detector: values from the primary header, the file name and the folder."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Column, Table

from permil.arrays import IntArray
from permil.camera import Camera, Detector
from permil.camera.model import SERIAL_PREFIX, detector_key, serial_key
from permil.errors import InputError
from permil.exposures.cards import Cards
from permil.exposures.file_names import (
    CcobFolder,
    FileName,
    exposure_name,
    is_bias_folder,
    observation_id,
    parse_ccob_folder,
    parse_file_name,
    parse_obsid,
    run_and_job,
)
from permil.exposures.hdu import (
    BLOCK,
    CHANGED_HEADER,
    Checksums,
    fits_stream,
    has_changed_header,
    is_compressed,
    read_primary_header,
    read_structure,
    warn_of_file,
)

LEDS = ("uv", "blue", "red", "nm750", "nm850", "nm960")
NAN = math.nan

_VENDORS = ("E2V", "ITL")
_BAY_AND_SLOT = re.compile(r"(?:(R\d\d)[\s_.\-/]*)?(S[0-2GW][0-2])?", re.IGNORECASE)
_TWO_DIGITS = re.compile(r"\d\d")
_WRITTEN_AS_FLOAT = re.compile(r"\d+\.0")
_DAY = re.compile(r"\d{8}", re.ASCII)
# Readout minus midnight (UTC) of DAYOBS, days: DAYOBS is the Pacific date, or since 2024 that of UTC - 12 h; times are UTC or TAI.
_TIME_OF_DAY = (-0.05, 1.55)
_FIRST_MJD, _LAST_MJD = 50000.0, 80000.0
_MJD_ZERO = datetime(1858, 11, 17, tzinfo=UTC)
_LONGEST_DATE = len("2019-10-29")
# DARKTIME is the exposure time plus shutter time and the start of the readout; both are rounded to 1 ms.
_ROUNDING_S = 0.002


def _column(description: str, *, unit: str | None = None, default: Any) -> Any:
    return field(default=default, metadata={"description": description, "unit": unit})


@dataclass(frozen=True, kw_only=True)
class Exposure:
    """One detector file of one exposure: one row of the index, with its columns in this order.

    Missing text is "", missing numbers are NaN, missing counters -1. Values that the header does not contain (the position in use, the
    purpose) are filled in by the index.
    """

    path: str = _column("raw file", default="")
    obsid: str = _column("exposure, the same for all its detectors", default="")
    run: str = _column("run number", default="")
    job: str = _column("parent folder of the exposure's folder", default="")
    day_obs: str = _column("day of the observation, YYYYMMDD", default="")
    seqnum: int = _column("number of the exposure on that day", default=-1)
    test_seqnum: int = _column("number of the exposure within its test", default=-1)
    detector: str = _column("detector", default="")
    vendor: str = _column("vendor of the sensor", default="")
    serial: str = _column("serial number of the sensor", default="")
    image_type: str = _column("IMGTYPE in lower case", default="")
    test_type: str = _column("TESTTYPE in lower case", default="")
    led: str = _column('LED of a CCOB exposure, else ""', default="")
    current_a: float = _column("current of the LED", unit="A", default=NAN)
    exposure_s: float = _column("exposure time", unit="s", default=NAN)
    photodiode: float = _column("reading of the control photodiode; NaN unless positive", default=NAN)
    x_header_mm: float = _column("projector X of the header, CCS", unit="mm", default=NAN)
    y_header_mm: float = _column("projector Y of the header, CCS", unit="mm", default=NAN)
    x_folder_mm: float = _column("commanded X in the folder name, CCS", unit="mm", default=NAN)
    y_folder_mm: float = _column("commanded Y in the folder name, CCS", unit="mm", default=NAN)
    x_mm: float = _column("projector X in use, CCS", unit="mm", default=NAN)
    y_mm: float = _column("projector Y in use, CCS", unit="mm", default=NAN)
    position_kind: str = _column('where x_mm and y_mm come from: header, folder, folder+offset or ""', default="")
    ccd_temp: float = _column("temperature of the sensor", unit="deg_C", default=NAN)
    led_temp: float = _column("temperature of the LED board, front", unit="deg_C", default=NAN)
    led_back_temp: float = _column("temperature of the LED board, back", unit="deg_C", default=NAN)
    sphere_temp: float = _column("temperature of the integrating sphere", unit="deg_C", default=NAN)
    board_temp: float = _column("temperature of the projector's board", unit="deg_C", default=NAN)
    mjd: float = _column("readout, modified Julian date", unit="d", default=NAN)
    filter: str = _column("filter of the flat-field projector", default="")
    filter2: str = _column("neutral-density filter of the flat-field projector", default="")
    purpose: str = _column("purpose of the exposure: bias, scan, pointing, spot or other", default="")
    position_id: int = _column("number of the group with the same LED, run, position, current and time", default=-1)
    aimed: str = _column('detector that the projector points at, "" for none', default="")
    x_stage_mm: float = _column("stage X of the header, bench", unit="mm", default=NAN)
    y_stage_mm: float = _column("stage Y of the header, bench", unit="mm", default=NAN)
    note: str = _column("inconsistencies within the file, or with its folder, the camera or other files", default="")


def read_exposure(path: str | Path, camera: Camera, *, leds: Collection[str] = LEDS, checksums: Checksums = "refuse") -> Exposure:
    """Read the primary header of a raw file; the other headers only if the file size is not a multiple of a FITS block.

    Parameters
    ----------
    camera
        The camera that contains the detector.
    leds
        Accepted names of LEDs.
    checksums
        Unless ``off``, a header that was changed after its CHECKSUM was written gives a warning.

    Warns
    -----
    FileWarning
        About such a header, bytes after the last HDU, or missing padding.

    Raises
    ------
    InputError
        If the file cannot be read, is not a raw exposure, names a detector that the camera does not have, or an unknown LED.
    """
    path = Path(path)
    with fits_stream(path) as stream:
        header, header_sum = read_primary_header(stream, path)
        if not is_compressed(stream) and (size := os.fstat(stream.fileno()).st_size) % BLOCK:
            # Truncated or too long: reading all headers shows which.
            read_structure(stream, size, path)
    cards = Cards(header)
    if checksums != "off" and cards.get("NAXIS") == 0 and has_changed_header(cards, header_sum):
        warn_of_file(path, f"HDU 0: {CHANGED_HEADER}")
    image_type, test_type = cards.text("IMGTYPE").lower(), cards.text("TESTTYPE").lower()
    if not image_type:
        raise InputError("not a raw exposure (no IMGTYPE card)", path=path, remedy="remove it from the folders to search")
    named = parse_file_name(path.name) or FileName("")
    folder = parse_ccob_folder(path.parent.name)
    detector = identify_detector(cards, path, camera)
    run, job = run_and_job(path)
    # CCOB cards in any other exposure are left over from the last CCOB exposure.
    is_ccob = image_type == "ccob" or (test_type == "ccob" and image_type not in ("bias", "dark"))
    _require_kind_of_folder(path, folder, image_type, is_ccob=is_ccob)
    day_obs, seqnum = _day(cards), cards.integer("SEQNUM", -1)
    in_header = observation_id(day_obs, seqnum, controller=cards.text("CONTRLLR") or "C") if day_obs and seqnum >= 0 else ""
    obsid = cards.text("OBSID") or named.exposure or in_header or exposure_name(path)
    entries: dict[str, Any] = {
        "path": str(path),
        "obsid": obsid if parse_obsid(obsid) or not named.obsid else named.obsid,
        "run": _digits(cards, "RUNNUM") or run,
        "job": job,
        "day_obs": day_obs or named.day_obs,
        "seqnum": seqnum if seqnum >= 0 else named.seqnum,
        "test_seqnum": cards.integer("TSEQNUM", folder.sequence if folder else -1),
        "detector": detector.name,
        "vendor": detector.vendor,
        "serial": plain_serial(sensor_serial(cards) or named.sensor, detector),
        "image_type": image_type,
        "test_type": test_type,
        "exposure_s": _exposure_time(cards, named),
        "ccd_temp": cards.temperature("CCDTEMP"),
        "mjd": _modified_julian_date(cards),
        "filter": cards.text("FILTER"),
        "filter2": cards.text("FILTER2"),
        **_header_position(cards),
        **(_ccob_entries(cards, path, folder, named, leds) if is_ccob else {}),
    }
    notes = _contradictions(cards, entries, named, folder) + foreign_sensor(
        entries["serial"], cards.text("RAFTNAME"), detector, camera
    )
    return Exposure(**entries, note="; ".join([*cards.problems.values(), *notes]))


def _require_kind_of_folder(path: Path, folder: CcobFolder | None, image_type: str, *, is_ccob: bool) -> None:
    """Check that a file matches the kind of exposure in its folder name.

    Raises
    ------
    InputError
        If a bias or dark lies in the folder of a CCOB exposure, or a CCOB exposure in that of a bias.
    """
    if (folder and image_type in ("bias", "dark")) or (is_ccob and is_bias_folder(path.parent.name)):
        raise InputError(
            f"the header says {image_type.upper()}, the folder {path.parent.name}",
            path=path,
            remedy="move the file to the right folder or rename the folder",
            value=image_type,
            folder=path.parent.name,
        )


def _digits(cards: Cards, name: str) -> str:
    """Return a numeric name (a run, a day), which may be written as a float."""
    text = cards.text(name)
    return text[:-2] if _WRITTEN_AS_FLOAT.fullmatch(text) else text


def _day(cards: Cards) -> str:
    """Return DAYOBS as YYYYMMDD, "" if it is missing or not a date."""
    text = _digits(cards, "DAYOBS")
    day = text.replace("-", "")
    if not text or not math.isnan(_midnight(day)):
        return day
    cards.problems["DAYOBS"] = f"card DAYOBS is not a date ({text[:40]!r})"
    return ""


def _exposure_time(cards: Cards, named: FileName) -> float:
    exposure_s = cards.number("EXPTIME", unit="s")
    if exposure_s < 0:
        cards.problems["EXPTIME"] = f"card EXPTIME is negative ({exposure_s:g})"
        return NAN
    return named.exposure_s if math.isnan(exposure_s) and named.exposure_s is not None else exposure_s


def _modified_julian_date(cards: Cards) -> float:
    """Return the time of readout from the first card that holds one: a number, else a date and time of ISO 8601."""
    for name in ("MJD-OBS", "MJD-TRG", "MJD"):
        mjd = cards.number(name)
        if _FIRST_MJD < mjd < _LAST_MJD:
            return mjd
        if not math.isnan(mjd):
            cards.problems[name] = f"card {name} is not a date in the era of the camera ({mjd:g})"
    for name in ("DATE-OBS", "DATE-TRG", "DATE-BEG", "DATE-END"):
        text = cards.text(name)
        mjd = _mjd_of(text)
        if _FIRST_MJD < mjd < _LAST_MJD:
            return mjd
        if text:
            cards.problems[name] = f"card {name} is not a date and time in the era of the camera ({text[:40]!r})"
    return NAN


def _mjd_of(text: str) -> float:
    """Return the modified Julian date of a date and time of ISO 8601, NaN for anything else (a date alone has no time)."""
    try:
        time = datetime.fromisoformat(text.upper())
    except ValueError:
        return NAN
    if len(text) <= _LONGEST_DATE:
        return NAN
    time = time if time.tzinfo else time.replace(tzinfo=UTC)
    return (time - _MJD_ZERO) / timedelta(days=1)


def _header_position(cards: Cards) -> dict[str, Any]:
    entries: dict[str, Any] = {}
    for kind, names in (("header", ("BOTXCAM", "BOTYCAM")), ("stage", ("BOTX", "BOTY"))):
        x_mm, y_mm = (cards.number(name, unit="mm") for name in names)
        if not math.isnan(x_mm + y_mm):
            entries |= {f"x_{kind}_mm": x_mm, f"y_{kind}_mm": y_mm}
    return entries


def _ccob_entries(cards: Cards, path: Path, folder: CcobFolder | None, named: FileName, leds: Collection[str]) -> dict[str, Any]:
    known = {led.lower(): led for led in leds}
    written = {
        "header": cards.text("CCOBLED"),
        "folder": folder.led if folder else "",
        "file name": named.led,
    }
    stated = {source: known.get(led.lower(), led) for source, led in written.items() if led}
    led = next(iter(stated.values()), "")
    if led not in leds:
        raise InputError(
            f"unknown LED {led!r}" if led else "a CCOB exposure without the name of its LED",
            path=path,
            remedy=f"known LEDs are {', '.join(leds)} (exposures.leds)",
            value=led,
            allowed=tuple(leds),
        )
    for source, other in stated.items():
        if other != led:
            raise InputError(
                f"the {next(iter(stated))} names the LED {led}, the {source} {other}",
                path=path,
                remedy="move the file to the right folder or rename the folder",
                value=led,
                folder=other,
            )
    photodiode, current_a = cards.number("CCOBADC", unit="V"), cards.number("CCOBCURR", unit="A")
    if photodiode <= 0:
        cards.problems["CCOBADC"] = f"card CCOBADC is not positive ({photodiode:g})"
    entries: dict[str, Any] = {
        "led": led,
        "current_a": named.current_a if math.isnan(current_a) and named.current_a is not None else current_a,
        "photodiode": photodiode if photodiode > 0 else NAN,
        "led_temp": cards.temperature("TEMPLED1"),
        "led_back_temp": cards.temperature("TEMPLED2"),
        "sphere_temp": cards.temperature("TEMPSPH"),
        "board_temp": cards.temperature("TEMPBRD"),
    }
    if folder:
        entries |= {"x_folder_mm": folder.x_mm, "y_folder_mm": folder.y_mm}
    return entries


def _contradictions(cards: Cards, entries: Mapping[str, Any], named: FileName, folder: CcobFolder | None) -> list[str]:
    """Return contradictions between cards, file name and folder that do not exclude the file."""
    notes = []
    by_obsid, in_header = parse_obsid(entries["obsid"]), cards.text("OBSID")
    by_name = parse_obsid(named.obsid)
    by_cards = (entries["day_obs"], entries["seqnum"])
    if in_header and by_name and parse_obsid(in_header) != by_name:
        notes.append(f"the header says exposure {in_header[:40]}, the file name {named.obsid}")
    elif by_obsid and by_cards[0] and by_cards[1] >= 0 and by_obsid != by_cards:
        notes.append(f"OBSID {entries['obsid']} contradicts DAYOBS {by_cards[0]} and SEQNUM {by_cards[1]}")
    if folder and entries["test_seqnum"] != folder.sequence:
        notes.append(f"TSEQNUM is {entries['test_seqnum']}, the folder's number {folder.sequence}")
    for entry, name, in_name in (("exposure_s", "EXPTIME", named.exposure_s), ("current_a", "CCOBCURR", named.current_a)):
        content = entries.get(entry, NAN)
        if in_name is not None and abs(content - in_name) > 0.01 * abs(in_name):
            notes.append(f"{name} is {content:g}, the file name says {in_name:g}")
    midnight = _midnight(entries["day_obs"])
    if not math.isnan(entries["mjd"] + midnight) and not _TIME_OF_DAY[0] < entries["mjd"] - midnight < _TIME_OF_DAY[1]:
        notes.append(f"MJD {entries['mjd']:.5f} is not on day {entries['day_obs']}")
    if entries["image_type"] == "bias" and entries["exposure_s"] > 0:
        notes.append(f"a bias with an exposure time of {entries['exposure_s']:g} s")
    dark_s = cards.number("DARKTIME", unit="s")
    if entries["exposure_s"] > dark_s + _ROUNDING_S:
        notes.append(f"EXPTIME {entries['exposure_s']:g} s exceeds DARKTIME {dark_s:g} s")
    return notes


@lru_cache(maxsize=64)
def _midnight(day: str) -> float:
    """Return the modified Julian date of a day YYYYMMDD, NaN if it is not a date."""
    if not _DAY.fullmatch(day):
        return NAN
    try:
        return float(date(int(day[:4]), int(day[4:6]), int(day[6:])).toordinal() - date(1858, 11, 17).toordinal())
    except ValueError:
        return NAN


@dataclass(frozen=True)
class _Statement:
    """The detector named by one source, and the matching detectors of the camera."""

    source: str
    label: str
    names: frozenset[str]


def identify_detector(cards: Cards, path: Path, camera: Camera) -> Detector:
    """Return the detector of a raw file.

    Bay and slot (RAFTBAY and CCDSLOT), name or number (DETECTOR, CHIPID) and the file name are compared; each may be incomplete. If only a
    slot is known, the serial numbers of sensor and raft decide; without any of these, the serial number of the sensor.

    Raises
    ------
    InputError
        If they match no detector of the camera or more than one, or if two of them disagree.
    """
    named = parse_file_name(path.name) or FileName("")
    statements = _header_statements(cards, path, camera)
    in_name = named.detector or named.slot
    if in_name:
        statements.append(_Statement("the file name", in_name, _detectors_at(in_name, path, camera)))
    if named.number >= 0 and (numbered := camera.find(named.number)):
        statements.append(_Statement("the number in the file name", numbered.name, frozenset({numbered.name})))
    serial = sensor_serial(cards) or named.sensor
    names = frozenset(camera.detectors) if statements else frozenset()
    for statement in statements:
        if not names & statement.names:
            first = next((other for other in statements if not other.names & statement.names), statements[0])
            raise InputError(
                f"{first.source} says detector {first.label}, {statement.source} {statement.label}",
                path=path,
                remedy="restore the original file name",
                value=first.label,
                name=statement.label,
            )
        names &= statement.names
    if len(names) != 1:
        names = _by_serial_numbers(names, serial, cards.text("RAFTNAME"), camera)
    if len(names) != 1:
        stated = " and ".join(f"{statement.source} says {statement.label}" for statement in statements)
        raise InputError(
            "neither header nor file name identifies the detector" + (f" ({stated})" if stated else ""),
            path=path,
            remedy=f"give a raw file of camera {camera.name}",
            value=serial,
        )
    detector = camera[next(iter(names))]
    vendor = next((name for name in (serial_key(serial)[:3], cards.text("CCD_MANU").upper()) if name in _VENDORS), "")
    if vendor and vendor != detector.vendor:
        raise InputError(
            f"the header names a sensor of {vendor}, but {detector.name} of camera {camera.name} is a sensor of {detector.vendor}",
            path=path,
            remedy="use a camera file for the date of the exposure",
            value=vendor,
            expected=detector.vendor,
        )
    return detector


def _header_statements(cards: Cards, path: Path, camera: Camera) -> list[_Statement]:
    statements = []
    bay, slot = cards.text("RAFTBAY"), cards.text("CCDSLOT")
    bay, slot = f"R{bay}" if _TWO_DIGITS.fullmatch(bay) else bay, f"S{slot}" if _TWO_DIGITS.fullmatch(slot) else slot
    # Either card may hold both.
    in_header = next(
        (part for part in (slot, bay) if bay.upper() in part.upper() and slot.upper() in part.upper()), f"{bay}_{slot}"
    )
    if in_header:
        statements.append(_Statement("the header", in_header, _detectors_at(in_header, path, camera)))
    for name in ("DETECTOR", "CHIPID"):
        label = cards.text(name)
        if not label:
            continue
        if _BAY_AND_SLOT.fullmatch(label):
            statements.append(_Statement(f"card {name}", label, _detectors_at(label, path, camera)))
        elif isinstance(detector_key(label), int) and (found := camera.find(label)):
            statements.append(_Statement(f"card {name}", f"{label} ({found.name})", frozenset({found.name})))
    return statements


def _detectors_at(label: str, path: Path, camera: Camera) -> frozenset[str]:
    """Return the detectors of a bay, a slot or both.

    Raises
    ------
    InputError
        If the camera has none.
    """
    found = camera.find(label)
    if found is not None:
        return frozenset({found.name})
    place = _BAY_AND_SLOT.fullmatch(label)
    bay, slot = (place[1] or "", place[2] or "") if place else ("", "")
    names = frozenset(
        name
        for name, detector in camera.detectors.items()
        if bay.upper() in ("", detector.raft) and slot.upper() in ("", detector.slot)
    )
    if not (bay or slot) or not names:
        raise InputError(
            f"camera {camera.name} has no detector {label!r}",
            path=path,
            remedy="check that the file is a raw exposure of this camera",
            value=label,
        )
    return names


def _by_serial_numbers(names: frozenset[str], serial: str, raft: str, camera: Camera) -> frozenset[str]:
    """Return the possible detectors with this sensor, else those in this raft."""
    key = serial_key(serial)
    same = frozenset(name for name, detector in camera.detectors.items() if key and serial_key(detector.serial) == key)
    if same & names or not names:
        return same & names if names else same
    wanted = raft_key(raft)
    return frozenset(name for name in names if wanted and raft_key(camera[name].raft_serial) == wanted)


_NUMPY_KINDS: dict[str, Any] = {"str": np.str_, "int": np.int64, "float": np.float64}


def exposures_to_table(exposures: Collection[Exposure]) -> Table:
    """Return a table with one row per exposure and the columns of `Exposure`."""
    return columns_to_table({entry.name: [getattr(row, entry.name) for row in exposures] for entry in fields(Exposure)})


def columns_to_table(columns: Mapping[str, Any]) -> Table:
    """Return a table with the columns of `Exposure`, with their types, units and descriptions."""
    return Table(
        [
            Column(
                np.array(columns[entry.name], dtype=_NUMPY_KINDS[str(entry.type)]),
                name=entry.name,
                unit=entry.metadata["unit"],
                description=entry.metadata["description"],
            )
            for entry in fields(Exposure)
        ]
    )


def time_order(exposures: Table) -> IntArray:
    """Return the order of rows of an index in time; by day and number of the exposures if one of them has no time."""
    has_times = np.isfinite(np.asarray(exposures["mjd"], dtype=np.float64)).all()
    return np.asarray(exposures.argsort([*(["mjd"] if has_times else []), "day_obs", "seqnum", "obsid"]), dtype=np.int64)


def in_time_order(exposures: Table) -> Table:
    """Return rows of an index in the order of `time_order`."""
    return exposures[time_order(exposures)]


_RAFT = re.compile(r"(C?RTM)[-_ ]?(\d{3})(.*ETU)?", re.IGNORECASE)
_SHORTEST_SERIAL = 4
_NO_SERIAL = frozenset({"", "NONE", "UNKNOWN", "TBD", "NAN", "0"})


def sensor_serial(cards: Cards) -> str:
    """Return the serial number of the sensor in a primary header, "" if missing."""
    serial = cards.text("LSST_NUM")
    key = serial_key(serial)
    if key in _NO_SERIAL:
        return ""
    if len(key) < _SHORTEST_SERIAL or not any(map(str.isdigit, key)):
        cards.problems["LSST_NUM"] = f"card LSST_NUM is not a serial number ({serial[:40]!r})"
        return ""
    return serial


def plain_serial(serial: str, detector: Detector) -> str:
    """Normalise a serial number: the spelling of the camera for its own sensor, else upper case with hyphens."""
    if not serial or serial_key(serial) == serial_key(detector.serial):
        return detector.serial if serial else ""
    return re.sub(r"[\s_]+", "-", SERIAL_PREFIX.sub("", serial).strip().upper())


def raft_key(serial: str) -> tuple[str, str, bool] | None:
    """Parse the serial number of a raft: kind, number, and whether it is an engineering unit."""
    found = _RAFT.search(serial)
    return (found[1].upper(), found[2], found[3] is not None) if found else None


def foreign_sensor(serial: str, raft: str, detector: Detector, camera: Camera) -> list[str]:
    """Describe sensor and raft if they differ from those of the camera.

    Sensors have been swapped and a camera file describes one epoch, so a difference is a note, not an error.
    """
    other_raft = raft_key(raft) not in (None, raft_key(detector.raft_serial))
    if serial and detector.serial and serial_key(serial) != serial_key(detector.serial):
        rafts = (f" of raft {raft}", f" of raft {detector.raft_serial}") if other_raft else ("", "")
        return [f"{detector.name} is sensor {serial}{rafts[0]}, but {detector.serial}{rafts[1]} in camera {camera.name}"]
    if other_raft and detector.raft_serial:
        return [f"{detector.name} is in raft {raft}, but in {detector.raft_serial} in camera {camera.name}"]
    return []
