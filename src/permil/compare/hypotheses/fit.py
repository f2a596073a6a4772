"""Joint fit of efficiency, pixel area and diffusion to flux, position and size of stars.

In each band of periods ``F - 1 = Q + A + D``. If the band were of one kind, every quantity of every star would follow its template
(`permil.compare.stars.response`); the stars determine the fraction of each template. Each kind has the coefficient that reproduces its
signature: efficiency the flux, pixel area the shift, diffusion the size. The three are coupled: all templates of all bands enter each
signature, so that for example the shift of a star by a gradient of the efficiency, or the change of its size by shear, is subtracted.

Signatures are compared with instruments that weight all wavelengths of a band as the flat does (shift times wavenumber
squared, size times its fourth power): every coefficient is then ``cov(kind, F) / var(F)``, and their sum is 1.

Simple slopes of flux, shift and size on the predictions, also of fluxes on the means of amplifiers, complement the fit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import fft, ndimage

from permil.arrays import BoolArray, Float32Array, FloatArray, IntArray
from permil.compare.correlation.blocks import block_sums, jackknife
from permil.compare.hypotheses.equations import FixedEffects, MomentFit, Rows, Structure, rows_of, scatter_left, solve_moments
from permil.compare.hypotheses.predict import LEAST_STARS, PredictedStars
from permil.compare.hypotheses.results import KINDS, SUM, TOTAL, FluxChange, Fraction, HypothesisFit, Slope
from permil.compare.scales import cosine_wavenumbers
from permil.compare.stars.response import QUANTITIES, SIGNATURE
from permil.errors import CompareError

LARGEST_GLOW = 0.3
"""Largest ratio of background to star light in the aperture of fitted stars: the residual background is poorly known."""

_SIGNIFICANT = 3.0
"""Significance (standard errors) above which kinds, and unexplained scatter, count as structure."""
_FEWEST_BLOCKS, _MOST_BLOCKS = 4, 8
"""Smallest and largest number of blocks per axis of the jackknife."""
_QUANTITIES = {"flux": (0,), "shift": (1, 2), "size": (3, 4)}
_LEAST = 30


def fit_hypotheses(predicted: PredictedStars, *, region: BoolArray | None = None, flat_fielded: bool = False) -> HypothesisFit:
    """Fit the three hypotheses together to flux, position and size of the stars.

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
    chosen = _chosen_stars(predicted, region)
    rows = [rows_of(predicted, quantity, chosen, flat_fielded) for quantity in range(len(QUANTITIES))]
    fit = solve_moments(rows, predicted.response, predicted.bands, predicted.spectrum)
    return result_of(fit, rows, predicted, chosen, flat_fielded=flat_fielded)


@dataclass(frozen=True)
class BandCoefficients:
    """Fractions of the three kinds in each fitted band.

    Attributes
    ----------
    value : ndarray, shape (3, bands)
        Fractions of efficiency, pixel area, diffusion; 0 if not fitted.
    fitted : ndarray of bool, shape (3, bands)
        Mask of the fractions determined by stars and flat.
    covariance : ndarray, shape (3 bands, 3 bands)
        Covariance of the errors for this sensor (kind by kind, band by band); 0 if not fitted.
    """

    value: FloatArray
    fitted: BoolArray
    covariance: FloatArray


def fit_bands(
    predicted: PredictedStars, *, region: BoolArray | None = None, flat_fielded: bool = False, with_covariance: bool = True
) -> BandCoefficients:
    """Fit the three hypotheses as `fit_hypotheses`, and return the fractions of each band.

    Parameters
    ----------
    predicted, region, flat_fielded
        As in `fit_hypotheses`.
    with_covariance
        Whether the covariance is needed, which takes most of the time; else it is 0.

    Raises
    ------
    CompareError
        As in `fit_hypotheses`.
    """
    chosen = _chosen_stars(predicted, region)
    rows = [rows_of(predicted, quantity, chosen, flat_fielded) for quantity in range(len(QUANTITIES))]
    fit = solve_moments(rows, predicted.response, predicted.bands, predicted.spectrum)
    covariance = np.zeros_like(fit.noise)
    if with_covariance:
        covariance, _, _ = _covariance(fit, rows, _structure(rows, predicted, fit.bands))
    return BandCoefficients(fit.coefficients, fit.fitted, covariance)


def bright_stars(predicted: PredictedStars) -> BoolArray:
    """Return the mask of stars whose background in the aperture is at most 0.3 of their own light: the others are not fitted."""
    return np.asarray(predicted.stars.places.even_light * np.pi * predicted.response.aperture**2 <= LARGEST_GLOW)


def _chosen_stars(predicted: PredictedStars, region: BoolArray | None) -> BoolArray:
    """Return the mask of the stars to fit.

    Raises
    ------
    CompareError
        If fewer than 30 stars are left.
    """
    chosen = bright_stars(predicted)
    if region is not None:
        chosen &= np.asarray(region)[predicted.kept]
    if chosen.sum() < LEAST_STARS:
        raise CompareError(
            f"the region has {int(chosen.sum())} stars brighter than the background under them, but {LEAST_STARS} are needed",
            remedy="give a larger region, more or longer exposures",
            value=int(chosen.sum()),
        )
    return chosen


def result_of(
    fit: MomentFit, rows: list[Rows], predicted: PredictedStars, chosen: BoolArray, *, flat_fielded: bool
) -> HypothesisFit:
    """Return the result of a fit.

    Parameters
    ----------
    fit
        Solved equations.
    rows
        Rows of the six quantities.
    predicted, chosen
        Stars and the flat in bands, and the mask of the stars used.
    flat_fielded
        Whether fluxes were divided by the flat.
    """
    structure = _structure(rows, predicted, fit.bands)
    covariance, realised, excess = _covariance(fit, rows, structure)
    power = _seen_power(structure, predicted)
    side = predicted.scales[-1].longest
    return HypothesisFit(
        fractions=_fractions(fit, covariance, realised, power, predicted),
        slopes=simple_slopes(fit, rows, predicted.scale_of >= 0, side=side, flat_fielded=flat_fielded),
        flux_change=flux_change(rows[0], side),
        excess_scatter=excess,
        stars=int(chosen.sum()),
        exposures=int(np.unique(predicted.stars.exposure[chosen]).size),
        lost=predicted.lost,
        flat_fielded=flat_fielded,
    )


def _covariance(fit: MomentFit, rows: list[Rows], structure: Structure) -> tuple[FloatArray, FloatArray, dict[str, float]]:
    """Return the covariance of the coefficients, the variance of realised fractions, and the excess scatter of each quantity."""
    shares = _shares(fit)
    model = np.einsum("bk,kl->bkl", shares, np.eye(3)) - shares[:, :, None] * shares[:, None, :]
    excess, extra = _excess(fit, rows, model)
    of_sums, realised = structure.variances(model, extra, fit.coefficients.T)
    return fit.gain @ (of_sums + fit.noise) @ fit.gain.T, realised, excess


def _shares(fit: MomentFit) -> FloatArray:
    """Return fractions of each band (bands, 3) with sum 1, and 0 for kinds not significant above the noise of the stars.

    A template can be so much larger than the errors of the stars (diffusion on long periods) that noise alone, if counted as a fraction,
    would predict more structure than present. A band without a significant kind has the fractions of the nearest band with one.
    """
    noise = np.sqrt(np.diag(fit.gain @ fit.noise @ fit.gain.T)).reshape(fit.coefficients.shape)
    seen = fit.fitted & (fit.coefficients > _SIGNIFICANT * noise)
    shares = np.where(seen, fit.coefficients, 0.0).T
    total = shares.sum(axis=1, keepdims=True)
    known = np.flatnonzero(total[:, 0] > 0)
    if not known.size:
        return np.full(shares.shape, 1 / 3)
    nearest = known[np.argmin(np.abs(np.arange(shares.shape[0])[:, None] - known), axis=1)]
    return np.asarray((shares / np.where(total > 0, total, 1.0))[nearest])


def _excess(fit: MomentFit, rows: list[Rows], model: FloatArray) -> tuple[dict[str, float], FloatArray]:
    """Return the ratio of residual to explained scatter, and the structure it may indicate (bands, 3), relative to the flat."""
    scatter: dict[str, float] = {}
    unexplained, spread, templates = np.zeros(3), np.zeros(3), np.zeros(3)
    for quantity, of in enumerate(rows):
        weight = of.weight / of.weight.sum()
        left = scatter_left(of, fit.coefficients)
        structure = np.einsum("n,nkb,nlb,bkl->", weight, of.templates, of.templates, model, optimize=True) / of.freedom
        explained = float(weight @ of.variance + structure)
        found = float(weight @ left)
        scatter[QUANTITIES[quantity]] = found / explained
        if quantity < len(SIGNATURE):
            kind = SIGNATURE[quantity]
            unexplained[kind] += found - explained
            spread[kind] += 2 * float((weight**2 * (of.variance + structure) ** 2).sum())
            templates[kind] += float(np.einsum("n,nb->", weight, of.templates[:, kind] ** 2)) / of.freedom
    more = np.maximum(unexplained - _SIGNIFICANT * np.sqrt(spread), 0.0)
    extra = np.divide(more, templates, out=np.zeros(3), where=templates > 0)
    return scatter, np.tile(extra, (fit.bands, 1))


def _structure(rows: list[Rows], predicted: PredictedStars, bands: int) -> Structure:
    """Return the weight maps of the sums over stars, and those of an ideal estimate."""
    stars = len(predicted.stars)
    weights = np.zeros((stars, 5, bands))
    for quantity in range(5):
        weights[rows[quantity].index, quantity] = rows[quantity].weight[:, None] * rows[quantity].instruments
    used = np.flatnonzero(weights.any(axis=(1, 2)))
    sums = predicted.response.spread(
        predicted.stars.places[used], weights[used], predicted.shape, cell=predicted.cell, bands=predicted.bands
    )
    sums = sums.reshape(3, 3 * bands, *sums.shape[-2:])
    spectra = fft.dctn(sums, axes=(-2, -1), norm="ortho", overwrite_x=True, workers=2)
    flats, energies = _ideal(rows[0], predicted)
    return Structure(spectra, flats, energies, predicted.cell, predicted.bands, predicted.spectrum)


def _ideal(of: Rows, predicted: PredictedStars) -> tuple[Float32Array, FloatArray]:
    """Return the transform of the flat weighted with the density of stars, by band, and its product with the flat."""
    cell, shape = predicted.cell, predicted.cell_spectra.shape[1:]
    where = np.zeros(shape)
    np.add.at(where, (np.floor((of.y + 0.5) / cell).astype(np.int64), np.floor((of.x + 0.5) / cell).astype(np.int64)), of.weight)
    spacing = np.sqrt(np.ptp(of.x) * np.ptp(of.y) / of.x.size)
    where = ndimage.gaussian_filter(where, max(spacing / cell, 1.0), mode="reflect")
    where /= where.sum()
    wavenumber, transfer = np.hypot(*cosine_wavenumbers(shape, pixel=cell)), predicted.cell_transfer
    flats = np.zeros((len(predicted.bands), *shape), dtype=np.float32)
    energies = np.zeros(len(predicted.bands))
    for number, band in enumerate(predicted.bands):
        if band.shortest < 2 * cell:
            continue
        weighted = fft.dctn(where * predicted.seen_cells[number], norm="ortho") * transfer
        flats[number] = weighted
        modes = band.holds(wavenumber)
        noise = predicted.spectrum.noise / cell**2 * float((transfer[modes] ** 2).sum()) / where.size
        energies[number] = float((weighted * predicted.cell_spectra[number]).sum()) - noise
    return flats, energies


def _seen_power(structure: Structure, predicted: PredictedStars) -> FloatArray:
    """Return the variance of each band of the flat with the response and at the positions of stars, without noise."""
    return np.where(predicted.scale_of >= 0, np.maximum(structure.energies, 0.0), 0.0)


def _fractions(
    fit: MomentFit, covariance: FloatArray, realised: FloatArray, power: FloatArray, predicted: PredictedStars
) -> tuple[Fraction, ...]:
    """Return fractions of each reported band, then of all together, weighted with the variance of each band."""
    of_realised = np.diag(realised.T.ravel())
    usable = (predicted.scale_of >= 0) & fit.fitted.all(axis=0) & (power > 0)
    found = []
    for number, scale in enumerate(predicted.scales):
        weight = np.where(usable & (predicted.scale_of == number), power, 0.0)
        found += _of_weights(fit, covariance, of_realised, weight, scale.name)
    return (*found, *_of_weights(fit, covariance, of_realised, np.where(usable, power, 0.0), TOTAL))


def _of_weights(fit: MomentFit, covariance: FloatArray, realised: FloatArray, weight: FloatArray, scale: str) -> list[Fraction]:
    """Return the mean fractions over bands, weighted with their variance, and their sum."""
    rms = float(np.sqrt(weight.sum()))
    if rms == 0:
        unknown = float("nan")
        return [Fraction(name, scale, unknown, unknown, unknown, rms) for name in (*KINDS, SUM)]
    entries = []
    parts = [np.concatenate([weight * (kind == of) for of in range(3)]) / weight.sum() for kind in range(3)]
    for name, part in (*zip(KINDS, parts, strict=True), (SUM, np.sum(parts, axis=0))):
        variance = float(part @ covariance @ part)
        # The realised fractions of the kinds always have the sum 1.
        sample = 0.0 if name == SUM else float(part @ realised @ part)
        value = float(part @ fit.coefficients.ravel())
        entries.append(Fraction(name, scale, value, float(np.sqrt(variance)), float(np.sqrt(variance + sample)), rms))
    return entries


def blocks_of(x: FloatArray, y: FloatArray, side: float = 1.0) -> IntArray:
    """Return the block of each star: the area of the stars in 4 x 4 to 8 x 8 parts, if possible of about ``side`` pixels."""
    extent = max(float(np.ptp(x)), float(np.ptp(y)), 1e-9)
    count = int(np.clip(extent / side, _FEWEST_BLOCKS, _MOST_BLOCKS))
    across, along = (np.minimum((count * (place - place.min()) / extent).astype(np.int64), count - 1) for place in (x, y))
    return along * count + across


def jackknife_ratio(above: FloatArray, below: FloatArray, block: IntArray) -> tuple[float, float]:
    """Return the ratio of two sums over stars and its delete-block error (`permil.compare.correlation.blocks.jackknife`)."""
    sums = block_sums(np.column_stack([np.ones(above.size), above, below]), block)
    ratio, error = jackknife(sums, lambda each: np.asarray(each[..., 1] / each[..., 2]))
    return float(ratio), float(error)


def simple_slopes(fit: MomentFit, rows: list[Rows], shown: BoolArray, *, side: float, flat_fielded: bool) -> tuple[Slope, ...]:
    """Return the slopes of flux, shift and size on the predictions for efficiency, pixel area and diffusion alone.

    The fitted contribution of bands that are not shown is subtracted first, for shifts and sizes also that of the other kinds. Blocks of
    the jackknife have about the side ``side`` (pixels): the longest period shown.
    """
    slopes = []
    for kind, (name, quantities) in enumerate(_QUANTITIES.items()):
        above, below, block = [], [], []
        for quantity in quantities:
            of = rows[quantity]
            others = np.where(shown[None, :], 0.0, fit.coefficients)
            if name != "flux":
                others = np.where(np.arange(3)[:, None] == kind, others, fit.coefficients)
            value = of.value - np.einsum("nkb,kb->n", of.templates, others)
            template = of.templates[:, SIGNATURE[quantity]][:, shown].sum(axis=1)
            noise = float(of.flat_noise @ fit.template_noise[:, quantity][:, shown].sum(axis=1))
            weighted = of.weight * template
            above.append(weighted * value)
            below.append(weighted * template - noise / template.size)
            block.append(blocks_of(of.x, of.y, side))
        value_of, error = jackknife_ratio(np.concatenate(above), np.concatenate(below), np.concatenate(block))
        expected = tuple(float(kind == of) for of in range(3))
        if name == "flux" and flat_fielded:
            value_of, expected = value_of - 1, tuple(entry - 1 for entry in expected)
        slopes.append(Slope(name, value_of, error, expected))  # type: ignore[arg-type]
    return tuple(slopes)


def flux_change(of: Rows, side: float) -> FluxChange:
    """Return the change of the scatter of fluxes by dividing by the flat, including its noise, on all scales.

    Parameters
    ----------
    of
        Rows of the flux.
    side
        Side of the blocks, pixels.
    """
    # Per degree of freedom: terms absorbed by the calibration count neither before nor after.
    weight = of.weight / of.weight.sum()
    seen = of.templates[:, 0].sum(axis=1)
    block = blocks_of(of.x, of.y, side)
    change, error = jackknife_ratio(weight * seen * (seen - 2 * of.value), weight * of.freedom, block)
    return FluxChange(
        before=float(weight @ of.value**2) / of.freedom, noise=float(weight @ of.variance), change=change, error=error
    )


@dataclass(frozen=True)
class BetweenAmplifiers:
    """Slope of star fluxes on the means of the flat's amplifiers.

    Attributes
    ----------
    slope, error
        1 if stars follow the flat (efficiency, or gains wrong for both alike), 0 if not; NaN if the stars do not extend across
        amplifiers.
    rms, rms_error
        Relative scatter of the amplifier means of the flat, and its error.
    """

    slope: float
    error: float
    rms: float
    rms_error: float


def between_amplifiers(
    flux: FloatArray,
    error: FloatArray,
    means: FloatArray,
    spread: tuple[float, float],
    *,
    spot: IntArray,
    exposure: IntArray,
    x: FloatArray,
    y: FloatArray,
) -> BetweenAmplifiers:
    """Fit the steps of the flat between amplifiers to the fluxes of stars, with means of spots and exposures removed from both.

    Parameters
    ----------
    flux, error : ndarray, shape (n,)
        Relative fluxes (minus 1) and their errors.
    means : ndarray, shape (n,)
        Mean of the flat of each star's amplifier relative to the sensor, minus 1.
    spread
        Rms of the amplifier means, and its error.
    spot, exposure, x, y : ndarray, shape (n,)
        Spot, exposure and position of each star.
    """
    good = np.isfinite(flux) & np.isfinite(error) & (error > 0) & np.isfinite(means)
    if good.sum() < _LEAST or np.ptp(means[good]) == 0:
        return BetweenAmplifiers(np.nan, np.nan, *spread)
    weight = error[good] ** -2.0
    effects = FixedEffects(spot[good], exposure[good], weight)
    steps, fluxes = effects.residuals(np.stack([means[good], flux[good]], axis=1)).T
    below = weight * steps**2
    if not below.sum() > 0:
        return BetweenAmplifiers(np.nan, np.nan, *spread)
    slope, slope_error = jackknife_ratio(weight * steps * fluxes, below, blocks_of(x[good], y[good]))
    return BetweenAmplifiers(slope, slope_error, *spread)
