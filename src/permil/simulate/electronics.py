"""From electrons to counts: the brighter-fatter effect, the amplifiers of one detector as arrays, and gain steps during a campaign.

**Brighter-fatter effect.** Collected charge repels arriving charge. Charge in a pixel moves the boundaries around it (Antilogus et al.
2014, JINST 9, C03048; Guyonnet et al. 2015, A&A 575, A41). The model is linear in that charge (Astier et al. 2019, A&A 629, A36): across
the boundary of the pixels ``i`` and ``j`` flows, from ``i`` to ``j``,

    F = 1/2 (Q_i + Q_j) / 2 sum_k a_k (Q_k - Q_k'),

with ``k`` the pixels on the side of ``i`` and ``k'`` their mirror images at the boundary. ``(Q_i + Q_j) / 2`` is the light at the
boundary and the first 1/2 the mean over the exposure of a linearly growing charge: the flow is applied once, to the final charge, exact
to first order in ``a``. Charge is conserved, and uniform light is unchanged.

White photon noise has the variance ``m``, the mean charge. The effect multiplies it by ``(1 + m L / 2)``, with ``L`` the convolution
given by ``a``. The variance becomes ``m (1 + m L_0 + m^2 / 4 sum_k L_k^2)``, the covariance of pixels at the lag ``k`` is ``m^2 L_k`` to
first order, and the sum over all lags remains ``m``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import NDArray

from permil._kernels import simulate as kernels
from permil.arrays import Float32Array, FloatArray, Int32Array
from permil.camera import Amplifier, Detector
from permil.config.simulate import SimulateGainSteps
from permil.errors import ConfigError
from permil.simulate.randoms import generator

REFERENCE_ELECTRONS = 50_000.0
"""Mean charge for which the loss of variance is given."""

_DISTANCES = (0.5, 1.5)
_REACH = 2
_SOFTENING = 0.5


def boundary_shifts() -> FloatArray:
    """Return the shape of ``a`` [distance, row]: the shift of a boundary by a charge, in units of its strength.

    A charge at the distances ``d`` across the boundary and ``r`` along it (pixels) from its middle shifts it by
    ``d / (d^2 + r^2 + 1/4)^2``, which falls with the third power as the field of a charge and its image does. Rows are ``d`` = 0.5
    and 1.5, columns ``|r|`` = 0, 1, 2; it is 0 beyond.
    """
    across, along = np.array(_DISTANCES)[:, None], np.arange(_REACH + 1.0)[None, :]
    return across / (across**2 + along**2 + _SOFTENING**2) ** 2


def strength(loss: float) -> float:
    """Return the factor of `boundary_shifts`, 1/electron, for a given loss of variance in flats of 50,000 electrons.

    Parameters
    ----------
    loss
        1 minus variance over mean.
    """
    centre = 2 * _REACH + 1
    single = np.zeros((2 * centre + 1, 2 * centre + 1))
    single[centre, centre] = 1.0
    response = _gain_of_pixels(*(_repulsion(along) for along in (single, single.T)))
    linear, square = -response[centre, centre], np.sum(response**2)
    # Solves loss = x linear - x^2 square / 4 for x = strength times mean.
    return float(2 * (linear - np.sqrt(linear**2 - square * loss)) / square / REFERENCE_ELECTRONS)


def repel_charge(charge: Float32Array, factor: float) -> None:
    """Move charge between the pixels of a sensor, in place; no charge leaves the sensor.

    Parameters
    ----------
    charge : ndarray, shape (ny, nx)
        Electrons at the end of the exposure.
    factor
        From `strength`.
    """
    flows = []
    for along in (charge, charge.T):
        flow = _repulsion(along)
        flow *= np.float32(factor / 4) * (along[:, :-1] + along[:, 1:])
        flows.append(flow)
    charge += _gain_of_pixels(*flows)


def _repulsion(charge: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return ``sum_k a_k (Q_k - Q_k')`` at the boundaries between columns, shape (ny, nx - 1), positive to the right.

    The charge of the edge pixels is continued beyond the sensor's edges.
    """
    rows, columns = charge.shape
    padded = np.pad(charge, _REACH, mode="edge")
    total = np.zeros((rows, columns - 1), dtype=charge.dtype, order="F" if charge.flags.fnc else "C")
    for beyond, shifts in enumerate(boundary_shifts()):
        left, right = _REACH - beyond, _REACH + 1 + beyond
        difference = padded[:, left : left + columns - 1] - padded[:, right : right + columns - 1]
        for along, shift in enumerate(shifts.astype(charge.dtype)):
            for row in {_REACH - along, _REACH + along}:
                total += shift * difference[row : row + rows]
    return total


def _gain_of_pixels(along_rows: NDArray[np.floating], along_columns: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the gain of each pixel from the flows to the right, shape (ny, nx - 1), and upwards, transposed, shape (nx, ny - 1)."""
    gain = np.zeros((along_rows.shape[0], along_columns.shape[0]), dtype=along_rows.dtype)
    for flow, into in ((along_rows, gain), (along_columns, gain.T)):
        into[:, :-1] -= flow
        into[:, 1:] += flow
    return gain


ADC_LARGEST = 2**18 - 1
"""Largest count of the 18-bit converters."""

_ROW_CORRELATION = 0.95


@dataclass(frozen=True)
class Electronics:
    """The amplifiers of one detector; arrays run over amplifiers in the order of the raw file.

    Attributes
    ----------
    gain : ndarray, shape (n,)
        Electrons per adu at the reference temperature.
    read_noise : ndarray, shape (n,)
        Electrons.
    full_well : ndarray, shape (n,)
        Electrons; infinity without saturation.
    curvature : ndarray, shape (n,)
        ``a`` (1/adu) of ``linear = measured (1 + a measured)``, counts above bias.
    crosstalk : ndarray, shape (n, n)
        Counts added to the victim (row) per count of the source (column).
    bias : ndarray, shape (n, ny_raw, nx_raw)
        Level and fixed pattern, adu.
    deferred : ndarray, shape (m,)
        Part of the last pixel's charge in the leading overscan pixels.
    """

    gain: FloatArray
    read_noise: FloatArray
    full_well: FloatArray
    curvature: FloatArray
    crosstalk: FloatArray
    bias: Float32Array
    deferred: FloatArray


def crosstalk_matrix(detector: Detector, rng: np.random.Generator, *, coefficient: float, rms: float) -> FloatArray:
    """Return the crosstalk between amplifiers [victim, source]: nearest neighbours of one half only.

    Measured matrices of ITL sensors have a few 1e-4 there and 1e-5 or less elsewhere.
    """
    count = len(detector.amplifiers)
    matrix = coefficient * (1.0 + rms * rng.standard_normal((count, count)))
    neighbours = np.zeros((count, count), dtype=bool)
    for victim, first in enumerate(detector.amplifiers):
        for source, second in enumerate(detector.amplifiers):
            neighbours[victim, source] = first.y_min == second.y_min and abs(first.x_min - second.x_min) == first.nx
    return np.where(neighbours, matrix, 0.0)


def bias_pattern(amplifier: Amplifier, rng: np.random.Generator, *, size: float) -> Float32Array:
    """Return the fixed pattern of the bias of a segment, adu, shape (ny_raw, nx_raw).

    Settling along rows and columns after the start of a readout, a glow in the corner of the output node, and small fixed
    column-to-column steps. The serial overscan has the row profile alone.
    """
    rows = np.arange(amplifier.ny_raw)[:, None]
    columns = np.arange(amplifier.nx_raw)[None, :]
    row_profile = rng.normal(0, size) * np.exp(-rows / (0.05 * amplifier.ny_raw))
    column_profile = rng.normal(0, size) * np.exp(-columns / (0.1 * amplifier.nx_raw)) + rng.normal(0, 0.1 * size, columns.shape)
    corner = rng.normal(0, size) * np.exp(-rows / (0.2 * amplifier.ny_raw) - columns / (0.2 * amplifier.nx_raw))
    in_light = columns < amplifier.prescan + amplifier.nx
    return (row_profile + np.where(in_light, column_profile + corner, 0.0)).astype(np.float32)


def level_drift(rng: np.random.Generator, shape: tuple[int, ...], *, exposure: float, row: float) -> Float32Array:
    """Return the deviation of the bias level of each amplifier and row from its mean in one exposure, adu.

    Parameters
    ----------
    shape
        Amplifiers, raw rows.
    exposure
        Change from exposure to exposure, rms.
    row
        Change from row to row, rms; rows are correlated (first-order autoregression).
    """
    white = rng.standard_normal(shape) * (row * (1 - _ROW_CORRELATION**2) ** 0.5)
    white[:, 0] = rng.standard_normal(shape[0]) * row
    drift = scipy.signal.lfilter([1.0], [1.0, -_ROW_CORRELATION], white, axis=1)
    return (drift + exposure * rng.standard_normal((shape[0], 1))).astype(np.float32)


def cosmic_rays(detector: Detector, rng: np.random.Generator, *, rate: float, seconds: float) -> list[tuple[int, int, float]]:
    """Return charge left by cosmic rays: (row, column, electrons) of the detector array.

    Straight tracks in a sensor 0.1 mm thick, with the zenith angles of muons (density proportional to cos^2) and 80 electrons
    per micrometre of path.
    """
    area_cm2 = detector.nx * detector.ny * detector.pixel_mm**2 / 100.0
    deposits: list[tuple[int, int, float]] = []
    for _ in range(rng.poisson(rate * area_cm2 * seconds)):
        x, y, azimuth = rng.uniform(0, detector.nx), rng.uniform(0, detector.ny), rng.uniform(0, 2 * np.pi)
        cosine = max(rng.uniform() ** (1.0 / 3.0), 0.05)
        length = 0.1 * (1 - cosine**2) ** 0.5 / cosine / detector.pixel_mm
        steps = int(2 * length) + 1
        charge = 80.0 * 100.0 / cosine / steps
        along = (np.arange(steps) + 0.5) / steps * length
        rows, columns = (y + along * np.sin(azimuth)).astype(int), (x + along * np.cos(azimuth)).astype(int)
        inside = (rows >= 0) & (rows < detector.ny) & (columns >= 0) & (columns < detector.nx)
        deposits += [(int(row), int(column), charge) for row, column in zip(rows[inside], columns[inside], strict=True)]
    return deposits


def digitise(
    counts: Float32Array,
    electronics: Electronics,
    gain: FloatArray,
    prescan: int,
    drifts: tuple[float, float],
    rng: np.random.Generator,
    state: NDArray[np.uint64],
) -> Int32Array:
    """Return the raw segments of one exposure, shape (n, ny_raw, nx_raw): crosstalk, overscans, bias, read noise, and rounding.

    Parameters
    ----------
    counts : ndarray of float32, shape (n, ny, nx)
        Counts above bias.
    electronics
        Crosstalk, bias and deferred charge.
    gain : ndarray, shape (n,)
        Electrons per adu in this exposure.
    prescan
        Columns before the active ones.
    drifts
        Changes of the bias level from exposure to exposure and from row to row, adu rms.
    rng
        Generator of these changes.
    state : ndarray, shape (4,)
        State of the generator of the read noise; advanced.
    """
    exposure, row = drifts
    drift = level_drift(rng, electronics.bias.shape[:2], exposure=exposure, row=row)
    raw = np.empty(electronics.bias.shape, dtype=np.int32)
    kernels.read_out(counts, electronics, drift, electronics.read_noise / gain, prescan, state, raw)
    return raw


Board = tuple[str, str]


def board_of(detector: Detector) -> Board:
    """Return the readout board of a detector: raft and name of the board."""
    return detector.raft, detector.reb


def gain_steps(seed: int, detectors: Sequence[Detector], settings: SimulateGainSteps) -> dict[str, FloatArray]:
    """Return the relative gain step of each amplifier, 0 for most, by the name of the detector.

    The seed chooses the amplifiers or boards and the sign of their steps; the size is the same for all.

    Raises
    ------
    ConfigError
        If more amplifiers or boards should step than are read out.
    """
    steps = {detector.name: np.zeros(len(detector.amplifiers)) for detector in detectors}
    by_board = settings.unit == "board"
    places: dict[tuple[str, str], list[tuple[str, int]]] = {}
    for detector in detectors:
        for number, amplifier in enumerate(detector.amplifiers):
            unit = board_of(detector) if by_board else (detector.name, amplifier.name)
            places.setdefault(unit, []).append((detector.name, number))
    if settings.count > len(places):
        raise ConfigError(
            f"simulate.gain_steps.count is {settings.count}, but the campaign reads {len(places)} {settings.unit}s",
            remedy=f"set it to {len(places)} or less",
            value=settings.count,
        )
    draws = {unit: generator(seed, "gain step", *unit).uniform(-1, 1) for unit in places}
    for unit in sorted(places, key=lambda unit: abs(draws[unit]))[: settings.count]:
        for name, number in places[unit]:
            steps[name][number] = np.copysign(settings.size, draws[unit])
    return steps
