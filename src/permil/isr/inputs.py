"""Read what the configuration names: gains, superbias, linearity, crosstalk and defects of one detector."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from astropy import units as u
from numpy.typing import NDArray

from permil.arrays import parse_unit, unit_factor
from permil.camera import Camera, Detector
from permil.camera.detector_names import serial_key
from permil.config.isr import IsrConfig
from permil.errors import CalibrationError, InputError
from permil.exposures.file_names import is_fits_name
from permil.isr.calibration import Calibration, Superbias
from permil.isr.crosstalk import crosstalk_from_table
from permil.isr.gains import (
    EOTEST_EXTENSION,
    EOTEST_FILE,
    EOTEST_NAME,
    Gains,
    eotest_detector,
    gains_from_eotest,
    gains_from_table,
    nominal_gains,
    unit_gains,
)
from permil.isr.linearity import linearity_from_table
from permil.isr.masks import Mask, defect_mask, hot_pixel_mask, zone_mask
from permil.isr.overscan import OverscanOptions
from permil.products import (
    ImageProduct,
    MaskPlane,
    Sensor,
    check_sensor,
    known_variance,
    product_kind,
    read_any_image,
    read_table,
    sensor_statements,
)
from permil.products.images import read_headers
from permil.products.sensor_identity import card_of, label_in

FloatArray = NDArray[np.float64]

_LARGEST_SUPERBIAS = 1000.0
"""Median, adu, that the structure of the bias never has; bias levels are some 20,000."""


def overscan_options(config: IsrConfig) -> OverscanOptions:
    """Return the overscan options of the configuration."""
    return OverscanOptions(config.overscan, config.overscan_skip_first, config.overscan_skip_last, config.overscan_window)


def read_superbias(
    path: Path, detector: Detector, *, camera: Camera | None = None, gains: Gains | None = None
) -> tuple[Superbias, Mask]:
    """Read a superbias of permil or of another program.

    Parameters
    ----------
    camera
        Translates the numbers and serial numbers by which other programs name a detector.
    gains
        Electrons per adu, for a superbias in electrons.

    Returns
    -------
    superbias, mask
        Image and variance in adu and adu^2, 0 where it has none; planes NO_DATA there, BAD where it is not usable.

    Raises
    ------
    InputError
        If the file cannot be read.
    CalibrationError
        If it is that of another detector or size, something else than a superbias, in a unit that cannot be converted, or still
        holds the bias level.
    """
    sensor = Sensor(detector.name, camera=camera)
    product = read_any_image(path, sensor=sensor, shape=detector.shape, purpose="a superbias")
    _check_superbias(product, detector, sensor, path)
    variance, _ = known_variance(product.variance, product.mask)
    image, variance = (np.asarray(plane, dtype=np.float32) for plane in (product.image, variance))
    factor = _adu_per_unit(product, detector, gains, path)
    image, variance = image * factor, variance * factor**2
    level = float(np.nanmedian(image)) if np.isfinite(image).any() else 0.0
    if abs(level) > _LARGEST_SUPERBIAS:
        raise CalibrationError(
            f"the superbias has a median of {level:.0f} adu: it still holds the bias level",
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


def _adu_per_unit(product: ImageProduct, detector: Detector, gains: Gains | None, path: Path) -> NDArray[np.float32]:
    """Return by what the pixels of a superbias are multiplied to be in adu; without a unit they are."""
    words = str(card_of(product.image_header, "BUNIT") or card_of(product.header, "BUNIT") or "adu")
    factor = np.ones(detector.shape, dtype=np.float32)
    try:
        unit = parse_unit(words)
        if unit is not None and unit.is_equivalent(u.electron):
            if gains is None or gains.source == "none":
                raise InputError(f"the superbias is in {words}", remedy="give one in adu, or the gains (isr.gains)", value=words)
            scale = unit_factor(unit, u.electron, name="the superbias")
            for amplifier, gain in zip(detector.amplifiers, gains.gain, strict=True):
                factor[amplifier.slices] = scale / gain
        else:
            factor *= np.float32(unit_factor(unit or u.dimensionless_unscaled, u.adu, name="the superbias"))
    except InputError as error:
        raise CalibrationError(error.what, path=path, remedy=error.remedy, **error.data) from error
    return factor


def check_superbias_serial(config: IsrConfig, detector: Detector, camera: Camera, serial: str) -> None:
    """Check that the superbias that the configuration names is of the sensor that was read out.

    Parameters
    ----------
    serial
        Serial number in the raw files, empty where it is not known.

    Raises
    ------
    CalibrationError
        If the superbias says another serial number.
    InputError
        If it cannot be read.
    """
    path = superbias_path(config, detector, None)
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


def load_calibration(
    detector: Detector,
    camera: Camera,
    config: IsrConfig,
    *,
    superbias: Path | None = None,
    with_superbias: bool = True,
    threads: int = 1,
) -> Calibration:
    """Read everything that the reduction of a detector needs.

    Parameters
    ----------
    superbias
        The product of `build_superbias`, for ``isr.bias: auto``.
    with_superbias
        Whether the superbias is read, and hot pixels are looked for in it.
    threads
        Amplifiers that are looked at at the same time.

    Raises
    ------
    CalibrationError
        If an input is missing for this detector or does not fit it.
    InputError
        If a file cannot be read.
    """
    edge_mm = camera.edge_mm if config.edge_mm is None else config.edge_mm
    midline_mm = camera.midline_mm if config.midline_mm is None else config.midline_mm
    mask = zone_mask(detector, edge_mm=edge_mm, midline_mm=midline_mm)
    if config.defects != "none":
        table = read_table(config.defects, columns=("detector", "x", "y"), purpose="defect table")
        mask |= defect_mask(table, detector, path=config.defects, camera=camera)
    gains = read_gains(config, detector, camera=camera)
    bias = None
    bias_path = superbias_path(config, detector, superbias) if with_superbias else None
    if bias_path is not None:
        bias, unusable = read_superbias(bias_path, detector, camera=camera, gains=gains)
        mask |= unusable | hot_pixel_mask(bias.image, detector, threshold=config.hot_pixel_threshold, threads=threads)
    linearity, crosstalk = None, None
    if config.linearity != "none":
        table = read_table(config.linearity, columns=("detector",), purpose="linearity table")
        linearity = linearity_from_table(table, detector, path=config.linearity, camera=camera)
    if config.crosstalk != "none":
        columns = ("detector", "victim", "source", "coefficient")
        table = read_table(config.crosstalk, columns=columns, purpose="crosstalk table")
        crosstalk = crosstalk_from_table(table, detector, path=config.crosstalk, camera=camera)
    return Calibration(
        detector=detector,
        gains=gains,
        static_mask=mask,
        saturation=_saturation(config, detector),
        superbias=bias,
        linearity=linearity,
        crosstalk=crosstalk,
        saturation_adu=config.saturation_adu,
        saturation_grow=config.saturation_grow,
        overscan=overscan_options(config),
        temperature_coefficient=config.temperature_coefficient,
        temperature_reference=config.temperature_reference,
    )


def superbias_path(config: IsrConfig, detector: Detector, made: Path | None) -> Path | None:
    """Return where the superbias of a detector is, None where none is used.

    Parameters
    ----------
    made
        The product of this run, for ``isr.bias: auto``.

    Raises
    ------
    CalibrationError
        If it is that of this run and there is none, or several files of a folder may be meant.
    InputError
        If a folder holds none of this detector.
    """
    if config.bias == "none":
        return None
    if config.bias != "auto":
        path = Path(config.bias)
        return _superbias_in(path, detector) if path.is_dir() else path
    if made is None:
        raise CalibrationError(
            f"there is no bias exposure of {detector.name}",
            remedy="add bias exposures to the roots, name a superbias in isr.bias, or set isr.bias to none",
            detector=detector.name,
        )
    return made


def _superbias_in(folder: Path, detector: Detector) -> Path:
    """Return the superbias of a detector in a folder: the file whose name holds that of the detector, in any spelling.

    Raises
    ------
    CalibrationError
        If several may be meant.
    InputError
        If there is none.
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


def _saturation(config: IsrConfig, detector: Detector) -> FloatArray:
    if config.saturation == "nominal":
        return np.array([amplifier.saturation for amplifier in detector.amplifiers])
    limit = np.inf if config.saturation == "none" else config.saturation
    return np.full(len(detector.amplifiers), limit)


def read_gains(config: IsrConfig, detector: Detector, *, camera: Camera | None = None) -> Gains:
    """Return the gains of a detector from the source that the configuration names.

    Parameters
    ----------
    camera
        The camera of which a table may name detectors.

    Raises
    ------
    CalibrationError
        If there is no file for the detector, or it lacks an amplifier or holds an impossible gain.
    InputError
        If a file cannot be read.
    """
    if config.gains == "nominal":
        return nominal_gains(detector)
    if config.gains == "none":
        return unit_gains(detector)
    path = Path(config.gains)
    if path.is_dir():
        path = _eotest_file(path, detector)
    if not EOTEST_FILE.search(path.name):
        table = read_table(path, columns=("detector", "gain"), purpose="gain table")
        return gains_from_table(table, detector, path=path, camera=camera)
    named = eotest_detector(path)
    if named != detector.name:
        raise CalibrationError(
            f"the eotest results are those of {named}, there is no gain for detector {detector.name}",
            path=path,
            remedy="give the folder that holds the results of all detectors",
            detector=detector.name,
        )
    table = read_table(path, columns=("AMP",), purpose="table of eotest results", extension=EOTEST_EXTENSION)
    return gains_from_eotest(table, detector, column=config.gain_column, path=path)


def _eotest_file(folder: Path, detector: Detector) -> Path:
    found = [
        path
        for path in sorted(folder.iterdir())
        if (match := EOTEST_NAME.search(path.name)) and f"{match[1]}_{match[2]}".upper() == detector.name
    ]
    if len(found) != 1:
        problem = "no eotest results file" if not found else f"{len(found)} eotest results files"
        raise CalibrationError(
            f"there is {problem} of detector {detector.name}",
            path=folder,
            remedy=f"keep one file {detector.name}_<run>_eotest_results.fits there",
            detector=detector.name,
        )
    return found[0]
