"""Write raw files: primary header, segments (plain or RICE), and two tables without rows.

RICE_1 compression (Rice, Yeh & Miller 1993; FITS standard 4.0, section 10.4.1): differences of neighbours, mapped to non-negative
integers, in blocks with a common number of uncoded bits. `astropy` compresses tile by tile from Python; the compiled loop over a whole
segment is some ten times faster.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from permil._kernels import simulate as kernels
from permil.arrays import IntegerImage
from permil.camera import Detector
from permil.errors import OutputError
from permil.simulate.headers import (
    BOARD_TEMPERATURES,
    CONFIG_COND,
    REB_COND,
    TEMPERATURE_STEP,
    Card,
    Conditions,
    HeaderTemplate,
    empty_table_cards,
    padded,
    plain_segment_cards,
    rice_segment_cards,
    word_sum,
)

BLOCK_PIXELS = 32


def compress_rows(pixels: IntegerImage) -> tuple[NDArray[np.uint8], IntegerImage]:
    """Compress each row of an image as one tile.

    Parameters
    ----------
    pixels : ndarray of int32, shape (ny, nx)

    Returns
    -------
    heap : ndarray of uint8
        The tiles one after the other.
    descriptors : ndarray of int32, shape (ny, 2)
        Length and offset of each tile in bytes.
    """
    rows, columns = pixels.shape
    # An incompressible block takes 32 bits per pixel and its 5 bits of split; the first pixel is stored in addition.
    largest = rows * (8 + 4 * columns + columns // BLOCK_PIXELS + 1)
    heap = np.empty(largest, dtype=np.uint8)
    descriptors = np.empty((rows, 2), dtype=np.int32)
    used = kernels.compress_rows(np.ascontiguousarray(pixels), heap, descriptors)
    return heap[:used], descriptors


class RawFileWriter:
    """Writes the files of one detector from header templates, which are built once."""

    def __init__(self, detector: Detector) -> None:
        self._plain = [HeaderTemplate.from_cards(plain_segment_cards(detector, amplifier)) for amplifier in detector.amplifiers]
        self._rice = [HeaderTemplate.from_cards(rice_segment_cards(detector, amplifier)) for amplifier in detector.amplifiers]
        self._board = HeaderTemplate.from_cards(empty_table_cards("REB_COND", REB_COND))
        self._configuration = bytes(HeaderTemplate.from_cards(empty_table_cards("CONFIG_COND", CONFIG_COND)).filled(0))
        self._board_cards = {card[0]: card for card in REB_COND}

    def write(
        self, path: Path, primary: Sequence[Card], conditions: Conditions, segments: IntegerImage, *, compressed: bool
    ) -> int:
        """Write one file under a temporary name and rename it when it is complete.

        Parameters
        ----------
        primary
            Cards of the primary header.
        conditions
            Temperatures for the table of the readout board.
        segments : ndarray of int32, shape (n, ny_raw, nx_raw)
            Raw segments in the order of the amplifiers.
        compressed
            RICE or plain.

        Returns
        -------
        int
            Size of the file, bytes.

        Raises
        ------
        OutputError
            If the file cannot be written.
        """
        parts: list[bytes | bytearray] = [HeaderTemplate.from_cards(primary).filled(0)]
        for number, segment in enumerate(segments):
            parts += self._rice_segment(number, segment) if compressed else self._plain_segment(number, segment)
        parts += [self._board.filled(0, self._temperatures(conditions)), self._configuration]
        # Raw files can be simulated again, so they are not synchronised to disk one by one, which would take most of the time.
        temporary = path.with_name(f".{path.name}.partial.fits")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as stream:
                stream.writelines(parts)
            temporary.replace(path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise OutputError(
                f"cannot be written ({error.strerror or error})",
                path=path,
                remedy="check the folder's permissions and its free space, and run again",
                errno=error.errno,
            ) from error
        return sum(len(part) for part in parts)

    def _plain_segment(self, number: int, segment: IntegerImage) -> list[bytes | bytearray]:
        data = padded(segment.astype(">i4").tobytes())
        return [self._plain[number].filled(word_sum(data)), data]

    def _rice_segment(self, number: int, segment: IntegerImage) -> list[bytes | bytearray]:
        heap, descriptors = compress_rows(segment)
        data = padded(descriptors.astype(">i4").tobytes() + heap.tobytes())
        changes: list[Card] = [
            ("PCOUNT", heap.size, "number of group parameters"),
            ("TFORM1", f"1PB({descriptors[:, 0].max()})", "data format of field: variable length array"),
        ]
        return [self._rice[number].filled(word_sum(data), changes), data]

    def _temperatures(self, conditions: Conditions) -> list[Card]:
        def changed(keyword: str, content: float) -> Card:
            return keyword, content, self._board_cards[keyword][2]

        def measured(keyword: str) -> float:
            exact = float(self._board_cards[keyword][1]) + conditions.board_temperature
            return round(exact / TEMPERATURE_STEP) * TEMPERATURE_STEP

        return [
            *(changed(keyword, measured(keyword)) for keyword in BOARD_TEMPERATURES),
            changed("CCDTEMP", round(conditions.sensor_temperature, 4)),
        ]
