"""Products on the page of a detector: its flat with the extensions, and the truth of a simulation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table

from permil.arrays import Float32Array
from permil.camera import Camera, Detector
from permil.camera.frames import amplifier_at
from permil.errors import InputError
from permil.flat.steps.flat_files import SCALE_CARD
from permil.flat.superpixel import size_in_pixels
from permil.products import ImageProduct, RunFolder, open_product, read_image, read_table
from permil.report.kit.elements import number_in, text_in

_CUBES = ("STACKS", "BEAMS", "RESPONSES")


@dataclass(frozen=True)
class PointingCubes:
    """Small maps of the pointings aimed at a detector, each of shape (pointings, rows, columns)."""

    stacks: Float32Array
    beams: Float32Array
    responses: Float32Array


@dataclass(frozen=True)
class DetectorProducts:
    """The flat of one detector with its extensions, None where absent.

    ``block_pixels`` is the side of a super-pixel; ``aimed`` are the rows of ``pointings`` that the cubes show.
    """

    product: ImageProduct
    scatter: Float32Array | None
    cubes: PointingCubes | None
    pointings: Table | None
    aimed: Table | None
    metrics: Table | None
    block_pixels: int
    truth: ImageProduct | None


@dataclass(frozen=True)
class AmplifierReadout:
    """Readout of one amplifier; NaN or empty where unknown.

    Attributes
    ----------
    gain, gain_source
        Gain in use with its error, e-/adu, and its source.
    noise
        Read noise with its error, electrons.
    bias
        Overscan level of the biases, adu.
    signal
        Smallest and largest super-pixel in the stacks of the pointings aimed at the detector, electrons.
    """

    gain: tuple[float, float]
    gain_source: str
    noise: tuple[float, float]
    bias: float
    signal: tuple[float, float]


def read_readout(folder: RunFolder, detector: Detector, products: DetectorProducts) -> dict[str, AmplifierReadout]:
    """Return gain, read noise, bias level and range of the signals of each amplifier.

    Raises
    ------
    InputError
        If a table cannot be read.
    """
    gains = _rows_by_amplifier(read_table(folder.gains), detector.name) if folder.gains.is_file() else {}
    biases = _rows_by_amplifier(_bias_table(folder.superbias(detector.name)), "")
    found = {}
    for number, amplifier in enumerate(detector.amplifiers):
        gain, bias = gains.get(amplifier.name), biases.get(amplifier.name)
        found[amplifier.name] = AmplifierReadout(
            gain=(number_in(gain, "gain"), number_in(gain, "gain_err")),
            gain_source=Path(text_in(gain, "source")).name,
            noise=(number_in(bias, "read_noise"), number_in(bias, "read_noise_err")),
            bias=number_in(bias, "overscan_level"),
            signal=_signal_range(products, detector, number),
        )
    return found


def _rows_by_amplifier(table: Table | None, detector: str) -> dict[str, Table.Row]:
    return {str(row["amp"]): row for row in table or () if not detector or str(row["detector"]) == detector}


def _bias_table(path: Path) -> Table | None:
    if not path.is_file():
        return None
    with open_product(path, "a superbias", remedy="make the superbias again") as hdus:
        return Table(hdus["AMPLIFIERS"].data) if "AMPLIFIERS" in hdus else None


def _signal_range(products: DetectorProducts, detector: Detector, amplifier: int) -> tuple[float, float]:
    if products.cubes is None:
        return np.nan, np.nan
    rows, columns = (
        products.block_pixels * np.arange(size) + products.block_pixels // 2 for size in products.cubes.stacks.shape[1:]
    )
    rows, columns = np.minimum(rows, detector.ny - 1), np.minimum(columns, detector.nx - 1)
    own = amplifier_at(detector, *np.meshgrid(columns, rows)) == amplifier
    values = products.cubes.stacks[:, own]
    return (float(np.nanmin(values)), float(np.nanmax(values))) if np.isfinite(values).any() else (np.nan, np.nan)


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


def read_scatter(path: Path) -> tuple[Float32Array | None, float, float]:
    """Return the scatter map of a flat, the side of its super-pixels (mm), and the rejected values per million.

    Only the headers and the map are read. Missing values are None or NaN.

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    with open_product(path, "a flat", remedy="make the flat again") as hdus:
        header, shape = hdus[0].header, hdus["IMAGE"].shape
        taken = float(header.get("NEXPOSUR", 0)) * float(np.prod(shape))
        rejected = 1e6 * float(header["NREJECT"]) / taken if "NREJECT" in header and taken else np.nan
        if "SCATTER" not in hdus:
            return None, np.nan, rejected
        return np.array(hdus["SCATTER"].data), float(hdus["SCATTER"].header["BLOCK_MM"]), rejected


def composite_scale(header: fits.Header) -> float:
    """Return the response equal to 1 on the composite scale, electrons per photodiode unit at the maximum of the beam; NaN if unknown."""
    return float(header.get(SCALE_CARD, np.nan))


def pointing_name(pointings: Table, index: int) -> str:
    """Return the number of a pointing as text."""
    return str(pointings["number"][index]) if "number" in pointings.colnames else str(index + 1)
