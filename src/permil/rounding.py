"""Numbers as text: two significant digits of the error, in reports, messages and tables."""

from __future__ import annotations

import math

_MOST_DECIMALS = 6
_SMALL = 1e-3


def has_error(error: float) -> bool:
    """Return whether an error is known: finite and positive."""
    return math.isfinite(error) and error > 0


def decimals_of(error: float) -> int:
    """Return the number of decimals that shows a positive error with two significant digits; negative for errors above 100."""
    # Rounding first: 0.0996 becomes 0.10, whose last digit is one place further left.
    return 1 - math.floor(math.log10(float(f"{error:.1e}")))


def rounded(number: float, error: float, *, plus_minus: str = "+-", sign: bool = False) -> str:
    """Return a number and its error as text, with two significant digits of the error.

    Parameters
    ----------
    number, error
        Number and error. Without a known error the number is given alone with four digits. Sizes below 0.001 that would need more than
        six decimals are given as powers of ten.
    plus_minus
        Sign between the two.
    sign
        Whether a positive number has a sign.

    Examples
    --------
    >>> rounded(0.6773, 0.0182)
    '0.677 +- 0.018'
    >>> rounded(1234.5, 67.0)
    '1234 +- 67'
    """
    plus = "+" if sign else ""
    if not has_error(error):
        return f"{number:{plus}.4g}"
    error = float(f"{error:.1e}")
    decimals = decimals_of(error)
    if decimals > _MOST_DECIMALS and max(abs(number), error) < _SMALL:
        power = math.floor(math.log10(max(abs(number), error)))
        shown = max(decimals + power, 0)
        return f"({number / 10.0**power:{plus}.{shown}f} {plus_minus} {error / 10.0**power:.{shown}f})e{power}"
    shown = max(decimals, 0)
    # Adding 0 removes the sign of a negative zero.
    return f"{round(number, decimals) + 0.0:{plus}.{shown}f} {plus_minus} {round(error, decimals):.{shown}f}"


def rounded_like(number: float, error: float) -> str:
    """Return a number alone, rounded to two significant digits of an error; four digits without a known error."""
    if not has_error(error):
        return f"{number:.4g}"
    decimals = decimals_of(error)
    return f"{round(number, decimals) + 0.0:.{max(decimals, 0)}f}"
