"""Figures of a flat, per detector and per amplifier, each with its error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from permil.arrays import BoolArray, FloatArray, median
from permil.engine import threaded_map
from permil.excess_scatter import root_of_variance

if TYPE_CHECKING:
    from permil.camera import Detector
    from permil.flat.boundaries import BoundarySteps
    from permil.flat.combine import CombinedFlat
    from permil.flat.shared_errors import Plane

WHOLE_DETECTOR = "all"
"""Entry of the column ``amp`` for the whole detector."""

PREDICTION = 0.01
"""Relative error of a predicted variance, about that of gains and linearity."""

_COLUMNS = {
    "detector": ("", "detector"),
    "amp": ("", "amplifier, or all for the whole detector"),
    "led": ("", "LED"),
    "pixels": ("", "good pixels"),
    "median": ("", "median response on the composite scale"),
    "median_err": ("", "error of the median: photon noise, beam model and photodiode scales"),
    "rms": ("", "robust relative scatter of the response over pixels (half of the 16 to 84 per cent range)"),
    "rms_err": ("", "error of rms"),
    "noise": ("", "median relative error of a pixel (independent part)"),
    "noise_err": ("", "error of noise"),
    "scatter": ("", "median relative scatter of a pixel between pointings"),
    "scatter_err": ("", "error of scatter"),
    "scatter_noise": ("", "rms scatter between pointings predicted from photon and read noise"),
    "scatter_excess": ("", "rms scatter between pointings beyond that noise"),
    "scatter_excess_err": ("", "error of scatter_excess"),
    "pointings": ("", "median number of pointings of a pixel"),
    "step": ("", "relative excess of the amplifier, from the steps at its borders"),
    "step_err": ("", "error of step"),
    "gradient_x": ("1 / mm", "relative gradient along CCS X"),
    "gradient_x_err": ("1 / mm", "error of gradient_x"),
    "gradient_y": ("1 / mm", "relative gradient along CCS Y"),
    "gradient_y_err": ("1 / mm", "error of gradient_y"),
}


def flat_metrics(
    flat: CombinedFlat,
    good: BoolArray,
    *,
    detector: Detector,
    led: str,
    plane: Plane,
    steps: BoundarySteps | None,
) -> list[dict[str, Any]]:
    """Return one row for the whole detector and one per amplifier.

    Parameters
    ----------
    flat, good
        The combined response and its good pixels, shape (ny, nx).
    plane
        Plane of the response with its errors.
    steps
        Amplifier factors, None where no border could be measured.
    """
    shared = float(plane.errors[0])

    def region(where: tuple[slice, slice]) -> dict[str, Any]:
        return _region(flat, good, where, shared)

    # The whole detector first: it takes longest.
    everything = (slice(None), slice(None))
    regions = [everything, *(amplifier.slices for amplifier in detector.amplifiers)]
    rows = list(threaded_map(region, regions, depth=len(regions)))
    rows[0] |= {
        "amp": WHOLE_DETECTOR,
        "gradient_x": plane.gradient_x,
        "gradient_x_err": float(plane.errors[1]),
        "gradient_y": plane.gradient_y,
        "gradient_y_err": float(plane.errors[2]),
    }
    for index, (amplifier, row) in enumerate(zip(detector.amplifiers, rows[1:], strict=True)):
        row["amp"] = amplifier.name
        if steps is not None:
            row["step"] = float(steps.factor[index])
            row["step_err"] = float(steps.factor_error[index])
    return [{"detector": detector.name, "led": led} | row for row in rows]


def metrics_table(rows: list[dict[str, Any]]) -> Table:
    """Return rows of `flat_metrics` as a table with units and descriptions; missing entries are NaN."""
    table = Table()
    for name, (unit, description) in _COLUMNS.items():
        table[name] = [row.get(name, np.nan) for row in rows]
        table[name].description = description
        if unit:
            table[name].unit = unit
    table.sort(["led", "detector"], kind="stable")
    return table


def _region(flat: CombinedFlat, good: BoolArray, where: tuple[slice, slice], shared_error: float) -> dict[str, Any]:
    chosen = good[where]
    pixels = int(chosen.sum())
    if pixels == 0:
        return {"pixels": 0}
    # Percentiles of sorted numbers take a fifth of the time.
    low, middle, high = np.percentile(np.sort(flat.response[where][chosen]).astype(np.float64), [15.865, 50, 84.135])
    rms = (high - low) / 2 / middle
    noise = np.sqrt(flat.variance[where][chosen]) / middle
    count = flat.count[where][chosen]
    spread = flat.scatter[where][chosen].astype(np.float64) / middle
    typical_noise, typical_scatter = float(median(noise)), float(median(spread))
    predicted, excess, excess_error = _excess(spread, flat.predicted_scatter[where][chosen].astype(np.float64) / middle, count)
    # Errors of a median, and of a robust width, in units of the width over sqrt(n) for a normal distribution.
    root = np.sqrt(pixels)
    return {
        "pixels": pixels,
        "median": float(middle),
        "median_err": float(middle * np.hypot(1.2533 * rms / root, shared_error)),
        "rms": float(rms),
        "rms_err": float(1.17 * rms / root),
        "noise": typical_noise,
        "noise_err": float(1.2533 * noise.std() / root),
        "scatter": typical_scatter,
        "scatter_err": float(1.2533 * spread.std() / root),
        "scatter_noise": predicted,
        "scatter_excess": excess,
        "scatter_excess_err": excess_error,
        "pointings": float(median(count)),
    }


def _excess(scatter: FloatArray, predicted: FloatArray, count: NDArray[np.integer]) -> tuple[float, float, float]:
    """Return the rms scatter predicted from noise, the excess scatter, and the error of the latter; NaN with one pointing.

    The square of the scatter of a pixel that ``n`` pointings see is that of a chi-square with ``n - 1`` degrees of freedom, so that its
    variance is ``2 / (n - 1)`` times the square of its mean. The predicted variance itself is known to `PREDICTION`.
    """
    seen = (count > 1) & np.isfinite(scatter) & np.isfinite(predicted)
    if not seen.any():
        return float("nan"), float("nan"), float("nan")
    squares, noise = float(np.mean(scatter[seen] ** 2)), float(np.mean(predicted[seen] ** 2))
    chance = squares * np.sqrt(2 * np.mean(1 / (count[seen] - 1)) / seen.sum())
    return float(np.sqrt(noise)), *root_of_variance(squares - noise, float(np.hypot(chance, PREDICTION * noise)))
