"""Some rows of a segment: those of the whole segment, however it is stored."""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from permil.camera import Camera
from permil.errors import RawFormatError
from permil.exposures import RawFile
from permil.exposures.segment_rows import read_rows

from .conftest import RawWriter


@pytest.mark.parametrize(
    "stored",
    [
        {},
        {"kind": np.uint16},
        {"compressed": True},
        {"compressed": True, "kind": np.uint16},
        {"compressed": True, "tile_shape": (7, 20)},
        {"compressed": True, "compression_type": "GZIP_1"},
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("worth_skipping", [0, 500, 10**9])
def test_they_are_those_of_the_segment(
    write_raw: RawWriter,
    bin8: Camera,
    stored: dict[str, Any],
    zipped: bool,
    worth_skipping: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("permil.exposures.segment_rows._WORTH_SKIPPING", worth_skipping)
    path = write_raw(**stored)
    if zipped:
        path.write_bytes(gzip.compress(path.read_bytes(), 1))
    with RawFile(path, bin8) as raw_file:
        whole = raw_file.segment("C14")
        last = whole.shape[0]
        for rows in (slice(0, 1), slice(110, 140), slice(last - 3, last), slice(0, last, 7), slice(2, last, 50), slice(9, 12, 2)):
            np.testing.assert_array_equal(read_rows(raw_file, "C14", rows), whole[rows])


def test_a_damaged_row_is_named(write_raw: RawWriter, bin8: Camera, tmp_path: Path) -> None:
    path = write_raw(compressed=True)
    with RawFile(path, bin8) as raw_file:
        places = raw_file.stored_rows("C14")
    assert places is not None
    content = bytearray(path.read_bytes())
    start, stop = (int(place[0]) for place in places.bounds(np.array([50])))
    content[start:stop] = b"\xff" * (stop - start)
    damaged = tmp_path / path.name.replace("000001", "000002")
    damaged.write_bytes(content)
    with RawFile(damaged, bin8, checksums="off") as raw_file:
        assert read_rows(raw_file, "C14", slice(0, 50)).shape[0] == 50
        with pytest.raises(RawFormatError, match=r"000002.*row 50 of segment C14 cannot be decompressed"):
            read_rows(raw_file, "C14", slice(40, 60))


def test_rows_far_apart_are_read_without_those_between(
    write_raw: RawWriter, bin8: Camera, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []

    def preadv(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        read.append(buffers[0].nbytes)
        return original(descriptor, buffers, offset)

    original = os.preadv
    with RawFile(write_raw(), bin8) as raw_file:
        whole = raw_file.segment("C14")
        row_bytes = 4 * whole.shape[1]
        monkeypatch.setattr("permil.exposures.segment_rows._WORTH_SKIPPING", 5 * row_bytes)
        monkeypatch.setattr("permil.exposures.segment_rows.os.preadv", preadv)
        read_rows(raw_file, "C14", slice(0, whole.shape[0], 25))
        assert read == [row_bytes] * len(range(0, whole.shape[0], 25))
        read.clear()
        read_rows(raw_file, "C14", slice(0, whole.shape[0], 2))
        assert len(read) == 1
