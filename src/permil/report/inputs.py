"""What the pages are made from: the products in a run's folder, and a list of those that are not there."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray

from permil.camera import Camera
from permil.errors import InputError
from permil.flat.product import SCALE_CARD
from permil.flat.superpixel import size_in_pixels
from permil.products import ImageProduct, RunFolder, read_image, read_table
from permil.report.compare_inputs import CompareRun, read_compare_run
from permil.report.spots_inputs import SpotsRun, read_spots_run
from permil.yaml_file import read_yaml

EXPOSURE_COLUMNS = ("obsid", "detector", "led", "purpose", "photodiode", "x_mm", "y_mm", "mjd")
_CUBES = ("STACKS", "BEAMS", "RESPONSES")


@dataclass(frozen=True)
class LedProducts:
    """What a run has of one LED: paths of beam model, joint solution and mosaic, metrics, names of the detectors with a flat."""

    led: str
    beam: Path | None
    joint: Path | None
    focal_plane: Path | None
    metrics: Table | None
    detectors: tuple[str, ...]


@dataclass(frozen=True)
class RunProducts:
    """What a run's folder holds, but for images.

    Attributes
    ----------
    configuration, versions, digest
        Text of ``run.yaml``, the versions in it, and a digest of the text.
    exposures, unreadable, left_out, stages, comparison
        Tables, None where there is none.
    spots
        What it says of artificial stars, None where it has none.
    compare
        What it says of stars and flats, None where it compares none.
    absent
        What is not there, in words.
    """

    folder: RunFolder
    configuration: str
    versions: dict[str, str]
    digest: str
    exposures: Table | None
    unreadable: Table | None
    left_out: Table | None
    stages: Table | None
    comparison: Table | None
    leds: tuple[LedProducts, ...]
    spots: SpotsRun | None
    compare: CompareRun | None
    absent: tuple[str, ...]


@dataclass(frozen=True)
class PointingCubes:
    """Small maps of the pointings aimed at a detector, each of shape (pointings, rows, columns)."""

    stacks: NDArray[np.float32]
    beams: NDArray[np.float32]
    responses: NDArray[np.float32]


@dataclass(frozen=True)
class DetectorProducts:
    """The flat of one detector with what it carries, None for what it does not.

    ``block_pixels`` is the side of a super-pixel; ``aimed`` are the rows of ``pointings`` that the cubes show.
    """

    product: ImageProduct
    scatter: NDArray[np.float32] | None
    cubes: PointingCubes | None
    pointings: Table | None
    aimed: Table | None
    metrics: Table | None
    block_pixels: int
    truth: ImageProduct | None


def read_run(folder: RunFolder, camera: Camera, *, leds: Sequence[str]) -> RunProducts:
    """Read what a run's folder says, images left aside.

    Parameters
    ----------
    leds
        Names of LEDs in the order in which they are shown; others follow.

    Raises
    ------
    InputError
        If there is nothing to report on, or a table cannot be read.
    """
    if not folder.root.is_dir():
        raise InputError("there is no such run", path=folder.root, remedy="check the key `output`, or run the other stages first")
    absent: list[str] = []
    products = RunProducts(
        folder=folder,
        **_configuration(folder.configuration, absent),
        exposures=_table(folder.exposures, "the index of exposures", absent, columns=EXPOSURE_COLUMNS),
        unreadable=_table(folder.unreadable, "the list of files that could not be read", absent, columns=("path", "reason")),
        left_out=_table(folder.left_out, "the list of exposures that were left out", absent, columns=("path", "reason")),
        stages=_table(folder.stages, "the time that the stages took", absent, columns=("stage", "seconds")),
        comparison=_table(folder.comparison, "", [], columns=("led", "detector")),
        leds=tuple(_led_products(folder, camera, led, absent) for led in _leds(folder, leds)),
        spots=read_spots_run(folder),
        compare=read_compare_run(folder),
        absent=(),
    )
    if (products.spots is not None or products.compare is not None) and not products.leds:
        # Artificial stars need no flats, and catalogs of them no exposures; a comparison may use other runs': nothing was to be expected.
        return products
    if not products.leds:
        absent.append("beam models and flats")
    if products.exposures is None and not products.leds:
        raise InputError("the folder holds no products of a run", path=folder.root, remedy="run the other stages first")
    return replace(products, absent=tuple(absent))


def read_detector(folder: RunFolder, camera: Camera, led: str, name: str) -> DetectorProducts:
    """Read the flat of one detector, and the truth of a simulation where there is one.

    Raises
    ------
    InputError
        If the flat cannot be read, or its small maps do not fit its image.
    """
    path = folder.flat(led, name)
    detector = camera[name]
    product = read_image(path)
    if product.image.shape != detector.shape:
        raise InputError(
            f"the image has {product.image.shape} pixels, detector {name} of camera {camera.name} has {detector.shape}",
            path=path,
            remedy="give the camera that the flat was made with",
            value=product.image.shape,
            allowed=detector.shape,
        )
    extensions = product.extensions
    size = next(
        (
            size_in_pixels(float(hdu.header["BLOCK_MM"]), detector.pixel_mm)
            for key in ("SCATTER", *_CUBES)
            if (hdu := extensions.get(key)) is not None and "BLOCK_MM" in hdu.header
        ),
        1,
    )
    expected = tuple(-(-length // size) for length in detector.shape)
    small = {key: np.asarray(extensions[key].data) for key in ("SCATTER", *_CUBES) if key in extensions}
    for key, data in small.items():
        if data.shape[-2:] != expected:
            raise InputError(
                f"extension {key} has {data.shape[-2:]} super-pixels, the image {expected}",
                path=path,
                remedy="make the flat again",
            )
    pointings = Table(extensions["POINTINGS"].data) if "POINTINGS" in extensions else None
    aimed = pointings[np.asarray(pointings["aimed"], dtype=bool)] if pointings is not None else None
    has_cubes = aimed is not None and len(aimed) > 0 and all(key in small and len(small[key]) == len(aimed) for key in _CUBES)
    truth = folder.truth_flat(led, name)
    return DetectorProducts(
        product=product,
        scatter=small.get("SCATTER"),
        cubes=PointingCubes(*(small[key] for key in _CUBES)) if has_cubes else None,
        pointings=pointings,
        aimed=aimed,
        metrics=Table(extensions["METRICS"].data) if "METRICS" in extensions else None,
        block_pixels=size,
        truth=read_image(truth) if truth.is_file() else None,
    )


def read_scatter(path: Path) -> tuple[NDArray[np.float32] | None, float, float]:
    """Return the scatter map of a flat, the side of its super-pixels (mm), and the rejected values per million.

    Only the headers and that small map are read. What the file does not have is None or NaN.

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    try:
        with fits.open(path, memmap=False) as hdus:
            header, shape = hdus[0].header, hdus["IMAGE"].shape
            taken = float(header.get("NEXPOSUR", 0)) * float(np.prod(shape))
            rejected = 1e6 * float(header["NREJECT"]) / taken if "NREJECT" in header and taken else np.nan
            if "SCATTER" not in hdus:
                return None, np.nan, rejected
            return np.array(hdus["SCATTER"].data), float(hdus["SCATTER"].header["BLOCK_MM"]), rejected
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"cannot be read as a flat ({error})", path=path, remedy="make the flat again") from error


def provenance_cards(header: fits.Header) -> list[tuple[str, str, str]]:
    """Return name, content and comment of the cards that say how a product was made."""
    structural = {"SIMPLE", "BITPIX", "NAXIS", "EXTEND", "CHECKSUM", "DATASUM", "COMMENT", "HISTORY", ""}
    return [(card.keyword, str(card.value), card.comment) for card in header.cards if card.keyword not in structural]


def composite_scale(header: fits.Header) -> float:
    """Return the response, in electrons per photodiode unit, that the composite calls 1; NaN where it is not known."""
    return float(header.get(SCALE_CARD, np.nan))


def _configuration(path: Path, absent: list[str]) -> dict[str, Any]:
    if not path.is_file():
        absent.append("the resolved configuration (run.yaml)")
        return {"configuration": "", "versions": {}, "digest": ""}
    try:
        versions = read_yaml(path, kind="record of a run", error=InputError).get("versions") or {}
    except InputError as error:
        raise InputError(error.what, path=path, remedy="run any stage again to have it written anew") from error
    text = path.read_text(encoding="utf-8")
    return {
        "configuration": text,
        "versions": {str(key): str(entry) for key, entry in versions.items()},
        "digest": hashlib.sha256(text.encode()).hexdigest()[:12],
    }


def _table(path: Path, what: str, absent: list[str], *, columns: tuple[str, ...]) -> Table | None:
    if not path.is_file():
        absent.append(what)
        return None
    # A table that was written without rows has no columns.
    table = read_table(path)
    return read_table(path, columns=columns) if len(table.colnames) else None


def _leds(folder: RunFolder, order: Sequence[str]) -> list[str]:
    found = {path.stem for path in (folder.root / "beam").glob("*.fits")}
    found |= {path.name for path in (folder.root / "flat").glob("*") if path.is_dir()}
    return [led for led in order if led in found] + sorted(found - set(order))


def _led_products(folder: RunFolder, camera: Camera, led: str, absent: list[str]) -> LedProducts:
    beam, focal_plane = folder.beam(led), folder.focal_plane(led)
    detectors = tuple(name for name in camera.detectors if folder.flat(led, name).is_file())
    for path, what in ((beam, "beam model"), (focal_plane, "mosaic of the focal plane")):
        if not path.is_file():
            absent.append(f"LED {led}: {what}")
    if not detectors:
        absent.append(f"LED {led}: flats")
    return LedProducts(
        led=led,
        beam=beam if beam.is_file() else None,
        joint=_joint(folder, led, detectors),
        focal_plane=focal_plane if focal_plane.is_file() else None,
        metrics=_table(folder.metrics(led), f"LED {led}: metrics", absent, columns=("detector", "amp", "led")),
        detectors=detectors,
    )


def _joint(folder: RunFolder, led: str, detectors: Sequence[str]) -> Path | None:
    """Return the joint solution of an LED, None if it has none or its flats were since made without it."""
    path = folder.joint(led)
    if not path.is_file():
        return None
    for flat in (folder.flat(led, name) for name in detectors):
        try:
            if fits.getheader(flat, 0).get("SOLVER") == "joint":
                return path
        except (OSError, ValueError) as error:
            raise InputError(f"cannot be read as a flat ({error})", path=flat, remedy="make the flat again") from error
    return None if detectors else path
