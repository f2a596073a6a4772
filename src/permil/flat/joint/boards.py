"""What a joint solution found of each readout board."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from permil.flat.joint.gains import TIME_FUNCTIONS
from permil.flat.joint.solution import JointSolution

FloatArray = NDArray[np.float64]

DOMINATED = 0.5
"""Variance of a board's gain after the fit over that before it, above which the prior dominates."""

UNUSUAL = 5.0
"""Standard errors beyond which a coefficient differs from what is expected, or a gain changes in time."""

_CONFIDENCE = 1.96


@dataclass(frozen=True)
class BoardResult:
    """Gain of one readout board against temperature and time.

    Parameters
    ----------
    name : str
    coefficient, coefficient_err : float
        Relative change of the gain (e-/adu) per deg C beyond what the reduction has applied; NaN where its temperature is not known.
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
        """Whether the prior says more of the board's gain than the signals."""
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
        """What the deviation of the coefficient from what was expected does not exceed with 95 % probability."""
        return abs(self.coefficient - self.expected) + _CONFIDENCE * self.coefficient_err


def board_results(solution: JointSolution) -> list[BoardResult]:
    """Return what a solution found of its readout boards."""
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
