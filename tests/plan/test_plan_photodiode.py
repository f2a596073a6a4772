"""What it adds to predicted errors that the drift of the photodiode has to be estimated."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from permil.flat.joint import PhotodiodeModel
from permil.flat.joint.photodiode import Drift
from permil.flat.joint.photodiode_fit import PhotodiodeFit
from permil.plan import photodiode as module
from permil.plan.photodiode import DriftEstimate, PlannedPhotodiode

POSITIONS, IMAGES = 12, 2
SCALE_NOISE = 3e-5
TIME = IMAGES * np.arange(POSITIONS) + 0.5
NOISE, DRIFT = 2e-4, 1e-3


def photodiode():
    """Return the photodiode at pairs of images."""
    return PlannedPhotodiode(
        NOISE, 0.0, (Drift(DRIFT, 1.0, 1.0),), images=(IMAGES,) * POSITIONS, scale_variance=(SCALE_NOISE**2,) * POSITIONS
    )


def information():
    """Return what signals know of the scales: all but their mean and a linear change."""
    fixed = np.linalg.qr(np.column_stack([np.ones(POSITIONS), TIME]))[0]
    return (np.eye(POSITIONS) - fixed @ fixed.T) * IMAGES / SCALE_NOISE**2


def always(model):
    """Return an estimate that ignores the data."""
    return lambda time, *_, **__: PhotodiodeFit(model, np.ones(len(time), dtype=bool))


def test_nothing_is_added_where_the_estimate_is_the_truth(monkeypatch):
    truth = photodiode()
    monkeypatch.setattr(module, "fit_photodiode", always(PhotodiodeModel(truth.white, 0.0, truth.drifts)))
    np.testing.assert_allclose(DriftEstimate(4).deviations(truth, TIME, information()), 0.0, atol=1e-12)


@pytest.mark.parametrize("assumed", [3e-4, 1e-2])
def test_a_wrong_estimate_adds_what_generalised_least_squares_lose(monkeypatch, assumed):
    """The slope of the scales: that of readings minus signals, weighted with the assumed covariance, against an explicit formula."""
    monkeypatch.setattr(module, "fit_photodiode", always(PhotodiodeModel(NOISE, 0.0, (Drift(assumed, 1.0, 1.0),))))
    found = DriftEstimate(4000, seed=2).deviations(photodiode(), TIME, information())
    images = np.arange(POSITIONS * IMAGES, dtype=float)
    fixed = np.column_stack([np.ones(images.size), np.repeat(TIME - TIME.mean(), IMAGES)])

    def covariance(size):
        noise = (NOISE**2 + SCALE_NOISE**2) * np.eye(images.size)
        return noise + PhotodiodeModel(0.0, 0.0, (Drift(size, 1.0, 1.0),)).drift_covariance(images)

    def weights(size):
        inverse = np.linalg.inv(covariance(size))
        return np.linalg.solve(fixed.T @ inverse @ fixed, fixed.T @ inverse)

    rows = weights(assumed)[1] - weights(DRIFT)[1]
    expected = np.sqrt(rows @ covariance(DRIFT) @ rows)
    slope = found @ (TIME - TIME.mean()) / np.square(TIME - TIME.mean()).sum()
    assert np.sqrt(np.mean(slope**2)) == pytest.approx(expected, rel=0.05)


def test_the_estimate_of_the_joint_solution_adds_an_error():
    first, again, other = (DriftEstimate(3, seed).deviations(photodiode(), TIME, information()) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.isfinite(first).all()
    assert 0 < np.abs(first).max() < 10 * DRIFT
    assert (first != other).any()


def test_many_images_count_as_one_reading(monkeypatch):
    seen = []

    def recorded(time, *_, white, **__):
        seen.append((len(time), white))
        return PhotodiodeFit(PhotodiodeModel(white, 0.0), np.ones(len(time), dtype=bool))

    monkeypatch.setattr(module, "fit_photodiode", recorded)
    monkeypatch.setattr(module, "FEW_READINGS", POSITIONS)
    many = replace(photodiode(), images=(1, 4) * (POSITIONS // 2))
    DriftEstimate(1).deviations(many, TIME, information())
    assert seen == [(POSITIONS, pytest.approx(NOISE * np.sqrt((1 + 1 / 4) / 2)))]
