"""The file of a superbias, of permil or another program: found, read, and checked against the sensor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from astropy import units as u
from astropy.io import fits

from permil.arrays import Float32Array, median, parse_unit, unit_factor
from permil.camera import Camera, Detector
from permil.camera.model import serial_key
from permil.errors import CalibrationError, InputError
from permil.exposures.file_names import is_fits_name
from permil.isr.calibration.calibration import Superbias
from permil.isr.calibration.gains import Gains
from permil.isr.calibration.masks import Mask
from permil.products import (
    ImageProduct,
    MaskPlane,
    Sensor,
    check_sensor,
    known_variance,
    product_kind,
    read_any_image,
    sensor_statements,
    whole_file,
)
from permil.products.images import read_headers
from permil.products.sensor_identity import card_of, label_in


def superbias_notes(path: Path) -> list[str]:
    """Return the notes of a superbias: files that were left out, and files with masked rows."""
    # The images stay unread.
    with whole_file(path), fits.open(path) as hdus:
        return [f"{row['path']}: {row['reason']}" for row in hdus["NOTES"].data] if "NOTES" in hdus else []


_LARGEST_SUPERBIAS = 1000.0
"""Upper limit of the median structure of a bias, adu; bias levels are some 20,000."""


def read_superbias(
    path: Path, detector: Detector, *, camera: Camera | None = None, gains: Gains | None = None
) -> tuple[Superbias, Mask]:
    """Read a superbias of permil or of another program.

    Parameters
    ----------
    camera
        Camera that translates the numbers and serial numbers of detectors in files of other programs.
    gains
        Electrons per adu, for a superbias in electrons.

    Returns
    -------
    superbias, mask
        Image and variance in adu and adu^2, 0 where missing; planes NO_DATA there, BAD where it is not usable.

    Raises
    ------
    InputError
        If the file cannot be read.
    CalibrationError
        If it is of another detector or size, is not a superbias, has a unit that cannot be converted, or still contains the bias level.
    """
    sensor = Sensor(detector.name, camera=camera)
    product = read_any_image(path, sensor=sensor, shape=detector.shape, purpose="a superbias", with_extensions=False)
    _check_superbias(product, detector, sensor, path)
    variance, _ = known_variance(product.variance, product.mask)
    image, variance = (np.asarray(plane, dtype=np.float32) for plane in (product.image, variance))
    factor = _adu_per_unit(product, detector, gains, path)
    image, variance = image * factor, variance * factor**2
    known = image[np.isfinite(image)]
    level = float(median(known)) if known.size else 0.0
    if abs(level) > _LARGEST_SUPERBIAS:
        raise CalibrationError(
            f"the superbias has a median of {level:.0f} adu: it still contains the bias level",
            path=path,
            remedy="give the mean of bias exposures after overscan subtraction, or set isr.bias to auto",
            value=level,
        )
    missing = ~np.isfinite(image) | ~np.isfinite(variance)
    unusable = (product.mask & int(MaskPlane.BAD | MaskPlane.SAT)) != 0
    mask = np.where(missing, np.int16(MaskPlane.NO_DATA), np.where(unusable, np.int16(MaskPlane.BAD), np.int16(0)))
    image, variance = (np.where(missing, np.float32(0), array) for array in (image, variance))
    return Superbias(image, variance), mask


def _check_superbias(product: ImageProduct, detector: Detector, sensor: Sensor, path: Path) -> None:
    statements = sensor_statements(product.header, product.image_header, camera=sensor.camera)
    check_sensor(sensor, statements, path, what="the superbias", kind=CalibrationError)
    kind = product_kind(product.header, product.image_header)
    if kind not in ("", "superbias", "bias", "zero"):
        raise CalibrationError(
            f"this is a {kind}, not a superbias", path=path, remedy="name a superbias, auto or none in isr.bias", value=kind
        )
    if product.image.shape != detector.shape:
        raise CalibrationError(
            f"the superbias is that of {detector.name} with {product.image.shape} pixels, not {detector.shape}",
            path=path,
            remedy="give the superbias of this detector and camera",
            value=product.image.shape,
            detector=detector.name,
        )


def _adu_per_unit(product: ImageProduct, detector: Detector, gains: Gains | None, path: Path) -> Float32Array:
    """Return the factor of each pixel of a superbias to adu; without a unit it is in adu."""
    stated = str(card_of(product.image_header, "BUNIT") or card_of(product.header, "BUNIT") or "adu")
    factor = np.ones(detector.shape, dtype=np.float32)
    try:
        unit = parse_unit(stated)
        if unit is not None and unit.is_equivalent(u.electron):
            if gains is None or gains.source == "none":
                raise InputError(
                    f"the superbias is in {stated}", remedy="give one in adu, or the gains (isr.gains)", value=stated
                )
            scale = unit_factor(unit, u.electron, name="the superbias")
            for amplifier, gain in zip(detector.amplifiers, gains.gain, strict=True):
                factor[amplifier.slices] = scale / gain
        else:
            factor *= np.float32(unit_factor(unit or u.dimensionless_unscaled, u.adu, name="the superbias"))
    except InputError as error:
        raise CalibrationError(error.what, path=path, remedy=error.remedy, **error.data) from error
    return factor


def check_superbias_serial(source: str, detector: Detector, camera: Camera, serial: str) -> None:
    """Check that the superbias in the configuration belongs to the sensor that was read out.

    Parameters
    ----------
    source
        See `superbias_path`.
    serial
        Serial number in the raw files, empty if it is not known.

    Raises
    ------
    CalibrationError
        If the superbias has another serial number.
    InputError
        If it cannot be read.
    """
    path = superbias_path(source, detector, None)
    if path is None or not serial:
        return
    place = Sensor(detector.name, camera=camera)
    stated = [sensor_statements(header, camera=camera) for header in read_headers(path)]
    # Headers of other sensors in the same file do not count.
    own = [
        statements for statements in stated if place.verdict(entry for entry in statements if entry.kind != "serial") is not False
    ]
    for statement in (entry for statements in own for entry in statements):
        if statement.kind == "serial" and serial_key(statement.label) != serial_key(serial):
            raise CalibrationError(
                f"the superbias is of sensor {statement.label}, the exposures of {detector.name} are of {serial}",
                path=path,
                remedy="give a superbias of the sensor that was read out, or set isr.bias to auto",
                value=str(statement.label),
                detector=detector.name,
            )


def superbias_path(source: str, detector: Detector, made: Path | None) -> Path | None:
    """Return the path of the superbias of a detector; None if none is used.

    Parameters
    ----------
    source
        ``isr.bias``: a file, a folder, ``auto`` or ``none``.
    made
        The product of this run, for ``isr.bias: auto``.

    Raises
    ------
    CalibrationError
        If this run should make it and has not, or several files of a folder match.
    InputError
        If a folder holds none of this detector.
    """
    if source == "none":
        return None
    if source != "auto":
        path = Path(source)
        return _superbias_in(path, detector) if path.is_dir() else path
    if made is None:
        raise CalibrationError(
            f"there is no bias exposure of {detector.name}",
            remedy="add bias exposures to the roots, name a superbias in isr.bias, or set isr.bias to none",
            detector=detector.name,
        )
    return made


def _superbias_in(folder: Path, detector: Detector) -> Path:
    """Return the superbias of a detector in a folder: the file with the detector in its name, in any spelling.

    Raises
    ------
    CalibrationError
        If several files match.
    InputError
        If no file matches.
    """
    usual = folder / f"superbias_{detector.name}.fits"
    if usual.is_file():
        return usual
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and is_fits_name(path.name)]
    found = [path for path in files if detector.is_called(label_in(path.name))]
    if len(found) > 1:
        named = [path for path in found if path.name.lower().startswith("superbias")]
        found = named or found
    if len(found) > 1:
        raise CalibrationError(
            f"several files may be the superbias of {detector.name}: {', '.join(path.name for path in found)}",
            path=folder,
            remedy="keep one of them there, or name it in isr.bias",
            detector=detector.name,
        )
    if not found:
        raise InputError(
            f"there is no superbias of {detector.name}",
            path=folder,
            remedy=f"put superbias_{detector.name}.fits there, or set isr.bias to auto",
            detector=detector.name,
        )
    return found[0]
