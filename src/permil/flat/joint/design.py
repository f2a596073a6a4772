"""Parts of a flat that a list of pointings determines, before any data are taken, and names of the undetermined modes.

Signals do not determine directions in which beam, scales and response change together: a common factor, a gradient
(``F exp(a.x)``, ``B exp(-a.u)``, ``s exp(-a.c)``), and waves ``exp(i k.x)`` of the flat for which ``k.(c_e - c_e')`` is a multiple
of 2 pi for all projector positions that share super-pixels: a beam ``exp(-i k.u)`` cancels them. A few dithers leave dozens of such
lattice modes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import linalg, optimize, sparse
from scipy.sparse import csgraph

from permil.arrays import FloatArray, IntArray
from permil.errors import FlatError
from permil.flat.joint.covariance import plane_operator
from permil.flat.joint.data import DetectorSignals, ExposureList
from permil.flat.joint.model import JointModel, make_model
from permil.flat.joint.normal import fit_detector, normal_equations, tiles
from permil.flat.joint.photodiode import PhotodiodeModel
from permil.flat.joint.prior import Prior

_MOST_SUPER_PIXELS = 20_000
_BREADTH = 1e-12
_CURVATURE = 1e-3
"""Expected second derivative of ``log B``, 1/mm^2."""


@dataclass(frozen=True)
class DesignReport:
    """Determined and undetermined modes of a design.

    Parameters
    ----------
    modes : list of UndeterminedMode
        Modes that the signals alone do not determine.
    basis : ndarray, shape (p, m)
        These modes as orthonormal flats over all super-pixels (detectors in turn).
    mode_errors : ndarray, shape (m,)
        Error of each column with the prior: relative, rms over the flat. Largest first.
    pixel_error : float
        Median over super-pixels of the independent error.
    large_scale_error : float
        Root mean square over super-pixels of the error that they have in common.
    level_error : ndarray, shape (detectors,)
        Error of the level of each detector against the mean of all.
    gradient_error : ndarray, shape (2,)
        Error of the gradient over all detectors, 1/mm.
    """

    modes: list[UndeterminedMode]
    basis: FloatArray
    mode_errors: FloatArray
    pixel_error: float
    large_scale_error: float
    level_error: FloatArray
    gradient_error: FloatArray

    def counts(self) -> dict[str, int]:
        """Return the number of undetermined modes with each name."""
        return {name: sum(mode.name == name for mode in self.modes) for name in sorted({mode.name for mode in self.modes})}


def footprint(
    name: str, x_mm: FloatArray, y_mm: FloatArray, exposures: IntArray, relative_error: float | FloatArray
) -> DetectorSignals:
    """Return the planned signals of a detector: super-pixels, exposures, and the relative error of a signal.

    Parameters
    ----------
    relative_error
        Of one signal on one super-pixel; a number, or of shape (exposures, super-pixels).
    """
    shape = (len(exposures), len(x_mm))
    return DetectorSignals(name, x_mm, y_mm, exposures, np.zeros(shape), np.broadcast_to(np.square(relative_error), shape).copy())


def check_design(
    exposures: ExposureList,
    detectors: Sequence[DetectorSignals],
    *,
    spacing_mm: float,
    photodiode: PhotodiodeModel,
    limit: float = 1e-3,
    scale_deviations: Callable[[FloatArray], FloatArray] | None = None,
) -> DesignReport:
    """Predict the errors of a flat from positions, footprint and noise alone.

    Parameters
    ----------
    exposures, detectors
        Signals play no part; see `footprint`. At most 20,000 super-pixels: use coarse ones.
    spacing_mm
        Distance of the beam's knots.
    photodiode
        Its expected noise and drift.
    limit
        A mode that the signals alone leave uncertain by more than this (relative, rms over the flat) is called undetermined.
    scale_deviations
        Returns draws, shape (k, n), of further deviations of the scales, from what the signals know of these (information matrix, shape
        (n, n)). Their mean square adds to all errors.

    Raises
    ------
    FlatError
        If there are too many super-pixels.
    """
    model = make_model(exposures, detectors, spacing_mm=spacing_mm)
    vector = model.start()
    equations = normal_equations(model, detectors, vector)
    prior = Prior(model, (_CURVATURE**-2,), photodiode, np.isfinite(exposures.log_photodiode))
    shifts, moments = _shifts(model, detectors, vector)
    x = np.concatenate([detector.x_mm for detector in detectors])
    y = np.concatenate([detector.y_mm for detector in detectors])
    detector_of = np.repeat(np.arange(len(detectors)), [len(detector.x_mm) for detector in detectors])
    lit = moments > 0
    if not lit.all():
        x, y, detector_of, shifts, moments = x[lit], y[lit], detector_of[lit], shifts[lit], moments[lit]
    basis = undetermined_flats(equations.full_matrix, shifts, limit)
    total = equations.full_matrix
    hold = prior.scale_hold(total)
    prior.add_to(total)
    factor = linalg.cholesky(total, lower=True, overwrite_a=True)
    common = linalg.solve_triangular(factor, shifts.T, lower=True)
    if scale_deviations is not None:
        start = model.scales.start
        of_scales = factor[start:, start:]
        assumed = np.zeros_like(of_scales)
        prior.add_to_others(assumed, hold)
        draws = scale_deviations(of_scales @ of_scales.T - assumed)
        # The patterns follow the scales as the signals demand.
        follow = -linalg.solve_triangular(factor[:start, :start], factor[start:, :start].T @ draws.T, lower=True, trans="T")
        common = np.vstack([common, (shifts @ np.vstack([follow, draws.T])).T / np.sqrt(len(draws))])
    in_modes = common @ basis
    strength, turn = np.linalg.eigh(in_modes.T @ in_modes)
    basis = basis @ turn[:, ::-1]
    rows = [(detector_of == number) / (detector_of == number).sum() for number in range(len(detectors))]
    levels = np.array(rows) - 1.0 / len(x)
    gradient = plane_operator(x, y, np.ones(len(x), dtype=bool))[1:]
    sets = tied_sets([detector.exposures[np.isfinite(detector.log_signal).any(axis=1)] for detector in detectors])
    return DesignReport(
        modes=name_modes(basis, x, y, detector_of, [detector.name for detector in detectors], sets),
        basis=basis,
        mode_errors=np.sqrt(np.maximum(strength[::-1], 0.0) / len(x)),
        pixel_error=float(np.median(moments**-0.5)),
        large_scale_error=float(np.sqrt(np.square(common).sum() / len(x))),
        level_error=_errors(levels, common, moments),
        gradient_error=_errors(gradient, common, moments),
    )


def undetermined_flats(matrix: FloatArray, shifts: FloatArray, limit: float) -> FloatArray:
    """Return orthonormal flats, shape (p, m), that the signals alone leave uncertain by more than a limit.

    Parameters
    ----------
    matrix : ndarray, shape (n, n)
        Normal equations without prior.
    shifts : ndarray, shape (p, n)
        Rows ``A`` minus the mean flat.
    limit
        Standard deviation, relative, rms over the flat.

    Notes
    -----
    A prior too broad to matter (weaker than the signals by `_BREADTH`) makes the matrix invertible: an undetermined flat then has an
    error far above 1 and a determined one an error near the noise.
    """
    total = matrix + _BREADTH * np.diag(matrix).mean() * np.eye(len(matrix))
    factor = linalg.cholesky(total, lower=True, overwrite_a=True)
    common = linalg.solve_triangular(factor, shifts.T, lower=True)
    flats, strength, _ = linalg.svd(common.T, full_matrices=False)
    return flats[:, strength > limit * np.sqrt(len(shifts))]


def _shifts(model: JointModel, detectors: Sequence[DetectorSignals], vector: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the rows ``A`` of all super-pixels minus their mean, and the weights ``W``."""
    count = sum(len(detector.x_mm) for detector in detectors)
    if count > _MOST_SUPER_PIXELS:
        raise FlatError(f"{count} super-pixels are too many to check a design", remedy="use coarser ones", value=count)
    shifts, moments = np.zeros((count, model.size)), np.zeros(count)
    start = 0
    for detector in detectors:
        fit = fit_detector(model, detector, vector, threshold=np.inf, exposure_weights=np.ones(len(model.exposures)))
        for tile in tiles(model, detector, fit, vector):
            shifts[np.ix_(start + tile.pixels, tile.columns)] = tile.shifts
            moments[start + tile.pixels] = tile.moments
        start += len(detector.x_mm)
    lit = moments > 0
    shifts[lit] -= shifts[lit].mean(axis=0)
    return shifts, moments


def _errors(rows: FloatArray, common: FloatArray, moments: FloatArray) -> FloatArray:
    return np.sqrt(np.square(common @ rows.T).sum(axis=0) + np.square(rows) @ (1.0 / moments))


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
        Part of the named pattern's square that lies in the undetermined space.
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
    detector_of: IntArray,
    names: Sequence[str],
    sets: Sequence[IntArray],
) -> list[UndeterminedMode]:
    """Name the modes that span a space of undetermined flats, without the mean of a flat.

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
        sine and cosine), then modes without a name.
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
    """Named modes of a space of flats, and the rest of the space."""

    def __init__(self, basis: FloatArray) -> None:
        self.left = basis
        self.found: list[UndeterminedMode] = []
        self._taken = np.ones((len(basis), 1)) / np.sqrt(len(basis))

    def take(self, pattern: FloatArray, mode: UndeterminedMode, needed: float) -> None:
        """Remove a pattern, orthogonal to named ones, from the space if the required part of its square lies in it."""
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


def tied_sets(exposures: Sequence[IntArray]) -> list[IntArray]:
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
