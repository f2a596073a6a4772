"""Outliers of single exposures against drawn cosmic rays."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from permil.camera import load_camera
from permil.flat.pointings import flag_outliers
from permil.products import MaskPlane

SCALE, NOISE, THRESHOLD = 5e4, 100.0, 5.0


@pytest.fixture
def drawn():
    detector = load_camera("lsstcam-bin8")["R22_S11"]
    rng = np.random.default_rng(11)
    y, x = np.mgrid[: detector.ny, : detector.nx]
    beam = (0.6 + 0.3 * x / detector.nx - 0.1 * y / detector.ny).astype(np.float32)
    response = (1 + 0.01 * rng.standard_normal(detector.shape)).astype(np.float32)
    expected = SCALE * beam * response
    image = rng.normal(expected, np.sqrt(expected + NOISE)).astype(np.float32)
    return detector, image, beam, response


def _flag(drawn, image, mask):
    detector, _, beam, response = drawn
    return flag_outliers(
        image,
        mask,
        detector=detector,
        noise_variance=np.full(len(detector.amplifiers), NOISE),
        beam=beam,
        scale=SCALE,
        reference=response,
        threshold=THRESHOLD,
    )


def test_cosmic_rays_are_flagged_and_hardly_anything_else(drawn) -> None:
    detector, image, _, _ = drawn
    rng = np.random.default_rng(12)
    hit = rng.random(detector.shape) < 1e-3
    image = image + np.where(hit, 3000, 0).astype(np.float32)
    mask = np.zeros(detector.shape, dtype=np.int16)
    mask[0, 0] = int(MaskPlane.EDGE)
    variance, found = _flag(drawn, image, mask)
    flagged = (mask & int(MaskPlane.REJECTED)) != 0
    assert flagged[hit].all()
    assert found == flagged.sum()
    assert np.array_equal(flagged, (mask & int(MaskPlane.NO_DATA)) != 0)
    assert mask[0, 0] & int(MaskPlane.EDGE)
    # The threshold allows for the error of the reference.
    by_chance = 2 * norm.sf(THRESHOLD) * image.size
    assert np.count_nonzero(flagged & ~hit) <= by_chance + 5
    np.testing.assert_allclose(variance, image + NOISE, rtol=1e-6)


def test_dead_and_negative_pixels_are_flagged(drawn) -> None:
    image = drawn[1].copy()
    image[5, 7], image[6, 8] = 0.0, -50.0
    mask = np.zeros(image.shape, dtype=np.int16)
    variance, _ = _flag(drawn, image, mask)
    assert mask[5, 7] == mask[6, 8] == int(MaskPlane.NO_DATA | MaskPlane.REJECTED)
    assert variance[6, 8] == NOISE


def test_nothing_is_flagged_where_nothing_is_known(drawn) -> None:
    detector, image, beam, response = drawn
    image = image * np.float32(2)
    mask = np.zeros(image.shape, dtype=np.int16)
    beam, response = beam.copy(), response.copy()
    beam[:100], response[100:] = np.nan, np.nan
    _, found = _flag((detector, image, beam, response), image, mask)
    assert found == 0
    assert not mask.any()
