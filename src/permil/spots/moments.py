"""Adaptive moments: centroid and second moments under an elliptical Gaussian weight that matches the spot.

The weight `W = exp(-r M^-1 r / 2)` around the centroid solves `sum W I r = 0` and `sum W I (r r - M / 2) = 0` (Bernstein & Jarvis
2002, AJ 123, 583, section 3; Hirata & Seljak 2003, MNRAS 343, 459), the definition of galsim's ``FindAdaptiveMom`` and of
``SdssShape``. The pixel's own extent is part of the moments (1/12 pixel^2 in xx and yy for a wide spot).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from permil.spots.row_noise import RowErrors, no_row_errors

FloatArray = NDArray[np.float64]
Image = NDArray[np.float32]

_ITERATIONS = 60
_ACCURACY = 1e-7
"""Largest change in the last iteration: of the centroid relative to the spot's radius, of the moments relative to their own size."""
WEIGHT_REACH = 5.0
"""Sigmas at which the weight ends, as in galsim."""
_REACH_SQUARED = WEIGHT_REACH**2
LARGEST_SHIFT = 3.0
"""Pixels by which a centroid may move away from where the spot was detected."""


@dataclass(frozen=True)
class AdaptiveMoments:
    """Adaptive moments of spots; arrays over spots, NaN where the iteration did not converge.

    Attributes
    ----------
    x, y
        Centroid, pixels.
    xx, yy, xy
        Second moments, pixel^2.
    covariance : ndarray, shape (n, 5, 5)
        Of (x, y, xx, yy, xy).
    """

    x: FloatArray
    y: FloatArray
    xx: FloatArray
    yy: FloatArray
    xy: FloatArray
    covariance: FloatArray

    @property
    def converged(self) -> NDArray[np.bool_]:
        """Where there is a solution."""
        return np.isfinite(self.xx)

    @property
    def errors(self) -> FloatArray:
        """Standard errors of (x, y, xx, yy, xy), shape (n, 5)."""
        return np.sqrt(np.diagonal(self.covariance, axis1=1, axis2=2))


def adaptive_moments(
    image: Image,
    variance: Image,
    usable: NDArray[np.bool_],
    x: FloatArray,
    y: FloatArray,
    *,
    sigma: float,
    background_error: FloatArray,
    largest_sigma: float,
    row_errors: RowErrors | None = None,
) -> AdaptiveMoments:
    """Measure the adaptive moments of spots.

    Parameters
    ----------
    image, variance : ndarray, shape (ny, nx)
        Signal less background, and its variance.
    usable : ndarray of bool, shape (ny, nx)
        Pixels that count.
    x, y : ndarray, shape (n,)
        Where to begin, pixels.
    sigma
        Sigma of the first weight, pixels.
    background_error : ndarray, shape (n,)
        Standard error of the subtracted background, common to the pixels of a spot.
    largest_sigma
        The iteration fails where the weight grows beyond it.
    row_errors
        Noise that pixels of a row have in common; ``variance`` contains it. None: pixels are independent.

    Returns
    -------
    AdaptiveMoments
    """
    rows = row_errors or no_row_errors(image.shape[0], x.size)
    parameters = np.full((x.size, 5), np.nan)
    covariance = np.full((x.size, 5, 5), np.nan)
    _measure_all(
        np.ascontiguousarray(image, dtype=np.float32),
        np.ascontiguousarray(variance, dtype=np.float32),
        np.ascontiguousarray(usable),
        np.ascontiguousarray(x, dtype=np.float64),
        np.ascontiguousarray(y, dtype=np.float64),
        float(sigma),
        np.ascontiguousarray(background_error, dtype=np.float64),
        float(largest_sigma),
        rows.noise.starts,
        rows.noise.variance,
        rows.first_row,
        rows.answer,
        parameters,
        covariance,
    )
    centre_x, centre_y, xx, yy, xy = parameters.T.copy()
    return AdaptiveMoments(centre_x, centre_y, xx, yy, xy, covariance)


@njit(cache=True, nogil=True)
def _measure_all(  # type: ignore[no-untyped-def]
    image,
    variance,
    usable,
    x,
    y,
    sigma,
    background_error,
    largest_sigma,
    starts,
    row_variance,
    first_row,
    answer,
    parameters,
    covariance,
):
    for spot in range(x.size):
        found = np.array([x[spot], y[spot], sigma**2, sigma**2, 0.0])
        if _converge(image, usable, found, largest_sigma):
            parameters[spot] = found
            covariance[spot] = _covariance(
                image, variance, usable, found, background_error[spot], starts, row_variance, first_row[spot], answer[spot]
            )


@njit(cache=True, nogil=True, inline="always")
def _limits(centre, variance, size):  # type: ignore[no-untyped-def]
    """Return the pixels along one axis that the ellipse of the weight reaches."""
    reach = np.sqrt(_REACH_SQUARED * variance)
    return max(int(np.ceil(centre - reach)), 0), min(int(np.floor(centre + reach)), size - 1)


@njit(cache=True, nogil=True)
def _converge(image, usable, found, largest_sigma):  # type: ignore[no-untyped-def]
    """Iterate to the fixed point, in place; return whether it is one."""
    start_x, start_y = found[0], found[1]
    for _ in range(_ITERATIONS):
        x0, y0, xx, yy, xy = found
        determinant = xx * yy - xy * xy
        if not (determinant > 0.0 and 0.0 < xx <= largest_sigma**2 and 0.0 < yy <= largest_sigma**2):
            return False
        if abs(x0 - start_x) > LARGEST_SHIFT or abs(y0 - start_y) > LARGEST_SHIFT:
            return False
        ixx, iyy, ixy = yy / determinant, xx / determinant, -xy / determinant
        first_row, last_row = _limits(y0, yy, image.shape[0])
        first_column, last_column = _limits(x0, xx, image.shape[1])
        s = sx = sy = sxx = syy = sxy = 0.0
        for row in range(first_row, last_row + 1):
            v = row - y0
            for column in range(first_column, last_column + 1):
                u = column - x0
                distance = ixx * u * u + iyy * v * v + 2.0 * ixy * u * v
                if distance > _REACH_SQUARED or not usable[row, column]:
                    continue
                light = image[row, column] * np.exp(-0.5 * distance)
                s += light
                sx += light * u
                sy += light * v
                sxx += light * u * u
                syy += light * v * v
                sxy += light * u * v
        if not s > 0.0:
            return False
        mx, my = sx / s, sy / s
        wxx, wyy, wxy = sxx / s - mx * mx, syy / s - my * my, sxy / s - mx * my
        found[0], found[1] = x0 + 2.0 * mx, y0 + 2.0 * my
        weighted = wxx * wyy - wxy * wxy
        if not weighted > 0.0:
            return False
        # What is left after taking the weight away is the covariance of a Gaussian spot: one step for it, few for others.
        jxx, jyy, jxy = wyy / weighted - ixx, wxx / weighted - iyy, -wxy / weighted - ixy
        left = jxx * jyy - jxy * jxy
        if left > 0.0 and jxx > 0.0:
            found[2], found[3], found[4] = jyy / left, jxx / left, -jxy / left
        else:
            found[2], found[3], found[4] = 2.0 * wxx, 2.0 * wyy, 2.0 * wxy
        size = xx + yy
        change = max(abs(found[2] - xx), abs(found[3] - yy), abs(found[4] - xy)) / size
        if change < _ACCURACY and max(abs(mx), abs(my)) < _ACCURACY * np.sqrt(size):
            return True
    return False


@njit(cache=True, nogil=True)
def _covariance(image, variance, usable, found, background_error, starts, row_variance, answer_row, answer):  # type: ignore[no-untyped-def]
    """Propagate the noise of the pixels through the five equations that define the solution.

    With ``F(parameters) = sum W I g = 0``, ``covariance = J^-1 (sum W^2 g g var) J^-T`` and ``J = dF / d parameters``; an error of
    the background, common to all pixels, adds ``(sum W g) (sum W g)`` times its square to the middle. Noise common to a row adds
    the same with the sums along each row, less what the background has of it.
    """
    x0, y0, xx, yy, xy = found
    determinant = xx * yy - xy * xy
    ixx, iyy, ixy = yy / determinant, xx / determinant, -xy / determinant
    first_row, last_row = _limits(y0, yy, image.shape[0])
    first_column, last_column = _limits(x0, xx, image.shape[1])
    jacobian = np.zeros((5, 5))
    middle = np.zeros((5, 5))
    constant, shared, in_row = np.zeros(5), np.zeros(5), np.zeros(5)
    g, slope = np.empty(5), np.empty(5)
    total = 0.0
    for row in range(first_row, last_row + 1):
        v = row - y0
        line = row - answer_row
        for strip in range(starts.size):
            low = max(first_column, starts[strip])
            high = min(last_column, starts[strip + 1] - 1) if strip + 1 < starts.size else last_column
            if low > high:
                continue
            level = row_variance[row, strip]
            in_row[:] = 0.0
            for column in range(low, high + 1):
                u = column - x0
                # p = M^-1 r
                p, q = ixx * u + ixy * v, ixy * u + iyy * v
                distance = p * u + q * v
                if distance > _REACH_SQUARED or not usable[row, column]:
                    continue
                weight = np.exp(-0.5 * distance)
                light = image[row, column] * weight
                noise = (variance[row, column] - level) * weight * weight
                total += light
                g[0], g[1], g[2], g[3], g[4] = u, v, u * u - 0.5 * xx, v * v - 0.5 * yy, u * v - 0.5 * xy
                # d log W / d parameters: p and q for the centroid, p p / 2, q q / 2 and p q for the moments.
                slope[0], slope[1], slope[2], slope[3], slope[4] = p, q, 0.5 * p * p, 0.5 * q * q, p * q
                for a in range(5):
                    in_row[a] += weight * g[a]
                    for b in range(5):
                        jacobian[a, b] += light * g[a] * slope[b]
                        middle[a, b] += noise * g[a] * g[b]
                # d g / d parameters
                jacobian[2, 0] -= 2.0 * light * u
                jacobian[3, 1] -= 2.0 * light * v
                jacobian[4, 0] -= light * v
                jacobian[4, 1] -= light * u
            background = answer[line, strip] if 0 <= line < answer.shape[0] else 0.0
            constant += in_row
            shared += level * background * in_row
            middle += level * np.outer(in_row, in_row)
    jacobian[0, 0] -= total
    jacobian[1, 1] -= total
    for a in range(2, 5):
        jacobian[a, a] -= 0.5 * total
    middle += background_error**2 * np.outer(constant, constant) - np.outer(constant, shared) - np.outer(shared, constant)
    if abs(np.linalg.det(jacobian / total)) < 1e-12:
        return np.full((5, 5), np.nan)
    inverse = np.linalg.inv(jacobian)
    return inverse @ middle @ inverse.T
