"""Checksums of FITS files: DATASUM tells whether data are those that were written, CHECKSUM the same of header and data together.

Algorithm: FITS Standard 4.0, section 4.4.2.7 and appendix J (R. Seaman, W. Pence and A. Rots 1995): big-endian words of 32 bits are
added in ones' complement, which is to say modulo 2^32 - 1; an HDU with a right CHECKSUM sums to zero. Compressed images are summed as
they are stored; their ZDATASUM and ZHECKSUM, which hold for the image before it was compressed, are not looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from permil._kernels import exposures as kernels
from permil.exposures.cards import Cards

Checksums = Literal["refuse", "warn", "off"]
"""What becomes of data whose sum is wrong."""

CHANGED_HEADER = "its header was changed after its CHECKSUM was made"

_MODULUS = 2**32 - 1


@dataclass(frozen=True)
class Fault:
    """What the sums of an HDU tell; with ``of_data`` the data cannot be relied on."""

    what: str
    of_data: bool


def sum_of_words(content: bytes | NDArray[np.uint8]) -> int:
    """Return the ones' complement sum of big-endian 32-bit words; bytes that are no whole word count as if zeros followed."""
    octets = np.frombuffer(content, dtype=np.uint8)
    whole = octets.size // 4 * 4
    total = kernels.sum_words(octets[:whole].view(np.uint32)) if whole else 0
    return (total + int.from_bytes(octets[whole:].tobytes().ljust(4, b"\0"), "big")) % _MODULUS


def has_sums(cards: Cards) -> bool:
    """Return whether a header states any sum."""
    return _stated_datasum(cards) != "" or _has_checksum(cards)


def find_fault(cards: Cards, header_sum: int, data_sum: int) -> Fault | None:
    """Compare the sums of an HDU with those that its header states; what is not stated is not compared.

    Parameters
    ----------
    header_sum, data_sum
        From `sum_of_words`.
    """
    stated = _stated_datasum(cards)
    is_number = stated.isascii() and stated.isdigit()
    if is_number and (int(stated) - data_sum) % _MODULUS:
        return Fault(f"its data are not those that were written (DATASUM is {stated}, the data sum to {data_sum})", True)
    if _has_checksum(cards) and (header_sum + data_sum) % _MODULUS:
        if is_number:
            return Fault(CHANGED_HEADER, False)
        return Fault("its CHECKSUM does not match, and no DATASUM tells whether the data are right", True)
    if stated and not is_number:
        return Fault(f"its DATASUM is no number ({stated})", False)
    return None


def has_changed_header(cards: Cards, header_sum: int) -> bool:
    """Return whether the sums of an HDU without data show that its header was changed after they were made."""
    return find_fault(cards, header_sum, 0) is not None


def _stated_datasum(cards: Cards) -> str:
    """Return DATASUM as text, "" without any; it is a string by the standard, and an integer by some writers."""
    stated = cards.get("DATASUM")
    return "" if stated is None else str(stated).strip()


def _has_checksum(cards: Cards) -> bool:
    """Return whether a CHECKSUM was made; zeros stand for one that was to be."""
    stated = cards.get("CHECKSUM")
    return isinstance(stated, str) and stated.strip("0 ") != ""
