"""Numbers of a joint solution as its page writes them."""

from __future__ import annotations

import math

from permil.report.joint_inputs import JointProducts, Term
from permil.report.quantities import MISSING

UNITS = {"": (1e3, "‰"), "mm": (1e3, "µm"), "1 / mm": (1e3, "‰/mm")}
"""Factor and name of the unit in which pages show a term of the budget, by the unit that the product has."""

_TINY = 1e-5
_EXACT = 100.0
"""From here on all digits before the point are shown."""


def per_mil(relative: float) -> str:
    """Return an error in per mil with two digits; a dash for NaN."""
    return two_digits(1e3 * relative)


def two_digits(number: float) -> str:
    """Return a number with two digits; a dash for NaN."""
    if not math.isfinite(number):
        return MISSING
    if 0 < abs(number) < _TINY:
        return f"{number:.1e}"
    # Rounding first: 0.0996 becomes 0.10, whose last digit is one place further left.
    number = float(f"{number:.1e}") if abs(number) < _EXACT else number
    decimals = max(1 - math.floor(math.log10(abs(number))), 0) if number else 0
    return f"{number:.{decimals}f}"


def shown_term(term: Term) -> tuple[str, str]:
    """Return the error of a term of the budget, and its unit."""
    factor, unit = UNITS.get(term.unit, (1.0, term.unit))
    return two_digits(factor * term.error), unit


def counted(count: int, noun: str) -> str:
    """Return a number of things."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def chi_square_of(products: JointProducts) -> tuple[float, float]:
    """Return the reduced chi-square and its standard error."""
    freedom = products.card("NSIGNAL") - products.card("NUNKNOWN")
    return products.card("REDCHI2"), math.sqrt(2 / max(freedom, 1.0))
