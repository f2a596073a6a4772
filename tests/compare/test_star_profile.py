"""Profile and response of stars, against images drawn by the simulator and measured by the package ``spots``."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from scipy import integrate, ndimage, optimize
from scipy.spatial import cKDTree

from permil._kernels.compare import circle_part, draw_star
from permil.camera import load_camera
from permil.compare.scales import Band, split_bands
from permil.compare.stars.profile import StarProfile, fit_profile
from permil.compare.stars.response import QUANTITIES, StarPlaces, StarResponse
from permil.errors import CompareError
from permil.simulate.spots.bench import SpotLight, SpotProfile, add_spots
from permil.simulate.spots.sensor import SensorMaps
from permil.spots.apertures import SpotImage, aperture_fluxes
from permil.spots.measure import measure_spots

CORE, WINGS, HALO = 4.2, 4.7**2, 10.4**2
PIXEL = 1 / 12
TRUE = StarProfile((0.62, 0.30, 0.08), (CORE + PIXEL, WINGS + PIXEL, HALO + PIXEL))


def test_light_within_a_radius_is_what_sums_over_pixels_find():
    image = np.zeros((121, 121))
    response = StarResponse(TRUE)
    radii = np.array([3.0, 4.5, 12.0])
    sums = np.zeros(3)
    places = np.random.default_rng(1).uniform(-0.5, 0.5, (30, 2))
    for u, v in places:
        draw_star(response.shapes(StarPlaces.round(np.array([u]), np.array([v]))), image)
        found = aperture_fluxes(
            SpotImage(
                image.astype(np.float32), np.ones_like(image, dtype=np.float32), np.ones(image.shape, dtype=bool), np.zeros(1)
            ),
            np.array([60 + u]),
            np.array([60 + v]),
            radii=radii,
        )
        sums += found.flux[0] / len(places)
    assert TRUE.within(radii) == pytest.approx(sums, abs=4e-4)


def test_moment_of_a_mixture_solves_its_definition():
    def balance(m):
        return integrate.quad(
            lambda r: (
                r
                * np.exp(-(r**2) / (2 * m))
                * (r**2 / 2 - m / 2)
                * sum(f / v * np.exp(-(r**2) / (2 * v)) for f, v in zip(TRUE.fractions, TRUE.variances, strict=True))
            ),
            0,
            80,
        )[0]

    assert TRUE.moment == pytest.approx(optimize.brentq(balance, 4, 20), rel=1e-8)
    assert StarProfile.gaussian(5.0).moment == pytest.approx(5.0)


def test_growth_curve_and_moment_give_the_profile_back():
    radii = np.array([3.0, 4.5, 6.0, 9.0, 12.0, 17.0, 25.0, 35.0])
    fitted = fit_profile(radii, TRUE.within(radii) / TRUE.within(25.0), moment=TRUE.moment)
    fine = np.linspace(1, 35, 100)
    assert np.abs(fitted.within(fine) - TRUE.within(fine)).max() < 1e-3
    assert fitted.moment == pytest.approx(TRUE.moment, rel=1e-9)


@pytest.mark.parametrize(
    ("radii", "fraction", "moment"),
    [([3.0, 6.0], [0.5, np.nan], 5.0), ([3.0, 6.0], [0.5, 0.9], np.nan), ([3.0, 6.0], [0.5, 0.9], -1.0)],
)
def test_growth_curves_that_are_no_profile(radii, fraction, moment):
    with pytest.raises(CompareError):
        fit_profile(radii, fraction, moment=moment)


@pytest.mark.parametrize(
    ("fractions", "variances"), [((), ()), ((0.5, 0.4), (1.0, 2.0)), ((1.0,), (-1.0,)), ((1.0,), (1.0, 2.0))]
)
def test_mixtures_that_are_no_profile(fractions, variances):
    with pytest.raises(CompareError):
        StarProfile(fractions, variances)


def test_aperture_must_be_positive():
    with pytest.raises(CompareError, match="aperture"):
        StarResponse(TRUE, aperture=0.0)


@pytest.mark.parametrize(("u", "v"), [(2.3, 0.1), (-2.2, 1.7), (0.0, 0.0), (3.4, -0.4), (2.0, -2.0)])
def test_part_of_a_pixel_in_a_circle(u, v):
    along = (np.arange(2000) + 0.5) / 2000 - 0.5
    inside = np.hypot(u + along[:, None], v + along[None, :]) < 3.0
    assert circle_part(u, v, 3.0) == pytest.approx(inside.mean(), abs=2e-5)


def test_a_flat_shift_of_all_light_moves_stars_by_just_that():
    y, x = np.mgrid[:80, :80].astype(np.float32)
    places = StarPlaces(np.array([40.3]), np.array([39.6]), np.array([6.0]), np.array([5.0]), np.array([0.4]))
    # d = -grad potential: everything moves by (0.01, -0.02).
    potential = (-0.01 * x + 0.02 * y)[None]
    for adaptive in (True, False):
        found = StarResponse(TRUE, adaptive=adaptive).predict(places, np.zeros_like(potential), potential).templates[0, :, 1, 0]
        # Unweighted moments miss what the shift brings into the circle, of the halo.
        assert found[1:3] == pytest.approx([0.01, -0.02], rel=1e-3 if adaptive else 0.15)
        assert np.abs(found[[0, 3, 4, 5]]).max() < 1e-4


def test_the_same_diffusion_everywhere_adds_its_variance_to_a_gaussian_star():
    places = StarPlaces(np.array([40.3]), np.array([39.6]), np.array([6.0]), np.array([5.0]), np.array([0.4]))
    potential = np.full((1, 80, 80), 0.05, dtype=np.float32)
    found = StarResponse(StarProfile.gaussian(5.5)).predict(places, np.zeros_like(potential), potential).templates[0, :, 2, 0]
    # delta sigma^2 = 2 potential.
    assert found[3:] == pytest.approx([0.1, 0.1, 0.0], abs=2e-4)
    assert np.abs(found[1:3]).max() < 1e-5


def test_efficiency_gradient_moves_a_gaussian_star_by_its_variance_times_the_gradient():
    x = np.mgrid[:80, :80][1].astype(np.float32)
    excess = (1e-3 * (x - 40.0))[None]
    places = StarPlaces(np.array([40.0]), np.array([39.6]), np.array([5.5]), np.array([5.5]), np.array([0.0]))
    found = StarResponse(StarProfile.gaussian(5.5)).predict(places, excess, np.zeros_like(excess)).templates[0, :, 0, 0]
    assert found[1] == pytest.approx(5.5 * 1e-3, rel=1e-3)
    assert abs(found[0]) < 1e-6


def test_spread_weights_are_the_adjoint_of_predictions():
    rng = np.random.default_rng(5)
    x, y = rng.uniform(5, 115, (2, 40))
    places, response = replace(StarPlaces.round(x, y), glow=rng.uniform(0, 1e-3, 40)), StarResponse(TRUE)
    excess, potential = split_bands(rng.standard_normal((120, 120)), (Band(0.0, np.inf),))
    weights = rng.standard_normal((40, 5, 1))
    predicted = response.predict(places, excess, potential).templates[:, :5, :, 0]
    maps = response.spread(places, weights, (120, 120), cell=1)[:, :, 0]
    for total, quantities in enumerate(([0], [1, 2], [3, 4])):
        over_stars = np.einsum("nq,nqk->k", weights[:, quantities, 0], predicted[:, quantities])
        over_map = [(each * of[0]).sum() for each, of in zip(maps[:, total], (excess, potential, potential), strict=True)]
        assert over_map == pytest.approx(over_stars, abs=1e-3 * np.abs(predicted).max() * 40)


def sensor_of(kind, rng, shape):
    """Return the maps of a sensor with one kind of structure, and its flat minus 1 as a map with its potential."""
    field = ndimage.gaussian_filter(rng.standard_normal(shape), 5.0)
    # Diffusion that makes longer periods in a flat changes stars by more than the first order.
    excess, potential = split_bands(1e-3 * field / field.std(), (Band(16.0, 64.0),))
    ny, nx = shape
    efficiency, diffusion, shift_x, shift_y = np.ones(shape), np.zeros(shape), np.zeros((ny, nx + 1)), np.zeros((ny + 1, nx))
    if kind == 0:
        efficiency += excess[0]
    if kind == 1:
        shift_x[:, 1:-1], shift_y[1:-1] = -np.diff(potential[0], axis=1), -np.diff(potential[0], axis=0)
    if kind == 2:
        diffusion += 2 * potential[0]
    return SensorMaps(efficiency, shift_x, shift_y, diffusion)


def measured(image, detector, x, y):
    """Return the measurement and the quantities of the sources nearest to given places."""
    variance, mask = np.full(image.shape, 25.0, dtype=np.float32), np.zeros(image.shape, dtype=np.int32)
    found = measure_spots(image.astype(np.float32), variance, mask, detector)
    distance, nearest = cKDTree(np.stack([found.catalog.x, found.catalog.y], axis=1)).query(np.stack([x, y], axis=1))
    assert distance.max() < 0.3
    return found, {name: getattr(found.catalog, name)[nearest] for name in ("flux", "x", "y", "xx", "yy", "xy")}


@cache
def image_of_stars():
    """Return the detector and an image of noiseless stars at random sub-pixel places, their cores not all the same."""
    detector = load_camera("spots-cutout").detectors["R22_S11"]
    rng = np.random.default_rng(3)
    along = np.arange(60, 980, 65.0)
    x, y = (grid.ravel() for grid in np.meshgrid(along, along))
    light = np.zeros(detector.shape)
    core = CORE + rng.normal(0, 0.2, (2, x.size))
    place = rng.uniform(-0.5, 0.5, (2, x.size))
    x, y = x + place[0], y + place[1]
    spots = SpotLight(x, y, np.full(x.size, 1e6), core[0], core[1], rng.normal(0, 0.1, x.size))
    add_spots(light, spots, SpotProfile((0.30, 0.08), (4.7, 10.4)))
    return detector, light, *measured(light, detector, x, y)


@pytest.mark.parametrize("kind", [0, 1, 2], ids=["efficiency", "area", "diffusion"])
def test_stars_on_images_answer_as_predicted(kind):
    detector, light, whole, before = image_of_stars()
    growth = whole.growth
    response = StarResponse(fit_profile(growth.radii, growth.fraction, moment=float((before["xx"] + before["yy"]).mean() / 2)))
    places = StarPlaces(before["x"], before["y"], before["xx"], before["yy"], before["xy"])
    sensor = sensor_of(kind, np.random.default_rng(kind), detector.shape)
    _, after = measured(sensor.respond(light), detector, before["x"], before["y"])
    change = np.stack(
        [after["flux"] / before["flux"] - 1, *(after[name] - before[name] for name in ("x", "y", "xx", "yy", "xy"))], axis=1
    )
    # What the flat of this sensor predicts, from the flat alone.
    excess, potential = split_bands(sensor.flat() - 1, (Band(14.0, 80.0),))
    template = response.predict(places, excess, potential).templates[:, :, kind, 0]
    slope = (change * template).sum(axis=0) / (template**2).sum(axis=0)
    signature = ([0], [1, 2], [3, 4])[kind]
    assert slope[signature] == pytest.approx(1.0, abs=0.01)
    # What one kind does to the other quantities is known as well.
    others = {0: [1, 2, 3, 4], 1: [3, 4, 5], 2: [1, 2]}[kind]
    assert slope[others] == pytest.approx(1.0, abs=0.03), [QUANTITIES[other] for other in others]


@pytest.mark.parametrize("kind", [0, 1], ids=["efficiency", "area"])
def test_the_background_under_a_star_shows_the_flat_as_well(kind):
    detector, light, whole, before = image_of_stars()
    # As much light of the background in the aperture as of the star.
    background = 1e6 / (np.pi * 12**2)
    sensor = sensor_of(kind, np.random.default_rng(kind), detector.shape)
    _, after = measured(sensor.respond(light + background), detector, before["x"], before["y"])
    growth = whole.growth
    response = StarResponse(fit_profile(growth.radii, growth.fraction, moment=float((before["xx"] + before["yy"]).mean() / 2)))
    places = StarPlaces(*(before[name] for name in ("x", "y", "xx", "yy", "xy")), glow=background / before["flux"])
    bands = (Band(14.0, 64.0),)
    excess, potential = split_bands(sensor.flat() - 1, bands)
    change = after["flux"] / before["flux"] - 1
    template = response.predict(places, excess, potential, bands).templates[:, 0, kind, 0]
    alone = response.predict(replace(places, glow=None), excess, potential, bands).templates[:, 0, kind, 0]
    slope = (change * template).sum() / (template**2).sum()
    # The background that is fitted follows the longest of these periods a little.
    assert slope == pytest.approx(1.0, abs=0.06)
    assert np.std(change - template) < 0.35 * np.std(change)
    assert np.std(change - alone) > 0.4 * np.std(change)
