"""A fingerprint changes exactly when something that matters does."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table

from permil.errors import InputError
from permil.products import FINGERPRINT_CARD, fingerprint, is_current, read_image, stored_fingerprint, write_image, write_table


def test_changes_with_options_files_and_upstream(tmp_path: Path) -> None:
    raw = tmp_path / "raw.fits"
    raw.write_bytes(b"one")
    seen = {
        fingerprint({"a": 1}),
        fingerprint({"a": 2}),
        fingerprint({"a": 1}, files=[raw]),
        fingerprint({"a": 1}, upstream=["x"]),
        fingerprint({"a": 1}, files=[tmp_path / "missing.fits"]),
    }
    before = fingerprint({}, files=[raw])
    os.utime(raw, ns=(1, 1))
    seen |= {before, fingerprint({}, files=[raw])}
    assert len(seen) == 7
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint({}, upstream=["x", "y"]) == fingerprint({}, upstream=["y", "x"])


@pytest.mark.parametrize("suffix", ["fits", "ecsv", "parquet"])
def test_is_read_back_from_products(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"product.{suffix}"
    assert stored_fingerprint(path) is None
    if suffix == "fits":
        write_image(path, np.ones((2, 2)), np.zeros((2, 2)), np.ones((2, 2)), header={FINGERPRINT_CARD: "abc"})
    else:
        write_table(path, Table({"a": [1]}, meta={"fingerprint": "abc"}))
    assert is_current(path, "abc")
    assert not is_current(path, "abd")


@pytest.mark.parametrize("suffix", ["fits", "ecsv", "parquet"])
def test_damaged_product_is_not_current(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"product.{suffix}"
    path.write_bytes(b"\x00nonsense")
    assert stored_fingerprint(path) is None


def test_image_cut_short_is_not_current_and_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "flat.fits"
    write_image(path, np.ones((90, 90)), np.zeros((90, 90)), np.ones((90, 90)), header={FINGERPRINT_CARD: "abc"})
    content = path.read_bytes()
    for length in (1000, 2880 * 4, len(content) - 5000):
        path.write_bytes(content[:length])
        with pytest.raises(InputError, match=r"flat\.fits: "):
            read_image(path)
    path.write_bytes(content[:1000])
    assert stored_fingerprint(path) is None
