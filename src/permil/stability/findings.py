"""From series to the rows of the table of stability: scatter, drift, jump, dependence on temperatures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy

from permil.arrays import FloatArray, IntArray
from permil.excess_scatter import root_of_variance
from permil.stability.trends import CALLED, FEWEST, adjust_for_number, find_jumps, fit_trends, measure_scatter

SCATTER, SUCCESSIVE, DRIFT, JUMP = "scatter", "successive", "drift", "jump"
"""Quantities besides the dependence on a temperature, which has the name of the temperature."""


@dataclass(frozen=True)
class SeriesGroup:
    """Series of one kind with common times.

    Attributes
    ----------
    name, unit
        Kind, and unit of the values; "" for relative ones.
    values : ndarray, shape (n, m)
        Readings; NaN where there is none.
    labels
        Detector and amplifier of each series, "" for those of a whole LED.
    errors : ndarray, shape (n, m), optional
        Errors of the readings, whose contribution is subtracted from the scatter.
    """

    name: str
    unit: str
    values: FloatArray
    labels: Sequence[tuple[str, str]] = (("", ""),)
    errors: FloatArray | None = None


@dataclass(frozen=True)
class Finding:
    """One row of the table of stability.

    Attributes
    ----------
    series, detector, amp, quantity, unit
        What it is.
    value, error
        Result with its standard error.
    n
        Readings, or another source.
    with_time
        Correlation of the regressor with time.
    p_value, p_adjusted
        Probability from noise that wanders, and that adjusted for the number of regressors of this series.
    called
        Whether noise does not explain it; see `call`.
    at
        Exposure of a jump.
    """

    series: str
    quantity: str
    value: float
    error: float
    unit: str = ""
    detector: str = ""
    amp: str = ""
    n: int = 0
    with_time: float = float("nan")
    p_value: float = float("nan")
    p_adjusted: float = float("nan")
    called: bool = False
    at: str = ""


def analyse(
    group: SeriesGroup, hours: FloatArray, obsids: Sequence[str], temperatures: Mapping[str, FloatArray]
) -> list[Finding]:
    """Return scatter, drift, jump and dependence on each temperature of some series, one regressor at a time.

    Parameters
    ----------
    hours : ndarray, shape (n,)
        Ascending.
    obsids
        Names of the exposures.
    temperatures
        By name, shape (n,); exposures without one do not count for it. One that does not vary is left out.
    """
    found: list[Finding] = []
    for rows, columns in _alike(group.values):
        if len(rows) >= FEWEST:
            found += _analyse_complete(group, rows, columns, hours, obsids, temperatures)
    return found


def _alike(values: FloatArray) -> Iterator[tuple[IntArray, IntArray]]:
    """Yield the rows and columns of series whose readings are of the same exposures."""
    patterns, pattern_of = np.unique(np.isfinite(values), axis=1, return_inverse=True)
    for number in range(patterns.shape[1]):
        yield np.flatnonzero(patterns[:, number]), np.flatnonzero(pattern_of == number)


def _analyse_complete(
    group: SeriesGroup,
    rows: IntArray,
    columns: IntArray,
    hours: FloatArray,
    obsids: Sequence[str],
    temperatures: Mapping[str, FloatArray],
) -> list[Finding]:
    time, series = hours[rows], group.values[np.ix_(rows, columns)]
    noise = np.zeros(len(columns)) if group.errors is None else np.mean(group.errors[np.ix_(rows, columns)] ** 2, axis=0)
    scatter, jumps = measure_scatter(time, series), find_jumps(time, series)
    fits: dict[str, tuple[FloatArray, FloatArray, FloatArray, float]] = {}
    for quantity, regressor in {DRIFT: hours, **temperatures}.items():
        known = np.isfinite(regressor[rows])
        if known.sum() >= FEWEST:
            own = regressor[rows][known]
            trend = fit_trends(time[known], series[known], own[:, None])
            if quantity == DRIFT or np.isfinite(trend.slope).any():
                with_time = 1.0 if quantity == DRIFT else float(np.corrcoef(time[known], own)[0, 1])
                fits[quantity] = trend.slope[0], trend.error[0], trend.p_value[0], with_time
    fits[JUMP] = jumps.size, jumps.error, jumps.p_value, float("nan")
    adjusted = adjust_for_number(np.array([p_value for _, _, p_value, _ in fits.values()]))
    found = []
    for column, place in enumerate(columns):
        whole = _beyond(scatter.whole, scatter.whole_error, noise, column)
        detector, amp = group.labels[place]
        base = Finding(group.name, SCATTER, *whole, group.unit, detector, amp, len(rows))
        value, error = _beyond(scatter.successive, scatter.successive_error, noise, column)
        found += [base, replace(base, quantity=SUCCESSIVE, value=value, error=error)]
        for number, (quantity, (slopes, errors, p_values, with_time)) in enumerate(fits.items()):
            found.append(
                replace(
                    base,
                    quantity=quantity,
                    value=float(slopes[column]),
                    error=float(errors[column]),
                    unit=_unit_of(quantity, group.unit),
                    with_time=with_time,
                    p_value=float(p_values[column]),
                    p_adjusted=float(adjusted[number, column]),
                    at=obsids[rows[jumps.first[column]]] if quantity == JUMP else "",
                )
            )
    return found


def _beyond(scatter: FloatArray, error: FloatArray, noise: FloatArray, column: int) -> tuple[float, float]:
    """Return a scatter beyond the noise of the readings."""
    size = float(scatter[column])
    return root_of_variance(size**2 - float(noise[column]), 2 * size * float(error[column]))


def _unit_of(quantity: str, unit: str) -> str:
    if quantity == JUMP:
        return unit
    return f"{unit}/h".lstrip("/") if quantity == DRIFT and unit else "1/h" if quantity == DRIFT else f"{unit or '1'}/deg_C"


def means_of(values: FloatArray, group: IntArray) -> FloatArray:
    """Return the means of the finite readings of each group of exposures, shape (groups, m); NaN where there is none.

    Examples
    --------
    >>> import numpy as np
    >>> from permil.stability.findings import means_of
    >>> means_of(np.array([[1.0], [3.0], [np.nan]]), np.array([1, 1, 2])).ravel()
    array([ 2., nan])
    """
    _, number = np.unique(group, return_inverse=True)
    known = np.isfinite(values)
    member = (number == np.arange(number.max() + 1 if number.size else 0)[:, None]).astype(np.float64)
    count = member @ known.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(count > 0, member @ np.where(known, values, 0.0) / count, np.nan)


def call(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings with the significant ones marked.

    A regressor is called if its p-value, adjusted for the number of regressors of its series, is at most `CALLED`, and if the smallest
    one of its series still is when the number of series of its kind is allowed for by the false-discovery rate (Benjamini and Hochberg
    1995, Journal of the Royal Statistical Society B 57, 289). Of a pure random walk that is the case at most in 5 %.
    """
    findings = list(findings)
    smallest: dict[str, dict[tuple[str, str], float]] = {}
    for row in findings:
        if np.isfinite(row.p_adjusted):
            own = smallest.setdefault(row.series, {})
            own[row.detector, row.amp] = min(row.p_adjusted, own.get((row.detector, row.amp), 1.0))
    rates = {
        name: dict(zip(own, scipy.stats.false_discovery_control(list(own.values())), strict=True))
        for name, own in smallest.items()
    }
    return [
        replace(row, called=bool(row.p_adjusted <= CALLED and rates[row.series][row.detector, row.amp] <= CALLED))
        if np.isfinite(row.p_adjusted)
        else row
        for row in findings
    ]
