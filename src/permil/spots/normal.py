"""Normal equations of the joint flux model, with the spots eliminated (Schur complement).

Parameters are the relative changes of spot fluxes and exposure scales, and the coefficients of the throughput. Each measurement knows
one spot, so the block of the spots is diagonal: eliminating it leaves a dense system of exposures and coefficients (a few thousand),
whose inverse gives exact errors of everything.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from permil._kernels import spots as kernels

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class NormalEquations:
    """Sums over the measurements.

    Attributes
    ----------
    spot_weight, spot_side : ndarray, shape (spots,)
        Diagonal block and right side of the spots.
    coupling : ndarray, shape (spots, others)
        Block between spots and the other parameters (exposures first, then coefficients).
    other_weight, other_side : ndarray, shapes (others, others), (others,)
        Block and right side of the other parameters.
    """

    spot_weight: FloatArray
    spot_side: FloatArray
    coupling: FloatArray
    other_weight: FloatArray
    other_side: FloatArray

    def reduced(self) -> tuple[FloatArray, FloatArray]:
        """Return matrix and right side of the other parameters with the spots eliminated."""
        inverse = _inverse(self.spot_weight)
        scaled = self.coupling * inverse[:, None]
        return self.other_weight - self.coupling.T @ scaled, self.other_side - scaled.T @ self.spot_side


@dataclass(frozen=True)
class Solution:
    """Changes of the parameters; their errors take longer than the changes and are worked out when asked for."""

    spots: FloatArray
    others: FloatArray
    equations: NormalEquations
    factor: tuple[FloatArray, bool]

    @cached_property
    def covariance(self) -> FloatArray:
        """Covariance of the parameters other than the spots."""
        return np.asarray(cho_solve(self.factor, np.eye(len(self.others))))

    @cached_property
    def spot_variance(self) -> FloatArray:
        """Variances of the changes of the spots."""
        inverse, coupling = _inverse(self.equations.spot_weight), self.equations.coupling
        return inverse + inverse**2 * np.einsum("so,so->s", coupling @ self.covariance, coupling)


def solve(equations: NormalEquations, extra_weight: FloatArray, extra_side: FloatArray) -> Solution:
    """Solve the equations together with further terms on the other parameters (gauge and prior)."""
    matrix, side = equations.reduced()
    matrix = matrix + extra_weight
    factor = cho_factor(matrix, lower=True)
    others = cho_solve(factor, side + extra_side)
    inverse = _inverse(equations.spot_weight)
    spots = inverse * (equations.spot_side - equations.coupling @ others)
    return Solution(spots, others, equations, factor)


def _inverse(weight: FloatArray) -> FloatArray:
    return np.where(weight > 0, 1 / np.where(weight > 0, weight, 1.0), 0.0)


def normal_equations(
    spot: IntArray,
    exposure: IntArray,
    index: NDArray[np.int32],
    values: FloatArray,
    weight: FloatArray,
    residual: FloatArray,
    factor: FloatArray,
    *,
    spots: int,
    exposures: int,
    terms: int,
) -> NormalEquations:
    """Sum up the normal equations.

    Parameters
    ----------
    spot, exposure : ndarray, shape (n,)
        Numbers of spot and exposure of each measurement.
    index, values : ndarray, shape (n, m)
        Coefficients that matter, and the values of their splines.
    weight, residual, factor : ndarray, shape (n,)
        Inverse variance of the relative flux, its residual, and the throughput (1 on average): the relative flux changes with a
        coefficient by the value of its spline over the throughput.
    spots, exposures, terms
        Numbers of parameters.
    """
    others = exposures + terms
    equations = NormalEquations(
        np.zeros(spots), np.zeros(spots), np.zeros((spots, others)), np.zeros((others, others)), np.zeros(others)
    )
    kernels.add_measurements(spot, exposure, index, values, weight, residual, factor, exposures, equations)
    return equations
