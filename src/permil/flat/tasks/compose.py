"""All detectors of one LED on one scale: composite flats, mosaic, metrics."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from astropy.io import fits
from astropy.table import Table, vstack

from permil.camera import Camera, shared_camera
from permil.config import Config
from permil.engine import Batch, Chain
from permil.exposures import summarise_files
from permil.flat.composite import composite_median
from permil.flat.mosaic import MosaicGrid, MosaicPiece, assemble_mosaic, mosaic_grid, mosaic_piece
from permil.flat.product import SCALE_CARD, read_histogram, rescaled
from permil.flat.tasks.task import FlatTask, relative_path
from permil.products import (
    FINGERPRINT_CARD,
    MaskPlane,
    RunFolder,
    fingerprint,
    is_current,
    is_good,
    read_image,
    write_image,
    write_table,
)
from permil.progress import StageReport


def compose(
    config: Config, camera: Camera, folder: RunFolder, led: str, tasks: list[FlatTask], report: StageReport
) -> Chain[None]:
    """Put all detectors of one LED on the composite scale; write flats, mosaic and metrics.

    A chain of one batch: a task for each detector.

    Raises
    ------
    FlatError
        If no science detector has a flat.
    """
    histograms = []
    for task in tasks:
        path = relative_path(folder, task)
        histogram, _ = read_histogram(path if is_current(path, task.fingerprint) else folder.flat(led, task.detector))
        if camera[task.detector].kind == "science":
            histograms.append(histogram)
    scale = composite_median(histograms)
    grid = mosaic_grid([camera[task.detector] for task in tasks], config.flat.mosaic_mm)
    mosaic_print = fingerprint({"scale": scale, "cell": config.flat.mosaic_mm}, upstream=[task.fingerprint for task in tasks])
    if is_current(folder.metrics(led), mosaic_print) and is_current(folder.focal_plane(led), mosaic_print):
        report.skipped += 1
        return
    pieces = yield Batch(partial(_compose_detector, folder=folder, scale=scale, grid=grid), tasks, f"composite {led}")
    metrics = vstack([piece.metrics for piece in pieces], metadata_conflicts="silent")
    response, variance, count = assemble_mosaic([piece.mosaic for piece in pieces], grid)
    report.messages += [f"{led}: {line}" for line in summarise_files(entry for piece in pieces for entry in piece.left_out)]
    header = {
        FINGERPRINT_CARD: (mosaic_print, "what this was made from"),
        "LED": (led, "LED"),
        "CAMERA": (camera.name, "camera"),
        SCALE_CARD: (scale, "electron per photodiode unit that is 1 here"),
        "CELL_MM": (grid.cell_mm, "[mm] side of a cell"),
        "NDETECT": (len(tasks), "detectors"),
    }
    mask = np.where(count > 0, 0, int(MaskPlane.NO_DATA))
    write_image(folder.focal_plane(led), response, mask, variance, header=header, image_cards=grid.cards())
    metrics.meta = {"fingerprint": mosaic_print, "led": led, "composite_scale": scale}
    write_table(folder.metrics(led), metrics)
    report.messages.append(f"{led}: {len(tasks)} detectors, composite scale {scale:.6g} electrons per photodiode unit")


@dataclass(frozen=True)
class _Piece:
    """What one detector gives to the products of its LED."""

    mosaic: MosaicPiece
    metrics: Table
    left_out: list[tuple[str, str]]


def _compose_detector(task: FlatTask, *, folder: RunFolder, scale: float, grid: MosaicGrid) -> _Piece:
    """Write the flat of one detector on the composite scale."""
    detector = shared_camera(task.config.camera)[task.detector]
    final, relative = folder.flat(task.led, task.detector), relative_path(folder, task)
    product = read_image(relative if is_current(relative, task.fingerprint) else final)
    image, variance, extensions = product.image, product.variance, list(product.extensions.values())
    if float(product.header.get(SCALE_CARD, 0.0)) != scale:
        image, variance, extensions = rescaled(product, scale)
        header = product.header.copy(strip=True)
        header[SCALE_CARD] = (scale, "electron per photodiode unit that is 1 here")
        header["NORM"] = ("median of all good science pixels is 1", "composite scale")
        write_image(final, image, product.mask, variance, header=header, extensions=extensions)
    relative.unlink(missing_ok=True)
    tables = {hdu.name: Table(hdu.data) for hdu in extensions if isinstance(hdu, fits.BinTableHDU)}
    left_out = [(str(row["path"]), str(row["reason"])) for row in tables.get("LEFT_OUT", [])]
    good = is_good(product.mask) & np.isfinite(image)
    return _Piece(mosaic_piece(image, variance, good, detector=detector, grid=grid), tables["METRICS"], left_out)
