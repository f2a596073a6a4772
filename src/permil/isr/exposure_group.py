"""The exposures of one position, LED and detector, from their files to one image on one scale.

Frames are compared at their own light, so that the noise of the photodiode neither appears as outliers nor spreads over the pixels;
the photodiode readings then set the scale of the stack.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from permil.arrays import ArrayPool, BoolArray, Float32Array, FloatArray
from permil.camera import Camera
from permil.camera.frames import take_segment
from permil.engine import threaded_map
from permil.errors import InputError, PermilError, RawFormatError
from permil.exposures import Checksums, RawFile
from permil.isr.calibration.calibration import Calibration
from permil.isr.calibration.gains import board_temperature
from permil.isr.photodiode import LeftOut, photodiode_scale, select_by_photodiode
from permil.isr.reduce import check_detector, with_path
from permil.isr.stack import DEFAULT_THRESHOLD, Stack
from permil.isr.streamed_stack import FileStack, ProbedFile, is_row_by_row, probe_file, stack_files
from permil.products.masks import MaskPlane

# Below this median signal (electrons) an error of the bias level would spoil the light of a frame as its scale.
MINIMUM_LIGHT = 1000.0


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
        Excluded files, with the reason.
    photodiode_outliers
        Files in the stack whose photodiode reading contradicts their light and is excluded from the scale.
    damaged
        Files in the stack with masked rows that hold no measurement.
    """

    stack: Stack
    photodiode: float
    scale_error: float
    read_noise: FloatArray
    used: tuple[Path, ...]
    left_out: tuple[LeftOut, ...]
    photodiode_outliers: tuple[Path, ...]
    damaged: tuple[LeftOut, ...]

    @property
    def image(self) -> Float32Array:
        """Mean signal, electrons, shape (ny, nx)."""
        return self.stack.image

    @property
    def variance(self) -> Float32Array:
        """Its variance, electrons^2."""
        return self.stack.variance

    @property
    def mask(self) -> NDArray[np.integer]:
        """Bits of `permil.products.MaskPlane`."""
        return self.stack.mask


class OpenFiles:
    """Raw files of one detector, each opened and probed once; unusable files are listed. Use it in a ``with`` statement.

    Parameters
    ----------
    paths
        Raw files.
    temperature
        Returns the temperature of the gain, degree C, from the headers of a file.
    with_light
        Whether the light of each file is measured (see `permil.isr.streamed_stack.probe_file`).
    checksums
        See `permil.exposures.RawFile`.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        camera: Camera,
        calibration: Calibration,
        temperature: Callable[[RawFile], float | None],
        *,
        with_light: bool = True,
        checksums: Checksums = "refuse",
    ) -> None:
        self.calibration, self.checksums = calibration, checksums
        self.left_out: list[LeftOut] = []
        self.files: list[ProbedFile] = []
        self._paths, self._camera, self._temperature, self._with_light = paths, camera, temperature, with_light
        self._opened = ExitStack()

    def __enter__(self) -> Self:
        """Open all files."""
        try:
            self._open()
        except BaseException:
            self._opened.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Close all files."""
        self._opened.close()

    def _open(self) -> None:
        found: list[RawFile | LeftOut] = []
        for path in self._paths:
            try:
                raw_file = self._opened.enter_context(RawFile(path, self._camera, checksums=self.checksums))
                check_detector(raw_file.detector, self.calibration.detector, path)
                raw_file.read_ahead()
                found.append(raw_file)
            except InputError as error:
                found.append(_left_out(path, error))
        # If whole files must be decoded, their segments are spread over the threads instead.
        most = 0 if is_row_by_row(self.calibration) else 1
        calibration = self.calibration

        def probe(entry: RawFile | LeftOut) -> ProbedFile | LeftOut:
            if isinstance(entry, LeftOut):
                return entry
            try:
                temperature = self._temperature(entry)
                return probe_file(entry, calibration, temperature=temperature, with_light=self._with_light)
            except InputError as error:
                return _left_out(entry.path, error)
            except PermilError as error:
                raise with_path(error, entry.path) from error

        def probe_all(entries: Sequence[RawFile | LeftOut]) -> list[ProbedFile]:
            probed = []
            for entry in threaded_map(probe, entries, most=most):
                if isinstance(entry, LeftOut):
                    self.left_out.append(entry)
                else:
                    probed.append(entry)
            return probed

        self.files = probe_all(found)
        usable = [file for file in self.files if file.is_usable]
        if any(rows.size for file in usable for rows in file.lost):
            # The light of exposures is compared in pixels that all of them have, but for exposures without any.
            calibration = _without_lost(self.calibration, usable)
            self.files = probe_all([file.raw_file for file in self.files])

    def stack(
        self,
        light: Callable[[list[ProbedFile]], Sequence[float]],
        *,
        threshold: float,
        poisson: bool,
        pool: ArrayPool | None = None,
    ) -> FileStack | None:
        """Stack the files; when one turns out to be damaged, leave it out and stack the others again. Return None without any.

        Parameters
        ----------
        light
            Returns the light of each file.
        threshold, poisson, pool
            See `stack_files`.
        """
        while self.files:
            try:
                return stack_files(
                    self.files,
                    self.calibration,
                    light=light(self.files),
                    threshold=threshold,
                    poisson=poisson,
                    pool=pool,
                )
            except RawFormatError as error:
                self.left_out.append(_left_out(Path(str(error.path)), error))
                self.files = [file for file in self.files if file.raw_file.path != Path(str(error.path))]
        return None

    def set_aside_unusable(self) -> list[LeftOut]:
        """Remove and return files without any measured pixel."""
        reason = "none of its pixels can be used: all are saturated, masked or without data"
        dropped = [LeftOut(file.raw_file.path, reason) for file in self.files if not file.is_usable]
        self.files = [file for file in self.files if file.is_usable]
        return dropped

    def set_aside_contradictions(self, reading: Callable[[Path], float]) -> list[LeftOut]:
        """Remove and return files whose light per photodiode reading differs from that of the majority.

        Raises
        ------
        InputError
            If light and photodiode contradict each other without a majority.
        """
        dropped: list[LeftOut] = []
        while self.files:
            readings = np.array([reading(file.raw_file.path) for file in self.files])
            medians = np.array([file.median for file in self.files])
            ratios = (medians / readings)[np.isfinite(medians)]
            if not ratios.size or not _contradicts(medians, expected=ratios[0] * readings).any():
                break
            bad = _contradicts(medians, expected=float(np.median(ratios)) * readings)
            if 2 * np.count_nonzero(bad) >= bad.size or bad.size < 3:
                raise InputError(
                    f"light and photodiode of {bad.size} exposures at one position contradict each other",
                    path=self.files[int(bad.argmax())].raw_file.path,
                    remedy="the lamp failed, or an exposure belongs to another position: leave the wrong ones out of the folders",
                )
            if not bad.any():
                break
            reason = "its light contradicts photodiode and the other exposures by more than a half"
            dropped += [LeftOut(file.raw_file.path, reason) for file, wrong in zip(self.files, bad, strict=True) if wrong]
            self.files = [file for file, wrong in zip(self.files, bad, strict=True) if not wrong]
        return dropped


def _without_lost(calibration: Calibration, files: Sequence[ProbedFile]) -> Calibration:
    """Return the calibration with a mask of the rows that any of the files has lost."""
    mask = calibration.static_mask.copy()
    for index, amplifier in enumerate(calibration.detector.amplifiers):
        rows = np.unique(np.concatenate([file.lost[index] for file in files]))
        take_segment(amplifier, mask)[rows] |= MaskPlane.NO_DATA
    return replace(calibration, static_mask=mask)


def has_light(medians: Sequence[float]) -> bool:
    """Return whether frames have enough light to be compared by their own medians."""
    return medians[0] >= MINIMUM_LIGHT and bool(np.isfinite(medians).all()) and min(medians) > 0


def _left_out(path: Path, error: PermilError) -> LeftOut:
    return LeftOut(path, error.what if error.remedy is None else f"{error.what}; {error.remedy}")


def _contradicts(medians: FloatArray, *, expected: FloatArray) -> BoolArray:
    """Return whether the light of exposures differs from the expected light by more than a half."""
    with np.errstate(invalid="ignore"):
        return np.isfinite(medians + expected) & (np.abs(medians - expected) > 0.5 * np.maximum(expected, MINIMUM_LIGHT))


def scaled(
    stacked: FileStack,
    medians: Sequence[float],
    readings: Sequence[float],
    used: tuple[Path, ...],
    left_out: tuple[LeftOut, ...],
    *,
    normalise: bool,
) -> ExposureStack:
    """Scale a stack to the mean photodiode reading of its frames; image and variance are changed in place.

    Parameters
    ----------
    medians, readings
        Median signal of the frames, electrons, and photodiode readings.
    used, left_out
        Files.
    normalise
        Whether the photodiode is used.
    """
    stack = stacked.stack
    read_noise = np.sqrt((stacked.read_noise**2).sum(axis=0) / len(used))
    damaged = tuple(LeftOut(used[file], sentence) for file, sentence in stacked.damage)
    if not normalise:
        return ExposureStack(stack, 1.0, np.nan, read_noise, used, left_out, (), damaged)
    # Frames with little light cannot test the photodiode.
    own = has_light(medians)
    scale = photodiode_scale(np.array(medians) if own else stack.light, readings)
    if scale.factor != 1:
        factor = np.float32(scale.factor)
        np.multiply(stack.image, factor, out=stack.image)
        np.multiply(stack.variance, factor**2, out=stack.variance)
    outliers = tuple(used[frame] for frame in scale.outliers)
    return ExposureStack(stack, scale.mean, scale.error if own else np.nan, read_noise, used, left_out, outliers, damaged)


def stack_group(
    paths: Sequence[str | Path],
    photodiodes: Sequence[float | None] | FloatArray,
    camera: Camera,
    calibration: Calibration,
    *,
    threshold: float = DEFAULT_THRESHOLD,
    normalise: bool = True,
    checksums: Checksums = "refuse",
    pool: ArrayPool | None = None,
) -> ExposureStack:
    """Stack the exposures of one position, LED and detector, all files together, a few rows at a time.

    Frames are compared at the median of their pixels, or with little light at their photodiode reading; the sum of the photodiode readings
    sets the scale. The variance excludes that of the superbias, which several stacks share (`Calibration.superbias_variance`).

    Parameters
    ----------
    paths, photodiodes
        Raw files and their photodiode readings.
    threshold
        See `permil.isr.streamed_stack.stack_files`.
    normalise
        Whether the photodiode sets the scale; otherwise readings may be missing.
    checksums
        See `permil.exposures.RawFile`.
    pool
        Pool for the result.

    Raises
    ------
    PhotodiodeError
        If no exposure has a usable reading.
    InputError
        If no file can be used, or light and photodiode contradict each other without a majority.
    """
    selection = select_by_photodiode(photodiodes, paths, normalise=normalise)
    readings = dict(zip((Path(path) for path in paths), selection.photodiode.tolist(), strict=True))
    wanted = [Path(path) for path, used in zip(paths, selection.used, strict=True) if used]

    def light(files: list[ProbedFile]) -> list[float]:
        own = has_light([file.median for file in files])
        return [file.median if own else readings[file.raw_file.path] for file in files]

    def temperature(file: RawFile) -> float | None:
        return board_temperature(file, calibration)

    with OpenFiles(wanted, camera, calibration, temperature, checksums=checksums) as opened:
        contradictions = [*opened.set_aside_unusable(), *opened.set_aside_contradictions(readings.__getitem__)]
        stacked = opened.stack(light, threshold=threshold, poisson=True, pool=pool)
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
