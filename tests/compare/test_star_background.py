"""The background under stars as a filter: against fits of the background on random fields, and in its limits."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import fft

from permil.compare.stars.response import BackgroundFilter, typical_pitch
from permil.spots.background import fit_background

FILTER = BackgroundFilter(box=64.0, mask_radius=28.0, pitch=65.3)
RADIUS = 12.0
SIZE = 1024


def band_field(rng, shortest, longest):
    k = np.pi / SIZE * np.hypot(np.arange(SIZE)[:, None], np.arange(SIZE)[None, :])
    inside = (k > 2 * np.pi / longest) & (k <= 2 * np.pi / shortest)
    field = fft.idctn(np.where(inside, rng.standard_normal((SIZE, SIZE)), 0.0), norm="ortho")
    return field / field.std()


@pytest.mark.parametrize(("shortest", "longest"), [(45.0, 64.0), (64.0, 90.5), (90.5, 128.0), (128.0, 181.0)])
def test_what_is_left_of_a_random_field_in_the_circle_is_what_the_filter_says(shortest, longest):
    rng = np.random.default_rng(5)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    with_field, of_field = 0.0, 0.0
    for _ in range(4):
        field = band_field(rng, shortest, longest)
        i, j = np.meshgrid(np.arange(-2, 18), np.arange(-2, 18))
        turn, shift = rng.uniform(-0.06, 0.06), rng.uniform(0, 65, 2)
        x = (65.3 * (np.cos(turn) * i - np.sin(turn) * j) + shift[0]).ravel()
        y = (65.3 * (np.sin(turn) * i + np.cos(turn) * j) + shift[1]).ravel()
        free = np.ones((SIZE, SIZE), dtype=bool)
        for x0, y0 in zip(x, y, strict=True):
            near = np.s_[max(int(y0) - 30, 0) : max(int(y0) + 31, 0), max(int(x0) - 30, 0) : max(int(x0) + 31, 0)]
            free[near] &= np.hypot(rows[near] - y0, columns[near] - x0) > 28.0
        left = fit_background(field.astype(np.float32), free, box=64).subtracted(field.astype(np.float32))
        for x0, y0 in zip(x, y, strict=True):
            if min(x0, y0) > 100 and max(x0, y0) < SIZE - 100:
                near = np.s_[int(y0) - 14 : int(y0) + 15, int(x0) - 14 : int(x0) + 15]
                circle = np.hypot(rows[near] - y0, columns[near] - x0) < RADIUS
                even = field[near][circle].mean()
                with_field += left[near][circle].mean() * even
                of_field += even**2
    assert FILTER.unseen(shortest, longest, RADIUS) == pytest.approx(with_field / of_field, abs=0.12)


def test_long_waves_are_followed_and_short_ones_are_not():
    assert FILTER.unseen(512.0, np.inf, RADIUS) == pytest.approx(0.0, abs=0.01)
    assert FILTER.unseen(0.0, 16.0, RADIUS) == 1.0


def test_between_the_stars_waves_of_their_distance_are_seen_the_other_way_round():
    # The background is found half a period away, so that stars show more than the light under them has.
    assert FILTER.unseen(56.0, 75.0, RADIUS) > 1.2


def test_the_pitch_is_that_of_one_exposure():
    i, j = np.divmod(np.arange(100), 10)
    x, y = np.tile(50.0 * i, 3) + np.repeat([0.0, 1.0, 2.0], 100), np.tile(50.0 * j, 3)
    assert typical_pitch(x, y, np.repeat(np.arange(3), 100)) == pytest.approx(50.0)
    assert np.isnan(typical_pitch(x[:1], y[:1], np.zeros(1, dtype=np.int64)))
