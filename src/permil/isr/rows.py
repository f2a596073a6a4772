"""Where a segment lies on its detector, and how its counts become electrons."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from permil.camera import Amplifier
from permil.camera.frames import segment_to_detector
from permil.isr.linearity import LinearityCurve

FloatArray = NDArray[np.float64]


class Response(NamedTuple):
    """How the counts of an amplifier become electrons.

    ``knots``, ``coefficients``, ``limit``: see `LinearityCurve`; ``straight``: whether that changes nothing; ``gain``: electrons per
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


class Placement(NamedTuple):
    """Where the active pixels of a segment lie in the DM frame: row r in image row ``y_first + y_step * r``."""

    x_min: int
    n_columns: int
    flip_x: bool
    y_first: int
    y_step: int

    @classmethod
    def of(cls, amplifier: Amplifier) -> Placement:
        """Return the place of an amplifier."""
        x, y = segment_to_detector(amplifier, np.array([0, amplifier.nx - 1]), np.array([0, amplifier.ny - 1]))
        return cls(int(x.min()), amplifier.nx, bool(x[0] > x[1]), int(y[0]), 1 if y[1] > y[0] else -1)
