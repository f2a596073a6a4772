"""Files of flats: of a detector on its own scale, of its pointings, and of all detectors of an LED on the composite scale."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table, vstack

from permil.arrays import Float32Array
from permil.camera import Camera, Detector, shared_camera
from permil.config import Config
from permil.engine import Work
from permil.exposures import summarise_files
from permil.flat.combine import DetectorFlat, good_pixels
from permil.flat.composite import (
    MosaicGrid,
    MosaicPiece,
    ResponseHistogram,
    assemble_mosaic,
    composite_median,
    mosaic_grid,
    mosaic_piece,
    response_histogram,
)
from permil.flat.divide import PointingFlat
from permil.flat.pointings import LitPointing, Pointing
from permil.flat.steps.exposures import FlatRequest
from permil.flat.superpixel import super_pixels
from permil.isr import LeftOut
from permil.products import (
    FINGERPRINT_CARD,
    ImageProduct,
    MaskPlane,
    RunFolder,
    fingerprint_card,
    is_current,
    is_good,
    is_usable,
    kind_card,
    read_image,
    write_image,
    write_table,
)

SCALE_CARD = "FLATSCAL"
"""Card with the response, in electrons per photodiode unit at the beam's maximum, that is 1 on the composite scale."""

_SCALED_EXTENSIONS = ("RESPONSES",)


def relative_path(folder: RunFolder, led: str, detector: str) -> Path:
    """Return the path of the flat on the detector's own scale, before the composite."""
    return folder.flat(led, detector).parent / ".relative" / f"{detector}.fits"


def keep_pointing(
    request: FlatRequest, later: Callable[[Callable[[], None]], None]
) -> Callable[[LitPointing, PointingFlat], None] | None:
    """Return a function that writes the flat of an aimed pointing, None if they are not kept.

    Parameters
    ----------
    later
        Runs a call (`permil.engine.background_calls`).
    """
    if not request.config.flat.keep_pointings:
        return None
    # The arrays of the pointing itself are released before its flat is written.
    return lambda lit, flat: later(partial(_write_pointing, RunFolder(request.root), request, lit.pointing, lit.rejected, flat))


def _cards(request: FlatRequest, detector: Detector) -> dict[str, Any]:
    config = request.config
    beam_led = config.flat.beam_of.get(request.led, request.led) if request.solver == "divide" else request.led
    return dict(request.origin) | {
        **fingerprint_card(request.fingerprint),
        "CAMERA": (config.camera if len(config.camera) < 60 else Path(config.camera).name, "camera"),
        **kind_card("flat"),
        "DETECTOR": (detector.name, "detector"),
        "LED": (request.led, "LED"),
        "BEAMLED": (beam_led, "LED whose beam was divided out"),
        "PIXFRAME": ("DM", "pixel frame: row = y, column = x, 0-based"),
        "SOLVER": (request.solver, "solver"),
        "PDNORM": (config.isr.photodiode, "normalisation of each exposure"),
        "GAINSRC": (Path(config.isr.gains).name, "gains"),
        "LINEAR": (Path(config.isr.linearity).name, "linearity correction"),
        "XTALK": (Path(config.isr.crosstalk).name, "crosstalk correction"),
        "GAINEPOC": ("boards: mean; steps: after" if request.solver == "joint" else None, "epoch of the gains"),
        "STEPSREM": (config.flat.remove_amplifier_steps, "amplifier steps divided out"),
    }


def _write_pointing(folder: RunFolder, request: FlatRequest, pointing: Pointing, rejected: int, flat: PointingFlat) -> None:
    detector = shared_camera(request.config.camera)[request.detector]
    header = _cards(request, detector) | {
        "POINTING": (pointing.number, "number of the pointing"),
        "BEAMX": (pointing.x_mm, "[mm] projector X, CCS"),
        "BEAMY": (pointing.y_mm, "[mm] projector Y, CCS"),
        "NEXPOSUR": (pointing.exposures, "exposures"),
        "NREJECT": (rejected, "measurements rejected as outliers"),
        "SCALEERR": (pointing.scale_error, "relative error of the scale"),
        "NORM": ("electron per photodiode unit", "scale (before the composite)"),
    }
    write_image(
        folder.pointing(request.led, request.detector, pointing.number), flat.response, flat.mask, flat.variance, header=header
    )


def write_relative(folder: RunFolder, request: FlatRequest, made: DetectorFlat, noted: list[LeftOut]) -> None:
    """Write the flat of a detector on its own scale."""
    detector = shared_camera(request.config.camera)[request.detector]
    flat = made.flat
    whole = made.metrics[made.metrics["amp"] == "all"][0]
    used = [table for table in (made.pointings, made.scan) if len(table)]
    joint = request.solver == "joint"
    header = _cards(request, detector) | {
        "NPOINT": (len(made.pointings), "pointings"),
        "NSCAN": (len(made.scan), "exposures of the scan"),
        "NEXPOSUR": (sum(int(np.sum(table["exposures"])) for table in used), "exposures"),
        "NREJECT": (sum(int(np.sum(table["rejected"])) for table in used), "measurements rejected as outliers"),
        "GRADX": (whole["gradient_x"], "[1/mm] relative gradient along CCS X"),
        "GRADXERR": (whole["gradient_x_err"], "[1/mm] its error (beam, photodiode)"),
        "GRADY": (whole["gradient_y"], "[1/mm] relative gradient along CCS Y"),
        "GRADYERR": (whole["gradient_y_err"], "[1/mm] its error (beam, photodiode)"),
        "GRADCONV": ("photodiode as measured" if joint else "beam and photodiode as measured", "convention of the gradient"),
    }
    if detector.kind == "science":
        histogram = response_histogram(flat.response, good_pixels(flat))
    else:
        histogram = response_histogram(flat.response, np.isfinite(flat.response))
    write_image(
        relative_path(folder, request.led, request.detector),
        flat.response,
        flat.mask,
        flat.variance,
        header=header,
        extensions=[*_extensions(made, histogram), *_notes(noted)],
    )


def _extensions(made: DetectorFlat, histogram: ResponseHistogram) -> list[Any]:
    """Return the HDUs that follow IMAGE, MASK and VARIANCE."""
    flat = made.flat
    with np.errstate(invalid="ignore", divide="ignore"):
        relative = flat.scatter / flat.response
    usable = is_usable(flat.mask) & np.isfinite(relative)
    scatter = np.sqrt(super_pixels(relative.astype(np.float64) ** 2, usable, made.block_pixels).mean)
    images = {
        "SCATTER": (scatter, "relative scatter between pointings (rms over the super-pixel)"),
        "STACKS": (made.stacks, "mean signal of the aimed pointings"),
        "BEAMS": (made.beams, "beam model at the aimed pointings, 1 at its maximum"),
        "RESPONSES": (made.responses, "flat of each aimed pointing alone"),
        "COVARIANCE": (made.covariance, "relative covariance between PLACES (beam, photodiode)"),
    }
    if made.modes is not None and made.remainder is not None:
        images["MODES"] = (made.modes, "modes of correlated errors, relative, one standard deviation")
        images["REMAINDER"] = (made.remainder, "relative variance of correlated errors beyond MODES")
    if made.halves is not None and np.isfinite(made.halves).any():
        images["HALVES"] = (made.halves, "half the difference of odd and even, early and late exposures")
    hdus: list[Any] = []
    for name, (data, meaning) in images.items():
        if data.size == 0:
            continue
        hdu = fits.ImageHDU(np.ascontiguousarray(data, dtype=np.float32 if name != "COVARIANCE" else np.float64), name=name)
        hdu.header["MEANING"] = meaning
        hdu.header["BLOCK_MM"] = (made.block_mm, "side of a super-pixel, mm")
        hdu.header["BLOCKPIX"] = (made.block_pixels, "side of a super-pixel, pixels")
        hdus.append(hdu)
    hdus += [
        fits.BinTableHDU(made.pointings, name="POINTINGS"),
        fits.BinTableHDU(made.metrics, name="METRICS"),
        fits.BinTableHDU(made.places, name="PLACES"),
    ]
    if made.budget is not None:
        hdus.append(fits.BinTableHDU(made.budget, name="BUDGET"))
    if len(made.scan):
        hdus.append(fits.BinTableHDU(made.scan, name="SCAN"))
    counts = fits.BinTableHDU(Table({"count": histogram.counts}), name="HISTOGRAM")
    counts.header["FIRSTBIN"] = (histogram.first, "number of the first bin of ln(response)")
    hdus.append(counts)
    return hdus


def _notes(noted: list[LeftOut]) -> list[Any]:
    """Return the table of exposures left out, none if it is empty."""
    if not noted:
        return []
    rows = [(str(entry.path), entry.reason) for entry in noted]
    return [fits.BinTableHDU(Table(rows=rows, names=("path", "reason")), name="LEFT_OUT")]


def _read_histogram(path: Path) -> ResponseHistogram:
    """Return the histogram of a flat, before the composite scale."""
    with fits.open(path, memmap=False) as hdus:
        table = hdus["HISTOGRAM"]
        return ResponseHistogram(int(table.header["FIRSTBIN"]), np.array(table.data["count"], dtype=np.int64))


def _rescaled(product: ImageProduct, scale: float) -> tuple[Float32Array, Float32Array, list[Any]]:
    """Return image, variance and extensions of a flat on a composite scale, from any previous scale.

    Parameters
    ----------
    product
        A detector's flat as read.
    scale
        Response that becomes 1.
    """
    factor = (float(product.header.get(SCALE_CARD, 0.0)) or 1.0) / scale
    image = (product.image.astype(np.float64) * factor).astype(np.float32)
    variance = (product.variance.astype(np.float64) * factor**2).astype(np.float32)
    extensions = []
    for name, hdu in product.extensions.items():
        if name in _SCALED_EXTENSIONS:
            hdu.data = (hdu.data.astype(np.float64) * factor).astype(np.float32)
        elif name == "METRICS":
            for column in ("median", "median_err"):
                hdu.data[column] = hdu.data[column] * factor
        extensions.append(hdu)
    return image, variance, extensions


@dataclass(frozen=True)
class MadeFlat:
    """An existing flat of one detector, on its own scale or on the composite scale."""

    led: str
    detector: str
    fingerprint: str


def compose(
    config: Config, camera: Camera, folder: RunFolder, flats: Sequence[MadeFlat], fingerprint: str, *, origin: Mapping[str, Any]
) -> Work:
    """Return the work that puts flats of one LED on the composite scale and writes them, mosaic and metrics, with a fingerprint.

    Raises
    ------
    FlatError
        If no science detector has a flat.
    """
    led = flats[0].led
    science = [flat for flat in flats if camera[flat.detector].kind == "science"]
    scale = composite_median([_read_histogram(_path(folder, flat)) for flat in science])
    grid = mosaic_grid([camera[flat.detector] for flat in flats], config.flat.mosaic_mm)
    function = partial(_compose_detector, camera=config.camera, folder=folder, scale=scale, grid=grid)
    cards = dict(origin) | {
        **fingerprint_card(fingerprint),
        "CAMERA": (camera.name, "camera"),
        SCALE_CARD: (scale, "electron per photodiode unit at response 1"),
    }
    return Work(function, flats, partial(_assemble, folder=folder, led=led, scale=scale, grid=grid, cards=cards))


def _path(folder: RunFolder, flat: MadeFlat) -> Path:
    relative = relative_path(folder, flat.led, flat.detector)
    return relative if is_current(relative, flat.fingerprint) else folder.flat(flat.led, flat.detector)


def _assemble(
    pieces: list[_Piece], *, folder: RunFolder, led: str, scale: float, grid: MosaicGrid, cards: Mapping[str, Any]
) -> list[str]:
    """Write mosaic and metrics of an LED; return the messages for the user."""
    metrics = vstack([piece.metrics for piece in pieces], metadata_conflicts="silent")
    response, variance, count = assemble_mosaic([piece.mosaic for piece in pieces], grid)
    header = dict(cards) | {
        "CELL_MM": (grid.cell_mm, "[mm] side of a cell"),
        "NDETECT": (len(pieces), "detectors"),
    }
    mask = np.where(count > 0, 0, int(MaskPlane.NO_DATA))
    write_image(folder.focal_plane(led), response, mask, variance, header=header, image_cards=grid.cards())
    metrics.meta = {"fingerprint": cards[FINGERPRINT_CARD][0], "led": led, "composite_scale": scale}
    write_table(folder.metrics(led), metrics)
    notes = [f"{led}: {line}" for line in summarise_files(entry for piece in pieces for entry in piece.left_out)]
    return [*notes, f"{led}: {len(pieces)} detectors, composite scale {scale:.6g} electrons per photodiode unit"]


@dataclass(frozen=True)
class _Piece:
    """Contribution of one detector to the products of its LED."""

    mosaic: MosaicPiece
    metrics: Table
    left_out: list[tuple[str, str]]


def _compose_detector(flat: MadeFlat, *, camera: str, folder: RunFolder, scale: float, grid: MosaicGrid) -> _Piece:
    """Write the flat of one detector on the composite scale."""
    detector = shared_camera(camera)[flat.detector]
    product = read_image(_path(folder, flat))
    image, variance, extensions = product.image, product.variance, list(product.extensions.values())
    if float(product.header.get(SCALE_CARD, 0.0)) != scale:
        image, variance, extensions = _rescaled(product, scale)
        header = product.header.copy(strip=True)
        header[SCALE_CARD] = (scale, "electron per photodiode unit at response 1")
        header["NORM"] = ("median of all good science pixels is 1", "composite scale")
        write_image(folder.flat(flat.led, flat.detector), image, product.mask, variance, header=header, extensions=extensions)
    relative_path(folder, flat.led, flat.detector).unlink(missing_ok=True)
    tables = {hdu.name: hdu.data for hdu in extensions if isinstance(hdu, fits.BinTableHDU)}
    left_out = [(str(row["path"]), str(row["reason"])) for row in tables.get("LEFT_OUT", [])]
    good = is_good(product.mask) & np.isfinite(image)
    return _Piece(mosaic_piece(image, variance, good, detector=detector, grid=grid), Table(tables["METRICS"]), left_out)
