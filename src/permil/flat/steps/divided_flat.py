"""The solver `divide` on the files of one detector: stacks of its pointings over the beam of the scan."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np

from permil.arrays import ArrayPool, Float32Array
from permil.beam import BeamModel
from permil.beam.stage import load_beam
from permil.camera import Camera, Detector, frames, shared_camera
from permil.config import Config
from permil.engine import background_calls, report_part
from permil.errors import FlatError
from permil.flat.combine import DetectorFlat, combine_detector
from permil.flat.divide import lit_by_beam
from permil.flat.orientation import (
    FEWEST_POSITIONS,
    MOST_OFF,
    MOST_UNEXPLAINED,
    SYMMETRIES,
    Contradiction,
    best_symmetry,
    contradiction_error,
    levels_of,
    scatter,
    unexplained_share,
)
from permil.flat.pointings import LitStack
from permil.flat.shared_errors import DivideErrors
from permil.flat.steps.exposures import LEAVES_OUT, PART_OF_EXPOSURES, FlatRequest, PointingGroup, require_pointings
from permil.flat.steps.flat_files import keep_pointing
from permil.isr import Calibration, LeftOut
from permil.isr.exposure_group import stack_group
from permil.isr.inputs import detector_calibration
from permil.isr.stack import Stack
from permil.products import RunFolder, is_usable

DARK = 3.0
"""Median signal of a pointing, in units of the read noise, below which it is dark."""


def beam_of(path: Path, *, led: str) -> BeamModel:
    """Return a beam model, read once per process as long as it does not change."""
    return _beam(path, led, path.stat().st_mtime_ns)


@lru_cache(maxsize=8)
def _beam(path: Path, led: str, _changed: int) -> BeamModel:
    return load_beam(path, led=led)


def divide_detector(request: FlatRequest) -> tuple[DetectorFlat, list[LeftOut]]:
    """Return the flat of one detector on its own scale, and the exposures that were left out."""
    folder, config = RunFolder(request.root), request.config
    source = config.flat.beam_of.get(request.led, request.led)
    beam = beam_of(folder.beam(source), led=source)
    camera = shared_camera(config.camera)
    calibration = detector_calibration(config, camera, folder, request.detector)
    noted: list[LeftOut] = []
    with background_calls() as later:
        flat = combine_detector(
            _lit_stacks(request, camera, calibration, beam, noted),
            DivideErrors(beam, calibration.detector),
            calibration.detector,
            led=request.led,
            super_pixel_mm=config.flat.super_pixel_mm,
            common_variance=calibration.superbias_variance,
            remove_steps=config.flat.remove_amplifier_steps,
            keep=keep_pointing(request, later),
        )
    _require_orientation(flat, calibration.detector, request.led)
    return flat, noted


def _require_orientation(flat: DetectorFlat, detector: Detector, led: str) -> None:
    """Raise an error if the light of the pointings indicates a different order of a detector's pixels.

    Raises
    ------
    FlatError
        If it does.
    """
    if len(flat.stacks) < FEWEST_POSITIONS:
        return
    rows, columns = (flat.block_pixels * (np.arange(length) + 0.5) - 0.5 for length in flat.stacks.shape[1:])
    x_mm, y_mm = frames.detector_to_ccs(detector, *(place.ravel() for place in np.meshgrid(columns, rows)))
    with np.errstate(invalid="ignore", divide="ignore"):
        known = np.isfinite(flat.beams) & (flat.beams > 0) & (flat.stacks > 0)
        logarithms = [np.log(np.where(known, part, np.nan)).reshape(len(part), -1) for part in (flat.stacks, flat.beams)]
    covered = np.isfinite(logarithms[0]).any(axis=0)
    (level, slope, enough), (expected, gradient, _) = (
        levels_of(x_mm[covered], y_mm[covered], part[:, covered]) for part in logarithms
    )
    if enough.sum() < FEWEST_POSITIONS:
        return
    symmetry = best_symmetry(slope, gradient, float(max(np.ptp(x_mm), np.ptp(y_mm))) / 2)
    aimed = flat.pointings[np.asarray(flat.pointings["aimed"], dtype=bool)][enough]
    off = level - expected - np.log(np.asarray(aimed["scale"], dtype=np.float64))
    # Half of the pointings at least: single photodiode readings may be wrong.
    is_off = scatter(off) > max(MOST_OFF, scatter(expected) / 2)
    is_upright = np.array_equal(symmetry, SYMMETRIES[0])
    if is_upright and not is_off and unexplained_share(*logarithms) <= MOST_UNEXPLAINED:
        return
    # No other order of the pixels explains light that is upright and off.
    contradiction = Contradiction(detector.name, None if is_upright else symmetry, detector.name)
    raise contradiction_error([contradiction], {detector.name: detector}, led=led)


def _lit_stacks(
    request: FlatRequest, camera: Camera, calibration: Calibration, beam: BeamModel, noted: list[LeftOut]
) -> Iterator[list[LitStack]]:
    """Yield the stack of each pointing; exposures left out, or excluded from a scale, are added to ``noted``.

    Raises
    ------
    FlatError
        If no pointing can be used.
    """
    pool = ArrayPool()
    used = 0
    for number, group in enumerate(request.groups):
        try:
            # In a separate function, whose arrays are released before the next stack is made.
            batch = [_lit_stack(group, camera, calibration, request.config, beam, noted, pool)]
        except LEAVES_OUT as error:
            noted += group.left_out(error)
        else:
            used += 1
            yield batch
            # At full size a stack takes hundreds of megabytes.
            del batch
        report_part(PART_OF_EXPOSURES * (number + 1) / len(request.groups))
    require_pointings(used, request, noted)


def _lit_stack(
    group: PointingGroup,
    camera: Camera,
    calibration: Calibration,
    config: Config,
    beam: BeamModel,
    noted: list[LeftOut],
    pool: ArrayPool,
) -> LitStack:
    exposures = stack_group(
        group.paths,
        group.photodiodes,
        camera,
        calibration,
        threshold=config.isr.rejection_threshold,
        normalise=config.isr.photodiode == "header",
        checksums=config.exposures.checksums,
        pool=pool,
    )
    stack = exposures.stack
    noted += [*exposures.left_out, *exposures.damaged]
    noted += [LeftOut(path, "its photodiode reading contradicts its light") for path in exposures.photodiode_outliers]
    image = lit_by_beam(exposures, (group.x_mm, group.y_mm), beam, calibration.detector)
    _require_light(stack, image.beam)
    pointing = group.pointing(
        len(exposures.used),
        scale_error=image.scale_error,
        photodiode=image.scale if config.isr.photodiode == "header" else float("nan"),
        chi_square=stack.mean_chi_square,
    )
    return LitStack(pointing, image, stack.n_rejected)


def _require_light(stack: Stack, beam: Float32Array) -> None:
    """Raise an error if a stack is dark where the beam is brightest.

    Raises
    ------
    FlatError
        If it is.
    """
    steps = tuple(max(1, length // 256) for length in beam.shape)
    light, signal = (plane[:: steps[0], :: steps[1]] for plane in (beam, stack.image))
    lit = is_usable(stack.mask[:: steps[0], :: steps[1]]) & np.isfinite(signal) & (light > 0)
    if not lit.any():
        return
    bright = lit & (light >= light[lit].max() / 2)
    median, noise = float(np.median(signal[bright])), float(np.sqrt(stack.noise_variance.mean()))
    if median < DARK * noise:
        raise FlatError(f"it is dark: the median signal where the beam is brightest is {median:.3g} electrons")
