"""The row decoder against the library's encoder."""

from __future__ import annotations

import io

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from permil.exposures.hdu import read_structure
from permil.exposures.rice import decompress_rows, is_rice_by_row


def round_trip(pixels: np.ndarray, **options: object) -> np.ndarray | None:
    stream = io.BytesIO()
    image = fits.CompImageHDU(pixels, compression_type="RICE_1", tile_shape=(1, pixels.shape[1]), **options)
    fits.HDUList([fits.PrimaryHDU(), image]).writeto(stream)
    hdu = read_structure(stream, len(stream.getvalue()), "memory")[1]
    if not is_rice_by_row(hdu):
        return None
    stream.seek(hdu.data_offset)
    return decompress_rows(hdu, stream.read(hdu.data_size))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    hnp.arrays(
        np.int32,
        hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=70),
        elements=st.one_of(st.integers(-5, 5), st.integers(-300_000, 300_000), st.integers(-(2**31), 2**31 - 1)),
        fill=st.integers(0, 3),
    )
)
def test_any_integers(pixels: np.ndarray) -> None:
    np.testing.assert_array_equal(round_trip(pixels), pixels)


@pytest.mark.parametrize("sigma", [0.0, 0.3, 6.0, 200.0, 3e4, 3e7, 5e8])
def test_every_noise_level(sigma: float) -> None:
    pixels = np.random.default_rng(5).normal(0.0, sigma or 1e-9, (64, 576)).clip(-(2**31), 2**31 - 1).astype(np.int32)
    np.testing.assert_array_equal(round_trip(pixels), pixels)


def test_single_spike() -> None:
    pixels = np.full((3, 97), 25_000, dtype=np.int32)
    pixels[1, 50] = 2**31 - 1
    pixels[2, 0] = -(2**31)
    np.testing.assert_array_equal(round_trip(pixels), pixels)


def test_16_bits_are_left_to_the_library() -> None:
    assert round_trip(np.zeros((4, 40), dtype=np.int16)) is None
