"""The calibration of one detector from the files that the configuration names: gains, superbias, linearity, crosstalk and defects."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from astropy.table import Table

from permil.arrays import FloatArray
from permil.camera import Camera, Detector, camera_names, shared_camera
from permil.camera.model import serial_key
from permil.config import Config
from permil.config.isr import IsrConfig
from permil.errors import CalibrationError
from permil.isr.calibration.calibration import Calibration
from permil.isr.calibration.crosstalk import crosstalk_from_table
from permil.isr.calibration.gains import read_gains
from permil.isr.calibration.linearity import linearity_from_table
from permil.isr.calibration.masks import Box, defect_boxes, hot_pixel_mask, mask_of_boxes, zone_mask
from permil.isr.calibration.superbias import read_superbias, superbias_path
from permil.isr.overscan import overscan_options
from permil.products import RunFolder, fingerprint, shared_table, stored_fingerprint

_BOX_COLUMNS = ("x0", "y0", "width", "height")


def load_calibration(
    detector: Detector,
    camera: Camera,
    config: IsrConfig,
    *,
    superbias: Path | None = None,
    with_superbias: bool = True,
) -> Calibration:
    """Read everything that the reduction of a detector needs.

    Parameters
    ----------
    superbias
        The product of `build_superbias`, for ``isr.bias: auto``.
    with_superbias
        Whether the superbias is read and searched for hot pixels.

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
    mask |= mask_of_boxes(given_defects(config.defects, detector, camera=camera), detector)
    gains = read_gains(config, detector, camera=camera)
    bias = None
    bias_path = superbias_path(config.bias, detector, superbias) if with_superbias else None
    if bias_path is not None:
        bias, unusable = read_superbias(bias_path, detector, camera=camera, gains=gains)
        mask |= unusable | hot_pixel_mask(bias.image, detector, threshold=config.hot_pixel_threshold)
    linearity, crosstalk = None, None
    if config.linearity != "none":
        table = shared_table(config.linearity, columns=("detector",), purpose="linearity table")
        linearity = linearity_from_table(table, detector, path=config.linearity, camera=camera)
    if config.crosstalk != "none":
        columns = ("detector", "victim", "source", "coefficient")
        table = shared_table(config.crosstalk, columns=columns, purpose="crosstalk table")
        crosstalk = crosstalk_from_table(table, detector, path=config.crosstalk, camera=camera)
    return Calibration(
        detector=detector,
        gains=gains,
        static_mask=mask,
        saturation=_saturation(config.saturation, detector),
        superbias=bias,
        linearity=linearity,
        crosstalk=crosstalk,
        saturation_adu=config.saturation_adu,
        saturation_grow=config.saturation_grow,
        overscan=overscan_options(config),
        temperature_coefficient=config.temperature_coefficient,
        temperature_reference=config.temperature_reference,
        temperature_card=config.temperature_card,
    )


def detector_calibration(config: Config, camera: Camera, folder: RunFolder, detector: str) -> Calibration:
    """Load the calibration of a detector, with the superbias of this run.

    Raises
    ------
    CalibrationError, InputError
        See `load_calibration`.
    """
    superbias = folder.superbias(detector)
    return load_calibration(camera[detector], camera, config.isr, superbias=superbias)


def shared_calibration(config: Config, folder: RunFolder, detector: str) -> Calibration:
    """Return the calibration of a detector, read once per process while its inputs are unchanged.

    Raises
    ------
    CalibrationError, InputError
        See `load_calibration`.
    """
    # Keyed by the JSON of the options, which themselves cannot be hashed, and by the state of every input.
    state = calibration_fingerprint(config, folder, detector)
    return _calibration(config.isr.model_dump_json(), config.camera, folder.superbias(detector), detector, state)


@lru_cache(maxsize=4)
def _calibration(isr_json: str, camera_name: str, superbias: Path, detector: str, _state: str) -> Calibration:
    camera, options = shared_camera(camera_name), IsrConfig.model_validate_json(isr_json)
    return load_calibration(camera[detector], camera, options, superbias=superbias)


def calibration_fingerprint(config: Config, folder: RunFolder, detector: str) -> str:
    """Return the fingerprint of the calibration of a detector."""
    upstream = [stored_fingerprint(folder.superbias(detector)) or ""] if config.isr.bias == "auto" else []
    isr = config.isr.model_dump(mode="json", exclude={"photon_transfer"})
    options = {"isr": isr, "camera": config.camera, "detector": detector}
    options["checksums"] = config.exposures.checksums
    return fingerprint(options, files=calibration_files(config, detector), upstream=upstream)


def calibration_files(config: Config, detector: str) -> list[Path]:
    """Return the files that the section `isr` names for a detector."""
    files: list[Path] = []
    for name in ("gains", "linearity", "crosstalk", "defects", "bias"):
        path = Path(getattr(config.isr, name))
        if not path.is_dir():
            files.append(path)
        elif name == "bias":
            found = superbias_path(config.isr.bias, shared_camera(config.camera)[detector], None)
            files += [] if found is None else [found]
        else:
            files += sorted(path.glob(f"*{detector}*"))
    return files


def given_defects(source: str, detector: Detector, *, camera: Camera) -> list[Box]:
    """Return the defects of a detector that the user gave.

    Parameters
    ----------
    source
        ``isr.defects``: a table of all detectors with the columns detector, x and y, a folder with a table ``<CCD>.ecsv`` of each
        detector with the columns x0, y0, width and height, as `permil defects` and the LSST stack write them, or ``none``.

    Raises
    ------
    CalibrationError
        If the folder has no table of the detector, or a table does not fit it or is that of another camera.
    InputError
        If a table cannot be read.
    """
    if source == "none":
        return []
    path = Path(source)
    if not path.is_dir():
        table = shared_table(path, columns=("detector", "x", "y"), purpose="defect table")
        return defect_boxes(table, detector, path=path, camera=camera)
    path = path / f"{detector.name}.ecsv"
    if not path.is_file():
        raise CalibrationError(
            f"there is no table of the defects of {detector.name}",
            path=path,
            remedy="add it (without rows if the detector has no defects), or set isr.defects to another table or none",
            detector=detector.name,
        )
    table = shared_table(path, columns=_BOX_COLUMNS, purpose="defect table")
    number = table.meta.get("DETECTOR", detector.id)
    if not detector.is_called(number):
        raise CalibrationError(
            f"these are the defects of detector {number}, not of {detector.name} ({detector.id})",
            path=path,
            remedy="give the table of this detector",
            value=number,
            detector=detector.name,
        )
    named = str(table.meta.get("INSTRUME", "")).strip().lower()
    if named in camera_names() and named != camera.name:
        other = shared_camera(named).find(detector.name)
        if other is None or other.shape != detector.shape:
            raise CalibrationError(
                f"these are the defects in the pixels of camera {named}, not of {camera.name}",
                path=path,
                remedy="give a table of this camera (permil defects), or change `camera`",
                value=named,
            )
    boxes = Table(
        {
            "detector": np.full(len(table), detector.name, dtype="U16"),
            **{name: table[column] for name, column in (("x", "x0"), ("y", "y0"), ("width", "width"), ("height", "height"))},
        }
    )
    return defect_boxes(boxes, detector, path=path, camera=camera)


def check_defects_serial(source: str, detector: Detector, serial: str) -> None:
    """Check that the defects in a folder belong to the sensor that was read out.

    Parameters
    ----------
    source
        See `given_defects`.
    serial
        Serial number in the raw files, empty if it is not known.

    Raises
    ------
    CalibrationError
        If the table of the detector states another serial number.
    InputError
        If it cannot be read.
    """
    path = Path(source) / f"{detector.name}.ecsv"
    if source == "none" or not serial or not path.is_file():
        return
    table = shared_table(path, columns=_BOX_COLUMNS, purpose="defect table")
    stated = str(table.meta.get("DET_SER", "")).strip()
    if stated and serial_key(stated) != serial_key(serial):
        raise CalibrationError(
            f"these are the defects of sensor {stated}, the exposures of {detector.name} are of {serial}",
            path=path,
            remedy="give the table of the sensor that was read out, or set isr.defects to none",
            value=stated,
            detector=detector.name,
        )


def _saturation(level: float | Literal["nominal", "none"], detector: Detector) -> FloatArray:
    if level == "nominal":
        return np.array([amplifier.saturation for amplifier in detector.amplifiers])
    limit = np.inf if level == "none" else level
    return np.full(len(detector.amplifiers), limit)
