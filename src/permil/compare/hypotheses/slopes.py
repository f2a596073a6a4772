"""Simple slopes of flux, shift and size on the prediction of the flat, and the change of flux scatter by dividing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from permil.compare.hypotheses.fractions import FluxChange, Slope
from permil.compare.hypotheses.moment_equations import MomentFit
from permil.compare.stars.kernels import SIGNATURE

if TYPE_CHECKING:
    from permil.compare.hypotheses.moment_equations import Rows

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_FEWEST_BLOCKS, _MOST_BLOCKS = 4, 8
"""Smallest and largest number of blocks per axis of the jackknife."""
_QUANTITIES = {"flux": (0,), "shift": (1, 2), "size": (3, 4)}


def blocks_of(x: FloatArray, y: FloatArray, side: float = 1.0) -> IntArray:
    """Return the block of each star: the area of the stars in 4 x 4 to 8 x 8 parts, if possible of about ``side`` pixels."""
    extent = max(float(np.ptp(x)), float(np.ptp(y)), 1e-9)
    count = int(np.clip(extent / side, _FEWEST_BLOCKS, _MOST_BLOCKS))
    across, along = (np.minimum((count * (place - place.min()) / extent).astype(np.int64), count - 1) for place in (x, y))
    return along * count + across


def jackknife_ratio(above: FloatArray, below: FloatArray, block: IntArray) -> tuple[float, float]:
    """Return the ratio of two sums over stars and its delete-block jackknife error (Kunsch 1989).

    Blocks differ in size: the error is that of Busing, Meijer & van der Leeden (1999) for unequal blocks.
    """
    count = np.bincount(block)
    seen = count > 0
    over, under, size = np.bincount(block, above)[seen], np.bincount(block, below)[seen], count[seen]
    whole = over.sum() / under.sum()
    if seen.sum() < 2:
        return float(whole), float("nan")
    left_out = (over.sum() - over) / (under.sum() - under)
    weight = size.sum() / size
    pseudo = weight * whole - (weight - 1) * left_out
    mean = (pseudo / weight).sum()
    return float(whole), float(np.sqrt(((pseudo - mean) ** 2 / (weight - 1)).mean()))


def simple_slopes(
    fit: MomentFit, rows: list[Rows], shown: NDArray[np.bool_], *, side: float, flat_fielded: bool
) -> tuple[Slope, ...]:
    """Return the slopes of flux, shift and size on the predictions for efficiency, pixel area and diffusion alone.

    The fitted contribution of bands that are not shown is subtracted first, for shifts and sizes also that of the other kinds. Blocks of
    the jackknife have about the side ``side`` (pixels): the longest period shown.
    """
    slopes = []
    for kind, (name, quantities) in enumerate(_QUANTITIES.items()):
        above, below, block = [], [], []
        for quantity in quantities:
            of = rows[quantity]
            others = np.where(shown[None, :], 0.0, fit.coefficients)
            if name != "flux":
                others = np.where(np.arange(3)[:, None] == kind, others, fit.coefficients)
            value = of.value - np.einsum("nkb,kb->n", of.templates, others)
            template = of.templates[:, SIGNATURE[quantity]][:, shown].sum(axis=1)
            noise = float(of.flat_noise @ fit.template_noise[:, quantity][:, shown].sum(axis=1))
            weighted = of.weight * template
            above.append(weighted * value)
            below.append(weighted * template - noise / template.size)
            block.append(blocks_of(of.x, of.y, side))
        value_of, error = jackknife_ratio(np.concatenate(above), np.concatenate(below), np.concatenate(block))
        expected = tuple(float(kind == of) for of in range(3))
        if name == "flux" and flat_fielded:
            value_of, expected = value_of - 1, tuple(entry - 1 for entry in expected)
        slopes.append(Slope(name, value_of, error, expected))  # type: ignore[arg-type]
    return tuple(slopes)


def flux_change(of: Rows, side: float) -> FluxChange:
    """Return the change of the scatter of fluxes by dividing by the flat, including its noise, on all scales.

    Parameters
    ----------
    of
        Rows of the flux.
    side
        Side of the blocks, pixels.
    """
    # Per degree of freedom: terms absorbed by the calibration count neither before nor after.
    weight = of.weight / of.weight.sum()
    seen = of.templates[:, 0].sum(axis=1)
    block = blocks_of(of.x, of.y, side)
    change, error = jackknife_ratio(weight * seen * (seen - 2 * of.value), weight * of.freedom, block)
    return FluxChange(
        before=float(weight @ of.value**2) / of.freedom, noise=float(weight @ of.variance), change=change, error=error
    )
