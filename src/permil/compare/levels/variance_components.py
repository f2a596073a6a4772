"""Variance components of crossed and nested groups by the method of moments, unbiased for any unbalanced design.

Model of m columns (one, or a flat and a star) of n measurements:

    Y = X beta + sum_k Z_k U_k + E

with fixed effects ``X``, group membership ``Z_k`` (zeros and ones), effects ``U_k`` of one row per group with covariance ``S_k``
(m, m), and independent errors ``E`` of known variance. For each grouping the sum of squares of weighted group means of the residuals from
the fixed effects is a quadratic form whose expectation is linear in all ``S_k``; as many forms as groupings give the components
(Henderson's methods; Searle, Casella and McCulloch 1992, Variance Components, chapter 5). Estimates are not clipped, so that they are
unbiased and may be negative. Errors come from a parametric bootstrap of the fitted model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class ComponentFit:
    """Estimated components and fixed effects of one fit.

    Attributes
    ----------
    components : ndarray, shape (k, m, m)
        Covariance of the effects of each grouping.
    fixed : ndarray, shape (p, m)
        Coefficients of the fixed effects.
    fixed_covariance : ndarray, shape (p, p, m, m)
        Their covariance.
    """

    components: FloatArray
    fixed: FloatArray
    fixed_covariance: FloatArray


class QuadraticForms:
    """Sums of squares of group means and their expectations for one design.

    Parameters
    ----------
    groupings
        Group number of each measurement, one array of shape (n,) per grouping.
    fixed
        Fixed effects, shape (n, p), of full column rank.
    weights
        Weight of each measurement, shape (n,); they affect precision only, not bias.
    errors
        Errors of the measurements, shape (n, m); 0 if unknown.
    """

    def __init__(self, groupings: Sequence[IntArray], fixed: FloatArray, weights: FloatArray, errors: FloatArray) -> None:
        self._root = np.sqrt(weights / weights.mean())
        self._effects = [_membership(groups, self._root) for groups in groupings]
        self._basis, triangle = np.linalg.qr(self._root[:, None] * fixed)
        self._means = [_orthonormal(effects) for effects in self._effects]
        self._means_on_basis = [np.asarray(means.T @ self._basis) for means in self._means]
        self.coefficients = np.array([self._expectation(effects) for effects in self._effects]).T
        self._errors = errors
        self._noise = np.stack(
            [self._expectation(sparse.csr_array(sparse.diags_array(self._root * error))) for error in errors.T], axis=-1
        )
        self._to_fixed = np.linalg.inv(triangle)
        self._fixed_grams = [_gram(self._to_fixed @ np.asarray(effects.T @ self._basis).T) for effects in self._effects]
        self._fixed_noise = np.stack([_gram(self._to_fixed @ self._on_errors(error)) for error in errors.T], axis=-1)

    @property
    def condition(self) -> float:
        """Condition number of the expectations, scaled to a unit diagonal: infinite if groupings cannot be separated."""
        diagonal = np.sqrt(np.diag(self.coefficients))
        if not np.all(diagonal > 0):
            return np.inf
        return float(np.linalg.cond(self.coefficients / diagonal / diagonal[:, None]))

    def estimate(self, columns: FloatArray) -> ComponentFit:
        """Return components and fixed effects of measurements, shape (n, m)."""
        scaled = self._root[:, None] * columns
        on_basis = self._basis.T @ scaled
        residual = scaled - self._basis @ on_basis
        means = [np.asarray(average.T @ residual) for average in self._means]
        moments = np.stack([mean.T @ mean for mean in means])
        for column in range(columns.shape[1]):
            moments[:, column, column] -= self._noise[:, column]
        components = np.linalg.solve(self.coefficients, moments.reshape(len(means), -1)).reshape(moments.shape)
        return ComponentFit(components, self._to_fixed @ on_basis, self._fixed_covariance(components))

    def draw(self, components: FloatArray, expected: FloatArray, rng: np.random.Generator) -> FloatArray:
        """Return measurements drawn from the model, shape (n, m); negative parts of components are set to 0.

        Parameters
        ----------
        components
            Covariances of effects, shape (k, m, m).
        expected
            Fixed part, shape (n, m).
        """
        scaled = self._errors * rng.standard_normal(self._errors.shape)
        for effects, covariance in zip(self._effects, components, strict=True):
            draws = rng.standard_normal((effects.shape[1], covariance.shape[0])) @ _root_of(covariance)
            scaled += (effects @ draws) / self._root[:, None]
        return np.asarray(expected + scaled)

    def _expectation(self, effects: sparse.csr_array) -> FloatArray:
        """Return the expectation of each form for effects of variance 1: squared Frobenius norm of means x projector x effects.

        The projector is the identity minus the (few) fixed effects, so that everything except small products stays sparse.
        """
        on_basis = np.asarray(effects.T @ self._basis)
        gram = on_basis.T @ on_basis
        expected = np.empty(len(self._means))
        for form, (means, means_on_basis) in enumerate(zip(self._means, self._means_on_basis, strict=True)):
            overlap = sparse.coo_array(means.T @ effects)
            mixed = np.einsum("ij,ij->i", means_on_basis[overlap.row], on_basis[overlap.col])
            expected[form] = np.sum(overlap.data**2) - 2 * np.sum(overlap.data * mixed)
            expected[form] += np.sum((means_on_basis.T @ means_on_basis) * gram)
        return expected

    def _fixed_covariance(self, components: FloatArray) -> FloatArray:
        covariance = np.einsum("pqm,mn->pqmn", self._fixed_noise, np.eye(components.shape[1]))
        for gram, component in zip(self._fixed_grams, components, strict=True):
            covariance += gram[:, :, None, None] * component
        return covariance

    def _on_errors(self, error: FloatArray) -> FloatArray:
        return (self._basis * (self._root * error)[:, None]).T


def _gram(spread: FloatArray) -> FloatArray:
    return spread @ spread.T


def _membership(groups: IntArray, root: FloatArray) -> sparse.csr_array:
    return sparse.csr_array((root, (np.arange(groups.size), groups)), shape=(groups.size, int(groups.max()) + 1))


def _orthonormal(effects: sparse.csr_array) -> sparse.csr_array:
    """Return membership with columns of unit length (groups do not overlap)."""
    lengths = np.sqrt(np.asarray(effects.multiply(effects).sum(axis=0)).ravel())
    return sparse.csr_array(effects @ sparse.diags_array(1 / lengths))


def _root_of(covariance: FloatArray) -> FloatArray:
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T)
