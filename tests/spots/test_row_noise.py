"""Noise that the pixels of a row have in common, against sums over drawn rows."""

from __future__ import annotations

import bench_images as images
import numpy as np
import pytest
from scipy.spatial import cKDTree

from permil.camera import load_camera
from permil.simulate.spots import draw_exposure
from permil.spots.apertures import SpotImage, aperture_fluxes
from permil.spots.background import RowErrors, RowNoise, fit_background, row_noise
from permil.spots.measure import measure_spots


def test_rows_of_a_detector_follow_its_amplifiers() -> None:
    detector = load_camera("lsstcam")["R02_S02"]
    noise = row_noise(detector, np.arange(16.0))
    assert noise.variance.shape == (4000, 8)
    for number, amplifier in enumerate(detector.amplifiers):
        rows, columns = amplifier.slices
        strips = np.searchsorted(noise.starts, np.arange(columns.start, columns.stop), side="right") - 1
        assert (noise.variance[rows][:, strips] == number).all()


def test_error_of_a_circle_adds_up_along_rows() -> None:
    image, place = np.zeros((101, 101), dtype=np.float32), np.array([50.0])
    noise = RowNoise(np.array([0, 45]), np.full((101, 2), 4.0))
    fluxes = aperture_fluxes(
        SpotImage(
            image,
            np.full_like(image, 4.0),
            np.ones(image.shape, dtype=bool),
            np.zeros(1),
            RowErrors(noise, np.zeros(1, dtype=np.int64), np.zeros((1, 1, 2))),
        ),
        place,
        place,
        radii=(12.0,),
    )
    # Chords of the circle on both sides of the border between the amplifiers, half a pixel left of column 45.
    v = np.linspace(-12, 12, 24001)
    half = np.sqrt(144 - v**2)
    left = np.clip(44.5 - (50.0 - half), 0, 2 * half)
    expected = 4.0 * np.trapezoid(left**2 + (2 * half - left) ** 2, v)
    assert fluxes.error[0, 0] ** 2 == pytest.approx(expected, rel=0.02)


def test_background_answers_to_rows_as_to_a_shifted_row() -> None:
    """The stated response of a row is that of a raised level."""
    rng = np.random.default_rng(5)
    shape = (320, 320)
    image = rng.normal(50, 5, shape).astype(np.float32)
    y, x = np.indices(shape)
    free = np.hypot((x + 5) % 65 - 32, (y + 9) % 65 - 32) > 28
    noise = RowNoise(np.array([0, 150]), np.full((320, 2), 0.5))
    place = np.array([140.0]), np.array([155.0])
    background = fit_background(image, free, box=64, row_noise=noise)
    _, errors = background.errors(*place, reach=30)
    before = background.at(*place)[0]
    for row, strip, columns in ((150, 0, slice(0, 150)), (160, 1, slice(150, 320)), (128, 0, slice(0, 150))):
        raised = image.copy()
        # Small, so that the same outliers are left out.
        raised[row, columns] += 0.02
        change = (fit_background(raised, free, box=64, row_noise=noise).at(*place)[0] - before) / 0.02
        assert change == pytest.approx(errors.answer[0, row - errors.first_row[0], strip], rel=0.02, abs=2e-5)


def test_errors_are_those_of_repeated_images_with_row_noise() -> None:
    bench = images.fixed_bench(exposures=16)
    detector, rng = bench.detector, np.random.default_rng(6)
    level_variance = np.array([1.0, 9.0, 4.0, 9.0])
    measured, predicted = [], []
    light = bench.spot_light(bench.exposures()[0])
    for exposure in bench.exposures():
        image = draw_exposure(bench, exposure)
        variance = np.maximum(image, 0) + np.float32(detector.amplifiers[0].read_noise ** 2)
        for amplifier, level in zip(detector.amplifiers, level_variance, strict=True):
            image[amplifier.slices] += np.sqrt(level).astype(np.float32) * rng.standard_normal(
                (amplifier.ny, 1), dtype=np.float32
            )
            variance[amplifier.slices] += np.float32(level)
        catalog = measure_spots(
            image, variance, np.zeros(detector.shape, dtype=np.int16), detector, row_variance=level_variance
        ).catalog
        distance, index = cKDTree(np.column_stack([catalog.x, catalog.y])).query(np.column_stack([light.x, light.y]))
        found = (distance < 1) & catalog.good[index]
        for rows, suffix in ((measured, ""), (predicted, "_err")):
            rows.append([np.where(found, getattr(catalog, name + suffix)[index], np.nan) for name in images.QUANTITIES])
    scatter, errors = np.var(measured, axis=0, ddof=1), np.mean(np.square(predicted), axis=0)
    faint = np.isfinite(scatter).all(axis=0) & (bench.mask.flux < 3e4)
    assert faint.sum() > 30
    for number, name in enumerate(images.QUANTITIES):
        assert np.sqrt(np.mean(scatter[number, faint] / errors[number, faint])) == pytest.approx(1.0, abs=0.1), name
