"""The exposures of one position, LED and detector, from their files to one image on one scale.

Frames are compared at their own light, so that the noise of the photodiode is neither taken for an outlier nor spread over the pixels;
the photodiode readings then set the scale of the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from permil.camera import Camera, Detector
from permil.camera.frames import take_segment
from permil.errors import InputError, PermilError, RawFormatError
from permil.exposures import Checksums, RawFile
from permil.isr.array_pool import ArrayPool
from permil.isr.calibration import Calibration
from permil.isr.file_stack import FileStack, stack_files
from permil.isr.photodiode import LeftOut, photodiode_scale
from permil.isr.probe import ProbedFile, is_row_by_row, probe_file
from permil.isr.stack import Stack
from permil.products.masks import MaskPlane

FloatArray = NDArray[np.float64]

# Below this median signal (electrons) a residual of the bias level would spoil the light of a frame as its own scale.
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
        Files that are not in it, with the reason.
    photodiode_outliers
        Files in the stack whose photodiode reading contradicts their light and does not count in the scale.
    damaged
        Files in the stack of which some rows are masked, since they hold no measurement.
    """

    stack: Stack
    photodiode: float
    scale_error: float
    read_noise: FloatArray
    used: tuple[Path, ...]
    left_out: tuple[LeftOut, ...]
    photodiode_outliers: tuple[Path, ...]
    damaged: tuple[LeftOut, ...]


class OpenFiles:
    """Raw files of one detector, each opened and looked at once; what cannot be used is listed. Use it in a ``with`` statement.

    Parameters
    ----------
    paths
        Raw files.
    temperature
        Returns the temperature that the gain follows, degree C, from the headers of a file.
    threads
        Files that are looked at, and segments that are worked on, at the same time.
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
        threads: int,
        checksums: Checksums = "refuse",
    ) -> None:
        self.calibration, self.threads, self.checksums = calibration, threads, checksums
        self.left_out: list[LeftOut] = []
        self.files: list[ProbedFile] = []
        self._paths, self._camera, self._temperature = paths, camera, temperature
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
        # Where whole files must be decoded their segments are spread over the threads instead.
        of_files, of_segments = (self.threads, 1) if is_row_by_row(self.calibration) else (1, self.threads)

        calibration = self.calibration

        def probe(entry: RawFile | LeftOut) -> ProbedFile | LeftOut:
            if isinstance(entry, LeftOut):
                return entry
            try:
                temperature = self._temperature(entry)
                return probe_file(entry, calibration, temperature=temperature, threads=of_segments)
            except InputError as error:
                return _left_out(entry.path, error)
            except PermilError as error:
                raise with_path(error, entry.path) from error

        def probe_all(entries: Sequence[RawFile | LeftOut]) -> list[ProbedFile]:
            probed = []
            with ThreadPoolExecutor(of_files) as executor:
                for entry in (executor.map if of_files > 1 else map)(probe, entries):
                    if isinstance(entry, LeftOut):
                        self.left_out.append(entry)
                    else:
                        probed.append(entry)
            return probed

        self.files = probe_all(found)
        if any(rows.size for file in self.files for rows in file.lost):
            # The light of exposures is compared in pixels that all of them hold.
            calibration = _without_lost(self.calibration, self.files)
            self.files = probe_all([file.raw_file for file in self.files])

    def stack(
        self,
        light: Callable[[list[ProbedFile]], Sequence[float]],
        *,
        threshold: float,
        poisson: bool,
        pool: ArrayPool | None = None,
    ) -> FileStack | None:
        """Stack the files; those that turn out to be damaged are left out, and the others stacked anew. None without any.

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
                    threads=self.threads,
                    pool=pool,
                )
            except RawFormatError as error:
                self.left_out.append(_left_out(Path(str(error.path)), error))
                self.files = [file for file in self.files if file.raw_file.path != Path(str(error.path))]
        return None

    def set_aside_unusable(self) -> list[LeftOut]:
        """Take out files none of whose pixels holds a measurement."""
        reason = "none of its pixels can be used: all are saturated, masked or without data"
        dropped = [LeftOut(file.raw_file.path, reason) for file in self.files if not file.is_usable]
        self.files = [file for file in self.files if file.is_usable]
        return dropped

    def set_aside_contradictions(self, reading: Callable[[Path], float]) -> list[LeftOut]:
        """Take out files whose light per photodiode is not that of the majority.

        Raises
        ------
        InputError
            If light and photodiode contradict each other and no majority says which exposure is wrong.
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
    """Return the calibration with rows masked that any of some files has lost."""
    mask = calibration.static_mask.copy()
    for index, amplifier in enumerate(calibration.detector.amplifiers):
        rows = np.unique(np.concatenate([file.lost[index] for file in files]))
        take_segment(amplifier, mask)[rows] |= MaskPlane.NO_DATA
    return replace(calibration, static_mask=mask)


def has_light(medians: Sequence[float]) -> bool:
    """Return whether frames have enough light of their own to be compared by it."""
    return medians[0] >= MINIMUM_LIGHT and bool(np.isfinite(medians).all()) and min(medians) > 0


def _left_out(path: Path, error: PermilError) -> LeftOut:
    return LeftOut(path, error.what if error.remedy is None else f"{error.what}; {error.remedy}")


def _contradicts(medians: FloatArray, *, expected: FloatArray) -> NDArray[np.bool_]:
    """Return whether the light of exposures is off what photodiode and other exposures say by more than a half."""
    with np.errstate(invalid="ignore"):
        return np.isfinite(medians + expected) & (np.abs(medians - expected) > 0.5 * np.maximum(expected, MINIMUM_LIGHT))


def check_detector(found: Detector, expected: Detector, path: str | Path) -> None:
    """Check that a file holds a detector.

    Raises
    ------
    InputError
        If it holds another one.
    """
    if found.name != expected.name:
        raise InputError(
            f"the file holds detector {found.name}, not {expected.name}",
            path=path,
            remedy="check the list of files",
            value=found.name,
        )


def with_path(error: PermilError, path: str | Path) -> PermilError:
    """Return an error of an algorithm with the file that it came up in."""
    return type(error)(error.what, path=error.path or path, remedy=error.remedy, **error.data)


def scaled(
    stacked: FileStack,
    medians: Sequence[float],
    readings: Sequence[float],
    used: tuple[Path, ...],
    left_out: tuple[LeftOut, ...],
    *,
    normalise: bool,
) -> ExposureStack:
    """Put a stack at the mean photodiode reading of its frames; its image and variance are changed in place.

    Parameters
    ----------
    medians, readings
        Light of the frames themselves, electrons, and of the photodiode.
    used, left_out
        Files.
    normalise
        Whether the photodiode is used at all.
    """
    stack = stacked.stack
    read_noise = np.sqrt((stacked.read_noise**2).sum(axis=0) / len(used))
    damaged = tuple(LeftOut(used[file], sentence) for file, sentence in stacked.damage)
    if not normalise:
        return ExposureStack(stack, 1.0, np.nan, read_noise, used, left_out, (), damaged)
    # Without light of their own the frames cannot judge the photodiode.
    own = has_light(medians)
    scale = photodiode_scale(np.array(medians) if own else stack.light, readings)
    if scale.factor != 1:
        factor = np.float32(scale.factor)
        np.multiply(stack.image, factor, out=stack.image)
        np.multiply(stack.variance, factor**2, out=stack.variance)
    outliers = tuple(used[frame] for frame in scale.outliers)
    return ExposureStack(stack, scale.mean, scale.error if own else np.nan, read_noise, used, left_out, outliers, damaged)
