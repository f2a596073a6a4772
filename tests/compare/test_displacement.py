"""The displacement from a flat, against photons that are displaced and exact solutions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from permil.compare.displacement import displacement_from_flat, fill
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


def test_rings_are_displaced_along_the_radius():
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


def test_bad_input():
    with pytest.raises(CompareError, match="no pixel"):
        displacement_from_flat(np.zeros((20, 20)), np.zeros((20, 20), dtype=bool))
    with pytest.raises(CompareError, match="not finite"):
        fill(np.full((20, 20), np.nan), np.ones((20, 20), dtype=bool))
    with pytest.raises(CompareError, match="shape"):
        fill(np.zeros((20, 20)), np.ones((20, 21), dtype=bool))


@pytest.mark.full
def test_a_whole_detector_pixel_by_pixel():
    excess = 1e-3 * np.random.default_rng(0).standard_normal((4004, 4096))
    found = displacement_from_flat(excess, np.ones(excess.shape, dtype=bool))
    assert np.abs(found.divergence + excess - excess.mean()).max() < 1e-9
