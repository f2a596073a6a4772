"""Changes of gains in a joint solution: steps of single amplifiers, and results of the readout boards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from permil.arrays import BoolArray, FloatArray, IntArray
from permil.flat.joint.data import DetectorSignals
from permil.flat.joint.gains import TIME_FUNCTIONS, StepTerm
from permil.flat.joint.normal import fit_detector
from permil.flat.joint.solution import JointSolution

_LEAST_SIGNIFICANCE, _LEAST_CONFIRMED = 7.0, 5.0
"""Standard errors required for a step in the residuals, and then in the solution for its size."""
_LEAST_SIZE = 3e-4
"""Relative size below which a step is not reported: a beam with coarse knots leaves residuals of this size."""
_FEWEST_BESIDE = 3
"""Exposures that a step needs before and after it."""
_MOST_STEPS = 3
_FEWEST_AMPLIFIERS = 3
"""Number of amplifiers of a detector from which on their median is its common change."""
_ECHO = 0.3
"""Fraction of the largest step below which another may be its echo and is not reported."""


@dataclass(frozen=True)
class GainStep:
    """A change of one amplifier's signals against those of the other amplifiers.

    Parameters
    ----------
    detector : str
    amplifier : int
        Its place among the amplifiers of the detector.
    exposure : int
        Number of the first exposure after it.
    size, size_err : float
        Relative change of the signals, and its standard error. Where residuals show it, beam and exposure scales have absorbed a part.
    """

    detector: str
    amplifier: int
    exposure: int
    size: float
    size_err: float


def find_gain_steps(
    solution: JointSolution, detectors: Sequence[DetectorSignals], amplifiers: Mapping[str, IntArray]
) -> list[GainStep]:
    """Return the steps found in residuals of amplifiers.

    The response of a super-pixel absorbs the mean of its residuals, not their change: the difference between the weighted means before
    and after a step is its size. The place is the one with the largest likelihood ratio. Errors are raised by the scatter and the
    correlation of successive residuals that are left, so that a beam that does not fit is not taken for a step.

    Parameters
    ----------
    amplifiers
        Number of the amplifier of each super-pixel of each detector, shape (p,).
    """
    found = []
    time = solution.model.exposures.time
    weights_of = np.where(solution.left_out, 0.0, 1.0)
    for detector in detectors:
        fit = fit_detector(solution.model, detector, solution.vector, threshold=np.inf, exposure_weights=weights_of)
        order = np.argsort(time[detector.exposures], kind="stable")
        exposures = detector.exposures[order]
        members = [amplifiers[detector.name] == amplifier for amplifier in np.unique(amplifiers[detector.name])]
        weights = np.array([fit.weights[np.ix_(order, chosen)].sum(axis=1) for chosen in members])
        sums = np.array([(fit.weights * fit.residual)[np.ix_(order, chosen)].sum(axis=1) for chosen in members])
        means = np.divide(sums, weights, out=np.full(sums.shape, np.nan), where=weights > 0)
        # A step of one amplifier moves the exposure scales, and so the residuals of all others.
        common = np.zeros(len(order))
        several = (weights > 0).sum(axis=0) >= _FEWEST_AMPLIFIERS
        common[several] = np.nanmedian(means[:, several], axis=0)
        for chosen, mean, weight in zip(members, means - common, weights, strict=True):
            lit = weight > 0
            number = int(amplifiers[detector.name][chosen][0])
            for first, size, error in _steps(mean[lit], weight[lit]):
                found.append(GainStep(detector.name, number, int(exposures[lit][first]), size, error))
    # The beam carries a part of a large step over to other amplifiers.
    largest = max((abs(step.size) for step in found), default=0.0)
    return [step for step in found if abs(step.size) > _ECHO * largest]


def new_steps(
    solution: JointSolution, detectors: Sequence[DetectorSignals], amplifiers: Mapping[str, IntArray]
) -> tuple[StepTerm, ...]:
    """Return the steps found in residuals that are not yet unknowns of a solution, in the order of detectors and time."""
    exposures, known = solution.model.exposures, solution.model.gain_steps
    rank = np.argsort(np.argsort(exposures.time, kind="stable"))
    return tuple(
        StepTerm(
            step.detector,
            step.amplifier,
            step.exposure,
            amplifiers[step.detector] == step.amplifier,
            rank < rank[step.exposure],
        )
        for step in find_gain_steps(solution, detectors, amplifiers)
        if not any(
            (one.detector, one.amplifier) == (step.detector, step.amplifier)
            and abs(rank[one.exposure] - rank[step.exposure]) < _FEWEST_BESIDE
            for one in known
        )
    )


def solved_steps(solution: JointSolution) -> list[GainStep]:
    """Return the steps that are unknowns of a solution, with its sizes and errors."""
    places = solution.model.step_sizes
    sizes, errors = solution.vector[places], solution.error_of(places)
    return [
        GainStep(step.detector, step.amplifier, step.exposure, float(np.expm1(size)), float(np.exp(size) * error))
        for step, size, error in zip(solution.model.gain_steps, sizes, errors, strict=True)
    ]


def are_steps(solution: JointSolution) -> BoolArray:
    """Return whether a solution confirms each of its steps; the others were echoes."""
    return np.array(
        [abs(step.size) > max(_LEAST_CONFIRMED * step.size_err, _LEAST_SIZE) for step in solved_steps(solution)], dtype=bool
    )


def _steps(means: FloatArray, weights: FloatArray) -> list[tuple[int, float, float]]:
    """Return first place, size and error of the steps of a series in the order of time."""
    places: list[int] = []
    left = means
    while len(places) < _MOST_STEPS:
        place = _likeliest_step(left, weights, places)
        if place is None:
            break
        places.append(place)
        _, _, left = _fit_steps(means, weights, places)
    while places:
        sizes, errors, _ = _fit_steps(means, weights, places)
        significance = np.abs(sizes) / np.maximum(_LEAST_SIGNIFICANCE * errors, _LEAST_SIZE)
        if (significance > 1.0).all():
            return sorted(zip(places, sizes.tolist(), errors.tolist(), strict=True))
        del places[int(np.argmin(significance))]
    return []


def _likeliest_step(means: FloatArray, weights: FloatArray, others: Sequence[int]) -> int | None:
    """Return the place of the step with the largest likelihood ratio that is not adjacent to other steps."""
    before = np.cumsum(weights)[:-1]
    after = weights.sum() - before
    sums = np.cumsum(weights * means)[:-1]
    sizes = (np.sum(weights * means) - sums) / after - sums / before
    ratio = sizes**2 / (1.0 / before + 1.0 / after)
    places = np.arange(1, len(means))
    for edge in (0, len(means), *others):
        ratio[np.abs(places - edge) < _FEWEST_BESIDE] = 0.0
    return int(places[np.argmax(ratio)]) if ratio.any() else None


def _fit_steps(means: FloatArray, weights: FloatArray, places: Sequence[int]) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return sizes and errors of steps at some places, and the series without them."""
    number = np.arange(len(means))
    columns = np.column_stack([np.ones(len(means)), *(number >= place for place in places)])
    root = np.sqrt(weights)
    inverse = np.linalg.inv((columns.T * weights) @ columns)
    coefficients = inverse @ (columns.T @ (weights * means))
    left = means - columns @ coefficients
    deviations = left * root
    scatter = max(float(np.sum(deviations**2)) / (len(means) - len(coefficients)), 1.0)
    correlation = float(np.clip(np.sum(deviations[1:] * deviations[:-1]) / np.sum(deviations**2), 0.0, 0.95))
    errors = np.sqrt(np.diag(inverse) * scatter * (1.0 + correlation) / (1.0 - correlation))
    return coefficients[1:], errors[1:], left


DOMINATED = 0.5
"""Posterior over prior variance of a board's gain above which the prior dominates."""

UNUSUAL = 5.0
"""Standard errors beyond which a coefficient differs from its expectation, or a gain changes in time."""

_CONFIDENCE = 1.96


@dataclass(frozen=True)
class BoardResult:
    """Gain of one readout board against temperature and time.

    Parameters
    ----------
    name : str
    coefficient, coefficient_err : float
        Relative change of the gain (e-/adu) per deg C, minus the coefficient applied by the reduction; NaN if its temperature is unknown.
    expected, expected_err : float
        The same before the fit.
    change, change_err : float
        Relative change of the signals in time, from the first to the last exposure of the board, and its standard error.
    share : float
        Variance of its gain over its exposures after the fit, over that before it.
    """

    name: str
    coefficient: float
    coefficient_err: float
    expected: float
    expected_err: float
    change: float
    change_err: float
    share: float

    @property
    def is_dominated(self) -> bool:
        """Whether the prior determines the board's gain more than the signals do."""
        return self.share > DOMINATED

    @property
    def is_unusual(self) -> bool:
        """Whether the coefficient is not that expected."""
        return abs(self.coefficient - self.expected) > UNUSUAL * self.coefficient_err

    @property
    def has_changed(self) -> bool:
        """Whether its gain changes in time."""
        return abs(self.change) > UNUSUAL * self.change_err

    @property
    def limit(self) -> float:
        """Upper limit (95 %) of the deviation of the coefficient from its expectation."""
        return abs(self.coefficient - self.expected) + _CONFIDENCE * self.coefficient_err


def board_results(solution: JointSolution) -> list[BoardResult]:
    """Return the results of a solution for its readout boards."""
    model, prior = solution.model, solution.prior.boards
    if model.boards is None or prior is None:
        return []
    terms, places = model.boards, model.board_gains
    covariance, before, unknowns = solution.covariance_of(places), terms.covariance(prior.time_rms), solution.vector[places]
    results = []
    for number, name in enumerate(terms.names):
        own = np.arange(number, terms.count, len(terms.names))
        after = covariance[np.ix_(own, own)]
        values = terms.values[:, number, terms.read[number]]
        variance, prior_variance = (
            float(np.einsum("te,tu,ue->", values, each, values)) for each in (after, before[np.ix_(own, own)])
        )
        change = np.zeros(len(own))
        change[1 : 1 + TIME_FUNCTIONS] = (values[:, -1] - values[:, 0])[1 : 1 + TIME_FUNCTIONS] if values.size else 0.0
        is_blind = bool(terms.blind[number])
        coefficient, error = float(unknowns[number]), float(after[0, 0] ** 0.5)
        results.append(
            BoardResult(
                name,
                np.nan if is_blind else coefficient,
                np.nan if is_blind else error,
                terms.coefficient.centre,
                terms.coefficient.deviation,
                float(change @ unknowns[own]),
                float((change @ after @ change) ** 0.5),
                variance / prior_variance if prior_variance > 0 else 1.0,
            )
        )
    return results
