"""Covariance functions of the log of the beam: a polyharmonic spline, and a ladder of lengths.

Two families describe the same surface:

``cubic``
    Generalised covariance ``r^3`` with a linear drift: the cubic radial basis function with a smoothing that the data choose.
    No length; never far off. (Matheron 1973, Adv. Appl. Prob. 5, 439: intrinsic random functions; Wahba 1990.)
``ladder``
    A sum of Matern 5/2 and Gaussian covariances of fixed lengths, from the finest that the nodes resolve to the width of the
    scan, with a quadratic drift; the variances of the rungs are fitted. A smooth beam needs the long rungs only, a ring or
    fine structure brings in the short ones. (Rasmussen & Williams 2006, Gaussian Processes for Machine Learning, ch. 4-5.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

FloatArray = NDArray[np.float64]

MATERN_LENGTHS = (0.075, 0.19, 0.75)
GAUSSIAN_LENGTHS = (0.075, 0.15, 0.31, 0.62)


@dataclass(frozen=True)
class Kernel:
    """One covariance function of the distance: ``shape`` and its length in mm."""

    shape: str
    length: float

    def radial(self, distance: FloatArray) -> FloatArray:
        """Return the (generalised) covariance at some distances, mm."""
        return _RADIAL[self.shape](distance / self.length)


def _cubic(s: FloatArray) -> FloatArray:
    return s**3


def _gaussian(s: FloatArray) -> FloatArray:
    exponent = -0.5 * s
    exponent *= s
    return np.exp(exponent, out=exponent)


def _matern52(s: FloatArray) -> FloatArray:
    """Return ``(1 + r + r^2 / 3) exp(-r)`` with ``r = sqrt(5) s``: step by step, since new memory costs more than the sums."""
    r = np.sqrt(5.0) * s
    decay = np.negative(r)
    np.exp(decay, out=decay)
    square = r * r
    square /= 3.0
    r += 1.0
    r += square
    r *= decay
    return r


_RADIAL: dict[str, Callable[[FloatArray], FloatArray]] = {"cubic": _cubic, "gaussian": _gaussian, "matern52": _matern52}


@dataclass(frozen=True)
class KernelFamily:
    """A sum of kernels over a polynomial drift.

    Parameters
    ----------
    name
        ``cubic`` or ``ladder``.
    degree
        Degree of the drift.
    kernels
        The summands; their variances are fitted.
    centre, extent
        Origin (mm, two numbers) and unit (mm) of the scaled coordinates of the drift.
    """

    name: str
    degree: int
    kernels: tuple[Kernel, ...]
    centre: tuple[float, float]
    extent: float

    @property
    def n_monomials(self) -> int:
        """Number of monomials of the drift without the constant."""
        return (self.degree + 1) * (self.degree + 2) // 2 - 1

    def drift(self, u: FloatArray) -> FloatArray:
        """Return the monomials of the drift without the constant, shape (n, number of monomials)."""
        x, y = ((u - np.asarray(self.centre)) / self.extent).T
        return np.column_stack([x ** (d - j) * y**j for d in range(1, self.degree + 1) for j in range(d + 1)])

    def matrices(self, a: FloatArray, b: FloatArray) -> list[FloatArray]:
        """Return the covariance of each summand between points ``a`` (n, 2) and ``b`` (m, 2), at variance 1."""
        distance = cdist(a, b)
        return [
            self._anchored(kernel, kernel.radial(distance), a, b) if kernel.shape == "cubic" else kernel.radial(distance)
            for kernel in self.kernels
        ]

    def matrix(self, a: FloatArray, b: FloatArray, variances: FloatArray) -> FloatArray:
        """Return the covariance of the sum between points ``a`` and ``b``."""
        distance = cdist(a, b)
        total = np.zeros_like(distance)
        for kernel, variance in zip(self.kernels, variances, strict=True):
            if variance == 0.0:
                continue
            radial = kernel.radial(distance)
            covariance = self._anchored(kernel, radial, a, b) if kernel.shape == "cubic" else radial
            covariance *= variance
            total += covariance
        return total

    def diagonal(self, u: FloatArray, variances: FloatArray) -> FloatArray:
        """Return the variance of the sum at points ``u``."""
        total = np.zeros(len(u))
        for kernel, variance in zip(self.kernels, variances, strict=True):
            if kernel.shape == "cubic":
                anchors, weights = self._anchors(u)
                to_anchors = kernel.radial(cdist(u, anchors))
                between = kernel.radial(cdist(anchors, anchors))
                total += variance * (
                    np.einsum("ij,jk,ik->i", weights, between, weights) - 2.0 * np.einsum("ij,ij->i", weights, to_anchors)
                )
            else:
                total += variance
        return total

    def _anchors(self, u: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return three fixed points and the weights that interpolate linearly from them to ``u``."""
        # Irrational offsets keep the anchors off any grid of nodes, where the covariance would vanish.
        shape = np.array([[-np.sqrt(0.5), -np.sqrt(0.3)], [np.sqrt(0.7), -np.sqrt(0.2)], [np.sqrt(0.011), np.sqrt(0.6)]])
        anchors = np.asarray(self.centre) + self.extent * shape
        vandermonde = np.column_stack([np.ones(3), anchors])
        return anchors, np.linalg.solve(vandermonde.T, np.column_stack([np.ones(len(u)), u]).T).T

    def _anchored(self, kernel: Kernel, radial: FloatArray, a: FloatArray, b: FloatArray) -> FloatArray:
        """Turn the conditionally positive ``r^3`` into the positive covariance of the process that vanishes at the anchors.

        It differs from ``r^3`` by terms that the drift absorbs, so the fit is the same (Wahba 1990, Spline Models, section 1.3).
        """
        anchors, weights_a = self._anchors(a)
        _, weights_b = self._anchors(b)
        to_a, to_b = kernel.radial(cdist(a, anchors)), kernel.radial(cdist(anchors, b))
        between = kernel.radial(cdist(anchors, anchors))
        return radial - weights_a @ to_b - to_a @ weights_b.T + weights_a @ between @ weights_b.T


def cubic_family(centre: tuple[float, float], extent: float) -> KernelFamily:
    """Return the polyharmonic family."""
    return KernelFamily("cubic", 1, (Kernel("cubic", extent),), centre, extent)


def ladder_family(centre: tuple[float, float], extent: float, finest: float) -> KernelFamily:
    """Return the ladder of lengths.

    Parameters
    ----------
    extent
        Width of the scanned area, mm: the unit of the rungs.
    finest
        Shortest length that the nodes resolve, mm: below the fixed rungs the lengths are halved down to it.
    """
    lengths = [fraction * extent for fraction in MATERN_LENGTHS]
    while lengths[0] / 2.0 >= finest:
        lengths.insert(0, lengths[0] / 2.0)
    rungs = [Kernel("matern52", length) for length in lengths]
    rungs += [Kernel("gaussian", fraction * extent) for fraction in GAUSSIAN_LENGTHS]
    return KernelFamily("ladder", 2, tuple(rungs), centre, extent)
