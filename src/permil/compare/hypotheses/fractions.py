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
        Input of `permil.compare.hypotheses.verdict.verdict`.
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
