"""What a user does with flats as files: divide an image, compare two flats."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from permil.arrays import parse_unit
from permil.camera import Detector, load_camera
from permil.config.flat import LARGEST_SUPER_PIXEL_MM
from permil.errors import FlatError, InputError, PermilError
from permil.flat.apply import apply_flat
from permil.flat.difference import FlatDifference, flat_difference
from permil.products import (
    SERIAL_CARD,
    ImageProduct,
    MaskPlane,
    Sensor,
    check_output,
    check_sensor,
    identify_sensor,
    is_good,
    known_variance,
    product_kind,
    read_any_image,
    sensor_statements,
    write_image,
)
from permil.products.fits import kept_cards, wcs_cards
from permil.products.sensor_identity import card_of

_PER_MIL = 1e3
_DOUBTFUL = {
    "nothing": "the image does not name its detector: only its shape says that it is that of the flat",
    "part": "the image names only raft bay or slot of its detector",
}
_FILTER_CARDS = ("FILTER", "PHYSFILT", "LSST BUTLER DATAID PHYSICAL_FILTER", "BAND", "LSST BUTLER DATAID BAND")


def apply_files(flat_path: Path, image_path: Path, out: Path) -> str:
    """Divide an image by a flat and write image, mask and variance; return what was done, and what was noticed, one line each.

    The result keeps the cards of the image (exposure, world coordinates) and the mask planes of both under their names.

    Parameters
    ----------
    flat_path
        Flat of one detector.
    image_path
        Image product, or a FITS file of any program with an assembled image of that detector (see
        `permil.products.read_any_image`); without a variance of its own the result carries that of the flat alone, and says so.

    Raises
    ------
    InputError
        If a file cannot be read.
    FlatError
        If image and flat do not belong together, or the flat is none.
    OutputError
        If the result cannot be written.
    """
    check_output(out, inputs=[flat_path, image_path])
    flat, sensor = read_any_flat(flat_path)
    image = read_any_image(image_path, sensor=sensor, shape=flat.image.shape, planes=flat.planes)
    known_by = "nothing" if sensor is None else _check_sensor(sensor, image, image_path, what="the image")
    variance, said = known_variance(image.variance, image.mask)
    try:
        corrected, error, mask = apply_flat(
            image.image, variance, image.mask, flat=flat.image, flat_variance=flat.variance, flat_mask=flat.mask
        )
    except FlatError as problem:
        problem.path = str(image_path)
        raise
    sources = [name for name, plane in (("image", variance), ("flat", flat.variance)) if np.any(plane > 0)]
    contents = " and ".join(sources) if len(sources) != 1 else f"{sources[0]} only"
    light, light_of_flat = _light(image), _light(flat)
    cards = {
        "DETECTOR": (sensor.name if sensor else "", "detector"),
        "DETKNOWN": (known_by, "what says that the image is of this detector"),
        "LED": (light_of_flat, "light of the flat"),
        "IMAGELED": (light, "light of the image"),
        "FLATFILE": (flat_path.name[:60], "flat"),
        "RAWIMAGE": (image_path.name[:60], "image that was divided"),
        "VARCONT": (contents or "nothing", "what the variance holds"),
    }
    for card in ("CAMERA", SERIAL_CARD):
        cards[card] = (flat.header.get(card, ""), flat.header.comments[card] if card in flat.header else "")
    header = kept_cards(image.header)
    header.update({name: entry for name, entry in cards.items() if entry[0]})
    is_extension = "XTENSION" in image.image_header
    image_cards = kept_cards(image.image_header) if is_extension else wcs_cards(image.header)
    unit = str(card_of(image.image_header, "BUNIT") or card_of(image.header, "BUNIT") or "")
    if unit:
        image_cards["BUNIT"] = unit
    write_image(out, corrected, mask, error, header=header, image_cards=image_cards, planes=image.planes)
    lost = int(np.count_nonzero(mask & int(MaskPlane.NO_DATA)))
    notes = [f"flat: {remark}" for remark in flat.remarks] + [f"image: {remark}" for remark in (*image.remarks, *said)]
    if known_by in _DOUBTFUL:
        notes.append(_DOUBTFUL[known_by])
    if light and light_of_flat and light.lower() != light_of_flat.lower():
        notes.append(f"the light of the image is {light}, that of the flat {light_of_flat}")
    if len(sources) < 2:
        notes.append(f"variance: {cards['VARCONT'][0]}")
    done = f"wrote {out}: {image_path.name} over {flat_path.name}, {lost} pixels without data"
    return "\n".join([done, *(f"  {note}" for note in dict.fromkeys(notes))])


def read_any_flat(
    path: Path, *, sensor: Sensor | None = None, planes: Mapping[str, int] | None = None
) -> tuple[ImageProduct, Sensor | None]:
    """Read a flat of any program and identify its sensor; None where its headers do not name one.

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
    return flat, identify_sensor(flat.header, flat.image_header, path=path)


def _is_relative(unit: str) -> bool:
    try:
        parsed = parse_unit(unit)
    except InputError:
        # A word that is no unit (``normalized``) is no signal either.
        return True
    return parsed is None or parsed.physical_type == "dimensionless"


def _check_sensor(sensor: Sensor, product: ImageProduct, path: Path, *, what: str) -> str:
    statements = sensor_statements(product.header, product.image_header, camera=sensor.camera)
    return check_sensor(sensor, statements, path, what=what, kind=FlatError)


def _light(product: ImageProduct) -> str:
    """Return LED or filter of a product, empty where the headers do not tell. CCOB cards of other exposures are stale."""
    headers = (product.header, product.image_header)
    types = {str(card_of(header, card) or "").upper() for header in headers for card in ("IMGTYPE", "TESTTYPE")}
    names = ("LED", *(["CCOBLED"] if "CCOB" in types else []), *_FILTER_CARDS)
    return next((str(name) for card in names for header in headers if (name := card_of(header, card)) is not None), "")


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
    (first, sensor), (second, of_second) = _two_flats(first_path, second_path)
    detector = _geometry(sensor or of_second, first, first_path)
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
        write_image(out, difference.ratio, mask, np.where(good, variance, np.nan), header=header, planes=second.planes)
    paths = (first_path, second_path)
    leds = [_light(product) or "?" for product in (first, second)]
    title = f"{first_path} over {second_path} ({detector.name}, LED {leds[0]} over {leds[1]})"
    notes = [f"  {path.name}: {remark}" for path, flat in zip(paths, (first, second), strict=True) for remark in flat.remarks]
    notes += [
        f"  {path.name}: no variance, so that noise, chi-square and errors lack its part"
        for path, flat in zip(paths, (first, second), strict=True)
        if not np.any(flat.variance > 0)
    ]
    return "\n".join([title, *describe_difference(difference, super_pixel_mm), *notes])


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


def _two_flats(
    first_path: Path, second_path: Path
) -> tuple[tuple[ImageProduct, Sensor | None], tuple[ImageProduct, Sensor | None]]:
    """Read two flats with their sensors, which must be one."""
    first, sensor = read_any_flat(first_path)
    second, of_second = read_any_flat(second_path, sensor=sensor, planes=first.planes)
    if sensor is not None:
        _check_sensor(sensor, second, second_path, what="the flat")
    elif of_second is not None:
        _check_sensor(of_second, first, first_path, what="the flat")
    return (first, sensor), (second, of_second)


def _geometry(sensor: Sensor | None, product: ImageProduct, path: Path) -> Detector:
    """Return the geometry of the detector of a flat.

    Raises
    ------
    InputError
        If it is not known, or the flat is of another size.
    """
    camera = card_of(product.header, "CAMERA")
    detector = None if sensor is None else sensor.detector
    if camera is not None and sensor is not None:
        try:
            detector = load_camera(str(camera))[sensor.name]
        except PermilError as error:
            error.path = str(path)
            raise
    if detector is None:
        raise InputError("the header does not name CAMERA and DETECTOR", path=path, remedy="give a flat that permil wrote")
    if detector.shape != product.image.shape:
        raise InputError(
            f"the image has {product.image.shape} pixels, {detector.name} of camera {camera or 'lsstcam'} has {detector.shape}",
            path=path,
            remedy="give flats of this camera, not binned",
            value=product.image.shape,
        )
    return detector
