"""The request for the flat of one detector and LED, the files that it writes, and all detectors of an LED on one scale."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table, vstack

from permil.camera import Camera, Detector, shared_camera
from permil.config import Config
from permil.engine import Work
from permil.errors import FlatError, InputError, PermilError, PhotodiodeError
from permil.exposures import summarise_files
from permil.flat.combine import LitPointing, Pointing
from permil.flat.composite import (
    MosaicGrid,
    MosaicPiece,
    assemble_mosaic,
    composite_median,
    mosaic_grid,
    mosaic_piece,
    response_histogram,
)
from permil.flat.detector_flat import SCALE_CARD, DetectorSolution, good_pixels, read_histogram, rescaled, solution_extensions
from permil.flat.divide import PointingFlat
from permil.flat.steps.exposures import PointingGroup
from permil.isr import LeftOut
from permil.products import (
    FINGERPRINT_CARD,
    KIND_CARD,
    MaskPlane,
    RunFolder,
    is_current,
    is_good,
    read_image,
    write_image,
    write_table,
)

PART_OF_EXPOSURES = 0.9
"""Of the time of a flat; the rest goes into its figures and files."""


LEAVES_OUT = (FlatError, InputError, PhotodiodeError)
"""Errors of the exposures of a pointing, of a detector or of an LED: it is left out, and the others go on."""


@dataclass(frozen=True)
class FlatRequest:
    """One detector and LED.

    ``nearest`` are files of the exposures whose projector was nearest to its middle, ``origin`` cards that say where they come from.
    """

    config: Config
    root: Path
    detector: str
    led: str
    groups: tuple[PointingGroup, ...]
    fingerprint: str
    solver: str = "divide"
    nearest: tuple[str, ...] = ()
    origin: Mapping[str, Any] = field(default_factory=dict)


def relative_path(folder: RunFolder, led: str, detector: str) -> Path:
    """Return where the flat on the detector's own scale waits for the composite."""
    return folder.flat(led, detector).parent / ".relative" / f"{detector}.fits"


def left_out_pointing(group: PointingGroup, error: PermilError) -> list[LeftOut]:
    """Return why the exposures of a pointing are left out, one for each."""
    kind = "scan position" if group.scan else "pointing"
    place = f"{kind} {group.number} at ({group.x_mm:.2f}, {group.y_mm:.2f}) mm is left out"
    return [LeftOut(Path(path), f"{place}: {error.what}") for path in group.paths]


def require_pointings(used: int, request: FlatRequest, noted: Sequence[LeftOut]) -> None:
    """Raise an error if no exposure of a detector was used.

    Raises
    ------
    FlatError
        With the first reason.
    """
    if not used:
        why = f" ({noted[0].path.name}: {noted[0].reason})" if noted else ""
        raise FlatError(
            f"no exposure of {request.detector} with LED {request.led} can be used{why}",
            remedy="take its exposures again, or leave the detector out with flat.detectors",
            detector=request.detector,
            led=request.led,
        )


def keep_pointing(
    request: FlatRequest, later: Callable[[Callable[[], None]], None]
) -> Callable[[LitPointing, PointingFlat], None] | None:
    """Return what writes the flat of each aimed pointing, None if they are not kept.

    Parameters
    ----------
    later
        Makes a call (see `permil.engine.behind`).
    """
    if not request.config.flat.keep_pointings:
        return None
    # The pointing itself, with its arrays, is not kept for the time of writing.
    return lambda lit, flat: later(partial(_write_pointing, RunFolder(request.root), request, lit.pointing, lit.rejected, flat))


def _cards(request: FlatRequest, detector: Detector) -> dict[str, Any]:
    config = request.config
    beam_led = config.flat.beam_of.get(request.led, request.led) if request.solver == "divide" else request.led
    return dict(request.origin) | {
        FINGERPRINT_CARD: (request.fingerprint, "what this was made from"),
        "CAMERA": (config.camera if len(config.camera) < 60 else Path(config.camera).name, "camera"),
        KIND_CARD: ("flat", "what this is"),
        "DETECTOR": (detector.name, "detector"),
        "LED": (request.led, "LED"),
        "BEAMLED": (beam_led, "LED whose beam was divided out"),
        "PIXFRAME": ("DM", "pixel frame: row = y, column = x, 0-based"),
        "SOLVER": (request.solver, "solver"),
        "PDNORM": (config.isr.photodiode, "normalisation of each exposure"),
        "GAINSRC": (Path(config.isr.gains).name, "gains"),
        "LINEAR": (Path(config.isr.linearity).name, "linearity correction"),
        "XTALK": (Path(config.isr.crosstalk).name, "crosstalk correction"),
        "GAINEPOC": ("boards: mean; steps: after" if request.solver == "joint" else None, "gains that this belongs to"),
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


def write_relative(folder: RunFolder, request: FlatRequest, solution: DetectorSolution, noted: list[LeftOut]) -> None:
    """Write the flat of a detector on its own scale."""
    detector = shared_camera(request.config.camera)[request.detector]
    flat = solution.flat
    whole = solution.metrics[solution.metrics["amp"] == "all"][0]
    used = [table for table in (solution.pointings, solution.scan) if len(table)]
    joint = request.solver == "joint"
    header = _cards(request, detector) | {
        "NPOINT": (len(solution.pointings), "pointings"),
        "NSCAN": (len(solution.scan), "exposures of the scan"),
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
        extensions=[*solution_extensions(solution, histogram), *_notes(noted)],
    )


def _notes(noted: list[LeftOut]) -> list[Any]:
    """Return the table of what was left out, if anything was."""
    if not noted:
        return []
    rows = [(str(entry.path), entry.reason) for entry in noted]
    return [fits.BinTableHDU(Table(rows=rows, names=("path", "reason")), name="LEFT_OUT")]


@dataclass(frozen=True)
class MadeFlat:
    """The flat of one detector that is made, on its own scale or that of a composite."""

    led: str
    detector: str
    fingerprint: str


def compose(
    config: Config, camera: Camera, folder: RunFolder, flats: Sequence[MadeFlat], print_: str, *, origin: Mapping[str, Any]
) -> Work:
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
    cards = dict(origin) | {
        FINGERPRINT_CARD: (print_, "what this was made from"),
        "CAMERA": (camera.name, "camera"),
        SCALE_CARD: (scale, "electron per photodiode unit that is 1 here"),
    }
    return Work(function, flats, partial(_assemble, folder=folder, led=led, scale=scale, grid=grid, cards=cards))


def _path(folder: RunFolder, flat: MadeFlat) -> Path:
    relative = relative_path(folder, flat.led, flat.detector)
    return relative if is_current(relative, flat.fingerprint) else folder.flat(flat.led, flat.detector)


def _assemble(
    pieces: list[_Piece], *, folder: RunFolder, led: str, scale: float, grid: MosaicGrid, cards: Mapping[str, Any]
) -> list[str]:
    """Write mosaic and metrics of an LED; return what a person should know."""
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
