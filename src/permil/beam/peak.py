"""Maximum and centroid of the beam, with errors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from permil.arrays import FloatArray
from permil.beam.mixture import Mixture
from permil.beam.parameters import Hull

LATTICE = 41
REGION_LATTICE = 25
ZOOM_LATTICE = 11
ZOOM = 0.35
TOLERANCE_MM = 1e-7
DRAWS = 400
PLAUSIBLE_SIGMA = 5.0
CENTROID_LEVEL = 0.9


@dataclass(frozen=True)
class BeamPosition:
    """A position in beam coordinates with its error.

    Parameters
    ----------
    ux, uy : float
        Position minus projector, mm.
    covariance : ndarray, shape (2, 2)
        Covariance, mm^2.
    """

    ux: float
    uy: float
    covariance: FloatArray

    @property
    def ux_err(self) -> float:
        """Standard error of ``ux``, mm."""
        return float(np.sqrt(self.covariance[0, 0]))

    @property
    def uy_err(self) -> float:
        """Standard error of ``uy``, mm."""
        return float(np.sqrt(self.covariance[1, 1]))


def peak_of(mixture: Mixture, hull: Hull) -> tuple[FloatArray, float]:
    """Return position and value of the largest mean log signal inside the hull, by an iterated lattice search."""
    points = hull.lattice(LATTICE)
    half_width = 1.5 * (hull.upper - hull.lower) / (LATTICE - 1)
    step = np.linspace(-1.0, 1.0, ZOOM_LATTICE)
    shape = np.stack(np.meshgrid(step, step, indexing="ij"), axis=-1).reshape(-1, 2)
    peak, height = points[0], -np.inf
    while True:
        values = mixture.mean(points)
        if values.max() > height:
            peak, height = points[np.argmax(values)], float(values.max())
        if half_width.max() < TOLERANCE_MM:
            return peak, height
        points = peak + shape * half_width
        points = points[hull.contains(*points.T)]
        half_width = ZOOM * half_width


def maximum_of(mixture: Mixture, hull: Hull, *, seed: int) -> BeamPosition:
    """Return the position of the maximum, with an error that remains valid for a flat top.

    Its covariance is the mean square distance of the maxima of seeded draws from the posterior: if a linear propagation of
    errors fails, the draws still cover all possible positions of the maximum.
    """
    peak, height = peak_of(mixture, hull)
    lattice = np.vstack([hull.lattice(LATTICE), peak])
    mean, variance = mixture.mean_and_variance(lattice)
    plausible = lattice[mean > height - PLAUSIBLE_SIGMA * np.sqrt(variance + variance[-1])]
    margin = (hull.upper - hull.lower) / (LATTICE - 1)
    limits = zip(plausible.min(axis=0) - margin, plausible.max(axis=0) + margin, strict=True)
    axes = [np.linspace(low, high, REGION_LATTICE) for low, high in limits]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    inside = hull.contains(*points.T)
    draws = mixture.draw(points[inside], DRAWS, np.random.default_rng(seed))
    surfaces = np.full((len(draws), len(points)), -np.inf)
    surfaces[:, inside] = draws
    shape = (REGION_LATTICE, REGION_LATTICE)
    difference = np.array([_refined_maximum(surface.reshape(shape), axes) for surface in surfaces]) - peak
    return BeamPosition(float(peak[0]), float(peak[1]), difference.T @ difference / len(difference))


def centroid_of(mixture: Mixture, hull: Hull) -> BeamPosition:
    """Return the centroid of the beam above 0.9 of its maximum, weighted with the height above that, with its linear error.

    If that part reaches the edge of the scanned area, it is the centroid of the scanned part.
    """
    peak, log_height = peak_of(mixture, hull)
    lattice = hull.lattice(LATTICE)
    beam = np.exp(mixture.mean(lattice) - log_height)
    above = beam > CENTROID_LEVEL
    points, height = np.vstack([lattice[above], peak]), np.append(beam[above], 1.0)
    weight = height - CENTROID_LEVEL
    place = weight @ points / weight.sum()
    slope = (points - place) * height[:, None] / weight.sum()
    # The level is relative to the maximum, whose own error enters with the opposite sign.
    slope[-1] -= slope.sum(axis=0)
    covariance = slope.T @ mixture.covariance(points) @ slope
    return BeamPosition(float(place[0]), float(place[1]), covariance)


def _refined_maximum(values: FloatArray, axes: list[FloatArray]) -> FloatArray:
    """Return the position of the largest value of a lattice, refined by a parabola along each axis."""
    index = np.unravel_index(np.argmax(values), values.shape)
    place = np.empty(2)
    for dimension, axis in enumerate(axes):
        line = np.moveaxis(values, dimension, 0)[:, index[1 - dimension]]
        number = int(index[dimension])
        place[dimension] = axis[number]
        if 0 < number < axis.size - 1 and np.isfinite(line[number - 1 : number + 2]).all():
            before, at, after = line[number - 1 : number + 2]
            bend = before - 2.0 * at + after
            if bend < 0.0:
                place[dimension] += 0.5 * (before - after) / bend * (axis[1] - axis[0])
    return place
