"""Verdicts and the summary table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table
from hypothesis import given
from hypothesis import strategies as st

from permil.config.model import ReportConfig
from permil.excess_scatter import root_of_variance, variance_of_root
from permil.products import read_table, write_table
from permil.report import summary_table
from permil.report.kit.results import NO, OPEN, Measurement, flat_measurements, judge_size, verdicts, with_verdict

LIMITS = ReportConfig(scatter_limit=0.005, step_limit=0.002, noise_limit=0.001, node_noise_limit=0.0005)


@pytest.fixture
def measurements() -> list[Measurement]:
    """Return results of which the step of C01 and the node noise of blue fail, and the step of C02 of blue is open."""
    return [
        Measurement("beam_node_noise", "blue", 0.0006, 1e-5),
        Measurement("beam_maximum_x", "blue", 1.4, 0.3),
        Measurement("median", "blue", 1.01, 1e-4, "R22_S11", "all"),
        Measurement("scatter_excess", "blue", 0.0045, 1e-5, "R22_S11", "all"),
        Measurement("step", "blue", -0.0027, 2e-4, "R22_S11", "C01"),
        Measurement("step", "blue", 0.0019, 2e-4, "R22_S11", "C02"),
        Measurement("step", "red", 0.0003, 2e-4, "R22_S11", "C02"),
    ]


@pytest.mark.parametrize(
    ("number", "error", "spec", "expected"),
    [
        (0.69, 0.1, 1.0, "yes"),
        (-0.69, 0.1, 1.0, "yes"),
        (0.71, 0.1, 1.0, "open"),
        (-1.29, 0.1, 1.0, "open"),
        (1.31, 0.1, 1.0, "no"),
        (-1.31, 0.1, 1.0, "no"),
        (1.0, np.nan, 1.0, "yes"),
        (1.01, np.nan, 1.0, "no"),
        (9.0, 0.1, np.nan, "-"),
        (np.nan, 0.1, 1.0, "-"),
    ],
)
def test_a_result_is_judged_with_three_errors(number: float, error: float, spec: float, expected: str) -> None:
    assert judge_size(number, error, spec) == expected


def test_a_scatter_beyond_noise_is_judged_on_its_variance() -> None:
    """The variance 0 +- 0.3 is within 1 by three errors, though its root of 0 has an error of 0.55."""
    root, error = root_of_variance(0.0, 0.3)
    assert judge_size(root, error, 1.0) == "open"
    assert judge_size(root, error, 1.0, beyond_noise=True) == "yes"
    assert judge_size(*root_of_variance(0.2, 0.3), 1.0, beyond_noise=True) == "open"
    assert judge_size(*root_of_variance(1.8, 0.3), 1.0, beyond_noise=True) == "open"
    assert judge_size(*root_of_variance(2.0, 0.3), 1.0, beyond_noise=True) == "no"


@given(variance=st.floats(0, 1e3), error=st.floats(1e-6, 1e3))
def test_roots_of_variances_come_back(variance: float, error: float) -> None:
    found = variance_of_root(*root_of_variance(variance, error))
    assert found == pytest.approx((variance, error), rel=1e-6, abs=1e-9)
    # A variance below 0 is one of 0.
    assert root_of_variance(-variance, error) == (0.0, pytest.approx(error**0.5))


def test_summary_has_specification_and_verdict_per_row(measurements: list[Measurement], tmp_path: Path) -> None:
    write_table(tmp_path / "summary.ecsv", summary_table(measurements, LIMITS))
    table = read_table(tmp_path / "summary.ecsv")
    assert table.colnames == ["metric", "detector", "amp", "led", "value", "error", "spec", "pass"]
    assert list(table["pass"]) == ["no", "-", "-", "yes", "no", "open", "yes"]
    np.testing.assert_array_equal(table["spec"], [0.0005, np.nan, np.nan, 0.005, 0.002, 0.002, 0.002])
    np.testing.assert_array_equal(table["value"], [entry.number for entry in measurements])
    np.testing.assert_array_equal(table["error"], [entry.error for entry in measurements])
    assert list(table["amp"][:5]) == ["-", "-", "all", "all", "C01"]
    assert list(table["detector"][:3]) == ["-", "-", "R22_S11"]


def test_a_summary_of_nothing_has_all_columns(tmp_path: Path) -> None:
    write_table(tmp_path / "summary.ecsv", summary_table([], LIMITS))
    table = read_table(tmp_path / "summary.ecsv", columns=("metric", "pass"))
    assert len(table) == 0


def test_a_verdict_names_the_worst_result_of_each_metric_and_led(measurements: list[Measurement]) -> None:
    found = {(verdict.metric, verdict.led): verdict for verdict in verdicts(measurements, LIMITS)}
    assert set(found) == {("beam_node_noise", "blue"), ("scatter_excess", "blue"), ("step", "blue"), ("step", "red")}
    step = found["step", "blue"]
    assert (step.checked, step.failed, step.undecided, step.state) == (2, 1, 1, "no")
    assert (step.worst.amp, step.worst.number) == ("C01", -0.0027)
    assert found["step", "red"].state == "yes"
    assert found["scatter_excess", "blue"].state == "yes"


def test_failures_are_listed_by_led_and_detector(measurements: list[Measurement]) -> None:
    found = with_verdict(measurements, LIMITS, NO)
    assert {key: [entry.metric for entry in entries] for key, entries in found.items()} == {
        ("blue", ""): ["beam_node_noise"],
        ("blue", "R22_S11"): ["step"],
    }
    assert [entry.amp for entry in with_verdict(measurements, LIMITS, OPEN)["blue", "R22_S11"]] == ["C02"]


def test_metrics_become_measurements_without_what_was_not_measured() -> None:
    metrics = Table(
        {
            "detector": ["R22_S11", "R22_S11"],
            "amp": ["all", "C10"],
            "led": ["red", "red"],
            "median": [1.02, np.nan],
            "median_err": [1e-4, np.nan],
            "step": [np.nan, 3e-4],
        }
    )
    found = flat_measurements(metrics)
    assert [(entry.metric, entry.amp, entry.number) for entry in found] == [("median", "all", 1.02), ("step", "C10", 3e-4)]
    assert found[0].error == 1e-4
    assert np.isnan(found[1].error)
