"""Parse file and folder names: detector, day and sequence number, LED, commanded position, run and job.

Names by epoch (raw files of the LSST camera on its test stands):

=================================================================  ===========================================================
``MC_C_20191028_005273_R12_S00.fits``                              since 2019: camera, controller, day, sequence number, raft,
                                                                   slot
``30211212000310-R22-S22-det098.fits``                             the same as renamed by obs_lsst: exposure number with the
                                                                   controller as first digit
``201807241028453-RTM-010-S11-det067.fits``                        raft test stand as renamed by obs_lsst: time, raft, slot
``00_CCOB_nm750_0.012A_0.06s_X300_Y192_0000_20171215013413.fits``  single rafts of 2017 and 2018; X and Y are those of the
                                                                   stage, not CCS
``E2V-CCD250-179_lambda_flat_0700_6006D_20180724102845.fits``      test stands: sensor, test, image type, run, time
=================================================================  ===========================================================

Case and additions made by copying (``copy_of_...``, ``... (1).fits``) are ignored.

Trees: ``<run>/BOT_acq/v0/<job>/ccob_<led>_<x>_<y>_<seq>/<file>`` with x and y in CCS mm, ``.../bias_bias_<seq>/<file>``, and
``focal-plane/<day>/<obsid>/<file>``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePath
from typing import Any

_FITS_NAME = re.compile(r"\.(?:fits?|fts)(?:\.gz|\.fz)?$", re.IGNORECASE)
_PACKED_NAME = re.compile(r"\.(?:fits?|fts)(?:\.fz)?\.(?:bz2|xz|lzma|zst|lz4|z|zip|7z|tar|tgz)$", re.IGNORECASE)

_BEGIN = r"(?:^|.*[^A-Za-z0-9])"
_END = r"(?:[^A-Za-z0-9].*)?$"
_BAY, _SLOT = r"R\d\d", r"S[0-2GW][0-2]"
_DETECTOR = rf"(?P<raft>{_BAY}){{0}}(?P<slot>{_SLOT})(?:-det(?P<number>\d{{{{3}}}}))?"
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"


def _name_pattern(pattern: str) -> re.Pattern[str]:
    """Compile the pattern of a file name without its suffix."""
    return re.compile(_BEGIN + pattern + _END, re.IGNORECASE)


_CAMERA_FILE = _name_pattern(
    r"(?P<obsid>[A-Z]{2}_(?P<controller>[A-Z])_(?P<day>\d{8})_(?P<sequence>\d{6}))_" + _DETECTOR.format("_")
)
_NUMBERED_FILE = _name_pattern(r"(?P<controller>\d)(?P<day>\d{7})(?P<sequence>\d{5,6})-" + _DETECTOR.format("-"))
_RAFT_STAND_FILE = _name_pattern(rf"(?P<time>\d{{15}})-(?P<raft>C?RTM-\d{{3}})-(?P<slot>{_SLOT})(?:-det\d{{3}})?")
_SINGLE_RAFT_FILE = _name_pattern(
    rf"(?P<slot>[0-2GW][0-2])_(?P<exposure>CCOB_(?P<led>[A-Za-z0-9]+)_(?P<current>{_NUMBER})A_(?P<time>{_NUMBER})s_X(?P<x>{_NUMBER})"
    rf"_Y(?P<y>{_NUMBER})_(?P<sequence>\d+)_(?P<timestamp>\d{{14}}))"
)
_SENSOR_FILE = _name_pattern(r"(?P<sensor>(?:E2V|ITL)-[A-Z0-9-]+)_(?P<exposure>\w[^/]*?_(?P<timestamp>\d{14}))")
_CCOB_FOLDER = re.compile(rf"^ccob_(?P<led>[A-Za-z0-9]+)_(?P<x>{_NUMBER})_(?P<y>{_NUMBER})_(?P<sequence>\d+)$", re.IGNORECASE)
_BIAS_FOLDER = re.compile(r"^bias_bias(_.*)?$", re.IGNORECASE)
_OBSID_FOLDER = re.compile(r"^[A-Z]{2}_[A-Z]_\d{8}_\d{6}$")
_OBSID = re.compile(r"^[A-Z]{2}_(?P<controller>[A-Z])_(?P<day>\d{8})_(?P<sequence>\d{6})$")
# Parts of a name that identify a detector within an exposure.
_DETECTOR_PARTS = re.compile(rf"(?<![A-Za-z0-9])(?:{_BAY}[_-]?{_SLOT}|{_BAY}|{_SLOT}|det\d{{1,3}})(?![A-Za-z0-9])", re.IGNORECASE)
# obs_lsst numbers the controllers from 2 on, so that the first digit of the year carries them.
_CONTROLLERS = "OCHPQS"


@dataclass(frozen=True)
class FileName:
    """Information in the name of a raw file; "", -1 and None where it is absent.

    Attributes
    ----------
    obsid
        OBSID of the camera.
    exposure
        Name of the exposure, the same for all its detectors; the OBSID if there is one.
    detector, slot, number, sensor
        Bay and slot, the slot alone, the number of the detector in the camera, the serial number of the sensor.
    led, current_a, exposure_s, stage_x, stage_y
        In names of the single rafts of 2017 and 2018; position of the stage.
    """

    obsid: str
    day_obs: str = ""
    seqnum: int = -1
    detector: str = ""
    exposure: str = ""
    slot: str = ""
    number: int = -1
    sensor: str = ""
    led: str = ""
    current_a: float | None = None
    exposure_s: float | None = None
    stage_x: float | None = None
    stage_y: float | None = None


@dataclass(frozen=True)
class CcobFolder:
    """Information in the folder name of a CCOB exposure: commanded position in CCS mm, counter within the test."""

    led: str
    x_mm: float
    y_mm: float
    sequence: int

    @property
    def name(self) -> str:
        """Name of the folder."""
        return f"ccob_{self.led}_{self.x_mm}_{self.y_mm}_{self.sequence:03d}"


def file_name(obsid: str, detector: str) -> str:
    """Return the name of the raw file of one detector in one exposure."""
    return f"{obsid}_{detector}.fits"


def observation_id(day_obs: str, seqnum: int, *, controller: str = "C") -> str:
    """Return the OBSID of an exposure of the main camera."""
    return f"MC_{controller}_{day_obs}_{seqnum:06d}"


def bias_folder(sequence: int) -> str:
    """Return the name of the folder of one bias exposure."""
    return f"bias_bias_{sequence:03d}"


def run_folder(run: str, job: str) -> PurePath:
    """Return the relative path of the folder that holds the exposure folders of one acquisition job."""
    return PurePath(run, "BOT_acq", "v0", job)


@lru_cache(maxsize=64)
def parse_file_name(name: str) -> FileName | None:
    """Parse the name of a raw file; return None for other names."""
    suffix = _FITS_NAME.search(name)
    if suffix is None:
        return None
    stem = name[: suffix.start()]
    if match := _CAMERA_FILE.match(stem):
        obsid = match["obsid"].upper()
        return FileName(obsid, match["day"], int(match["sequence"]), exposure=obsid, **_named_detector(match))
    if match := _NUMBERED_FILE.match(stem):
        controller = int(match["controller"]) - 2
        if not 0 <= controller < len(_CONTROLLERS):
            return None
        day, seqnum = "2" + match["day"], int(match["sequence"])
        obsid = observation_id(day, seqnum, controller=_CONTROLLERS[controller])
        return FileName(obsid, day, seqnum, exposure=obsid, **_named_detector(match))
    if match := _RAFT_STAND_FILE.match(stem):
        exposure = f"{match['time']}_{match['raft'].upper()}"
        return FileName("", match["time"][:8], exposure=exposure, slot=match["slot"].upper())
    if match := _SINGLE_RAFT_FILE.match(stem):
        return FileName(
            "",
            match["timestamp"][:8],
            int(match["sequence"]),
            exposure=match["exposure"],
            slot=f"S{match['slot'].upper()}",
            led=match["led"],
            current_a=float(match["current"]),
            exposure_s=float(match["time"]),
            stage_x=float(match["x"]),
            stage_y=float(match["y"]),
        )
    if match := _SENSOR_FILE.match(stem):
        return FileName("", match["timestamp"][:8], exposure=match["exposure"], sensor=match["sensor"].upper())
    return None


def _named_detector(match: re.Match[str]) -> dict[str, Any]:
    return {
        "detector": f"{match['raft']}_{match['slot']}".upper(),
        "slot": match["slot"].upper(),
        "number": int(match["number"] or -1),
    }


def parse_obsid(obsid: str) -> tuple[str, int] | None:
    """Return day and sequence number of an OBSID of the camera, None for other names."""
    match = _OBSID.match(obsid)
    return (match["day"], int(match["sequence"])) if match else None


def exposure_name(path: PurePath) -> str:
    """Return a name of the exposure from file and folder names alone, the same for all its detectors if possible."""
    stem = _FITS_NAME.sub("", path.name)
    parts = [_DETECTOR_PARTS.sub("", part).strip(" _-.") for part in (*path.parts[-3:-1], stem)]
    return "/".join(part for part in parts if part) or stem


@lru_cache(maxsize=64)
def parse_ccob_folder(name: str) -> CcobFolder | None:
    """Parse the name of an exposure's folder; return None for other names."""
    match = _CCOB_FOLDER.match(name)
    if match is None:
        return None
    return CcobFolder(match["led"], float(match["x"]), float(match["y"]), int(match["sequence"]))


def is_bias_folder(name: str) -> bool:
    """Return whether a folder name is that of one bias exposure."""
    return _BIAS_FOLDER.match(name) is not None


def run_and_job(path: PurePath) -> tuple[str, str]:
    """Return run and job of a raw file from its folders; the run is "" outside a ``BOT_acq`` tree.

    The job is the folder above that of the exposure (or the file's own folder when it holds several exposures).
    """
    folders = path.parts[:-1]
    run = ""
    if "BOT_acq" in folders:
        place = len(folders) - 1 - folders[::-1].index("BOT_acq")
        run = folders[place - 1] if place > 0 else ""
    if not folders:
        return run, ""
    own = folders[-1]
    if parse_ccob_folder(own) or is_bias_folder(own) or _OBSID_FOLDER.match(own):
        return run, folders[-2] if len(folders) > 1 else ""
    return run, own


def is_fits_name(name: str) -> bool:
    """Return whether a file name has a suffix of FITS files."""
    return _FITS_NAME.search(name) is not None


def is_packed_name(name: str) -> bool:
    """Return whether a file name is that of a FITS file in a compression or archive that is not read."""
    return _PACKED_NAME.search(name) is not None
