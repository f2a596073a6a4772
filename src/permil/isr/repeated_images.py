"""Noise of repeated images: mean, variance and covariances of neighbouring pixels of one amplifier, in cells.

With the ``n`` images ``d_k`` of one position, ``q_k`` the light of each image in a cell (its mean there) and ``m = sum(d_k) / sum(q_k)``
for each pixel, the deviations ``e_k = d_k - q_k m`` are free of flat, beam and changes of the light that are smooth over a cell. For noise
whose variance is proportional to the light,

    V = sum_k e_k^2 / q_k / (n - 1)

is the variance of one image of mean light. Covariances of pixels some rows and columns apart are the same sums of products. Noise
common to all images cancels.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy import ndimage, special

from permil.arrays import BoolArray, Float32Array, FloatArray

REACH = 3
"""Largest distance along rows and columns of pixels whose covariance is measured."""

CELL_PIXELS = 128
"""Largest side of a cell: weather of 5e-4 over 40 mm changes by 1e-5 in it."""

_REJECTED = 5.0
"""Standard deviations beyond which a pixel is left out in all images."""

_GROWTH = 2
"""Pixels around it that are left out with it: tracks of cosmic rays have faint ends."""

_MOST_ROUNDS = 4
_FEWEST_PIXELS = 500
_KEPT_VARIANCE = 1.0 - 2 * _REJECTED * np.exp(-(_REJECTED**2) / 2) / (2 * np.pi) ** 0.5 / special.erf(_REJECTED / 2**0.5)
"""Variance of a normal distribution within the limit of the rejection."""

_SAME_LIGHT = 0.02
"""Relative width of the classes of light in which cells are merged: brighter-fatter is a straight line over one."""


@dataclass(frozen=True)
class NoiseMoments:
    """Noise of the repeated images of one amplifier at one position, by cell; adu.

    Parameters
    ----------
    mean : ndarray, shape (n,)
        Signal.
    variance : ndarray, shape (n,)
        Of a pixel in one image, without read noise.
    covariance : ndarray, shape (n, REACH)
        Sum of the covariances with the pixels at the distance 1, 2, ... (the larger one of that along rows and along columns).
    noise : ndarray, shape (n,)
        Variance of read noise and overscan level that was subtracted.
    freedom : ndarray, shape (n,)
        Degrees of freedom: pixels times images less one.
    rejected : int
        Pixels that were left out as outliers.
    """

    mean: FloatArray
    variance: FloatArray
    covariance: FloatArray
    noise: FloatArray
    freedom: FloatArray
    rejected: int = 0

    def brighter_than(self, least: float) -> NoiseMoments:
        """Return the moments of cells of a larger signal than some adu."""
        lit = self.mean > least
        mean, variance, noise, freedom = (part[lit] for part in (self.mean, self.variance, self.noise, self.freedom))
        return NoiseMoments(mean, variance, self.covariance[lit], noise, freedom, self.rejected)

    def merged(self) -> NoiseMoments:
        """Return the moments of cells of nearly the same light together."""
        if not self.mean.size:
            return self
        number = np.floor(np.log(np.maximum(self.mean, 1e-3)) / _SAME_LIGHT).astype(np.int64)
        _, number = np.unique(number, return_inverse=True)
        total = np.bincount(number, weights=self.freedom).astype(np.float64)

        def average(values: FloatArray) -> FloatArray:
            return np.bincount(number, weights=values * self.freedom) / total

        covariance = np.column_stack([average(shell) for shell in self.covariance.T])
        mean, variance, noise = (average(values) for values in (self.mean, self.variance, self.noise))
        return NoiseMoments(mean, variance, covariance, noise, total, self.rejected)


def noise_moments(
    images: Float32Array, usable: BoolArray, *, noise_variance: FloatArray, level_variance: FloatArray
) -> NoiseMoments:
    """Return the moments of repeated images of one amplifier.

    Pixels beyond 5 standard deviations in any image, and the two pixels around them, are left out; the loss of normal noise
    beyond the limit is corrected. Deviations have the mean 0 in a cell; the part ``T / N`` (sum of all covariances over the pixels of
    the cell) that this subtracts from the variance and each covariance is also corrected. The noise of the overscan level, common to a
    row, is subtracted from the covariances along it.

    Parameters
    ----------
    images : ndarray, shape (n_images, ny, nx)
        Linear counts above bias of one position, adu; NaN where there is no measurement.
    usable : ndarray of bool, shape (ny, nx)
        Pixels that are good in all images.
    noise_variance : ndarray, shape (n_images,)
        Variance of read noise and overscan level of each image, adu^2.
    level_variance : ndarray, shape (n_images,)
        The part of the overscan level.
    """
    usable = usable & np.isfinite(images).all(axis=0)
    usable_before = int(usable.sum())
    cells = _cells(usable.shape)
    deviations = np.zeros(images.shape, dtype=np.float32)
    changed, means = list(range(len(cells))), np.full(len(cells), np.nan)
    for _ in range(_MOST_ROUNDS):
        outliers = np.zeros(usable.shape, dtype=np.bool_)
        for number in changed:
            means[number] = _fill_deviations(images, usable, cells[number], deviations, outliers)
        if not outliers.any():
            break
        outliers = ndimage.binary_dilation(outliers, np.ones((2 * _GROWTH + 1,) * 2, dtype=np.bool_))
        hit = outliers & usable
        usable &= ~outliers
        deviations[:, outliers] = 0.0
        changed = [number for number, cell in enumerate(cells) if hit[cell].any()]
    return _moments(deviations, usable, cells, means, noise_variance, level_variance, usable_before - int(usable.sum()))


def _cells(shape: tuple[int, ...]) -> list[tuple[slice, slice]]:
    edges = [np.linspace(0, size, -(-size // CELL_PIXELS) + 1).round().astype(int).tolist() for size in shape]
    rows, columns = ([slice(*pair) for pair in pairwise(own)] for own in edges)
    return [(row, column) for row in rows for column in columns]


def _fill_deviations(
    images: Float32Array, usable: BoolArray, cell: tuple[slice, slice], deviations: Float32Array, outliers: BoolArray
) -> float:
    """Fill the deviations of a cell, over the root of the light, and mark its outliers; return its mean (NaN: too few pixels)."""
    good = usable[cell]
    deviations[:, *cell] = 0.0
    if good.sum() < _FEWEST_PIXELS:
        return float("nan")
    measured = images[:, *cell][:, good].astype(np.float64)
    by_image = measured.mean(axis=1)
    mean = float(by_image.mean())
    if not (by_image > 0).all():
        return float("nan")
    light = (by_image / mean)[:, None]
    measured -= light * measured.mean(axis=0)
    measured /= np.sqrt(light)
    spread = float(np.mean(measured**2)) ** 0.5
    outliers[cell][good] = (np.abs(measured) > _REJECTED * spread).any(axis=0)
    part = np.zeros((len(images), *good.shape), dtype=np.float32)
    part[:, good] = measured
    deviations[:, *cell] = part
    return mean


def _moments(
    deviations: Float32Array,
    usable: BoolArray,
    cells: list[tuple[slice, slice]],
    means: FloatArray,
    noise_variance: FloatArray,
    level_variance: FloatArray,
    rejected: int,
) -> NoiseMoments:
    count = len(deviations)
    weights = usable.astype(np.float32)
    # Only pixels all of whose neighbours are of the same amplifier, so that every lag has the same pairs.
    inner = np.zeros(usable.shape, dtype=np.float32)
    inside = (slice(REACH, -REACH), slice(REACH, -REACH))
    inner[inside] = weights[inside]
    pairs = _products(inner, weights, cells)
    squares, products = np.zeros(len(cells)), np.zeros((len(cells), REACH))
    for deviation in deviations:
        products += _products(deviation * inner, deviation, cells)
        squares += [np.sum(np.square(deviation[cell]), dtype=np.float64) for cell in cells]
    pixels = np.array([usable[cell].sum() for cell in cells], dtype=np.float64)
    filled = np.isfinite(means) & (pixels >= _FEWEST_PIXELS) & (pairs[:, 0] > 0)
    pixels, pairs = pixels[filled], pairs[filled]
    lags = 8.0 * np.arange(1, REACH + 1)
    variance = squares[filled] / pixels / (count - 1) / _KEPT_VARIANCE
    # Mean product of all pairs of a shell, times their number for a pixel with all its neighbours.
    covariance = products[filled] / pairs * lags / (count - 1) / _KEPT_VARIANCE
    total = (variance + covariance.sum(axis=1)) / (1.0 - (1.0 + lags.sum()) / pixels)
    variance += total / pixels
    covariance += (total / pixels)[:, None] * lags
    noise, level = float(np.mean(noise_variance)), float(np.mean(level_variance))
    return NoiseMoments(
        mean=means[filled],
        variance=variance - noise,
        covariance=covariance - 2.0 * level,
        noise=np.full(pixels.size, noise),
        freedom=pixels * (count - 1),
        rejected=rejected,
    )


def _products(first: Float32Array, second: Float32Array, cells: list[tuple[slice, slice]]) -> FloatArray:
    """Return the sum over each cell of the first image times the sum of the second one over each shell around the pixel."""
    result = np.zeros((len(cells), REACH))
    padded = np.pad(second, REACH)
    by_rows: dict[int, list[int]] = {}
    for number, cell in enumerate(cells):
        by_rows.setdefault(cell[0].start, []).append(number)
    for own in by_rows.values():
        rows = cells[own[0]][0]
        starts = [cells[number][1].start for number in own]
        height = rows.stop - rows.start
        band = padded[rows.start : rows.stop + 2 * REACH]
        columns = band.shape[1] - 2 * REACH
        along = band[:, REACH : REACH + columns].copy()
        before = np.zeros(len(own))
        for distance in range(REACH + 1):
            if distance:
                along += band[:, REACH - distance : REACH - distance + columns]
                along += band[:, REACH + distance : REACH + distance + columns]
            box = along[REACH - distance : REACH - distance + height].copy()
            for row in range(REACH - distance + 1, REACH + distance + 1):
                box += along[row : row + height]
            summed = np.add.reduceat(np.einsum("ij,ij->j", first[rows], box).astype(np.float64), starts)
            if distance:
                result[own, distance - 1] = summed - before
            before = summed
    return result
