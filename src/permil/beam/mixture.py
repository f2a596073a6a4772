"""The log of the beam with its error, its maximum and its centroid: weighted mixture of the posteriors of the kernel families.

The predicted variances of a family are multiplied by the mean square of its left-out pulls (the cross-validated scale of kriging;
Cressie 1993, Statistics for Spatial Data, section 2.6.4). A node is predicted across a hole of the size of those between the nodes of the
scan: on a square grid only the node itself is left out; on a grid that is fine in one direction only, its neighbours along that direction
are also left out, since they constrain structure along it, not across it (Roberts et al. 2017, Ecography 40, 913).

The families are then weighted by stacking of predictive distributions (Yao, Vehtari, Simpson & Gelman 2018, Bayesian Analysis 13, 917):
the weights maximise the product over nodes of the leave-one-out density of the mixture. A Dirichlet prior keeps most of the weight on
the cubic spline while few nodes cannot distinguish the families: it makes the weakest assumptions, and performs well on all tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist

from permil.arrays import BoolArray, FloatArray
from permil.beam.gaussian_process import GaussianProcess, LeaveOneOut
from permil.beam.nodes import BeamNodes
from permil.beam.parameters import BeamParameters, Hull, centres_of, hole_of, observations_of, spacing_of
from permil.engine import threaded_map

FEWEST_INTERIOR = 8
ITERATIONS = 500


def calibration_nodes(hull: Hull, extra_variance: FloatArray) -> BoolArray:
    """Return the nodes used for calibration: not down-weighted, and inside the hull of the others (unless too few remain)."""
    use = extra_variance == 0.0
    inside = use.copy()
    inside[hull.vertices] = False
    return inside if np.count_nonzero(inside) >= FEWEST_INTERIOR else use


def inflation(left_out: LeaveOneOut, use: BoolArray) -> float:
    """Return the factor on predicted variances that makes the mean squared left-out pull of some nodes 1."""
    use = use & np.isfinite(left_out.variance)
    return float(np.mean(left_out.deviation[use] ** 2 / left_out.variance[use])) if use.any() else 1.0


def stacking_weights(
    left_out: Sequence[LeaveOneOut], factors: Sequence[float], use: BoolArray, prior: Sequence[float]
) -> FloatArray:
    """Return the stacking weights of predictions, with sum 1.

    Parameters
    ----------
    left_out
        Leave-one-out predictions of each family.
    factors
        Inflation of the variance of each family.
    use : ndarray of bool
        Nodes used.
    prior
        Prior weight of each family, in equivalent nodes.
    """
    log_density = np.array(
        [
            -0.5 * (np.log(factor * part.variance[use]) + part.deviation[use] ** 2 / (factor * part.variance[use]))
            for part, factor in zip(left_out, factors, strict=True)
        ]
    )
    density = np.exp(log_density - log_density.max(axis=0))
    weights = np.full(len(left_out), 1.0 / len(left_out))
    for _ in range(ITERATIONS):
        share = weights[:, None] * density
        weights = (share / share.sum(axis=0)).sum(axis=1) + np.asarray(prior)
        weights /= weights.sum()
    return weights


POINTS_AT_ONCE = 4096


class Mixture:
    """Log of the beam as a mixture of Gaussian processes, one for each kernel family and choice of the outliers.

    The mean is ``m = sum_k w_k m_k``, the variance ``sum_k w_k (c_k r_k s_k^2 + (m_k - m)^2)`` with the weights ``w_k``, the left-out
    inflations ``c_k``, and the roughness ``r_k(u)`` around suspect nodes treated as good in member ``k`` (1 elsewhere).

    Parameters
    ----------
    processes
        Posterior of each member.
    parameters
        Weights and down-weighting.
    nodes, hull
        The nodes in canonical order and their hull.
    """

    def __init__(self, processes: list[GaussianProcess], parameters: BeamParameters, nodes: BeamNodes, hull: Hull) -> None:
        self.processes = processes
        self._rough = [
            (nodes.u[member.roughness > 1.0], member.roughness[member.roughness > 1.0]) for member in parameters.members
        ]
        self._reach = spacing_of(nodes.u, hull)
        self.extra_variances = np.array([member.extra_variance for member in parameters.members])
        self.weights = np.array([member.weight for member in parameters.members])
        self.interior = calibration_nodes(hull, np.zeros(self.extra_variances.shape[1]))
        self.factors = np.array(
            [
                inflation(process.leave_hole_out, calibration_nodes(hull, extra))
                for process, extra in zip(processes, self.extra_variances, strict=True)
            ]
        )

    @classmethod
    def of(cls, nodes: BeamNodes, parameters: BeamParameters, hull: Hull) -> Mixture:
        """Return the mixture that nodes (in canonical order) and parameters determine."""
        centres, hole = centres_of(nodes.u, hull), hole_of(nodes, hull)
        processes = [
            GaussianProcess(
                observations_of(nodes, member.extra_variance, parameters.exposure_weight),
                member.family,
                member.variances,
                centres,
                hole,
            )
            for member in parameters.members
        ]
        return cls(processes, parameters, nodes, hull)

    def mean(self, u: FloatArray) -> FloatArray:
        """Return the mean log signal of the mean bunch at points ``u`` (n, 2)."""
        pieces = np.array_split(u, max(1, -(-len(u) // POINTS_AT_ONCE)))
        return np.concatenate([self.weights @ np.array([process.mean(piece) for process in self.processes]) for piece in pieces])

    def mean_and_variance(self, u: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return mean and variance of the log signal of the mean bunch at points ``u`` (n, 2)."""
        pieces = np.array_split(u, max(1, -(-len(u) // POINTS_AT_ONCE)))
        means, variances = zip(*threaded_map(self._moments, pieces), strict=True)
        return np.concatenate(means), np.concatenate(variances)

    def _moments(self, u: FloatArray) -> tuple[FloatArray, FloatArray]:
        moments = [process.mean_and_variance(u) for process in self.processes]
        means = np.array([member_mean for member_mean, _ in moments])
        variances = self.factors[:, None] * np.array([member_variance for _, member_variance in moments])
        variances = variances * np.array([self._roughness(number, u) for number in range(len(moments))])
        mean = self.weights @ means
        return mean, self.weights @ (variances + (means - mean) ** 2)

    def covariance(self, u: FloatArray) -> FloatArray:
        """Return the covariance matrix of the log signal at points ``u`` (n, 2)."""
        means = np.array([process.mean(u) for process in self.processes])
        differences = means - self.weights @ means
        total = (differences.T * self.weights) @ differences
        for number, weight in enumerate(self.weights):
            total += weight * self._member_covariance(number, u)
        return total

    def _member_covariance(self, number: int, u: FloatArray) -> FloatArray:
        root = np.sqrt(self._roughness(number, u))
        return self.factors[number] * self.processes[number].covariance(u) * root[:, None] * root

    def _roughness(self, number: int, u: FloatArray) -> FloatArray:
        """Return the factor on the variance of a member at points ``u`` (n, 2)."""
        places, roughness = self._rough[number]
        if not roughness.size:
            return np.ones(len(u))
        nearness = np.exp(-0.5 * (cdist(u, places) / self._reach) ** 2)
        return 1.0 + (nearness * (roughness - 1.0)).max(axis=1)

    def draw(self, u: FloatArray, size: int, rng: np.random.Generator) -> FloatArray:
        """Return about ``size`` draws from the mixture at points ``u`` (n, 2), shape (size, n)."""
        draws = []
        for number, (weight, process) in enumerate(zip(self.weights, self.processes, strict=True)):
            eigenvalues, vectors = np.linalg.eigh(self._member_covariance(number, u))
            normal = rng.standard_normal((round(size * weight), len(u)))
            draws.append(process.mean(u) + normal * np.sqrt(np.maximum(eigenvalues, 0.0)) @ vectors.T)
        return np.vstack(draws)

    def hole_excess(self) -> float:
        """Return the ratio, at least 1, of the variance across holes of the scan to that of single left-out nodes."""
        single = np.array(
            [
                inflation(process.leave_one_out, self.interior & (extra == 0.0))
                for process, extra in zip(self.processes, self.extra_variances, strict=True)
            ]
        )
        return float(max(self.weights @ (self.factors / single), 1.0))

    def left_out_pulls(self) -> tuple[FloatArray, FloatArray]:
        """Return deviation (log) and pull of each node relative to the prediction of all others, without its own down-weighting."""
        deviation, variance, _ = self.left_out_moments()
        return deviation, deviation / np.sqrt(variance)

    def left_out_moments(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return the deviation (log) of each node from the prediction of all others, its variance, and the node noise included."""
        left_out = [process.leave_one_out for process in self.processes]
        deviations = np.array([part.deviation for part in left_out])
        nodes = np.array([process.variances.node for process in self.processes])[:, None]
        variances = np.maximum(np.array([part.variance for part in left_out]) - self.extra_variances, nodes)
        noise = np.maximum(np.array([part.noise for part in left_out]) - self.extra_variances, nodes)
        deviation = self.weights @ deviations
        variance = self.weights @ (self.factors[:, None] * variances + (deviations - deviation) ** 2)
        return deviation, variance, (self.weights * self.factors) @ noise

    def exposure_scales(self) -> tuple[FloatArray, FloatArray]:
        """Return the log scale of each exposure with several nodes, and its expected scatter, in the same unit."""
        scales, spreads = zip(*(process.exposure_scales() for process in self.processes), strict=True)
        return self.weights @ np.array(scales), self.weights @ np.array(spreads)

    def log_gains(self) -> tuple[FloatArray, FloatArray]:
        """Return the log gain of each bunch relative to their mean, and its error."""
        gains, errors = zip(*(process.log_gains() for process in self.processes), strict=True)
        return self.weights @ np.array(gains), np.sqrt((self.weights * self.factors) @ np.array(errors) ** 2)

    def noise(self, known_variance: float) -> tuple[float, float]:
        """Return the relative noise of a node with a given known variance, and that of an exposure scale."""
        calibrated = self.weights * self.factors
        node = calibrated @ np.array([process.variances.node + known_variance for process in self.processes])
        exposure = calibrated @ np.array([process.variances.exposure for process in self.processes])
        return float(np.sqrt(node)), float(np.sqrt(exposure))


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
