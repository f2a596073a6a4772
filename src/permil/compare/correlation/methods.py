"""Alternative methods for error and significance of a correlation, each with its own results.

- textbook tests: the t-test for independent points, and the modified t-test with plug-in covariances;
- resampling of blocks (`permil.compare.correlation.blocks`);
- null distributions from the maps: phase randomisation, random shifts, and rotated maps with shifts.

All keep the correlation of neighbours within each map and break the relation between the maps. Each has a limitation, quantified in the
documentation: phases are randomised as if the map were periodic, and a map with a correlation length of a large part of the field
allows few independent shifts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import NDArray
from scipy import fft, ndimage

from permil._kernels import compare as kernels
from permil.arrays import FloatArray
from permil.compare.correlation.blocks import (
    ONE_BLOCK,
    BlockScan,
    block_bootstrap,
    block_sums,
    correlation_of,
    enough_groups,
    jackknife,
    jackknife_labels,
    moments,
)
from permil.compare.correlation.covariance import Geometry
from permil.compare.correlation.points import Cells, Points

_CLASSES = 30
_SHARE_OF_DIAGONAL = 0.5

_ITERATIONS = 5
# Points times draws of the phase randomisation; maps too large for all resamples get fewer.
_WORK = 6e6
_FEWEST_DRAWS = 40
FEWEST_SURROGATES = 20
"""Fewer surrogates give neither an error nor a p-value: with 20 the smallest p-value is just below 0.05."""
# Random shifts of each map with randomised phases. Draws from different shifts are uncorrelated: the mean of the cross-correlation over
# all shifts is zero. Their squares are correlated by the inverse of the effective number of values, which hardly reduces the precision.
_SHIFTS = 8
# Shifts must leave at least this fraction of the pairs.
_OVERLAP = 0.3
# Cells of all maps processed together: they fit in the cache.
_CELLS_AT_ONCE = 50_000
METHODS = ("naive", "modified_t", "block_bootstrap", "block_jackknife", "group_jackknife", "phases", "shifts", "rotations")
_ONE_SIGMA = 0.682689492137086


def t_test(r: float, n_eff: float) -> float:
    """Return the two-sided p-value of r from ``n_eff`` independent pairs; NaN for less than three."""
    if not n_eff > 2.0:
        return np.nan
    return float(2.0 * scipy.stats.t.sf(abs(r) * np.sqrt((n_eff - 2.0) / max(1.0 - r * r, 1e-15)), n_eff - 2.0))


def fisher_interval(r: float, error: float, sigmas: float = 1.0) -> tuple[float, float]:
    """Return the interval of ``sigmas`` standard errors, symmetric in ``arctanh(r)`` (Fisher 1915)."""
    z, half = np.arctanh(np.clip(r, -1.0 + 1e-15, 1.0 - 1e-15)), sigmas * error / max(1.0 - r * r, 1e-12)
    return float(np.tanh(z - half)), float(np.tanh(z + half))


def naive_error(r: float, n: float) -> float:
    """Return the standard error of r of ``n`` independent normal pairs."""
    return float((1.0 - r * r) / np.sqrt(n - 1.0))


def plug_in_n_eff(cells: Cells, a: FloatArray, b: FloatArray) -> float:
    """Return ``1 + n^2 / sum_k N_k Ca(k) Cb(k)`` with the covariances measured in classes of distance.

    As in Clifford, Richardson & Hemon (1989), equation 3.2, up to half of the longest distance. The covariances of centred maps are
    biased low, and for long correlation lengths the result is far too large.
    """
    distance = np.hypot(cells.lag_y[:, None], cells.lag_x[None, :])
    longest = _SHARE_OF_DIAGONAL * cells.diagonal
    used = (distance <= longest) & (cells.pairs > 0)
    number = np.where(distance[used] == 0.0, 0, 1 + (distance[used] / longest * _CLASSES).astype(np.int64))
    pairs = np.bincount(number, cells.pairs[used])
    products = [np.bincount(number, cells.lag_products(values)[used]) for values in (a, b)]
    # Pairs at lag 0 are exactly those of each point with itself only if no two points share a cell.
    total = np.sum(np.divide(products[0] * products[1], pairs, out=np.zeros_like(pairs), where=pairs > 0))
    return float(1.0 + cells.n**2 / total) if total > 0 else np.nan


@dataclass(frozen=True)
class Null:
    """r of surrogates of independent maps.

    Attributes
    ----------
    draws : ndarray
        Correlations, those of smaller windows scaled to the full field.
    p_value
        Fraction of surrogates (including the observation) at least as large as the observation, of either sign; NaN if there are fewer than
        `FEWEST_SURROGATES`.
    """

    draws: FloatArray
    p_value: float


def _null(draws: FloatArray, r: float) -> Null:
    draws = draws[np.isfinite(draws)]
    if len(draws) < FEWEST_SURROGATES:
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
    each one is compared in several random positions.
    """
    image = filled(cells, a)
    # Transforms only give the order of the values, for which single precision suffices.
    amplitude, ordered = np.abs(fft.rfft2(image)).astype(np.float32), np.sort(image, axis=None)
    norm = np.sqrt(np.sum(b**2))
    wanted = min(resamples, max(_FEWEST_DRAWS, int(_WORK / image.size)))
    draws: list[FloatArray] = []
    maps = -(-wanted // _SHIFTS)
    at_once = max(1, _CELLS_AT_ONCE // image.size)
    for begin in range(0, maps, at_once):
        size = min(at_once, maps - begin)
        surrogate = rng.permuted(np.tile(ordered, (size, 1)), axis=1)
        for _ in range(_ITERATIONS):
            spectrum = fft.rfft2(surrogate.astype(np.float32).reshape(size, *image.shape))
            spectrum *= amplitude / np.sqrt(np.maximum(spectrum.real**2 + spectrum.imag**2, np.float32(1e-30)))
            kernels.give_order(fft.irfft2(spectrum, image.shape).reshape(size, -1), ordered, surrogate)
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
    correlations, pairs = shifted_correlations(cells.mean(a), cells.mean(b))
    correlations[0, 0] = np.nan
    return _null(_drawn(correlations, pairs, cells.places, resamples, rng), float(np.mean(a * b)))


def rotation_surrogates(cells: Cells, a: FloatArray, b: FloatArray, *, resamples: int, rng: np.random.Generator) -> Null:
    """Return r of b with a rotated by quarter turns or mirrored, each also shifted; scaled as for shifts."""
    image, other = cells.mean(a), cells.mean(b)
    draws = []
    kinds = [(turn, mirrored) for mirrored in (False, True) for turn in range(4) if turn or mirrored]
    for part, (turn, mirrored) in zip(np.array_split(np.arange(resamples), len(kinds)), kinds, strict=True):
        turned = np.rot90(image[:, ::-1] if mirrored else image, turn)
        draws.append(_drawn(*shifted_correlations(turned, other), cells.places, len(part), rng))
    return _null(np.concatenate(draws), float(np.mean(a * b)))


def _drawn(correlations: FloatArray, pairs: FloatArray, n: int, number: int, rng: np.random.Generator) -> FloatArray:
    """Return the correlations of random shifts with enough of the n pairs, scaled to the scatter of the full field."""
    allowed = np.flatnonzero((pairs >= _OVERLAP * n) & np.isfinite(correlations))
    if not len(allowed):
        return np.empty(0)
    chosen = rng.choice(allowed, min(number, len(allowed)), replace=False)
    return correlations.ravel()[chosen] * np.sqrt(pairs.ravel()[chosen] / n)


def shifted_correlations(a: FloatArray, b: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return r of the cells that overlap, and their number, for each shift of a against b (circular lattice large enough not to wrap).

    Parameters
    ----------
    a, b : ndarray, shape (rows, columns)
        Means in cells, NaN in empty ones; the shapes may differ.
    """
    rows, columns = (fft.next_fast_len(first + second - 1, real=True) for first, second in zip(a.shape, b.shape, strict=True))
    (one_a, a_, aa), (one_b, b_, bb) = (_powers(image, (rows, columns)) for image in (a, b))
    products = np.stack(
        [one_a.conj() * one_b, a_.conj() * one_b, one_a.conj() * b_, a_.conj() * b_, aa.conj() * one_b, one_a.conj() * bb]
    )
    pairs, of_a, of_b, of_both, squares_a, squares_b = fft.irfft2(products, (rows, columns), overwrite_x=True)
    pairs = np.maximum(np.rint(pairs), 0.0)
    safe = np.maximum(pairs, 1.0)
    mean_a, mean_b = of_a / safe, of_b / safe
    product = of_both / safe - mean_a * mean_b
    variances = (squares_a / safe - mean_a**2) * (squares_b / safe - mean_b**2)
    return np.divide(
        product, np.sqrt(np.maximum(variances, 0.0)), out=np.full_like(product, np.nan), where=variances > 1e-12
    ), pairs


def _powers(image: FloatArray, padded: tuple[int, int]) -> NDArray[np.complex128]:
    """Return the transforms of the powers 0 to 2 of an image, 0 in empty cells."""
    there = np.isfinite(image)
    value = np.where(there, image, 0.0)
    return np.asarray(fft.rfft2(np.stack([there.astype(float), value, value**2]), padded))


_SURROGATES = {"phases": phase_surrogates, "shifts": shift_surrogates, "rotations": rotation_surrogates}


def other_methods(
    geometry: Geometry, points: Points, r: float, seed: int, resamples: int, methods: Sequence[str]
) -> tuple[tuple[MethodFigures, ...], BlockScan | None, dict[str, Null]]:
    """Run the alternative methods; each has independent random numbers and does not depend on the others."""
    found: list[MethodFigures] = []
    scan: BlockScan | None = None
    nulls: dict[str, Null] = {}
    for number, name in enumerate(METHODS):
        if name not in methods:
            continue
        rng = np.random.default_rng([seed, number])
        if name == "naive":
            error = naive_error(r, points.n)
            found.append(
                MethodFigures(
                    name, error, fisher_interval(r, error), t_test(r, points.n), points.n, "every value counted as independent"
                )
            )
        elif name == "modified_t":
            n_eff = plug_in_n_eff(geometry.cells, points.a, points.b)
            error = naive_error(r, n_eff) if n_eff > 1 else np.nan
            found.append(MethodFigures(name, error, fisher_interval(r, error), t_test(r, n_eff), n_eff, "plug-in covariances"))
        elif name == "block_bootstrap":
            scan = block_bootstrap(points.x, points.y, points.a, points.b, geometry.cells, resamples=resamples, rng=rng)
            found.append(_bootstrap_figures(scan, r))
        elif name in ("block_jackknife", "group_jackknife"):
            found.append(_jackknife_figures(name, geometry, points, r))
        else:
            null = _SURROGATES[name](geometry.cells, points.a, points.b, resamples=resamples, rng=rng)
            nulls[name] = null
            found.append(_surrogate_figures(name, null, r))
    return tuple(found), scan, nulls


def _surrogate_figures(name: str, null: Null, r: float) -> MethodFigures:
    count = len(null.draws)
    if count < FEWEST_SURROGATES:
        return MethodFigures(name, note=f"{count} surrogates are too few" if count else "no shift leaves enough pairs")
    spread = float(np.sqrt(np.mean(null.draws**2)))
    error = spread * (1.0 - r * r)
    return MethodFigures(
        name, error, fisher_interval(r, error), null.p_value, 1.0 + spread**-2.0, f"{count} surrogates", 1.0 / (count + 1)
    )


def _bootstrap_figures(scan: BlockScan, r: float) -> MethodFigures:
    size, error = scan.sizes[scan.chosen], float(scan.errors[scan.chosen])
    low, high = np.quantile(scan.draws, [0.5 - _ONE_SIGMA / 2, 0.5 + _ONE_SIGMA / 2])
    p_value = float(
        2.0 * scipy.stats.norm.sf(abs(np.arctanh(np.clip(r, -1 + 1e-15, 1 - 1e-15))) * (1.0 - r * r) / max(error, 1e-15))
    )
    note = (
        f"plateau from blocks of {size:.3g}" if np.isfinite(scan.plateau) else f"no plateau up to blocks of {size:.3g}: too small"
    )
    return MethodFigures("block_bootstrap", error, (float(low), float(high)), p_value, _worth(r, error), note)


def _jackknife_figures(name: str, geometry: Geometry, points: Points, r: float) -> MethodFigures:
    if name == "group_jackknife":
        if points.groups is None:
            return MethodFigures(name, note="no groups given")
        if not enough_groups(points.groups):
            return MethodFigures(name, note="fewer than five groups")
        labels = points.groups
    else:
        labels = jackknife_labels(points.x, points.y, geometry.cells)
    sums = block_sums(moments(points.a, points.b), labels)
    _, error = jackknife(sums, correlation_of)
    if np.isnan(error):
        return MethodFigures(name, note=ONE_BLOCK)
    freedom = len(sums) - 1
    z = np.arctanh(np.clip(r, -1 + 1e-15, 1 - 1e-15)) * (1.0 - r * r)
    p_value = float(2.0 * scipy.stats.t.sf(abs(z) / max(float(error), 1e-15), freedom))
    interval = fisher_interval(r, float(error), float(scipy.stats.t.ppf(0.5 + _ONE_SIGMA / 2, freedom)))
    what = "groups" if name == "group_jackknife" else "blocks"
    return MethodFigures(name, float(error), interval, p_value, _worth(r, float(error)), f"{len(sums)} {what}")


def _worth(r: float, error: float) -> float:
    """Return the number of independent normal pairs with a given error of r."""
    return float(1.0 + ((1.0 - r * r) / error) ** 2) if error > 0 else np.nan


@dataclass(frozen=True)
class MethodFigures:
    """Results of one method; NaN for those it does not provide.

    Attributes
    ----------
    name
        Name of the method.
    r_err
        Standard error of r.
    interval
        Its 68.3 % interval.
    p_value
        Its two-sided p-value of independence.
    n_eff
        Its effective number of points.
    note
        Remark: block size, number of surrogates, or why there is no result.
    p_floor
        Smallest p-value possible with the number of surrogates; 0 for methods without one. A p-value there is an upper limit.
    """

    name: str
    r_err: float = np.nan
    interval: tuple[float, float] = (np.nan, np.nan)
    p_value: float = np.nan
    n_eff: float = np.nan
    note: str = ""
    p_floor: float = 0.0

    @property
    def is_limit(self) -> bool:
        """Whether the p-value is at its floor: no surrogate reached the observation."""
        return self.p_floor > 0.0 and self.p_value <= self.p_floor * (1.0 + 1e-9)
