"""Raw segments in memory, reduced by the functions that reduce raw files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from permil.camera import ReferenceBox
from permil.exposures import RawFile
from permil.isr import BoxSignal, Calibration, DetectorImage, measure_box
from permil.isr.reduce import reduce_raw_file


class SegmentsInMemory:
    """Stands for an open raw file."""

    def __init__(self, segments: Mapping[str, NDArray[Any]]) -> None:
        self.segments = segments

    def segment(self, name: str, pixels: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return a segment in the given array."""
        pixels[:] = self.segments[name]
        return pixels


def reduce_segments(
    segments: Mapping[str, NDArray[Any]], calibration: Calibration, *, temperature: float | None = None
) -> DetectorImage:
    """Reduce the segments of one exposure."""
    return reduce_raw_file(cast("RawFile", SegmentsInMemory(segments)), calibration, temperature=temperature)[0]


def measure_segments(
    segments: Mapping[str, NDArray[Any]],
    calibration: Calibration,
    *,
    amplifier: str,
    row: int,
    column: int,
    box: int,
    **options: float,
) -> BoxSignal:
    """Measure the reference box of some segments."""
    place = ReferenceBox(calibration.detector.name, amplifier, row, column, box)
    return measure_box(lambda each, rows: segments[each.name][rows], calibration, place, **options)
