"""Parts of the correlation against independent formulas."""

from __future__ import annotations

import numpy as np
import pytest
from correlation_fields import COLUMN, ROW, fields
from scipy import stats
from scipy.spatial.distance import cdist

from permil._kernels import compare as kernels
from permil.compare import correlate, split_half_reliability
from permil.compare.correlation.blocks import block_bootstrap, block_sums, correlation_of, jackknife, moments, tiles
from permil.compare.correlation.covariance import Geometry
from permil.compare.correlation.methods import phase_surrogates, plug_in_n_eff, shifted_correlations
from permil.compare.correlation.points import Cells


@pytest.fixture(scope="module")
def holed() -> Geometry:
    keep = np.random.default_rng(0).random((15, 15)) > 0.2
    row, column = np.nonzero(keep)
    return Geometry.of(2.0 * column, 3.0 * row)


def _covariances(geometry: Geometry) -> list[np.ndarray]:
    points = np.column_stack([geometry.x, geometry.y])
    distance = cdist(points, points)
    expected = geometry.candidates.expectations
    gaussians = [np.exp(-0.5 * (distance / length) ** 2) for length in expected.lengths]
    return [variance * matrix for variance, matrix in zip(expected.variance, [np.eye(len(points)), *gaussians], strict=True)]


def test_traces_are_those_of_the_matrices(holed: Geometry) -> None:
    n = len(holed.x)
    centring = np.eye(n) - 1.0 / n
    centred = [centring @ matrix @ centring for matrix in _covariances(holed)]
    direct = np.array([[np.sum(first * second) for second in centred] for first in centred]) / n**2
    np.testing.assert_allclose(holed.candidates.expectations.traces, direct, rtol=1e-8)
    np.testing.assert_allclose([np.trace(matrix) / n for matrix in centred], 1.0, rtol=1e-8)


def test_mode_power_is_that_of_the_matrices(holed: Geometry) -> None:
    expected = holed.candidates.expectations
    modes = expected.modes.T.astype(float)
    direct = np.column_stack([np.einsum("pm,pq,qm->m", modes, matrix, modes) for matrix in _covariances(holed)])
    np.testing.assert_allclose(expected.power, direct, rtol=1e-4, atol=1e-4)


def test_modes_are_orthonormal_and_centred(holed: Geometry) -> None:
    modes = holed.candidates.expectations.modes.T.astype(float)
    np.testing.assert_allclose(modes.T @ modes, np.eye(modes.shape[1]), atol=1e-3)
    np.testing.assert_allclose(modes.sum(axis=0), 0.0, atol=1e-3)


def test_null_variance_of_two_known_covariances_is_that_of_simulated_maps(holed: Geometry) -> None:
    expected = holed.candidates.expectations
    weights = np.zeros((2, len(expected.variance)))
    weights[0, [0, 12]] = 0.4, 0.6
    weights[1, 16] = 1.0
    matrices = np.array(_covariances(holed))
    rng = np.random.default_rng(2)
    maps = []
    for weight in weights:
        eigenvalues, vectors = np.linalg.eigh(np.tensordot(weight, matrices, 1))
        maps.append((vectors * np.sqrt(np.maximum(eigenvalues, 0.0))) @ rng.standard_normal((len(vectors), 20_000)))
    a, b = (values - values.mean(axis=0) for values in maps)
    r = np.sum(a * b, axis=0) / np.sqrt(np.sum(a * a, axis=0) * np.sum(b * b, axis=0))
    predicted = weights[0] @ expected.traces @ weights[1]
    assert predicted == pytest.approx(np.var(r), rel=0.12)


def test_lag_products_are_sums_over_pairs() -> None:
    rng = np.random.default_rng(3)
    row, column = np.nonzero(rng.random((6, 5)) > 0.3)
    cells = Cells.of(column.astype(float), row.astype(float))
    values = rng.standard_normal(cells.n)
    lags = cells.lag_products(values)
    for lag_y, lag_x in ((0, 0), (1, 0), (2, -3), (-1, 4)):
        direct = sum(
            values[p] * values[q]
            for p in range(cells.n)
            for q in range(cells.n)
            if row[q] - row[p] == lag_y and column[q] - column[p] == lag_x
        )
        assert lags[lag_y, lag_x] == pytest.approx(direct, abs=1e-10)


def test_cells_find_a_lattice_and_leave_irregular_points() -> None:
    lattice = Cells.of(7.0 + 0.1 * COLUMN.ravel(), 0.3 * ROW.ravel())
    assert lattice.shape == (49, 49)
    assert (lattice.step_x, lattice.step_y) == pytest.approx((0.1, 0.3))
    rng = np.random.default_rng(4)
    irregular = Cells.of(rng.random(2000), rng.random(2000))
    assert irregular.spacing == pytest.approx(1.0 / np.sqrt(2000), rel=0.05)
    assert irregular.step_x == irregular.step_y


def test_shifted_correlations_are_those_of_the_windows() -> None:
    rng = np.random.default_rng(5)
    a, b = rng.standard_normal((2, 12, 9))
    count = (rng.random((12, 9)) > 0.2).astype(float)
    correlations, pairs = shifted_correlations(*(np.where(count > 0, each, np.nan) for each in (a, b)))
    for down, right in ((0, 0), (3, 2), (-4, 1)):
        rows = slice(max(0, -down), 12 - max(0, down)), slice(max(0, down), 12 - max(0, -down))
        columns = slice(max(0, -right), 9 - max(0, right)), slice(max(0, right), 9 - max(0, -right))
        both = (count[rows[0], columns[0]] * count[rows[1], columns[1]]) > 0
        direct = stats.pearsonr(a[rows[0], columns[0]][both], b[rows[1], columns[1]][both]).statistic
        assert pairs[down, right] == both.sum()
        assert correlations[down, right] == pytest.approx(direct, abs=1e-9)


def test_products_in_tiles_are_those_of_pairs_of_points_in_one_tile() -> None:
    rng = np.random.default_rng(7)
    kept = rng.random((11, 9)) < 0.8
    row, column = np.nonzero(kept)
    values = rng.standard_normal(len(row))
    cells = Cells.of(column.astype(float), row.astype(float))
    lags, pairs = cells.lags_in_tiles(values), cells.pairs_in_tiles
    tile = (cells.row // 3) * 4 + cells.column // 3
    for number, down, right in ((0, 0, 0), (5, 1, 2), (6, -2, 1)):
        inside = np.flatnonzero(tile == number)
        near = (cells.row[inside] - cells.row[inside, None] == down) & (
            cells.column[inside] - cells.column[inside, None] == right
        )
        assert pairs[number, down, right] == pytest.approx(near.sum(), abs=1e-9)
        assert lags[number, down, right] == pytest.approx((near * np.outer(values[inside], values[inside])).sum(), abs=1e-9)


def test_phase_surrogates_keep_the_values_in_the_order_of_the_transform() -> None:
    rng = np.random.default_rng(8)
    numbers = rng.standard_normal((3, 500)).astype(np.float32) * np.float32(1e-3)
    numbers[1, 10:20] = numbers[1, 40]
    numbers[2, ::7] *= 1e30
    ascending, rows = np.arange(500.0), np.empty((3, 500))
    kernels.give_order(numbers, ascending, rows)
    np.testing.assert_array_equal(rows, np.argsort(np.argsort(numbers, axis=1, kind="stable"), axis=1))


def test_phase_surrogates_of_white_maps_scatter_as_independent_ones() -> None:
    rng = np.random.default_rng(6)
    a, b = rng.standard_normal((2, 900))
    a, b = ((values - values.mean()) / values.std() for values in (a, b))
    row, column = np.mgrid[:30, :30]
    null = phase_surrogates(Cells.of(column.ravel() * 1.0, row.ravel() * 1.0), a, b, resamples=400, rng=rng)
    assert np.std(null.draws) == pytest.approx(1.0 / 30.0, rel=0.15)


def test_jackknife_of_a_mean_is_the_standard_error() -> None:
    values = np.random.default_rng(7).standard_normal(50)
    sums = np.column_stack([np.ones(50), values])
    mean, error = jackknife(sums, lambda total: total[..., 1] / total[..., 0])
    assert mean == pytest.approx(values.mean())
    assert error == pytest.approx(np.std(values, ddof=1) / np.sqrt(50))


def test_block_sums_give_the_correlation() -> None:
    rng = np.random.default_rng(8)
    x, y, a, b = rng.random((4, 500))
    sums = block_sums(moments(a, b), tiles(x, y, 0.2, (0.3, 0.7)))
    assert correlation_of(sums.sum(axis=0)) == pytest.approx(np.corrcoef(a, b)[0, 1])


def test_bootstrap_error_is_the_scatter_over_many_maps() -> None:
    rng = np.random.default_rng(9)
    of_a, of_c = fields("gauss", 2.0, rng), fields("gauss", 2.0, rng)
    x, y = COLUMN.ravel(), ROW.ravel()
    cells = Cells.of(x, y)
    found, errors = [], []
    for _ in range(60):
        a = next(of_a).ravel()
        b = 0.3 * a + np.sqrt(0.91) * next(of_c).ravel()
        a, b = ((values - values.mean()) / values.std() for values in (a, b))
        found.append(np.mean(a * b))
        scan = block_bootstrap(x, y, a, b, cells, resamples=100, rng=rng)
        errors.append(scan.errors[scan.chosen])
        assert np.all(scan.errors > 0)
    assert np.mean(errors) == pytest.approx(np.std(found), rel=0.35)


def test_naive_and_plug_in_figures_on_white_maps() -> None:
    rng = np.random.default_rng(10)
    a, b = rng.standard_normal((2, 30, 30))
    row, column = np.mgrid[:30, :30]
    result = correlate(a, b, column, row, methods=("naive", "modified_t"))
    expected = stats.pearsonr(a.ravel(), b.ravel())
    assert result.r == pytest.approx(expected.statistic)
    assert result.figures("naive").p_value == pytest.approx(expected.pvalue)
    assert result.rank == pytest.approx(stats.spearmanr(a.ravel(), b.ravel()).statistic)
    assert result.figures("modified_t").n_eff == pytest.approx(900, rel=0.1)
    with pytest.raises(KeyError):
        result.figures("phases")


def test_plug_in_n_eff_is_too_large_on_long_maps() -> None:
    rng = np.random.default_rng(11)
    of_a = fields("power", 3.0, rng)
    a, b = (next(of_a).ravel() for _ in range(2))
    a, b = ((values - values.mean()) / values.std() for values in (a, b))
    result = correlate(a, b, COLUMN.ravel(), ROW.ravel(), methods=())
    assert plug_in_n_eff(Cells.of(COLUMN.ravel(), ROW.ravel()), a, b) > result.n_eff


def test_correlation_length() -> None:
    rng = np.random.default_rng(12)
    of_a = fields("gauss", 3.0, rng)
    results = [correlate(next(of_a), rng.standard_normal((49, 49)), COLUMN, ROW, methods=()) for _ in range(20)]
    # exp(-h^2 / 2 L^2) falls to 1/e at sqrt(2) L.
    assert np.mean([result.length_a[0] for result in results]) == pytest.approx(np.sqrt(2.0) * 3.0, rel=0.05)
    assert np.median([result.length_b[0] for result in results]) < 1.0


@pytest.mark.parametrize("draws", [50, pytest.param(150, marks=pytest.mark.full)])
@pytest.mark.parametrize("shares", [(0.3, 0.3), (1.0, 0.5)])
def test_noise_corrected_figures_are_unbiased(shares: tuple[float, float], draws: int) -> None:
    rng = np.random.default_rng(13)
    found = []
    for _ in range(draws):
        a, c = rng.standard_normal((2, 49, 49))
        b = 0.6 * a + 0.8 * c
        errors = []
        for share in shares:
            shape = rng.uniform(0.5, 1.5, a.shape)
            errors.append(shape / np.sqrt(np.mean(shape**2)) * np.sqrt(1.0 / share - 1.0))
        a_noisy, b_noisy = (true + error * rng.standard_normal(a.shape) for true, error in zip((a, b), errors, strict=True))
        result = correlate(a_noisy, b_noisy, COLUMN, ROW, a_err=errors[0], b_err=errors[1], methods=())
        r, slope = result.corrected.r, result.corrected.slope
        found.append((r.value, slope.value, (r.value - 0.6) / r.error, (slope.value - 0.6) / slope.error))
    means, scatter = np.mean(found, axis=0), np.std(found, axis=0)
    assert means[0] == pytest.approx(0.6, abs=0.012 + 3.0 * scatter[0] / np.sqrt(draws))
    assert means[1] == pytest.approx(0.6, abs=0.012 + 3.0 * scatter[1] / np.sqrt(draws))
    assert 0.6 < scatter[2] < 1.3
    assert 0.6 < scatter[3] < 1.3


def test_slope_is_that_of_deming_when_the_ratio_of_errors_is_known() -> None:
    # Without intrinsic scatter, Deming's regression and the moment estimator tend to the same slope.
    rng = np.random.default_rng(14)
    true = rng.standard_normal((49, 49))
    a, b = true + 0.5 * rng.standard_normal((49, 49)), 2.0 * true + 0.5 * rng.standard_normal((49, 49))
    covariance = np.cov(a.ravel(), b.ravel())
    difference = covariance[1, 1] - covariance[0, 0]
    deming = (difference + np.hypot(difference, 2.0 * covariance[0, 1])) / (2.0 * covariance[0, 1])
    slope = correlate(a, b, COLUMN, ROW, a_err=0.5, b_err=0.5, methods=()).corrected.slope
    assert slope.value == pytest.approx(deming, rel=0.02)
    assert abs(slope.value - 2.0) < 4.0 * slope.error


def test_errors_larger_than_the_scatter_give_no_corrected_figure() -> None:
    a, b = np.random.default_rng(15).standard_normal((2, 30, 30))
    row, column = np.mgrid[:30, :30]
    corrected = correlate(a, b, column, row, a_err=2.0, methods=()).corrected
    assert np.isnan(corrected.r.value)
    assert np.isnan(corrected.slope.value)
    assert "all of its variance" in str(corrected.r)


@pytest.mark.parametrize("placed", [True, False])
def test_split_half_reliability(placed: bool) -> None:
    rng = np.random.default_rng(16)
    true, first, second = rng.standard_normal((3, 49, 49))
    places = {"x": COLUMN, "y": ROW} if placed else {}
    # Halves of reliability 1/2 make a mean of reliability 2/3.
    found = split_half_reliability(true + first, true + second, **places)
    assert abs(found.value - 2.0 / 3.0) < 4.0 * found.error
    assert 0.005 < found.error < 0.05


def test_known_reliability_takes_the_place_of_errors() -> None:
    a, c = np.random.default_rng(17).standard_normal((2, 30, 30))
    row, column = np.mgrid[:30, :30]
    result = correlate(a, 0.6 * a + 0.8 * c, column, row, a_reliability=0.5, b_reliability=0.5, methods=())
    assert result.corrected.r.value == pytest.approx(2.0 * result.r)
