"""Boundary steps, planes, differences, mosaics and division by a flat, against known inputs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from permil.camera import Camera, frames
from permil.engine.threads import allow_threads
from permil.errors import FlatError
from permil.flat.apply import apply_flat
from permil.flat.boundaries import amplifier_factors, fit_boundary_steps
from permil.flat.composite import assemble_mosaic, mosaic_grid, mosaic_piece
from permil.flat.difference import flat_difference
from permil.flat.shared_errors import fit_plane, shared_covariance
from permil.flat.superpixel import block_medians, super_pixels
from permil.products import MaskPlane


def _smooth(detector, rng: np.random.Generator, noise: float) -> np.ndarray:
    rows, columns = np.mgrid[: detector.ny, : detector.nx]
    surface = 1 + 0.02 * np.sin(columns / 150) + 1e-5 * (rows - 200)
    return surface * (1 + noise * rng.standard_normal(detector.shape))


@pytest.mark.parametrize("name", ["R22_S11", "R01_S00"])
def test_gain_errors_are_found_with_true_errors(bin8: Camera, name: str) -> None:
    detector = bin8[name]
    rng = np.random.default_rng(7)
    pulls, gaussian = [], []
    for _ in range(12):
        gains = 2e-3 * rng.standard_normal(16)
        gains -= gains.mean()
        response = _smooth(detector, rng, 3e-3) * np.exp(gains)[detector.amplifier_map()]
        steps = fit_boundary_steps(response, np.ones(detector.shape, bool), detector)
        pulls.append((steps.factor - gains) / steps.factor_error)
        gaussian.append(np.std(steps.factor - gains))
    assert 0.6 < np.std(pulls) < 1.4
    assert np.mean(gaussian) < 3e-4  # of 2e-3 that were put in


def test_removed_steps_leave_the_smooth_part(bin8: Camera) -> None:
    detector = bin8["R22_S11"]
    rng = np.random.default_rng(8)
    gains = 3e-3 * rng.standard_normal(16)
    smooth = _smooth(detector, rng, 1e-3)
    steps = fit_boundary_steps(smooth * np.exp(gains)[detector.amplifier_map()], np.ones(detector.shape, bool), detector)
    restored = smooth * np.exp(gains)[detector.amplifier_map()] / amplifier_factors(detector, steps.factor)
    assert np.std(restored / smooth) < 2e-4


def test_amplifier_without_good_pixels_has_no_factor(bin8: Camera) -> None:
    detector = bin8["R22_S11"]
    rng = np.random.default_rng(9)
    good = np.ones(detector.shape, bool)
    good[detector.amplifier("C10").slices] = False
    steps = fit_boundary_steps(_smooth(detector, rng, 1e-3), good, detector)
    assert np.isnan(steps.factor[0])
    assert np.isfinite(steps.factor[1:]).all()
    with pytest.raises(FlatError, match="no amplifier border"):
        fit_boundary_steps(_smooth(detector, rng, 1e-3), np.zeros(detector.shape, bool), detector)


def test_super_pixels_are_plain_means() -> None:
    rng = np.random.default_rng(10)
    image = rng.normal(size=(20, 27))
    good = rng.uniform(size=image.shape) > 0.3
    blocks = super_pixels(image, good, 8)
    for row in range(3):
        for column in range(4):
            cell = image[8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
            keep = good[8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
            expected = cell[keep].mean() if 2 * keep.sum() >= keep.size else np.nan
            np.testing.assert_allclose(blocks.mean[row, column], expected)
    assert blocks.expand(image.shape)[17, 25] == blocks.mean[2, 3]


def test_block_medians_are_those_of_the_blocks() -> None:
    rng = np.random.default_rng(14)
    image = rng.normal(size=(21, 30))
    image[:8, :8] = np.nan
    image[0, 0] = 5.0
    image[8:16, 8:16] = np.nan
    medians = block_medians(image, 8)
    assert medians[3, 3] == 5.0
    assert medians[10, 10] == 0
    block = np.sort(image[16:21, 24:30].ravel())
    assert medians[20, 29] == block[block.size // 2]


def test_plane_error_covers_shared_errors(bin8: Camera) -> None:
    """Draw beam errors from a covariance and see that the plane moves by what is predicted."""
    detector = bin8["R22_S11"]
    rng = np.random.default_rng(11)
    x_pixel, y_pixel = np.meshgrid(np.linspace(20, 490, 6), np.linspace(20, 480, 6))
    x_mm, y_mm = (places.ravel() for places in frames.detector_to_ccs(detector, x_pixel, y_pixel))
    pointings = np.array([(0.0, 0.0), (10, 10), (10, -10), (-10, 10), (-10, -10)])
    ux, uy = x_mm[None, :] - pointings[:, :1], y_mm[None, :] - pointings[:, 1:]
    weights = rng.uniform(0.5, 1.5, ux.shape)
    weights[0, :5] = 0
    scale_errors = np.full(5, 2e-4)

    def beam_covariance(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        distance = np.hypot(first[:, None] - first, second[:, None] - second)
        return 1e-6 * np.exp(-0.5 * (distance / 8) ** 2) + 1e-12 * np.eye(first.size)

    covariance = shared_covariance(beam_covariance, ux, uy, weights, scale_errors)
    centre = (float(x_mm.mean()), float(y_mm.mean()))
    options = {"centre": centre, "places": (x_mm, y_mm), "covariance": covariance}
    predicted = fit_plane(np.ones(x_mm.size), x_mm, y_mm, **options).errors
    root = np.linalg.cholesky(beam_covariance(ux.ravel(), uy.ravel()))
    planes = []
    for _ in range(1500):
        error = (root @ rng.standard_normal(ux.size)).reshape(ux.shape) + 2e-4 * rng.standard_normal((5, 1))
        response = 1 + (weights * error).sum(axis=0) / weights.sum(axis=0)
        plane = fit_plane(response, x_mm, y_mm, **options)
        planes.append((plane.level, plane.gradient_x, plane.gradient_y))
    np.testing.assert_allclose(np.std(planes, axis=0), predicted, rtol=0.08)


def test_difference_recovers_what_was_put_in(bin8: Camera) -> None:
    detector = bin8["R22_S12"]
    rng = np.random.default_rng(12)
    truth = 1 + 5e-3 * rng.standard_normal(detector.shape)
    x, y = frames.detector_to_ccs(detector, *np.meshgrid(np.arange(detector.nx), np.arange(detector.ny)))
    tilt = 1 + 3e-5 * (x - x.mean()) - 2e-5 * (y - y.mean())
    noise = 1e-3
    measured = 1.004 * truth * tilt * (1 + noise * rng.standard_normal(detector.shape))
    found = flat_difference(
        measured,
        (noise * truth) ** 2,
        truth,
        np.zeros(detector.shape),
        np.ones(detector.shape, bool),
        detector=detector,
        super_pixel_mm=0.64,
    )
    assert found.scale == pytest.approx(1.004, abs=5 * found.scale_error)
    assert found.gradient_x == pytest.approx(3e-5, abs=5 * found.gradient_error)
    assert found.gradient_y == pytest.approx(-2e-5, abs=5 * found.gradient_error)
    assert found.chi_square == pytest.approx(1.0, abs=0.02)
    expected_super = np.hypot(np.std(tilt), noise / 8)
    assert found.rms_super == pytest.approx(expected_super, rel=0.05)
    assert found.super_noise == pytest.approx(noise / 8, rel=0.05)


def test_difference_needs_the_same_detector(bin8: Camera) -> None:
    ones = np.ones((4, 4))
    with pytest.raises(FlatError, match="different shapes"):
        flat_difference(ones, ones, np.ones((5, 4)), ones, ones.astype(bool), detector=bin8["R22_S11"], super_pixel_mm=0.64)
    shape = bin8["R22_S11"].shape
    with pytest.raises(FlatError, match="no good super-pixel"):
        flat_difference(
            np.ones(shape), np.ones(shape), np.ones(shape), np.ones(shape), np.zeros(shape, bool),
            detector=bin8["R22_S11"], super_pixel_mm=0.64,
        )  # fmt: skip


def test_mosaic_puts_detectors_where_the_camera_has_them(bin8: Camera) -> None:
    chosen = [bin8[name] for name in ("R22_S11", "R01_S02", "R00_SG0", "R44_SW1")]
    grid = mosaic_grid(chosen, 0.64)
    pieces = [
        mosaic_piece(
            np.full(detector.shape, index + 1.0),
            np.ones(detector.shape),
            np.ones(detector.shape, bool),
            detector=detector,
            grid=grid,
        )
        for index, detector in enumerate(chosen)
    ]
    response, _, count = assemble_mosaic(pieces, grid)
    assert count.sum() == sum(detector.nx * detector.ny for detector in chosen)
    for index, detector in enumerate(chosen):
        x, y = frames.detector_to_dvcs(detector, *detector.centre_pixel)
        cell = response[int((y - grid.y_low) / 0.64), int((x - grid.x_low) / 0.64)]
        assert cell == pytest.approx(index + 1)


@pytest.mark.parametrize("yaw", [0.0, 90.0, 33.0])
@pytest.mark.parametrize("threads", [1, 3])
def test_mosaic_is_the_mean_of_the_good_pixels_of_a_cell(bin8: Camera, yaw: float, threads: int) -> None:
    detector = replace(bin8["R22_S11"], yaw_deg=yaw)
    rng = np.random.default_rng(3)
    level, good = rng.normal(1.0, 0.1, detector.shape), rng.random(detector.shape) < 0.9
    level[~good] = np.nan
    grid = mosaic_grid([detector], 0.64)
    with allow_threads(threads):
        piece = mosaic_piece(level, 0.01 * level, good, detector=detector, grid=grid)
    response, variance, count = assemble_mosaic([piece], grid)
    rows, columns = np.nonzero(good)
    x, y = frames.detector_to_dvcs(detector, columns, rows)
    edges = [low + 0.64 * np.arange(size + 1) for low, size in zip((grid.y_low, grid.x_low), grid.shape, strict=True)]
    expected_count, total = (np.histogram2d(y, x, edges, weights=weights)[0] for weights in (None, level[good]))
    np.testing.assert_array_equal(count, expected_count)
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(response, total / expected_count, rtol=1e-6)
        np.testing.assert_allclose(variance, 0.01 * total / expected_count**2, rtol=1e-6)


def test_mosaic_coordinates_are_dvcs_and_ccs(bin8: Camera) -> None:
    from astropy.wcs import WCS

    grid = mosaic_grid([bin8["R22_S11"]], 0.64)
    cards = grid.cards()
    dvcs = np.array(WCS(cards).pixel_to_world_values(10, 4), dtype=float)
    ccs = np.array(WCS(cards, key="C").pixel_to_world_values(10, 4), dtype=float)
    expected = np.array([grid.x_low + 0.64 * 10.5, grid.y_low + 0.64 * 4.5])
    scale = 1000.0 if abs(dvcs[0]) < 1 else 1.0
    np.testing.assert_allclose(dvcs * scale, expected, atol=1e-9)
    np.testing.assert_allclose(ccs * scale, expected[::-1], atol=1e-9)


def test_applied_flat_carries_errors_and_masks() -> None:
    rng = np.random.default_rng(13)
    shape = (60, 70)
    flat, flat_error, level = 0.9, 2e-3, 5e4
    measured_flat = flat + flat_error * rng.standard_normal(shape)
    image = rng.normal(level * flat, np.sqrt(level * flat), shape)
    mask, flat_mask = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    mask[0, 0], flat_mask[1, 1] = int(MaskPlane.SAT), int(MaskPlane.NO_DATA)
    corrected, variance, planes = apply_flat(
        image, np.full(shape, level * flat), mask, flat=measured_flat, flat_variance=np.full(shape, flat_error**2), flat_mask=flat_mask
    )  # fmt: skip
    pulls = ((corrected - level) / np.sqrt(variance)).ravel()
    pulls = pulls[np.isfinite(pulls)]
    assert pulls.size == 60 * 70 - 1
    assert abs(np.mean(pulls**2) - 1) < 4 * np.sqrt(2 / pulls.size)
    assert planes[0, 0] == int(MaskPlane.SAT)
    assert planes[1, 1] & int(MaskPlane.NO_DATA)
    with pytest.raises(FlatError, match="permil assemble"):
        apply_flat(image[:5], image[:5], mask[:5], flat=flat * image, flat_variance=image, flat_mask=flat_mask)
