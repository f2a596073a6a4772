"""Tables of many sensors: results of each sensor and band, combined estimates and differences of vendors, all tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from astropy.table import Table

from permil.compare.comparison import SINGLE, WHOLE
from permil.compare.hypotheses.results import KINDS, TOTAL
from permil.compare.sensors.combine import CombinedEstimate, combine, difference, find_discoveries

ALL, VENDOR, BAND, DIFFERENCE = "all sensors", "vendor", "band", "difference"
"""Kinds of rows of combined estimates."""

FRACTIONS = tuple(f"fraction_{kind.replace(' ', '_')}" for kind in KINDS)
QUANTITIES = ("r", "r_corrected", "slope", *FRACTIONS)
"""Combined quantities: correlation of single stars, without measurement errors, slope of fluxes on the flat, fractions."""


@dataclass(frozen=True)
class SensorResults:
    """Results of one detector and band.

    Attributes
    ----------
    run, folder
        Name and folder of its run.
    detector, vendor, band, led
        Names; ``led`` is that of the flat.
    x_mm, y_mm
        Centre of the detector in the focal plane (CCS).
    correlations, hypotheses
        Its rows in the tables of its run.
    """

    run: str
    folder: str
    detector: str
    vendor: str
    band: str
    led: str
    x_mm: float
    y_mm: float
    correlations: Table
    hypotheses: Table

    @property
    def names(self) -> dict[str, Any]:
        """Columns that identify the results."""
        return {name: getattr(self, name) or "-" for name in ("run", "detector", "vendor", "band", "led")}

    def value(self, quantity: str, region: str = WHOLE) -> tuple[float, float]:
        """Return a quantity in a region, single stars and all scales together, and its error; NaN if unknown."""
        if quantity in FRACTIONS:
            wanted = {"region": region, "figure": "fraction", "scale": TOTAL, "of": KINDS[FRACTIONS.index(quantity)]}
            return _entry(self.hypotheses, wanted, "value", "error")
        wanted = {"quantity": "flux", "region": region, "scale": SINGLE}
        return _entry(self.correlations, wanted, quantity, f"{quantity}_err")


def sensor_rows(results: Sequence[SensorResults]) -> list[dict[str, Any]]:
    """Return one row for each detector and band: places, numbers of stars, all combined quantities, p-value."""
    rows = []
    for each in results:
        wanted = {"quantity": "flux", "region": WHOLE, "scale": SINGLE}
        row = each.names | {"folder": each.folder, "x_mm": each.x_mm, "y_mm": each.y_mm}
        for name in ("n", "n_eff", "p_value"):
            row[name] = _entry(each.correlations, wanted, name, name)[0]
        for quantity in QUANTITIES:
            row[quantity], row[f"{quantity}_err"] = each.value(quantity)
        rows.append(row)
    return rows


def combined_rows(results: Sequence[SensorResults]) -> list[dict[str, Any]]:
    """Return the means of each quantity and region over all sensors, each vendor and each band, and the differences of vendors."""
    rows = []
    for quantity in QUANTITIES:
        for region in _regions(results, quantity):
            estimates = {}
            for kind, name, chosen in _subsets(results):
                estimate = _combined(chosen, quantity, region)
                if estimate is not None:
                    estimates[kind, name] = estimate
                    rows.append({"quantity": quantity, "region": region, "kind": kind, "of": name or "-", **_columns(estimate)})
            vendors = sorted(name for kind, name in estimates if kind == VENDOR)
            for first, second in combinations(vendors, 2):
                pair = estimates[VENDOR, first], estimates[VENDOR, second]
                found = difference(*pair)
                names = {"quantity": quantity, "region": region, "kind": DIFFERENCE, "of": f"{first} - {second}"}
                fewest = min(each.sensors for each in pair)
                rows.append(names | {"value": found.value, "error": found.error, "p_value": found.p_value, "sensors": fewest})
    return rows


def significance_rows(results: Sequence[SensorResults], combined: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return all tests of a set of sensors, with the false-discovery rate at which each is significant, the smallest first.

    Tests are the correlations of all quantities, regions and scales, whether sensors are alike, and the differences of vendors.
    """
    rows: list[dict[str, Any]] = []
    for each in results:
        for row in each.correlations:
            what = f"{row['quantity']}, {row['region']}, {row['scale']}"
            figures = {"value": float(row["r"]), "error": float(row["r_err"]), "p_value": _number(row["p_value"])}
            rows.append({"test": "correlation", **each.names, "of": what, **figures})
    for one in combined:
        if one["kind"] in (ALL, VENDOR, DIFFERENCE):
            test = "vendors equal" if one["kind"] == DIFFERENCE else "sensors alike"
            what = ", ".join(str(one[name]) for name in ("quantity", "region", "of") if one[name] != "-")
            rows.append({"test": test, "of": what, **{name: one[name] for name in ("value", "error", "p_value")}})
    rows = [row for row in rows if np.isfinite(row["p_value"])]
    found = find_discoveries([row["p_value"] for row in rows])
    for row, adjusted, is_found in zip(rows, found.adjusted, found.found, strict=True):
        row |= {"false_discovery_rate": float(adjusted), "significant": bool(is_found)}
    return sorted(rows, key=lambda row: row["p_value"])


def _subsets(results: Sequence[SensorResults]) -> Iterator[tuple[str, str, list[SensorResults]]]:
    yield ALL, "", list(results)
    keys: tuple[tuple[str, Callable[[SensorResults], str]], ...] = (
        (VENDOR, lambda each: each.vendor),
        (BAND, lambda each: each.band),
    )
    for kind, key in keys:
        for name in sorted({key(each) for each in results}):
            yield kind, name, [each for each in results if key(each) == name]


def _regions(results: Sequence[SensorResults], quantity: str) -> list[str]:
    tables = [each.hypotheses if quantity in FRACTIONS else each.correlations for each in results]
    return list(dict.fromkeys([WHOLE, *(str(region) for table in tables if len(table) for region in table["region"])]))


def _combined(results: Sequence[SensorResults], quantity: str, region: str) -> CombinedEstimate | None:
    found = [(*each.value(quantity, region), each.detector) for each in results]
    known = [entry for entry in found if np.isfinite(entry[0]) and entry[1] > 0 and np.isfinite(entry[1])]
    return combine(*zip(*known, strict=True)) if known else None


def _columns(found: CombinedEstimate) -> dict[str, Any]:
    names = (
        "value", "error", "estimates", "sensors", "heterogeneity", "heterogeneity_low", "heterogeneity_high", "heterogeneity_limit",
        "between_bands", "chi_square", "chi_square_freedom", "p_value",
    )  # fmt: skip
    return {name: getattr(found, name) for name in names}


def _entry(table: Table, wanted: Mapping[str, str], value: str, error: str) -> tuple[float, float]:
    if any(name not in table.colnames for name in (*wanted, value, error)):
        return np.nan, np.nan
    for row in table:
        if all(str(row[name]) == content for name, content in wanted.items()):
            return _number(row[value]), _number(row[error])
    return np.nan, np.nan


def _number(entry: Any) -> float:
    return float("nan") if np.ma.is_masked(entry) else float(entry)
