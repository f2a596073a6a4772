"""Results of a run: verdicts against the specifications, and the table `summary.ecsv`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from astropy.table import Table

from permil.excess_scatter import variance_of_root
from permil.report.kit.quantities import FLAT_METRICS, QUANTITIES

if TYPE_CHECKING:
    from permil.config.model import ReportConfig

YES, NO, OPEN, NONE = "yes", "no", "open", "-"
"""Verdicts: within the specification, beyond it, undecided because of the error, no specification. `NONE` also marks a missing
detector or amplifier."""

SIGNIFICANT = 3.0
"""Margin of a verdict in standard errors: a result fails (passes) if it is above (below) its specification by at least this margin."""

_COLUMNS = {
    "metric": "name of the result",
    "detector": "detector, - for results of a beam",
    "amp": "amplifier, all for the whole detector, - for results of a beam",
    "led": "LED, or band of stars; - if it has no name",
    "value": "result",
    "error": "standard error of the result",
    "spec": "largest size that passes, NaN if there is none",
    "pass": "yes, no, open if undecided because of the error, or - without a specification or result",
}


@dataclass(frozen=True)
class Measurement:
    """A result with its error, with its LED, detector and amplifier."""

    metric: str
    led: str
    number: float
    error: float
    detector: str = ""
    amp: str = ""


@dataclass(frozen=True)
class MetricVerdict:
    """All results of one metric and LED compared with their specification.

    ``worst`` is the result with the largest absolute value; ``checked``, ``failed`` and ``undecided`` count results.
    """

    metric: str
    led: str
    spec: float
    checked: int
    failed: int
    undecided: int
    worst: Measurement

    @property
    def state(self) -> str:
        """`NO` if a result failed, else `OPEN` if one is open, else `YES`."""
        if self.failed:
            return NO
        return OPEN if self.undecided else YES


def judge(entry: Measurement, limits: ReportConfig) -> str:
    """Return the verdict on a result: its absolute value compared with the specification, with a margin of `SIGNIFICANT` errors.

    For a scatter in excess of noise the variance is compared, whose error is normal.
    """
    spec = specification(entry.metric, limits)
    return judge_size(entry.number, entry.error, spec, beyond_noise=QUANTITIES[entry.metric].beyond_noise)


def judge_size(number: float, error: float, spec: float, *, beyond_noise: bool = False) -> str:
    """Return the verdict on a number; an unknown error counts as 0."""
    if not (math.isfinite(number) and math.isfinite(spec)):
        return NONE
    size, margin = abs(number), SIGNIFICANT * error if math.isfinite(error) else 0.0
    if beyond_noise:
        size, own = variance_of_root(size, margin / SIGNIFICANT)
        margin, spec = SIGNIFICANT * own, spec**2
    if size > spec + margin:
        return NO
    return YES if size <= spec - margin else OPEN


def specification(metric: str, limits: ReportConfig) -> float:
    """Return the limit of a metric, NaN without one."""
    key = QUANTITIES[metric].limit
    return float(getattr(limits, key)) if key else math.nan


def flat_measurements(metrics: Table) -> list[Measurement]:
    """Return the results in a table of flat metrics, without those that are NaN."""
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
        # An empty text in ECSV is read as missing.
        where = entry.detector or NONE, entry.amp or NONE, entry.led or NONE
        rows.append((entry.metric, *where, entry.number, entry.error, spec, judge(entry, limits)))
    kinds = (np.str_, np.str_, np.str_, np.str_, float, float, float, np.str_)
    columns = zip(*rows, strict=True) if rows else ([] for _ in kinds)
    table = Table({name: np.array(column, dtype=kind) for name, column, kind in zip(_COLUMNS, columns, kinds, strict=True)})
    for name, description in _COLUMNS.items():
        table[name].description = description
    return table


def verdicts(measurements: Iterable[Measurement], limits: ReportConfig) -> list[MetricVerdict]:
    """Return one verdict for each metric with a specification and each LED, in the order of the measurements."""
    groups: dict[tuple[str, str], list[Measurement]] = {}
    for entry in measurements:
        if QUANTITIES[entry.metric].limit:
            groups.setdefault((entry.metric, entry.led), []).append(entry)
    found = []
    for (metric, led), entries in groups.items():
        spec = specification(metric, limits)
        states = [judge(entry, limits) for entry in entries]
        worst = max(entries, key=lambda entry: abs(entry.number))
        found.append(MetricVerdict(metric, led, spec, len(entries), states.count(NO), states.count(OPEN), worst))
    return found


def with_verdict(
    measurements: Iterable[Measurement], limits: ReportConfig, verdict: str
) -> Mapping[tuple[str, str], list[Measurement]]:
    """Return the results with a verdict (`NO` or `OPEN`) by LED and detector."""
    found: dict[tuple[str, str], list[Measurement]] = {}
    for entry in measurements:
        if judge(entry, limits) == verdict:
            found.setdefault((entry.led, entry.detector), []).append(entry)
    return found
