"""The compiled kernels of the simulators against plain NumPy, and those of every level against each other."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from kernel_levels import LEVELS, kernels_of
from permil._kernels import simulate as kernels
from permil._kernels.simulate import convert_charge, draw_charge, read_out
from permil.simulate.electronics import Electronics
from permil.simulate.headers import compress_rows
from permil.simulate.projector import BeamTruth
from permil.simulate.randoms import generator, normal_state
from permil.simulate.spots.bench import SpotLight, SpotProfile, add_spots
from permil.simulate.spots.sensor import SensorMaps

SEGMENTS = (3, 7, 21)


def normals_of(state: np.ndarray, *shape: int) -> np.ndarray:
    """Return the normals that a state gives, in single precision."""
    normals = np.empty(int(np.prod(shape)))
    kernels.fill_normal(state.copy(), normals)
    return normals.reshape(shape).astype(np.float32)


def some_charge(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    light, dark = rng.uniform(0, 1, SEGMENTS).astype(np.float32), rng.uniform(0, 5, SEGMENTS).astype(np.float32)
    light[0, 0], dark[0, 0] = 0.0, -3.0
    return light, dark


def electronics_of(rng: np.random.Generator, raw: tuple[int, int, int]) -> Electronics:
    count = raw[0]
    return Electronics(
        gain=rng.uniform(1, 2, count),
        read_noise=rng.uniform(3, 6, count),
        full_well=np.full(count, 600.0),
        curvature=rng.normal(0, 1e-5, count),
        crosstalk=np.where(rng.random((count, count)) < 0.5, 0.0, rng.normal(0, 1e-3, (count, count))),
        bias=rng.normal(20_000, 10, raw).astype(np.float32),
        deferred=np.array([0.01, 0.001]),
    )


def some_maps(rng: np.random.Generator, ny: int, nx: int) -> SensorMaps:
    shift_x, shift_y = np.zeros((ny, nx + 1)), np.zeros((ny + 1, nx))
    shift_x[:, 1:-1], shift_y[1:-1] = rng.normal(0, 0.02, (ny, nx - 1)), rng.normal(0, 0.02, (ny - 1, nx))
    return SensorMaps(rng.normal(1, 0.01, (ny, nx)), shift_x, shift_y, rng.normal(0, 0.1, (ny, nx)))


def some_spots(rng: np.random.Generator) -> SpotLight:
    x, y = rng.uniform(-4, 44, (2, 9))
    xx, yy = rng.uniform(3, 5, (2, 9))
    return SpotLight(x, y, rng.uniform(1e3, 1e5, 9), xx, yy, rng.normal(0, 0.3, 9))


def test_all_levels_have_the_same_bits() -> None:
    found: dict[str, list[np.ndarray]] = {}
    for level in LEVELS:
        rng = np.random.default_rng(1)
        with kernels_of(level):
            light, dark = some_charge(rng)
            state, charge, raw = normal_state(1, "levels"), np.empty_like(light), np.empty((3, 9, 30), dtype=np.int32)
            electronics = electronics_of(rng, raw.shape)
            draw_charge(light, 500.0, dark, state, charge)
            drawn = charge.copy()
            convert_charge(charge, electronics.full_well, electronics.gain, electronics.curvature)
            read_out(charge, electronics, np.zeros((3, 9), np.float32), np.ones(3), 4, state, raw)
            spots = np.zeros((40, 40))
            add_spots(spots, some_spots(rng), SpotProfile((0.3, 0.1), (4.7, 10.4)))
            beam = BeamTruth(generator(1, "beam"), structure_rms=0.01)
            grid, points = np.linspace(-300, 300, 23), rng.uniform(-50, 50, (2, 30))
            levels = np.empty((23, 23), dtype=np.float32)
            kernels.beam_on_grid(grid, grid, beam._knots, beam._spacing, beam._shape, levels)
            pixels = rng.integers(-(2**31), 2**31, (5, 70)) >> rng.integers(0, 31, (5, 1))
            heap, descriptors = compress_rows(pixels.astype(np.int32))
            noisy = np.empty((40, 40), dtype=np.float32)
            kernels.add_photon_noise(spots, state, noisy)
            moved = some_maps(rng, 40, 40).respond(spots)
            found[level] = [drawn, charge, raw, state, spots, levels, beam(*points), heap, descriptors, noisy, moved]
    for level, arrays in found.items():
        for own, other in zip(arrays, found["baseline"], strict=True):
            np.testing.assert_array_equal(own, other, err_msg=level)


def test_charge_has_photon_noise_of_the_mean() -> None:
    light, dark = some_charge(np.random.default_rng(2))
    state, charge = normal_state(2, "charge"), np.empty_like(light)
    normals = normals_of(state, *SEGMENTS)
    draw_charge(light, 500.0, dark, state, charge)
    mean = np.float32(500.0) * light + dark
    np.testing.assert_array_equal(charge, mean + np.sqrt(np.maximum(mean, np.float32(0))) * normals)
    # The state goes on where the charge has left it.
    following = normals_of(normal_state(2, "charge"), light.size + 1)[-1]
    assert normals_of(state, 1)[0] == following


def test_raw_segments_are_those_of_numpy() -> None:
    rng = np.random.default_rng(3)
    n, ny, nx = SEGMENTS
    prescan, raw = 4, np.empty((n, ny + 3, nx + 9), dtype=np.int32)
    electronics = electronics_of(rng, raw.shape)
    counts = rng.uniform(0, 3e4, SEGMENTS).astype(np.float32)
    counts[1, 2] = 3e5
    drift, noise = rng.normal(0, 1, raw.shape[:2]).astype(np.float32), rng.uniform(2, 4, n)
    state = normal_state(3, "raw")
    normals = normals_of(state, *raw.shape)
    read_out(counts, electronics, drift, noise, prescan, state, raw)
    above = np.zeros(raw.shape)
    above[:, :ny, prescan : prescan + nx] = counts + np.einsum("vs,syx->vyx", electronics.crosstalk, counts.astype(float))
    for pixel, part in enumerate(electronics.deferred):
        above[:, :ny, prescan + nx + pixel] = part * counts[:, :, -1]
        above[:, ny + pixel, prescan : prescan + nx] = part * counts[:, -1]
    adu = above + electronics.bias + drift[..., None] + noise[:, None, None] * normals
    expected = np.floor(np.clip(adu + 0.5, 0, 2**18 - 1))
    # Single precision decides otherwise where a sum lies close to a half.
    assert np.abs(raw - expected).max() <= 1
    assert np.mean(raw != expected) < 0.02


def test_beams_are_splines_times_a_radial_profile() -> None:
    beam = BeamTruth(generator(4, "beam"), structure_rms=0.02, ellipticity=0.01, ring_break=2e-3)
    x, y = np.random.default_rng(4).uniform(-60, 60, (2, 200))
    slope, turn, radius, ring_break, stretch_x, stretch_y, scale = beam._shape
    squared = stretch_x * x**2 + stretch_y * y**2
    radial = (
        np.exp(-slope * squared**3 / (squared**2 + turn)) * (1 - ring_break * np.maximum(np.sqrt(squared) - radius, 0)) * scale
    )
    middle = (len(beam._knots) - 1) / 2
    places = np.stack([x, y]) / beam._spacing + middle
    structure = ndimage.map_coordinates(beam._knots, places, order=3, prefilter=False)
    np.testing.assert_allclose(beam(x, y), radial * (1 + structure), rtol=1e-10)


def moved_charge(charge: np.ndarray, maps: SensorMaps) -> np.ndarray:
    """Return charge carried across borders, the formulas of the module with arrays padded by their edges."""

    def padded(field: np.ndarray) -> np.ndarray:
        return np.pad(field, 3, mode="edge")

    dx, dy = maps.displacement
    fourth = charge * maps.diffusion**2
    around = ndimage.convolve(fourth, np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]]), mode="nearest")
    diffused = charge * maps.diffusion + around / 4
    moved = charge.copy()
    for shift, along, axis in ((maps.shift_x, charge * dx**2 + diffused, 1), (maps.shift_y, charge * dy**2 + diffused, 0)):
        light, spread, across = (np.moveaxis(padded(field), axis, 1) for field in (charge, along, charge * dx * dy))
        rows, count = np.moveaxis(charge, axis, 1).shape

        def at(field: np.ndarray, offset: int, row: int = 0, count: int = count, rows: int = rows) -> np.ndarray:
            return field[3 + row : 3 + row + rows, 4 + offset : 3 + count + offset]

        border = 37 * (at(light, -1) + at(light, 0)) - 8 * (at(light, -2) + at(light, 1)) + at(light, -3) + at(light, 2)
        slope = 15 * (at(spread, 0) - at(spread, -1)) - (at(spread, 1) - at(spread, -2))
        shear = at(across, -1, 1) + at(across, 0, 1) - at(across, -1, -1) - at(across, 0, -1)
        flow = np.moveaxis(shift, axis, 1)[:, 1:-1] * border / 60 - slope / 24 - shear / 8
        change = np.zeros((rows, count))
        change[:, :-1] -= flow
        change[:, 1:] += flow
        moved += np.moveaxis(change, 1, axis)
    return moved


@pytest.mark.parametrize("shape", [(12, 15), (5, 9), (9, 4), (2, 3), (1, 6), (6, 1)])
def test_charge_is_carried_as_the_formulas_say(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(5)
    maps, light = some_maps(rng, *shape), rng.uniform(100, 200, shape)
    expected = moved_charge(maps.efficiency * light, maps)
    for level in ("checked", LEVELS[-1]):
        with kernels_of(level):
            np.testing.assert_allclose(maps.respond(light), expected, rtol=1e-11)


def test_arguments_that_do_not_fit_together_are_refused() -> None:
    rng = np.random.default_rng(6)
    light, dark = some_charge(rng)
    state, raw = normal_state(1), np.empty((3, 9, 30), dtype=np.int32)
    electronics = electronics_of(rng, raw.shape)
    with pytest.raises(ValueError, match="four words"):
        draw_charge(light, 1.0, dark, state[:3].copy(), light.copy())
    with pytest.raises(ValueError, match="segments differ in shape"):
        draw_charge(light, 1.0, dark[1:].copy(), state, light.copy())
    with pytest.raises(ValueError, match="outside the raw segments"):
        read_out(light, electronics, np.zeros((3, 9), np.float32), np.ones(3), 10, state, raw)
    with pytest.raises(ValueError, match="not enough memory"):
        kernels.compress_rows(raw[0], np.empty(10, dtype=np.uint8), np.empty((9, 2), dtype=np.int32))
