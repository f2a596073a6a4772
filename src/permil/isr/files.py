"""Reduce or stack raw files of one detector without a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from permil.arrays import plain_array
from permil.camera import Camera, load_camera
from permil.config.exposures import ExposuresConfig
from permil.config.isr import IsrConfig
from permil.config.load import make_section
from permil.errors import InputError
from permil.exposures import Exposure, RawFile, read_exposure
from permil.isr.calibration.calibration import Calibration
from permil.isr.exposure_group import ExposureStack, stack_group
from permil.isr.inputs import load_calibration
from permil.isr.reduce import DetectorImage, reduce_file

AnyCalibration = Calibration | Mapping[str, Any] | None
"""A calibration, keys of the section ``isr`` to load one, or None for the camera's nominal gains."""


def reduce(path: str | Path, calibration: AnyCalibration = None, *, camera: Camera | str = "lsstcam") -> DetectorImage:
    """Reduce one raw file: raw counts to electrons on the detector.

    Parameters
    ----------
    path
        Raw file of one detector.
    calibration
        Calibration of the detector (`RunResults.calibration`); or keys of the section ``isr``, such as
        ``{"gains": "gains.ecsv", "bias": "superbias.fits"}``. Without ``bias`` no superbias is subtracted; without ``gains`` the
        camera's nominal gains are used.
    camera
        Camera of the file.

    Returns
    -------
    DetectorImage
        Image in electrons, mask, noise; ``variance()`` gives the variance.

    Raises
    ------
    InputError
        If the file cannot be used, or is of another detector than the calibration.
    ConfigError, CalibrationError
        If a key is wrong, or a table is missing or does not fit the detector.

    Examples
    --------
    >>> import permil
    >>> run = permil.open_run("out")
    >>> permil.reduce(run.exposures["path"][0], run.calibration("R22_S11"), camera=run.camera).image.shape
    (500, 512)
    >>> permil.reduce(run.exposures["path"][0], {"gains": "none"}, camera="lsstcam-bin8").image.shape
    (500, 512)
    """
    camera = load_camera(camera) if isinstance(camera, str) else camera
    found, _ = _calibration(calibration, path, camera)
    return reduce_file(path, camera, found)


def stack(
    paths: Sequence[str | Path],
    calibration: AnyCalibration = None,
    *,
    camera: Camera | str = "lsstcam",
    photodiode: ArrayLike | None = None,
) -> ExposureStack:
    """Reduce and average the exposures of one position, LED and detector; cosmic rays are rejected.

    Parameters
    ----------
    paths
        Raw files of one detector.
    calibration
        See `permil.reduce`.
    camera
        Camera of the files.
    photodiode : array_like, shape (n,), optional
        Photodiode readings, plain numbers in the unit of the headers; by default those of the headers. Files without a reading, or with
        a masked one, are left out, unless no file has one: the photodiode is not used then.

    Returns
    -------
    ExposureStack
        Image in electrons, variance, mask, files used and left out.

    Raises
    ------
    InputError
        If a file is given twice, or the files are of several LEDs or positions; if no file can be used, or light and photodiode
        contradict each other; if ``photodiode`` has a unit or another length.
    ConfigError, CalibrationError
        See `permil.reduce`.

    Examples
    --------
    >>> import permil
    >>> run = permil.open_run("out")
    >>> index = run.exposures
    >>> pointing = index[(index["purpose"] == "pointing") & (index["led"] == "red") & (index["aimed"] == "R22_S11")]
    >>> paths = pointing["path"][pointing["position_id"] == pointing["position_id"][0]]
    >>> stack = permil.stack(list(paths), run.calibration("R22_S11"), camera=run.camera)
    >>> stack.image.shape
    (500, 512)
    """
    if isinstance(paths, str | Path) or not len(paths):
        raise InputError("there is no list of files", remedy="give the paths of one or more raw files of one detector")
    camera = load_camera(camera) if isinstance(camera, str) else camera
    found, options = _calibration(calibration, paths[0], camera)
    exposures = [read_exposure(path, camera) for path in paths]
    _require_one_group(exposures)
    given = [exposure.photodiode for exposure in exposures] if photodiode is None else photodiode
    readings = plain_array(given, name="photodiode", unit="", shape=(len(paths),))
    is_read = bool(np.isfinite(readings).any())
    return stack_group(paths, readings, camera, found, threshold=options.rejection_threshold, normalise=is_read)


def _require_one_group(exposures: Sequence[Exposure]) -> None:
    """Check that all exposures are different and of one LED and position.

    Raises
    ------
    InputError
        If they are not.
    """
    first, found = exposures[0], dict[str, Exposure]()
    for exposure in exposures:
        other = found.setdefault(exposure.obsid, exposure)
        if other is not exposure:
            raise InputError(
                f"it repeats exposure {exposure.obsid} of {other.path}",
                path=exposure.path,
                remedy="give each exposure once: a copy is not a further measurement",
                value=exposure.obsid,
            )
        if exposure.led != first.led:
            raise InputError(
                f"its LED is {exposure.led or 'none'}, that of {first.path} is {first.led or 'none'}",
                path=exposure.path,
                remedy="stack the exposures of one LED at a time",
                value=exposure.led,
            )
        distances = [
            math.hypot(*(getattr(exposure, f"{axis}_{kind}_mm") - getattr(first, f"{axis}_{kind}_mm") for axis in "xy"))
            for kind in ("header", "folder")
        ]
        distance = max((each for each in distances if not math.isnan(each)), default=0.0)
        if distance > ExposuresConfig().same_position_mm:
            raise InputError(
                f"its projector is {distance:.1f} mm from the position of {first.path}",
                path=exposure.path,
                remedy="stack the exposures of one position at a time",
                value=distance,
            )


def _calibration(given: AnyCalibration, path: str | Path, camera: Camera) -> tuple[Calibration, IsrConfig]:
    """Return the calibration of the detector of a raw file, and the options of its section, or by default."""
    if isinstance(given, Calibration):
        return given, IsrConfig()
    options = make_section(IsrConfig, {"bias": "none"} | dict(given or {}))
    with RawFile(path, camera) as raw_file:
        detector = raw_file.detector
    return load_calibration(detector, camera, options), options
