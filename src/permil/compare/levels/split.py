"""Split of the variation of a flat, or of stars, over levels: position, vendor, raft, detector, amplifier, cell, and LED.

Each value is a relative deviation in a cell of a detector in one light. It is modelled as the sum of

- a free level per LED (the brightness of the lamp), not reported;
- a smooth function of focal-plane position per LED, a polynomial of low degree, as from an error of the beam or real large-scale
  structure; its mean over LEDs is the common part, the remainder is specific to the LED;
- random effects of vendor, raft in vendor, detector in raft, amplifier in detector, cell in amplifier, each with a part common to all
  LEDs (response of silicon and readout: a wrong gain is common) and a part specific to the LED (light source, or response to its colour);
- measurement errors, whose known variance is subtracted.

Components that the cells cannot separate are omitted, or given for both parts together, with the reason. Estimates are unbiased and not
clipped: `permil.compare.levels.split`. The function for pairs splits the covariance of flat and stars in the same way.

Variance components of crossed and nested groups by the method of moments, unbiased for any unbalanced design. Model of m columns (one,
or a flat and a star) of n measurements:

    Y = X beta + sum_k Z_k U_k + E

with fixed effects ``X``, group membership ``Z_k`` (zeros and ones), effects ``U_k`` of one row per group with covariance ``S_k`` (m,
m), and independent errors ``E`` of known variance. For each grouping the sum of squares of weighted group means of the residuals from
the fixed effects is a quadratic form whose expectation is linear in all ``S_k``; as many forms as groupings give the components
(Henderson's methods; Searle, Casella and McCulloch 1992, Variance Components, chapter 5). Estimates are not clipped, so that they are
unbiased and may be negative. Errors come from a parametric bootstrap of the fitted model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse

from permil.arrays import FloatArray, IntArray
from permil.compare.levels.groups import (
    BOTH,
    COMMON,
    SPECIFIC,
    CellPlaces,
    Grouping,
    OmittedComponent,
    find_groupings,
    numbered,
    smooth_terms,
)
from permil.compare.levels.results import LevelPair, LevelSplit, PairSplit, VarianceComponent
from permil.errors import CompareError

_DEGREE = 2
"""Degree of the smooth function of position."""
_LEAST_CELLS = 12
_WORST_CONDITION = 1e8


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
        self._groupings = groupings
        self._effects = [_membership(groups, self._root) for groups in groupings]
        self._basis, triangle = np.linalg.qr(self._root[:, None] * fixed)
        self._means = [_unit_rows(effects) for effects in self._effects]
        self._means_on_basis = [np.asarray(means @ self._basis) for means in self._means]
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
        means = [np.asarray(average @ residual) for average in self._means]
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
        for groups, effects, covariance in zip(self._groupings, self._effects, components, strict=True):
            draws = rng.standard_normal((effects.shape[1], covariance.shape[0])) @ _root_of(covariance)
            scaled += draws[groups]
        return np.asarray(expected + scaled)

    def _expectation(self, effects: sparse.csr_array) -> FloatArray:
        """Return the expectation of each form for effects of variance 1: squared Frobenius norm of means x projector x effects.

        The projector is the identity minus the (few) fixed effects, so that everything except small products stays sparse.
        """
        on_basis = np.asarray(effects.T @ self._basis)
        gram = on_basis.T @ on_basis
        expected = np.empty(len(self._means))
        for form, (means, means_on_basis) in enumerate(zip(self._means, self._means_on_basis, strict=True)):
            overlap = sparse.coo_array(means @ effects)
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


def _unit_rows(effects: sparse.csr_array) -> sparse.csr_array:
    """Return membership with one row of unit length per group (groups do not overlap)."""
    lengths = np.sqrt(np.asarray(effects.multiply(effects).sum(axis=0)).ravel())
    return sparse.csr_array(sparse.diags_array(1 / lengths) @ effects.T)


def _root_of(covariance: FloatArray) -> FloatArray:
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T)


def split_levels(
    value: ArrayLike,
    error: ArrayLike | None,
    places: CellPlaces,
    *,
    degree: int = _DEGREE,
    draws: int = 200,
    seed: int = 0,
) -> LevelSplit:
    """Split the variance of a quantity over the levels of the focal plane.

    Parameters
    ----------
    value
        Relative value in each cell, shape (n,): response or throughput over its mean (or that minus 1). NaN cells are ignored.
    error
        Its independent error, shape (n,); None if unknown: the finest level then includes the noise.
    places
        Positions of the cells and LED of each measurement.
    degree
        Degree of the smooth function of focal-plane position; 0 for none.
    draws
        Number of bootstrap samples for the errors.
    seed
        Seed of the bootstrap.

    Raises
    ------
    CompareError
        If arrays do not match, errors are not positive, or fewer than 12 cells are left.
    """
    errors = None if error is None else [error]
    estimates, covariance, frame = _split([value], errors, places, degree=degree, draws=draws, seed=seed)
    return _level_split(estimates[:, 0, 0], covariance[:, 0, 0, :, 0, 0], frame)


def pair_levels(
    flat: ArrayLike,
    flat_error: ArrayLike,
    star: ArrayLike,
    star_error: ArrayLike,
    places: CellPlaces,
    *,
    draws: int = 200,
    seed: int = 0,
) -> PairSplit:
    """Split variances and covariance of flat and stars over the levels of the focal plane.

    Parameters
    ----------
    flat, flat_error, star, star_error
        Relative values and independent errors in the same cells, shape (n,).
    places, draws, seed
        As for `split_levels`, whose default degree is used.

    Raises
    ------
    CompareError
        As `split_levels`.
    """
    estimates, covariance, frame = _split([flat, star], [flat_error, star_error], places, degree=_DEGREE, draws=draws, seed=seed)
    splits = [_level_split(estimates[:, m, m], covariance[:, m, m, :, m, m], frame) for m in (0, 1)]
    pairs = [_pair(component, estimates[k], covariance[k][:, :, k]) for k, component in enumerate(splits[0].components)]
    return PairSplit(splits[0], splits[1], tuple(pairs))


@dataclass(frozen=True)
class _Frame:
    """Description of the components: one entry of (level, part, groups, degrees of freedom) each."""

    levels: list[tuple[str, str, int, int]]
    left_out: list[OmittedComponent]
    cells: int


def _split(
    columns: list[ArrayLike],
    errors: list[ArrayLike] | None,
    places: CellPlaces,
    *,
    degree: int,
    draws: int,
    seed: int,
) -> tuple[FloatArray, FloatArray, _Frame]:
    """Return components (k, m, m), their covariance (k, m, m, k, m, m) and their description."""
    measured, noise, places = _checked(columns, errors, places)
    weights = _weights(measured, noise)
    led = np.zeros(len(places), dtype=np.int64) if places.led is None else numbered(places.led)
    leds = int(led.max()) + 1
    terms, left_out = smooth_terms(places, led, weights, degree=degree)
    fixed = _per_led(np.column_stack([np.ones(len(places)), terms]), led, leds)
    groupings, more_left_out = find_groupings(places, has_errors=errors is not None)
    forms, groupings = _separable(groupings, fixed, weights, noise, left_out)
    left_out += more_left_out

    estimate = forms.estimate(measured)
    found = np.concatenate([_place_components(estimate, leds), estimate.components])
    rng = np.random.default_rng(seed)
    expected = fixed @ _without_noise(estimate, leds)
    drawn = []
    for _ in range(draws):
        again = forms.estimate(forms.draw(estimate.components, expected, rng))
        drawn.append(np.concatenate([_place_components(again, leds), again.components]).ravel())
    covariance = np.cov(np.array(drawn), rowvar=False).reshape(found.shape + found.shape)
    return found, covariance, _Frame(_described(groupings, terms.shape[1], leds), left_out, len(places))


def _checked(
    columns: list[ArrayLike], errors: list[ArrayLike] | None, places: CellPlaces
) -> tuple[FloatArray, FloatArray, CellPlaces]:
    arrays = [np.asarray(column, dtype=np.float64) for column in [*columns, *(errors or [])]]
    for array in arrays:
        if array.shape != (len(places),):
            raise CompareError(
                f"values or errors have shape {array.shape}, but there are {len(places)} cells",
                remedy="give one value and one error per cell",
                value=array.shape,
            )
    measured = np.stack(arrays[: len(columns)], axis=1)
    noise = np.stack(arrays[len(columns) :], axis=1) if errors is not None else np.zeros_like(measured)
    known = np.isfinite(measured).all(axis=1)
    for place in (places.x_mm, places.y_mm):
        if place is not None and not np.isfinite(place[known]).all():
            raise CompareError("positions in the focal plane are not finite", remedy="remove these cells or correct them")
    if errors is not None and not (np.isfinite(noise[known]).all() and (noise[known] > 0).all()):
        raise CompareError(
            "errors of cells are zero, negative or not finite",
            remedy="give the error of every cell that has a value, or None if errors are unknown",
        )
    if known.sum() < _LEAST_CELLS:
        raise CompareError(
            f"{int(known.sum())} cells have values",
            remedy=f"at least {_LEAST_CELLS} are needed to split their variance",
            value=int(known.sum()),
        )
    if not np.all(measured[known].std(axis=0) > 0):
        raise CompareError("all cells have the same value", remedy="check the input: there is no variance to split")
    return measured[known], noise[known], places.take(np.asarray(known))


def _weights(measured: FloatArray, noise: FloatArray) -> FloatArray:
    """Return weights from errors and excess scatter (robust, per column; they need not be exact)."""
    scatter = (1.4826 * np.median(np.abs(measured - np.median(measured, axis=0)), axis=0)) ** 2
    scatter = np.where(scatter > 0, scatter, measured.var(axis=0))
    intrinsic = np.maximum(scatter - np.median(noise**2, axis=0), 0.05 * scatter)
    return np.asarray(1 / (1 + (noise**2 / intrinsic).mean(axis=1)))


def _per_led(terms: FloatArray, led: IntArray, leds: int) -> FloatArray:
    """Return the terms once per LED, zero in all others, shape (n, leds * terms)."""
    return np.concatenate([terms * (led == number)[:, None] for number in range(leds)], axis=1)


def _separable(
    groupings: list[Grouping], fixed: FloatArray, weights: FloatArray, noise: FloatArray, left_out: list[OmittedComponent]
) -> tuple[QuadraticForms, list[Grouping]]:
    """Return the forms without the coarsest groupings that are absorbed by fixed effects or finer groupings."""
    while groupings:
        forms = QuadraticForms([grouping.groups for grouping in groupings], fixed, weights, noise)
        if forms.condition < _WORST_CONDITION:
            return forms, groupings
        first, *groupings = groupings
        left_out.append(
            OmittedComponent(first.level, first.part, f"the cells are too few to separate {first.level} from other levels")
        )
    raise CompareError("the cells do not determine any level", remedy="use more cells, or a lower degree")


def _place_components(estimate: ComponentFit, leds: int) -> FloatArray:
    """Return the variance of the smooth function: common to LEDs and specific to them, shape (0 to 2, m, m).

    The terms are orthonormal over the cells, so that sums of squares of coefficients are variances over the cells.
    """
    columns = estimate.fixed.shape[1]
    coefficients = estimate.fixed.reshape(leds, -1, columns)[:, 1:]
    terms = coefficients.shape[1]
    if terms == 0:
        return np.zeros((0, columns, columns))
    spread = estimate.fixed_covariance.reshape(leds, terms + 1, leds, terms + 1, columns, columns)[:, 1:, :, 1:]
    mean = coefficients.mean(axis=0)
    mean_noise = np.einsum("itktmn->mn", spread) / leds**2
    common = mean.T @ mean - mean_noise
    if leds == 1:
        return common[None]
    from_mean = coefficients - mean
    specific = np.einsum("ltm,ltn->mn", from_mean, from_mean)
    specific = (specific - np.einsum("ltltmn->mn", spread) + leds * mean_noise) / (leds - 1)
    # The mean over LEDs still contains a fraction of the specific parts.
    return np.stack([common - specific / leds, specific])


def _without_noise(estimate: ComponentFit, leds: int) -> FloatArray:
    """Return coefficients of the fixed effects, with those of position shrunk to the variance that is not noise."""
    columns = estimate.fixed.shape[1]
    coefficients = estimate.fixed.reshape(leds, -1, columns).copy()
    variances = [np.diag(component) for component in _place_components(estimate, leds)]
    if variances:
        mean = coefficients[:, 1:].mean(axis=0)
        from_mean = coefficients[:, 1:] - mean
        shrunk = mean * _shrinkage(variances[0], (mean**2).sum(axis=0))
        coefficients[:, 1:] = shrunk
        if leds > 1:
            coefficients[:, 1:] += from_mean * _shrinkage(variances[1] * (leds - 1), (from_mean**2).sum(axis=(0, 1)))
    return coefficients.reshape(-1, columns)


def _shrinkage(variance: FloatArray, with_noise: FloatArray) -> FloatArray:
    return np.sqrt(np.clip(variance / np.maximum(with_noise, 1e-300), 0.0, 1.0))


def _described(groupings: list[Grouping], terms: int, leds: int) -> list[tuple[str, str, int, int]]:
    levels = []
    if terms:
        levels.append(("place", COMMON if leds > 1 else BOTH, terms, terms))
        if leds > 1:
            levels.append(("place", SPECIFIC, terms * leds, terms * (leds - 1)))
    return levels + [(entry.level, entry.part, entry.count, entry.degrees_of_freedom) for entry in groupings]


def _level_split(variances: FloatArray, covariance: FloatArray, frame: _Frame) -> LevelSplit:
    errors = np.sqrt(np.diag(covariance))
    components = tuple(
        VarianceComponent(level, part, float(variance), float(error), groups, freedom)
        for (level, part, groups, freedom), variance, error in zip(frame.levels, variances, errors, strict=True)
    )
    return LevelSplit(components, covariance, tuple(frame.left_out), frame.cells)


def _pair(component: VarianceComponent, estimate: FloatArray, covariance: FloatArray) -> LevelPair:
    """Return correlation and slope from variances and covariance, errors to first order in the errors of these."""
    flat, star, both = estimate[0, 0], estimate[1, 1], estimate[0, 1]
    where = ((0, 0), (1, 1), (0, 1))
    spread = np.array([[covariance[(*first, *second)] for second in where] for first in where])
    r = r_error = slope = slope_error = np.nan
    if flat > np.sqrt(spread[0, 0]):
        slope = both / flat
        towards = np.array([-slope / flat, 0.0, 1 / flat])
        slope_error = np.sqrt(towards @ spread @ towards)
        if star > np.sqrt(spread[1, 1]):
            r = both / np.sqrt(flat * star)
            towards = np.array([-r / (2 * flat), -r / (2 * star), 1 / np.sqrt(flat * star)])
            r_error = np.sqrt(towards @ spread @ towards)
    return LevelPair(
        component.level,
        component.part,
        *(float(number) for number in (r, r_error, slope, slope_error, both, np.sqrt(spread[2, 2]))),
    )
