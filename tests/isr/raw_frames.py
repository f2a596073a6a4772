"""Frames of a bright scene with cosmic rays, and raw files of them in several codings."""

from __future__ import annotations

import gzip

import numpy as np
from astropy.io import fits


def write(path, detector, segments, *, coding="rice", kind=np.int32):
    primary = fits.PrimaryHDU()
    primary.header["RAFTBAY"], primary.header["CCDSLOT"] = detector.raft, detector.slot
    hdus = [primary]
    for amplifier in detector.amplifiers:
        pixels = segments[amplifier.name].astype(kind)
        options = {"rice": {}, "gzip tiles": {"compression_type": "GZIP_1"}, "squares": {"tile_shape": (7, 50)}}.get(coding)
        hdu = fits.ImageHDU(pixels) if options is None else fits.CompImageHDU(pixels, **{"compression_type": "RICE_1", **options})
        hdu.header["EXTNAME"] = amplifier.extname
        hdus.append(hdu)
    fits.HDUList(hdus).writeto(path)
    if coding == "gzip":
        path.write_bytes(gzip.compress(path.read_bytes(), 1))
    return path


def exposures(detector, make_raw, *, number=5, hits=1e-3):
    rng = np.random.default_rng(number)
    scene = rng.uniform(20000, 40000, detector.shape)
    for light in rng.uniform(0.8, 1.2, number):
        adu = light * rng.poisson(scene).astype(float)
        hit = rng.uniform(size=adu.shape) < hits
        adu[hit] += rng.uniform(500, 150000, np.count_nonzero(hit))
        yield make_raw(detector, adu, rng)
