"""An independent writer of raw files: astropy and the reference tables only, nothing of the package's own readers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from permil.camera import Camera

RawWriter = Callable[..., Path]
WRITTEN: dict[str, bytes] = {}
"""Content of the files that were written without a change of their HDUs."""


def primary_header(detector: str, *, seqnum: int = 1, **cards: Any) -> fits.Header:
    """Return the primary header of a CCOB exposure; ``cards`` change it, None removes one."""
    raft, slot = detector.split("_")
    header = fits.Header()
    content = {
        "DATE-OBS": "2019-10-29T02:27:46.151",
        "MJD-OBS": 58785.10261748824,
        "RUNNUM": "6852D",
        "TSTAND": "BOT",
        "INSTRUME": "lsstCam",
        "CCDSLOT": slot,
        "RAFTBAY": raft,
        "TESTTYPE": "CCOB",
        "IMGTYPE": "CCOB",
        "SEQNUM": seqnum,
        "CCDTEMP": -98.933,
        "EXPTIME": 0.32,
        "OBSID": f"MC_C_20191028_{seqnum:06d}",
        "DAYOBS": "20191028",
        "TSEQNUM": seqnum,
        "TEMPLED1": 19.973,
        "TEMPLED2": 19.217,
        "TEMPSPH": 18.492,
        "TEMPBRD": 33.351,
        "CCOBLED": "red",
        "CCOBCURR": 0.009,
        "CCOBADC": 0.3319,
        "BOTXCAM": 0.0,
        "BOTYCAM": 0.0,
    } | cards
    for name, entry in content.items():
        if entry is not None:
            header[name] = entry
    return header


def segment_pixels(amplifier: Any, seed: int) -> np.ndarray:
    """Return pixels that identify themselves: no two segments are alike, overscans differ from active pixels."""
    random = np.random.default_rng([seed, amplifier.number])
    pixels = random.normal(48000.0, 200.0, (amplifier.ny_raw, amplifier.nx_raw)).astype(np.int32)
    pixels[:, amplifier.prescan + amplifier.nx :] = random.normal(25000.0, 6.0, (amplifier.ny_raw, amplifier.serial_overscan))
    return pixels


@pytest.fixture
def write_raw(tmp_path: Path, bin8: Camera) -> RawWriter:
    """Return a function that writes a raw file of the binned camera and returns its path."""

    def write(
        detector: str = "R22_S11",
        *,
        path: str | Path | None = None,
        camera: Camera = bin8,
        seed: int = 1,
        compressed: bool = False,
        change: Callable[[fits.HDUList], None] | None = None,
        cards: dict[str, Any] | None = None,
        kind: Any = np.int32,
        **image_options: Any,
    ) -> Path:
        header = primary_header(detector, **(cards or {}))
        target = tmp_path / (path or f"{header['OBSID']}_{detector}.fits")
        target.parent.mkdir(parents=True, exist_ok=True)
        key = repr((detector, camera.name, seed, compressed, sorted((cards or {}).items()), kind, sorted(image_options.items())))
        if change is None and key in WRITTEN:
            with target.open("xb") as stream:
                stream.write(WRITTEN[key])
            return target
        hdus = fits.HDUList([fits.PrimaryHDU(header=header)])
        for amplifier in camera[detector].amplifiers:
            pixels = segment_pixels(amplifier, seed).astype(kind)
            if compressed:
                options = {"compression_type": "RICE_1", "tile_shape": (1, amplifier.nx_raw)} | image_options
                image: Any = fits.CompImageHDU(pixels, **options)
            else:
                image = fits.ImageHDU(pixels)
            image.header["CHANNEL"] = amplifier.number
            image.header["EXTNAME"] = amplifier.extname
            image.header["DATASEC"] = f"[{amplifier.prescan + 1}:{amplifier.prescan + amplifier.nx},1:{amplifier.ny}]"
            image.header["DETSEC"] = amplifier.detsec
            hdus.append(image)
        for name in ("REB_COND", "CONFIG_COND"):
            table = fits.BinTableHDU.from_columns([])
            table.header["EXTNAME"] = name
            hdus.append(table)
        hdus["REB_COND"].header["TEMP1"] = 9.875
        hdus["REB_COND"].header["TEMP2"] = -1.5
        if change:
            change(hdus)
        hdus.writeto(target, checksum=True)
        if change is None:
            WRITTEN[key] = target.read_bytes()
        return target

    return write


@pytest.fixture
def write_primary(tmp_path: Path) -> RawWriter:
    """Return a function that writes a file with a primary header and nothing else: all that the index looks at."""

    def write(detector: str = "R22_S11", *, folder: str = "", name: str | None = None, **cards: Any) -> Path:
        header = primary_header(detector, **cards)
        path = tmp_path / folder / (name or f"{header.get('OBSID', 'exposure')}_{detector}.fits")
        path.parent.mkdir(parents=True, exist_ok=True)
        fits.PrimaryHDU(header=header).writeto(path)
        return path

    return write
