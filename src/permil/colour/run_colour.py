"""The colour of all detectors of a run together: tables of responses, ratios, vendors, gradients, correlations and variances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations, pairwise
from typing import Any

import numpy as np

from permil.arrays import FloatArray
from permil.camera import Camera
from permil.colour.detector import PATTERN, DetectorColour, LedCorrelation, correlate_maps
from permil.colour.moments import (
    AMPLIFIER,
    CELL,
    DETECTOR,
    PIXEL,
    LedSplit,
    Moments,
    Places,
    detector_moments,
    joined,
    split_variance,
)
from permil.colour.planes import LedPlanes, LightGradient, RatioPlanes, VendorRatio, ratio_planes, vendor_ratio
from permil.colour.regions import change_of_regions, ratio_errors
from permil.compare.levels.results import VarianceComponent
from permil.flat.between_leds import SharedTerms

WHOLE = "all"
LARGE = "large"
OF_SENSORS = "of the sensors"
SHARED, OWN = "shared by LEDs", "its own"


def planes_of(
    led: str, colours: Sequence[DetectorColour], solved: tuple[Sequence[str], FloatArray] | None, shared: SharedTerms | None
) -> LedPlanes:
    """Return the planes of all detectors that have a flat in an LED.

    Parameters
    ----------
    solved
        Detectors with a joint solution and the covariance of the planes of all of them, shape (3 n, 3 n); None to take the errors in
        the flats.
    shared
        Terms shared with other LEDs, for the detectors of ``solved``; None if they are not known.
    """
    own = [one for one in colours if led in one.leds and (solved is None or one.detector in solved[0])]
    names = tuple(one.detector for one in own)
    values = np.array([one.planes[one.leds.index(led)] for one in own]).reshape(-1, 3)
    if solved is None:
        whole = np.zeros((3 * len(own), 3 * len(own)))
        for number, one in enumerate(own):
            place = slice(3 * number, 3 * number + 3)
            whole[place, place] = one.plane_covariance[one.leds.index(led)]
        return LedPlanes(led, names, values, whole, None)
    order = list(solved[0])
    kept = np.array([3 * order.index(name) + axis for name in names for axis in range(3)], dtype=np.int64)
    if shared is not None and order != list(names):
        shared = shared.of_planes(kept)
    return LedPlanes(led, names, values, solved[1][np.ix_(kept, kept)], shared)


def response_rows(colours: Sequence[DetectorColour], camera: Camera) -> list[dict[str, Any]]:
    """Return the median response of each amplifier and detector in each LED, one row for each."""
    rows = []
    for one in colours:
        for led, medians, errors in zip(one.leds, one.medians, one.errors, strict=True):
            known = camera.led(led)
            for region, median, error, pixels in zip(one.regions, medians, errors, one.pixels, strict=True):
                rows.append(
                    {
                        "detector": one.detector, "amp": region, "vendor": camera[one.detector].vendor, "led": led,
                        "band": known.band or "-", "wavelength_nm": known.wavelength_nm, "response": median,
                        "response_err": median * error, "pixels": int(pixels),
                    }
                )  # fmt: skip
    return rows


def ratio_rows(colours: Sequence[DetectorColour], ratio: RatioPlanes) -> list[dict[str, Any]]:
    """Return the ratio of two LEDs for each amplifier and detector, one row for each.

    Levels are relative to the median of the composite flats; their errors, relative to the mean of all detectors.
    """
    rows = []
    for number, name in enumerate(ratio.detectors):
        one = next(colour for colour in colours if colour.detector == name)
        own = [one.leds.index(led) for led in ratio.leds]
        place = slice(3 * number, 3 * number + 3)
        change = change_of_regions(ratio.change[place, place], one.centres - one.centres[-1])
        errors = ratio_errors(one.errors[own[0]], one.errors[own[1]], change)
        errors[-1] = ratio.errors[number, 0]
        values = one.medians[own[0]] / one.medians[own[1]]
        for region, value, error in zip(one.regions, values, errors, strict=True):
            gradient = region == WHOLE
            rows.append(
                {
                    "led": ratio.leds[0], "over_led": ratio.leds[1], "detector": name, "amp": region, "ratio": value,
                    "ratio_err": value * error,
                    "gradient_x": ratio.values[number, 1] if gradient else np.nan,
                    "gradient_x_err": ratio.errors[number, 1] if gradient else np.nan,
                    "gradient_y": ratio.values[number, 2] if gradient else np.nan,
                    "gradient_y_err": ratio.errors[number, 2] if gradient else np.nan,
                }
            )  # fmt: skip
    return rows


def vendor_rows(planes: Sequence[LedPlanes], ratios: Sequence[RatioPlanes], camera: Camera) -> list[dict[str, Any]]:
    """Return the ratio of vendors in each LED and its change between neighbouring LEDs; no rows with sensors of one vendor."""
    rows = []
    for led in planes:
        levels, covariance = led.values[:, 0], led.covariance[::3, ::3]
        rows += _vendor_rows(levels, covariance, led.detectors, camera, (led.led, "-"))
    for ratio in ratios:
        levels, covariance = ratio.values[:, 0], ratio.covariance[::3, ::3]
        rows += _vendor_rows(levels, covariance, ratio.detectors, camera, ratio.leds)
    return rows


def _vendor_rows(
    levels: FloatArray, covariance: FloatArray, detectors: Sequence[str], camera: Camera, leds: tuple[str, str]
) -> list[dict[str, Any]]:
    vendors = [camera[name].vendor for name in detectors]
    rows = []
    for pair in combinations(sorted(set(vendors)), 2):
        found = vendor_ratio(levels, covariance, vendors, pair)
        if found is not None:
            rows.append(_vendor_row(found, pair, leds))
    return rows


def _vendor_row(found: VendorRatio, pair: tuple[str, str], leds: tuple[str, str]) -> dict[str, Any]:
    return {
        "vendor": pair[0], "over_vendor": pair[1], "led": leds[0], "over_led": leds[1], "ratio": found.ratio,
        "ratio_err": found.error, "vendor_err": found.vendor_error, "sensor_scatter": found.scatter,
        "sensors": found.counts[0], "over_sensors": found.counts[1],
    }  # fmt: skip


def gradient_rows(
    ratios: Sequence[RatioPlanes], lights: Mapping[tuple[str, str], LightGradient], signals: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Return gradients of sensor and light for each pair of LEDs, one row for each.

    Parameters
    ----------
    lights
        Of pairs whose beams are known.
    signals
        Typical signal of a pixel in each LED, electrons; absent where it is not known.
    """
    rows = []
    for ratio in ratios:
        common, light = ratio.common_gradient, lights.get(ratio.leds)
        beam = np.full(2, np.nan) if light is None else light.value
        row: dict[str, Any] = {"led": ratio.leds[0], "over_led": ratio.leds[1]}
        for axis, name in enumerate("xy"):
            row |= {
                f"sensor_{name}": common.value[axis], f"sensor_{name}_err": common.errors[axis], f"light_{name}": beam[axis],
                f"light_{name}_err": common.errors[axis] if light is not None else np.nan,
            }  # fmt: skip
        row |= {
            "p_value": common.p_value,
            "verdict": OF_SENSORS if common.is_of_sensor else "not distinguished from the light",
            "light_rms": np.nan if light is None else light.rms,
            "signal": signals.get(ratio.leds[0], np.nan),
            "over_signal": signals.get(ratio.leds[1], np.nan),
        }
        rows.append(row)
    return rows


def correlation_rows(colours: Sequence[DetectorColour], leds: Sequence[str]) -> list[dict[str, Any]]:
    """Return correlations of neighbouring LEDs: of pixels and rings for each detector, of amplifiers and on the large scale together."""
    rows = [
        _correlation_row(entry.scale, one.detector, entry.leds, entry.found, apart=entry.apart)
        for one in colours
        for entry in one.correlations
    ]
    for pair in pairwise(leds):
        both = [one for one in colours if set(pair) <= set(one.leds)]
        if both:
            rows.append(_correlation_row(AMPLIFIER, WHOLE, pair, _of_places(both, pair, [one.amplifiers for one in both])))
            rows.append(_correlation_row(LARGE, WHOLE, pair, _of_places(both, pair, [one.large for one in both])))
    return rows


def _correlation_row(
    scale: str, detector: str, pair: tuple[str, str], found: LedCorrelation, *, apart: bool = False
) -> dict[str, Any]:
    return {
        "scale": scale, "detector": detector, "led": pair[0], "over_led": pair[1], "pattern_removed": apart, **asdict(found),
        "reason": found.reason or "-",
    }  # fmt: skip


def _of_places(colours: Sequence[DetectorColour], pair: tuple[str, str], places: Sequence[Places]) -> LedCorrelation:
    """Return the correlation of two LEDs at places of all detectors together."""
    values, errors = (
        np.hstack(
            [getattr(place, name)[[one.leds.index(led) for led in pair]] for one, place in zip(colours, places, strict=True)]
        )
        for name in ("values", "errors")
    )
    x, y = (np.concatenate([getattr(place, name) for place in places]) for name in ("x_mm", "y_mm"))
    return correlate_maps(values, errors, x, y)


def level_moments(planes: Sequence[LedPlanes], ratios: Mapping[tuple[str, str], RatioPlanes]) -> Moments | None:
    """Return the moments of the levels of detectors in all LEDs; None if there are too few detectors.

    Parameters
    ----------
    ratios
        Of all pairs, for the covariance between LEDs.
    """
    names = [name for name in planes[0].detectors if all(name in led.detectors for led in planes)]
    if len(names) < len(planes) + 2:
        return None
    rows = [np.array([3 * led.detectors.index(name) for name in names]) for led in planes]
    levels = np.array([led.values[own // 3, 0] for led, own in zip(planes, rows, strict=True)])
    covariance = np.zeros((len(planes), len(planes), len(names), len(names)))
    for i, first in enumerate(planes):
        covariance[i, i] = first.covariance[np.ix_(rows[i], rows[i])]
        for j in range(i + 1, len(planes)):
            ratio = ratios[first.led, planes[j].led]
            place = np.array([3 * ratio.detectors.index(name) for name in names])
            covariance[i, j] = ratio.cross[np.ix_(place, place)]
            covariance[j, i] = covariance[i, j].T
    return detector_moments(levels, covariance)


def variance_rows(colours: Sequence[DetectorColour], leds: Sequence[str], levels: Moments | None) -> list[dict[str, Any]]:
    """Return total, shared and specific variance of each LED on each scale, one row for each."""
    complete = [one for one in colours if one.leds == tuple(leds)]
    rows = []
    for scale in (PIXEL, CELL, AMPLIFIER):
        parts = joined([one.moments[scale] for one in complete]) if complete else None
        if parts is not None and len(parts.freedom):
            rows += _split_rows(scale, leds, split_variance(parts))
        if scale == CELL:
            rows += _pattern_rows(complete, leds)
    if levels is not None:
        rows += _split_rows(DETECTOR, leds, split_variance(levels))
    return rows


def _split_rows(scale: str, leds: Sequence[str], found: LedSplit) -> list[dict[str, Any]]:
    rows = []
    for number, led in enumerate(leds):
        for part, values, place in ((SHARED, found.shared, 1), (OWN, found.own, 2)):
            variance, error = float(values[number]), float(found.errors[place, number])
            rows.append(_variance_row(led, VarianceComponent(scale, part, variance, error, found.parts, found.freedom)))
    return rows


def _variance_row(led: str, component: VarianceComponent) -> dict[str, Any]:
    return {
        "scale": component.level, "led": led, "part": component.part, "variance": component.variance,
        "variance_err": component.error, "rms_per_mil": component.rms_per_mil,
        "rms_per_mil_err": component.rms_error_per_mil if np.isfinite(component.error) else np.nan, "freedom": component.degrees_of_freedom,
    }  # fmt: skip


def _pattern_rows(colours: Sequence[DetectorColour], leds: Sequence[str]) -> list[dict[str, Any]]:
    """Return the variance of the periodic pattern in each LED: the mean over all detectors."""
    variance = np.array([one.waves.variance for one in colours]).mean(axis=0)
    error = np.sqrt(np.square([one.waves.variance_error for one in colours]).sum(axis=0)) / len(colours)
    return [
        _variance_row(led, VarianceComponent(PATTERN, PATTERN, float(own), float(its_error), len(colours), len(colours)))
        for led, own, its_error in zip(leds, variance, error, strict=True)
    ]


def wave_rows(colours: Sequence[DetectorColour]) -> list[dict[str, Any]]:
    """Return each wave of the periodic pattern with its amplitude in each LED, one row for each detector, wave and LED."""
    return [
        {
            "detector": one.detector, "wave": wave + 1, "period_mm": one.waves.periods_mm[wave],
            "angle_deg": one.waves.angles_deg[wave], "led": led, "amplitude": one.waves.amplitudes[number, wave],
            "amplitude_err": one.waves.errors[number],
        }
        for one in colours
        for wave in range(len(one.waves.vectors))
        for number, led in enumerate(one.leds)
    ]  # fmt: skip


def all_ratios(planes: Sequence[LedPlanes]) -> dict[tuple[str, str], RatioPlanes]:
    """Return the ratios of all pairs of LEDs that have a detector in common, in their order."""
    return {
        (first.led, second.led): ratio_planes(first, second)
        for first, second in combinations(planes, 2)
        if set(first.detectors) & set(second.detectors)
    }
