"""The light that a joint solution expects on any pixel of any detector.

The light of one exposure is computed on a lattice of pixels, exactly, and interpolated by cubics between them. With nodes a few tenths of
a millimetre apart the error of the interpolation of a beam ``B``, ``3 h^4 B'''' / 128`` along each axis (the remainder of Lagrange's
formula on four nodes), is below the rounding of single precision.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from scipy import ndimage

from permil._kernels import flat as kernels
from permil.arrays import Float32Array, FloatArray, IntArray
from permil.beam.model import SplineTable
from permil.beam.parameters import Hull
from permil.camera import Detector, frames
from permil.flat.joint.weather import pattern_values

CELL = 8
"""Pixels from node to node."""

_LATTICE_MM = 0.1
"""Longest cell of a lattice of light: a beam has no structure a few tenths of a millimetre wide."""


@dataclass(frozen=True)
class ExposureLight:
    """Light of one exposure.

    Parameters
    ----------
    scale, error : float
        Photodiode units, and the relative error.
    x_mm, y_mm : float
        Where the projector stood (CCS).
    weather : tuple of float
        Coefficients of the patterns of weather (`permil.flat.joint.weather`); empty without weather.
    """

    scale: float
    error: float
    x_mm: float
    y_mm: float
    weather: tuple[float, ...] = ()


def mean_light(exposures: Sequence[ExposureLight]) -> ExposureLight:
    """Return the first of some exposures of one position, with their mean position and weather, for their stack."""
    x_mm, y_mm = np.mean([(exposure.x_mm, exposure.y_mm) for exposure in exposures], axis=0)
    weather = np.mean([exposure.weather for exposure in exposures], axis=0)
    return replace(exposures[0], x_mm=float(x_mm), y_mm=float(y_mm), weather=tuple(weather.tolist()))


@dataclass(frozen=True)
class StoredStep:
    """A step of the gain of one amplifier: its relative size, and the observations before it; the flat refers to those after it."""

    detector: str
    amplifier: int
    size: float
    before: frozenset[str]


@dataclass(frozen=True)
class LightLattice:
    """Light on the pixels of a detector.

    Parameters
    ----------
    nodes : ndarray, shape (rows, columns)
        Light at the pixels ``CELL * (index - 1)`` along each axis, with the shape of `node_shape`.
    shape
        Rows and columns of the detector.
    """

    nodes: Float32Array
    shape: tuple[int, int]

    @staticmethod
    def node_shape(shape: tuple[int, int]) -> tuple[int, int]:
        """Return rows and columns of nodes that a detector of some shape needs: one cell beyond it on all sides."""
        return -(-shape[0] // CELL) + 3, -(-shape[1] // CELL) + 3

    def on_pixels(self, rows: slice, columns: slice) -> Float32Array:
        """Return the light on rows and columns; NaN where a node nearby has none."""
        chosen = range(self.shape[0])[rows]
        image = np.empty((len(chosen), self.shape[1]), dtype=np.float32)
        kernels.interpolate(self.nodes, chosen.start, chosen.step, image)
        return image[:, columns]


@dataclass(frozen=True)
class JointLight:
    """The light that the joint solution expects on any pixel.

    Parameters
    ----------
    tables : tuple
        Logarithm of each pattern as a table, and the sign with which it moves against the projector: -1 beam, +1 reflection.
    exposures : dict
        By observation; those that were left out are not there.
    weather_frame : tuple of float
        Centre of the patterns of weather in the beam's own coordinates, and half side of their square, mm; empty without weather.
    side_mm : float
        Side of the squares over which this light is averaged.
    gains : mapping
        For each detector whose readout board changes its gain: logarithm of the change of its signals, by observation.
    gain_steps : tuple of StoredStep
        Steps of single amplifiers.
    """

    tables: tuple[tuple[SplineTable, float], ...]
    exposures: Mapping[str, ExposureLight]
    weather_frame: tuple[float, ...] = ()
    side_mm: float = 0.0
    gains: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    gain_steps: tuple[StoredStep, ...] = ()

    def averaged_over(self, side_mm: float) -> JointLight:
        """Return the same light, averaged over smaller squares (pixels instead of super-pixels).

        The mean over a square of side ``s`` is ``B + (s^2 / 24) (B_xx + B_yy)`` to second order. With ``b = log B`` and
        ``k = (side_mm_before^2 - side_mm^2) / 24`` the logarithm changes by ``-k (b_xx + b_yy + b_x^2 + b_y^2)``. Of a beam and its
        reflection each is treated as if it were alone.
        """
        excess = (self.side_mm**2 - side_mm**2) / 24.0
        tables = tuple((_less_averaged(table, excess), sign) for table, sign in self.tables)
        return replace(self, tables=tables, side_mm=side_mm)

    def scale_on(self, detector: str, obsid: str) -> float:
        """Return the scale of an exposure on a detector, with the gain of its readout board."""
        return self.exposures[obsid].scale * float(np.exp(self.gains.get(detector, {}).get(obsid, 0.0)))

    def log_amplifiers(self, detector: str, obsids: Sequence[str], count: int) -> FloatArray | None:
        """Return the logarithm of the change of each amplifier's signals by steps, mean of exposures, shape (count,); None without any."""
        own = [step for step in self.gain_steps if step.detector == detector]
        changes = np.zeros(count)
        for step in own:
            changes[step.amplifier] -= np.log1p(step.size) * np.mean([obsid in step.before for obsid in obsids])
        return changes if own else None

    def log_gains(self, detector: str, obsids: Sequence[str], amplifier: IntArray) -> FloatArray:
        """Return the logarithm of the change of the signals of a detector by gains in some exposures, shape (e, p).

        Parameters
        ----------
        amplifier : ndarray of int, shape (p,)
            Of each super-pixel.
        """
        of_board = self.gains.get(detector, {})
        result = np.tile([[of_board.get(obsid, 0.0)] for obsid in obsids], (1, len(amplifier)))
        for row, obsid in zip(result, obsids, strict=True):
            steps = self.log_amplifiers(detector, [obsid], int(amplifier.max()) + 1)
            row += 0.0 if steps is None else steps[amplifier]
        return result

    def on_detector(self, detector: Detector, exposure: ExposureLight) -> Callable[[slice, slice], Float32Array]:
        """Return a function of rows and columns of a detector that returns the beam, 1 at its maximum; NaN outside the splines.

        Between pixels of a lattice it is interpolated where these are near enough to each other.
        """
        if detector.pixel_mm * CELL <= _LATTICE_MM:
            first, shape = (-CELL, -CELL), LightLattice.node_shape(detector.shape)
            return LightLattice(self._on_pixels(detector, exposure, first, shape, (CELL, CELL)), detector.shape).on_pixels

        def on_pixels(rows: slice, columns: slice) -> Float32Array:
            y, x = range(detector.ny)[rows], range(detector.nx)[columns]
            return self._on_pixels(detector, exposure, (y.start, x.start), (len(y), len(x)), (y.step, x.step))

        return on_pixels

    def _on_pixels(
        self,
        detector: Detector,
        exposure: ExposureLight,
        first: tuple[int, int],
        shape: tuple[int, int],
        step: tuple[int, int],
    ) -> Float32Array:
        """Return the beam on ``shape`` rows and columns from the ``first`` ones on, by steps."""
        origin, matrix = frames.ccs_affine(detector)
        origin = origin + matrix @ [first[1], first[0]]
        logarithms = (
            table.image(shape, origin + sign * np.array([exposure.x_mm, exposure.y_mm]), matrix * [step[1], step[0]], extent)
            for (table, sign), extent in zip(self.tables, self._extents, strict=True)
        )
        total = next(logarithms)
        for logarithm in logarithms:
            total += logarithm
        if exposure.weather:
            columns, rows = step[1] * np.arange(shape[1]), step[0] * np.arange(shape[0])[:, None]
            centre_x, centre_y, half = self.weather_frame
            projector = (exposure.x_mm + centre_x, exposure.y_mm + centre_y)
            places = (
                (origin[axis] - projector[axis] + matrix[axis, 0] * columns + matrix[axis, 1] * rows) / half for axis in (0, 1)
            )
            total += np.tensordot(exposure.weather, pattern_values(*places), axes=1).astype(np.float32)
        return np.exp(total, out=total)

    @cached_property
    def _extents(self) -> tuple[Hull, ...]:
        return tuple(_extent(table) for table, _ in self.tables)


def _less_averaged(table: SplineTable, excess_mm2: float) -> SplineTable:
    """Return ``b - k (b_xx + b_yy + b_x^2 + b_y^2)`` of a logarithm ``b``, from its derivatives on the lattice."""
    padded = np.pad(table.coefficients, 1, mode="reflect", reflect_type="odd")
    level_x, slope_x, bend_x = _derivatives(padded, table.step)
    slope_y, bend_y = _derivatives(level_x.T, table.step)[1:]
    slope_x, bend_x = (_derivatives(part.T, table.step)[0].T for part in (slope_x, bend_x))
    correction = excess_mm2 * (bend_x + bend_y.T + slope_x**2 + slope_y.T**2)
    return replace(table, coefficients=table.coefficients - ndimage.spline_filter(correction, order=3, mode="mirror"))


def _derivatives(coefficients: FloatArray, step: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return values, first and second derivatives of cubic B-splines at the inner centres along the first axis."""
    before, here, after = coefficients[:-2], coefficients[1:-1], coefficients[2:]
    return (before + 4 * here + after) / 6, (after - before) / (2 * step), (after - 2 * here + before) / step**2


def _extent(table: SplineTable) -> Hull:
    """Return the rectangle in which a spline is defined."""
    low = table.origin + table.step
    high = table.origin + table.step * (np.array(table.coefficients.shape) - 2)
    return Hull.of(np.array([low, high, [low[0], high[1]], [high[0], low[1]]]))
