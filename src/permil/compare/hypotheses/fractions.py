"""Results of the three hypotheses: fractions of the flat's variance, and slopes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

KINDS = ("efficiency", "pixel area", "diffusion")
TOTAL, SUM = "total", "sum"


@dataclass(frozen=True)
class Fraction:
    """The fraction of the flat's variance of one kind.

    Attributes
    ----------
    kind
        One of `KINDS`, or ``sum`` of the three: 1 where the stars account for the whole flat.
    scale
        Periods, or ``total``.
    value
        cov(kind, F) / var(F) on this scale, as stars see it; not bound to 0 to 1. NaN where the flat has no structure above its noise.
    error
        Standard error for this piece of silicon: noise of stars and flat, and what stars miss of the structure. The one to quote.
    population_error
        Standard error as a sample of sensors like this one: also how much the fraction differs from one piece of silicon to another.
    flat_rms
        Rms of F - 1 on this scale as stars see it, without the flat's noise.
    """

    kind: str
    scale: str
    value: float
    error: float
    population_error: float
    flat_rms: float


@dataclass(frozen=True)
class Slope:
    """How a quantity of stars follows what the flat predicts.

    Attributes
    ----------
    quantity
        ``flux``, ``shift`` or ``size``.
    value, error
        Slope and its standard error (delete-block jackknife over blocks of the detector).
    expected
        By efficiency, pixel area and diffusion alone.
    """

    quantity: str
    value: float
    error: float
    expected: tuple[float, float, float]


@dataclass(frozen=True)
class FluxChange:
    """What dividing star fluxes by the flat does to their scatter (variances of relative fluxes, this flat with its noise).

    Attributes
    ----------
    before, noise
        Variance of the fluxes as measured without flat-fielding, and the part of it that their errors explain.
    change, error
        Variance after dividing less that before, and its standard error (delete-block jackknife).
    """

    before: float
    noise: float
    change: float
    error: float


@dataclass(frozen=True)
class HypothesisFit:
    """The three hypotheses, fitted together.

    Attributes
    ----------
    fractions
        Per scale and kind, then total; the limits of the scales are those of the fit.
    slopes
        Of flux, shift and size.
    flux_change
        For `permil.compare.hypotheses.verdict.verdict`.
    excess_scatter
        Per quantity (flux, dx, dy, xx, yy, xy): what is left of the variance, over what errors and structure explain.
    stars, exposures
        Rows that took part.
    lost
        Stars left out because their light lies on pixels that are not usable in the flat.
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
        fractions: list[dict[str, str | float | int]] = [
            {
                "figure": "fraction",
                "of": entry.kind,
                "scale": entry.scale,
                "value": entry.value,
                "error": entry.error,
                "population_error": entry.population_error,
                "flat_rms": entry.flat_rms,
                "stars": self.stars,
            }
            for entry in self.fractions
        ]
        slopes: list[dict[str, str | float | int]] = [
            {
                "figure": "slope",
                "of": entry.quantity,
                "scale": TOTAL,
                "value": entry.value,
                "error": entry.error,
                "population_error": float("nan"),
                "flat_rms": float("nan"),
                "stars": self.stars,
            }
            for entry in self.slopes
        ]
        return fractions + slopes

    def __str__(self) -> str:
        """Return the total fractions as a sentence."""
        parts = ", ".join(f"{kind} {self.fraction(kind).value:.3f} +- {self.fraction(kind).error:.3f}" for kind in KINDS)
        return f"fractions of the flat's variance: {parts} ({self.stars} stars)"
