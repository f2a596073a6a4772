"""Linearity: from measured adu to adu that are proportional to the light, per amplifier."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from astropy.table import Table
from numpy.typing import ArrayLike
from scipy.interpolate import PchipInterpolator

from permil.arrays import FloatArray, plain_array
from permil.camera import Camera, Detector
from permil.errors import CalibrationError
from permil.isr.calibration.tables import AMPLIFIER_COLUMNS, DetectorTable
from permil.products.tables import PathName

# No amplifier is further from linear below saturation: the column has another unit, or is not a linearity.
_LARGEST_CHANGE = 0.5
# Coefficients of polynomials of another form.
_COEFFICIENT = re.compile(r"[ac]_?\d+|p_?\d+", re.IGNORECASE)


@dataclass(frozen=True)
class LinearityCurve:
    """Piecewise polynomial from measured adu (overscan, bias and crosstalk subtracted) to linear adu.

    Parameters
    ----------
    knots
        Start of each piece, adu, ascending, shape (n,). The last piece has no end; below the first knot the curve is linear.
    coefficients
        Shape (n, 4): ``c0 + c1 t + c2 t^2 + c3 t^3`` with ``t = adu - knot``.
    limit
        Largest adu for which the curve was measured.
    """

    knots: FloatArray
    coefficients: FloatArray
    limit: float

    @classmethod
    def identity(cls) -> LinearityCurve:
        """Return the identity curve."""
        return cls.quadratic(0.0)

    @classmethod
    def quadratic(cls, a1: float) -> LinearityCurve:
        """Return ``corrected = adu * (1 + a1 * adu)``."""
        return cls(np.zeros(1), np.array([[0.0, 1.0, a1, 0.0]]), np.inf)

    @classmethod
    def through(cls, adu: ArrayLike, corrected_adu: ArrayLike) -> LinearityCurve:
        """Return the monotone cubic (PCHIP, Fritsch & Butland 1984) through knots; (0, 0) is added when the knots start above 0.

        Raises
        ------
        CalibrationError
            If there are fewer than two knots or they do not rise.
        """
        measured = plain_array(adu, name="adu", unit="adu", ndim=1)
        corrected = plain_array(corrected_adu, name="corrected_adu", unit="adu", shape=measured.shape)
        order = np.argsort(measured, kind="stable")
        measured, corrected = measured[order], corrected[order]
        if measured.size and measured[0] > 0:
            measured, corrected = np.concatenate([[0.0], measured]), np.concatenate([[0.0], corrected])
        if measured.size < 2 or not (np.all(np.diff(measured) > 0) and np.all(np.diff(corrected) > 0)):
            raise CalibrationError(
                "the knots of a linearity curve do not increase",
                remedy="give at least one knot above 0, each larger than the one before in adu and corrected_adu",
                value=(measured.tolist(), corrected.tolist()),
            )
        interpolator = PchipInterpolator(measured, corrected)
        slope = float(interpolator(measured[-1], 1))
        pieces = np.vstack([interpolator.c[::-1].T, [corrected[-1], slope, 0.0, 0.0]])
        return cls(measured, np.ascontiguousarray(pieces), float(measured[-1]))

    def __call__(self, adu: ArrayLike) -> FloatArray:
        """Return corrected adu, same shape."""
        measured = plain_array(adu, name="adu", unit="adu")
        piece = np.maximum(np.searchsorted(self.knots, measured, side="right") - 1, 0)
        step, c = measured - self.knots[piece], np.moveaxis(self.coefficients[piece], -1, 0)
        return np.where(step < 0, c[0] + c[1] * step, c[0] + step * (c[1] + step * (c[2] + step * c[3])))


class Response(NamedTuple):
    """Conversion of the counts of an amplifier to electrons.

    ``knots``, ``coefficients``, ``limit``: see `LinearityCurve`; ``straight``: whether the curve is the identity; ``gain``: electrons per
    adu; ``saturation``: electrons from which a pixel is saturated.
    """

    knots: FloatArray
    coefficients: FloatArray
    limit: float
    straight: bool
    gain: float
    saturation: float

    @classmethod
    def of(cls, curve: LinearityCurve, gain: float, saturation: float) -> Response:
        """Return the response with a linearity curve."""
        straight = curve.knots.tolist() == [0.0] and curve.coefficients.tolist() == [[0.0, 1.0, 0.0, 0.0]]
        return cls(curve.knots, curve.coefficients, float(curve.limit), straight, float(gain), float(saturation))


def linearity_from_table(
    table: Table, detector: Detector, *, path: PathName = None, camera: Camera | None = None
) -> tuple[LinearityCurve, ...]:
    """Return the curves of a detector from a table: one row per amplifier with ``a1``, or one row per knot (``adu, corrected_adu``).

    ``a1`` is in 1/adu, knots in adu; other units are converted.

    Returns
    -------
    tuple of LinearityCurve
        In the order of ``detector.amplifiers``.

    Raises
    ------
    CalibrationError
        If columns or an amplifier are missing, there are further coefficients, knots do not rise, a knot or a1 is given twice, a unit
        cannot be converted, or a curve changes the signal of saturation by half or more.
    """
    own = DetectorTable(
        table,
        detector,
        what="linearity",
        path=path,
        camera=camera,
        optional=("a1", "adu", "corrected_adu", *AMPLIFIER_COLUMNS),
    )
    by_knots = own.has("adu") and own.has("corrected_adu")
    if by_knots == own.has("a1"):
        problem = "both a column a1 and" if by_knots else "neither a column a1 nor"
        raise CalibrationError(
            f"the linearity table has {problem} the columns adu and corrected_adu",
            path=path,
            remedy=f"give one of the two; its columns are {', '.join(table.colnames)}",
        )
    further = [name for name in table.colnames if _COEFFICIENT.fullmatch(name.strip()) and name.strip().lower() != "a1"]
    if further:
        raise CalibrationError(
            f"the linearity table has a column {further[0]!r}, which would be ignored: a1 is the only coefficient",
            path=path,
            remedy="give a curve of another form by knots (adu, corrected_adu)",
            value=further,
        )
    columns = {"adu": "adu", "corrected_adu": "adu"} if by_knots else {"a1": "1/adu"}
    rows: dict[str, list[list[float]]] = {}
    if len(own):
        values = np.column_stack([own.numbers(name, unit=unit) for name, unit in columns.items()])
        for place, amplifier in enumerate(own.amplifiers()):
            given = rows.setdefault(amplifier.name, [])
            if given and (not by_knots or values[place, 0] in [knot[0] for knot in given]):
                what = f"the knot at {values[place, 0]:g} adu" if by_knots else "a1"
                raise own.error(f"gives {what} of {amplifier.name} twice", place, remedy="leave one of the rows")
            given.append(values[place].tolist())
    missing = [amplifier.name for amplifier in detector.amplifiers if amplifier.name not in rows]
    if missing:
        raise CalibrationError(
            f"there is no linearity curve for detector {detector.name}, amplifier {', '.join(missing)}",
            path=path,
            remedy="add the rows (a1 = 0 changes nothing), or set isr.linearity to none",
            detector=detector.name,
            amplifier=missing,
        )
    return tuple(_curve(rows[amplifier.name], detector, amplifier.name, path) for amplifier in detector.amplifiers)


def _curve(rows: list[list[float]], detector: Detector, amplifier: str, path: PathName) -> LinearityCurve:
    if len(rows[0]) == 1:
        curve = LinearityCurve.quadratic(rows[0][0])
    else:
        try:
            curve = LinearityCurve.through(*np.array(rows).T)
        except CalibrationError as error:
            raise CalibrationError(
                f"{error.what} ({detector.name} {amplifier})", path=path, remedy=error.remedy, **error.data
            ) from None
    nominal = detector.amplifier(amplifier)
    largest = min(curve.limit, nominal.saturation / nominal.gain)
    change = float(curve(largest)) / largest - 1.0 if largest > 0 else 0.0
    if abs(change) >= _LARGEST_CHANGE:
        raise CalibrationError(
            f"the linearity of {detector.name} {amplifier} maps {largest:.0f} adu to {largest * (1.0 + change):.0f}",
            path=path,
            remedy="give a1 in 1/adu, or adu and corrected_adu in one unit; other units must be declared",
            value=change,
        )
    return curve
