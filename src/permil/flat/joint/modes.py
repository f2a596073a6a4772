"""Modes of a flat that a design cannot determine, and their names.

Signals tell nothing of directions in which beam, scales and response change together: a common factor, a gradient
(``F exp(a.x)``, ``B exp(-a.u)``, ``s exp(-a.c)``), and waves ``exp(i k.x)`` of the flat for which ``k.(c_e - c_e')`` is a multiple
of 2 pi for all projector positions that share super-pixels: a beam ``exp(-i k.u)`` undoes them. A few dithers leave dozens of such
lattice modes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, sparse
from scipy.sparse import csgraph

FloatArray = NDArray[np.float64]

_SMOOTH_PART = 0.9
_WAVE_PART = 0.3
_NEW_PART = 0.01
_FINEST_STEP = 0.25
_APART = 0.6
_MOST_WAVES = 200


@dataclass(frozen=True)
class UndeterminedMode:
    """A direction of the flat that the signals do not determine.

    Parameters
    ----------
    name : str
        ``gradient x``, ``gradient y``, ``set of detectors``, ``lattice`` or ``other``.
    wave_vector : tuple of float
        Radians per mm of a lattice mode, else (0, 0).
    detectors : tuple of str
        Of a set that nothing ties to the others, else empty.
    part : float
        Part of the named pattern's square that lies in what is undetermined.
    """

    name: str
    wave_vector: tuple[float, float] = (0.0, 0.0)
    detectors: tuple[str, ...] = ()
    part: float = 1.0

    @property
    def period_mm(self) -> float:
        """Period of a lattice mode, infinite for others."""
        size = float(np.hypot(*self.wave_vector))
        return 2 * np.pi / size if size > 0 else float("inf")


def name_modes(
    basis: FloatArray,
    x_mm: FloatArray,
    y_mm: FloatArray,
    detector_of: NDArray[np.int64],
    names: Sequence[str],
    sets: Sequence[NDArray[np.int64]],
) -> list[UndeterminedMode]:
    """Name what spans a space of undetermined flats, the mean of a flat taken off.

    Parameters
    ----------
    basis : ndarray, shape (p, m)
        Orthonormal flats over all super-pixels.
    x_mm, y_mm : ndarray, shape (p,)
        Where the super-pixels are.
    detector_of : ndarray of int, shape (p,)
        Number of the detector of each.
    names
        Of the detectors.
    sets
        Numbers of detectors that shared exposures tie together, directly or through others; see `tied_sets`.

    Returns
    -------
    list of UndeterminedMode
        As many as the space has dimensions: smooth ones, sets of detectors, lattice waves (two modes for each wave vector: its
        sine and cosine), then what has no such name.
    """
    naming = _Naming(basis)
    naming.take(x_mm, UndeterminedMode("gradient x"), _SMOOTH_PART)
    naming.take(y_mm, UndeterminedMode("gradient y"), _SMOOTH_PART)
    for members in sets if len(sets) > 1 else ():
        inside, chosen = np.isin(detector_of, members), tuple(names[number] for number in members)
        naming.take(inside.astype(float), UndeterminedMode("set of detectors", detectors=chosen), _SMOOTH_PART)
        for axis, place in (("x", x_mm), ("y", y_mm)):
            slope = inside * (place - place[inside].mean())
            naming.take(slope, UndeterminedMode(f"gradient {axis}", detectors=chosen), _SMOOTH_PART)
    for wave in _waves(x_mm, y_mm, naming.left):
        phase = wave[0] * x_mm + wave[1] * y_mm
        for pattern in (np.cos(phase), np.sin(phase)):
            naming.take(pattern, UndeterminedMode("lattice", (float(wave[0]), float(wave[1]))), _WAVE_PART)
    return naming.found + [UndeterminedMode("other")] * naming.left.shape[1]


class _Naming:
    """What of a space of flats has a name, and what is left of it."""

    def __init__(self, basis: FloatArray) -> None:
        self.left = basis
        self.found: list[UndeterminedMode] = []
        self._taken = np.ones((len(basis), 1)) / np.sqrt(len(basis))

    def take(self, pattern: FloatArray, mode: UndeterminedMode, needed: float) -> None:
        """Take a pattern, less what has a name already, out of the space if the needed part of its square lies in it."""
        rest = pattern - self._taken @ (self._taken.T @ pattern)
        along = self.left.T @ rest
        size = float(rest @ rest)
        if self.left.shape[1] == 0 or size < _NEW_PART * float(pattern @ pattern) or along @ along < needed * size:
            return
        self.found.append(replace(mode, part=float(along @ along) / size))
        inside = self.left @ along
        self._taken = np.column_stack([self._taken, inside / np.linalg.norm(inside)])
        turn = np.linalg.qr(np.column_stack([along, np.eye(len(along))]))[0]
        self.left = self.left @ turn[:, 1:]


def tied_sets(exposures: Sequence[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
    """Return sets of numbers of detectors that have exposures in common, directly or through others.

    Parameters
    ----------
    exposures
        Those that light each detector.
    """
    lengths = [len(seen) for seen in exposures]
    lit = sparse.csr_array((np.ones(sum(lengths)), (np.repeat(np.arange(len(lengths)), lengths), np.concatenate(exposures))))
    _, number = csgraph.connected_components(lit @ lit.T, directed=False)
    return [np.flatnonzero(number == which) for which in range(number.max() + 1)]


def _waves(x_mm: FloatArray, y_mm: FloatArray, basis: FloatArray) -> list[FloatArray]:
    """Return wave vectors in the order of the part of their square that lies in a space, one for each peak."""
    if basis.shape[1] == 0:
        return []
    size = np.array([np.ptp(x_mm), np.ptp(y_mm)])
    step = 2 * np.pi / size * _FINEST_STEP
    pitch = _pitch(x_mm), _pitch(y_mm)
    limits = [int(np.pi / pitch[axis] / step[axis]) for axis in range(2)]
    kx = np.arange(-limits[0], limits[0] + 1) * step[0]
    ky = np.arange(0, limits[1] + 1) * step[1]
    power = np.zeros((kx.size, ky.size))
    along_x = np.exp(1j * np.outer(kx, x_mm))
    for column, wave in enumerate(ky):
        projected = (along_x * np.exp(1j * wave * y_mm)) @ basis
        power[:, column] = np.sum(np.abs(projected) ** 2, axis=1) / x_mm.size
    peaks: list[FloatArray] = []
    for index in np.argsort(power, axis=None)[::-1]:
        row, column = np.unravel_index(index, power.shape)
        if power[row, column] < _WAVE_PART or len(peaks) == _MOST_WAVES:
            break
        wave = np.array([kx[row], ky[column]])
        distinct = all(np.abs((wave - sign * peak) / step).max() > _APART / _FINEST_STEP for peak in peaks for sign in (1, -1))
        if distinct and np.abs(wave / step).max() > _APART / _FINEST_STEP:
            peaks.append(wave)
    return [_refined(wave, step, x_mm, y_mm, basis) for wave in peaks]


def _refined(wave: FloatArray, step: FloatArray, x_mm: FloatArray, y_mm: FloatArray, basis: FloatArray) -> FloatArray:
    """Return the wave vector near another that lies best in a space."""

    def cost(offset: FloatArray) -> float:
        phase = (wave + offset * step) @ np.stack([x_mm, y_mm])
        return -float(np.square(np.abs(np.exp(1j * phase) @ basis)).sum()) / x_mm.size

    found = optimize.minimize(cost, np.zeros(2), method="Nelder-Mead", options={"xatol": 1e-3, "fatol": 1e-6})
    # A search that leaves its peak has found another wave of the same values on the super-pixels.
    return wave + found.x * step if np.abs(found.x).max() <= 1.0 else wave


def _pitch(places: FloatArray) -> float:
    steps = np.diff(np.unique(np.round(places, 6)))
    return float(np.median(steps[steps > 1e-3])) if (steps > 1e-3).any() else 1.0
