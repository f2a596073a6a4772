"""Read raw files: the segments of one detector, exactly as the readout wrote them."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from permil.camera import Camera, Detector
from permil.exposures.raw_file import IntegerImage, RawFile
from permil.exposures.raw_headers import RawHeaders
from permil.exposures.sums import Checksums


@dataclass(frozen=True)
class RawDetector(RawHeaders):
    """One detector in one exposure.

    Attributes
    ----------
    path, detector
        The file, and which detector it holds.
    segments
        Full raw segments ``[row, column]`` with prescan and overscans, by amplifier name.
    headers
        Headers of all HDUs as bytes, the primary first.
    """

    path: str
    detector: Detector
    segments: dict[str, IntegerImage] = field(repr=False)
    headers: tuple[bytes, ...] = field(repr=False)


def read_raw(
    path: str | Path,
    camera: Camera,
    *,
    segments: Iterable[str] | None = None,
    threads: int = 1,
    checksums: Checksums = "refuse",
) -> RawDetector:
    """Read a raw file.

    Plain and compressed image HDUs, in any order, plain files and gzip (by content) are taken; further HDUs are passed over.

    Parameters
    ----------
    camera
        Whose geometry the file must have.
    segments
        Names of the amplifiers to decode (``C14``); all by default. The others cost next to nothing, but must be there.
    threads
        Segments that are decoded at the same time.
    checksums
        See `RawFile`: data that do not have the sum that their header states are refused, warned of, or not looked at (``off``).

    Warns
    -----
    FileWarning
        See `RawFile`.

    Raises
    ------
    RawFormatError
        If the file is damaged or cut short, a segment is missing or stands twice, or sizes are not those of the camera.
    InputError
        If the file cannot be opened or says of no detector of the camera that it is its own.
    CameraError
        If the detector has no amplifier of that name.
    """
    with RawFile(path, camera, checksums=checksums) as opened:
        detector = opened.detector
        names = [amplifier.name for amplifier in detector.amplifiers]
        if segments is not None:
            names = list(dict.fromkeys(detector.amplifier(name).name for name in segments))
        sizes = {(detector.amplifier(name).ny_raw, detector.amplifier(name).nx_raw) for name in names}
        # One piece of memory is much cheaper to get than many.
        places = np.empty((len(names), *sizes.pop()), dtype=np.int32) if len(sizes) == 1 else [None] * len(names)
        with ThreadPoolExecutor(threads) as pool:
            decoded = dict(zip(names, (pool.map if threads > 1 else map)(opened.segment, names, places), strict=True))
        return RawDetector(str(path), detector, decoded, opened.headers)
