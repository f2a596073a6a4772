"""Cards, checksums and RICE compression against astropy."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

from permil.exposures.hdu import sum_of_words
from permil.simulate.headers import HeaderTemplate, compress_rows, encode_checksum, format_card, word_sum


@pytest.mark.parametrize(
    "card",
    [
        ("SIMPLE", True, "conforms"),
        ("NAXIS1", -12, "size"),
        ("RUNNUM", "6852D", "The Run Number"),
        ("TFORM1", "1PB(16)", ""),
        ("QUOTED", "it's", "apostrophe"),
        ("DAQANNOT", "", "blank"),
        ("BOTXCAM", -159.1828601417542, "X position of lamp/source in camera coordinate system"),
        ("SMALL", 4.4e-08, "exponent"),
        ("LONG", "R4-V2.7 2019-10-25T19:27:48Z (52b5939b)", "a comment that is far too long for the card " * 3),
    ],
)
def test_cards_are_read_back(card):
    keyword, content, comment = card
    image = format_card(*card)
    assert len(image) == 80
    parsed = fits.Card.fromstring(image)
    assert parsed.keyword == keyword
    assert parsed.value == content
    assert type(parsed.value) is type(content)
    assert comment.startswith(parsed.comment.rstrip())


@settings(max_examples=60)
@given(st.binary(min_size=4, max_size=400).filter(lambda data: len(data) % 4 == 0))
def test_sum_and_letters_equal_those_of_astropy(data):
    hdu = fits.ImageHDU()
    words = np.frombuffer(data, dtype=np.uint8)
    total = int(hdu._compute_checksum(words))
    # Ones' complement has two zeros; sums of nothing but zeros aside, both give the same one.
    assert word_sum(data) == sum_of_words(data) == total
    assert encode_checksum(total) == hdu._char_encode(~np.uint32(total))


def test_template_gives_valid_checksums():
    cards = [
        ("XTENSION", "IMAGE", ""),
        ("BITPIX", 32, ""),
        ("NAXIS", 1, ""),
        ("NAXIS1", 720, ""),
        ("PCOUNT", 0, ""),
        ("GCOUNT", 1, ""),
        ("CHECKSUM", "0" * 16, ""),
        ("LEVEL", 0.0, ""),
        ("DATASUM", "0", ""),
    ]
    data = np.arange(720, dtype=">i4").tobytes()
    header = HeaderTemplate.from_cards(cards).filled(word_sum(data), [("LEVEL", 2.5, "changed")])
    primary = [("SIMPLE", True, ""), ("BITPIX", 8, ""), ("NAXIS", 0, ""), ("CHECKSUM", "0" * 16, ""), ("DATASUM", "0", "")]
    stream = BytesIO(HeaderTemplate.from_cards(primary).filled(0) + header + data)
    # A wrong checksum is a warning, and warnings are errors here.
    with fits.open(stream, checksum=True) as hdus:
        assert hdus[1].header["LEVEL"] == 2.5
        assert np.array_equal(hdus[1].data, np.arange(720))


@pytest.mark.parametrize("kind", ["flat", "noise", "edges", "constant", "negative", "extremes", "one row"])
def test_rice_gives_the_bytes_of_astropy(kind):
    rng = np.random.default_rng(1)
    image = {
        "flat": np.zeros((4, 128), dtype=np.int32),
        "noise": rng.normal(70_000, 200, (30, 576)).astype(np.int32),
        "edges": np.repeat(rng.integers(0, 262_144, (10, 18)), 32, axis=1).astype(np.int32),
        "constant": np.full((3, 130), 25_000, dtype=np.int32),
        "negative": rng.normal(-5, 3, (5, 77)).astype(np.int32),
        "extremes": rng.integers(-(2**31), 2**31 - 1, (20, 131), dtype=np.int64).astype(np.int32),
        "one row": rng.normal(0, 1e6, (1, 33)).astype(np.int32),
    }[kind]
    heap, descriptors = compress_rows(image)
    reference = fits.CompImageHDU(image, compression_type="RICE_1", tile_shape=(1, image.shape[1]))
    stream = BytesIO()
    fits.HDUList([fits.PrimaryHDU(), reference]).writeto(stream)
    with fits.open(BytesIO(stream.getvalue()), disable_image_compression=True) as stored:
        expected = [tile.tobytes() for tile in stored[1].data["COMPRESSED_DATA"]]
    assert [heap[offset : offset + length].tobytes() for length, offset in descriptors] == expected
