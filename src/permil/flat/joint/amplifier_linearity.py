"""Non-linearity of amplifiers from the residuals of a joint solution: how they differ, and what they have in common does to the flat.

A response that is bent makes the logarithm of a signal lower by ``k d / d_0``, with the signal ``d``, the reference ``d_0`` (50,000
electrons) and the loss ``k`` of the amplifier. The response of a super-pixel absorbs the mean of this over exposures. What all amplifiers
have in common looks like another beam, ``B (1 - k B)``, where the lamp is steady; but amplifiers that are lit by the same beam at different
places in it tell how their losses differ. With the regressor ``x = -d / d_0``, less its weighted mean over the exposures of each
super-pixel, the rows ``X`` of all other unknowns and their covariance ``V``, the signals know of the losses

    I = x' W x - x' W X V X' W x,      h = x' W r,

with the residuals ``r`` of the solution. Nothing is solved again. A beam that the knots do not follow leaves residuals that an exposure has
in common: errors grow by the scatter between stage moves of what each of them says of a loss.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import overload

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from permil.flat.joint.covariance import CorrelatedModes, FlatCovariance
from permil.flat.joint.data import DetectorSignals
from permil.flat.joint.normal import DetectorRows, fit_detector
from permil.flat.joint.solution import JointSolution

FloatArray = NDArray[np.float64]

REFERENCE_ELECTRONS = 50_000.0
"""Signal at which losses are given."""

USUAL_LOSS = 2e-3
"""Prior standard deviation of a loss at the reference: acceptance tests and linearity tables leave 1 to 3 per mil."""

SIGNIFICANT = 5.0
"""Standard errors beyond which the loss of an amplifier differs from the mean."""

_MOST_RATIO = 0.8
"""Largest ratio of two rounds that is believed."""

_MOST_MODES = 160
"""Modes of errors of losses that are kept: all of ten detectors."""


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
        Of the losses themselves; what they have in common is known from the prior alone.
    whitened : ndarray, shape (m, n)
        ``L^-1 X' W x`` of all other unknowns, with the factor ``L`` of the solution.
    means : dict
        Mean regressor of each super-pixel of each detector, shape (p,).
    """

    detector: list[str]
    amplifier: NDArray[np.int64]
    loss: FloatArray
    covariance: FloatArray
    levels: dict[str, float]
    whole_covariance: FloatArray = field(repr=False)
    whitened: FloatArray = field(repr=False)
    means: Mapping[str, FloatArray] = field(repr=False)

    def plus(self, other: AmplifierLosses) -> AmplifierLosses:
        """Return the sum with losses that were put back into the signals before; errors are these."""
        earlier = dict(zip(zip(other.detector, other.amplifier.tolist(), strict=True), other.loss.tolist(), strict=True))
        owners = zip(self.detector, self.amplifier.tolist(), strict=True)
        return replace(self, loss=self.loss + np.array([earlier.get(owner, 0.0) for owner in owners]))

    def at_limit(self, earlier: AmplifierLosses) -> AmplifierLosses:
        """Return the limit of what is left of the losses, round after round, from this round and the one before (Aitken 1926).

        Each round leaves a part of the losses to the fine structure of the beam, a small one of most differences between amplifiers. The
        limit is the sum of a geometric series with the ratio of the two rounds.
        """
        if self.detector != earlier.detector or not np.array_equal(self.amplifier, earlier.amplifier):
            return self
        before = earlier.loss / earlier.error
        ratio = float(before @ (self.loss / self.error)) / max(float(before @ before), np.finfo(float).tiny)
        return replace(self, loss=self.loss / (1.0 - np.clip(ratio, 0.0, _MOST_RATIO)))

    def differ(self, *, by: float) -> bool:
        """Return whether the losses of some amplifiers differ from the mean by so many standard errors."""
        return bool((np.abs(self.loss) > by * self.error).any())

    @property
    def error(self) -> FloatArray:
        """Standard errors of the differences."""
        return np.sqrt(np.diag(self.covariance))

    @property
    def scatter(self) -> float:
        """Root mean square of the differences, what their errors give taken off."""
        return max(float(np.mean(self.loss**2)) - float(np.mean(self.error**2)), 0.0) ** 0.5

    @property
    def level_error(self) -> float:
        """Root mean square over detectors of what a usual common loss does to their levels."""
        return USUAL_LOSS * float(np.sqrt(np.mean(np.square(list(self.levels.values())))))


def measure_losses(
    solution: JointSolution,
    detectors: Sequence[DetectorSignals],
    amplifiers: Mapping[str, NDArray[np.int64]],
    *,
    reference: float = REFERENCE_ELECTRONS,
) -> AmplifierLosses:
    """Measure how the non-linearity of amplifiers differs.

    Parameters
    ----------
    amplifiers
        Number of the amplifier of each super-pixel of each detector, shape (p,).
    reference
        Signal at which losses are given, in the unit of the signals.
    """
    rows: list[FloatArray] = []
    owners: list[tuple[str, int]] = []
    known: list[tuple[float, float]] = []
    moved: dict[str, tuple[float, FloatArray]] = {}
    means: dict[str, FloatArray] = {}
    for detector in detectors:
        signals = _Signals.of(solution, detector, amplifiers[detector.name], reference)
        derivatives = DetectorRows(solution.model, detector, solution.vector, signals.residual, signals.weights)
        for number, chosen in signals.members():
            x, w, r = (part[:, chosen] for part in (signals.regressor, signals.weights, signals.residual))
            owners.append((detector.name, number))
            known.append((float(np.sum(w * x**2)), float(np.sum(w * x * r))))
            rows.append(_gradient(derivatives, solution.model.size, np.where(chosen, signals.regressor, 0.0)))
        means[detector.name] = signals.means
        if signals.lit.any():
            moved[detector.name] = signals.level, _gradient(derivatives, solution.model.size, signals.shares())
    matrix = np.array(rows).reshape(len(rows), solution.model.size)
    diagonal, pull = np.array(known).reshape(-1, 2).T
    whitened = linalg.solve_triangular(solution.factor, matrix.T, lower=True, check_finite=False)
    information, own = _not_negative(np.diag(diagonal) - whitened.T @ whitened), np.eye(len(rows))
    loss = np.linalg.solve(information + own * USUAL_LOSS**-2.0, pull)
    excess = _excess(solution, detectors, amplifiers, reference, owners, (loss, whitened, diagonal))
    covariance = np.linalg.inv(information / excess + own * USUAL_LOSS**-2.0)
    difference = own - 1.0 / max(len(rows), 1)
    # All amplifiers bent alike: what other unknowns and the responses make of it.
    unknowns = linalg.solve_triangular(solution.factor, whitened.sum(axis=1), lower=True, trans="T", check_finite=False)
    levels = {name: mean - float(row @ unknowns) for name, (mean, row) in moved.items()}
    common = float(np.mean(list(levels.values()))) if levels else 0.0
    return AmplifierLosses(
        [name for name, _ in owners],
        np.array([number for _, number in owners], dtype=np.int64),
        difference @ (covariance @ pull) / excess,
        difference @ covariance @ difference,
        {name: level - common for name, level in levels.items()},
        covariance,
        whitened,
        means,
    )


class StraightSignals(Sequence[DetectorSignals]):
    """Signals of detectors whose amplifiers lose signal, with the losses put back.

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
        amplifiers: Mapping[str, NDArray[np.int64]],
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
    def __getitem__(self, index: slice) -> StraightSignals: ...

    def __getitem__(self, index: int | slice) -> DetectorSignals | StraightSignals:
        """Return the signals of a detector, or some of the detectors."""
        found = self._detectors[index]
        if not isinstance(found, DetectorSignals):
            return StraightSignals(found, self._losses, self._amplifiers, reference=self._reference)
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
    amplifiers: Mapping[str, NDArray[np.int64]],
    rows: Mapping[str, FloatArray],
    shared: Mapping[str, FloatArray],
) -> tuple[CorrelatedModes, dict[str, FloatArray], FloatArray]:
    """Return modes, covariances within detectors, and that of all planes, with the errors of losses that were measured and corrected.

    A wrong loss moves the response of its own super-pixels by the mean of ``x``, and that of all by what the other unknowns make of it. It
    is measured from residuals, which do not depend on the errors for known losses.

    Parameters
    ----------
    modes, shared
        For known losses.
    rows
        Weights of the sums of `FlatCovariance.shared`.
    """
    strength, directions = np.linalg.eigh(losses.whole_covariance)
    root = directions * np.sqrt(np.maximum(strength, 0.0))
    solved = linalg.solve_triangular(errors.solution.factor, losses.whitened @ root, lower=True, trans="T", check_finite=False)
    own = {
        name: np.array([root[number] for number in _places(losses, name, amplifiers[name])]).T * losses.means[name]
        for name in modes.patterns
    }
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


def _not_negative(information: FloatArray) -> FloatArray:
    """Return information without negative eigenvalues, which a factor from slightly different weights leaves."""
    strength, directions = np.linalg.eigh(information)
    return np.asarray((directions * np.maximum(strength, 0.0)) @ directions.T)


def _places(losses: AmplifierLosses, name: str, amplifier: NDArray[np.int64]) -> list[int]:
    """Return the place among the losses of the amplifier of each super-pixel; the first one where there is no light."""
    place = {
        int(number): count
        for count, (one, number) in enumerate(zip(losses.detector, losses.amplifier, strict=True))
        if one == name
    }
    return [place.get(int(number), 0) for number in amplifier]


def _excess(
    solution: JointSolution,
    detectors: Sequence[DetectorSignals],
    amplifiers: Mapping[str, NDArray[np.int64]],
    reference: float,
    owners: Sequence[tuple[str, int]],
    found: tuple[FloatArray, FloatArray, FloatArray],
) -> float:
    """Return by how much the pulls of stage moves scatter more than noise lets them, 1 or more; losses and unknowns at their optimum.

    Parameters
    ----------
    found
        Losses, whitened rows of the other unknowns, information of each amplifier on its own.
    """
    loss, whitened, diagonal = found
    change = linalg.solve_triangular(solution.factor, whitened @ loss, lower=True, trans="T", check_finite=False)
    better = replace(solution, vector=solution.vector - change)
    place = {owner: number for number, owner in enumerate(owners)}
    move = solution.model.move_numbers
    ratios = []
    for detector in detectors:
        own = amplifiers[detector.name]
        of_pixel = np.array([loss[place[detector.name, int(one)]] if (detector.name, int(one)) in place else 0.0 for one in own])
        with np.errstate(invalid="ignore", over="ignore"):
            straight = detector.log_signal + of_pixel * np.exp(detector.log_signal) / reference
        signals = _Signals.of(better, replace(detector, log_signal=straight), own, reference)
        for number, chosen in signals.members():
            x, w, r = (part[:, chosen] for part in (signals.regressor, signals.weights, signals.residual))
            pulls = np.bincount(move[detector.exposures], np.sum(w * x * r, axis=1))
            ratios.append(float(np.sum(pulls**2)) / diagonal[place[detector.name, number]])
    # Noise alone gives the square of the pull of a move the size of its information.
    return max(float(np.mean(ratios)), 1.0) if ratios else 1.0


@dataclass(frozen=True)
class _Signals:
    """Signals of a detector at a solution: residuals, weights, and the regressor of a loss, shape (e, p), less its means."""

    residual: FloatArray
    weights: FloatArray
    regressor: FloatArray
    means: FloatArray
    lit: NDArray[np.bool_]
    amplifier: NDArray[np.int64]

    @classmethod
    def of(cls, solution: JointSolution, detector: DetectorSignals, amplifier: NDArray[np.int64], reference: float) -> _Signals:
        """Return the signals of a detector."""
        fit = fit_detector(
            solution.model,
            detector,
            solution.vector,
            threshold=solution.threshold,
            exposure_weights=solution.exposure_weights,
        )
        weights, total = fit.weights, fit.weights.sum(axis=0)
        lit = total > 0
        regressor = np.where(weights > 0, -np.exp(detector.log_signal - fit.residual) / reference, 0.0)
        means = np.divide((weights * regressor).sum(axis=0), total, out=np.zeros(total.size), where=lit)
        return cls(fit.residual, weights, np.where(weights > 0, regressor - means, 0.0), means, lit, amplifier)

    def members(self) -> Iterator[tuple[int, NDArray[np.bool_]]]:
        """Yield the number of each amplifier that is lit, and its super-pixels."""
        for number in np.unique(self.amplifier[self.lit]):
            yield int(number), self.lit & (self.amplifier == number)

    @property
    def level(self) -> float:
        """Mean over super-pixels of the mean regressor: what a loss of 1 does to the mean response, all else known."""
        return float(self.means[self.lit].mean())

    def shares(self) -> FloatArray:
        """Return the part that each signal has in the mean response of the detector, over its weight."""
        total = self.weights.sum(axis=0)
        share = np.divide(1.0, total, out=np.zeros(total.size), where=self.lit) / self.lit.sum()
        return np.ascontiguousarray(np.broadcast_to(share, self.weights.shape))


def _gradient(derivatives: DetectorRows, size: int, values: FloatArray) -> FloatArray:
    """Return ``X' W v`` of the signals of a detector, shape (size,)."""
    gradient = np.zeros(size)
    derivatives.add_gradient(gradient, values)
    return gradient
