"""Read what the configuration names: gains, superbias, linearity, crosstalk and defects of one detector."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from permil.camera import Camera, Detector
from permil.config.isr import IsrConfig
from permil.errors import CalibrationError
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
from permil.products import MaskPlane, read_image, read_table

FloatArray = NDArray[np.float64]


def overscan_options(config: IsrConfig) -> OverscanOptions:
    """Return the overscan options of the configuration."""
    return OverscanOptions(config.overscan, config.overscan_skip_first, config.overscan_skip_last, config.overscan_window)


def check_superbias(header: fits.Header, shape: tuple[int, ...], detector: Detector, path: Path) -> None:
    """Check that a superbias is that of a detector.

    Parameters
    ----------
    header, shape
        Its primary header, and rows and columns of its image.

    Raises
    ------
    CalibrationError
        If it is that of another detector or size.
    """
    named = header.get("DETECTOR", detector.name)
    if named != detector.name or shape != detector.shape:
        raise CalibrationError(
            f"the superbias is that of {named} with {shape} pixels, not {detector.name} with {detector.shape}",
            path=path,
            remedy="give the superbias of this detector and camera",
            value=named,
            detector=detector.name,
        )


def read_superbias(path: Path, detector: Detector) -> tuple[Superbias, Mask]:
    """Read a superbias product; return it with the plane NO_DATA where it has none (image and variance are 0 there).

    Raises
    ------
    InputError
        If the file cannot be read.
    CalibrationError
        If it is that of another detector or size.
    """
    product = read_image(path)
    check_superbias(product.header, product.image.shape, detector, path)
    missing = ~np.isfinite(product.image) | ~np.isfinite(product.variance)
    mask = np.where(missing, np.int16(MaskPlane.NO_DATA), np.int16(0))
    image, variance = (np.where(missing, np.float32(0), array) for array in (product.image, product.variance))
    return Superbias(image, variance), mask


def load_calibration(
    detector: Detector, camera: Camera, config: IsrConfig, *, superbias: Path | None = None, threads: int = 1
) -> Calibration:
    """Read everything that the reduction of a detector needs.

    Parameters
    ----------
    superbias
        The product of `build_superbias`, for ``isr.bias: auto``.
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
    bias = None
    bias_path = superbias_path(config, detector, superbias)
    if bias_path is not None:
        bias, no_data = read_superbias(bias_path, detector)
        mask |= no_data | hot_pixel_mask(bias.image, detector, threshold=config.hot_pixel_threshold, threads=threads)
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
        gains=read_gains(config, detector, camera=camera),
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
        If it is that of this run and there is none.
    """
    if config.bias == "none":
        return None
    if config.bias != "auto":
        path = Path(config.bias)
        return path / f"superbias_{detector.name}.fits" if path.is_dir() else path
    if made is None:
        raise CalibrationError(
            f"there is no bias exposure of {detector.name}",
            remedy="add bias exposures to the roots, name a superbias in isr.bias, or set isr.bias to none",
            detector=detector.name,
        )
    return made


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
