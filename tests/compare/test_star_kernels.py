"""The compiled kernels of stars and rings against plain NumPy, and those of every level against each other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from kernel_levels import LEVELS, kernels_of
from permil._kernels import compare as kernels
from permil.compare.scales import Band, split_bands
from permil.compare.stars.flat_at_stars import RelativeFlat, flat_as_seen
from permil.compare.stars.profile import StarProfile
from permil.compare.stars.response import StarPlaces, StarResponse, StarShapes

RESPONSE = StarResponse(StarProfile((0.62, 0.30, 0.08), (4.28, 22.2, 108.0)))


def some_stars(rng: np.random.Generator, count: int, side: int) -> StarPlaces:
    x, y = rng.uniform(-0.5, side - 0.5, (2, count))
    xx, yy, xy = rng.normal(5.6, 0.3, count), rng.normal(5.6, 0.3, count), rng.normal(0, 0.2, count)
    return StarPlaces(x, y, xx, yy, xy, glow=rng.uniform(0, 1e-3, count) * (np.arange(count) % 2))


def drawn(shapes: StarShapes, star: int, size: int) -> np.ndarray:
    """Return the light of a star around its pixel, in double precision."""
    v, u = np.mgrid[:size, :size] - size // 2
    u, v = u + np.floor(shapes.x[star] + 0.5) - shapes.x[star], v + np.floor(shapes.y[star] + 0.5) - shapes.y[star]
    light = np.zeros((size, size))
    for fraction, (xx, yy, xy) in zip(shapes.fractions, shapes.covariances[star], strict=True):
        inverse = np.linalg.inv([[xx, xy], [xy, yy]])
        distance = inverse[0, 0] * u**2 + inverse[1, 1] * v**2 + 2 * inverse[0, 1] * u * v
        light += fraction * np.exp(-0.5 * distance) / (2 * np.pi * np.sqrt(xx * yy - xy**2))
    return light


@pytest.mark.parametrize("adaptive", [True, False])
def test_all_levels_have_the_same_bits(adaptive: bool) -> None:
    rng = np.random.default_rng(1)
    response, places = replace(RESPONSE, adaptive=adaptive), some_stars(rng, 6, 70)
    bands = (Band(0.0, 16.0), Band(16.0, np.inf))
    maps = split_bands(rng.standard_normal((70, 70)), bands)
    flat = RelativeFlat(
        rng.normal(0, 1, (70, 70)), np.ones((70, 70)), rng.random((70, 70)) < 0.999, np.zeros(1), np.zeros(1), "detector"
    )
    weights, cells = rng.standard_normal((6, 5, 2)), rng.uniform(0, 100, (3, 500))
    found = {}
    for level in LEVELS:
        with kernels_of(level):
            predicted = response.predict(places, *maps, bands)
            seen = flat_as_seen(flat, places, response)
            spread = response.spread(places, weights, (70, 70), cell=4, bands=bands)
            sums = kernels.radial_sums(*cells, np.arange(500) % 3, 3, np.array([[-10.0, 120.0]]), 4.0)
            found[level] = [
                predicted.templates,
                predicted.instruments,
                spread,
                seen.excess,
                seen.error,
                *response.kernels(),
                *sums,
            ]
    for level, arrays in found.items():
        for own, other in zip(arrays, found["baseline"], strict=True):
            np.testing.assert_array_equal(own, other, err_msg=level)


def test_stars_are_drawn_as_by_numpy() -> None:
    shapes = RESPONSE.shapes(replace(some_stars(np.random.default_rng(2), 1, 1), x=np.array([0.3]), y=np.array([-0.45])))
    light = np.empty((41, 41))
    kernels.draw_star(shapes, light)
    np.testing.assert_allclose(light, drawn(shapes, 0, 41), rtol=1e-11)


def test_the_kernel_of_the_flux_is_the_light_in_the_circle() -> None:
    shapes = RESPONSE.shapes(StarPlaces.round(np.zeros(1), np.zeros(1)))
    size = 2 * shapes.half + 1
    of_star, of_glow = np.empty((3, 6, size, size)), np.empty((3, 6, size, size))
    flux = kernels.fill_kernels(shapes, of_star, of_glow)
    around = np.arange(size) - shapes.half
    part = np.array([[kernels.circle_part(u, v, shapes.radius) for u in around] for v in around])
    light = drawn(shapes, 0, size)
    assert flux == pytest.approx((part * light).sum(), rel=1e-11)
    np.testing.assert_allclose(of_star[0, 0], part * light / flux, atol=1e-14)
    np.testing.assert_allclose(of_glow[0, 0], part / flux, rtol=1e-11)
    padded = np.pad(of_glow[0], ((0, 0), (1, 1), (1, 1)))
    laplacian = padded[:, 2:, 1:-1] + padded[:, :-2, 1:-1] + padded[:, 1:-1, 2:] + padded[:, 1:-1, :-2] - 4 * of_glow[0]
    np.testing.assert_allclose(of_glow[1], laplacian, atol=1e-12)
    np.testing.assert_array_equal(of_glow[2], of_glow[1])


def test_adaptive_moments_answer_to_light_as_their_definition_says() -> None:
    shapes = RESPONSE.shapes(StarPlaces.round(np.zeros(1), np.zeros(1)))
    size = 2 * shapes.half + 1
    of_star, of_glow = np.empty((3, 6, size, size)), np.empty((3, 6, size, size))
    kernels.fill_kernels(shapes, of_star, of_glow)
    v, u = np.mgrid[:size, :size] - float(shapes.half)
    xx, yy, xy = shapes.moments[0]

    def equations(light: np.ndarray, parameters: np.ndarray) -> np.ndarray:
        x, y, own_xx, own_yy, own_xy = parameters
        inverse = np.linalg.inv([[own_xx, own_xy], [own_xy, own_yy]])
        a, b = u - x, v - y
        distance = inverse[0, 0] * a**2 + inverse[1, 1] * b**2 + 2 * inverse[0, 1] * a * b
        weighted = np.where(distance <= 25.0, np.exp(-0.5 * distance) * light, 0.0)
        return np.array([(weighted * g).sum() for g in (a, b, a * a - own_xx / 2, b * b - own_yy / 2, a * b - own_xy / 2)])

    start, light = np.array([0.0, 0.0, xx, yy, xy]), drawn(shapes, 0, size)
    step = 1e-4
    jacobian = np.stack(
        [(equations(light, start + step * axis) - equations(light, start - step * axis)) / (2 * step) for axis in np.eye(5)],
        axis=1,
    )
    for place in ((shapes.half, shapes.half + 2), (shapes.half - 3, shapes.half + 1)):
        more = np.zeros((size, size))
        more[place] = 1.0
        expected = -np.linalg.solve(jacobian, equations(more, start))
        # Even light of one per pixel: the kernel of efficiency is the answer itself.
        np.testing.assert_allclose(of_glow[(0, slice(1, None), *place)], expected, rtol=1e-4, atol=1e-7)


def test_predictions_are_kernels_times_mirrored_maps() -> None:
    rng = np.random.default_rng(3)
    excess, potential = (rng.standard_normal((3, 50, 60)).astype(np.float32) for _ in range(2))
    places = replace(StarPlaces.round(np.array([30.0, 3.0]), np.array([20.0, 48.0])), glow=np.array([0.0, 2e-3]))
    found = RESPONSE.predict(places, excess, potential).templates
    of_star, of_glow = RESPONSE.kernels()
    half = of_star.shape[-1] // 2
    padded = [np.pad(each, ((0, 0), (half, half), (half, half)), mode="symmetric") for each in (excess, potential, potential)]
    for star in range(2):
        row, column = int(places.y[star]), int(places.x[star])
        for kind in range(3):
            patch = padded[kind][:, row : row + 2 * half + 1, column : column + 2 * half + 1]
            shown = padded[0][:, row : row + 2 * half + 1, column : column + 2 * half + 1]
            expected = np.einsum("qab,kab->qk", of_star[kind], patch.astype(float))
            expected += places.glow[star] * np.einsum("qab,kab->qk", of_glow[0], shown.astype(float))
            np.testing.assert_allclose(found[star, :, kind], expected, rtol=1e-9, atol=1e-12)


def test_a_flat_is_averaged_over_the_light_in_the_circle() -> None:
    rng = np.random.default_rng(4)
    shape, places = (40, 50), StarPlaces.round(np.array([25.3, 4.1]), np.array([18.6, 36.2]))
    usable = rng.random(shape) < 0.99
    flat = RelativeFlat(rng.normal(0, 1, shape), rng.uniform(1, 2, shape), usable, np.zeros(1), np.zeros(1), "detector")
    seen = flat_as_seen(flat, places, RESPONSE, largest_loss=1.0)
    shapes, half = RESPONSE.shapes(places), 14
    for star in range(2):
        row, column = int(np.floor(places.y[star] + 0.5)), int(np.floor(places.x[star] + 0.5))
        weight = drawn(shapes, star, 2 * half + 1)
        rows, columns = np.arange(row - half, row + half + 1), np.arange(column - half, column + half + 1)
        part = [[kernels.circle_part(x - places.x[star], y - places.y[star], shapes.radius) for x in columns] for y in rows]
        weight *= np.array(part)
        inside = ((rows >= 0) & (rows < shape[0]))[:, None] & (columns >= 0) & (columns < shape[1])
        own = np.ix_(np.clip(rows, 0, shape[0] - 1), np.clip(columns, 0, shape[1] - 1))
        known = np.where(inside & usable[own], weight, 0.0)
        assert seen.lost[star] == pytest.approx(1 - known.sum() / weight.sum(), abs=1e-12)
        assert seen.excess[star] == pytest.approx((known * flat.excess[own]).sum() / known.sum(), rel=1e-10)
        assert seen.error[star] == pytest.approx(np.sqrt((known**2 * flat.variance[own]).sum()) / known.sum(), rel=1e-10)


def test_cells_are_shared_by_the_two_nearest_annuli() -> None:
    rng = np.random.default_rng(5)
    x, y, level = rng.uniform(0, 100, (3, 400))
    tile = rng.integers(0, 4, 400)
    # Around the second axis there are more annuli.
    total, share = np.moveaxis(kernels.radial_sums(x, y, level, tile, 4, np.array([[-30.0, 12.0], [-50.0, -60.0]]), 7.0)[0], 2, 0)
    place = np.hypot(x + 30, y - 12) / 7
    first = int((x.min() + 30) / 7)
    expected, weights = np.zeros_like(total), np.zeros_like(share)
    annulus = place.astype(int)
    for shift, part in ((0, 1 - (place - annulus)), (1, place - annulus)):
        np.add.at(expected, (tile, annulus - first + shift), part * level)
        np.add.at(weights, (tile, annulus - first + shift), part)
    np.testing.assert_allclose(total, expected, atol=1e-10)
    np.testing.assert_allclose(share, weights, atol=1e-10)


def test_arguments_that_do_not_fit_together_are_refused() -> None:
    shapes = RESPONSE.shapes(StarPlaces.round(np.zeros(2), np.zeros(2)))
    flat, numbers = np.zeros((5, 5)), [np.zeros(2) for _ in range(3)]
    with pytest.raises(ValueError, match="give one star"):
        kernels.fill_kernels(shapes, np.empty((3, 6, 9, 9)), np.empty((3, 6, 9, 9)))
    with pytest.raises(ValueError, match="far outside"):
        kernels.weigh_flat(replace(shapes, x=np.array([0.0, np.nan])), flat, flat, flat > 0, *numbers)
    with pytest.raises(ValueError, match="differ in shape"):
        kernels.weigh_flat(shapes, flat, flat[1:].copy(), flat > 0, *numbers)
    with pytest.raises(ValueError, match="none of the tiles"):
        kernels.radial_sums(*np.ones((3, 4)), np.arange(4), 3, np.zeros((1, 2)), 1.0)
