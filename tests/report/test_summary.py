"""Verdicts and the summary table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table

from permil.config.report import ReportConfig
from permil.products import read_table, write_table
from permil.report import summary_table
from permil.report.summary import Measurement, failures, flat_measurements, judge, verdicts

LIMITS = ReportConfig(scatter_limit=0.005, step_limit=0.002, noise_limit=0.001, node_noise_limit=0.0005)


@pytest.fixture
def measurements() -> list[Measurement]:
    """Return results of which the step of C01 and the node noise of blue fail."""
    return [
        Measurement("beam_node_noise", "blue", 0.0006, 1e-5),
        Measurement("beam_maximum_x", "blue", 1.4, 0.3),
        Measurement("median", "blue", 1.01, 1e-4, "R22_S11", "all"),
        Measurement("scatter", "blue", 0.005, 1e-5, "R22_S11", "all"),
        Measurement("step", "blue", -0.0021, 2e-4, "R22_S11", "C01"),
        Measurement("step", "blue", 0.0019, 2e-4, "R22_S11", "C02"),
        Measurement("step", "red", 0.0003, 2e-4, "R22_S11", "C02"),
    ]


@pytest.mark.parametrize(
    ("number", "spec", "expected"),
    [(1.0, 1.0, "yes"), (-1.0, 1.0, "yes"), (1.01, 1.0, "no"), (-1.01, 1.0, "no"), (9.0, np.nan, "-"), (np.nan, 1.0, "-")],
)
def test_a_result_passes_when_its_size_does_not_exceed_the_specification(number: float, spec: float, expected: str) -> None:
    assert judge(number, spec) == expected


def test_summary_has_specification_and_verdict_per_row(measurements: list[Measurement], tmp_path: Path) -> None:
    write_table(tmp_path / "summary.ecsv", summary_table(measurements, LIMITS))
    table = read_table(tmp_path / "summary.ecsv")
    assert table.colnames == ["metric", "detector", "amp", "led", "value", "error", "spec", "pass"]
    assert list(table["pass"]) == ["no", "-", "-", "yes", "no", "yes", "yes"]
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
    assert set(found) == {("beam_node_noise", "blue"), ("scatter", "blue"), ("step", "blue"), ("step", "red")}
    step = found["step", "blue"]
    assert (step.checked, step.failed, step.passed) == (2, 1, False)
    assert (step.worst.amp, step.worst.number) == ("C01", -0.0021)
    assert found["step", "red"].passed
    assert found["scatter", "blue"].passed


def test_failures_are_listed_by_led_and_detector(measurements: list[Measurement]) -> None:
    found = failures(measurements, LIMITS)
    assert {key: [entry.metric for entry in entries] for key, entries in found.items()} == {
        ("blue", ""): ["beam_node_noise"],
        ("blue", "R22_S11"): ["step"],
    }


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
