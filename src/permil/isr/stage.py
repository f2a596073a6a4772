"""Read raw files and calibration inputs, call the algorithms, write the calibration products.

Every function works on one detector and takes and returns what can travel between processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import QTable, Table
from numpy.typing import NDArray

from permil.camera import Camera, Detector, ReferenceBox
from permil.config.isr import IsrConfig
from permil.errors import CalibrationError, InputError, PermilError
from permil.exposures.raw import RawDetector, read_raw
from permil.isr.box import BoxSignal, reduce_box
from permil.isr.calibration import Calibration
from permil.isr.gains import Gains
from permil.isr.inputs import load_calibration, overscan_options
from permil.isr.photodiode import LeftOut, photodiode_scale, select_by_photodiode
from permil.isr.reduce import DetectorImage, reduce_exposure
from permil.isr.stack import FrameStack, Stack, frame_light
from permil.isr.superbias import bias_calibration, stack_superbias
from permil.products import FINGERPRINT_CARD, write_image, write_table

__all__ = [
    "ExposureStack",
    "board_temperature",
    "box_signals",
    "build_superbias",
    "gains_table",
    "load_calibration",
    "reduce_file",
    "stack_group",
    "write_gains_table",
]

FloatArray = NDArray[np.float64]

# Below this median signal (electrons) a residual of the bias level would spoil the light of a frame as its own scale.
MINIMUM_LIGHT = 1000.0
_BOARD_SENSORS = tuple(f"TEMP{number}" for number in range(1, 7))


@dataclass(frozen=True)
class ExposureStack:
    """The exposures of one position, LED and detector as one image.

    Parameters
    ----------
    stack
        Mean signal at the mean photodiode reading, electrons.
    photodiode
        Mean photodiode reading; 1 when the photodiode is not used.
    scale_error
        Relative error of the scale common to all pixels, from the scatter of light over photodiode; NaN when unknown.
    read_noise
        Electrons per amplifier, root mean square over the exposures.
    used
        Files in the stack.
    left_out
        Files that are not in it, with the reason.
    photodiode_outliers
        Files in the stack whose photodiode reading contradicts their light and does not count in the scale.
    """

    stack: Stack
    photodiode: float
    scale_error: float
    read_noise: FloatArray
    used: tuple[Path, ...]
    left_out: tuple[LeftOut, ...]
    photodiode_outliers: tuple[Path, ...]


def build_superbias(
    paths: Sequence[str | Path],
    detector: Detector,
    camera: Camera,
    config: IsrConfig,
    output: Path,
    *,
    fingerprint: str = "",
) -> Path:
    """Make the superbias of a detector from its bias exposures and write it.

    Parameters
    ----------
    paths
        Raw bias files of this detector.
    output
        Where the product goes: IMAGE and VARIANCE in adu, MASK, and a table AMPLIFIERS with level and read noise.

    fingerprint
        Of what the product is made from; kept in its header.

    Returns
    -------
    pathlib.Path
        ``output``.

    Raises
    ------
    CalibrationError
        If there is no bias exposure that can be read.
    OutputError
        If the product cannot be written.
    """
    calibration = bias_calibration(detector, overscan=overscan_options(config))
    left_out: list[LeftOut] = []
    frames = _reduced_files(paths, camera, calibration, config, left_out)
    summary = stack_superbias((image for _, image in frames), detector, threshold=config.rejection_threshold)
    if summary is None:
        raise CalibrationError(
            f"there is no usable bias exposure of {detector.name}" + (f" ({left_out[0].reason})" if left_out else ""),
            path=left_out[0].path if left_out else None,
            remedy="add bias exposures to the roots, or set isr.bias to none",
            detector=detector.name,
        )
    stack = summary.stack
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
            "DETECTOR": (detector.name, "detector"),
            "CAMERA": (camera.name, "camera"),
            "NFRAMES": (stack.n_frames, "bias exposures"),
            "NLEFTOUT": (len(left_out), "bias exposures that could not be used"),
            "NREJECT": (stack.n_rejected, "measurements rejected as outliers"),
            "OVERSCAN": (config.overscan, "method of the overscan level"),
            FINGERPRINT_CARD: (fingerprint, "what this was made from"),
        },
        image_cards={"BUNIT": "adu"},
        extensions=[fits.BinTableHDU(table, name="AMPLIFIERS")],
    )
    return output


def gains_table(gains: Mapping[str, Gains], camera: Camera) -> Table:
    """Return the gains that are used, one row per detector and amplifier; `gains` by detector name."""
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
    return table


def write_gains_table(path: Path, gains: Mapping[str, Gains], camera: Camera) -> None:
    """Write the gains that are used; the table can be given to ``isr.gains`` again.

    Raises
    ------
    OutputError
        If the table cannot be written.
    """
    write_table(path, gains_table(gains, camera))


def board_temperature(raw: RawDetector, config: IsrConfig) -> float | None:
    """Return the temperature that the gain follows, degree C; None when the gain is not corrected or the card is missing."""
    if config.temperature_coefficient == 0:
        return None
    if config.temperature_card == "mean":
        present = [raw.board_temperatures[name] for name in _BOARD_SENSORS if name in raw.board_temperatures]
        return float(np.mean(present)) if present else None
    card = (raw.readout_board or {}).get(config.temperature_card)
    return float(card) if isinstance(card, int | float) else None


def reduce_file(path: str | Path, camera: Camera, calibration: Calibration, config: IsrConfig) -> DetectorImage:
    """Read and reduce one raw file.

    Raises
    ------
    InputError
        If the file cannot be used or is that of another detector.
    CalibrationError
        If the board temperature is needed and not in the file.
    """
    raw = _read(path, camera, calibration.detector)
    try:
        return reduce_exposure(raw.segments, calibration, temperature=board_temperature(raw, config))
    except PermilError as error:
        raise _with_path(error, path) from error


def box_signals(
    path: str | Path, boxes: Sequence[ReferenceBox], camera: Camera, calibration: Calibration, config: IsrConfig
) -> list[BoxSignal]:
    """Measure bunches of pixels of one detector in one raw file; only the segments that are needed are decoded.

    Raises
    ------
    InputError
        If the file cannot be used or is that of another detector.
    CameraError
        If a bunch is not on the detector.
    CalibrationError
        If a bunch has no usable pixel, or the board temperature is needed and not in the file.
    """
    names = dict.fromkeys(name for box in boxes for name in calibration.needed_segments(box.amp))
    raw = _read(path, camera, calibration.detector, segments=list(names))
    temperature = board_temperature(raw, config)
    try:
        return [
            reduce_box(
                raw.segments,
                calibration,
                amplifier=box.amp,
                row=box.row,
                column=box.column,
                box=box.box,
                temperature=temperature,
                threshold=config.rejection_threshold,
            )
            for box in boxes
        ]
    except PermilError as error:
        raise _with_path(error, path) from error


def stack_group(
    paths: Sequence[str | Path],
    photodiodes: Sequence[float | None] | FloatArray,
    camera: Camera,
    calibration: Calibration,
    config: IsrConfig,
    *,
    with_superbias_variance: bool = True,
) -> ExposureStack:
    """Stack the exposures of one position, LED and detector, one file at a time.

    Frames are compared at their own light (the median of their pixels), so that the noise of the photodiode is neither taken for
    an outlier nor spread over the pixels; the sum of the photodiode readings then sets the scale of the whole. Where there is
    hardly any light the photodiode takes that part too.

    Parameters
    ----------
    paths, photodiodes
        Raw files and their photodiode readings.
    with_superbias_variance
        Whether the variance holds that of the superbias, which several stacks have in common.

    Raises
    ------
    PhotodiodeError
        If no exposure has a usable reading.
    InputError
        If no file can be used, or light and photodiode contradict each other and no majority says which exposure is wrong.
    """
    normalise = config.photodiode == "header"
    selection = select_by_photodiode(photodiodes, paths, normalise=normalise)
    left_out = list(selection.left_out)
    readings = dict(zip((Path(path) for path in paths), selection.photodiode, strict=True))
    wanted = [Path(path) for path, used in zip(paths, selection.used, strict=True) if used]
    frames = FrameStack(calibration.detector, threshold=config.rejection_threshold)
    used: list[Path] = []
    medians: list[float] = []
    noise_squares = np.zeros(len(calibration.detector.amplifiers))
    for path, image in _reduced_files(wanted, camera, calibration, config, left_out):
        median, reading = frame_light(image.image, image.mask), readings[path]
        if used and _contradicts(median, expected=medians[0] * reading / readings[used[0]]):
            good, bad = _split_by_light(wanted, readings, camera, calibration, config)
            stacked = stack_group(
                good,
                [readings[path] for path in good],
                camera,
                calibration,
                config,
                with_superbias_variance=with_superbias_variance,
            )
            return _without(stacked, bad, good, left_out)
        used.append(path)
        medians.append(median)
        own = medians[0] >= MINIMUM_LIGHT
        frames.add(image.image, image.mask, image.noise_variance, light=median if own else reading)
        noise_squares += image.read_noise**2
        del image  # before the next one is read
    if not used:
        raise InputError(
            f"none of {len(paths)} exposures of {calibration.detector.name} can be used ({left_out[0].reason})"
            if left_out
            else f"there is no exposure of {calibration.detector.name} to stack",
            path=left_out[0].path if left_out else None,
            remedy="check the files",
        )
    stack = frames.result(superbias_variance=calibration.superbias_variance() if with_superbias_variance else None)
    read_noise = np.sqrt(noise_squares / len(used))
    if not normalise:
        return ExposureStack(stack, 1.0, np.nan, read_noise, tuple(used), tuple(left_out), ())
    # Without light of their own the frames cannot judge the photodiode.
    judged = np.array(medians) if medians[0] >= MINIMUM_LIGHT else stack.light
    scale = photodiode_scale(judged, [readings[path] for path in used])
    if scale.factor != 1:
        factor = np.float32(scale.factor)
        stack = replace(stack, image=stack.image * factor, variance=stack.variance * factor**2)
    scale_error = scale.error if medians[0] >= MINIMUM_LIGHT else np.nan
    outliers = tuple(used[frame] for frame in scale.outliers)
    return ExposureStack(stack, scale.mean, scale_error, read_noise, tuple(used), tuple(left_out), outliers)


def _contradicts(median: float, *, expected: float) -> bool:
    """Return whether the light of an exposure is off what photodiode and other exposures say by more than a half."""
    return bool(np.isfinite(median + expected) and abs(median - expected) > 0.5 * max(expected, MINIMUM_LIGHT))


def _split_by_light(
    paths: Sequence[Path], readings: dict[Path, float], camera: Camera, calibration: Calibration, config: IsrConfig
) -> tuple[list[Path], list[Path]]:
    """Tell exposures whose light per photodiode is that of the majority from the others; this reads all files once more.

    Raises
    ------
    InputError
        If there is no majority.
    """
    frames = _reduced_files(paths, camera, calibration, config, [])
    ratio = {path: frame_light(image.image, image.mask) / readings[path] for path, image in frames}
    typical = float(np.nanmedian(list(ratio.values())))
    bad = [path for path, value in ratio.items() if _contradicts(value * readings[path], expected=typical * readings[path])]
    if 2 * len(bad) >= len(ratio) or len(ratio) < 3:
        raise InputError(
            f"light and photodiode of {len(ratio)} exposures at one position contradict each other",
            path=(bad or list(ratio))[0],
            remedy="the lamp failed, or an exposure belongs to another position: leave the wrong ones out of the folders",
        )
    return [path for path in paths if path not in bad], bad


def _without(stacked: ExposureStack, bad: list[Path], good: list[Path], left_out: list[LeftOut]) -> ExposureStack:
    """Return a stack of the good exposures that says why the others are not in it."""
    reason = "its light contradicts photodiode and the other exposures by more than a half"
    dropped = [entry for entry in left_out if entry.path not in good]
    return replace(stacked, left_out=(*dropped, *(LeftOut(path, reason) for path in bad), *stacked.left_out))


def _reduced_files(
    paths: Sequence[str | Path], camera: Camera, calibration: Calibration, config: IsrConfig, left_out: list[LeftOut]
) -> Iterator[tuple[Path, DetectorImage]]:
    """Yield path and reduced exposure one by one; what cannot be read is listed and left out."""
    for path in paths:
        try:
            image = reduce_file(path, camera, calibration, config)
        except InputError as error:
            left_out.append(LeftOut(Path(path), error.what if error.remedy is None else f"{error.what}; {error.remedy}"))
            continue
        yield Path(path), image


def _read(path: str | Path, camera: Camera, detector: Detector, *, segments: list[str] | None = None) -> RawDetector:
    raw = read_raw(path, camera, segments=segments)
    if raw.detector.name != detector.name:
        raise InputError(
            f"the file holds detector {raw.detector.name}, not {detector.name}",
            path=path,
            remedy="check the list of files",
            value=raw.detector.name,
        )
    return raw


def _with_path(error: PermilError, path: str | Path) -> PermilError:
    """Return an error of an algorithm with the file that it came up in."""
    return type(error)(error.what, path=error.path or path, remedy=error.remedy, **error.data)
