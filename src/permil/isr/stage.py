"""The stage `isr`: superbias, gains and measured gains of the detectors of a run, and the dependencies of tasks that reduce raw files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from astropy.table import Table

from permil.camera import Detector, shared_camera
from permil.config import Config
from permil.config.isr import IsrConfig
from permil.context import Run
from permil.engine import MEMORY_OF_PROCESS, Task, Work
from permil.errors import CalibrationError, ConfigError
from permil.exposures import BIAS, POINTING, SCAN, SPOT
from permil.isr.bias_exposures import SUPERBIAS_FORMAT, build_superbias
from permil.isr.calibration.gains import board_temperature, read_gains, write_gains_table
from permil.isr.calibration.superbias import check_superbias_serial, superbias_notes
from permil.isr.inputs import calibration_files, check_serials
from permil.isr.measured_gains import NoiseRequest, gain_table, measure_noise, measure_vendor, repeated_groups
from permil.products import check_output, fingerprint, is_current, write_table
from permil.progress import StageReport, do_tasks
from permil.stages import StageFunctions

__all__ = [
    "STAGE",
    "Reduction",
    "board_temperature",
    "common_serial",
    "make_calibrations",
    "memory_for",
    "reduced_detectors",
    "reduction_of",
    "seconds_of_file",
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
        check_serials(config, run.camera[name], serial, camera=run.camera)
        if config.bias not in ("auto", "none"):
            check_superbias_serial(config.bias, run.camera[name], run.camera, serial)
    write_gains_table(run.folder.gains, gains, run.camera)
    return report


def common_serial(rows: Table, detector: str) -> str:
    """Return the serial number common to all rows of a detector in the index; empty if there is none or several."""
    serials = {str(serial).strip() for serial in rows["serial"][rows["detector"] == detector]} - {""}
    return serials.pop() if len(serials) == 1 else ""


def noise_task(run: Run, detector: str) -> Task | None:
    """Declare the noise of the repeated images of a detector; None without such images."""
    groups = tuple(repeated_groups(run.index, run.camera[detector]))
    if not groups:
        return None
    files, reduction = [path for group in groups for path in group], reduction_of(run, detector)

    def work(task: Task) -> Work:
        return Work(
            measure_noise, [NoiseRequest(run.config, run.folder.root, detector, groups, task.outputs[0], task.fingerprint)]
        )

    return Task(
        ("noise", detector),
        "photon transfer",
        work,
        outputs=(run.folder.noise_moments(detector),),
        options=reduction.options,
        facts=[len(group) for group in groups],
        files=[*files, *reduction.files],
        needs=reduction.needs,
        command=("isr", "--step", "noise", "--detector", detector),
        seconds=len(files) * 2 * seconds_of_file(run.camera[detector]),
        memory=memory_for(run.camera[detector], bytes_per_pixel=60 + 4 * max(map(len, groups))),
    )


def measure_gains(run: Run, detectors: Sequence[str]) -> StageReport:
    """Measure the gains of all detectors, vendor by vendor, and write `RunFolder.measured_gains`.

    Raises
    ------
    CalibrationError
        If there are no repeated images, or the gains of this run are measured ones or none.
    """
    gains, folder = run.config.isr.gains, run.folder
    if gains in (str(folder.measured_gains), "none"):
        raise CalibrationError(
            f"gains cannot be measured with isr.gains: {'none' if gains == 'none' else 'measured'}, since they are compared with the "
            "given ones",
            remedy="name a table of gains, or set isr.photon_transfer to false",
        )
    report = StageReport("isr")
    tasks = [task for name in detectors if (task := noise_task(run, name)) is not None]
    if not tasks:
        raise CalibrationError(
            "no position has two images of one LED, so that no noise can be measured",
            remedy="set isr.photon_transfer to false",
        )
    report.count(do_tasks(tasks))
    digest = fingerprint({"step": "photon transfer"}, upstream=[task.fingerprint for task in tasks])
    # The fit is small: it is always repeated, so that its messages appear in every run.
    rows: list[tuple[object, ...]] = []
    vendors: dict[str, dict[str, float]] = {}
    measured = [task.key[1] for task in tasks]
    for vendor in sorted({run.camera[name].vendor for name in measured}):
        found, facts, messages = measure_vendor(run, vendor, [name for name in measured if run.camera[name].vendor == vendor])
        rows += found
        vendors[vendor] = facts
        report.messages += messages
    # An unchanged table keeps its date: a later run may apply it.
    if not is_current(folder.measured_gains, digest):
        meta = {"fingerprint": digest, "gains": Path(gains).name, "vendors": vendors}
        write_table(folder.measured_gains, gain_table(rows, meta))
    return report


def run_isr(run: Run) -> StageReport:
    """Make superbias and gains of every detector that is reduced; measure gains with ``isr.photon_transfer``."""
    detectors = reduced_detectors(run)
    made = make_calibrations(run, detectors)
    if run.config.isr.photon_transfer:
        measured = measure_gains(run, detectors)
        made.done, made.skipped = made.done + measured.done, made.skipped + measured.skipped
        made.messages += measured.messages
    return made


def reduced_detectors(run: Run) -> list[str]:
    """Return the detectors that are reduced: those with requested pointings or stars, and those on which the beam is measured."""
    index, wanted = run.index, run.config.flat.detectors
    pointed = set(index.select(purpose=POINTING)["detector"])
    names = {name for name in pointed if not wanted or name in wanted or name[:3] in wanted}
    scanned = set(index.select(purpose=SCAN)["detector"])
    if scanned:
        watching = [reference.detector for reference in run.config.beam.reference] or [run.camera.reference.detector]
        names |= {run.camera[label].name for label in watching} & scanned
    stars = set(index.select(purpose=SPOT)["detector"])
    chosen = {run.camera[label].name for label in run.config.spots.detectors}
    names |= stars & chosen if chosen else stars
    return [name for name in run.camera.detectors if name in names]


def _tasks(run: Run, _earlier: Sequence[Task]) -> list[Task]:
    detectors, options = reduced_detectors(run) if run.has_exposures else [], run.config.isr
    superbiases = [superbias_task(run, name) for name in detectors] if options.bias == "auto" else []
    noise = [noise_task(run, name) for name in detectors] if options.photon_transfer else []
    return [*superbiases, *(task for task in noise if task is not None)]


def _single(run: Run, step: str, _led: str, detector: str) -> list[Task]:
    if step == "noise":
        if not run.config.isr.photon_transfer:
            raise ConfigError("no gains are measured with isr.photon_transfer=false", remedy="leave this task out")
        task = noise_task(run, detector)
        return [] if task is None else [task]
    if run.config.isr.bias != "auto":
        raise ConfigError(f"there is no superbias to make with isr.bias={run.config.isr.bias}", remedy="leave this task out")
    return [superbias_task(run, detector)]


STAGE = StageFunctions(run_isr, is_wanted=lambda run: run.has_exposures, tasks=_tasks, single=_single)
