"""What the maps of a sensor do to the charge of stars and flats, against formulas and against single photons."""

from __future__ import annotations

import galsim
import numpy as np
import pytest

from permil.camera import load_camera
from permil.config.simulate import SimulateSpotsConfig
from permil.simulate.spots.bench import SpotLight, SpotProfile, add_spots, gather_photons, shoot_photons
from permil.simulate.spots.sensor import SensorMaps, sensor_maps

SHAPE = (120, 130)
PROFILE = SpotProfile((0.3, 0.08), (4.7, 10.4))


def one_spot(
    *, x: float = 64.3, y: float = 60.1, flux: float = 1.0, xx: float = 4.2, yy: float = 4.5, xy: float = 0.3
) -> SpotLight:
    return SpotLight(*(np.array([entry]) for entry in (x, y, flux, xx, yy, xy)))


def light_of(spots: SpotLight) -> np.ndarray:
    light = np.zeros(SHAPE)
    add_spots(light, spots, PROFILE)
    return light


def uniform_maps(*, dx: float = 0.0, dy: float = 0.0, diffusion: float = 0.0, efficiency: float = 1.0) -> SensorMaps:
    ny, nx = SHAPE
    shift_x, shift_y = np.full((ny, nx + 1), dx), np.full((ny + 1, nx), dy)
    shift_x[:, [0, -1]] = shift_y[[0, -1]] = 0.0
    return SensorMaps(np.full(SHAPE, efficiency), shift_x, shift_y, np.full(SHAPE, diffusion))


def random_maps(**sensor: float) -> SensorMaps:
    """Return maps of a sensor, cut to the test's size."""
    config = SimulateSpotsConfig(seed=3, sensor=sensor)
    maps = sensor_maps(config, load_camera(config.camera)["R22_S11"])
    (ny, nx), row, column = SHAPE, 300, 500
    return SensorMaps(
        maps.efficiency[row : row + ny, column : column + nx],
        maps.shift_x[row : row + ny, column : column + nx + 1],
        maps.shift_y[row : row + ny + 1, column : column + nx],
        maps.diffusion[row : row + ny, column : column + nx],
    )


def centroid(image: np.ndarray) -> tuple[float, float]:
    y, x = np.indices(image.shape)
    return float(np.sum(x * image) / image.sum()), float(np.sum(y * image) / image.sum())


def test_drawn_spot_is_the_profile_integrated_over_pixels() -> None:
    light = light_of(one_spot())
    shape = galsim.Gaussian(sigma=1.0)
    covariance = np.array([[4.2, 0.3], [0.3, 4.5]])
    core = shape.transform(*np.linalg.cholesky(covariance).ravel()).withFlux(PROFILE.core_fraction)
    rounds = [galsim.Gaussian(sigma=sigma, flux=part) for part, sigma in zip(PROFILE.fractions, PROFILE.sigmas, strict=True)]
    middle = galsim.PositionD(64.3 - (SHAPE[1] - 1) / 2, 60.1 - (SHAPE[0] - 1) / 2)
    theirs = galsim.Add([core, *rounds]).drawImage(nx=SHAPE[1], ny=SHAPE[0], scale=1.0, offset=middle).array
    assert np.abs(light - theirs).max() < 1e-4 * light.max()
    assert light.sum() == pytest.approx(1.0, abs=1e-6)


def test_displacement_moves_a_star_and_keeps_its_flux_and_shape() -> None:
    moved = uniform_maps(dx=0.12, dy=-0.07).respond(light_of(one_spot()))
    expected = light_of(one_spot(x=64.3 + 0.12, y=60.1 - 0.07))
    assert moved.sum() == pytest.approx(1.0, abs=1e-6)
    assert centroid(moved) == pytest.approx(centroid(expected), abs=1e-6)
    assert np.abs(moved - expected).max() < 8e-4 * expected.max()
    before, after = (galsim.Image(image).FindAdaptiveMom() for image in (expected, moved))
    assert after.moments_sigma == pytest.approx(before.moments_sigma, rel=2e-5)


def test_diffusion_adds_its_variance_to_that_of_a_star() -> None:
    broadened = uniform_maps(diffusion=0.2).respond(light_of(one_spot()))
    profile = SpotProfile(PROFILE.fractions, tuple(float(np.sqrt(sigma**2 + 0.2)) for sigma in PROFILE.sigmas))
    expected = np.zeros(SHAPE)
    add_spots(expected, one_spot(xx=4.4, yy=4.7), profile)
    y, x = np.indices(SHAPE)
    for place in (x, y):
        # Exact for the moments of the whole light.
        mean = np.sum(place * expected)
        assert np.sum((place - mean) ** 2 * broadened) == pytest.approx(np.sum((place - mean) ** 2 * expected), rel=1e-5)
    assert galsim.Image(broadened).FindAdaptiveMom().moments_sigma == pytest.approx(
        galsim.Image(expected).FindAdaptiveMom().moments_sigma, rel=1e-3
    )


@pytest.mark.parametrize("diffusion", [-0.5, 0.5])
def test_width_follows_much_diffusion_as_it_follows_little(diffusion: float) -> None:
    profile = SpotProfile(PROFILE.fractions, tuple(float(np.sqrt(sigma**2 + diffusion)) for sigma in PROFILE.sigmas))
    expected = np.zeros(SHAPE)
    add_spots(expected, one_spot(xx=4.2 + diffusion, yy=4.5 + diffusion), profile)
    before = light_of(one_spot())
    after = uniform_maps(diffusion=diffusion).respond(before)
    old, new, exact = (galsim.Image(image).FindAdaptiveMom().moments_sigma ** 2 for image in (before, after, expected))
    assert (new - old) / (exact - old) == pytest.approx(1.0, abs=0.03)


def test_efficiency_scales_a_star_by_its_mean_under_the_star() -> None:
    maps = random_maps()
    only = SensorMaps(maps.efficiency, 0 * maps.shift_x, 0 * maps.shift_y, 0 * maps.diffusion)
    light = light_of(one_spot(flux=5e4))
    assert only.respond(light) == pytest.approx(maps.efficiency * light, rel=1e-12)


def test_flat_shows_divergence_and_half_the_laplacian() -> None:
    # Small steps: the second order is left out here.
    maps = random_maps(tree_ring_rms=2e-3)
    ones = SensorMaps(np.ones(SHAPE), maps.shift_x, maps.shift_y, maps.diffusion)
    divergence = np.diff(maps.shift_x, axis=1) + np.diff(maps.shift_y, axis=0)
    y, x = (np.gradient(np.gradient(maps.diffusion, axis=axis), axis=axis) for axis in (0, 1))
    inner = (slice(4, -4), slice(4, -4))
    difference = (ones.flat() - (1 - divergence + 0.5 * (x + y)))[inner]
    assert np.std(difference) < 0.02 * np.std(divergence[inner])
    assert np.std(difference) < 0.2 * np.std(0.5 * (x + y)[inner])


def test_charge_is_carried_not_made() -> None:
    maps = random_maps()
    light = np.random.default_rng(1).uniform(10, 1000, SHAPE)
    assert maps.respond(light).sum() == pytest.approx((maps.efficiency * light).sum(), rel=1e-12)


def test_mean_charge_is_that_of_single_photons() -> None:
    maps, spots = random_maps(efficiency_rms=0.02, tree_ring_rms=5e-3), one_spot(flux=4e6)
    rng = np.random.default_rng(8)
    x, y = shoot_photons(spots, 0, PROFILE, maps, rng)
    counted, _, _ = np.histogram2d(y, x, bins=[np.arange(SHAPE[0] + 1) - 0.5, np.arange(SHAPE[1] + 1) - 0.5])
    mean = maps.respond(light_of(spots))
    bright = mean > 50
    chi_square = np.sum((counted - mean)[bright] ** 2 / mean[bright])
    assert abs(chi_square / bright.sum() - 1) < 4 * np.sqrt(2 / bright.sum())
    # Without any one of the maps the photons would contradict: the test sees each of them.
    for blind in ("shift_x", "diffusion"):
        fields = {name: getattr(maps, name) for name in ("efficiency", "shift_x", "shift_y", "diffusion")}
        wrong = SensorMaps(**(fields | {blind: 0 * fields[blind]})).respond(light_of(spots))
        assert np.sum((counted - wrong)[bright] ** 2 / mean[bright]) > chi_square + 60


def test_effects_that_are_off_leave_no_trace() -> None:
    off = {"efficiency": False, "displacement": False, "diffusion": False}
    config = SimulateSpotsConfig(effects=off)
    maps = sensor_maps(config, load_camera(config.camera)["R22_S11"])
    assert (maps.efficiency == 1).all()
    assert not maps.displacement.any()
    assert not maps.diffusion.any()
    assert (maps.flat() == 1).all()


@pytest.mark.parametrize("effect", ["efficiency", "displacement", "diffusion"])
def test_each_map_has_its_size_and_does_not_depend_on_the_others(effect: str) -> None:
    detector = load_camera("spots-cutout")["R22_S11"]
    everything = sensor_maps(SimulateSpotsConfig(), detector)
    alone = sensor_maps(
        SimulateSpotsConfig(effects={name: name == effect for name in ("efficiency", "displacement", "diffusion")}), detector
    )
    assert np.array_equal(getattr(alone, effect), getattr(everything, effect))
    if effect == "efficiency":
        assert np.std(alone.efficiency) == pytest.approx(np.hypot(3e-3, 5e-4), rel=0.05)
    elif effect == "diffusion":
        assert np.std(alone.diffusion) == pytest.approx(0.05, rel=1e-6)
    else:
        assert np.std(alone.flat()) == pytest.approx(np.hypot(1e-3, 1e-3), rel=0.25)


def test_brighter_fatter_widens_bright_spots_only() -> None:
    maps = uniform_maps()
    widths = {}
    for flux in (1e5, 1.2e6):
        charge = np.zeros(SHAPE, dtype=np.float32)
        rng = np.random.default_rng(2)
        # Repeated faint spots have the statistics of one bright one.
        repeats = round(1.2e6 / flux)
        total = np.zeros(SHAPE)
        for _ in range(repeats):
            charge[:] = 0
            gather_photons(charge, one_spot(flux=flux), PROFILE, maps, rng, vendor="E2V")
            assert charge.sum() == pytest.approx(flux, abs=6 * np.sqrt(flux))
            total += charge
        widths[flux] = galsim.Image(total).FindAdaptiveMom().moments_sigma
    # Sigma of the core over the square root of twice the number of electrons is the noise of each width.
    noise = 2.3 / np.sqrt(1.2e6)
    assert widths[1.2e6] - widths[1e5] > 4 * noise
    assert widths[1.2e6] / widths[1e5] < 1.03
