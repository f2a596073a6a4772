"""False positives, power and coverage of the figures to quote; bounds are some four sigma from the rates asked for."""

from __future__ import annotations

import numpy as np
import pytest
from correlation_fields import COLUMN, ROW, SIDE, fields

from permil.compare import correlate

DRAWS = 200
WHITE, SHORT, MIDDLE, LONG, RED = ("white", 0.0), ("gauss", 3.0), ("gauss", 5.0), ("gauss", 30.0), ("power", 3.0)


def _mask() -> np.ndarray:
    keep = np.random.default_rng(1).random((SIDE, SIDE)) > 0.1
    keep[10:20, 5:25] = False
    return keep


@pytest.mark.parametrize(
    ("first", "second", "masked"),
    [
        pytest.param(WHITE, WHITE, False, marks=pytest.mark.full),
        (WHITE, RED, False),
        pytest.param(SHORT, SHORT, False, marks=pytest.mark.full),
        (SHORT, SHORT, True),
        pytest.param(SHORT, MIDDLE, False, marks=pytest.mark.full),
        pytest.param(SHORT, LONG, False, marks=pytest.mark.full),
        (SHORT, RED, True),
    ],
)
def test_false_positives_and_availability(first: tuple[str, float], second: tuple[str, float], masked: bool) -> None:
    rng = np.random.default_rng(11)
    keep = _mask() if masked else np.ones((SIDE, SIDE), bool)
    of_a, of_b = fields(*first, rng), fields(*second, rng)
    p_values = np.array(
        [correlate(np.where(keep, next(of_a), np.nan), next(of_b), COLUMN, ROW, methods=()).p_value for _ in range(DRAWS)]
    )
    given = np.isfinite(p_values)
    assert given.mean() > 0.9
    rejected = np.mean(p_values[given] < 0.05)
    assert 0.01 <= rejected <= 0.115


def test_p_values_are_uniform_in_the_middle() -> None:
    rng = np.random.default_rng(12)
    of_a, of_b = fields(*SHORT, rng), fields(*MIDDLE, rng)
    p_values = [correlate(next(of_a), next(of_b), COLUMN, ROW, methods=()).p_value for _ in range(DRAWS)]
    counts = np.histogram(p_values, bins=[0.0, 0.2, 0.4, 0.6, 0.8, 1.0])[0]
    assert np.sum((counts - DRAWS / 5) ** 2 / (DRAWS / 5)) < 23.5  # chi-square with 4 degrees of freedom, chance 1e-4


def test_power_and_coverage() -> None:
    rng = np.random.default_rng(13)
    of_a, of_c = fields(*SHORT, rng), fields(*SHORT, rng)
    results = []
    for _ in range(DRAWS):
        a, c = next(of_a), next(of_c)
        results.append(correlate(a, 0.3 * a + np.sqrt(0.91) * c, COLUMN, ROW, methods=()))
    assert 75 < np.median([result.n_eff for result in results]) < 115
    assert np.mean([result.p_value < 0.05 for result in results]) > 0.72
    assert 0.54 < np.mean([result.interval[0] <= 0.3 <= result.interval[1] for result in results]) < 0.82
    assert 0.54 < np.mean([abs(result.r - 0.3) <= result.r_err for result in results]) < 0.82


@pytest.mark.parametrize("kind", [("gauss", 3.0), ("power", 2.0)])
def test_quoted_error_is_the_scatter(kind: tuple[str, float]) -> None:
    rng = np.random.default_rng(14)
    of_a, of_b = fields(*kind, rng), fields("gauss", 2.0, rng)
    results = []
    for _ in range(DRAWS):
        a = next(of_a)
        results.append(correlate(a, 0.5 * a + np.sqrt(0.75) * next(of_b), COLUMN, ROW, methods=()))
    ratio = np.sqrt(np.mean([result.r_err**2 for result in results])) / np.std([result.r for result in results])
    assert 0.8 < ratio < 1.25


def test_jittered_points() -> None:
    rng = np.random.default_rng(15)
    x, y = (axis + rng.uniform(-0.5, 0.5, axis.shape) for axis in (COLUMN, ROW))
    # A sum of random waves with a Gaussian spectrum is a field of Gaussian correlation at any place.
    p_values = []
    for _ in range(100):
        maps = []
        for _ in range(2):
            wave, phase = rng.standard_normal((2, 200)) / 3.0, rng.uniform(0.0, 2.0 * np.pi, 200)
            maps.append(np.cos(x[..., None] * wave[0] + y[..., None] * wave[1] + phase).sum(axis=-1))
        p_values.append(correlate(*maps, x, y, methods=()).p_value)
    assert np.isfinite(p_values).mean() > 0.9
    assert np.nanmean(np.array(p_values) < 0.05) < 0.15


def test_no_p_value_for_two_long_maps_and_the_way_out() -> None:
    rng = np.random.default_rng(16)
    a, b = next(fields("gauss", 15.0, rng)), next(fields("gauss", 15.0, rng))
    result = correlate(a, b, COLUMN, ROW, methods=())
    assert np.isnan(result.p_value)
    assert np.isnan(result.rank_p_value)
    assert "high-pass" in result.reason
    assert result.n_eff < 15


def test_no_p_value_where_both_vary_in_the_same_parts() -> None:
    rng = np.random.default_rng(17)
    envelope = np.exp(-0.5 * ((ROW - 24) ** 2 + (COLUMN - 24) ** 2) / 8.0**2) + 0.02
    a, b = envelope * rng.standard_normal((2, SIDE, SIDE))
    result = correlate(a, b, COLUMN, ROW, methods=())
    assert np.isnan(result.p_value)
    assert "non-stationary" in result.reason
    assert np.isfinite(correlate(a, rng.standard_normal((SIDE, SIDE)), COLUMN, ROW, methods=()).p_value)


def _waves(along: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    frequencies, phases = 2.0 * np.pi / 6.0 * rng.uniform(0.7, 1.3, 12), rng.uniform(0.0, 2.0 * np.pi, 12)
    return np.cos(along[..., None] * frequencies + phases).sum(axis=-1) + 0.5 * rng.standard_normal(along.shape)


@pytest.mark.parametrize("shape", ["stripes", "rings", "rings of different centres"])
def test_stripes_and_rings_are_not_called_related(shape: str) -> None:
    rng = np.random.default_rng(18)
    rejected = 0
    for _ in range(100):
        if shape == "stripes":
            places = [0.8 * COLUMN + 0.6 * ROW] * 2
        else:
            centres = [(-10.0, -10.0), (-10.0, -10.0)] if shape == "rings" else [(-10.0, -10.0), (58.0, -10.0)]
            places = [np.hypot(COLUMN - x, ROW - y) for x, y in centres]
        result = correlate(*(_waves(place, rng) for place in places), COLUMN, ROW, methods=())
        rejected += result.p_value < 0.05
    assert rejected <= 16
