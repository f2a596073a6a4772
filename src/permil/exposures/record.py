"""One exposure of one detector, as its primary header, its name and its folder tell it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Column, Table

from permil.camera import Camera, Detector
from permil.errors import CameraError, InputError
from permil.exposures.cards import Cards
from permil.exposures.hdu import BLOCK, fits_stream, is_compressed, read_primary_header, read_structure, warn_of_file
from permil.exposures.names import CcobFolder, FileName, parse_ccob_folder, parse_file_name, run_and_job
from permil.exposures.sums import CHANGED_HEADER, Checksums, has_changed_header

LEDS = ("uv", "blue", "red", "nm750", "nm850", "nm960")
NAN = math.nan


def _column(description: str, *, unit: str | None = None, default: Any) -> Any:
    return field(default=default, metadata={"description": description, "unit": unit})


@dataclass(frozen=True, kw_only=True)
class Exposure:
    """One detector file of one exposure: one row of the index, in this order of columns.

    Missing text is "", missing numbers are NaN, missing counters -1. What the header cannot tell (the position that counts, the
    purpose) is filled in by the index.
    """

    path: str = _column("raw file", default="")
    obsid: str = _column("exposure; the detectors of one exposure share it", default="")
    run: str = _column("run number", default="")
    job: str = _column("folder above that of the exposure", default="")
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
    x_folder_mm: float = _column("commanded X of the folder's name, CCS", unit="mm", default=NAN)
    y_folder_mm: float = _column("commanded Y of the folder's name, CCS", unit="mm", default=NAN)
    x_mm: float = _column("projector X in use, CCS", unit="mm", default=NAN)
    y_mm: float = _column("projector Y in use, CCS", unit="mm", default=NAN)
    position_kind: str = _column('where x_mm and y_mm come from: header, folder, folder+offset or ""', default="")
    ccd_temp: float = _column("temperature of the sensor", unit="deg_C", default=NAN)
    led_temp: float = _column("temperature of the LED board, front", unit="deg_C", default=NAN)
    sphere_temp: float = _column("temperature of the integrating sphere", unit="deg_C", default=NAN)
    board_temp: float = _column("temperature of the projector's board", unit="deg_C", default=NAN)
    mjd: float = _column("readout, modified Julian date", unit="d", default=NAN)
    filter: str = _column("filter of the flat-field projector", default="")
    filter2: str = _column("neutral-density filter of the flat-field projector", default="")
    purpose: str = _column("what the exposure is for: bias, scan, pointing, spot or other", default="")
    position_id: int = _column("exposures of one LED, run, place, current and time share it", default=-1)
    aimed: str = _column('detector that the projector points at, "" for none', default="")


def read_exposure(path: str | Path, camera: Camera, *, leds: Collection[str] = LEDS, checksums: Checksums = "refuse") -> Exposure:
    """Read the primary header of a raw file; no other HDU is looked at, unless the size of the file is not a number of FITS blocks.

    Parameters
    ----------
    camera
        The camera that must have the detector.
    leds
        Names that an LED may have.
    checksums
        Whether a header that was changed after its CHECKSUM was made is warned of (all but ``off``).

    Warns
    -----
    FileWarning
        Of such a header, and of bytes behind the last HDU or padding that is missing there.

    Raises
    ------
    InputError
        If the file cannot be read, is not a raw exposure, names a detector that the camera does not have, or an unknown LED.
    """
    path = Path(path)
    with fits_stream(path) as stream:
        header, header_sum = read_primary_header(stream, path)
        if not is_compressed(stream) and (size := path.stat().st_size) % BLOCK:
            # Cut short, or longer than it should be: all headers tell.
            read_structure(stream, size, path)
    cards = Cards(header)
    if checksums != "off" and cards.get("NAXIS") == 0 and has_changed_header(cards, header_sum):
        warn_of_file(path, f"HDU 0: {CHANGED_HEADER}")
    image_type, test_type = _text(cards, "IMGTYPE").lower(), _text(cards, "TESTTYPE").lower()
    if not image_type:
        raise InputError("not a raw exposure (no IMGTYPE card)", path=path, remedy="leave it out of the folders to search")
    named = parse_file_name(path.name)
    detector = identify_detector(cards, path, camera)
    run, job = run_and_job(path)
    folder = parse_ccob_folder(path.parent.name)
    # The CCOB cards of any other exposure are leftovers of the last CCOB exposure.
    is_ccob = image_type == "ccob" or (test_type == "ccob" and image_type not in ("bias", "dark"))
    return Exposure(
        path=str(path),
        obsid=_text(cards, "OBSID") or (named.obsid if named else "") or path.name.split(".", maxsplit=1)[0],
        run=_text(cards, "RUNNUM") or run,
        job=job,
        day_obs=_text(cards, "DAYOBS") or (named.day_obs if named else ""),
        seqnum=_counter(cards, "SEQNUM", named.seqnum if named else -1),
        test_seqnum=_counter(cards, "TSEQNUM", folder.sequence if folder else -1),
        detector=detector.name,
        vendor=detector.vendor,
        serial=_text(cards, "LSST_NUM"),
        image_type=image_type,
        test_type=test_type,
        exposure_s=_number(cards, "EXPTIME"),
        ccd_temp=_number(cards, "CCDTEMP"),
        mjd=next((mjd for card in ("MJD-OBS", "MJD-TRG", "MJD") if not math.isnan(mjd := _number(cards, card))), NAN),
        filter=_text(cards, "FILTER"),
        filter2=_text(cards, "FILTER2"),
        **_header_position(cards),
        **(_ccob_entries(cards, path, folder, named, leds) if is_ccob else {}),
    )


def _header_position(cards: Cards) -> dict[str, Any]:
    x_mm, y_mm = _number(cards, "BOTXCAM"), _number(cards, "BOTYCAM")
    return {} if math.isnan(x_mm + y_mm) else {"x_header_mm": x_mm, "y_header_mm": y_mm}


def _ccob_entries(
    cards: Cards, path: Path, folder: CcobFolder | None, named: FileName | None, leds: Collection[str]
) -> dict[str, Any]:
    led = _text(cards, "CCOBLED") or (folder.led if folder else "") or (named.led if named else "")
    if led not in leds:
        raise InputError(
            f"unknown LED {led!r}" if led else "a CCOB exposure without the name of its LED",
            path=path,
            remedy=f"known LEDs are {', '.join(leds)} (exposures.leds)",
            value=led,
            allowed=tuple(leds),
        )
    if folder and folder.led != led:
        raise InputError(
            f"the header names the LED {led}, the folder {folder.led}",
            path=path,
            remedy="put the file where it belongs or rename the folder",
            value=led,
            folder=folder.led,
        )
    photodiode = _number(cards, "CCOBADC")
    entries: dict[str, Any] = {
        "led": led,
        "current_a": _number(cards, "CCOBCURR"),
        "photodiode": photodiode if photodiode > 0 else NAN,
        "led_temp": _number(cards, "TEMPLED1"),
        "sphere_temp": _number(cards, "TEMPSPH"),
        "board_temp": _number(cards, "TEMPBRD"),
    }
    if folder:
        entries |= {"x_folder_mm": folder.x_mm, "y_folder_mm": folder.y_mm}
    return entries


def identify_detector(cards: Cards, path: str | Path, camera: Camera) -> Detector:
    """Return the detector of a raw file: from RAFTBAY and CCDSLOT, else the file name, else the sensor's serial number.

    Raises
    ------
    InputError
        If none of them names a detector of the camera, or if they contradict each other.
    """
    named = parse_file_name(Path(path).name)
    in_name = named.detector if named else ""
    serial = _text(cards, "LSST_NUM")
    in_header = "_".join(part for part in (_text(cards, "RAFTBAY"), _text(cards, "CCDSLOT")) if part)
    if in_header and in_name and in_header != in_name:
        raise InputError(
            f"the header says detector {in_header}, the file name {in_name}",
            path=path,
            remedy="give the file its own name",
            value=in_header,
            name=in_name,
        )
    name = in_header or in_name or next((entry.name for entry in camera.detectors.values() if entry.serial == serial), "")
    if not name:
        raise InputError(
            "neither header nor file name says which detector it is",
            path=path,
            remedy=f"give a raw file of camera {camera.name}",
            value=serial,
        )
    try:
        detector = camera[name]
    except CameraError as error:
        raise InputError(
            f"camera {camera.name} has no detector {name!r}",
            path=path,
            remedy="check that the file is a raw exposure of this camera",
            value=name,
        ) from error
    vendor = serial[:3] if serial[:3] in ("E2V", "ITL") else _text(cards, "CCD_MANU")
    if vendor in ("E2V", "ITL") and vendor != detector.vendor:
        raise InputError(
            f"the header says a sensor of {vendor}, camera {camera.name} has one of {detector.vendor} at {name}",
            path=path,
            remedy="use a camera file of the time when the exposure was taken",
            value=vendor,
            expected=detector.vendor,
        )
    return detector


def _text(cards: Cards, name: str) -> str:
    content = cards.get(name)
    return "" if content is None or isinstance(content, bool) else str(content).strip()


def _number(cards: Cards, name: str) -> float:
    content = cards.get(name)
    if isinstance(content, bool) or content is None:
        return NAN
    try:
        number = float(content)
    except ValueError:
        return NAN
    return number if math.isfinite(number) else NAN


def _counter(cards: Cards, name: str, default: int) -> int:
    number = _number(cards, name)
    return default if math.isnan(number) else int(number)


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
