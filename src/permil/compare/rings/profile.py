"""Tree rings in a flat: profile around their axis, image of the pattern, and zone of significance.

Rings are arcs about the axis of the crystal from which the sensor was cut, often outside a corner of the sensor. Their axis is found
by `permil.compare.rings.search.find_rings`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from permil.arrays import BoolArray, FloatArray, IntArray
from permil.errors import CompareError

_LEAST_GOOD = 0.5
_CLIP = 6.0

_SECTORS = 16
_LEAST_SECTORS = 4
_SIGNIFICANT = 3.0


@dataclass(frozen=True)
class CellMap:
    """Relative deviations of square cells; ``[row, column]`` of cells.

    Attributes
    ----------
    level
        Mean deviation of the good pixels of each cell; 0 if the cell is not good.
    good
        Cells with at least half of their pixels good.
    cell
        Side of a cell, pixels.
    """

    level: FloatArray
    good: BoolArray
    cell: int

    def to_pixels(self, index: NDArray[np.integer] | FloatArray) -> FloatArray:
        """Return the pixel coordinate of the centre of cells."""
        return np.asarray(np.asarray(index, dtype=np.float64) * self.cell + (self.cell - 1) / 2)


def bin_cells(
    flat: NDArray[np.floating],
    good: BoolArray,
    *,
    cell_px: int,
    segments: NDArray[np.integer] | None = None,
) -> CellMap:
    """Return the relative deviations of a flat in cells; incomplete cells at the far ends are dropped.

    Parameters
    ----------
    flat, good
        Flat and its good pixels, shape (ny, nx).
    cell_px
        Side of a cell.
    segments
        Segment number of each pixel, to divide each segment by its own mean; None for the mean of the sensor.

    Raises
    ------
    CompareError
        If shapes do not match or fewer than 32 x 32 cells can be made, or nothing is good.
    """
    if flat.ndim != 2 or good.shape != flat.shape or (segments is not None and segments.shape != flat.shape):
        raise CompareError(f"flat {flat.shape}, mask {good.shape} and segments do not match", remedy="give images of one shape")
    usable = good & np.isfinite(flat)
    if not usable.any():
        raise CompareError("no pixel of the flat is good", remedy="check the mask of the flat")
    ny, nx = (size // cell_px for size in flat.shape)
    if min(ny, nx) < 32:
        raise CompareError(
            f"{ny} x {nx} cells of {cell_px} pixels are too few for rings",
            remedy="use smaller cells or a larger image",
            value=(ny, nx),
        )
    deviation = _relative(flat, usable, segments)
    blocks = (ny, cell_px, nx, cell_px)
    inside = (slice(0, ny * cell_px), slice(0, nx * cell_px))
    number = usable[inside].reshape(blocks).sum(axis=(1, 3))
    total = deviation[inside].reshape(blocks).sum(axis=(1, 3), dtype=np.float64)
    filled = number >= _LEAST_GOOD * cell_px**2
    return CellMap(np.where(filled, total / np.maximum(number, 1), 0.0), filled, cell_px)


def high_passed(cells: CellMap, sigma_px: float) -> CellMap:
    """Return a map minus its local mean (Gaussian of sigma ``sigma_px`` over good cells), with outliers clipped.

    Raises
    ------
    CompareError
        If the scale is shorter than a cell, or no cell is left.
    """
    sigma = sigma_px / cells.cell
    if sigma < 1:
        raise CompareError(
            f"a high-pass of {sigma_px} pixels is shorter than a cell of {cells.cell}", remedy="use smaller cells", value=sigma_px
        )
    share = ndimage.gaussian_filter(cells.good.astype(np.float64), sigma, mode="constant")
    mean = ndimage.gaussian_filter(cells.level, sigma, mode="constant") / np.maximum(share, 1e-6)
    level = np.where(cells.good, cells.level - mean, 0.0)
    typical = 1.4826 * np.median(np.abs(level[cells.good]))
    if not typical > 0:
        raise CompareError("the flat is constant except for its large-scale part", remedy="give a measured flat")
    return replace(cells, level=np.clip(level, -_CLIP * typical, _CLIP * typical))


def evened(cells: CellMap, sigma_px: float) -> CellMap:
    """Return a map divided by its local rms (Gaussian of sigma ``sigma_px``) where this is above the typical rms.

    Blemishes then have no more weight than their surroundings.
    """
    sigma = max(1.0, sigma_px / cells.cell)
    share = ndimage.gaussian_filter(cells.good.astype(np.float64), sigma, mode="constant")
    local = np.sqrt(ndimage.gaussian_filter(cells.level**2, sigma, mode="constant") / np.maximum(share, 1e-6))
    typical = np.median(local[cells.good])
    return replace(cells, level=cells.level * typical / np.maximum(local, typical))


def _relative(flat: NDArray[np.floating], usable: BoolArray, segments: NDArray[np.integer] | None) -> NDArray[np.floating]:
    """Return the flat divided by its mean (or that of its segment) minus 1; 0 at unusable pixels."""
    if segments is None:
        mean: FloatArray | float = float(flat[usable].mean(dtype=np.float64))
        lowest = mean
    else:
        number = np.bincount(segments[usable])
        means = np.bincount(segments[usable], flat[usable]) / np.maximum(number, 1)
        lowest = float(means[number > 0].min())
        mean = means[np.minimum(segments, means.size - 1)]
    if not lowest > 0:
        raise CompareError("the mean of the flat is not positive", remedy="give a flat, not its deviations", value=lowest)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(usable, flat / mean - 1, 0.0)


@dataclass(frozen=True)
class RingProfile:
    """Azimuthal means of a map around a centre.

    Attributes
    ----------
    centre
        (x, y), DM pixels.
    radius
        Mean radius of each annulus, pixels, evenly spaced.
    level, error
        Mean of the map and its error, from the scatter of sectors; NaN if fewer than four sectors have pixels.
    count
        Number of good pixels.
    """

    centre: tuple[float, float]
    radius: FloatArray
    level: FloatArray
    error: FloatArray
    count: FloatArray

    @property
    def width(self) -> float:
        """Width of an annulus, pixels."""
        return float(self.radius[1] - self.radius[0])

    def at(self, x: ArrayLike, y: ArrayLike) -> FloatArray:
        """Return the pattern at points (DM pixels), NaN beyond the profile."""
        distance = np.hypot(np.asarray(x, dtype=float) - self.centre[0], np.asarray(y, dtype=float) - self.centre[1])
        return np.asarray(np.interp(distance, self.radius, self.level, left=np.nan, right=np.nan))

    def local_amplitude(self, window_px: float) -> tuple[FloatArray, FloatArray]:
        """Return the rms of the pattern around each radius without noise, and the significance of its square.

        Parameters
        ----------
        window_px
            Width in radius over which squares are averaged; a few rings.

        Returns
        -------
        amplitude : ndarray
            Root of the mean of ``level^2 - error^2``; 0 if that is negative, NaN without a profile.
        significance : ndarray
            This mean divided by its error for a profile of noise alone.
        """
        known = np.isfinite(self.level) & np.isfinite(self.error)
        size = max(1, round(window_px / self.width)) | 1
        square = np.where(known, self.level**2 - self.error**2, 0.0)
        # Means over sectors are close to normal: the square of a level scatters by 2 error^4, that of its error by 2 error^4 / (n - 1).
        spread = np.where(known, 2 * self.error**4 * (1 + 1 / (_SECTORS - 1)), 0.0)
        number, total, scatter = (
            size * ndimage.uniform_filter1d(each, size, mode="constant") for each in (known.astype(float), square, spread)
        )
        enough = known & (number >= 0.5 * size)
        with np.errstate(invalid="ignore", divide="ignore"):
            amplitude = np.where(enough, np.sqrt(np.maximum(total, 0.0) / number), np.nan)
            significance = np.where(enough, total / np.sqrt(scatter), np.nan)
        return amplitude, significance


@dataclass(frozen=True)
class RingZone:
    """Zone of significant tree rings: annuli whose local rms in the flat reaches a given amplitude.

    Attributes
    ----------
    centre
        (x, y), DM pixels.
    radius
        Radii of the profile, pixels.
    stands_out
        Mask of radii with significant rings.
    amplitude
        Local rms of the rings in the flat, relative.
    """

    centre: tuple[float, float]
    radius: FloatArray
    stands_out: BoolArray
    amplitude: FloatArray

    def contains(self, x: ArrayLike, y: ArrayLike) -> BoolArray:
        """Return whether points (DM pixels) lie in the zone."""
        distance = np.hypot(np.asarray(x, dtype=float) - self.centre[0], np.asarray(y, dtype=float) - self.centre[1])
        width = self.radius[1] - self.radius[0]
        index = np.rint((distance - self.radius[0]) / width).astype(np.int64)
        inside = (index >= 0) & (index < self.radius.size)
        return np.asarray(inside & self.stands_out[np.clip(index, 0, self.radius.size - 1)])


def radial_profile(
    flat: NDArray[np.floating],
    good: BoolArray,
    centre: tuple[float, float],
    *,
    width_px: float = 4.0,
    highpass_px: float | None = 50.0,
    segments: NDArray[np.integer] | None = None,
) -> RingProfile:
    """Return azimuthal means of a flat around a centre.

    Parameters
    ----------
    flat
        Flat, shape (ny, nx); deviations are relative to its mean.
    good
        Pixels to use.
    centre
        (x, y), DM pixels; may lie outside the sensor.
    width_px
        Width of an annulus.
    highpass_px
        Sigma of the Gaussian high-pass filter applied first; None for no filter.
    segments
        Segment number of each pixel, to subtract the mean of each segment first; None to keep the means.

    Raises
    ------
    CompareError
        If shapes do not match or nothing is good.
    """
    if not width_px > 0:
        raise CompareError(f"annuli of {width_px} pixels are not valid", remedy="give a positive width", value=width_px)
    cell = max(1, int(width_px // 2))
    cells = bin_cells(flat, good, cell_px=cell, segments=segments)
    if highpass_px is not None:
        cells = high_passed(cells, highpass_px)
    return profile_of_cells(cells, centre, width_px=width_px)


def profile_of_cells(cells: CellMap, centre: tuple[float, float], *, width_px: float) -> RingProfile:
    """Return azimuthal means of a map of cells around a centre; errors are from the scatter of sectors of each annulus."""
    rows, columns = np.nonzero(cells.good)
    x, y = cells.to_pixels(columns), cells.to_pixels(rows)
    distance = np.hypot(x - centre[0], y - centre[1])
    annulus = np.floor(distance / width_px).astype(np.int64)
    first, last = int(annulus.min()), int(annulus.max())
    annulus -= first
    count = last - first + 1
    sector = _sectors(np.arctan2(y - centre[1], x - centre[0]))
    group = annulus * _SECTORS + sector
    number = np.bincount(group, minlength=count * _SECTORS).reshape(count, _SECTORS).astype(float)
    total = np.bincount(group, cells.level[rows, columns], minlength=count * _SECTORS).reshape(count, _SECTORS)
    annulus_number = number.sum(axis=1)
    filled = (number > 0).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        level = total.sum(axis=1) / annulus_number
        from_mean = total - number * level[:, None]
        error = np.sqrt((from_mean**2).sum(axis=1) * filled / np.maximum(filled - 1, 1)) / annulus_number
    known = filled >= _LEAST_SECTORS
    return RingProfile(
        (float(centre[0]), float(centre[1])),
        (np.arange(first, last + 1, dtype=np.float64) + 0.5) * width_px,
        np.where(known, level, np.nan),
        np.where(known, error, np.nan),
        annulus_number * cells.cell**2,
    )


def ring_zone(profile: RingProfile, *, amplitude: float = 5e-4, window_px: float = 150.0) -> RingZone:
    """Return the zone of significant rings of a high-passed profile.

    Parameters
    ----------
    profile
        High-passed profile of the relative flat.
    amplitude
        Smallest significant rms of the rings in the flat, relative: half a per mil by default. It must also exceed three times its
        error.
    window_px
        Width in radius over which the rms is taken: about two of the longest rings.

    Raises
    ------
    CompareError
        If the amplitude is not positive.
    """
    if not amplitude > 0:
        raise CompareError(
            f"the threshold amplitude {amplitude} is not valid", remedy="give the rms of rings, such as 5e-4", value=amplitude
        )
    local, significance = profile.local_amplitude(window_px)
    stands_out = (np.nan_to_num(local) >= amplitude) & (np.nan_to_num(significance) >= _SIGNIFICANT)
    return RingZone(profile.centre, profile.radius, stands_out, local)


def _sectors(angle: FloatArray) -> IntArray:
    """Return the sector of each point; sectors are equal parts of the range of angles of the points."""
    # Seen from outside, a sensor spans less than half a turn: rotate its centre to zero, so that the branch cut lies outside.
    middle = np.angle(np.exp(1j * angle).mean())
    turned = np.angle(np.exp(1j * (angle - middle)))
    low, high = turned.min(), turned.max()
    return np.minimum(((turned - low) / max(high - low, 1e-12) * _SECTORS).astype(np.int64), _SECTORS - 1)
