"""False positives, power and coverage of the figures to quote; bounds are some four sigma from the rates asked for.

The full tests draw 200 pairs of maps for each case, the others a few cases with 60.
"""

from __future__ import annotations

import numpy as np
import pytest
from correlation_fields import COLUMN, ROW, SIDE, fields

from permil.compare import correlate

FULL = 200
DRAWS = [60, pytest.param(FULL, marks=pytest.mark.full)]
WHITE, SHORT, MIDDLE, LONG, RED = ("white", 0.0), ("gauss", 3.0), ("gauss", 5.0), ("gauss", 30.0), ("power", 3.0)


def _four_sigma(rate: float, draws: int) -> float:
    """Return four standard errors of a rate that is found in some draws."""
    return 4.0 * float(np.sqrt(rate * (1.0 - rate) / draws))


def _mask() -> np.ndarray:
    keep = np.random.default_rng(1).random((SIDE, SIDE)) > 0.1
    keep[10:20, 5:25] = False
    return keep


@pytest.mark.parametrize(
    ("first", "second", "masked", "draws"),
    [
        (WHITE, RED, False, 60),
        (SHORT, SHORT, True, 60),
        (SHORT, RED, True, 60),
        *(
            pytest.param(*maps, FULL, marks=pytest.mark.full)
            for maps in (
                (WHITE, WHITE, False),
                (WHITE, RED, False),
                (SHORT, SHORT, False),
                (SHORT, SHORT, True),
                (SHORT, MIDDLE, False),
                (SHORT, LONG, False),
                (SHORT, RED, True),
            )
        ),
    ],
)
def test_false_positives_and_availability(first: tuple[str, float], second: tuple[str, float], masked: bool, draws: int) -> None:
    rng = np.random.default_rng(11)
    keep = _mask() if masked else np.ones((SIDE, SIDE), bool)
    of_a, of_b = fields(*first, rng), fields(*second, rng)
    p_values = np.array(
        [correlate(np.where(keep, next(of_a), np.nan), next(of_b), COLUMN, ROW, methods=()).p_value for _ in range(draws)]
    )
    given = np.isfinite(p_values)
    assert given.mean() > 0.9
    rejected = np.mean(p_values[given] < 0.05)
    if draws == FULL:
        assert 0.01 <= rejected <= 0.115
    else:
        assert rejected <= 0.05 + _four_sigma(0.05, draws)


@pytest.mark.parametrize("draws", DRAWS)
def test_p_values_are_uniform_in_the_middle(draws: int) -> None:
    rng = np.random.default_rng(12)
    of_a, of_b = fields(*SHORT, rng), fields(*MIDDLE, rng)
    p_values = [correlate(next(of_a), next(of_b), COLUMN, ROW, methods=()).p_value for _ in range(draws)]
    counts = np.histogram(p_values, bins=[0.0, 0.2, 0.4, 0.6, 0.8, 1.0])[0]
    assert np.sum((counts - draws / 5) ** 2 / (draws / 5)) < 23.5  # chi-square with 4 degrees of freedom, chance 1e-4


@pytest.mark.parametrize("draws", DRAWS)
def test_power_and_coverage(draws: int) -> None:
    rng = np.random.default_rng(13)
    of_a, of_c = fields(*SHORT, rng), fields(*SHORT, rng)
    results = []
    for _ in range(draws):
        a, c = next(of_a), next(of_c)
        results.append(correlate(a, 0.3 * a + np.sqrt(0.91) * c, COLUMN, ROW, methods=()))
    assert 75 < np.median([result.n_eff for result in results]) < 115
    assert np.mean([result.p_value < 0.05 for result in results]) > 0.83 - _four_sigma(0.83, draws)
    for covered in (
        [result.interval[0] <= 0.3 <= result.interval[1] for result in results],
        [abs(result.r - 0.3) <= result.r_err for result in results],
    ):
        assert np.mean(covered) == pytest.approx(0.68, abs=_four_sigma(0.68, draws) + 0.01)


@pytest.mark.parametrize("draws", DRAWS)
@pytest.mark.parametrize("kind", [("gauss", 3.0), ("power", 2.0)])
def test_quoted_error_is_the_scatter(kind: tuple[str, float], draws: int) -> None:
    rng = np.random.default_rng(14)
    of_a, of_b = fields(*kind, rng), fields("gauss", 2.0, rng)
    results = []
    for _ in range(draws):
        a = next(of_a)
        results.append(correlate(a, 0.5 * a + np.sqrt(0.75) * next(of_b), COLUMN, ROW, methods=()))
    ratio = np.sqrt(np.mean([result.r_err**2 for result in results])) / np.std([result.r for result in results])
    # A scatter of n values is known to 1 / sqrt(2 n).
    assert abs(np.log(ratio)) < 4.5 / np.sqrt(2 * draws)


@pytest.mark.parametrize("draws", [30, pytest.param(100, marks=pytest.mark.full)])
def test_jittered_points(draws: int) -> None:
    rng = np.random.default_rng(15)
    x, y = (axis + rng.uniform(-0.5, 0.5, axis.shape) for axis in (COLUMN, ROW))
    # A sum of random waves with a Gaussian spectrum is a field of Gaussian correlation at any place.
    p_values = []
    for _ in range(draws):
        maps = []
        for _ in range(2):
            wave, phase = rng.standard_normal((2, 200)) / 3.0, rng.uniform(0.0, 2.0 * np.pi, 200)
            maps.append(np.cos(x[..., None] * wave[0] + y[..., None] * wave[1] + phase).sum(axis=-1))
        p_values.append(correlate(*maps, x, y, methods=()).p_value)
    assert np.isfinite(p_values).mean() > 0.9
    assert np.nanmean(np.array(p_values) < 0.05) < 0.06 + _four_sigma(0.05, draws)


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


@pytest.mark.parametrize("draws", [40, pytest.param(100, marks=pytest.mark.full)])
@pytest.mark.parametrize("shape", ["stripes", "rings", "rings of different centres"])
def test_stripes_and_rings_are_not_called_related(shape: str, draws: int) -> None:
    rng = np.random.default_rng(18)
    rejected = 0
    for _ in range(draws):
        if shape == "stripes":
            places = [0.8 * COLUMN + 0.6 * ROW] * 2
        else:
            centres = [(-10.0, -10.0), (-10.0, -10.0)] if shape == "rings" else [(-10.0, -10.0), (58.0, -10.0)]
            places = [np.hypot(COLUMN - x, ROW - y) for x, y in centres]
        result = correlate(*(_waves(place, rng) for place in places), COLUMN, ROW, methods=())
        rejected += result.p_value < 0.05
    assert rejected / draws <= 0.073 + _four_sigma(0.05, draws)
