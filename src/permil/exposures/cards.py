"""Reader of FITS header cards that tolerates cards outside the standard.

Real headers hold lower-case keywords, bare NaN, decimal commas, quoted numbers, strings without a closing quote, accented letters,
keywords repeated with another value, and numbers followed by a unit. A value with a single possible meaning is accepted. Any other
value counts as missing and is recorded in `Cards.problems`, so that the caller can report it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from astropy.units import UnitBase

CARD = 80

CardValue = str | int | float | bool | None

_TEXT = re.compile(r"\s*'((?:[^']|'')*)'")
_OPEN_TEXT = re.compile(r"\s*'(.*?)(?:\s+/.*)?$", re.DOTALL)
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[EeDd][-+]?\d+)?")
_INTEGER = re.compile(r"[-+]?\d+")
_KEYWORD = re.compile(r"\s*(?:HIERARCH\s+)?([A-Z0-9_][A-Z0-9_. -]*?)\s*=(.*)", re.DOTALL | re.IGNORECASE)
_CARDS = re.compile(rb".{1,%d}" % CARD, re.DOTALL)
_INDICATOR = b"= "
_HEAD = 10
"""Bytes of a card with its keyword and the value indicator."""
_UNIT_OF_COMMENT = re.compile(r"\s*\[([^\]:]+)\]")
_WITHOUT_VALUE = (b"CONTINUE", b"COMMENT", b"HISTORY", b"        ")
_UNDEFINED = frozenset({"", "null", "undefined", "undef", "n/a"})
_FLAGS = {"t": True, "true": True, "1": True, "f": False, "false": False, "0": False}
_LARGEST_INTEGER = 2**63
# Temperatures (deg C) that mark a missing value or a broken sensor.
_COLDEST, _HOTTEST = -200.0, 150.0


class _Entry(NamedTuple):
    """The value of a card (quoted string or characters before the comment; "" if undefined), its comment, and whether it continues."""

    characters: str
    is_quoted: bool
    comment: str = ""
    may_continue: bool = False

    def parsed(self) -> CardValue:
        """Return the value as the standard defines it; anything else is returned as text."""
        characters = self.characters
        if self.is_quoted:
            return characters
        if characters in ("", "T", "F"):
            return {"": None, "T": True, "F": False}[characters]
        number = _finite(characters)
        return characters if number is None else number

    def meaning(self) -> CardValue:
        """Return the value used to compare two cards: numbers by value, text without case, None if undefined."""
        characters = self.characters.strip().lower()
        number = _finite(characters)
        return float(number) if number is not None else None if characters in _UNDEFINED else characters


@dataclass(frozen=True)
class Cards:
    """The cards of a header, parsed on request.

    Parameters
    ----------
    header
        The header as stored in the file: cards of 80 bytes.

    Attributes
    ----------
    problems
        Faults of the requested cards, by keyword: one clause each, with the value.
    """

    header: bytes
    problems: dict[str, str] = field(default_factory=dict, repr=False, compare=False)
    _known: dict[str, tuple[_Entry | None, _Entry | None]] = field(default_factory=dict, repr=False, compare=False)

    def get(self, name: str, default: CardValue = None) -> CardValue:
        """Return the value of a card as the standard defines it, None if undefined; the first of repeated cards is used."""
        entry, _ = self._entries(name)
        return default if entry is None else entry.parsed()

    def text(self, name: str) -> str:
        """Return the text of a card, "" if it is missing or undefined.

        A number is returned as written (run ``0680`` keeps its zero). A logical value or NaN gives "".
        """
        _, entry = self._entries(name)
        if entry is None or (not entry.is_quoted and entry.characters in ("T", "F")):
            return ""
        characters = entry.characters.strip()
        if characters.lower() == "nan":
            return ""
        return characters if characters.isprintable() else "".join(filter(str.isprintable, characters)).strip()

    def number(self, name: str, *, unit: str | None = None) -> float:
        """Return the number of a card, NaN if it is missing, undefined, not finite or not understood.

        Parameters
        ----------
        unit
            Unit of the result. A value such as ``'15000 ms'``, or a number whose comment begins with another unit (``[ms]``), is
            converted; without ``unit`` the former is not understood. A number in a unit of another kind is returned as it is.
        """
        _, entry = self._entries(name)
        if entry is None:
            return math.nan
        characters = entry.characters.strip()
        number = _finite(characters)
        if unit is not None:
            declared = _UNIT_OF_COMMENT.match(entry.comment)
            if number is None:
                number = _converted(characters, unit)
            elif declared is not None and declared[1].strip() != unit:
                converted = _converted(f"{number!r} {declared[1]}", unit)
                number = number if converted is None else converted
        if number is None:
            self.problems[name] = f"card {name} is not a number ({characters[:40]!r})"
            return math.nan
        return float(number)

    def temperature(self, name: str) -> float:
        """Return a temperature, degree C; NaN also for impossible values (-273.15, 999)."""
        number = self.number(name, unit="deg_C")
        if _COLDEST < number < _HOTTEST or math.isnan(number):
            return number
        self.problems[name] = f"card {name} has an impossible temperature ({number:g} degree C)"
        return math.nan

    def integer(self, name: str, default: int) -> int:
        """Return the value of a card that holds an integer below 2^63, else the default."""
        _, entry = self._entries(name)
        if entry is None:
            return default
        characters = entry.characters.strip()
        number = int(characters) if _INTEGER.fullmatch(characters) else _finite(characters)
        if number is None or abs(number) >= _LARGEST_INTEGER or number != int(number):
            self.problems[name] = f"card {name} is not an integer ({characters[:40]!r})"
            return default
        return int(number)

    def flag(self, name: str) -> bool | None:
        """Return a logical value (T or F; also true, false, 1 and 0), None if it is missing or not understood."""
        _, entry = self._entries(name)
        if entry is None:
            return None
        value = _FLAGS.get(entry.characters.strip().lower())
        if value is None:
            self.problems[name] = f"card {name} is not a logical value ({entry.characters[:40]!r})"
        return value

    def _entries(self, name: str) -> tuple[_Entry | None, _Entry | None]:
        """Return the first card of a name, and the one to use: None if all are undefined or two disagree."""
        known = self._known.get(name)
        if known is None:
            first_card, repeated = self._numbers
            number = first_card.get(name)
            if number is None:
                return None, None
            known = self._chosen(name, (number, *repeated[name])) if name in repeated else self._entry(number)
            self._known[name] = known
        return known

    def _chosen(self, name: str, numbers: tuple[int, ...]) -> tuple[_Entry | None, _Entry | None]:
        """Return the result of `_entries` for a keyword that is repeated."""
        entries = [self._entry(number) for number in numbers]
        defined = [entry for _, entry in entries if entry is not None]
        first = (defined or [entry for entry, _ in entries])[0]
        if len({entry.meaning() for entry in defined}) > 1:
            values = " and ".join(repr(entry.characters[:40]) for entry in defined[:2])
            self.problems[name] = f"card {name} is repeated with another value ({values})"
            return first, None
        return first, defined[0] if defined else None

    def _card(self, number: int) -> bytes:
        return self.header[CARD * number : CARD * (number + 1)]

    @cached_property
    def _numbers(self) -> tuple[dict[str, int], dict[str, tuple[int, ...]]]:
        """Return the number of the first card of each keyword, and those of the others where it is repeated."""
        count = len(self.header) // CARD
        whole = np.frombuffer(self.header, np.uint8, count=CARD * count).reshape(count, CARD)
        layout = _layout(whole[:, :_HEAD].tobytes())
        if layout is not None and self._card(layout.end).rstrip(b" \0") in (b"END", b""):
            return layout.first, layout.repeated
        first: dict[str, int] = {}
        repeated: dict[str, tuple[int, ...]] = {}
        for number, card in enumerate(_CARDS.findall(self.header)):
            if card[8:10] == _INDICATOR:
                name = _name_of(card[:8])
            elif card.rstrip(b" \0") == b"END":
                break
            elif b"=" in card and (irregular := _irregular(card)):
                name = irregular[1].upper()
            else:
                continue
            if first.setdefault(name, number) != number:
                repeated[name] = (*repeated.get(name, ()), number)
        return first, repeated

    def _entry(self, number: int) -> tuple[_Entry, _Entry | None]:
        """Return the value of a card and of its continuation cards, and again if it is defined, else None."""
        known = _entry_of(self._card(number))
        if not known[0].may_continue:
            return known
        text = known[0].characters
        for continuation in self._continuations(number):
            following = _TEXT.match(continuation[8:].decode("latin-1"))
            if following is None or not text.endswith("&"):
                break
            text = text[:-1] + _unquoted(following[1])
        return _defined(_Entry(text, True, known[0].comment))

    def _continuations(self, number: int) -> Iterator[bytes]:
        """Yield the continuation cards between a card and the next one with a value."""
        for card in map(self._card, range(number + 1, -(-len(self.header) // CARD))):
            if card[8:10] == _INDICATOR or card.rstrip(b" \0") == b"END":
                return
            if card.startswith(b"CONTINUE"):
                yield card
            elif b"=" in card and _irregular(card):
                return


@lru_cache(maxsize=2048)
def _entry_of(card: bytes) -> tuple[_Entry, _Entry | None]:
    """Return the value of one card without its continuation cards, and again if it is defined, else None.

    Most cards of a file have the same bytes in the next one.
    """
    irregular = None if card[8:10] == _INDICATOR else _irregular(card)
    characters = card[10:].decode("latin-1") if irregular is None else irregular[2]
    if "'" in characters:
        quoted = _TEXT.match(characters)
        if quoted is not None:
            text = _unquoted(quoted[1])
            comment = characters[quoted.end() :].partition("/")[2]
            return _defined(_Entry(text, True, comment, text.endswith("&")))
        unclosed = _OPEN_TEXT.match(characters)
        if unclosed is not None:
            return _defined(_Entry(unclosed[1].rstrip(" \0"), True))
    value, _, comment = characters.partition("/")
    return _defined(_Entry(value.strip(" \0\t"), False, comment))


def _defined(entry: _Entry) -> tuple[_Entry, _Entry | None]:
    """Return an entry, and again if it is defined, else None."""
    return entry, None if entry.characters.strip().lower() in _UNDEFINED else entry


class _Layout(NamedTuple):
    """Numbers of the first card of each keyword and of its repetitions, and of the END card (the number of cards without one)."""

    first: dict[str, int]
    repeated: dict[str, tuple[int, ...]]
    end: int


@lru_cache(maxsize=256)
def _layout(heads: bytes) -> _Layout | None:
    """Return the layout of a header from the first bytes of its cards; None if it depends on more than these.

    The files of a camera have few layouts, each with the headers of thousands of segments.
    """
    first: dict[str, int] = {}
    repeated: dict[str, tuple[int, ...]] = {}
    count = len(heads) // _HEAD
    for number in range(count):
        head = heads[_HEAD * number : _HEAD * (number + 1)]
        if head[8:] == _INDICATOR:
            name = _name_of(head[:8])
            if first.setdefault(name, number) != number:
                repeated[name] = (*repeated.get(name, ()), number)
        elif head.rstrip(b" \0") == b"END":
            return _Layout(first, repeated, number)
        elif not head.startswith(_WITHOUT_VALUE):
            return None
    return _Layout(first, repeated, count)


@lru_cache(maxsize=4096)
def _name_of(keyword: bytes) -> str:
    """Return a keyword of eight bytes in its normalised form."""
    return keyword.strip().upper().decode("latin-1")


def _irregular(card: bytes) -> re.Match[str] | None:
    """Return keyword and value of a card that has them at other places than those of the standard."""
    if card.startswith(_WITHOUT_VALUE):
        return None
    found = _KEYWORD.match(card.decode("latin-1"))
    return found if found and (len(found[1]) <= 8 or card.startswith(b"HIERARCH")) else None


def _unquoted(text: str) -> str:
    return text.replace("''", "'").rstrip(" \0")


def _finite(characters: str) -> int | float | None:
    """Return the characters as a finite number, None if they are not one; the exponent may be marked by D."""
    if _INTEGER.fullmatch(characters):
        whole = int(characters)
        # Longer integers do not fit into an array.
        return whole if abs(whole) < 10**300 else None
    if not _NUMBER.fullmatch(characters):
        return None
    number = float(characters.upper().replace("D", "E"))
    return number if math.isfinite(number) else None


def _converted(characters: str, unit: str) -> float | None:
    """Return a quantity such as ``15.0 s`` converted to another unit, None if the characters are not a quantity."""
    found = _NUMBER.match(characters)
    declared = None if found is None else _unit_named(characters[found.end() :].strip())
    if found is None or declared is None:
        return None
    from astropy import units

    try:
        measured = units.Quantity(float(found[0].upper().replace("D", "E")), declared)
        converted = float(measured.to_value(unit, equivalencies=units.temperature()))
    except (ValueError, TypeError, ArithmeticError):
        return None
    return converted if math.isfinite(converted) else None


@lru_cache(maxsize=256)
def _unit_named(name: str) -> UnitBase | None:
    """Return the unit with a name, None if there is none."""
    from astropy import units

    try:
        return units.Unit(name) if name else None
    except (ValueError, TypeError):
        return None
