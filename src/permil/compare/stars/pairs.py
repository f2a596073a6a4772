"""Pairs of measured and predicted values of stars, for single stars and in cells."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from permil.arrays import BoolArray, FloatArray, IntArray
from permil.compare.hypotheses.equations import FixedEffects, exposure_terms
from permil.compare.hypotheses.predict import PredictedStars
from permil.compare.scales import high_pass_points
from permil.compare.stars.response import QUANTITIES
from permil.errors import CompareError

PREDICTED_BY = {"flux": 0, "dx": 1, "dy": 1, "xx": 2, "yy": 2, "xy": 1}
"""Kind (efficiency, pixel area, diffusion) that predicts each quantity: its signature; the shear of the pixel area for xy."""
_LEAST = 30


@dataclass(frozen=True)
class Pairs:
    """Stars and predictions of one quantity; arrays of shape (n,), high-passed, with calibration terms removed from both.

    Attributes
    ----------
    quantity
        One of `permil.compare.stars.response.QUANTITIES`.
    x, y
        Positions, pixels.
    flat, flat_error
        Prediction of the flat, and its error from the noise of the flat (NaN if unknown; for shifts and sizes it is small).
    star, star_error
        Measured values and their errors.
    exposure
        Exposure of each star.
    row
        Index among the stars that `permil.compare.hypotheses.predict.predict_bands` kept.
    left_out
        Number of stars excluded as too noisy to increase the significance.
    """

    quantity: str
    x: FloatArray
    y: FloatArray
    flat: FloatArray
    flat_error: FloatArray
    star: FloatArray
    star_error: FloatArray
    exposure: IntArray
    row: IntArray
    left_out: int

    def __len__(self) -> int:
        """Return the number of pairs."""
        return self.x.size

    def chosen(self, rows: BoolArray) -> Pairs:
        """Return some of the pairs."""
        names = ("x", "y", "flat", "flat_error", "star", "star_error", "exposure", "row")
        return replace(self, **{name: getattr(self, name)[rows] for name in names})


def pair_up(predicted: PredictedStars, quantity: str, *, high_pass: float) -> Pairs:
    """Return the pairs of one quantity.

    Means of spots and terms of exposures, which calibration has removed from the stars, are removed from the prediction with the same
    weights; structure above ``high_pass`` is removed from both. The noisiest stars are excluded if including them would reduce the
    significance of a real effect: the number of pairs times the fraction of their variance that is not noise.

    Parameters
    ----------
    predicted
        Stars with the predictions of the flat.
    quantity
        One of `permil.compare.stars.response.QUANTITIES`.
    high_pass
        Sigma of the Gaussian high-pass filter of both, pixels.

    Raises
    ------
    CompareError
        If fewer than 30 stars are left.
    """
    stars = predicted.stars
    value, error = stars.values[quantity], stars.errors[quantity]
    template = predictions(predicted, quantity)
    with np.errstate(invalid="ignore"):
        good = np.flatnonzero(np.isfinite(value) & np.isfinite(error) & (error > 0) & np.isfinite(template))
    if good.size:
        good = np.sort(_worth_using(good, error, float(np.var(template[good]))))
    if good.size < _LEAST:
        raise CompareError(
            f"{good.size} stars have a usable {quantity}, but {_LEAST} are needed",
            remedy="give more exposures",
            value=int(good.size),
        )
    x, y, weight = stars.places.x[good], stars.places.y[good], error[good] ** -2.0
    effects = FixedEffects(stars.spot[good], stars.exposure[good], weight, exposure_terms(quantity, x, y))
    both = effects.residuals(np.stack([template[good], value[good]], axis=1))
    flat, star = (high_pass_points(column, x, y, errors=error[good], scale=high_pass) for column in both.T)
    return Pairs(
        quantity=quantity,
        x=x,
        y=y,
        flat=flat,
        flat_error=predicted.flat_error[good] if quantity == "flux" else np.full(good.size, np.nan),
        star=star,
        star_error=error[good],
        exposure=stars.exposure[good],
        row=good,
        left_out=len(stars) - good.size,
    )


def predictions(predicted: PredictedStars, quantity: str) -> FloatArray:
    """Return the predicted value of a quantity for each star if the flat were of the kind with this signature, shape (n,).

    Shifts and sizes grow with the period of the structure: those above the longest period of the scales would hide all others.
    """
    of_bands = predicted.templates.templates[:, QUANTITIES.index(quantity), PREDICTED_BY[quantity]]
    return np.asarray((of_bands if quantity == "flux" else of_bands[:, :-1]).sum(axis=1))


def with_steps(predicted: PredictedStars, steps: FloatArray) -> Pairs:
    """Return pairs of fluxes and the flat with its steps between amplifiers, on all scales, with calibration terms removed.

    Parameters
    ----------
    predicted
        Stars with the predictions of the flat relative to its amplifiers.
    steps : ndarray, shape (n,)
        Mean of the flat in the amplifier of each star relative to the detector, minus 1.
    """
    stars = predicted.stars
    value, error, flat = stars.values["flux"], stars.errors["flux"], predictions(predicted, "flux") + steps
    with np.errstate(invalid="ignore"):
        good = np.flatnonzero(np.isfinite(value) & np.isfinite(error) & (error > 0) & np.isfinite(flat))
    effects = FixedEffects(stars.spot[good], stars.exposure[good], error[good] ** -2.0)
    both = effects.residuals(np.stack([flat[good], value[good]], axis=1))
    x, y, exposure = stars.places.x[good], stars.places.y[good], stars.exposure[good]
    flat_error = predicted.flat_error[good]
    return Pairs("flux", x, y, both[:, 0], flat_error, both[:, 1], error[good], exposure, good, len(stars) - good.size)


def _worth_using(good: IntArray, error: FloatArray, signal: float) -> IntArray:
    order = good[np.argsort(error[good], kind="stable")]
    count = np.arange(1, order.size + 1)
    noise = np.cumsum(error[order] ** 2) / count
    return np.asarray(order[: int(np.argmax(count * signal / (signal + noise))) + 1])


@dataclass(frozen=True)
class CellPairs:
    """Means of pairs over square cells of a detector: maps of shape (rows, columns), NaN in cells without stars."""

    quantity: str
    cell: int
    flat: FloatArray
    flat_error: FloatArray
    star: FloatArray
    star_error: FloatArray
    count: IntArray

    @property
    def places(self) -> tuple[FloatArray, FloatArray]:
        """Centres (x, y) of the cells in pixels, as maps."""
        rows, columns = self.flat.shape
        y, x = np.mgrid[:rows, :columns]
        return x * self.cell + (self.cell - 1) / 2, y * self.cell + (self.cell - 1) / 2

    @property
    def filled(self) -> int:
        """Number of cells with stars."""
        return int((self.count > 0).sum())


def bin_pairs(pairs: Pairs, shape: tuple[int, int], *, cell: int) -> CellPairs:
    """Average stars and predictions over cells, both with the weights of the stars.

    Parameters
    ----------
    shape
        Shape of the detector, pixels.
    cell
        Side of a cell, pixels.
    """
    rows, columns = -(-shape[0] // cell), -(-shape[1] // cell)
    index = np.floor((pairs.y + 0.5) / cell).astype(np.int64) * columns + np.floor((pairs.x + 0.5) / cell).astype(np.int64)
    weight = pairs.star_error**-2.0

    def summed(column: FloatArray) -> FloatArray:
        return np.bincount(index, column, minlength=rows * columns).reshape(rows, columns).astype(np.float64)

    total = summed(weight)
    with np.errstate(invalid="ignore", divide="ignore"):
        flat, star = summed(weight * pairs.flat) / total, summed(weight * pairs.star) / total
        # Stars in one cell cover mostly the same pixels of the flat: its noise does not average out.
        flat_error = np.sqrt(summed(weight * pairs.flat_error**2) / total)
        star_error = np.where(total > 0, 1 / np.sqrt(total), np.nan)
    count = np.bincount(index, minlength=rows * columns).reshape(rows, columns)
    return CellPairs(pairs.quantity, cell, flat, flat_error, star, star_error, count)
