"""Small raw files in every way of storing integers that FITS has, and where their headers, tables and data lie."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from permil.camera import Camera, load_camera

DETECTOR = "R44_SW1"

_CAMERA = """
extends: lsstcam-bin8
name: fuzz
title: Eight segments of 33 x 26 pixels
reference: {detector: R44_SW1, amp: C13, row: 10, column: 8, box: 6}
layouts:
  ITL_WF:
    segment: {prescan: 3, nx: 16, serial_overscan: 14, ny: 24, parallel_overscan: 2}
"""

LAYOUTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "plain, 16 bits": {"kind": np.int16},
    "plain, unsigned 16 bits": {"kind": np.uint16},
    "plain, unsigned 32 bits": {"kind": np.uint32},
    "RICE by rows": {"compression_type": "RICE_1"},
    "RICE by rows, unsigned 16 bits": {"compression_type": "RICE_1", "kind": np.uint16},
    "RICE by tiles": {"compression_type": "RICE_1", "tile_shape": (7, 20)},
    "GZIP_1": {"compression_type": "GZIP_1"},
    "GZIP_2": {"compression_type": "GZIP_2", "kind": np.int16},
    "HCOMPRESS": {"compression_type": "HCOMPRESS_1", "tile_shape": (13, 33)},
    "PLIO": {"compression_type": "PLIO_1"},
    "NOCOMPRESS": {"compression_type": "NOCOMPRESS"},
}
"""How the pixels are stored, by name."""


@dataclass(frozen=True)
class Place:
    """Where an HDU lies in a file, bytes: its header, its data, and the next HDU."""

    header: int
    data: int
    size: int
    end: int


@dataclass(frozen=True)
class RawBytes:
    """A raw file in memory, and the places of its HDUs."""

    layout: str
    content: bytes
    places: tuple[Place, ...]


def small_camera(folder: Path) -> Camera:
    """Return a camera of few pixels."""
    path = folder / "fuzz.yaml"
    path.write_text(_CAMERA, encoding="utf-8")
    return load_camera(str(path))


def true_pixels(camera: Camera, seed: int) -> dict[str, np.ndarray]:
    """Return the pixels of each segment; they fit into 16 bits with and without sign."""
    pixels = {}
    for amplifier in camera[DETECTOR].amplifiers:
        random = np.random.default_rng([seed, amplifier.number])
        counts = random.normal(1000.0, 5.0, (amplifier.ny_raw, amplifier.nx_raw))
        counts[amplifier.data_slices] += random.normal(9000.0, 60.0, (amplifier.ny, amplifier.nx))
        pixels[amplifier.name] = np.rint(counts).astype(np.int32)
    return pixels


def raw_bytes(camera: Camera, layout: str, *, seed: int = 0) -> RawBytes:
    """Return a raw file with checksums; files of one seed hold the same pixels in every layout."""
    options = dict(LAYOUTS[layout])
    kind = options.pop("kind", np.int32)
    primary = fits.PrimaryHDU()
    entries = {"RAFTBAY": DETECTOR[:3], "CCDSLOT": DETECTOR[4:], "IMGTYPE": "CCOB", "TESTTYPE": "CCOB", "RUNNUM": "6841D"}
    entries |= {"OBSID": f"MC_C_20191028_{seed:06d}", "DAYOBS": "20191028", "SEQNUM": seed, "EXPTIME": 0.07, "MJD-OBS": 58784.81}
    entries |= {"CCOBLED": "red", "CCOBCURR": 0.009, "CCOBADC": 0.33, "BOTXCAM": 32.24, "BOTYCAM": 32.0}
    primary.header.update(entries)
    hdus: list[Any] = [primary]
    pixels = true_pixels(camera, seed)
    for amplifier in camera[DETECTOR].amplifiers:
        image = pixels[amplifier.name].astype(kind)
        hdu: Any = fits.CompImageHDU(image, **options) if options else fits.ImageHDU(image)
        hdu.header.update({"EXTNAME": amplifier.extname, "CHANNEL": amplifier.channel, "DATASEC": amplifier.datasec})
        hdus.append(hdu)
    board = fits.BinTableHDU.from_columns([], name="REB_COND")
    board.header.update({f"TEMP{number}": 5.0 + number for number in range(1, 7)})
    stream = io.BytesIO()
    fits.HDUList([*hdus, board]).writeto(stream, checksum=True)
    content = stream.getvalue()
    with fits.open(io.BytesIO(content), disable_image_compression=True) as opened:
        found = [(hdu.fileinfo(), hdu.size) for hdu in opened]
    return RawBytes(
        layout,
        content,
        tuple(Place(each["hdrLoc"], each["datLoc"], size, each["datLoc"] + each["datSpan"]) for each, size in found),
    )
