"""Where to go from pass to pass: down the objective always, and along what the last steps together say.

With Huber weights each pass is a step of iterated reweighting, which leaves a fixed share of the distance (the more signals are beyond
the threshold, the larger). The combination of the last steps that is smallest says where they lead (Anderson 1965, Journal of the ACM
12, 547; Walker & Ni 2011, SIAM Journal on Numerical Analysis 49, 1715). A step that raises objective and distance is taken back: a
curvature that was kept is made anew there, and with a fresh one the step is halved.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

_DEPTH = 6
_SMALLEST = 1e-10
"""Share of the largest eigenvalue of the steps' products below which directions are taken for one another."""
_ROUNDING = 1e-9
"""Relative rise of the objective that is rounding."""


@dataclass(frozen=True)
class Place:
    """A vector and what a pass through the data found there.

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
        """Return how much larger the whole objective is than at another place."""
        prior = -0.5 * float((self.prior_pull + other.prior_pull) @ (self.vector - other.vector))
        return self.objective - other.objective + prior


class Descent:
    """The way down while nothing changes but the vector."""

    def __init__(self) -> None:
        self._last: Place | None = None
        self._differences: deque[tuple[FloatArray, FloatArray, FloatArray]] = deque(maxlen=_DEPTH)

    def next(self, here: Place) -> tuple[FloatArray, bool]:
        """Return where to go from a place, and whether the curvature must be made again there."""
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
