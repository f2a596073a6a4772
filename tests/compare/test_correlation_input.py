"""Input, options, invariances and presentation of `permil.compare.correlate`."""

from __future__ import annotations

import numpy as np
import pytest
from astropy import units as u
from astropy.table import MaskedColumn
from astropy.utils.masked import Masked
from correlation_fields import fields
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from permil.compare import CompareError, correlate, split_half_reliability
from permil.compare.correlation import METHODS
from permil.rounding import rounded

ROW, COLUMN = (axis.astype(float) for axis in np.mgrid[:20, :20])


@pytest.fixture(scope="module")
def maps() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    of = fields("gauss", 1.5, rng, side=20)
    a, c = next(of), next(of)
    return a, 0.4 * a + 0.9 * c


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": np.full((20, 20), 3.7)}, "constant"),
        ({"b": np.where(np.arange(400).reshape(20, 20) < 29, 1.0 * np.arange(400).reshape(20, 20), np.nan)}, "only 29 points"),
        ({"b": np.zeros((20, 19))}, "shapes"),
        ({"x": np.where(ROW == 3, np.nan, COLUMN)}, "not finite"),
        ({"x": np.full((20, 20), 5.0), "y": np.full((20, 20), 5.0)}, "the same position"),
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
def test_bad_input_is_one_clear_sentence(maps: tuple[np.ndarray, np.ndarray], change: dict[str, object], message: str) -> None:
    arguments: dict = {"a": maps[0], "b": maps[1], "x": COLUMN, "y": ROW, "methods": ()} | change
    with pytest.raises(CompareError, match=message):
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


@settings(max_examples=8)
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


@pytest.mark.parametrize("size", [0.0, 1e-12, 1e-9, 1e-6])
@pytest.mark.parametrize("seed", range(4))
def test_errors_of_maps_that_differ_by_rounding(seed: int, size: float) -> None:
    """The scatter of r between blocks is rounding: its ratio to another error must not scale the errors of the corrected values."""
    a, noise = np.random.default_rng(seed).standard_normal((2, 20, 20))
    result = correlate(a, a + size * noise, COLUMN, ROW, a_err=0.2, b_err=0.2, methods=(), resamples=50)
    for estimate in (result.corrected.r, result.corrected.slope):
        assert 1.0 < estimate.value < 1.1
        assert 1e-3 < estimate.error < 1e-2


def test_account_for_people(maps: tuple[np.ndarray, np.ndarray]) -> None:
    result = correlate(*maps, COLUMN, ROW, a_err=0.2, resamples=50)
    text = str(result)
    assert f"r = {rounded(result.r, result.r_err, plus_minus='±', sign=True)}" in text
    assert "400 values" in text
    assert f"equivalent to {result.n_eff:.0f} independent" in text
    assert "without measurement errors" in text
    for method in METHODS:
        assert method in text
    assert "No p-value: the maps vary so slowly" in str(correlate(ROW**2, COLUMN + ROW, COLUMN, ROW, methods=()))


def test_figure_and_row(maps: tuple[np.ndarray, np.ndarray]) -> None:
    result = correlate(*maps, COLUMN, ROW, resamples=50)
    figure = result.plot_all(Figure())
    assert len(figure.axes) == 3
    assert figure.axes[0].get_title().startswith("r = ")
    figure.canvas.draw()
    row = result.row()
    assert row["r"] == result.r
    assert row["phases_p_value"] == result.figures("phases").p_value
    assert all(isinstance(cell, (int, float, str)) for cell in row.values())


def hidden(values: np.ndarray, mask: np.ndarray, kind: str) -> object:
    """Return the values with junk under a mask, in some kind of masked array."""
    junk = np.where(mask, -9999.0, values)
    if kind == "Masked":
        return Masked(junk, mask=mask)
    if kind == "masked quantity":
        return Masked(junk * u.mm, mask=mask)
    if kind == "big-endian":
        return np.ma.array(junk.astype(">f8"), mask=mask)
    if kind == "list with None":
        return [[None if lost else value for value, lost in zip(*row, strict=True)] for row in zip(values, mask, strict=True)]
    return np.ma.array(junk, mask=mask)


@pytest.mark.parametrize("kind", ["numpy.ma", "Masked", "masked quantity", "big-endian", "list with None"])
@pytest.mark.parametrize("name", ["a", "x", "a_err"])
def test_masked_arrays_of_any_kind(maps: tuple[np.ndarray, np.ndarray], kind: str, name: str) -> None:
    mask = np.zeros((20, 20), dtype=bool)
    mask[::3, ::2] = True
    arguments: dict = {"a": maps[0], "b": maps[1], "x": COLUMN, "y": ROW, "a_err": np.full((20, 20), 0.1)}
    truth = correlate(**arguments | {"a": np.where(mask, np.nan, maps[0])}, methods=())
    if name == "x" and kind == "masked quantity":
        arguments["y"] = ROW * u.mm
    if name == "a_err" and kind == "masked quantity":
        arguments["a"] = maps[0] * u.mm
    found = correlate(**arguments | {name: hidden(np.asarray(arguments[name]), mask, kind)}, methods=())
    assert (found.r, found.n, found.n_masked) == (truth.r, truth.n, truth.n_masked)


def test_a_masked_column_and_masked_groups(maps: tuple[np.ndarray, np.ndarray]) -> None:
    a, b, x, y = (values.ravel() for values in (*maps, COLUMN, ROW))
    mask = np.arange(400) % 7 == 0
    truth = correlate(np.where(mask, np.nan, a), b, x, y, methods=())
    assert correlate(MaskedColumn(np.where(mask, 1e9, a), mask=mask), b, x, y, methods=()).r == truth.r
    with pytest.raises(CompareError, match="groups has no label for 58 points"):
        correlate(a, b, x, y, groups=np.ma.array(y, mask=mask), methods=())
    halves = np.ma.array(a, mask=mask), np.ma.array(b, mask=mask)
    kept = split_half_reliability(*halves, x=x, y=y), split_half_reliability(a[~mask], b[~mask], x=x[~mask], y=y[~mask])
    assert kept[0].value == kept[1].value


@pytest.mark.parametrize(
    "change",
    [
        lambda maps: {"a": maps[0] * u.mm, "a_err": np.full((20, 20), 100.0) * u.um},
        lambda maps: {"a": maps[0].tolist(), "x": COLUMN.astype(int)},
        lambda maps: {"a": maps[0].astype(">f8"), "y": ROW.astype(">i2")},
        lambda maps: {"a": np.asfortranarray(maps[0]), "x": np.ascontiguousarray(COLUMN.T).T},
        lambda maps: {"a": maps[0].astype(np.longdouble)},
        lambda _: {"x": COLUMN * u.mm, "y": 1e3 * ROW * u.um},
        lambda maps: {"a": np.array(maps[0].tolist(), dtype=object)},
    ],
    ids=[
        "errors in another unit",
        "lists and integers",
        "big-endian",
        "other layouts",
        "long doubles",
        "places in two units",
        "objects",
    ],
)
def test_units_and_kinds_of_arrays(maps: tuple[np.ndarray, np.ndarray], change) -> None:
    arguments: dict = {"a": maps[0], "b": maps[1], "x": COLUMN, "y": ROW, "a_err": 0.1, "methods": ()}
    truth, found = correlate(**arguments), correlate(**arguments | change(maps))
    assert found.r == pytest.approx(truth.r, rel=1e-12)
    assert found.corrected.r.value == pytest.approx(truth.corrected.r.value, rel=1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a_err": np.full((20, 20), 0.1) * u.s, "a": COLUMN * u.mm}, "a_err is given in s"),
        ({"a": COLUMN + 1j}, "a does not hold real numbers"),
        ({"a": COLUMN.astype(str)}, "a does not hold real numbers"),
        ({"x": COLUMN * u.mm, "y": ROW * u.pixel}, "y is given in pix"),
        ({"a": [[1.0, 2.0], [3.0]]}, "a cannot be converted to an array"),
        (
            {"x": np.where((ROW == 3) & (COLUMN == 4), 1e7, COLUMN)},
            r"1 points lie more than 300 times farther out .* \(1e\+07, 3\)",
        ),
        ({"x": COLUMN % 2, "y": ROW % 3}, "only 6 distinct positions"),
        ({"x": COLUMN * 1e200, "y": ROW * 1e200}, "in a usual unit"),
        ({"x": COLUMN.astype(np.int64) + 2**60, "y": ROW.astype(np.int64) + 2**60}, "the same position, to numerical precision"),
    ],
)
def test_arrays_that_cannot_be_used(maps: tuple[np.ndarray, np.ndarray], change: dict, message: str) -> None:
    arguments: dict = {"a": maps[0] + 0.0, "b": maps[1], "x": COLUMN, "y": ROW, "methods": ()} | change
    with pytest.raises(CompareError, match=message):
        correlate(**arguments)


@pytest.mark.parametrize("copies", [2, 3])
def test_points_given_twice_count_once(maps: tuple[np.ndarray, np.ndarray], copies: int) -> None:
    columns = [values.ravel() for values in (*maps, COLUMN, ROW)]
    once = correlate(*columns, methods=())
    order = np.random.default_rng(0).permutation(400 * copies)
    again = correlate(*(np.tile(column, copies)[order] for column in columns), methods=())
    assert (again.r, again.r_err, again.p_value, again.n) == (once.r, once.r_err, once.p_value, 400)
    assert again.n_repeated == 400 * (copies - 1)
    assert f"{again.n_repeated} more are duplicates and count once" in str(again)
    part = correlate(*(np.append(column, column[:30]) for column in columns), methods=())
    assert (part.r, part.n_repeated) == (once.r, 30)


def test_maps_of_few_levels_may_have_equal_points() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 2, (2, 1200)).astype(float)
    x, y = (np.tile(axis.ravel(), 3) for axis in (COLUMN, ROW))
    result = correlate(a, b, x, y, methods=())
    assert (result.n, result.n_repeated) == (1200, 0)
    assert result.r == pytest.approx(np.corrcoef(a, b)[0, 1], rel=1e-9)
    # All points given twice are a table given twice.
    assert correlate(*(np.tile(column[:400], 2) for column in (a, b, x, y)), methods=()).n_repeated == 400


PLACES = {
    "five values at each place": (np.repeat(COLUMN.ravel(), 5), np.repeat(ROW.ravel(), 5)),
    "unequal numbers of values": (
        np.repeat(COLUMN.ravel(), 1 + np.arange(400) % 4),
        np.repeat(ROW.ravel(), 1 + np.arange(400) % 4),
    ),
    "values at places equal up to rounding": (np.repeat(COLUMN.ravel(), 2) + 1e-13 * np.arange(800), np.repeat(ROW.ravel(), 2)),
    "steps 1:6": (COLUMN.ravel(), 6.0 * ROW.ravel()),
    "steps 1:100": (COLUMN.ravel(), 100.0 * ROW.ravel()),
    "steps 1:6, three values": (np.repeat(COLUMN.ravel(), 3), np.repeat(6.0 * ROW.ravel(), 3)),
    "two columns": (np.arange(80) % 2.0, np.arange(80) // 2.0),
    "a thin strip": (np.random.default_rng(1).random(200), 1e-4 * np.random.default_rng(2).random(200)),
    "a large offset": (COLUMN.ravel() + 1e9, ROW.ravel() - 1e9),
    "few places, many values": (np.repeat(np.arange(20) % 5.0, 60), np.repeat(np.arange(20) // 5.0, 60)),
    "an irregular grid twice": tuple(np.tile(np.random.default_rng(3).random((2, 150)), 2)),
}


@pytest.mark.parametrize("places", PLACES.values(), ids=PLACES)
def test_repeated_and_degenerate_places_give_a_result(places: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = places
    rng = np.random.default_rng(5)
    a = rng.standard_normal(len(x))
    result = correlate(
        a, 0.6 * a + 0.8 * rng.standard_normal(len(x)), x, y, resamples=20, methods=("block_bootstrap", "phases", "shifts")
    )
    # The values are independent: r has the scatter of independent pairs.
    assert result.n == len(x)
    assert result.r_err == pytest.approx((1 - result.r**2) / np.sqrt(len(x)), rel=0.35)
    assert result.p_value < 1e-2


@pytest.mark.parametrize("values", ["one value", "both one value"])
def test_a_jackknife_that_does_not_exist_has_a_reason(values: str) -> None:
    a = np.where((ROW == 3) & (COLUMN == 4), 1.0, 0.0)
    b = a if values == "both one value" else np.random.default_rng(0).standard_normal((20, 20))
    result = correlate(a, b, COLUMN, ROW, a_err=0.01, methods=("block_jackknife",))
    assert np.isfinite(result.r_err)
    assert "one block contains the whole variance" in result.figures("block_jackknife").note
    assert "one block contains the whole variance" in str(result.corrected.r)


def test_extreme_values_are_standardised_without_overflow(maps: tuple[np.ndarray, np.ndarray]) -> None:
    plain = correlate(*maps, COLUMN, ROW, methods=())
    for factor in (1e300, 1e-300):
        assert correlate(factor * maps[0], maps[1], COLUMN, ROW, methods=()).r == pytest.approx(plain.r, rel=1e-9)
