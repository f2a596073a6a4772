"""Errors shared by the pixels of a flat: of beam and scales, of a plane through the flat, and of means over regions.

With the fraction ``W_k(g)`` of the weight that pointing ``k`` has at place ``g`` and ``u_k(g)`` the place in its beam, the relative error
of the flat at ``g`` is ``e(g) = sum_k W_k(g) (dB/B (u_k(g)) + ds_k / s_k)``, so that::

    cov(e)(g, h) = sum_kl W_k(g) W_l(h) C_B(u_k(g), u_l(h)) + sum_k W_k(g) W_k(h) var(s_k)

with the posterior covariance ``C_B`` of the beam model. Means, gradients and steps are linear in ``e``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from permil.arrays import BoolArray, FloatArray, plain_array
from permil.camera import frames
from permil.errors import FlatError, InputError
from permil.flat.superpixel import block_sums
from permil.products import ImageProduct, is_usable, read_image

if TYPE_CHECKING:
    from permil.beam import BeamModel
    from permil.camera import Detector
    from permil.flat.divide import PointingWeights
    from permil.flat.pointings import LitPointing


@dataclass(frozen=True)
class Plane:
    """``level (1 + gradient_x (X - X0) + gradient_y (Y - Y0))`` over a detector, CCS mm, X0 and Y0 its centre.

    ``covariance`` is that of (relative level, gradient_x, gradient_y).
    """

    level: float
    gradient_x: float
    gradient_y: float
    covariance: FloatArray

    @property
    def errors(self) -> FloatArray:
        """Standard errors of (relative level, gradient_x, gradient_y)."""
        return np.sqrt(np.diag(self.covariance))


def shared_covariance(
    beam_covariance: Callable[[FloatArray, FloatArray], FloatArray],
    ux: FloatArray,
    uy: FloatArray,
    weights: FloatArray,
    scale_errors: FloatArray,
) -> FloatArray:
    """Return the covariance at some places of the errors shared by the pixels of a flat.

    Parameters
    ----------
    beam_covariance
        Gives the covariance (n, n) of the relative beam error at n points (ux, uy) in mm.
    ux, uy
        Beam coordinates of each place in each pointing, shape (pointings, places), mm; NaN where a pointing has no data.
    weights
        Weight of each pointing at each place, same shape; 0 where it has no data.
    scale_errors
        Relative error of the scale of each pointing, shape (pointings,).

    Returns
    -------
    ndarray, shape (places, places)
        Relative covariance; NaN in rows and columns of places that no pointing covers.
    """
    weights = np.nan_to_num(plain_array(weights, name="weights", ndim=2))
    ux, uy = (plain_array(axis, name=name, unit="mm", shape=weights.shape) for name, axis in (("ux", ux), ("uy", uy)))
    scale_errors = plain_array(scale_errors, name="scale_errors", shape=weights.shape[:1])
    places = weights.shape[1]
    with np.errstate(invalid="ignore", divide="ignore"):
        share = weights / weights.sum(axis=0)
    covered = weights.sum(axis=0) > 0
    inside = (weights > 0) & np.isfinite(ux) & np.isfinite(uy)
    pointing_of, place_of = np.nonzero(inside)
    spread = np.zeros((places, pointing_of.size))
    spread[place_of, np.arange(pointing_of.size)] = share[pointing_of, place_of]
    from_beam = spread @ beam_covariance(ux[inside], uy[inside]) @ spread.T
    shares = np.nan_to_num(share)
    from_scales = shares.T @ (scale_errors[:, None] ** 2 * shares)
    covariance = from_beam + from_scales
    covariance[~covered, :] = np.nan
    covariance[:, ~covered] = np.nan
    return covariance


def fit_plane(
    response: FloatArray,
    x_mm: FloatArray,
    y_mm: FloatArray,
    *,
    centre: tuple[float, float],
    places: tuple[FloatArray, FloatArray],
    covariance: FloatArray,
) -> Plane:
    """Fit a plane to the response of a detector by least squares; its errors follow from the shared errors of the pixels.

    Photon noise is negligible in a plane over millions of pixels; the shared errors are not.

    Parameters
    ----------
    response
        Means over super-pixels, NaN where there is none.
    x_mm, y_mm
        Their CCS positions.
    centre
        CCS position (X0, Y0) at which the level is given.
    places, covariance
        CCS positions (X, Y) of n places spread over the detector and the relative covariance (n, n) of the response there; NaN rows
        for places without data.

    Returns
    -------
    Plane
        NaN where there are fewer than three points.
    """
    response = plain_array(response, name="response")
    x_mm, y_mm = (
        plain_array(axis, name=name, unit="mm", shape=response.shape) for name, axis in (("x_mm", x_mm), ("y_mm", y_mm))
    )
    filled = np.isfinite(response) & np.isfinite(x_mm) & np.isfinite(y_mm)
    if filled.sum() < 3:
        return Plane(np.nan, np.nan, np.nan, np.full((3, 3), np.nan))
    level, slope_x, slope_y = plane_matrix(x_mm[filled], y_mm[filled], centre) @ response[filled]
    known = np.isfinite(np.diag(covariance))
    if known.sum() < 3:
        relative = np.full((3, 3), np.nan)
    else:
        operator = plane_matrix(places[0][known], places[1][known], centre)
        relative = operator @ covariance[np.ix_(known, known)] @ operator.T
    return Plane(float(level), float(slope_x / level), float(slope_y / level), relative)


def plane_matrix(x_mm: FloatArray, y_mm: FloatArray, centre: tuple[float, float] | None = None) -> FloatArray:
    """Return the matrix that turns values at places into level and slopes (least squares), shape (3, n).

    Parameters
    ----------
    centre
        Where the level is given; by default the mean place.
    """
    centre = (x_mm.mean(), y_mm.mean()) if centre is None else centre
    return np.linalg.pinv(np.column_stack([np.ones(x_mm.size), x_mm - centre[0], y_mm - centre[1]]))


@dataclass(frozen=True)
class FlatModes:
    """Relative errors shared by the pixels of a flat from the joint solution, on its super-pixels.

    Attributes
    ----------
    patterns : ndarray, shape (modes, rows, columns)
        Independent modes, each one standard deviation.
    remainder : ndarray, shape (rows, columns)
        Relative variance beyond the modes, independent between super-pixels.
    block : int
        Side of a super-pixel, pixels.
    """

    patterns: FloatArray
    remainder: FloatArray
    block: int

    @classmethod
    def of(cls, product: ImageProduct) -> FlatModes | None:
        """Return the modes of a flat, None if it has none."""
        if _missing_extensions(product):
            return None
        patterns, remainder = (np.asarray(product.extensions[name].data, dtype=np.float64) for name in _EXTENSIONS)
        return cls(patterns, remainder, int(product.extensions["MODES"].header["BLOCKPIX"]))


_EXTENSIONS = ("MODES", "REMAINDER")


def _missing_extensions(product: ImageProduct) -> list[str]:
    return [name for name in _EXTENSIONS if name not in product.extensions]


Regions = Mapping[Path, NDArray[Any]]
"""Pixels of the flats that take part, by file: a mask, or weights; shape (ny, nx)."""


def covariance_of_means(first: Regions, second: Regions) -> float:
    """Return the relative covariance of the mean responses of two regions; of a region with itself, the variance of its mean.

    Parameters
    ----------
    first, second
        Regions of flats of one LED from the joint solution; each may extend over several detectors. Unusable pixels do not count, nor
        do masked weights.

    Notes
    -----
    ``cov = sum(w v VARIANCE) + sum_k (sum(w m_k)) (sum(v m_k)) + sum(w v REMAINDER)`` with weights ``w`` and ``v`` of sum 1 and
    the modes ``m_k`` of the extension MODES. Errors beyond the modes are taken as independent between super-pixels.

    Raises
    ------
    InputError
        If a file is not a flat from the joint solution.
    FlatError
        If a region has no usable pixel, another shape than its flat, or infinite weights.
    """
    sums = _RegionSums()
    for path in dict.fromkeys([*first, *second]):
        product = read_image(path)
        modes = FlatModes.of(product)
        if modes is None:
            missing = ", ".join(_missing_extensions(product))
            raise InputError(f"extension {missing} is missing", path=path, remedy="make the flat with flat.solver: joint")
        usable = _usable(product)
        sums.add(product, modes, *(_weights(region.get(path), path, usable) for region in (first, second)))
    return sums.covariance()


def mean_of_region(product: ImageProduct, region: Any) -> float:
    """Return the mean response of a region of one flat.

    Raises
    ------
    FlatError
        If the region has no usable pixel, another shape than the flat, or infinite weights.
    """
    weights = _weights(region, None, _usable(product))
    total = float(weights.sum())
    if total <= 0:
        raise _nothing_usable()
    return float(np.sum(weights * np.where(weights == 0, 0.0, product.image))) / total


def covariance_in_flat(product: ImageProduct, modes: FlatModes, first: Any, second: Any) -> float:
    """Return the result of `covariance_of_means` for regions of one flat in memory.

    Raises
    ------
    FlatError
        If a region has no usable pixel, another shape than the flat, or infinite weights.
    """
    sums, usable = _RegionSums(), _usable(product)
    sums.add(product, modes, *(_weights(region, None, usable) for region in (first, second)))
    return sums.covariance()


class _RegionSums:
    """Sums over two regions, from one flat after the other."""

    def __init__(self) -> None:
        self._totals = [0.0, 0.0]
        self._common: list[Any] = [0.0, 0.0]
        self._own = 0.0

    def add(self, product: ImageProduct, modes: FlatModes, *weights: FloatArray) -> None:
        """Add the parts of both regions that are in one flat."""
        usable = _usable(product)
        variance = np.where(usable, product.variance / np.where(usable, product.image, 1.0).astype(np.float64) ** 2, 0.0)
        self._own += float(np.sum(weights[0] * weights[1] * variance))
        sums = [block_sums(part, modes.block) for part in weights]
        self._own += float(np.sum(sums[0] * sums[1] * modes.remainder))
        for number, part in enumerate(sums):
            self._totals[number] += float(part.sum())
            self._common[number] = self._common[number] + np.tensordot(modes.patterns, part, axes=2)

    def covariance(self) -> float:
        """Return the relative covariance of the means."""
        if min(self._totals) <= 0:
            raise _nothing_usable()
        return float(self._own + self._common[0] @ self._common[1]) / (self._totals[0] * self._totals[1])


def _nothing_usable() -> FlatError:
    return FlatError("a region has no usable pixel", remedy="choose pixels that are not masked")


def _usable(product: ImageProduct) -> BoolArray:
    return is_usable(product.mask) & (product.image > 0)


def _weights(region: Any, path: Path | None, usable: BoolArray) -> FloatArray:
    if region is None:
        return np.zeros(usable.shape)
    weights = plain_array(region, name="a region", unit="")
    if weights.shape != usable.shape:
        raise FlatError(
            f"a region of shape {weights.shape} for an image of shape {usable.shape}",
            path=path,
            remedy="give one weight per pixel",
        )
    if np.isinf(weights).any():
        raise FlatError("a region has infinite weights", path=path, remedy="give finite weights")
    return np.where(usable & np.isfinite(weights), weights, 0.0)


_PLACES = 6
"""Places along each axis of a detector at which shared errors are computed; the beam is smooth between them."""


class SharedErrors(Protocol):
    """Errors shared by pixels, at the places of `shared_places`."""

    def add(self, lit: LitPointing, weights: PointingWeights, block: int) -> None:
        """Record a pointing, and the weights in super-pixels of ``block`` pixels."""

    def covariance(self) -> FloatArray:
        """Return the relative covariance at the places, after all pointings were recorded."""


@dataclass(frozen=True)
class KnownErrors:
    """Errors that are known in advance."""

    known: FloatArray

    def add(self, lit: LitPointing, weights: PointingWeights, block: int) -> None:
        """Ignore the pointing."""

    def covariance(self) -> FloatArray:
        """Return the known covariance."""
        return self.known


@dataclass
class DivideErrors:
    """Errors from a beam model and the scale errors of pointings."""

    beam: BeamModel
    detector: Detector
    _ux: list[FloatArray] = field(default_factory=list)
    _uy: list[FloatArray] = field(default_factory=list)
    _weights: list[FloatArray] = field(default_factory=list)
    _scale_errors: list[float] = field(default_factory=list)

    def add(self, lit: LitPointing, weights: PointingWeights, block: int) -> None:
        """Record the pointing's positions in the beam at the places, and its weights there."""
        places = shared_places(self.detector)
        ux, uy = frames.projector_relative(*frames.detector_to_ccs(self.detector, *places), lit.pointing.x_mm, lit.pointing.y_mm)
        half, image = max(1, block // 2), lit.whole()
        at_places = []
        for x, y in zip(*places, strict=True):
            around = weights.at(image.part(*(slice(max(0, int(place) - half), int(place) + half + 1) for place in (y, x))))
            at_places.append(float(np.median(around[around > 0])) if (around > 0).any() else 0.0)
        self._ux.append(ux)
        self._uy.append(uy)
        self._weights.append(np.array(at_places))
        self._scale_errors.append(lit.pointing.known_scale_error)

    def covariance(self) -> FloatArray:
        """Return the covariance of the weighted mean of all pointings."""
        recorded = (np.array(each) for each in (self._ux, self._uy, self._weights, self._scale_errors))
        return shared_covariance(self.beam.covariance, *recorded)


def shared_places(detector: Detector) -> tuple[FloatArray, FloatArray]:
    """Return the places (x, y in pixels) at which shared errors are computed: cell centres of a regular grid."""
    fractions = (np.arange(_PLACES) + 0.5) / _PLACES
    x, y = np.meshgrid(fractions * detector.nx - 0.5, fractions * detector.ny - 0.5)
    return x.ravel(), y.ravel()
