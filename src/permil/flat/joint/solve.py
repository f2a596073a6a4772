"""The joint solution of beam, flat and exposure scales by Newton's method on the exact objective.

The curvature costs far more than the gradient and hardly changes near the optimum, since logarithms are almost linear in the unknowns:
it is kept (the chord method, Kelley 1995, Iterative Methods for Linear and Nonlinear Equations, section 5.4.1) as long as the vector
stays within a few standard errors or the rows and weights of the signals nearly the same, the same exposures are used, and steps shrink
as expected.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from permil.arrays import BoolArray, FloatArray, IntArray
from permil.engine.threads import one_thread
from permil.errors import FlatError
from permil.flat.joint.data import DetectorSignals, ExposureList, epochs_of_readout, thinned
from permil.flat.joint.details import detail_grid, solve_details
from permil.flat.joint.exposure_tests import LEFT_OUT, exposure_tests
from permil.flat.joint.gain_steps import are_steps, new_steps
from permil.flat.joint.gains import BoardTerms
from permil.flat.joint.knots import choose_spacing
from permil.flat.joint.model import MOST_UNKNOWNS, Start, make_model, require_determined
from permil.flat.joint.newton import NEAR, Curvature, Descent, Place, Solver
from permil.flat.joint.normal import NormalEquations
from permil.flat.joint.solution import Certificate, DetailErrors, JointSolution, centroid
from permil.flat.joint.spline import SplineGrid
from permil.flat.joint.weather import PATTERNS, frame_of

_SCATTER = 3.0
"""Standard deviations of chi-square within which an excess is attributed to noise."""

_LATTICE = 200
"""Number of places along an axis at which the beam is evaluated for its centre."""

_ROUNDS_OF_STEPS = 3
"""Number of searches for steps of amplifiers: large ones hide others."""

_CONTRACTION = 0.3
"""Fraction of the decrement that may remain after a step; above it the curvature is recomputed."""

_SMALL = 0.3
"""Decrement, in standard errors, below which a curvature is kept even if steps shrink slowly: the prior then still changes."""

_SHARE_OF_STAGE, _SHARE_BEFORE_DETAILS = 0.8, 0.4
"""Approximate fraction of the remaining time taken by the next part of a solution, without and with fine structure of the beam."""

_MOST_PASSES = 40
_FARTHEST = 1.0
"""Largest distance from the optimum, in standard errors over all unknowns, at which an unfinished solution is accepted, with a message."""


@one_thread()
def solve_joint(
    exposures: ExposureList,
    detectors: Sequence[DetectorSignals],
    *,
    spacing_mm: float | None = None,
    finest_mm: float | None = None,
    stiffness: float | None = None,
    start: Start | None = None,
    reflection: bool = False,
    position_errors: bool = True,
    geometry: bool = True,
    with_drift: bool = True,
    with_weather: bool = True,
    boards: BoardTerms | None = None,
    amplifiers: Mapping[str, IntArray] | None = None,
    threshold: float = 6.0,
    leave_out: bool = True,
    tolerance: float = 0.01,
    most_passes: int = _MOST_PASSES,
    progress: Callable[[float], None] | None = None,
) -> JointSolution:
    """Solve for beam, flat and exposure scales together.

    Parameters
    ----------
    exposures
        Of one LED.
    detectors
        Their signals; a sequence that loads detectors on request keeps memory small.
    spacing_mm
        Distance of the knots of the beam; default: `choose_spacing` finds one, a stiffness and a start.
    finest_mm
        Distance that finer knots may have (`permil.flat.joint.details`); default: there are none.
    stiffness
        Of the beam; default: the one with the largest evidence, which takes some time when there are many knots.
    start
        Where to begin (`choose_spacing` finds one), which saves passes; used where it has the patterns of this solution.
    reflection
        Fit a pattern that moves against the projector.
    position_errors
        Fit an error of each stage move; its size is estimated.
    geometry
        Fit rotation and scale of the stage's axes.
    with_drift
        Whether the photodiode may drift.
    with_weather
        Whether the pattern of the light may change from exposure to exposure (`permil.flat.joint.weather`). Where it does, its coefficients
        become unknowns.
    boards
        Readout boards, whose gains change with temperature and time (`permil.flat.joint.gains.board_terms`); default: none do.
    amplifiers
        Number of the amplifier of each super-pixel of each detector, shape (p,). Where they are given, steps of their gains are sought
        (`permil.flat.joint.gain_steps`), and their sizes become unknowns.
    threshold
        Standard deviations beyond which single signals are down-weighted (Huber).
    leave_out
        Leave out exposures, and photodiode readings, that do not fit.
    tolerance
        Largest Newton decrement.
    most_passes
        Passes through the data.
    progress
        Called after each detector in each pass with the share of the whole that is done; how many passes it takes is a guess.

    Returns
    -------
    JointSolution
        ``log_response`` is the logarithm of the flat on the super-pixels of each detector, mean 0 over all of them; ``log_scales`` those of
        the exposures; ``log_beam(ux, uy)`` that of the beam; ``certificate`` says how near the optimum is.

    Raises
    ------
    FlatError
        If there are too few exposures, or it does not converge.

    Examples
    --------
    >>> import numpy as np, permil
    >>> x, y = (axis.ravel() for axis in np.meshgrid(np.linspace(-20, 20, 12), np.linspace(-20, 20, 12)))
    >>> cx, cy = (axis.ravel() for axis in np.meshgrid(np.linspace(-25, 25, 6), np.linspace(-25, 25, 6)))
    >>> light = 0.01 * np.sin(x) - ((x - cx[:, None]) ** 2 + (y - cy[:, None]) ** 2) / 4000
    >>> exposures = permil.ExposureList(cx, cy, np.zeros(36), np.arange(36.0))
    >>> detector = permil.DetectorSignals("mine", x, y, range(36), light, np.full(light.shape, 1e-6))
    >>> solution = permil.solve_joint(exposures, [detector], spacing_mm=15.0)
    >>> solution.certificate.converged
    True
    """
    if spacing_mm is None:
        choice = choose_spacing(exposures, detectors)
        spacing_mm, stiffness, start = choice.spacing_mm, choice.stiffness, choice.start
    exposures = epochs_of_readout(exposures, detectors)
    model = make_model(
        exposures,
        detectors,
        spacing_mm=spacing_mm,
        reflection=reflection,
        position_errors=position_errors,
        geometry=geometry,
        boards=boards,
    )
    fine = None if finest_mm is None else detail_grid(model.patterns[0].grid, finest_mm)
    some = detectors if fine is None else thinned(detectors, model.patterns[0].grid.spacing)
    refinement = _Refinement(
        Solver(model, some, threshold, with_drift, stiffness, start=start, is_first=fine is not None),
        detectors,
        _stages(progress, _SHARE_OF_STAGE if fine is None else _SHARE_BEFORE_DETAILS),
        leave_out,
        tolerance,
        most_passes,
        detail_weights=np.ones(len(exposures)),
    )
    refinement.iterate()
    if fine is not None:
        refinement.add_details(fine)
    if with_weather:
        refinement.look_for_weather()
    if amplifiers:
        refinement.look_for_gain_steps(amplifiers)
    return refinement.solution if fine is None else refinement.with_final_details(fine)


@dataclass
class _Refinement:
    """A solution that is iterated to its optimum, again after each addition of unknowns.

    Parameters
    ----------
    solver
        The solver with the unknowns so far.
    detectors
        All signals; a first solver may have a part of them.
    stage
        Begins the next part of the solution and returns its progress.
    leave_out, tolerance, most_passes
        See `solve_joint`.
    detail_weights
        Weights of the exposures with which the errors from the fine structure of the beam were computed.
    """

    solver: Solver
    detectors: Sequence[DetectorSignals]
    stage: Callable[[], Callable[[float], None] | None]
    leave_out: bool
    tolerance: float
    most_passes: int
    detail_weights: FloatArray
    detail_errors: DetailErrors = field(default_factory=DetailErrors)
    solution: JointSolution = field(init=False)

    def iterate(self) -> None:
        """Iterate to the optimum with the unknowns of the solver."""
        self.solver.progress = self.stage()
        found = _iterate(self.solver, judge=self.leave_out, tolerance=self.tolerance, most_passes=self.most_passes)
        same = (found.exposure_weights == self.detail_weights).all()
        self.solution = replace(found, detail_errors=self.detail_errors if same else replace(self.detail_errors, band=None))

    def add_details(self, fine: SplineGrid) -> None:
        """Add the fine structure of the beam, from all signals."""
        self.solver, detailed = _with_details(self.solver, self.solution, self.detectors, fine, self.stage())
        self.detail_errors, self.detail_weights = detailed.detail_errors, detailed.exposure_weights
        self.solver = self.solver.with_details(detailed, self.detectors)
        self.solver.judge_again()
        self.iterate()

    def look_for_weather(self) -> None:
        """Add the coefficients of weather if there is weather and they are not too many."""
        solver, solution = self.solver, self.solution
        if solver.model.size + len(PATTERNS) * len(solver.model.exposures) > MOST_UNKNOWNS:
            return
        frame = frame_of(self.detectors, solver.model.centres(solution.vector), _lightest(solution))
        further = solver.with_weather(frame)
        # Its curvature is not needed again.
        solver.refresh()
        freedom = solution.freedom
        weather = further.measure_weather(frame, solution.objective - freedom - _SCATTER * (2 * freedom) ** 0.5)
        if not weather.found:
            self.solution = replace(solution, weather=weather)
            return
        further.judge_again()
        self.solver = further
        self.iterate()

    def look_for_gain_steps(self, amplifiers: Mapping[str, IntArray]) -> None:
        """Add steps of the gains of amplifiers that are found in the residuals."""
        for _ in range(_ROUNDS_OF_STEPS):
            steps = new_steps(self.solution, self.detectors, amplifiers)
            if not steps:
                return
            self.solver = self.solver.with_steps(steps)
            self.solver.judge_again()
            weather = self.solution.weather
            self.iterate()
            if weather is not None and not weather.found:
                # Steps may have hidden the weather.
                self.look_for_weather()
            echoes = ~are_steps(self.solution)
            if echoes.any():
                self.solver = self.solver.without_steps(echoes)
                self.iterate()

    def with_final_details(self, fine: SplineGrid) -> JointSolution:
        """Return the solution with the fine structure of the beam for the final coarse part, and its tests."""
        solution = solve_details(
            self.solution, self.detectors, fine, estimate_stiffness=False, tolerance=self.tolerance, progress=self.stage()
        )
        tests = exposure_tests(
            solution.model,
            self.detectors,
            solution.vector,
            solution.prior,
            threshold=solution.threshold,
            exposure_weights=solution.exposure_weights,
        )
        return replace(solution, tests=tests)


def _with_details(
    solver: Solver,
    solution: JointSolution,
    detectors: Sequence[DetectorSignals],
    fine: SplineGrid,
    progress: Callable[[float], None] | None,
) -> tuple[Solver, JointSolution]:
    """Return a solution with the fine structure of the beam from all signals, and a solver with its curvature.

    Where the solution is from a part of the signals, the fine structure is first found from these.
    """
    detailed = solve_details(solution, solver.detectors, fine, estimate_stiffness=True, progress=progress)
    if detectors is solver.detectors:
        return solver, detailed
    solver = solver.with_details(detailed, detectors)
    solver.steady = True
    near = _iterate(solver, judge=False, tolerance=np.inf, most_passes=1)
    return solver, solve_details(near, detectors, fine, estimate_stiffness=True)


def _stages(progress: Callable[[float], None] | None, share_of_rest: float) -> Callable[[], Callable[[float], None] | None]:
    """Return a function that begins the next part of a solution and returns its progress: each takes a share of the remaining work."""
    begun = 0

    def stage() -> Callable[[float], None] | None:
        nonlocal begun
        first = 1.0 - (1.0 - share_of_rest) ** begun
        begun += 1
        return None if progress is None else lambda share: progress(first + (1.0 - first) * share_of_rest * share)

    return stage


def _lightest(solution: JointSolution) -> FloatArray:
    """Return the centre of the beam in its own coordinates, mm."""
    grid = solution.model.patterns[0].grid
    x, y = np.meshgrid(*(np.linspace(*ends, _LATTICE) for ends in zip(grid.lower, grid.upper, strict=True)), indexing="ij")
    logarithm = solution.log_beam(x, y)
    return centroid(x, y, np.exp(logarithm - np.nanmax(logarithm)))


def solve_again(
    solution: JointSolution,
    detectors: Sequence[DetectorSignals],
    *,
    held_out: BoolArray,
    tolerance: float = 0.01,
    near: float = NEAR,
) -> JointSolution:
    """Solve without some exposures, starting from a solution and with its prior.

    Parameters
    ----------
    held_out : ndarray of bool, shape (n,)
        Exposures that have no effect, besides those that the solution left out. Their fit is still tested.
    tolerance
        See `solve_joint`.
    near
        How far, in standard errors, the solution may be from where its curvature was computed: the errors are those of there.
    """
    solver = Solver(solution.model, detectors, solution.threshold, True, near=near, held_out=held_out)
    solver.vector, solver.prior, solver.steady = solution.vector.copy(), solution.prior, True
    solver.exposure_weights = np.where(held_out, LEFT_OUT, solution.exposure_weights)
    solver.prior = replace(solution.prior, has_photodiode=solution.prior.has_photodiode & ~held_out)
    return _iterate(solver, judge=False, tolerance=tolerance, most_passes=_MOST_PASSES)


def _iterate(solver: Solver, *, judge: bool, tolerance: float, most_passes: int) -> JointSolution:
    """Take Newton steps until the decrement is small and nothing else changes."""
    first_norm, decrement, number = np.nan, np.inf, 0
    descent = Descent()
    if solver.judges_first:
        solver.advance(judge=judge)
    while True:
        number += 1
        made = solver.curvatures
        equations, curvature = _pass(solver, robust=number > 1 or solver.begun or solver.steady)
        prior_pull = solver.prior.gradient(solver.vector)
        pull = equations.gradient + prior_pull
        norm = curvature.relative_norm(pull)
        first_norm = norm if number == 1 else first_norm
        step, before = curvature.solve(pull), decrement
        decrement = max(float(pull @ step), 0.0) ** 0.5
        if number == most_passes or (decrement <= tolerance and solver.steady):
            break
        if solver.steady:
            is_fresh = solver.curvatures != made
            here = Place(solver.vector, equations.objective, prior_pull, pull, step, solver.curvatures, is_fresh)
            solver.vector, again = descent.next(here)
        else:
            solver.vector, again = solver.vector + step, decrement > max(_CONTRACTION * before, _SMALL)
            again = again and not solver.is_settling
        if again:
            solver.refresh()
        solver.advance(judge=judge)
        # The largest things in memory: the solver makes others.
        del equations, curvature
    if decrement > max(_FARTHEST, tolerance) or not solver.steady:
        raise FlatError(
            f"the joint solution did not converge: {decrement:.3g} standard errors from its optimum after {most_passes} passes",
            remedy="set a larger flat.joint.spacing_mm, or set flat.solver: divide",
            decrement=decrement,
        )
    tests = solver.tests()
    mean = np.nanmean(np.concatenate(list(equations.fits.values())))
    return JointSolution(
        model=solver.model,
        prior=solver.prior,
        vector=equations.vector,
        log_response={name: fit - mean for name, fit in equations.fits.items()},
        factor=curvature.factor,
        exposure_weights=solver.exposure_weights,
        threshold=solver.threshold,
        tests=tests,
        certificate=Certificate(decrement, norm / first_norm if first_norm > 0 else 0.0, number, tolerance),
        objective=equations.objective,
        signals=equations.signals,
        responses=equations.responses,
        weather=solver.prior.weather,
    )


def _pass(solver: Solver, *, robust: bool) -> tuple[NormalEquations, Curvature]:
    with require_determined(solver.model):
        return solver.equations(robust=robust)
