"""Gain of each amplifier, electrons per adu, and its change with the temperature of the readout board."""

from __future__ import annotations

import re
from dataclasses import dataclass
from os import PathLike
from pathlib import PurePath

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from permil.camera import Amplifier, Detector
from permil.errors import CalibrationError
from permil.isr.tables import PathName, amplifier_from_label, amplifier_rows, number, require_columns

FloatArray = NDArray[np.float64]
EOTEST_NAME = re.compile(r"(R\d\d)_(S[\dGW]\d?)_.*eotest_results\.fits$")
EOTEST_EXTENSION = "AMPLIFIER_RESULTS"


@dataclass(frozen=True)
class Gains:
    """Gains of the amplifiers of one detector, in the order of ``detector.amplifiers``.

    Parameters
    ----------
    gain
        Electrons per adu, shape (n_amplifiers,).
    gain_err
        Standard error, NaN where it is not known.
    source
        Where they come from: a file, ``nominal`` or ``none``.
    """

    gain: FloatArray
    gain_err: FloatArray
    source: str


def nominal_gains(detector: Detector) -> Gains:
    """Return the camera's nominal gains: stand-ins, not those of a run."""
    gain = np.array([amplifier.gain for amplifier in detector.amplifiers])
    return Gains(gain, np.full(gain.size, np.nan), "nominal")


def unit_gains(detector: Detector) -> Gains:
    """Return gains of 1: signals stay in adu."""
    size = len(detector.amplifiers)
    return Gains(np.ones(size), np.zeros(size), "none")


def gains_from_table(table: Table, detector: Detector, *, path: PathName = None) -> Gains:
    """Take the gains of a detector from a table with columns ``detector``, ``segment`` or ``amp``, ``gain`` (``gain_err``).

    Raises
    ------
    CalibrationError
        If a column or an amplifier is missing, given twice, or its gain is not a positive number.
    """
    require_columns(table, ("detector", "gain"), what="gain", path=path)
    found: dict[str, tuple[float, float]] = {}
    for amplifier, row in amplifier_rows(table, detector, what="gain", path=path):
        error = float(np.ma.filled(row["gain_err"], np.nan)) if "gain_err" in table.colnames else np.nan
        _add(found, detector, amplifier, number(row, "gain", what="gain", path=path), error, path)
    return _collect(found, detector, path)


def gains_from_eotest(table: Table, detector: Detector, *, column: str = "PTC_GAIN", path: PathName = None) -> Gains:
    """Take gains from the AMPLIFIER_RESULTS table of an eotest results file.

    Parameters
    ----------
    column
        ``GAIN`` (Fe55) or ``PTC_GAIN`` (photon transfer curve); the error is in the column ``<column>_ERROR``.

    Raises
    ------
    CalibrationError
        As `gains_from_table`.
    """
    require_columns(table, ("AMP", column), what="eotest", path=path)
    error_column = f"{column}_ERROR"
    found: dict[str, tuple[float, float]] = {}
    for row in table:
        amplifier = amplifier_from_label(detector, int(row["AMP"]), what="eotest", path=path, column="amp")
        error = float(row[error_column]) if error_column in table.colnames else np.nan
        _add(found, detector, amplifier, number(row, column, what="eotest", path=path), error, path)
    return _collect(found, detector, path)


def eotest_detector(path: str | PathLike[str]) -> str:
    """Return the detector that the name ``Rxx_Syy_<run>_eotest_results.fits`` tells.

    Raises
    ------
    CalibrationError
        If the name has another form.
    """
    match = EOTEST_NAME.search(PurePath(path).name)
    if match is None:
        raise CalibrationError(
            "the name of an eotest results file does not tell its detector",
            path=path,
            remedy="name it Rxx_Syy_<run>_eotest_results.fits",
        )
    return f"{match[1]}_{match[2]}"


def temperature_factor(temperature: float, *, coefficient: float, reference: float) -> float:
    """Return by what the gain (e-/adu) at a board temperature exceeds the gain at the reference temperature.

    ``gain(T) = gain(T_ref) * (1 + coefficient * (T - T_ref))``, temperatures in degree C.

    Raises
    ------
    CalibrationError
        If the temperature is not known or the factor is not positive.
    """
    factor = 1.0 + coefficient * (temperature - reference)
    if not np.isfinite(factor) or factor <= 0:
        raise CalibrationError(
            f"board temperature {temperature} gives the gain a factor of {factor}",
            remedy="check isr.temperature_card and isr.temperature_coefficient, or set the coefficient to 0",
            value=temperature,
        )
    return factor


def _add(
    found: dict[str, tuple[float, float]],
    detector: Detector,
    amplifier: Amplifier,
    gain: float,
    error: float,
    path: PathName,
) -> None:
    if amplifier.name in found:
        raise CalibrationError(
            f"the gain of {detector.name} {amplifier.name} is given twice",
            path=path,
            remedy="leave one row per amplifier",
            detector=detector.name,
            amplifier=amplifier.name,
        )
    if gain <= 0:
        raise CalibrationError(
            f"the gain of {detector.name} {amplifier.name} is {gain}",
            path=path,
            remedy="gains are positive electrons per adu",
            detector=detector.name,
            amplifier=amplifier.name,
            value=gain,
        )
    found[amplifier.name] = (gain, error)


def _collect(found: dict[str, tuple[float, float]], detector: Detector, path: PathName) -> Gains:
    missing = [amplifier.name for amplifier in detector.amplifiers if amplifier.name not in found]
    if missing:
        raise CalibrationError(
            f"there is no gain for detector {detector.name}, amplifier {', '.join(missing)}",
            path=path,
            remedy="add the rows, or set isr.gains to nominal or none",
            detector=detector.name,
            amplifier=missing,
        )
    gain, error = np.array([found[amplifier.name] for amplifier in detector.amplifiers]).T
    return Gains(gain, error, str(path))
