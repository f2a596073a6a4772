"""Find the axis of tree rings from a flat alone.

1. The flat is binned to cells; the means of its segments and its large-scale part are subtracted.
2. In overlapping blocks the power in each direction is measured relative to that in all directions. Rings have excess power along the
   line to their axis, a direction that changes from block to block. Power in one direction on the whole sensor (rows, columns, annealing
   patterns) is subtracted. The score of a trial axis is the mean over blocks of the power towards it.
3. The highest score near the corners is compared with the highest scores of random maps with the same isotropic spectrum and mask.
4. The best trial axes are refined to the axis with the largest variance of the azimuthal means: the maximum of the likelihood for a
   pattern that depends on the radius alone, in white noise. Its error is from a delete-block jackknife and the size of a cell.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft, optimize

from permil._kernels import compare as kernels
from permil.arrays import BoolArray, Float32Array, FloatArray, IntArray
from permil.compare.rings.profile import CellMap, RingProfile, bin_cells, evened, high_passed, profile_of_cells
from permil.errors import CompareError
from permil.rounding import rounded

_DIRECTIONS = 180
_LEAST_GOOD = 0.5
_ALONG_AXES = 2
_LEAST_BLOCKS = 9
_BLOCKS_AT_ONCE = 8

SIGNIFICANT = 5.0
"""Smallest significance of detected rings. Gaussian maps do not reach it; blemishes that are not masked reach 3 or 4."""

_MOST_CELLS = 512
_REACH = 0.3
"""Size of the searched area around each corner, as a fraction of the sensor's sides."""
_LEAST_SURROGATES = 19
_TRIAL_STEP = 0.04
_CANDIDATES = 4
_TILES = 8
_FINER = 8
"""Number of steps of the refined scores in one step of the trial axes."""
_CELL_ERROR = 0.25
"""Error of the axis due to binning, in cells, from simulated strong rings."""
_AROUND = 4
"""Largest error of the refined scores, in steps of about a third of a ring."""


class DirectionalPower:
    """Power by direction in overlapping blocks of a map.

    Parameters
    ----------
    cells
        High-passed map that defines mask and geometry.
    longest_ring_px
        Distance of the widest rings. Blocks are small enough that such rings are straight in them: the geometric mean of this and the
        side of the sensor.
    """

    def __init__(self, cells: CellMap, *, longest_ring_px: float) -> None:
        ny, nx = cells.level.shape
        longest = longest_ring_px / cells.cell
        self._side = int(np.clip(2 * round(np.sqrt(longest * max(ny, nx)) / 2), 16, min(ny, nx) // 3))
        window = np.hanning(self._side + 2)[1:-1]
        self._window = np.sqrt(window[:, None] * window)
        rows, columns = (_starts(size, self._side) for size in (ny, nx))
        corners = np.array([(row, column) for row in rows for column in columns])
        share = np.array([cells.good[row : row + self._side, column : column + self._side].mean() for row, column in corners])
        self._corners = corners[share >= _LEAST_GOOD]
        if len(self._corners) < _LEAST_BLOCKS:
            raise CompareError("too little of the flat is good for a search for rings", remedy="check the mask of the flat")
        centres = self._corners + (self._side - 1) / 2
        self._x, self._y = cells.to_pixels(centres[:, 1]), cells.to_pixels(centres[:, 0])
        self._by_direction = self._weights(self._power(cells.level).mean(axis=0, dtype=np.float64), longest)

    def directions(self, axes: FloatArray) -> IntArray:
        """Return the direction index from each block to trial axes, shape (axes, blocks)."""
        angle = np.arctan2(axes[:, 1, None] - self._y, axes[:, 0, None] - self._x)
        return np.rint(angle / np.pi * _DIRECTIONS).astype(np.int64) % _DIRECTIONS

    def scores(self, level: NDArray[np.floating], towards: IntArray) -> FloatArray:
        """Return the mean over blocks of the excess of power towards trial axes, shape (axes,); in the precision of the map."""
        power = self._power(level) @ self._by_direction.astype(level.dtype, copy=False)
        # Blocks have equal weight, however large their variance, so that a blemish with edges does not dominate; power in one direction in
        # all blocks is not due to rings.
        excess = power / power.mean(axis=1, keepdims=True) - 1
        strength = excess.std(axis=1, keepdims=True)
        excess *= np.minimum(1.0, np.median(strength) / np.maximum(strength, 1e-12))
        excess -= excess.mean(axis=0)
        return np.asarray(excess[np.arange(len(self._corners)), towards].mean(axis=1))

    def _power(self, level: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return the power of the modes of `_wavenumbers` in each block, shape (blocks, modes)."""
        side, longest, window = self._side, self._side // 4, self._window.astype(level.dtype, copy=False)
        power = []
        for some in np.array_split(self._corners, -(-len(self._corners) // _BLOCKS_AT_ONCE)):
            blocks = np.stack([level[row : row + side, column : column + side] for row, column in some])
            spectra = fft.fft(fft.rfft(blocks * window, axis=2)[:, :, : longest + 1], axis=1)
            spectra = np.concatenate([spectra[:, : longest + 1], spectra[:, -longest:]], axis=1)
            power.append((spectra.real**2 + spectra.imag**2).reshape(len(some), -1))
        return np.concatenate(power)

    def _wavenumbers(self) -> tuple[FloatArray, FloatArray]:
        """Return ky and kx of the modes in use, in waves per block: up to a quarter of its cells."""
        longest = self._side // 4
        along_y = np.concatenate([np.arange(longest + 1.0), np.arange(-longest, 0.0)])
        ky, kx = np.meshgrid(along_y, np.arange(longest + 1.0), indexing="ij")
        return ky.ravel(), kx.ravel()

    def _weights(self, power: FloatArray, longest: float) -> FloatArray:
        """Return the weight of each mode in each direction, shape (modes, directions).

        Modes of one wavenumber are averaged around each direction and divided by their mean over directions. Wavenumbers are weighted with
        their fraction of power above that of the shortest waves, which is noise. Waves along rows and columns are ignored: they contain
        steps between segments and patterns of rows and columns.
        """
        side = self._side
        ky, kx = self._wavenumbers()
        number, angle = np.hypot(kx, ky), np.arctan2(ky, kx)
        along_axes = np.minimum(kx, np.abs(ky)) < _ALONG_AXES
        ring = np.where(along_axes, 0, np.rint(number)).astype(np.int64)
        rings = np.arange(max(3, int(0.5 * side / longest)), side // 4 + 1)
        isotropic = np.array([power[ring == each].mean() for each in rings])
        floor = np.median(isotropic[-max(1, rings.size // 4) :])
        above = np.clip(1 - floor / isotropic, 0.05, None)
        directions = np.arange(_DIRECTIONS) * np.pi / _DIRECTIONS
        weights, reached = np.zeros((number.size, _DIRECTIONS)), np.zeros(_DIRECTIONS)
        for each, mean, weight in zip(rings, isotropic, above, strict=True):
            modes = np.flatnonzero(ring == each)
            apart = np.angle(np.exp(2j * (angle[modes, None] - directions))) / 2
            kernel = np.exp(-0.5 * (apart * each / 0.6) ** 2)
            near = kernel.sum(axis=0)
            seen = near > 0.5 * near.max()
            weights[modes] = np.where(seen, weight * kernel / near / mean, 0.0)
            reached += weight * seen
        return weights / np.maximum(reached, 1e-12)


def isotropic_surrogates(cells: CellMap, count: int, rng: np.random.Generator) -> Iterator[Float32Array]:
    """Yield Gaussian random maps with the isotropic power spectrum and the mask of a map, in single precision."""
    shape = cells.level.shape
    power = np.abs(fft.rfft2(cells.level)) ** 2 / cells.good.mean()
    frequency = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1]))
    annulus = np.rint(frequency * max(shape)).astype(np.int64).ravel()
    number = np.bincount(annulus)
    mean = np.bincount(annulus, power.ravel()) / np.maximum(number, 1)
    amplitude = np.sqrt(mean[annulus].reshape(frequency.shape) / cells.level.size).astype(np.float32)
    for _ in range(count):
        spectrum = fft.rfft2(rng.standard_normal(shape).astype(np.float32))
        spectrum *= amplitude
        yield np.asarray(fft.irfft2(spectrum, s=shape, overwrite_x=True) * cells.good, dtype=np.float32)


def _starts(size: int, side: int) -> IntArray:
    """Return the starts of blocks that cover a length and overlap by about half."""
    count = max(2, round(2 * size / side) - 1)
    return np.rint(np.linspace(0, size - side, count)).astype(np.int64)


@dataclass(frozen=True)
class RingSearch:
    """Result of a search for tree rings.

    Attributes
    ----------
    found
        Whether the significance is at least `SIGNIFICANT`.
    centre, covariance
        Axis (x, y) in DM pixels and its covariance, shape (2, 2); NaN if no rings are found.
    score
        Highest mean excess of the power towards a trial axis, relative to the power in all directions.
    null_scores
        Highest scores of random maps with the isotropic spectrum of the flat.
    p_value
        Fraction of random maps (including the flat) with a score at least as high.
    significance
        Difference of the score from the mean of the random scores, divided by their scatter.
    profile
        High-passed azimuthal means around the axis; None if no rings are found.
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
        return f"tree rings around x = {rounded(x, x_error)}, y = {rounded(y, y_error)} pixels ({chance})"


def find_rings(
    flat: NDArray[np.floating],
    good: BoolArray,
    *,
    segments: NDArray[np.integer] | None = None,
    highpass_px: float = 50.0,
    cell_px: int | None = None,
    surrogates: int = 99,
    seed: int = 0,
) -> RingSearch:
    """Find the axis of tree rings of a sensor; no rings are a valid result.

    Parameters
    ----------
    flat, good
        Flat and its good pixels, shape (ny, nx).
    segments
        Segment number of each pixel, to subtract the mean of each segment; None to keep the means.
    highpass_px
        Sigma of the Gaussian high-pass filter: about two thirds of the distance of the widest rings.
    cell_px
        Side of a cell; by default the smallest side for at most 512 cells along the sensor. Rings narrower than four cells are not
        detected.
    surrogates
        Number of random maps for the significance.
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
    trials = _trial_axes(flat.shape)
    towards = power.directions(trials)
    scores = power.scores(even.level, towards)
    rng = np.random.default_rng(seed)
    null_scores = np.array([power.scores(level, towards).max() for level in isotropic_surrogates(even, surrogates, rng)])
    score = float(scores.max())
    p_value = float((1 + np.sum(null_scores >= score)) / (1 + surrogates))
    significance = float((score - null_scores.mean()) / null_scores.std(ddof=1))
    found = significance >= SIGNIFICANT
    centre, covariance, profile = (np.nan, np.nan), np.full((2, 2), np.nan), None
    if found:
        step = _TRIAL_STEP * np.array(flat.shape[::-1])
        starts = _sharpened(power, even, trials[_separate_maxima(trials, scores, 2.5 * step)], step)
        centre, covariance = _refined(_without_border(cells, highpass_px), starts, spacing=highpass_px / 2.5)
        profile = profile_of_cells(cells, centre, width_px=float(max(2, cells.cell)))
    return RingSearch(found, centre, covariance, score, null_scores, p_value, significance, profile)


def _trial_axes(shape: tuple[int, ...]) -> FloatArray:
    """Return trial axes (x, y) around the four corners, shape (n, 2)."""
    ny, nx = shape
    around = np.linspace(-_REACH, _REACH, 2 * round(_REACH / _TRIAL_STEP) + 1)
    x, y = (np.concatenate([around, 1 + around]) * side for side in (nx, ny))
    return np.stack([axis.ravel() for axis in np.meshgrid(x, y)], axis=1)


def _sharpened(power: DirectionalPower, cells: CellMap, starts: FloatArray, step: FloatArray) -> FloatArray:
    """Return the axes of the highest scores near trial axes."""
    around = _square(_FINER) / _FINER * step
    return np.array([start + around[np.argmax(power.scores(cells.level, power.directions(start + around)))] for start in starts])


def _refined(cells: CellMap, starts: FloatArray, *, spacing: float) -> tuple[tuple[float, float], FloatArray]:
    """Return the axis with the largest variance of azimuthal means, and its covariance."""
    pattern = _RadialPower(cells)
    tried = (starts[:, None] + spacing * _square(_AROUND)).reshape(-1, 2)
    powers = pattern.power(tried)
    best = tried[np.argmax(powers)]
    simplex = best + spacing / 2 * np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    options: Any = {"initial_simplex": simplex, "xatol": 0.005 * spacing, "fatol": 1e-9 * float(powers.max()), "maxiter": 200}
    solved = optimize.minimize(pattern.negative_power, best, method="Nelder-Mead", options=options)
    covariance = pattern.jackknife(solved.x, step=spacing / 3) + (_CELL_ERROR * cells.cell) ** 2 * np.eye(2)
    return (float(solved.x[0]), float(solved.x[1])), covariance


def _without_border(cells: CellMap, width_px: float) -> CellMap:
    """Return a map with the cells at its border masked: their local mean is one-sided."""
    width = int(np.ceil(width_px / cells.cell))
    inside = np.zeros_like(cells.good)
    inside[width:-width, width:-width] = True
    return replace(cells, good=cells.good & inside, level=np.where(inside, cells.level, 0.0))


def _square(half: int) -> FloatArray:
    """Return the points (x, y) of a square grid of integers from minus to plus a number."""
    along = np.arange(-half, half + 1.0)
    return np.stack([axis.ravel() for axis in np.meshgrid(along, along)], axis=1)


def _separate_maxima(trials: FloatArray, scores: FloatArray, apart: FloatArray) -> IntArray:
    """Return the indices of the highest scores, separated by more than a distance."""
    chosen: list[int] = []
    for index in np.argsort(-scores):
        if all(np.any(np.abs(trials[index] - trials[other]) > apart) for other in chosen):
            chosen.append(int(index))
        if len(chosen) == _CANDIDATES:
            break
    return np.array(chosen)


class _RadialPower:
    """Variance of the azimuthal means of a map of cells as a smooth function of the axis: each cell is shared by two annuli."""

    def __init__(self, cells: CellMap) -> None:
        rows, columns = np.nonzero(cells.good)
        self._x, self._y = cells.to_pixels(columns), cells.to_pixels(rows)
        self._level, self._width = cells.level[rows, columns], float(cells.cell)
        ny, nx = cells.level.shape
        self._tile = (rows * _TILES // ny) * _TILES + columns * _TILES // nx
        self._one = np.zeros_like(self._tile)

    def power(self, axes: FloatArray) -> FloatArray:
        """Return the sum over annuli of cells times the squared mean, for axes of shape (n, 2)."""
        total, share = np.moveaxis(self._sums(axes, self._one, 1), 3, 0)
        return np.asarray(np.sum(total**2 / np.maximum(share, 1e-9), axis=(1, 2)))

    def negative_power(self, axis: FloatArray) -> float:
        """Return minus the power around one axis, for a minimiser."""
        return -float(self.power(axis[None])[0])

    def _sums(self, axes: FloatArray, tile: IntArray, tiles: int) -> FloatArray:
        return kernels.radial_sums(self._x, self._y, self._level, tile, tiles, axes, self._width)

    def jackknife(self, axis: FloatArray, *, step: float) -> FloatArray:
        """Return the delete-one-tile covariance of the axis, from maxima of fitted parabolas."""
        offsets = step * np.array([(i, j) for i in (-1.0, 0.0, 1.0) for j in (-1.0, 0.0, 1.0)])
        total, share = np.moveaxis(self._sums(axis + offsets, self._tile, _TILES**2), 3, 0)
        left, left_share = (sums.sum(axis=1, keepdims=True) - sums for sums in (total, share))
        without = np.sum(left**2 / np.maximum(left_share, 1e-9), axis=2)
        dx, dy = offsets.T
        parabola = np.column_stack([np.ones(9), dx, dy, dx**2 / 2, dx * dy, dy**2 / 2])
        _, slope_x, slope_y, xx, xy, yy = np.linalg.lstsq(parabola, without, rcond=None)[0]
        used = np.unique(self._tile)
        hessian = np.stack([np.stack([xx, xy], -1), np.stack([xy, yy], -1)], -2)[used]
        maxima = -np.linalg.solve(hessian, np.stack([slope_x, slope_y], -1)[used][..., None])[..., 0]
        from_mean = maxima - maxima.mean(axis=0)
        return np.asarray((used.size - 1) / used.size * from_mean.T @ from_mean)
