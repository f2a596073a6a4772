"""Second pass of the joint solution: the flat of one detector at full resolution, from every exposure that lights it.

Beam and scales are known, so that each pixel is a weighted mean of signal over light. Positions with several images are stacked
as pointings are; a single exposure is compared, pixel by pixel, with the median response of a few exposures of this detector.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from permil.camera import Camera, shared_camera
from permil.engine import ahead, own_threads
from permil.errors import FlatError, InputError
from permil.flat.joint.average import median_image
from permil.flat.joint_file import ExposureLight, JointLight, read_errors, read_light
from permil.flat.outliers import flag_outliers
from permil.flat.product import DetectorSolution
from permil.flat.signals_file import SuperPixelSignals, read_signals
from permil.flat.solve import LitStack, PointingStack, SeenPointings, solve_detector
from permil.flat.tasks.pointings import PointingGroup
from permil.flat.tasks.task import FlatTask, keep_pointing
from permil.isr import Calibration, LeftOut
from permil.isr.calibrate import detector_calibration
from permil.isr.reduce import DetectorImage
from permil.isr.stage import reduce_file, stack_group
from permil.products import RunFolder, is_usable

FEWEST_FOR_STACK = 3
"""Images at one position from which outliers are found among themselves."""


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
        self.isr = task.config.isr.model_copy(update={"photodiode": "header"})

    def lit_stacks(self) -> Iterator[LitStack]:
        """Yield stacks and single exposures with their light."""
        reference = None
        for is_stack, groups in groupby(self.task.groups, key=lambda group: len(group.paths) >= FEWEST_FOR_STACK):
            if is_stack:
                yield from map(self._stack, groups)
                continue
            reference = self.reference() if reference is None else reference
            singles = [(group, number, reference) for group in groups for number in range(len(group.paths))]
            for lit, left_out in ahead(self._single, singles, threads=own_threads()):
                self.noted += left_out
                if lit is not None:
                    yield lit
                # At full size it takes hundreds of megabytes: let go of it before the next one is waited for.
                del lit

    def expected_light(self, obsid: str, exposure: ExposureLight) -> NDArray[np.float32]:
        """Return the beam on the detector; NaN where there is not enough light to be known."""
        beam = self.light.image(self.calibration.detector, exposure)
        lit = self.signals.footprint(self.row_of[obsid], self.task.config.flat.joint.least_signal)
        block = self.signals.block
        for row, column in zip(*np.nonzero(~lit), strict=True):
            beam[row * block : (row + 1) * block, column * block : (column + 1) * block] = np.nan
        return beam

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
        return LitStack(pointing, beam, _exact(beam))

    def _single(self, exposed: tuple[PointingGroup, int, NDArray[np.float32]]) -> tuple[LitStack | None, list[LeftOut]]:
        """Return a single exposure without what stands out of the reference, or why there is none."""
        group, number, reference = exposed
        try:
            image = self._read(group.paths[number])
        except InputError as error:
            return None, [LeftOut(Path(group.paths[number]), error.what)]
        exposure = self.light.exposures[group.obsids[number]]
        beam = self.expected_light(group.obsids[number], exposure)
        variance, outliers = flag_outliers(
            image.image,
            image.mask,
            detector=self.calibration.detector,
            noise_variance=image.noise_variance,
            beam=beam,
            scale=exposure.scale,
            reference=reference,
            threshold=self.isr.rejection_threshold,
        )
        pointing = PointingStack(
            number=group.number,
            x_mm=group.x_mm,
            y_mm=group.y_mm,
            signal=image.image,
            variance=variance,
            mask=image.mask,
            photodiode=exposure.scale,
            scale_error=exposure.error,
            exposures=1,
            rejected=outliers,
            chi_square=float("nan"),
            aimed=group.aimed,
            scan=group.scan,
        )
        return LitStack(pointing, beam, _exact(beam)), []

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
                found = image.image / (np.float32(exposure.scale) * self.expected_light(files[path], exposure))
            found[~is_usable(image.mask)] = np.nan
            return found

        nearest = [path for path in self.task.nearest if path in files]
        responses = [found for found in ahead(response, nearest, threads=own_threads()) if found is not None]
        if not responses:
            raise FlatError("none of the exposures nearest to this detector can be used", remedy="look at those left out")
        return median_image(responses)

    def _read(self, path: str) -> DetectorImage:
        return reduce_file(path, self.camera, self.calibration, self.isr)


def _exact(beam: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the error of a beam whose errors are all in the covariance of the joint solution."""
    return np.broadcast_to(np.float32(0), beam.shape)
