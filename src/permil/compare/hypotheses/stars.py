"""Residuals of stars, and what each band of a flat predicts for them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from permil.compare.hypotheses.structure import FlatSpectrum
from permil.compare.scales import Band
from permil.compare.stars.response import StarPlaces, StarResponse, StarTemplates

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class Stars:
    """Residuals of calibrated stars; arrays of shape (n,), one row per measurement.

    Attributes
    ----------
    places
        Where, and how wide the star's spot is.
    spot, exposure
        Which spot and which exposure: the calibration has absorbed means and trends of these.
    values, errors
        By name (`permil.compare.stars.kernels.QUANTITIES`): flux as ratio minus 1, shifts in pixels, moments in pixel^2. Rows whose
        value or error is not finite do not count for that quantity.
    """

    places: StarPlaces
    spot: IntArray
    exposure: IntArray
    values: dict[str, FloatArray]
    errors: dict[str, FloatArray]

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.places)


@dataclass(frozen=True)
class PredictedStars:
    """Stars with what each band of a flat predicts for them: made once, fitted for any region.

    Attributes
    ----------
    stars
        Those that are kept.
    kept : ndarray of bool
        Of the rows that were given.
    templates
        What stars would show were the flat of one kind, band by band.
    maps : ndarray, shape (ny, nx, bands)
        The flat in bands, without gaps.
    scales
        Bands of periods of which the result speaks.
    bands
        Bands that are fitted: those below and above the scales, and the halves of each, since fractions may change with the period.
    scale_of : ndarray, shape (bands,)
        Which of the scales each band is part of; -1: of none.
    spectrum
        Power of the flat, and its noise.
    noise : ndarray, shape (n,)
        Variance per pixel of the flat at each star.
    response
        Of the stars.
    lost
        Stars left out because of pixels that are not usable.
    """

    stars: Stars
    kept: BoolArray
    templates: StarTemplates
    maps: NDArray[np.float32]
    scales: tuple[Band, ...]
    bands: tuple[Band, ...]
    scale_of: IntArray
    spectrum: FlatSpectrum
    noise: FloatArray
    response: StarResponse
    lost: int
