"""Results of the three hypotheses: fractions of the flat's variance, slopes, and a verdict on dividing star fluxes by the flat."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from permil.errors import CompareError
from permil.rounding import rounded, rounded_like

KINDS = ("efficiency", "pixel area", "diffusion")
TOTAL, SUM = "total", "sum"

Outcome = Literal["lowers", "does not affect", "raises", "cannot tell"]
NEGLIGIBLE = 1e-4
"""Change of the rms of relative fluxes that is negligible: a tenth of a per mil."""
SIGNIFICANCE = 3.0
"""Significance of a change, in standard errors."""
_PER_MIL = 1e3


@dataclass(frozen=True)
class Fraction:
    """The fraction of the variance of the flat due to one kind.

    Attributes
    ----------
    kind
        One of `KINDS`, or ``sum`` of the three: 1 if the stars account for the whole flat.
    scale
        Periods, or ``total``.
    value
        cov(kind, F) / var(F) on this scale, with the response of stars; may lie outside 0 to 1. NaN if the flat has no
        structure above its noise.
    error
        Standard error for this sensor, to be quoted: noise of stars and flat, and incomplete sampling of the structure by stars.
    population_error
        Standard error for the population of such sensors: also includes the variation from sensor to sensor.
    flat_rms
        Rms of F - 1 on this scale with the response of stars, without the noise of the flat.
    """

    kind: str
    scale: str
    value: float
    error: float
    population_error: float
    flat_rms: float


@dataclass(frozen=True)
class Slope:
    """Slope of a quantity of stars on the prediction of the flat.

    Attributes
    ----------
    quantity
        ``flux``, ``shift`` or ``size``.
    value, error
        Slope and its standard error (delete-block jackknife over blocks of the detector).
    expected
        Expected slope for efficiency, pixel area and diffusion alone.
    """

    quantity: str
    value: float
    error: float
    expected: tuple[float, float, float]


@dataclass(frozen=True)
class FluxChange:
    """Change of the scatter of star fluxes by dividing by the flat (variances of relative fluxes, including the noise of this flat).

    Attributes
    ----------
    before, noise
        Variance of the fluxes as measured without flat-fielding, and the part explained by their errors.
    change, error
        Variance after dividing minus that before, and its standard error (delete-block jackknife).
    """

    before: float
    noise: float
    change: float
    error: float


@dataclass(frozen=True)
class HypothesisFit:
    """Result of the joint fit of the three hypotheses.

    Attributes
    ----------
    fractions
        Fractions per scale and kind, then in total; the scales are those of the fit.
    slopes
        Slopes of flux, shift and size.
    flux_change
        Input of `permil.compare.hypotheses.results.verdict`.
    excess_scatter
        Per quantity (flux, dx, dy, xx, yy, xy): ratio of the residual variance to that explained by errors and structure.
    stars, exposures
        Numbers of rows and exposures used.
    lost
        Number of stars excluded because their light falls on unusable pixels of the flat.
    flat_fielded
        Whether fluxes were divided by the flat.
    """

    fractions: tuple[Fraction, ...]
    slopes: tuple[Slope, ...]
    flux_change: FluxChange
    excess_scatter: dict[str, float]
    stars: int
    exposures: int
    lost: int
    flat_fielded: bool

    def fraction(self, kind: str, scale: str = TOTAL) -> Fraction:
        """Return one of the fractions."""
        return next(entry for entry in self.fractions if entry.kind == kind and entry.scale == scale)

    def slope(self, quantity: str) -> Slope:
        """Return one of the slopes."""
        return next(entry for entry in self.slopes if entry.quantity == quantity)

    def rows(self) -> list[dict[str, str | float | int]]:
        """Return one row of a table for each fraction and each slope."""
        names = ("figure", "of", "scale", "value", "error", "population_error", "flat_rms", "stars")
        fractions = [
            ("fraction", one.kind, one.scale, one.value, one.error, one.population_error, one.flat_rms) for one in self.fractions
        ]
        slopes = [("slope", one.quantity, TOTAL, one.value, one.error, math.nan, math.nan) for one in self.slopes]
        return [dict(zip(names, (*figures, self.stars), strict=True)) for figures in (*fractions, *slopes)]

    def __str__(self) -> str:
        """Return the total fractions as a sentence."""
        parts = ", ".join(f"{kind} {rounded(self.fraction(kind).value, self.fraction(kind).error)}" for kind in KINDS)
        return f"fractions of the flat's variance: {parts} ({self.stars} stars)"


@dataclass(frozen=True)
class Verdict:
    """Effect of dividing star fluxes by the flat.

    Attributes
    ----------
    outcome
        ``lowers``, ``does not affect``, ``raises`` or ``cannot tell``: effect on the scatter.
    sentence
        The same as a sentence, with numbers.
    before, after
        Scatter of the fluxes (relative, rms) without the errors of the stars, before and after dividing.
    change, change_error
        ``after - before``.
    significance
        The change of the variance over its error; negative: less scatter.
    """

    outcome: Outcome
    sentence: str
    before: float
    after: float
    change: float
    change_error: float
    significance: float

    def __str__(self) -> str:
        """Return the sentence."""
        return self.sentence


def verdict(change: FluxChange, *, where: str = "here") -> Verdict:
    """Decide whether dividing by the flat lowers, does not affect or raises the scatter of star fluxes.

    ``var(f - F) - var(f) = var(F) (1 - 2 slope)``: dividing helps if fluxes follow the flat with a slope above one half. A smaller
    scatter does not make this flat the best possible: see `permil.compare.efficiency.proof.choose_flat`.
    The decision uses the change of the variance, which is determined far better than the variances themselves.

    Parameters
    ----------
    change
        Change of the variance by dividing (`permil.compare.hypotheses.results.HypothesisFit.flux_change`).
    where
        Name of the region in the sentence.

    Raises
    ------
    CompareError
        If the change or its error is not finite.
    """
    if not all(math.isfinite(figure) for figure in (change.before, change.noise, change.change, change.error)):
        raise CompareError(
            "the change of the scatter of star fluxes is unknown", remedy="give stars in more than one block of the detector"
        )
    # Scatter explained by the errors of the stars is not due to the sensor, whose scatter is at least what dividing removes.
    variance = max(change.before - change.noise, 0.0)
    if variance + change.change < 0:
        variance = -change.change
    before, after = math.sqrt(variance), math.sqrt(variance + change.change)
    # Error of a difference of roots; if both vanish, that of a root.
    change_error = change.error / max(before + after, math.sqrt(change.error), 1e-12)
    shift = after - before
    strength = change.change / change.error if change.error > 0 else math.copysign(math.inf, change.change)
    outcome: Outcome
    if abs(shift) + 2 * change_error < NEGLIGIBLE:
        outcome = "does not affect"
    elif abs(strength) >= SIGNIFICANCE:
        outcome = "lowers" if strength < 0 else "raises"
    else:
        outcome = "cannot tell"
    error = _PER_MIL * change_error
    without, divided = (rounded_like(_PER_MIL * figure, error) for figure in (before, after))
    scatter = f"{without} per mil without and {divided} per mil with it, noise subtracted"
    figure = f"change {rounded(_PER_MIL * shift, error, sign=True)} per mil, {abs(strength):.1f} sigma"
    if outcome == "cannot tell":
        sentence = (
            f"These stars do not determine whether dividing by the plain flat lowers or raises the scatter of star fluxes {where}: "
            f"{scatter} ({figure}); use more exposures."
        )
    else:
        sentence = f"Dividing by the plain flat {outcome} the scatter of star fluxes {where}: {scatter} ({figure})."
    return Verdict(outcome, sentence, before, after, shift, change_error, strength)
