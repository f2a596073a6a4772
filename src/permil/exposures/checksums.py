"""Checksums of FITS files: DATASUM protects the data, CHECKSUM header and data together.

Algorithm: FITS Standard 4.0, section 4.4.2.7 and appendix J (R. Seaman, W. Pence and A. Rots 1995): big-endian words of 32 bits are
added in ones' complement, that is modulo 2^32 - 1; an HDU with a correct CHECKSUM sums to zero. Compressed images are summed as stored;
their ZDATASUM and ZHECKSUM, which hold for the uncompressed image, are not checked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from permil._kernels import exposures as kernels
from permil.exposures.cards import Cards

Checksums = Literal["refuse", "warn", "off"]
"""Treatment of data with a wrong checksum."""

CHANGED_HEADER = "its header was changed after its CHECKSUM was written"

_MODULUS = 2**32 - 1


@dataclass(frozen=True)
class Fault:
    """A checksum fault of an HDU; with ``of_data`` the data may be wrong."""

    what: str
    of_data: bool


def sum_of_words(content: bytes | NDArray[np.uint8]) -> int:
    """Return the ones' complement sum of big-endian 32-bit words; an incomplete last word is padded with zeros."""
    octets = np.frombuffer(content, dtype=np.uint8)
    whole = octets.size // 4 * 4
    total = kernels.sum_words(octets[:whole].view(np.uint32)) if whole else 0
    return (total + int.from_bytes(octets[whole:].tobytes().ljust(4, b"\0"), "big")) % _MODULUS


def has_sums(cards: Cards) -> bool:
    """Return whether a header has DATASUM or CHECKSUM."""
    return _stated_datasum(cards) != "" or _has_checksum(cards)


def find_fault(cards: Cards, header_sum: int, data_sum: int) -> Fault | None:
    """Compare the checksums of an HDU with those in its header; missing cards are skipped.

    Parameters
    ----------
    header_sum, data_sum
        From `sum_of_words`.
    """
    stated = _stated_datasum(cards)
    is_number = stated.isascii() and stated.isdigit()
    if is_number and (int(stated) - data_sum) % _MODULUS:
        return Fault(f"its data have changed since they were written (DATASUM is {stated}, the data sum to {data_sum})", True)
    if _has_checksum(cards) and (header_sum + data_sum) % _MODULUS:
        if is_number:
            return Fault(CHANGED_HEADER, False)
        return Fault("its CHECKSUM does not match, and there is no DATASUM to check the data", True)
    if stated and not is_number:
        return Fault(f"its DATASUM is not a number ({stated})", False)
    return None


def has_changed_header(cards: Cards, header_sum: int) -> bool:
    """Return whether an HDU without data has a header that was changed after its checksums were written."""
    return find_fault(cards, header_sum, 0) is not None


def _stated_datasum(cards: Cards) -> str:
    """Return DATASUM as text, "" if missing; a string by the standard, an integer from some programs."""
    stated = cards.get("DATASUM")
    return "" if stated is None else str(stated).strip()


def _has_checksum(cards: Cards) -> bool:
    """Return whether a CHECKSUM was written; all zeros mean that it was not."""
    stated = cards.get("CHECKSUM")
    return isinstance(stated, str) and stated.strip("0 ") != ""
