"""Input, options, invariances and presentation of `permil.compare.correlate`."""

from __future__ import annotations

import numpy as np
import pytest
from correlation_fields import fields
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from permil.compare import CompareError, correlate, split_half_reliability
from permil.compare.correlation import METHODS

ROW, COLUMN = (axis.astype(float) for axis in np.mgrid[:20, :20])


@pytest.fixture(scope="module")
def maps() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    of = fields("gauss", 1.5, rng, side=20)
    a, c = next(of), next(of)
    return a, 0.4 * a + 0.9 * c


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"a": np.full((20, 20), 3.7)}, "constant"),
        ({"b": np.where(np.arange(400).reshape(20, 20) < 29, 1.0 * np.arange(400).reshape(20, 20), np.nan)}, "only 29 points"),
        ({"b": np.zeros((20, 19))}, "shapes"),
        ({"x": np.where(ROW == 3, np.nan, COLUMN)}, "not finite"),
        ({"x": np.full((20, 20), 5.0), "y": np.full((20, 20), 5.0)}, "one place"),
        ({"x": np.full((20, 20), 5.0)}, "one line"),
        ({"x": COLUMN + ROW, "y": 2.0 * (COLUMN + ROW)}, "one line"),
        ({"a_err": -np.ones((20, 20))}, "negative"),
        ({"b_err": np.ones(7)}, "shapes"),
        ({"groups": np.arange(7)}, "groups"),
        ({"methods": ("magic",)}, "magic"),
        ({"resamples": 3}, "resamples"),
        ({"a_reliability": 1.5}, "reliability"),
    ],
)
def test_bad_input_is_one_clear_sentence(maps: tuple[np.ndarray, np.ndarray], change: dict[str, object], told: str) -> None:
    arguments: dict = {"a": maps[0], "b": maps[1], "x": COLUMN, "y": ROW, "methods": ()} | change
    with pytest.raises(CompareError, match=told):
        correlate(**arguments)


def test_bad_halves() -> None:
    with pytest.raises(CompareError, match="length"):
        split_half_reliability(np.zeros(40), np.zeros(41))
    with pytest.raises(CompareError, match="finite"):
        split_half_reliability(np.full(40, np.nan), np.zeros(40))
    rng = np.random.default_rng(1)
    half = rng.standard_normal(100)
    assert np.isnan(split_half_reliability(half, -half + 0.1 * rng.standard_normal(100)).value)


def test_masked_points_are_dropped_and_counted(maps: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = maps
    mask = np.random.default_rng(2).random(a.shape) < 0.2
    first = correlate(np.where(mask, np.nan, a), b, COLUMN, ROW, methods=())
    second = correlate(a[~mask], b[~mask], COLUMN[~mask], ROW[~mask], methods=())
    assert first.n_masked == mask.sum()
    assert (first.r, first.p_value, first.n) == (second.r, second.p_value, second.n)


def test_the_same_seed_gives_the_same_and_the_summary_does_not_depend_on_methods(maps: tuple[np.ndarray, np.ndarray]) -> None:
    full = correlate(*maps, COLUMN, ROW, seed=3, resamples=50)
    again = correlate(*maps, COLUMN, ROW, seed=3, resamples=50)
    other = correlate(*maps, COLUMN, ROW, seed=4, resamples=50)
    alone = correlate(*maps, COLUMN, ROW, seed=4, resamples=50, methods=("phases",))
    assert full.row() == pytest.approx(again.row(), nan_ok=True)
    assert full.figures("phases").r_err != other.figures("phases").r_err
    assert alone.figures("phases") == other.figures("phases")
    assert (full.r_err, full.p_value, full.interval) == (alone.r_err, alone.p_value, alone.interval)
    assert [method.name for method in full.methods] == list(METHODS)


def test_groups(maps: tuple[np.ndarray, np.ndarray]) -> None:
    labels = np.array([f"exposure {int(row) // 2}" for row in ROW.ravel()]).reshape(ROW.shape)
    result = correlate(*maps, COLUMN, ROW, groups=labels, methods=("group_jackknife",))
    assert result.figures("group_jackknife").note == "10 groups"
    assert 0.0 < result.figures("group_jackknife").r_err < 0.5
    few = correlate(*maps, COLUMN, ROW, groups=ROW > 9, methods=("group_jackknife",)).figures("group_jackknife")
    assert np.isnan(few.r_err)
    assert "five" in few.note


summaries = st.fixed_dictionaries(
    {
        "scale": st.floats(1e-3, 1e3),
        "offset": st.floats(-1e3, 1e3),
        "shift": st.floats(-1e3, 1e3),
        "size": st.floats(1e-2, 1e2),
        "seed": st.integers(0, 2**16),
    }
)


@settings(max_examples=8, deadline=None)
@given(change=summaries)
def test_invariances(change: dict[str, float]) -> None:
    rng = np.random.default_rng(int(change["seed"]))
    a, b = (next(fields("gauss", 1.5, rng, side=12)).ravel() for _ in range(2))
    x, y = (axis.ravel().astype(float) for axis in np.meshgrid(np.arange(12), np.arange(12)))
    plain = correlate(a, b, x, y, methods=())
    order = rng.permutation(len(a))
    shuffled = correlate(a[order], b[order], x[order], y[order], methods=())
    swapped = correlate(b, a, x, y, methods=())
    flipped = correlate(-a, b, x, y, methods=())
    moved = correlate(
        change["scale"] * a + change["offset"],
        b,
        change["size"] * x + change["shift"],
        change["size"] * y - change["shift"],
        methods=(),
    )
    assert (shuffled.r, shuffled.p_value, shuffled.r_err) == (plain.r, plain.p_value, plain.r_err)
    for other, sign in ((swapped, 1.0), (flipped, -1.0), (moved, 1.0)):
        assert other.r == pytest.approx(sign * plain.r, abs=1e-6)
        assert other.r_err == pytest.approx(plain.r_err, rel=1e-3)
        assert other.n_eff == pytest.approx(plain.n_eff, rel=1e-3)
        assert other.p_value == pytest.approx(plain.p_value, rel=1e-2, nan_ok=True)


def test_perfectly_related_maps() -> None:
    a = np.random.default_rng(5).standard_normal((20, 20))
    result = correlate(a, 2.0 * a + 1.0, COLUMN, ROW, resamples=50)
    assert result.r == pytest.approx(1.0)
    assert result.p_value < 1e-10
    assert result.corrected.slope.value == pytest.approx(2.0)


def test_account_for_people(maps: tuple[np.ndarray, np.ndarray]) -> None:
    result = correlate(*maps, COLUMN, ROW, a_err=0.2, resamples=50)
    text = str(result)
    assert f"r = {result.r:+.3f}" in text
    assert "400 values" in text
    assert f"worth {result.n_eff:.0f} independent" in text
    assert "without measurement errors" in text
    for method in METHODS:
        assert method in text
    assert "No p-value: the maps change so slowly" in str(correlate(ROW**2, COLUMN + ROW, COLUMN, ROW, methods=()))


def test_figure_and_row(maps: tuple[np.ndarray, np.ndarray]) -> None:
    result = correlate(*maps, COLUMN, ROW, resamples=50)
    figure = result.plot(Figure())
    assert len(figure.axes) == 3
    assert figure.axes[0].get_title().startswith("r = ")
    figure.canvas.draw()
    row = result.row()
    assert row["r"] == result.r
    assert row["phases_p_value"] == result.figures("phases").p_value
    assert all(isinstance(cell, (int, float, str)) for cell in row.values())
