"""Maps and points on stated scales."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from permil.compare.scales import (
    Band,
    bands_between,
    cell_means,
    cosine_wavenumbers,
    high_pass,
    high_pass_points,
    laplacian_eigenvalues,
    smooth,
    split_bands,
)
from permil.errors import CompareError


@settings(max_examples=20)
@given(
    seed=st.integers(0, 1000),
    rows=st.integers(20, 60),
    columns=st.integers(20, 60),
    limits=st.lists(st.integers(2, 80), min_size=2, max_size=5, unique=True),
)
def test_bands_add_up_to_the_map_and_do_not_overlap(seed, rows, columns, limits):
    image = np.random.default_rng(seed).standard_normal((rows, columns))
    maps, _ = split_bands(image, bands_between(tuple(float(limit) for limit in sorted(limits))))
    assert np.abs(maps.sum(axis=0) - (image - image.mean())).max() < 1e-5
    products = np.einsum("ayx,byx->ab", maps.astype(float), maps.astype(float))
    assert np.abs(products - np.diag(np.diag(products))).max() < 1e-3


def test_potentials_are_those_of_their_maps():
    image = np.random.default_rng(1).standard_normal((40, 50))
    maps, potentials = split_bands(image, bands_between((4.0, 8.0, 16.0)))
    edges = np.pad(potentials.astype(float), ((0, 0), (1, 1), (1, 1)), mode="edge")
    middle = edges[:, 1:-1, 1:-1]
    laplacian = edges[:, :-2, 1:-1] + edges[:, 2:, 1:-1] + edges[:, 1:-1, :-2] + edges[:, 1:-1, 2:] - 4 * middle
    assert np.abs(laplacian - maps).max() < 1e-4


def test_a_wave_lies_in_the_band_of_its_period():
    along = np.arange(256) + 0.5
    wave = np.cos(2 * np.pi * along / (512 / 21))[None, :] * np.ones((256, 1))
    maps, _ = split_bands(wave, bands_between((16.0, 32.0, 64.0)))
    assert (maps.std(axis=(1, 2)) / wave.std()) == pytest.approx([0, 1, 0, 0], abs=1e-3)


def test_names_of_bands():
    assert [band.name for band in bands_between((16.0, 32.0))] == ["below 16 px", "16-32 px", "above 32 px"]
    assert not Band(16.0, np.inf).holds(np.zeros(1))[0]


@pytest.mark.parametrize("periods", [(16.0,), (32.0, 16.0), (1.0, 8.0)])
def test_limits_that_are_no_bands(periods):
    with pytest.raises(CompareError, match="limits of bands"):
        bands_between(periods)


def test_eigenvalues_at_long_periods_are_minus_the_wavenumber_squared():
    along_y, along_x = cosine_wavenumbers((400, 300))
    found = laplacian_eigenvalues(along_y, along_x)
    assert found[3, 4] == pytest.approx(-((3 * np.pi / 400) ** 2) - (4 * np.pi / 300) ** 2, rel=1e-3)


def test_high_pass_keeps_fine_and_removes_coarse_structure():
    x = np.arange(300.0)[None, :] * np.ones((200, 1))
    fine, coarse = np.cos(2 * np.pi * x / 10), np.cos(2 * np.pi * x / 300)
    usable = np.random.default_rng(1).random(x.shape) > 0.2
    left = high_pass(np.where(usable, fine + 5 * coarse, np.nan), usable, 12.0)
    assert np.isnan(left[~usable]).all()
    middle = np.zeros(x.shape, dtype=bool)
    middle[40:-40, 40:-40] = True
    used = usable & middle
    assert (left[used] * fine[used]).sum() / (fine[used] ** 2).sum() == pytest.approx(1.0, abs=0.03)
    # A Gaussian of sigma 12 leaves 1 - exp(-(2 pi 12 / 300)^2 / 2) = 3 % of the long wave.
    assert np.std(left[used] - fine[used]) < 0.2


def test_smoothing_a_constant_with_holes_is_that_constant():
    usable = np.ones((60, 60), dtype=bool)
    usable[20:50, 20:50] = False
    assert smooth(np.where(usable, 3.0, np.nan), usable, 2.0) == pytest.approx(3.0)


def test_points_are_high_passed_as_maps_are():
    rng = np.random.default_rng(2)
    x, y = rng.uniform(0, 400, (2, 6000))
    fine, coarse = np.cos(2 * np.pi * x / 30), np.cos(2 * np.pi * y / 400)
    values = fine + 3 * coarse
    values[5] = np.nan
    left = high_pass_points(values, x, y, errors=np.full(x.size, 0.1), scale=30.0)
    inside = np.isfinite(left) & (x > 60) & (x < 340) & (y > 60) & (y < 340)
    assert np.isnan(left[5])
    assert np.std(left[inside] - fine[inside]) < 0.45
    assert abs(np.corrcoef(left[inside], coarse[inside])[0, 1]) < 0.6
    assert high_pass_points(np.full(100, 2.0), x[:100], y[:100], errors=None, scale=50.0) == pytest.approx(0.0, abs=1e-9)


def test_cells_have_means_and_errors():
    rng = np.random.default_rng(3)
    usable = rng.random((40, 60)) > 0.1
    found = [cell_means(rng.standard_normal((40, 60)), np.ones((40, 60)), usable, cell=10) for _ in range(400)]
    assert found[0].mean.shape == (4, 6)
    assert np.std([entry.mean for entry in found], axis=0) == pytest.approx(found[0].error, rel=0.15)


def test_bad_input_of_scales():
    image, usable = np.zeros((20, 20)), np.ones((20, 20), dtype=bool)
    with pytest.raises(CompareError, match="scale"):
        high_pass(image, usable, 0.0)
    with pytest.raises(CompareError, match="no pixel"):
        high_pass(image, ~usable, 3.0)
    with pytest.raises(CompareError, match="cell"):
        cell_means(image, image, usable, cell=20)
    with pytest.raises(CompareError, match="points"):
        high_pass_points(np.full(5, np.nan), np.zeros(5), np.zeros(5), errors=None, scale=3.0)
