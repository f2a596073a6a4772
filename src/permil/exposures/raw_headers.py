"""What the headers of a raw file tell of the exposure as a whole."""

from __future__ import annotations

from functools import cached_property

from astropy.io import fits


class RawHeaders:
    """Headers of all HDUs as bytes, the primary first."""

    headers: tuple[bytes, ...]

    @cached_property
    def header(self) -> fits.Header:
        """Primary header."""
        return fits.Header.fromstring(self.headers[0])

    @cached_property
    def readout_board(self) -> fits.Header | None:
        """Header of the extension REB_COND (temperatures, voltages and currents of the readout board); None where there is none.

        In 2019-03 it had no name; its cards tell.
        """
        for header in self.headers[1:]:
            if b"EXTNAME = 'REB_COND" in header or (b"EXTNAME =" not in header and b"TEMP1   =" in header):
                return fits.Header.fromstring(header)
        return None

    @property
    def board_temperatures(self) -> dict[str, float]:
        """Temperatures of the readout board (TEMP1 to TEMP10), deg C."""
        cards = self.readout_board or {}
        names = (f"TEMP{number}" for number in range(1, 11))
        return {name: float(cards[name]) for name in names if isinstance(cards.get(name), int | float)}
