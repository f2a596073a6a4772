"""The colour of one detector, from its flats in all LEDs: responses, variances, correlations of LEDs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from permil.arrays import BoolArray, Float32Array, FloatArray, IntArray
from permil.camera import Detector
from permil.camera.frames import detector_to_ccs
from permil.colour.moments import (
    AMPLIFIER,
    CELL,
    PIXEL,
    CellMaps,
    Moments,
    Places,
    amplifier_moments,
    amplifier_places,
    cell_moments,
    large_places,
    pixel_deviations,
    pixel_moments,
    usual_pixels,
)
from permil.colour.pattern import CELL_MM, Waves, find_waves
from permil.colour.regions import LedFlat, Slices, region_medians
from permil.compare.correlation.correlate import correlate
from permil.compare.rings.profile import RingProfile, radial_profile
from permil.compare.rings.search import find_rings
from permil.errors import CompareError, FlatError
from permil.flat.superpixel import size_in_pixels, super_pixels

MOST_PIXELS = 900
"""Pixels of a detector that are correlated, on a regular lattice: independent of each other but for real structure."""


@dataclass(frozen=True)
class LedCorrelation:
    """Correlation of two LEDs on one scale.

    Attributes
    ----------
    r, r_err : float
        Of the values as they are.
    r_corrected, r_corrected_err : float
        Without noise; NaN where the noise leaves nothing.
    p_value : float
        NaN with a reason if the maps do not allow a statement.
    n, n_eff : float
        Values, and independent ones of the same scatter.
    reason : str
    """

    r: float = np.nan
    r_err: float = np.nan
    r_corrected: float = np.nan
    r_corrected_err: float = np.nan
    p_value: float = np.nan
    n: int = 0
    n_eff: float = np.nan
    reason: str = ""


def correlate_maps(values: FloatArray, errors: FloatArray, x: FloatArray, y: FloatArray) -> LedCorrelation:
    """Return the correlation of two maps with independent errors; see `permil.correlate`.

    Parameters
    ----------
    values, errors : ndarray, shape (2, n)
        NaN does not count.
    x, y : ndarray, shape (n,)
    """
    try:
        found = correlate(values[0], values[1], x, y, a_err=errors[0], b_err=errors[1], methods=())
    except CompareError as error:
        return LedCorrelation(reason=error.what)
    corrected = found.corrected.r
    return LedCorrelation(
        found.r,
        found.r_err,
        corrected.value,
        corrected.error,
        found.p_value,
        found.n,
        found.n_eff,
        found.reason or corrected.reason,
    )


def correlate_pixels(deviations: NDArray[np.floating], errors: FloatArray) -> LedCorrelation:
    """Return the correlation of pixels of two LEDs about their super-pixels, on a lattice of at most `MOST_PIXELS`.

    Parameters
    ----------
    deviations, errors : ndarray, shape (2, ny, nx)
        NaN where a pixel does not count.
    """
    step = max(1, int(np.ceil(np.sqrt(deviations[0].size / MOST_PIXELS))))
    rows, columns = (np.arange(step // 2, size, step) for size in deviations.shape[1:])
    y, x = (part.ravel() for part in np.meshgrid(rows.astype(np.float64), columns.astype(np.float64), indexing="ij"))
    sampled, noise = (part[:, rows[:, None], columns].reshape(2, -1).astype(np.float64) for part in (deviations, errors))
    return correlate_maps(sampled, noise, x, y)


def correlate_rings(profiles: Sequence[RingProfile]) -> LedCorrelation:
    """Return the correlation of the radial profiles of two LEDs about one axis.

    Neighbouring radii lie on two staggered rows, since a correlation needs places in a plane.
    """
    radius = profiles[0].radius
    levels, errors = (np.array([getattr(profile, name) for profile in profiles]) for name in ("level", "error"))
    return correlate_maps(levels, errors, radius, np.asarray(profiles[0].width * (np.arange(radius.size) % 2)))


RINGS, PATTERN = "rings", "pattern"
_RING_HIGH_PASS_MM = 0.5
_FEWEST_GOOD = 0.05
"""Fraction of a detector that must be good in all LEDs."""


@dataclass(frozen=True)
class ScaleCorrelation:
    """Correlation of two LEDs on a scale; ``apart``: without the periodic pattern."""

    scale: str
    leds: tuple[str, str]
    apart: bool
    found: LedCorrelation


@dataclass(frozen=True)
class DetectorColour:
    """The colour of one detector.

    Attributes
    ----------
    detector : str
    leds : tuple of str
        In the order of wavelength; arrays with an axis of LEDs follow it.
    regions : tuple of str
        Names of the amplifiers; then ``all``.
    medians, errors : ndarray, shape (L, r)
        Median response of each region, and its relative error; NaN without good pixels.
    pixels : ndarray of int, shape (r,)
        Good in all LEDs.
    centres : ndarray, shape (r, 2)
        Mean place of the pixels of each region, CCS mm.
    planes, plane_covariance : ndarray, shape (L, 3) and (L, 3, 3)
        Logarithm of the level at the mean place, gradients along X and Y (1/mm), and the covariance that each flat states.
    amplifiers, large : Places
        Amplifiers about a plane, and means over a sixteenth of the detector.
    moments : dict
        Of pixels, cells and amplifiers; pixels and cells without the periodic pattern.
    waves : Waves
        The periodic pattern of the shortest wavelength.
    correlations : tuple of ScaleCorrelation
        Of neighbouring LEDs, for pixels and rings.
    """

    detector: str
    leds: tuple[str, ...]
    regions: tuple[str, ...]
    medians: FloatArray
    errors: FloatArray
    pixels: IntArray
    centres: FloatArray
    planes: FloatArray
    plane_covariance: FloatArray
    amplifiers: Places
    large: Places
    moments: dict[str, Moments]
    waves: Waves
    correlations: tuple[ScaleCorrelation, ...]


def measure_colour(flats: Sequence[LedFlat], detector: Detector, *, super_pixel_mm: float, seed: int) -> DetectorColour:
    """Measure the colour of a detector from its flats in several LEDs.

    Parameters
    ----------
    flats
        In the order of wavelength, shortest first; at least two.
    super_pixel_mm
        Side of a super-pixel, where flats have no modes.
    seed
        Of the surrogates of the search for rings.

    Raises
    ------
    FlatError
        If fewer than two flats are given, or too few pixels are good in all of them.
    """
    if len(flats) < 2:
        raise FlatError(f"{detector.name} has a flat in one LED only", remedy="make flats in two LEDs", detector=detector.name)
    good = np.logical_and.reduce([flat.good & np.isfinite(flat.image) & (flat.image > 0) for flat in flats])
    if good.mean() < _FEWEST_GOOD:
        raise FlatError(
            f"{detector.name}: {good.mean():.1%} of the pixels are good in all LEDs",
            remedy="look at its flats and masks, or leave the detector out with flat.detectors",
            detector=detector.name,
        )
    amplifiers: list[Slices] = [amplifier.slices for amplifier in detector.amplifiers]
    regions = [*amplifiers, (slice(0, detector.ny), slice(0, detector.nx))]
    medians = [region_medians(flat, good, regions) for flat in flats]
    waves = detector_waves(flats, good, detector)
    apart = [_without_waves(flat, waves, number, detector) for number, flat in enumerate(flats)]
    block = flats[0].modes.block if len(flats[0].modes.patterns) else size_in_pixels(super_pixel_mm, detector.pixel_mm)
    deviations = pixel_deviations(apart, good, block)
    usual = usual_pixels(deviations, good & np.isfinite(deviations).all(axis=0))
    deviations = pixel_deviations(apart, usual, block)
    cells = cell_maps(flats, usual, detector, block)
    moments = {
        PIXEL: pixel_moments(deviations, apart, usual, amplifiers, block),
        CELL: cell_moments(cell_maps(apart, usual, detector, block)),
        AMPLIFIER: amplifier_moments(cells),
    }
    errors = np.array([np.where(usual, np.sqrt(flat.variance) / np.where(good, flat.image, 1.0), np.nan) for flat in flats])
    correlations = _correlations(flats, (pixel_deviations(flats, usual, block), deviations), errors, waves)
    correlations += _ring_correlations(apart, usual, detector, seed, apart=bool(len(waves.vectors)))
    return DetectorColour(
        detector=detector.name,
        leds=tuple(flat.led for flat in flats),
        regions=(*(amplifier.name for amplifier in detector.amplifiers), "all"),
        medians=np.array([one.median for one in medians]),
        errors=np.array([one.relative_error for one in medians]),
        pixels=medians[0].pixels,
        centres=_centres(good, regions, detector),
        planes=cells.planes,
        plane_covariance=cells.plane_covariance,
        amplifiers=amplifier_places(cells),
        large=large_places(cells),
        moments=moments,
        waves=waves,
        correlations=tuple(correlations),
    )


def detector_waves(flats: Sequence[LedFlat], good: BoolArray, detector: Detector) -> Waves:
    """Return the periodic pattern of the shortest wavelength, in all LEDs; see `permil.colour.pattern`."""
    size = size_in_pixels(CELL_MM, detector.pixel_mm)
    maps = []
    for flat in flats:
        level = float(np.median(flat.image[good]))
        maps.append(np.log(np.maximum(super_pixels(flat.image, good, size).mean / level, 1e-3)))
    filled = np.asarray(np.isfinite(maps).all(axis=0), dtype=np.bool_)
    if filled.sum() < 64:
        return Waves(np.zeros((0, 2)), np.zeros((len(flats), 0, 2)), np.zeros(len(flats)))
    found = find_waves(np.where(filled, maps, 0.0), filled, size * detector.pixel_mm)
    # The first cell is centred half its side from the first pixel.
    shift = (size - 1) / 2 * detector.pixel_mm
    phase = found.vectors.sum(axis=1) * shift
    cosine, sine = found.coefficients[..., 0], found.coefficients[..., 1]
    turned = np.stack([cosine * np.cos(phase) - sine * np.sin(phase), cosine * np.sin(phase) + sine * np.cos(phase)], axis=-1)
    # A mean over a cell is smaller than the wave.
    half = found.vectors * size * detector.pixel_mm / 2
    damping = np.prod(np.sinc(half / np.pi), axis=1)
    return Waves(found.vectors, turned / damping[:, None], found.errors / (damping.mean() if damping.size else 1.0))


def _without_waves(flat: LedFlat, waves: Waves, number: int, detector: Detector) -> LedFlat:
    if not len(waves.vectors):
        return flat
    factor = np.exp(-waves.on_pixels(number, detector.shape, detector.pixel_mm))
    return replace(flat, image=(flat.image * factor).astype(np.float32))


def cell_maps(flats: Sequence[LedFlat], good: BoolArray, detector: Detector, block: int) -> CellMaps:
    """Return the logarithm of the response on super-pixels with enough good pixels."""
    maps = [super_pixels(flat.image, good, block) for flat in flats]
    row, column = np.nonzero(np.isfinite(maps[0].mean))
    x, y = (centre[place] for centre, place in zip(maps[0].centres(good.shape), (column, row), strict=True))
    x_mm, y_mm = detector_to_ccs(detector, x, y)
    amplifier = detector.amplifier_map()[np.rint(y).astype(np.int64), np.rint(x).astype(np.int64)]
    variances = []
    for flat, means in zip(flats, maps, strict=True):
        noise = super_pixels(flat.variance, good, block).mean[row, column] / means.count[row, column]
        variances.append(noise / means.mean[row, column] ** 2 + flat.modes.remainder[row, column])
    return CellMaps(
        np.log(np.array([means.mean[row, column] for means in maps])),
        np.array(variances),
        [flat.modes.patterns[:, row, column] for flat in flats],
        np.asarray(x_mm),
        np.asarray(y_mm),
        row,
        column,
        amplifier.astype(np.int64),
    )


def _centres(good: BoolArray, regions: Sequence[Slices], detector: Detector) -> FloatArray:
    """Return the mean place of the good pixels of each region, CCS mm; that of all pixels where none is good."""
    places = []
    for rows, columns in regions:
        part = good[rows, columns] if good[rows, columns].any() else np.ones_like(good[rows, columns])
        along_y, along_x = part.sum(axis=1), part.sum(axis=0)
        y = rows.start + float(along_y @ np.arange(along_y.size)) / float(along_y.sum())
        x = columns.start + float(along_x @ np.arange(along_x.size)) / float(along_x.sum())
        places.append(np.array(detector_to_ccs(detector, x, y)).ravel())
    return np.array(places)


def _correlations(
    flats: Sequence[LedFlat], deviations: tuple[Float32Array, Float32Array], errors: FloatArray, waves: Waves
) -> list[ScaleCorrelation]:
    """Return the correlations of pixels of neighbouring LEDs, with the periodic pattern and apart from it."""
    found = []
    for first, second in pairwise(range(len(flats))):
        pair = [first, second]
        names = (flats[first].led, flats[second].led)
        found.append(ScaleCorrelation(PIXEL, names, False, correlate_pixels(deviations[0][pair], errors[pair])))
        if first == 0 and len(waves.vectors):
            found.append(ScaleCorrelation(PIXEL, names, True, correlate_pixels(deviations[1][pair], errors[pair])))
    return found


def _ring_correlations(
    flats: Sequence[LedFlat], good: BoolArray, detector: Detector, seed: int, *, apart: bool
) -> list[ScaleCorrelation]:
    """Return the correlations of radial profiles of neighbouring LEDs; the axis is that of their mean."""
    mean = np.mean([flat.image / np.median(flat.image[good]) for flat in flats], axis=0)
    high_pass = max(_RING_HIGH_PASS_MM / detector.pixel_mm, 6.0)
    amplifier = detector.amplifier_map()
    pairs = [(first.led, second.led) for first, second in pairwise(flats)]
    try:
        search = find_rings(np.where(good, mean, 1.0), good, segments=amplifier, highpass_px=high_pass, surrogates=19, seed=seed)
        reason = f"no tree rings are found (significance {search.significance:.1f})" if search.profile is None else ""
    except CompareError as error:
        reason = error.what
    if reason:
        return [ScaleCorrelation(RINGS, pair, apart, LedCorrelation(reason=reason)) for pair in pairs]
    profiles = []
    for flat in flats:
        profile = radial_profile(
            np.where(good, flat.image, 1.0), good, search.centre, highpass_px=high_pass, segments=amplifier,
            width_px=max(high_pass / 12, 2.0),
        )  # fmt: skip
        noise = float(np.mean(flat.variance[good] / flat.image[good].astype(np.float64) ** 2))
        # What differs between sectors is real and the same in all LEDs: the error is that of the measurement alone.
        profiles.append(replace(profile, error=np.sqrt(noise / np.maximum(profile.count, 1.0))))
    return [
        ScaleCorrelation(RINGS, pair, apart, correlate_rings([profiles[number], profiles[number + 1]]))
        for number, pair in enumerate(pairs)
    ]
