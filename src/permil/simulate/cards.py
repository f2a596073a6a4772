"""FITS headers as bytes: cards, blocks and checksums, fast enough for thousands of files.

Standard: FITS 4.0, sections 3 and 4.4.2; checksums after Seaman, Pence & Rots (FITS Checksum Proposal, 2012; standard, appendix J).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BLOCK = 2880
CARD = 80
CHECKSUM_OFF = "0" * 16

CardValue = bool | int | float | str
Card = tuple[str, CardValue, str]

_NOT_IN_CHECKSUM = frozenset((*range(0x3A, 0x41), *range(0x5B, 0x61)))


def format_card(keyword: str, value: CardValue, comment: str = "") -> bytes:
    """Return one card of 80 characters; a comment that is too long is cut."""
    if isinstance(value, bool):
        text = f"{'T' if value else 'F':>20}"
    elif isinstance(value, str):
        escaped = value.replace("'", "''")
        quoted = f"'{escaped:8}'"
        text = f"{quoted:20}"
    elif isinstance(value, int):
        text = f"{value:>20}"
    else:
        text = f"{repr(float(value)).upper():>20}"
    card = f"{keyword:8}= {text}"
    if comment:
        card += f" / {comment}"
    return f"{card[:CARD]:{CARD}}".encode("ascii")


def padded(data: bytes, fill: bytes = b"\0") -> bytes:
    """Return data filled up to whole blocks."""
    return data + fill * (-len(data) % BLOCK)


def word_sum(data: bytes | bytearray | NDArray[np.uint8]) -> int:
    """Return the ones'-complement sum of 32-bit big-endian words; the length must be a multiple of 4."""
    total = int(np.frombuffer(data, dtype=">u4").sum(dtype=np.uint64))
    while total >> 32:
        total = (total & 0xFFFFFFFF) + (total >> 32)
    return total


def add_sums(first: int, second: int) -> int:
    """Return the ones'-complement sum of two sums."""
    total = first + second
    return (total & 0xFFFFFFFF) + (total >> 32)


def encode_checksum(total: int) -> str:
    """Return the 16 letters that bring the sum of an HDU, with 16 zeros in their place, to minus zero."""
    complement = 0xFFFFFFFF - total
    letters = [""] * 16
    for place in range(4):
        byte = (complement >> (24 - 8 * place)) & 0xFF
        quotient, remainder = byte // 4 + 0x30, byte % 4
        codes = [quotient + remainder, quotient, quotient, quotient]
        while any(code in _NOT_IN_CHECKSUM for code in codes):
            for pair in (0, 2):
                if codes[pair] in _NOT_IN_CHECKSUM or codes[pair + 1] in _NOT_IN_CHECKSUM:
                    codes[pair] += 1
                    codes[pair + 1] -= 1
        for group, code in enumerate(codes):
            letters[4 * group + place] = chr(code)
    return letters[15] + "".join(letters[:15])


@dataclass(frozen=True)
class HeaderTemplate:
    """The bytes of a header whose checksums, and perhaps other cards, change from file to file.

    Attributes
    ----------
    content
        Whole blocks, with END.
    places
        Where the card of each keyword begins.
    """

    content: bytes
    places: dict[str, int]

    @classmethod
    def from_cards(cls, cards: Iterable[Card]) -> HeaderTemplate:
        """Build from cards; those of CHECKSUM and DATASUM must be among them."""
        listed = list(cards)
        content = b"".join(format_card(*card) for card in listed) + format_card_end()
        return cls(padded(content, b" "), {card[0]: CARD * index for index, card in enumerate(listed)})

    def filled(self, data_sum: int, changes: Iterable[Card] = ()) -> bytearray:
        """Return the header with changed cards and with both checksums, for data of the given sum."""
        header = bytearray(self.content)
        for card in changes:
            self._put(header, *card)
        self._put(header, "DATASUM", str(data_sum), "checksum of the data records")
        comment = "checksum for the current HDU"
        self._put(header, "CHECKSUM", CHECKSUM_OFF, comment)
        total = add_sums(word_sum(header), data_sum)
        self._put(header, "CHECKSUM", encode_checksum(total), comment)
        return header

    def _put(self, header: bytearray, keyword: str, value: CardValue, comment: str) -> None:
        place = self.places[keyword]
        header[place : place + CARD] = format_card(keyword, value, comment)


def format_card_end() -> bytes:
    """Return the END card."""
    return f"{'END':{CARD}}".encode("ascii")
