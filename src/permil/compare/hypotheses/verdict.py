"""Verdict in one sentence: the effect of dividing star fluxes by this flat."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from permil.compare.errors import CompareError
from permil.compare.hypotheses.fractions import FluxChange

Outcome = Literal["corrects", "does not affect", "harms", "cannot tell"]

NEGLIGIBLE = 1e-4
"""Negligible change of the scatter: a tenth of a per mil."""
SIGNIFICANCE = 3.0
"""Significance of a change, in standard errors."""
_PER_MIL = 1e3


@dataclass(frozen=True)
class Verdict:
    """Effect of dividing star fluxes by the flat.

    Attributes
    ----------
    outcome
        ``corrects``, ``does not affect``, ``harms`` or ``cannot tell``.
    sentence
        The same as a sentence, with numbers.
    before, after
        Scatter of the fluxes (relative, rms) without the errors of the stars, before and after dividing.
    change, change_error
        ``after - before``.
    significance
        The change of the variance over its error; negative: less scatter.
    """

    outcome: Outcome
    sentence: str
    before: float
    after: float
    change: float
    change_error: float
    significance: float

    def __str__(self) -> str:
        """Return the sentence."""
        return self.sentence


def verdict(
    change: FluxChange, *, where: str = "here", negligible: float = NEGLIGIBLE, significance: float = SIGNIFICANCE
) -> Verdict:
    """Decide whether dividing by the flat corrects, does not affect or harms star fluxes.

    ``var(f - F) - var(f) = var(F) (1 - 2 slope)``: dividing helps if fluxes follow the flat with a slope above one half, and harms below.
    The decision uses the change of the variance, which is determined far better than the variances themselves.

    Parameters
    ----------
    change
        Change of the variance by dividing (`permil.compare.hypotheses.fractions.HypothesisFit.flux_change`).
    where
        Name of the region in the sentence.
    negligible
        Negligible change of the rms (relative flux).
    significance
        Significance of a change, in standard errors.

    Raises
    ------
    CompareError
        If the change or its error is not finite.
    """
    if not all(math.isfinite(figure) for figure in (change.before, change.noise, change.change, change.error)):
        raise CompareError(
            "the change of the scatter of star fluxes is unknown", remedy="give stars in more than one block of the detector"
        )
    # Scatter explained by the errors of the stars is not due to the sensor, whose scatter is at least what dividing removes.
    variance = max(change.before - change.noise, 0.0)
    if variance + change.change < 0:
        variance = -change.change
    before, after = math.sqrt(variance), math.sqrt(variance + change.change)
    # Error of a difference of roots; if both vanish, that of a root.
    change_error = change.error / max(before + after, math.sqrt(change.error), 1e-12)
    shift = after - before
    strength = change.change / change.error if change.error > 0 else math.copysign(math.inf, change.change)
    outcome: Outcome
    if abs(shift) + 2 * change_error < negligible:
        outcome = "does not affect"
    elif abs(strength) >= significance:
        outcome = "corrects" if strength < 0 else "harms"
    else:
        outcome = "cannot tell"
    scatter = f"their scatter is {_PER_MIL * before:.2f} per mil without and {_PER_MIL * after:.2f} per mil with it"
    figure = f"change {_PER_MIL * shift:+.2f} +- {_PER_MIL * change_error:.2f} per mil, {abs(strength):.1f} sigma"
    if outcome == "cannot tell":
        sentence = (
            f"These stars do not determine whether dividing by this flat corrects or harms star fluxes {where}: {scatter} ({figure}); "
            f"use more exposures."
        )
    else:
        sentence = f"Dividing by this flat {outcome} star fluxes {where}: {scatter} ({figure})."
    return Verdict(outcome, sentence, before, after, shift, change_error, strength)
