"""What a user does with flats as files: divide an image, compare two flats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from permil.camera import Detector, load_camera
from permil.config.flat import LARGEST_SUPER_PIXEL_MM
from permil.errors import FlatError, InputError, PermilError
from permil.flat.apply import apply_flat
from permil.flat.difference import FlatDifference, flat_difference
from permil.products import ImageProduct, MaskPlane, check_output, is_good, read_image, write_image

_PER_MIL = 1e3


def apply_files(flat_path: Path, image_path: Path, out: Path) -> str:
    """Divide an image by a flat and write image, mask and variance; return what was done in one sentence.

    Parameters
    ----------
    flat_path
        Flat of one detector.
    image_path
        Image product, or any FITS file whose primary or first image extension is an assembled image of that detector; without a
        variance of its own the result carries that of the flat alone, and says so.

    Raises
    ------
    InputError
        If a file cannot be read.
    FlatError
        If image and flat do not belong together.
    OutputError
        If the result cannot be written.
    """
    check_output(out, inputs=[flat_path, image_path])
    flat, image = read_image(flat_path), _read_any_image(image_path)
    _check_same("DETECTOR", flat.header, image.header, image_path)
    try:
        corrected, variance, mask = apply_flat(
            image.image, image.variance, image.mask, flat=flat.image, flat_variance=flat.variance, flat_mask=flat.mask
        )
    except FlatError as error:
        error.path = str(image_path)
        raise
    own = bool(np.any(image.variance > 0))
    header: dict[str, Any] = {
        "DETECTOR": (flat.header.get("DETECTOR", ""), "detector"),
        "LED": (flat.header.get("LED", ""), "LED of the flat"),
        "FLATFILE": (flat_path.name[:60], "flat"),
        "RAWIMAGE": (image_path.name[:60], "image that was divided"),
        "VARCONT": ("image and flat" if own else "flat only", "what the variance holds"),
    }
    unit = str(image.image_header.get("BUNIT", "") or image.header.get("BUNIT", ""))
    write_image(out, corrected, mask, variance, header=header, image_cards={"BUNIT": unit} if unit else None)
    lost = int(np.count_nonzero(mask & int(MaskPlane.NO_DATA)))
    return f"wrote {out}: {image_path.name} over {flat_path.name}, {lost} pixels without data"


def diff_files(first_path: Path, second_path: Path, out: Path | None, *, super_pixel_mm: float) -> str:
    """Compare two flats of one detector; return a table of figures with errors and write the ratio map if asked.

    Raises
    ------
    InputError
        If a file cannot be read.
    FlatError
        If the flats do not belong together, or there are no such super-pixels.
    OutputError
        If the map cannot be written.
    """
    if not 0 < super_pixel_mm <= LARGEST_SUPER_PIXEL_MM:
        raise FlatError(
            f"super-pixels of {super_pixel_mm} mm are not possible",
            remedy=f"give a side between 0 and {LARGEST_SUPER_PIXEL_MM:g} mm",
            value=super_pixel_mm,
        )
    if out is not None:
        check_output(out, inputs=[first_path, second_path])
    first, second = read_image(first_path), read_image(second_path)
    _check_same("DETECTOR", first.header, second.header, second_path)
    detector = detector_of(first, first_path)
    difference = difference_of_products(first, second, detector, super_pixel_mm=super_pixel_mm)
    if out is not None:
        good = np.isfinite(difference.ratio)
        with np.errstate(invalid="ignore", divide="ignore"):
            variance = first.variance / second.image**2 + second.variance * first.image**2 / second.image**4
        header = {
            "DETECTOR": (detector.name, "detector"),
            "FIRST": (first_path.name[:60], "numerator"),
            "SECOND": (second_path.name[:60], "denominator"),
        }
        mask = np.where(good, first.mask | second.mask, first.mask | second.mask | int(MaskPlane.NO_DATA))
        write_image(out, difference.ratio, mask, np.where(good, variance, np.nan), header=header)
    leds = [str(product.header.get("LED", "?")) for product in (first, second)]
    title = f"{first_path} over {second_path} ({detector.name}, LED {leds[0]} over {leds[1]})"
    return "\n".join([title, *describe_difference(difference, super_pixel_mm)])


def difference_of_products(
    first: ImageProduct, second: ImageProduct, detector: Detector, *, super_pixel_mm: float
) -> FlatDifference:
    """Compare two flats of one detector over the pixels that are good in both.

    Raises
    ------
    FlatError
        If the shapes differ or nothing is good in both.
    """
    if first.image.shape != second.image.shape:
        raise FlatError(
            f"flats of different shapes ({first.image.shape} and {second.image.shape}) cannot be compared",
            remedy="give two flats of one detector of one camera",
        )
    return flat_difference(
        first.image,
        first.variance,
        second.image,
        second.variance,
        is_good(first.mask) & is_good(second.mask),
        detector=detector,
        super_pixel_mm=super_pixel_mm,
    )


def describe_difference(difference: FlatDifference, super_pixel_mm: float) -> list[str]:
    """Return the figures of a comparison, one line each, small ones in per mil."""
    d = difference
    lines = [
        f"  median ratio           {d.scale:.6f} +- {d.scale_error:.6f}",
        f"  rms, pixel             {_PER_MIL * d.rms_pixel:.4f} +- {_PER_MIL * d.rms_pixel_error:.4f} per mil",
        f"  rms, {super_pixel_mm:g} mm            {_PER_MIL * d.rms_super:.4f} +- {_PER_MIL * d.rms_super_error:.4f} per mil",
        f"  its noise alone        {_PER_MIL * d.super_noise:.4f} per mil",
        f"  small-scale chi-square {d.chi_square:.4f} +- {d.chi_square_error:.4f} per pixel",
        f"  gradient along CCS X   {_PER_MIL * d.gradient_x:+.5f} +- {_PER_MIL * d.gradient_error:.5f} per mil per mm",
        f"  gradient along CCS Y   {_PER_MIL * d.gradient_y:+.5f} +- {_PER_MIL * d.gradient_error:.5f} per mil per mm",
    ]
    lines += [
        f"  {name}                    {_PER_MIL * (ratio - 1):+.3f} +- {_PER_MIL * error:.3f} per mil"
        for name, (ratio, error) in d.amplifiers.items()
    ]
    return lines


def detector_of(product: ImageProduct, path: Path) -> Detector:
    """Return the detector of a product, by its cards.

    Raises
    ------
    InputError
        If the product does not name a camera and detector.
    """
    camera, name = product.header.get("CAMERA"), product.header.get("DETECTOR")
    if not camera or not name:
        raise InputError("the header does not name CAMERA and DETECTOR", path=path, remedy="give a flat that permil wrote")
    try:
        detector = load_camera(str(camera))[str(name)]
    except PermilError as error:
        error.path = str(path)
        raise
    if detector.shape != product.image.shape:
        raise InputError(
            f"the image has {product.image.shape} pixels, {name} of camera {camera} has {detector.shape}",
            path=path,
            remedy="give a flat that permil wrote",
        )
    return detector


def _read_any_image(path: Path) -> ImageProduct:
    """Read an image product, or the first image of any FITS file with an empty mask and variance."""
    try:
        with fits.open(path, memmap=False) as hdus:
            if {"IMAGE", "MASK", "VARIANCE"} <= {hdu.name for hdu in hdus}:
                return read_image(path)
            image = next((hdu for hdu in hdus if hdu.is_image and hdu.data is not None and hdu.data.ndim == 2), None)
            if image is None:
                raise InputError("there is no image in this file", path=path, remedy="give an assembled image (permil assemble)")
            data = np.asarray(image.data, dtype=np.float64)
            blank = np.where(np.isfinite(data), 0, int(MaskPlane.NO_DATA)).astype(np.int32)
            return ImageProduct(data, blank, np.zeros(data.shape, np.float32), hdus[0].header.copy(), image.header.copy())  # type: ignore[arg-type]
    except (OSError, TypeError, ValueError) as error:
        raise InputError(
            f"cannot be read as FITS ({error})", path=path, remedy="check the path, or make the file again"
        ) from error


def _check_same(card: str, flat: fits.Header, other: fits.Header, path: Path) -> None:
    one, two = flat.get(card), other.get(card)
    if one and two and one != two:
        raise FlatError(
            f"this is {card.lower()} {two}, the flat is that of {one}",
            path=path,
            remedy="give two files of one detector",
            value=two,
        )
