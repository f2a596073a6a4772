"""Read raw files: the segments of one detector, unmodified."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from permil.camera import Camera, Detector
from permil.exposures.checksums import Checksums
from permil.exposures.raw_file import IntegerImage, RawFile
from permil.exposures.raw_headers import RawHeaders


@dataclass(frozen=True)
class RawDetector(RawHeaders):
    """One detector in one exposure.

    Attributes
    ----------
    path, detector
        The file, and the name of the detector.
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

    Plain and compressed image HDUs in any order are accepted, in plain and gzip files (recognised by content); other HDUs are ignored.

    Parameters
    ----------
    camera
        Camera that defines the expected geometry.
    segments
        Names of the amplifiers to decode (``C14``); all by default. The others must be present, but are not decoded.
    threads
        Number of segments decoded concurrently.
    checksums
        Treatment of data whose checksum is wrong, see `RawFile`.

    Warns
    -----
    FileWarning
        See `RawFile`.

    Raises
    ------
    RawFormatError
        If the file is damaged or cut short, a segment is missing or duplicated, or sizes differ from those of the camera.
    InputError
        If the file cannot be opened or does not identify a detector of this camera.
    CameraError
        If the detector has no amplifier of that name.
    """
    with RawFile(path, camera, checksums=checksums) as opened:
        detector = opened.detector
        names = [amplifier.name for amplifier in detector.amplifiers]
        if segments is not None:
            names = list(dict.fromkeys(detector.amplifier(name).name for name in segments))
        sizes = {(detector.amplifier(name).ny_raw, detector.amplifier(name).nx_raw) for name in names}
        # One allocation is much faster than many.
        places = np.empty((len(names), *sizes.pop()), dtype=np.int32) if len(sizes) == 1 else [None] * len(names)
        with ThreadPoolExecutor(threads) as pool:
            decoded = dict(zip(names, (pool.map if threads > 1 else map)(opened.segment, names, places), strict=True))
        return RawDetector(str(path), detector, decoded, opened.headers)
