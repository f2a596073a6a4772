"""Divide an image by a flat: arrays, and files of any program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from astropy import units as u
from numpy.typing import ArrayLike, NDArray

from permil.arrays import Float32Array, Int32Array, median, parse_unit, plain_image, require_linear, unit_factor, unit_of
from permil.camera import load_camera
from permil.errors import FlatError, InputError
from permil.products import (
    SERIAL_CARD,
    Description,
    ImageProduct,
    MaskPlane,
    Sensor,
    check_output,
    check_sensor,
    identify_sensor,
    is_usable,
    known_variance,
    planes_of,
    product_kind,
    read_any_image,
    sensor_statements,
    write_image,
)
from permil.products.fits import file_card, kept_cards, wcs_cards
from permil.products.sensor_identity import card_of

_DOUBTFUL = {
    "nothing": "the image does not name its detector; only its shape agrees with the flat",
    "part": "the image names only raft bay or slot of its detector",
}

# Cards of a program that has divided the image by a flat: permil, IRAF and ccdproc, the LSST stack.
_DIVIDED_CARDS = ("FLATFILE", "FLATCOR", "LSST ISR FLAT APPLIED")
# A flat whose median lies outside is not normalised.
_NORMALISED = (0.5, 2.0)

_FILTER_CARDS = ("FILTER", "PHYSFILT", "LSST BUTLER DATAID PHYSICAL_FILTER", "BAND", "LSST BUTLER DATAID BAND")


def apply_flat(
    image: ArrayLike,
    variance: ArrayLike,
    mask: ArrayLike | None,
    *,
    flat: ArrayLike,
    flat_variance: ArrayLike,
    flat_mask: ArrayLike | None,
) -> tuple[Float32Array, Float32Array, Int32Array]:
    """Divide an image by a flat and propagate the errors of both.

    Parameters
    ----------
    image, variance, mask
        Image of one detector, shape (ny, nx); the variance may be 0 where it is not known, or an uncertainty of `astropy.nddata`. A
        pixel that is masked (NumPy, astropy) has no data; a mask of bool is true where there are none, None marks nothing.
    flat, flat_variance, flat_mask
        Flat of the same detector, without a unit or in per cent.

    Returns
    -------
    image, variance, mask
        ``d / F``, ``var(d) / F^2 + d^2 var(F) / F^4`` and the union of the masks. NaN and NO_DATA where the flat is not usable, not
        finite or not positive, and where the image is not finite; the variance is NaN where one of the two is negative or NaN.

    Raises
    ------
    FlatError
        If the shapes of image and flat differ.
    InputError
        If the arrays do not hold real numbers or belong together, the flat has the unit of a signal, or the variance has another
        unit than the square of the image's.
    """
    unit = unit_of(image)
    require_linear(unit, name="image")
    light, response = plain_image(image, name="image"), plain_image(flat, name="flat", unit="")
    if light.shape != response.shape:
        raise FlatError(
            f"the image has {_size(light.shape)} pixels, the flat {_size(response.shape)}",
            remedy="give an image of the flat's detector, trimmed and assembled (permil assemble)",
            value=(light.shape, response.shape),
        )
    noise = _noise(variance, "variance", light.shape, None if unit is None else unit**2)
    flat_noise = _noise(flat_variance, "flat_variance", light.shape, "")
    planes, flat_planes = (planes_of(values, name, light.shape) for values, name in ((mask, "mask"), (flat_mask, "flat_mask")))
    known = is_usable(flat_planes) & np.isfinite(response) & (response > 0)
    divisor = np.where(known, response, np.nan).astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        quotient = light / divisor
        corrected = quotient.astype(np.float32)
        lost = ~np.isfinite(corrected)
        error = (noise / divisor**2 + quotient**2 * flat_noise / divisor**2).astype(np.float32)
    corrected[lost] = np.nan
    error[lost | ~np.isfinite(error)] = np.nan
    together = planes | flat_planes
    together[lost] |= np.int32(MaskPlane.NO_DATA)
    return corrected, error, together


def _noise(variance: Any, name: str, shape: tuple[int, ...], unit: str | u.UnitBase | None) -> NDArray[np.floating]:
    """Return a variance, NaN where it is negative."""
    if hasattr(variance, "represent_as") and hasattr(variance, "uncertainty_type"):  # an uncertainty of astropy.nddata
        from astropy.nddata import VarianceUncertainty

        variance = variance.represent_as(VarianceUncertainty).quantity
    noise = plain_image(variance, name=name, unit=unit, shape=shape)
    return np.where(noise >= 0, noise, np.nan)


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def apply_to_file(
    flat: ImageProduct, sensor: Sensor | None, image_path: Path, out: Path, *, flat_path: Path | None = None
) -> Description:
    """Divide the image in a file by a flat and write image, mask and variance; return a summary and remarks, one line each.

    The result keeps the cards of the image (exposure, world coordinates) and the mask planes of both under their names.

    Parameters
    ----------
    flat, sensor
        Flat of one detector, and its sensor if it is known.
    flat_path
        File of the flat, if there is one.
    image_path
        Image product, or a FITS file of any program with an assembled image of that detector (see
        `permil.products.read_any_image`); without its own variance the result has only that of the flat, with a remark.

    Raises
    ------
    InputError
        If a file cannot be read.
        An image in magnitudes is refused, too.
    FlatError
        If image and flat do not belong together, or have no usable pixel in common.
    OutputError
        If the result cannot be written.
    """
    check_output(out, inputs=[image_path, *([flat_path] if flat_path else [])])
    image = read_any_image(image_path, sensor=sensor, shape=flat.image.shape, planes=flat.planes)
    known_by = "nothing" if sensor is None else require_sensor(sensor, image, image_path, what="the image")
    unit = str(card_of(image.image_header, "BUNIT") or card_of(image.header, "BUNIT") or "")
    _require_signal(unit, image_path)
    variance, remarks = known_variance(image.variance, image.mask)
    try:
        corrected, error, mask = apply_flat(
            image.image, variance, image.mask, flat=flat.image, flat_variance=flat.variance, flat_mask=flat.mask
        )
    except FlatError as problem:
        problem.path = str(image_path)
        raise
    _require_data(corrected, flat, image_path, flat_path)
    sources = [name for name, plane in (("image", variance), ("flat", flat.variance)) if np.any(plane > 0)]
    contents = " and ".join(sources) if len(sources) != 1 else f"{sources[0]} only"
    light, light_of_flat = light_of(image), light_of(flat)
    cards = {
        "DETECTOR": (sensor.name if sensor else "", "detector"),
        "DETKNOWN": (known_by, "source of the detector name of the image"),
        "LED": (light_of_flat, "light of the flat"),
        "IMAGELED": (light, "light of the image"),
        "FLATFILE": file_card(flat_path, "flat") if flat_path else ("", ""),
        "RAWIMAGE": file_card(image_path, "image that was divided"),
        "VARCONT": (contents or "nothing", "contents of the variance"),
    }
    for card in ("CAMERA", SERIAL_CARD):
        cards[card] = (flat.header.get(card, ""), flat.header.comments[card] if card in flat.header else "")
    header = kept_cards(image.header)
    header.update({name: entry for name, entry in cards.items() if entry[0]})
    is_extension = "XTENSION" in image.image_header
    image_cards = kept_cards(image.image_header) if is_extension else wcs_cards(image.header)
    if unit:
        image_cards["BUNIT"] = unit
    write_image(out, corrected, mask, error, header=header, image_cards=image_cards, planes=image.planes)
    lost = int(np.count_nonzero(mask & int(MaskPlane.NO_DATA)))
    notes = [f"flat: {remark}" for remark in flat.remarks] + [f"image: {remark}" for remark in (*image.remarks, *remarks)]
    if known_by in _DOUBTFUL:
        notes.append(_DOUBTFUL[known_by])
    if light and light_of_flat and light.lower() != light_of_flat.lower():
        notes.append(f"the light of the image is {light}, that of the flat {light_of_flat}")
    if len(sources) < 2:
        notes.append(f"variance: {cards['VARCONT'][0]}")
    notes += _notes_of_scale(image, flat)
    done = f"wrote {out}: {image_path.name} over {flat_path.name if flat_path else 'a flat'}, {lost} pixels without data"
    notes = list(dict.fromkeys(notes))
    facts = {
        "out": out, "image": image_path, "flat": flat_path, "detector": cards["DETECTOR"][0], "led": light_of_flat,
        "pixels_without_data": lost, "variance": cards["VARCONT"][0], "remarks": notes,
    }  # fmt: skip
    return Description("\n".join([done, *(f"  {note}" for note in notes)]), facts)


def _require_signal(unit: str, path: Path) -> None:
    """Raise an error if an image is in magnitudes or another logarithmic unit."""
    try:
        parsed = parse_unit(unit)
    except InputError:
        # A word that is not a unit.
        return
    try:
        require_linear(parsed, name="the image")
    except InputError as error:
        raise InputError(error.what, path=path, remedy=error.remedy, **error.data) from error


def _require_data(corrected: Float32Array, flat: ImageProduct, image_path: Path, flat_path: Path | None) -> None:
    """Raise an error if no pixel of a divided image has data."""
    if np.isfinite(corrected).any():
        return
    usable = is_usable(flat.mask) & np.isfinite(flat.image) & (flat.image > 0)
    if usable.any():
        raise FlatError(
            "no pixel of the image is finite where the flat is usable", path=image_path, remedy="check its values and its mask"
        )
    raise FlatError(
        "no pixel of the flat is positive and free of its mask", path=flat_path, remedy="check its values and its mask"
    )


def _notes_of_scale(image: ImageProduct, flat: ImageProduct) -> list[str]:
    """Return notes on an image that was already divided, and on a flat that is not normalised."""
    notes = []
    headers = (image.image_header, image.header)
    divided = next((card for card in _DIVIDED_CARDS if any(card_of(header, card) for header in headers)), "")
    if divided:
        notes.append(f"the image was divided by a flat before (card {divided}); now it is divided twice")
    level = float(median(flat.image[is_usable(flat.mask) & np.isfinite(flat.image)]))
    if not _NORMALISED[0] <= level <= _NORMALISED[1]:
        notes.append(f"the flat is not normalised: its median is {level:g}, and the result is smaller by this factor")
    return notes


def read_any_flat(
    path: Path, *, sensor: Sensor | None = None, planes: Mapping[str, int] | None = None
) -> tuple[ImageProduct, Sensor | None]:
    """Read a flat of any program and identify its sensor; None if its headers do not name one.

    A flat in per cent or another unit without dimension becomes a ratio.

    Parameters
    ----------
    sensor
        Sensor that is wanted, where that is known before.
    planes
        Bits on which mask planes of other programs are carried, where that is settled before.

    Raises
    ------
    InputError
        If the file cannot be read, or its headers contradict each other.
    FlatError
        If it is something else, as a superbias.
    """
    flat = read_any_image(path, sensor=sensor, planes=planes)
    kind = product_kind(flat.header, flat.image_header)
    unit = str(card_of(flat.image_header, "BUNIT") or card_of(flat.header, "BUNIT") or "")
    if kind not in ("", "flat") or (not kind and unit and not _is_relative(unit)):
        what = f"a {kind}" if kind else f"in {unit}"
        raise FlatError(f"this is {what}, not a flat", path=path, remedy="give the flat of the detector", value=kind or unit)
    flat = _as_ratio(flat, unit)
    return flat, identify_sensor(flat.header, flat.image_header, path=path)


def named_sensor(detector: str, camera: str = "") -> Sensor | None:
    """Return the sensor that a user names, for files that do not name theirs; None without a name.

    Raises
    ------
    CameraError
        If the camera does not exist or has no such detector.
    """
    if not detector:
        return None
    known = load_camera(camera or "lsstcam")
    return Sensor(known[detector].name, camera=known)


def read_flats(paths: Sequence[Path], *, detector: str = "", camera: str = "") -> tuple[list[ImageProduct], Sensor | None, str]:
    """Read flats of one sensor, of any program; return them, the sensor if it is known, and the name of its camera if one is named.

    Parameters
    ----------
    detector, camera
        Sensor and camera that a user names.

    Raises
    ------
    InputError
        If a file cannot be read, or its headers contradict each other.
    FlatError
        If a file is no flat, or of another sensor.
    """
    sensor = named_sensor(detector, camera)
    flats: list[ImageProduct] = []
    for path in paths:
        flat, own = read_any_flat(path, sensor=sensor, planes=flats[-1].planes if flats else None)
        if sensor is not None:
            require_sensor(sensor, flat, path, what="the flat")
        elif own is not None:
            for earlier, its_path in zip(flats, paths, strict=False):
                require_sensor(own, earlier, its_path, what="the flat")
        sensor = own if sensor is None or (detector and own is not None) else sensor
        flats.append(flat)
    cards = (card_of(flat.header, "CAMERA") for flat in flats)
    return flats, sensor, camera or next((str(name) for name in cards if name is not None), "")


def _as_ratio(flat: ImageProduct, unit: str) -> ImageProduct:
    """Return a flat in a unit such as per cent as a ratio, without the card of the unit."""
    try:
        parsed = parse_unit(unit)
    except InputError:
        return flat
    if parsed is None or not parsed.is_equivalent(u.dimensionless_unscaled):
        return flat
    factor = unit_factor(parsed, "", name="the flat")
    if factor == 1.0:
        return flat
    headers = {name: getattr(flat, name).copy() for name in ("header", "image_header")}
    for header in headers.values():
        header.remove("BUNIT", ignore_missing=True)
    remark = f"converted from {unit}"
    return replace(
        flat, image=flat.image * factor, variance=flat.variance * factor**2, remarks=(*flat.remarks, remark), **headers
    )


def _is_relative(unit: str) -> bool:
    try:
        parsed = parse_unit(unit)
    except InputError:
        # A word that is not a unit (``normalized``) is not a signal either.
        return True
    return parsed is None or parsed.physical_type == "dimensionless"


def require_sensor(sensor: Sensor, product: ImageProduct, path: Path, *, what: str) -> str:
    """Raise an error unless a product is of a sensor; return the evidence (see `permil.products.check_sensor`)."""
    statements = sensor_statements(product.header, product.image_header, camera=sensor.camera)
    return check_sensor(sensor, statements, path, what=what, kind=FlatError)


def light_of(product: ImageProduct) -> str:
    """Return LED or filter of a product, empty if unknown. CCOB cards of other exposures are stale."""
    headers = (product.header, product.image_header)
    types = {str(card_of(header, card) or "").upper() for header in headers for card in ("IMGTYPE", "TESTTYPE")}
    names = ("LED", *(["CCOBLED"] if "CCOB" in types else []), *_FILTER_CARDS)
    return next((str(name) for card in names for header in headers if (name := card_of(header, card)) is not None), "")
