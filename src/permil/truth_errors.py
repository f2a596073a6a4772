"""Deviations of recovered from true flats relative to stated errors: levels, planes and super-pixels of one LED.

All quantities are relative, on super-pixels, in ``log(recovered / true)``. Let the operators ``T_d`` fit planes to the super-pixels of each
detector. The covariance of all planes stated by products of the joint solution (`permil.flat.shared_errors`) is::

    cov = (T M') (T M')' + diag_d(T_d diag(photon + REMAINDER) T_d')

with the extension MODES of all detectors, ``M``, and the noise of super-pixels from the variance planes. Products of the solver `divide`
state the correlated errors of the pixels of each detector, at PLACES, but not between detectors: ``cov`` has one block COVARIANCE per
detector, which gives the errors of each detector, but not of all together. The common factor of all detectors is a convention: the mean
level is subtracted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import linalg
from scipy.special import chdtrc

from permil.camera import Detector, frames
from permil.flat.shared_errors import plane_matrix
from permil.flat.superpixel import size_in_pixels, super_pixels
from permil.products import ImageProduct, is_good

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class DetectorDeviation:
    """The logarithm of recovered over true on the super-pixels of a detector, and the errors stated by its product.

    Attributes
    ----------
    x_mm, y_mm, log_ratio, photon : ndarray, shape (p,)
        Centres of the super-pixels with a ratio (CCS mm), its logarithm, and the variance of independent noise in it.
    modes : ndarray, shape (k, p)
        Modes of the errors common to all detectors; k = 0 if the product has none.
    remainder : ndarray, shape (p,)
        Variance of correlated errors beyond the modes.
    plane_covariance : ndarray, shape (3, 3)
        Covariance of level (relative) and gradient along X and Y (1/mm), from noise and errors beyond the modes.
    """

    name: str
    x_mm: FloatArray
    y_mm: FloatArray
    log_ratio: FloatArray
    photon: FloatArray
    modes: FloatArray
    remainder: FloatArray
    plane_covariance: FloatArray

    @property
    def operator(self) -> FloatArray:
        """Least-squares operator from values to the level at the mean position and gradients, shape (3, p)."""
        return plane_matrix(self.x_mm, self.y_mm)


@dataclass(frozen=True)
class LedDeviation:
    """Planes and super-pixels of all detectors of one LED relative to their errors.

    Attributes
    ----------
    planes, plane_errors : ndarray, shape (detectors, 3)
        Level relative to the mean of all, gradient along X and Y (1/mm), and their stated errors.
    chi_square, freedom, p_value
        Test of all planes with their covariance; NaN if the products do not state errors common to detectors.
    tilt, tilt_error : ndarray, shape (2,)
        Gradient of recovered over true fitted to all detectors together, along X and Y (1/mm), and its error; the error is NaN if the
        products do not state errors common to detectors.
    super_pull, super_pull_error
        Root mean square of super-pixels over their errors, and its expected scatter for the stated errors; the latter is NaN without
        modes.
    detector_pulls : ndarray, shape (detectors,)
        The same per detector.
    """

    planes: FloatArray
    plane_errors: FloatArray
    chi_square: float
    freedom: int
    p_value: float
    tilt: FloatArray
    tilt_error: FloatArray
    super_pull: float
    super_pull_error: float
    detector_pulls: FloatArray

    @property
    def plane_pulls(self) -> FloatArray:
        """Planes over their errors, shape (detectors, 3); NaN for the level of a single detector."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(self.plane_errors > 0, self.planes / self.plane_errors, np.nan)


def detector_deviation(
    made: ImageProduct, true: ImageProduct, detector: Detector, *, super_pixel_mm: float
) -> DetectorDeviation | None:
    """Return recovered over true on super-pixels, with its errors; None if fewer than three super-pixels are good.

    Parameters
    ----------
    super_pixel_mm
        Side of the super-pixels for products without modes; products with modes have their own.
    """
    modes = made.extensions.get("MODES")
    size = int(modes.header["BLOCKPIX"]) if modes is not None else size_in_pixels(super_pixel_mm, detector.pixel_mm)
    good = is_good(made.mask) & is_good(true.mask) & (made.image > 0) & (true.image > 0) & np.isfinite(made.image)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.where(good, made.image.astype(np.float64) / true.image, np.nan)
        relative = np.where(good, made.variance.astype(np.float64) / made.image.astype(np.float64) ** 2, np.nan)
    blocks, noise = super_pixels(ratio, good, size), super_pixels(relative, good, size)
    filled = np.isfinite(blocks.mean)
    if filled.sum() < 3:
        return None
    x, y = np.meshgrid(*blocks.centres(ratio.shape))
    x_mm, y_mm = frames.detector_to_ccs(detector, x[filled], y[filled])
    photon = (noise.mean / noise.count)[filled]
    operator = plane_matrix(x_mm, y_mm)
    if modes is not None:
        patterns = np.asarray(modes.data, dtype=np.float64)[:, filled]
        remainder = np.asarray(made.extensions["REMAINDER"].data, dtype=np.float64)[filled]
        plane_covariance = (operator * (photon + remainder)) @ operator.T
    else:
        covariance, places = _shared(made)
        patterns = np.zeros((0, int(filled.sum())))
        remainder = np.diag(covariance)[_nearest(places, x[filled], y[filled])]
        of_places = plane_matrix(*frames.detector_to_ccs(detector, places[:, 0], places[:, 1]))
        plane_covariance = of_places @ covariance @ of_places.T + (operator * photon) @ operator.T
    return DetectorDeviation(
        name=detector.name,
        x_mm=x_mm,
        y_mm=y_mm,
        log_ratio=np.log(blocks.mean[filled]),
        photon=photon,
        modes=patterns,
        remainder=remainder,
        plane_covariance=plane_covariance,
    )


def led_deviation(detectors: Sequence[DetectorDeviation], *, plane_covariance: FloatArray | None = None) -> LedDeviation:
    """Return the deviations of all detectors of one LED relative to their errors.

    Parameters
    ----------
    plane_covariance : ndarray, shape (3 n, 3 n)
        Covariance of the planes of all detectors (`permil.flat.joint_file.read_planes`); by default that of modes and noise, which lacks
        what many detectors have in common beyond the modes.
    """
    count = len(detectors)
    size = np.array([one.log_ratio.size for one in detectors], dtype=np.float64)
    operators = [one.operator for one in detectors]
    planes = np.array([operator @ one.log_ratio for operator, one in zip(operators, detectors, strict=True)])
    mean = float(size @ planes[:, 0] / size.sum())
    # Levels relative to the mean of all super-pixels.
    centring = np.eye(3 * count)
    centring[::3, ::3] -= size / size.sum()
    is_known = plane_covariance is not None or _states_modes(detectors) or count == 1
    planes_together = _plane_covariance(detectors, operators) if plane_covariance is None else plane_covariance
    covariance = centring @ planes_together @ centring.T
    planes[:, 0] -= mean
    errors = np.sqrt(np.maximum(np.diag(covariance), 0.0)).reshape(count, 3)
    if count == 1:
        errors[0, 0] = 0.0
    chi_square, freedom = _chi_square(planes.ravel(), covariance) if is_known else (np.nan, 0)
    tilt, tilt_covariance = _tilt(detectors)
    mean_squares = np.array([np.mean((one.log_ratio - mean) ** 2 / _variance(one)) for one in detectors])
    super_square = float(size @ mean_squares / size.sum())
    return LedDeviation(
        planes=planes,
        plane_errors=errors,
        chi_square=chi_square,
        freedom=freedom,
        p_value=float(chdtrc(freedom, chi_square)) if freedom else np.nan,
        tilt=tilt,
        tilt_error=np.sqrt(np.diag(tilt_covariance)) if is_known else np.full(2, np.nan),
        super_pull=float(np.sqrt(super_square)),
        super_pull_error=_pull_scatter(detectors) / 2 if _states_modes(detectors) else np.nan,
        detector_pulls=np.sqrt(mean_squares),
    )


def _shared(made: ImageProduct) -> tuple[FloatArray, FloatArray]:
    """Return the covariance of correlated pixel errors, and the positions (x, y in pixels) of its rows."""
    table = made.extensions["PLACES"].data
    places = np.column_stack([np.asarray(table[name], dtype=np.float64) for name in ("x_pixel", "y_pixel")])
    covariance = np.asarray(made.extensions["COVARIANCE"].data, dtype=np.float64)
    known = np.isfinite(np.diag(covariance))
    return covariance[np.ix_(known, known)], places[known]


def _nearest(places: FloatArray, x: FloatArray, y: FloatArray) -> NDArray[np.intp]:
    return np.hypot(x[:, None] - places[:, 0], y[:, None] - places[:, 1]).argmin(axis=1)


def _variance(one: DetectorDeviation) -> FloatArray:
    """Return the variance of each super-pixel."""
    return one.photon + one.remainder + np.square(one.modes).sum(axis=0)


def _plane_covariance(detectors: Sequence[DetectorDeviation], operators: Sequence[FloatArray]) -> FloatArray:
    """Return the covariance of the planes of all detectors, shape (3 n, 3 n)."""
    covariance = linalg.block_diag(*(one.plane_covariance for one in detectors))
    if _states_modes(detectors):
        of_modes = np.vstack([operator @ one.modes.T for operator, one in zip(operators, detectors, strict=True)])
        covariance = covariance + of_modes @ of_modes.T
    return np.asarray(covariance)


def _states_modes(detectors: Sequence[DetectorDeviation]) -> bool:
    """Return whether the products state errors common to all detectors."""
    return all(len(one.modes) for one in detectors)


def _chi_square(deviation: FloatArray, covariance: FloatArray) -> tuple[float, int]:
    """Return chi-square and degrees of freedom; the common factor does not count."""
    scale = np.sqrt(np.diag(covariance))
    scale[scale == 0] = 1.0
    values, vectors = np.linalg.eigh(covariance / np.outer(scale, scale))
    order = np.argsort(values)[1:]
    along = vectors[:, order].T @ (deviation / scale)
    return float((along**2 / values[order]).sum()), len(order)


def _tilt(detectors: Sequence[DetectorDeviation]) -> tuple[FloatArray, FloatArray]:
    """Return the gradient fitted to all super-pixels together, and its covariance."""
    x_mm, y_mm = (np.concatenate([getattr(one, name) for one in detectors]) for name in ("x_mm", "y_mm"))
    whole = plane_matrix(x_mm, y_mm)[1:]
    states_modes = _states_modes(detectors)
    gradient, common, own = np.zeros(2), np.zeros((2, len(detectors[0].modes))), np.zeros((2, 2))
    ends = np.cumsum([one.log_ratio.size for one in detectors])[:-1]
    for one, part in zip(detectors, np.split(whole, ends, axis=1), strict=True):
        gradient += part @ one.log_ratio
        if states_modes:
            common += part @ one.modes.T
        of_plane = part @ np.column_stack([np.ones(one.x_mm.size), one.x_mm - one.x_mm.mean(), one.y_mm - one.y_mm.mean()])
        own += of_plane @ one.plane_covariance @ of_plane.T
    return gradient, common @ common.T + own


def _pull_scatter(detectors: Sequence[DetectorDeviation]) -> float:
    """Return the standard error of the mean square of super-pixels relative to their errors: ``sqrt(2 sum(r_pq^2)) / n``.

    ``r`` are correlations; those of the modes are summed without forming a matrix over all super-pixels.
    """
    gram, own, pixels = np.zeros((len(detectors[0].modes),) * 2), 0.0, 0
    for one in detectors:
        scaled = one.modes / np.sqrt(_variance(one))
        gram += scaled @ scaled.T
        share = np.square(scaled).sum(axis=0)
        own += float((1 - share**2).sum())
        pixels += share.size
    return float(np.sqrt(2 * (np.square(gram).sum() + own)) / pixels)
