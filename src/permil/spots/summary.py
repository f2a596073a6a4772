"""Summary of the stage: one row per metric, detector and band, with its error."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from astropy.table import Table

from permil.spots.calibration import SpotCalibration
from permil.spots.flux_excess import FluxExcess
from permil.spots.repeatability import Repeatability
from permil.spots.residuals import ExposureTable, Residuals

_NUMBER = re.compile(r"[-+]?\d+(?:\.\d*)?(?:e[-+]?\d+)?")

COLUMNS = ("metric", "detector", "band", "value", "error", "unit")


def summary_table(rows: Sequence[dict[str, Any]], *, fingerprint: str) -> Table:
    """Return the table of all rows."""
    table = Table({name: [row[name] for row in rows] for name in COLUMNS})
    table.meta["fingerprint"] = fingerprint
    return table


def calibration_rows(calibration: SpotCalibration, repeated: Repeatability | None, *, detector: str) -> list[dict[str, Any]]:
    """Return the rows of a calibration."""
    freedom = max(calibration.freedom, 1)
    metrics: list[tuple[str, float, float, str]] = [
        ("spots", float(np.isfinite(calibration.spots.flux).sum()), 0.0, ""),
        ("exposures", float(len(calibration.exposures.names)), 0.0, ""),
        ("chi_square_per_freedom", calibration.chi_square / freedom, float(np.sqrt(2 / freedom)), ""),
        *_excess_metrics(calibration.excess),
        _median("spot_flux_error", calibration.spots.flux_error / calibration.spots.flux, ""),
        *_residual_metrics(calibration.residuals),
    ]
    for entry in calibration.degeneracies:
        metrics.append((f"gradient_{entry.axis}_from_trend", entry.exposure_trend, entry.exposure_trend_error, "(1000 pixel)-1"))
        metrics.append((f"gradient_{entry.axis}_free", 0.0, entry.free_error, "(1000 pixel)-1"))
    if repeated is not None:
        metrics.append(("scatter_over_predicted", repeated.ratio, repeated.ratio_error, ""))
        metrics.append(("lamp_drift", repeated.drift, repeated.drift_error, ""))
    return _rows(metrics, detector, calibration.band)


def applied_rows(exposures: ExposureTable, residuals: Residuals, *, detector: str, band: str) -> list[dict[str, Any]]:
    """Return the rows of a calibration applied to other exposures."""
    metrics = [("exposures", float(len(exposures.names)), 0.0, ""), *_residual_metrics(residuals)]
    return _rows(metrics, detector, band)


def describe_calibration(calibration: SpotCalibration, repeated: Repeatability | None) -> str:
    """Return the most important results as one line of text."""
    name = " ".join(part for part in (calibration.detector, calibration.band) if part)
    text = (
        f"{name}: {int(np.isfinite(calibration.spots.flux).sum())} spots, {len(calibration.exposures.names)} exposures "
        f"({calibration.mode}), chi-square per degree of freedom {calibration.chi_square / max(calibration.freedom, 1):.3f}"
    )
    excess = calibration.excess
    if not np.isnan(excess.variance):
        text += f", scatter in excess of errors {_per_mil(*excess.scatter)} per mil, part not explained by the sensor "
        text += _per_mil(*excess.unexplained)
    if repeated is None:
        return text
    return (
        f"{text}, scatter over predicted error {repeated.ratio:.3f} +- {repeated.ratio_error:.3f}, "
        f"lamp drift {1e3 * repeated.drift:.3f} +- {1e3 * repeated.drift_error:.3f} per mil"
    )


def _per_mil(number: float, error: float) -> str:
    return f"{1e3 * number:.2f} +- {1e3 * error:.2f}"


def summed_up(remarks: Sequence[tuple[str, str]]) -> list[str]:
    """Return remarks (name of the catalog, clause) as lines of text, merging those that differ only in numbers."""
    alike: dict[str, list[tuple[str, str]]] = {}
    for name, clause in remarks:
        alike.setdefault(_NUMBER.sub("", clause), []).append((name, clause))
    lines = []
    for group in alike.values():
        others = f" (and {len(group) - 1} more like this)" if len(group) > 1 else ""
        lines.append(f"{group[0][0]}: {group[0][1]}{others}")
    return lines


def _excess_metrics(excess: FluxExcess) -> list[tuple[str, float, float, str]]:
    parts = {
        "flux_excess": excess.scatter,
        "flux_excess_structure": excess.structure,
        "flux_excess_unexplained": excess.unexplained,
    }
    return [(name, *part, "") for name, part in parts.items() if not np.isnan(part[0])]


def _residual_metrics(residuals: Residuals) -> list[tuple[str, float, float, str]]:
    metrics = []
    for quantity, unit in (("flux", ""), ("dx", "pixel"), ("dy", "pixel"), ("xx", "pixel2"), ("yy", "pixel2"), ("xy", "pixel2")):
        values = getattr(residuals, quantity)[residuals.used]
        values = values[np.isfinite(values)]
        scatter = 1.4826 * float(np.median(np.abs(values))) if len(values) else np.nan
        # The error of a scatter from the median of absolute values, Gaussian (Rousseeuw and Croux 1993: efficiency 37 %).
        error = scatter / np.sqrt(2 * 0.37 * len(values)) if len(values) else np.nan
        metrics.append((f"{quantity}_residual_scatter", scatter, float(error), unit))
    return metrics


def _median(name: str, values: np.ndarray[Any, Any], unit: str) -> tuple[str, float, float, str]:
    known = values[np.isfinite(values)]
    if not len(known):
        return name, np.nan, np.nan, unit
    return name, float(np.median(known)), float(1.2533 * known.std() / np.sqrt(len(known))), unit


def _rows(metrics: Sequence[tuple[str, float, float, str]], detector: str, band: str) -> list[dict[str, Any]]:
    return [dict(zip(COLUMNS, (name, detector, band, value, error, unit), strict=True)) for name, value, error, unit in metrics]
