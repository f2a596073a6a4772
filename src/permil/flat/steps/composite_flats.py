"""All detectors of one LED on one scale: composite flats, mosaic, metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table, vstack

from permil.camera import Camera, shared_camera
from permil.config import Config
from permil.engine import Work
from permil.exposures import summarise_files
from permil.flat.composite import MosaicGrid, MosaicPiece, assemble_mosaic, composite_median, mosaic_grid, mosaic_piece
from permil.flat.detector_flat import SCALE_CARD, read_histogram, rescaled
from permil.flat.steps.flat_product import relative_path
from permil.products import (
    FINGERPRINT_CARD,
    MaskPlane,
    RunFolder,
    is_current,
    is_good,
    read_image,
    write_image,
    write_table,
)


@dataclass(frozen=True)
class MadeFlat:
    """The flat of one detector that is made, on its own scale or that of a composite."""

    led: str
    detector: str
    fingerprint: str


def compose(config: Config, camera: Camera, folder: RunFolder, flats: Sequence[MadeFlat], print_: str) -> Work:
    """Return the work that puts flats of one LED on the composite scale and writes them, mosaic and metrics, with a fingerprint.

    Raises
    ------
    FlatError
        If no science detector has a flat.
    """
    led = flats[0].led
    science = [flat for flat in flats if camera[flat.detector].kind == "science"]
    scale = composite_median([read_histogram(_path(folder, flat))[0] for flat in science])
    grid = mosaic_grid([camera[flat.detector] for flat in flats], config.flat.mosaic_mm)
    function = partial(_compose_detector, camera=config.camera, folder=folder, scale=scale, grid=grid)
    return Work(function, flats, partial(_assemble, camera=camera, folder=folder, led=led, scale=scale, grid=grid, print_=print_))


def _path(folder: RunFolder, flat: MadeFlat) -> Path:
    relative = relative_path(folder, flat.led, flat.detector)
    return relative if is_current(relative, flat.fingerprint) else folder.flat(flat.led, flat.detector)


def _assemble(
    pieces: list[_Piece], *, camera: Camera, folder: RunFolder, led: str, scale: float, grid: MosaicGrid, print_: str
) -> list[str]:
    """Write mosaic and metrics of an LED; return what a person should know."""
    metrics = vstack([piece.metrics for piece in pieces], metadata_conflicts="silent")
    response, variance, count = assemble_mosaic([piece.mosaic for piece in pieces], grid)
    header = {
        FINGERPRINT_CARD: (print_, "what this was made from"),
        "LED": (led, "LED"),
        "CAMERA": (camera.name, "camera"),
        SCALE_CARD: (scale, "electron per photodiode unit that is 1 here"),
        "CELL_MM": (grid.cell_mm, "[mm] side of a cell"),
        "NDETECT": (len(pieces), "detectors"),
    }
    mask = np.where(count > 0, 0, int(MaskPlane.NO_DATA))
    write_image(folder.focal_plane(led), response, mask, variance, header=header, image_cards=grid.cards())
    metrics.meta = {"fingerprint": print_, "led": led, "composite_scale": scale}
    write_table(folder.metrics(led), metrics)
    notes = [f"{led}: {line}" for line in summarise_files(entry for piece in pieces for entry in piece.left_out)]
    return [*notes, f"{led}: {len(pieces)} detectors, composite scale {scale:.6g} electrons per photodiode unit"]


@dataclass(frozen=True)
class _Piece:
    """What one detector gives to the products of its LED."""

    mosaic: MosaicPiece
    metrics: Table
    left_out: list[tuple[str, str]]


def _compose_detector(flat: MadeFlat, *, camera: str, folder: RunFolder, scale: float, grid: MosaicGrid) -> _Piece:
    """Write the flat of one detector on the composite scale."""
    detector = shared_camera(camera)[flat.detector]
    product = read_image(_path(folder, flat))
    image, variance, extensions = product.image, product.variance, list(product.extensions.values())
    if float(product.header.get(SCALE_CARD, 0.0)) != scale:
        image, variance, extensions = rescaled(product, scale)
        header = product.header.copy(strip=True)
        header[SCALE_CARD] = (scale, "electron per photodiode unit that is 1 here")
        header["NORM"] = ("median of all good science pixels is 1", "composite scale")
        write_image(folder.flat(flat.led, flat.detector), image, product.mask, variance, header=header, extensions=extensions)
    relative_path(folder, flat.led, flat.detector).unlink(missing_ok=True)
    tables = {hdu.name: hdu.data for hdu in extensions if isinstance(hdu, fits.BinTableHDU)}
    left_out = [(str(row["path"]), str(row["reason"])) for row in tables.get("LEFT_OUT", [])]
    good = is_good(product.mask) & np.isfinite(image)
    return _Piece(mosaic_piece(image, variance, good, detector=detector, grid=grid), Table(tables["METRICS"]), left_out)
