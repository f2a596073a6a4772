"""Headers of a raw file that describe the whole exposure."""

from __future__ import annotations

from functools import cached_property

from permil.exposures.cards import Cards

_BOARD_EXTENSION = "REB_COND"


class RawHeaders:
    """Headers of all HDUs as bytes, the primary first."""

    headers: tuple[bytes, ...]

    @cached_property
    def primary(self) -> Cards:
        """Cards of the primary header."""
        return Cards(self.headers[0])

    @cached_property
    def readout_board(self) -> Cards | None:
        """Cards of the extension REB_COND (temperatures, voltages and currents of the readout board); None if it is missing.

        In March 2019 it had no name and is recognised by its cards.
        """
        for header in self.headers[1:]:
            if _BOARD_EXTENSION.encode() in header or b"TEMP1   =" in header:
                cards = Cards(header)
                name = cards.text("EXTNAME")
                if name == _BOARD_EXTENSION or (not name and cards.get("TEMP1") is not None):
                    return cards
        return None
