"""Second pass of the joint solution: the flat of one detector at full resolution, from every exposure that lights it.

Beam and scales are known, so that each pixel is a weighted mean of signal over light. Positions with several images are stacked
as pointings are; a single exposure is compared, pixel by pixel, with the median response of a few exposures of this detector.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from permil.camera import Camera, shared_camera
from permil.errors import FlatError, InputError
from permil.flat.joint.average import median_image
from permil.flat.joint_file import ExposureLight, JointLight, read_errors, read_light
from permil.flat.product import DetectorSolution
from permil.flat.signals_file import SuperPixelSignals, read_signals
from permil.flat.solve import LitStack, PointingStack, SeenPointings, solve_detector
from permil.flat.tasks.pointings import PointingGroup
from permil.flat.tasks.task import FlatTask, keep_pointing
from permil.isr import Calibration, LeftOut
from permil.isr.calibrate import detector_calibration
from permil.isr.reduce import DetectorImage
from permil.isr.stage import reduce_file, stack_group
from permil.products import MaskPlane, RunFolder, is_usable

FEWEST_FOR_STACK = 3
"""Images at one position from which outliers are found among themselves."""

_MEDIAN_VARIANCE = 0.3
"""Variance of the median of five over that of one."""


@lru_cache(maxsize=4)
def _light(path: Path, _changed: int) -> JointLight:
    return read_light(path)


def joint_detector(task: FlatTask) -> tuple[DetectorSolution, list[LeftOut]]:
    """Return the flat of one detector on its own scale, and what was left out of it."""
    folder, config = RunFolder(task.root), task.config
    path = folder.joint(task.led)
    light = _light(path, path.stat().st_mtime_ns)
    errors, budget = read_errors(path, task.detector)

    def shared(_: SeenPointings) -> NDArray[np.float64]:
        return errors.covariance

    noted: list[LeftOut] = []
    detector = _Detector(task, folder, light, noted)
    solution = solve_detector(
        detector.lit_stacks(),
        shared,
        detector.calibration.detector,
        led=task.led,
        super_pixel_mm=config.flat.super_pixel_mm,
        common_variance=detector.calibration.superbias_variance(),
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
        self.isr = task.config.isr.model_copy(update={"photodiode": "header"})
        self._reference: NDArray[np.float32] | None = None

    def lit_stacks(self) -> Iterator[LitStack]:
        """Yield stacks and single exposures with their light."""
        for group in self.task.groups:
            if len(group.paths) >= FEWEST_FOR_STACK:
                yield self._stack(group)
                continue
            for number, obsid in enumerate(group.obsids):
                lit = self._single(group, number, self.light.exposures[obsid])
                if lit is not None:
                    yield lit

    def expected_light(self, obsid: str, exposure: ExposureLight) -> NDArray[np.float32]:
        """Return the beam on the detector; NaN where there is not enough light to be known."""
        beam = self.light.image(self.calibration.detector, exposure)
        lit = self.signals.footprint(self.row_of[obsid], self.task.config.flat.joint.least_signal)
        rows, columns = (np.arange(length) // self.signals.block for length in beam.shape)
        beam[~lit[rows[:, None], columns]] = np.nan
        return beam

    def _stack(self, group: PointingGroup) -> LitStack:
        """Return the stack of one position; its scales are those of the joint solution, not the photodiode's."""
        exposures = [self.light.exposures[obsid] for obsid in group.obsids]
        scales = [exposure.scale for exposure in exposures]
        stacked = stack_group(group.paths, scales, self.camera, self.calibration, self.isr, with_superbias_variance=False)
        self.noted += stacked.left_out
        stack = stacked.stack
        chi_square = float(np.nanmean(stack.chi_square)) if np.isfinite(stack.chi_square).any() else np.nan
        pointing = PointingStack(
            number=group.number,
            x_mm=group.x_mm,
            y_mm=group.y_mm,
            signal=stack.image,
            variance=stack.variance,
            mask=stack.mask,
            photodiode=stacked.photodiode,
            scale_error=float(np.sqrt(np.sum(np.square([exposure.error for exposure in exposures])))) / len(exposures),
            exposures=len(stacked.used),
            rejected=stack.n_rejected,
            chi_square=chi_square,
            aimed=group.aimed,
            scan=group.scan,
        )
        beam = self.expected_light(group.obsids[0], exposures[0])
        return LitStack(pointing, beam, np.zeros_like(beam))

    def _single(self, group: PointingGroup, number: int, exposure: ExposureLight) -> LitStack | None:
        """Return a single exposure without what stands out of the reference."""
        image = self._read(group.paths[number])
        if image is None:
            return None
        beam = self.expected_light(group.obsids[number], exposure)
        variance = image.variance()
        expected = np.float32(exposure.scale) * beam * self.reference()
        limit = np.float32(self.isr.rejection_threshold) ** 2 * (1 + _MEDIAN_VARIANCE)
        with np.errstate(invalid="ignore"):
            spread = variance + np.maximum(expected - image.image, 0)
            outlier = (image.image - expected) ** 2 > limit * spread
        mask = image.mask.astype(np.int32)
        mask[outlier] |= int(MaskPlane.NO_DATA | MaskPlane.REJECTED)
        pointing = PointingStack(
            number=group.number,
            x_mm=group.x_mm,
            y_mm=group.y_mm,
            signal=image.image,
            variance=variance,
            mask=mask,
            photodiode=exposure.scale,
            scale_error=exposure.error,
            exposures=1,
            rejected=int(np.count_nonzero(outlier)),
            chi_square=float("nan"),
            aimed=group.aimed,
            scan=group.scan,
        )
        return LitStack(pointing, beam, np.zeros_like(beam))

    def reference(self) -> NDArray[np.float32]:
        """Return the median response of a few exposures.

        Raises
        ------
        FlatError
            If none of them can be used.
        """
        if self._reference is None:
            files = {path: obsid for group in self.task.groups for path, obsid in zip(group.paths, group.obsids, strict=True)}
            responses = []
            for path in self.task.nearest:
                image = self._read(path) if path in files else None
                if image is None:
                    continue
                exposure = self.light.exposures[files[path]]
                with np.errstate(invalid="ignore", divide="ignore"):
                    response = image.image / (np.float32(exposure.scale) * self.expected_light(files[path], exposure))
                response[~is_usable(image.mask)] = np.nan
                responses.append(response)
            if not responses:
                raise FlatError("none of the exposures nearest to this detector can be used", remedy="look at those left out")
            self._reference = median_image(responses)
        return self._reference

    def _read(self, path: str) -> DetectorImage | None:
        try:
            return reduce_file(path, self.camera, self.calibration, self.isr)
        except InputError as error:
            self.noted.append(LeftOut(Path(path), error.what))
            return None
