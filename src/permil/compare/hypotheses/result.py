"""Results of the solved moment equations: fractions with errors, slopes, and the effect of dividing by the flat."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from permil.compare.hypotheses.fractions import KINDS, SUM, TOTAL, Fraction, HypothesisFit
from permil.compare.hypotheses.moment_equations import MomentFit, Rows, scatter_left
from permil.compare.hypotheses.slopes import flux_change, simple_slopes
from permil.compare.hypotheses.stars import PredictedStars
from permil.compare.hypotheses.structure import Structure
from permil.compare.scales import cosine_wavenumbers
from permil.compare.stars.kernels import QUANTITIES, SIGNATURE

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

_SIGNIFICANT = 3.0
"""Significance (standard errors) above which kinds, and unexplained scatter, count as structure."""


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
    shares = _shares(fit)
    model = np.einsum("bk,kl->bkl", shares, np.eye(3)) - shares[:, :, None] * shares[:, None, :]
    excess, extra = _excess(fit, rows, model)
    structure = _structure(rows, predicted, fit.bands)
    of_sums, realised = structure.variances(model, extra, fit.coefficients.T)
    covariance = fit.gain @ (of_sums + fit.noise) @ fit.gain.T
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


def _shares(fit: MomentFit) -> FloatArray:
    """Return fractions of each band (bands, 3) with sum 1, and 0 for kinds not significant above the noise of the stars.

    A template can be so much larger than the errors of the stars (diffusion on long periods) that noise alone, if counted as a fraction,
    would predict more structure than present.
    """
    noise = np.sqrt(np.diag(fit.gain @ fit.noise @ fit.gain.T)).reshape(fit.coefficients.shape)
    seen = fit.fitted & (fit.coefficients > _SIGNIFICANT * noise)
    shares = np.where(seen, fit.coefficients, 0.0).T
    total = shares.sum(axis=1, keepdims=True)
    return np.where(total > 0, shares / np.where(total > 0, total, 1.0), 1 / 3)


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


def _ideal(of: Rows, predicted: PredictedStars) -> tuple[NDArray[np.float32], FloatArray]:
    """Return the transform of the flat weighted with the density of stars, by band, and its product with the flat."""
    cell, shape = predicted.cell, predicted.cell_spectra.shape[1:]
    where = np.zeros(shape)
    np.add.at(where, (np.floor((of.y + 0.5) / cell).astype(np.int64), np.floor((of.x + 0.5) / cell).astype(np.int64)), of.weight)
    spacing = np.sqrt(np.ptp(of.x) * np.ptp(of.y) / of.x.size)
    where = ndimage.gaussian_filter(where, max(spacing / cell, 1.0), mode="reflect")
    where /= where.sum()
    along_y, along_x = cosine_wavenumbers(tuple(shape), pixel=cell)  # type: ignore[arg-type]
    wavenumber = np.hypot(along_y, along_x)
    transfer = _transfer(wavenumber, predicted)
    flats = np.zeros((len(predicted.bands), *shape), dtype=np.float32)
    energies = np.zeros(len(predicted.bands))
    for number, band in enumerate(predicted.bands):
        if band.shortest < 2 * cell:
            continue
        spectrum = predicted.cell_spectra[number]
        seen = fft.idctn(spectrum * transfer, norm="ortho")
        weighted = fft.dctn(where * seen, norm="ortho") * transfer
        flats[number] = weighted
        modes = band.holds(wavenumber)
        noise = predicted.spectrum.noise / cell**2 * float((transfer[modes] ** 2).sum()) / where.size
        energies[number] = float((weighted * spectrum).sum()) - noise
    return flats, energies


def _transfer(wavenumber: FloatArray, predicted: PredictedStars) -> FloatArray:
    nodes = np.linspace(0, float(wavenumber.max()), 500)
    return np.interp(wavenumber, nodes, predicted.response.transfer(nodes))


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
