"""What file and folder names say: detector, day and sequence number, LED, commanded position, run and job.

Names by epoch (raw files of the LSST camera on its test stands):

========================================  ==================================================================================
``MC_C_20191028_005273_R12_S00.fits``     since 2019: camera, controller, day, sequence number, raft, slot
``30211212000310-R22-S22-det098.fits``    the same as renamed by obs_lsst: exposure number with the controller as first digit
``00_CCOB_nm750_0.012A_0.06s_X300_Y192_0000_20171215013413.fits``
                                          single rafts of 2017 and 2018; X and Y are those of the stage, not CCS
========================================  ==================================================================================

Trees: ``<run>/BOT_acq/v0/<job>/ccob_<led>_<x>_<y>_<seq>/<file>`` with x and y in CCS mm, ``.../bias_bias_<seq>/<file>``, and
``focal-plane/<day>/<obsid>/<file>``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePath

FITS_SUFFIXES = (".fits", ".fits.gz", ".fits.fz", ".fit")

_SUFFIX = r"\.fits?(?:\.gz|\.fz)?$"
_DETECTOR = r"(?P<raft>R\d\d){0}(?P<slot>S[0-2GW][0-2])"
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"

_CAMERA_FILE = re.compile(
    r"^(?P<obsid>[A-Z]{2}_(?P<controller>[A-Z])_(?P<day>\d{8})_(?P<sequence>\d{6}))_" + _DETECTOR.format("_") + _SUFFIX
)
_NUMBERED_FILE = re.compile(
    r"^(?P<controller>\d)(?P<day>\d{7})(?P<sequence>\d{5,6})-" + _DETECTOR.format("-") + r"-det(?P<number>\d{3})" + _SUFFIX
)
_SINGLE_RAFT_FILE = re.compile(
    r"^(?P<slot>\d\d)_CCOB_(?P<led>[A-Za-z0-9]+)_(?P<current>"
    + _NUMBER
    + r")A_(?P<time>"
    + _NUMBER
    + r")s_X(?P<x>"
    + _NUMBER
    + r")_Y(?P<y>"
    + _NUMBER
    + r")_(?P<sequence>\d+)_(?P<timestamp>\d{14})"
    + _SUFFIX
)
_CCOB_FOLDER = re.compile(rf"^ccob_(?P<led>[A-Za-z0-9]+)_(?P<x>{_NUMBER})_(?P<y>{_NUMBER})_(?P<sequence>\d+)$")
_BIAS_FOLDER = re.compile(r"^bias_bias(_.*)?$")
_OBSID_FOLDER = re.compile(r"^[A-Z]{2}_[A-Z]_\d{8}_\d{6}$")
# obs_lsst numbers the controllers from 2 on, so that the first digit of the year carries them.
_CONTROLLERS = "OCHPQS"


@dataclass(frozen=True)
class FileName:
    """What the name of a raw file says; ``stage_*`` are set for the single rafts of 2017 and 2018 only."""

    obsid: str
    day_obs: str
    seqnum: int
    detector: str
    led: str = ""
    stage_x: float | None = None
    stage_y: float | None = None


@dataclass(frozen=True)
class CcobFolder:
    """What the name of the folder of one CCOB exposure says: commanded position in CCS mm, counter within the test."""

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


def parse_file_name(name: str) -> FileName | None:
    """Return what the name of a raw file says, None for other names. ``detector`` is "" where only a slot is named."""
    if match := _CAMERA_FILE.match(name):
        return FileName(match["obsid"], match["day"], int(match["sequence"]), f"{match['raft']}_{match['slot']}")
    if match := _NUMBERED_FILE.match(name):
        controller = int(match["controller"]) - 2
        if not 0 <= controller < len(_CONTROLLERS):
            return None
        day, seqnum = "2" + match["day"], int(match["sequence"])
        obsid = observation_id(day, seqnum, controller=_CONTROLLERS[controller])
        return FileName(obsid, day, seqnum, f"{match['raft']}_{match['slot']}")
    if match := _SINGLE_RAFT_FILE.match(name):
        return FileName(
            "", match["timestamp"][:8], int(match["sequence"]), "", match["led"], float(match["x"]), float(match["y"])
        )
    return None


def parse_ccob_folder(name: str) -> CcobFolder | None:
    """Return what the name of an exposure's folder says, None for other names."""
    match = _CCOB_FOLDER.match(name)
    if match is None:
        return None
    return CcobFolder(match["led"], float(match["x"]), float(match["y"]), int(match["sequence"]))


def is_bias_folder(name: str) -> bool:
    """Return whether a folder holds one bias exposure."""
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
    return name.lower().endswith(FITS_SUFFIXES)
