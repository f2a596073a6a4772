"""The kernels of the joint solution against dense NumPy and SciPy formulas, at every level of instructions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from scipy.interpolate import NdBSpline

from kernel_levels import LEVELS, kernels_of
from permil._kernels import joint as kernels
from permil.flat.joint.spline import SplineGrid
from permil.flat.joint.weather import pattern_values

PIXELS, EXPOSURES = 150, 9


@dataclass
class Case:
    """Signals of a tile with a beam and a reflection, moves and weather, in random order; some have no weight, one exposure is dark."""

    grids: list[SplineGrid]
    signs: list[float]
    counts: np.ndarray
    places: np.ndarray
    vector: np.ndarray
    x: np.ndarray
    y: np.ndarray
    centres: np.ndarray
    frames: np.ndarray
    further: np.ndarray
    parts: np.ndarray
    weights: np.ndarray

    @property
    def patterns(self) -> tuple[np.ndarray, np.ndarray]:
        """Return what kernels need of the patterns."""
        return self.counts, self.places

    def splines(self, along: tuple[int, int]) -> np.ndarray:
        """Return sums over patterns of derivatives of their splines with respect to the projector, shape (e, p)."""
        total = np.zeros((EXPOSURES, PIXELS))
        for grid, sign, (_, _, start) in zip(self.grids, self.signs, self.counts, strict=True):
            knots = [first + grid.spacing * (np.arange(n + 4) - 2) for first, n in zip(grid.origin, grid.shape, strict=True)]
            spline = NdBSpline(tuple(knots), self.vector[start : start + grid.size].reshape(grid.shape), 3)
            seen = np.stack(
                [np.add.outer(sign * self.centres[:, axis], place) for axis, place in enumerate((self.x, self.y))], axis=-1
            )
            total += sign ** sum(along) * spline(seen, nu=along)
        return total

    def smooth(self) -> np.ndarray:
        """Return the patterns of weather, shape (5, e, p)."""
        u, v = ((place - self.frames[:, axis, None]) / self.frames[:, 2:] for axis, place in enumerate((self.x, self.y)))
        return pattern_values(u, v)

    def rows(self) -> np.ndarray:
        """Return the derivatives of all logarithms with respect to the unknowns, shape (e, p, unknowns)."""
        rows = np.zeros((EXPOSURES, PIXELS, self.vector.size))
        basis = np.stack([np.ones((EXPOSURES, PIXELS)), self.splines((1, 0)), self.splines((0, 1)), *self.smooth()])
        for exposure in range(EXPOSURES):
            for grid, sign, (_, _, start) in zip(self.grids, self.signs, self.counts, strict=True):
                centre = sign * self.centres[exposure]
                rows[exposure, :, start : start + grid.size] = grid.design(self.x + centre[0], self.y + centre[1]).toarray()
            own = self.parts[exposure][:, : self.parts.shape[2]] @ basis[: self.parts.shape[2], exposure]
            rows[exposure][:, self.further[exposure]] = own.T
        return rows


def case(seed: int, *, reflection: bool, weather: bool) -> Case:
    rng = np.random.default_rng(seed)
    signs = [-1.0, 1.0][: 1 + reflection]
    grids = [SplineGrid.covering(np.full(2, -14.0), np.full(2, 14.0), spacing) for spacing in (3.0, 5.0)[: len(signs)]]
    starts = np.cumsum([0, *(grid.size for grid in grids)])
    counts = np.array([(*grid.shape, start) for grid, start in zip(grids, starts[:-1], strict=True)])
    places = np.array([(*grid.origin, grid.spacing, sign) for grid, sign in zip(grids, signs, strict=True)])
    n_parts = 8 if weather else 3
    further = starts[-1] + np.column_stack(
        [np.arange(EXPOSURES), EXPOSURES + rng.integers(0, 3, EXPOSURES), np.full(EXPOSURES, EXPOSURES + 3)]
    )
    weights = rng.exponential(1.0, (EXPOSURES, PIXELS)) * (rng.random((EXPOSURES, PIXELS)) > 0.1)
    weights[4] = 0.0
    x, y = rng.uniform(-4.0, 4.0, (2, PIXELS))
    order = np.lexsort((np.floor(y / 3), np.floor(x / 3)))
    x[: PIXELS // 2], y[: PIXELS // 2] = x[order][: PIXELS // 2], y[order][: PIXELS // 2]
    return Case(
        grids,
        signs,
        counts,
        places,
        rng.standard_normal(starts[-1] + EXPOSURES + 4),
        x,
        y,
        rng.uniform(-9.0, 9.0, (EXPOSURES, 2)),
        np.column_stack([rng.uniform(-3.0, 3.0, (EXPOSURES, 2)), np.full(EXPOSURES, 7.0)]),
        further,
        rng.standard_normal((EXPOSURES, 3, n_parts)),
        weights,
    )


CASES = [(11, False, False), (12, True, False), (13, False, True), (14, True, True)]


def sums_of_tile(own: Case) -> dict[str, np.ndarray]:
    """Return what the kernels make of a tile and its gradient."""
    n = own.vector.size
    windows, marked = np.zeros((EXPOSURES, len(own.signs), 4), dtype=np.int64), np.zeros(n, dtype=bool)
    bounds = np.array([own.x.min(), own.x.max(), own.y.min(), own.y.max()])
    lit = own.weights.any(axis=1)
    kernels.mark_windows(bounds, own.centres, *own.patterns, own.further, lit, windows, marked)
    used = np.flatnonzero(marked)
    positions = np.zeros(n, dtype=np.int64)
    positions[used] = np.arange(used.size)
    sums, moments = np.zeros((PIXELS, used.size)), np.zeros(PIXELS)
    side = int((windows[:, :, 1] * windows[:, :, 3]).sum(axis=1).max()) + own.parts.shape[2]
    blocks = np.zeros((EXPOSURES, side, side))
    state = *own.patterns, own.vector, own.further, own.parts, own.frames
    kernels.sum_tile(own.x, own.y, own.weights, own.centres, *state, windows, positions, sums, moments, blocks)
    matrix = np.zeros((n, n))
    for low, high in ((0, 37), (37, n - 2), (n - 2, n)):
        kernels.add_blocks(matrix, blocks, windows, own.counts, own.further, own.parts, low, high)
    residual = np.random.default_rng(0).standard_normal(own.weights.shape)
    gradient = np.zeros(n)
    kernels.add_gradient(own.x, own.y, residual, own.weights, own.centres, *state, gradient)
    return {"used": used, "sums": sums, "moments": moments, "matrix": matrix, "gradient": gradient, "residual": residual}


@pytest.mark.parametrize(("seed", "reflection", "weather"), CASES)
@pytest.mark.parametrize("level", LEVELS)
def test_sums_of_a_tile_are_those_of_dense_rows(level: str, seed: int, *, reflection: bool, weather: bool) -> None:
    own = case(seed, reflection=reflection, weather=weather)
    with kernels_of(level):
        found = sums_of_tile(own)
    rows = own.rows()
    weighted = own.weights[:, :, None] * rows
    np.testing.assert_allclose(found["moments"], own.weights.sum(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found["sums"], weighted.sum(axis=0)[:, found["used"]], rtol=1e-10, atol=1e-10)
    np.testing.assert_array_equal(weighted.any(axis=(0, 1)) & ~np.isin(np.arange(own.vector.size), found["used"]), False)
    np.testing.assert_allclose(found["gradient"], np.einsum("epn,ep->n", weighted, found["residual"]), rtol=1e-10, atol=1e-10)
    dense = np.einsum("epn,epm->nm", weighted, rows, optimize=True)
    np.testing.assert_allclose(np.triu(found["matrix"]), np.triu(dense), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("seed", "reflection", "weather"), CASES)
@pytest.mark.parametrize("level", LEVELS)
def test_logarithms_and_slopes_are_those_of_scipy(level: str, seed: int, *, reflection: bool, weather: bool) -> None:
    own = case(seed, reflection=reflection, weather=weather)
    rng = np.random.default_rng(seed)
    scales, coefficients = rng.standard_normal(EXPOSURES), rng.standard_normal((EXPOSURES, 5 if weather else 0))
    slopes = np.full((EXPOSURES, 4, PIXELS), 7.0)
    state = own.x, own.y, own.centres
    with kernels_of(level):
        found = kernels.predict(*state, scales, *own.patterns, own.vector, own.frames, coefficients)
        kernels.slopes_along(*state, *own.patterns, own.vector, slopes[:, 1:3])
    expected = scales[:, None] + own.splines((0, 0))
    if weather:
        expected = expected + np.einsum("ek,kep->ep", coefficients, own.smooth())
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(slopes[:, 1], own.splines((1, 0)), rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(slopes[:, 2], own.splines((0, 1)), rtol=1e-11, atol=1e-11)
    assert (slopes[:, [0, 3]] == 7.0).all()


@pytest.mark.parametrize("level", LEVELS)
def test_a_spline_is_that_of_scipy_inside_its_area(level: str) -> None:
    rng = np.random.default_rng(5)
    grid = SplineGrid.covering(np.array([-3.0, 1.0]), np.array([8.0, 6.0]), 1.7)
    coefficients = rng.standard_normal(grid.size)
    x, y = rng.uniform(-6.0, 11.0, 300), rng.uniform(-2.0, 9.0, 300)
    x[:2], y[:2] = np.array([grid.lower, grid.upper]).T
    x[2] = np.nan
    with kernels_of(level):
        found = grid.evaluate(coefficients, x, y)
    inside = (x >= grid.lower[0]) & (x <= grid.upper[0]) & (y >= grid.lower[1]) & (y <= grid.upper[1])
    np.testing.assert_array_equal(np.isfinite(found), inside)
    assert 50 < inside.sum() < 250
    np.testing.assert_allclose(found[inside], grid.design(x[inside], y[inside]) @ coefficients, rtol=1e-12, atol=1e-12)


def robust_reference(difference: np.ndarray, weights: np.ndarray, threshold: float) -> tuple[float, np.ndarray, float]:
    """Return response, robust weights and objective of one super-pixel."""
    lit = weights > 0
    if not lit.any():
        return np.nan, weights, 0.0
    y, w = difference[lit], weights[lit]
    level, factors = np.average(y, weights=w), np.ones(w.size)
    if np.isfinite(threshold):
        for _ in range(7):
            before = level
            factors = threshold / np.maximum(np.abs(y - level) * np.sqrt(w), threshold)
            level = np.average(y, weights=w * factors)
            if abs(level - before) < 1e-12:
                break
    deviation = np.abs(y - level) * np.sqrt(w)
    robust = weights.copy()
    far = deviation > threshold
    robust[lit] = np.where(far, w * threshold / np.maximum(deviation, 1e-300), w) if far.any() else w
    huber = np.where(far, threshold * (2 * deviation - threshold), deviation**2) if far.any() else deviation**2
    return level, robust, float(huber.sum())


@pytest.mark.parametrize("threshold", [np.inf, 1.5])
@pytest.mark.parametrize("level", LEVELS)
def test_responses_are_robust_means(level: str, threshold: float) -> None:
    rng = np.random.default_rng(21)
    shape = (30, PIXELS)
    weights = rng.exponential(50.0, shape) * (rng.random(shape) > 0.2)
    difference = rng.standard_t(2.0, shape) / np.sqrt(np.where(weights > 0, weights, 1.0)) + rng.standard_normal(PIXELS)
    weights[:, 7] = 0.0
    difference[weights == 0] = np.nan
    residual, robust = difference.copy(), weights.copy()
    with kernels_of(level):
        response, objective = kernels.profile_response(residual, robust, threshold)
    expected = [robust_reference(y, w, threshold) for y, w in zip(difference.T, weights.T, strict=True)]
    np.testing.assert_allclose(response, [each[0] for each in expected], rtol=1e-10)
    np.testing.assert_allclose(robust.T, [each[1] for each in expected], rtol=1e-9)
    assert objective == pytest.approx(sum(each[2] for each in expected), rel=1e-11)
    np.testing.assert_allclose(residual, np.where(weights > 0, difference - response, 0.0), atol=1e-14)
    assert np.isnan(response[7])


@pytest.mark.parametrize("level", LEVELS)
def test_products_are_subtracted_from_their_rows_and_the_triangle_is_mirrored(level: str) -> None:
    rng = np.random.default_rng(3)
    columns = np.flatnonzero(rng.random(90) < 0.6)
    whole = rng.standard_normal((100, 95))
    matrix = whole[:90, :90]
    first, rows = 5, 20
    product = rng.standard_normal((rows, columns.size - first))
    expected = matrix.copy()
    expected[np.ix_(columns[first : first + rows], columns[first:])] -= np.triu(product)
    outside = whole[:, 90:].copy()
    with kernels_of(level):
        kernels.subtract_rows(matrix, product, columns, first)
        np.testing.assert_array_equal(matrix, expected)
        kernels.mirror_upper(matrix)
    np.testing.assert_array_equal(matrix, np.triu(expected) + np.triu(expected, 1).T)
    np.testing.assert_array_equal(whole[:, 90:], outside)


def test_all_levels_have_the_same_bits() -> None:
    found = []
    for level in LEVELS:
        with kernels_of(level):
            found.append(
                [sums_of_tile(case(seed, reflection=reflection, weather=weather)) for seed, reflection, weather in CASES]
            )
            own = case(31, reflection=True, weather=True)
            difference = kernels.predict(
                own.x, own.y, own.centres, np.zeros(EXPOSURES), *own.patterns, own.vector, own.frames, np.ones((EXPOSURES, 5))
            )
            weights = own.weights.copy()
            response, objective = kernels.profile_response(difference, weights, 1.0)
            found[-1].append({"d": difference, "w": weights, "r": response, "o": np.array(objective)})
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            for name in one:
                np.testing.assert_array_equal(one[name], two[name])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda own: own.counts.__setitem__((0, 2), own.vector.size), "among the unknowns"),
        (lambda own: own.further.__setitem__((2, 1), -1), "further unknown"),
        (lambda own: own.x.__setitem__(5, np.nan), "not finite"),
        (lambda own: setattr(own, "weights", own.weights[1:]), "not those"),
        (lambda own: setattr(own, "y", own.y[1:]), "differ in number"),
        (lambda own: setattr(own, "parts", np.ascontiguousarray(own.parts[:, :, :2])), "further unknowns|weather"),
    ],
)
def test_what_would_be_read_outside_is_refused(damage: Callable[[Case], None], message: str) -> None:
    own = case(41, reflection=False, weather=False)
    damage(own)
    with pytest.raises(ValueError, match=message):
        sums_of_tile(own)


def test_super_pixels_outside_their_windows_are_refused() -> None:
    own = case(42, reflection=False, weather=False)
    windows = np.zeros((EXPOSURES, 1, 4), dtype=np.int64)
    windows[:, 0] = [2, 4, 2, 4]
    positions, n = np.arange(own.vector.size), own.vector.size
    state = *own.patterns, own.vector, own.further, own.parts, own.frames
    out = np.zeros((PIXELS, n)), np.zeros(PIXELS), np.zeros((EXPOSURES, 19, 19))
    with pytest.raises(ValueError, match="outside its windows"):
        kernels.sum_tile(own.x, own.y, own.weights, own.centres, *state, windows, positions, *out)
