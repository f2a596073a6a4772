"""Fit of the beam to nodes: variances, posterior, calibration, outliers, weights, maximum."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from permil.beam.gaussian_process import GaussianProcess
from permil.beam.kernels import KernelFamily, cubic_family, ladder_family
from permil.beam.likelihood import maximise_likelihood
from permil.beam.mixture import Mixture, calibration_nodes, inflation, stacking_weights
from permil.beam.nodes import BeamNodes
from permil.beam.outliers import Suspects, hypotheses, judge, screen
from permil.beam.parameters import BeamParameters, Hull, Member, centres_of, hole_of, observations_of, spacing_of
from permil.beam.peak import BeamPosition, maximum_of
from permil.engine import threaded_map
from permil.errors import BeamError

FloatArray = NDArray[np.float64]

SPARE_NODES = 4
PRIOR_NODES = (25.0, 5.0)  # prior weight of the cubic spline and of the ladder of lengths
MAX_ROUNDS = 12
TOP_LEVEL = 0.985
FEWEST_TOP_NODES = 16
FINEST_PER_SPACING = 0.8
FINEST_PER_LATTICE = 1.5
UNKNOWN = 1.0  # variance of a log signal without information
CONSTANT_SIGNAL = 1e-9  # relative scatter of signals below which there is no beam to model


def fit_nodes(nodes: BeamNodes, *, outlier_threshold: float, seed: int) -> tuple[BeamParameters, Mixture, BeamPosition]:
    """Fit the beam to nodes.

    Parameters
    ----------
    nodes
        Nodes in canonical order.
    outlier_threshold
        Nodes, and scales of whole exposures, that deviate from the prediction of all others by more than this many robust standard
        deviations are down-weighted.

    Returns
    -------
    parameters, mixture, maximum
        Parameters of the model, the log beam, and the position of its maximum.

    Raises
    ------
    BeamError
        If there are too few nodes, they lie on one line, or all have the same signal.
    """
    _check_number(nodes)
    hull = Hull.of(nodes.u)
    if np.ptp(np.log(nodes.signal)) < CONSTANT_SIGNAL:
        raise BeamError(
            f"all {len(nodes)} nodes have the same signal: there is no beam to model", remedy="check the column signal"
        )
    parameters, mixture = _fit_robustly(nodes, hull, outlier_threshold)
    return parameters, mixture, _best_maximum(nodes, hull, parameters, mixture, seed=seed)


def _best_maximum(nodes: BeamNodes, hull: Hull, parameters: BeamParameters, mixture: Mixture, *, seed: int) -> BeamPosition:
    """Return the maximum from the full fit or from a fit to the top of the beam alone, whichever has the smaller error.

    A plateau can be much smoother than the ring around it; its own nodes then constrain the maximum better than all nodes.
    """
    candidates = (lambda: maximum_of(mixture, hull, seed=seed), lambda: _maximum_of_top(nodes, parameters, mixture, seed=seed))
    found = threaded_map(lambda candidate: candidate(), candidates)
    return min((maximum for maximum in found if maximum is not None), key=lambda maximum: np.trace(maximum.covariance))


def _maximum_of_top(nodes: BeamNodes, parameters: BeamParameters, mixture: Mixture, *, seed: int) -> BeamPosition | None:
    """Return the maximum from a fit to the top of the beam alone; None if it contains too few nodes, or almost all."""
    log_beam = mixture.mean(nodes.u)
    top = nodes[(parameters.outlier_probability < 0.5) & (log_beam > log_beam.max() + np.log(TOP_LEVEL))]
    if not FEWEST_TOP_NODES * max(np.unique(top.bunch).size, 1) <= len(top) < len(nodes):
        return None
    try:
        hull = Hull.of(top.u)
    except BeamError:  # the nodes of the top lie on one line
        return None
    _, top_mixture = _fit_members(top, hull, Suspects.start(top))
    return maximum_of(top_mixture, hull, seed=seed)


def _fit_robustly(nodes: BeamNodes, hull: Hull, threshold: float) -> tuple[BeamParameters, Mixture]:
    """Fit and down-weight outliers until none remain, then fit once for each plausible set of outliers."""
    state = Suspects.start(nodes)
    first = screen(nodes, hull, threshold)
    if first.any():
        _, mixture = _fit_members(nodes, hull, replace(state, extra_variance=np.where(first, UNKNOWN, 0.0)))
        state.admit(first, mixture, threshold)
    parameters, mixture = _fit_members(nodes, hull, state)
    for _ in range(MAX_ROUNDS):
        if not state.flag(mixture, threshold):
            break
        parameters, mixture = _fit_members(nodes, hull, state)
    if state.release(mixture, threshold):
        parameters, mixture = _fit_members(nodes, hull, state)
    if not np.any(state.extra_variance):
        return parameters, mixture
    members, processes = [], []
    bad, roughness = judge(mixture, nodes.u, hull)
    for probability, extra_variance in hypotheses(state.extra_variance, bad):
        good = np.where(extra_variance == 0.0, roughness, 1.0)
        chosen, fitted = _fit_members(nodes, hull, replace(state, extra_variance=extra_variance, roughness=good))
        members += [replace(member, weight=probability * member.weight) for member in chosen.members]
        processes += fitted.processes
    parameters = BeamParameters(tuple(members), state.exposure_weight)
    return parameters, Mixture(processes, parameters, nodes, hull)


def _check_number(nodes: BeamNodes) -> None:
    bunches = np.unique(nodes.bunch).size
    needed = 5 + bunches + SPARE_NODES
    distinct = len(np.unique(nodes.u.round(6), axis=0))
    if len(nodes) < needed or distinct < 6 + SPARE_NODES:
        left_out = sum(len(rows) for rows in nodes.dropped.values())
        also = f" ({left_out} more were left out: {', '.join(nodes.dropped)})" if left_out else ""
        raise BeamError(
            f"{len(nodes)} nodes at {distinct} positions{also} are too few for the beam model",
            remedy=f"it needs {max(needed, 6 + SPARE_NODES)}: 5 for the drift, {bunches} for the gains and {SPARE_NODES} in excess",
            value=len(nodes),
            needed=max(needed, 6 + SPARE_NODES),
        )


def _fit_members(nodes: BeamNodes, hull: Hull, state: Suspects) -> tuple[BeamParameters, Mixture]:
    """Fit every kernel family with the current down-weighting, and compute their weights."""
    observations = observations_of(nodes, state.extra_variance, state.exposure_weight)
    centres, hole = centres_of(nodes.u, hull), hole_of(nodes, hull)
    families = _families(nodes, hull)
    variances = [maximise_likelihood(observations, family) for family in families]
    processes = [GaussianProcess(observations, *fitted, centres, hole) for fitted in zip(families, variances, strict=True)]
    left_out = [process.leave_one_out for process in processes]
    use = calibration_nodes(hull, state.extra_variance)
    prior = PRIOR_NODES[-len(families) :]
    weights = stacking_weights(left_out, [inflation(part, use) for part in left_out], use, prior)
    members = tuple(
        Member(family, fitted, float(weight), state.extra_variance, state.roughness)
        for family, fitted, weight in zip(families, variances, weights, strict=True)
    )
    parameters = BeamParameters(members, state.exposure_weight)
    return parameters, Mixture(processes, parameters, nodes, hull)


def _families(nodes: BeamNodes, hull: Hull) -> list[KernelFamily]:
    """Return the kernel families for the scan; with a reduced set of centres only the ladder is used."""
    u = nodes.u
    centre = (float(0.5 * (hull.lower + hull.upper)[0]), float(0.5 * (hull.lower + hull.upper)[1]))
    extent = float(np.sqrt(hull.area))
    centres = centres_of(u, hull)
    reduced = len(centres) < len(np.unique(u, axis=0))
    finest = FINEST_PER_LATTICE * spacing_of(centres, hull) if reduced else FINEST_PER_SPACING * spacing_of(u, hull)
    ladder = ladder_family(centre, extent, finest)
    return [ladder] if reduced else [cubic_family(centre, extent), ladder]
