"""Bias and errors of the measurement against the truth of repeated images."""

from __future__ import annotations

import bench_images as images
import numpy as np
import pytest

from permil.camera import load_camera
from permil.config.simulate import SimulateSpotsConfig
from permil.simulate.spots import SpotBench, draw_exposure
from permil.spots.catalog import BAD_FLAGS

BRIGHT = 5e5


@pytest.fixture(scope="module")
def repeated() -> tuple[SpotBench, images.Repeated]:
    bench = images.fixed_bench(exposures=16)
    return bench, images.measure_repeatedly(bench)


@pytest.fixture(scope="module")
def usable(repeated: tuple[SpotBench, images.Repeated]) -> np.ndarray:
    _, measured = repeated
    return np.isfinite(measured.measured["xx"]).all(axis=0) & ((measured.flags & int(BAD_FLAGS)) == 0).all(axis=0)


def test_every_spot_is_found_in_every_exposure(repeated: tuple[SpotBench, images.Repeated]) -> None:
    bench, measured = repeated
    assert bench.mask.flux.max() / bench.mask.flux.min() > 100
    assert (measured.flags >= 0).all()


@pytest.mark.parametrize("quantity", images.QUANTITIES)
@pytest.mark.parametrize("limits", [(0, 3e4), (3e4, BRIGHT), (BRIGHT, np.inf)], ids=["faint", "middle", "bright"])
def test_errors_are_those_of_repeated_images(
    repeated: tuple[SpotBench, images.Repeated], usable: np.ndarray, quantity: str, limits: tuple[float, float]
) -> None:
    bench, measured = repeated
    spots = usable & (bench.mask.flux >= limits[0]) & (bench.mask.flux < limits[1])
    assert spots.sum() >= 30
    scatter = np.var(measured.measured[quantity][:, spots], axis=0, ddof=1)
    predicted = np.mean(measured.errors[quantity][:, spots] ** 2, axis=0)
    assert 0.9 < np.sqrt(np.mean(scatter / predicted)) < 1.1


def test_centroids_and_moments_of_bright_spots_are_unbiased(
    repeated: tuple[SpotBench, images.Repeated], usable: np.ndarray
) -> None:
    bench, measured = repeated
    bright = np.flatnonzero(usable & (bench.mask.flux > BRIGHT))
    truth = np.array([images.true_moments(measured.light, spot, bench.mask.profile) for spot in bright])
    for quantity, true in (("x", measured.light.x), ("y", measured.light.y)):
        assert abs(np.mean(measured.measured[quantity][:, bright] - true[bright])) < 0.002
    for quantity, true in zip(("xx", "yy"), truth.T[:2], strict=True):
        assert abs(np.mean(measured.measured[quantity][:, bright] / true - 1)) < 5e-4
    # xy is around zero: relative to the size of the spot.
    assert abs(np.mean((measured.measured["xy"][:, bright] - truth[:, 2]) / truth[:, 0])) < 5e-4


def test_flux_is_the_part_of_the_light_in_the_aperture(repeated: tuple[SpotBench, images.Repeated], usable: np.ndarray) -> None:
    bench, measured = repeated
    bright = usable & (bench.mask.flux > BRIGHT)
    profile = bench.mask.profile
    fractions = (profile.core_fraction, *profile.fractions)
    variances = np.array([4.2, *(sigma**2 for sigma in profile.sigmas)]) + 1 / 12
    within = 1 - sum(
        fraction * np.exp(-(12.0**2) / 2 / variance) for fraction, variance in zip(fractions, variances, strict=True)
    )
    ratio = measured.measured["flux"][:, bright] / bench.mask.flux[bright]
    # Halo that reaches beyond the masked discs counts as background, a few 1e-4 of the flux.
    assert np.mean(ratio) == pytest.approx(within, rel=2e-3)


@pytest.mark.full
def test_whole_mask_on_a_whole_sensor_is_found() -> None:
    config = SimulateSpotsConfig(camera="lsstcam", mask={"spots": 49}, campaign={"exposures": 1})
    bench = SpotBench(config)
    assert bench.detector == load_camera("lsstcam")["R22_S11"]
    image = draw_exposure(bench, bench.exposures()[0])
    assert len(images.measure(bench, image).catalog) >= 2380
