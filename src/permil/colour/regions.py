"""Response of amplifiers and of the whole detector in each LED, with errors shared by regions and detectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from permil.arrays import BoolArray, FloatArray, IntArray
from permil.flat.shared_errors import FlatModes

Slices = tuple[slice, slice]

_OF_MEDIAN = np.pi / 2
"""Variance of the median of a normal distribution over that of its mean."""


@dataclass(frozen=True)
class LedFlat:
    """The flat of one detector in one LED.

    Attributes
    ----------
    led : str
    image, variance : ndarray, shape (ny, nx)
        Response and its independent variance.
    good : ndarray of bool, shape (ny, nx)
        Pixels without any mask plane.
    modes : FlatModes
        Errors that its pixels share.
    """

    led: str
    image: NDArray[np.floating]
    variance: NDArray[np.floating]
    good: BoolArray
    modes: FlatModes


@dataclass(frozen=True)
class RegionMedians:
    """Median response of regions of a detector.

    Attributes
    ----------
    median : ndarray, shape (r,)
        NaN without good pixels.
    own : ndarray, shape (r,)
        Relative variance that is independent between regions.
    common : ndarray, shape (r, k)
        Relative modes of the errors that regions share, each one standard deviation.
    pixels : ndarray of int, shape (r,)
    """

    median: FloatArray
    own: FloatArray
    common: FloatArray
    pixels: IntArray

    @property
    def relative_error(self) -> FloatArray:
        """Relative standard error of the median."""
        return np.sqrt(self.own + np.square(self.common).sum(axis=1))


def region_medians(flat: LedFlat, good: BoolArray, regions: Sequence[Slices]) -> RegionMedians:
    """Return the median response of regions.

    The error of a median is that of the mean, times 1.25 for the independent noise of pixels.

    Parameters
    ----------
    flat
        Response in one LED.
    good
        Pixels that count.
    regions
        Rows and columns of each region.
    """
    medians, owns, commons, pixels = [], [], [], []
    for region in regions:
        chosen = good[region]
        count = int(chosen.sum())
        pixels.append(count)
        if count == 0:
            medians.append(np.nan)
            owns.append(np.nan)
            commons.append(np.full(len(flat.modes.patterns), np.nan))
            continue
        response = flat.image[region][chosen].astype(np.float64)
        noise = float(np.sum(flat.variance[region][chosen].astype(np.float64) / response**2)) / count**2
        share = _block_share(chosen, region, flat.modes)
        medians.append(float(np.median(response)))
        owns.append(_OF_MEDIAN * noise + float(np.sum(share**2 * flat.modes.remainder)))
        commons.append(np.tensordot(flat.modes.patterns, share, axes=2))
    return RegionMedians(np.array(medians), np.array(owns), np.array(commons), np.array(pixels, dtype=np.int64))


def _block_share(chosen: BoolArray, region: Slices, modes: FlatModes) -> FloatArray:
    """Return the part of the chosen pixels of a region that lies in each super-pixel of the detector."""
    shape = modes.remainder.shape
    rows, columns = np.nonzero(chosen)
    rows = (rows + (region[0].start or 0)) // modes.block
    columns = (columns + (region[1].start or 0)) // modes.block
    counts = np.bincount(rows * shape[1] + columns, minlength=shape[0] * shape[1])
    return np.asarray(counts.reshape(shape) / rows.size)


def ratio_errors(first: FloatArray, second: FloatArray, change: FloatArray) -> FloatArray:
    """Return the relative errors of the ratios of two LEDs over regions of one detector, shape (r,).

    Parameters
    ----------
    first, second : ndarray, shape (r,)
        Relative errors of the regions in either LED.
    change : ndarray, shape (r,)
        By how much terms that LEDs share change the sum of both variances (`change_of_regions`).
    """
    return np.sqrt(np.maximum(first**2 + second**2 + change, 0.0))


def change_of_regions(plane_change: FloatArray, offsets: FloatArray) -> FloatArray:
    """Return the change of the variance of regions, shape (r,), by a change of the covariance of a detector's level and gradients.

    Errors common to LEDs are smooth over a detector.

    Parameters
    ----------
    plane_change : ndarray, shape (3, 3)
        `permil.colour.planes.RatioPlanes.change` of the detector.
    offsets : ndarray, shape (r, 2)
        Centres of the regions relative to that of the detector, CCS mm.
    """
    rows = np.column_stack([np.ones(len(offsets)), offsets])
    return np.einsum("ri,ij,rj->r", rows, plane_change, rows)
