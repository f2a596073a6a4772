"""Tiles of every algorithm against the library's encoder, and against what damaged tables and tiles say of themselves."""

from __future__ import annotations

import gzip
import io
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from permil.exposures.cards import Cards
from permil.exposures.hdu import Hdu, read_structure
from permil.exposures.tiles import decode_tiles

SHAPE = (26, 60)
BITS = {np.dtype(np.uint8): 8, np.dtype(np.int16): 16, np.dtype(np.int32): 32}


def image(kind: Any) -> np.ndarray:
    limits = np.iinfo(kind)
    pixels = np.random.default_rng(4).normal(100, 30, SHAPE).clip(0, limits.max).astype(kind)
    pixels[3, 7] = limits.max if limits.max < 2**24 else 2**24 - 1
    return pixels


def encoded(pixels: np.ndarray, **options: Any) -> tuple[Hdu, np.ndarray]:
    stream = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(pixels, **options)]).writeto(stream)
    hdu = read_structure(stream, len(stream.getvalue()), "memory")[1]
    return hdu, np.frombuffer(stream.getvalue()[hdu.data_offset : hdu.end], dtype=np.uint8)


def with_cards(hdu: Hdu, **cards: Any) -> Hdu:
    """Return an HDU with other cards."""
    header = fits.Header.fromstring(hdu.cards.header)
    header.update(cards)
    return Hdu(1, Cards(header.tostring().encode()), hdu.data_offset)


@pytest.mark.parametrize("algorithm", ["RICE_1", "GZIP_1", "GZIP_2", "HCOMPRESS_1", "PLIO_1", "NOCOMPRESS"])
@pytest.mark.parametrize("tile", [(1, 60), (26, 60), (7, 20), (13, 33)])
@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int32])
def test_every_algorithm(algorithm: str, tile: tuple[int, int], kind: Any) -> None:
    if algorithm == "HCOMPRESS_1" and min(tile) < 4:
        return
    pixels = image(kind)
    hdu, content = encoded(pixels, compression_type=algorithm, tile_shape=tile)
    np.testing.assert_array_equal(decode_tiles(hdu, content, BITS[np.dtype(kind)]), pixels)


@pytest.mark.parametrize("algorithm", ["GZIP_1", "NOCOMPRESS"])
def test_pixels_that_the_image_cannot_hold(algorithm: str) -> None:
    hdu, content = encoded(image(np.int32), compression_type=algorithm)
    with pytest.raises(ValueError, match="tile 3 has pixels of more than 16 bits"):
        decode_tiles(hdu, content, 16)


def test_tiles_in_other_columns() -> None:
    """Tiles that could not be compressed stand beside the others, packed with gzip or as they are."""
    pixels = np.random.default_rng(1).integers(-(2**31), 2**31, (3, 20)).astype(np.int32)
    raw = [row.astype(">i4").tobytes() for row in pixels]
    packed = gzip.compress(raw[1])
    none, first, second = (np.frombuffer(each, dtype=np.uint8) for each in (b"", raw[0], packed))
    arrays = {
        ("COMPRESSED_DATA", "1PB()"): [first, none, none],
        ("GZIP_COMPRESSED_DATA", "1QB()"): [none, second, none],
        ("UNCOMPRESSED_DATA", "1PJ()"): [none.astype(np.int32), none.astype(np.int32), pixels[2]],
    }
    columns = [fits.Column(*name, array=np.array(each, dtype=object)) for name, each in arrays.items()]
    columns.insert(1, fits.Column("ZBLANK", "1J", array=np.zeros(3, dtype=np.int32)))
    table = fits.BinTableHDU.from_columns(columns)
    table.header.update({"ZIMAGE": True, "ZCMPTYPE": "NOCOMPRESS", "ZBITPIX": 32, "ZNAXIS": 2, "ZNAXIS1": 20, "ZNAXIS2": 3})
    stream = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(stream)
    hdu = read_structure(stream, len(stream.getvalue()), "memory")[1]
    content = np.frombuffer(stream.getvalue()[hdu.data_offset : hdu.end], dtype=np.uint8)
    np.testing.assert_array_equal(decode_tiles(hdu, content, 32), pixels)


@pytest.mark.parametrize(
    ("cards", "reason"),
    [
        ({"ZTILE1": 0}, "tiles have 0 x 1"),
        ({"ZTILE2": -5}, "tiles have 60 x -5"),
        ({"ZTILE1": 1}, "too small"),
        ({"ZTILE2": 2}, "26 rows for 13 tiles"),
        ({"NAXIS": 1}, "rows for 26 tiles"),
        ({"TFIELDS": 0}, "0 columns"),
        ({"TFIELDS": 10**6}, "1000000 columns"),
        ({"TFIELDS": 2}, "TFORM2 is None"),
        ({"TFORM1": "1ZB(9)"}, "TFORM1 is 1ZB"),
        ({"TFORM1": "999999999PB(9)"}, "columns of the table have 7999999992 bytes"),
        ({"TFORM1": "1D"}, "no column COMPRESSED_DATA"),
        ({"TFORM1": "1QB(9)"}, "columns of the table have 16 bytes, its rows 8"),
        ({"TTYPE1": "DATA"}, "no column COMPRESSED_DATA"),
        ({"THEAP": 3}, "lies outside"),
        ({"THEAP": 10**9}, "lies outside"),
        ({"THEAP": -1}, "lies outside"),
        ({"ZCMPTYPE": "LZW"}, "LZW"),
        ({"ZCMPTYPE": "RICE_1", "ZNAME1": "BLOCKSIZE", "ZVAL1": 0}, "BLOCKSIZE 0"),
        ({"ZCMPTYPE": "RICE_1", "ZNAME1": "BYTEPIX", "ZVAL1": 3}, "BYTEPIX 3"),
        ({"ZCMPTYPE": "HCOMPRESS_1"}, "damaged"),
        ({"ZCMPTYPE": "PLIO_1"}, "damaged"),
        ({"ZCMPTYPE": "PLIO_1", "BZERO": 32768}, "is ambiguous"),
        ({"ZCMPTYPE": "NOCOMPRESS"}, "bytes for 60 pixels"),
    ],
    ids=str,
)
def test_tables_that_contradict_themselves(cards: dict[str, Any], reason: str) -> None:
    hdu, content = encoded(image(np.int32), compression_type="GZIP_1")
    with pytest.raises(ValueError, match=reason):
        decode_tiles(with_cards(hdu, **cards), content, 32)


@pytest.mark.parametrize("algorithm", ["GZIP_1", "GZIP_2", "HCOMPRESS_1", "PLIO_1", "NOCOMPRESS", "RICE_1"])
def test_rubbish_in_tiles(algorithm: str) -> None:
    hdu, content = encoded(image(np.int16), compression_type=algorithm, tile_shape=(13, 60))
    start = 8 * hdu.cards.integer("NAXIS2", 0)
    random = np.random.default_rng(7)
    errors = 0
    for number in range(200):
        damaged = content.copy()
        if number % 2:
            damaged[start + random.integers(0, min(40, hdu.data_size - start))] = random.integers(256)
        else:
            damaged[random.integers(start, hdu.data_size, 20)] = random.integers(0, 256, 20)
        try:
            assert decode_tiles(hdu, damaged, 16).shape == SHAPE
        except Exception:  # noqa: BLE001 - those of the codecs are turned into ours where files are read
            errors += 1
    assert errors > 0 or algorithm == "NOCOMPRESS"


def test_a_tile_that_unpacks_to_much_more_than_its_pixels() -> None:
    hdu, _ = encoded(image(np.int32), compression_type="GZIP_1", tile_shape=SHAPE)
    bomb = np.frombuffer(gzip.compress(bytes(10**7)), dtype=np.uint8)
    table = np.array([bomb.size, 0], dtype=">i4").view(np.uint8)
    changed = with_cards(hdu, PCOUNT=bomb.size)
    with pytest.raises(ValueError, match="wrong number of bytes for 1560 pixels"):
        decode_tiles(changed, np.concatenate([table, bomb]), 32)


def test_tiles_that_overlap() -> None:
    hdu, content = encoded(image(np.int32), compression_type="GZIP_1")
    damaged = content.copy()
    damaged[8:16] = damaged[:8]
    with pytest.raises(ValueError, match="tiles overlap"):
        decode_tiles(hdu, damaged, 32)
