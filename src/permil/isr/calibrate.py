"""The stage `isr`: superbias and gains of every detector whose exposures are used."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from astropy.table import Table

from permil.camera import Camera, shared_camera
from permil.config import Config
from permil.config.isr import IsrConfig
from permil.engine import own_threads
from permil.errors import CalibrationError
from permil.exposures import BIAS, Index
from permil.isr.calibration import Calibration
from permil.isr.inputs import check_superbias_serial, load_calibration, read_gains, superbias_path
from permil.isr.stage import build_superbias, superbias_notes, write_gains_table
from permil.products import RunFolder, check_output, fingerprint, is_current, stored_fingerprint
from permil.progress import StageReport, parallel_map

_BIAS_OPTIONS = {"overscan", "overscan_skip_first", "overscan_skip_last", "overscan_window", "rejection_threshold"}
_NOT_IN_CALIBRATION = {"photon_transfer"}
_INPUT_FILES = ("gains", "linearity", "crosstalk", "defects", "bias")


@dataclass(frozen=True)
class SuperbiasTask:
    """Bias exposures of one detector."""

    config: Config
    detector: str
    paths: tuple[str, ...]
    output: Path
    fingerprint: str
    serial: str = ""


def make_calibrations(
    config: Config, camera: Camera, folder: RunFolder, index: Index, detectors: list[str], *, workers: int
) -> StageReport:
    """Make the superbias of each detector (``isr.bias: auto``) and write the gains that are used.

    Parameters
    ----------
    detectors
        Names of the detectors whose exposures are reduced.

    Raises
    ------
    CalibrationError
        If a detector has no bias exposure, or no gain.
    """
    report = StageReport("isr")
    check_output(folder.gains, inputs=[config.isr.gains])
    isr = with_measured(config.isr, folder)
    gains = {name: read_gains(isr, camera[name], camera=camera) for name in detectors}
    if config.isr.bias == "auto":
        tasks = [superbias_task(config, folder, index, name) for name in detectors]
        waiting = [task for task in tasks if not is_current(task.output, task.fingerprint)]
        parallel_map(make_superbias, waiting, workers=workers, description="superbias")
        report.done += len(waiting)
        report.skipped += len(tasks) - len(waiting)
        report.messages += [f"superbias of {task.detector}: {note}" for task in tasks for note in superbias_notes(task.output)]
    elif config.isr.bias != "none":
        rows = index.to_table()
        for name in detectors:
            check_superbias_serial(config.isr, camera[name], camera, common_serial(rows, name))
    write_gains_table(folder.gains, gains, camera)
    return report


def with_measured(isr: IsrConfig, folder: RunFolder) -> IsrConfig:
    """Return the section with the files of what earlier runs measured in place of ``measured``.

    Raises
    ------
    CalibrationError
        If a file is not there.
    """
    update: dict[str, str] = {}
    makers = {"gains": "isr.photon_transfer: true", "linearity": "flat.solver: joint"}
    for name, path in (("gains", folder.measured_gains), ("linearity", folder.measured_linearity)):
        if getattr(isr, name) != "measured":
            continue
        if not path.is_file():
            raise CalibrationError(
                f"there is no measured table of {name} yet",
                path=path,
                remedy=f"run with isr.{name}: none or a table, and {makers[name]}, first",
            )
        update[name] = str(path)
    return isr.model_copy(update=update) if update else isr


def detector_calibration(config: Config, camera: Camera, folder: RunFolder, detector: str) -> Calibration:
    """Load everything that the reduction of a detector needs, with the superbias of this run.

    Raises
    ------
    CalibrationError, InputError
        See `permil.isr.inputs.load_calibration`.
    """
    superbias = folder.superbias(detector)
    isr = with_measured(config.isr, folder)
    return load_calibration(camera[detector], camera, isr, superbias=superbias, threads=own_threads())


def shared_calibration(config: Config, folder: RunFolder, detector: str) -> Calibration:
    """Return the calibration of a detector, read once per process as long as nothing it is made from changes.

    Raises
    ------
    CalibrationError, InputError
        See `permil.isr.inputs.load_calibration`.
    """
    # Keyed by the JSON of the configuration, which itself cannot be hashed, and by the state of every input.
    return _calibration(config.model_dump_json(), folder, detector, calibration_fingerprint(config, folder, detector))


@lru_cache(maxsize=4)
def _calibration(config_json: str, folder: RunFolder, detector: str, _state: str) -> Calibration:
    config = Config.model_validate_json(config_json)
    return detector_calibration(config, shared_camera(config.camera), folder, detector)


def calibration_fingerprint(config: Config, folder: RunFolder, detector: str) -> str:
    """Return the fingerprint of everything that turns raw counts of a detector into electrons."""
    files: list[Path] = []
    isr = with_measured(config.isr, folder)
    for name in _INPUT_FILES:
        path = Path(getattr(isr, name))
        if not path.is_dir():
            files.append(path)
        elif name == "bias":
            found = superbias_path(config.isr, shared_camera(config.camera)[detector], None)
            files += [] if found is None else [found]
        else:
            files += sorted(path.glob(f"*{detector}*"))
    upstream = [stored_fingerprint(folder.superbias(detector)) or ""] if config.isr.bias == "auto" else []
    options = {
        "isr": config.isr.model_dump(mode="json", exclude=_NOT_IN_CALIBRATION),
        "camera": config.camera,
        "detector": detector,
    }
    options["checksums"] = config.exposures.checksums
    return fingerprint(options, files=files, upstream=upstream)


def superbias_task(config: Config, folder: RunFolder, index: Index, detector: str) -> SuperbiasTask:
    """Return what the superbias of a detector is made of.

    Raises
    ------
    CalibrationError
        If there is no bias exposure.
    """
    rows = index.select(purpose=BIAS, detector=detector)
    paths = tuple(sorted(str(path) for path in rows["path"]))
    if not paths:
        raise CalibrationError(
            f"there is no bias exposure of {detector}",
            remedy="add the folder of bias exposures to exposures.roots, name a superbias in isr.bias, or set isr.bias to none",
            detector=detector,
        )
    options = {"isr": config.isr.model_dump(mode="json", include=_BIAS_OPTIONS), "camera": config.camera, "detector": detector}
    options["checksums"] = config.exposures.checksums
    output, serial = folder.superbias(detector), common_serial(rows, detector)
    return SuperbiasTask(config, detector, paths, output, fingerprint(options, files=paths), serial)


def common_serial(rows: Table, detector: str) -> str:
    """Return the serial number that rows of the index have in common for a detector, empty where they have none or several."""
    serials = {str(serial).strip() for serial in rows["serial"][rows["detector"] == detector]} - {""}
    return serials.pop() if len(serials) == 1 else ""


def make_superbias(task: SuperbiasTask) -> None:
    """Make and write the superbias of one detector."""
    camera = shared_camera(task.config.camera)
    build_superbias(
        task.paths,
        camera[task.detector],
        camera,
        task.config.isr,
        task.output,
        fingerprint=task.fingerprint,
        serial=task.serial,
        checksums=task.config.exposures.checksums,
        threads=own_threads(),
    )
