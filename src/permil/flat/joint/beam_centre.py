"""Where the beam of a joint solution is."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from permil.errors import FlatError
from permil.flat.joint.solution import JointSolution

FloatArray = NDArray[np.float64]

LEVEL = 0.9
"""The centre is the centroid of the beam above this fraction of its maximum, weighted with the height above it."""

_STEP_MM = 0.5
_DRAWS = 200


def beam_centre(solution: JointSolution, *, seed: int = 0) -> tuple[FloatArray, FloatArray]:
    """Return the centre of the beam in its own coordinates (mm) and its covariance, from draws of the posterior.

    A stage offset is a shift of these coordinates; the centre moves by it. Where the part above the level reaches the edge of
    what was lit it is the centroid of what was lit.

    Raises
    ------
    FlatError
        If the beam is nowhere within the area of the signals.
    """
    (grid, coefficients), where = solution.model.beam(solution.vector), solution.model.pattern_slices[0]
    axes = [np.arange(low, high, _STEP_MM) for low, high in zip(grid.lower, grid.upper, strict=True)]
    x, y = (part.ravel() for part in np.meshgrid(*axes, indexing="ij"))
    logarithm = solution.log_beam(x, y)
    if not np.isfinite(logarithm).any():
        raise FlatError("the beam is not defined anywhere", remedy="check positions")
    # Only places that may lie above the level in some draw matter.
    near = logarithm > np.nanmax(logarithm) + np.log(LEVEL) - 0.05
    x, y = x[near], y[near]
    design = grid.design(x, y)
    whole = design @ coefficients
    of_pattern = design if solution.model.details is None else design @ solution.model.details.prolongation
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((solution.model.size, _DRAWS))
    draws = linalg.solve_triangular(solution.factor, noise, lower=True, trans="T")[where]
    centre = centroid(x, y, np.exp(whole))
    beams = np.exp(whole[:, None] + of_pattern @ (draws - draws.mean(axis=0)))
    offsets = np.array([centroid(x, y, beam) for beam in beams.T]) - centre
    return centre, offsets.T @ offsets / _DRAWS


def centroid(x: FloatArray, y: FloatArray, beam: FloatArray) -> FloatArray:
    """Return the centroid of a beam on a regular lattice above 0.9 of its maximum, weighted with the height above that."""
    height = np.maximum(beam - LEVEL * np.nanmax(beam), 0.0)
    return np.array([np.nansum(height * x), np.nansum(height * y)]) / np.nansum(height)
