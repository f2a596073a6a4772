"""Which flat to use for fluxes of stars and for the sky, in words and numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from permil.compare.efficiency.filtering import MAIN, EfficiencyFlat
from permil.compare.efficiency.proof import SIGNIFICANCE, Division, Proof, Scatter
from permil.rounding import rounded

FloatArray = NDArray[np.float64]

_PER_MIL = 1e3
_SHOWN = (Division.EFFICIENCY, Division.PLAIN, Division.UNDIVIDED)


@dataclass(frozen=True)
class FlatChoice:
    """Which flat to use.

    Attributes
    ----------
    fluxes
        For fluxes of stars; None if the stars do not decide.
    sentence
        The same as a sentence, with the scatter on left-out dithers, noise alone and the best possible.
    sky
        For sky and surface brightness, as a sentence.
    removed
        Rms of the pixel area and diffusion that the efficiency flat lacks (relative), and its error.
    """

    fluxes: Division | None
    sentence: str
    sky: str
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
    removed = removed_rms(efficiency)
    fluxes = _recommend(proof)
    reason = {
        Division.EFFICIENCY: "For fluxes of stars, divide by the efficiency flat",
        Division.PLAIN: "For fluxes of stars, divide by the plain flat",
        Division.UNDIVIDED: "For fluxes of stars, do not divide by the plain flat",
        None: "These stars do not determine which flat is better for fluxes",
    }[fluxes]
    sentence = f"{reason}: {_figures(proof)} {_remainder(proof)}"
    sky = (
        f"For sky and surface brightness, divide by the plain flat: pixel area and diffusion change the light of the sky in a pixel as "
        f"they change the flat. The efficiency flat would leave {rounded(*(_PER_MIL * each for each in removed))} per mil of "
        f"structure (rms)."
    )
    return FlatChoice(fluxes, sentence, sky, removed)


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


def _figures(proof: Proof) -> str:
    filtered, plain, undivided = (f"{_in_per_mil(proof.scatter[division])} per mil" for division in _SHOWN)
    return (
        f"on {proof.exposures} left-out dithers their scatter is {filtered} with the efficiency flat, "
        f"{plain} with the plain flat ({_change(proof, Division.PLAIN)}) and {undivided} undivided "
        f"({_change(proof, Division.UNDIVIDED)}); noise alone gives {_PER_MIL * np.sqrt(proof.noise):.2f} per mil."
    )


def _change(proof: Proof, division: Division) -> str:
    """Return the difference of the efficiency flat from another division as text."""
    change, error = proof.change(division)
    return f"change {rounded(_PER_MIL * change, _PER_MIL * error, sign=True)} per mil"


def _in_per_mil(scatter: Scatter) -> str:
    return rounded(_PER_MIL * scatter.rms, _PER_MIL * scatter.rms_error)


def _remainder(proof: Proof) -> str:
    return (
        f"The best filter of this flat is expected to leave {_in_per_mil(proof.best)} per mil; the rest above the noise cannot be told "
        f"from the flat alone."
    )
