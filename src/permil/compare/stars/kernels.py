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

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

FLUX, DX, DY, XX, YY, XY = range(6)
QUANTITIES = ("flux", "dx", "dy", "xx", "yy", "xy")
"""What is measured of a star: flux as ratio, position in pixels, moments in pixel^2."""
SIGNATURE = (0, 1, 1, 2, 2)
"""Kind (efficiency, pixel area, diffusion) whose signature flux, dx, dy, xx and yy are."""

MARGIN = 5
"""Pixels that a stamp must reach beyond the circle and beyond the weight."""
WEIGHT_REACH = 5.0
"""Sigmas at which the weight of the moments ends."""


@dataclass(frozen=True)
class StarShapes:
    """Stars as the compiled kernels take them: where they lie, how they are drawn, and how they are measured.

    Attributes
    ----------
    x, y : ndarray, shape (n,)
        Pixels.
    glow : ndarray, shape (n,)
        Even light per pixel under each star over its flux in the circle.
    fractions : ndarray, shape (components,)
        Part of the light in each Gaussian component.
    covariances : ndarray, shape (n, components, 3)
        Their xx, yy and xy, pixel^2.
    moments : ndarray, shape (n, 3)
        Adaptive moments xx, yy, xy, pixel^2.
    radius
        Of the circle of the flux, pixels.
    adaptive
        Whether places and moments are adaptive; otherwise they are unweighted in the circle.
    half
        Half the side of the stamp that a star needs, pixels.
    """

    x: FloatArray
    y: FloatArray
    glow: FloatArray
    fractions: FloatArray
    covariances: FloatArray
    moments: FloatArray
    radius: float
    adaptive: bool
    half: int
