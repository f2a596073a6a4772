"""Comparison of the stars of one detector and band with its flat: correlations, hypotheses, verdicts, in total and by region."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from permil.arrays import BoolArray, FloatArray
from permil.camera import Detector
from permil.camera.frames import amplifier_at
from permil.compare.correlation import CorrelationResult, correlate
from permil.compare.displacement import Boundary, displacement_from_flat
from permil.compare.hypotheses.fit import BetweenAmplifiers, between_amplifiers, fit_hypotheses
from permil.compare.hypotheses.predict import PredictedStars, Stars, predict_bands
from permil.compare.hypotheses.results import HypothesisFit, Verdict, verdict
from permil.compare.regions import Region, RegionWidths, region_labels
from permil.compare.rings.profile import RingProfile, RingZone, radial_profile, ring_zone
from permil.compare.rings.search import RingSearch, find_rings
from permil.compare.scales import cell_means
from permil.compare.stars.flat_at_stars import Reference, RelativeFlat, relative_flat
from permil.compare.stars.pairs import CellPairs, Pairs, bin_pairs, pair_up, with_steps
from permil.compare.stars.response import QUANTITIES, StarResponse
from permil.errors import CompareError
from permil.rounding import rounded

WHOLE = "whole detector"
SINGLE = "stars"
"""Name of the scale of single stars; the others are cells."""
_LEAST_CELLS = 30
_METHODS_OF_CELLS = ("naive", "modified_t", "block_bootstrap")
_RING_HIGH_PASS = 50.0
_LEVEL_CELLS = 32
"""Number of cells along a side of the detector for the split over levels."""


@dataclass(frozen=True)
class CompareOptions:
    """Options of the comparison; lengths in pixels unless the name ends in mm. See section ``compare`` of the configuration."""

    reference: Reference
    high_pass: float
    periods: tuple[float, ...]
    cells: tuple[int, ...]
    widths: RegionWidths
    rings: tuple[float, float] | None
    find_rings: bool
    boundary: Boundary
    flat_fielded: bool
    resamples: int
    seed: int


@dataclass(frozen=True)
class Correlation:
    """One correlation, with its quantity, region and scale (`SINGLE`, or the cell size in pixels)."""

    quantity: str
    region: str
    scale: str
    cell: int
    result: CorrelationResult

    def row(self) -> dict[str, Any]:
        """Return the correlation as one row of a table."""
        return {"quantity": self.quantity, "region": self.region, "scale": self.scale, "cell": self.cell, **self.result.row()}


@dataclass(frozen=True)
class Comparison:
    """Comparison of the stars and the flat of one detector and band.

    Attributes
    ----------
    flat
        Relative flat.
    predicted
        Stars used, with the predictions of the flat.
    regions
        `Region` of each star.
    pairs, cells
        Correlated values by quantity: of single stars, and in the displayed cells.
    correlations
        Correlations, the headline first.
    fits, verdicts
        Fits and verdicts by region, `WHOLE` first.
    silent
        Regions and quantities without a result, with the reason.
    amplifiers
        Variation between amplifiers.
    search, rings
        Result of the search for tree rings (None without a search), and profile around their centre (None without rings).
    shift_x, shift_y
        Displacement if the whole flat were pixel area, in the displayed cells, pixels.
    level_cells
        Fluxes and flat including the steps between amplifiers, on all scales, for the split over levels.
    """

    flat: RelativeFlat
    predicted: PredictedStars
    regions: NDArray[np.int8]
    pairs: dict[str, Pairs]
    cells: dict[str, CellPairs]
    correlations: tuple[Correlation, ...]
    fits: dict[str, HypothesisFit]
    verdicts: dict[str, Verdict]
    silent: dict[str, str]
    amplifiers: BetweenAmplifiers
    search: RingSearch | None
    rings: RingProfile | None
    shift_x: FloatArray
    shift_y: FloatArray
    level_cells: CellPairs

    @property
    def headline(self) -> CorrelationResult:
        """Correlation of the flux of single stars with the flat."""
        return self.correlations[0].result


def compare_stars(
    stars: Stars,
    response: StarResponse,
    image: NDArray[np.floating],
    variance: NDArray[np.floating],
    usable: BoolArray,
    detector: Detector,
    options: CompareOptions,
) -> Comparison:
    """Compare stars with the flat of their detector.

    Parameters
    ----------
    stars, response
        Residuals of the stars, and their response to a flat.
    image, variance : ndarray, shape (ny, nx)
        Flat and its variance.
    usable : ndarray of bool, shape (ny, nx)
        Usable pixels of the flat.
    detector
        Detector of both.
    options
        Options of the comparison.

    Raises
    ------
    CompareError
        If stars or flat cannot be used; see `permil.compare.stars.flat_at_stars.relative_flat` and
        `permil.compare.hypotheses.predict.predict_bands`.
    """
    amplifier = detector.amplifier_map()
    flat = relative_flat(image, variance, usable, amplifier, reference=options.reference)
    predicted = predict_bands(stars, flat, response, periods=options.periods)
    search, rings, zone = _rings(flat, amplifier, options)
    places = predicted.stars.places
    regions = region_labels(detector, places.x, places.y, widths=options.widths, reach_px=response.aperture, rings=zone)
    silent: dict[str, str] = {}
    pairs = _pairs(predicted, options, silent)
    steps = flat.means[amplifier_at(detector, places.x, places.y)]
    cells = {name: bin_pairs(each, detector.shape, cell=options.cells[0]) for name, each in pairs.items()}
    fits, verdicts = _fits(predicted, regions, options, silent)
    shown = cell_means(flat.excess, flat.variance, flat.usable, cell=options.cells[0])
    displacement = displacement_from_flat(np.nan_to_num(shown.mean), np.isfinite(shown.mean), boundary=options.boundary)
    return Comparison(
        flat=flat,
        predicted=predicted,
        regions=regions,
        pairs=pairs,
        cells=cells,
        correlations=tuple(_correlations(pairs, regions, detector, options, silent)),
        fits=fits,
        verdicts=verdicts,
        silent=silent,
        amplifiers=_between(predicted, flat, steps),
        search=search,
        rings=rings,
        shift_x=displacement.x * options.cells[0],
        shift_y=displacement.y * options.cells[0],
        level_cells=bin_pairs(with_steps(predicted, steps), detector.shape, cell=level_cell(detector.shape)),
    )


def level_cell(shape: tuple[int, int]) -> int:
    """Return the side of the cells of the split over levels for a detector of a shape, pixels."""
    return max(1, max(shape) // _LEVEL_CELLS)


def _rings(
    flat: RelativeFlat, amplifier: NDArray[np.integer], options: CompareOptions
) -> tuple[RingSearch | None, RingProfile | None, RingZone | None]:
    search, profile = None, None
    if options.rings is not None:
        profile = radial_profile(1 + flat.excess, flat.usable, options.rings, highpass_px=_RING_HIGH_PASS, segments=amplifier)
    elif options.find_rings:
        search = find_rings(1 + flat.excess, flat.usable, segments=amplifier, highpass_px=_RING_HIGH_PASS, seed=options.seed)
        profile = search.profile
    return search, profile, None if profile is None else ring_zone(profile)


def _pairs(predicted: PredictedStars, options: CompareOptions, silent: dict[str, str]) -> dict[str, Pairs]:
    pairs = {}
    for quantity in QUANTITIES:
        try:
            pairs[quantity] = pair_up(predicted, quantity, high_pass=options.high_pass)
        except CompareError as reason:
            if quantity == "flux":
                raise
            silent[quantity] = str(reason)
    return pairs


def _correlations(
    pairs: dict[str, Pairs], regions: NDArray[np.int8], detector: Detector, options: CompareOptions, silent: dict[str, str]
) -> list[Correlation]:
    """Return the correlations of single stars (flux, then other quantities), of cells, and of flux by region."""
    found = [Correlation(quantity, WHOLE, SINGLE, 0, _of_stars(each, options)) for quantity, each in pairs.items()]
    # Quantities of the same cells follow one another, so that they share what depends on positions alone.
    for cell in options.cells:
        for quantity, each in pairs.items():
            binned = bin_pairs(each, detector.shape, cell=cell)
            if binned.filled >= _LEAST_CELLS:
                found.append(Correlation(quantity, WHOLE, f"{cell} px", cell, _of_cells(binned, options)))
    found.sort(key=lambda each: QUANTITIES.index(each.quantity))
    flux = pairs["flux"]
    for region in Region:
        inside = regions[flux.row] == region
        if region is Region.OUTSIDE or inside.all() or not inside.any():
            continue
        try:
            result = _of_stars(flux.chosen(inside), options)
        except CompareError as reason:
            silent[f"correlation, {region.title}"] = str(reason)
            continue
        found.append(Correlation("flux", region.title, SINGLE, 0, result))
    return found


def _of_cells(binned: CellPairs, options: CompareOptions) -> CorrelationResult:
    x, y = binned.places
    return correlate(
        binned.flat,
        binned.star,
        x,
        y,
        a_err=_known(binned.flat_error),
        b_err=np.nan_to_num(binned.star_error),
        seed=options.seed,
        resamples=options.resamples,
        methods=_METHODS_OF_CELLS,
    )


def _of_stars(pairs: Pairs, options: CompareOptions) -> CorrelationResult:
    groups = pairs.exposure if np.unique(pairs.exposure).size >= 5 else None
    return correlate(
        pairs.flat,
        pairs.star,
        pairs.x,
        pairs.y,
        a_err=_known(pairs.flat_error),
        b_err=pairs.star_error,
        groups=groups,
        seed=options.seed,
        resamples=options.resamples,
    )


def _known(error: FloatArray) -> FloatArray | None:
    return np.nan_to_num(error) if np.isfinite(error).any() else None


def _fits(
    predicted: PredictedStars, regions: NDArray[np.int8], options: CompareOptions, silent: dict[str, str]
) -> tuple[dict[str, HypothesisFit], dict[str, Verdict]]:
    """Return fits and verdicts of the whole detector, and of each region with enough stars."""
    fits = {WHOLE: fit_hypotheses(predicted, flat_fielded=options.flat_fielded)}
    verdicts = {WHOLE: verdict(fits[WHOLE].flux_change)}
    for region in Region:
        inside = regions == region
        if region is Region.OUTSIDE or inside.all() or not inside.any():
            continue
        chosen = np.zeros(predicted.kept.size, dtype=bool)
        chosen[np.flatnonzero(predicted.kept)[inside]] = True
        try:
            fit = fit_hypotheses(predicted, region=chosen, flat_fielded=options.flat_fielded)
            verdicts[region.title] = verdict(fit.flux_change, where=f"in the region {region.title}")
        except CompareError as reason:
            silent[region.title] = str(reason)
            continue
        fits[region.title] = fit
    return fits, verdicts


def _between(predicted: PredictedStars, flat: RelativeFlat, steps: FloatArray) -> BetweenAmplifiers:
    stars = predicted.stars
    return between_amplifiers(
        stars.values["flux"],
        stars.errors["flux"],
        steps,
        flat.between_amplifiers,
        spot=stars.spot,
        exposure=stars.exposure,
        x=stars.places.x,
        y=stars.places.y,
    )


def describe(comparison: Comparison, name: str) -> tuple[str, str, str]:
    """Return a summary of three lines: correlation, fractions, and the effect of dividing by the plain flat."""
    result, fit = comparison.headline, comparison.fits[WHOLE]
    chance = f"p = {result.p_value:.2g}" if np.isfinite(result.p_value) else f"no p-value: {result.reason}"
    correlation = (
        f"{name}: r = {rounded(result.r, result.r_err, sign=True)} between star fluxes and flat, {chance} "
        f"({result.n} stars, equivalent to {result.n_eff:.0f} independent ones)"
    )
    return correlation, f"{name}: {fit}", f"{name}: {comparison.verdicts[WHOLE]}"
