"""Structure of the beam between the knots of the dense solution, on knots several times finer.

Eliminating the response couples the splines of a beam at all differences of projector positions: the normal equations ``H`` of fine knots
are not sparse, and tens of thousands of unknowns are too many for a dense factor. They are never formed. Products ``H v`` take two passes
over the signals, ``x' w (x v - mean_e(x v))``, and Newton steps are found by conjugate gradients (Hestenes & Stiefel 1952). Two known
matrices make these fast (a two-level additive Schwarz preconditioner; Dryja & Widlund 1994)::

    M^-1 = T H_c^-1 T' + (K + stiffness R)^-1

``H_c`` are the equations with the coarse knots, whose factor is known, ``T`` the prolongation of their splines to the fine
ones; this part couples beam, scales, positions and response. ``K`` are the normal equations of the fine splines with all other unknowns
fixed, a band. The eigenvalues of ``M^-1 H`` lie between 0.2 and 2 in scans of the LSST Camera's bench: ten steps gain a factor of 1e4.

The solution is split into a coarse and a fine part that are orthogonal in the roughness ``R``, so that the coarse part keeps its prior.
The fine part, `BeamDetails`, is fixed from then on. Errors of the flat's levels and gradients with coarse knots equal those with fine knots
to a relative 1e-3, and `covariance_with_details` returns exact ones. The contribution of details to the errors of single super-pixels is
estimated from random vectors (Hutchinson 1990).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from scipy import linalg, sparse

from permil.arrays import FloatArray, IntArray
from permil.engine import threaded_map
from permil.errors import FlatError
from permil.flat.joint.data import DetectorSignals
from permil.flat.joint.model import BeamDetails, JointModel, Pattern
from permil.flat.joint.normal import DetectorFit, DetectorRows, fit_detector
from permil.flat.joint.prior import Prior, roughness_of
from permil.flat.joint.solution import Certificate, DetailErrors, JointSolution
from permil.flat.joint.spline import SplineGrid

MOST_COEFFICIENTS = 60_000
"""Largest number of coefficients of the fine beam: the factor of their band takes 0.4 GB."""

_SETTLED = 0.2
"""Change of the logarithm of the stiffness below which it has converged."""

_AIM, _MOST_ROUNDS = 0.1, 12
"""Fraction of the tolerance at which the search ends, and rounds after which the tolerance itself suffices."""
_MOST_STEPS = 200
_ROUGH = 0.02
"""Relative accuracy of a step while the stiffness still changes."""

_USUAL_PRODUCTS = 20

_SHARE_OF_ERROR = 3e-3
"""Accuracy of the solution for a region, relative to its error: its covariances are then accurate to 1e-5."""

_PROBES = 12
_ERROR_PROBES, _ERROR_STEPS = 4, 15
_ERROR_OF_SHARE = 1e-5
"""Error of the variance that details add to super-pixels, over that of their own noise."""

_HOLD = 1e-10
"""Of the mean diagonal: holds splines that no signal depends on."""


def detail_grid(grid: SplineGrid, finest_mm: float) -> SplineGrid | None:
    """Return a grid halved as long as its knots are at least ``finest_mm`` apart and not too many; None if none of these are finer."""
    fine = grid
    while fine.spacing / 2 >= finest_mm * (1 - 1e-9) and fine.halved().size <= MOST_COEFFICIENTS:
        fine = fine.halved()
    return None if fine is grid else fine


def solve_details(
    solution: JointSolution,
    detectors: Sequence[DetectorSignals],
    grid: SplineGrid,
    *,
    estimate_stiffness: bool,
    tolerance: float = 0.01,
    progress: Callable[[float], None] | None = None,
) -> JointSolution:
    """Solve for all unknowns with a beam on finer knots.

    Parameters
    ----------
    solution
        Dense solution with coarse knots, with or without details; its factor, photodiode, exposures and stage are kept.
    detectors
        That it was solved from; all of them are in memory together.
    grid
        Of the fine knots (`detail_grid`).
    estimate_stiffness
        Whether the stiffness of the beam is that with the largest evidence (MacKay 1992, Neural Computation 4, 415) or the solution's.
    tolerance
        Largest Newton decrement of all unknowns, standard errors.
    progress
        Called after each product with the matrix of the unknowns with the share of the whole that is done; how many it takes is a guess.

    Raises
    ------
    FlatError
        If the steps do not converge.
    ValueError
        If the grid is not that of the solution, halved.
    """
    problem = _FineProblem.of(solution, detectors, grid, progress)
    vector, stiffness = problem.start, solution.prior.stiffness[0]
    band, settled = problem.known_band(vector), not estimate_stiffness
    steps = 0
    while True:
        steps += 1
        equations = FineEquations(problem, vector, problem.prior.with_stiffness((stiffness, *solution.prior.stiffness[1:])), band)
        pull = equations.pull()
        step = equations.solve(pull, _AIM * tolerance / 3, 0.0 if settled else _ROUGH)
        decrement = max(float(pull @ step), 0.0) ** 0.5
        if settled and decrement <= (tolerance if steps == _MOST_ROUNDS else _AIM * tolerance):
            break
        if steps == _MOST_ROUNDS:
            raise FlatError(
                f"the fine structure of the beam did not converge: {decrement:.3g} standard errors from its optimum after {steps} steps",
                remedy="set a larger flat.joint.spacing_mm",
                decrement=decrement,
            )
        vector = vector + step
        if not settled:
            before, stiffness = stiffness, equations.likeliest_stiffness(vector)
            settled = abs(np.log(stiffness / before)) < _SETTLED
    fits = equations.fits
    mean = np.nanmean(np.concatenate([fit.log_response for fit in fits]))
    names = [detector.name for detector in detectors]
    of_dense = solution.certificate
    coarse, details = problem.split(vector)
    model = replace(solution.model, details=details)
    return replace(
        solution,
        model=model,
        prior=replace(solution.prior, model=model, stiffness=equations.prior.stiffness),
        vector=coarse,
        log_response={name: fit.log_response - mean for name, fit in zip(names, fits, strict=True)},
        objective=float(sum(fit.objective for fit in fits)),
        certificate=Certificate(decrement, of_dense.gradient, of_dense.passes + steps, tolerance),
        detail_errors=DetailErrors(equations.determined(), 0.0 if estimate_stiffness else equations.noise_share(), band),
    )


def covariance_with_details(
    solution: JointSolution, detectors: Sequence[DetectorSignals], regions: Sequence[Mapping[str, FloatArray]]
) -> FloatArray:
    """Return the covariance of weighted sums of the log response over regions, including the fine structure of the beam, shape (n, n).

    With approximate solutions ``x_i`` of ``H x_i = a_i`` for the row ``a_i`` of each region, and the rests ``r_i``, an estimate of
    ``a_i' H^-1 a_j`` whose error is of second order is ``a_i' x_j + x_i' r_j``.

    Parameters
    ----------
    solution
        With details.
    detectors
        That it was solved from; all of them are in memory together.
    regions
        Weights of the super-pixels of each detector that takes part.
    """
    equations = fine_equations(solution, detectors)
    rows, independent = equations.region_rows(regions)
    found = [equations.solve_and_rest(row, 0.0, _SHARE_OF_ERROR) for row in rows]
    solved, rests = (np.array(part) for part in zip(*found, strict=True))
    covariance = rows @ solved.T + solved @ rests.T
    return np.asarray((covariance + covariance.T) / 2 + independent)


def fine_equations(solution: JointSolution, detectors: Sequence[DetectorSignals]) -> FineEquations:
    """Return the normal equations of all unknowns at a solution with details, the fine structure of the beam among them.

    Parameters
    ----------
    detectors
        That it was solved from; all of them are in memory together.
    """
    details = solution.model.details
    if details is None:
        raise ValueError("the solution has no details")
    problem = _FineProblem.of(solution, detectors, details.grid)
    vector = problem.start
    return FineEquations(problem, vector, problem.prior, problem.known_band(vector))


@dataclass(frozen=True)
class _FineProblem:
    """The joint model with a beam on fine knots, and its dense solution on coarse ones.

    Parameters
    ----------
    model, prior
        With the fine beam in place of the coarse one.
    prolongation : sparse array, shape (fine unknowns, coarse unknowns)
        ``T``.
    report
        Called after each product.
    """

    solution: JointSolution
    detectors: Sequence[DetectorSignals]
    model: JointModel
    prior: Prior
    prolongation: sparse.csr_array
    report: Callable[[], None]

    @classmethod
    def of(
        cls,
        solution: JointSolution,
        detectors: Sequence[DetectorSignals],
        grid: SplineGrid,
        progress: Callable[[float], None] | None = None,
    ) -> _FineProblem:
        """Lay the fine beam over a solution."""
        coarse = solution.model.patterns[0].grid
        fine, of_beam = coarse, sparse.eye_array(coarse.size, format="csr")
        while fine != grid:
            if grid.spacing >= fine.spacing:
                raise ValueError(f"{grid} is not a refinement of {coarse}")
            of_beam, fine = sparse.csr_array(fine.prolongation() @ of_beam), fine.halved()
        model = replace(solution.model, patterns=(Pattern(grid, -1.0), *solution.model.patterns[1:]), details=None)
        others = sparse.eye_array(solution.model.size - coarse.size)
        whole = sparse.csr_array(sparse.block_diag([of_beam, others]))
        return cls(solution, detectors, model, replace(solution.prior, model=model), whole, _counted(progress))

    @property
    def beam(self) -> slice:
        """Place of the beam's coefficients."""
        return self.model.pattern_slices[0]

    @property
    def start(self) -> FloatArray:
        """The solution's unknowns, with its beam and details on fine knots."""
        vector = self.prolongation @ self.solution.vector
        details = self.solution.model.details
        if details is not None:
            vector[self.beam] += details.coefficients
        return np.asarray(vector)

    def fit(self, detector: DetectorSignals, vector: FloatArray) -> DetectorFit:
        """Solve for the response of a detector."""
        solution = self.solution
        weights = solution.exposure_weights
        return fit_detector(self.model, detector, vector, threshold=solution.threshold, exposure_weights=weights)

    def known_band(self, vector: FloatArray) -> sparse.csr_array:
        """Return `band`, or the nearly equal one of an earlier solution from the same exposures."""
        known = self.solution.detail_errors.band
        return self.band(vector) if known is None else known

    def band(self, vector: FloatArray) -> sparse.csr_array:
        """Return the normal equations of the fine splines of the beam alone, shape (m, m), with all other unknowns fixed."""
        grid = self.model.patterns[0].grid

        def of_detector(detector: DetectorSignals) -> FloatArray:
            fit = self.fit(detector, vector)
            # By distance and B-spline: B-splines more than three knots apart have no product.
            total = np.zeros((_REACH * grid.shape[1] + _REACH + 1) * grid.size)
            rows = DetectorRows(self.model, detector, vector, fit.residual, fit.weights)
            for plan in rows.plans():
                _, blocks = rows.tile_and_blocks(plan)
                for (first_x, number_x, first_y, number_y), block in zip(plan.windows[:, 0].tolist(), blocks, strict=True):
                    if number_x:
                        one, two, places = _products_of(number_x, number_y, grid.shape[1], grid.size)
                        total[places + first_x * grid.shape[1] + first_y] += block[one, two]
            return total

        band = np.zeros((_REACH * grid.shape[1] + _REACH + 1) * grid.size)
        for part in threaded_map(of_detector, self.detectors):
            band += part
        by_distance = band.reshape(-1, grid.size)
        distances = np.flatnonzero(by_distance.any(axis=1))
        lower = sparse.csr_array(sparse.dia_array((by_distance[distances], -distances), shape=(grid.size, grid.size)))
        return sparse.csr_array(lower + sparse.tril(lower, -1).T)

    def split(self, vector: FloatArray) -> tuple[FloatArray, BeamDetails]:
        """Return the unknowns with the coarse part of the beam, and its details, whose roughness is orthogonal to that part."""
        beam, count = self.beam, self.solution.model.patterns[0].grid.size
        of_beam = sparse.csr_array(self.prolongation[: beam.stop, :count])
        rough = roughness_of(self.model.patterns[0].grid)
        # Planes have no roughness: they are those of the coefficients.
        strength = _PLANES * float(rough.diagonal().mean())
        metric = rough + strength * sparse.eye_array(beam.stop)
        normal = sparse.csc_array(of_beam.T @ metric @ of_beam)
        coarse = sparse.linalg.spsolve(normal, of_beam.T @ (metric @ vector[beam]))
        details = vector[beam] - of_beam @ coarse
        return np.concatenate([coarse, vector[beam.stop :]]), BeamDetails(self.model.patterns[0].grid, details, of_beam)


_REACH = 3


@lru_cache(maxsize=64)
def _products_of(number_x: int, number_y: int, count_y: int, size: int) -> tuple[IntArray, IntArray, IntArray]:
    """Return the products of B-splines in a window: two places in the window, and one by distance and B-spline of a whole grid.

    Parameters
    ----------
    number_x, number_y
        B-splines of the window along both axes.
    count_y, size
        B-splines of the grid along the second axis, and all of them.
    """
    x, y = (axis.ravel() for axis in np.indices((number_x, number_y)))
    whole = x * count_y + y
    one, two = np.nonzero((np.abs(x[:, None] - x) <= _REACH) & (np.abs(y[:, None] - y) <= _REACH) & (whole[:, None] <= whole))
    return one, two, (whole[two] - whole[one]) * size + whole[one]


def _counted(progress: Callable[[float], None] | None) -> Callable[[], None]:
    """Return a function that reports the completed fraction of all products at each call."""
    done = 0

    def report() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done / (done + _USUAL_PRODUCTS))

    return report


_PLANES = 1e-6
"""Weight of coefficients relative to that of their roughness, in the split of coarse and fine part."""


class FineEquations:
    """The normal equations of all unknowns, with a beam on fine knots, at a vector; as products with vectors."""

    def __init__(self, problem: _FineProblem, vector: FloatArray, prior: Prior, band: sparse.csr_array) -> None:
        self.problem, self.vector, self.prior = problem, vector, prior
        self.fits = [problem.fit(detector, vector) for detector in problem.detectors]
        self._rows = [
            DetectorRows(problem.model, detector, vector, fit.residual, fit.weights)
            for detector, fit in zip(problem.detectors, self.fits, strict=True)
        ]
        self._moments = [fit.weights.sum(axis=0) for fit in self.fits]
        self._dense = problem.solution.factor
        self._known, self._roughness = band, roughness_of(problem.model.patterns[0].grid)
        self._band = _banded_factor(sparse.csr_array(band + prior.stiffness[0] * self._roughness))

    def pull(self) -> FloatArray:
        """Return minus half the gradient of the objective."""
        pull = self.prior.gradient(self.vector)
        for rows in self._rows:
            rows.add_gradient(pull)
        return pull

    def times(self, step: FloatArray) -> FloatArray:
        """Return ``H`` times a vector."""

        def of_detector(number: int) -> FloatArray:
            rows, weights, moments = self._rows[number], self.fits[number].weights, self._moments[number]
            change = rows.product(step)
            change -= np.einsum("ep,ep->p", weights, change) / np.where(moments > 0, moments, 1.0)
            result = np.zeros(len(step))
            rows.add_gradient(result, change)
            return result

        total = self.prior.times(step)
        for part in threaded_map(of_detector, range(len(self._rows))):
            total += part
        self.problem.report()
        return total

    def precondition(self, pull: FloatArray) -> FloatArray:
        """Return ``M^-1`` times a vector."""
        prolongation, beam = self.problem.prolongation, self.problem.beam
        result = prolongation @ self._dense.solve(prolongation.T @ pull)
        result[beam] += linalg.cho_solve_banded((self._band, True), pull[beam], check_finite=False)
        return np.asarray(result)

    def solve(self, pull: FloatArray, tolerance: float, share: float = 0.0, *, most_steps: int = _MOST_STEPS) -> FloatArray:
        """Return ``H^-1`` times a vector, to a tolerance in standard errors, or to a relative accuracy."""
        return self.solve_and_rest(pull, tolerance, share, most_steps=most_steps)[0]

    def solve_and_rest(
        self, pull: FloatArray, tolerance: float, share: float, *, most_steps: int = _MOST_STEPS
    ) -> tuple[FloatArray, FloatArray]:
        """Return an approximate solution ``x`` of ``H x = b`` (see `solve`) and the residual ``b - H x``."""
        solved, left = np.zeros(len(pull)), pull.copy()
        close = self.precondition(left)
        direction, size = close, float(left @ close)
        limit = max(tolerance, share * size**0.5) ** 2
        for _ in range(most_steps):
            if size <= limit:
                break
            product = self.times(direction)
            along = size / float(direction @ product)
            solved += along * direction
            left -= along * product
            close = self.precondition(left)
            size, before = float(left @ close), size
            direction = close + size / before * direction
        return solved, left

    def row_of(self, values: Iterable[FloatArray]) -> FloatArray:
        """Return ``sum w x v`` of values of the signals of each detector, shape (e, p)."""
        row = np.zeros(len(self.vector))
        for rows, of_detector in zip(self._rows, values, strict=True):
            rows.add_gradient(row, of_detector)
        return row

    def _row_of_responses(self, weights: Sequence[FloatArray]) -> FloatArray:
        """Return the row ``A`` of a weighted sum of the log response; weights of each detector, shape (p,), count where it is lit."""
        # One detector at a time.
        return self.row_of(
            np.broadcast_to(np.where(moments > 0, own, 0.0) / np.where(moments > 0, moments, 1.0), fit.weights.shape).copy()
            for own, moments, fit in zip(weights, self._moments, self.fits, strict=True)
        )

    def changes(self, step: FloatArray) -> Iterator[FloatArray]:
        """Yield the changes of the logarithms of each detector by a small step, shape (e, p)."""
        return threaded_map(lambda rows: rows.product(step), self._rows)

    def solution_after(self, step: FloatArray) -> JointSolution:
        """Return the solution with a step added to its unknowns."""
        solution = self.problem.solution
        coarse, details = self.problem.split(self.vector + step)
        return replace(solution, vector=coarse, model=replace(solution.model, details=details))

    def region_rows(self, weights: Sequence[Mapping[str, FloatArray]]) -> tuple[FloatArray, FloatArray]:
        """Return the rows ``A`` of weighted sums of the log response, without its mean, and the covariance of their own noise."""
        pixels = sum(int((moments > 0).sum()) for moments in self._moments)
        rows, independent = [], np.zeros((len(weights), len(weights)))
        for number, region in enumerate(weights):
            level = sum(float(part.sum()) for part in region.values()) / pixels
            parts = [
                region.get(detector.name, np.zeros(len(moments)))
                for detector, moments in zip(self.problem.detectors, self._moments, strict=True)
            ]
            rows.append(self._row_of_responses([part - level for part in parts]))
            for detector, part, moments in zip(self.problem.detectors, parts, self._moments, strict=True):
                own = part / np.where(moments > 0, moments, np.inf)
                for other, second in enumerate(weights):
                    if detector.name in second:
                        independent[number, other] += float(own @ second[detector.name])
        return np.array(rows), independent

    def likeliest_stiffness(self, vector: FloatArray) -> float:
        """Return the stiffness for which the coefficients have the expected roughness (MacKay 1992).

        With the number ``g`` of coefficients that the signals determine it is ``g / (c' R c)``.
        """
        beam = vector[self.problem.beam]
        return self._determined() / max(float(beam @ (self._roughness @ beam)), np.finfo(float).tiny)

    def _determined(self) -> float:
        """Return the number of coefficients of the fine beam determined by the signals."""
        probes = np.random.default_rng(0).choice([-1.0, 1.0], (self._roughness.shape[0], _PROBES))
        solved = linalg.cho_solve_banded((self._band, True), probes, check_finite=False)
        trace = float(np.sum(probes * (self._roughness @ solved))) / _PROBES
        return max(len(probes) - _PLANES_OF_BEAM - self.prior.stiffness[0] * trace, 1.0)

    def determined(self) -> float:
        """Return the number of coefficients of the beam determined by the signals, in addition to those with coarse knots."""
        prolongation, model = self.problem.prolongation, self.problem.solution.model
        of_beam = prolongation[: self.problem.beam.stop, : model.patterns[0].grid.size]
        rough = (of_beam.T @ self._roughness @ of_beam).toarray() * self.prior.stiffness[0]
        coarse = (of_beam.T @ self._known @ of_beam).toarray() + rough
        coarse[np.diag_indices_from(coarse)] += _HOLD * np.diag(coarse).mean()
        by_coarse = len(coarse) - _PLANES_OF_BEAM - float(np.sum(linalg.solve(coarse, rough, assume_a="pos").diagonal()))
        return max(self._determined() - by_coarse, 0.0)

    def noise_share(self) -> float:
        """Return the mean variance that details add to super-pixels, over that of their own noise."""
        rng = np.random.default_rng(0)
        added, own = 0.0, sum(float(np.sum(1.0 / moments[moments > 0])) for moments in self._moments)
        for _ in range(_ERROR_PROBES):
            signs = [np.where(moments > 0, rng.choice([-1.0, 1.0], len(moments)), np.nan) for moments in self._moments]
            # The mean of the response is not known.
            mean = np.nanmean(np.concatenate(signs))
            row = self._row_of_responses([np.nan_to_num(sign - mean) for sign in signs])
            whole = float(row @ self.solve(row, (_ERROR_OF_SHARE * own) ** 0.5, most_steps=_ERROR_STEPS))
            by_coarse = self._dense.whiten(self.problem.prolongation.T @ row)
            added += (whole - float(by_coarse @ by_coarse)) / _ERROR_PROBES
        return max(added / own, 0.0)


_PLANES_OF_BEAM = 3
"""Functions without roughness."""


def _banded_factor(matrix: sparse.csr_array) -> FloatArray:
    """Return the Cholesky factor of a sparse matrix, as a band (`scipy.linalg.cholesky_banded`, lower)."""
    entries = matrix.tocoo()
    row, column = entries.coords
    lower = row >= column
    offset = (row - column)[lower]
    band = np.zeros((int(offset.max()) + 1, matrix.shape[0]))
    band[offset, column[lower]] = entries.data[lower]
    band[0] += _HOLD * band[0].mean()
    return np.asarray(linalg.cholesky_banded(band, overwrite_ab=True, lower=True, check_finite=False))
