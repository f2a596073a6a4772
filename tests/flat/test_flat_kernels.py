"""The kernels that work on images of flats against plain NumPy formulas, at every level of instructions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from kernel_levels import LEVELS, kernels_of
from permil._kernels import flat as kernels
from permil._kernels import joint as joint_kernels
from permil.flat.combine import PointingCombination
from permil.flat.divide import PointingWeights, divide_by_beam
from permil.flat.pointings import LitImage
from permil.flat.superpixel import block_sums, flattened, median_image
from permil.products import UNUSABLE, MaskPlane

SHAPE = (23, 75)
NO_DATA = int(MaskPlane.NO_DATA)


def pointing(seed: int, kind: type[np.integer], *, exact: bool) -> LitImage:
    """Return a pointing with masked pixels and pixels without light or signal; wide masks, or beams without errors."""
    rng = np.random.default_rng(seed)
    beam = rng.uniform(0.2, 1.0, SHAPE).astype(np.float32)
    beam[rng.random(SHAPE) < 0.05] = np.nan
    beam[0, :4] = 0.0
    signal = rng.normal(1e4 * beam, 100.0).astype(np.float32)
    signal[rng.random(SHAPE) < 0.05] = np.inf
    mask = np.where(rng.random(SHAPE) < 0.3, 1 << rng.integers(0, 7, SHAPE), 0).astype(kind)
    error = np.broadcast_to(np.float32(0), SHAPE) if exact else rng.uniform(0.0, 0.01, SHAPE).astype(np.float32)
    return LitImage(signal, np.abs(signal) + np.float32(30.0), mask, beam, error, 1e4, 1e-3)


POINTINGS = [(1, np.int16, True), (2, np.int32, False), (3, np.int16, False)]


def usable_in(lit: LitImage) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        response = lit.signal.astype(np.float64) / (lit.scale * lit.beam.astype(np.float64))
    return np.isfinite(response) & ((lit.mask & int(UNUSABLE)) == 0)


@pytest.mark.parametrize(("seed", "kind", "exact"), POINTINGS)
@pytest.mark.parametrize("level", LEVELS)
def test_a_pointing_is_divided_by_its_light(level: str, seed: int, kind: type[np.integer], *, exact: bool) -> None:
    lit = pointing(seed, kind, exact=exact)
    with kernels_of(level):
        flat, part = divide_by_beam(lit), divide_by_beam(lit.part(slice(3, None, 4), slice(1, None, 3)))
    usable = usable_in(lit)
    light = np.where(usable, lit.scale * lit.beam.astype(np.float64), 1.0)
    np.testing.assert_allclose(flat.response, np.where(usable, lit.signal / light, np.nan), rtol=1e-7)
    np.testing.assert_allclose(flat.variance, np.where(usable, lit.variance / light**2, np.nan), rtol=1e-7)
    np.testing.assert_array_equal(flat.mask, np.where(usable, lit.mask, lit.mask | NO_DATA))
    np.testing.assert_array_equal(part.response, flat.response[3::4, 1::3])


@pytest.mark.parametrize("level", LEVELS)
def test_pointings_are_combined_by_their_weights(level: str) -> None:
    combination = PointingCombination(SHAPE)
    weights = PointingWeights(1.1, 0.02)
    total, first, moment, square, noise = np.zeros(SHAPE), np.full(SHAPE, np.nan), *(np.zeros(SHAPE) for _ in range(3))
    everywhere, anywhere, count = np.full(SHAPE, -1), np.zeros(SHAPE, dtype=int), np.zeros(SHAPE, dtype=int)
    for seed, kind, exact in POINTINGS:
        lit = pointing(seed, kind, exact=exact)
        with kernels_of(level):
            for rows in (slice(0, 9), slice(9, None)):
                combination.add(lit.part(rows, slice(None)), weights, rows)
            found = weights.at(lit)
        usable = usable_in(lit)
        beam = np.where(usable, lit.beam, 1.0).astype(np.float64)
        # Inverse relative variances: photons, beam, scale.
        weight = usable / (0.02 / (1.1**2 * beam) + (lit.beam_error / beam) ** 2 + 1e-6)
        np.testing.assert_allclose(found, weight, rtol=1e-5)
        response = np.where(usable, lit.signal, 0.0) / (1e4 * beam)
        first = np.where(usable & np.isnan(first), response, first)
        total += weight
        moment += weight * np.where(usable, response - first, 0.0)
        square += weight * np.where(usable, response - first, 0.0) ** 2
        noise += (weight / (1e4 * beam)) ** 2 * np.where(usable, lit.variance, 0.0)
        own = np.where(usable, lit.mask, lit.mask | NO_DATA)
        everywhere, anywhere, count = everywhere & own, anywhere | own, count + usable
    with np.errstate(invalid="ignore", divide="ignore"):
        expected = first + moment / total
        scatter = np.sqrt(np.maximum(square - moment**2 / total, 0.0) / total)
    flat = combination.result()
    np.testing.assert_array_equal(flat.count, count)
    np.testing.assert_allclose(flat.response, np.where(count > 0, expected, np.nan), rtol=2e-6)
    np.testing.assert_allclose(flat.scatter, scatter, atol=2e-5)
    with np.errstate(invalid="ignore", divide="ignore"):
        np.testing.assert_allclose(flat.variance, noise / total**2, rtol=1e-5)
    np.testing.assert_array_equal(combination._all_planes, everywhere)
    np.testing.assert_array_equal(combination._any_planes, anywhere)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kind", [np.float32, np.float64, np.bool_, np.int16])
def test_block_sums_are_those_of_loops(level: str, kind: type) -> None:
    rng = np.random.default_rng(4)
    image = (1000.0 * rng.random((31, 50))).astype(np.int64).astype(kind)
    good = rng.random(image.shape) < 0.8
    block_rows = np.sort(rng.integers(0, 4, 31))
    expected = np.zeros((block_rows[-1] + 1, 8), dtype=np.float64)
    every = expected.copy()
    for (y, x), value in np.ndenumerate(image):
        every[block_rows[y], x // 7] += value
        expected[block_rows[y], x // 7] += value if good[y, x] else 0
    with kernels_of(level):
        np.testing.assert_array_equal(block_sums(image, 7, good=good, block_rows=block_rows), expected)
        np.testing.assert_array_equal(block_sums(image, 7, block_rows=block_rows), every)
        np.testing.assert_array_equal(
            block_sums(np.broadcast_to(image[:1], image.shape)[:, ::2], 7, good=good[:, ::2]).sum(),
            (image[0, ::2] * good[:, ::2]).sum(),
        )


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("number", [1, 2, 5, 8])
def test_medians_ignore_what_is_missing(level: str, number: int) -> None:
    rng = np.random.default_rng(number)
    images = rng.normal(1.0, 1.0, (number, *SHAPE)).astype(np.float32)
    images[rng.random(images.shape) < 0.4] = np.nan
    with kernels_of(level):
        found = median_image(list(images))
    missing = np.isnan(images).all(axis=0)
    expected = np.nanmedian(np.where(missing, 0.0, images), axis=0)
    np.testing.assert_array_equal(found, np.where(missing, np.nan, expected).astype(np.float32))


@pytest.mark.parametrize("level", LEVELS)
def test_super_pixels_are_averaged_without_outliers(level: str) -> None:
    rng = np.random.default_rng(6)
    block, limit = 10, 25.0
    limits, noise = np.array([0, 10, 10, 23]), rng.uniform(10.0, 30.0, (3, 8))
    pattern = rng.normal(1.0, 0.05, SHAPE).astype(np.float32)
    pattern[rng.random(SHAPE) < 0.05] = np.nan
    image = rng.normal(2000.0 * np.nan_to_num(pattern), 45.0).astype(np.float32)
    image[rng.random(SHAPE) < 0.02] += 3000.0
    mask = np.where(rng.random(SHAPE) < 0.1, 1 << rng.integers(0, 7, SHAPE), 0).astype(np.int16)
    signals, kept = np.empty((3, 8)), np.zeros((3, 8), dtype=np.int64)
    with kernels_of(level):
        rejected = joint_kernels.average(image, mask, pattern, block, limits, noise, limit, signals, kept)
    left_out = 0
    for (row, column), of_noise in np.ndenumerate(noise):
        where = slice(limits[row], limits[row + 1]), slice(block * column, block * (column + 1))
        usable = ((mask[where] & int(UNUSABLE)) == 0) & np.isfinite(pattern[where])
        pixels, shares = image[where][usable].astype(float), pattern[where][usable].astype(float)
        kept_here = np.ones(pixels.size, dtype=bool)
        level_here = pixels.sum() / shares.sum() if pixels.size else np.nan
        for _ in range(3):
            expected = level_here * shares
            kept_here = (pixels - expected) ** 2 <= limit * (of_noise + np.maximum(expected, 0.0))
            level_here = pixels[kept_here].sum() / shares[kept_here].sum() if kept_here.any() else np.nan
        assert kept[row, column] == kept_here.sum()
        left_out += (~kept_here).sum()
        np.testing.assert_allclose(signals[row, column], level_here, rtol=1e-6)
    assert rejected == left_out > 10
    assert np.isnan(signals[1]).all()


@pytest.mark.parametrize("level", LEVELS)
def test_cells_hold_the_sums_of_their_good_pixels(level: str) -> None:
    rng = np.random.default_rng(8)
    response, variance = rng.random((2, *SHAPE)).astype(np.float32)
    good, cells = rng.random(SHAPE) < 0.7, rng.integers(0, 40, SHAPE)
    sums = np.zeros((3, 40))
    with kernels_of(level):
        kernels.add_to_cells(response, variance, good, cells, sums)
    for found, values in zip(sums, (response, variance, np.ones(SHAPE)), strict=True):
        np.testing.assert_allclose(found, np.bincount(cells[good], values[good], 40), rtol=1e-12)


def products() -> list[Any]:
    """Return what kernels make of images."""
    lit = [pointing(seed, kind, exact=exact) for seed, kind, exact in POINTINGS]
    combination = PointingCombination(SHAPE)
    for each in lit:
        combination.add(each, PointingWeights.of(each))
    good = usable_in(lit[1])
    image = np.where(good, lit[1].signal, np.float32(1.0))
    mask, variance = lit[0].mask.copy(), np.empty(SHAPE, dtype=np.float32)
    bounds, reference = np.array([[0, 15, 0, 40], [15, 30, 40, 75]]), np.full(SHAPE, 1.01, dtype=np.float32)
    noise = np.array([30.0, 60.0], dtype=np.float32)
    outliers = kernels.flag_outliers(image, mask, lit[0].beam, reference, bounds, 2, 1e4, noise, 9.0, variance[:])
    light = np.empty(SHAPE, dtype=np.float32)
    kernels.interpolate(np.random.default_rng(1).random((40, 13), dtype=np.float32), 3, 7, light)
    own = (slice(13), slice(40)), (slice(13, None), slice(40, None))
    return [
        combination._first,
        combination._sums,
        combination._any_planes,
        divide_by_beam(lit[2]).response,
        block_sums(image, 7, good=good),
        flattened(image, good, 7),
        median_image([each.signal for each in lit]),
        mask,
        [variance[where] for where in own],
        outliers,
        light,
    ]


def test_all_levels_have_the_same_bits() -> None:
    found = []
    for level in LEVELS:
        with kernels_of(level):
            found.append(products())
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            for first, second in zip(one, two, strict=True) if isinstance(one, list) else [(one, two)]:
                np.testing.assert_array_equal(first, second)


FLOATS, PLANES, MEANS = np.ones(SHAPE, dtype=np.float32), np.zeros(SHAPE, dtype=np.int16), np.ones((1, 8))
GOOD, NUMBERS, ROWS = FLOATS > 0, np.zeros(SHAPE, dtype=np.int64), np.arange(SHAPE[0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kernels.interpolate(np.zeros((9, 9), np.float32), 0, 1, FLOATS), "columns lie outside"),
        (lambda: kernels.interpolate(np.zeros((5, 20), np.float32), 0, 1, FLOATS), "rows lie outside"),
        (lambda: kernels.add_to_cells(FLOATS, FLOATS, GOOD, NUMBERS + 5, np.zeros((3, 5))), "outside the mosaic"),
        (lambda: kernels.add_to_cells(FLOATS, FLOATS, GOOD, NUMBERS - 1, np.zeros((3, 5))), "outside the mosaic"),
        (lambda: kernels.add_to_blocks(FLOATS, None, 7, ROWS, np.zeros((5, 11))), "no block"),
        (lambda: kernels.add_to_blocks(FLOATS, GOOD[1:], 7, ROWS, np.zeros((23, 11))), "shape of the image"),
        (
            lambda: kernels.flag_outliers(
                FLOATS, PLANES, FLOATS, FLOATS, np.array([[0, 9, 0, 76]]), 0, 1.0, FLOATS[0, :1], 9.0, FLOATS.copy()
            ),
            "outside the image",
        ),
        (lambda: kernels.divide(FLOATS, FLOATS, PLANES[1:], FLOATS, 1.0, FLOATS, FLOATS, PLANES), "shape of the signal"),
        (lambda: joint_kernels.medians([FLOATS, FLOATS[1:]], FLOATS), "differ in shape"),
        (
            lambda: joint_kernels.average(
                FLOATS, PLANES, FLOATS, 10, np.array([0, 24]), MEANS, 9.0, MEANS, np.zeros((1, 8), int)
            ),
            "outside the image",
        ),
        (lambda: joint_kernels.divide_blocks(FLOATS, GOOD, MEANS, 10, ROWS, FLOATS), "no block"),
    ],
)
def test_what_would_be_read_outside_is_refused(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_masks_of_other_integers_are_refused() -> None:
    ones = np.ones(SHAPE, dtype=np.float32)
    with pytest.raises(TypeError, match="16 nor 32 bits"):
        kernels.divide(ones, ones, np.zeros(SHAPE, np.int64), ones, 1.0, ones.copy(), ones.copy(), np.zeros(SHAPE, np.int16))
