"""The true response of a sensor: patterns as functions of the place on it, and its defects.

Places are millimetres from the lower left corner of the array, so that a binned camera shows the same physics. A pattern takes
x, shape (1, nx), and y, shape (rows, 1), and returns relative factors that broadcast to (rows, nx): a full-size detector is
evaluated in strips. The factors by LED follow what is published of LSSTCam sensors (tree rings and annealing: Park et al. 2017,
JINST 12 C07015; Esteves et al. 2023, PASP 135, 115003): shallow absorption in the blue, deep in the red.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from permil.camera import Detector

FloatArray = NDArray[np.float64]
Pattern = Callable[[FloatArray, FloatArray], FloatArray]

TREE_RING_FACTOR = {"uv": 1.0, "blue": 0.9, "red": 0.75, "nm750": 0.65, "nm850": 0.55, "nm960": 0.4}
"""Size of the tree rings relative to uv."""

ANNEALING_FACTOR = {"uv": 1.0, "blue": 0.1}
"""Size of the laser-annealing pattern relative to uv; none elsewhere."""

VENDOR_RESPONSE = {
    "E2V": {"uv": 1.0, "blue": 1.0, "red": 1.0, "nm750": 1.0, "nm850": 1.0, "nm960": 1.0},
    "ITL": {"uv": 0.92, "blue": 0.97, "red": 0.99, "nm750": 1.0, "nm850": 0.98, "nm960": 0.93},
}
"""Mean response of the sensors of a vendor relative to E2V."""

_STRIP_PIXELS = 2**20


def sides_mm(detector: Detector) -> tuple[float, float]:
    """Return width and height of the array, mm."""
    return detector.nx * detector.pixel_mm, detector.ny * detector.pixel_mm


def strips(detector: Detector) -> list[slice]:
    """Return the rows of the array in strips of about a million pixels."""
    height = max(_STRIP_PIXELS // detector.nx, 1)
    return [slice(first, min(first + height, detector.ny)) for first in range(0, detector.ny, height)]


def evaluate(detector: Detector, rows: slice, patterns: list[Pattern]) -> FloatArray:
    """Return the product of patterns in a strip of rows."""
    x: FloatArray = (np.arange(detector.nx, dtype=np.float64)[None, :] + 0.5) * detector.pixel_mm
    y: FloatArray = (np.arange(rows.start, rows.stop, dtype=np.float64)[:, None] + 0.5) * detector.pixel_mm
    product: FloatArray = np.ones((rows.stop - rows.start, detector.nx))
    for pattern in patterns:
        np.multiply(product, pattern(x, y), out=product)
    return product


def pixel_response(
    shape: tuple[int, int], common: np.random.Generator, own: np.random.Generator, *, rms: float, correlation: float
) -> NDArray[np.float32]:
    """Return the pixel-to-pixel response of a strip; ``correlation`` is the part of the variance drawn from ``common``."""
    response = common.standard_normal(shape, dtype=np.float32)
    response *= np.float32(rms * correlation**0.5)
    response += np.float32(rms * (1 - correlation) ** 0.5) * own.standard_normal(shape, dtype=np.float32)
    response += 1
    return response


def tree_rings(detector: Detector, rng: np.random.Generator, *, rms: float, width: float) -> Pattern:
    """Return tree rings: random in the distance from the axis of the crystal, which lies near a corner, growing outwards.

    Parameters
    ----------
    rms
        Relative rms in the middle of the array.
    width
        Sigma of one ring, mm.
    """
    side_x, side_y = sides_mm(detector)
    corner = rng.integers(0, 2, 2)
    axis_x = corner[0] * side_x + rng.normal(0, 0.1 * side_x)
    axis_y = corner[1] * side_y + rng.normal(0, 0.1 * side_y)
    step = width / 5
    profile = ndimage.gaussian_filter1d(rng.standard_normal(int(2 * np.hypot(side_x, side_y) / step) + 2), 5.0)
    profile *= rms / profile.std()
    radii = step * np.arange(profile.size)
    middle = np.hypot(side_x / 2 - axis_x, side_y / 2 - axis_y)

    def pattern(x: FloatArray, y: FloatArray) -> FloatArray:
        distance = np.hypot(x - axis_x, y - axis_y)
        return 1.0 + distance / middle * np.interp(distance, radii, profile)

    return pattern


def edge_rolloff(detector: Detector, *, depth: float, scale: float) -> Pattern:
    """Return the loss along the outer edges, ``1 - depth exp(-distance / scale)`` for the nearest edge (mm)."""
    side_x, side_y = sides_mm(detector)

    def pattern(x: FloatArray, y: FloatArray) -> FloatArray:
        distance = np.minimum(np.minimum(x, side_x - x), np.minimum(y, side_y - y))
        return 1.0 - depth * np.exp(-distance / scale)

    return pattern


def midline_loss(detector: Detector, *, depth: float, scale: float) -> Pattern:
    """Return the loss along the line between the two halves, ``1 - depth exp(-distance / scale)``."""
    borders = [y_min * detector.pixel_mm for y_min in {amplifier.y_min for amplifier in detector.amplifiers} - {0}]

    def pattern(x: FloatArray, y: FloatArray) -> FloatArray:  # noqa: ARG001 - does not depend on x
        return 1.0 - depth * sum((np.exp(-np.abs(y - border) / scale) for border in borders), start=np.zeros_like(y))

    return pattern


def dust_shadows(detector: Detector, rng: np.random.Generator, *, spots: int, depth: float) -> Pattern:
    """Return shadows of dust: Gaussian spots of 0.05 to 0.3 mm sigma and up to ``depth`` deep at random places."""
    side_x, side_y = sides_mm(detector)
    entries = [
        (rng.uniform(0, side_x), rng.uniform(0, side_y), rng.uniform(0.05, 0.3), rng.uniform(0.2, 1.0) * depth)
        for _ in range(spots)
    ]

    def pattern(x: FloatArray, y: FloatArray) -> FloatArray:
        response = np.ones(np.broadcast_shapes(x.shape, y.shape))
        for centre_x, centre_y, sigma, own_depth in entries:
            shadow_x = np.exp(-0.5 * ((x - centre_x) / sigma) ** 2)
            shadow_y = np.exp(-0.5 * ((y - centre_y) / sigma) ** 2)
            if shadow_x.max() > 0 and shadow_y.max() > 0:
                response *= 1.0 - own_depth * shadow_y * shadow_x
        return response

    return pattern


def annealing_pattern(rng: np.random.Generator, *, amplitude: float, period: float) -> Pattern:
    """Return the pattern that laser annealing of the back side leaves: a slanted brick pattern of scan lines and pulses."""
    angle = rng.normal(np.pi / 4, 0.05)
    phase_along, phase_across = rng.uniform(0, 2 * np.pi, 2)

    def pattern(x: FloatArray, y: FloatArray) -> FloatArray:
        along = (np.cos(angle) * x + np.sin(angle) * y) * (2 * np.pi / period)
        across = (-np.sin(angle) * x + np.cos(angle) * y) * (2 * np.pi / (3 * period))
        return 1.0 + amplitude * (0.7 * np.sin(along + phase_along) + 0.3 * np.sin(across + phase_across))

    return pattern


def smooth_gradient(detector: Detector, rng: np.random.Generator, *, rms: float) -> Pattern:
    """Return a smooth change of response: a random quadratic in x and y of relative rms about ``rms``."""
    side_x, side_y = sides_mm(detector)
    linear_x, linear_y, square_x, square_y, product = rng.normal(0, rms / 5**0.5, 5)

    def pattern(x: FloatArray, y: FloatArray) -> FloatArray:
        h, k = 2 * x / side_x - 1, 2 * y / side_y - 1
        # Legendre polynomials; the first factors make the rms of each 1.
        linear = 3**0.5 * (linear_x * h + linear_y * k)
        return 1.0 + linear + 5**0.5 / 2 * (square_x * (3 * h**2 - 1) + square_y * (3 * k**2 - 1)) + 3 * product * h * k

    return pattern


def detector_response(vendor: str, led: str, common: np.random.Generator, own: np.random.Generator, *, rms: float) -> float:
    """Return the mean response of a detector: vendor, then a scatter of which most is common to all LEDs."""
    mean = VENDOR_RESPONSE.get(vendor, {}).get(led, 1.0)
    return float(mean * (1.0 + rms * (0.9 * common.standard_normal() + (1 - 0.9**2) ** 0.5 * own.standard_normal())))


def bad_columns(detector: Detector, rng: np.random.Generator, *, count: int) -> list[tuple[slice, slice, float]]:
    """Return columns of low response: rows and columns in the detector array, and the response that is left.

    A bad column begins at a defect and reaches to the mid-line, away from the output node.
    """
    columns = []
    for _ in range(count):
        amplifier = detector.amplifiers[rng.integers(len(detector.amplifiers))]
        rows, across = amplifier.slices
        column = int(rng.integers(across.start, across.stop))
        begin = int(rng.integers(rows.start, rows.stop))
        reach = slice(rows.start, begin + 1) if amplifier.flip_y else slice(begin, rows.stop)
        columns.append((reach, slice(column, column + 1), float(rng.uniform(0.0, 0.7))))
    return columns


def hot_pixels(detector: Detector, rng: np.random.Generator, *, count: int, rate: float) -> tuple[NDArray[np.int64], FloatArray]:
    """Return rows and columns, shape (2, count), and dark currents (electrons per s, exponential about ``rate``)."""
    places = np.stack([rng.integers(0, detector.ny, count), rng.integers(0, detector.nx, count)])
    return places, rng.exponential(rate, count)
