"""The compiled kernels of the measurement of spots against plain NumPy, and those of every level against each other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from bench_images import fixed_bench

from kernel_levels import LEVELS, kernels_of
from permil._kernels import spots as kernels
from permil.simulate.spots import draw_exposure
from permil.spots.background import RowErrors, RowNoise, _without_curvature, fit_background, no_row_noise
from permil.spots.flux_model import FluxEquations, robust_weight
from permil.spots.measure import measure_spots


def test_all_levels_measure_the_same_bits() -> None:
    bench = fixed_bench(1, spots=5)
    image = draw_exposure(bench, bench.exposures()[0])
    mask = np.zeros(bench.detector.shape, dtype=np.int16)
    mask[np.random.default_rng(1).random(mask.shape) < 1e-3] = 1
    variance = np.maximum(image, 0) + np.float32(50.0)
    row_variance = np.full(len(bench.detector.amplifiers), 0.3)
    found = {}
    for level in LEVELS:
        with kernels_of(level):
            measurement = measure_spots(image, variance, mask, bench.detector, row_variance=row_variance)
        catalog = measurement.catalog
        arrays = [
            getattr(catalog, name) for name in ("x", "y", "xx", "yy", "xy", "x_err", "xy_err", "flux_err", "background", "flags")
        ]
        found[level] = [*arrays, measurement.apertures.flux, measurement.apertures.error, measurement.background.level]
        assert len(catalog) == 25
    for level, arrays in found.items():
        for own, other in zip(arrays, found["baseline"], strict=True):
            np.testing.assert_array_equal(own, other, err_msg=level)


def test_pixels_are_binned_as_by_numpy() -> None:
    rng = np.random.default_rng(2)
    image, usable = rng.normal(100, 10, (13, 21)).astype(np.float32), rng.random((13, 21)) < 0.5
    image[~usable] = np.nan
    binned, empty = np.empty((6, 10), dtype=np.float32), np.empty((6, 10), dtype=np.bool_)
    kernels.bin_pixels(image, usable, binned, empty)
    parts = [(image[y:12:2, x:20:2], usable[y:12:2, x:20:2]) for y in range(2) for x in range(2)]
    count = sum(part.astype(int) for _, part in parts)
    total = sum(np.where(part, pixels, 0) for pixels, part in parts)
    np.testing.assert_array_equal(empty, count == 0)
    np.testing.assert_allclose(binned, total / np.maximum(count, 1), rtol=1e-6)


def test_discs_hold_the_pixels_within_a_radius() -> None:
    rng = np.random.default_rng(3)
    shape, radius = (40, 50), 6.3
    x, y = rng.uniform(-5, 55, 12), rng.uniform(-5, 45, 12)
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    inside = (columns - x[:, None, None]) ** 2 + (rows - y[:, None, None]) ** 2 <= radius**2
    free = np.ones(shape, dtype=bool)
    kernels.clear_discs(free, x, y, radius)
    np.testing.assert_array_equal(free, ~inside.any(axis=0))
    mask, usable = (1 << rng.integers(0, 31, shape)).astype(np.int32), rng.random(shape) < 0.99
    mask[rng.random(shape) < 0.98] = 0
    for own in (mask, (mask & 0x7FFF).astype(np.int16)):
        planes, unusable = np.empty(12, dtype=np.int64), np.empty(12, dtype=np.bool_)
        kernels.planes_in_discs(own, usable, x, y, radius, planes, unusable)
        np.testing.assert_array_equal(planes, [np.bitwise_or.reduce(own[disc], initial=0) for disc in inside])
        np.testing.assert_array_equal(unusable, [(~usable[disc]).any() for disc in inside])


def test_a_place_that_is_not_finite_has_no_pixels() -> None:
    free = np.ones((9, 9), dtype=bool)
    kernels.clear_discs(free, np.array([np.nan, 4.0, 1e300]), np.array([4.0, np.nan, -1e300]), 2.0)
    assert free.all()


def area_by_points(x: float, y: float, radius: float, shape: tuple[int, int]) -> np.ndarray:
    """Return the part of each pixel inside a circle, from 400 points a side."""
    along = (np.arange(400) + 0.5) / 400 - 0.5
    return np.array(
        [
            [np.mean((column - x + along) ** 2 + (row - y + along[:, None]) ** 2 < radius**2) for column in range(shape[1])]
            for row in range(shape[0])
        ]
    )


def test_circles_sum_light_noise_and_rows() -> None:
    rng = np.random.default_rng(4)
    shape, x, y, radii = (12, 14), np.array([6.2, 1.1]), np.array([5.3, 10.8]), np.array([0.4, 2.5, 4.0])
    image, variance = rng.normal(50, 5, shape).astype(np.float32), rng.uniform(2, 3, shape).astype(np.float32)
    usable = rng.random(shape) < 0.9
    noise = RowNoise(np.array([0, 5]), rng.uniform(0, 1, (shape[0], 2)))
    first_row, answer = np.array([2, 8]), rng.normal(0, 1, (2, 6, 2))
    sums = [np.zeros((2, 3)) for _ in range(4)]
    kernels.sum_circles(image, variance, usable, x, y, radii, RowErrors(noise, first_row, answer), *sums)
    strip = np.array([0] * 5 + [1] * 9)
    for spot in range(2):
        for circle, radius in enumerate(radii):
            part = np.where(usable, area_by_points(x[spot], y[spot], radius, shape), 0.0)
            level = noise.variance[:, strip]
            along = np.stack([part[:, strip == number].sum(axis=1) for number in range(2)], axis=1)
            answers = np.array(
                [
                    answer[spot, row - first_row[spot]] if 0 <= row - first_row[spot] < 6 else np.zeros(2)
                    for row in range(shape[0])
                ]
            )
            expected = [
                (part * image).sum(),
                (part**2 * (variance - level)).sum() + (noise.variance * along**2).sum(),
                part.sum(),
                (noise.variance * along * answers).sum(),
            ]
            np.testing.assert_allclose([each[spot, circle] for each in sums], expected, rtol=2e-3, atol=2e-3)


def fitted_plane(image: np.ndarray, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return plane, inverse normal matrix and design of a box, by least squares with outliers left out."""
    ny, nx = image.shape
    v, u = np.meshgrid(*((np.arange(n) - (n - 1) / 2) / n for n in (ny, nx)), indexing="ij")
    design, values = np.stack([np.ones(image.size), u.ravel(), v.ravel()], axis=1), image.ravel().astype(float)
    free, kept = kept.ravel(), kept.ravel()
    for _ in range(3):
        plane, squares, *_ = np.linalg.lstsq(design[kept], values[kept], rcond=None)
        inverse = np.linalg.inv(design[kept].T @ design[kept])
        used, sigma = kept, np.sqrt(squares[0] / (kept.sum() - 3))
        kept = free & (np.abs(values - design @ plane) <= 4 * sigma)
    return plane, inverse, np.where(used[:, None], design, 0.0)


def test_planes_are_those_of_least_squares() -> None:
    rng = np.random.default_rng(5)
    ny, nx, box = 32, 48, 16
    rows, columns = np.mgrid[:ny, :nx]
    image = (100 + 0.5 * columns - 0.3 * rows + rng.normal(0, 1, (ny, nx))).astype(np.float32)
    image[rng.random(image.shape) < 0.01] += 50
    free = rng.random(image.shape) < 0.6
    free[:16, 32:] = False
    edges = [np.arange(0, size + 1, box) for size in (ny, nx)]
    centres = [each[:-1] + (box - 1) / 2 for each in edges]
    level, error = np.full((2, 3), np.nan), np.full((2, 3), np.nan)
    answer, row_answer = np.zeros((3, 2, 3)), np.zeros((ny, 3, 1))
    kernels.fit_boxes(image, free, *edges, *centres, no_row_noise(ny), level, error, answer, row_answer)
    assert np.isnan(level[0, 2])
    assert np.isnan(error[0, 2])
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1), (1, 2)):
        own = np.s_[box * row : box * row + box, box * column : box * column + box]
        plane, inverse, design = fitted_plane(image[own], free[own])
        u, v = design[:, 1], design[:, 2]
        assert level[row, column] == pytest.approx(plane[0], rel=1e-10)
        used = design[:, 0] > 0
        spread = np.sum((image[own].ravel()[used] - design[used] @ plane) ** 2) / (used.sum() - 3)
        assert error[row, column] == pytest.approx(np.sqrt(inverse[0, 0] * spread), rel=1e-9)
        weights = inverse[0] @ design.T
        assert answer[:, row, column] == pytest.approx([weights @ u**2, weights @ v**2, weights @ (u * v)], abs=1e-12)
        np.testing.assert_allclose(
            row_answer[box * row : box * row + box, column, 0], weights.reshape(box, box).sum(axis=1), atol=1e-12
        )


def test_errors_of_the_background_are_those_of_all_planes_together() -> None:
    rng = np.random.default_rng(6)
    # Seven boxes on each side: all of them count for a place in the one in the middle.
    size, box, count = 70, 10, 7
    noise = RowNoise(np.array([0, 30]), np.where(rng.random((size, 2)) < 0.1, 0.0, 0.2))
    image, free = rng.normal(10, 1, (size, size)).astype(np.float32), rng.random((size, size)) < 0.8
    background = fit_background(image, free, box=box, row_noise=noise)
    x, y = rng.uniform(30, 39, (2, 5))
    error, rows = background.errors(x, y, reach=4.0)
    # The background is linear in the planes: the weight of each is what a plane of height 1 makes of it.
    weights = np.empty((5, count, count))
    for row, column in np.ndindex(count, count):
        level = np.zeros((count, count))
        level[row, column] = 1.0
        one_plane = replace(background, level=_without_curvature(level, background.curvature))
        weights[:, row, column] = one_plane.at(x, y)
    change = np.einsum("prc,rycs->prys", weights, background.row_answer.reshape(count, box, count, 2)).reshape(5, size, 2)
    variance = ((weights * background.plane_error) ** 2).sum(axis=(1, 2)) + (noise.variance * change**2).sum(axis=(1, 2))
    np.testing.assert_allclose(error, np.sqrt(variance), rtol=1e-10)
    for place in range(5):
        own = slice(rows.first_row[place], rows.first_row[place] + rows.answer.shape[1])
        np.testing.assert_allclose(rows.answer[place], np.where(noise.variance[own] > 0, change[place, own], 0.0), atol=1e-14)


def test_normal_equations_are_those_of_the_dense_jacobian() -> None:
    rng = np.random.default_rng(7)
    spots, exposures, terms, count, width = 6, 4, 9, 60, 3
    spot, exposure = rng.integers(0, spots, count), rng.integers(0, exposures, count)
    index = np.array([rng.choice(terms, width, replace=False) for _ in range(count)], dtype=np.int32)
    values, factor = rng.random((count, width)), rng.uniform(0.9, 1.1, count)
    residual = rng.normal(0, 1, count)
    weight = robust_weight(residual) * rng.random(count) * (rng.random(count) < 0.8)
    found = FluxEquations.zeros(spots, exposures + terms)
    kernels.add_measurements(spot, exposure, index, values, weight, residual, factor, exposures, found)
    jacobian = np.zeros((count, spots + exposures + terms))
    rows = np.arange(count)
    jacobian[rows, spot] = 1.0
    jacobian[rows, spots + exposure] = 1.0
    jacobian[rows[:, None], spots + exposures + index] = values / factor[:, None]
    matrix, side = jacobian.T @ (weight[:, None] * jacobian), jacobian.T @ (weight * residual)
    np.testing.assert_allclose(found.spot_weight, np.diag(matrix)[:spots], rtol=1e-12)
    np.testing.assert_allclose(found.coupling, matrix[:spots, spots:], atol=1e-12)
    np.testing.assert_allclose(found.other_weight, matrix[spots:, spots:], atol=1e-12)
    np.testing.assert_allclose(np.concatenate([found.spot_side, found.other_side]), side, atol=1e-12)


def test_arguments_that_do_not_fit_together_are_refused() -> None:
    one, image, usable = np.ones(1), np.zeros((4, 4), dtype=np.float32), np.ones((4, 4), dtype=bool)
    index, number = np.zeros((1, 1), dtype=np.int32), np.zeros(1, dtype=np.int64)
    equations = FluxEquations.zeros(1, 2)
    with pytest.raises(ValueError, match="parameters that are not those"):
        kernels.add_measurements(number + 1, number, index, np.ones((1, 1)), one, one, one, 1, equations)
    with pytest.raises(ValueError, match="differ in shape"):
        kernels.bin_pixels(image, usable[1:].copy(), image[:2, :2].copy(), usable[:2, :2].copy())
    with pytest.raises(ValueError, match="half of the sides"):
        kernels.bin_pixels(image, usable, image[:1, :2].copy(), usable[:1, :2].copy())
    with pytest.raises(ValueError, match="spots differ in number"):
        kernels.clear_discs(usable, one, np.ones(2), 1.0)
