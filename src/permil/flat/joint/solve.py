"""The joint solution of beam, flat and exposure scales by Newton's method on the exact objective."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from permil.errors import FlatError
from permil.flat.joint.data import DetectorSignals, ExposureList
from permil.flat.joint.exposure_tests import LEFT_OUT, exposure_tests
from permil.flat.joint.model import make_model
from permil.flat.joint.normal import NormalEquations
from permil.flat.joint.solution import Certificate, JointSolution
from permil.flat.joint.solver import Solver

FloatArray = NDArray[np.float64]


def solve_joint(
    exposures: ExposureList,
    detectors: Sequence[DetectorSignals],
    *,
    spacing_mm: float,
    stiffness: float | None = None,
    reflection: bool = False,
    position_errors: bool = True,
    geometry: bool = True,
    with_drift: bool = True,
    threshold: float = 6.0,
    leave_out: bool = True,
    tolerance: float = 0.01,
    most_passes: int = 20,
    progress: Callable[[str], None] | None = None,
) -> JointSolution:
    """Solve for beam, flat and exposure scales together.

    Parameters
    ----------
    exposures
        Of one LED.
    detectors
        Their signals; a sequence that loads a detector when asked for it keeps memory small.
    spacing_mm
        Distance of the knots of the beam (`choose_spacing` finds one).
    stiffness
        Of the beam; default: the one with the largest evidence, which takes some time when there are many knots.
    reflection
        Fit a pattern that moves against the projector.
    position_errors
        Fit an error of each stage move; its size is estimated.
    geometry
        Fit rotation and scale of the stage's axes.
    with_drift
        Whether the photodiode may drift.
    threshold
        Single signals are down-weighted beyond so many standard deviations (Huber).
    leave_out
        Leave out exposures, and photodiode readings, that do not fit.
    tolerance
        Largest Newton decrement.
    most_passes
        Passes through the data.
    progress
        Called with the name of each detector in each pass.

    Raises
    ------
    FlatError
        If there are too few exposures, or it does not converge.
    """
    model = make_model(
        exposures, detectors, spacing_mm=spacing_mm, reflection=reflection, position_errors=position_errors, geometry=geometry
    )
    solver = Solver(model, detectors, threshold, with_drift, progress, stiffness)
    return _iterate(solver, judge=leave_out, tolerance=tolerance, most_passes=most_passes)


def solve_again(
    solution: JointSolution,
    detectors: Sequence[DetectorSignals],
    *,
    held_out: NDArray[np.bool_],
    tolerance: float = 0.01,
    most_passes: int = 20,
) -> JointSolution:
    """Solve without some exposures, starting from a solution and with its prior.

    Parameters
    ----------
    held_out : ndarray of bool, shape (n,)
        Exposures that have no effect, besides those that the solution left out. Their fit is still tested.
    """
    solver = Solver(solution.model, detectors, solution.threshold, True, None)
    solver.vector, solver.prior, solver.steady = solution.vector.copy(), solution.prior, True
    solver.exposure_weights = np.where(held_out, LEFT_OUT, solution.exposure_weights)
    solver.prior = replace(solution.prior, has_photodiode=solution.prior.has_photodiode & ~held_out)
    return _iterate(solver, judge=False, tolerance=tolerance, most_passes=most_passes)


def _iterate(solver: Solver, *, judge: bool, tolerance: float, most_passes: int) -> JointSolution:
    """Take Newton steps until the decrement is small and nothing else changes."""
    first_norm, decrement = np.nan, np.inf
    for number in range(most_passes):
        # The largest things in memory: let go of them before the next pass makes them again.
        latest = None
        latest = _pass(solver, robust=number > 0 or solver.steady)
        first_norm = latest.norm if number == 0 else first_norm
        step = linalg.cho_solve((latest.factor, True), latest.pull)
        decrement = max(float(latest.pull @ step), 0.0) ** 0.5
        if decrement <= tolerance and solver.steady:
            break
        solver.vector = solver.vector + step
        solver.advance(judge=judge)
    else:
        raise FlatError(
            f"the joint solution did not converge: {decrement:.3g} standard errors from its optimum after {most_passes} passes",
            remedy="look at the exposures with large residuals, or allow more passes",
            decrement=decrement,
        )
    tests = exposure_tests(
        solver.model,
        solver.detectors,
        solver.vector,
        solver.prior,
        threshold=solver.threshold,
        exposure_weights=solver.exposure_weights,
    )
    equations = latest.equations
    mean = np.nanmean(np.concatenate(list(equations.fits.values())))
    return JointSolution(
        model=solver.model,
        prior=solver.prior,
        vector=equations.vector,
        log_response={name: fit - mean for name, fit in equations.fits.items()},
        factor=latest.factor,
        exposure_weights=solver.exposure_weights,
        threshold=solver.threshold,
        tests=tests,
        certificate=Certificate(decrement, latest.norm / first_norm, number + 1, tolerance),
        objective=equations.objective,
        signals=equations.signals,
        responses=equations.responses,
    )


@dataclass(frozen=True)
class _Pass:
    """What a pass through the data gives: equations, Cholesky factor of the curvature, pull, norm of the gradient."""

    equations: NormalEquations
    factor: FloatArray
    pull: FloatArray
    norm: float


def _pass(solver: Solver, *, robust: bool) -> _Pass:
    equations = solver.equations(robust=robust)
    try:
        if not solver.steady:
            solver.estimate_prior(equations)
        return _Pass(equations, *solver.factorise(equations))
    except linalg.LinAlgError as error:
        raise FlatError(
            f"{len(solver.model.exposures)} exposures do not determine {solver.model.size} unknowns ({error})",
            remedy="set a larger flat.joint.spacing_mm, scan more positions, or set flat.solver: divide",
            unknowns=solver.model.size,
        ) from error
