"""Ratio of two LEDs on the scale of detectors: level and gradients, colour of the light, and vendors of sensors.

With the planes of LEDs ``a`` and ``b`` (logarithm of the level, gradients along X and Y, of each detector in turn)::

    cov(a - b) = C_a + C_b - X - X',    X = cov(planes of a, planes of b)

`permil.flat.between_leds` computes ``X``, and the small changes of ``C_a`` and ``C_b`` if both use one model of the drift: photodiode,
stage moves, readout boards. A factor common to all detectors is a convention, so that levels are relative to their mean.

**Light or sensor.** ``F exp(a.x)``, ``B exp(-a.u)``, ``s exp(-a.c)`` fit the signals equally well. The sum of the gradients of response
and beam follows from the signals; its split between sensor and light is as good as the photodiode. A gradient common to all
detectors is therefore attributed to the sensor only if it exceeds its error.

**Vendors.** The ratio of the mean response of the sensors of two vendors. With the logarithm ``l`` of the median response of each
detector, the ratio is ``exp(mean l of one vendor - mean l of the other)``. It has two errors. The error of the measurement, from the
covariance of all levels, is that of the ratio of *these* sensors. Sensors of one vendor differ; with their variance ``s^2``
beyond the errors (pooled over both vendors, by the method of moments) the ratio represents *the vendors* with the error
``sqrt(measurement^2 + s^2 (1/n + 1/m))``.

The ratio in one LED contains the gains of all amplifiers. Its change from LED to LED does not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy

from permil.arrays import FloatArray
from permil.errors import FlatError
from permil.flat.between_leds import SharedTerms, covariance_between

SIGNIFICANCE = 0.003
"""Probability of a common gradient as large as measured, below which it is attributed to the sensor."""


@dataclass(frozen=True)
class LedPlanes:
    """Level and gradients of the response of all detectors in one LED.

    Attributes
    ----------
    led : str
    detectors : tuple of str
    values : ndarray, shape (n, 3)
        Logarithm of the level at the mean place, and its gradient along CCS X and Y (1/mm).
    covariance : ndarray, shape (3 n, 3 n)
        Of all of them in turn.
    shared : SharedTerms or None
        What it takes from photodiode, stage and boards; None if that is not known: then nothing is taken as shared with other LEDs.
    """

    led: str
    detectors: tuple[str, ...]
    values: FloatArray
    covariance: FloatArray
    shared: SharedTerms | None = None

    def __post_init__(self) -> None:
        """Check that shapes agree."""
        count = len(self.detectors)
        if self.values.shape != (count, 3) or self.covariance.shape != (3 * count, 3 * count):
            raise FlatError(
                f"{self.led}: planes of shape {self.values.shape} with covariance {self.covariance.shape} for {count} detectors",
                remedy="give level and two gradients of each detector",
                led=self.led,
            )


@dataclass(frozen=True)
class RatioPlanes:
    """Level and gradients of the ratio of two LEDs, relative to the mean level of all detectors.

    Attributes
    ----------
    leds : tuple of str
        Numerator and denominator.
    detectors : tuple of str
    values : ndarray, shape (n, 3)
        Logarithm of the level, and gradient along CCS X and Y (1/mm).
    covariance : ndarray, shape (3 n, 3 n)
    cross, change : ndarray, shape (3 n, 3 n)
        Covariance of the planes of one LED with those of the other; by how much shared terms change the sum of both covariances.
    """

    leds: tuple[str, str]
    detectors: tuple[str, ...]
    values: FloatArray
    covariance: FloatArray
    cross: FloatArray
    change: FloatArray

    @property
    def errors(self) -> FloatArray:
        """Standard errors of levels and gradients, shape (n, 3)."""
        return np.sqrt(np.maximum(np.diag(self.covariance), 0.0)).reshape(-1, 3)

    @cached_property
    def common_gradient(self) -> CommonGradient:
        """The mean gradient of all detectors: the direction in which light and sensor are hard to separate."""
        count = len(self.detectors)
        mean = np.kron(np.full((1, count), 1.0 / count), np.eye(3)[1:])
        return CommonGradient(self.values[:, 1:].mean(axis=0), mean @ self.covariance @ mean.T)


@dataclass(frozen=True)
class CommonGradient:
    """A gradient of a ratio that detectors have in common, 1/mm.

    Attributes
    ----------
    value : ndarray, shape (2,)
        Along CCS X and Y.
    covariance : ndarray, shape (2, 2)
    """

    value: FloatArray
    covariance: FloatArray

    @property
    def errors(self) -> FloatArray:
        """Standard errors along X and Y."""
        return np.sqrt(np.diag(self.covariance))

    @property
    def p_value(self) -> float:
        """Probability of a gradient as large if the sensors have none."""
        chi_square = float(self.value @ np.linalg.solve(self.covariance, self.value))
        return float(scipy.stats.chi2.sf(chi_square, 2))

    @property
    def is_of_sensor(self) -> bool:
        """Whether it exceeds the uncertainty from errors of the photodiode."""
        return self.p_value < SIGNIFICANCE


def ratio_planes(first: LedPlanes, second: LedPlanes) -> RatioPlanes:
    """Return the ratio of two LEDs, for the detectors that both have.

    Parameters
    ----------
    first, second
        Numerator and denominator.

    Raises
    ------
    FlatError
        If they have no detector in common.
    """
    common = tuple(name for name in first.detectors if name in second.detectors)
    if not common:
        raise FlatError(
            f"LEDs {first.led} and {second.led} have no detector in common", remedy="make flats of the same detectors in both"
        )
    places = [np.array([led.detectors.index(name) for name in common]) for led in (first, second)]
    rows = [(3 * place[:, None] + np.arange(3)).ravel() for place in places]
    cross, change = np.zeros((2, 3 * len(common), 3 * len(common)))
    if first.shared is not None and second.shared is not None:
        found = covariance_between(first.shared, second.shared)
        cross = found.cross[np.ix_(*rows)]
        change = found.first[np.ix_(rows[0], rows[0])] + found.second[np.ix_(rows[1], rows[1])]
        change += found.gains[np.ix_(rows[0], rows[0])] - cross - cross.T
    covariance = change + sum(led.covariance[np.ix_(own, own)] for led, own in zip((first, second), rows, strict=True))
    values = first.values[places[0]] - second.values[places[1]]
    # The common factor is a convention.
    centring = np.eye(3 * len(common))
    centring[::3, ::3] -= 1.0 / len(common)
    values[:, 0] -= values[:, 0].mean()
    return RatioPlanes((first.led, second.led), common, values, centring @ covariance @ centring.T, cross, change)


Beam = Callable[[FloatArray], FloatArray]

_PLATEAU = 0.8
"""Part of its maximum that each beam must have where the two are compared."""
_STEP_MM = 1.0


@dataclass(frozen=True)
class LightGradient:
    """Colour of the beam.

    Attributes
    ----------
    value : ndarray, shape (2,)
        Gradient of the logarithm of the ratio of two beams along CCS X and Y, 1/mm.
    rms : float
        Relative rms on the plateau after subtraction of the gradient: colour of the light beyond it.
    """

    value: FloatArray
    rms: float


def light_gradient(log_beams: tuple[Beam, Beam], lower: FloatArray, upper: FloatArray) -> LightGradient | None:
    """Return the gradient of the ratio of two beams where both have at least 0.8 of their maximum; None if nowhere.

    Parameters
    ----------
    log_beams
        Give the logarithm of a beam at points (n, 2), mm; NaN where there is no data.
    lower, upper : ndarray, shape (2,)
        Corners of the area in which both are known.
    """
    axes = [np.arange(low, high, _STEP_MM) for low, high in zip(lower, upper, strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    if not len(points):
        return None
    beams = np.array([log_beam(points) for log_beam in log_beams])
    known = np.isfinite(beams).all(axis=0)
    if not known.any():
        return None
    top = np.max(beams[:, known], axis=1, keepdims=True)
    used = known & (beams > top + np.log(_PLATEAU)).all(axis=0)
    if used.sum() < 3:
        return None
    design = np.column_stack([np.ones(used.sum()), points[used]])
    ratio = beams[0, used] - beams[1, used]
    fitted = np.linalg.lstsq(design, ratio)[0]
    return LightGradient(fitted[1:], float(np.std(ratio - design @ fitted)))


@dataclass(frozen=True)
class VendorRatio:
    """Mean response of the sensors of one vendor over those of another.

    Attributes
    ----------
    ratio : float
    error : float
        Of the measurement: for these sensors.
    vendor_error : float
        For the vendors, including the scatter of their sensors; NaN if neither has two sensors.
    scatter : float
        Relative standard deviation of sensors of one vendor beyond errors; 0 if there is none.
    freedom : int
        Degrees of freedom of the scatter.
    counts : tuple of int
        Sensors of each vendor.
    """

    ratio: float
    error: float
    vendor_error: float
    scatter: float
    freedom: int
    counts: tuple[int, int]


def vendor_ratio(
    log_levels: FloatArray, covariance: FloatArray, vendors: Sequence[str], pair: tuple[str, str]
) -> VendorRatio | None:
    """Return the ratio of two vendors; None if one of them has no sensor.

    Parameters
    ----------
    log_levels : ndarray, shape (n,)
        Logarithm of the response of each detector, of one LED or of a ratio of two; any common constant. NaN counts as absent.
    covariance : ndarray, shape (n, n)
    vendors
        Of each detector.
    pair
        Vendors of numerator and denominator.
    """
    known = np.isfinite(log_levels)
    members = [known & np.array([vendor == name for vendor in vendors], dtype=bool) for name in pair]
    counts = (int(members[0].sum()), int(members[1].sum()))
    if min(counts) == 0:
        return None
    contrast = members[0] / counts[0] - members[1] / counts[1]
    values = np.where(known, log_levels, 0.0)
    error = float(np.sqrt(max(contrast[known] @ covariance[np.ix_(known, known)] @ contrast[known], 0.0)))
    ratio = float(np.exp(contrast @ values))
    freedom = sum(counts) - 2
    if freedom < 1:
        return VendorRatio(ratio, ratio * error, np.nan, np.nan, 0, counts)
    squares = expected = 0.0
    for member in members:
        own = values[member] - values[member].mean()
        block = covariance[np.ix_(member, member)]
        squares += float(own @ own)
        expected += float(np.trace(block) - block.sum() / len(block))
    variance = max((squares - expected) / freedom, 0.0)
    whole = float(np.sqrt(error**2 + variance * (1 / counts[0] + 1 / counts[1])))
    return VendorRatio(ratio, ratio * error, ratio * whole, float(np.sqrt(variance)), freedom, counts)
