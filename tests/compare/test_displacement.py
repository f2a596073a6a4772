"""The displacement from a flat, against photons that are displaced, exact solutions and repeated noise."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from permil.compare.displacement import displacement_error, displacement_from_flat, fill, radial_displacement
from permil.errors import CompareError

EVERYWHERE = np.ones((128, 96), dtype=bool)


def smooth_field(shape, scale, seed):
    field = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), scale)
    return (field - field.mean()) / field.std()


def test_photons_through_a_displacement_show_its_flat_and_the_flat_gives_it_back():
    rng = np.random.default_rng(11)
    size, photons = 32, 8_000_000
    wave = 2 * np.pi / 16
    flat = np.zeros(size * size)
    for _ in range(4):
        x, y = rng.uniform(-0.5, size - 0.5, (2, photons // 4))
        # Recorded minus true place: the gradient of a potential, 0 at the edges.
        x_new = x + 0.05 * np.sin(wave * (x + 0.5)) * np.cos(wave * (y + 0.5))
        y_new = y + 0.05 * np.cos(wave * (x + 0.5)) * np.sin(wave * (y + 0.5))
        column, row = np.floor(x_new + 0.5).astype(np.int64), np.floor(y_new + 0.5).astype(np.int64)
        flat += np.bincount(row * size + column, minlength=size * size)
    excess = flat.reshape(size, size) / flat.mean() - 1
    along = np.arange(size) + 0.5
    shape = np.cos(wave * along)[:, None] * np.cos(wave * along)[None, :]
    # F - 1 = -div d = -2 * 0.05 * wave * cos cos, to first order.
    assert (excess * shape).sum() / (shape**2).sum() == pytest.approx(-2 * 0.05 * wave, rel=0.06)
    found = displacement_from_flat(excess, np.ones((size, size), dtype=bool))
    truth = 0.05 * np.sin(wave * along)[None, :] * np.cos(wave * along)[:, None]
    assert (found.x * truth).sum() / (truth**2).sum() == pytest.approx(1.0, abs=0.06)
    assert (found.y * truth.T).sum() / (truth**2).sum() == pytest.approx(1.0, abs=0.06)


@pytest.mark.parametrize("boundary", ["closed", "open"])
def test_divergence_is_the_flat_in_every_cell_and_the_field_has_no_curl(boundary):
    excess = 1e-3 * smooth_field((128, 96), 3.0, 1)
    found = displacement_from_flat(excess, EVERYWHERE, boundary=boundary)
    assert np.abs(found.divergence + excess - excess.mean()).max() < 1e-12
    curl = np.diff(found.shift_y[1:-1], axis=1) - np.diff(found.shift_x[:, 1:-1], axis=0)
    assert np.abs(curl).max() < 1e-12


def test_nothing_crosses_closed_edges():
    found = displacement_from_flat(1e-3 * smooth_field((128, 96), 3.0, 1), EVERYWHERE)
    crossing = (found.shift_x[:, 0], found.shift_x[:, -1], found.shift_y[0], found.shift_y[-1])
    assert max(np.abs(edge).max() for edge in crossing) == 0
    opened = displacement_from_flat(1e-3 * smooth_field((128, 96), 3.0, 1), EVERYWHERE, boundary="open")
    assert np.abs(opened.shift_x[:, 0]).max() > 0


def test_masked_pixels_hardly_change_the_field_elsewhere():
    excess = 1e-3 * smooth_field((128, 96), 4.0, 2)
    usable = np.random.default_rng(3).random(excess.shape) > 0.01
    usable[40:44, 50:55] = False
    spoilt = np.where(usable, excess, np.nan)
    whole, holed = displacement_from_flat(excess, EVERYWHERE), displacement_from_flat(spoilt, usable)
    assert holed.filled == pytest.approx(1 - usable.mean())
    assert np.std(holed.x - whole.x) < 0.05 * np.std(whole.x)


def test_error_is_the_scatter_of_repeated_noise():
    rng = np.random.default_rng(4)
    found = [displacement_from_flat(1e-3 * rng.standard_normal((64, 48)), np.ones((64, 48), dtype=bool)) for _ in range(40)]
    error_x, error_y = displacement_error(1e-6, (64, 48))
    assert np.sqrt(np.mean([(d.shift_x[:, 1:] ** 2).mean() for d in found])) == pytest.approx(error_x, rel=0.05)
    assert np.sqrt(np.mean([(d.shift_y[1:] ** 2).mean() for d in found])) == pytest.approx(error_y, rel=0.05)
    assert displacement_error(1e-6, (64, 48), longest=16.0)[0] < 0.7 * error_x


def test_rings_give_the_radial_part_of_the_field():
    # d_r = a sin(k r): F - 1 = -(1 / r) d(r d_r) / dr, of which rings hold the mean over their area.
    amplitude, wave = 0.03, 2 * np.pi / 40
    edges = np.arange(40.0, 400.0, 2.0)

    def across(r):
        return amplitude * r * np.sin(wave * r)

    excess = -(across(edges[1:]) - across(edges[:-1])) / ((edges[1:] ** 2 - edges[:-1] ** 2) / 2)
    found = radial_displacement(edges, excess, np.full(excess.size, 1e-4))
    expected = (across(edges) - across(edges[:1])) / edges
    assert found.shift == pytest.approx(expected, abs=1e-12)
    # Plazas, Bernstein & Sheldon 2014 plot + (1 / r) integral r w dr: the other sign.
    assert np.corrcoef(found.shift[1:], -np.cumsum(excess * np.diff(edges**2) / 2) / edges[1:])[0, 1] == pytest.approx(1.0)


def test_radial_and_two_dimensional_solutions_agree():
    size, centre = 360, (-40.0, -30.0)
    y, x = np.mgrid[:size, :size]
    radius = np.hypot(x - centre[0], y - centre[1])
    # Rings that fade out before the edges: what is beyond them does not matter.
    window = np.exp(-(((x - 180) / 55) ** 2 + ((y - 180) / 55) ** 2) / 2)
    excess = 1e-3 * np.cos(2 * np.pi * radius / 24) * window
    found = displacement_from_flat(excess, np.ones((size, size), dtype=bool))
    middle = np.s_[160:200, 160:200]
    outward = ((found.x * (x - centre[0]) + found.y * (y - centre[1])) / radius)[middle]
    expected = -1e-3 * 24 / (2 * np.pi) * (np.sin(2 * np.pi * radius / 24) * window)[middle]
    assert (outward * expected).sum() / (expected**2).sum() == pytest.approx(1.0, abs=0.03)


def test_errors_of_rings_are_the_scatter_of_repeated_profiles():
    rng = np.random.default_rng(6)
    edges, error = np.linspace(50, 150, 21), np.full(20, 1e-3)
    error[7] = 4e-3
    shifts = [radial_displacement(edges, error * rng.standard_normal(20), error).shift for _ in range(3000)]
    found = radial_displacement(edges, np.zeros(20), error)
    assert np.std(shifts, axis=0)[1:] == pytest.approx(found.error[1:], rel=0.07)
    assert np.cov(np.transpose(shifts))[8, 15] == pytest.approx(found.covariance[8, 15], rel=0.1)


def test_a_ring_without_a_value_counts_with_the_scatter_of_the_others():
    excess = np.array([1e-3, np.nan, -1e-3, 1e-3])
    found = radial_displacement(np.arange(10.0, 15.0), excess, np.full(4, 1e-5))
    assert np.isfinite(found.shift).all()
    assert found.error[2] == pytest.approx(1e-3, rel=0.15)


def test_bad_input():
    with pytest.raises(CompareError, match="no pixel"):
        displacement_from_flat(np.zeros((20, 20)), np.zeros((20, 20), dtype=bool))
    with pytest.raises(CompareError, match="not finite"):
        fill(np.full((20, 20), np.nan), np.ones((20, 20), dtype=bool))
    with pytest.raises(CompareError, match="shape"):
        fill(np.zeros((20, 20)), np.ones((20, 21), dtype=bool))
    with pytest.raises(CompareError, match="radii"):
        radial_displacement(np.array([3.0, 2.0, 1.0]), np.zeros(2), np.ones(2))
    with pytest.raises(CompareError, match="no ring"):
        radial_displacement(np.array([1.0, 2.0, 3.0]), np.full(2, np.nan), np.ones(2))


@pytest.mark.full
def test_a_whole_detector_pixel_by_pixel():
    excess = 1e-3 * np.random.default_rng(0).standard_normal((4004, 4096))
    found = displacement_from_flat(excess, np.ones(excess.shape, dtype=bool))
    assert np.abs(found.divergence + excess - excess.mean()).max() < 1e-9
