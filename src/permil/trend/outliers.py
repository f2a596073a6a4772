"""Results of runs that deviate from those of the other runs by more than chance allows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from permil.trend.database import Result

FEWEST_RUNS = 5
"""Runs that must have a result before it is tested."""

FALSE_DISCOVERIES = 0.01
"""Largest expected fraction of chance among the results that are named."""

_TO_SIGMA = 1.4826
_EFFICIENCY = 0.37
"""Efficiency of the median absolute deviation for normal values."""
_MEDIAN_VARIANCE = math.pi / 2


@dataclass(frozen=True)
class Outlier:
    """A result that deviates: the result, the median of the other runs with its error, deviation over its error, and p-value."""

    result: Result
    others: float
    others_error: float
    pull: float
    p_value: float


def find_outliers(results: Sequence[Result], *, false_discoveries: float = FALSE_DISCOVERIES) -> list[Outlier]:
    """Return the results that deviate from the median of the same result in the other runs, the most significant first.

    The pull of a result is its deviation from that median over the errors of both. Where the pulls of a metric, over all detectors,
    amplifiers, LEDs and runs, scatter significantly more than 1 (median absolute deviation), runs differ by more than their errors:
    pulls are divided by that scatter, and their distribution is Student's with its degrees of freedom. Results without errors are
    tested against the scatter of their series. Benjamini and Hochberg (1995, J. R. Stat. Soc. B 57, 289) limit the fraction of false
    discoveries over all tests.

    Parameters
    ----------
    results
        Results of all runs.
    false_discoveries
        Largest expected fraction of chance among the outliers.
    """
    series: dict[tuple[str, str, str, str], list[Result]] = {}
    for entry in results:
        if math.isfinite(entry.value):
            series.setdefault(entry.series, []).append(entry)
    metrics: dict[str, list[Outlier]] = {}
    for (metric, *_), entries in series.items():
        if len({entry.run for entry in entries}) >= FEWEST_RUNS:
            metrics.setdefault(metric, []).extend(_pulls(entries))
    tested = [entry for entries in metrics.values() for entry in _with_scatter(entries)]
    tested.sort(key=lambda entry: entry.p_value)
    limits = false_discoveries * (np.arange(len(tested)) + 1) / max(len(tested), 1)
    below = np.flatnonzero(np.array([entry.p_value for entry in tested]) <= limits)
    return tested[: below[-1] + 1] if below.size else []


def _pulls(entries: Sequence[Result]) -> list[Outlier]:
    """Return each result of a series against the median of the others, with its pull."""
    values, errors = np.array([entry.value for entry in entries]), np.array([entry.error for entry in entries])
    known = np.isfinite(errors) & (errors > 0)
    found = []
    for place, entry in enumerate(entries):
        others = np.delete(values, place)
        middle = float(np.median(others))
        scatter = _TO_SIGMA * float(np.median(np.abs(others - middle)))
        rest = np.delete(errors, place)
        own = errors[place] if known.all() else scatter
        typical = math.sqrt(float(np.median(rest**2))) if known.all() else scatter
        error = math.sqrt(_MEDIAN_VARIANCE / others.size) * typical
        total = math.hypot(own, error)
        if total > 0:
            pull = (entry.value - middle) / total
            degrees = math.inf if known.all() else max(_EFFICIENCY * (others.size - 1), 1.0)
            found.append(Outlier(entry, middle, error, pull, _chance(pull, degrees)))
    return found


def _with_scatter(entries: Sequence[Outlier]) -> list[Outlier]:
    """Return pulls of a metric and their p-values, allowing for a scatter of runs beyond their errors."""
    pulls: NDArray[np.float64] = np.array([entry.pull for entry in entries])
    if not pulls.size:
        return []
    series = len({entry.result.series for entry in entries})
    degrees = max(_EFFICIENCY * (pulls.size - series), 1.0)
    scatter = _TO_SIGMA * float(np.median(np.abs(pulls)))
    # The variance of a median absolute deviation is that of a standard deviation with these degrees of freedom.
    if scatter <= 1 + 2 / math.sqrt(2 * degrees):
        return list(entries)
    return [
        Outlier(entry.result, entry.others, entry.others_error, entry.pull / scatter, _chance(entry.pull / scatter, degrees))
        for entry in entries
    ]


def _chance(pull: float, degrees: float) -> float:
    return float(2 * (stats.norm.sf(abs(pull)) if math.isinf(degrees) else stats.t.sf(abs(pull), degrees)))
