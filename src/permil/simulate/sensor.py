"""The true response of sensors: patterns as functions of position, and defects.

Positions are in mm from the lower left corner of the array, so that a binned camera shows the same physics. A pattern takes
x, shape (1, nx), and y, shape (rows, 1), and returns relative factors that broadcast to (rows, nx): a full-size detector is
evaluated in strips. The tree rings' factors by LED follow measurements of LSST sensors (Park, Nomerotski & Tsybychev 2017,
JINST 12, C05015): shallow absorption in the blue, deep in the red. That of laser annealing is an assumption.

**Defects.** Each object has a cell of `CELL` x `CELL` pixels of its own, inside one amplifier and away from the edges of the sensor, so
that no two of them overlap. A column takes the pixels from its defect to the mid-line.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from astropy.table import Table
from scipy import ndimage

from permil.arrays import BoolArray, Float32Array, FloatArray, Int32Array, IntArray
from permil.camera import Camera, Detector
from permil.config.simulate import SimulateConfig, SimulateSensor
from permil.products import MaskPlane
from permil.simulate.randoms import generator

CELL = 12
"""Side of the cell of an object, pixels."""

REFERENCE_ELECTRONS = 50_000.0
"""Charge at which the loss of a non-linear pixel is given."""

_MARGIN = 4
_CLUSTER = 3
_LEAST_LENGTH = 20


@dataclass(frozen=True)
class DrawnDefect:
    """A defect: kind, box in pixels of the detector, and strength.

    The strength is the relative loss of ``dark``, ``cluster``, ``weak_column`` and ``dead_column``; the excess of the middle of a
    ``vampire`` over its neighbours, which lose it in equal parts; the relative rms of ``unstable``, whose response has two levels; and
    the relative loss of ``nonlinear`` at `REFERENCE_ELECTRONS`.
    """

    kind: str
    x: int
    y: int
    width: int
    height: int
    strength: float

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns of the box."""
        return slice(self.y, self.y + self.height), slice(self.x, self.x + self.width)


def draw_defects(detector: Detector, settings: SimulateSensor, rng: np.random.Generator, *, edge: int) -> tuple[DrawnDefect, ...]:
    """Draw the defects of a detector; fewer than requested if there is no place left.

    Parameters
    ----------
    edge
        Width of the zone along the edges without defects, pixels.
    """
    free = _free_cells(detector, edge)
    defects: list[DrawnDefect] = []
    sites = _column_sites(detector, rng)
    columns = (
        ("weak_column", settings.weak_columns, settings.weak_column_depth),
        ("dead_column", settings.dead_columns, (0.85, 1.0)),
    )
    for kind, count, strengths in columns:
        for number, column in sites[:count]:
            defects.append(_draw_column(detector, free, rng, (number, column), kind=kind, strengths=strengths))
        del sites[:count]
    places = np.argwhere(free)
    rng.shuffle(places)
    pixels = (
        ("dark", settings.dark_pixels, settings.pixel_strength),
        ("vampire", settings.vampire_pixels, settings.pixel_strength),
        ("cluster", settings.dark_clusters, settings.pixel_strength),
        ("unstable", settings.unstable_pixels, settings.unstable_strength),
        ("nonlinear", settings.nonlinear_pixels, settings.nonlinear_strength),
    )
    used = 0
    for kind, count, strengths in pixels:
        side = _CLUSTER if kind in ("cluster", "vampire") else 1
        for row, column in places[used : used + count]:
            y, x = (int(cell * CELL + rng.integers(_MARGIN, CELL - _MARGIN)) for cell in (row, column))
            defects.append(DrawnDefect(kind, x - side // 2, y - side // 2, side, side, float(rng.uniform(*strengths))))
        used += count
    return tuple(defects)


def _free_cells(detector: Detector, edge: int) -> BoolArray:
    """Return which cells lie inside one amplifier and away from edges and mid-line."""
    amplifiers = detector.amplifier_map()
    inner = np.zeros(detector.shape, dtype=bool)
    inner[edge : detector.ny - edge, edge : detector.nx - edge] = True
    rows, columns = (length // CELL for length in detector.shape)
    blocks = amplifiers[: rows * CELL, : columns * CELL].reshape(rows, CELL, columns, CELL)
    inside = inner[: rows * CELL, : columns * CELL].reshape(rows, CELL, columns, CELL).all(axis=(1, 3))
    free: BoolArray = inside & (blocks.min(axis=(1, 3)) == blocks.max(axis=(1, 3)))
    return free


def _column_sites(detector: Detector, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Return the numbers of amplifiers and the columns of their cells, shuffled."""
    sites = [
        (number, column)
        for number, amplifier in enumerate(detector.amplifiers)
        for column in range(-(-amplifier.x_min // CELL), (amplifier.x_min + amplifier.nx) // CELL)
        if 0 < column < detector.nx // CELL - 1
    ]
    return [sites[index] for index in rng.permutation(len(sites))]


def _draw_column(
    detector: Detector,
    free: BoolArray,
    rng: np.random.Generator,
    site: tuple[int, int],
    *,
    kind: str,
    strengths: tuple[float, float],
) -> DrawnDefect:
    """Draw a column from a defect to the mid-line, and take its cells from those that are free."""
    amplifier, column = detector.amplifiers[site[0]], site[1]
    rows, _ = amplifier.slices
    x = int(column * CELL + rng.integers(_MARGIN, CELL - _MARGIN))
    length = int(rng.integers(_LEAST_LENGTH, rows.stop - rows.start - 2 * CELL))
    begin, end = (rows.start, rows.start + length) if amplifier.flip_y else (rows.stop - length, rows.stop)
    free[begin // CELL : -(-end // CELL), column] = False
    return DrawnDefect(kind, x, begin, 1, length, float(rng.uniform(*strengths)))


def apply_to_response(response: Float32Array, defects: tuple[DrawnDefect, ...]) -> None:
    """Multiply a response by that of defects that do not depend on exposure and signal, in place."""
    for defect in defects:
        if defect.kind in ("dark", "cluster", "weak_column", "dead_column"):
            response[defect.slices] *= np.float32(1.0 - defect.strength)
        elif defect.kind == "vampire":
            factors = np.full((_CLUSTER, _CLUSTER), 1.0 - defect.strength / (_CLUSTER**2 - 1), dtype=np.float32)
            factors[_CLUSTER // 2, _CLUSTER // 2] = 1.0 + defect.strength
            response[defect.slices] *= factors


def defect_table(named: dict[str, tuple[DrawnDefect, ...]]) -> Table:
    """Return the defects of some detectors as a table."""
    rows = [
        (name, each.kind, each.x, each.y, each.width, each.height, each.strength)
        for name, defects in named.items()
        for each in defects
    ]
    names = ("detector", "kind", "x0", "y0", "width", "height", "strength")
    return Table(rows=rows, names=names, dtype=("U16", "U16", *("i4",) * 4, "f8"))


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
) -> Float32Array:
    """Return the pixel-to-pixel response of a strip; ``correlation`` is the part of the variance drawn from ``common``."""
    response = common.standard_normal(shape, dtype=np.float32)
    response *= np.float32(rms * correlation**0.5)
    response += np.float32(rms * (1 - correlation) ** 0.5) * own.standard_normal(shape, dtype=np.float32)
    response += 1
    return response


def tree_rings(detector: Detector, rng: np.random.Generator, *, rms: float, width: float) -> Pattern:
    """Return tree rings: random in the distance from the axis of the crystal near a corner, increasing outwards.

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
    """Return the laser-annealing pattern of the back side: a slanted brick pattern of scan lines and pulses."""
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
    """Return the mean response of a detector: that of the vendor with a scatter, mostly common to all LEDs."""
    mean = VENDOR_RESPONSE.get(vendor, {}).get(led, 1.0)
    return float(mean * (1.0 + rms * (0.9 * common.standard_normal() + (1 - 0.9**2) ** 0.5 * own.standard_normal())))


def bad_columns(detector: Detector, rng: np.random.Generator, *, count: int) -> list[tuple[slice, slice, float]]:
    """Return columns of low response: rows and columns in the detector array, and their remaining response.

    A bad column extends from a defect to the mid-line, away from the output node.
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


def hot_pixels(detector: Detector, rng: np.random.Generator, *, count: int, rate: float) -> tuple[IntArray, FloatArray]:
    """Return rows and columns, shape (2, count), and dark currents (electrons per s, exponential about ``rate``)."""
    places = np.stack([rng.integers(0, detector.ny, count), rng.integers(0, detector.nx, count)])
    return places, rng.exponential(rate, count)


class SensorTruth:
    """Response, defects and masks of the sensors of a camera, drawn from a configuration and its seed."""

    def __init__(self, config: SimulateConfig, camera: Camera) -> None:
        self._config = config
        self._camera = camera

    def _random(self, *names: str | int) -> np.random.Generator:
        return generator(self._config.seed, *names)

    def response(self, detector: Detector, led: str) -> Float32Array:
        """Return the response of a detector before scaling to the composite, shape (ny, nx)."""
        settings = self._config.sensor
        patterns = self._patterns(detector, led)
        mean = self._mean_response(detector, led)
        common, own = self._random("prnu", detector.name), self._random("prnu", detector.name, led)
        response = np.empty(detector.shape, dtype=np.float32)
        for rows in strips(detector):
            response[rows] = mean * evaluate(detector, rows, patterns)
            if self._config.effects.prnu:
                response[rows] *= pixel_response(
                    response[rows].shape, common, own, rms=settings.prnu_rms, correlation=settings.prnu_correlation
                )
        for rows, columns, left in self.bad_columns(detector):
            response[rows, columns] *= np.float32(left)
        apply_to_response(response, self.defects(detector))
        return response

    def _mean_response(self, detector: Detector, led: str) -> float:
        if not self._config.effects.detector_response:
            return 1.0
        common, own = self._random("response", detector.name), self._random("response", detector.name, led)
        return detector_response(detector.vendor, led, common, own, rms=self._config.sensor.detector_rms)

    def _patterns(self, detector: Detector, led: str) -> list[Pattern]:
        settings, effects, name = self._config.sensor, self._config.effects, detector.name
        patterns: list[Pattern] = []
        if effects.response_gradient:
            patterns.append(smooth_gradient(detector, self._random("gradient", name), rms=settings.gradient_rms))
        if effects.tree_rings:
            rms = settings.tree_ring_rms * TREE_RING_FACTOR[led]
            patterns.append(tree_rings(detector, self._random("rings", name), rms=rms, width=settings.tree_ring_width_mm))
        if effects.edge_rolloff:
            patterns.append(edge_rolloff(detector, depth=settings.edge_depth, scale=settings.edge_scale_mm))
        if effects.midline:
            patterns.append(midline_loss(detector, depth=settings.midline_depth, scale=settings.midline_scale_mm))
        if effects.dust and settings.dust_spots:
            rng = self._random("dust", name)
            patterns.append(dust_shadows(detector, rng, spots=settings.dust_spots, depth=settings.dust_depth))
        if effects.annealing and led in ANNEALING_FACTOR:
            amplitude = settings.annealing_amplitude * ANNEALING_FACTOR[led]
            rng = self._random("annealing", name)
            patterns.append(annealing_pattern(rng, amplitude=amplitude, period=settings.annealing_period_mm))
        return patterns

    def bad_columns(self, detector: Detector) -> list[tuple[slice, slice, float]]:
        """Return the bad columns of a detector: rows, columns, and remaining response."""
        count = self._config.sensor.bad_columns if self._config.effects.bad_columns else 0
        return bad_columns(detector, self._random("bad columns", detector.name), count=count)

    def hot_pixels(self, detector: Detector) -> tuple[IntArray, FloatArray]:
        """Return rows and columns, shape (2, n), of the hot pixels of a detector, and their electrons per s."""
        count = self._config.sensor.hot_pixels if self._config.effects.hot_pixels else 0
        rng = self._random("hot pixels", detector.name)
        return hot_pixels(detector, rng, count=count, rate=self._config.sensor.hot_pixel_rate)

    def defects(self, detector: Detector) -> tuple[DrawnDefect, ...]:
        """Return the defects of a detector besides bad columns and hot pixels."""
        if not self._config.effects.sensor_defects:
            return ()
        rng = self._random("defects", detector.name)
        return draw_defects(detector, self._config.sensor, rng, edge=self._edge(detector) + 2)

    def _edge(self, detector: Detector) -> int:
        """Return the width of the zone along the edges, pixels."""
        return int(np.ceil(self._camera.edge_mm / detector.pixel_mm))

    def mask(self, detector: Detector) -> Int32Array:
        """Return the true mask of a detector: BAD, EDGE and MIDLINE, shape (ny, nx)."""
        mask = np.zeros(detector.shape, dtype=np.int32)
        edge = self._edge(detector)
        mask[:edge] = mask[-edge:] = MaskPlane.EDGE
        mask[:, :edge] = mask[:, -edge:] = MaskPlane.EDGE
        middle = int(np.ceil(self._camera.midline_mm / detector.pixel_mm))
        for border in {amplifier.y_min for amplifier in detector.amplifiers} - {0}:
            mask[border - middle : border + middle] |= MaskPlane.MIDLINE
        for rows, columns, _ in self.bad_columns(detector):
            mask[rows, columns] |= MaskPlane.BAD
        for defect in self.defects(detector):
            mask[defect.slices] |= MaskPlane.BAD
        (rows_hot, columns_hot), _ = self.hot_pixels(detector)
        mask[rows_hot, columns_hot] |= MaskPlane.BAD
        return mask
