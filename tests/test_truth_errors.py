"""Deviations from the truth over stated errors: against dense covariances, and errors as drawn."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from permil.camera import Camera, frames
from permil.flat.shared_errors import shared_places
from permil.products import ImageProduct, MaskPlane
from permil.truth import DetectorDeviation, detector_deviation, led_deviation

SIDE = 12


def _draw(rng: np.random.Generator, *, detectors: int = 4, factor: float = 1.0, modes: int = 5) -> list[DetectorDeviation]:
    """Return detectors whose deviations have the stated covariance times ``factor`` squared, and a common level besides."""
    strengths = factor * rng.standard_normal(modes)
    found = []
    for number in range(detectors):
        x, y = (axis.ravel() for axis in np.meshgrid(np.arange(SIDE) * 3.5, np.arange(SIDE) * 3.4))
        x = x + 42 * number
        patterns = 1e-4 * np.array([np.cos(0.02 * (k + 1) * x + 0.03 * k * y + k) for k in range(modes)])
        photon, remainder = np.full(x.size, 6e-5**2), np.full(x.size, 3e-5**2)
        own = factor * np.sqrt(photon + remainder) * rng.standard_normal(x.size)
        operator = np.linalg.pinv(np.column_stack([np.ones(x.size), x - x.mean(), y - y.mean()]))
        found.append(
            DetectorDeviation(
                name=f"R22_S{number:02d}",
                x_mm=x,
                y_mm=y,
                log_ratio=0.3 + strengths @ patterns + own,
                photon=photon,
                modes=patterns,
                remainder=remainder,
                plane_covariance=(operator * (photon + remainder)) @ operator.T,
            )
        )
    return found


def _dense(found: list[DetectorDeviation]) -> tuple[np.ndarray, np.ndarray]:
    """Return all deviations, and their full covariance, less the mean of all super-pixels."""
    values = np.concatenate([one.log_ratio for one in found])
    patterns = np.concatenate([one.modes for one in found], axis=1)
    covariance = patterns.T @ patterns + np.diag(np.concatenate([one.photon + one.remainder for one in found]))
    centring = np.eye(values.size) - 1 / values.size
    return centring @ values, centring @ covariance @ centring.T


def test_errors_of_planes_are_those_of_the_dense_covariance() -> None:
    found = _draw(np.random.default_rng(1))
    values, covariance = _dense(found)
    pixels = SIDE * SIDE
    operator = np.zeros((3 * len(found), values.size))
    for number, one in enumerate(found):
        operator[3 * number : 3 * number + 3, pixels * number : pixels * (number + 1)] = one.operator
    deviation = led_deviation(found)
    np.testing.assert_allclose(deviation.planes.ravel(), operator @ values, rtol=1e-7, atol=1e-12)
    expected = operator @ covariance @ operator.T
    np.testing.assert_allclose(deviation.plane_errors.ravel(), np.sqrt(np.diag(expected)), rtol=1e-9)
    chi_square = (operator @ values) @ np.linalg.pinv(expected, rcond=1e-11, hermitian=True) @ (operator @ values)
    assert deviation.freedom == 3 * len(found) - 1
    assert deviation.chi_square == pytest.approx(chi_square, rel=1e-3)
    x, y = (np.concatenate([getattr(one, name) for one in found]) for name in ("x_mm", "y_mm"))
    whole = np.linalg.pinv(np.column_stack([np.ones(x.size), x - x.mean(), y - y.mean()]))[1:]
    np.testing.assert_allclose(deviation.tilt, whole @ values, rtol=1e-7)
    # What is beyond the modes acts through the planes of the detectors.
    np.testing.assert_allclose(deviation.tilt_error, np.sqrt(np.diag(whole @ covariance @ whole.T)), rtol=0.02)


def test_errors_that_are_true_and_errors_that_are_too_small() -> None:
    chances, squares, pulls = [], [], []
    rng = np.random.default_rng(2)
    for _ in range(200):
        deviation = led_deviation(_draw(rng))
        chances.append(deviation.p_value)
        squares.append(deviation.super_pull)
        pulls.append(np.concatenate([deviation.plane_pulls.ravel(), deviation.tilt / deviation.tilt_error]))
    assert np.mean(chances) == pytest.approx(0.5, abs=0.08)
    assert np.mean(np.array(chances) < 0.1) == pytest.approx(0.1, abs=0.07)
    assert np.sqrt(np.mean(np.square(pulls))) == pytest.approx(1.0, abs=0.06)
    # The mean level is taken off: the pull is a little below 1.
    assert np.mean(np.square(squares)) == pytest.approx(1.0, abs=0.12)
    assert np.std(squares) == pytest.approx(deviation.super_pull_error, rel=0.35)
    wrong = [led_deviation(_draw(rng, factor=3.0)) for _ in range(20)]
    assert np.mean([one.chi_square / one.freedom for one in wrong]) == pytest.approx(9.0, rel=0.4)
    assert np.median([one.p_value for one in wrong]) < 1e-6
    assert np.sqrt(np.mean([one.super_pull**2 for one in wrong])) == pytest.approx(3.0, rel=0.25)


def test_a_single_detector_has_no_level_of_its_own() -> None:
    deviation = led_deviation(_draw(np.random.default_rng(3), detectors=1))
    assert deviation.freedom == 2
    assert deviation.planes[0, 0] == 0.0
    assert np.isnan(deviation.plane_pulls[0, 0])
    assert 0 < deviation.p_value < 1


def test_without_modes_only_each_detector_is_judged(bin8: Camera) -> None:
    """Products of the solver `divide` say nothing of what detectors have in common."""
    rng = np.random.default_rng(4)
    shared, sigma = 2e-4, 7e-4
    pulls, found = [], []
    for _ in range(40):
        found = [_divided(rng, bin8, name, shared=shared, sigma=sigma) for name in ("R22_S11", "R22_S12")]
        deviation = led_deviation(found)
        pulls.append(deviation.plane_pulls[:, 1:])
    assert np.isnan(deviation.chi_square)
    assert np.isnan(deviation.p_value)
    assert np.isnan(deviation.tilt_error).all()
    assert np.isnan(deviation.super_pull_error)
    assert np.sqrt(np.mean(np.square(pulls))) == pytest.approx(1.0, abs=0.2)
    assert found[0].remainder == pytest.approx(shared**2 * (1 + 1 / 3), rel=0.8)


def _divided(rng: np.random.Generator, camera: Camera, name: str, *, shared: float, sigma: float) -> DetectorDeviation:
    """Return a flat whose pixels share an error of the level and one that is a gradient along CCS X."""
    detector = camera[name]
    places = np.column_stack(shared_places(detector))
    x_mm, _ = frames.detector_to_ccs(detector, *places.T)
    columns, rows = np.meshgrid(np.arange(detector.nx), np.arange(detector.ny))
    x_pixels, _ = frames.detector_to_ccs(detector, columns, rows)
    middle, half = x_mm.mean(), np.ptp(x_pixels) / 2
    level, slope = shared * rng.standard_normal(2)
    covariance = shared**2 * (1 + np.outer(x_mm - middle, x_mm - middle) / half**2)
    truth = 1 + 0.01 * rng.standard_normal(detector.shape)
    image = truth * (1 + level + slope * (x_pixels - middle) / half) * (1 + sigma * rng.standard_normal(detector.shape))
    mask = np.zeros(detector.shape, dtype=np.int32)
    mask[:, 40:43] = int(MaskPlane.BAD)
    image[:, 40:43] = 5.0
    extensions = {
        "PLACES": fits.BinTableHDU(Table({"x_pixel": places[:, 0], "y_pixel": places[:, 1]}), name="PLACES"),
        "COVARIANCE": fits.ImageHDU(covariance, name="COVARIANCE"),
    }
    made, true = (
        ImageProduct(
            image=picture.astype(np.float32),
            mask=mask,
            variance=np.full(detector.shape, sigma**2, np.float32),
            header=fits.Header(),
            image_header=fits.Header(),
            extensions=held,
        )
        for picture, held in ((image, extensions), (truth, {}))
    )
    found = detector_deviation(made, true, detector, super_pixel_mm=0.64)
    assert found is not None
    return found
