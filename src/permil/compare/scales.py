"""Filters of maps and points by scale: high-pass, cells, and bands of periods."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from permil.arrays import BoolArray, Float32Array, FloatArray
from permil.errors import CompareError
from permil.flat.superpixel import super_pixels

PERIODS = (16.0, 32.0, 64.0, 128.0, 256.0)
"""Limits of the bands, pixels. Structure smoothed with a Gaussian of sigma s has most of its variance at periods around 2 pi s; periods
below 16 pixels are damped by more than half in the response of a star."""
_POINT_CELLS = 4
"""Number of cells per smoothing scale of points."""

_BINS_PER_OCTAVE = 6


def smooth(image: NDArray[np.floating], usable: BoolArray, scale: float) -> FloatArray:
    """Return the mean of the usable pixels around each pixel, weighted with a Gaussian of sigma ``scale`` (pixels).

    Raises
    ------
    CompareError
        If the scale is not positive or nothing is usable.
    """
    if not scale > 0:
        raise CompareError(
            f"the smoothing scale {scale} pixels is not valid", remedy="give a positive number of pixels", value=scale
        )
    if not usable.any():
        raise CompareError("no pixel of the map is usable", remedy="check its mask")
    weight = ndimage.gaussian_filter(usable.astype(np.float64), scale, mode="constant", truncate=4.0)
    total = ndimage.gaussian_filter(np.where(usable, image, 0.0), scale, mode="constant", truncate=4.0, output=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(weight > 1e-6, total / weight, np.nan)
    if not np.isfinite(mean).all():
        nearest = ndimage.distance_transform_edt(~np.isfinite(mean), return_distances=False, return_indices=True)
        mean = mean[tuple(nearest)]
    return np.asarray(mean)


def high_pass(image: NDArray[np.floating], usable: BoolArray, scale: float) -> FloatArray:
    """Return a map minus its local mean, weighted with a Gaussian of sigma ``scale`` (pixels); NaN at unusable pixels.

    Raises
    ------
    CompareError
        If the scale is not positive or nothing is usable.
    """
    return np.where(usable, image - smooth(image, usable, scale), np.nan)


def high_pass_points(values: FloatArray, x: FloatArray, y: FloatArray, *, errors: FloatArray | None, scale: float) -> FloatArray:
    """Return values at points minus their weighted local mean, with a Gaussian of sigma ``scale`` (pixels).

    The mean is computed on cells of a quarter of the scale and interpolated linearly. NaN if a value is not finite.

    Raises
    ------
    CompareError
        If the scale is not positive or no value is finite.
    """
    weight = np.isfinite(values) & np.isfinite(x) & np.isfinite(y)
    weights = weight.astype(np.float64)
    if errors is not None:
        weight &= np.isfinite(errors) & (errors > 0)
        weights = np.where(weight, np.where(weight, errors, 1.0) ** -2.0, 0.0)
    if not scale > 0 or not weight.any():
        raise CompareError(
            f"points cannot be smoothed on {scale} pixels: {int(weight.sum())} are finite",
            remedy="give finite values and a positive scale",
        )
    cell = scale / _POINT_CELLS
    column, row = (x - np.nanmin(x)) / cell, (y - np.nanmin(y)) / cell
    shape = int(np.nanmax(row)) + 2, int(np.nanmax(column)) + 2
    sums, totals = np.zeros(shape), np.zeros(shape)
    for drow in (0, 1):
        for dcolumn in (0, 1):
            r, c = row[weight].astype(np.int64), column[weight].astype(np.int64)
            part = np.abs(1 - drow - (row[weight] - r)) * np.abs(1 - dcolumn - (column[weight] - c)) * weights[weight]
            np.add.at(sums, (r + drow, c + dcolumn), part)
            np.add.at(totals, (r + drow, c + dcolumn), part * values[weight])
    sums, totals = (ndimage.gaussian_filter(a, _POINT_CELLS, mode="constant", truncate=6.0) for a in (sums, totals))
    result = np.full(values.shape, np.nan)
    at = np.stack([row[weight], column[weight]])
    mean = ndimage.map_coordinates(totals, at, order=1) / ndimage.map_coordinates(sums, at, order=1)
    result[weight] = values[weight] - mean
    return result


@dataclass(frozen=True)
class CellMeans:
    """Means over square cells of a detector, with errors; NaN if fewer than half of the pixels are usable."""

    mean: FloatArray
    error: FloatArray
    cell: int


def cell_means(image: NDArray[np.floating], variance: NDArray[np.floating], usable: BoolArray, *, cell: int) -> CellMeans:
    """Average a map over cells.

    Raises
    ------
    CompareError
        If a cell is not smaller than the map.
    """
    if not 1 <= cell < min(image.shape):
        raise CompareError(f"cells of {cell} pixels are not valid", remedy=f"give 1 to {min(image.shape) - 1} pixels", value=cell)
    means = super_pixels(image, usable, cell)
    squares = super_pixels(variance, usable, cell)
    with np.errstate(invalid="ignore", divide="ignore"):
        error = np.sqrt(squares.mean / squares.count)
    return CellMeans(means.mean, error, cell)


@dataclass(frozen=True)
class Band:
    """Structure with periods between two limits, pixels."""

    shortest: float
    longest: float

    @property
    def name(self) -> str:
        """The limits as text."""
        if self.shortest == 0:
            return f"below {self.longest:g} px"
        return f"above {self.shortest:g} px" if np.isinf(self.longest) else f"{self.shortest:g}-{self.longest:g} px"

    @property
    def limits(self) -> tuple[float, float]:
        """Wavenumbers (radian per pixel) of the longest and the shortest waves."""
        low = 2 * np.pi / self.longest if np.isfinite(self.longest) else 0.0
        return low, 2 * np.pi / self.shortest if self.shortest > 0 else np.inf

    def holds(self, wavenumber: FloatArray) -> BoolArray:
        """Return whether wavenumbers (radian per pixel) lie in this band; zero lies in none."""
        low, high = self.limits
        return (wavenumber > low) & (wavenumber <= high)


def halves(band: Band) -> tuple[Band, Band]:
    """Return the two halves of a band, in the logarithm of the period."""
    middle = float(np.sqrt(band.shortest * band.longest))
    return Band(band.shortest, middle), Band(middle, band.longest)


def bands_between(periods: tuple[float, ...]) -> tuple[Band, ...]:
    """Return the bands between limits, with one below the first and one above the last.

    Raises
    ------
    CompareError
        If there are fewer than two limits, or they do not increase.
    """
    if len(periods) < 2 or periods[0] < 2 or any(b <= a for a, b in pairwise(periods)):
        raise CompareError(
            f"limits of bands {periods} are not valid",
            remedy="give at least two periods in pixels, increasing, at least 2",
            value=periods,
        )
    limits = (0.0, *periods, float("inf"))
    return tuple(Band(a, b) for a, b in pairwise(limits))


def cosine_wavenumbers(shape: tuple[int, int], *, pixel: float = 1.0) -> tuple[FloatArray, FloatArray]:
    """Return wavenumbers (radian per pixel) of a two-dimensional cosine transform: of rows (ny, 1) and of columns (1, nx)."""
    return (
        np.pi * np.arange(shape[0], dtype=np.float64)[:, None] / (shape[0] * pixel),
        np.pi * np.arange(shape[1], dtype=np.float64)[None, :] / (shape[1] * pixel),
    )


def laplacian_eigenvalues(along_y: FloatArray, along_x: FloatArray) -> FloatArray:
    """Return the eigenvalues of the Laplacian of five points (unit pixels) at wavenumbers."""
    return np.asarray(-4 * (np.sin(along_y / 2) ** 2 + np.sin(along_x / 2) ** 2))


def split_bands(image: NDArray[np.floating], bands: tuple[Band, ...]) -> tuple[Float32Array, Float32Array]:
    """Split a map without gaps into bands, with the potential of each.

    The bands are parts of the cosine transform: they do not overlap, are not correlated over the map, and add up to the map minus its mean.

    Parameters
    ----------
    image : ndarray, shape (ny, nx)
        Finite everywhere.
    bands
        Bands of periods.

    Returns
    -------
    maps, potentials : ndarray of float32, shape (bands, ny, nx)
        ``laplacian(potential) = map`` with no flux across the edges.
    """
    spectrum = fft.dctn(np.asarray(image, dtype=np.float64), norm="ortho", workers=2)
    along_y, along_x = cosine_wavenumbers(spectrum.shape)
    wavenumber = np.hypot(along_y, along_x)
    eigenvalues = laplacian_eigenvalues(along_y, along_x)
    eigenvalues[0, 0] = 1.0
    # Axes are transformed one by one, with the factor of both.
    spectrum *= 0.5 / np.sqrt(spectrum.size)
    of_map, of_potential = spectrum.astype(np.float32), (spectrum / eigenvalues).astype(np.float32)
    maps = np.zeros((len(bands), *spectrum.shape), dtype=np.float32)
    potentials = np.zeros(maps.shape, dtype=np.float32)
    for number, band in enumerate(bands):
        # Long waves lie in the first columns of the spectrum.
        used = int(np.count_nonzero(along_x <= band.limits[1]))
        modes = band.holds(wavenumber[:, :used])
        for out, part in ((maps[number], of_map), (potentials[number], of_potential)):
            chosen = np.where(modes, part[:, :used], np.float32(0.0))
            out[:, :used] = _unscaled_idct(chosen, axis=0)
            out[:] = _unscaled_idct(out, axis=1)
    return maps, potentials


def _unscaled_idct(spectrum: Float32Array, *, axis: int) -> Float32Array:
    """Return the inverse of an orthonormal cosine transform along an axis of n, times the square root of 2 n."""
    return np.asarray(fft.idct(spectrum, axis=axis, norm="forward", orthogonalize=True, overwrite_x=True, workers=2))


@dataclass(frozen=True)
class FlatSpectrum:
    """Power spectrum of a flat: variance per mode of the cosine transform of its pixels.

    Attributes
    ----------
    wavenumber, power : ndarray
        Wavenumbers (radian per pixel), and power of the flat without its noise.
    noise
        Variance of a pixel of the flat.
    """

    wavenumber: FloatArray
    power: FloatArray
    noise: float

    def at(self, wavenumber: FloatArray) -> FloatArray:
        """Return the power at wavenumbers."""
        place = np.log(np.maximum(wavenumber, self.wavenumber[0]))
        return np.asarray(np.interp(place, np.log(self.wavenumber), self.power))


def flat_spectrum(excess: FloatArray, noise: float) -> FlatSpectrum:
    """Return the power spectrum of a map without gaps, minus that of white noise of variance ``noise``."""
    spectrum = fft.dctn(excess, norm="ortho", workers=2) ** 2
    wavenumber = np.hypot(*cosine_wavenumbers(excess.shape)).ravel()
    longest = np.pi / max(excess.shape)
    octave = np.floor(_BINS_PER_OCTAVE * np.log2(np.maximum(wavenumber, 0.5 * longest) / longest)).astype(np.int64)
    octave -= octave.min()
    counted = wavenumber > 0
    count = np.bincount(octave[counted])
    with np.errstate(invalid="ignore", divide="ignore"):
        power = np.bincount(octave[counted], spectrum.ravel()[counted]) / count
        middle = np.bincount(octave[counted], wavenumber[counted]) / count
    known = count > 0
    return FlatSpectrum(middle[known], np.maximum(power[known] - noise, 0.0), noise)
