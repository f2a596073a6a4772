"""Structure of a superbias against what was drawn."""

from __future__ import annotations

import numpy as np
import pytest

from permil.isr.bias_exposures import cell_means, measure_structure

SHAPE = (250, 64)


def test_structure_is_that_beyond_noise() -> None:
    found = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        rows, columns = 1.5 * rng.standard_normal((SHAPE[0], 1)), 0.8 * rng.standard_normal((1, SHAPE[1]))
        image = rows + columns + 0.6 * rng.standard_normal(SHAPE)
        image[rng.integers(0, SHAPE[0], 20), rng.integers(0, SHAPE[1], 20)] += 500.0
        found.append(measure_structure(image, np.full(SHAPE, 0.36)))
    for name, true in (("rows", 1.5), ("columns", 0.8), ("pixels", np.hypot(1.5, 0.8))):
        values = np.array([getattr(one, name) for one in found])
        errors = np.array([getattr(one, f"{name}_err") for one in found])
        assert values.mean() == pytest.approx(true, rel=0.05)
        assert np.sqrt(np.mean(((values - true) / errors) ** 2)) == pytest.approx(1.0, abs=0.35)


def test_noise_alone_has_no_structure() -> None:
    rng = np.random.default_rng(1)
    found = measure_structure(rng.standard_normal(SHAPE), np.ones(SHAPE))
    for name in ("pixels", "rows", "columns"):
        assert getattr(found, name) < 4 * getattr(found, f"{name}_err")


def test_missing_pixels_do_not_count() -> None:
    rng = np.random.default_rng(2)
    image, variance = rng.standard_normal(SHAPE) + np.arange(SHAPE[0])[:, None] % 3, np.ones(SHAPE)
    whole = measure_structure(image, variance)
    image[:, :5], variance[7:9, 6] = np.nan, np.nan
    assert measure_structure(image, variance).rows == pytest.approx(whole.rows, rel=0.05)
    assert np.isnan(measure_structure(np.full(SHAPE, np.nan), variance).pixels)
    constant = measure_structure(np.zeros(SHAPE), np.zeros(SHAPE))
    assert (constant.pixels, constant.rows) == (0.0, 0.0)


def test_cells_are_means() -> None:
    image = np.arange(250 * 64, dtype=np.float64).reshape(SHAPE)
    image[0, 0] = np.nan
    cells, side = cell_means(image, 100)
    assert side == 3
    assert cells.shape == (84, 22)
    assert cells[5, 3] == pytest.approx(image[15:18, 9:12].mean())
    assert cells[0, 0] == pytest.approx(np.nanmean(image[:3, :3]))
    assert cells[-1, -1] == pytest.approx(image[249:, 63:].mean())
    assert cell_means(image, 1000)[1] == 1
