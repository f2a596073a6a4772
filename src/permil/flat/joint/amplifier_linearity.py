"""Non-linearity of amplifiers from the residuals of a joint solution: their differences, and the effect of their mean on the flat.

A non-linear response lowers the logarithm of a signal by ``k d / d_0``, with the signal ``d``, the reference ``d_0`` (50,000
electrons) and the loss ``k`` of the amplifier. The response of a super-pixel absorbs the mean of this over exposures. With a steady lamp
the loss common to all amplifiers is equivalent to another beam, ``B (1 - k B)``, but amplifiers at different places in the same beam
reveal the differences of their losses. With the regressor ``x = -d / d_0`` minus its weighted mean over the exposures of each
super-pixel, the rows ``X`` of all other unknowns and their covariance ``V``, the information of the signals on the losses and its score are

    I = x' W x - x' W X V X' W x,      h = x' W r,

with the residuals ``r`` of the solution. Nothing is solved again. Structure of the beam finer than the knots leaves residuals common to an
exposure: errors are increased by the scatter of the loss between stage moves.

If the beam has fine structure (`permil.flat.joint.details`), ``V`` of coarse knots takes it as known. With the equations ``H`` of fine
knots, ``x' W X H^-1 X' W x v`` is one solution for each combination ``v`` of losses. The two differ in few combinations: those of the space
that Lanczos' method (1950) spans from ``h``, with the information of coarse knots as metric.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import NamedTuple, overload

import numpy as np
from scipy import linalg

from permil.arrays import BoolArray, FloatArray, IntArray
from permil.flat.joint.covariance import CorrelatedModes, FlatCovariance
from permil.flat.joint.data import DetectorSignals
from permil.flat.joint.details import fine_equations
from permil.flat.joint.factor import inverse_of
from permil.flat.joint.normal import DetectorRows
from permil.flat.joint.solution import JointSolution

REFERENCE_ELECTRONS = 50_000.0
"""Signal at which losses are given."""

USUAL_LOSS = 2e-3
"""Prior standard deviation of a loss at the reference: acceptance tests and linearity tables leave 1 to 3 per mil."""

SIGNIFICANT = 5.0
"""Standard errors beyond which the loss of an amplifier differs from the mean."""

_HARMLESS = 1e-6
"""Fraction of the prior's information up to which a negative eigenvalue of the signals' information is set to 0."""

_MOST_COMBINATIONS = 48
"""Combinations of losses in which the fine structure of the beam is unknown."""

_NO_MORE = 5e-3
"""Share of the information on a further combination that ends the search."""

_TOLERANCE = 0.02
"""Tolerance of solutions with fine knots, in standard errors, for a combination of losses one error from zero."""

_MOST_MODES = 160
"""Largest number of modes of the errors of losses: all of ten detectors."""


@dataclass(frozen=True)
class DetailLosses:
    """Combinations of losses in which the fine structure of the beam is unknown.

    Parameters
    ----------
    information : ndarray, shape (n, n)
        On all losses, without the prior.
    combinations : ndarray, shape (n, m)
        Losses of each combination.
    parts : ndarray, shape (m, n)
        Part that the loss of each amplifier has in each combination.
    responses : dict
        By how much all other unknowns lower the response of each detector for each combination, shape (m, p).
    """

    information: FloatArray
    combinations: FloatArray
    parts: FloatArray
    responses: Mapping[str, FloatArray]


@dataclass(frozen=True)
class AmplifierLosses:
    """Losses of signal at the reference, relative to the mean of all amplifiers.

    Parameters
    ----------
    detector : list of str
        Of each amplifier.
    amplifier : ndarray of int, shape (n,)
        Its place among the amplifiers of the detector.
    loss : ndarray, shape (n,)
        Difference from the mean over all amplifiers.
    covariance : ndarray, shape (n, n)
        Of the differences, the prior included.
    levels : dict
        By how much the level of each detector against the mean of all is wrong (relative), for a loss of 1 that all have in common.
    whole_covariance : ndarray, shape (n, n)
        Of the losses themselves; their mean is known from the prior alone.
    coupled : ndarray, shape (n, m)
        ``X' W x`` of all other unknowns for each amplifier.
    means : dict
        Mean regressor of each super-pixel of each detector, shape (p,).
    of_details : DetailLosses, optional
        Where the fine structure of the beam is unknown.
    """

    detector: list[str]
    amplifier: IntArray
    loss: FloatArray
    covariance: FloatArray
    levels: dict[str, float]
    whole_covariance: FloatArray = field(repr=False)
    coupled: FloatArray = field(repr=False)
    means: Mapping[str, FloatArray] = field(repr=False)
    of_details: DetailLosses | None = field(default=None, repr=False)

    @property
    def places(self) -> dict[tuple[str, int], int]:
        """Place of each amplifier among the losses."""
        return _places_of(zip(self.detector, self.amplifier.tolist(), strict=True))

    def plus(self, other: AmplifierLosses) -> AmplifierLosses:
        """Return the sum with losses corrected in the signals before; the errors are those of these losses."""
        earlier = other.places
        return replace(
            self, loss=self.loss + np.array([other.loss[earlier[one]] if one in earlier else 0.0 for one in self.places])
        )

    def differ(self, *, by: float) -> bool:
        """Return whether the losses of some amplifiers differ from the mean by more than a number of standard errors."""
        return bool((np.abs(self.loss) > by * self.error).any())

    @property
    def error(self) -> FloatArray:
        """Standard errors of the differences."""
        return np.sqrt(np.diag(self.covariance))

    @property
    def scatter(self) -> float:
        """Root mean square of the differences, without the contribution of their errors."""
        return max(float(np.mean(self.loss**2)) - float(np.mean(self.error**2)), 0.0) ** 0.5

    @property
    def level_error(self) -> float:
        """Root mean square over detectors of the change of their levels by a usual common loss."""
        return USUAL_LOSS * float(np.sqrt(np.mean(np.square(list(self.levels.values())))))


def measure_losses(
    solution: JointSolution,
    detectors: Sequence[DetectorSignals],
    amplifiers: Mapping[str, IntArray],
    *,
    reference: float = REFERENCE_ELECTRONS,
    details_known: bool = False,
) -> AmplifierLosses:
    """Measure how the non-linearity of amplifiers differs.

    Parameters
    ----------
    amplifiers
        Number of the amplifier of each super-pixel of each detector, shape (p,).
    reference
        Signal at which losses are given, in the unit of the signals.
    details_known
        Take the fine structure of the beam as known, which saves some dozen solutions; losses and errors are too small then.
    """
    equations = _loss_equations(solution, detectors, amplifiers, reference)
    information = _not_negative(np.diag(equations.diagonal) - solution.factor.products(equations.coupled.T))
    prior = np.eye(len(equations.owners)) * USUAL_LOSS**-2.0
    search, of_details = None, None
    if solution.model.details is not None and not details_known:
        search = _DetailSearch(solution, detectors, amplifiers, reference, _places_of(equations.owners))
        of_details = search.losses(equations.diagonal, information, equations.pull)
        information = of_details.information
    loss = linalg.solve(information + prior, equations.pull, assume_a="pos", overwrite_a=True, check_finite=False)
    if search is None:
        better, levels = _solution_and_levels(solution, equations, loss)
    else:
        better, levels = search.solution_with(loss), search.levels(np.ones(len(loss)))
    found = dict(zip(equations.owners, zip(loss, equations.diagonal, strict=True), strict=True))
    excess = _excess(better, detectors, amplifiers, reference, found)
    covariance = inverse_of(np.linalg.cholesky(information / excess + prior))
    likeliest = covariance @ equations.pull / excess
    common = float(np.mean(list(levels.values()))) if levels else 0.0
    return AmplifierLosses(
        [name for name, _ in equations.owners],
        np.array([number for _, number in equations.owners], dtype=np.int64),
        likeliest - (likeliest.mean() if equations.owners else 0.0),
        _of_differences(covariance),
        {name: level - common for name, level in levels.items()},
        covariance,
        equations.coupled,
        equations.means,
        of_details,
    )


class _LossEquations(NamedTuple):
    """Equations of the losses of all lit amplifiers, by detector and number.

    ``diagonal``, ``pull``: ``x' W x`` and ``x' W r`` of each; ``coupled``: ``X' W x``, a row for each; ``means``: see `AmplifierLosses`;
    ``levels``: for each detector with light, the change of its mean response by a loss of 1, other unknowns known, and the gradient of the
    mean response with respect to them.
    """

    owners: list[tuple[str, int]]
    diagonal: FloatArray
    pull: FloatArray
    coupled: FloatArray
    means: dict[str, FloatArray]
    levels: dict[str, tuple[float, FloatArray]]


def _loss_equations(
    solution: JointSolution, detectors: Sequence[DetectorSignals], amplifiers: Mapping[str, IntArray], reference: float
) -> _LossEquations:
    """Return the equations of the losses, summed over the signals at a solution."""
    rows: list[FloatArray] = []
    owners: list[tuple[str, int]] = []
    known: list[tuple[float, float]] = []
    levels: dict[str, tuple[float, FloatArray]] = {}
    means: dict[str, FloatArray] = {}
    for detector in detectors:
        signals = _Signals.of(solution, detector, amplifiers[detector.name], reference)
        derivatives = DetectorRows(solution.model, detector, solution.vector, signals.residual, signals.weights)
        for number, chosen in signals.members():
            x, w, r = (part[:, chosen] for part in (signals.regressor, signals.weights, signals.residual))
            owners.append((detector.name, number))
            known.append((float(np.sum(w * x**2)), float(np.sum(w * x * r))))
            rows.append(_gradient(derivatives, solution.model.size, signals.regressor, chosen))
        means[detector.name] = signals.means
        if signals.lit.any():
            levels[detector.name] = signals.level, _gradient(derivatives, solution.model.size, signals.shares())
    diagonal, pull = np.array(known).reshape(-1, 2).T
    return _LossEquations(owners, diagonal, pull, np.array(rows).reshape(len(rows), solution.model.size), means, levels)


def _solution_and_levels(
    solution: JointSolution, equations: _LossEquations, loss: FloatArray
) -> tuple[JointSolution, dict[str, float]]:
    """Return the solution from signals corrected for losses, and the change of each detector's level by a loss of 1 of all amplifiers."""
    coupled = equations.coupled
    change, unknowns = (solution.factor.solve(of_losses) for of_losses in (coupled.T @ loss, coupled.sum(axis=0)))
    levels = {name: mean - float(row @ unknowns) for name, (mean, row) in equations.levels.items()}
    return replace(solution, vector=solution.vector - change), levels


class LinearisedSignals(Sequence[DetectorSignals]):
    """Signals of detectors, corrected for the losses of their amplifiers.

    Parameters
    ----------
    detectors
        As measured.
    losses : AmplifierLosses
    amplifiers
        Number of the amplifier of each super-pixel of each detector, shape (p,).
    reference
        Signal at which losses are given.
    """

    def __init__(
        self,
        detectors: Sequence[DetectorSignals],
        losses: AmplifierLosses,
        amplifiers: Mapping[str, IntArray],
        *,
        reference: float = REFERENCE_ELECTRONS,
    ) -> None:
        self._detectors, self._losses, self._amplifiers, self._reference = detectors, losses, amplifiers, reference

    def __len__(self) -> int:
        """Return the number of detectors."""
        return len(self._detectors)

    @overload
    def __getitem__(self, index: int) -> DetectorSignals: ...

    @overload
    def __getitem__(self, index: slice) -> LinearisedSignals: ...

    def __getitem__(self, index: int | slice) -> DetectorSignals | LinearisedSignals:
        """Return the signals of a detector, or some of the detectors."""
        found = self._detectors[index]
        if not isinstance(found, DetectorSignals):
            return LinearisedSignals(found, self._losses, self._amplifiers, reference=self._reference)
        of_amplifier = {
            number: loss
            for name, number, loss in zip(
                self._losses.detector, self._losses.amplifier.tolist(), self._losses.loss.tolist(), strict=True
            )
            if name == found.name
        }
        loss = np.array([of_amplifier.get(number, 0.0) for number in self._amplifiers[found.name].tolist()])
        with np.errstate(invalid="ignore", over="ignore"):
            lost = loss * np.exp(found.log_signal) / self._reference
        return replace(found, log_signal=found.log_signal + lost)


def errors_with_losses(
    losses: AmplifierLosses,
    errors: FlatCovariance,
    modes: CorrelatedModes,
    amplifiers: Mapping[str, IntArray],
    rows: Mapping[str, FloatArray],
    shared: Mapping[str, FloatArray],
) -> tuple[CorrelatedModes, dict[str, FloatArray], FloatArray]:
    """Return modes, covariances within detectors, and that of all planes, with the errors of losses that were measured and corrected.

    A wrong loss moves the response of its own super-pixels by the mean of ``x``, and that of all through the other unknowns. It
    is measured from residuals, which do not depend on the errors for known losses.

    Parameters
    ----------
    modes, shared
        For known losses.
    rows
        Weights of the sums of `FlatCovariance.modes_and_shared`.
    """
    strength, directions = np.linalg.eigh(losses.whole_covariance)
    root = directions * np.sqrt(np.maximum(strength, 0.0))
    own = {name: root[_places_in(losses.places, name, amplifiers[name])].T * losses.means[name] for name in modes.patterns}
    if (of_details := losses.of_details) is not None:
        combined = of_details.parts @ root
        own = {name: change - combined.T @ of_details.responses[name] for name, change in own.items()}
        root = root - of_details.combinations @ combined
    solved = errors.solution.factor.solve(losses.coupled.T @ root)
    has_response = {name: np.isfinite(modes.independent[name]) for name in modes.patterns}
    pixels = sum(int(lit.sum()) for lit in has_response.values())
    mean = sum(own[name][:, lit].sum(axis=1) for name, lit in has_response.items()) / pixels
    patterns = {
        name: np.where(has_response[name], own[name] - np.reshape(mean, (-1, 1)) + change, 0.0)
        for name, change in errors.responses_to(solved)
    }
    gram = sum(pattern @ pattern.T for pattern in patterns.values())
    size, turn = np.linalg.eigh(gram)
    kept = turn[:, ::-1][:, :_MOST_MODES].T
    beyond = {
        name: np.maximum(np.square(pattern).sum(axis=0) - np.square(kept @ pattern).sum(axis=0), 0.0)
        for name, pattern in patterns.items()
    }
    together = CorrelatedModes(
        {name: np.vstack([pattern, kept @ patterns[name]]) for name, pattern in modes.patterns.items()},
        {name: variance + beyond[name] for name, variance in modes.independent.items()},
        {name: remainder + beyond[name] for name, remainder in modes.remainder.items()},
        np.concatenate([modes.variance, size[::-1][:_MOST_MODES] / pixels]),
        modes.total + float(size.sum()) / pixels,
    )
    within = {name: own + (sums := rows[name] @ patterns[name].T) @ sums.T for name, own in shared.items()}
    of_planes = np.vstack([operator @ patterns[name].T for name, operator in errors.plane_operators()])
    return together, within, errors.plane_covariance() + of_planes @ of_planes.T


def _of_differences(covariance: FloatArray) -> FloatArray:
    """Return the covariance of the differences from the mean."""
    if not len(covariance):
        return covariance
    means = covariance.mean(axis=0)
    return np.asarray(covariance - means - means[:, None] + means.mean())


def _not_negative(information: FloatArray) -> FloatArray:
    """Return information without negative eigenvalues, which result from a factor with slightly different weights."""
    # Eigenvalues that are negative by rounding, or small beside the prior, do no harm: a factor takes a thirtieth of the time.
    with suppress(np.linalg.LinAlgError):
        np.linalg.cholesky(information + _HARMLESS * USUAL_LOSS**-2.0 * np.eye(len(information)))
        return information
    strength, directions = np.linalg.eigh(information)
    return np.asarray((directions * np.maximum(strength, 0.0)) @ directions.T)


def _places_of(owners: Iterable[tuple[str, int]]) -> dict[tuple[str, int], int]:
    """Return the place among the losses of each amplifier, by its detector and number."""
    return {owner: place for place, owner in enumerate(owners)}


def _places_in(places: Mapping[tuple[str, int], int], name: str, amplifier: IntArray) -> IntArray:
    """Return the place among the losses of the amplifier of each super-pixel; the first one where there is no light."""
    return np.array([places.get((name, number), 0) for number in amplifier.tolist()], dtype=np.int64)


class _DetailSearch:
    """Search for the combinations of losses whose information is reduced by the fine structure of the beam."""

    def __init__(
        self,
        solution: JointSolution,
        detectors: Sequence[DetectorSignals],
        amplifiers: Mapping[str, IntArray],
        reference: float,
        places: Mapping[tuple[str, int], int],
    ) -> None:
        self._equations = fine_equations(solution, detectors)
        self._names = [one.name for one in detectors]
        self._signals = [_Signals.of(solution, one, amplifiers[one.name], reference) for one in detectors]
        self._places = [_places_in(places, one.name, amplifiers[one.name]) for one in detectors]

    def losses(self, diagonal: FloatArray, information: FloatArray, pull: FloatArray) -> DetailLosses:
        """Return the combinations of losses that depend on the fine structure.

        Parameters
        ----------
        diagonal
            Information on each loss, all other unknowns known.
        information
            The fine structure known; without negative eigenvalues.
        pull
            ``h``.
        """
        least = USUAL_LOSS**-2.0
        metric = information + least * np.eye(len(pull))
        root = np.linalg.cholesky(metric)
        basis, further = np.zeros((0, len(pull))), linalg.solve_triangular(root, pull, lower=True)
        found: list[tuple[FloatArray, FloatArray, FloatArray, FloatArray]] = []
        responses: dict[str, list[FloatArray]] = {name: [] for name in self._names}
        for _ in range(min(_MOST_COMBINATIONS, len(pull))):
            basis = np.vstack([basis, further / np.linalg.norm(further)])
            combination = linalg.solve_triangular(root, basis[-1], lower=True, trans="T")
            row = self._row(combination)
            solved, rest = self._equations.solve_and_rest(row, _TOLERANCE, 0.0)
            found.append((combination, row, solved, rest))
            left = (diagonal + least) * combination
            for name, signals, places, change in zip(
                self._names, self._signals, self._places, self._equations.changes(solved), strict=True
            ):
                left -= np.bincount(places, np.einsum("ep,ep,ep->p", signals.weights, signals.regressor, change), len(pull))
                responses[name].append(signals.mean_of(change))
            further = linalg.solve_triangular(root, left, lower=True)
            for _ in range(2):
                further -= basis.T @ (basis @ further)
            if np.linalg.norm(further) < _NO_MORE:
                break
        combinations, rows, solutions, rests = (np.array(part) for part in zip(*found, strict=True))
        # Its error is of second order in the rests.
        taken = rows @ solutions.T + solutions @ rests.T
        known = (combinations * (diagonal + least)) @ combinations.T - (taken + taken.T) / 2
        parts = combinations @ metric
        return DetailLosses(
            metric + parts.T @ (known - np.eye(len(known))) @ parts - least * np.eye(len(pull)),
            combinations.T,
            parts,
            {name: np.array(changes) for name, changes in responses.items()},
        )

    def solution_with(self, loss: FloatArray) -> JointSolution:
        """Return the solution from signals corrected for losses."""
        return self._equations.solution_after(-self._equations.solve(self._row(loss), _TOLERANCE))

    def levels(self, loss: FloatArray) -> dict[str, float]:
        """Return the change of the mean response of each detector by uncorrected losses."""
        changes = self._equations.changes(self._equations.solve(self._row(loss), _TOLERANCE))
        return {
            name: float((signals.means * loss[places] - signals.mean_of(change))[signals.lit].mean())
            for name, signals, places, change in zip(self._names, self._signals, self._places, changes, strict=True)
            if signals.lit.any()
        }

    def _row(self, loss: FloatArray) -> FloatArray:
        """Return ``R'`` times losses."""
        return self._equations.row_of(
            [signals.regressor * loss[places] for signals, places in zip(self._signals, self._places, strict=True)]
        )


def _excess(
    better: JointSolution,
    detectors: Sequence[DetectorSignals],
    amplifiers: Mapping[str, IntArray],
    reference: float,
    found: Mapping[tuple[str, int], tuple[float, float]],
) -> float:
    """Return the factor, at least 1, by which the pulls of stage moves scatter more than noise.

    Parameters
    ----------
    better
        The solution from signals corrected for losses.
    found
        Loss of each amplifier, and the information on it if all other unknowns are known.
    """
    move = better.model.move_numbers
    ratios = []
    for detector in detectors:
        own = amplifiers[detector.name]
        of_pixel = np.array([found.get((detector.name, number), (0.0, 0.0))[0] for number in own.tolist()])
        with np.errstate(invalid="ignore", over="ignore"):
            straight = detector.log_signal + of_pixel * np.exp(detector.log_signal) / reference
        signals = _Signals.of(better, replace(detector, log_signal=straight), own, reference)
        for number, chosen in signals.members():
            x, w, r = (part[:, chosen] for part in (signals.regressor, signals.weights, signals.residual))
            pulls = np.bincount(move[detector.exposures], np.sum(w * x * r, axis=1))
            ratios.append(float(np.sum(pulls**2)) / found[detector.name, number][1])
    # Noise alone gives the square of the pull of a move the size of its information.
    return max(float(np.mean(ratios)), 1.0) if ratios else 1.0


@dataclass(frozen=True)
class _Signals:
    """Signals of a detector at a solution: residuals, weights, and the regressor of a loss, shape (e, p), minus its means."""

    residual: FloatArray
    weights: FloatArray
    regressor: FloatArray
    means: FloatArray
    lit: BoolArray
    amplifier: IntArray

    @classmethod
    def of(cls, solution: JointSolution, detector: DetectorSignals, amplifier: IntArray, reference: float) -> _Signals:
        """Return the signals of a detector."""
        fit = solution.fit(detector)
        weights, total = fit.weights, fit.weights.sum(axis=0)
        lit = total > 0
        regressor = np.where(weights > 0, -np.exp(detector.log_signal - fit.residual) / reference, 0.0)
        means = np.divide((weights * regressor).sum(axis=0), total, out=np.zeros(total.size), where=lit)
        return cls(fit.residual, weights, np.where(weights > 0, regressor - means, 0.0), means, lit, amplifier)

    def mean_of(self, values: FloatArray) -> FloatArray:
        """Return weighted means over exposures, shape (p,); 0 where there is no light."""
        total = self.weights.sum(axis=0)
        return np.divide((self.weights * values).sum(axis=0), total, out=np.zeros(total.size), where=self.lit)

    def members(self) -> Iterator[tuple[int, BoolArray]]:
        """Yield the number of each amplifier that is lit, and its super-pixels."""
        for number in np.unique(self.amplifier[self.lit]):
            yield int(number), self.lit & (self.amplifier == number)

    @property
    def level(self) -> float:
        """Mean over super-pixels of the mean regressor: the change of the mean response by a loss of 1, other unknowns known."""
        return float(self.means[self.lit].mean())

    def shares(self) -> FloatArray:
        """Return the share of each signal in the mean response of the detector, over its weight."""
        total = self.weights.sum(axis=0)
        share = np.divide(1.0, total, out=np.zeros(total.size), where=self.lit) / self.lit.sum()
        return np.ascontiguousarray(np.broadcast_to(share, self.weights.shape))


def _gradient(derivatives: DetectorRows, size: int, values: FloatArray, chosen: BoolArray | None = None) -> FloatArray:
    """Return ``X' W v`` of the signals of a detector, or of some of its super-pixels, shape (size,)."""
    gradient = np.zeros(size)
    derivatives.add_gradient(gradient, values, chosen)
    return gradient
