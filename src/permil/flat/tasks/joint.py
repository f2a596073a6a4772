"""Second pass of the joint solution: the flat of one detector at full resolution, from every exposure that lights it.

Beam and scales are known, so that each pixel is a weighted mean of signal over light. Positions with several images are stacked
as pointings are; a single exposure is compared, pixel by pixel, with the median response of a few exposures of this detector.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from permil.camera import Camera, shared_camera
from permil.engine import ahead, own_threads
from permil.errors import FlatError, InputError
from permil.flat.divide import LitImage
from permil.flat.joint.average import median_image
from permil.flat.joint_file import ExposureLight, JointLight, read_errors, read_light
from permil.flat.lit_exposure import LitExposure
from permil.flat.pointing import LitStack, Pointing
from permil.flat.product import DetectorSolution
from permil.flat.shared_errors import KnownErrors
from permil.flat.signals_file import SuperPixelSignals, read_signals
from permil.flat.solve import solve_detector
from permil.flat.tasks.pointings import PointingGroup
from permil.flat.tasks.task import FlatTask, keep_pointing
from permil.isr import Calibration, LeftOut
from permil.isr.calibrate import detector_calibration
from permil.isr.reduce import DetectorImage, ImageRoom, ImageRooms
from permil.isr.stage import reduce_file, stack_group
from permil.products import RunFolder, is_usable

FEWEST_FOR_STACK = 3
"""Images at one position from which outliers are found among themselves."""

TOGETHER = 3
"""Single exposures that are added together, while the sums of some rows are in the cache."""


@lru_cache(maxsize=4)
def _light(path: Path, _changed: int) -> JointLight:
    return read_light(path)


def joint_detector(task: FlatTask) -> tuple[DetectorSolution, list[LeftOut]]:
    """Return the flat of one detector on its own scale, and what was left out of it."""
    folder, config = RunFolder(task.root), task.config
    path = folder.joint(task.led)
    light = _light(path, path.stat().st_mtime_ns)
    errors, budget = read_errors(path, task.detector)
    noted: list[LeftOut] = []
    detector = _Detector(task, folder, light, noted)
    solution = solve_detector(
        detector.batches(),
        KnownErrors(errors.covariance),
        detector.calibration.detector,
        led=task.led,
        super_pixel_mm=config.flat.super_pixel_mm,
        common_variance=detector.calibration.superbias_variance,
        remove_steps=config.flat.remove_amplifier_steps,
        keep=keep_pointing(task),
    )
    return replace(solution, modes=errors.modes, remainder=errors.remainder, halves=errors.halves, budget=budget), noted


class _Detector:
    """The exposures of one detector, and the light that is expected on it."""

    def __init__(self, task: FlatTask, folder: RunFolder, light: JointLight, noted: list[LeftOut]) -> None:
        self.task, self.light, self.noted = task, light, noted
        self.camera: Camera = shared_camera(task.config.camera)
        self.calibration: Calibration = detector_calibration(task.config, self.camera, folder, task.detector)
        self.signals: SuperPixelSignals = read_signals(folder.super_pixels(task.led, task.detector))
        self.row_of = {str(obsid): row for row, obsid in enumerate(self.signals.obsid)}
        self.rooms = ImageRooms()
        self.isr = task.config.isr.model_copy(update={"photodiode": "header"})

    def batches(self) -> Iterator[list[LitStack] | list[LitExposure]]:
        """Yield stacks one by one, and single exposures a few together."""
        reference = None
        for is_stack, groups in groupby(self.task.groups, key=lambda group: len(group.paths) >= FEWEST_FOR_STACK):
            if is_stack:
                # One at a time: at full size each takes hundreds of megabytes.
                yield from ([self._stack(group)] for group in groups)
                continue
            reference = self.reference() if reference is None else reference
            singles = [(group, number, reference) for group in groups for number in range(len(group.paths))]
            batch: list[LitExposure] = []
            for lit, left_out in ahead(self._single, singles, threads=own_threads(), depth=TOGETHER):
                self.noted += left_out
                batch += [] if lit is None else [lit]
                del lit
                if len(batch) == TOGETHER:
                    yield batch
                    self._give_back(batch)
                    batch = []
            if batch:
                yield batch
            # The stacks that may follow need the memory.
            self.rooms = ImageRooms()

    def _give_back(self, batch: list[LitExposure]) -> None:
        for lit in batch:
            self.rooms.give_back(lit.image)

    def light_of(self, obsid: str, exposure: ExposureLight) -> Callable[[slice, slice], NDArray[np.float32]]:
        """Return what gives the beam on rows and columns of the detector; NaN where there is not enough light to be known."""
        dark = ~self.signals.footprint(self.row_of[obsid], self.task.config.flat.joint.least_signal)
        detector, block = self.calibration.detector, self.signals.block

        def light(rows: slice, columns: slice) -> NDArray[np.float32]:
            beam = self.light.on_pixels(detector, exposure, rows, columns)
            block_rows = np.arange(detector.ny)[rows] // block
            block_columns = np.arange(detector.nx)[columns] // block
            if dark[block_rows[0] : block_rows[-1] + 1].any():
                beam[dark[block_rows[:, None], block_columns]] = np.nan
            return beam

        return light

    def _stack(self, group: PointingGroup) -> LitStack:
        """Return the stack of one position; its scales are those of the joint solution, not the photodiode's."""
        exposures = [self.light.exposures[obsid] for obsid in group.obsids]
        scales = [exposure.scale for exposure in exposures]
        stacked = stack_group(
            group.paths,
            scales,
            self.camera,
            self.calibration,
            self.isr,
            with_superbias_variance=False,
            threads=own_threads(),
        )
        self.noted += stacked.left_out
        stack = stacked.stack
        chi_square = float(np.nanmean(stack.chi_square)) if np.isfinite(stack.chi_square).any() else np.nan
        scale_error = float(np.sqrt(np.sum(np.square([exposure.error for exposure in exposures])))) / len(exposures)
        beam = self.light_of(group.obsids[0], exposures[0])(slice(None), slice(None))
        # The errors of the beam are all in the covariance of the joint solution.
        exact = np.broadcast_to(np.float32(0), beam.shape)
        image = LitImage(stack.image, stack.variance, stack.mask, beam, exact, stacked.photodiode, scale_error)
        return LitStack(_pointing(group, scale_error, len(stacked.used), chi_square), image, stack.n_rejected)

    def _single(self, exposed: tuple[PointingGroup, int, NDArray[np.float32]]) -> tuple[LitExposure | None, list[LeftOut]]:
        """Return a single exposure with its light, or why there is none."""
        group, number, reference = exposed
        try:
            image = self._read(group.paths[number], self.rooms.take(self.calibration.detector))
        except InputError as error:
            return None, [LeftOut(Path(group.paths[number]), error.what)]
        exposure = self.light.exposures[group.obsids[number]]
        lit = LitExposure(
            _pointing(group, exposure.error, 1, float("nan")),
            image,
            self.light_of(group.obsids[number], exposure),
            scale=exposure.scale,
            reference=reference,
            threshold=self.isr.rejection_threshold,
        )
        return lit, []

    def reference(self) -> NDArray[np.float32]:
        """Return the median response of a few exposures.

        Raises
        ------
        FlatError
            If none of them can be used.
        """
        files = {path: obsid for group in self.task.groups for path, obsid in zip(group.paths, group.obsids, strict=True)}

        def response(path: str) -> NDArray[np.float32] | None:
            try:
                image = self._read(path)
            except InputError:
                # It is noted where it is read for the flat.
                return None
            exposure = self.light.exposures[files[path]]
            with np.errstate(invalid="ignore", divide="ignore"):
                found = image.image / (
                    np.float32(exposure.scale) * self.light_of(files[path], exposure)(slice(None), slice(None))
                )
            found[~is_usable(image.mask)] = np.nan
            return found

        nearest = [path for path in self.task.nearest if path in files]
        responses = [found for found in ahead(response, nearest, threads=own_threads()) if found is not None]
        if not responses:
            raise FlatError("none of the exposures nearest to this detector can be used", remedy="look at those left out")
        return median_image(responses)

    def _read(self, path: str, room: ImageRoom | None = None) -> DetectorImage:
        return reduce_file(path, self.camera, self.calibration, self.isr, room=room)


def _pointing(group: PointingGroup, scale_error: float, exposures: int, chi_square: float) -> Pointing:
    return Pointing(
        number=group.number,
        x_mm=group.x_mm,
        y_mm=group.y_mm,
        scale_error=scale_error,
        exposures=exposures,
        chi_square=chi_square,
        aimed=group.aimed,
        scan=group.scan,
    )
