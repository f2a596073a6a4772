"""Directional power of a map of cells by block, and isotropic random maps."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from permil.compare.errors import CompareError
from permil.compare.rings.cell_map import CellMap

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_DIRECTIONS = 180
_LEAST_GOOD = 0.5
_ALONG_AXES = 2
_LEAST_BLOCKS = 9
_BLOCKS_AT_ONCE = 8


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
        self._by_direction = self._weights(self._power(cells.level).mean(axis=0), longest)

    def directions(self, axes: FloatArray) -> IntArray:
        """Return the direction index from each block to trial axes, shape (axes, blocks)."""
        angle = np.arctan2(axes[:, 1, None] - self._y, axes[:, 0, None] - self._x)
        return np.rint(angle / np.pi * _DIRECTIONS).astype(np.int64) % _DIRECTIONS

    def scores(self, level: FloatArray, towards: IntArray) -> FloatArray:
        """Return the mean over blocks of the excess of power towards trial axes, shape (axes,)."""
        power = self._power(level) @ self._by_direction
        # Blocks have equal weight, however large their variance, so that a blemish with edges does not dominate; power in one direction in
        # all blocks is not due to rings.
        excess = power / power.mean(axis=1, keepdims=True) - 1
        strength = excess.std(axis=1, keepdims=True)
        excess *= np.minimum(1.0, np.median(strength) / np.maximum(strength, 1e-12))
        excess -= excess.mean(axis=0)
        return np.asarray(excess[np.arange(len(self._corners)), towards].mean(axis=1))

    def _power(self, level: FloatArray) -> FloatArray:
        """Return the power of the modes of `_wavenumbers` in each block, shape (blocks, modes)."""
        side, longest = self._side, self._side // 4
        power = []
        for some in np.array_split(self._corners, -(-len(self._corners) // _BLOCKS_AT_ONCE)):
            blocks = np.stack([level[row : row + side, column : column + side] for row, column in some])
            spectra = fft.fft(fft.rfft(blocks * self._window, axis=2)[:, :, : longest + 1], axis=1)
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


def isotropic_surrogates(cells: CellMap, count: int, rng: np.random.Generator) -> Iterator[FloatArray]:
    """Yield Gaussian random maps with the isotropic power spectrum and the mask of a map."""
    shape = cells.level.shape
    power = np.abs(fft.rfft2(cells.level)) ** 2 / cells.good.mean()
    frequency = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1]))
    annulus = np.rint(frequency * max(shape)).astype(np.int64).ravel()
    number = np.bincount(annulus)
    mean = np.bincount(annulus, power.ravel()) / np.maximum(number, 1)
    amplitude = np.sqrt(mean[annulus].reshape(frequency.shape) / cells.level.size)
    for _ in range(count):
        drawn = fft.irfft2(amplitude * fft.rfft2(rng.standard_normal(shape)), s=shape)
        yield np.where(cells.good, drawn, 0.0)


def _starts(size: int, side: int) -> IntArray:
    """Return the starts of blocks that cover a length and overlap by about half."""
    count = max(2, round(2 * size / side) - 1)
    return np.rint(np.linspace(0, size - side, count)).astype(np.int64)
