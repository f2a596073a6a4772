"""The grid: on the real catalog, on grids with known labels, and on what is no grid."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits
from grids import draw_grid, draw_rim, label_faults
from hypothesis import example, given, settings
from hypothesis import strategies as st

from permil.errors import GridError
from permil.spots.grid import find_grid

ANGLES = (0.0, -3.1, 38.4, 45.0)


@pytest.fixture(scope="module")
def real(shared_data):
    with fits.open(shared_data / "spot_catalog_R02_S02_20191031.fits") as hdus:
        return np.array(hdus[1].data), hdus["GRID_INFO"].header.copy()


def _positions(table):
    return table["base_SdssCentroid_x"].astype(float), table["base_SdssCentroid_y"].astype(float)


def test_real_catalog_has_the_known_labels(real):
    table, header = real
    grid = find_grid(*_positions(table))
    matched = np.isfinite(table["spotgrid_index"])
    np.testing.assert_array_equal(grid.labelled, matched)
    assert matched.sum() == 2401
    assert len(set(zip(grid.grid_i[matched], grid.grid_j[matched], strict=True))) == 2401
    np.testing.assert_array_equal(table["spotgrid_index"][matched], 49 * grid.grid_i[matched] + grid.grid_j[matched])
    assert (grid.columns, grid.rows, grid.window) == (49, 49, "decided")
    assert abs(grid.rigid.x0 - header["X0"]) < 0.001
    assert abs(grid.rigid.y0 - header["Y0"]) < 0.001


def test_real_catalog_has_the_known_residuals(real):
    x, y = _positions(real[0])
    third, seventh = find_grid(x, y, degree=3), find_grid(x, y, degree=7)
    assert third.affine.rms == pytest.approx(1.137, rel=0.02)
    assert third.rigid.rms == pytest.approx(1.143, rel=0.02)
    assert third.distortion.rms == pytest.approx(0.156, rel=0.02)
    assert seventh.distortion.rms == pytest.approx(0.125, rel=0.02)


@given(turn=st.integers(0, 3), shift=st.tuples(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4)), scale=st.floats(0.2, 5))
@settings(max_examples=12)
def test_turned_shifted_and_scaled_grids_give_turned_shifted_and_scaled_fits(turn, shift, scale):
    true = draw_grid(np.random.default_rng(turn), angle_deg=7.0, missing=0.1, spurious=0.03, size=(21, 21))
    first = find_grid(true.x, true.y, columns=21, rows=21)
    x, y = true.x, true.y
    for _ in range(turn):
        x, y = -y, x
    second = find_grid(scale * x + shift[0], scale * y + shift[1], columns=21, rows=21)
    np.testing.assert_array_equal(first.labelled, second.labelled)
    assert second.rigid.theta == pytest.approx(first.rigid.theta, abs=1e-9)
    steps = [first.rigid.xstep, first.rigid.ystep]
    np.testing.assert_allclose(
        [second.rigid.xstep, second.rigid.ystep][:: -1 if turn % 2 else 1], scale * np.array(steps), rtol=1e-9
    )
    assert second.distortion.rms == pytest.approx(scale * first.distortion.rms, rel=1e-6)


@pytest.mark.parametrize("angle", ANGLES)
@given(
    seed=st.integers(0, 2**31),
    centre=st.tuples(st.floats(500, 3500), st.floats(500, 3500)),
    noise=st.sampled_from([0.02, 0.1, 0.3]),
    distortion=st.sampled_from([0.0, 1.1, 6.0, -4.0]),
)
@example(seed=12566, centre=(3246.375, 3467.75), noise=0.3, distortion=0.0)
@settings(max_examples=12)
def test_cut_grids_with_holes_and_spurious_sources_are_labelled(angle, seed, centre, noise, distortion):
    rng = np.random.default_rng(seed)
    true = draw_grid(rng, angle_deg=angle, centre=centre, missing=0.2, spurious=0.05, noise=noise, distortion=distortion)
    grid = find_grid(true.x, true.y)
    assert label_faults(true, grid.grid_i, grid.grid_j) == (0, 0)
    assert -np.pi / 4 < grid.rigid.theta <= np.pi / 4
    turn = np.rad2deg(grid.rigid.theta) - angle
    assert abs((turn + 45) % 90 - 45) < 0.1
    spots = true.i >= 0
    if grid.columns < 49 or grid.rows < 49:
        assert grid.window == "ambiguous"
    elif angle != 45.0:
        # The window is claimed to be certain: then the labels must be the true ones, not only consistent.
        np.testing.assert_array_equal(grid.grid_i[spots], true.i[spots])
        np.testing.assert_array_equal(grid.grid_j[spots], true.j[spots])


@given(angle=st.floats(-180, 180), seed=st.integers(0, 2**31))
@settings(max_examples=25)
def test_any_angle(angle, seed):
    true = draw_grid(np.random.default_rng(seed), angle_deg=angle, missing=0.2, spurious=0.05, size=(25, 25))
    grid = find_grid(true.x, true.y, columns=25, rows=25)
    assert label_faults(true, grid.grid_i, grid.grid_j) == (0, 0)


@pytest.mark.parametrize("empty", [(10,), (10, 11), (5, 6, 7), (0, 48), (20, 21, 30, 31)])
def test_missing_rows(empty):
    true = draw_grid(np.random.default_rng(3), angle_deg=20, missing=0.1, spurious=0.05, distortion=3, empty_rows=empty)
    grid = find_grid(true.x, true.y)
    assert label_faults(true, grid.grid_i, grid.grid_j) == (0, 0)
    assert grid.window == ("ambiguous" if 0 in empty else "decided")


@pytest.mark.parametrize("size", [(3, 3), (5, 4), (7, 7), (15, 15)])
def test_small_masks(size):
    true = draw_grid(np.random.default_rng(5), angle_deg=-17, size=size)
    grid = find_grid(true.x, true.y, columns=size[0], rows=size[1])
    assert grid.window == "decided"
    np.testing.assert_array_equal(grid.grid_i, true.i)
    np.testing.assert_array_equal(grid.grid_j, true.j)


def test_errors_of_the_five_parameters():
    pulls = []
    for seed in range(120):
        true = draw_grid(np.random.default_rng(seed), angle_deg=10, size=(11, 11), noise=0.2, distortion=0.0)
        rigid = find_grid(true.x, true.y, columns=11, rows=11).rigid
        fitted = np.array([rigid.x0, rigid.y0, rigid.xstep, rigid.ystep, rigid.theta])
        pulls.append((fitted - [2035.0, 1999.0, 65.3, 65.3, np.deg2rad(10)]) / rigid.errors)
    np.testing.assert_allclose(np.sqrt(np.mean(np.square(pulls), axis=0)), 1.0, atol=0.22)


def test_sources_twice_at_a_node_leave_one_label_each():
    true = draw_grid(np.random.default_rng(1), noise=0.02)
    twice = np.arange(0, 2000, 40)
    grid = find_grid(np.concatenate([true.x, true.x[twice] + 0.8]), np.concatenate([true.y, true.y[twice]]))
    np.testing.assert_array_equal(grid.labelled, np.arange(len(true.x) + len(twice)) < len(true.x))


@given(seed=st.integers(0, 2**31), count=st.one_of(st.integers(9, 40), st.integers(41, 3000)))
@settings(max_examples=60)
def test_stars_are_no_grid(seed, count):
    x, y = np.random.default_rng(seed).random((2, count)) * 4000
    with pytest.raises(GridError, match=r"not lie on a grid|not nearly equal|no other step repeats"):
        find_grid(x, y)


@given(offset=st.tuples(st.floats(0.2, 0.8), st.floats(0.2, 0.8)), angle=st.floats(-45, 45), seed=st.integers(0, 2**31))
@settings(max_examples=25)
def test_two_interleaved_grids(offset, angle, seed):
    rng = np.random.default_rng(seed)
    first = draw_grid(rng, angle_deg=angle)
    cosine, sine = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    along, across = 65.3 * offset[0], 65.3 * offset[1]
    centre = (2035 + along * cosine - across * sine, 1999 + along * sine + across * cosine)
    second = draw_grid(rng, angle_deg=angle, centre=centre)
    with pytest.raises(GridError, match=r"two interleaved grids|more than the 49|not nearly equal"):
        find_grid(np.concatenate([first.x, second.x]), np.concatenate([first.y, second.y]))


@pytest.mark.parametrize("saddles", ["edges", "cells", "i", "all"])
@pytest.mark.parametrize(("angle", "share"), [(38.0, 0.15), (38.0, 0.2), (-3.0, 0.3), (0.0, 0.22), (44.5, 0.25), (46.0, 0.32)])
def test_false_sources_along_the_rim_of_a_disc_do_no_harm(angle, share, saddles):
    for seed, centre in enumerate([(2900.0, 2700.0), (900.0, 3600.0)]):
        true = draw_rim(
            np.random.default_rng(seed), angle_deg=angle, share=share, saddles=saddles, centre=centre, missing=0.05, jitter=1.0
        )
        false = int((true.i < 0).sum())
        assert 500 < len(true.x) < 2900
        grid = find_grid(true.x, true.y)
        assert label_faults(true, grid.grid_i, grid.grid_j) == (0, 0)
        assert 0.3 * false < grid.second <= false


def test_whole_mask_with_a_rim_is_decided():
    true = draw_rim(np.random.default_rng(7), angle_deg=2.0, share=0.2, saddles="edges", centre=(2035.0, 1999.0))
    grid = find_grid(true.x, true.y)
    assert grid.window == "decided"
    np.testing.assert_array_equal(grid.grid_i, true.i)
    np.testing.assert_array_equal(grid.grid_j, true.j)


@pytest.mark.parametrize("offset", [(0.5, 0.0), (0.0, 0.5), (0.5, 0.5)])
@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_two_grids_half_a_step_apart_are_refused(offset, missing):
    rng = np.random.default_rng(11)
    first = draw_grid(rng, missing=missing)
    second = draw_grid(rng, centre=(2035 + 65.3 * offset[0], 1999 + 65.3 * offset[1]), missing=missing)
    with pytest.raises(GridError, match=r"two interleaved grids|more than the 49"):
        find_grid(np.concatenate([first.x, second.x]), np.concatenate([first.y, second.y]))


def test_every_source_twice():
    true = draw_grid(np.random.default_rng(0))
    with pytest.raises(GridError, match="check for two grids in one catalog"):
        find_grid(np.concatenate([true.x, true.x + 3]), np.concatenate([true.y, true.y - 4]))


def test_too_few_spots():
    true = draw_grid(np.random.default_rng(0), size=(3, 3))
    with pytest.raises(GridError, match="8 sources") as caught:
        find_grid(true.x[:8], true.y[:8])
    assert "at least 9" in str(caught.value)
    x = true.x.copy()
    x[0] = np.nan
    with pytest.raises(GridError, match="8 sources"):
        find_grid(x, true.y)


def test_more_nodes_than_the_mask():
    true = draw_grid(np.random.default_rng(0), size=(20, 20))
    with pytest.raises(GridError, match="20 columns, more than the 15") as caught:
        find_grid(true.x, true.y, columns=15, rows=15)
    assert (caught.value.data["value"], caught.value.data["allowed"]) == (20, 15)
