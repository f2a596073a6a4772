"""Gain of each amplifier, electrons per adu, and its change with the temperature of the readout board."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path, PurePath
from typing import Protocol

import numpy as np
from astropy.table import Table

from permil.arrays import FloatArray, parse_unit
from permil.camera import Amplifier, Camera, Detector
from permil.config.isr import IsrConfig
from permil.errors import CalibrationError, InputError
from permil.exposures import RawDetector, RawFile
from permil.isr.calibration.tables import AMPLIFIER_COLUMNS, DetectorTable, amplifier_of
from permil.products import read_table, shared_table, write_table
from permil.products.tables import PathName, labels, numbers, recognise

EOTEST_NAME = re.compile(r"(R\d\d)[-_]?(S[\dGW]\d?)[-_].*eotest_results\.fits(?:\.gz)?$", re.IGNORECASE)
EOTEST_FILE = re.compile(r"eotest_results\.fits(?:\.gz)?$", re.IGNORECASE)
EOTEST_EXTENSION = "AMPLIFIER_RESULTS"
_UNIT = "electron/adu"
# No readout has a gain that differs from the nominal one by this factor: the number has another unit, or is no gain.
_LARGEST_FACTOR = 100.0
_OTHER_NAMES = {"gain_err": ("err", "error", "sigma", "std", "uncertainty", "sigma_gain", "gain_sigma", "gain_std")}


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
    """Return the nominal gains of the camera, which are approximate."""
    gain = np.array([amplifier.gain for amplifier in detector.amplifiers])
    return Gains(gain, np.full(gain.size, np.nan), "nominal")


def unit_gains(detector: Detector) -> Gains:
    """Return gains of 1, so that signals stay in adu."""
    size = len(detector.amplifiers)
    return Gains(np.ones(size), np.zeros(size), "none")


def gains_from_table(table: Table, detector: Detector, *, path: PathName = None, camera: Camera | None = None) -> Gains:
    """Return the gains of a detector from a table with columns ``detector``, ``segment`` or ``amp``, ``gain`` (``gain_err``).

    Gains are in electron/adu. A table in adu/electron is inverted, with its errors; a masked error is NaN (not known).

    Raises
    ------
    CalibrationError
        If a column or an amplifier is missing, given twice, a gain is not a positive number or far from the nominal one, an error is
        negative, or a unit cannot be converted.
    """
    own = DetectorTable(
        table,
        detector,
        what="gain",
        path=path,
        camera=camera,
        needed=("gain",),
        optional=("gain_err", *AMPLIFIER_COLUMNS),
        hints=_OTHER_NAMES,
    )
    found: dict[str, tuple[float, float]] = {}
    if len(own):
        unit = _declared_unit(own)
        gain = own.numbers("gain", unit=unit)
        error = own.numbers("gain_err", unit=unit, unknown=True) if own.has("gain_err") else np.full(len(own), np.nan)
        for place, amplifier in enumerate(own.amplifiers()):
            if error[place] < 0:
                raise own.error(f"holds the error {error[place]:g} in column gain_err", place, remedy="give a standard deviation")
            _add(found, detector, amplifier, gain[place], error[place], path, is_inverse=unit != _UNIT)
    return _collect(found, detector, path)


def _declared_unit(own: DetectorTable) -> str:
    """Return electron/adu, or adu/electron if the table declares that unit."""
    units = [unit for name in ("gain", "gain_err") if own.has(name) and (unit := own.unit(name)) is not None]
    inverse = parse_unit("adu/electron")
    if not units or inverse is None or not units[0].is_equivalent(inverse):
        return _UNIT
    return "adu/electron"


def gains_from_eotest(table: Table, detector: Detector, *, column: str = "PTC_GAIN", path: PathName = None) -> Gains:
    """Return gains from the AMPLIFIER_RESULTS table of an eotest results file.

    Parameters
    ----------
    column
        ``GAIN`` (Fe55) or ``PTC_GAIN`` (photon transfer curve); the error is in the column ``<column>_ERROR``.

    Raises
    ------
    CalibrationError
        As `gains_from_table`.
    """
    error_column = f"{column}_ERROR"
    table = recognise(table, needed=("AMP", column), purpose="eotest table", path=path, error=CalibrationError)
    try:
        gain = numbers(table, column, unit=_UNIT, path=path)
        error = numbers(table, error_column, unit=_UNIT, default=np.nan, path=path)
        named = labels(table, "AMP", path=path)
    except InputError as problem:
        raise CalibrationError(f"the eotest table: {problem.what}", path=path, remedy=problem.remedy, **problem.data) from problem
    found: dict[str, tuple[float, float]] = {}
    for row, label in enumerate(named):
        amplifier = amplifier_of(detector, label, segment=False)
        if amplifier is None:
            raise CalibrationError(
                f"the eotest table names amplifier {label or 'nothing'!r} in row {row + 1}, which detector {detector.name} does not have",
                path=path,
                remedy=f"its amplifiers are 1 to {len(detector.amplifiers)}",
                value=label,
                row=row + 1,
                detector=detector.name,
            )
        if not np.isfinite(gain[row]):
            raise CalibrationError(
                f"the eotest table holds no finite number in column {column}, row {row + 1}",
                path=path,
                remedy="use the gains of another column (isr.gain_column) or file",
                row=row + 1,
                detector=detector.name,
            )
        _add(found, detector, amplifier, gain[row], error[row] if error[row] >= 0 else np.nan, path)
    return _collect(found, detector, path)


def eotest_detector(path: str | PathLike[str]) -> str:
    """Return the detector in a file name ``Rxx_Syy_<run>_eotest_results.fits``.

    Raises
    ------
    CalibrationError
        If the name has another form.
    """
    match = EOTEST_NAME.search(PurePath(path).name)
    if match is None:
        raise CalibrationError(
            "the name of an eotest results file does not contain its detector",
            path=path,
            remedy="name it Rxx_Syy_<run>_eotest_results.fits",
        )
    return f"{match[1]}_{match[2]}".upper()


def temperature_factor(temperature: float, *, coefficient: float, reference: float) -> float:
    """Return the ratio of the gain (e-/adu) at a board temperature to the gain at the reference temperature.

    ``gain(T) = gain(T_ref) * (1 + coefficient * (T - T_ref))``, temperatures in degree C.

    Raises
    ------
    CalibrationError
        If the temperature is not known or the factor is not positive.
    """
    factor = 1.0 + coefficient * (temperature - reference)
    if not np.isfinite(factor) or factor <= 0:
        raise CalibrationError(
            f"board temperature {temperature} changes the gain by a factor of {factor}",
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
    *,
    is_inverse: bool = False,
) -> None:
    """Add the gain of an amplifier, in adu per electron if it is inverse.

    Raises
    ------
    CalibrationError
        If it is given twice, is not positive, or differs from the nominal gain by a factor that no readout has.
    """

    def refused(what: str, remedy: str, **data: float) -> CalibrationError:
        text = f"the gain of {detector.name} {amplifier.name} is {what}"
        return CalibrationError(text, path=path, remedy=remedy, detector=detector.name, amplifier=amplifier.name, **data)

    if amplifier.name in found:
        raise refused("given twice", "leave one row per amplifier")
    if gain <= 0:
        raise refused(f"{gain}", "gains are positive electrons per adu", value=gain)
    if is_inverse:
        gain, error = 1.0 / gain, error / gain**2
    if not 1.0 / _LARGEST_FACTOR < gain / amplifier.gain < _LARGEST_FACTOR:
        raise refused(
            f"{gain:g} electrons per adu, but nominally {amplifier.gain:g}",
            "give it in electrons per adu, or declare the unit of the column",
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


def read_gains(config: IsrConfig, detector: Detector, *, camera: Camera | None = None) -> Gains:
    """Return the gains of a detector from the source that the configuration names.

    Parameters
    ----------
    camera
        Camera whose detectors a table may name.

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
    path = eotest_path(Path(config.gains), detector)
    if not EOTEST_FILE.search(path.name):
        table = shared_table(path, columns=("detector", "gain"), purpose="gain table")
        return gains_from_table(table, detector, path=path, camera=camera)
    named = eotest_detector(path)
    if named != detector.name:
        raise CalibrationError(
            f"the eotest results are for {named}, not for detector {detector.name}",
            path=path,
            remedy="give the folder that holds the results of all detectors",
            detector=detector.name,
        )
    table = read_table(path, columns=("AMP",), purpose="table of eotest results", extension=EOTEST_EXTENSION)
    return gains_from_eotest(table, detector, column=config.gain_column, path=path)


def eotest_path(source: Path, detector: Detector) -> Path:
    """Return the eotest results of a detector: a file, or the one of the detector in a folder.

    Raises
    ------
    CalibrationError
        If the folder has none or several.
    """
    if not source.is_dir():
        return source
    found = [
        path
        for path in sorted(source.iterdir())
        if (match := EOTEST_NAME.search(path.name)) and f"{match[1]}_{match[2]}".upper() == detector.name
    ]
    if len(found) != 1:
        problem = "no eotest results file" if not found else f"{len(found)} eotest results files"
        raise CalibrationError(
            f"there is {problem} of detector {detector.name}",
            path=source,
            remedy=f"keep one file {detector.name}_<run>_eotest_results.fits there",
            detector=detector.name,
        )
    return found[0]


def write_gains_table(path: Path, gains: Mapping[str, Gains], camera: Camera) -> None:
    """Write the gains in use, one row per detector and amplifier; ``isr.gains`` accepts the table.

    Raises
    ------
    OutputError
        If the table cannot be written.
    """
    rows = [
        (name, amplifier.name, gain, error, taken.source)
        for name, taken in gains.items()
        for amplifier, gain, error in zip(camera[name].amplifiers, taken.gain, taken.gain_err, strict=True)
    ]
    table = Table(
        rows=rows or None, names=("detector", "amp", "gain", "gain_err", "source"), dtype=("U16", "U8", "f8", "f8", "U256")
    )
    for column in ("gain", "gain_err"):
        table[column].unit = "electron / adu"
    write_table(path, table)


_BOARD_SENSORS = tuple(f"TEMP{number}" for number in range(1, 7))


class TemperatureOptions(Protocol):
    """Options of the board temperature: `permil.isr.Calibration` has them, and the section ``isr`` of the configuration."""

    @property
    def temperature_coefficient(self) -> float:
        """Relative change of the gain, 1/K; 0 if the gain is not corrected."""

    @property
    def temperature_card(self) -> str | Sequence[str]:
        """One or more cards of the readout board, or ``mean`` of TEMP1 to TEMP6."""


def board_temperature(raw: RawFile | RawDetector, options: TemperatureOptions) -> float | None:
    """Return the temperature for the gain, degree C; None if the gain is not corrected.

    All sensors of ``isr.temperature_card`` must have a possible temperature: a mean over changing sets of sensors would jump from
    one exposure to the next.

    Raises
    ------
    InputError
        If the temperature of a sensor is missing, undefined or impossible, or all sensors read exactly 0.
    """
    if options.temperature_coefficient == 0:
        return None
    cards, names = raw.readout_board, _board_sensors(options)
    remedy = "name sensors that work in all exposures in isr.temperature_card, or set isr.temperature_coefficient to 0"
    if cards is None:
        raise InputError("there is no board temperature: no extension REB_COND", path=raw.path, remedy=remedy)
    temperatures = {name: cards.temperature(name) for name in names}
    broken = [name for name, temperature in temperatures.items() if math.isnan(temperature)]
    if broken:
        reasons = [cards.problems.get(name, f"card {name} is missing or undefined") for name in broken]
        raise InputError(f"there is no board temperature: {', '.join(reasons)}", path=raw.path, remedy=remedy, sensors=broken)
    if len(names) > 1 and not any(temperatures.values()):
        raise InputError(
            f"there is no board temperature: {', '.join(names)} are all exactly 0",
            path=raw.path,
            remedy=remedy,
            sensors=list(names),
        )
    return float(np.mean(list(temperatures.values())))


def board_thermometers(raw: RawFile | RawDetector, options: TemperatureOptions) -> tuple[float, ...]:
    """Return the temperatures of the sensors of ``isr.temperature_card``, degree C; NaN for a missing one, or if all are exactly 0."""
    cards, names = raw.readout_board, _board_sensors(options)
    temperatures = tuple(math.nan if cards is None else cards.temperature(name) for name in names)
    return temperatures if len(names) == 1 or any(temperatures) else (math.nan,) * len(names)


def _board_sensors(options: TemperatureOptions) -> tuple[str, ...]:
    wanted = options.temperature_card
    return _BOARD_SENSORS if wanted == "mean" else (wanted,) if isinstance(wanted, str) else tuple(wanted)
