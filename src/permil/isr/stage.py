"""The stage `isr`: superbias and gains of every detector whose exposures are used, and what reads and reduces raw files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import QTable, Table
from numpy.typing import NDArray

from permil.camera import Camera, Detector, shared_camera
from permil.config import Config
from permil.config.isr import IsrConfig
from permil.engine import Task, Work, own_threads
from permil.errors import CalibrationError, InputError, PermilError
from permil.exposures import BIAS, Checksums, RawDetector, RawFile
from permil.isr.array_pool import ArrayPool
from permil.isr.calibration import Calibration
from permil.isr.exposure_stack import ExposureStack, OpenFiles, check_detector, has_light, scaled, with_path
from permil.isr.gains import Gains
from permil.isr.inputs import check_superbias_serial, load_calibration, overscan_options, read_gains, superbias_path
from permil.isr.photodiode import LeftOut, select_by_photodiode
from permil.isr.probe import ProbedFile
from permil.isr.reduce import DetectorImage, reduce_raw_file
from permil.isr.superbias import BiasLight, bias_calibration, bias_light, carries_light, summarise_bias
from permil.products import (
    FINGERPRINT_CARD,
    KIND_CARD,
    SERIAL_CARD,
    RunFolder,
    check_output,
    fingerprint,
    read_image,
    stored_fingerprint,
    write_image,
    write_table,
)
from permil.progress import StageReport, do_tasks
from permil.run import Run

FloatArray = NDArray[np.float64]

_BIAS_OPTIONS = (
    "isr.overscan", "isr.overscan_skip_first", "isr.overscan_skip_last", "isr.overscan_window", "isr.rejection_threshold",
)  # fmt: skip
_BOARD_SENSORS = tuple(f"TEMP{number}" for number in range(1, 7))


def build_superbias(
    paths: Sequence[str | Path],
    detector: Detector,
    camera: Camera,
    config: IsrConfig,
    output: Path,
    *,
    fingerprint: str = "",
    serial: str = "",
    checksums: Checksums = "refuse",
    threads: int = 1,
) -> Path:
    """Make the superbias of a detector from its bias exposures and write it.

    Parameters
    ----------
    paths
        Raw bias files of this detector.
    output
        Where the product goes: IMAGE and VARIANCE in adu, MASK, and tables AMPLIFIERS with level and read noise, and NOTES with
        files that are left out or of which rows are masked.
    fingerprint
        Of what the product is made from; kept in its header.
    serial
        Serial number of the sensor, where it is known; kept in the header.
    checksums
        See `permil.exposures.RawFile`.
    threads
        Segments that are worked on at the same time; 1 in worker processes.

    Returns
    -------
    pathlib.Path
        ``output``.

    Warns
    -----
    FileWarning
        Of each bias exposure that is left out, with the reason.

    Raises
    ------
    CalibrationError
        If there is no bias exposure that can be read.
    OutputError
        If the product cannot be written.
    """
    calibration = bias_calibration(detector, overscan=overscan_options(config))
    files = [Path(path) for path in paths]
    with OpenFiles(files, camera, calibration, lambda _: None, threads=threads, checksums=checksums) as opened:
        light = bias_light([file.raw_file for file in opened.files], detector, overscan=calibration.overscan)
        lit = light.is_lit
        if 2 * np.count_nonzero(lit) < lit.size:
            # A few among many: the others make the superbias.
            found = zip(opened.files, lit, *light.by_file, strict=True)
            opened.left_out += [_lit_bias(file, mean, error) for file, is_lit, mean, error in found if is_lit]
            opened.files = [file for file, is_lit in zip(opened.files, lit, strict=True) if not is_lit]
            light = BiasLight(light.light[~lit])
        stacked = opened.stack(lambda files: [1.0] * len(files), threshold=config.rejection_threshold, poisson=False)
        left_out = opened.left_out
        used = [file.raw_file.path for file in opened.files]
    if stacked is None:
        raise CalibrationError(
            f"there is no usable bias exposure of {detector.name}" + (f" ({left_out[0].reason})" if left_out else ""),
            path=left_out[0].path if left_out else None,
            remedy="add bias exposures to the roots, or set isr.bias to none",
            detector=detector.name,
        )
    stack, summary = stacked.stack, summarise_bias(stacked)
    notes = [(str(entry.path), entry.reason) for entry in left_out]
    notes += [(str(used[file]), sentence) for file, sentence in stacked.damage]
    mean, error = light.mean
    if carries_light(np.array(mean), np.array(error)):
        notes.append((str(output), _SUPERBIAS_IS_LIT.format(mean, error)))
    table = QTable(
        {
            "amp": [amplifier.name for amplifier in detector.amplifiers],
            "overscan_level": summary.overscan_level,
            "read_noise": summary.read_noise,
            "read_noise_err": summary.read_noise_err,
            "chi_square": stack.chi_square,
        }
    )
    write_image(
        output,
        stack.image,
        stack.mask,
        stack.variance,
        header={
            KIND_CARD: ("superbias", "what this is"),
            "DETECTOR": (detector.name, "detector"),
            SERIAL_CARD: (serial or None, "serial number of the sensor"),
            "CAMERA": (camera.name, "camera"),
            "NFRAMES": (stack.n_frames, "bias exposures"),
            "NLEFTOUT": (len(left_out), "bias exposures that could not be used"),
            "NREJECT": (stack.n_rejected, "measurements rejected as outliers"),
            "OVERSCAN": (config.overscan, "method of the overscan level"),
            "LIGHT": (mean if np.isfinite(mean) else None, "[electron] rows over parallel overscan"),
            "LIGHTERR": (error if np.isfinite(error) else None, "[electron] its error"),
            FINGERPRINT_CARD: (fingerprint, "what this was made from"),
        },
        image_cards={"BUNIT": "adu"},
        extensions=[
            fits.BinTableHDU(table, name="AMPLIFIERS"),
            fits.BinTableHDU(Table(rows=notes or None, names=("path", "reason"), dtype=("U512", "U512")), name="NOTES"),
        ],
    )
    return output


_SUPERBIAS_IS_LIT = (
    "the bias exposures carry light: {:.1f} +- {:.1f} electrons more in their last active rows than in the parallel overscan; it is "
    "subtracted from every exposure: take biases with the shutter closed and the lamps off"
)


def _lit_bias(file: ProbedFile, light: float, error: float) -> LeftOut:
    reason = f"it carries light: {light:.1f} +- {error:.1f} electrons more in its last active rows than in the parallel overscan"
    return LeftOut(file.raw_file.path, reason)


def superbias_notes(path: Path) -> list[str]:
    """Return what a person should know of a superbias: files that were left out, and rows of others that are masked."""
    notes = read_image(path).extensions.get("NOTES")
    return [] if notes is None else [f"{row['path']}: {row['reason']}" for row in notes.data]


def write_gains_table(path: Path, gains: Mapping[str, Gains], camera: Camera) -> None:
    """Write the gains that are used, one row per detector and amplifier; the table can be given to ``isr.gains`` again.

    Raises
    ------
    OutputError
        If the table cannot be written.
    """
    rows = [
        (name, amplifier.name, gain, error, taken.source)
        for name, taken in gains.items()
        for amplifier, gain, error in zip(camera[name].amplifiers, taken.gain, taken.gain_err, strict=True)
    ]
    table = Table(
        rows=rows or None, names=("detector", "amp", "gain", "gain_err", "source"), dtype=("U16", "U8", "f8", "f8", "U256")
    )
    for column in ("gain", "gain_err"):
        table[column].unit = "electron / adu"
    write_table(path, table)


def board_temperature(raw: RawFile | RawDetector, config: IsrConfig) -> float | None:
    """Return the temperature that the gain follows, degree C; None when the gain is not corrected.

    All sensors of ``isr.temperature_card`` must have a possible temperature: the mean of those that happen to work would jump from
    one exposure to the next.

    Raises
    ------
    InputError
        If the temperature of a sensor is missing, undefined or impossible, or all sensors read exactly 0.
    """
    if config.temperature_coefficient == 0:
        return None
    cards, names = raw.readout_board, _board_sensors(config)
    remedy = "name sensors that work in all exposures in isr.temperature_card, or set isr.temperature_coefficient to 0"
    if cards is None:
        raise InputError("there is no board temperature: no extension REB_COND", path=raw.path, remedy=remedy)
    temperatures = {name: cards.temperature(name) for name in names}
    broken = [name for name, temperature in temperatures.items() if math.isnan(temperature)]
    if broken:
        reasons = [cards.problems.get(name, f"card {name} is missing or undefined") for name in broken]
        raise InputError(f"there is no board temperature: {', '.join(reasons)}", path=raw.path, remedy=remedy, sensors=broken)
    if len(names) > 1 and not any(temperatures.values()):
        raise InputError(
            f"there is no board temperature: {', '.join(names)} are all exactly 0",
            path=raw.path,
            remedy=remedy,
            sensors=list(names),
        )
    return float(np.mean(list(temperatures.values())))


def board_thermometers(raw: RawFile | RawDetector, config: IsrConfig) -> tuple[float, ...]:
    """Return the temperatures of the sensors of ``isr.temperature_card``, degree C; NaN where one has none, or all read exactly 0."""
    cards, names = raw.readout_board, _board_sensors(config)
    temperatures = tuple(math.nan if cards is None else cards.temperature(name) for name in names)
    return temperatures if len(names) == 1 or any(temperatures) else (math.nan,) * len(names)


def _board_sensors(config: IsrConfig) -> tuple[str, ...]:
    wanted = config.temperature_card
    return _BOARD_SENSORS if wanted == "mean" else (wanted,) if isinstance(wanted, str) else tuple(wanted)


def reduce_file(
    path: str | Path,
    camera: Camera,
    calibration: Calibration,
    config: IsrConfig,
    *,
    checksums: Checksums = "refuse",
    threads: int = 1,
    pool: ArrayPool | None = None,
    rows: slice | None = None,
) -> DetectorImage:
    """Read and reduce one raw file.

    Parameters
    ----------
    checksums
        See `permil.exposures.RawFile`.
    threads
        Segments that are decoded and reduced at the same time; 1 in worker processes.
    pool
        May be used for image and mask of the result.
    rows
        Rows of the raw segments that are read, where it is not all; the calibration is that of these rows (`RowSample`).

    Raises
    ------
    InputError
        If the file cannot be used or is of another detector, or a required board temperature is missing.
    """
    with RawFile(path, camera, checksums=checksums) as raw_file:
        check_detector(raw_file.detector, calibration.detector, path)
        # Also where single rows are asked for: a disk is faster with all of the file than with its parts.
        raw_file.read_ahead()
        try:
            temperature = board_temperature(raw_file, config)
            reduced, *_ = reduce_raw_file(raw_file, calibration, temperature=temperature, threads=threads, pool=pool, rows=rows)
            return replace(reduced, thermometers=board_thermometers(raw_file, config))
        except PermilError as error:
            raise with_path(error, path) from error


def stack_group(
    paths: Sequence[str | Path],
    photodiodes: Sequence[float | None] | FloatArray,
    camera: Camera,
    calibration: Calibration,
    config: IsrConfig,
    *,
    normalise: bool = True,
    checksums: Checksums = "refuse",
    threads: int = 1,
    pool: ArrayPool | None = None,
) -> ExposureStack:
    """Stack the exposures of one position, LED and detector, all files together, a few rows at a time.

    Frames are compared at their own light (the median of their pixels), so that the noise of the photodiode is neither taken for
    an outlier nor spread over the pixels; the sum of the photodiode readings then sets the scale of the whole. Where there is
    hardly any light the photodiode takes that part too. The variance does not hold that of the superbias, which several stacks have in
    common (`Calibration.superbias_variance`).

    Parameters
    ----------
    paths, photodiodes
        Raw files and their photodiode readings.
    normalise
        Whether the photodiode sets the scale; else readings may be missing.
    checksums
        See `permil.exposures.RawFile`.
    threads
        Segments that are worked on at the same time; 1 in worker processes.
    pool
        May be used for the result.

    Raises
    ------
    PhotodiodeError
        If no exposure has a usable reading.
    InputError
        If no file can be used, or light and photodiode contradict each other and no majority says which exposure is wrong.
    """
    selection = select_by_photodiode(photodiodes, paths, normalise=normalise)
    readings = dict(zip((Path(path) for path in paths), selection.photodiode.tolist(), strict=True))
    wanted = [Path(path) for path, used in zip(paths, selection.used, strict=True) if used]

    def light(files: list[ProbedFile]) -> list[float]:
        own = has_light([file.median for file in files])
        return [file.median if own else readings[file.raw_file.path] for file in files]

    def temperature(file: RawFile) -> float | None:
        return board_temperature(file, config)

    with OpenFiles(wanted, camera, calibration, temperature, threads=threads, checksums=checksums) as opened:
        contradictions = [*opened.set_aside_unusable(), *opened.set_aside_contradictions(readings.__getitem__)]
        stacked = opened.stack(light, threshold=config.rejection_threshold, poisson=True, pool=pool)
        left_out = (*selection.left_out, *contradictions, *opened.left_out)
        if stacked is None:
            raise InputError(
                f"none of {len(paths)} exposures of {calibration.detector.name} can be used ({left_out[0].reason})"
                if left_out
                else f"there is no exposure of {calibration.detector.name} to stack",
                path=left_out[0].path if left_out else None,
                remedy="check the files",
            )
        used = tuple(file.raw_file.path for file in opened.files)
        medians = [file.median for file in opened.files]
    return scaled(stacked, medians, [readings[path] for path in used], used, left_out, normalise=normalise)


def seconds_of_file(detector: Detector) -> float:
    """Return the time, s, that one core of 2 to 3 GHz takes to read and reduce a raw file, measured."""
    return 0.01 + 5e-9 * detector.nx * detector.ny


def size_of_image(detector: Detector) -> float:
    """Return the bytes of an image product with mask and variance."""
    return 12.5 * detector.nx * detector.ny


def superbias_task(run: Run, detector: str) -> Task:
    """Declare the superbias of a detector from the bias exposures of a run."""
    return run.once(("superbias", detector), lambda: _superbias_task(run, detector))


def _superbias_task(run: Run, detector: str) -> Task:
    rows = run.index.select(purpose=BIAS, detector=detector)
    paths = tuple(sorted(str(path) for path in rows["path"]))
    output, serial = run.folder.superbias(detector), common_serial(rows, detector)

    def work(task: Task) -> Work:
        if not paths:
            raise CalibrationError(
                f"there is no bias exposure of {detector}",
                remedy="add the folder of bias exposures to exposures.roots, name a superbias in isr.bias, or set isr.bias to none",
                detector=detector,
            )
        make = partial(
            _make_superbias, config=run.config, paths=paths, output=output, fingerprint=task.fingerprint, serial=serial
        )
        return Work(make, [detector])

    return Task(
        ("superbias", detector),
        "superbias",
        work,
        outputs=(output,),
        options=run.options("camera", "exposures.checksums", *_BIAS_OPTIONS),
        files=paths,
        command=("isr", "--detector", detector),
        seconds=len(paths) * seconds_of_file(run.camera[detector]),
        size=size_of_image(run.camera[detector]),
    )


_REDUCTION_OPTIONS = tuple(f"isr.{name}" for name in IsrConfig.model_fields if name != "photon_transfer")
"""What is measured beside the reduction does not change it."""


@dataclass(frozen=True)
class Reduction:
    """What turns the raw counts of some detectors into electrons: keys of the configuration, files, tasks that make superbiases."""

    options: dict[str, Any]
    files: tuple[Path, ...]
    needs: tuple[Task, ...]


def reduction_of(run: Run, *detectors: str) -> Reduction:
    """Return what a task depends on that reduces raw files of some detectors."""
    files = [path for detector in detectors for path in calibration_files(run.config, detector)]
    needs = tuple(superbias_task(run, name) for name in detectors) if run.config.isr.bias == "auto" else ()
    return Reduction(run.options("camera", *_REDUCTION_OPTIONS, "exposures.checksums"), tuple(dict.fromkeys(files)), needs)


def make_calibrations(run: Run, detectors: Sequence[str]) -> StageReport:
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
    report, config = StageReport("isr"), run.config.isr
    check_output(run.folder.gains, inputs=[config.gains])
    gains = {name: read_gains(config, run.camera[name], camera=run.camera) for name in detectors}
    if config.bias == "auto":
        report.count(do_tasks([superbias_task(run, name) for name in detectors]))
        notes = {name: superbias_notes(run.folder.superbias(name)) for name in detectors}
        report.messages += [f"superbias of {name}: {note}" for name, found in notes.items() for note in found]
    elif config.bias != "none":
        rows = run.index.to_table()
        for name in detectors:
            check_superbias_serial(config, run.camera[name], run.camera, common_serial(rows, name))
    write_gains_table(run.folder.gains, gains, run.camera)
    return report


def _make_superbias(name: str, *, config: Config, paths: Sequence[str], output: Path, fingerprint: str, serial: str) -> None:
    """Make and write the superbias of one detector."""
    camera = shared_camera(config.camera)
    build_superbias(
        paths,
        camera[name],
        camera,
        config.isr,
        output,
        fingerprint=fingerprint,
        serial=serial,
        checksums=config.exposures.checksums,
        threads=own_threads(),
    )


def detector_calibration(config: Config, camera: Camera, folder: RunFolder, detector: str) -> Calibration:
    """Load everything that the reduction of a detector needs, with the superbias of this run.

    Raises
    ------
    CalibrationError, InputError
        See `permil.isr.inputs.load_calibration`.
    """
    superbias = folder.superbias(detector)
    return load_calibration(camera[detector], camera, config.isr, superbias=superbias, threads=own_threads())


def shared_calibration(config: Config, folder: RunFolder, detector: str) -> Calibration:
    """Return the calibration of a detector, read once per process as long as nothing it is made from changes.

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
    return load_calibration(camera[detector], camera, options, superbias=superbias, threads=own_threads())


def calibration_fingerprint(config: Config, folder: RunFolder, detector: str) -> str:
    """Return the fingerprint of everything in the folder that turns raw counts of a detector into electrons."""
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
            found = superbias_path(config.isr, shared_camera(config.camera)[detector], None)
            files += [] if found is None else [found]
        else:
            files += sorted(path.glob(f"*{detector}*"))
    return files


def common_serial(rows: Table, detector: str) -> str:
    """Return the serial number that rows of the index have in common for a detector, empty where they have none or several."""
    serials = {str(serial).strip() for serial in rows["serial"][rows["detector"] == detector]} - {""}
    return serials.pop() if len(serials) == 1 else ""
