"""Numbers as people read them."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from permil.report.kit.results import MISSING, QUANTITIES, format_count, format_measurement

MINUS = "\N{MINUS SIGN}"


@pytest.mark.parametrize(
    ("number", "error", "expected"),
    [
        (1.23456, 0.0123, "1.235 ± 0.012"),
        (-0.5, 0.0996, f"{MINUS}0.50 ± 0.10"),
        (12347.0, 231.0, "12350 ± 230"),
        (3.0, 12.0, "3 ± 12"),
        (0.98765, 0.00996, "0.988 ± 0.010"),
        (1.2e-8, 3.04e-10, "(1.200 ± 0.030) \N{MULTIPLICATION SIGN} 10⁻⁸"),
        (1.00005551, 1.9e-6, "1.0000555 ± 0.0000019"),
        (1.23456, math.nan, "1.235"),
        (1.23456, 0.0, "1.235"),
        (math.nan, 1.0, MISSING),
        (math.inf, 1.0, MISSING),
    ],
)
def test_numbers_have_the_digits_that_their_errors_allow(number: float, error: float, expected: str) -> None:
    assert format_measurement(number, error) == expected


@given(
    number=st.floats(-1e4, 1e4),
    error=st.floats(1e-5, 1e3),
)
def test_what_is_shown_is_the_number_within_a_small_part_of_its_error(number: float, error: float) -> None:
    shown, shown_error = (float(part.replace(MINUS, "-")) for part in format_measurement(number, error).split(" ± "))
    assert abs(shown - number) <= 0.0501 * error
    assert shown_error == pytest.approx(error, rel=0.0501)


@given(number=st.floats(-1e-6, 1e-6), error=st.floats(1e-12, 9e-6))
def test_small_numbers_are_shown_with_a_power_of_ten(number: float, error: float) -> None:
    text = format_measurement(number, error).replace(MINUS, "-")
    found = re.fullmatch(r"\((\S+) ± (\S+)\) \S 10([⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+)", text)
    if found is None:
        assert error > 9.4e-7
        return
    power = int(found[3].translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")))
    assert float(found[1]) * 10.0**power == pytest.approx(number, abs=0.06 * error)


def test_a_quantity_is_shown_in_its_own_unit() -> None:
    assert QUANTITIES["scatter"].show(0.0016, 2e-5) == "1.600 ± 0.020"
    assert QUANTITIES["scatter"].heading == "scatter between pointings (‰)"
    assert QUANTITIES["gradient_x"].show(-1.25e-5, 2.1e-6) == f"{MINUS}12.5 ± 2.1"
    assert QUANTITIES["median"].heading == "median response"


def test_counts_are_grouped() -> None:
    assert format_count(1234567) == "1\N{NARROW NO-BREAK SPACE}234\N{NARROW NO-BREAK SPACE}567"
    assert format_count(-12) == f"{MINUS}12"
