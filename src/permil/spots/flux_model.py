"""Joint fit of spot fluxes over many exposures: ``flux_sk = spot_s * exposure_k * (1 + throughput(x_sk))``.

The model is fitted by Gauss-Newton steps with robust weights (Huber 1964: weight 1 within 3 sigma, decreasing as 3 sigma / |residual|
beyond; 0 beyond 8 sigma). Weights use expected variances: the variance of each spot, scaled with the brightness of the exposure. Weights
from the reported error of each measurement would favour faint fluctuations and bias the fluxes. An excess, a relative variance common to
all measurements, is fitted to the residuals and added (see below): structure of the sensor finer than the knots limits bright spots,
whatever their photon noise.

Degenerate modes are fixed by explicit conventions (the gauge):

- a common factor: the mean of the exposure scales is 1;
- a constant throughput: its mean over the measurements is 0;
- a gradient of the throughput: since ``x_sk = p_k + u_s``, it is the same as a gradient of the spot fluxes over the mask together
  with a trend of the exposure scales with the pointing. The gradient of the throughput over the measurements is set to 0 and
  `permil.spots.calibration` gives bounds on its size.

A weak prior (throughput 0 +- 0.1) constrains splines at the rim of the covered area, where there are few spots.

The throughput is a sum of tensor-product B-splines (de Boor 1978). Each measurement belongs to one spot, so that the block of the spots
in the normal equations is diagonal: eliminating it (Schur complement) leaves a dense system of exposures and coefficients (a few
thousand), whose inverse gives exact errors of all parameters.

**Excess of the scatter.** Fluxes scatter about the model by more than their errors if the throughput has structure finer than its knots,
or if the errors are too small. The excess ``t`` is a relative variance: a measurement with relative error ``s`` has the variance ``v =
s^2 + t``. It is chosen such that the residuals ``r`` scatter as expected (Paule & Mandel 1982, J. Res. NBS 87, 377, with the squares
bounded)::

    sum(min(r^2 / v, 9)) = 0.995 freedom

Structure of the sensor is the same for different spots at one position; errors of measurements and of spots are not. Half the squared
difference of two residuals at a distance ``d``, of different spots and exposures, is on average::

    (1 - h) ((s_1^2 + s_2^2) / 2 + t_0) + h (t - t_0) + a d^2

where ``t_0`` is the part of the excess not shared by neighbours (the nugget of a variogram; Cressie 1993, Statistics for Spatial Data,
2.3) and ``h`` the weight of a measurement in the flux of its spot and the scale of its exposure: these absorb that fraction of the
measurement's own error, and are themselves shifted by the structure at other positions. What the throughput absorbs of the residuals is
common to both and cancels. Pairs are mutual nearest neighbours, so that no measurement is used twice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import brentq
from scipy.spatial import cKDTree

from permil._kernels import spots as kernels
from permil.arrays import BoolArray, FloatArray, Int32Array, IntArray
from permil.errors import SpotError
from permil.excess_scatter import root_of_variance
from permil.spots.measurements import Measurements, grouped_median

_BOUND = 9.0
_MEAN_BOUNDED, _VARIANCE_BOUNDED = 0.9950, 1.9013
"""Mean and variance of the square of a standard normal number, bounded."""
_LARGEST = 1.0
"""Upper limit of the fitted excess, relative variance."""
_NEIGHBOUR_PX = 5.0
"""Largest distance of neighbours, pixels: about the diameter of a star's image."""
_CANDIDATES = 8
_FEWEST_PAIRS = 30


@dataclass(frozen=True)
class FluxExcess:
    """Relative variance of fluxes in excess of their errors.

    Attributes
    ----------
    variance, variance_error
        Excess of all measurements and its standard error; NaN if the catalogs have no errors.
    own, own_error
        The part not shared by neighbouring measurements of different spots. It may be negative within its error; NaN with too few
        neighbours.
    pairs
        Number of pairs of neighbours compared.
    """

    variance: float
    variance_error: float
    own: float
    own_error: float
    pairs: int

    @property
    def scatter(self) -> tuple[float, float]:
        """Total excess as a relative scatter, and its error."""
        return root_of_variance(self.variance, self.variance_error)

    @property
    def structure(self) -> tuple[float, float]:
        """The part due to the position on the sensor, and its error; NaN if unknown."""
        return root_of_variance(self.variance - self.own, math.hypot(self.variance_error, self.own_error))

    @property
    def unexplained(self) -> tuple[float, float]:
        """The part not due to the sensor, and its error.

        Without enough neighbours, the total excess with an error of the same size, since it may be zero.
        """
        if math.isnan(self.own):
            return self.scatter[0], self.scatter[0] + self.scatter[1]
        return root_of_variance(self.own, self.own_error)


UNKNOWN = FluxExcess(math.nan, math.nan, math.nan, math.nan, 0)
"""Result for catalogs without errors."""


def fit_excess(residual: FloatArray, variance: FloatArray, freedom: float) -> tuple[float, float]:
    """Fit the relative variance of residuals in excess of their errors (at least 0); return it with its standard error.

    Parameters
    ----------
    residual, variance : ndarray, shape (n,)
        Relative residuals and the squares of their relative errors.
    freedom
        Degrees of freedom.
    """
    squares = residual**2
    expected = _MEAN_BOUNDED * max(freedom, 1.0)

    def surplus(excess: float) -> float:
        return float(np.minimum(squares / (variance + excess), _BOUND).sum()) - expected

    if not squares.size:
        return 0.0, 0.0
    found = 0.0
    if surplus(0.0) > 0:
        found = brentq(surplus, 0.0, _LARGEST, xtol=1e-15) if surplus(_LARGEST) < 0 else _LARGEST
    total = variance + found
    slope = float(np.where(squares < _BOUND * total, squares / total**2, 0.0).sum())
    return found, math.sqrt(_VARIANCE_BOUNDED * max(freedom, 1.0)) / slope if slope > 0 else 0.0


def own_excess(
    residual: FloatArray, variance: FloatArray, excess: float, places: FloatArray, spot: IntArray, exposure: IntArray
) -> tuple[float, float, int]:
    """Return the part of the excess not shared by neighbours, its standard error, and the number of pairs (module docstring).

    Parameters
    ----------
    residual, variance : ndarray, shape (n,)
        Relative residuals and the squares of their relative errors.
    excess
        Result of `fit_excess`.
    places : ndarray, shape (n, 2)
        x, y in pixels.
    spot, exposure : ndarray, shape (n,)
        Numbers of spot and exposure of each measurement.
    """
    first, second, distance = _neighbours(places, spot, exposure)
    if len(first) < _FEWEST_PAIRS:
        return math.nan, math.nan, len(first)
    weight = 1 / (variance + excess)
    with np.errstate(invalid="ignore", divide="ignore"):
        left = 1 - weight / np.bincount(spot, weight)[spot] - weight / np.bincount(exposure, weight)[exposure]
    share = (left[first] + left[second]) / 2
    noise = (left[first] * variance[first] + left[second] * variance[second]) / 2 + (1 - share) * excess
    of_own = 2 * share - 1
    half_squares = (residual[first] - residual[second]) ** 2 / 2
    matrix = np.column_stack([of_own, distance**2])
    own, error = excess, math.nan
    # The variance of half a squared difference is twice the square of its mean, which depends on the parameters fitted.
    for _ in range(2):
        weights = 1 / (2 * (noise + of_own * max(own, 0.0)) ** 2)
        inverse = np.linalg.pinv(matrix.T @ (weights[:, None] * matrix))
        own = float((inverse @ (matrix.T @ (weights * (half_squares - noise))))[0])
        error = math.sqrt(inverse[0, 0])
    return own, error, len(first)


def _neighbours(places: FloatArray, spot: IntArray, exposure: IntArray) -> tuple[IntArray, IntArray, FloatArray]:
    """Return mutual nearest neighbours of different spots and exposures, and their distances."""
    count = len(places)
    candidates = min(_CANDIDATES, count)
    if candidates < 2:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0)
    distances, numbers = map(np.asarray, cKDTree(places).query(places, k=candidates, distance_upper_bound=_NEIGHBOUR_PX))
    there = numbers < count
    numbers = np.where(there, numbers, 0)
    other = there & (spot[numbers] != spot[:, None]) & (exposure[numbers] != exposure[:, None])
    column = other.argmax(axis=1)
    rows = np.arange(count)
    nearest = np.where(other[rows, column], numbers[rows, column], -1)
    first = np.flatnonzero(nearest >= 0)
    first = first[(nearest[nearest[first]] == first) & (first < nearest[first])]
    return first, nearest[first], distances[first, column[first]]


IndexArray = Int32Array

PRIOR_THROUGHPUT = 0.1
_HUBER, _REJECT = 3.0, 8.0
_ITERATIONS = 20
_CONVERGED = 1e-7
# Change of the excess, relative to its error, below which it has converged.
_SETTLED = 1e-3
# Weight of the gauge relative to the mean weight of the parameters: large, but still well conditioned.
_STIFF = 1e3


@dataclass(frozen=True)
class TensorSplines:
    """Uniform B-splines over a detector.

    Attributes
    ----------
    shape
        Rows and columns of the detector, pixels.
    cell
        Knot spacing, pixels.
    degree
        0 (cells) to 3 (cubic).
    """

    shape: tuple[int, int]
    cell: float
    degree: int

    @property
    def counts(self) -> tuple[int, int]:
        """Number of splines along x and along y."""
        return self._count(self.shape[1]), self._count(self.shape[0])

    def _count(self, length: int) -> int:
        return max(1, int(np.ceil(length / self.cell))) + self.degree

    @property
    def terms(self) -> int:
        """Number of coefficients."""
        return self.counts[0] * self.counts[1]

    def local(self, x: FloatArray, y: FloatArray) -> tuple[IndexArray, FloatArray]:
        """Return the indices of the splines that are nonzero at points, and their values.

        Returns
        -------
        index, values : ndarray, shape (n, (degree + 1)^2)
            ``throughput = sum(coefficients[index] * values)``.
        """
        first_x, values_x = self._along(x, self.shape[1])
        first_y, values_y = self._along(y, self.shape[0])
        steps = np.arange(self.degree + 1, dtype=np.int32)
        columns, rows = first_x[:, None] + steps, first_y[:, None] + steps
        index = rows[:, :, None] * np.int32(self.counts[0]) + columns[:, None, :]
        values = values_y[:, :, None] * values_x[:, None, :]
        return index.reshape(len(x), -1), values.reshape(len(x), -1)

    def _along(self, place: FloatArray, length: int) -> tuple[IndexArray, FloatArray]:
        scaled = (place + 0.5) / self.cell
        first = np.clip(np.floor(scaled).astype(np.int32), 0, self._count(length) - self.degree - 1)
        t = np.clip(scaled - first, 0.0, 1.0)
        # Recursion of Cox and de Boor on uniform knots.
        values = [np.ones_like(t)]
        for degree in range(1, self.degree + 1):
            raised = [np.zeros_like(t) for _ in range(degree + 1)]
            for number, value in enumerate(values):
                raised[number] += value * (number + 1 - t) / degree
                raised[number + 1] += value * (t + degree - number - 1) / degree
            values = raised
        return first, np.stack(values, axis=1)

    def evaluate(self, coefficients: FloatArray, x: FloatArray, y: FloatArray) -> FloatArray:
        """Return the sum of splines at points."""
        index, values = self.local(x, y)
        return (coefficients[index] * values).sum(axis=1)


@dataclass(frozen=True)
class FluxEquations:
    """Normal equations of relative changes of spot fluxes, exposure scales and coefficients of the throughput: sums over measurements.

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

    @classmethod
    def zeros(cls, spots: int, others: int) -> FluxEquations:
        """Return equations without measurements, to be filled by `permil._kernels.spots.add_measurements`."""
        return cls(np.zeros(spots), np.zeros(spots), np.zeros((spots, others)), np.zeros((others, others)), np.zeros(others))

    def reduced(self) -> tuple[FloatArray, FloatArray]:
        """Return matrix and right side of the other parameters with the spots eliminated."""
        inverse = _inverse(self.spot_weight)
        scaled = self.coupling * inverse[:, None]
        return self.other_weight - self.coupling.T @ scaled, self.other_side - scaled.T @ self.spot_side


@dataclass(frozen=True)
class FluxChanges:
    """Changes of the parameters; their errors take longer than the changes and are computed on demand."""

    spots: FloatArray
    others: FloatArray
    equations: FluxEquations
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


def solve(equations: FluxEquations, extra_weight: FloatArray, extra_side: FloatArray) -> FluxChanges:
    """Solve the equations together with further terms on the other parameters (gauge and prior)."""
    matrix, side = equations.reduced()
    matrix = matrix + extra_weight
    factor = cho_factor(matrix, lower=True)
    others = cho_solve(factor, side + extra_side)
    inverse = _inverse(equations.spot_weight)
    spots = inverse * (equations.spot_side - equations.coupling @ others)
    return FluxChanges(spots, others, equations, factor)


def _inverse(weight: FloatArray) -> FloatArray:
    return np.where(weight > 0, 1 / np.where(weight > 0, weight, 1.0), 0.0)


@dataclass(frozen=True)
class FluxSolution:
    """Solution of the joint flux model.

    Attributes
    ----------
    spot_flux, spot_error : ndarray, shape (spots,)
        Flux of each spot at exposure scale 1 and throughput 1; NaN for spots without a good measurement.
    exposure_scale, exposure_error : ndarray, shape (exposures,)
        Relative brightness of each exposure, mean 1; NaN without a good measurement.
    splines, coefficients
        Throughput model; no coefficients if it was not fitted.
    covariance : ndarray
        Covariance of (relative exposure scales, coefficients), in the gauge of this module.
    equations
        Normal equations at the solution, before gauge and prior.
    predicted, sigma : ndarray, shape (n,)
        Predicted flux without the throughput (spot times exposure) and expected error of each measurement, without the excess.
    throughput : ndarray, shape (n,)
        Fitted throughput minus 1 at each measurement.
    used : ndarray, shape (n,)
        Measurements used in the fit.
    chi_square, freedom
        Chi-square of the measurements used, with their expected errors without the excess, and degrees of freedom.
    excess, excess_error
        Relative variance of the fluxes in excess of their expected errors, included in all errors here, and its standard error.
    errors_from_scatter
        Whether the catalogs had no flux errors; chi-square per degree of freedom is then 1 by construction.
    """

    spot_flux: FloatArray
    spot_error: FloatArray
    exposure_scale: FloatArray
    exposure_error: FloatArray
    splines: TensorSplines | None
    coefficients: FloatArray
    covariance: FloatArray
    equations: FluxEquations
    predicted: FloatArray
    sigma: FloatArray
    throughput: FloatArray
    used: BoolArray
    chi_square: float
    freedom: int
    excess: float
    excess_error: float
    errors_from_scatter: bool


def starting_values(measurements: Measurements, good: BoolArray) -> tuple[FloatArray, FloatArray]:
    """Return spot fluxes and exposure scales (mean 1) from alternating medians of ratios; NaN without a good measurement."""
    flux, spot, exposure = measurements.quantities["flux"][good], measurements.spot[good], measurements.exposure[good]
    scales = np.ones(measurements.exposures)
    for _ in range(4):
        fluxes = grouped_median(flux / scales[exposure], spot, measurements.spots)
        scales = grouped_median(flux / fluxes[spot], exposure, measurements.exposures)
        scales /= np.nanmean(scales)
    return grouped_median(flux / scales[exposure], spot, measurements.spots), scales


def expected_sigma(
    measurements: Measurements, good: BoolArray, scales: FloatArray, fluxes: FloatArray
) -> tuple[FloatArray, bool]:
    """Return the expected error of each measurement (module docstring), and whether it is from the scatter.

    If the catalogs have no errors, these have the shape of photon noise, scaled to the robust scatter around the fluxes.
    """
    variance = measurements.errors["flux"] ** 2 / scales[measurements.exposure]
    known = good & np.isfinite(variance)
    if not known.any():
        predicted = fluxes[measurements.spot] * scales[measurements.exposure]
        shape = np.sqrt(np.abs(predicted))
        pull = (measurements.quantities["flux"][good] - predicted[good]) / shape[good]
        return shape * max(1.4826 * float(np.median(np.abs(pull))), 1e-12), True
    per_spot = grouped_median(variance[known], measurements.spot[known], measurements.spots)
    # A spot without errors gets the typical error at its brightness.
    per_flux = np.nanmedian(per_spot / np.abs(fluxes))
    per_spot = np.where(np.isfinite(per_spot), per_spot, per_flux * np.abs(fluxes))
    return np.sqrt(per_spot[measurements.spot] * scales[measurements.exposure]), False


def fit_fluxes(measurements: Measurements, *, splines: TensorSplines | None) -> FluxSolution:
    """Solve for spot fluxes, exposure scales and throughput.

    Parameters
    ----------
    measurements
        Measurements of all exposures.
    splines
        Throughput model; None to fit spots and exposures alone (exposures at one position do not constrain the throughput).

    Raises
    ------
    SpotError
        If no good measurement has a positive typical flux.
    """
    good = measurements.good
    fluxes, scales = starting_values(measurements, good)
    positive = (np.nan_to_num(fluxes)[measurements.spot] > 0) & (np.nan_to_num(scales)[measurements.exposure] > 0)
    good = good & positive
    if not good.any():
        raise SpotError("no spot has a positive flux", remedy="check the flux column and the background of the catalogs")
    sigma, from_scatter = expected_sigma(measurements, good, scales, fluxes)
    return _Fit(measurements, good, splines, sigma, from_scatter).run(fluxes, scales)


class _Fit:
    """State of one Gauss-Newton fit with robust weights."""

    def __init__(
        self,
        measurements: Measurements,
        good: BoolArray,
        splines: TensorSplines | None,
        sigma: FloatArray,
        from_scatter: bool,
    ) -> None:
        self.measurements, self.good, self.splines, self.from_scatter = measurements, good, splines, from_scatter
        self.rows = np.flatnonzero(good)
        self.spot, self.exposure = measurements.spot[self.rows], measurements.exposure[self.rows]
        self.flux, self.sigma_all, self.sigma = measurements.quantities["flux"][self.rows], sigma, sigma[self.rows]
        self.terms = 0 if splines is None else splines.terms
        x, y = measurements.quantities["x"][self.rows], measurements.quantities["y"][self.rows]
        if splines is None:
            self.index, self.values = np.zeros((len(x), 0), dtype=np.int32), np.zeros((len(x), 0))
        else:
            self.index, self.values = splines.local(x, y)
        self.moments = gauge_moments(self.index, self.values, x, y, self.terms)
        self.excess, self.excess_error = 0.0, 0.0

    def run(self, fluxes: FloatArray, scales: FloatArray) -> FluxSolution:
        """Iterate to convergence."""
        seen_spots, seen_exposures = np.isfinite(fluxes), np.isfinite(scales)
        fluxes, scales = np.where(seen_spots, fluxes, 1.0), np.where(seen_exposures, scales, 1.0)
        coefficients = np.zeros(self.terms)
        for _ in range(_ITERATIONS):
            settled = self._update_excess(fluxes, scales, coefficients)
            equations, _, _ = self._equations(fluxes, scales, coefficients)
            extra, side = self._gauge(equations, scales, seen_exposures, coefficients)
            solution = solve(equations, extra, side)
            change = solution.others[: len(scales)]
            # Steps are bounded, so that a bad start cannot make a flux negative.
            fluxes = fluxes * np.clip(1 + solution.spots, 0.5, 2.0)
            scales = scales * np.clip(1 + change, 0.5, 2.0)
            coefficients = coefficients + solution.others[len(scales) :]
            mean = scales[seen_exposures].mean()
            scales, fluxes = scales / mean, fluxes * mean
            if settled and max(np.abs(solution.spots).max(), np.abs(solution.others).max()) < _CONVERGED:
                break
        return self._solution(fluxes, scales, coefficients, seen_exposures)

    def _model(self, fluxes: FloatArray, scales: FloatArray, coefficients: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the expected flux of each measurement, and its throughput."""
        factor = 1 + np.einsum("nm,nm->n", coefficients[self.index], self.values)
        return fluxes[self.spot] * scales[self.exposure] * factor, factor

    def _update_excess(self, fluxes: FloatArray, scales: FloatArray, coefficients: FloatArray) -> bool:
        """Fit the excess to the residuals; return whether it has converged."""
        if self.from_scatter:
            return True
        model, _ = self._model(fluxes, scales, coefficients)
        residual, variance = (self.flux - model) / model, (self.sigma / model) ** 2
        # Nothing is rejected at the start: residuals due to a large excess are not outliers.
        kept = (
            residual**2 <= _REJECT**2 * (variance + self.excess) if self.excess_error > 0 else np.ones(len(residual), dtype=bool)
        )
        data = np.bincount(
            self.index[kept].ravel(), (self.values[kept] ** 2 / variance[kept, None]).ravel(), minlength=self.terms
        )
        parameters = len(np.unique(self.spot)) + len(np.unique(self.exposure)) + (data / (data + PRIOR_THROUGHPUT**-2)).sum()
        before = self.excess
        self.excess, self.excess_error = fit_excess(residual[kept], variance[kept], float(kept.sum() - parameters))
        return abs(self.excess - before) <= _SETTLED * self.excess_error

    def _equations(
        self, fluxes: FloatArray, scales: FloatArray, coefficients: FloatArray
    ) -> tuple[FluxEquations, FloatArray, FloatArray]:
        """Return the normal equations, and the residuals divided by their errors with and without the excess."""
        model, factor = self._model(fluxes, scales, coefficients)
        total = np.sqrt(self.sigma**2 + self.excess * model**2)
        pull = (self.flux - model) / total
        weight = robust_weight(pull) * (model / total) ** 2
        equations = FluxEquations.zeros(len(fluxes), len(scales) + self.terms)
        # A relative flux changes with a coefficient by the value of its spline over the throughput.
        residual = (self.flux - model) / model
        kernels.add_measurements(
            self.spot, self.exposure, self.index, self.values, weight, residual, factor, len(scales), equations
        )
        return equations, pull, (self.flux - model) / self.sigma

    def _gauge(
        self, equations: FluxEquations, scales: FloatArray, seen: BoolArray, coefficients: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Return the stiff terms that fix the gauge, and the weak prior."""
        count = len(scales)
        stiffness = _STIFF * float(np.diag(equations.other_weight)[:count][seen].sum())
        extra = np.zeros_like(equations.other_weight)
        mean = np.zeros(len(extra))
        mean[:count][seen] = scales[seen] / seen.sum()
        extra += stiffness * np.outer(mean, mean)
        side = np.zeros(len(extra))
        for moment in self.moments:
            padded = np.concatenate([np.zeros(count), moment])
            extra += stiffness * np.outer(padded, padded)
            side -= stiffness * padded * (moment @ coefficients)
        diagonal = np.concatenate([np.where(seen, 0.0, 1.0), np.full(self.terms, PRIOR_THROUGHPUT**-2)])
        extra[np.diag_indices_from(extra)] += diagonal
        side[count:] -= PRIOR_THROUGHPUT**-2 * coefficients
        return extra, side

    def _solution(
        self, fluxes: FloatArray, scales: FloatArray, coefficients: FloatArray, seen_exposures: BoolArray
    ) -> FluxSolution:
        equations, pull, noise_pull = self._equations(fluxes, scales, coefficients)
        extra, side = self._gauge(equations, scales, seen_exposures, coefficients)
        solution = solve(equations, extra, side)
        kept = np.abs(pull) <= _REJECT
        seen_spots = equations.spot_weight > 0
        # Coefficients constrained by the prior are not free parameters: the trace of the contribution of the data counts.
        held = PRIOR_THROUGHPUT**-2 * float(np.trace(solution.covariance[len(scales) :, len(scales) :]))
        gauges = 1 + len(self.moments)
        parameters = seen_spots.sum() + seen_exposures.sum() + self.terms - held - gauges
        freedom = round(float(kept.sum() - parameters))
        chi_square = float((noise_pull[kept] ** 2).sum())
        stretch = np.sqrt(chi_square / max(freedom, 1)) if self.from_scatter else 1.0
        used = np.zeros(len(self.good), dtype=bool)
        used[self.rows[kept]] = True
        m = self.measurements
        throughput = np.zeros(len(self.good))
        if self.splines is not None:
            finite = np.isfinite(m.quantities["x"]) & np.isfinite(m.quantities["y"])
            throughput[finite] = self.splines.evaluate(coefficients, m.quantities["x"][finite], m.quantities["y"][finite])
        fluxes = np.where(seen_spots, fluxes, np.nan)
        scales = np.where(seen_exposures, scales, np.nan)
        return FluxSolution(
            spot_flux=fluxes,
            spot_error=fluxes * np.sqrt(solution.spot_variance) * stretch,
            exposure_scale=scales,
            exposure_error=scales * np.sqrt(np.diag(solution.covariance)[: len(scales)]) * stretch,
            splines=self.splines,
            coefficients=coefficients,
            covariance=solution.covariance * stretch**2,
            equations=equations,
            predicted=fluxes[m.spot] * scales[m.exposure],
            sigma=self.sigma_all * stretch,
            throughput=throughput,
            used=used,
            chi_square=chi_square / stretch**2,
            freedom=freedom,
            excess=self.excess,
            excess_error=self.excess_error,
            errors_from_scatter=self.from_scatter,
        )


def robust_weight(pull: FloatArray) -> FloatArray:
    """Return the weight of each residual in sigma (module docstring)."""
    size = np.abs(pull)
    return np.where(size <= _HUBER, 1.0, np.where(size <= _REJECT, _HUBER / np.maximum(size, _HUBER), 0.0))


def gauge_moments(index: Int32Array, values: FloatArray, x: FloatArray, y: FloatArray, terms: int) -> list[FloatArray]:
    """Return the linear functionals that the gauge sets to 0: mean and slopes of the throughput over the measurements.

    Slopes are per standard deviation of the positions, so that all have the scale of a throughput.
    """
    if terms == 0:
        return []
    weights = (np.ones(len(x)), (x - x.mean()) / max(x.std(), 1e-9), (y - y.mean()) / max(y.std(), 1e-9))
    return [np.bincount(index.ravel(), (values * along[:, None]).ravel(), minlength=terms) / len(x) for along in weights]
