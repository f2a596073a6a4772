"""Assemble the segments of a detector in the DM pixel frame, without any correction."""

from __future__ import annotations

import numpy as np

from permil.camera.frames import place_segment
from permil.errors import InputError
from permil.exposures.raw_detector import RawDetector
from permil.exposures.raw_file import IntegerImage


def assemble(raw: RawDetector) -> IntegerImage:
    """Return the active pixels of a detector, trimmed, flipped and placed; pixel values are those of the file.

    Parameters
    ----------
    raw
        All segments of a detector.

    Returns
    -------
    image : ndarray, shape of the detector
        ``[row = y, column = x]`` of the DM pixel frame.

    Raises
    ------
    InputError
        If a segment was not read.
    """
    missing = [amplifier.name for amplifier in raw.detector.amplifiers if amplifier.name not in raw.segments]
    if missing:
        raise InputError(f"segment {', '.join(missing)} was not read", path=raw.path, remedy="read all segments", missing=missing)
    image = np.empty(raw.detector.shape, dtype=np.int32)
    for amplifier in raw.detector.amplifiers:
        image[amplifier.slices] = place_segment(amplifier, raw.segments[amplifier.name][amplifier.data_slices])
    return image
