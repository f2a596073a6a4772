"""Origins of the variance of raw star fluxes: mask, lamp, place in the focal plane, vendor, sensor, amplifier, pixels, noise.

The logarithm of the raw flux of spot s in exposure e is modelled as

    ln f = (spot) + (lamp) + (place + vendor + sensor) + (amplifier) + (structure within the amplifier) + (noise)

and its variance over the measurements of a sensor and band, each with the same weight, is the sum of the variances of these parts. All
estimates are unbiased (variances of noise are subtracted) and may be negative.

- mask: variance of the calibrated fluxes of the spots;
- lamp: variance of the exposure scales about their mean;
- place, vendor, raft, sensor, amplifier: components of `permil.compare.levels.split.split_levels` of the residuals in cells, raised by the
  level of each sensor: its mean flux of the spots relative to the other sensors with the same mask. This assumes that the lamp did not
  change between sensors by more than its scatter between exposures, which is subtracted;
- pixels: variance of the residuals about the means of the amplifiers, beyond noise, in weights that favour bright stars;
- noise: mean square of the errors in the catalogs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from permil.arrays import FloatArray, IntArray
from permil.compare.hypotheses.equations import FixedEffects
from permil.compare.levels.groups import CellPlaces
from permil.compare.levels.results import InPerMil, LevelSplit
from permil.compare.levels.split import split_levels
from permil.errors import CompareError

_OTHER_MASK = 0.2
"""Rms of the ratio of the fluxes of two campaigns, relative to that of the spots, above which their masks differ."""
_FEWEST_SPOTS = 10
_ITERATIONS, _LEAST_LEFT = 3, 0.05
_BLOCKS = 8
"""Blocks along each side of a sensor, for the error of the variance within it."""


@dataclass(frozen=True)
class RawStars:
    """Raw and calibrated fluxes of one sensor and band.

    Attributes
    ----------
    detector, vendor, raft, band
        Names.
    spot, exposure : ndarray of int, shape (n,)
        Rows of the spots and of the exposures.
    flux : ndarray, shape (n,)
        Raw flux, positive.
    residual : ndarray, shape (n,)
        Raw over calibrated flux, minus 1.
    noise : ndarray, shape (n,)
        Relative error of the flux as the catalog gives it.
    amplifier : ndarray of str, shape (n,)
        Amplifier on which the star lies.
    cell : ndarray of int, shape (n,)
        Cell of the detector.
    x_mm, y_mm : ndarray, shape (n,)
        Position in the focal plane.
    spot_flux, spot_error : ndarray, shape (spots,)
        Calibrated flux of each spot and its relative error; NaN for spots that were not seen.
    scale, scale_error : ndarray, shape (exposures,)
        Brightness of each exposure and its relative error.
    """

    detector: str
    vendor: str
    raft: str
    band: str
    spot: IntArray
    exposure: IntArray
    flux: FloatArray
    residual: FloatArray
    noise: FloatArray
    amplifier: NDArray[np.str_]
    cell: IntArray
    x_mm: FloatArray
    y_mm: FloatArray
    spot_flux: FloatArray
    spot_error: FloatArray
    scale: FloatArray
    scale_error: FloatArray


@dataclass(frozen=True)
class Origin(InPerMil):
    """A part of the relative variance of raw star fluxes, with its error; NaN with a reason if it cannot be separated."""

    name: str
    variance: float
    error: float
    reason: str = ""


NAMES = {
    "place": "place in the focal plane",
    "vendor": "vendor",
    "raft": "raft",
    "detector": "sensor",
    "amplifier": "amplifier",
}


MASK = "mask: fluxes of the spots"
SUM, SUM_WITHIN, RAW = "sum of the parts", "sum within a sensor and band", "measured variance within a sensor and band"


def find_origins(campaigns: Sequence[RawStars], *, draws: int = 200, seed: int = 0) -> list[Origin]:
    """Return the parts of the variance of raw star fluxes: mask, lamp, levels, pixels, noise.

    They are followed by their sum, by the sum of those within a sensor and band, and by the measured variance that the latter explains.

    Parameters
    ----------
    campaigns
        Stars of each sensor and band. Results are means over them, each with the same weight.
    draws, seed
        Number of samples of the parametric bootstrap of the levels, and its seed.

    Raises
    ------
    CompareError
        If there is no campaign.
    """
    if not campaigns:
        raise CompareError("there are no stars", remedy="run permil spots first")
    # One mask has one population of spots, however many sensors see it.
    mask = _mean([_mask_variance(each) for each in campaigns], is_shared=True)
    lamp = _mean([_lamp_variance(each) for each in campaigns])
    within = _mean([_variance_within(each) for each in campaigns])
    noise = _mean([_noise_variance(each) for each in campaigns])
    raw = _mean([_raw_variance(each) for each in campaigns], is_shared=True)
    *above, amplifier = _levels(campaigns, lamp[0], draws=draws, seed=seed)
    first = [Origin(MASK, *mask), Origin("lamp: between exposures", *lamp)]
    last = [amplifier, Origin("pixels: structure within amplifiers", *within), Origin("noise of the measurements", *noise)]
    return [
        *first,
        *above,
        *last,
        _sum(SUM, [*first, *above, *last]),
        _sum(SUM_WITHIN, [*first, *last]),
        Origin(RAW, *raw),
    ]


def _sum(name: str, parts: Sequence[Origin]) -> Origin:
    known = [part for part in parts if not part.reason]
    return Origin(name, sum(part.variance for part in known), float(np.sqrt(sum(part.error**2 for part in known))))


def sensor_levels(campaigns: Sequence[RawStars], lamp_variance: float) -> tuple[FloatArray, FloatArray, str]:
    """Return the level of the star fluxes of each campaign relative to the others of its band, its error, and the reason for a missing one.

    Parameters
    ----------
    campaigns
        Stars of each sensor and band.
    lamp_variance
        Relative variance of the lamp between exposures.

    Returns
    -------
    level, error : ndarray, shape (campaigns,)
        Logarithm of the flux of the spots that all see, and the error from lamp and spots; 0 and NaN with a reason.
    reason
        Why the levels are unknown, "" if they are known.
    """
    nothing = np.zeros(len(campaigns)), np.full(len(campaigns), np.nan)
    if len({each.detector for each in campaigns}) < 2:
        return *nothing, "all stars were measured on one sensor"
    if len({each.spot_flux.size for each in campaigns}) > 1:
        return *nothing, "the masks of the sensors have different numbers of spots"
    logarithm = np.log(np.stack([np.where(each.spot_flux > 0, each.spot_flux, np.nan) for each in campaigns]))
    errors = np.stack([each.spot_error for each in campaigns])
    common = np.isfinite(logarithm).all(axis=0) & np.isfinite(errors).all(axis=0)
    if common.sum() < _FEWEST_SPOTS:
        return *nothing, f"{int(common.sum())} spots were measured on all sensors"
    logarithm, errors = logarithm[:, common], errors[:, common]
    weight = 1.0 / (np.mean(errors**2, axis=0) + float(np.median(errors**2)))
    level = logarithm @ weight / weight.sum()
    from_mask = logarithm - level[:, None]
    from_mask -= from_mask.mean(axis=0)
    if np.median(np.abs(from_mask)) > _OTHER_MASK * np.median(np.abs(logarithm[0] - np.median(logarithm[0]))):
        return *nothing, "the sensors had different masks: mask and sensor cannot be separated"
    exposures = np.array([np.isfinite(each.scale).sum() for each in campaigns])
    of_spots = np.sum((weight * errors) ** 2, axis=1) / weight.sum() ** 2
    return level - level.mean(), np.sqrt(max(lamp_variance, 0.0) / exposures + of_spots), ""


def _levels(campaigns: Sequence[RawStars], lamp_variance: float, *, draws: int, seed: int) -> list[Origin]:
    """Return the parts between places, vendors, rafts, sensors and amplifiers."""
    level, level_error, reason = sensor_levels(campaigns, lamp_variance)
    cells = [_cell_means(each) for each in campaigns]
    sizes = [cell.value.size for cell in cells]

    def column(names: Sequence[str]) -> NDArray[np.str_]:
        return np.repeat(np.array(names), sizes)

    places = CellPlaces(
        detector=column([each.detector for each in campaigns]),
        amplifier=np.concatenate([cell.amplifier for cell in cells]),
        raft=column([each.raft for each in campaigns]),
        vendor=column([each.vendor for each in campaigns]),
        led=column([each.band or "-" for each in campaigns]),
        cell=np.concatenate([cell.number for cell in cells]),
        x_mm=np.concatenate([cell.x_mm for cell in cells]),
        y_mm=np.concatenate([cell.y_mm for cell in cells]),
    )
    value = np.concatenate([cell.value for cell in cells]) + np.repeat(level, sizes)
    error = np.concatenate([cell.error for cell in cells])
    try:
        split = split_levels(value, error, places, degree=0 if reason else 1, draws=draws, seed=seed)
    except CompareError as failure:
        return [Origin(NAMES[name], np.nan, np.nan, str(failure)) for name in NAMES]
    found = {name: _component(split, name) for name in NAMES}
    if not reason and found["detector"] is not None:
        found["detector"] = _without_level_errors(*found["detector"], level_error, len({each.detector for each in campaigns}))
    why = {entry.level: entry.reason for entry in split.left_out}
    parts = []
    for name, label in NAMES.items():
        known = found[name]
        if reason and name != "amplifier":
            parts.append(Origin(label, np.nan, np.nan, reason))
        elif known is None:
            parts.append(Origin(label, np.nan, np.nan, why.get(name, "it cannot be separated")))
        else:
            parts.append(Origin(label, *known))
    return parts


def _without_level_errors(variance: float, error: float, level_error: FloatArray, sensors: int) -> tuple[float, float]:
    """Return the variance of sensors without the errors of their levels, and its error with the chi-square scatter of these."""
    own = float(np.mean(level_error**2))
    true = max(variance - own, 0.0)
    added = 2.0 / (sensors - 1) * ((true + own) ** 2 - true**2)
    return variance - own, float(np.sqrt(error**2 + added))


def _component(split: LevelSplit, level: str) -> tuple[float, float] | None:
    """Return the variance of a level in all bands together and its error, None if it was not determined."""
    chosen = np.array([component.level == level for component in split.components])
    if not chosen.any():
        return None
    variance = sum(component.variance for component, is_chosen in zip(split.components, chosen, strict=True) if is_chosen)
    return float(variance), float(np.sqrt(split.covariance[np.ix_(chosen, chosen)].sum()))


@dataclass(frozen=True)
class _CellMeans:
    """Weighted means of the residuals of one sensor and band over cells within amplifiers."""

    number: IntArray
    amplifier: NDArray[np.str_]
    value: FloatArray
    error: FloatArray
    x_mm: FloatArray
    y_mm: FloatArray


def _cell_means(stars: RawStars) -> _CellMeans:
    names, amplifier = np.unique(stars.amplifier, return_inverse=True)
    weight = stars.noise**-2.0
    # Means of spots contain steps between amplifiers, unless both are fitted together.
    within, steps = _split_amplifiers(stars, amplifier, weight)
    keys, index = np.unique(stars.cell * names.size + amplifier, return_inverse=True)
    total = np.bincount(index, weight)

    def mean(column: FloatArray) -> FloatArray:
        return np.asarray(np.bincount(index, weight * column) / total)

    error = np.asarray(total**-0.5, dtype=np.float64)
    return _CellMeans(
        keys // names.size, names[keys % names.size], mean(within + steps), error, mean(stars.x_mm), mean(stars.y_mm)
    )


def _mask_variance(stars: RawStars) -> tuple[float, float]:
    """Return the variance of the spots, each with the weight of its measurements, and the error for spots drawn at random."""
    number = np.bincount(stars.spot, minlength=stars.spot_flux.size).astype(np.float64)
    known = (number > 0) & np.isfinite(stars.spot_flux) & (stars.spot_flux > 0) & np.isfinite(stars.spot_error)
    share = number[known] / number[known].sum()
    logarithm = np.log(stars.spot_flux[known])
    from_mean = logarithm - share @ logarithm
    variance = float(share @ from_mean**2)
    spread = float(share**2 @ (from_mean**2 - variance) ** 2)
    return variance - float(share @ stars.spot_error[known] ** 2), float(np.sqrt(spread))


def _lamp_variance(stars: RawStars) -> tuple[float, float]:
    known = np.isfinite(stars.scale) & (stars.scale > 0) & np.isfinite(stars.scale_error)
    count = int(known.sum())
    if count < 2:
        return 0.0, np.nan
    variance = float(np.log(stars.scale[known]).var(ddof=1))
    return variance - float(np.mean(stars.scale_error[known] ** 2)), variance * float(np.sqrt(2.0 / (count - 1)))


def _variance_within(stars: RawStars) -> tuple[float, float]:
    """Return the variance of the residuals within amplifiers beyond noise; the error is from a jackknife over blocks of the sensor.

    Spots, exposures and amplifiers are fitted together, which removes the leverage ``h`` of each measurement: the expectation of the square
    of its residual is ``(1 - h) (noise^2 + variance)``.
    """
    noise = stars.noise**2
    amplifier = np.unique(stars.amplifier, return_inverse=True)[1]
    variance = max(float(np.median(stars.residual**2 - noise)), float(np.median(noise)) * 1e-2)
    for _ in range(_ITERATIONS):
        precision = 1.0 / (noise + variance)
        squares = _split_amplifiers(stars, amplifier, precision)[0] ** 2
        leverage = sum(precision / np.bincount(group, precision)[group] for group in (stars.spot, stars.exposure, amplifier))
        weight = precision**2
        excess = weight * (squares / np.maximum(1.0 - leverage, _LEAST_LEFT) - noise)
        variance = max(float(excess.sum() / weight.sum()), 0.0)
    block = _block(stars.x_mm) * _BLOCKS + _block(stars.y_mm)
    tops, bottoms = (np.bincount(block, column, minlength=_BLOCKS**2) for column in (excess, weight))
    used = bottoms > 0
    tops, bottoms = tops[used], bottoms[used]
    without = (tops.sum() - tops) / np.maximum(bottoms.sum() - bottoms, 1e-300)
    count = tops.size
    error = float(np.sqrt((count - 1) / count * np.sum((without - without.mean()) ** 2))) if count > 1 else np.nan
    return float(tops.sum() / bottoms.sum()), error


def _split_amplifiers(stars: RawStars, amplifier: IntArray, weight: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the residuals without the weighted means of spots, exposures and amplifiers, and the step of each star's amplifier."""
    effects = FixedEffects(stars.spot, stars.exposure, weight)
    indicators = amplifier[:, None] == np.arange(amplifier.max() + 1)
    columns = effects.residuals(np.column_stack([stars.residual, indicators.astype(np.float64)]))
    root = np.sqrt(weight)
    steps = np.linalg.lstsq(root[:, None] * columns[:, 1:], root * columns[:, 0], rcond=1e-9)[0]
    of_star = steps[amplifier]
    return np.asarray(columns[:, 0] - columns[:, 1:] @ steps), np.asarray(of_star - np.average(of_star, weights=weight))


def _block(place: FloatArray) -> IntArray:
    extent = max(float(np.ptp(place)), 1e-12)
    return np.minimum((_BLOCKS * (place - place.min()) / extent).astype(np.int64), _BLOCKS - 1)


def _noise_variance(stars: RawStars) -> tuple[float, float]:
    squares = stars.noise**2
    return float(squares.mean()), float(squares.std() / np.sqrt(squares.size))


def _raw_variance(stars: RawStars) -> tuple[float, float]:
    """Return the variance of the logarithms of raw fluxes; its error is for spots drawn at random, as that of the mask."""
    logarithm = np.log(stars.flux)
    squares = (logarithm - logarithm.mean()) ** 2
    of_spot = np.bincount(stars.spot, squares - squares.mean())
    return float(squares.mean()), float(np.sqrt(np.sum(of_spot**2)) / squares.size)


def _mean(parts: Sequence[tuple[float, float]], *, is_shared: bool = False) -> tuple[float, float]:
    """Return the mean of variances and its error; errors of a shared cause do not average out."""
    variance, error = (np.array(column) for column in zip(*parts, strict=True))
    mean_error = np.mean(error) if is_shared else np.sqrt(np.sum(error**2)) / error.size
    return float(variance.mean()), float(mean_error)
