"""The decoder against the library's encoder and decoder, and against damage."""

from __future__ import annotations

import io

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kernel_levels import LEVELS, kernels_of
from permil import _kernels
from permil._kernels.exposures import decode_tile
from permil.exposures import tiles
from permil.exposures.hdu import Hdu, read_structure
from permil.exposures.tiles import as_words, decompress, rice_coding, tile_places

SETTINGS = settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])


def integers(kind: type[np.integer]) -> st.SearchStrategy[np.ndarray]:
    limits = np.iinfo(kind)
    small = (max(-5, limits.min), 5)
    return hnp.arrays(
        kind,
        hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=70),
        elements=st.one_of(st.integers(*small), st.integers(limits.min, limits.max)),
        fill=st.integers(0, 3),
    )


def encoded(pixels: np.ndarray, **options: object) -> tuple[Hdu, bytes]:
    stream = io.BytesIO()
    image = fits.CompImageHDU(pixels, compression_type="RICE_1", **options)
    fits.HDUList([fits.PrimaryHDU(), image]).writeto(stream)
    hdu = read_structure(stream, len(stream.getvalue()), "memory")[1]
    return hdu, stream.getvalue()[hdu.data_offset : hdu.end]


def decoded(hdu: Hdu, content: bytes) -> np.ndarray:
    coding = rice_coding(hdu)
    assert coding is not None
    return decompress(hdu, coding, np.frombuffer(content, dtype=np.uint8))


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int32])
@SETTINGS
@given(data=st.data())
def test_any_integers_in_any_tiles(kind: type[np.integer], data: st.DataObject) -> None:
    pixels = data.draw(integers(kind))
    tile = tuple(data.draw(st.integers(1, side)) for side in pixels.shape)
    hdu, content = encoded(pixels, tile_shape=tile)
    np.testing.assert_array_equal(decoded(hdu, content), pixels)


@pytest.mark.parametrize("sigma", [0.0, 0.3, 6.0, 200.0, 3e4, 3e7, 5e8])
@pytest.mark.parametrize("tile", [(1, 576), (64, 576), (7, 100)])
def test_every_noise_level(sigma: float, tile: tuple[int, int]) -> None:
    pixels = np.random.default_rng(5).normal(0.0, sigma or 1e-9, (64, 576)).clip(-(2**31), 2**31 - 1).astype(np.int32)
    np.testing.assert_array_equal(decoded(*encoded(pixels, tile_shape=tile)), pixels)


@pytest.mark.parametrize("pixel_bytes", [1, 2, 4])
@pytest.mark.parametrize("block", [1, 7, 16, 32, 33, 64, 1000])
@pytest.mark.parametrize("sigma", [0.4, 20.0, 1e9])
def test_every_block_size(pixel_bytes: int, block: int, sigma: float) -> None:
    """The codec of the library, which knows block sizes that its images do not offer."""
    from astropy.io.fits.hdu.compressed._codecs import Rice1

    kind = np.dtype({1: np.uint8, 2: np.int16, 4: np.int32}[pixel_bytes])
    limits = np.iinfo(kind)
    pixels = np.random.default_rng(block).normal(100.0, sigma, 577).clip(limits.min, limits.max).astype(kind)
    codec = Rice1(blocksize=block, bytepix=pixel_bytes, tilesize=pixels.size)
    stream = bytes(codec.encode(pixels))
    np.testing.assert_array_equal(codec.decode(np.frombuffer(stream, dtype=np.uint8)).view(kind), pixels)
    for start in range(5):
        result = np.empty(pixels.size, dtype=np.int32)
        words = as_words(np.frombuffer(b"\xa5" * start + stream, dtype=np.uint8))
        assert decode_tile(words, start, start + len(stream), result, block, pixel_bytes)
        np.testing.assert_array_equal(result, pixels)


def test_single_spike() -> None:
    pixels = np.full((3, 97), 25_000, dtype=np.int32)
    pixels[1, 50] = 2**31 - 1
    pixels[2, 0] = -(2**31)
    np.testing.assert_array_equal(decoded(*encoded(pixels)), pixels)


@SETTINGS
@given(
    stream=st.one_of(st.binary(min_size=1, max_size=60), st.binary(min_size=1, max_size=4).map(lambda octets: octets * 9)),
    start=st.integers(0, 5),
    size=st.integers(1, 80),
    block=st.integers(1, 40),
    pixel_bytes=st.sampled_from([1, 2, 4]),
)
def test_no_bits_whatever_lead_out_of_the_tile(stream: bytes, start: int, size: int, block: int, pixel_bytes: int) -> None:
    """With every index checked, and with nothing behind the tile: an access beyond it is an error here."""
    words = as_words(np.frombuffer(bytes(start) + stream, dtype=np.uint8))
    arguments = words, start, start + len(stream)
    checked, fast = np.zeros(size, dtype=np.int32), np.zeros(size, dtype=np.int32)
    with kernels_of("checked"):
        good = decode_tile(*arguments, checked, block, pixel_bytes)
    for level in LEVELS:
        with kernels_of(level):
            assert decode_tile(*arguments, fast, block, pixel_bytes) == good
        np.testing.assert_array_equal(fast, checked)
    # What lies behind the tile never changes whether it decodes, nor the pixels.
    longer = as_words(np.frombuffer(bytes(start) + stream + b"\xff" * 16, dtype=np.uint8))
    other = np.zeros(size, dtype=np.int32)
    assert decode_tile(longer, *arguments[1:], other, block, pixel_bytes) == good
    if good:
        np.testing.assert_array_equal(other, fast)


@pytest.mark.parametrize("tile", [(1, 60), (5, 17)])
@SETTINGS
@given(data=st.data())
def test_flipped_bytes_raise_or_give_some_image(tile: tuple[int, int], data: st.DataObject) -> None:
    pixels = np.random.default_rng(1).normal(1000, 20, (20, 60)).astype(np.int32)
    hdu, content = encoded(pixels, tile_shape=tile)
    damaged = bytearray(content)
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=6)):
        damaged[place] = data.draw(st.integers(0, 255))
    try:
        result = decoded(hdu, bytes(damaged))
    except ValueError:
        return
    assert result.shape == pixels.shape


@SETTINGS
@given(data=st.data())
def test_impossible_descriptors_are_noticed(data: st.DataObject) -> None:
    hdu, content = encoded(np.random.default_rng(2).normal(0, 9, (6, 50)).astype(np.int32))
    table = np.frombuffer(content, dtype=np.uint8)[:48].copy()
    row = data.draw(st.integers(0, 5))
    length, offset = data.draw(st.sampled_from([(0, 0), (-1, 4), (2**31 - 1, 0), (2**31 - 1, 2**31 - 1), (8, -4), (1, 10**6)]))
    table.view(">i4").reshape(6, 2)[row] = length, offset
    with pytest.raises(ValueError, match=f"tile {row} lies outside"):
        tile_places(hdu, table)


def test_a_heap_cut_short_is_noticed() -> None:
    pixels = np.random.default_rng(3).normal(0, 300, (4, 60)).astype(np.int32)
    hdu, content = encoded(pixels)
    table = np.frombuffer(content, dtype=np.uint8)[:32].copy()
    lengths = table.view(">i4").reshape(4, 2)
    lengths[2, 0] -= 3
    with pytest.raises(ValueError, match="tile 2 is damaged"):
        decoded(hdu, table.tobytes() + content[32:])


def test_other_codings_are_left_to_the_library() -> None:
    for card, content in (("ZCMPTYPE", "GZIP_1"), ("ZVAL2", 2), ("TFORM1", "1PI(3)"), ("ZTILE1", 0), ("TFIELDS", 2)):
        hdu, _ = encoded(np.zeros((4, 40), dtype=np.int32))
        header = fits.Header.fromstring(hdu.cards.header)
        header[card] = content
        changed = Hdu(1, type(hdu.cards)(header.tostring().encode()), hdu.data_offset)
        assert rice_coding(changed) is None, card


def test_a_row_is_a_tile_only_where_it_is() -> None:
    pixels = np.zeros((4, 40), dtype=np.int16)
    assert rice_coding(encoded(pixels, tile_shape=(1, 40))[0]).is_by_row  # type: ignore[union-attr]
    assert not rice_coding(encoded(pixels, tile_shape=(2, 40))[0]).is_by_row  # type: ignore[union-attr]
    assert tiles.RiceCoding(40, 4, 30, 3, 32, 4).tiles == 4


@pytest.mark.parametrize(
    ("start", "stop", "block", "pixel_bytes"), [(-1, 8, 32, 4), (0, 13, 32, 4), (4, 4, 32, 4), (0, 12, 0, 4), (0, 12, 32, 3)]
)
def test_tiles_outside_their_words_are_refused(start: int, stop: int, block: int, pixel_bytes: int) -> None:
    with pytest.raises(ValueError, match=r"outside the data|no such block"):
        decode_tile(np.zeros(3, dtype=np.uint32), start, stop, np.zeros(5, dtype=np.int32), block, pixel_bytes)


def test_levels_that_the_processor_does_not_have() -> None:
    with pytest.raises(ValueError, match="no kernels v5; this processor has checked, baseline"):
        _kernels.use_level("v5")
