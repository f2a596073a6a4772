"""Newton's method for the joint solution: unknowns and prior between passes through the data, the curvature, and the next step.

`Solver` holds the unknowns, the prior and the exposures in use. `Curvature` factorises the normal equations with the prior,
which changes between passes. `Descent` chooses the step. With Huber weights each pass is a
step of iterated reweighting, which leaves a fixed fraction of the distance (larger if more signals are beyond the threshold). The
combination of the last steps that is smallest extrapolates them (Anderson 1965, Journal of the ACM 12, 547; Walker & Ni 2011, SIAM Journal
on Numerical Analysis 49, 1715). A step that raises objective and distance is undone: a curvature from an earlier place is recomputed;
with a new one the step is halved.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from permil.arrays import BoolArray, FloatArray
from permil.flat.joint.data import DetectorSignals
from permil.flat.joint.exposure_tests import LEFT_OUT, SHAPE_LIMIT, ExposureTests, exposure_tests
from permil.flat.joint.gains import BoardPrior, StepTerm, fit_time_rms
from permil.flat.joint.grouped import GroupedMatrix
from permil.flat.joint.knots import best_stiffness
from permil.flat.joint.model import JointModel, Start
from permil.flat.joint.normal import NormalEquations, normal_equations
from permil.flat.joint.photodiode import READING_LIMIT, PhotodiodeModel, stuck_readings
from permil.flat.joint.photodiode_fit import FEW_READINGS, MANY_READINGS, fit_photodiode, marginal
from permil.flat.joint.prior import Prior, common_deviation, roughness_of
from permil.flat.joint.solution import JointSolution
from permil.flat.joint.weather import Weather, WeatherFrame, fit_weather

_FIRST_PHOTODIODE = PhotodiodeModel(0.01, 0.01)
_FIRST_STIFFNESS = 1e4
_POSITION_ERRORS_MM = (1e-5, 0.1)
_FEWEST_READINGS = 6
NEAR = 3.0
"""Distance ``sqrt(dz' H dz)``, in standard errors, within which the curvature holds."""

SAME_ROWS, SAME_WEIGHT = 1e-2, 1e-3
"""Relative difference of the signals' rows, and of the sum of their weights, within which it holds however far away: the errors of flat
and scales then agree to 0.001, those of the beam at the edge of the light to 0.01."""

_MOST_RESTORATIONS = 2
_RESTORED = 0.8
"""Fraction of a limit below which exposures and readings that were left out are restored."""

_SAME_PHOTODIODE, _MOST_WAITS = 2e-3, 12
"""Relative change of the photodiode's noise and drift per pass below which they have converged; passes to wait for that."""

_SAME_STRENGTH = 0.02
"""Relative change of the size of position errors and of the boards' gains with which they are kept; they are found to 1 per cent."""

_USUAL_PASSES = 6
"""Passes of a solution in which nothing is left out."""

_ROUNDS = 2
"""Passes without a change of the exposures left out after which the prior is kept."""


class Solver:
    """State of the solution between passes."""

    def __init__(
        self,
        model: JointModel,
        detectors: Sequence[DetectorSignals],
        threshold: float,
        with_drift: bool,
        stiffness: float | None = None,
        *,
        start: Start | None = None,
        near: float = NEAR,
        held_out: BoolArray | None = None,
        is_first: bool = False,
        settles: bool = True,
    ) -> None:
        self.model, self.detectors, self.threshold = model, detectors, threshold
        self.with_drift = with_drift
        self.progress: Callable[[float], None] | None = None
        vector = None if start is None else start.of(model)
        self.begun = self.judges_first = vector is not None
        self.vector = model.start() if vector is None else vector
        self.exposure_weights = np.ones(len(model.exposures))
        self.steady = False
        self.curvatures = self.passes = 0
        self._near, self._held_out, self._is_first = near, held_out, is_first
        self._curvature: Curvature | None = None
        self._state: tuple[bool, bytes] | None = None
        self._rounds = 0
        self._stiffness_given = self._stiffness_known = stiffness is not None
        self._restorations = 0
        self._left_out_before = np.zeros(len(model.exposures), dtype=bool)
        self._reject_readings = False
        # Passes are not spent on the photodiode where it has settled before, or is estimated again.
        # Nor on what a first solution is made better in later.
        self._settling, self._waits = False, 0 if settles and not is_first else _MOST_WAITS
        self._most_readings, self._last_readings = FEW_READINGS, FEW_READINGS if is_first else MANY_READINGS
        self._strengths_known = False
        self._weather_settled = False
        reading = model.exposures.log_photodiode
        self._readable = np.isfinite(reading) & ~stuck_readings(reading, model.exposures.time)
        self.prior = Prior(
            model,
            (stiffness or _FIRST_STIFFNESS,) * len(model.patterns),
            _FIRST_PHOTODIODE,
            self._readable,
            stage_as_recorded=True,
            boards=None if model.boards is None else BoardPrior(model.boards),
        )

    def with_details(self, solution: JointSolution, detectors: Sequence[DetectorSignals]) -> Solver:
        """Return a solver that continues a solution with details of the beam; the photodiode is estimated again.

        Its curvature is kept while the signals stay the same: those of the coarse knots do not depend on details.
        """
        same, self.detectors = detectors is self.detectors, detectors
        return self._continued(solution.model, solution.vector, solution.prior, has_settled=False, keeps_curvature=same)

    def with_weather(self, frame: WeatherFrame) -> Solver:
        """Return a solver that continues with the coefficients of the weather as unknowns."""
        model = replace(self.model, weather_frame=frame)
        return self._continued(model, np.append(self.vector, np.zeros(model.size - self.vector.size)))

    def with_steps(self, steps: tuple[StepTerm, ...]) -> Solver:
        """Return a solver that continues with the sizes of further steps of amplifiers as unknowns."""
        model = replace(self.model, gain_steps=(*self.model.gain_steps, *steps))
        return self._continued(model, np.insert(self.vector, self.model.step_sizes.stop, np.zeros(len(steps))))

    def without_steps(self, dropped: BoolArray) -> Solver:
        """Return a solver that continues without some of the steps of amplifiers."""
        kept = tuple(step for step, is_dropped in zip(self.model.gain_steps, dropped, strict=True) if not is_dropped)
        vector = np.delete(self.vector, self.model.step_sizes.start + np.flatnonzero(dropped))
        return self._continued(replace(self.model, gain_steps=kept), vector)

    def _continued(
        self,
        model: JointModel,
        vector: FloatArray,
        prior: Prior | None = None,
        *,
        has_settled: bool = True,
        keeps_curvature: bool = False,
    ) -> Solver:
        other = Solver(model, self.detectors, self.threshold, self.with_drift, near=self._near, settles=not has_settled)
        other.vector, other.begun, other.judges_first = vector, True, True
        other.exposure_weights, other.prior = self.exposure_weights.copy(), replace(prior or self.prior, model=model)
        other._stiffness_given = other._stiffness_known = True
        other._reject_readings = self._reject_readings
        # Once the photodiode has settled they are estimated again.
        other._strengths_known = not has_settled and int(self._readable.sum()) > FEW_READINGS
        if keeps_curvature:
            other._curvature, other._state = self._curvature, self._state
        return other

    def judge_again(self) -> None:
        """Restore all exposures and readings, which may fit with other unknowns; they are tested after a step that includes them."""
        self.exposure_weights[:] = 1.0
        self.prior = replace(self.prior, has_photodiode=self._readable)
        self.judges_first, self._rounds = False, 1

    def measure_weather(self, frame: WeatherFrame, excess: float) -> Weather:
        """Return the weather in the residuals of a solution without weather; see `fit_weather`."""
        self._curvature = None
        equations = self._pass(robust=True)
        gradient = equations.gradient
        pull, known = gradient + self.prior.gradient(self.vector), Curvature(equations, self.prior)
        del equations
        information, of_signals = known.information(self.prior, gradient, pull, self.model.weather, overwrite=True)
        del known
        weather = fit_weather(self.model.exposures.time, information, of_signals, half_mm=frame.half_mm, excess=excess)
        self.prior = replace(self.prior, weather=weather)
        return weather

    def equations(self, *, robust: bool) -> tuple[NormalEquations, Curvature]:
        """Pass through the data: for the gradient alone as long as the curvature holds, else for both; estimate the prior.

        Raises
        ------
        numpy.linalg.LinAlgError
            If the unknowns are not determined.
        """
        state = (robust, self.exposure_weights.tobytes())
        if state != self._state or not self._stiffness_known:
            self._curvature = None
        is_near = self._curvature is None or self._curvature.distance(self.vector) <= self._near
        if not is_near and self._curvature is not None and self._curvature.change(self.vector) > SAME_ROWS:
            self._curvature = None
        equations = self._pass(robust=robust)
        if not is_near and self._curvature is not None and abs(equations.weight / self._curvature.weight - 1.0) > SAME_WEIGHT:
            self._curvature = None
            equations = self._pass(robust=robust)
        if self._curvature is None:
            if not (self._stiffness_known or self.steady):
                self._estimate_stiffness(equations)
            self._stiffness_known = True
            self._curvature, self._state = Curvature(equations, self.prior), state
            self.curvatures += 1
        if not self.steady:
            self._estimate_strengths(self._curvature, equations.gradient)
        self._curvature.factorise(self.prior)
        return equations, self._curvature

    def _pass(self, *, robust: bool) -> NormalEquations:
        """Pass through the data; without a curvature, also compute the matrix."""
        self.passes += 1
        return normal_equations(
            self.model,
            self.detectors,
            self.vector,
            threshold=self.threshold if robust else np.inf,
            exposure_weights=self.exposure_weights,
            held_out=self._held_out,
            with_matrix=self._curvature is None,
            progress=self._report,
        )

    def _report(self, part: float) -> None:
        """Report the completed fraction of the whole after a part of a pass."""
        if self.progress is not None:
            passes = self.passes - 1 + part
            self.progress(passes / _USUAL_PASSES if passes < _USUAL_PASSES - 1 else 1.0 - 1.0 / (passes + 1.0))

    @property
    def is_settling(self) -> bool:
        """Whether the prior of the scales changed in the last pass: the distance to the optimum changes with it."""
        return self._settling

    def refresh(self) -> None:
        """Request a new curvature in the next pass."""
        self._curvature = None

    def _estimate_strengths(self, curvature: Curvature, gradient: FloatArray) -> None:
        """Estimate photodiode, position errors, changes of the boards' gains and weather."""
        if self._readable.sum() >= _FEWEST_READINGS:
            self._estimate_photodiode(curvature, gradient)
        before = self.prior
        if self.model.position_errors and not (self.prior.stage_as_recorded or self._strengths_known):
            block = self.model.errors
            information, pull = self._information(curvature, gradient, block, self.vector[block])
            # Their mean is held: only differences count.
            size = common_deviation(_differences(_differences(information).T), _differences(pull), _POSITION_ERRORS_MM)
            self.prior = replace(self.prior, position_error_mm=size)
        if self.prior.boards is not None and not (self.prior.stage_as_recorded or self._strengths_known):
            self._estimate_boards(self.prior.boards, curvature, gradient)
        self._strengths_known = not self.prior.stage_as_recorded and (self._is_first or _are_alike(before, self.prior))
        if self.model.weather_frame is not None and not self._weather_settled:
            # Position errors and photodiode look better with weather than they did without.
            self._estimate_weather(self.model.weather_frame, curvature, gradient)
            self._weather_settled = True

    def _information(
        self, curvature: Curvature, gradient: FloatArray, block: slice, departure: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Return the information of the signals on some unknowns, and the score at these unknowns minus a departure."""
        pull = gradient + self.prior.gradient(self.vector)
        information, at_vector = curvature.information(self.prior, gradient, pull, block)
        return information, at_vector + information @ departure

    def _estimate_boards(self, boards: BoardPrior, curvature: Curvature, gradient: FloatArray) -> None:
        """Estimate the size of the change of the boards' gains in time."""
        start, times = self.model.board_gains.start, boards.terms.times
        block = slice(start + times.start, start + times.stop)
        time_rms = fit_time_rms(boards.terms, *self._information(curvature, gradient, block, self.vector[block]))
        self.prior = replace(self.prior, boards=BoardPrior(boards.terms, time_rms))

    def _estimate_weather(self, frame: WeatherFrame, curvature: Curvature, gradient: FloatArray) -> None:
        """Estimate size and correlation time of the weather again."""
        model = self.model
        known = self._information(curvature, gradient, model.weather, self.vector[model.weather])
        weather = fit_weather(model.exposures.time, *known, half_mm=frame.half_mm, before=self.prior.weather)
        self.prior = replace(self.prior, weather=weather)

    def _estimate_photodiode(self, curvature: Curvature, gradient: FloatArray) -> None:
        """Estimate noise and drift of the photodiode, and select its readings."""
        exposures, scales = self.model.exposures, self.model.scales
        read = np.flatnonzero(self._readable)
        departure = np.zeros(len(exposures))
        departure[read] = self.vector[scales][read] - exposures.log_photodiode[read]
        information, at_readings = marginal(*self._information(curvature, gradient, scales, departure), read)
        fit = fit_photodiode(
            exposures.time[read],
            exposures.regressors[read],
            information,
            at_readings,
            epoch=exposures.epoch[read],
            used=self.prior.has_photodiode[read],
            white=None if self.prior.photodiode is _FIRST_PHOTODIODE else self.prior.photodiode.white,
            with_drift=self.with_drift,
            reject=self._reject_readings,
            most_readings=self._most_readings,
        )
        has_photodiode = np.zeros(len(exposures), dtype=bool)
        has_photodiode[read] = fit.used
        if (has_photodiode != self.prior.has_photodiode).any():
            self._rounds = 0
        before, now = self.prior.photodiode, fit.model
        change = abs(np.log(now.white / before.white)), abs(now.drift - before.drift) / max(now.drift, now.white)
        self._settling = max(change) > _SAME_PHOTODIODE
        self.prior = replace(self.prior, photodiode=fit.model, has_photodiode=has_photodiode)

    def _estimate_stiffness(self, equations: NormalEquations) -> None:
        # The evidence requires the score at coefficients 0; the equations are linear in them.
        at_zero, matrix = np.zeros(self.model.size), equations.full_matrix
        for where in self.model.pattern_slices:
            at_zero[where] = self.vector[where]
        pull = equations.gradient + matrix @ at_zero + self.prior.gradient(self.vector - at_zero)
        self.prior, *_ = best_stiffness(matrix, pull, self.prior)

    def advance(self, *, judge: bool) -> None:
        """Continue after a step: test the exposures, then free the stage, then fix the prior.

        Before exposures that do not fit are left out, positions fitted to a beam that they have spoilt could lead anywhere. In each
        round exposures and readings can only be left out; what fits once nothing else changes is restored, a few times at most. So
        this ends.
        """
        if self.steady:
            return
        tests = self.tests() if judge else None
        changed = tests is not None and self._leave_out_exposures(tests)
        self._rounds = 0 if changed else self._rounds + 1
        self._strengths_known &= not changed
        if self._rounds and self.prior.stage_as_recorded:
            self.prior = replace(self.prior, stage_as_recorded=False)
            self._reject_readings = judge
            self._rounds = 0
            self._stiffness_known = self._stiffness_given
        may_restore = self._rounds >= _ROUNDS and self._restorations < _MOST_RESTORATIONS
        if tests is not None and may_restore and self._restore(tests):
            self._rounds, self._strengths_known = 0, False
        self._waits += self._settling
        is_settled = self._rounds >= _ROUNDS and not (self._settling and self._waits <= _MOST_WAITS)
        # The last estimate of the photodiode is from all that its readings say.
        self.steady = is_settled and (self._most_readings == self._last_readings or self._readable.sum() <= FEW_READINGS)
        if is_settled and self._most_readings != self._last_readings:
            self._most_readings, self._strengths_known = self._last_readings, False

    def tests(self) -> ExposureTests:
        """Test each exposure against the current solution."""
        return exposure_tests(
            self.model, self.detectors, self.vector, self.prior, threshold=self.threshold, exposure_weights=self.exposure_weights
        )

    def _leave_out_exposures(self, tests: ExposureTests) -> bool:
        """Leave out the exposures that fit worst; return whether there are any.

        Half the worst deviation is the limit of each round, since a bad exposure makes others look bad.
        """
        misfit, left_out = tests.misfit, self.exposure_weights < 0.5
        worst = misfit[~left_out].max(initial=0.0)
        bad = ~left_out & (misfit > max(SHAPE_LIMIT, worst / 2))
        self.exposure_weights[bad] = LEFT_OUT
        return bool(bad.any())

    def _restore(self, tests: ExposureTests) -> bool:
        """Restore exposures and readings that fit; return whether there are any."""
        self._restorations += 1
        left_out = self.exposure_weights < 0.5
        if self._restorations > 1 and (left_out == self._left_out_before).all():
            return False
        self._left_out_before = left_out
        # Where no other exposure lights a part of the beam, one that is left out cannot fit. Positions of which no exposure is left have a
        # second chance; of the others, and after it, only the worst stay out.
        worst = tests.misfit[left_out].max(initial=0.0)
        fits = left_out & (tests.misfit < max(_RESTORED * SHAPE_LIMIT, worst / 4))
        if self._restorations == 1:
            moves = self.model.exposures.move
            fits |= left_out & ~np.isin(moves, moves[~left_out])
        reads = self._readable & ~self.prior.has_photodiode
        reads &= np.abs(np.nan_to_num(tests.photodiode, nan=np.inf)) < _RESTORED * READING_LIMIT
        self.exposure_weights[fits] = 1.0
        if reads.any():
            self.prior = replace(self.prior, has_photodiode=self.prior.has_photodiode | reads)
        return bool(fits.any() or reads.any())


def _are_alike(one: Prior, other: Prior) -> bool:
    """Return whether position errors and changes of the boards' gains have nearly the same size."""
    ratios = [one.position_error_mm / other.position_error_mm]
    if one.boards is not None and other.boards is not None:
        ratios.append(one.boards.time_rms / other.boards.time_rms)
    return bool(np.abs(np.log(ratios)).max() < _SAME_STRENGTH)


def _differences(values: FloatArray) -> FloatArray:
    """Return values of position errors (x and y in turn along the first axis) minus their means over all moves."""
    by_move = values.reshape(-1, 2, *values.shape[1:])
    return (by_move - by_move.mean(axis=0)).reshape(values.shape)


class Curvature:
    """Factor of the normal equations with a prior, computed at one vector.

    Parameters
    ----------
    equations : NormalEquations
        Their matrix is overwritten.
    prior : Prior
        That of the unknowns.
    """

    def __init__(self, equations: NormalEquations, prior: Prior) -> None:
        self.vector, self.weight = equations.vector, equations.weight
        self._prior: Prior | None = None
        self._model = prior.model
        self._hold = prior.scale_hold(equations.matrix)
        self._matrix = GroupedMatrix.of(equations.matrix, prior.groupable)
        prior.add_to_patterns(self._matrix.matrix)
        self._stiffness = prior.stiffness

    def factorise(self, prior: Prior) -> None:
        """Compute the factor with the prior of the other unknowns.

        Raises
        ------
        numpy.linalg.LinAlgError
            If they are not determined.
        """
        if prior is self._prior:
            return
        self._follow(prior)
        self._prior, self._terms = prior, prior.terms(self._hold)
        self.factor = self._matrix.factor(self._terms)

    def _follow(self, prior: Prior) -> None:
        """Set the stiffness of the patterns to that of a prior."""
        patterns = zip(self._model.patterns, self._model.pattern_slices, prior.stiffness, self._stiffness, strict=True)
        for pattern, where, new, old in patterns:
            if new != old:
                rough = roughness_of(pattern.grid).tocoo()
                self._matrix.matrix[where, where][rough.row, rough.col] += (new - old) * rough.data
        self._stiffness = prior.stiffness

    def solve(self, pull: FloatArray) -> FloatArray:
        """Return the Newton step for a gradient."""
        return self.factor.solve(pull)

    def distance(self, vector: FloatArray) -> float:
        """Return the distance of a vector from that of the curvature, in standard errors over all unknowns."""
        step = vector - self.vector
        return max(float(step @ (self._matrix.times(step) + self._terms.times(step))), 0.0) ** 0.5

    def change(self, vector: FloatArray) -> float:
        """Return the relative difference of the signals' rows between a vector and that of the curvature.

        The rows of patterns depend on the positions in units of the knots; those of position errors, rotation and scale are slopes
        of the patterns, whose mean square is what counts.
        """
        model = self._model
        moved = np.abs(model.centres(vector) - model.centres(self.vector)).max()
        parts = [float(moved) / pattern.grid.spacing for pattern in model.patterns]
        if model.position_errors or model.geometry:
            for pattern, where in zip(model.patterns, model.pattern_slices, strict=True):
                before, change = (_roughness(part[where], pattern.grid.shape) for part in (self.vector, vector - self.vector))
                parts.append(change / before if before > 0 else np.inf)
        return max(parts)

    def relative_norm(self, gradient: FloatArray) -> float:
        """Return the norm of a gradient in the unknowns' scales."""
        return float(np.linalg.norm(gradient / np.sqrt(self._matrix.diagonal + self._terms.whole_diagonal)))

    def information(
        self, prior: Prior, gradient: FloatArray, pull: FloatArray, block: slice, *, overwrite: bool = False
    ) -> tuple[FloatArray, FloatArray]:
        """Return the information of the signals on a block of the unknowns behind the patterns, all others free within their prior.

        Parameters
        ----------
        gradient, pull : ndarray, shape (n,)
            Without and with the prior.
        overwrite
            Whether the curvature is not needed any more: its memory is used.

        Returns
        -------
        information : ndarray, shape (m, m)
        pull : ndarray, shape (m,)
            Of the signals.
        """
        self._follow(prior)
        last = np.arange(block.start, block.stop)
        right = pull.copy()
        right[last] = gradient[last]
        information, of_signals = self._matrix.without_others(prior.terms(self._hold), right[:, None], last, overwrite=overwrite)
        return information, of_signals[:, 0]


def _roughness(coefficients: FloatArray, shape: tuple[int, int]) -> float:
    """Return the root of the sum of squared differences of neighbouring coefficients."""
    grid = coefficients.reshape(shape)
    return float(np.sqrt(sum(np.square(np.diff(grid, axis=axis)).sum() for axis in (0, 1))))


_DEPTH = 6
_SMALLEST = 1e-10
"""Fraction of the largest eigenvalue of the steps' products below which directions count as dependent."""
_ROUNDING = 1e-9
"""Relative rise of the objective due to rounding."""


@dataclass(frozen=True)
class Place:
    """A vector and the results of a pass through the data there.

    Parameters
    ----------
    objective
        Of the data.
    prior_pull
        Minus the gradient of the prior, which is quadratic.
    pull, step
        Minus the gradient of all, and the Newton step that it gives: ``step = H^-1 pull``.
    curvature
        Number of the curvature ``H``.
    is_fresh
        Whether ``H`` was made there.
    """

    vector: FloatArray
    objective: float
    prior_pull: FloatArray
    pull: FloatArray
    step: FloatArray
    curvature: int
    is_fresh: bool

    @property
    def distance(self) -> float:
        """Distance to the optimum, standard errors squared."""
        return float(self.pull @ self.step)

    def rise_from(self, other: Place) -> float:
        """Return the increase of the whole objective relative to another place."""
        prior = -0.5 * float((self.prior_pull + other.prior_pull) @ (self.vector - other.vector))
        return self.objective - other.objective + prior


class Descent:
    """Descent of the objective while only the vector changes."""

    def __init__(self) -> None:
        self._last: Place | None = None
        self._differences: deque[tuple[FloatArray, FloatArray, FloatArray]] = deque(maxlen=_DEPTH)

    def next(self, here: Place) -> tuple[FloatArray, bool]:
        """Return the next vector from a place, and whether the curvature must be recomputed there."""
        last = self._last
        if last is not None and here.distance > last.distance and here.rise_from(last) > _ROUNDING * abs(last.objective):
            self._differences.clear()
            if last.is_fresh:
                return (last.vector + here.vector) / 2, False
            return last.vector, True
        if last is not None and last.curvature == here.curvature:
            self._differences.append((here.vector - last.vector, here.step - last.step, here.pull - last.pull))
        else:
            self._differences.clear()
        self._last = here
        return self._mixed(here), False

    def _mixed(self, here: Place) -> FloatArray:
        if not self._differences:
            return here.vector + here.step
        moves, steps, pulls = (np.array(each) for each in zip(*self._differences, strict=True))
        products = steps @ pulls.T
        shares = np.linalg.pinv((products + products.T) / 2, rcond=_SMALLEST, hermitian=True) @ (steps @ here.pull)
        return here.vector + here.step - shares @ (moves + steps)
