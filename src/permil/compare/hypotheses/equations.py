"""Coupled moment equations of the three kinds and all bands, corrected for the noise of the flat, with errors.

Residuals are relative to the mean of each spot over its dithers and to the brightness, grid or focus of each exposure, and therefore
contain only part of the effect of the flat on stars. A regression on templates from which the same terms are projected out, with the
same weights, equals the regression with these terms as free parameters (Frisch & Waugh 1933; Lovell 1963).

Errors from structure of the sensor, the part of each kind that does not follow the flat:

An estimate is a weighted sum over stars, which is a weighted mean of maps: ``estimate_j = sum_k <G_jk, map_k>``, with G from the
adjoint of the response (`StarResponse.spread`). In a band, ``map_k = f_k (F - 1) + u_k``, and the three u_k add up to 0. If G were the
flat itself, u_k would not contribute: f_k is defined as cov(map_k, F) / var(F). The part of G that is not the flat admits the u_k:
stars are few, and do not contain terms absorbed by the calibration. With u_k as random fields of the flat's power spectrum,

    variance = sum_kk' C_kk' (<G_k| S |G_k'> - <G_k| S |E> <E| S |G_k'> / <E| S |E>),    C = diag(f) - f f^T

(E: the flat at the positions of the stars). C is the covariance of independent kinds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import linalg, sparse

from permil.arrays import BoolArray, Float32Array, FloatArray, IntArray
from permil.compare.hypotheses.predict import LEAST_STARS, PredictedStars
from permil.compare.scales import (
    Band,
    FlatSpectrum,
    cosine_wavenumbers,
    laplacian_eigenvalues,
)
from permil.compare.stars.response import QUANTITIES, SIGNATURE, StarPlaces, StarResponse
from permil.errors import CompareError

_RANK = 1e-9

_LEAST_RELIABILITY = 0.1
"""Smallest fraction of an instrument's variance due to structure, not noise of the flat, for which a coefficient is fitted."""


class FixedEffects:
    """A mean for each spot and terms for each exposure.

    Parameters
    ----------
    spot, exposure : ndarray of int, shape (n,)
        Spot and exposure of each row.
    weight : ndarray, shape (n,)
        Weight of each row, positive.
    trend : ndarray, shape (n, terms), optional
        Terms with a free factor per exposure (`exposure_terms`); by default a constant.
    """

    def __init__(self, spot: IntArray, exposure: IntArray, weight: FloatArray, trend: FloatArray | None = None) -> None:
        trend = np.ones((weight.size, 1)) if trend is None else trend
        rows, terms = trend.shape
        spot, exposure = np.unique(spot, return_inverse=True)[1], np.unique(exposure, return_inverse=True)[1]
        row = np.arange(rows)
        self._spots = sparse.csr_array((np.ones(rows), (row, spot)), shape=(rows, spot.max() + 1))
        columns = exposure[:, None] * terms + np.arange(terms)
        shape = (rows, (exposure.max() + 1) * terms)
        self._terms = sparse.csr_array((trend.ravel(), (np.repeat(row, terms), columns.ravel())), shape=shape)
        self.set_weights(weight)

    def set_weights(self, weight: FloatArray) -> None:
        """Use other weights of the rows from now on."""
        self._weight = weight
        self._sums: FloatArray = np.asarray(self._spots.T @ weight)
        weighted = sparse.diags_array(weight) @ self._terms
        shared = (self._spots.T @ weighted).toarray()
        normal = (self._terms.T @ weighted).toarray() - shared.T @ (shared / self._sums[:, None])
        # Exposure terms that equal spot terms (a mean, a gradient over the mask) are redundant.
        values, vectors = linalg.eigh((normal + normal.T) / 2)
        kept = values > _RANK * values.max()
        self._inverse = (vectors[:, kept] / values[kept]) @ vectors[:, kept].T
        self.rank = int(self._sums.size + kept.sum())
        """Number of degrees of freedom projected out."""

    def residuals(self, columns: FloatArray) -> FloatArray:
        """Return columns (n, c) minus their weighted fit by the terms."""
        left = columns - self._spots @ self._spot_means(columns)
        factors = self._inverse @ (self._terms.T @ (self._weight[:, None] * left))
        left = columns - self._terms @ factors
        return np.asarray(left - self._spots @ self._spot_means(left))

    def _spot_means(self, columns: FloatArray) -> FloatArray:
        return np.asarray(self._spots.T @ (self._weight[:, None] * columns)) / self._sums[:, None]


def exposure_terms(quantity: str, x: FloatArray, y: FloatArray) -> FloatArray:
    """Return the terms of a quantity that calibration fits to each exposure, shape (n, terms): a constant, for shifts also x and y."""
    if quantity not in ("dx", "dy"):
        return np.ones((x.size, 1))
    side = max(float(np.ptp(x)), float(np.ptp(y)), 1.0)
    return np.stack([np.ones(x.size), (x - x.mean()) / side, (y - y.mean()) / side], axis=1)


@dataclass(frozen=True)
class Rows:
    """Measurements of one quantity, with calibration terms projected out.

    Attributes
    ----------
    index
        Indices of the stars.
    x, y, places
        Positions of the stars.
    value, variance, weight : ndarray, shape (n,)
        Measurement, variance of its error, and weight.
    templates : ndarray, shape (n, 3, bands)
        Templates of the three kinds.
    instruments : ndarray, shape (n, bands)
        Instruments of the kind with its signature in this quantity.
    flat_noise : ndarray, shape (3,)
        Weighted sums over the rows of the variance of a pixel of the flat times powers 0 to 2 of the glow, with the lost
        degrees of freedom removed.
    freedom
        Degrees of freedom per row.
    """

    index: IntArray
    x: FloatArray
    y: FloatArray
    places: StarPlaces
    value: FloatArray
    variance: FloatArray
    weight: FloatArray
    templates: FloatArray
    instruments: FloatArray
    flat_noise: FloatArray
    freedom: float


@dataclass(frozen=True)
class MomentFit:
    """Solution of the moment equations.

    Attributes
    ----------
    coefficients : ndarray, shape (3, bands)
        Coefficients of the three kinds; 0 if not fitted.
    fitted : ndarray of bool, shape (3, bands)
        Mask of the coefficients determined by stars and flat.
    gain : ndarray, shape (3 bands, 3 bands)
        Change of the coefficients per change of the weighted sums over stars (kind by kind, band by band); 0 if not fitted.
    noise : ndarray, shape (3 bands, 3 bands)
        Covariance of the sums from the errors of the stars.
    template_noise : ndarray, shape (3, 5, bands)
        Variance of the template of its own kind from white noise of variance 1 of the flat, by powers of the glow: flux, dx, dy, xx, yy.
    """

    coefficients: FloatArray
    fitted: BoolArray
    gain: FloatArray
    noise: FloatArray
    template_noise: FloatArray

    @property
    def bands(self) -> int:
        """Number of bands."""
        return self.coefficients.shape[1]


def solve_moments(rows: list[Rows], response: StarResponse, bands: tuple[Band, ...], spectrum: FlatSpectrum) -> MomentFit:
    """Solve ``sum w z (y - X f) = 0`` for all bands and kinds together.

    Parameters
    ----------
    rows
        Rows of the six quantities.
    response
        Response that determines how noise of the flat enters instruments and templates.
    bands
        Bands of periods.
    spectrum
        Power spectrum of the flat.

    Raises
    ------
    CompareError
        If the flat has no structure above its noise on any scale.
    """
    count = len(bands)
    products, template_noise = response.noise_products(bands)
    normal, correction, noise = (np.zeros((3, count, 3, count)) for _ in range(3))
    side = np.zeros((3, count))
    for quantity, kind in enumerate(SIGNATURE):
        of = rows[quantity]
        weighted = of.weight[:, None] * of.instruments
        side[kind] += weighted.T @ of.value
        normal[kind] += np.einsum("nb,nkc->bkc", weighted, of.templates, optimize=True)
        correction[kind, range(count), :, range(count)] += np.tensordot(of.flat_noise, products[:, quantity], 1).T
        noise[kind, :, kind] += weighted.T @ (of.variance[:, None] * weighted)
    size = 3 * count
    whole = normal.reshape(size, size)
    matrix = whole - correction.reshape(size, size)
    with np.errstate(invalid="ignore", divide="ignore"):
        reliability = np.diag(matrix) / np.diag(whole)
    # If both are negative, the instrument responds to the template with the wrong sign and does not constrain it.
    fitted = np.isfinite(reliability) & (reliability > _LEAST_RELIABILITY) & (np.diag(matrix) > 0)
    # Only fluxes respond to structure finer than a star.
    fitted.reshape(3, count)[1:, [number for number, band in enumerate(bands) if band.shortest == 0]] = False
    if not fitted.any():
        raise CompareError(
            "the flat has no structure above its noise on any scale",
            remedy="average more images into the flat",
            value=spectrum.noise,
        )
    gain = np.zeros((size, size))
    chosen = np.ix_(fitted, fitted)
    scale = np.sqrt(np.diag(matrix)[fitted])
    gain[chosen] = np.linalg.inv(matrix[chosen] / np.outer(scale, scale)) / np.outer(scale, scale)
    return MomentFit(
        coefficients=(gain @ side.ravel()).reshape(3, count),
        fitted=fitted.reshape(3, count),
        gain=gain,
        noise=noise.reshape(size, size),
        template_noise=template_noise,
    )


def scatter_left(of: Rows, coefficients: FloatArray) -> FloatArray:
    """Return the squared residuals of rows from the fit, per degree of freedom."""
    residual = of.value - np.einsum("nkb,kb->n", of.templates, coefficients)
    return np.asarray(residual**2 / of.freedom)


def rows_of(predicted: PredictedStars, quantity: int, chosen: BoolArray, flat_fielded: bool) -> Rows:
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
    trend = exposure_terms(name, x, y)
    columns = np.concatenate([raw[:, None], templates.reshape(good.size, -1), instruments], axis=1)
    weight = 1 / (spread + np.median(spread))
    scatter = 0.0
    effects = FixedEffects(stars.spot[good], stars.exposure[good], weight, trend)
    for _ in range(2):
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
        effects.set_weights(weight)
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


@dataclass(frozen=True)
class Structure:
    """The maps of an estimate as spectra on cells, for any model of the structure.

    Attributes
    ----------
    sums : ndarray, shape (3 kinds of map, sums, rows, columns)
        Cosine transforms of G.
    flats : ndarray, shape (bands, rows, columns)
        Cosine transforms of E.
    energies : ndarray, shape (bands,)
        <E, F - 1> of each band, without the noise of the flat.
    cell
        Side of a cell, pixels.
    bands
        Bands of periods of the flat.
    spectrum
        Power of the flat.
    """

    sums: Float32Array
    flats: Float32Array
    energies: FloatArray
    cell: int
    bands: tuple[Band, ...]
    spectrum: FlatSpectrum

    def variances(self, covariance: FloatArray, extra: FloatArray, fractions: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the covariance of the sums from structure, and the variance of the realised fractions in the population of such sensors.

        Parameters
        ----------
        covariance : ndarray, shape (bands, 3, 3)
            C of each band.
        extra : ndarray, shape (bands, 3)
            Variance, relative to that of the flat, of structure that affects stars but not the flat.
        fractions : ndarray, shape (bands, 3)
            The noise of the flat acts as structure ``-f_k noise``.

        Returns
        -------
        of_sums : ndarray, shape (sums, sums)
        of_fractions : ndarray, shape (bands, 3)
        """
        count = self.sums.shape[1]
        along_y, along_x = cosine_wavenumbers(self.sums.shape[-2:], pixel=self.cell)
        wavenumber = np.hypot(along_y, along_x).ravel()
        eigenvalues = laplacian_eigenvalues(along_y, along_x).ravel()
        sums = self.sums.reshape(3 * count, -1)
        total, realised = np.zeros((count, count)), np.zeros((len(self.bands), 3))
        for number, band in enumerate(self.bands):
            modes = np.flatnonzero(band.holds(wavenumber))
            if band.shortest < 2 * self.cell or modes.size == 0:
                continue
            # A mode of cell means is a mode of the pixels divided by the side of a cell.
            amplitude = np.sqrt(self.spectrum.at(wavenumber[modes])) / self.cell
            weights = sums[:, modes].astype(np.float64)
            # Maps of pixel area and diffusion weight the potential.
            weights[count:] /= eigenvalues[modes]
            white = (weights @ weights.T).reshape(3, count, 3, count) * (self.spectrum.noise / self.cell**2)
            weights *= amplitude
            common = (weights @ weights.T).reshape(3, count, 3, count)
            flat = self.flats[number].ravel()[modes] * amplitude
            norm = float(flat @ flat)
            along = (weights @ flat).reshape(3, count) / np.sqrt(norm) if norm > 0 else np.zeros((3, count))
            total += np.einsum("ab,ajbk->jk", covariance[number] + np.diag(extra[number]), common)
            total -= np.einsum("ab,aj,bk->jk", covariance[number], along, along)
            total += np.einsum("a,b,ajbk->jk", fractions[number], fractions[number], white)
            if self.energies[number] > 0:
                realised[number] = np.diag(covariance[number]) * norm / self.energies[number] ** 2
        return total, realised
