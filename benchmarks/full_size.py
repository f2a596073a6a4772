"""Full-size raw files and what scripts do with them; several contestants in turn; the yardstick of the machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import fitsio
import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from harness import REPEATS
from permil.camera import Detector
from permil.camera.frames import place_segment

GAIN, LEVEL, LIGHT, READ_NOISE = 1.1, 25000.0, 40000.0, 5.0
YARDSTICK = 0.38
"""Seconds in which astropy reads a file on the machine for which limits are stated."""


def write_raw(path: Path, detector: Detector, rng: np.random.Generator, *, hits: float = 0.0) -> None:
    """Write an exposure of even light, Rice-compressed by rows, a share of its pixels hit by cosmic rays."""
    primary = fits.PrimaryHDU()
    primary.header.update({"RAFTBAY": detector.raft, "CCDSLOT": detector.slot, "IMGTYPE": "CCOB"})
    hdus: list[fits.hdu.base._BaseHDU] = [primary]
    for amplifier in detector.amplifiers:
        counts = LEVEL + READ_NOISE * rng.standard_normal((amplifier.ny_raw, amplifier.nx_raw), dtype=np.float32)
        light = LIGHT + np.sqrt(LIGHT) * rng.standard_normal((amplifier.ny, amplifier.nx), dtype=np.float32)
        hit = rng.random(light.shape, dtype=np.float32) < hits
        light[hit] += np.exp(rng.uniform(np.log(100), np.log(30000), np.count_nonzero(hit)))
        counts[amplifier.data_slices] += light / GAIN
        hdu = fits.CompImageHDU(np.rint(counts).astype(np.int32), compression_type="RICE_1", name=amplifier.extname)
        hdu.header.update({"DATASEC": amplifier.datasec, "CHANNEL": amplifier.channel})
        hdus.append(hdu)
    fits.HDUList(hdus).writeto(path, checksum=True)


def write_campaign(folder: Path, detector: Detector, number: int, *, hits: float = 0.0) -> list[Path]:
    """Write several exposures."""
    rng = np.random.default_rng(1)
    paths = [folder / f"MC_C_20191028_{index:06d}_{detector.name}.fits" for index in range(number)]
    for path in paths:
        write_raw(path, detector, rng, hits=hits)
    return paths


def read_astropy(path: Path, detector: Detector) -> list[NDArray[np.int32]]:
    """Read all segments with astropy."""
    with fits.open(path) as hdus:
        return [hdus[amplifier.extname].data for amplifier in detector.amplifiers]


def read_fitsio(path: Path, detector: Detector) -> list[NDArray[np.int32]]:
    """Read all segments with fitsio (cfitsio)."""
    with fitsio.FITS(str(path)) as hdus:
        return [hdus[amplifier.extname].read() for amplifier in detector.amplifiers]


def reduce_with_numpy(segments: list[NDArray[np.int32]], detector: Detector) -> NDArray[np.float32]:
    """Do what a script does: median overscan, gain and mosaic."""
    image = np.empty(detector.shape, dtype=np.float32)
    for amplifier, raw in zip(detector.amplifiers, segments, strict=True):
        overscan = raw[amplifier.serial_overscan_slices][:, 5:-2]
        trimmed = raw[amplifier.data_slices] - np.median(overscan, axis=1)[:, None]
        image[amplifier.slices] = place_segment(amplifier, trimmed) * GAIN
    return image


class RunningMoments:
    """Running mean and variance with NumPy (Welford 1962)."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.count, self.mean, self.squares = 0, np.zeros(shape), np.zeros(shape)

    def add(self, image: NDArray[np.float32]) -> None:
        """Add a frame."""
        self.count += 1
        deviation = image - self.mean
        self.mean += deviation / self.count
        self.squares += deviation * (image - self.mean)


@dataclass(frozen=True)
class Spent:
    """Median seconds of a contestant: on the clock, and of the processor (of all threads), which a busy machine disturbs less."""

    clock: float
    processor: float


def in_turn(contestants: dict[str, Callable[[], object]], *, repeats: int = REPEATS) -> dict[str, Spent]:
    """Run all contestants once for warming up, then in turn."""
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
    for function in contestants.values():
        function()
    for _ in range(repeats):
        for name, function in contestants.items():
            clock, processor = time.perf_counter(), time.process_time()
            function()
            spent[name].append((time.perf_counter() - clock, time.process_time() - processor))
    return {name: Spent(*(statistics.median(times) for times in zip(*each, strict=True))) for name, each in spent.items()}
