"""A full-size raw file to arrays, and to a running mean and variance, beside astropy, fitsio and imagecodecs."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import imagecodecs
import numpy as np
from astropy.io import fits

from full_size import YARDSTICK, RunningMoments, in_turn, read_astropy, read_fitsio, reduce_with_numpy, write_campaign
from harness import REPEATS, publish
from permil.arrays import ArrayPool
from permil.camera import Camera, Detector, load_camera
from permil.config.isr import IsrConfig
from permil.engine.threads import allow_threads
from permil.exposures import Checksums, RawDetector, RawFile, read_raw
from permil.isr.exposure_group import stack_group
from permil.isr.inputs import load_calibration
from permil.isr.reduce import reduce_file

FILES, TIMES = 5, 5


def _read_imagecodecs(rows: list[list[bytes]], detector: Detector) -> list[np.ndarray]:
    """Decode rows that are in memory already."""
    return [
        np.stack([imagecodecs.rcomp_decode(row, shape=(amplifier.nx_raw,), dtype=np.int32, nblock=32) for row in own])
        for own, amplifier in zip(rows, detector.amplifiers, strict=True)
    ]


def _coded_rows(path: Path, detector: Detector) -> list[list[bytes]]:
    with fits.open(path, disable_image_compression=True) as hdus:
        return [[row.tobytes() for row in hdus[each.extname].data["COMPRESSED_DATA"]] for each in detector.amplifiers]


def _with_threads(number: int, path: Path, camera: Camera) -> RawDetector:
    with allow_threads(number):
        return read_raw(path, camera)


def _reading(path: Path, camera: Camera, detector: Detector) -> None:
    rows = _coded_rows(path, detector)
    seconds = in_turn(
        {
            "permil, 1 thread": lambda: read_raw(path, camera),
            "permil, 2 threads": lambda: _with_threads(2, path, camera),
            "astropy": lambda: read_astropy(path, detector),
            "fitsio": lambda: read_fitsio(path, detector),
            "imagecodecs rcomp, from memory": lambda: _read_imagecodecs(rows, detector),
        }
    )
    ours, astropy = seconds["permil, 1 thread"], seconds["astropy"]
    publish(
        "One full-size raw file (16 segments of 2048 x 576, Rice by rows) to arrays",
        ("reader", "seconds", "processor seconds", "over ours, 1 thread", "at the stated machine"),
        [
            (
                name,
                f"{spent.clock:.4f}",
                f"{spent.processor:.4f}",
                f"{spent.processor / ours.processor:.1f}",
                f"{spent.processor * YARDSTICK / astropy.processor:.4f}",
            )
            for name, spent in seconds.items()
        ],
        remark=f"The stated machine is one on which astropy takes {YARDSTICK} s; here it takes {astropy.clock:.3f} s, and "
        f"{astropy.processor:.3f} processor s. Ratios are of processor seconds.",
    )


def _sums(path: Path, camera: Camera, detector: Detector) -> None:
    """Publish what checksums add to decoding, and to finding the rows of all segments without decoding any."""
    plain = path.with_name("MC_C_20191028_900000_R22_S11.fits")
    with fits.open(path) as hdus:
        images = [fits.ImageHDU(hdu.data, hdu.header) for hdu in hdus[1:]]
        fits.HDUList([hdus[0].copy(), *images]).writeto(plain, checksum=True)
    pixels = {each.name: np.empty((each.ny_raw, each.nx_raw), dtype=np.int32) for each in detector.amplifiers}

    def decode(file: Path, checksums: Checksums) -> None:
        with RawFile(file, camera, checksums=checksums) as raw_file:
            for name, segment in pixels.items():
                raw_file.segment(name, segment)

    def find_rows(file: Path, checksums: Checksums) -> None:
        with RawFile(file, camera, checksums=checksums) as raw_file:
            for name in pixels:
                raw_file.rows(name)

    works = {"file to arrays": decode, "places of rows alone": find_rows}
    kinds = {"Rice by rows": path, "plain": plain}
    rows = []
    for kind, file in kinds.items():
        for name, work in works.items():
            # Milliseconds: as many turns as an error of a hundredth takes.
            seconds = in_turn({way: partial(work, file, way) for way in ("off", "refuse")}, repeats=10 * REPEATS)
            off, refuse = seconds["off"].processor, seconds["refuse"].processor
            rows.append((f"{kind}, {name}", f"{1e3 * off:.2f}", f"{1e3 * refuse:.2f}", f"{100 * (refuse / off - 1):.1f}"))
    publish(
        "Checksums of one full-size raw file: processor milliseconds with exposures.checksums off and refuse",
        ("work", "off", "refuse", "more, per cent"),
        rows,
    )


def _moments(paths: list[Path], camera: Camera, detector: Detector) -> None:
    plain = IsrConfig(bias="none")
    calibration = load_calibration(detector, camera, plain)
    # As in a task of the pipeline, the result of one turn is written where that of the turn before was; that of all peers is, too.
    moments, pool = RunningMoments(detector.shape), ArrayPool()

    def ours(threshold: float, threads: int) -> None:
        with allow_threads(threads):
            stack_group(paths, [1.0] * len(paths), camera, calibration, threshold=threshold, normalise=False, pool=pool)

    pixels = {each.name: np.empty((each.ny_raw, each.nx_raw), dtype=np.int32) for each in detector.amplifiers}

    def decode(path: Path) -> None:
        with RawFile(path, camera) as raw_file:
            for name, segment in pixels.items():
                raw_file.segment(name, segment)

    path = paths[0]
    seconds = in_turn(
        {
            "permil, all files, 1 thread": lambda: ours(np.inf, 1),
            "permil, all files, outliers rejected, 1 thread": lambda: ours(5.0, 1),
            "permil, all files, outliers rejected, 2 threads": lambda: ours(5.0, 2),
            "permil, decoding alone (file to arrays)": lambda: decode(path),
            "permil, file to reduced image with masks (reduce_file)": lambda: reduce_file(path, camera, calibration, pool=pool),
            "astropy + NumPy": lambda: moments.add(reduce_with_numpy(read_astropy(path, detector), detector)),
            "fitsio + NumPy": lambda: moments.add(reduce_with_numpy(read_fitsio(path, detector), detector)),
            "astropy, reading alone": lambda: read_astropy(path, detector),
        }
    )
    files = {name: len(paths) if "all files" in name else 1 for name in seconds}
    best = seconds["permil, all files, 1 thread"].processor / len(paths)
    alone = seconds["permil, decoding alone (file to arrays)"].processor
    publish(
        f"File to running mean and variance, per file (ours: {len(paths)} files, result written once)",
        ("path", "seconds per file", "processor seconds per file", "over ours, 1 thread"),
        [
            (
                name,
                f"{spent.clock / files[name]:.4f}",
                f"{spent.processor / files[name]:.4f}",
                f"{spent.processor / files[name] / best:.2f}",
            )
            for name, spent in seconds.items()
        ],
        remark=f"Ours, one thread, takes {best / alone:.2f} of decoding alone (processor seconds). It measures overscan noise, masks "
        "and flags; NumPy does not.",
    )


def main() -> None:
    """Print the comparisons."""
    camera = load_camera("lsstcam")
    detector = camera["R22_S11"]
    with tempfile.TemporaryDirectory() as folder:
        paths = write_campaign(Path(folder), detector, FILES)
        _reading(paths[0], camera, detector)
        _sums(paths[0], camera, detector)
        _moments(paths * TIMES, camera, detector)


if __name__ == "__main__":
    main()
