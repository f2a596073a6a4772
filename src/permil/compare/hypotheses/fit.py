"""Joint fit of efficiency, pixel area and diffusion to flux, position and size of stars.

In each band of periods ``F - 1 = Q + A + D``. If the band were of one kind, every quantity of every star would follow its template
(`permil.compare.stars.response`); the stars determine the fraction of each template. Each kind has the coefficient that reproduces its
signature: efficiency the flux, pixel area the shift, diffusion the size. The three are coupled: all templates of all bands enter each
signature, so that for example the shift of a star by a gradient of the efficiency, or the change of its size by shear, is subtracted.

Signatures are compared with instruments that weight all wavelengths of a band as the flat does (shift times wavenumber
squared, size times its fourth power): every coefficient is then ``cov(kind, F) / var(F)``, and their sum is 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from permil.compare.displacement import fill
from permil.compare.errors import CompareError
from permil.compare.fixed_effects import FixedEffects
from permil.compare.hypotheses.fractions import HypothesisFit
from permil.compare.hypotheses.moment_equations import Rows, solve_moments
from permil.compare.hypotheses.result import result_of
from permil.compare.hypotheses.stars import PredictedStars, Stars
from permil.compare.hypotheses.structure import flat_spectrum
from permil.compare.scales import PERIODS, Band, bands_between, halves, split_bands
from permil.compare.stars.background import typical_pitch
from permil.compare.stars.flat_at_stars import LARGEST_LOSS, RelativeFlat, flat_as_seen, require_inside
from permil.compare.stars.kernels import QUANTITIES
from permil.compare.stars.response import StarResponse

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

LEAST_STARS = 30
LARGEST_GLOW = 0.3
"""Largest ratio of background to star light in the aperture of fitted stars: the residual background is poorly known."""
_CELLS_PER_PERIOD = 5
"""Number of cells, for the errors from structure, in the shortest reported period."""


def predict_bands(
    stars: Stars,
    flat: RelativeFlat,
    response: StarResponse,
    *,
    periods: Sequence[float] = PERIODS,
    largest_loss: float = LARGEST_LOSS,
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
    largest_loss
        Stars with a larger fraction of their weight on unusable pixels are excluded.

    Raises
    ------
    CompareError
        If fewer than 30 stars are left, stars lie outside of the flat, or the flat is constant or not usable.
    """
    _check(stars)
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
    seen = flat_as_seen(flat, stars.places, response, largest_loss=largest_loss)
    kept = np.isfinite(seen.excess)
    if kept.sum() < LEAST_STARS:
        raise CompareError(
            f"{int(kept.sum())} stars lie on usable pixels of the flat, but {LEAST_STARS} are needed",
            remedy="give more exposures, or check the mask of the flat",
            value=int(kept.sum()),
        )
    rows = np.flatnonzero(kept)
    chosen = Stars(
        stars.places[rows],
        stars.spot[rows],
        stars.exposure[rows],
        {name: stars.values[name][rows] for name in QUANTITIES},
        {name: stars.errors[name][rows] for name in QUANTITIES},
    )
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


def fit_hypotheses(predicted: PredictedStars, *, region: BoolArray | None = None, flat_fielded: bool = False) -> HypothesisFit:
    """Fit the three hypotheses together to flux, place and size of the stars.

    Parameters
    ----------
    predicted
        Stars with the predictions of the flat.
    region : ndarray of bool, shape (n,), optional
        Mask of the rows given to `predict_bands` that lie in the region.
    flat_fielded
        Whether stars were measured on images divided by this flat. The effect of dividing is then undone first.

    Raises
    ------
    CompareError
        If fewer than 30 stars (or degrees of freedom) are left.
    """
    chosen = predicted.stars.places.even_light * np.pi * predicted.response.aperture**2 <= LARGEST_GLOW
    if region is not None:
        chosen &= np.asarray(region)[predicted.kept]
    if chosen.sum() < LEAST_STARS:
        raise CompareError(
            f"the region has {int(chosen.sum())} stars brighter than the background under them, but {LEAST_STARS} are needed",
            remedy="give a larger region, more or longer exposures",
            value=int(chosen.sum()),
        )
    rows = [_rows_of(predicted, quantity, chosen, flat_fielded) for quantity in range(len(QUANTITIES))]
    fit = solve_moments(rows, predicted.response, predicted.bands, predicted.spectrum)
    return result_of(fit, rows, predicted, chosen, flat_fielded=flat_fielded)


def _rows_of(predicted: PredictedStars, quantity: int, chosen: BoolArray, flat_fielded: bool) -> Rows:
    """Return the rows of one quantity, with calibration terms projected out of measurements and templates."""
    stars, name = predicted.stars, QUANTITIES[quantity]
    value, error = stars.values[name], stars.errors[name]
    with np.errstate(invalid="ignore"):
        good = np.flatnonzero(chosen & np.isfinite(value) & np.isfinite(error) & (error > 0))
    if good.size < LEAST_STARS:
        raise CompareError(
            f"{good.size} stars have a finite {name} with an error, but {LEAST_STARS} are needed",
            remedy="give catalogs with errors",
            value=int(good.size),
        )
    templates = predicted.templates.templates[good, quantity]
    instruments = predicted.templates.instruments[good, quantity]
    # Dividing by the flat removed the effect of efficiency, including the noise of the flat.
    raw = value[good] + (templates[:, 0].sum(axis=1) if flat_fielded else 0.0)
    spread = error[good] ** 2
    x, y = stars.places.x[good], stars.places.y[good]
    trend = np.ones((good.size, 1))
    if name in ("dx", "dy"):
        scale = max(float(np.ptp(x)), float(np.ptp(y)), 1.0)
        trend = np.stack([np.ones(good.size), (x - x.mean()) / scale, (y - y.mean()) / scale], axis=1)
    columns = np.concatenate([raw[:, None], templates.reshape(good.size, -1), instruments], axis=1)
    weight = 1 / (spread + np.median(spread))
    scatter = 0.0
    for _ in range(2):
        effects = FixedEffects(stars.spot[good], stars.exposure[good], weight, trend)
        freedom = good.size - effects.rank
        if freedom < LEAST_STARS:
            raise CompareError(
                f"{good.size} stars of {np.unique(stars.spot[good]).size} spots in {np.unique(stars.exposure[good]).size} exposures leave "
                f"{freedom} degrees of freedom, but {LEAST_STARS} are needed",
                remedy="give more dithered exposures of the same spots",
                value=int(freedom),
            )
        left = effects.residuals(raw[:, None])[:, 0] ** 2 * (good.size / freedom)
        scatter = max(0.0, float((weight**2 * (left - spread)).sum() / (weight**2).sum()))
        weight = 1 / (spread + scatter)
    effects = FixedEffects(stars.spot[good], stars.exposure[good], weight, trend)
    projected = effects.residuals(columns)
    glow = stars.places.even_light[good]
    count = templates.shape[1] * templates.shape[2]
    return Rows(
        index=good,
        x=x,
        y=y,
        places=stars.places[good],
        value=projected[:, 0],
        variance=spread,
        weight=weight,
        templates=projected[:, 1 : 1 + count].reshape(templates.shape),
        instruments=projected[:, 1 + count :],
        flat_noise=freedom / good.size * np.array([weight @ (predicted.noise[good] * glow**power) for power in range(3)]),
        freedom=freedom / good.size,
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


def _cell_spectra(maps: NDArray[np.float32], bands: tuple[Band, ...], cell: int) -> FloatArray:
    """Return the cosine transforms of the means of bands over cells, shape (bands, rows, columns); 0 for bands finer than cells."""
    rows, columns = (np.arange(0, size, cell) for size in maps.shape[:2])
    total = np.add.reduceat(np.add.reduceat(maps, rows, axis=0, dtype=np.float64), columns, axis=1)
    heights, widths = np.diff(np.append(rows, maps.shape[0])), np.diff(np.append(columns, maps.shape[1]))
    means = np.moveaxis(total / (heights[:, None, None] * widths[:, None]), 2, 0)
    spectra = np.zeros(means.shape)
    for spectrum, mean, band in zip(spectra, means, bands, strict=True):
        if band.shortest >= 2 * cell:
            spectrum[:] = fft.dctn(mean, norm="ortho")
    return spectra


def _check(stars: Stars) -> None:
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
