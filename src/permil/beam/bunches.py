"""Measure bunches of pixels in one raw file, reading only their rows and their part of the calibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from permil.camera import Amplifier, Camera, Detector, ReferenceBox, shared_camera
from permil.camera.frames import take_segment
from permil.config import Config
from permil.config.isr import IsrConfig
from permil.errors import PermilError
from permil.exposures import Checksums, RawFile
from permil.exposures.segment_rows import read_rows
from permil.isr.box import BoxSignal, box_in_segment, measure_box
from permil.isr.calibration.calibration import Calibration, Superbias
from permil.isr.calibration.gains import board_temperature
from permil.isr.calibration.masks import hot_pixel_mask
from permil.isr.calibration.superbias import read_superbias, superbias_path
from permil.isr.inputs import load_calibration
from permil.isr.reduce import check_detector, with_path
from permil.isr.stage import calibration_fingerprint
from permil.products import RunFolder

BoxPlaces = tuple[ReferenceBox, ...]


def box_signals(
    path: str | Path,
    boxes: Sequence[ReferenceBox],
    camera: Camera,
    calibration: Calibration,
    config: IsrConfig,
    *,
    checksums: Checksums = "refuse",
) -> list[BoxSignal]:
    """Measure bunches of pixels of one detector in one raw file.

    Parameters
    ----------
    checksums
        See `permil.exposures.RawFile`; only segments with bunches, and those of their crosstalk, are checked.

    Raises
    ------
    InputError
        If the file cannot be used or is of another detector, or a required board temperature is missing.
    CameraError
        If a bunch is not on the detector.
    CalibrationError
        If a bunch has no usable pixel.
    """
    with RawFile(path, camera, checksums=checksums) as raw_file:
        check_detector(raw_file.detector, calibration.detector, path)
        whole: dict[str, NDArray[np.int32]] = {}

        def read(amplifier: Amplifier, rows: slice) -> NDArray[np.int32]:
            if rows == slice(0, amplifier.ny_raw) and amplifier.name not in whole:
                whole[amplifier.name] = raw_file.segment(amplifier.name)
            return whole[amplifier.name][rows] if amplifier.name in whole else read_rows(raw_file, amplifier.name, rows)

        temperature = board_temperature(raw_file, config)
        try:
            return [
                measure_box(read, calibration, box, temperature=temperature, threshold=config.rejection_threshold)
                for box in boxes
            ]
        except PermilError as error:
            raise with_path(error, path) from error


def shared_box_calibration(config: Config, folder: RunFolder, boxes: BoxPlaces) -> Calibration:
    """Return the calibration of bunches of one detector, cached per process until its inputs change.

    Superbias and hot pixels are limited to the bunches, and to the same pixels of the segments with crosstalk into them.

    Raises
    ------
    CalibrationError, InputError
        See `permil.isr.inputs.load_calibration`.
    """
    detector = boxes[0].detector
    state = calibration_fingerprint(config, folder, detector)
    return _box_calibration(config.isr.model_dump_json(), config.camera, folder.superbias(detector), boxes, state)


@lru_cache(maxsize=16)
def _box_calibration(isr_json: str, camera_name: str, made: Path, boxes: BoxPlaces, _state: str) -> Calibration:
    camera, options = shared_camera(camera_name), IsrConfig.model_validate_json(isr_json)
    detector = camera[boxes[0].detector]
    calibration = load_calibration(detector, camera, options, with_superbias=False)
    path = superbias_path(options, detector, made)
    if path is None:
        return calibration
    return _with_superbias(calibration, boxes, path, camera=camera, threshold=options.hot_pixel_threshold)


def _with_superbias(calibration: Calibration, boxes: BoxPlaces, path: Path, *, camera: Camera, threshold: float) -> Calibration:
    detector = calibration.detector
    image, mask = np.zeros(detector.shape, dtype=np.float32), calibration.static_mask.copy()
    names = dict.fromkeys(name for box in boxes for name in calibration.needed_segments(box.amp))
    superbias, unusable = read_superbias(path, detector, camera=camera, gains=calibration.gains)
    stored = {name: superbias.image[detector.amplifier(name).slices] for name in names}
    for box in boxes:
        place = box_in_segment(detector.amplifier(box.amp), box)
        for name in calibration.needed_segments(box.amp):
            amplifier = detector.amplifier(name)
            take_segment(amplifier, image)[place] = take_segment(replace(amplifier, x_min=0, y_min=0), stored[name])[place]
    for name in dict.fromkeys(box.amp for box in boxes):
        target = detector.amplifier(name)
        mask[target.slices] |= unusable[target.slices] | _hot_pixels(stored[target.name], detector, target, threshold=threshold)
    # The variance of the superbias is common to all exposures of a scan and is not used for bunches.
    return replace(calibration, superbias=Superbias(image, np.zeros_like(image)), static_mask=mask)


def _hot_pixels(stored: NDArray[np.float32], detector: Detector, amplifier: Amplifier, *, threshold: float) -> NDArray[np.int16]:
    """Return the hot pixels of one segment."""
    alone = replace(detector, nx=amplifier.nx, ny=amplifier.ny, amplifiers=(replace(amplifier, x_min=0, y_min=0),))
    return hot_pixel_mask(stored, alone, threshold=threshold)
