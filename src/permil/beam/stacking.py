"""Variance calibration and weights of the kernel families from leave-one-out predictions.

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

import numpy as np
from numpy.typing import NDArray

from permil.beam.gaussian_process import LeaveOneOut
from permil.beam.hull import Hull

FloatArray = NDArray[np.float64]

FEWEST_INTERIOR = 8
ITERATIONS = 500


def calibration_nodes(hull: Hull, extra_variance: FloatArray) -> NDArray[np.bool_]:
    """Return the nodes used for calibration: not down-weighted, and inside the hull of the others (unless too few remain)."""
    use = extra_variance == 0.0
    inside = use.copy()
    inside[hull.vertices] = False
    return inside if np.count_nonzero(inside) >= FEWEST_INTERIOR else use


def inflation(left_out: LeaveOneOut, use: NDArray[np.bool_]) -> float:
    """Return the factor on predicted variances that makes the mean squared left-out pull of some nodes 1."""
    use = use & np.isfinite(left_out.variance)
    return float(np.mean(left_out.deviation[use] ** 2 / left_out.variance[use])) if use.any() else 1.0


def stacking_weights(
    left_out: Sequence[LeaveOneOut], factors: Sequence[float], use: NDArray[np.bool_], prior: Sequence[float]
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
