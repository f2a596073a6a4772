"""Products on the page of a detector: its flat with the extensions, and the truth of a simulation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray

from permil.camera import Camera
from permil.errors import InputError
from permil.flat.detector_flat import SCALE_CARD
from permil.flat.superpixel import size_in_pixels
from permil.products import ImageProduct, RunFolder, read_image

_CUBES = ("STACKS", "BEAMS", "RESPONSES")


@dataclass(frozen=True)
class PointingCubes:
    """Small maps of the pointings aimed at a detector, each of shape (pointings, rows, columns)."""

    stacks: NDArray[np.float32]
    beams: NDArray[np.float32]
    responses: NDArray[np.float32]


@dataclass(frozen=True)
class DetectorProducts:
    """The flat of one detector with its extensions, None where absent.

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


def read_detector(folder: RunFolder, camera: Camera, led: str, name: str) -> DetectorProducts:
    """Read the flat of one detector, and the truth of a simulation if there is one.

    Raises
    ------
    InputError
        If the flat cannot be read, or the shape of a small map does not match its image.
    """
    path = folder.flat(led, name)
    detector = camera[name]
    product = read_image(path)
    if product.image.shape != detector.shape:
        raise InputError(
            f"the image has {product.image.shape} pixels, but detector {name} of camera {camera.name} has {detector.shape}",
            path=path,
            remedy="use the camera with which the flat was made",
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
                f"extension {key} has {data.shape[-2:]} super-pixels, but the image has {expected}",
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

    Only the headers and the map are read. Missing values are None or NaN.

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


def composite_scale(header: fits.Header) -> float:
    """Return the response equal to 1 on the composite scale, electrons per photodiode unit; NaN if unknown."""
    return float(header.get(SCALE_CARD, np.nan))


def pointing_name(pointings: Table, index: int) -> str:
    """Return the number of a pointing as text."""
    return str(pointings["number"][index]) if "number" in pointings.colnames else str(index + 1)
