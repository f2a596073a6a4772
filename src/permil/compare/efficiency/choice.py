"""Which flat to use for fluxes of stars and for the sky, in one sentence and in numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from permil.compare.efficiency.filtering import MAIN, EfficiencyFlat
from permil.compare.efficiency.proof import SIGNIFICANCE, Division, Proof, Scatter
from permil.rounding import rounded

_PER_MIL = 1e3
_ADVICE = {
    Division.EFFICIENCY: "Use the efficiency flat for fluxes of stars and the plain flat for the sky",
    Division.PLAIN: "Use the plain flat for fluxes of stars and for the sky",
    Division.UNDIVIDED: "Do not divide fluxes of stars by a flat, and use the plain flat for the sky",
    None: "Use the plain flat for the sky; for fluxes, these stars do not determine which flat is better",
}


@dataclass(frozen=True)
class FlatChoice:
    """Which flat to use.

    Attributes
    ----------
    fluxes
        For fluxes of stars; None if the stars do not decide.
    sky
        For sky and surface brightness: pixel area and diffusion change the light of the sky in a pixel as they change the flat.
    sentence
        Both as a sentence, with the scatter on left-out dithers, the best possible, noise alone, and what the efficiency flat would leave
        in the sky.
    removed
        Rms of the pixel area and diffusion that the efficiency flat lacks (relative), and its error.
    """

    fluxes: Division | None
    sky: Division
    sentence: str
    removed: tuple[float, float]


def choose_flat(proof: Proof, efficiency: EfficiencyFlat) -> FlatChoice:
    """Return which flat to use.

    The efficiency flat is recommended for fluxes if the scatter on left-out dithers is smaller than with the plain flat and without any, by
    three paired standard errors each. If it does not differ from one of them, the simpler one is recommended.

    Parameters
    ----------
    proof
        Scatter on left-out dithers.
    efficiency
        Efficiency flat from all dithers.
    """
    removed, fluxes = removed_rms(efficiency), _recommend(proof)
    return FlatChoice(fluxes, Division.PLAIN, f"{_ADVICE[fluxes]}: {_figures(proof, removed)}.", removed)


def removed_rms(efficiency: EfficiencyFlat) -> tuple[float, float]:
    """Return the rms of pixel area and diffusion in the flat that the efficiency flat lacks, and its error."""
    components = efficiency.model.components
    variance, error = 0.0, 0.0
    for power, weights in zip(components.power, efficiency.model.weights_in(MAIN), strict=True):
        of_bands = np.where(weights.measured, power.power, 0.0)
        variance += float(of_bands @ (1 - weights.fractions[0]))
        count = of_bands.size
        error += float(of_bands @ weights.covariance[:count, :count] @ of_bands)
    rms = float(np.sqrt(max(variance, 0.0)))
    return rms, float(np.sqrt(error)) / (2 * rms) if rms > 0 else float(error**0.25)


def _recommend(proof: Proof) -> Division | None:
    strength = {division: change.variance / change.error for division, change in proof.differences.items() if change.error > 0}
    against_plain, against_none = strength.get(Division.PLAIN, 0.0), strength.get(Division.UNDIVIDED, 0.0)
    if against_plain <= -SIGNIFICANCE and against_none <= -SIGNIFICANCE:
        return Division.EFFICIENCY
    if against_plain <= -SIGNIFICANCE:
        return Division.UNDIVIDED
    if against_none <= -SIGNIFICANCE:
        return Division.PLAIN
    if max(against_plain, against_none) < SIGNIFICANCE:
        return None
    return (
        Division.PLAIN
        if proof.scatter[Division.PLAIN].variance < proof.scatter[Division.UNDIVIDED].variance
        else Division.UNDIVIDED
    )


def _figures(proof: Proof, removed: tuple[float, float]) -> str:
    undivided, plain, filtered = (_in_per_mil(proof.scatter[division]) for division in Division)
    left = rounded(*(_PER_MIL * each for each in removed))
    return (
        f"on {proof.exposures} left-out dithers, star fluxes scatter by {undivided} per mil undivided, {plain} with the plain flat and "
        f"{filtered} with the efficiency flat (change from the plain flat {_change(proof, Division.PLAIN)}, from undivided "
        f"{_change(proof, Division.UNDIVIDED)}); best possible with a filter of this flat {_in_per_mil(proof.best)}, noise alone "
        f"{_in_per_mil(proof.noise)}; in the sky, the efficiency flat would leave structure of {left} per mil rms"
    )


def _change(proof: Proof, division: Division) -> str:
    """Return the difference of the efficiency flat from another division as text."""
    change, error = proof.change(division)
    return rounded(_PER_MIL * change, _PER_MIL * error, sign=True)


def _in_per_mil(scatter: Scatter) -> str:
    return rounded(_PER_MIL * scatter.rms, _PER_MIL * scatter.rms_error)
