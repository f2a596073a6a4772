"""Raw segments in memory, reduced and stacked by the functions that reduce and stack raw files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from permil.camera import Camera, ReferenceBox
from permil.exposures import RawFile
from permil.isr import BoxSignal, Calibration, DetectorImage, Stack, measure_box
from permil.isr.reduce import reduce_raw_file
from permil.isr.streamed_stack import probe_file, stack_files


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


def stack_segments(
    exposures: Sequence[Mapping[str, NDArray[np.int32]]],
    camera: Camera,
    calibration: Calibration,
    folder: Path,
    *,
    light: Sequence[float],
    threshold: float = 5.0,
    poisson: bool = True,
) -> Stack:
    """Write the segments of some exposures as raw files, and stack these."""
    detector = calibration.detector
    with ExitStack() as opened:
        probed = []
        for number, segments in enumerate(exposures):
            primary = fits.PrimaryHDU()
            primary.header["RAFTBAY"], primary.header["CCDSLOT"] = detector.raft, detector.slot
            hdus = [fits.ImageHDU(segments[each.name], name=each.extname) for each in detector.amplifiers]
            fits.HDUList([primary, *hdus]).writeto(folder / f"{number}.fits", overwrite=True)
            file = opened.enter_context(RawFile(folder / f"{number}.fits", camera))
            probed.append(probe_file(file, calibration, temperature=None))
        return stack_files(probed, calibration, light=light, threshold=threshold, poisson=poisson).stack
