"""Outliers: nodes and exposures that contradict the others, and their probabilities.

A node that deviates from the prediction of all others is an outlier, or the beam has unresolved structure there. The deviation of a good
node has the variance ``n + r s``: node noise ``n`` and interpolation ``s``, with the roughness ``r`` of the beam
around it relative to the whole scan. Its prior is inverse gamma, which gives interpolation the tails of Student's t; the deviations of
the neighbours update it. A bad node can have any size of deviation (log-uniform). Bayes' theorem gives the probability of each (Box &
Tiao 1968, Biometrika 55, 119, with a heavy-tailed distribution of the good ones). If both remain possible, the model is the
mixture of the fits with and without the node, so that its error includes their difference.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import scipy
from scipy.linalg import null_space
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist
from scipy.special import expit, logit

from permil.arrays import BoolArray, FloatArray, IntArray
from permil.beam.mixture import Mixture
from permil.beam.nodes import BeamNodes
from permil.beam.parameters import MAX_CENTRES, Hull, observations_of, spacing_of

PRIOR_PROBABILITY = 0.005  # prior probability of a bad node
SIZE_RANGE = 100.0  # ratio of the largest to the smallest deviation of bad nodes
ROUGHNESS_FREEDOM = 5.0  # degrees of freedom of the prior of the roughness
NEIGHBOURS = 8
NEIGHBOUR_FREEDOM = 0.5  # degrees of freedom of one neighbour: deviations of neighbours are correlated
ROUGHNESS_STEPS = 101
PROBABLE = 0.01  # less probable cases are omitted from the mixture
MOST_AMBIGUOUS = 3
NORMAL_90 = 1.645
ONE_SIGMA = 0.683
CORNER = 1.5  # size of a corner in node spacings
INTERPOLATION = 5.0  # variance of the cubic covariance at the node spacing, noise 1: leave-one-out errors are half interpolation


@dataclass
class Suspects:
    """Variance added to single nodes, factor on the variance of exposures' scales, roughness around good suspects."""

    extra_variance: FloatArray
    exposure_weight: FloatArray
    roughness: FloatArray

    @classmethod
    def start(cls, nodes: BeamNodes) -> Suspects:
        """Return the initial state without down-weighting."""
        none = np.zeros(len(nodes))
        return cls(none, observations_of(nodes, none, None).exposure_weight, np.ones(len(nodes)))

    def flag(self, mixture: Mixture, threshold: float) -> bool:
        """Down-weight the worst nodes and exposures beyond the threshold; return whether there were any.

        Only deviations of at least half the largest are flagged in one round, since a bad node makes its neighbours deviate.
        """
        deviation, pull = mixture.left_out_pulls()
        regular = self.extra_variance == 0.0
        pull = np.where(regular, pull / _scale(pull[mixture.interior]), 0.0)
        new = (np.abs(pull) > threshold) & (np.abs(pull) >= 0.5 * np.abs(pull).max())
        self.extra_variance = np.where(new, deviation**2, self.extra_variance)
        return self._flag_exposures(mixture, threshold) or bool(new.any())

    def _flag_exposures(self, mixture: Mixture, threshold: float) -> bool:
        regular = self.exposure_weight == 1.0
        if not regular.any():
            return False
        scale, spread = mixture.exposure_scales()
        pull = np.where(regular, scale / spread, 0.0)
        pull /= _scale(pull[regular])
        new = (np.abs(pull) > threshold) & (np.abs(pull) >= 0.5 * np.abs(pull).max())
        self.exposure_weight = np.where(new, np.maximum(scale**2, 1.0) * threshold**2, self.exposure_weight)
        return bool(new.any())

    def release(self, mixture: Mixture, threshold: float) -> bool:
        """Restore nodes that no longer deviate in the final fit; return whether there were any."""
        _, pull = mixture.left_out_pulls()
        innocent = (self.extra_variance > 0.0) & (np.abs(pull) < threshold * _scale(pull[mixture.interior]))
        self.extra_variance = np.where(innocent, 0.0, self.extra_variance)
        return bool(innocent.any())

    def admit(self, first: BoolArray, mixture: Mixture, threshold: float) -> None:
        """Down-weight initially suspected nodes that deviate from a fit without them."""
        deviation, pull = mixture.left_out_pulls()
        guilty = first & (np.abs(pull) > threshold * _scale(pull[mixture.interior]))
        self.extra_variance = np.where(guilty, deviation**2, 0.0)


def _scale(pull: FloatArray) -> float:
    """Return the robust scale of pulls from the 90th percentile of their absolute values: up to a tenth may be bad.

    With the median, the tails of pulls at a ring or an edge of the beam would count as outliers.
    """
    return float(max(np.quantile(np.abs(pull), 0.9) / NORMAL_90, np.finfo(float).tiny))


def screen(nodes: BeamNodes, hull: Hull, threshold: float) -> BoolArray:
    """Return the nodes that contradict their neighbours, before any fit of the covariance.

    Outliers included in a fit of the covariance resemble fine structure and mask each other. Here the covariance is fixed, the
    cubic one with as much interpolation error as noise, and nodes are removed one by one, the worst first, which changes the predictions of
    the others, until none deviates by more than the threshold or a tenth is removed.

    Parameters
    ----------
    nodes
        Nodes in canonical order.
    threshold
        Deviation from the prediction of the others, in robust standard deviations.

    Returns
    -------
    ndarray of bool, shape (n,)
        None at the corners of the scan, which are extrapolated from the others; none with several bunches, which share outliers, or with
        more than 2500 nodes.
    """
    removed = np.zeros(len(nodes), dtype=bool)
    if np.unique(nodes.bunch).size > 1 or len(nodes) > MAX_CENTRES:
        return removed
    spacing = spacing_of(nodes.u, hull)
    precision = _cubic_precision(nodes, spacing)
    weighted = precision @ np.log(nodes.signal)
    inside = hull.contains(*nodes.u.T, tolerance=-0.5 * spacing)
    corner = cdist(nodes.u, nodes.u[hull.vertices]).min(axis=1) < CORNER * spacing
    pairs = cKDTree(nodes.u).query_pairs(CORNER * spacing, output_type="ndarray")
    while np.count_nonzero(removed) < len(nodes) // 10:
        open_cases = ~removed & ~corner
        pull = np.abs(weighted) / np.sqrt(np.maximum(np.diag(precision), np.finfo(float).tiny))
        # A border node has neighbours on one side only and a less accurate prediction. Each bad node affects many predictions.
        parts = [np.append(pull[open_cases & part], 0.0) for part in (inside, ~inside)]
        unit_inside, unit_border = (max(np.quantile(part, ONE_SIGMA), np.finfo(float).tiny) for part in parts)
        unit = np.where(inside, unit_inside, unit_border)
        worst = np.array([int(np.argmax(np.where(open_cases, pull / unit, 0.0)))])
        height = (pull / unit)[worst[0]]
        # Two bad neighbours support each other: the joint change of chi-square is attributed to each of them.
        first, second = pairs[open_cases[pairs].all(axis=1)].T
        if first.size:
            joint = np.sqrt(0.5 * _explained(precision, weighted, first, second)) / np.maximum(unit[first], unit[second])
            if joint.max() > height:
                best = int(np.argmax(joint))
                worst, height = np.array([first[best], second[best]]), joint[best]
        if height <= threshold:
            break
        removed[worst] = True
        for index in worst:
            column = precision[:, index] / precision[index, index]
            weighted = weighted - column * weighted[index]
            precision = precision - np.outer(column, precision[index])
    return removed


def _cubic_precision(nodes: BeamNodes, spacing: float) -> FloatArray:
    """Return the inverse covariance of the log signals of nodes without gain and slope, for noise 1, shape (n, n)."""
    known = (nodes.signal_err / nodes.signal) ** 2
    noise = np.where(np.isfinite(known), known / np.nanmedian(known), 1.0) if np.isfinite(known).any() else np.ones(len(nodes))
    offset = (nodes.u - nodes.u.mean(axis=0)) / spacing
    basis = null_space(np.column_stack([np.ones(len(nodes)), offset]).T)
    contrasts = basis.T @ (INTERPOLATION * cdist(offset, offset) ** 3 + np.diag(noise)) @ basis
    return basis @ np.linalg.solve(contrasts, basis.T)


def _explained(precision: FloatArray, weighted: FloatArray, first: IntArray, second: IntArray) -> FloatArray:
    """Return the decrease of chi-square if both nodes of each pair are left out."""
    a, b, c = precision[first, first], precision[second, second], precision[first, second]
    u, v = weighted[first], weighted[second]
    return (b * u**2 - 2.0 * c * u * v + a * v**2) / np.maximum(a * b - c**2, np.finfo(float).tiny)


def judge(mixture: Mixture, u: FloatArray, hull: Hull) -> tuple[FloatArray, FloatArray]:
    """Return the probability that each node is bad, and the roughness around it if it is good.

    The roughness of the beam around a node is estimated from the pulls of its unsuspected neighbours. A corner of the scan is
    extrapolated, so that its deviation includes curvature: it is compared with the other corners.

    Parameters
    ----------
    mixture
        Fit in which all suspects are down-weighted.
    u : ndarray, shape (n, 2)
        Positions of the nodes, mm.
    hull
        Hull of the nodes.

    Returns
    -------
    probability, roughness : ndarray, shape (n,)
        0 and 1 for nodes that are not down-weighted. The roughness is a factor on the predicted variance.
    """
    deviation, variance, noise = mixture.left_out_moments()
    pull = deviation / np.sqrt(variance)
    scale = _scale(pull[mixture.interior])
    suspect = np.flatnonzero(mixture.extra_variances.max(axis=0))
    regular = np.flatnonzero(mixture.extra_variances.max(axis=0) == 0.0)
    excess = mixture.hole_excess()
    probability, roughness = np.zeros(len(u)), np.ones(len(u))
    for index in suspect:
        if index in hull.vertices:
            similar, freedom = hull.vertices[hull.vertices != index], 1.0
        else:
            nearest = np.argsort(cdist(u[index : index + 1], u[regular])[0], kind="stable")
            similar, freedom = regular[nearest[:NEIGHBOURS]], NEIGHBOUR_FREEDOM
        own = scale**2 * min(noise[index], variance[index])
        interpolation = excess * (scale**2 * variance[index] - own)
        good, rough = _good_density(deviation[index], own, interpolation, pull[similar] / scale, freedom)
        roughness[index] = max(rough * excess * scale**2, 1.0)
        bad = -np.log(2.0 * max(abs(deviation[index]), np.finfo(float).tiny) * np.log(SIZE_RANGE))
        probability[index] = expit(logit(PRIOR_PROBABILITY) + bad - good)
    return probability, roughness


def _good_density(
    deviation: float, noise: float, interpolation: float, similar: FloatArray, freedom: float
) -> tuple[float, float]:
    """Return the log density of the deviation of a good node, and the mean roughness around it given its deviation.

    Parameters
    ----------
    noise, interpolation
        Variance of node noise and interpolation.
    similar : ndarray
        Pulls of similar nodes.
    freedom
        Degrees of freedom that each of these contributes to the roughness.
    """
    # The pulls are scaled to the 90th percentile of a normal distribution; the prior of the roughness preserves this scaling.
    unit = (NORMAL_90 / scipy.stats.t.ppf(0.95, ROUGHNESS_FREEDOM)) ** 2
    total = ROUGHNESS_FREEDOM * unit + freedom * np.sum(similar**2)
    steps = (np.arange(ROUGHNESS_STEPS) + 0.5) / ROUGHNESS_STEPS
    roughness = total / scipy.stats.chi2.ppf(steps, ROUGHNESS_FREEDOM + freedom * similar.size)
    logarithm = np.asarray(scipy.stats.norm.logpdf(deviation, scale=np.sqrt(noise + roughness * interpolation)))
    share = np.exp(logarithm - logarithm.max())
    return float(logarithm.max() + np.log(share.mean())), float(share @ roughness / share.sum())


def hypotheses(extra_variance: FloatArray, probability: FloatArray) -> Iterator[tuple[float, FloatArray]]:
    """Yield the plausible sets of bad nodes: their probability (sum 1) and the extra variance of each node.

    Parameters
    ----------
    extra_variance : ndarray, shape (n,)
        Variance that down-weights each suspect; 0 for other nodes.
    probability : ndarray, shape (n,)
        Probability that each node is bad. Nodes are independent; of many undecided cases the three most uncertain ones are
        enumerated and the others decided.
    """
    openness = np.minimum(probability, 1.0 - probability)
    open_cases = [int(index) for index in np.argsort(-openness, kind="stable")[:MOST_AMBIGUOUS] if openness[index] >= PROBABLE]
    decided = np.where(probability > 0.5, extra_variance, 0.0)
    choices = []
    for bad in product((True, False), repeat=len(open_cases)):
        chosen = decided.copy()
        chosen[open_cases] = np.where(bad, extra_variance[open_cases], 0.0)
        choices.append((float(np.prod(np.where(bad, probability[open_cases], 1.0 - probability[open_cases]))), chosen))
    kept = [(weight, chosen) for weight, chosen in choices if weight >= PROBABLE]
    total = sum(weight for weight, _ in kept)
    for weight, chosen in kept:
        yield weight / total, chosen
