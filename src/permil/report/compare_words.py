"""What a comparison of stars and flat found, in words for people who are not statisticians."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from astropy.table import Table

from permil.report.compare_inputs import number, text
from permil.report.quantities import format_chance, format_count, format_measurement, with_minus

NAIVE = "naive"
QUOTED = "quoted"

_METHODS = {
    QUOTED: "the covariance of neighbouring values, fitted to each map, says how many independent values the stars are worth",
    NAIVE: "takes every star as independent of its neighbours: for comparison only",
    "modified_t": "the same idea with the covariances as they come out, without a fit (Clifford, Richardson and Hémon; Dutilleul)",
    "block_bootstrap": "draws whole blocks of the sensor at random, many times, and looks how much r scatters",
    "block_jackknife": "leaves out one block of the sensor at a time",
    "group_jackknife": "leaves out one exposure at a time: tells the noise of exposures, not that of the piece of sensor",
    "phases": "random maps with the same texture as the real ones, but without any relation",
    "shifts": "one map moved against the other, as far as the two still overlap",
    "rotations": "one map turned and mirrored against the other",
}
"""What is known about methods; one that is not here is shown by its name."""


@dataclass(frozen=True)
class MethodLine:
    """What one method says of the headline: name, what it does, error of r, chance of such an r without any relation."""

    name: str
    what: str
    error: float
    chance: float


def method_lines(headline: Table.Row) -> list[MethodLine]:
    """Return the quoted figures and those of every method in a row of correlations: columns ``<name>_r_err``, ``<name>_p_value``."""
    lines = [MethodLine(QUOTED, _METHODS[QUOTED], number(headline, "r_err"), number(headline, "p_value"))]
    for column in headline.colnames:
        name = column.removesuffix("_r_err")
        if name in (column, "") or f"{name}_p_value" not in headline.colnames:
            continue
        error, chance = number(headline, column), number(headline, f"{name}_p_value")
        if math.isfinite(error) or math.isfinite(chance):
            lines.append(MethodLine(name.replace("_", " "), _METHODS.get(name, ""), error, chance))
    return lines


def plain_sentence(sentence: str) -> str:
    """Return a sentence of a product as pages write it."""
    in_pages = sentence.replace("+-", "±").replace(" per mil", " ‰").replace(" sigma", " times its error")
    return re.sub(r"(?<=[ (])-\d", lambda found: with_minus(found.group()), in_pages)


def correlation_words(headline: Table.Row, compared: float) -> str:
    """Return what the correlation of the headline means, and what it stands on.

    Parameters
    ----------
    compared
        Measurements that were compared, NaN where that is not known; the noisiest of them may not be in the correlation.
    """
    r, error = number(headline, "r"), number(headline, "r_err")
    n, n_eff = number(headline, "n"), number(headline, "n_eff")
    naive = number(headline, f"{NAIVE}_r_err")
    words = (
        f"The correlation between star fluxes and the flat is r = {format_measurement(r, error)} (1: both rise and fall together, 0: "
        f"neither says anything about the other, {with_minus('-1')}: one rises where the other falls)."
    )
    if math.isfinite(n) and math.isfinite(n_eff):
        noisier = f" (of {format_count(round(compared))}; the noisiest would only add noise)" if compared > n else ""
        words += (
            f" It stands on {format_count(round(n))} measurements of stars{noisier}. Those near each other see alike parts of the "
            f"sensor, so that together they are worth {format_count(round(n_eff))} independent ones."
        )
    if naive > 0 and math.isfinite(error):
        words += f" A test that takes no notice of this states an error {naive_words(error / naive)}."
    return words


def naive_words(ratio: float) -> str:
    """Return how a naive error compares with the quoted one; ``ratio`` is quoted over naive."""
    if ratio >= 1.05:
        return f"that is {ratio:.1f} times too small"
    return "that is about right here" if ratio > 0.95 else f"that is {1 / ratio:.1f} times too large"


def chance_words(headline: Table.Row, coarser: Sequence[Table.Row]) -> str:
    """Return what the p-value says, or why there is none and what to look at instead.

    Parameters
    ----------
    headline
        Row of single stars.
    coarser
        Rows of the same quantity in cells.
    """
    chance = number(headline, "p_value")
    if math.isfinite(chance):
        words = f"Chance alone gives two maps without any relation so strong a correlation with the probability p = {format_chance(chance)}"
        return words + (": stars and flat are related." if chance < 0.05 else ": this may well be chance.")
    reason = text(headline, "reason")
    words = "No p-value is given for single stars" + (f": {reason}." if reason else ".")
    given = [row for row in coarser if math.isfinite(number(row, "p_value"))]
    if given:
        found = ", ".join(f"p = {format_chance(number(row, 'p_value'))} ({number(row, 'cell'):.0f} pixels)" for row in given)
        words += f" Means over larger cells have one: {found}."
    return words


def slope_words(headline: Table.Row, *, divided: bool) -> str:
    """Return what the slope means, empty where there is none; ``divided``: fluxes were measured after dividing by the flat."""
    slope, error = number(headline, "slope"), number(headline, "slope_err")
    if not math.isfinite(slope):
        return ""
    efficient, large = (0, with_minus("-1")) if divided else (1, 0)
    return (
        f"Where the flat is 1 ‰ higher, stars are {format_measurement(slope, error)} ‰ brighter (slope, after allowing for the noise of "
        f"both): {efficient} would mean that the flat shows how efficient pixels are, {large} that it shows how large they are."
    )


def ring_words(header: dict[str, float], *, found: bool) -> str:
    """Return whether there are tree rings, and where.

    Parameters
    ----------
    header
        Cards RINGP, RINGX, RINGXERR, RINGY, RINGYERR as far as the product has them.
    found
        Whether there is a profile.
    """
    chance = header.get("RINGP", math.nan)
    told = f"a map without rings looks as much like rings with p = {format_chance(chance)}" if math.isfinite(chance) else ""
    if not found:
        return f"No tree rings were found in the flat ({told})." if told else "Tree rings were not looked for."
    place = " and ".join(
        f"{axis} = {format_measurement(header.get(f'RING{axis.upper()}', math.nan), header.get(f'RING{axis.upper()}ERR', math.nan))}"
        for axis in "xy"
    )
    how = f"were found ({told}); their" if told else "have a centre that was given; the"
    return f"Tree rings, the growth rings of the silicon crystal, {how} centre is at {place} pixels."


def amplifier_words(header: dict[str, float]) -> str:
    """Return what stands between amplifiers; cards AMPSLOPE, AMPSLERR, AMPRMS, AMPRMSER."""
    rms = 1e3 * header.get("AMPRMS", math.nan), 1e3 * header.get("AMPRMSER", math.nan)
    slope = header.get("AMPSLOPE", math.nan), header.get("AMPSLERR", math.nan)
    words = f"The means of the flat's amplifiers scatter by {format_measurement(*rms)} ‰" if math.isfinite(rms[0]) else ""
    if math.isfinite(slope[0]):
        words += "; the" if words else "The"
        return f"{words} means of the stars follow them with the slope {format_measurement(*slope)}."
    return f"{words}; stars do not reach across amplifiers enough to compare." if words else ""
