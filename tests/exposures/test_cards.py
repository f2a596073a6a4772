"""The guarded reader of header cards: what is understood, what counts as missing and is named."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from permil.exposures.cards import CARD, Cards


def header(*cards: str) -> Cards:
    """Return the cards of a header that is written letter by letter."""
    lines = [card.encode("latin-1").ljust(CARD)[:CARD] for card in cards]
    return Cards(b"".join([*lines, b"END".ljust(CARD)]).ljust(2880))


@pytest.mark.parametrize(
    ("field", "number"),
    [
        ("0.07 / s", 0.07),
        ("'0.07'", 0.07),
        ("' 0.07   ' / quoted", 0.07),
        ("1.5D-2", 0.015),
        ("'-1.5d+3'", -1500.0),
        (".5", 0.5),
        ("+7.", 7.0),
        ("99999999999999999999999999", 1e26),
        ("15.0 s", 15.0),
        ("'15000 ms'", 15.0),
        ("0.25 min / comment", 15.0),
        ("15.0 / [s] requested", 15.0),
        ("15000 / [ms] requested", 15.0),
        ("'0.25' / [ min ]", 15.0),
        ("15.0 / [K] a unit of another kind", 15.0),
        ("15.0 / [requested] exposure", 15.0),
        ("15.0 / requested, not in [ms]", 15.0),
        ("0.07\0\0", 0.07),
    ],
)
def test_numbers_that_are_understood(field: str, number: float) -> None:
    cards = header(f"EXPTIME = {field}")
    assert cards.number("EXPTIME", unit="s") == pytest.approx(number)
    assert cards.problems == {}


@pytest.mark.parametrize(
    "field",
    [
        "0,07", "'0,07'", "NaN", "nan", "inf", "-INF", "'Infinity'", "T", "F", "1e400", "1_000", "0x10", "--5", "1.2.3", "5-", "1 000",
        "0.07 Exposure time", "15.0 m", "1.5 deg_C", "2019-10-28T19:29:40", "'broken", "?", "(1, 2)", "\u00b2",
    ],
)  # fmt: skip
def test_what_is_no_number_is_missing_and_named(field: str) -> None:
    cards = header(f"EXPTIME = {field}")
    assert math.isnan(cards.number("EXPTIME", unit="s"))
    assert cards.integer("EXPTIME", -1) == -1
    assert list(cards.problems) == ["EXPTIME"]
    assert "EXPTIME" in cards.problems["EXPTIME"]


@pytest.mark.parametrize("field", ["", "  / comment", "''", "'   '", "null", "'NULL'", "'undefined'", "'n/a'"])
def test_undefined_cards_are_missing_without_a_word(field: str) -> None:
    cards = header(f"EXPTIME = {field}")
    assert math.isnan(cards.number("EXPTIME"))
    assert (cards.text("EXPTIME"), cards.integer("EXPTIME", -1), cards.flag("EXPTIME")) == ("", -1, None)
    assert math.isnan(cards.number("ABSENT"))
    assert cards.problems == {}


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("'6841D   ' / run", "6841D"),
        ("'6841D    / The Run Number", "6841D"),
        ("'6841D", "6841D"),
        ("6841D / without quotes", "6841D"),
        ("00680", "00680"),
        ("68D1", "68D1"),
        ("20191028", "20191028"),
        ("'68\u00e91D'", "68\u00e91D"),
        ("'O''Hara'", "O'Hara"),
        ("'tab\tand\x07bell'", "tabandbell"),
        ("T", ""),
        ("NaN", ""),
        ("2019-10-28T19:29:40", "2019-10-28T19:29:40"),
    ],
)
def test_texts(field: str, text: str) -> None:
    assert header(f"RUNNUM  = {field}").text("RUNNUM") == text


@pytest.mark.parametrize(
    "card", ["exptime = 3", "ExpTime = 3", "EXPTIME=3", "EXPTIME =3", " EXPTIME= 3", "HIERARCH EXPTIME = 3", "HIERARCH exptime=3"]
)
def test_keywords_in_other_forms(card: str) -> None:
    assert header("COMMENT EXPTIME = 4", "HISTORY EXPTIME = 5", card).number("EXPTIME") == 3


def test_continued_texts() -> None:
    cards = header("LONG    = 'abc&'", "CONTINUE  'def&' / x", "CONTINUE  'g'", "OTHER   = 'x&'", "COMMENT 'y'", "LAST    = 'z&'")
    assert [cards.text(name) for name in ("LONG", "OTHER", "LAST")] == ["abcdefg", "x&", "z&"]
    # The same card in the header of another file.
    assert header("LONG    = 'abc&'", "CONTINUE  'h'").text("LONG") == "abch"
    assert header("LONG    = 'abc&'").text("LONG") == "abc&"
    # Without a closing quote.
    assert header("LONG    = 'abc&", "CONTINUE  'h'").text("LONG") == "abc&"


def test_repeated_cards() -> None:
    same = header("EXPTIME = 3", "EXPTIME = '3.00'", "OBSID   = 'A'", "OBSID   = 'a '", "SEQNUM  =", "SEQNUM  = 5")
    assert (same.number("EXPTIME"), same.text("OBSID"), same.integer("SEQNUM", -1), same.problems) == (3, "A", 5, {})
    other = header("EXPTIME = 0.07", "EXPTIME = 0.7", "OBSID   = 'A'", "OBSID   = 'B'")
    assert math.isnan(other.number("EXPTIME"))
    assert other.text("OBSID") == ""
    assert other.problems == {
        "EXPTIME": "card EXPTIME is repeated with another value ('0.07' and '0.7')",
        "OBSID": "card OBSID is repeated with another value ('A' and 'B')",
    }
    # What describes the structure of the file goes on with the first, as other readers do.
    assert other.get("EXPTIME") == 0.07


def test_integers() -> None:
    cards = header(
        "A       = 558", "B       = '000558'", "C       = 558.0", "D       = 558.5", "E       = 9223372036854775808", "F = T"
    )
    assert [cards.integer(name, -1) for name in "ABCDEF"] == [558, 558, 558, -1, -1, -1]
    assert list(cards.problems) == ["D", "E", "F"]


def test_flags() -> None:
    cards = header("A       = T", "B       = F", "C       = 'true'", "D       = 0", "E       = 'maybe'", "F       =")
    assert [cards.flag(name) for name in "ABCDEF"] == [True, False, True, False, None, None]
    assert list(cards.problems) == ["E"]


@pytest.mark.parametrize(
    ("field", "temperature"),
    [
        ("-8.3125", -8.3125),
        ("0.0", 0.0),
        ("'294.15 K'", 21.0),
        ("-273.15", None),
        ("999.0", None),
        ("-999", None),
        ("1.0E30", None),
    ],
)
def test_temperatures(field: str, temperature: float | None) -> None:
    cards = header(f"TEMP1   = {field}")
    assert cards.temperature("TEMP1") == pytest.approx(math.nan if temperature is None else temperature, nan_ok=True)
    assert ("TEMP1" in cards.problems) == (temperature is None)


def test_nothing_behind_the_end_counts() -> None:
    assert Cards(header("A = 1").header + header("EXPTIME = 3").header).get("EXPTIME") is None
    assert Cards(b"END\0".ljust(CARD, b"\0") + b"EXPTIME = 3".ljust(CARD)).get("EXPTIME") is None


@given(st.binary(max_size=400))
def test_any_bytes_are_no_error(content: bytes) -> None:
    cards = Cards(b"EXPTIME = " + content)
    for name in ("EXPTIME", "SEQNUM"):
        assert isinstance(cards.text(name), str)
        assert isinstance(cards.number(name, unit="s"), float)
        assert isinstance(cards.temperature(name), float)
        assert isinstance(cards.integer(name, -1), int)
        assert cards.flag(name) in (True, False, None)
        cards.get(name)


_LINES = (
    "EXPTIME = 1.5 / s", "OBSID   = 'A'", "OBSID   = 'B'", "lower   = 3", "COMMENT = 5", "COMMENT no value", "HISTORY a = 3", "",
    "FREE text", "LONGKEYWORD = 4", "HIERARCH A B = 'c'", "END", "END of it", "END = 3", "TEXT    = 'long&'", "CONTINUE  'er'",
)  # fmt: skip


@given(st.lists(st.sampled_from(_LINES), max_size=12), st.sampled_from(["", "END", "TAIL = 7"]))
def test_a_known_layout_gives_what_the_cards_give(lines: list[str], tail: str) -> None:
    whole = "".join(line.ljust(CARD) for line in lines).encode() + tail.encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("permil.exposures.cards._layout", lambda _: None)
        expected = Cards(whole)._numbers
    assert Cards(whole)._numbers == expected
    # Found again.
    assert Cards(whole)._numbers == expected
