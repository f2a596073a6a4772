"""The solver `divide` on the files of one detector: stacks of its pointings over the beam of the scan."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np

from permil.beam import BeamModel
from permil.beam.stage import load_beam
from permil.camera import Camera, frames, shared_camera
from permil.config import Config
from permil.engine import behind, own_threads, tell_part
from permil.flat.divide import LitImage
from permil.flat.pointing import LitStack, Pointing
from permil.flat.product import DetectorSolution
from permil.flat.shared_errors import DivideErrors
from permil.flat.solve import solve_detector
from permil.flat.tasks.pointings import PointingGroup
from permil.flat.tasks.task import PART_OF_EXPOSURES, FlatTask, keep_pointing
from permil.isr import Calibration, LeftOut
from permil.isr.calibrate import detector_calibration
from permil.isr.rooms import Rooms
from permil.isr.stage import stack_group
from permil.products import RunFolder


@lru_cache(maxsize=8)
def _beam(path: Path, _changed: int) -> BeamModel:
    return load_beam(path)


def divide_detector(task: FlatTask) -> tuple[DetectorSolution, list[LeftOut]]:
    """Return the flat of one detector on its own scale, and what was left out of it."""
    folder, config = RunFolder(task.root), task.config
    beam_path = folder.beam(config.flat.beam_of.get(task.led, task.led))
    beam = _beam(beam_path, beam_path.stat().st_mtime_ns)
    camera = shared_camera(config.camera)
    calibration = detector_calibration(config, camera, folder, task.detector)
    noted: list[LeftOut] = []
    with behind(own_threads()) as later:
        solution = solve_detector(
            _lit_stacks(task, camera, calibration, beam, noted),
            DivideErrors(beam, calibration.detector),
            calibration.detector,
            led=task.led,
            super_pixel_mm=config.flat.super_pixel_mm,
            common_variance=calibration.superbias_variance,
            remove_steps=config.flat.remove_amplifier_steps,
            keep=keep_pointing(task, later),
            threads=own_threads(),
        )
    return solution, noted


def _lit_stacks(
    task: FlatTask, camera: Camera, calibration: Calibration, beam: BeamModel, noted: list[LeftOut]
) -> Iterator[list[LitStack]]:
    """Yield the stack of each pointing; what was left out or does not count in a scale is noted."""
    rooms = Rooms()
    for number, group in enumerate(task.groups):
        # Made in a function of its own, so that nothing of it is kept while the next one is made.
        yield [_lit_stack(group, camera, calibration, task.config, beam, noted, rooms)]
        tell_part(PART_OF_EXPOSURES * (number + 1) / len(task.groups))


def _lit_stack(
    group: PointingGroup,
    camera: Camera,
    calibration: Calibration,
    config: Config,
    beam: BeamModel,
    noted: list[LeftOut],
    rooms: Rooms,
) -> LitStack:
    exposures = stack_group(
        group.paths,
        group.photodiodes,
        camera,
        calibration,
        config.isr,
        with_superbias_variance=False,
        threads=own_threads(),
        rooms=rooms,
    )
    stack, n = exposures.stack, len(exposures.used)
    noted += [*exposures.left_out, *exposures.damaged]
    noted += [LeftOut(path, "its photodiode reading contradicts its light") for path in exposures.photodiode_outliers]
    # A single exposure says nothing of its own scale error; the nodes of the scan say what one photodiode reading is worth.
    scale_error = float(exposures.scale_error if np.isfinite(exposures.scale_error) else beam.node_noise / np.sqrt(n))
    pointing = Pointing(
        number=group.number,
        x_mm=group.x_mm,
        y_mm=group.y_mm,
        scale_error=scale_error,
        exposures=n,
        chi_square=float(np.nanmean(stack.chi_square)) if np.isfinite(stack.chi_square).any() else np.nan,
        aimed=group.aimed,
    )
    origin, matrix = frames.ccs_affine(calibration.detector)
    light = beam.evaluate_image(calibration.detector.shape, origin - [group.x_mm, group.y_mm], matrix)
    image = LitImage(stack.image, stack.variance, stack.mask, *light, exposures.photodiode, scale_error)
    return LitStack(pointing, image, stack.n_rejected)
