"""One table of everything that was measured, with specification and verdict."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from astropy.table import Table

from permil.report.quantities import FLAT_METRICS, QUANTITIES

if TYPE_CHECKING:
    from permil.config.report import ReportConfig

YES, NO, NONE = "yes", "no", "-"
"""Verdicts: within the specification, beyond it, no specification (also stands for no detector or amplifier)."""

_COLUMNS = {
    "metric": "what was measured",
    "detector": "detector, - for what belongs to a beam",
    "amp": "amplifier, all for the whole detector, - for what belongs to a beam",
    "led": "LED, or band of stars; - where it has no name",
    "value": "result",
    "error": "standard error of the result",
    "spec": "largest size that passes, NaN where there is none",
    "pass": "yes, no, or - where there is no specification or no result",
}


@dataclass(frozen=True)
class Measurement:
    """A reported number and what it belongs to."""

    metric: str
    led: str
    number: float
    error: float
    detector: str = ""
    amp: str = ""


@dataclass(frozen=True)
class Verdict:
    """All results of one metric and LED against their specification.

    ``worst`` is the result of the largest size; ``failed`` and ``checked`` count results.
    """

    metric: str
    led: str
    spec: float
    checked: int
    failed: int
    worst: Measurement

    @property
    def passed(self) -> bool:
        """Whether nothing failed."""
        return self.failed == 0


def judge(number: float, spec: float) -> str:
    """Return the verdict on a number: its size against the specification, errors not counted."""
    if not (math.isfinite(number) and math.isfinite(spec)):
        return NONE
    return YES if abs(number) <= spec else NO


def specification(metric: str, limits: ReportConfig) -> float:
    """Return the limit of a metric, NaN where it has none."""
    key = QUANTITIES[metric].limit
    return float(getattr(limits, key)) if key else math.nan


def flat_measurements(metrics: Table) -> list[Measurement]:
    """Return the results in a table of flat metrics; what is NaN there was not measured and is left out."""
    found = []
    for row in metrics:
        for metric in FLAT_METRICS:
            number = float(row[metric]) if metric in metrics.colnames else math.nan
            if math.isfinite(number):
                error = float(row[f"{metric}_err"]) if f"{metric}_err" in metrics.colnames else math.nan
                found.append(Measurement(metric, str(row["led"]), number, error, str(row["detector"]), str(row["amp"])))
    return found


def summary_table(measurements: Iterable[Measurement], limits: ReportConfig) -> Table:
    """Return measurements as a table with specification and verdict.

    Parameters
    ----------
    measurements
        Results in the order of the rows.
    limits
        Section ``report`` of the configuration.
    """
    rows = []
    for entry in measurements:
        spec = specification(entry.metric, limits)
        # ECSV reads an empty text as missing.
        where = entry.detector or NONE, entry.amp or NONE, entry.led or NONE
        rows.append((entry.metric, *where, entry.number, entry.error, spec, judge(entry.number, spec)))
    kinds = (np.str_, np.str_, np.str_, np.str_, float, float, float, np.str_)
    columns = zip(*rows, strict=True) if rows else ([] for _ in kinds)
    table = Table({name: np.array(column, dtype=kind) for name, column, kind in zip(_COLUMNS, columns, kinds, strict=True)})
    for name, description in _COLUMNS.items():
        table[name].description = description
    return table


def verdicts(measurements: Iterable[Measurement], limits: ReportConfig) -> list[Verdict]:
    """Return one verdict per metric with a specification and LED, in the order in which they come."""
    groups: dict[tuple[str, str], list[Measurement]] = {}
    for entry in measurements:
        if QUANTITIES[entry.metric].limit:
            groups.setdefault((entry.metric, entry.led), []).append(entry)
    found = []
    for (metric, led), entries in groups.items():
        spec = specification(metric, limits)
        failed = sum(judge(entry.number, spec) == NO for entry in entries)
        found.append(Verdict(metric, led, spec, len(entries), failed, max(entries, key=lambda entry: abs(entry.number))))
    return found


def failures(measurements: Iterable[Measurement], limits: ReportConfig) -> Mapping[tuple[str, str], list[Measurement]]:
    """Return what failed, per LED and detector."""
    found: dict[tuple[str, str], list[Measurement]] = {}
    for entry in measurements:
        if judge(entry.number, specification(entry.metric, limits)) == NO:
            found.setdefault((entry.led, entry.detector), []).append(entry)
    return found
