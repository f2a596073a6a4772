"""Some rows of a segment: those of the whole segment, however it is stored."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from permil.camera import Camera
from permil.errors import RawFormatError
from permil.exposures import RawFile
from permil.exposures.some_rows import read_rows

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
def test_they_are_those_of_the_segment(write_raw: RawWriter, bin8: Camera, stored: dict[str, Any], zipped: bool) -> None:
    path = write_raw(**stored)
    if zipped:
        path.write_bytes(gzip.compress(path.read_bytes(), 1))
    with RawFile(path, bin8) as raw_file:
        whole = raw_file.segment("C14")
        for rows in (slice(0, 1), slice(110, 140), slice(whole.shape[0] - 3, whole.shape[0])):
            np.testing.assert_array_equal(read_rows(raw_file, "C14", rows), whole[rows])


def test_a_damaged_row_is_named(write_raw: RawWriter, bin8: Camera, tmp_path: Path) -> None:
    path = write_raw(compressed=True)
    with RawFile(path, bin8) as raw_file:
        places = raw_file.stored_rows("C14")
    assert places is not None
    content = bytearray(path.read_bytes())
    start, stop = places.bounds(50, 51).tolist()
    content[start:stop] = b"\xff" * (stop - start)
    damaged = tmp_path / path.name.replace("000001", "000002")
    damaged.write_bytes(content)
    with RawFile(damaged, bin8) as raw_file:
        assert read_rows(raw_file, "C14", slice(0, 50)).shape[0] == 50
        with pytest.raises(RawFormatError, match=r"000002.*row 50 of segment C14 cannot be decompressed"):
            read_rows(raw_file, "C14", slice(40, 60))
