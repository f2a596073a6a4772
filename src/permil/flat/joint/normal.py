"""Normal equations of the joint model with the response eliminated, super-pixel by super-pixel.

Given all else, the response is diagonal. With ``X`` the rows of the other unknowns, ``w`` the weights, ``W_p = sum_e w`` and the
sums ``S_p = sum_e w x`` of super-pixel ``p``, what is left for the other unknowns is (Schur complement)::

    N = sum_ep w x x' - sum_p S_p S_p' / W_p,     g = sum_ep w x (y - model)

and an error ``dz`` of them moves the response by ``-A dz`` with the rows ``A_p = S_p' / W_p``. Tiles of neighbouring super-pixels
depend on the same few unknowns, so that the second term is a small dense product for each tile. Cost is linear in the number
of detectors; memory is that of one detector and of one matrix of the unknowns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from permil.engine import ahead, own_threads
from permil.flat.joint.data import DetectorSignals
from permil.flat.joint.kernels import add_tile, mark_columns, mirror_upper, predict, profile_response, subtract_block
from permil.flat.joint.model import JointModel

FloatArray = NDArray[np.float64]

_TILE_MM = 5.5
"""Side of the tiles: large enough for matrix products, small enough to depend on few splines."""


@dataclass(frozen=True)
class Tile:
    """Neighbouring super-pixels of a detector and what they depend on.

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

    pixels: NDArray[np.int64]
    columns: NDArray[np.int64]
    sums: FloatArray
    moments: FloatArray

    @property
    def shifts(self) -> FloatArray:
        """Rows ``A``, shape (p, n)."""
        return self.sums / self.moments[:, None]


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
    """What the data say of the unknowns besides the response, at one vector.

    Parameters
    ----------
    vector : ndarray, shape (n,)
        Where.
    matrix : ndarray, shape (n, n)
        ``N``, upper triangle.
    gradient : ndarray, shape (n,)
        ``g``.
    objective : float
        Twice the minimised function.
    signals, responses : int
        Number of signals, and of super-pixels with a response.
    fits : dict
        ``f`` of each detector.
    """

    vector: FloatArray
    matrix: FloatArray
    gradient: FloatArray
    objective: float = 0.0
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
    counts, places = model.pattern_arrays()
    difference = predict(
        detector.x_mm,
        detector.y_mm,
        model.centres(vector)[detector.exposures],
        vector[model.scales][detector.exposures],
        counts,
        places,
        vector,
    )
    np.subtract(detector.log_signal, difference, out=difference)
    weights = detector.weights * exposure_weights[detector.exposures, None]
    response, objective = profile_response(difference, weights, threshold)
    return DetectorFit(response, difference, weights, objective)


def tiles(
    model: JointModel,
    detector: DetectorSignals,
    fit: DetectorFit,
    vector: FloatArray,
    *,
    normal: FloatArray | None = None,
    gradient: FloatArray | None = None,
) -> Iterator[Tile]:
    """Yield the tiles of a detector; rows are added to ``normal`` (response as if known) and ``gradient`` where given."""
    counts, places = model.pattern_arrays()
    columns, parts = model.further_columns(vector)
    chosen = detector.exposures
    further, parts, centres = columns[chosen], parts[chosen], model.centres(vector)[chosen]
    positions = np.zeros(model.size, dtype=np.int64)
    matrix = np.zeros((0, 0)) if normal is None else normal
    pull = np.zeros(model.size) if gradient is None else gradient
    for pixels in _tile_pixels(detector, fit):
        x, y = detector.x_mm[pixels], detector.y_mm[pixels]
        weights = np.ascontiguousarray(fit.weights[:, pixels])
        marked = np.zeros(model.size, dtype=np.bool_)
        mark_columns(x, y, centres, counts, places, further, weights.any(axis=1), marked)
        used = np.flatnonzero(marked)
        positions[used] = np.arange(used.size)
        sums, moments = np.zeros((pixels.size, used.size)), np.zeros(pixels.size)
        residual = np.ascontiguousarray(fit.residual[:, pixels])
        state = counts, places, vector, further, parts, positions
        add_tile(x, y, residual, weights, centres, *state, matrix, pull, sums, moments)
        yield Tile(pixels, used, sums, moments)


def _tile_pixels(detector: DetectorSignals, fit: DetectorFit) -> list[NDArray[np.int64]]:
    lit = np.flatnonzero(np.isfinite(fit.log_response))
    cells = np.floor(np.column_stack([detector.x_mm, detector.y_mm])[lit] / _TILE_MM).astype(np.int64)
    _, number = np.unique(cells, axis=0, return_inverse=True)
    order = np.argsort(number, kind="stable")
    return np.split(lit[order], np.flatnonzero(np.diff(number[order])) + 1) if lit.size else []


def normal_equations(
    model: JointModel,
    detectors: Sequence[DetectorSignals],
    vector: FloatArray,
    *,
    threshold: float = np.inf,
    exposure_weights: FloatArray | None = None,
    progress: Callable[[str], None] | None = None,
) -> NormalEquations:
    """Pass once through the data of all detectors.

    Parameters
    ----------
    detectors
        May load each detector when it is asked for.
    threshold
        Huber's, in standard deviations.
    exposure_weights : ndarray, shape (n,)
        Factors of the weights of exposures; default 1.
    progress
        Called with the name of each detector.
    """
    factors = np.ones(len(model.exposures)) if exposure_weights is None else exposure_weights
    result = NormalEquations(vector.copy(), np.zeros((model.size, model.size)), np.zeros(model.size))
    eliminated = np.zeros_like(result.matrix)
    for detector in detectors:
        if progress is not None:
            progress(detector.name)
        fit = fit_detector(model, detector, vector, threshold=threshold, exposure_weights=factors)
        # Products are made by threads, if there are any, while the next tiles are summed; sums are in the same order without.
        found = tiles(model, detector, fit, vector, normal=result.matrix, gradient=result.gradient)
        for columns, product in ahead(_eliminated, found, threads=own_threads()):
            subtract_block(eliminated, product, columns)
        used = fit.weights > 0
        result.objective += fit.objective
        result.signals += int(used.sum())
        result.responses += int(np.isfinite(fit.log_response).sum())
        result.fits[detector.name] = fit.log_response
    result.matrix += eliminated
    return result


def _eliminated(tile: Tile) -> tuple[NDArray[np.int64], FloatArray]:
    """Return columns of a tile, and the product that the elimination of its responses takes off the matrix there."""
    scaled = tile.sums / np.sqrt(tile.moments)[:, None]
    return tile.columns, scaled.T @ scaled
