"""Raw segments with known truth, made here independently of the package's own simulator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from numpy.typing import NDArray
from raw_frames import exposures, write

from permil.camera import Camera, Detector
from permil.isr import Calibration, Gains

Segments = dict[str, NDArray[np.int32]]
BIAS_LEVEL = 25000.0
NOISE_ADU = 5.0


@pytest.fixture(scope="session")
def detector(bin8: Camera) -> Detector:
    """Return a small E2V detector."""
    return bin8["R22_S11"]


@pytest.fixture(scope="session")
def itl(bin8: Camera) -> Detector:
    """Return a small ITL detector: other flips, other sizes."""
    return bin8["R02_S02"]


@pytest.fixture(scope="session")
def gains(detector: Detector) -> Gains:
    """Return known gains, different for each amplifier."""
    gain = 1.0 + 0.01 * np.arange(len(detector.amplifiers))
    return Gains(gain, np.full(gain.size, 0.001), "test")


@pytest.fixture(scope="session")
def calibration(detector: Detector, gains: Gains) -> Calibration:
    """Return the plainest calibration: gains, and nothing masked."""
    return Calibration(
        detector=detector,
        gains=gains,
        static_mask=np.zeros(detector.shape, dtype=np.int16),
        saturation=np.full(gains.gain.size, 1e5),
    )


def to_raw(
    detector: Detector,
    adu: NDArray[np.float64],
    rng: np.random.Generator,
    *,
    noise: float = NOISE_ADU,
    level: float = BIAS_LEVEL,
    row_level: NDArray[np.float64] | None = None,
) -> Segments:
    """Write an assembled image in adu into raw segments, pixel by pixel as the reference describes the flips."""
    segments = {}
    for amplifier in detector.amplifiers:
        rows, columns = np.arange(amplifier.ny), np.arange(amplifier.nx)
        y = amplifier.y_min + (amplifier.ny - 1 - rows if amplifier.flip_y else rows)
        x = amplifier.x_min + (amplifier.nx - 1 - columns if amplifier.flip_x else columns)
        raw = level + rng.normal(0, noise, (amplifier.ny_raw, amplifier.nx_raw))
        if row_level is not None:
            raw += row_level[: amplifier.ny_raw, np.newaxis]
        raw[: amplifier.ny, amplifier.prescan : amplifier.prescan + amplifier.nx] += adu[np.ix_(y, x)]
        segments[amplifier.name] = np.rint(raw).astype(np.int32)
    return segments


@pytest.fixture(scope="session")
def make_raw() -> Callable[..., Segments]:
    """Return the function that turns an assembled image (adu) into raw segments."""
    return to_raw


@pytest.fixture(scope="session")
def gain_map() -> Callable[[Detector, NDArray[np.float64]], NDArray[np.float64]]:
    """Return the function that spreads a number per amplifier over the detector."""

    def spread(detector: Detector, numbers: NDArray[np.float64]) -> NDArray[np.float64]:
        image = np.empty(detector.shape)
        for amplifier, number in zip(detector.amplifiers, numbers, strict=True):
            image[amplifier.y_min : amplifier.y_min + amplifier.ny, amplifier.x_min : amplifier.x_min + amplifier.nx] = number
        return image

    return spread


@pytest.fixture(scope="session")
def write_raw() -> Callable[..., Path]:
    """Return the function that writes raw segments as a raw file."""

    def write(path: Path, detector: Detector, segments: Segments, *, temperatures: dict[str, float] | None = None) -> Path:
        primary = fits.PrimaryHDU()
        primary.header["RAFTBAY"], primary.header["CCDSLOT"] = detector.raft, detector.slot
        hdus = [primary]
        for amplifier in detector.amplifiers:
            hdu = fits.ImageHDU(segments[amplifier.name], name=amplifier.extname)
            hdu.header["CHANNEL"] = amplifier.number
            hdus.append(hdu)
        board = fits.BinTableHDU(name="REB_COND")
        for card, temperature in (temperatures or {}).items():
            board.header[card] = temperature
        fits.HDUList([*hdus, board]).writeto(path, overwrite=True)
        return path

    return write


@pytest.fixture(scope="session")
def stored(make_raw: Callable[..., Segments], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[Path]]:
    """Return a function that writes the first of five exposures of a detector when they are asked for.

    The files are shared: do not change them.
    """
    sets: dict[tuple[str, float, str], tuple[Path, Iterator[Segments], list[Path]]] = {}

    def files(detector: Detector, number: int = 5, *, hits: float = 1e-3, coding: str = "rice") -> list[Path]:
        key = (detector.name, hits, coding)
        if key not in sets:
            sets[key] = tmp_path_factory.mktemp("stored"), exposures(detector, make_raw, hits=hits), []
        folder, frames, paths = sets[key]
        while len(paths) < number:
            paths.append(write(folder / f"{len(paths)}.fits", detector, next(frames), coding=coding))
        return paths[:number]

    return files
