"""The light of one LED against that of another: the colour of the beam, a function of the place in it alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from permil.arrays import FloatArray

Beam = Callable[[FloatArray], FloatArray]

_PLATEAU = 0.8
"""Part of its maximum that each beam must have where the two are compared."""
_STEP_MM = 1.0


@dataclass(frozen=True)
class LightGradient:
    """Colour of the beam.

    Attributes
    ----------
    value : ndarray, shape (2,)
        Gradient of the logarithm of the ratio of two beams along CCS X and Y, 1/mm.
    rms : float
        Of what is left of it on the plateau, relative: colour of the light beyond a gradient.
    """

    value: FloatArray
    rms: float


def light_gradient(log_beams: tuple[Beam, Beam], lower: FloatArray, upper: FloatArray) -> LightGradient | None:
    """Return the gradient of the ratio of two beams where both have at least 0.8 of their maximum; None if nowhere.

    Parameters
    ----------
    log_beams
        Give the logarithm of a beam at points (n, 2), mm; NaN where there is no data.
    lower, upper : ndarray, shape (2,)
        Corners of the area in which both are known.
    """
    axes = [np.arange(low, high, _STEP_MM) for low, high in zip(lower, upper, strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    if not len(points):
        return None
    beams = np.array([log_beam(points) for log_beam in log_beams])
    known = np.isfinite(beams).all(axis=0)
    if not known.any():
        return None
    top = np.max(beams[:, known], axis=1, keepdims=True)
    used = known & (beams > top + np.log(_PLATEAU)).all(axis=0)
    if used.sum() < 3:
        return None
    design = np.column_stack([np.ones(used.sum()), points[used]])
    ratio = beams[0, used] - beams[1, used]
    fitted = np.linalg.lstsq(design, ratio)[0]
    return LightGradient(fitted[1:], float(np.std(ratio - design @ fitted)))
