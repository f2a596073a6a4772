"""Reduce a raw spot exposure and measure its spots."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from permil.camera import Camera
from permil.config.isr import IsrConfig
from permil.errors import InputError
from permil.exposures.checksums import Checksums
from permil.exposures.exposure import Exposure, read_exposure
from permil.isr import Calibration
from permil.isr.reduce import reduce_file
from permil.spots.errors import SpotError
from permil.spots.measure import MeasureOptions, SpotMeasurement, measure_image


def measure_exposure(
    path: str | Path,
    camera: Camera,
    calibration: Calibration,
    isr_config: IsrConfig,
    *,
    options: MeasureOptions | None = None,
    band: str = "",
    checksums: Checksums = "refuse",
) -> SpotMeasurement:
    """Reduce one raw spot exposure of one detector and measure its spots.

    Parameters
    ----------
    path
        Raw file.
    calibration
        Calibration of the expected detector.
    band
        Filter or LED of the exposure; by default the card FILTER. The CCOB cards of a spot exposure are stale.
    checksums
        See `permil.exposures.RawFile`.

    Returns
    -------
    SpotMeasurement

    Raises
    ------
    InputError
        If the file cannot be used, is not a spot exposure, or is of another detector.
    CalibrationError
        If a calibration input is missing or does not match.
    SpotError
        If the image cannot be measured.
    """
    exposure = read_exposure(path, camera, checksums=checksums)
    if not is_spot_exposure(exposure):
        raise InputError(
            f"not a spot exposure (IMGTYPE {exposure.image_type.upper()}, TESTTYPE {exposure.test_type.upper() or 'missing'})",
            path=path,
            remedy="give exposures of the spot projector",
            value=exposure.image_type,
        )
    reduced = reduce_file(path, camera, calibration, isr_config, checksums=checksums)
    try:
        measurement = measure_image(
            reduced.image,
            reduced.variance(),
            reduced.mask,
            reduced.detector,
            options=options,
            row_variance=reduced.level_variance,
        )
    except SpotError as error:
        raise SpotError(error.what, path=path, remedy=error.remedy, **error.data) from error
    catalog = replace(
        measurement.catalog,
        exposure=exposure.obsid,
        exposure_time=exposure.exposure_s,
        projector_x=exposure.x_header_mm,
        projector_y=exposure.y_header_mm,
        band=band or (exposure.filter if exposure.filter.lower() not in ("none", "empty") else ""),
        mjd=exposure.mjd,
        flux_unit="electron" if calibration.unit == "electron" else "count",
        serial=exposure.serial,
    )
    return replace(measurement, catalog=catalog)


def is_spot_exposure(exposure: Exposure) -> bool:
    """Return whether an exposure is of the spot projector: IMGTYPE is SPOT, or TESTTYPE starts with it."""
    return exposure.image_type == "spot" or (
        exposure.image_type not in ("bias", "dark") and exposure.test_type.startswith("spot")
    )
