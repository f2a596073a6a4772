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
from permil.isr import Calibration, reduce_file
from permil.isr.exposure_group import stack_group
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


def _stack_ccdproc(paths: list[Path], detector: Detector) -> np.ndarray:
    images = [CCDData(_with_astropy(path, detector), unit=units.electron) for path in paths]
    return ccdproc.combine(images, method="average", sigma_clip=True, sigma_clip_low_thresh=5, sigma_clip_high_thresh=5).data


def main() -> list[Row]:
    """Compare and print."""
    rng = np.random.default_rng(1)
    camera = load_camera("lsstcam")
    full = camera["R22_S11"]
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
        small = load_camera("lsstcam-bin8")
        bin8 = small["R22_S11"]
        paths = [Path(folder) / f"MC_C_20191028_{number:06d}_R22_S11.fits" for number in range(10, 10 + FRAMES)]
        for each in paths:
            _raw_file(each, bin8, rng)
        own = load_calibration(bin8, small, IsrConfig(bias="none"))
        rows.append(
            compare(
                f"{FRAMES} RICE files of 500 x 512 combined, outliers rejected",
                ("permil", lambda: stack_group(paths, [1.0] * FRAMES, small, own).stack.image),
                ("astropy + NumPy, ccdproc", lambda: _stack_ccdproc(paths, bin8)),
            )
        )
    print_rows(rows)
    return rows


if __name__ == "__main__":
    main()
