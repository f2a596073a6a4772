"""Products on the page of a joint solution: its file, the fitted signals, and the index of exposures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from astropy.io import fits
from astropy.table import Table

from permil.arrays import BoolArray, Float32Array, FloatArray
from permil.beam.model import SplineTable
from permil.errors import InputError
from permil.flat.joint.file import DetectorErrors, errors_in, open_joint, read_light
from permil.flat.joint.light import JointLight
from permil.flat.joint.residuals import JointResiduals, joint_residuals
from permil.products import RunFolder, read_table

if TYPE_CHECKING:
    from permil.camera import Camera


_AGAIN = "make the flat again"
_CARDS = (
    "NEXPOSUR",
    "NLEFTOUT",
    "NSIGNAL",
    "NUNKNOWN",
    "PASSES",
    "DECREMEN",
    "DECRETOL",
    "GRADNORM",
    "REDCHI2",
    "KNOTS",
    "LEASTSIG",
)
_EXPOSURE_COLUMNS = (
    "obsid", "time", "x_mm", "y_mm", "fitted_x_mm", "fitted_y_mm", "photodiode", "scale", "scale_err", "deviation", "chi_square",
    "shift_x_mm", "shift_y_mm", "shift_x_err_mm", "shift_y_err_mm", "left_out", "finding",
)  # fmt: skip
_TERM_COLUMNS = ("term", "error", "unit", "meaning")


@dataclass(frozen=True)
class Term:
    """A term of the error budget, with its error (relative or in ``unit``) and meaning."""

    error: float
    unit: str
    meaning: str


@dataclass(frozen=True)
class DetectorShare:
    """Correlated errors of the super-pixels of one detector: the error of its level (relative), modes and remainder.

    ``modes`` has the shape (k, rows, columns), each mode in the size of one standard deviation; ``remainder`` is the variance of all
    further modes.
    """

    level_error: float
    modes: Float32Array
    remainder: Float32Array

    @property
    def common_rms(self) -> float:
        """Root mean square over super-pixels of their correlated error."""
        # Super-pixels without a response have neither modes nor remainder.
        variance = np.square(self.modes, dtype=np.float64).sum(axis=0) + self.remainder
        known = variance > 0
        return float(np.sqrt(variance[known].mean())) if known.any() else float("nan")


@dataclass(frozen=True)
class JointProducts:
    """The joint solution of one LED.

    Attributes
    ----------
    header
        Primary header of its file.
    exposures
        One row for each exposure; the columns ``purpose`` and ``led_temp`` are from the index, "" and NaN if missing there.
    in_hours
        Whether the column ``time`` is MJD, not the number of the exposure.
    budget
        Terms of the error budget by name, in order.
    drift
        Hypotheses of the photodiode's drift: amplitude, length, probability.
    light
        Beam, and reflection if fitted.
    detectors
        Correlated errors by detector name.
    residuals
        Residuals of the signals, None if these were removed.
    boards
        Readout boards: coefficient, change in time; None where there are none.
    gain_steps
        Steps of amplifiers with the column ``segment``, the amplifier's name; None where there are none.
    """

    led: str
    header: fits.Header
    exposures: Table
    in_hours: bool
    budget: Mapping[str, Term]
    drift: Table
    light: JointLight
    detectors: Mapping[str, DetectorShare]
    residuals: JointResiduals | None
    boards: Table | None = None
    gain_steps: Table | None = None

    def card(self, name: str) -> float:
        """Return a card as a number, NaN if it is missing."""
        return float(self.header.get(name, np.nan))

    def error_of(self, term: str) -> float:
        """Return the error of a term of the budget, NaN if the budget lacks it."""
        return self.budget[term].error if term in self.budget else float("nan")

    def column(self, name: str) -> FloatArray:
        """Return a column of the exposures as numbers."""
        return np.asarray(self.exposures[name], dtype=np.float64)

    @property
    def left_out(self) -> BoolArray:
        """Mask of excluded exposures."""
        return np.asarray(self.exposures["left_out"], dtype=bool)

    @property
    def unused_reading(self) -> BoolArray:
        """Mask of exposures with an unused photodiode reading."""
        return np.isfinite(self.column("photodiode")) & ~np.isfinite(self.column("deviation")) & self.has_photodiode

    @property
    def deviations(self) -> tuple[FloatArray, FloatArray]:
        """Photodiode over scale minus 1 and its error, also for unused readings; NaN without a reading."""
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = np.log(self.column("photodiode") / self.column("scale"))
        known = np.isfinite(self.column("deviation"))
        if known.any():
            # The deviations in the product have a mean of 0.
            ratio -= np.mean(ratio[known])
        # Scales of excluded exposures have no error: only the error of the reading remains.
        return np.expm1(ratio), np.hypot(self.error_of("photodiode"), np.nan_to_num(self.column("scale_err")))

    @property
    def has_photodiode(self) -> bool:
        """Whether readings of the photodiode were fitted."""
        return "photodiode" in self.budget

    @property
    def beam(self) -> SplineTable:
        """Logarithm of the beam, 0 at its maximum."""
        return self.light.tables[0][0]

    @property
    def reflection(self) -> SplineTable | None:
        """Logarithm of the reflected pattern, None if none was fitted."""
        return next((table for table, sign in self.light.tables if sign > 0), None)


def solution_path(folder: RunFolder, led: str, detectors: Sequence[str]) -> Path | None:
    """Return the file of the joint solution of an LED, None if there is none or the flats were later made by another solver.

    Parameters
    ----------
    detectors
        Names of the detectors with a flat.

    Raises
    ------
    InputError
        If a flat cannot be read.
    """
    path = folder.joint(led)
    if not path.is_file():
        return None
    for flat in (folder.flat(led, name) for name in detectors):
        try:
            if fits.getheader(flat, 0).get("SOLVER") == "joint":
                return path
        except (OSError, ValueError) as error:
            raise InputError(f"cannot be read as a flat ({error})", path=flat, remedy="make the flat again") from error
    return None if detectors else path


def read_joint(folder: RunFolder, camera: Camera, led: str) -> JointProducts:
    """Read the joint solution of one LED, with the residuals of its signals.

    Raises
    ------
    InputError
        If a file is missing or damaged.
    """
    products = read_solution(folder, camera, led)
    files = [folder.super_pixels(led, name) for name in products.detectors]
    if not all(path.is_file() for path in files):
        return products
    least, threshold = products.card("LEASTSIG"), products.card("THRESHLD")
    residuals = joint_residuals(products.light, files, least_signal=least, threshold=threshold)
    for name, found in residuals.detectors.items():
        if found.error.shape != products.detectors[name].remainder.shape:
            raise InputError(
                f"has {found.error.shape} super-pixels, but the joint solution has {products.detectors[name].remainder.shape}",
                path=folder.super_pixels(led, name),
                remedy=_AGAIN,
            )
    return JointProducts(**{**vars(products), "residuals": residuals})


def read_solution(folder: RunFolder, camera: Camera, led: str) -> JointProducts:
    """Read the joint solution of one LED without its signals.

    Raises
    ------
    InputError
        If its file is missing or damaged.
    """
    path = folder.joint(led)
    if not path.is_file():
        raise InputError("the joint solution does not exist", path=path, remedy=_AGAIN)
    light = read_light(path)
    with open_joint(path) as hdus:
        header = hdus[0].header.copy()
        tables = {name: Table(hdus[name].data) for name in ("EXPOSURES", "DRIFT", "BUDGET")}
        boards, steps = (Table(hdus[name].data) if name in hdus else None for name in ("BOARDS", "GAIN_STEPS"))
        errors = errors_in(hdus)
    detectors = {name: _share(errors[name]) for name in camera.detectors if name in errors}
    columns = {"EXPOSURES": _EXPOSURE_COLUMNS, "BUDGET": _TERM_COLUMNS, "DRIFT": ("amplitude", "length", "probability")}
    missing = [f"column {name} of {table}" for table in columns for name in columns[table] if name not in tables[table].colnames]
    missing += [f"card {name}" for name in _CARDS if name not in header]
    missing += [] if light.tables and light.tables[0][1] < 0 else ["extension BEAM"]
    missing += [] if detectors else ["row DETECTORS of any detector of the camera"]
    if missing:
        raise InputError(f"is not a complete joint solution: {', '.join(missing)} missing", path=path, remedy=_AGAIN)
    if steps is not None:
        steps["segment"] = [camera[row["detector"]].amplifiers[row["amplifier"]].name for row in steps]
    exposures, in_hours = _with_index(tables["EXPOSURES"], folder.exposures)
    budget = {
        str(row["term"]).strip(): Term(float(row["error"]), str(row["unit"]).strip(), str(row["meaning"]).strip())
        for row in tables["BUDGET"]
    }
    return JointProducts(led, header, exposures, in_hours, budget, tables["DRIFT"], light, detectors, None, boards, steps)


def mode_sizes(products: JointProducts) -> FloatArray:
    """Return the root mean square of each mode over all super-pixels with a response."""
    total, count = 0.0, 0
    for share in products.detectors.values():
        known = share.remainder > 0
        total = total + np.square(share.modes[:, known], dtype=np.float64).sum(axis=1)
        count += int(known.sum())
    return np.sqrt(np.atleast_1d(total) / max(count, 1))


def _share(errors: DetectorErrors) -> DetectorShare:
    # The level is the mean over positions with a response.
    covariance = errors.covariance
    level = float(np.nanmean(covariance)) if np.isfinite(covariance).any() else float("nan")
    return DetectorShare(max(level, 0.0) ** 0.5, errors.modes, errors.remainder)


def _with_index(exposures: Table, index: Path) -> tuple[Table, bool]:
    """Return the exposures with purpose and temperature from the index, and whether their time is MJD."""
    obsids = [str(obsid).strip() for obsid in exposures["obsid"]]
    exposures["obsid"] = obsids
    exposures["finding"] = [str(finding).strip() for finding in exposures["finding"]]
    exposures["purpose"] = np.full(len(exposures), "", dtype="U16")
    exposures["led_temp"] = np.full(len(exposures), np.nan)
    if not index.is_file():
        return exposures, False
    rows = read_table(index)
    row_of = {str(obsid): number for number, obsid in enumerate(rows["obsid"])} if "obsid" in rows.colnames else {}
    known = [(number, row_of[obsid]) for number, obsid in enumerate(obsids) if obsid in row_of]
    for name in ("purpose", "led_temp"):
        if name in rows.colnames:
            for number, row in known:
                exposures[name][number] = rows[name][row]
    mjd = np.array([float(rows["mjd"][row]) for _, row in known]) if "mjd" in rows.colnames else np.zeros(0)
    return exposures, len(known) == len(exposures) and bool(np.isfinite(mjd).all())
