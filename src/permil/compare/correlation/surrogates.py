"""Null distributions from the maps themselves: phase randomisation, random shifts, and rotated maps with shifts.

All keep the correlation of neighbours within each map and break the relation between the maps. Each has a limitation, quantified in the
documentation: phases are randomised as if the map were periodic, and a map with a correlation length of a large part of the field allows
few independent shifts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from permil.compare.correlation.cells import Cells

FloatArray = NDArray[np.float64]

_ITERATIONS = 5
# Points times draws of the phase randomisation; maps too large for all resamples get fewer.
_WORK = 6e6
_FEWEST_DRAWS = 40
# Random shifts of each map with randomised phases. Draws from different shifts are uncorrelated: the mean of the cross-correlation over
# all shifts is zero.
_SHIFTS = 4
# Shifts must leave at least this fraction of the pairs.
_OVERLAP = 0.3
# Cells of all maps processed together: they fit in the cache.
_CELLS_AT_ONCE = 50_000


@dataclass(frozen=True)
class Null:
    """r of surrogates of independent maps.

    Attributes
    ----------
    draws : ndarray
        Correlations, those of smaller windows scaled to the full field.
    p_value
        Fraction of surrogates (including the observation) at least as large as the observation, of either sign.
    """

    draws: FloatArray
    p_value: float


def _null(draws: FloatArray, r: float) -> Null:
    draws = draws[np.isfinite(draws)]
    if not len(draws):
        return Null(draws, np.nan)
    return Null(draws, float((1 + np.sum(np.abs(draws) >= abs(r) * (1.0 - 1e-12))) / (len(draws) + 1)))


def filled(cells: Cells, values: FloatArray) -> FloatArray:
    """Return the map on the lattice, with empty cells filled from the nearest one."""
    image = cells.mean(values)
    empty = np.isnan(image)
    if empty.any():
        nearest = ndimage.distance_transform_edt(empty, return_distances=False, return_indices=True)
        image = image[tuple(nearest)]
    return image


def phase_surrogates(cells: Cells, a: FloatArray, b: FloatArray, *, resamples: int, rng: np.random.Generator) -> Null:
    """Return r of b with surrogates of a that keep its values and, nearly, its power spectrum.

    Iterated amplitude-adjusted Fourier transform (Schreiber & Schmitz 1996, Phys. Rev. Lett. 77, 635) in two dimensions, ending with the
    values; the map on the lattice with holes filled, compared with b at its points. Such a map is periodic and has no preferred origin:
    each is compared in several random positions, without its own shape being made again.
    """
    image = filled(cells, a)
    amplitude, ordered = np.abs(fft.rfft2(image)), np.sort(image, axis=None)
    norm = np.sqrt(np.sum(b**2))
    wanted = min(resamples, max(_FEWEST_DRAWS, int(_WORK / image.size)))
    draws: list[FloatArray] = []
    maps = -(-wanted // _SHIFTS)
    at_once = max(1, _CELLS_AT_ONCE // image.size)
    for begin in range(0, maps, at_once):
        size = min(at_once, maps - begin)
        surrogate = rng.permuted(np.tile(ordered, (size, 1)), axis=1)
        for _ in range(_ITERATIONS):
            spectrum = fft.rfft2(surrogate.reshape(size, *image.shape))
            spectrum *= amplitude / np.maximum(np.abs(spectrum), 1e-300)
            rank = np.argsort(fft.irfft2(spectrum, image.shape).reshape(size, -1), axis=1)
            np.put_along_axis(surrogate, rank, ordered[None, :], axis=1)
        # Shifting the points has the same effect as shifting the map.
        shifts = rng.integers(image.shape, size=(_SHIFTS, 2))
        counts, target = (
            np.stack([np.roll(field, shift, (0, 1)).ravel() for shift in shifts], axis=1)
            for field in (cells.counts, cells.total(b))
        )
        mean = surrogate @ counts / cells.n
        spread = np.sqrt(np.maximum(surrogate**2 @ counts / cells.n - mean**2, 0.0))
        covariance = surrogate @ target / (norm * np.sqrt(cells.n))
        draws.append(np.divide(covariance, spread, out=np.full(spread.shape, np.nan), where=spread > 0.0).ravel())
    return _null(np.concatenate(draws)[:wanted], float(np.mean(a * b)))


def shift_surrogates(cells: Cells, a: FloatArray, b: FloatArray, *, resamples: int, rng: np.random.Generator) -> Null:
    """Return r over the common window of a shifted against b, scaled to the window's fraction of the pairs.

    Shifts without wrapping, with the variance correction of Mrkvička et al. (2021, Stat. Comput. 31, 39). All shifts are
    computed together by FFT; ``resamples`` of them are drawn.
    """
    correlations, pairs = shifted_correlations(cells.total(a), cells.total(b), cells.counts, cells.counts)
    correlations[0, 0] = np.nan
    return _null(_drawn(correlations, pairs, cells.places, resamples, rng), float(np.mean(a * b)))


def rotation_surrogates(cells: Cells, a: FloatArray, b: FloatArray, *, resamples: int, rng: np.random.Generator) -> Null:
    """Return r of b with a rotated by quarter turns or mirrored, each also shifted; scaled as for shifts."""
    total, counts = cells.total(a), cells.counts
    draws = []
    kinds = [(turn, mirrored) for mirrored in (False, True) for turn in range(4) if turn or mirrored]
    for part, (turn, mirrored) in zip(np.array_split(np.arange(resamples), len(kinds)), kinds, strict=True):
        turned = [np.rot90(field[:, ::-1] if mirrored else field, turn) for field in (total, counts)]
        correlations, pairs = shifted_correlations(turned[0], cells.total(b), turned[1], counts)
        draws.append(_drawn(correlations, pairs, cells.places, len(part), rng))
    return _null(np.concatenate(draws), float(np.mean(a * b)))


def _drawn(correlations: FloatArray, pairs: FloatArray, n: int, number: int, rng: np.random.Generator) -> FloatArray:
    """Return the correlations of random shifts with enough of the n pairs, scaled to the scatter of the full field."""
    allowed = np.flatnonzero((pairs >= _OVERLAP * n) & np.isfinite(correlations))
    if not len(allowed):
        return np.empty(0)
    chosen = rng.choice(allowed, min(number, len(allowed)), replace=False)
    return correlations.ravel()[chosen] * np.sqrt(pairs.ravel()[chosen] / n)


def shifted_correlations(a: FloatArray, b: FloatArray, count_a: FloatArray, count_b: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return r of the cells that overlap, and their number, for each shift of a against b (circular lattice large enough not to wrap).

    Parameters
    ----------
    a, b : ndarray, shape (rows, columns)
        Sums in cells; the shapes may differ.
    count_a, count_b : ndarray
        Number of points in cells.
    """
    rows, columns = (fft.next_fast_len(first + second - 1, real=True) for first, second in zip(a.shape, b.shape, strict=True))
    fields = []
    for total, count in ((a, count_a), (b, count_b)):
        there = count > 0
        value = np.divide(total, count, out=np.zeros_like(total), where=there)
        fields.append([fft.rfft2(field, (rows, columns)) for field in (there.astype(float), value, value**2)])
    (one_a, a_, aa), (one_b, b_, bb) = fields

    def lagged(first: NDArray[np.complex128], second: NDArray[np.complex128]) -> FloatArray:
        return fft.irfft2(first.conj() * second, (rows, columns))

    pairs = np.maximum(np.rint(lagged(one_a, one_b)), 0.0)
    safe = np.maximum(pairs, 1.0)
    mean_a, mean_b = lagged(a_, one_b) / safe, lagged(one_a, b_) / safe
    product = lagged(a_, b_) / safe - mean_a * mean_b
    variances = (lagged(aa, one_b) / safe - mean_a**2) * (lagged(one_a, bb) / safe - mean_b**2)
    return np.divide(
        product, np.sqrt(np.maximum(variances, 0.0)), out=np.full_like(product, np.nan), where=variances > 1e-12
    ), pairs
