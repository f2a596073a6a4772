"""Raw file to electrons, and the stack of many frames, beside astropy with NumPy and ccdproc."""

from __future__ import annotations

import tempfile
from pathlib import Path

import ccdproc
import numpy as np
from astropy import units
from astropy.io import fits
from astropy.nddata import CCDData

from harness import Row, compare, print_rows
from permil.camera import Camera, Detector, load_camera
from permil.camera.frames import place_segment
from permil.config.isr import IsrConfig
from permil.isr import Calibration, FrameStack, reduce_file
from permil.isr.inputs import load_calibration

GAIN, LEVEL, LIGHT = 1.1, 25000.0, 40000.0
FRAMES = 10


def _raw_file(path: Path, detector: Detector, rng: np.random.Generator) -> None:
    primary = fits.PrimaryHDU()
    primary.header.update({"RAFTBAY": detector.raft, "CCDSLOT": detector.slot, "IMGTYPE": "CCOB"})
    hdus: list[fits.hdu.base._BaseHDU] = [primary]
    for amplifier in detector.amplifiers:
        counts = rng.normal(LEVEL, 5.0, (amplifier.ny_raw, amplifier.nx_raw))
        counts[amplifier.data_slices] += rng.normal(LIGHT, np.sqrt(LIGHT), (amplifier.ny, amplifier.nx)) / GAIN
        hdu = fits.CompImageHDU(np.rint(counts).astype(np.int32), compression_type="RICE_1", name=amplifier.extname)
        hdu.header.update({"DATASEC": amplifier.datasec, "CHANNEL": amplifier.channel})
        hdus.append(hdu)
    fits.HDUList(hdus).writeto(path)


def _with_astropy(path: Path, detector: Detector) -> np.ndarray:
    """Do what a script does: astropy to read, NumPy for median overscan, gain and mosaic."""
    image = np.empty(detector.shape, dtype=np.float32)
    with fits.open(path) as hdus:
        for amplifier in detector.amplifiers:
            raw = hdus[amplifier.extname].data
            overscan = raw[amplifier.serial_overscan_slices][:, 5:-2]
            trimmed = raw[amplifier.data_slices] - np.median(overscan, axis=1)[:, None]
            image[amplifier.slices] = place_segment(amplifier, trimmed) * GAIN
    return image


def _ours(path: Path, camera: Camera, calibration: Calibration) -> np.ndarray:
    return reduce_file(path, camera, calibration).image


def _stack_ours(detector: Detector, frames: list[np.ndarray]) -> np.ndarray:
    stack = FrameStack(detector)
    mask = np.zeros(detector.shape, dtype=np.int16)
    for frame in frames:
        stack.add(frame, mask, np.full(len(detector.amplifiers), 36.0), light=1.0)
    return stack.result().image


def _stack_ccdproc(frames: list[np.ndarray]) -> np.ndarray:
    images = [CCDData(frame, unit=units.electron) for frame in frames]
    return ccdproc.combine(images, method="average", sigma_clip=True, sigma_clip_low_thresh=5, sigma_clip_high_thresh=5).data


def main() -> list[Row]:
    """Compare and print."""
    rng = np.random.default_rng(1)
    camera = load_camera("lsstcam")
    full, bin8 = camera["R22_S11"], load_camera("lsstcam-bin8")["R22_S11"]
    calibration = load_calibration(full, camera, IsrConfig(bias="none"))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "MC_C_20191028_000001_R22_S11.fits"
        _raw_file(path, full, rng)
        rows.append(
            compare(
                "one full-size RICE file to electrons (ours with masks and noise)",
                ("permil", lambda: _ours(path, camera, calibration)),
                ("astropy + NumPy", lambda: _with_astropy(path, full)),
            )
        )
    frames = [rng.normal(LIGHT, np.sqrt(LIGHT), bin8.shape).astype(np.float32) for _ in range(FRAMES)]
    rows.append(
        compare(
            f"{FRAMES} frames of 500 x 512 combined, outliers rejected",
            ("permil", lambda: _stack_ours(bin8, frames)),
            ("ccdproc", lambda: _stack_ccdproc(frames)),
        )
    )
    print_rows(rows)
    return rows


if __name__ == "__main__":
    main()
