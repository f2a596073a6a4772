"""Periodic pattern of the shortest wavelength, as laser annealing of the back side causes it, separated from all other structure.

It is searched in the logarithm of the response in the LED of shortest wavelength, minus the prediction from the other LEDs. Plane waves
exceed the power spectrum of this map. They are found one after the other, each with a refined wave vector,
and their amplitudes are then fitted to the maps of all LEDs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import fft, ndimage, optimize

from permil.arrays import BoolArray, FloatArray

CELL_MM = 0.16
"""Side of the cells on which waves are searched."""

_SHORTEST_MM, _LONGEST_MM = 0.5, 6.0
_MOST = 6
_CHANCE = 1e-6
"""Probability below which a wave of this size is not noise, over all wave vectors."""
_ANNULI, _FEWEST = 24, 100
"""Largest number of annuli of wavenumbers in which the power of the background is measured, and vectors in one."""
_HIGH_PASS_MM = 6.0


@dataclass(frozen=True)
class Waves:
    """Plane waves in the response of one detector.

    Attributes
    ----------
    vectors : ndarray, shape (w, 2)
        Wave vectors along x and y of the detector, radian per mm.
    coefficients : ndarray, shape (L, w, 2)
        Of cosine and sine in each LED, relative.
    errors : ndarray, shape (L,)
        Standard error of a coefficient, from the scatter of the residuals.
    """

    vectors: FloatArray
    coefficients: FloatArray
    errors: FloatArray

    @property
    def amplitudes(self) -> FloatArray:
        """Amplitude of each wave in each LED, shape (L, w)."""
        return np.hypot(self.coefficients[..., 0], self.coefficients[..., 1])

    @property
    def variance(self) -> FloatArray:
        """Mean square of all waves together in each LED, without noise, shape (L,)."""
        return np.asarray((np.square(self.coefficients).sum(axis=2) / 2 - self.errors[:, None] ** 2).sum(axis=1))

    @property
    def variance_error(self) -> FloatArray:
        """Standard error of `variance`, shape (L,)."""
        of_wave = np.square(self.coefficients).sum(axis=2) + self.errors[:, None] ** 2
        return np.sqrt((of_wave * self.errors[:, None] ** 2).sum(axis=1))

    @property
    def periods_mm(self) -> FloatArray:
        """Period of each wave, mm."""
        return np.asarray(2 * np.pi / np.hypot(*self.vectors.T))

    @property
    def angles_deg(self) -> FloatArray:
        """Direction of each wave vector against the rows of the detector, from -90 to 90 degrees."""
        angle = np.rad2deg(np.arctan2(self.vectors[:, 1], self.vectors[:, 0]))
        return np.asarray((angle + 90) % 180 - 90)

    def on_pixels(self, led: int, shape: tuple[int, int], pixel_mm: float) -> FloatArray:
        """Return the waves of one LED on all pixels of a detector."""
        # cos(k.x) of a plane wave is a sum of products of functions of x and of y.
        result = np.zeros(shape)
        y, x = (pixel_mm * np.arange(size) for size in shape)
        for (kx, ky), (cosine, sine) in zip(self.vectors, self.coefficients[led], strict=True):
            wave = (cosine - 1j * sine) * np.exp(1j * kx * x)
            result += (np.exp(1j * ky * y)[:, None] * wave).real
        return result


def find_waves(maps: FloatArray, good: BoolArray, cell_mm: float) -> Waves:
    """Return the plane waves of the first LED that are absent in the others; none is a valid result.

    Parameters
    ----------
    maps : ndarray, shape (L, rows, columns)
        Logarithm of the response on square cells; the first is that of shortest wavelength. NaN where not good.
    good : ndarray of bool, shape (rows, columns)
    cell_mm
        Side of a cell.
    """
    flat = np.array([_high_passed(one, good, _HIGH_PASS_MM / cell_mm) for one in maps])
    rows, columns = np.nonzero(good)
    x, y = (np.asarray(cell_mm * place, dtype=np.float64) for place in (columns, rows))
    values = flat[:, good]
    vectors: list[FloatArray] = []
    while len(vectors) < _MOST:
        left, _ = _fit(values, x, y, vectors)
        towards = left[1:]
        own = left[0] - (np.linalg.lstsq(towards.T, left[0])[0] @ towards if len(towards) else 0.0)
        image = np.zeros(good.shape)
        image[good] = own
        vector = _strongest(image, cell_mm)
        if vector is None:
            break
        vectors.append(_refined(vector, own, x, y, np.pi / (cell_mm * max(good.shape))))
    left, coefficients = _fit(values, x, y, vectors)
    # Of noise that neighbouring cells share, a coefficient has the power at its own wavenumber.
    errors = np.sqrt(np.array([_coefficient_variance(one, good, vectors, cell_mm) for one in left]))
    return Waves(np.reshape(vectors, (-1, 2)), coefficients, errors)


def _high_passed(values: FloatArray, good: BoolArray, sigma: float) -> FloatArray:
    share = ndimage.gaussian_filter(good.astype(np.float64), sigma, mode="constant")
    mean = ndimage.gaussian_filter(np.where(good, values, 0.0), sigma, mode="constant") / np.maximum(share, 1e-6)
    return np.where(good, values - mean, 0.0)


def _design(x: FloatArray, y: FloatArray, vectors: list[FloatArray]) -> FloatArray:
    phases = [kx * x + ky * y for kx, ky in vectors]
    return np.column_stack([np.ones(x.size), *(part for phase in phases for part in (np.cos(phase), np.sin(phase)))])


def _fit(values: FloatArray, x: FloatArray, y: FloatArray, vectors: list[FloatArray]) -> tuple[FloatArray, FloatArray]:
    """Return maps without waves, and the coefficients of these in each map, shape (L, w, 2)."""
    design = _design(x, y, vectors)
    solved = np.linalg.lstsq(design, values.T)[0]
    return values - (design @ solved).T, np.asarray(solved[1:].T.reshape(len(values), -1, 2), dtype=np.float64)


def _power(image: FloatArray, cell_mm: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    power = np.abs(fft.rfft2(image)) ** 2
    ky = 2 * np.pi * fft.fftfreq(image.shape[0], cell_mm)[:, None]
    kx = 2 * np.pi * fft.rfftfreq(image.shape[1], cell_mm)[None, :]
    return power, kx, ky


def _background(power: FloatArray, kx: FloatArray, ky: FloatArray) -> FloatArray:
    """Return the mean power around each wave vector of the searched range, infinite outside it.

    It is that of an annulus of at least `_FEWEST` vectors, from their median, as of exponentially distributed powers.
    """
    wavenumber = np.hypot(kx, ky)
    inside = (wavenumber >= 2 * np.pi / _LONGEST_MM) & (wavenumber < 2 * np.pi / _SHORTEST_MM)
    level, order = np.full(power.shape, np.inf), np.argsort(wavenumber[inside], kind="stable")
    values, medians = power[inside], np.empty(order.size)
    for annulus in np.array_split(order, max(1, min(_ANNULI, order.size // _FEWEST))):
        medians[annulus] = max(float(np.median(values[annulus])) / np.log(2), np.finfo(float).tiny) if annulus.size else np.inf
    level[inside] = medians
    return level


def _strongest(image: FloatArray, cell_mm: float) -> FloatArray | None:
    """Return the wave vector of largest power over that around it, None if noise could have it."""
    power, kx, ky = _power(image, cell_mm)
    level = _background(power, kx, ky)
    excess = power / level
    place = np.unravel_index(int(np.argmax(excess)), excess.shape)
    if excess[place] < np.log(np.isfinite(level).sum() / _CHANCE):
        return None
    return np.array([kx[0, place[1]], ky[place[0], 0]])


def _refined(vector: FloatArray, values: FloatArray, x: FloatArray, y: FloatArray, step: float) -> FloatArray:
    """Return the wave vector near a first one with the largest power."""
    scale = float(values @ values) * values.size

    def lost_power(offset: FloatArray) -> float:
        phase = (vector[0] + step * offset[0]) * x + (vector[1] + step * offset[1]) * y
        return -float((values @ np.cos(phase)) ** 2 + (values @ np.sin(phase)) ** 2) / scale

    found = optimize.fmin(lost_power, np.zeros(2), xtol=1e-3, ftol=1e-7, disp=False)
    return np.asarray(vector + step * np.clip(found, -2.0, 2.0))


def _coefficient_variance(values: FloatArray, good: BoolArray, vectors: list[FloatArray], cell_mm: float) -> float:
    """Return the variance of a coefficient: twice the mean power around the waves, over the square of the number of cells."""
    if not vectors:
        return 0.0
    image = np.zeros(good.shape)
    image[good] = values
    power, kx, ky = _power(image, cell_mm)
    level = _background(power, kx, ky)
    near = [level[np.abs(ky[:, 0] - y).argmin(), np.abs(kx[0] - abs(x)).argmin()] for x, y in vectors]
    return float(2.0 * np.mean(near) / good.sum() ** 2)
