"""Scatter of star fluxes on left-out dithers, undivided and divided by the plain flat and the efficiency flat, and the flat to use.

Exposures are divided at random into parts. The filter is fitted without one part, and its stars are divided by the flat that
results. Means of spots and exposures are removed within the part, so that nothing of the fit enters its scatter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from permil.arrays import BoolArray, FloatArray, IntArray
from permil.compare.efficiency.filtering import MAIN, Components, EfficiencyFlat, FilterModel, fit_filter
from permil.compare.hypotheses.equations import FixedEffects
from permil.compare.hypotheses.fit import blocks_of, bright_stars, jackknife_ratio
from permil.errors import CompareError
from permil.rounding import rounded

BEST_FILTER, NOISE = "best filter", "noise"
"""Names of the rows of a proof that are not divisions."""
PARTS = 3
"""Number of parts of the exposures, at most."""
SIGNIFICANCE = 3.0
"""Significance of a difference of scatter, in paired standard errors."""
_LEAST_EXPOSURES = 3
"""Smallest number of exposures of a part."""


class Division(StrEnum):
    """Flats by which fluxes of stars may be divided."""

    UNDIVIDED = "undivided"
    PLAIN = "plain flat"
    EFFICIENCY = "efficiency flat"


@dataclass(frozen=True)
class LeftOutStars:
    """Fluxes of left-out stars and their predictions, with means of spots and exposures removed within each part; shape (n,).

    Attributes
    ----------
    flux : ndarray
        Relative fluxes, undivided.
    plain, filtered : ndarray
        Effect of dividing by the plain flat and by the efficiency flat.
    variance, weight : ndarray
        Variance of the errors of the fluxes, and weight.
    freedom : ndarray
        Degrees of freedom per row.
    block : ndarray of int
        Block of the detector, for the errors.
    row : ndarray of int
        Row among the kept stars.
    part : ndarray of int
        Part of the exposures.
    """

    flux: FloatArray
    plain: FloatArray
    filtered: FloatArray
    variance: FloatArray
    weight: FloatArray
    freedom: FloatArray
    block: IntArray
    row: IntArray
    part: IntArray

    def left(self, division: Division) -> FloatArray:
        """Return the fluxes after a division."""
        if division == Division.UNDIVIDED:
            return self.flux
        return self.flux - (self.plain if division == Division.PLAIN else self.filtered)


@dataclass(frozen=True)
class FluxVariance:
    """Variance of relative fluxes with its standard error (delete-block jackknife)."""

    variance: float
    error: float

    @property
    def rms(self) -> float:
        """Relative rms."""
        return float(np.sqrt(max(self.variance, 0.0)))

    @property
    def rms_error(self) -> float:
        """Standard error of the rms."""
        return self.error / (2 * self.rms) if self.rms > 0 else float(np.sqrt(self.error))


@dataclass(frozen=True)
class Proof:
    """Scatter of star fluxes on left-out dithers.

    Attributes
    ----------
    scatter
        Variance after each division.
    differences
        Variance with the efficiency flat minus that of each other division, with its paired error.
    noise
        Variance that the errors of the stars explain, with the error from their variation over the detector.
    best
        Expected variance with the best filter of this flat: that of undivided fluxes less what the Wiener filter with the fitted
        fractions takes from them; its error is that of the fractions and of the finite number of stars.
    stars, exposures, parts
        Numbers of left-out stars, exposures, and parts.
    """

    scatter: Mapping[Division, FluxVariance]
    differences: Mapping[Division, FluxVariance]
    noise: FluxVariance
    best: FluxVariance
    stars: int
    exposures: int
    parts: int

    def change(self, division: Division) -> tuple[float, float]:
        """Return the rms with the efficiency flat minus the rms after another division, with the error of the paired comparison."""
        difference = self.differences[division]
        total = self.scatter[Division.EFFICIENCY].rms + self.scatter[division].rms
        return difference.variance / total, difference.error / total

    def rows(self) -> list[dict[str, Any]]:
        """Return one row of a table for each division, for the best filter and for noise: rms in total and without noise, and change."""
        unknown = float("nan")
        entries = [
            *((division.value, self.scatter[division]) for division in Division),
            (BEST_FILTER, self.best),
            (NOISE, self.noise),
        ]
        changes = {division.value: self.change(division) for division in self.differences}
        found = []
        for name, scatter in entries:
            own = FluxVariance(scatter.variance - self.noise.variance, scatter.error)
            change, change_error = changes.get(name, (unknown, unknown))
            found.append(
                {
                    "division": name,
                    "scatter": scatter.rms,
                    "scatter_err": scatter.rms_error,
                    "sensor_scatter": own.rms if name != NOISE else unknown,
                    "sensor_scatter_err": own.rms_error if name != NOISE else unknown,
                    "change": change,
                    "change_err": change_error,
                }
            )
        return found


def leave_out(
    components: Components,
    regions: Mapping[str, BoolArray],
    *,
    seed: int = 0,
    flat_fielded: bool = False,
) -> LeftOutStars:
    """Divide the stars of each part of the exposures by the efficiency flat from the other parts.

    Parameters
    ----------
    components
        Predictions for all stars.
    regions
        As in `permil.compare.efficiency.filtering.fit_filter`.
    seed
        Seed of the division of exposures into parts.
    flat_fielded
        Whether stars were measured on images divided by this flat.

    Raises
    ------
    CompareError
        If there are fewer than three exposures per part, or too few stars.
    """
    predicted = components.other
    stars, kept = predicted.stars, predicted.kept
    numbers = np.unique(stars.exposure)
    parts = min(PARTS, numbers.size // _LEAST_EXPOSURES)
    if parts < 2:
        raise CompareError(
            f"{numbers.size} exposures of stars are too few to leave some out",
            remedy=f"take at least {2 * _LEAST_EXPOSURES} dithered exposures",
            value=int(numbers.size),
        )
    drawn = np.random.default_rng(seed).permutation(numbers.size) % parts
    part = drawn[np.searchsorted(numbers, stars.exposure)]
    plain = components.steps + sum(each.templates.templates[:, 0, 0].sum(axis=1) for each in components.predictions)
    value = stars.values["flux"] + (plain if flat_fielded else 0.0)
    error = stars.errors["flux"]
    bright = bright_stars(predicted)
    found = []
    for number in range(parts):
        rows = np.zeros(kept.size, dtype=bool)
        rows[np.flatnonzero(kept)] = part != number
        model = fit_filter(components, regions, rows=rows, flat_fielded=flat_fielded)
        with np.errstate(invalid="ignore"):
            good = np.flatnonzero((part == number) & bright & np.isfinite(value) & np.isfinite(error) & (error > 0))
        spread = error[good] ** 2
        weight = 1 / (spread + np.median(spread))
        columns = np.stack([value[good], plain[good], model.star_effect()[good]], axis=1)
        effects = FixedEffects(stars.spot[good], stars.exposure[good], weight)
        if effects.rank >= good.size:
            raise CompareError(
                "the left-out exposures do not repeat any spot", remedy="give more dithered exposures of the same spots"
            )
        freedom = np.full(good.size, 1 - effects.rank / good.size)
        found.append((effects.residuals(columns), spread, weight, freedom, good))
    columns, spread, weight, freedom, row = (np.concatenate(each) for each in zip(*found, strict=True))
    block = blocks_of(stars.places.x[row], stars.places.y[row], predicted.scales[-1].longest)
    return LeftOutStars(columns[:, 0], columns[:, 1], columns[:, 2], spread, weight, freedom, block, row, part[row])


def scatter_of(left_out: LeftOutStars, division: Division, *, minus: Division | None = None) -> FluxVariance:
    """Return the variance of left-out fluxes after a division, or its difference from that after another, per degree of freedom."""
    square = left_out.left(division) ** 2
    if minus is not None:
        square = square - left_out.left(minus) ** 2
    return FluxVariance(*jackknife_ratio(left_out.weight * square, left_out.weight * left_out.freedom, left_out.block))


def prove(
    model: FilterModel,
    regions: Mapping[str, BoolArray],
    *,
    seed: int = 0,
    flat_fielded: bool = False,
) -> Proof:
    """Return the scatter of star fluxes on left-out dithers after each division.

    Parameters
    ----------
    model
        Filter from all stars: its fractions give the best possible, and its components are fitted without each part.
    regions, seed, flat_fielded
        As in `leave_out`.

    Raises
    ------
    CompareError
        As in `leave_out`.
    """
    components = model.components
    left_out = leave_out(components, regions, seed=seed, flat_fielded=flat_fielded)
    noise = FluxVariance(*jackknife_ratio(left_out.weight * left_out.variance, left_out.weight, left_out.block))
    exposures = np.unique(components.other.stars.exposure[left_out.row])
    scatter = {division: scatter_of(left_out, division) for division in Division}
    others = Division.UNDIVIDED, Division.PLAIN
    differences = {other: scatter_of(left_out, Division.EFFICIENCY, minus=other) for other in others}
    gain = _largest_gain(model, left_out)
    best = FluxVariance(
        scatter[Division.UNDIVIDED].variance - gain.variance, float(np.hypot(gain.error, differences[Division.UNDIVIDED].error))
    )
    return Proof(
        scatter=scatter,
        differences=differences,
        noise=noise,
        best=best,
        stars=left_out.row.size,
        exposures=exposures.size,
        parts=np.unique(left_out.part).size,
    )


def _largest_gain(model: FilterModel, left_out: LeftOutStars) -> FluxVariance:
    """Return the variance that the Wiener filter removes from undivided fluxes, in all bands, with the error due to the fractions.

    Of the variance V of a band of the flat, noise included, as stars see it, that is ``V (f r)^2``: twice the covariance ``f r V`` with the
    efficiency times the weight ``f r``, less the variance added.
    """
    total, variance = 0.0, 0.0
    for predicted, weights in zip(model.components.predictions, model.weights_in(MAIN), strict=True):
        stars, row = predicted.stars, left_out.row
        effects = FixedEffects(stars.spot[row], stars.exposure[row], left_out.weight)
        template = effects.residuals(predicted.templates.templates[row, 0, 0])
        seen = left_out.weight @ template**2 / (left_out.weight @ left_out.freedom)
        fraction, reliability = weights.fractions[0, 1:], weights.reliability[1:]
        total += float(seen @ (fraction * reliability) ** 2)
        slope = 2 * seen * fraction * reliability**2
        bands = np.arange(1, weights.fractions.shape[1])
        variance += float(slope @ weights.covariance[np.ix_(bands, bands)] @ slope)
    return FluxVariance(total, float(np.sqrt(max(variance, 0.0))))


_PER_MIL = 1e3
_ADVICE = {
    Division.EFFICIENCY: "Use the efficiency flat for fluxes of stars and the plain flat for the sky",
    Division.PLAIN: "Use the plain flat for fluxes of stars and for the sky",
    Division.UNDIVIDED: "Do not divide fluxes of stars by a flat, and use the plain flat for the sky",
    None: "Use the plain flat for the sky; for fluxes, these stars do not determine which flat is better",
}


@dataclass(frozen=True)
class FlatChoice:
    """Which flat to use.

    Attributes
    ----------
    fluxes
        For fluxes of stars; None if the stars do not decide.
    sky
        For sky and surface brightness: pixel area and diffusion change the light of the sky in a pixel as they change the flat.
    sentence
        Both as a sentence, with the scatter on left-out dithers, the best possible, noise alone, and what the efficiency flat would leave
        in the sky.
    removed
        Rms of the pixel area and diffusion that the efficiency flat lacks (relative), and its error.
    """

    fluxes: Division | None
    sky: Division
    sentence: str
    removed: tuple[float, float]


def choose_flat(proof: Proof, efficiency: EfficiencyFlat) -> FlatChoice:
    """Return which flat to use.

    The efficiency flat is recommended for fluxes if the scatter on left-out dithers is smaller than with the plain flat and without any, by
    three paired standard errors each. If it does not differ from one of them, the simpler one is recommended.

    Parameters
    ----------
    proof
        Scatter on left-out dithers.
    efficiency
        Efficiency flat from all dithers.
    """
    removed, fluxes = removed_rms(efficiency), _recommend(proof)
    return FlatChoice(fluxes, Division.PLAIN, f"{_ADVICE[fluxes]}: {_figures(proof, removed)}.", removed)


def removed_rms(efficiency: EfficiencyFlat) -> tuple[float, float]:
    """Return the rms of the pixel area and diffusion removed in the efficiency flat, and its error."""
    components = efficiency.model.components
    variance, error = 0.0, 0.0
    for power, weights in zip(components.power, efficiency.model.weights_in(MAIN), strict=True):
        of_bands = np.where(weights.measured, power.power, 0.0)
        variance += float(of_bands @ (1 - weights.fractions[0]))
        count = of_bands.size
        error += float(of_bands @ weights.covariance[:count, :count] @ of_bands)
    rms = float(np.sqrt(max(variance, 0.0)))
    return rms, float(np.sqrt(error)) / (2 * rms) if rms > 0 else float(error**0.25)


def _recommend(proof: Proof) -> Division | None:
    strength = {division: change.variance / change.error for division, change in proof.differences.items() if change.error > 0}
    against_plain, against_none = strength.get(Division.PLAIN, 0.0), strength.get(Division.UNDIVIDED, 0.0)
    if against_plain <= -SIGNIFICANCE and against_none <= -SIGNIFICANCE:
        return Division.EFFICIENCY
    if against_plain <= -SIGNIFICANCE:
        return Division.UNDIVIDED
    if against_none <= -SIGNIFICANCE:
        return Division.PLAIN
    if max(against_plain, against_none) < SIGNIFICANCE:
        return None
    return (
        Division.PLAIN
        if proof.scatter[Division.PLAIN].variance < proof.scatter[Division.UNDIVIDED].variance
        else Division.UNDIVIDED
    )


def _figures(proof: Proof, removed: tuple[float, float]) -> str:
    undivided, plain, filtered = (_in_per_mil(proof.scatter[division]) for division in Division)
    left = rounded(*(_PER_MIL * each for each in removed))
    return (
        f"on {proof.exposures} left-out dithers, star fluxes scatter by {undivided} per mil undivided, {plain} with the plain flat and "
        f"{filtered} with the efficiency flat (change from the plain flat {_change(proof, Division.PLAIN)}, from undivided "
        f"{_change(proof, Division.UNDIVIDED)}); best possible with a filter of this flat {_in_per_mil(proof.best)}, noise alone "
        f"{_in_per_mil(proof.noise)}; in the sky, the efficiency flat would leave structure of {left} per mil rms"
    )


def _change(proof: Proof, division: Division) -> str:
    """Return the difference of the efficiency flat from another division as text."""
    change, error = proof.change(division)
    return rounded(_PER_MIL * change, _PER_MIL * error, sign=True)


def _in_per_mil(scatter: FluxVariance) -> str:
    return rounded(_PER_MIL * scatter.rms, _PER_MIL * scatter.rms_error)
