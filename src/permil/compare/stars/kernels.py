"""What measurements of one star answer to changes of its light, pixel by pixel, and to the three kinds of flat.

To first order a measurement m of a star changes by ``sum_x k_m(x) dI(x)`` when its light changes by dI. For the flux in a circle, k is
the part of each pixel in the circle over the flux; for adaptive moments, defined by ``sum W I g = 0``, it is ``-J^-1 W g`` with
``J = d(sum W I g) / d(parameters)`` (implicit function theorem). With the star's light p per pixel and ``F - 1 = laplacian(phi)``,

- efficiency Q = F - 1 changes the light by ``p Q``: kernel ``k p`` on F - 1;
- pixel area, ``d = -grad phi``, by ``-div(p d)``: kernel ``div(p grad k)`` on phi;
- diffusion, ``delta sigma^2 = 2 phi``, by ``laplacian(p phi)``: kernel ``p laplacian(k)`` on phi.

Charge is moved across the borders of pixels, with p on them to sixth order. The background under a star (glow, sky) goes through the same
sensor: it counts as even light beside p, as far as the background that is subtracted does not follow the flat.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

FLUX, DX, DY, XX, YY, XY = range(6)
QUANTITIES = ("flux", "dx", "dy", "xx", "yy", "xy")
"""What is measured of a star: flux as ratio, position in pixels, moments in pixel^2."""
SIGNATURE = (0, 1, 1, 2, 2)
"""Kind (efficiency, pixel area, diffusion) whose signature flux, dx, dy, xx and yy are."""

MARGIN = 5
"""Pixels that a stamp must reach beyond the circle and beyond the weight."""
WEIGHT_REACH = 5.0
"""Sigmas at which the weight of the moments ends."""


@njit(cache=True, nogil=True, inline="always")
def _under_circle(x, radius):  # type: ignore[no-untyped-def]
    """Return the integral of ``sqrt(radius^2 - t^2)`` from 0 to x."""
    return 0.5 * (x * math.sqrt(max(radius * radius - x * x, 0.0)) + radius * radius * math.asin(min(x / radius, 1.0)))


@njit(cache=True, nogil=True)
def _corner(x, y, radius):  # type: ignore[no-untyped-def]
    """Return the area of a circle around the origin that lies in the rectangle from the origin to (x, y), with the sign of x y."""
    sign = 1.0 if x * y >= 0.0 else -1.0
    x, y = min(abs(x), radius), min(abs(y), radius)
    full = min(math.sqrt(max(radius * radius - y * y, 0.0)), x)
    return sign * (full * y + _under_circle(x, radius) - _under_circle(full, radius))


@njit(cache=True, nogil=True)
def circle_part(u, v, radius):  # type: ignore[no-untyped-def]
    """Return the part of a pixel, its centre at (u, v) from the circle's, that lies in the circle."""
    distance = math.sqrt(u * u + v * v)
    if distance <= radius - 0.7072:
        return 1.0
    if distance >= radius + 0.7072:
        return 0.0
    left, right, low, high = u - 0.5, u + 0.5, v - 0.5, v + 0.5
    return _corner(right, high, radius) - _corner(left, high, radius) - _corner(right, low, radius) + _corner(left, low, radius)


@njit(cache=True, nogil=True)
def draw_star(u0, v0, fractions, covariances, light):  # type: ignore[no-untyped-def]
    """Draw a star, its centre at (u0, v0) from that of the stamp, as light per pixel."""
    half = light.shape[0] // 2
    light[:] = 0.0
    for component in range(fractions.size):
        xx, yy, xy = covariances[component, 0], covariances[component, 1], covariances[component, 2]
        determinant = xx * yy - xy * xy
        ixx, iyy, ixy = yy / determinant, xx / determinant, -xy / determinant
        height = fractions[component] / (2.0 * math.pi * math.sqrt(determinant))
        for row in range(light.shape[0]):
            v = row - half - v0
            for column in range(light.shape[1]):
                u = column - half - u0
                light[row, column] += height * math.exp(-0.5 * (ixx * u * u + iyy * v * v) - ixy * u * v)


@njit(cache=True, nogil=True)
def _flux_answer(u0, v0, radius, light, answer):  # type: ignore[no-untyped-def]
    half = light.shape[0] // 2
    flux = 0.0
    for row in range(light.shape[0]):
        for column in range(light.shape[1]):
            part = circle_part(column - half - u0, row - half - v0, radius)
            answer[row, column] = part
            flux += part * light[row, column]
    answer /= flux
    return flux


@njit(cache=True, nogil=True)
def _circle_moments_answer(u0, v0, answer, light):  # type: ignore[no-untyped-def]
    """Fill the answers of unweighted moments in the circle of the flux, whose answer stands in ``answer[0]``."""
    half = light.shape[0] // 2
    xx = yy = xy = 0.0
    for row in range(light.shape[0]):
        v = row - half - v0
        for column in range(light.shape[1]):
            u = column - half - u0
            part = answer[0, row, column] * light[row, column]
            xx += part * u * u
            yy += part * v * v
            xy += part * u * v
    for row in range(light.shape[0]):
        v = row - half - v0
        for column in range(light.shape[1]):
            u = column - half - u0
            part = answer[0, row, column]
            answer[1, row, column] = part * u
            answer[2, row, column] = part * v
            answer[3, row, column] = part * (u * u - xx)
            answer[4, row, column] = part * (v * v - yy)
            answer[5, row, column] = part * (u * v - xy)


@njit(cache=True, nogil=True)
def _adaptive_moments_answer(u0, v0, moments, light, answer):  # type: ignore[no-untyped-def]
    """Fill the answers of adaptive moments; moments are those of the star (xx, yy, xy)."""
    half = light.shape[0] // 2
    xx, yy, xy = moments[0], moments[1], moments[2]
    determinant = xx * yy - xy * xy
    ixx, iyy, ixy = yy / determinant, xx / determinant, -xy / determinant
    jacobian = np.zeros((5, 5))
    g, slope = np.empty(5), np.empty(5)
    total = 0.0
    answer[1:] = 0.0
    for row in range(light.shape[0]):
        v = row - half - v0
        for column in range(light.shape[1]):
            u = column - half - u0
            p, q = ixx * u + ixy * v, ixy * u + iyy * v
            distance = p * u + q * v
            if distance > WEIGHT_REACH * WEIGHT_REACH:
                continue
            weight = math.exp(-0.5 * distance)
            g[0], g[1], g[2], g[3], g[4] = u, v, u * u - 0.5 * xx, v * v - 0.5 * yy, u * v - 0.5 * xy
            # d log W / d parameters.
            slope[0], slope[1], slope[2], slope[3], slope[4] = p, q, 0.5 * p * p, 0.5 * q * q, p * q
            weighted = weight * light[row, column]
            total += weighted
            for a in range(5):
                answer[a + 1, row, column] = weight * g[a]
                for b in range(5):
                    jacobian[a, b] += weighted * g[a] * slope[b]
            # d g / d parameters.
            jacobian[2, 0] -= 2.0 * weighted * u
            jacobian[3, 1] -= 2.0 * weighted * v
            jacobian[4, 0] -= weighted * v
            jacobian[4, 1] -= weighted * u
    jacobian[0, 0] -= total
    jacobian[1, 1] -= total
    for a in range(2, 5):
        jacobian[a, a] -= 0.5 * total
    inverse = np.linalg.inv(jacobian)
    for row in range(light.shape[0]):
        for column in range(light.shape[1]):
            for a in range(5):
                g[a] = answer[a + 1, row, column]
            for a in range(5):
                change = 0.0
                for b in range(5):
                    change -= inverse[a, b] * g[b]
                answer[a + 1, row, column] = change


@njit(cache=True, nogil=True, inline="always")
def _on_border(nearest, second, third):  # type: ignore[no-untyped-def]
    """Return a density on a border, to sixth order, from sums over the two pixels nearest to it, the next two and those after."""
    return (37.0 * nearest - 8.0 * second + third) / 60.0


@njit(cache=True, nogil=True)
def five_point_laplacian(stamp, out):  # type: ignore[no-untyped-def]
    """Fill the sum of differences to the four neighbours; what lies beyond the stamp is 0."""
    size = stamp.shape[0]
    for row in range(size):
        for column in range(size):
            total = -4.0 * stamp[row, column]
            if row > 0:
                total += stamp[row - 1, column]
            if row < size - 1:
                total += stamp[row + 1, column]
            if column > 0:
                total += stamp[row, column - 1]
            if column < size - 1:
                total += stamp[row, column + 1]
            out[row, column] = total


@njit(cache=True, nogil=True)
def _area_kernel(light, answer, out):  # type: ignore[no-untyped-def]
    """Fill ``div(p grad k)``: charge moved across a border changes m by the difference of k between its two pixels."""
    size = light.shape[0]
    out[:] = 0.0
    for row in range(size):
        of = light[row]
        for left in range(2, size - 3):
            border = _on_border(of[left] + of[left + 1], of[left - 1] + of[left + 2], of[left - 2] + of[left + 3])
            step = border * (answer[row, left + 1] - answer[row, left])
            out[row, left] += step
            out[row, left + 1] -= step
    for low in range(2, size - 3):
        for column in range(size):
            nearest = light[low, column] + light[low + 1, column]
            second = light[low - 1, column] + light[low + 2, column]
            border = _on_border(nearest, second, light[low - 2, column] + light[low + 3, column])
            step = border * (answer[low + 1, column] - answer[low, column])
            out[low, column] += step
            out[low + 1, column] -= step


@njit(cache=True, nogil=True)
def _diffusion_kernel(light, answer, work, out):  # type: ignore[no-untyped-def]
    """Fill ``p laplacian(k)``, the Laplacian to sixth order in the pixel.

    The potential belongs to the Laplacian of five points, whose eigenvalues are those of the true one times ``1 + laplacian / 12``.
    """
    size = light.shape[0]
    out[:] = 0.0
    for row in range(3, size - 3):
        for column in range(3, size - 3):
            near = answer[row, column - 1] + answer[row, column + 1] + answer[row - 1, column] + answer[row + 1, column]
            second = answer[row, column - 2] + answer[row, column + 2] + answer[row - 2, column] + answer[row + 2, column]
            third = answer[row, column - 3] + answer[row, column + 3] + answer[row - 3, column] + answer[row + 3, column]
            slopes = 270.0 * near - 27.0 * second + 2.0 * third - 980.0 * answer[row, column]
            out[row, column] = light[row, column] * slopes / 180.0
    five_point_laplacian(out, work)
    out += work / 12.0


@njit(cache=True, nogil=True)
def star_answers(u0, v0, fractions, covariances, moments, radius, adaptive, light, answer):  # type: ignore[no-untyped-def]
    """Fill the light of a star (size, size) and the answers k of its six quantities (6, size, size); return its flux in the circle."""
    draw_star(u0, v0, fractions, covariances, light)
    flux = _flux_answer(u0, v0, radius, light, answer[0])
    if adaptive:
        _adaptive_moments_answer(u0, v0, moments, light, answer)
    else:
        _circle_moments_answer(u0, v0, answer, light)
    return flux


@njit(cache=True, nogil=True)
def star_kernels(light, answer, work, kernels):  # type: ignore[no-untyped-def]
    """Fill the kernels of the three kinds, (3, 6, size, size): of efficiency on F - 1, of the others on the potential."""
    for quantity in range(answer.shape[0]):
        kernels[0, quantity] = answer[quantity] * light
        _area_kernel(light, answer[quantity], kernels[1, quantity])
        _diffusion_kernel(light, answer[quantity], work, kernels[2, quantity])


@njit(cache=True, nogil=True)
def glow_kernels(answer, kernels):  # type: ignore[no-untyped-def]
    """Fill the kernels of even light of one per pixel, as `star_kernels`: all kinds change it by ``F - 1 = laplacian(potential)``."""
    for quantity in range(answer.shape[0]):
        kernels[0, quantity] = answer[quantity]
        five_point_laplacian(answer[quantity], kernels[1, quantity])
        kernels[2, quantity] = kernels[1, quantity]
