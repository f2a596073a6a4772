"""Numbers are rounded to two significant digits of their errors."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from permil.rounding import decimals_of, rounded, rounded_like


@pytest.mark.parametrize(
    ("number", "error", "text"),
    [
        (0.6773, 0.0182, "0.677 +- 0.018"),
        (5.0, 0.0996, "5.00 +- 0.10"),
        (123456.0, 4567.0, "123500 +- 4600"),
        (-3e-9, 1e-5, "0.000000 +- 0.000010"),
        (1e-8, 2.3e-9, "(1.00 +- 0.23)e-8"),
        (1.23456, math.nan, "1.235"),
        (1.23456, 0.0, "1.235"),
    ],
)
def test_two_digits_of_the_error(number: float, error: float, text: str) -> None:
    assert rounded(number, error) == text


def test_sign_and_plus_minus() -> None:
    assert rounded(0.5, 0.1, sign=True, plus_minus="±") == "+0.50 ± 0.10"
    assert rounded_like(2.5964, 0.093) == "2.596"
    assert rounded_like(2.5964, math.nan) == "2.596"


@given(st.floats(-1e6, 1e6), st.floats(1e-5, 1e5))
def test_what_is_read_back_is_right_to_a_half_of_the_last_digit(number: float, error: float) -> None:
    shown, shown_error = (float(part) for part in rounded(number, error).split(" +- "))
    last = 10.0 ** -decimals_of(error)
    assert abs(shown - number) <= 0.501 * last
    assert abs(shown_error - error) <= 0.501 * last
    digits = re.sub(r"[^0-9]", "", rounded(number, error).split(" +- ")[1]).strip("0")
    assert len(digits) <= 2
