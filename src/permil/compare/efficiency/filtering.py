"""The efficiency flat of a detector: Wiener filter of the flat by component and zone, with variance, displacement and size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import scipy
from numpy.typing import NDArray
from scipy import fft

from permil.arrays import BoolArray, FloatArray, IntArray
from permil.compare.displacement import displacement_from_flat, fill
from permil.compare.efficiency.weights import BandPower, BandWeights, band_power, dither_span, periods_within, weights_of
from permil.compare.hypotheses.fit import BandCoefficients, fit_bands
from permil.compare.hypotheses.predict import PredictedStars, Stars, predict_bands
from permil.compare.rings.profile import RingProfile, ring_zone
from permil.compare.scales import PERIODS, cosine_wavenumbers, laplacian_eigenvalues
from permil.compare.stars.flat_at_stars import RelativeFlat
from permil.compare.stars.response import StarResponse, typical_pitch
from permil.errors import CompareError

PLAIN = 0
"""Zone with few stars, where the plain flat is kept."""
MAIN = 1
"""Zone with the fractions of the whole detector."""

_CELLS_PER_PITCH = 8
_LEAST_NEAR = 3
"""Smallest number of stars near a pixel of the filter."""
_AREA, _DIFFUSION = 0, 1


@dataclass(frozen=True)
class Components:
    """Predictions of the separately filtered parts of a flat, for the same stars.

    Attributes
    ----------
    other
        The flat relative to the means of its amplifiers, without the rings.
    rings
        The tree rings, a function of the distance from their axis; None without significant rings.
    excess : ndarray, shape (1 or 2, ny, nx)
        ``F - 1`` of the components, without gaps.
    power
        Power of each component in the bands of the filter.
    span
        Span of the dithers, pixels.
    steps : ndarray, shape (n,)
        Mean of the flat in the amplifier of each star relative to the detector, minus 1: part of both flats.
    """

    other: PredictedStars
    rings: PredictedStars | None
    excess: FloatArray
    power: tuple[BandPower, ...]
    span: float
    steps: FloatArray

    @property
    def predictions(self) -> tuple[PredictedStars, ...]:
        """Predictions of each component."""
        return (self.other,) if self.rings is None else (self.other, self.rings)


def predict_components(
    stars: Stars,
    flat: RelativeFlat,
    response: StarResponse,
    *,
    amplifiers: NDArray[np.integer] | None = None,
    rings: RingProfile | None = None,
    periods: tuple[float, ...] = PERIODS,
) -> Components:
    """Split a flat into tree rings and the rest, and predict both for the stars.

    Parameters
    ----------
    stars, flat, response
        As in `permil.compare.hypotheses.predict.predict_bands`. The flat is relative to the means of its amplifiers.
    amplifiers : ndarray of int, shape (ny, nx), optional
        Number of each pixel's amplifier, from 0; None: there are no steps between amplifiers.
    rings
        Profile around the axis of tree rings.
    periods
        Limits of the bands, pixels; octaves are added as far as the dithers measure longer periods.

    Raises
    ------
    CompareError
        If the flat is relative to the mean of its detector, or stars or flat cannot be used.
    """
    if flat.reference != "amplifier":
        raise CompareError(
            "the flat is relative to its detector: steps between amplifiers would count as structure",
            remedy="give the flat relative to its amplifiers",
            value=flat.reference,
            allowed="amplifier",
        )
    span = dither_span(stars.places.x, stars.places.y, stars.spot)
    periods = periods_within(periods, span, flat.excess.shape)
    ring_map = None if rings is None else ring_image(rings, flat.excess.shape)
    if ring_map is None or not ring_map.any():
        other, of_rings, maps = flat, None, [fill(flat.excess, flat.usable)]
    else:
        rest = np.where(flat.usable, flat.excess - ring_map, 0.0)
        other = replace(flat, excess=rest)
        error = float(np.nanmean(np.asarray(rings.error)[np.isfinite(rings.error)] ** 2)) if rings is not None else 0.0
        ring_flat = replace(flat, excess=ring_map, variance=np.full(ring_map.shape, error))
        of_rings = predict_bands(stars, ring_flat, response, periods=periods)
        maps = [fill(rest, flat.usable), ring_map]
    predicted = predict_bands(stars, other, response, periods=periods)
    power = tuple(band_power(each) for each in ((predicted,) if of_rings is None else (predicted, of_rings)))
    steps = np.zeros(len(predicted.stars))
    if amplifiers is not None:
        row, column = _pixels_of(predicted.stars)
        steps = np.nan_to_num(flat.means[amplifiers[row, column]])
    return Components(predicted, of_rings, np.stack(maps), power, span, steps)


def ring_image(profile: RingProfile, shape: tuple[int, ...]) -> FloatArray:
    """Return the tree rings as a map of ``F - 1``, 0 where they are not significant."""
    zone = ring_zone(profile)
    y, x = np.indices(shape)
    known = replace(profile, level=np.nan_to_num(profile.level))
    return np.where(zone.contains(x, y), np.nan_to_num(known.at(x, y)), 0.0)


def _pixels_of(stars: Stars) -> tuple[IntArray, IntArray]:
    """Return row and column of the pixel at each star."""
    return np.floor(stars.places.y + 0.5).astype(np.int64), np.floor(stars.places.x + 0.5).astype(np.int64)


def fit_components(
    components: Components, *, region: BoolArray | None = None, flat_fielded: bool = False
) -> tuple[BandCoefficients, ...]:
    """Return the fractions of each component, each fitted to the residuals of the stars after the other.

    Parameters
    ----------
    components
        Predictions.
    region : ndarray of bool, shape (n,), optional
        Mask of the rows of the stars to use.
    flat_fielded
        Whether stars were measured on images divided by this flat.
    """
    if components.rings is None:
        return (fit_bands(components.other, region=region, flat_fielded=flat_fielded),)
    first = fit_bands(components.other, region=region, flat_fielded=flat_fielded, with_covariance=False)
    rings = fit_bands(_without(components.rings, components.other, first), region=region, flat_fielded=flat_fielded)
    other = fit_bands(_without(components.other, components.rings, rings), region=region, flat_fielded=flat_fielded)
    return other, rings


def _without(predicted: PredictedStars, other: PredictedStars, fit: BandCoefficients) -> PredictedStars:
    """Return predictions, with the fitted effect of another component subtracted from the values of the stars."""
    effect = np.einsum("nqkb,kb->nq", other.templates.templates, fit.value)
    stars = predicted.stars
    values = {name: value - effect[:, number] for number, (name, value) in enumerate(stars.values.items())}
    return replace(predicted, stars=replace(stars, values=values))


def weigh_components(
    components: Components, fits: tuple[BandCoefficients, ...], whole: tuple[BandWeights, ...] | None = None
) -> tuple[BandWeights, ...]:
    """Return the weights of each component from its fit; ``whole`` are those of the whole detector, the prior for a region."""
    priors = (None,) * len(fits) if whole is None else whole
    return tuple(
        weights_of(fit, power, span=components.span, whole=prior)
        for fit, power, prior in zip(fits, components.power, priors, strict=True)
    )


def covered(stars: Stars, shape: tuple[int, int]) -> BoolArray:
    """Return the pixels with at least three stars within the distance of neighbouring spots, shape (ny, nx)."""
    x, y = stars.places.x, stars.places.y
    pitch = typical_pitch(x, y, stars.exposure)
    if not pitch > 0:
        return np.zeros(shape, dtype=bool)
    cell = max(1, int(pitch) // _CELLS_PER_PITCH)
    rows, columns = -(-shape[0] // cell), -(-shape[1] // cell)
    count = np.zeros((rows, columns))
    np.add.at(count, (((y + 0.5) // cell).astype(np.int64), ((x + 0.5) // cell).astype(np.int64)), 1.0)
    reach = int(np.ceil(pitch / cell))
    disc = np.hypot(*np.mgrid[-reach : reach + 1, -reach : reach + 1]) * cell <= pitch
    near = scipy.signal.oaconvolve(count, disc.astype(np.float64), mode="same") >= _LEAST_NEAR - 0.5
    return near.repeat(cell, axis=0).repeat(cell, axis=1)[: shape[0], : shape[1]]


@dataclass(frozen=True)
class FilterModel:
    """The filter of a detector: weights by zone.

    Attributes
    ----------
    components
        Parts of the flat that are filtered apart.
    zones : ndarray of int, shape (ny, nx)
        Zone of each pixel: `PLAIN`, `MAIN`, or that of a region with separate fractions.
    weights
        Weights of each component by zone, without `PLAIN`.
    """

    components: Components
    zones: NDArray[np.int8]
    weights: Mapping[int, tuple[BandWeights, ...]]

    def weights_in(self, zone: int) -> tuple[BandWeights, ...]:
        """Return the weights of each component in a zone."""
        return tuple(each.plain() for each in self.weights[MAIN]) if zone == PLAIN else self.weights[zone]

    def star_effect(self) -> FloatArray:
        """Return the efficiency flat averaged over each star, minus 1, shape (n,): division by it subtracts this from the relative flux."""
        zone = self.zones[_pixels_of(self.components.other.stars)]
        effect = self.components.steps.copy()
        for number in np.unique(zone):
            inside = zone == number
            for predicted, weights in zip(self.components.predictions, self.weights_in(number), strict=True):
                effect[inside] += predicted.templates.templates[inside, 0, 0] @ weights.efficiency[1:]
        return effect


def fit_filter(
    components: Components,
    regions: Mapping[str, BoolArray],
    *,
    rows: BoolArray | None = None,
    flat_fielded: bool = False,
) -> FilterModel:
    """Fit the fractions of the whole detector and of its regions to stars.

    Parameters
    ----------
    components
        Predictions for all stars.
    regions
        Pixels (ny, nx) of each region that may have separate fractions. A region with too few stars for a fit keeps the plain flat.
    rows : ndarray of bool, shape (n,), optional
        Mask of the rows of the stars to use.
    flat_fielded
        Whether stars were measured on images divided by this flat.

    Raises
    ------
    CompareError
        If there are too few stars on the whole detector.
    """
    predicted = components.other
    stars, kept = predicted.stars, predicted.kept
    used = np.ones(kept.size, dtype=bool) if rows is None else rows
    main = weigh_components(components, fit_components(components, region=used, flat_fielded=flat_fielded))
    weights: dict[int, tuple[BandWeights, ...]] = {MAIN: main}
    zones = np.where(covered(stars[used[kept]], predicted.shape), np.int8(MAIN), np.int8(PLAIN))
    at_stars = _pixels_of(stars)
    for number, pixels in enumerate(regions.values(), start=MAIN + 1):
        chosen = used.copy()
        chosen[kept] &= pixels[at_stars]
        try:
            fits = fit_components(components, region=chosen, flat_fielded=flat_fielded)
        except CompareError:
            zones[pixels] = PLAIN
            continue
        weights[number] = weigh_components(components, fits, main)
        zones[pixels & (zones != PLAIN)] = number
    return FilterModel(components, zones, weights)


@dataclass(frozen=True)
class EfficiencyFlat:
    """The efficiency flat relative to the means of its amplifiers, and the maps of the other kinds; arrays of shape (ny, nx).

    Attributes
    ----------
    excess, variance
        Efficiency minus 1, and the variance of its error: noise, fractions, and what the flat alone cannot separate.
    shift_x, shift_y
        Displacement of charge (recorded minus true position), pixels.
    size
        Change of the second moment of a star per axis by diffusion, pixel^2.
    plain
        Pixels in which the plain flat is kept.
    model
        Filter.
    """

    excess: FloatArray
    variance: FloatArray
    shift_x: FloatArray
    shift_y: FloatArray
    size: FloatArray
    plain: BoolArray
    model: FilterModel

    @cached_property
    def wavenumber(self) -> FloatArray:
        """Wavenumbers of the cosine transform, radian per pixel."""
        return np.hypot(*cosine_wavenumbers((self.excess.shape[0], self.excess.shape[1])))

    def error_of_mean(self, rows: slice, columns: slice, *, amplifier: bool = False) -> float:
        """Return the standard error of the mean efficiency over a rectangle.

        Parameters
        ----------
        rows, columns
            Pixels of the rectangle, in the zone `MAIN`.
        amplifier
            For the mean of an amplifier relative to that of the detector, which the efficiency flat takes over from the plain flat: all
            pixel area and diffusion in it is error. Their power at periods longer than an amplifier, which the flat relative to its
            amplifiers does not hold, is taken to be that at this period or at half of it, whichever is larger. Otherwise the mean is
            relative to the amplifier.
        """
        ny, nx = self.excess.shape
        along = _means_of_modes(rows, ny)[:, None] * _means_of_modes(columns, nx)
        components = self.model.components
        weights = self.model.weights_in(PLAIN if amplifier else MAIN)
        longest = 2 * np.pi / min(rows.stop - rows.start, columns.stop - columns.start) if amplifier else 0.0
        total = 0.0
        for predicted, power, weight in zip(components.predictions, components.power, weights, strict=True):
            structure, noise = weight.error_factors()
            plateau = float(predicted.spectrum.at(np.array([longest, 2 * longest])).max())
            for number, band in enumerate(power.bands):
                modes = band.holds(self.wavenumber)
                level = np.where(self.wavenumber[modes] < longest, plateau, predicted.spectrum.at(self.wavenumber[modes]))
                total += float(along[modes] ** 2 @ (structure[number] * level + noise[number] * predicted.spectrum.noise))
        return float(np.sqrt(total))

    def map_errors(self) -> tuple[float, float]:
        """Return the rms error of displacement (per axis, pixels) and size (pixel^2) in the zone `MAIN`, over the periods in these maps.

        NaN if a map has none.
        """
        eigenvalues = laplacian_eigenvalues(*cosine_wavenumbers((self.excess.shape[0], self.excess.shape[1])))
        shift, size = 0.0, 0.0
        components = self.model.components
        for predicted, power, weights in zip(components.predictions, components.power, self.model.weights_in(MAIN), strict=True):
            structure, noise = weights.other_error_factors()
            for number in np.flatnonzero(weights.measured):
                modes = power.bands[number].holds(self.wavenumber)
                level, eigenvalue = predicted.spectrum.at(self.wavenumber[modes]), np.abs(eigenvalues[modes])
                area, diffusion = (
                    structure[kind, number] * level + noise[kind, number] * predicted.spectrum.noise for kind in range(2)
                )
                # The potential is the map over the eigenvalue: two axes share the gradient of that of the area, size is twice the other.
                shift += float((area / eigenvalue).sum()) / 2
                size += float((4 * diffusion / eigenvalue**2).sum())
        return tuple(float(np.sqrt(each / self.excess.size)) if each > 0 else float("nan") for each in (shift, size))  # type: ignore[return-value]


def _means_of_modes(pixels: slice, size: int) -> FloatArray:
    """Return the mean of each function of the orthonormal cosine transform of an axis over some of its pixels, shape (size,)."""
    half = np.pi * np.arange(1, size) / (2 * size)
    wave = (np.sin(2 * half * pixels.stop) - np.sin(2 * half * pixels.start)) / (2 * np.sin(half) * (pixels.stop - pixels.start))
    return np.concatenate([[size**-0.5], np.sqrt(2 / size) * wave])


def filter_flat(flat: RelativeFlat, model: FilterModel) -> EfficiencyFlat:
    """Return the efficiency flat and the maps of pixel area and diffusion.

    Displacement and size are those of the whole map with the weights of each zone: ``div d`` is minus the area, and half the Laplacian
    of the size is the diffusion, where the zone does not change.

    Parameters
    ----------
    flat
        Flat relative to the means of its amplifiers.
    model
        Weights by zone.
    """
    components = model.components
    shape = flat.excess.shape
    wavenumber = np.hypot(*cosine_wavenumbers((shape[0], shape[1])))
    spectra = [fft.dctn(excess, norm="ortho", workers=2) for excess in components.excess]
    local_noise = np.where(flat.usable, flat.variance, 0.0) / max(float(flat.variance[flat.usable].mean()), 1e-300)
    means = components.excess.mean(axis=(1, 2))
    excess, variance = np.zeros(shape), np.zeros(shape)
    others = np.zeros((2, *shape))
    for zone in np.unique(model.zones):
        inside = model.zones == zone
        for spectrum, power, weights, mean in zip(spectra, components.power, model.weights_in(int(zone)), means, strict=True):
            factors = np.zeros((3, *shape))
            for number, band in enumerate(power.bands):
                modes = band.holds(wavenumber)
                factors[0][modes] = weights.efficiency[number]
                factors[1:, modes] = weights.others[:, number, None]
            excess[inside] += fft.idctn(factors[0] * spectrum, norm="ortho", workers=2)[inside] + mean
            if weights.measured.any():
                for kind in (_AREA, _DIFFUSION):
                    others[kind][inside] += fft.idctn(factors[1 + kind] * spectrum, norm="ortho", workers=2)[inside]
            structure, noise = weights.error_factors()
            variance[inside] += structure @ power.power + (noise @ power.noise) * local_noise[inside]
    whole = np.ones(shape, dtype=bool)
    displacement = displacement_from_flat(others[_AREA], whole)
    eigenvalues = laplacian_eigenvalues(*cosine_wavenumbers((shape[0], shape[1])))
    eigenvalues[0, 0] = np.inf
    size = 2 * fft.idctn(fft.dctn(others[_DIFFUSION], norm="ortho") / eigenvalues, norm="ortho")
    plain = model.zones == PLAIN
    excess = np.where(flat.usable, np.where(plain, flat.excess, excess), 0.0)
    return EfficiencyFlat(excess, variance, displacement.x, displacement.y, size, plain, model)
