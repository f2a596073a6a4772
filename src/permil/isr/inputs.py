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
from permil.isr.calibration.gains import EOTEST_FILE, eotest_path, read_gains
from permil.isr.calibration.linearity import linearity_from_table
from permil.isr.calibration.masks import Box, defect_boxes, hot_pixel_mask, mask_of_boxes, zone_mask
from permil.isr.calibration.superbias import read_superbias, superbias_path
from permil.isr.calibration.tables import DetectorTable
from permil.isr.overscan import overscan_options
from permil.products import RunFolder, fingerprint, sensor_statements, shared_table, stored_fingerprint
from permil.products.images import read_headers
from permil.products.tables import texts

_BOX_COLUMNS = ("x0", "y0", "width", "height")
_KINDS = {"gains": "gain", "linearity": "linearity", "crosstalk": "crosstalk", "defects": "defect"}
"""Kinds of tables by their keys in the section ``isr``."""
_SERIAL_COLUMNS = frozenset({"serial", "serial_number", "sensor_serial", "lsst_num", "det_ser", "detser", "detserno"})
_NO_SERIAL = frozenset({"", "NONE", "UNKNOWN", "TBD", "NAN"})


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
    """Return the defects of a detector given by the user.

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
                f"these defects are in pixels of camera {named}, not of {camera.name}",
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


def check_serials(config: IsrConfig, detector: Detector, serial: str, *, camera: Camera) -> None:
    """Check that the tables of gains, linearity, crosstalk and defects belong to the sensor that was read out.

    A table states serial numbers in its column ``detector`` or one like ``serial``. If it is of one detector, its header may state one.

    Parameters
    ----------
    serial
        Serial number in the raw files; empty if it is not known: that of the camera is used.

    Raises
    ------
    CalibrationError
        If a table states another serial number for the detector.
    InputError
        If it cannot be read.
    """
    wanted = serial or detector.serial
    own = {serial_key(name) for name in (wanted, detector.name, detector.id)}
    for key, kind in _KINDS.items():
        source = str(getattr(config, key))
        if not wanted or source in ("none", "nominal"):
            continue
        path, stated = _stated_serials(Path(source), kind, detector, camera)
        other = next((label for label in stated if serial_key(label) not in own), "")
        if other:
            raise CalibrationError(
                f"the {kind} table is of sensor {other}, "
                + (
                    f"the exposures of {detector.name} are of {serial}"
                    if serial
                    else f"{detector.name} of the camera is {wanted}"
                ),
                path=path,
                remedy=f"give the table of the sensor that was read out, or set isr.{key} to {'nominal' if key == 'gains' else 'none'}",
                value=other,
                detector=detector.name,
            )


def _stated_serials(path: Path, kind: str, detector: Detector, camera: Camera) -> tuple[Path, list[str]]:
    """Return the file of a detector's table, and the serial numbers that it states."""
    if kind == "gain" and (path.is_dir() or EOTEST_FILE.search(path.name)):
        path = eotest_path(path, detector)
        statements = sensor_statements(*read_headers(path), camera=camera)
        return path, [str(statement.label) for statement in statements if statement.kind == "serial"]
    if path.is_dir():
        path = path / f"{detector.name}.ecsv"
    table = shared_table(path, purpose=f"{kind} table")
    is_of_one = "detector" not in [name.strip().lower() for name in table.colnames]
    rows = np.arange(len(table))
    found: list[str] = []
    if not is_of_one:
        entries = DetectorTable(table, detector, what=kind, path=path, camera=camera)
        table, rows = entries.table, entries.rows
        named = [texts(table, "detector", path=path)[row] for row in rows]
        found += [label for label in named if serial_key(label) == serial_key(detector.serial)]
        is_of_one = len(rows) == len(table)
    for name in table.colnames:
        if name.strip().lower() in _SERIAL_COLUMNS:
            column = texts(table, name, path=path)
            found += [column[row] for row in rows]
    if is_of_one:
        found += [str(content) for name, content in table.meta.items() if str(name).strip().lower() in _SERIAL_COLUMNS]
    return path, [label for label in found if serial_key(label) not in _NO_SERIAL]


def _saturation(level: float | Literal["nominal", "none"], detector: Detector) -> FloatArray:
    if level == "nominal":
        return np.array([amplifier.saturation for amplifier in detector.amplifiers])
    limit = np.inf if level == "none" else level
    return np.full(len(detector.amplifiers), limit)
