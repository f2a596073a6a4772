"""Results of the split over levels: components, correlations per level, and their rows for tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy

from permil.arrays import FloatArray
from permil.compare.levels.groups import BOTH, COMMON, SPECIFIC, OmittedComponent
from permil.errors import CompareError

_ORIGINS = {
    ("place", COMMON): "position in the focal plane",
    ("raft", COMMON): "position in the focal plane",
    ("place", BOTH): "position or light source",
    ("raft", BOTH): "position or light source",
}
_ORIGIN_OF_PART = {
    COMMON: "response of the CCD",
    SPECIFIC: "light source, or response to its colour",
    BOTH: "response of the CCD or light source",
}


class InPerMil:
    """Square root of the field ``variance``, whose error is ``error``, in per mil."""

    variance: float
    error: float

    @property
    def rms_per_mil(self) -> float:
        """Square root of the variance in per mil; 0 if the estimate is negative."""
        return 1e3 * float(np.sqrt(np.maximum(self.variance, 0.0)))

    @property
    def rms_error_per_mil(self) -> float:
        """Error of the rms; if the variance is below its error, the error expressed as an rms."""
        return 1e3 * self.error / (2 * float(np.sqrt(max(self.variance, self.error / 4, 1e-300))))


@dataclass(frozen=True)
class VarianceComponent(InPerMil):
    """Variance of one level and part.

    Attributes
    ----------
    level
        ``place``, ``vendor``, ``raft``, ``detector``, ``amplifier``, ``cell``, or ``measurement`` (scatter of repeated measurements in
        excess of their errors).
    part
        ``common`` to all LEDs, specific to the ``LED``, or ``both`` if only one LED was measured.
    variance, error
        Relative variance without noise, and its error; may be negative.
    groups, degrees_of_freedom
        Number of groups of the level (terms, for position), and degrees of freedom beyond the level above.
    """

    level: str
    part: str
    variance: float
    error: float
    groups: int
    degrees_of_freedom: int

    @property
    def interval(self) -> tuple[float, float]:
        """Interval of 68 per cent for the variance.

        Few groups give a skewed estimate: above its error, the interval is that of a chi-square with ``2 (variance / error)^2`` degrees of
        freedom (Satterthwaite 1946, Biometrics 2, 110), otherwise that of a normal distribution.
        """
        return self._quantile(0.8413), self._quantile(0.1587)

    @property
    def upper_per_mil(self) -> float:
        """Upper limit of the rms at 95 per cent, per mil."""
        return 1e3 * float(np.sqrt(self._quantile(0.05)))

    def _quantile(self, probability: float) -> float:
        """Return the variance for which an estimate this low has a given probability."""
        if self.variance > self.error > 0:
            freedom = 2 * (self.variance / self.error) ** 2
            return float(freedom * self.variance / scipy.stats.chi2.ppf(probability, freedom))
        return float(max(self.variance, 0.0) - scipy.stats.norm.ppf(probability) * self.error)

    @property
    def origin(self) -> str:
        """Origin of variation of this level and part."""
        return _ORIGINS.get((self.level, self.part), _ORIGIN_OF_PART[self.part])


@dataclass(frozen=True)
class LevelSplit:
    """Variance components of one quantity.

    Attributes
    ----------
    components
        Components from the whole focal plane down.
    covariance
        Covariance of their estimates, shape (k, k).
    left_out
        Components that these cells cannot determine, and why.
    cells
        Number of measurements used.
    """

    components: tuple[VarianceComponent, ...]
    covariance: FloatArray
    left_out: tuple[OmittedComponent, ...]
    cells: int

    def __getitem__(self, key: tuple[str, str]) -> VarianceComponent:
        """Return the component of a level and part.

        Raises
        ------
        CompareError
            If there is none; the message gives the reason.
        """
        for component in self.components:
            if (component.level, component.part) == key:
                return component
        reasons = [entry.reason for entry in self.left_out if entry.level == key[0]]
        raise CompareError(
            f"component {key[0]} ({key[1]}) was not determined",
            remedy="; ".join(reasons) or "determined components: " + ", ".join(f"{c.level} ({c.part})" for c in self.components),
            value=key,
        )

    def rows(self) -> list[dict[str, Any]]:
        """Return one row per component for a table."""
        total = sum(component.variance for component in self.components)
        return [
            {
                "level": component.level,
                "part": component.part,
                "origin": component.origin,
                "variance": component.variance,
                "variance_err": component.error,
                "variance_low": component.interval[0],
                "variance_high": component.interval[1],
                "rms_per_mil": component.rms_per_mil,
                "rms_per_mil_err": component.rms_error_per_mil,
                "upper_per_mil": component.upper_per_mil,
                "fraction": component.variance / total if total > 0 else np.nan,
                "groups": component.groups,
                "degrees_of_freedom": component.degrees_of_freedom,
            }
            for component in self.components
        ]


@dataclass(frozen=True)
class LevelPair:
    """Correlation of stars with the flat at one level and part, corrected for noise.

    Attributes
    ----------
    r, r_error
        Covariance divided by the root of both variances; NaN if a variance is not above its error.
    slope, slope_error
        Covariance divided by the variance of the flat: change of the star per change of the flat; NaN if the variance of
        the flat is not above its error.
    covariance, covariance_error
        Covariance of flat and star, and its error.
    """

    level: str
    part: str
    r: float
    r_error: float
    slope: float
    slope_error: float
    covariance: float
    covariance_error: float

    @property
    def explained(self) -> float:
        """Fraction of the variance of stars explained by the flat."""
        return self.r**2

    @property
    def explained_error(self) -> float:
        """Error of the explained fraction, to first order."""
        return 2 * abs(self.r) * self.r_error


@dataclass(frozen=True)
class PairSplit:
    """Variance components of flat and stars, and their correlation per level."""

    flat: LevelSplit
    star: LevelSplit
    pairs: tuple[LevelPair, ...]

    def rows(self) -> list[dict[str, Any]]:
        """Return one row per level and part for a table."""
        return [
            {
                "level": pair.level,
                "part": pair.part,
                "r": pair.r,
                "r_err": pair.r_error,
                "slope": pair.slope,
                "slope_err": pair.slope_error,
                "explained": pair.explained,
                "explained_err": pair.explained_error,
                "covariance": pair.covariance,
                "covariance_err": pair.covariance_error,
                "flat_rms_per_mil": flat.rms_per_mil,
                "flat_rms_per_mil_err": flat.rms_error_per_mil,
                "star_rms_per_mil": star.rms_per_mil,
                "star_rms_per_mil_err": star.rms_error_per_mil,
                "degrees_of_freedom": flat.degrees_of_freedom,
                "origin": flat.origin,
            }
            for pair, flat, star in zip(self.pairs, self.flat.components, self.star.components, strict=True)
        ]
