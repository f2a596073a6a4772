"""Residuals of stars, and the prediction of each band of a flat for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy import fft

from permil.arrays import BoolArray, Float32Array, FloatArray, IntArray
from permil.compare.displacement import fill
from permil.compare.scales import (
    PERIODS,
    Band,
    FlatSpectrum,
    bands_between,
    cosine_wavenumbers,
    flat_spectrum,
    halves,
    split_bands,
)
from permil.compare.stars.flat_at_stars import RelativeFlat, flat_as_seen, require_inside
from permil.compare.stars.response import QUANTITIES, StarPlaces, StarResponse, StarTemplates, typical_pitch
from permil.errors import CompareError

LEAST_STARS = 30
_CELLS_PER_PERIOD = 5
"""Number of cells, for the errors from structure, in the shortest reported period."""


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
        By name (`permil.compare.stars.response.QUANTITIES`): flux as ratio minus 1, shifts in pixels, moments in pixel^2. Rows whose
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

    def __getitem__(self, rows: BoolArray | IntArray) -> Stars:
        """Return some of the rows."""
        values, errors = ({name: column[rows] for name, column in columns.items()} for columns in (self.values, self.errors))
        return Stars(self.places[rows], self.spot[rows], self.exposure[rows], values, errors)


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

    @cached_property
    def cell_transfer(self) -> FloatArray:
        """Damping of the modes of cells in the flux of the mean star, shape (rows, columns)."""
        wavenumber = np.hypot(*cosine_wavenumbers(self.cell_spectra.shape[1:], pixel=self.cell))
        nodes = np.linspace(0, float(wavenumber.max()), 500)
        return np.interp(wavenumber, nodes, self.response.transfer(nodes))

    @cached_property
    def seen_cells(self) -> FloatArray:
        """Bands of the flat averaged over the mean star, in cells, shape (bands, rows, columns)."""
        return np.asarray(fft.idctn(self.cell_spectra * self.cell_transfer, axes=(1, 2), norm="ortho", overwrite_x=True))


def predict_bands(
    stars: Stars,
    flat: RelativeFlat,
    response: StarResponse,
    *,
    periods: Sequence[float] = PERIODS,
) -> PredictedStars:
    """Predict the quantities of stars, band by band, if the flat were of one kind.

    Parameters
    ----------
    stars
        Residuals on the flat's detector.
    flat
        Relative flat.
    response
        Response of the stars to a flat.
    periods
        Limits of the bands, pixels. Longer periods are fitted but not reported; of shorter ones only the effect on fluxes is fitted.

    Raises
    ------
    CompareError
        If fewer than 30 stars are left, stars lie outside of the flat, or the flat is constant or not usable.
    """
    _require_columns(stars)
    finer, *scales, coarser = bands_between(tuple(float(period) for period in periods))
    bands = (finer, *(half for scale in scales for half in halves(scale)), coarser)
    shape = flat.excess.shape
    require_inside(stars.places, shape)
    if np.ptp(flat.excess[flat.usable]) == 0:
        raise CompareError("the flat is constant: there is nothing to compare", remedy="give the measured flat")
    if periods[-1] > 2 * min(shape):
        raise CompareError(
            f"periods up to {periods[-1]:g} pixels on a flat of {shape[1]} x {shape[0]}",
            remedy=f"give limits up to {2 * min(shape)} pixels",
            value=periods[-1],
        )
    seen = flat_as_seen(flat, stars.places, response)
    kept = np.isfinite(seen.excess)
    if kept.sum() < LEAST_STARS:
        raise CompareError(
            f"{int(kept.sum())} stars lie on usable pixels of the flat, but {LEAST_STARS} are needed",
            remedy="give more exposures, or check the mask of the flat",
            value=int(kept.sum()),
        )
    rows = np.flatnonzero(kept)
    chosen = stars[rows]
    response = _with_pitch(response, chosen)
    whole = fill(flat.excess, flat.usable)
    maps, potentials = split_bands(whole, bands)
    noise = float(flat.variance[flat.usable].mean())
    cell = max(1, int(scales[0].shortest) // _CELLS_PER_PERIOD)
    return PredictedStars(
        stars=chosen,
        kept=kept,
        templates=response.predict(chosen.places, maps, potentials, bands),
        shape=(shape[0], shape[1]),
        cell=cell,
        cell_spectra=_cell_spectra(maps, bands, cell),
        scales=tuple(scales),
        bands=bands,
        scale_of=np.array([-1, *np.repeat(np.arange(len(scales)), 2), -1]),
        spectrum=flat_spectrum(whole, noise),
        flat_error=seen.error[rows],
        noise=_local_noise(seen.error[rows], noise),
        response=response,
        lost=int((~kept).sum()),
    )


def _with_pitch(response: StarResponse, stars: Stars) -> StarResponse:
    """Return a response with the distance of the stars, since the background was measured between them."""
    pitch = typical_pitch(stars.places.x, stars.places.y, stars.exposure)
    if response.background is None or not stars.places.even_light.any() or not pitch > 0:
        return replace(response, background=None)
    return replace(response, background=replace(response.background, pitch=pitch))


def _local_noise(seen_error: FloatArray, noise: float) -> FloatArray:
    """Return the variance per pixel of the flat at each star, from the variance of the mean over its light."""
    typical = float(np.mean(seen_error**2))
    return np.asarray(noise * seen_error**2 / typical) if typical > 0 else np.zeros(seen_error.size)


def _cell_spectra(maps: Float32Array, bands: tuple[Band, ...], cell: int) -> FloatArray:
    """Return the cosine transforms of the means of bands over cells, shape (bands, rows, columns); 0 for bands finer than cells."""
    rows, columns = (np.arange(0, size, cell) for size in maps.shape[1:])
    heights, widths = np.diff(np.append(rows, maps.shape[1])), np.diff(np.append(columns, maps.shape[2]))
    spectra = np.zeros((len(bands), rows.size, columns.size))
    for spectrum, each, band in zip(spectra, maps, bands, strict=True):
        if band.shortest >= 2 * cell:
            total = np.add.reduceat(np.add.reduceat(each, rows, axis=0, dtype=np.float64), columns, axis=1)
            spectrum[:] = fft.dctn(total / (heights[:, None] * widths), norm="ortho")
    return spectra


def _require_columns(stars: Stars) -> None:
    if len(stars) < LEAST_STARS:
        raise CompareError(
            f"there are {len(stars)} stars, but {LEAST_STARS} are needed", remedy="give more exposures", value=len(stars)
        )
    for group in (stars.values, stars.errors):
        missing = [name for name in QUANTITIES if name not in group]
        if missing:
            raise CompareError(
                f"the stars have no {', '.join(missing)}", remedy=f"give {', '.join(QUANTITIES)} with errors", value=missing
            )
    arrays = [
        stars.spot,
        stars.exposure,
        *(stars.values[name] for name in QUANTITIES),
        *(stars.errors[name] for name in QUANTITIES),
    ]
    if any(array.shape != (len(stars),) for array in arrays):
        raise CompareError("the columns of the stars differ in length", remedy="give one row per measurement")
