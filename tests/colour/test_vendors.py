"""The ratio of two vendors over drawn sensors."""

from __future__ import annotations

import numpy as np
import pytest

from permil.colour.planes import vendor_ratio

VENDORS = ["E2V"] * 5 + ["ITL"] * 4


def test_errors_contain_what_they_say():
    rng = np.random.default_rng(11)
    itl = np.array([name == "ITL" for name in VENDORS])
    shared = 2e-3 * itl
    covariance = np.outer(shared, shared) + 1e-6 * np.eye(9)
    measured, whole = [], []
    for _ in range(400):
        true = 0.05 * ~itl + 4e-3 * rng.standard_normal(9)
        levels = true + shared * rng.standard_normal() + 1e-3 * rng.standard_normal(9)
        found = vendor_ratio(levels, covariance, VENDORS, ("E2V", "ITL"))
        of_sensors = np.exp(true[~itl].mean() - true[itl].mean())
        measured.append((found.ratio - of_sensors) / found.error)
        whole.append((found.ratio - np.exp(0.05)) / found.vendor_error)
    assert 0.92 < np.std(measured) < 1.08
    assert 0.9 < np.std(whole) < 1.2


def test_scatter_below_the_errors_is_none():
    found = vendor_ratio(np.zeros(9), 1e-6 * np.eye(9), VENDORS, ("E2V", "ITL"))
    assert found.scatter == 0.0
    assert found.vendor_error == pytest.approx(found.error)
    assert found.counts == (5, 4)


def test_one_sensor_of_each_does_not_compare_vendors():
    found = vendor_ratio(np.array([0.1, 0.0]), 1e-6 * np.eye(2), ["E2V", "ITL"], ("E2V", "ITL"))
    assert found.ratio == pytest.approx(np.exp(0.1))
    assert np.isnan(found.vendor_error)
    assert found.error == pytest.approx(found.ratio * np.sqrt(2e-6))


def test_an_absent_vendor_has_no_ratio():
    assert vendor_ratio(np.array([0.1, np.nan]), np.eye(2), ["E2V", "ITL"], ("E2V", "ITL")) is None
