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
        Position and width of each star.
    spot, exposure
        Spot and exposure of each row: the calibration has absorbed their means and trends.
    values, errors
        By name (`permil.compare.stars.kernels.QUANTITIES`): flux as ratio minus 1, shifts in pixels, moments in pixel^2. Rows whose
        value or error is not finite are ignored for that quantity.
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
    """Stars with the predictions of each band of a flat, computed once and fitted for any region.

    Attributes
    ----------
    stars
        Those that are kept.
    kept : ndarray of bool
        Mask of the input rows that are kept.
    templates
        Predictions if the flat were of one kind, by band.
    shape
        Shape of the flat, pixels.
    cell
        Side of the square cells for the errors from structure, pixels.
    cell_spectra : ndarray, shape (bands, rows, columns)
        Cosine transforms of the flat in bands, averaged over cells; 0 for bands finer than cells.
    scales
        Reported bands of periods.
    bands
        Fitted bands: those below and above the scales, and the halves of each, since fractions may change with the period.
    scale_of : ndarray, shape (bands,)
        Index of the scale of each band; -1: none.
    spectrum
        Power of the flat, and its noise.
    flat_error : ndarray, shape (n,)
        Error of the flat averaged over the light of each star.
    noise : ndarray, shape (n,)
        Noise variance per pixel of the flat at each star.
    response
        Of the stars.
    lost
        Number of stars excluded because of unusable pixels.
    """

    stars: Stars
    kept: BoolArray
    templates: StarTemplates
    shape: tuple[int, int]
    cell: int
    cell_spectra: FloatArray
    scales: tuple[Band, ...]
    bands: tuple[Band, ...]
    scale_of: IntArray
    spectrum: FlatSpectrum
    flat_error: FloatArray
    noise: FloatArray
    response: StarResponse
    lost: int
