"""The plane in a flat, and what part of it the beam and the photodiode may have put there.

All pixels of a flat share the errors of the beam model and of the photodiode scales. With the fraction ``W_k(g)`` of the weight
that pointing ``k`` has at place ``g`` and ``u_k(g)`` the place in its beam, the relative error of the flat at ``g`` is
``e(g) = sum_k W_k(g) (dB/B (u_k(g)) + ds_k / s_k)``, so that::

    cov(e)(g, h) = sum_kl W_k(g) W_l(h) C_B(u_k(g), u_l(h)) + sum_k W_k(g) W_k(h) var(s_k)

with the posterior covariance ``C_B`` of the beam model. Means, gradients and steps are linear in ``e``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from permil.arrays import plain_array

FloatArray = NDArray[np.float64]


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
    """Return the covariance of what the pixels of a flat have in common, at some places.

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
    """Fit a plane to the response of a detector by least squares; its errors follow from what the pixels have in common.

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
