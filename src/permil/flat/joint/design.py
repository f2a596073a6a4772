"""What a list of pointings will determine of a flat, before any data are taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from permil.errors import FlatError
from permil.flat.joint.covariance import plane_operator
from permil.flat.joint.data import DetectorSignals, ExposureList
from permil.flat.joint.model import JointModel, make_model
from permil.flat.joint.modes import UndeterminedMode, name_modes, tied_sets
from permil.flat.joint.normal import fit_detector, normal_equations, tiles
from permil.flat.joint.photodiode import PhotodiodeModel
from permil.flat.joint.prior import Prior

FloatArray = NDArray[np.float64]

_MOST_SUPER_PIXELS = 20_000
_BREADTH = 1e-12


@dataclass(frozen=True)
class DesignReport:
    """What a design determines.

    Parameters
    ----------
    modes : list of UndeterminedMode
        What the signals alone leave open.
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
        """Return how many undetermined modes have each name."""
        return {name: sum(mode.name == name for mode in self.modes) for name in sorted({mode.name for mode in self.modes})}


def footprint(
    name: str, x_mm: FloatArray, y_mm: FloatArray, exposures: NDArray[np.int64], relative_error: float | FloatArray
) -> DetectorSignals:
    """Return a detector as it will be lit: super-pixels, exposures, and the relative error of a signal.

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
    curvature: float = 1e-3,
    limit: float = 1e-3,
    reflection: bool = False,
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
    curvature
        Expected second derivative of ``log B``, 1/mm^2.
    limit
        A mode of which the signals alone leave more than this (relative, rms over the flat) is called undetermined.
    reflection
        Whether a reflected pattern is to be fitted.

    Raises
    ------
    FlatError
        If there are too many super-pixels.
    """
    model = make_model(exposures, detectors, spacing_mm=spacing_mm, reflection=reflection)
    vector = model.start()
    equations = normal_equations(model, detectors, vector)
    prior = Prior(model, (curvature**-2,) * len(model.patterns), photodiode, np.isfinite(exposures.log_photodiode))
    shifts, moments = _shifts(model, detectors, vector)
    x = np.concatenate([detector.x_mm for detector in detectors])
    y = np.concatenate([detector.y_mm for detector in detectors])
    detector_of = np.repeat(np.arange(len(detectors)), [len(detector.x_mm) for detector in detectors])
    lit = moments > 0
    if not lit.all():
        x, y, detector_of, shifts, moments = x[lit], y[lit], detector_of[lit], shifts[lit], moments[lit]
    basis = undetermined_flats(equations.full_matrix, shifts, limit)
    total = equations.full_matrix
    prior.add_to(total)
    factor = linalg.cholesky(total, lower=True, overwrite_a=True)
    common = linalg.solve_triangular(factor, shifts.T, lower=True)
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
    """Return orthonormal flats, shape (p, m), of which the signals alone leave more than a limit.

    Parameters
    ----------
    matrix : ndarray, shape (n, n)
        Normal equations without prior.
    shifts : ndarray, shape (p, n)
        Rows ``A``, the mean flat taken off.
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
    """Return the rows ``A`` of all super-pixels, their mean taken off, and the weights ``W``."""
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
