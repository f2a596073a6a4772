"""The axis of tree rings from a flat alone.

1. The flat is binned to cells, freed of the means of its segments and of its large-scale part.
2. In overlapping blocks the power in each direction is measured, over that of all directions. Rings have it along the line to their
   axis, so that it turns from block to block; what has one direction on the whole sensor (rows, columns, annealing patterns) is taken
   off. The mean over blocks of the power towards a trial axis is its score.
3. The highest score near the corners is compared with the highest ones of random maps with the same isotropic spectrum and mask.
4. From the best trial axes the one is refined at which the azimuthal means vary most: for a pattern that depends on the radius alone,
   in white noise, that is the maximum of the likelihood. Its error is from a delete-block jackknife and the size of a cell.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from permil._kernels import compare as kernels
from permil.compare.errors import CompareError
from permil.compare.rings.cell_map import CellMap, bin_cells, evened, high_passed
from permil.compare.rings.directions import DirectionalPower, isotropic_surrogates
from permil.compare.rings.profile import RingProfile, profile_of_cells

FloatArray = NDArray[np.float64]

_MOST_CELLS = 512
_LEAST_SURROGATES = 19
_TRIAL_STEP = 0.04
_CANDIDATES = 4
_TILES = 8
_FINER = 8
"""Steps of the sharpened score in one step of the trial axes."""

_CELL_ERROR = 0.25
"""Error of the axis in cells that binning leaves, from simulated strong rings."""

_AROUND = 4
"""Steps, of a third of a ring or so, by which the sharpened score may be off."""


@dataclass(frozen=True)
class RingSearch:
    """Result of a search for tree rings.

    Attributes
    ----------
    found
        Whether there are rings: the significance is at least ``least_significance``.
    centre, covariance
        Axis (x, y) in DM pixels and its covariance, shape (2, 2); NaN where no rings are found.
    score
        Highest mean excess of the power towards a trial axis, relative to the power in all directions.
    null_scores
        The same of random maps with the isotropic spectrum of the flat.
    p_value
        How often a random map scores as high, (1 + number of them) / (1 + number of maps).
    significance
        Score above the mean of the random ones over their scatter.
    profile
        High-passed azimuthal means around the axis; None where no rings are found.
    """

    found: bool
    centre: tuple[float, float]
    covariance: FloatArray
    score: float
    null_scores: FloatArray
    p_value: float
    significance: float
    profile: RingProfile | None

    @property
    def centre_error(self) -> tuple[float, float]:
        """Errors of the axis in x and y, pixels."""
        return float(np.sqrt(self.covariance[0, 0])), float(np.sqrt(self.covariance[1, 1]))

    def __str__(self) -> str:
        """Return one sentence."""
        chance = f"p = {self.p_value:.3g}, {self.significance:.1f} sigma"
        if not self.found:
            return f"no tree rings found ({chance})"
        (x, y), (x_error, y_error) = self.centre, self.centre_error
        return f"tree rings around x = {x:.1f} +- {x_error:.1f}, y = {y:.1f} +- {y_error:.1f} pixels ({chance})"


def find_rings(
    flat: NDArray[np.floating],
    good: NDArray[np.bool_],
    *,
    segments: NDArray[np.integer] | None = None,
    highpass_px: float = 50.0,
    cell_px: int | None = None,
    reach: float = 0.3,
    surrogates: int = 99,
    least_significance: float = 5.0,
    seed: int = 0,
) -> RingSearch:
    """Find the axis of tree rings of a sensor; that there are none is a result.

    Parameters
    ----------
    flat, good
        Flat and its good pixels, shape (ny, nx).
    segments
        Number of the segment of each pixel, whose means are taken off; None to keep them.
    highpass_px
        Sigma of the Gaussian of whose local mean the flat is freed: about two thirds of the distance of the widest rings.
    cell_px
        Side of a cell; by default the smallest with which the sensor has at most 512 cells along a side. Rings narrower than four
        cells are not seen.
    reach
        The axis is searched for within this part of the sensor's sides around its corners.
    surrogates
        Random maps for the significance.
    least_significance
        Significance from which rings count as found. Gaussian maps do not reach it; blemishes that are not masked reach 3 or 4.
    seed
        Seed of the random maps.

    Raises
    ------
    CompareError
        If shapes do not match, too little is good, or there are fewer than 19 random maps.
    """
    if surrogates < _LEAST_SURROGATES:
        raise CompareError(
            f"{surrogates} random maps are too few for a significance",
            remedy=f"use at least {_LEAST_SURROGATES}",
            value=surrogates,
        )
    if cell_px is None:
        cell_px = max(1, -(-max(flat.shape) // _MOST_CELLS))
    cells = high_passed(bin_cells(flat, good, cell_px=cell_px, segments=segments), highpass_px)
    even = evened(cells, highpass_px / 4)
    power = DirectionalPower(even, longest_ring_px=1.5 * highpass_px)
    trials = _trial_axes(flat.shape, reach)
    towards = power.directions(trials)
    scores = power.scores(even.level, towards)
    rng = np.random.default_rng(seed)
    null_scores = np.array([power.scores(level, towards).max() for level in isotropic_surrogates(even, surrogates, rng)])
    score = float(scores.max())
    p_value = float((1 + np.sum(null_scores >= score)) / (1 + surrogates))
    significance = float((score - null_scores.mean()) / null_scores.std(ddof=1))
    found = significance >= least_significance
    centre, covariance, profile = (np.nan, np.nan), np.full((2, 2), np.nan), None
    if found:
        step = _TRIAL_STEP * np.array(flat.shape[::-1])
        starts = _sharpened(power, even, trials[_separate_maxima(trials, scores, 2.5 * step)], step)
        centre, covariance = _refined(_without_border(cells, highpass_px), starts, spacing=highpass_px / 2.5)
        profile = profile_of_cells(cells, centre, width_px=float(max(2, cells.cell)))
    return RingSearch(found, centre, covariance, score, null_scores, p_value, significance, profile)


def _trial_axes(shape: tuple[int, ...], reach: float) -> FloatArray:
    """Return trial axes (x, y) around the four corners, shape (n, 2)."""
    if not 0 < reach <= 0.5:
        raise CompareError(
            f"a reach of {reach} is not within 0 to 0.5 sides", remedy="give a part of the sensor's sides", value=reach
        )
    ny, nx = shape
    around = np.linspace(-reach, reach, 2 * max(1, round(reach / _TRIAL_STEP)) + 1)
    x, y = (np.concatenate([around, 1 + around]) * side for side in (nx, ny))
    return np.stack([axis.ravel() for axis in np.meshgrid(x, y)], axis=1)


def _sharpened(power: DirectionalPower, cells: CellMap, starts: FloatArray, step: FloatArray) -> FloatArray:
    """Return the axes of the highest scores near trial axes."""
    around = _square(_FINER) / _FINER * step
    return np.array([start + around[np.argmax(power.scores(cells.level, power.directions(start + around)))] for start in starts])


def _refined(cells: CellMap, starts: FloatArray, *, spacing: float) -> tuple[tuple[float, float], FloatArray]:
    """Return the axis at which azimuthal means vary most, and its covariance."""
    pattern = _RadialPower(cells)
    tried = (starts[:, None] + spacing * _square(_AROUND)).reshape(-1, 2)
    best = tried[np.argmax([pattern.power(axis) for axis in tried])]
    simplex = best + spacing / 2 * np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    options: Any = {"initial_simplex": simplex, "xatol": 0.005 * spacing, "fatol": 1e-9 * pattern.power(best), "maxiter": 200}
    solved = optimize.minimize(pattern.negative_power, best, method="Nelder-Mead", options=options)
    covariance = pattern.jackknife(solved.x, step=spacing / 3) + (_CELL_ERROR * cells.cell) ** 2 * np.eye(2)
    return (float(solved.x[0]), float(solved.x[1])), covariance


def _without_border(cells: CellMap, width_px: float) -> CellMap:
    """Return a map without the cells at its border, whose local mean is one-sided."""
    width = int(np.ceil(width_px / cells.cell))
    inside = np.zeros_like(cells.good)
    inside[width:-width, width:-width] = True
    return replace(cells, good=cells.good & inside, level=np.where(inside, cells.level, 0.0))


def _square(half: int) -> FloatArray:
    """Return the points (x, y) of a square grid of integers from minus to plus a number."""
    along = np.arange(-half, half + 1.0)
    return np.stack([axis.ravel() for axis in np.meshgrid(along, along)], axis=1)


def _separate_maxima(trials: FloatArray, scores: FloatArray, apart: FloatArray) -> NDArray[np.int64]:
    """Return indices of the highest scores that lie apart from higher ones."""
    chosen: list[int] = []
    for index in np.argsort(-scores):
        if all(np.any(np.abs(trials[index] - trials[other]) > apart) for other in chosen):
            chosen.append(int(index))
        if len(chosen) == _CANDIDATES:
            break
    return np.array(chosen)


class _RadialPower:
    """Variance of the azimuthal means of a map of cells, as a smooth function of the axis (cells are shared by two annuli)."""

    def __init__(self, cells: CellMap) -> None:
        rows, columns = np.nonzero(cells.good)
        self._x, self._y = cells.to_pixels(columns), cells.to_pixels(rows)
        self._level, self._width = cells.level[rows, columns], float(cells.cell)
        ny, nx = cells.level.shape
        self._tile = (rows * _TILES // ny) * _TILES + columns * _TILES // nx
        self._one = np.zeros_like(self._tile)

    def power(self, axis: FloatArray) -> float:
        """Return the sum over annuli of cells times the squared mean."""
        total, share = kernels.radial_sums(self._x, self._y, self._level, self._one, 1, axis[0], axis[1], self._width)
        return float(np.sum(total**2 / np.maximum(share, 1e-9)))

    def negative_power(self, axis: FloatArray) -> float:
        """Return what a minimiser makes least."""
        return -self.power(axis)

    def jackknife(self, axis: FloatArray, *, step: float) -> FloatArray:
        """Return the covariance of the axis from maxima of parabolas without one tile each."""
        offsets = step * np.array([(i, j) for i in (-1.0, 0.0, 1.0) for j in (-1.0, 0.0, 1.0)])
        without = []
        for offset in offsets:
            x, y = axis + offset
            total, share = kernels.radial_sums(self._x, self._y, self._level, self._tile, _TILES**2, x, y, self._width)
            left, left_share = total.sum(axis=0) - total, share.sum(axis=0) - share
            without.append(np.sum(left**2 / np.maximum(left_share, 1e-9), axis=1))
        dx, dy = offsets.T
        parabola = np.column_stack([np.ones(9), dx, dy, dx**2 / 2, dx * dy, dy**2 / 2])
        _, slope_x, slope_y, xx, xy, yy = np.linalg.lstsq(parabola, np.array(without), rcond=None)[0]
        used = np.unique(self._tile)
        hessian = np.stack([np.stack([xx, xy], -1), np.stack([xy, yy], -1)], -2)[used]
        maxima = -np.linalg.solve(hessian, np.stack([slope_x, slope_y], -1)[used][..., None])[..., 0]
        from_mean = maxima - maxima.mean(axis=0)
        return np.asarray((used.size - 1) / used.size * from_mean.T @ from_mean)
