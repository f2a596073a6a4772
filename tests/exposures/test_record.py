"""What the index reads of a primary header."""

from __future__ import annotations

import gzip
import math
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import example, given
from hypothesis import strategies as st

from permil.camera import Camera
from permil.errors import InputError
from permil.exposures import Exposure, exposures_to_table, read_exposure
from permil.exposures.cards import Cards

from .conftest import RawWriter


def test_ccob_exposure(write_primary: RawWriter, lsstcam: Camera) -> None:
    path = write_primary(
        "R12_S00",
        folder="6852D/BOT_acq/v0/48113/ccob_nm960_-159.175_-32.325_006",
        seqnum=5273,
        TSEQNUM=6,
        CCOBLED="nm960",
        CCOBCURR=0.01,
        CCOBADC=0.502070160982681,
        BOTXCAM=-159.1828601417542,
        BOTYCAM=-32.32498171768185,
        LSST_NUM="E2V-CCD250-136",
    )
    exposure = read_exposure(path, lsstcam)
    assert exposure == Exposure(
        path=str(path),
        obsid="MC_C_20191028_005273",
        run="6852D",
        job="48113",
        day_obs="20191028",
        seqnum=5273,
        test_seqnum=6,
        detector="R12_S00",
        vendor="E2V",
        serial="E2V-CCD250-136",
        image_type="ccob",
        test_type="ccob",
        led="nm960",
        current_a=0.01,
        exposure_s=0.32,
        photodiode=0.502070160982681,
        x_header_mm=-159.1828601417542,
        y_header_mm=-32.32498171768185,
        x_folder_mm=-159.175,
        y_folder_mm=-32.325,
        ccd_temp=-98.933,
        led_temp=19.973,
        sphere_temp=18.492,
        board_temp=33.351,
        mjd=58785.10261748824,
        x_mm=exposure.x_mm,
        y_mm=exposure.y_mm,
    )
    assert math.isnan(exposure.x_mm)


@pytest.mark.parametrize(
    ("image_type", "test_type"), [("SPOT", "SPOT_FLAT"), ("FLAT", "FLAT"), ("BIAS", "CCOB"), ("DARK", "CCOB")]
)
def test_stale_ccob_cards_are_ignored(write_primary: RawWriter, lsstcam: Camera, image_type: str, test_type: str) -> None:
    exposure = read_exposure(write_primary(IMGTYPE=image_type, TESTTYPE=test_type, TEMPLED1=391.866), lsstcam)
    assert exposure.led == ""
    assert exposure.image_type == image_type.lower()
    for name in ("photodiode", "current_a", "led_temp", "sphere_temp", "board_temp"):
        assert math.isnan(getattr(exposure, name))


@pytest.mark.parametrize(("image_type", "test_type"), [("CCOB", "CCOB"), ("CCOB", "BEAM"), ("FLAT", "CCOB"), ("ccob", None)])
def test_either_type_makes_it_a_ccob_exposure(
    write_primary: RawWriter, lsstcam: Camera, image_type: str, test_type: str | None
) -> None:
    exposure = read_exposure(write_primary(IMGTYPE=image_type, TESTTYPE=test_type), lsstcam)
    assert exposure.led == "red"
    assert exposure.photodiode == 0.3319


@pytest.mark.parametrize("reading", [None, fits.card.UNDEFINED, 0.0, -0.1, "NaN", "broken", True])
def test_unusable_photodiode_is_nan(write_primary: RawWriter, lsstcam: Camera, reading: Any) -> None:
    assert math.isnan(read_exposure(write_primary(CCOBADC=reading), lsstcam).photodiode)


def test_unquoted_nan(write_primary: RawWriter, lsstcam: Camera) -> None:
    path = write_primary()
    content = path.read_bytes()
    place = content.index(b"CCOBADC =")
    path.write_bytes(content[:place] + b"CCOBADC =                  NaN".ljust(80) + content[place + 80 :])
    assert math.isnan(read_exposure(path, lsstcam).photodiode)


def test_undefined_cards_are_missing(write_primary: RawWriter, lsstcam: Camera) -> None:
    undefined = dict.fromkeys(("FILTER2", "CCDTEMP", "TSEQNUM", "BOTXCAM", "RUNNUM"), fits.card.UNDEFINED)
    exposure = read_exposure(write_primary(**undefined), lsstcam)
    assert (exposure.filter2, exposure.test_seqnum, exposure.run) == ("", -1, "")
    # One coordinate alone is no position.
    assert math.isnan(exposure.ccd_temp)
    assert math.isnan(exposure.x_header_mm)
    assert math.isnan(exposure.y_header_mm)


def test_names_stand_in_for_cards(write_primary: RawWriter, lsstcam: Camera) -> None:
    removed = dict.fromkeys(("OBSID", "DAYOBS", "RUNNUM", "RAFTBAY", "CCDSLOT", "CCOBLED", "MJD-OBS", "TSEQNUM", "SEQNUM"))
    path = write_primary(
        folder="6852D/BOT_acq/v0/48113/ccob_blue_1.5_-2.5_012",
        name="MC_C_20191029_000042_R22_S11.fits",
        MJD=58786.25,
        **removed,
    )
    exposure = read_exposure(path, lsstcam)
    assert (exposure.obsid, exposure.day_obs, exposure.seqnum) == ("MC_C_20191029_000042", "20191029", 42)
    assert (exposure.run, exposure.job, exposure.led, exposure.detector) == ("6852D", "48113", "blue", "R22_S11")
    assert (exposure.test_seqnum, exposure.mjd) == (12, 58786.25)


def test_gzip_by_content(write_primary: RawWriter, lsstcam: Camera) -> None:
    path = write_primary()
    plain = read_exposure(path, lsstcam)
    path.write_bytes(gzip.compress(path.read_bytes()))
    assert repr(read_exposure(path, lsstcam)) == repr(plain)


def test_only_the_first_blocks_are_read(write_primary: RawWriter, lsstcam: Camera) -> None:
    """A gzip file that is cut short far behind the header is read all the same: nobody looked there."""
    path = write_primary()
    plain = read_exposure(path, lsstcam)
    path.write_bytes(gzip.compress(path.read_bytes() + np.random.default_rng(1).bytes(3_000_000))[:1_500_000])
    assert repr(read_exposure(path, lsstcam)) == repr(plain)


@pytest.mark.parametrize(
    ("cards", "reason"),
    [
        ({"IMGTYPE": None}, "not a raw exposure"),
        ({"CCOBLED": "green"}, "unknown LED 'green'; known LEDs are uv, blue, red, nm750, nm850, nm960"),
        ({"CCOBLED": None}, "without the name of its LED"),
        ({"RAFTBAY": "R99"}, "camera lsstcam has no detector 'R99_S11'"),
        ({"RAFTBAY": None}, "camera lsstcam has no detector 'S11'"),
        ({"RAFTBAY": None, "CCDSLOT": None}, "says which detector"),
        ({"LSST_NUM": "ITL-3800C-001"}, "sensor of ITL, camera lsstcam has one of E2V at R22_S11"),
        ({"CCD_MANU": "ITL"}, "sensor of ITL, camera lsstcam has one of E2V at R22_S11"),
    ],
)
def test_unusable_headers(write_primary: RawWriter, lsstcam: Camera, cards: dict[str, Any], reason: str) -> None:
    path = write_primary(name="exposure.fits", **cards)
    with pytest.raises(InputError) as caught:
        read_exposure(path, lsstcam)
    assert reason in str(caught.value)
    assert str(caught.value).startswith(str(path))


def test_header_and_names_disagree(write_primary: RawWriter, lsstcam: Camera) -> None:
    with pytest.raises(InputError, match="header says detector R22_S12, the file name R22_S11"):
        read_exposure(write_primary(CCDSLOT="S12"), lsstcam)
    with pytest.raises(InputError, match="header names the LED red, the folder blue"):
        read_exposure(write_primary(folder="ccob_blue_0.0_0.0_000"), lsstcam)


def test_other_leds_may_be_allowed(write_primary: RawWriter, lsstcam: Camera) -> None:
    assert read_exposure(write_primary(CCOBLED="green"), lsstcam, leds=["green"]).led == "green"


def test_damaged_files(write_primary: RawWriter, lsstcam: Camera) -> None:
    path = write_primary()
    content = path.read_bytes()
    packed = gzip.compress(content)
    for damaged, reason in (
        (b"", "empty"),
        (content[:1000], "cut short"),
        (content[:-1], "cut short"),
        (b"text" * 2000, "not FITS"),
        (packed[: len(packed) // 3], "damaged or cut short"),
        (packed[:20] + bytes(200), "damaged or cut short"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=reason):
            read_exposure(path, lsstcam)


def test_real_files(shared_data: Path, lsstcam: Camera) -> None:
    paths = sorted((shared_data / "raw").glob("*.fits"))
    stand, early, late = (read_exposure(path, lsstcam) for path in paths)
    assert (stand.detector, stand.run, stand.exposure_s) == ("R33_S11", "6006D", 21.913)
    assert (early.detector, early.obsid, early.filter, early.filter2) == ("R10_S22", "MC_C_20190322_000002", "SDSSi", "ND_OD0.5")
    assert (late.detector, late.run, late.x_header_mm, late.test_seqnum) == ("R22_S22", "13162", -395.023, 133)
    for path, exposure in zip(paths, (stand, early, late), strict=True):
        header = fits.getheader(path)
        assert exposure.mjd == header["MJD-OBS"]
        assert exposure.serial == header["LSST_NUM"]
        assert exposure.led == ""


text_values = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60)


@given(
    st.dictionaries(
        st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-", min_size=1, max_size=8).filter(
            lambda name: name not in ("END", "COMMENT", "HISTORY", "CONTINUE", "HIERARCH", "SIMPLE", "BITPIX", "NAXIS", "EXTEND")
        ),
        st.one_of(st.integers(-(10**15), 10**15), st.floats(allow_nan=False, allow_infinity=False), st.booleans(), text_values),
        max_size=20,
    )
)
@example({"QUOTE": "'/"})
def test_cards_as_the_library_writes_them(content: dict[str, Any]) -> None:
    header = fits.Header()
    for name, entry in content.items():
        header[name] = entry
    block = header.tostring()
    cards, header = Cards(block.encode()), fits.Header.fromstring(block)
    for name, entry in content.items():
        # The library takes the slash behind a quote within a text for the beginning of a comment when it reads what it wrote.
        expected = entry.rstrip() if isinstance(entry, str) and re.search("' */", entry) else header[name]
        assert cards.get(name) == expected
        assert type(cards.get(name)) is type(expected)
    assert cards.get("ABSENT_X", -1) == -1


def test_table_has_the_columns_of_the_record() -> None:
    table = exposures_to_table([Exposure(path="a", seqnum=5, x_mm=1.5), Exposure(path="bcd")])
    assert table.colnames == [entry.name for entry in fields(Exposure)]
    assert table["path"].tolist() == ["a", "bcd"]
    assert table["seqnum"].tolist() == [5, -1]
    assert str(table["x_mm"].unit) == "mm"
    assert np.isnan(table["x_mm"][1])
    assert all(table[name].description for name in table.colnames)
