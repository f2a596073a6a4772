"""Variance of the response common to LEDs, and specific to each LED, scale by scale.

Deviations ``d_l`` of the logarithm of the response of each LED, on one scale, give the matrix ``S_lm = sum(d_l d_m - noise) / freedom``.
The part of an LED that all others predict by linear regression is **shared**, the rest is its **own**::

    shared_l = S_lo S_oo^-1 S_ol,     own_l = S_ll - shared_l    (o: all other LEDs)

Tree rings whose amplitude differs between LEDs are shared. Errors come from a jackknife over parts of the focal plane.

========= ====================================================================================================
pixel     pixels about the mean of their super-pixel
cell      super-pixels (0.64 mm) about the mean of their amplifier, without a plane through each detector
amplifier amplifiers about a plane through their detector
detector  levels of detectors about the mean of all
========= ====================================================================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from permil.arrays import BoolArray, Float32Array, FloatArray, IntArray
from permil.colour.regions import LedFlat, Slices
from permil.flat.superpixel import super_pixels

PIXEL, CELL, AMPLIFIER, DETECTOR = SCALES = ("pixel", "cell", "amplifier", "detector")

LARGE_CELLS = 4
"""Cells along each side of a detector on the large scale."""

_FEWEST_CELLS, _FEWEST_AMPLIFIERS = 12, 5
_FAR_OFF = 8.0
"""Robust standard deviations beyond which a pixel is a defect and does not count."""


@dataclass(frozen=True)
class Moments:
    """Products of deviations of all LEDs, summed over each of some parts of the focal plane.

    Attributes
    ----------
    products, noise : ndarray, shape (parts, L, L)
        Sums of products, and the contribution of errors to them.
    freedom : ndarray, shape (parts,)
        Degrees of freedom of the sums.
    """

    products: FloatArray
    noise: FloatArray
    freedom: FloatArray

    def covariance(self, without: int | None = None) -> FloatArray:
        """Return the covariance of the LEDs without noise, shape (L, L); on request without one of the parts."""
        kept = np.ones(len(self.freedom), dtype=bool)
        if without is not None:
            kept[without] = False
        return np.asarray((self.products[kept] - self.noise[kept]).sum(axis=0) / self.freedom[kept].sum())


def joined(parts: Sequence[Moments]) -> Moments:
    """Return the moments of several detectors together."""
    return Moments(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("products", "noise", "freedom")))


@dataclass(frozen=True)
class LedSplit:
    """Variance of each LED on one scale.

    Attributes
    ----------
    variance, shared, own : ndarray, shape (L,)
        Without noise; what other LEDs predict; the rest. Relative; estimates are not clipped.
    errors : ndarray, shape (3, L)
        Standard errors of the three.
    correlation, correlation_error : ndarray, shape (L, L)
        Of LEDs, without noise.
    parts, freedom : int
        Parts of the jackknife, and degrees of freedom.
    """

    variance: FloatArray
    shared: FloatArray
    own: FloatArray
    errors: FloatArray
    correlation: FloatArray
    correlation_error: FloatArray
    parts: int
    freedom: int


def split_variance(moments: Moments) -> LedSplit:
    """Return shared and specific variances of LEDs on one scale; errors are NaN with fewer than three parts."""
    total = float(moments.freedom.sum())
    variances, correlation = _split(moments.covariance(), total)
    parts = len(moments.freedom)
    errors, correlation_error = np.full(variances.shape, np.nan), np.full(correlation.shape, np.nan)
    if parts >= 3:
        drawn = [_split(moments.covariance(part), total - moments.freedom[part]) for part in range(parts)]
        errors, correlation_error = (
            np.sqrt((parts - 1) * np.var(np.array([each[place] for each in drawn]), axis=0)) for place in (0, 1)
        )
    variance, shared, own = variances
    return LedSplit(variance, shared, own, errors, correlation, correlation_error, parts, round(total))


def _split(covariance: FloatArray, freedom: float) -> tuple[FloatArray, FloatArray]:
    """Return total, shared and specific variance, shape (3, L), and the correlations."""
    count = len(covariance)
    variance = np.diag(covariance).copy()
    shared = np.zeros(count)
    for led in range(count if count > 1 else 0):
        others = np.arange(count) != led
        towards = covariance[others, led]
        shared[led] = towards @ np.linalg.pinv(covariance[np.ix_(others, others)], hermitian=True) @ towards
    # A regression on few values explains a part of them by chance.
    own = (variance - shared) * freedom / max(freedom - (count - 1), 1.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        root = np.sqrt(np.where(variance > 0, variance, np.nan))
        correlation = covariance / np.outer(root, root)
    return np.array([variance, variance - own, own]), correlation


def usual_pixels(deviations: NDArray[np.floating], good: BoolArray) -> BoolArray:
    """Return the good pixels that deviate in no LED; the others are defects.

    Parameters
    ----------
    deviations
        Of each LED, shape (L, ny, nx).
    """
    usual = good.copy()
    for deviation in deviations:
        inside = deviation[good]
        low, middle, high = np.percentile(inside, [15.865, 50, 84.135])
        usual &= np.abs(deviation - middle) <= _FAR_OFF * (high - low) / 2
    return usual


def pixel_deviations(flats: Sequence[LedFlat], good: BoolArray, block: int) -> Float32Array:
    """Return each pixel over the mean of its super-pixel, minus 1, shape (L, ny, nx); NaN where it is not good."""
    result = np.full((len(flats), *good.shape), np.nan, dtype=np.float32)
    for number, flat in enumerate(flats):
        means = super_pixels(flat.image, good, block).expand(good.shape)
        with np.errstate(invalid="ignore", divide="ignore"):
            result[number][good] = flat.image[good] / means[good] - 1
    return result


def pixel_moments(
    deviations: Float32Array, flats: Sequence[LedFlat], good: BoolArray, regions: Sequence[Slices], block: int
) -> Moments:
    """Return the moments of pixels; each amplifier is a part.

    Parameters
    ----------
    deviations
        See `pixel_deviations`.
    regions
        Amplifiers.
    """
    counts = super_pixels(good.astype(np.float32), good, block)
    filled = np.where(np.isfinite(counts.mean), counts.count, 0)
    share = np.where(filled > 0, 1.0 - 1.0 / np.maximum(filled, 1), 0.0)
    kept = np.repeat(np.repeat(share, block, axis=0), block, axis=1)[: good.shape[0], : good.shape[1]]
    used = good & (kept > 0) & np.isfinite(deviations).all(axis=0)
    products, noises, freedoms = [], [], []
    for region in regions:
        chosen = used[region]
        if not chosen.any():
            continue
        values = np.array([deviation[region][chosen] for deviation in deviations], dtype=np.float64)
        left = kept[region][chosen]
        relative = [flat.variance[region][chosen] / flat.image[region][chosen].astype(np.float64) ** 2 for flat in flats]
        products.append(values @ values.T)
        noises.append(np.diag([float(np.sum(variance * left)) for variance in relative]))
        freedoms.append(float(left.sum()))
    return _moments(products, noises, freedoms, len(flats))


@dataclass(frozen=True)
class CellMaps:
    """Logarithm of the response on super-pixels of one detector in each LED.

    Attributes
    ----------
    log_response, variance : ndarray, shape (L, p)
        With the variance that super-pixels do not share.
    modes : list of ndarray, shape (k, p)
        Errors that they share, of each LED.
    x_mm, y_mm : ndarray, shape (p,)
        CCS.
    row, column, amplifier : ndarray of int, shape (p,)
        Place on the grid, and number of the amplifier at the centre.
    """

    log_response: FloatArray
    variance: FloatArray
    modes: list[FloatArray]
    x_mm: FloatArray
    y_mm: FloatArray
    row: IntArray
    column: IntArray
    amplifier: IntArray

    @property
    def plane_design(self) -> FloatArray:
        """Columns of a plane about the mean place, shape (p, 3)."""
        return np.column_stack([np.ones(self.x_mm.size), self.x_mm - self.x_mm.mean(), self.y_mm - self.y_mm.mean()])

    @property
    def planes(self) -> FloatArray:
        """Level and gradient along X and Y of each LED, shape (L, 3)."""
        return np.asarray(np.linalg.lstsq(self.plane_design, self.log_response.T)[0].T)

    @property
    def plane_covariance(self) -> FloatArray:
        """Covariance of level and gradients in each LED, from the flat, shape (L, 3, 3)."""
        operator = np.linalg.pinv(self.plane_design)
        of_modes = [operator @ modes.T for modes in self.modes]
        own = [(operator * variance) @ operator.T for variance in self.variance]
        return np.array([modes @ modes.T + noise for modes, noise in zip(of_modes, own, strict=True)])


@dataclass(frozen=True)
class Places:
    """Values in all LEDs at some places of a detector.

    Attributes
    ----------
    values, errors : ndarray, shape (L, n)
        Relative.
    x_mm, y_mm : ndarray, shape (n,)
        CCS.
    """

    values: FloatArray
    errors: FloatArray
    x_mm: FloatArray
    y_mm: FloatArray

    @classmethod
    def of_means(cls, maps: CellMaps, mean: FloatArray, left: FloatArray) -> Places:
        """Return linear combinations ``left`` (n, n) of means over super-pixels ``mean`` (n, p), with their errors."""
        own = [variance @ np.square(mean).T for variance in maps.variance]
        shared = [np.square(modes @ mean.T @ left).sum(axis=0) for modes in maps.modes]
        errors = np.sqrt([variance + common for variance, common in zip(own, shared, strict=True)])
        return cls(maps.log_response @ mean.T @ left, errors, mean @ maps.x_mm, mean @ maps.y_mm)


def amplifier_places(maps: CellMaps) -> Places:
    """Return the means of amplifiers about a plane through their detector; no places with fewer than five amplifiers."""
    amplifiers, number = np.unique(maps.amplifier, return_inverse=True)
    if amplifiers.size < _FEWEST_AMPLIFIERS:
        leds = len(maps.log_response)
        return Places(np.zeros((leds, 0)), np.zeros((leds, 0)), np.zeros(0), np.zeros(0))
    mean = _group_means(number)
    design = mean @ maps.plane_design
    return Places.of_means(maps, mean, np.eye(amplifiers.size) - design @ np.linalg.pinv(design))


def large_places(maps: CellMaps) -> Places:
    """Return the means over sixteenths of the detector, without subtraction."""
    index = [np.minimum(LARGE_CELLS * place // (int(place.max()) + 1), LARGE_CELLS - 1) for place in (maps.row, maps.column)]
    number = np.unique(LARGE_CELLS * index[0] + index[1], return_inverse=True)[1]
    mean = _group_means(number)
    return Places.of_means(maps, mean, np.eye(len(mean)))


def _group_means(number: IntArray) -> FloatArray:
    """Return the matrix of means over groups, shape (groups, p)."""
    members = number[:, None] == np.arange(number.max() + 1)
    return np.asarray((members / members.sum(axis=0)).T)


def cell_moments(maps: CellMaps) -> Moments:
    """Return the moments of super-pixels; each amplifier is a part."""
    amplifiers = np.unique(maps.amplifier)
    indicators = (maps.amplifier[:, None] == amplifiers).astype(np.float64)
    basis = _basis(np.column_stack([indicators, maps.plane_design[:, 1:]]))
    left = 1.0 - np.square(basis).sum(axis=1)
    values = _without(maps.log_response, basis)
    noise = [variance * left for variance in maps.variance]
    shared = [np.square(_without(modes, basis)).sum(axis=0) for modes in maps.modes]
    products, noises, freedoms = [], [], []
    for amplifier in amplifiers:
        own = maps.amplifier == amplifier
        if own.sum() < _FEWEST_CELLS:
            continue
        products.append(values[:, own] @ values[:, own].T)
        noises.append(np.diag([float((one + other)[own].sum()) for one, other in zip(noise, shared, strict=True)]))
        freedoms.append(float(left[own].sum()))
    return _moments(products, noises, freedoms, len(maps.log_response))


def amplifier_moments(maps: CellMaps) -> Moments:
    """Return the moments of the amplifiers of one detector, which is the only part; no part with fewer than five amplifiers."""
    amplifiers, number = np.unique(maps.amplifier, return_inverse=True)
    leds = len(maps.log_response)
    if amplifiers.size < _FEWEST_AMPLIFIERS:
        return _moments([], [], [], leds)
    mean = _group_means(number)
    basis = _basis(mean @ maps.plane_design)
    left = 1.0 - np.square(basis).sum(axis=1)
    values = _without(maps.log_response @ mean.T, basis)
    noise = [
        float(np.sum((variance @ np.square(mean).T) * left)) + float(np.square(_without(modes @ mean.T, basis)).sum())
        for variance, modes in zip(maps.variance, maps.modes, strict=True)
    ]
    return _moments([values @ values.T], [np.diag(noise)], [float(left.sum())], leds)


def detector_moments(levels: FloatArray, covariance: FloatArray) -> Moments:
    """Return the moments of the levels of all detectors; each detector is a part.

    Parameters
    ----------
    levels : ndarray, shape (L, n)
        Logarithm of the level of each detector in each LED.
    covariance : ndarray, shape (L, L, n, n)
        Of the levels of detectors in one LED with those in another.
    """
    count = levels.shape[1]
    values = levels - levels.mean(axis=1, keepdims=True)
    centring = np.eye(count) - 1.0 / count
    noise = np.array([[np.diag(centring @ block @ centring) for block in row] for row in covariance])
    return Moments(np.einsum("ln,mn->nlm", values, values), np.moveaxis(noise, -1, 0), np.full(count, (count - 1.0) / count))


def _moments(products: list[FloatArray], noises: list[FloatArray], freedoms: list[float], leds: int) -> Moments:
    shape = (len(freedoms), leds, leds)
    return Moments(np.reshape(products, shape), np.reshape(noises, shape), np.array(freedoms))


def _basis(design: FloatArray) -> FloatArray:
    """Return an orthonormal basis of the columns of a design."""
    left, size, _ = np.linalg.svd(design, full_matrices=False)
    return np.asarray(left[:, size > 1e-9 * size.max()])


def _without(values: FloatArray, basis: FloatArray) -> FloatArray:
    """Return rows without their components in a basis."""
    return np.asarray(values - (values @ basis) @ basis.T)
