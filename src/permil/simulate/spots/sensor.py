"""The response of the sensor to light: efficiency, displacement and diffusion, as maps that act on the charge.

Light that is absorbed at x becomes ``efficiency(x)`` electrons, which are collected at ``x + d(x)`` plus a random step of variance
``diffusion(x)`` per axis. The density of the charge is then, to second order in the displacement and fourth in the random step
(Kramers-Moyal expansion), with ``light' = efficiency light``,

    charge = light' - div(d light') + sum_ij d_i d_j (d_i d_j light') / 2 + laplacian(spread) / 2,
    spread = diffusion light' + laplacian(diffusion^2 light') / 4,

so that the flat is ``efficiency (1 - div d + laplacian(diffusion) / 2)`` (to first order). Charge is moved across pixel borders, to
sixth order in the pixel (random steps: fourth), and is conserved; a star's flux, centroid and second moments change accordingly, and
for steps of 0.1 pixel the error of a pixel is below 1e-3 of the star's peak. The mean diffusion of the sensor is part of the profile of
the spots; the map is the difference from it and may be negative.

Random fields, and the displacement or diffusion for a given field in the flat, are diagonal in the discrete cosine transform (type II),
whose functions mirror the array at its outer borders: no charge crosses these, as in the sensor. Both inverses are exact for the
differences with which the sensor moves charge.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import fft, ndimage

from permil._kernels import simulate as kernels
from permil.arrays import FloatArray
from permil.camera import Detector
from permil.config.simulate import SimulateSpotsConfig
from permil.errors import ConfigError
from permil.simulate.randoms import generator

_NARROWEST = 0.6
"""Largest fraction of the core's variance that diffusion may remove."""


@dataclass(frozen=True)
class SensorMaps:
    """The true maps of one sensor.

    Attributes
    ----------
    efficiency : ndarray, shape (ny, nx)
        Quantum efficiency relative to its mean.
    shift_x : ndarray, shape (ny, nx + 1)
        Displacement in x (recorded minus true position, pixels) on the borders between columns; 0 on the outer ones.
    shift_y : ndarray, shape (ny + 1, nx)
        The same in y, on the borders between rows.
    diffusion : ndarray, shape (ny, nx)
        Variance per axis in addition to that of the mean sensor, pixel^2.
    """

    efficiency: FloatArray
    shift_x: FloatArray
    shift_y: FloatArray
    diffusion: FloatArray

    @cached_property
    def displacement(self) -> FloatArray:
        """Displacement (x, y) at the centres of pixels, shape (2, ny, nx)."""
        return np.stack([(self.shift_x[:, :-1] + self.shift_x[:, 1:]) / 2, (self.shift_y[:-1] + self.shift_y[1:]) / 2])

    @cached_property
    def area(self) -> FloatArray:
        """Part of the flat that is pixel area, ``-div d``, to first order, shape (ny, nx)."""
        return -np.diff(self.shift_x, axis=1) - np.diff(self.shift_y, axis=0)

    @cached_property
    def diffusion_flat(self) -> FloatArray:
        """Part of the flat that is diffusion, half the Laplacian of `diffusion`, to first order, shape (ny, nx)."""
        return half_laplacian(self.diffusion)

    def respond(self, light: FloatArray) -> FloatArray:
        """Return the mean charge in each pixel for light per pixel, shape (ny, nx) each."""
        charge = np.empty(self.efficiency.shape)
        kernels.move_charge(
            np.ascontiguousarray(self.efficiency * light),
            np.ascontiguousarray(self.shift_x),
            np.ascontiguousarray(self.shift_y),
            self.displacement,
            np.ascontiguousarray(self.diffusion),
            charge,
        )
        return charge

    def flat(self) -> FloatArray:
        """Return the response to uniform light: the true flat, shape (ny, nx)."""
        return self.respond(np.ones(self.efficiency.shape))


def sensor_mixture(
    shape: tuple[int, int],
    *,
    rms: float,
    scale_px: float,
    high_pass_px: float,
    fractions: tuple[float, float, float],
    seed: int | np.random.Generator,
) -> SensorMaps:
    """Return maps whose flat is a mixture ``F - 1 = Q + A + D`` of three independent random fields of one spectrum.

    ``Q`` is the efficiency minus 1, ``A`` and ``D`` are `SensorMaps.area` and `SensorMaps.diffusion_flat`; each has the requested rms over
    the array. The fields correlate by chance: the true share of a part is its covariance with the flat over the flat's variance.
    The displacement is the gradient of a potential, hence curl-free. A unit of ``D`` needs a diffusion
    of at least ``scale_px²`` pixel^2.

    Parameters
    ----------
    shape
        Rows and columns.
    rms
        Rms of the flat for uncorrelated fields.
    scale_px, high_pass_px
        Sigmas (pixels) of the Gaussians that smooth the fields and that define the removed large-scale structure (`random_field`).
    fractions
        Shares of efficiency, pixel area and diffusion in the variance; divided by their sum.
    seed
        Seed or generator; a field does not depend on the fractions.

    Raises
    ------
    ConfigError
        If a fraction is negative or none is positive, or a scale is not positive.
    """
    if min(fractions) < 0 or sum(fractions) <= 0:
        raise ConfigError(
            f"the fractions {fractions} are not valid",
            remedy="give no negative and at least one positive one",
            value=fractions,
        )
    if min(scale_px, high_pass_px) <= 0:
        raise ConfigError("the scales of a mixture must be positive", value=(scale_px, high_pass_px))
    streams = np.random.default_rng(seed).spawn(3)
    parts = []
    for stream, fraction in zip(streams, fractions, strict=True):
        size = rms * (fraction / sum(fractions)) ** 0.5
        parts.append(size * random_field(stream, shape, scale=scale_px, high_pass=high_pass_px) if size else np.zeros(shape))
    return SensorMaps(1.0 + parts[0], *displacement_of(parts[1]), diffusion_of(parts[2]))


def sensor_maps(config: SimulateSpotsConfig, detector: Detector) -> SensorMaps:
    """Return the maps of a detector; the map of a disabled effect is 1 or 0."""
    settings, effects, (ny, nx) = config.sensor, config.effects, detector.shape

    def random(name: str) -> np.random.Generator:
        return generator(config.seed, "spots", name, detector.name)

    efficiency, diffusion = np.ones((ny, nx)), np.zeros((ny, nx))
    shift_x, shift_y = np.zeros((ny, nx + 1)), np.zeros((ny + 1, nx))
    if effects.efficiency:
        efficiency += settings.efficiency_rms * _smooth_field(random("efficiency"), (ny, nx), settings.efficiency_scale_px)
        efficiency += settings.pixel_efficiency_rms * random("pixel efficiency").standard_normal((ny, nx))
    if effects.diffusion:
        diffusion += settings.diffusion_rms_px2 * _smooth_field(random("diffusion"), (ny, nx), settings.diffusion_scale_px)
    if effects.displacement:
        rings_x, rings_y = _tree_rings(random("rings"), (ny, nx), rms=settings.tree_ring_rms, scale=settings.tree_ring_scale_px)
        # The area of a pixel depends on four borders, so that each scatters by half.
        scatter = 0.5 * settings.pixel_area_rms
        shift_x[:, 1:-1] = rings_x[:, 1:-1] + scatter * random("columns").standard_normal((ny, nx - 1))
        shift_y[1:-1] = rings_y[1:-1] + scatter * random("rows").standard_normal((ny - 1, nx))
    if (mixture := settings.mixture).rms:
        added = sensor_mixture(
            (ny, nx),
            rms=mixture.rms,
            scale_px=mixture.scale_px,
            high_pass_px=mixture.high_pass_px,
            fractions=(mixture.efficiency, mixture.area, mixture.diffusion),
            seed=random("mixture"),
        )
        efficiency += (added.efficiency - 1.0) * effects.efficiency
        shift_x += added.shift_x * effects.displacement
        shift_y += added.shift_y * effects.displacement
        diffusion += added.diffusion * effects.diffusion
    _require_charge(diffusion, config)
    return SensorMaps(efficiency, shift_x, shift_y, diffusion)


def _require_charge(diffusion: FloatArray, config: SimulateSpotsConfig) -> None:
    """Raise an error if spots are too narrow for the expansion in the step, well before their charge becomes negative."""
    least, allowed = float(diffusion.min()), -_NARROWEST * config.mask.core_variance_px2
    if least < allowed:
        raise ConfigError(
            f"diffusion would take {-least:.2f} pixel² from the variance of spots whose core has {config.mask.core_variance_px2:g}",
            remedy="reduce sensor.mixture.rms, scale_px or high_pass_px, or diffusion_rms_px2 of simulate_spots",
            value=least,
            allowed=allowed,
        )


def _smooth_field(rng: np.random.Generator, shape: tuple[int, int], scale: float) -> FloatArray:
    """Return a periodic Gaussian random field of mean 0 and rms 1 on the array."""
    field = ndimage.gaussian_filter(rng.standard_normal(shape), scale, mode="wrap", truncate=4.0)
    field -= field.mean()
    return np.asarray(field / field.std())


def _tree_rings(rng: np.random.Generator, shape: tuple[int, int], *, rms: float, scale: float) -> tuple[FloatArray, FloatArray]:
    """Return the displacement of tree rings on column borders (ny, nx + 1) and row borders (ny + 1, nx), pixels.

    It is radial from the axis of the crystal near a corner, and random in the radius. The flat shows its divergence.
    """
    ny, nx = shape
    axis_x, axis_y = rng.integers(0, 2, 2) * (nx, ny) + rng.normal(0, 0.1, 2) * (nx, ny)
    step = scale / 8
    radii = step * np.arange(-2, int(1.6 * np.hypot(nx, ny) / step) + 2)
    profile = ndimage.gaussian_filter1d(rng.standard_normal(radii.size), scale / step)
    profile *= rms / np.gradient(profile, step).std()

    def radial(x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
        distance = np.hypot(x - axis_x, y - axis_y)
        outward = np.interp(distance, radii, profile) / np.maximum(distance, 1.0)
        return outward * (x - axis_x), outward * (y - axis_y)

    x, y = np.arange(nx, dtype=float)[None, :], np.arange(ny, dtype=float)[:, None]
    columns: FloatArray = np.arange(nx + 1, dtype=float)[None, :] - 0.5
    rows: FloatArray = np.arange(ny + 1, dtype=float)[:, None] - 0.5
    return radial(columns, y)[0], radial(x, rows)[1]


def random_field(rng: np.random.Generator, shape: tuple[int, int], *, scale: float, high_pass: float) -> FloatArray:
    """Return a Gaussian random field of mean 0 and rms 1.

    White noise smoothed by a Gaussian of sigma ``scale``, minus the same smoothed further by one of sigma ``high_pass`` (pixels):
    amplitudes ``exp(-k²scale²/2) (1 - exp(-k²high_pass²/2))``. The mirror doubles the variance within about ``scale`` of the borders.
    """
    squared = _wave_number(shape[0])[:, None] ** 2 + _wave_number(shape[1])[None, :] ** 2
    amplitudes = np.exp(-0.5 * squared * scale**2) * -np.expm1(-0.5 * squared * high_pass**2)
    field = fft.idctn(amplitudes * rng.standard_normal(shape), norm="ortho")
    # The amplitude at k = 0 is 0, and so is the mean.
    return np.asarray(field / field.std())


def displacement_of(area: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the curl-free displacement whose divergence is minus a field: the flat of a sensor with pixels of unequal area.

    ``d = grad phi`` with ``laplacian(phi) = -area`` and no displacement across the outer borders.

    Parameters
    ----------
    area : ndarray, shape (ny, nx)
        Mean 0.

    Returns
    -------
    shift_x : ndarray, shape (ny, nx + 1)
        Displacement in x on the borders between columns, pixels.
    shift_y : ndarray, shape (ny + 1, nx)
        Displacement in y on the borders between rows.
    """
    ny, nx = area.shape
    eigenvalues = [-4.0 * np.sin(0.5 * _wave_number(count)) ** 2 for count in (ny, nx)]
    potential = _divided(-area, eigenvalues[0][:, None] + eigenvalues[1][None, :])
    shift_x, shift_y = np.zeros((ny, nx + 1)), np.zeros((ny + 1, nx))
    shift_x[:, 1:-1] = np.diff(potential, axis=1)
    shift_y[1:-1] = np.diff(potential, axis=0)
    return shift_x, shift_y


def diffusion_of(flat: FloatArray) -> FloatArray:
    """Return the variance per axis (pixel^2) whose `half_laplacian` is a field of mean 0, shape (ny, nx)."""
    eigenvalues = []
    for count in flat.shape:
        half = 0.5 * _wave_number(count)
        eigenvalues.append(-np.sin(half) * (15.0 * np.sin(half) - np.sin(3.0 * half)) / 3.0)
    return _divided(2.0 * flat, eigenvalues[0][:, None] + eigenvalues[1][None, :])


def half_laplacian(diffusion: FloatArray) -> FloatArray:
    """Return half the Laplacian of a map, to fourth order in the pixel: the contribution of its diffusion to the flat, shape (ny, nx)."""
    total = np.zeros(diffusion.shape)
    for axis in (0, 1):
        along = np.moveaxis(diffusion, axis, 0)
        padded = np.pad(along, ((2, 2), (0, 0)), mode="symmetric")
        slopes = (15.0 * (padded[2:-1] - padded[1:-2]) - (padded[3:] - padded[:-3])) / 12.0
        total += 0.5 * np.moveaxis(np.diff(slopes, axis=0), 0, axis)
    return total


def _wave_number(count: int) -> FloatArray:
    """Return the wave numbers of the cosine transform, radians per pixel."""
    return np.pi / count * np.arange(count, dtype=np.float64)


def _divided(field: FloatArray, eigenvalues: FloatArray) -> FloatArray:
    coefficients = fft.dctn(field, norm="ortho")
    eigenvalues[0, 0] = 1.0
    coefficients[0, 0] = 0.0
    return np.asarray(fft.idctn(coefficients / eigenvalues, norm="ortho"))
