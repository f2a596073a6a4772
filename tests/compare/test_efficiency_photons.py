"""Signs and sizes of the maps of an efficiency flat, with stars whose photons are drawn on a simulated sensor."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial import cKDTree

from permil.camera import load_camera
from permil.compare.efficiency.filtering import filter_flat, fit_filter, predict_components
from permil.compare.efficiency.proof import Division, prove
from permil.compare.hypotheses.predict import Stars
from permil.compare.scales import Band, split_bands
from permil.compare.stars.flat_at_stars import relative_flat
from permil.compare.stars.profile import StarProfile
from permil.compare.stars.response import QUANTITIES, StarPlaces, StarResponse
from permil.simulate.spots.bench import SpotLight, SpotProfile, add_spots
from permil.simulate.spots.sensor import SensorMaps
from permil.spots.measure import measure_spots

DETECTOR = load_camera("spots-cutout").detectors["R22_S11"]
VARIANCE, FLUX, DITHERS, FLAT_NOISE = 4.2, 2e6, 8, 1e-3
PROFILE = StarProfile((0.62, 0.30, 0.08), tuple(variance + 1 / 12 for variance in (VARIANCE, 4.7**2, 10.4**2)))
BAND = Band(20.0, 90.0)
NAMES = ("flux", "x", "y", "xx", "yy", "xy")


def sensor_of(kind):
    """Return the maps of a sensor with one kind of structure of 3 per mil in the flat (diffusion: 1 per mil)."""
    shape = DETECTOR.shape
    field = ndimage.gaussian_filter(np.random.default_rng(kind).standard_normal(shape), 6.0)
    rms = 1e-3 if kind == 2 else 3e-3
    maps, potentials = split_bands(rms * field / field.std(), (BAND,))
    excess, potential = maps[0].astype(float), potentials[0].astype(float)
    efficiency, diffusion = np.ones(shape), np.zeros(shape)
    shift_x, shift_y = np.zeros((shape[0], shape[1] + 1)), np.zeros((shape[0] + 1, shape[1]))
    if kind == 0:
        efficiency += excess
    elif kind == 1:
        shift_x[:, 1:-1], shift_y[1:-1] = -np.diff(potential, axis=1), -np.diff(potential, axis=0)
    else:
        diffusion += 2 * potential
    return SensorMaps(efficiency, shift_x, shift_y, diffusion)


def draw_stars(sensor, rng):
    """Return stars measured on images with photon noise, relative to their true places, fluxes and sizes."""
    along = np.arange(62.0, 970.0, 65.0)
    grid = [axis.ravel() for axis in np.meshgrid(along, along)]
    parts = []
    for exposure in range(DITHERS):
        x, y = (axis + shift for axis, shift in zip(grid, rng.uniform(-24, 24, 2), strict=True))
        light = np.full(DETECTOR.shape, 20.0)
        same, zero = np.ones(x.size), np.zeros(x.size)
        add_spots(
            light, SpotLight(x, y, FLUX * same, VARIANCE * same, VARIANCE * same, zero), SpotProfile((0.30, 0.08), (4.7, 10.4))
        )
        image = rng.poisson(sensor.respond(light)).astype(np.float32)
        catalog = measure_spots(image, np.maximum(image, 20), np.zeros(image.shape, dtype=np.int32), DETECTOR).catalog
        distance, nearest = cKDTree(np.stack([catalog.x, catalog.y], axis=1)).query(np.stack([x, y], axis=1))
        spot = np.flatnonzero(distance < 0.5)
        found = np.stack([getattr(catalog, name)[nearest[spot]] for name in NAMES])
        found[0] = found[0] / np.median(found[0]) - 1
        found[1:3] -= x[spot], y[spot]
        found[3:] -= np.median(found[3:], axis=1, keepdims=True)
        parts.append((x[spot], y[spot], spot, np.full(spot.size, exposure), found))
    x, y, spot, exposure = (np.concatenate([part[index] for part in parts]) for index in range(4))
    assert spot.size > 0.95 * DITHERS * along.size**2
    values = np.concatenate([part[4] for part in parts], axis=1)
    # Adaptive moments of a core of 60 % of the light.
    moment = PROFILE.moment
    sigma = np.sqrt([1.2, 2 * moment, 2 * moment, 8 * moment**2, 8 * moment**2, 4 * moment**2]) / np.sqrt(FLUX)
    errors = {name: np.full(x.size, each) for name, each in zip(QUANTITIES, sigma, strict=True)}
    return Stars(StarPlaces.round(x, y), spot, exposure, dict(zip(QUANTITIES, values, strict=True)), errors)


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(0, id="efficiency", marks=pytest.mark.full),
        pytest.param(1, id="area"),
        pytest.param(2, id="diffusion", marks=pytest.mark.full),
    ],
)
def test_signs_of_the_maps(kind):
    rng = np.random.default_rng(10 + kind)
    sensor = sensor_of(kind)
    stars = draw_stars(sensor, rng)
    measured_flat = sensor.flat() + FLAT_NOISE * rng.standard_normal(DETECTOR.shape)
    whole = np.ones(DETECTOR.shape, dtype=bool)
    flat = relative_flat(measured_flat, np.full(DETECTOR.shape, FLAT_NOISE**2), whole, np.zeros(DETECTOR.shape, dtype=int))
    components = predict_components(stars, flat, StarResponse(PROFILE), periods=(16.0, 32.0, 64.0))
    model = fit_filter(components, {})
    found = filter_flat(flat, model)
    inside = np.s_[80:-80, 80:-80]
    smooth = [ndimage.gaussian_filter(image, 3.0)[inside] for image in (found.excess, sensor.efficiency - 1)]
    maps = [(found.shift_x, sensor.displacement[0]), (found.shift_y, sensor.displacement[1]), (found.size, sensor.diffusion)]
    for number, (found_map, true) in enumerate(maps):
        if number // 2 + 1 == kind:
            # Longer periods of the maps are the noise of the flat, divided by powers of the wavenumber.
            each = split_bands(found_map, (BAND,))[0][0].astype(float)
            assert np.corrcoef(each[inside].ravel(), true[inside].ravel())[0, 1] > 0.9
            assert each[inside].std() == pytest.approx(true[inside].std(), rel=0.15)
    proof = prove(model, {})
    if kind == 0:
        assert np.corrcoef(*(image.ravel() for image in smooth))[0, 1] > 0.9
        assert proof.change(Division.UNDIVIDED)[0] < -3 * proof.change(Division.UNDIVIDED)[1]
    else:
        assert smooth[0].std() < 0.4 * ndimage.gaussian_filter(flat.excess, 3.0)[inside].std()
        assert proof.change(Division.PLAIN)[0] < -3 * proof.change(Division.PLAIN)[1]
