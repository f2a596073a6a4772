"""Random fields cut from larger periodic ones."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import fft

FloatArray = NDArray[np.float64]
SIDE = 49
ROW, COLUMN = (axis.astype(float) for axis in np.mgrid[:SIDE, :SIDE])


def fields(kind: str, scale: float, rng: np.random.Generator, *, side: int = SIDE, margin: int = 4) -> Iterator[FloatArray]:
    """Yield fields: ``gauss`` with the correlation exp(-h^2 / 2 scale^2), ``power`` with the spectrum k^-scale, or ``white``."""
    if kind == "white":
        while True:
            yield rng.standard_normal((side, side))
    size = side * margin
    k = np.hypot(fft.fftfreq(size)[:, None], fft.fftfreq(size)[None, :])
    if kind == "power":
        k[0, 0] = np.inf
        spectrum = k**-scale
    else:
        spectrum = np.exp(-0.5 * (2.0 * np.pi * k * scale) ** 2)
    amplitude = np.sqrt(spectrum / spectrum.mean())
    while True:
        noise = rng.standard_normal((2, size, size))
        field = fft.fft2((noise[0] + 1j * noise[1]) * amplitude) / size
        yield from (field.real[:side, :side], field.imag[:side, :side])
