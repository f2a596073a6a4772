"""Read flats for their colour; write and read the colour of one detector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table
from scipy import interpolate

from permil.arrays import FloatArray
from permil.camera import Detector
from permil.colour.detector import DetectorColour, LedCorrelation, ScaleCorrelation
from permil.colour.moments import Moments, Places
from permil.colour.pattern import Waves
from permil.colour.regions import LedFlat
from permil.errors import InputError
from permil.flat.shared_errors import FlatModes
from permil.flat.superpixel import size_in_pixels
from permil.products import ImageProduct, is_good, open_product, provenance, read_image, write_hdus


def read_led_flat(path: Path, led: str, detector: Detector, *, super_pixel_mm: float) -> LedFlat:
    """Read the flat of one detector and LED.

    Raises
    ------
    InputError
        If it is missing, damaged, of another size, or states no errors that its pixels share.
    """
    if not path.is_file():
        raise InputError(
            f"the flat of {detector.name} in LED {led} does not exist", path=path, remedy="run `permil flat CONFIG` first"
        )
    product = read_image(path)
    if product.image.shape != detector.shape:
        raise InputError(
            f"a flat of {product.image.shape[1]} x {product.image.shape[0]} pixels for {detector.name}, which has "
            f"{detector.nx} x {detector.ny}",
            path=path,
            remedy="make the flat again with this camera",
        )
    modes = FlatModes.of(product) or _modes_of_places(product, path, size_in_pixels(super_pixel_mm, detector.pixel_mm))
    return LedFlat(led, product.image, product.variance, is_good(product.mask), modes)


def _modes_of_places(product: ImageProduct, path: Path, block: int) -> FlatModes:
    """Return the errors shared by the pixels of a divided flat, known at some places, as modes on super-pixels."""
    try:
        table = product.extensions["PLACES"].data
        covariance = np.asarray(product.extensions["COVARIANCE"].data, dtype=np.float64)
    except KeyError as error:
        raise InputError(
            f"this flat has no extension {error.args[0]} with errors shared by its pixels",
            path=path,
            remedy="make the flat again",
        ) from error
    known = np.isfinite(np.diag(covariance))
    places = np.column_stack([table["x_pixel"], table["y_pixel"]]).astype(np.float64)[known]
    sizes, directions = np.linalg.eigh(covariance[np.ix_(known, known)])
    shape = product.image.shape
    centres = [(np.arange(0, size, block) + (np.minimum(np.arange(0, size, block) + block, size) - 1)) / 2 for size in shape]
    y, x = np.meshgrid(*centres, indexing="ij")
    nearest = interpolate.NearestNDInterpolator(places, np.arange(len(places)))(x, y).astype(np.int64)
    patterns = (directions * np.sqrt(np.maximum(sizes, 0.0))).T[:, nearest]
    return FlatModes(patterns, np.zeros(y.shape), block)


def write_colour(path: Path, colour: DetectorColour, cards: Mapping[str, Any]) -> None:
    """Write the colour of one detector.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    leds = {
        "led": list(colour.leds),
        "level": colour.planes[:, 0],
        "gradient_x": colour.planes[:, 1],
        "gradient_y": colour.planes[:, 2],
        "covariance": colour.plane_covariance,
        "wave_err": colour.waves.errors,
    }
    regions = {
        "amp": list(colour.regions),
        "x_mm": colour.centres[:, 0],
        "y_mm": colour.centres[:, 1],
        "pixels": colour.pixels,
        "median": colour.medians.T,
        "relative_err": colour.errors.T,
    }
    moments = [
        (scale, float(freedom), products, noise)
        for scale, found in colour.moments.items()
        for freedom, products, noise in zip(found.freedom, found.products, found.noise, strict=True)
    ]
    correlations = [
        (entry.scale, *entry.leds, entry.apart, *(getattr(entry.found, name) for name in _FIGURES))
        for entry in colour.correlations
    ]
    waves = {"kx": colour.waves.vectors[:, 0], "ky": colour.waves.vectors[:, 1]}
    hdus: list[Any] = [
        fits.PrimaryHDU(header=provenance({**cards, "DETECTOR": (colour.detector, "detector")})),
        fits.BinTableHDU(Table(leds), name="LEDS"),
        fits.BinTableHDU(Table(regions), name="REGIONS"),
        *(
            fits.BinTableHDU(
                Table({"x_mm": found.x_mm, "y_mm": found.y_mm, "value": found.values.T, "value_err": found.errors.T}), name=name
            )
            for name, found in (("AMPLIFIERS", colour.amplifiers), ("LARGE", colour.large))
        ),
        fits.BinTableHDU(Table(rows=moments, names=("scale", "freedom", "products", "noise")), name="MOMENTS"),
        fits.BinTableHDU(
            Table(rows=correlations, names=("scale", "led", "over_led", "pattern_removed", *_FIGURES)), name="CORRELATIONS"
        ),
    ]
    if len(colour.waves.vectors):
        waves["coefficients"] = np.moveaxis(colour.waves.coefficients, 1, 0)
        hdus.append(fits.BinTableHDU(Table(waves), name="WAVES"))
    write_hdus(path, hdus)


_FIGURES = ("r", "r_err", "r_corrected", "r_corrected_err", "p_value", "n", "n_eff", "reason")


def read_colour(path: Path) -> DetectorColour:
    """Read the colour of one detector.

    Raises
    ------
    InputError
        If the file is missing or damaged.
    """
    with open_product(path, "the colour of a detector", remedy="run `permil colour CONFIG` again") as hdus:
        return _colour_in(hdus)


def _colour_in(hdus: Any) -> DetectorColour:
    leds, regions, moments = (hdus[name].data for name in ("LEDS", "REGIONS", "MOMENTS"))
    count = len(leds)
    names = tuple(str(led) for led in leds["led"])
    has_waves = "WAVES" in hdus
    vectors = np.column_stack([hdus["WAVES"].data[name] for name in ("kx", "ky")]) if has_waves else np.zeros((0, 2))
    coefficients = np.moveaxis(_floats(hdus["WAVES"].data["coefficients"]), 1, 0) if has_waves else np.zeros((count, 0, 2))
    scales = np.array([str(scale) for scale in moments["scale"]])
    return DetectorColour(
        detector=str(hdus[0].header["DETECTOR"]),
        leds=names,
        regions=tuple(str(amp) for amp in regions["amp"]),
        medians=_floats(regions["median"]).T,
        errors=_floats(regions["relative_err"]).T,
        pixels=np.asarray(regions["pixels"], dtype=np.int64),
        centres=np.column_stack([_floats(regions[name]) for name in ("x_mm", "y_mm")]),
        planes=np.column_stack([_floats(leds[name]) for name in ("level", "gradient_x", "gradient_y")]),
        plane_covariance=_floats(leds["covariance"]),
        amplifiers=_places(hdus["AMPLIFIERS"].data, count),
        large=_places(hdus["LARGE"].data, count),
        moments={
            scale: Moments(*(_floats(moments[name][scales == scale]) for name in ("products", "noise", "freedom")))
            for scale in dict.fromkeys(scales.tolist())
        },
        waves=Waves(_floats(vectors), coefficients, _floats(leds["wave_err"])),
        correlations=tuple(_correlations(hdus["CORRELATIONS"].data)),
    )


def _floats(values: Any) -> FloatArray:
    return np.array(values, dtype=np.float64)


def _places(rows: Any, leds: int) -> Places:
    values, errors = (_floats(rows[name]).reshape(-1, leds).T for name in ("value", "value_err"))
    return Places(values, errors, _floats(rows["x_mm"]), _floats(rows["y_mm"]))


def _correlations(rows: Any) -> Sequence[ScaleCorrelation]:
    found = []
    for row in rows:
        numbers = {name: float(row[name]) for name in _FIGURES if name not in ("n", "reason")}
        figures = LedCorrelation(**numbers, n=int(row["n"]), reason=str(row["reason"]))
        pair = (str(row["led"]), str(row["over_led"]))
        found.append(ScaleCorrelation(str(row["scale"]), pair, bool(row["pattern_removed"]), figures))
    return found
