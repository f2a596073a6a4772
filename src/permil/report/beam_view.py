"""What the pages show of a beam model: maps, profiles through the maximum, nodes against all others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from permil.report.summary import Measurement

if TYPE_CHECKING:
    from permil.beam import BeamModel

FloatArray = NDArray[np.float64]

_LATTICE = 97
_PROFILE_POINTS = 121


@dataclass(frozen=True)
class Profile:
    """Beam along one axis through its maximum: ``u`` mm, ``beam`` and its standard ``error``, NaN without data."""

    u: FloatArray
    beam: FloatArray
    error: FloatArray


@dataclass(frozen=True)
class BeamView:
    """A beam model on a lattice, with what it was fitted to.

    Attributes
    ----------
    extent
        Left, right, bottom, top of the lattice's cells, mm.
    beam, error
        Beam and its relative error on the lattice, ``[row = u_y, column = u_x]``, NaN without data.
    along_x, along_y
        Profiles through the maximum.
    node_x, node_y
        Places of the nodes in the beam, mm.
    node_beam
        Signal of each node over the gain of its bunch, on the scale of the beam.
    deviation, pull
        Relative deviation of each node from what all other nodes predict, and the same over its predicted error.
    outlier
        Nodes that were down-weighted.
    maximum, maximum_error
        Place of the maximum (u_x, u_y) and its standard errors, mm.
    """

    extent: tuple[float, float, float, float]
    beam: FloatArray
    error: FloatArray
    along_x: Profile
    along_y: Profile
    node_x: FloatArray
    node_y: FloatArray
    node_beam: FloatArray
    deviation: FloatArray
    pull: FloatArray
    outlier: NDArray[np.bool_]
    maximum: tuple[float, float]
    maximum_error: tuple[float, float]


def view_beam(model: BeamModel) -> BeamView:
    """Evaluate a beam model for its figures."""
    nodes = model.nodes
    lower, upper = np.array([nodes.ux.min(), nodes.uy.min()]), np.array([nodes.ux.max(), nodes.uy.max()])
    step = (upper - lower) / (_LATTICE - 1)
    ux, uy = (np.linspace(low, high, _LATTICE) for low, high in zip(lower, upper, strict=True))
    beam, error = model.evaluate(ux[None, :], uy[:, None])
    maximum = model.maximum
    deviation, pull = model.left_out_pulls()
    gains = np.array([model.gains[label][0] for label in nodes.bunch.tolist()])
    top, _ = model.predict_signal(maximum.ux, maximum.uy)
    left_out = {outlier.row for outlier in model.outliers}
    return BeamView(
        extent=(lower[0] - step[0] / 2, upper[0] + step[0] / 2, lower[1] - step[1] / 2, upper[1] + step[1] / 2),
        beam=beam,
        error=error / beam,
        along_x=_profile(model, np.linspace(lower[0], upper[0], _PROFILE_POINTS), maximum.uy, swap=False),
        along_y=_profile(model, np.linspace(lower[1], upper[1], _PROFILE_POINTS), maximum.ux, swap=True),
        node_x=nodes.ux,
        node_y=nodes.uy,
        node_beam=nodes.signal / (gains * float(top)),
        deviation=np.expm1(deviation),
        pull=pull,
        outlier=np.isin(nodes.rows, sorted(left_out)),
        maximum=(maximum.ux, maximum.uy),
        maximum_error=(maximum.ux_err, maximum.uy_err),
    )


def beam_measurements(model: BeamModel, led: str) -> list[Measurement]:
    """Return the figures of a beam model for the summary.

    The error of the node noise is that of a variance with as many degrees of freedom as the model leaves to the nodes: the sum of
    ``1 - leverage``, which is the ratio of a node's noise variance to its left-out variance. The error of the left-out width is
    that of a normal distribution.
    """
    deviation, pull = model.left_out_pulls()
    count = deviation.size
    low, high = np.percentile(deviation, [15.865, 84.135])
    spread = float(high - low) / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        share = (model.node_noise * pull / deviation) ** 2
    freedom = float(np.nansum(np.minimum(share, 1.0)))
    maximum, centroid = model.maximum, model.centroid
    return [
        Measurement("beam_node_noise", led, model.node_noise, model.node_noise / np.sqrt(2 * freedom)),
        Measurement("beam_left_out_rms", led, spread, 1.17 * spread / np.sqrt(count)),
        Measurement("beam_maximum_x", led, maximum.ux, maximum.ux_err),
        Measurement("beam_maximum_y", led, maximum.uy, maximum.uy_err),
        Measurement("beam_centroid_x", led, centroid.ux, centroid.ux_err),
        Measurement("beam_centroid_y", led, centroid.uy, centroid.uy_err),
    ]


def _profile(model: BeamModel, u: FloatArray, through: float, *, swap: bool) -> Profile:
    beam, error = model.evaluate(through, u) if swap else model.evaluate(u, through)
    return Profile(u, beam, error)
