"""Random fields on the pixels of a sensor, and the displacement or diffusion that shows a given field in the flat.

Everything here is diagonal in the discrete cosine transform (type II), whose functions mirror the array at its outer borders: nothing
crosses these, as in the sensor. Both inverses belong to the differences with which the sensor moves charge, and are exact for them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import fft

FloatArray = NDArray[np.float64]


def random_field(rng: np.random.Generator, shape: tuple[int, int], *, scale: float, high_pass: float) -> FloatArray:
    """Return a Gaussian random field of mean 0 and rms 1.

    White noise smoothed by a Gaussian of sigma ``scale``, minus the same smoothed further by one of sigma ``high_pass`` (pixels):
    amplitudes ``exp(-k²scale²/2) (1 - exp(-k²high_pass²/2))``. The mirror at the outer borders doubles the variance there, over
    about ``scale``.
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
    """Return half the Laplacian of a map, to fourth order in the pixel: what its diffusion adds to the flat, shape (ny, nx)."""
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
