"""Superbias and gains of the detectors of a run, and the calibration that stages reduce raw files with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from astropy.table import Table

from permil.camera import Camera, Detector, shared_camera
from permil.config import Config
from permil.config.isr import IsrConfig
from permil.context import Run
from permil.engine import MEMORY_OF_PROCESS, Task, Work
from permil.errors import CalibrationError
from permil.exposures import BIAS
from permil.isr.calibration.calibration import Calibration
from permil.isr.calibration.gains import board_temperature, read_gains, write_gains_table
from permil.isr.calibration.superbias import (
    SUPERBIAS_FORMAT,
    build_superbias,
    check_superbias_serial,
    superbias_notes,
    superbias_path,
)
from permil.isr.inputs import check_defects_serial, load_calibration
from permil.products import RunFolder, check_output, fingerprint, stored_fingerprint
from permil.progress import StageReport, do_tasks

__all__ = [
    "Reduction",
    "board_temperature",
    "calibration_files",
    "calibration_fingerprint",
    "common_serial",
    "detector_calibration",
    "make_calibrations",
    "memory_for",
    "reduction_of",
    "seconds_of_file",
    "shared_calibration",
    "size_of_image",
    "superbias_task",
]

_BIAS_OPTIONS = (
    "isr.overscan", "isr.overscan_skip_first", "isr.overscan_skip_last", "isr.overscan_window", "isr.rejection_threshold",
)  # fmt: skip


def memory_for(detector: Detector, *, bytes_per_pixel: float) -> float:
    """Return the estimated memory (bytes) of a process that holds arrays of the pixels of a detector."""
    return MEMORY_OF_PROCESS + bytes_per_pixel * detector.nx * detector.ny


def seconds_of_file(detector: Detector) -> float:
    """Return the measured time, s, to read and reduce a raw file on one core of 2 to 3 GHz."""
    return 0.011 + 8e-9 * detector.nx * detector.ny


def size_of_image(detector: Detector) -> float:
    """Return the size in bytes of an image product with mask and variance."""
    return 12.5 * detector.nx * detector.ny


def superbias_task(run: Run, detector: str) -> Task:
    """Declare the superbias of a detector from the bias exposures of a run."""
    return run.once(("superbias", detector), lambda: _superbias_task(run, detector))


def _superbias_task(run: Run, detector: str) -> Task:
    rows = run.index.select(purpose=BIAS, detector=detector)
    paths = tuple(sorted(str(path) for path in rows["path"]))
    output = run.folder.superbias(detector)

    def work(task: Task) -> Work:
        if not paths:
            raise CalibrationError(
                f"there is no bias exposure of {detector}",
                remedy="add the folder of bias exposures to exposures.roots, name a superbias in isr.bias, or set isr.bias to none",
                detector=detector,
            )
        origin = run.origin(rows, detector=detector)
        make = partial(
            _make_superbias, config=run.config, paths=paths, output=output, fingerprint=task.fingerprint, origin=origin
        )
        return Work(make, [detector])

    return Task(
        ("superbias", detector),
        "superbias",
        work,
        outputs=(output,),
        options=run.options("camera", "exposures.checksums", "validity", *_BIAS_OPTIONS),
        facts=SUPERBIAS_FORMAT,
        files=paths,
        command=("isr", "--detector", detector),
        seconds=len(paths) * seconds_of_file(run.camera[detector]),
        size=size_of_image(run.camera[detector]),
        memory=memory_for(run.camera[detector], bytes_per_pixel=25),
    )


_REDUCTION_OPTIONS = tuple(f"isr.{name}" for name in IsrConfig.model_fields if name != "photon_transfer")
"""Options that affect reduced images; photon transfer does not."""


@dataclass(frozen=True)
class Reduction:
    """Dependencies of a reduction from counts to electrons: configuration options, files, and tasks that make superbiases."""

    options: dict[str, Any]
    files: tuple[Path, ...]
    needs: tuple[Task, ...]


def reduction_of(run: Run, *detectors: str) -> Reduction:
    """Return the dependencies of a task that reduces raw files of some detectors."""
    files = [path for detector in detectors for path in calibration_files(run.config, detector)]
    needs = tuple(superbias_task(run, name) for name in detectors) if run.config.isr.bias == "auto" else ()
    return Reduction(run.options("camera", *_REDUCTION_OPTIONS, "exposures.checksums"), tuple(dict.fromkeys(files)), needs)


def make_calibrations(run: Run, detectors: Sequence[str]) -> StageReport:
    """Make the superbias of each detector (``isr.bias: auto``) and write the gains in use.

    Parameters
    ----------
    detectors
        Names of the detectors whose exposures are reduced.

    Raises
    ------
    CalibrationError
        If a detector has no bias exposure, or no gain, or ``isr.defects`` is a product of this run.
    """
    report, config = StageReport("isr"), run.config.isr
    check_output(run.folder.gains, inputs=[config.gains])
    if config.defects != "none" and Path(config.defects).resolve() == run.folder.defects("").parent.resolve():
        raise CalibrationError(
            "isr.defects names the folder that this run writes its defects to",
            path=config.defects,
            remedy="copy it, and name the copy in isr.defects",
        )
    gains = {name: read_gains(config, run.camera[name], camera=run.camera) for name in detectors}
    if config.bias == "auto":
        report.count(do_tasks([superbias_task(run, name) for name in detectors]))
        notes = {name: superbias_notes(run.folder.superbias(name)) for name in detectors}
        report.messages += [f"superbias of {name}: {note}" for name, found in notes.items() for note in found]
    rows = run.index.to_table()
    for name in detectors:
        serial = common_serial(rows, name)
        check_defects_serial(config.defects, run.camera[name], serial)
        if config.bias not in ("auto", "none"):
            check_superbias_serial(config.bias, run.camera[name], run.camera, serial)
    write_gains_table(run.folder.gains, gains, run.camera)
    return report


def _make_superbias(
    name: str, *, config: Config, paths: Sequence[str], output: Path, fingerprint: str, origin: Mapping[str, Any]
) -> None:
    """Make and write the superbias of one detector."""
    camera = shared_camera(config.camera)
    build_superbias(
        paths,
        camera[name],
        camera,
        config.isr,
        output,
        fingerprint=fingerprint,
        origin=origin,
        checksums=config.exposures.checksums,
    )


def detector_calibration(config: Config, camera: Camera, folder: RunFolder, detector: str) -> Calibration:
    """Load the calibration of a detector, with the superbias of this run.

    Raises
    ------
    CalibrationError, InputError
        See `permil.isr.inputs.load_calibration`.
    """
    superbias = folder.superbias(detector)
    return load_calibration(camera[detector], camera, config.isr, superbias=superbias)


def shared_calibration(config: Config, folder: RunFolder, detector: str) -> Calibration:
    """Return the calibration of a detector, read once per process while its inputs are unchanged.

    Raises
    ------
    CalibrationError, InputError
        See `permil.isr.inputs.load_calibration`.
    """
    # Keyed by the JSON of the options, which themselves cannot be hashed, and by the state of every input.
    state = calibration_fingerprint(config, folder, detector)
    return _calibration(config.isr.model_dump_json(), config.camera, folder.superbias(detector), detector, state)


@lru_cache(maxsize=4)
def _calibration(isr_json: str, camera_name: str, superbias: Path, detector: str, _state: str) -> Calibration:
    camera, options = shared_camera(camera_name), IsrConfig.model_validate_json(isr_json)
    return load_calibration(camera[detector], camera, options, superbias=superbias)


def calibration_fingerprint(config: Config, folder: RunFolder, detector: str) -> str:
    """Return the fingerprint of the calibration of a detector."""
    upstream = [stored_fingerprint(folder.superbias(detector)) or ""] if config.isr.bias == "auto" else []
    isr = config.isr.model_dump(mode="json", exclude={"photon_transfer"})
    options = {"isr": isr, "camera": config.camera, "detector": detector}
    options["checksums"] = config.exposures.checksums
    return fingerprint(options, files=calibration_files(config, detector), upstream=upstream)


def calibration_files(config: Config, detector: str) -> list[Path]:
    """Return the files that the section `isr` names for a detector."""
    files: list[Path] = []
    for name in ("gains", "linearity", "crosstalk", "defects", "bias"):
        path = Path(getattr(config.isr, name))
        if not path.is_dir():
            files.append(path)
        elif name == "bias":
            found = superbias_path(config.isr.bias, shared_camera(config.camera)[detector], None)
            files += [] if found is None else [found]
        else:
            files += sorted(path.glob(f"*{detector}*"))
    return files


def common_serial(rows: Table, detector: str) -> str:
    """Return the serial number common to all rows of a detector in the index; empty if there is none or several."""
    serials = {str(serial).strip() for serial in rows["serial"][rows["detector"] == detector]} - {""}
    return serials.pop() if len(serials) == 1 else ""
