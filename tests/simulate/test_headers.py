"""Simulated headers against real ones."""

from __future__ import annotations

import gzip
import re
from io import BytesIO
from pathlib import Path

import pytest
from astropy.io import fits

from permil.camera import Camera
from permil.simulate import SimulationSummary
from permil.simulate.headers import CONFIG_COND, REB_COND, empty_table_cards, plain_segment_cards, rice_segment_cards

# What a simulated file leaves out of, or adds to, the real ones, on purpose.
MISSING_OF_2019 = {"AVERAGE", "AVGBIAS", "STDVBIAS", "STDEV"}
"""Statistics of the segment, in files of spring 2019 only."""
MISSING_OF_2021 = {"ZHECKSUM", "ZDATASUM"}
"""Checksums of the image before compression, which the real files fill with those of the compressed one."""
ADDED_TO_2019 = {
    f"{card}E"
    for card in (
        "WCSNAME",
        "CTYPE1",
        "CTYPE2",
        "PC1_1",
        "PC1_2",
        "PC2_1",
        "PC2_2",
        "CDELT1",
        "CDELT2",
        "CRPIX1",
        "CRPIX2",
        "CRVAL1",
        "CRVAL2",
    )
}
"""The coordinate system FP_SERPAR, in files since autumn 2019."""
OWN_VALUES = {"CHECKSUM", "DATASUM", "PCOUNT", "TFORM1"}
"""What follows from the pixels."""


def real(shared_data: Path, name: str) -> fits.HDUList:
    content = gzip.decompress((shared_data / "raw" / name).read_bytes())
    return fits.open(BytesIO(content), disable_image_compression=True)


def simulated(folder: Path, number: int) -> Path:
    return next((folder / "raw").rglob(f"*_{number:06d}_R22_S11.fits"))


def test_rice_segments_equal_the_real_file_of_2021_card_by_card(shared_data: Path, lsstcam: Camera):
    detector = lsstcam["R22_S22"]
    with real(shared_data, "30211212000310-R22-S22-det098.fits") as hdus:
        for hdu, amplifier in zip(hdus[1:17], detector.amplifiers, strict=True):
            expected = [card for card in hdu.header.cards if card.keyword not in MISSING_OF_2021]
            cards = rice_segment_cards(detector, amplifier)
            assert [card[0] for card in cards] == [card.keyword for card in expected]
            for (keyword, content, comment), card in zip(cards, expected, strict=True):
                assert type(content) is type(card.value), keyword
                assert comment == card.comment, keyword
                if keyword not in OWN_VALUES:
                    assert content == card.value, (amplifier.name, keyword)


def test_plain_segments_equal_the_real_file_of_2019(shared_data: Path, lsstcam: Camera):
    detector = lsstcam["R10_S22"]
    with real(shared_data, "3019032200002-R10-S22-det035.fits") as hdus:
        for hdu, amplifier in zip(hdus[1:17], detector.amplifiers, strict=True):
            expected = [card for card in hdu.header.cards if card.keyword not in MISSING_OF_2019]
            cards = [card for card in plain_segment_cards(detector, amplifier) if card[0] not in ADDED_TO_2019]
            assert [card[0] for card in cards] == [card.keyword for card in expected]
            for (keyword, content, comment), card in zip(cards, expected, strict=True):
                assert type(content) is type(card.value), keyword
                assert comment == card.comment, keyword
                # The coordinate systems of spring 2019 were off by six pixels for ITL sensors, and mended later.
                if keyword not in OWN_VALUES and not keyword.startswith("CRVAL"):
                    assert content == card.value, (amplifier.name, keyword)


def test_tables_without_rows_equal_the_real_ones(shared_data: Path):
    with real(shared_data, "30211212000310-R22-S22-det098.fits") as hdus:
        for hdu, cards in ((hdus[17], REB_COND), (hdus[18], CONFIG_COND)):
            ours = empty_table_cards(hdu.name, cards)
            assert [card[0] for card in ours] == list(hdu.header)
            for (keyword, content, _), card in zip(ours, hdu.header.cards, strict=True):
                assert type(content) is type(card.value), keyword
                assert keyword in OWN_VALUES or content == card.value


@pytest.mark.parametrize("number", [1, 3], ids=["rice", "plain"])
def test_files_have_the_extensions_of_the_real_one(shared_data: Path, small_folder: Path, number):
    with real(shared_data, "30211212000310-R22-S22-det098.fits") as hdus:
        names = [hdu.name for hdu in hdus]
        primary = {card.keyword: card for card in hdus[0].header.cards}
    with fits.open(simulated(small_folder, number), disable_image_compression=True) as hdus:
        assert [hdu.name for hdu in hdus] == names
        assert isinstance(hdus[1], fits.BinTableHDU if number == 1 else fits.ImageHDU)
        for card in hdus[0].header.cards:
            if card.keyword in primary:
                assert type(card.value) is type(primary[card.keyword].value), card.keyword


def test_primary_header_is_that_of_the_reference(shared_reference: Path, small_folder: Path):
    lines = (shared_reference / "raw_fits_format.md").read_text(encoding="utf-8").split("## 3. ")[1].split("### Spot")[0]
    expected: list[tuple[str, str]] = []
    for row in re.findall(r"^\| ([A-Z][A-Z0-9_, -]+?) \| ([a-z, ]+) \|", lines, flags=re.MULTILINE):
        keywords, kinds = row[0].split(", "), row[1].split(", ")
        expected += [(keyword, kinds[min(index, len(kinds) - 1)]) for index, keyword in enumerate(keywords)]
        if keywords == ["DAQVERS"]:
            expected += [(keyword, "str") for keyword in ("DAQPART", "DAQFOLD", "DAQANNOT")]
    assert len(expected) > 50
    header = fits.getheader(simulated(small_folder, 3))
    ours = [keyword for keyword in header if keyword not in ("SIMPLE", "BITPIX", "NAXIS", "EXTEND")]
    assert ours == [keyword for keyword, _ in expected]
    kinds = {"str": str, "int": int, "float": float}
    for keyword, kind in expected:
        assert type(header[keyword]) is kinds[kind], keyword
    assert header["BOTX"] + header["BOTXCAM"] == pytest.approx(405.0)
    assert header["BOTY"] + header["BOTYCAM"] == pytest.approx(400.0)
    assert header["DARKTIME"] > header["EXPTIME"]
    assert header["DATE-OBS"] == header["DATE-TRG"] < header["DATE"]


def test_biases_carry_stale_cards(small_campaign: SimulationSummary):
    folder = small_campaign.folder / "raw"
    paths = sorted(folder.rglob("bias_bias_*/*.fits"))
    assert len(paths) == 2
    scan = [fits.getheader(path) for path in sorted((folder / "6840D").rglob("*.fits"))]
    last = max(scan, key=lambda header: header["SEQNUM"])
    for number, path in enumerate(paths):
        header = fits.getheader(path)
        assert header["IMGTYPE"] == header["TESTTYPE"] == "BIAS"
        assert header["EXPTIME"] == 0.0
        assert header["TSEQNUM"] == number
        for stale in ("CCOBLED", "CCOBADC", "BOTXCAM"):
            assert header[stale] == last[stale]
