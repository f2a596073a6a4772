"""Normal equations of the joint model with the response eliminated, super-pixel by super-pixel.

Given all other unknowns, the normal matrix of the response is diagonal.
With ``X`` the rows of the other unknowns, ``w`` the weights, ``W_p = sum_e w`` and the
sums ``S_p = sum_e w x`` of super-pixel ``p``, the normal matrix of the other unknowns is (Schur complement)::

    N = sum_ep w x x' - sum_p S_p S_p' / W_p,     g = sum_ep w x (y - model)

and an error ``dz`` of them moves the response by ``-A dz`` with the rows ``A_p = S_p' / W_p``. A tile of neighbouring super-pixels
depends on few unknowns, always the same, so that the second term is a small dense product for each tile. Cost is linear in the number
of detectors; memory is that of one detector and of one matrix of the unknowns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import numpy as np

from permil._kernels.joint import (
    add_blocks,
    add_gradient,
    mark_windows,
    mirror_upper,
    predict,
    profile_response,
    slopes_along,
    subtract_rows,
    sum_tile,
)
from permil.arrays import BoolArray, Float32Array, FloatArray, IntArray
from permil.engine import threaded_map
from permil.flat.joint.data import DetectorSignals
from permil.flat.joint.model import GainGroup, JointModel

_TILE_MM = 10.5
"""Side of the tiles: large enough for matrix products, small enough to depend on few splines."""


@dataclass(frozen=True)
class Tile:
    """Neighbouring super-pixels of a detector and the unknowns that they depend on.

    Parameters
    ----------
    pixels : ndarray of int, shape (p,)
        Which super-pixels; each has a response.
    columns : ndarray of int, shape (n,)
        The unknowns, rising.
    sums : ndarray, shape (p, n)
        ``S``.
    moments : ndarray, shape (p,)
        ``W``.
    """

    pixels: IntArray
    columns: IntArray
    sums: FloatArray
    moments: FloatArray

    @property
    def shifts(self) -> FloatArray:
        """Rows ``A``, shape (p, n)."""
        return self.sums / self.moments[:, None]

    def scale(self) -> FloatArray:
        """Convert the sums to ``S / sqrt(W)``, shape (p, n): eliminating the responses subtracts its square from the matrix."""
        return np.divide(self.sums, np.sqrt(self.moments)[:, None], out=self.sums)


@dataclass(frozen=True)
class TilePlan:
    """Unknowns and derivatives of a tile, before its rows are summed.

    Parameters
    ----------
    pixels, columns : ndarray of int
        Super-pixels and unknowns.
    windows : ndarray of int, shape (e, patterns, 4)
        See `mark_windows`.
    further : ndarray of int, shape (e, m)
        Unknowns of each exposure besides the patterns.
    parts : ndarray, shape (e, m, 3 or 8)
        See `JointModel.further_columns`.
    """

    pixels: IntArray
    columns: IntArray
    windows: IntArray
    further: IntArray
    parts: FloatArray

    @property
    def shared(self) -> int:
        """Unknowns of a block other than the B-splines."""
        return int(self.parts.shape[2])

    @cached_property
    def block_size(self) -> int:
        """Side of the largest of the blocks of `sum_tile`."""
        return int((self.windows[:, :, 1] * self.windows[:, :, 3]).sum(axis=1).max(initial=0)) + self.shared


class DetectorRows:
    """The rows of one detector at a vector of unknowns: derivatives of its logarithms, computed part by part.

    Parameters
    ----------
    residual, weights : ndarray, shape (e, p)
        Residuals of the logarithms at that vector; those without weight are ignored.
    """

    def __init__(
        self, model: JointModel, detector: DetectorSignals, vector: FloatArray, residual: FloatArray, weights: FloatArray
    ) -> None:
        self._detector, self._vector, self._size = detector, vector, model.size
        self._residual, self._weights = residual, weights
        self._counts, self._places = model.pattern_arrays()
        columns, parts = model.further_columns(vector)
        chosen = detector.exposures
        self._centres, self._frames = model.centres(vector)[chosen], model.frames[chosen]
        self._groups = [
            (group.pixels, *_with_gains(columns[chosen], parts[chosen], group)) for group in model.gain_groups(detector)
        ]

    def product(self, step: FloatArray) -> FloatArray:
        """Return ``x . step`` of all signals, shape (e, p): the changes of the logarithms by a small step of the unknowns."""
        detector = self._detector
        result = np.empty(self._residual.shape)
        for pixels, further, parts in self._groups:
            along = (parts * step[further][:, :, None]).sum(axis=1)
            light = self._counts, self._places, step, self._frames, np.ascontiguousarray(along[:, 3:])
            change = predict(
                detector.x_mm[pixels], detector.y_mm[pixels], self._centres, np.ascontiguousarray(along[:, 0]), *light
            )
            change += along[:, 1, None] * self._slopes[:, 0, pixels]
            change += along[:, 2, None] * self._slopes[:, 1, pixels]
            result[:, pixels] = change
        return result

    @cached_property
    def _slopes(self) -> Float32Array:
        """Derivatives of the logarithms with respect to the projector's position, shape (e, 2, p)."""
        detector = self._detector
        slopes = np.empty((len(self._centres), 2, len(detector.x_mm)))
        slopes_along(detector.x_mm, detector.y_mm, self._centres, self._counts, self._places, self._vector, slopes)
        return slopes.astype(np.float32)

    def add_gradient(self, gradient: FloatArray, residual: FloatArray | None = None, chosen: BoolArray | None = None) -> None:
        """Add ``sum w x r`` of all signals, shape (unknowns,), for their residuals or others in place of these.

        Parameters
        ----------
        chosen : ndarray of bool, shape (p,)
            The super-pixels that are summed; default all.
        """
        detector, of_signals = self._detector, self._residual if residual is None else residual
        alone = len(self._groups) == 1 and chosen is None
        for of_group, further, parts in self._groups:
            pixels = of_group if chosen is None else of_group[chosen[of_group]]
            residual, weights = (rows if alone else np.ascontiguousarray(rows[:, pixels]) for rows in (of_signals, self._weights))
            state = self._centres, self._counts, self._places, self._vector, further, parts, self._frames
            add_gradient(detector.x_mm[pixels], detector.y_mm[pixels], residual, weights, *state, gradient)

    def plans(self) -> Iterator[TilePlan]:
        """Yield the tiles of the detector."""
        for pixels, further, parts in self._tile_pixels():
            x, y = self._detector.x_mm[pixels], self._detector.y_mm[pixels]
            marked = np.zeros(self._size, dtype=np.bool_)
            windows = np.zeros((len(self._centres), len(self._counts), 4), dtype=np.int64)
            bounds = np.array([x.min(), x.max(), y.min(), y.max()])
            lit = np.asarray(self._weights[:, pixels].any(axis=1))
            mark_windows(bounds, self._centres, self._counts, self._places, further, lit, windows, marked)
            yield TilePlan(pixels, np.flatnonzero(marked), windows, further, parts)

    def tile(self, plan: TilePlan) -> Tile:
        """Return the sums of a tile."""
        return self._sum(plan, np.empty((0, 0, 0)))

    def tile_and_blocks(self, plan: TilePlan) -> tuple[Tile, FloatArray]:
        """Return the sums of a tile, and the products of its rows as if the response were known, for `add_blocks`."""
        blocks = np.zeros((len(self._centres), plan.block_size, plan.block_size))
        return self._sum(plan, blocks), blocks

    def add_blocks(self, matrix: FloatArray, plan: TilePlan, blocks: FloatArray, low: int, high: int) -> None:
        """Add the products of the rows of a tile to the upper triangle of a matrix, in its rows from low to high."""
        add_blocks(matrix, blocks, plan.windows, self._counts, plan.further, plan.parts, low, high)

    def _sum(self, plan: TilePlan, blocks: FloatArray) -> Tile:
        pixels, used = plan.pixels, plan.columns
        positions = np.zeros(self._size, dtype=np.int64)
        positions[used] = np.arange(used.size)
        sums, moments = np.zeros((pixels.size, used.size)), np.zeros(pixels.size)
        x, y = self._detector.x_mm[pixels], self._detector.y_mm[pixels]
        weights = np.ascontiguousarray(self._weights[:, pixels])
        state = self._counts, self._places, self._vector, plan.further, plan.parts, self._frames
        sum_tile(x, y, weights, self._centres, *state, plan.windows, positions, sums, moments, blocks)
        return Tile(pixels, used, sums, moments)

    def _tile_pixels(self) -> Iterator[tuple[IntArray, IntArray, FloatArray]]:
        """Yield the super-pixels of each tile, of one group each, with their further unknowns and parts."""
        is_lit: BoolArray = np.asarray(self._weights.any(axis=0))
        for pixels, further, parts in self._groups:
            lit = pixels[is_lit[pixels]]
            if not lit.size:
                continue
            column, row = (
                np.floor(place[lit] / _TILE_MM).astype(np.int64) for place in (self._detector.x_mm, self._detector.y_mm)
            )
            order = np.lexsort([row, column])
            for tile in np.split(lit[order], np.flatnonzero(np.diff(column[order]) | np.diff(row[order])) + 1):
                yield tile, further, parts


def _with_gains(columns: IntArray, parts: FloatArray, group: GainGroup) -> tuple[IntArray, FloatArray]:
    """Return further unknowns (rising) and parts with those of the gains of a group."""
    if not group.columns.size:
        return columns, parts
    of_gains = np.zeros((len(columns), group.columns.size, parts.shape[2]))
    of_gains[:, :, 0] = group.values
    columns = np.concatenate([columns, np.tile(group.columns, (len(columns), 1))], axis=1)
    # Their order is the same in all exposures.
    order = np.argsort(columns[0]) if len(columns) else np.arange(columns.shape[1])
    return np.ascontiguousarray(columns[:, order]), np.ascontiguousarray(np.concatenate([parts, of_gains], axis=1)[:, order])


Product = tuple[IntArray, FloatArray]
"""Unknowns (rising) and their rows ``R``, shape (p, unknowns), which represent ``R' R``."""

_CHUNK_BYTES = 2**25
"""Memory of the tiles that are summed before their products are added."""

_STRIP_ROWS = 192
"""Rows of a product computed at a time: few enough to stay in the cache until they are subtracted."""

_STRIPS = 12
_ONE_STRIP = 600
"""Mean number of unknowns of a tile below which one thread adds all products of a chunk."""


@dataclass(frozen=True)
class DetectorFit:
    """One detector at a vector of unknowns.

    Parameters
    ----------
    log_response : ndarray, shape (p,)
        ``f``; NaN where there is no signal.
    residual : ndarray, shape (e, p)
        Of the logarithm; 0 where there is no signal.
    weights : ndarray, shape (e, p)
        Robust weights.
    objective : float
        Sum of Huber's function of the residuals over their errors, twice.
    """

    log_response: FloatArray
    residual: FloatArray
    weights: FloatArray
    objective: float


@dataclass
class NormalEquations:
    """Normal equations of the unknowns besides the response, at one vector.

    Parameters
    ----------
    vector : ndarray, shape (n,)
        Where.
    matrix : ndarray, shape (n, n)
        ``N``, upper triangle; empty where only the gradient was needed.
    gradient : ndarray, shape (n,)
        ``g``.
    objective : float
        Twice the minimised function.
    weight : float
        Sum of the robust weights.
    signals, responses : int
        Number of signals, and of super-pixels with a response.
    fits : dict
        ``f`` of each detector.
    """

    vector: FloatArray
    matrix: FloatArray
    gradient: FloatArray
    objective: float = 0.0
    weight: float = 0.0
    signals: int = 0
    responses: int = 0
    fits: dict[str, FloatArray] = field(default_factory=dict)

    @property
    def full_matrix(self) -> FloatArray:
        """``N`` with both triangles."""
        full = self.matrix.copy()
        mirror_upper(full)
        return full


def fit_detector(
    model: JointModel, detector: DetectorSignals, vector: FloatArray, *, threshold: float, exposure_weights: FloatArray
) -> DetectorFit:
    """Solve for the response of one detector at a vector of all other unknowns.

    Parameters
    ----------
    threshold
        Huber's, in standard deviations.
    exposure_weights : ndarray, shape (n,)
        Factor of the weight of each exposure of the list, 0 for those that are left out.
    """
    counts, places, light = model.light_arrays(vector)
    chosen, scales = detector.exposures, vector[model.scales]
    groups = model.gain_groups(detector)
    parts = [
        predict(
            detector.x_mm[group.pixels],
            detector.y_mm[group.pixels],
            model.centres(vector)[chosen],
            scales[chosen] + group.change(vector),
            counts,
            places,
            light,
            model.frames[chosen],
            model.weather_of(vector)[chosen],
        )
        for group in groups
    ]
    difference = parts[0]
    if len(groups) > 1:
        difference = np.empty(detector.log_signal.shape)
        for group, part in zip(groups, parts, strict=True):
            difference[:, group.pixels] = part
    np.subtract(detector.log_signal, difference, out=difference)
    weights = detector.weights * exposure_weights[detector.exposures, None]
    response, objective = profile_response(difference, weights, threshold)
    return DetectorFit(response, difference, weights, objective)


def tiles(model: JointModel, detector: DetectorSignals, fit: DetectorFit, vector: FloatArray) -> Iterator[Tile]:
    """Yield the tiles of a detector at a vector."""
    rows = DetectorRows(model, detector, vector, fit.residual, fit.weights)
    return map(rows.tile, rows.plans())


def normal_equations(
    model: JointModel,
    detectors: Sequence[DetectorSignals],
    vector: FloatArray,
    *,
    threshold: float = np.inf,
    exposure_weights: FloatArray | None = None,
    held_out: BoolArray | None = None,
    with_matrix: bool = True,
    progress: Callable[[float], None] | None = None,
) -> NormalEquations:
    """Pass once through the data of all detectors.

    Parameters
    ----------
    detectors
        May load each detector on request.
    threshold
        Huber's, in standard deviations.
    exposure_weights : ndarray, shape (n,)
        Factors of the weights of exposures; default 1.
    held_out : ndarray of bool, shape (n,)
        Exposures that add nothing to the equations, whatever their factor; default none.
    with_matrix
        Whether the matrix is needed: the gradient alone takes a small part of the time.
    progress
        Called with the share of the detectors that are done.
    """
    factors = np.ones(len(model.exposures)) if exposure_weights is None else exposure_weights
    size = model.size if with_matrix else 0
    result = NormalEquations(vector.copy(), np.zeros((size, size)), np.zeros(model.size))
    for number, detector in enumerate(detectors):
        fit = fit_detector(model, detector, vector, threshold=threshold, exposure_weights=factors)
        weights = fit.weights if held_out is None else fit.weights * ~held_out[detector.exposures, None]
        rows = DetectorRows(model, detector, vector, fit.residual, weights)
        if with_matrix:
            _add_matrix(rows, result.matrix)
        rows.add_gradient(result.gradient)
        result.objective += fit.objective
        result.weight += float(fit.weights.sum())
        result.signals += int((fit.weights > 0).sum())
        result.responses += int(np.isfinite(fit.log_response).sum())
        result.fits[detector.name] = fit.log_response
        if progress is not None:
            progress((number + 1) / len(detectors))
    return result


def _add_matrix(rows: DetectorRows, matrix: FloatArray) -> None:
    """Add the normal equations of a detector to the upper triangle; sums are in the same order for any number of threads."""
    for chunk in _chunks(rows.plans()):
        found = list(threaded_map(rows.tile_and_blocks, chunk))
        products = [(tile.columns, tile.scale()) for tile, _ in found]

        def add(strip: tuple[int, int], chunk=chunk, found=found) -> None:  # type: ignore[no-untyped-def]
            for plan, (_, blocks) in zip(chunk, found, strict=True):
                rows.add_blocks(matrix, plan, blocks, *strip)

        _by_strips(add, products, len(matrix))
        subtract_products(matrix, products)


def _chunks(plans: Iterable[TilePlan]) -> Iterator[list[TilePlan]]:
    """Yield tiles together whose sums fit into memory."""
    chunk: list[TilePlan] = []
    total = 0
    for plan in plans:
        chunk.append(plan)
        total += 8 * (len(plan.windows) * plan.block_size**2 + 2 * plan.pixels.size * plan.columns.size)
        if total > _CHUNK_BYTES:
            yield chunk
            chunk, total = [], 0
    if chunk:
        yield chunk


def subtract_products(matrix: FloatArray, products: Sequence[Product]) -> None:
    """Subtract squares of rows from the upper triangle of a matrix of the unknowns."""
    widest = max(columns.size for columns, _ in products)

    def subtract(strip: tuple[int, int]) -> None:
        scratch = np.empty(min(_STRIP_ROWS, strip[1] - strip[0]) * widest)
        for columns, rows in products:
            start, stop = (int(place) for place in np.searchsorted(columns, strip))
            for first in range(start, stop, _STRIP_ROWS):
                last = min(first + _STRIP_ROWS, stop)
                product = scratch[: (last - first) * (columns.size - first)].reshape(last - first, -1)
                np.matmul(rows[:, first:last].T, rows[:, first:], out=product)
                subtract_rows(matrix, product, columns, first)

    _by_strips(subtract, products, len(matrix))


def _by_strips(function: Callable[[tuple[int, int]], None], products: Sequence[Product], size: int) -> None:
    """Call for strips of a matrix (rows from, to) with equal parts of the upper triangle; each is the work of one thread."""
    ends = [0, size]
    if np.mean([columns.size for columns, _ in products]) > _ONE_STRIP:
        ends = np.round(size * (1.0 - np.sqrt(np.linspace(1.0, 0.0, _STRIPS + 1)))).astype(int).tolist()
    for _ in threaded_map(function, pairwise(ends)):
        pass
