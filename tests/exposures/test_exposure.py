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
        led_back_temp=19.217,
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


@pytest.mark.parametrize(
    "time",
    [
        "2019-10-29T02:27:46.151", "2019-10-29 02:27:46.151", "2019-10-29T02:27:46.151Z", "2019-10-29T02:27:46.151+00:00",
        "2019-10-28T19:27:46.151-07:00", "20191029T022746.151", "2019-10-29T02:27:46.151000000", "2019-10-29T02:27:46,151",
        "2019-10-29t02:27:46.151z", "2019-W44-2T02:27:46.151",
    ],
)  # fmt: skip
@pytest.mark.parametrize("card", ["DATE-OBS", "DATE-TRG", "DATE-BEG", "DATE-END"])
def test_a_date_stands_in_for_a_missing_mjd(write_primary: RawWriter, lsstcam: Camera, card: str, time: str) -> None:
    exposure = read_exposure(write_primary(**{"MJD-OBS": None, "DATE-OBS": None, card: time}), lsstcam)
    assert exposure.mjd == pytest.approx(58785.10261748824, abs=1e-9)
    assert exposure.note == ""


@pytest.mark.parametrize(
    "time", ["2019-10-29", "20191029", "29/10/19", "yesterday", "1858-11-17T00:00:00", "2019-10-29T02:27:99"]
)
def test_a_date_that_is_no_time_is_named(write_primary: RawWriter, lsstcam: Camera, time: str) -> None:
    exposure = read_exposure(write_primary(**{"MJD-OBS": None, "DATE-OBS": time}), lsstcam)
    assert math.isnan(exposure.mjd)
    assert exposure.note == f"card DATE-OBS is not a date and time in the era of the camera ({time!r})"
    assert not math.isnan(read_exposure(write_primary(seqnum=2, **{"DATE-OBS": time}), lsstcam).mjd)


@pytest.mark.parametrize(
    "reading", ["0.33 V", "330 mV", " 0.33V ", "0.00033 kV", (0.33, "[V] control photodiode"), (330.0, "[mV]"), ("330", "[mV]")]
)
def test_photodiode_readings_with_a_unit(write_primary: RawWriter, lsstcam: Camera, reading: Any) -> None:
    exposure = read_exposure(write_primary(CCOBADC=reading), lsstcam)
    assert exposure.photodiode == pytest.approx(0.33, rel=1e-12)
    assert exposure.note == ""


@pytest.mark.parametrize("reading", ["0.33 s", "0.33 volts per LED"])
def test_photodiode_readings_in_another_unit_are_named(write_primary: RawWriter, lsstcam: Camera, reading: str) -> None:
    exposure = read_exposure(write_primary(CCOBADC=reading), lsstcam)
    assert math.isnan(exposure.photodiode)
    assert exposure.note == f"card CCOBADC is not a number ({reading!r})"


def test_gzip_by_content(write_primary: RawWriter, lsstcam: Camera) -> None:
    path = write_primary()
    plain = read_exposure(path, lsstcam)
    path.write_bytes(gzip.compress(path.read_bytes(), 1))
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
        ({"RAFTBAY": None}, "identifies the detector (the header says S11)"),
        ({"CCDSLOT": None}, "identifies the detector (the header says R22)"),
        ({"CCDSLOT": "S33"}, "camera lsstcam has no detector 'R22_S33'"),
        ({"RAFTBAY": None, "CCDSLOT": None}, "identifies the detector"),
        ({"LSST_NUM": "ITL-3800C-001"}, "sensor of ITL, but R22_S11 of camera lsstcam is a sensor of E2V"),
        ({"CCD_MANU": "ITL"}, "sensor of ITL, but R22_S11 of camera lsstcam is a sensor of E2V"),
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


RAFT_NAME = "11_CCOB_red_0.012A_0.06s_X300_Y192_0000_20171215013413.fits"
NO_PLACE: dict[str, Any] = {"RAFTBAY": None, "CCDSLOT": None}


@pytest.mark.parametrize(
    ("name", "cards"),
    [
        ("exposure.fits", {"RAFTBAY": None, "CCDSLOT": "R22_S11"}),
        ("exposure.fits", {"RAFTBAY": "R22_S11", "CCDSLOT": "S11"}),
        ("exposure.fits", {"RAFTBAY": "r22", "CCDSLOT": "s11"}),
        ("exposure.fits", {"RAFTBAY": "22", "CCDSLOT": "11"}),
        ("MC_C_20191028_000001_R22_S11.fits", {"RAFTBAY": None}),
        ("MC_C_20191028_000001_r22_s11.fits", {"CCDSLOT": None}),
        ("exposure.fits", {"RAFTBAY": None, "LSST_NUM": "E2V-CCD250-382"}),
        ("exposure.fits", {"RAFTBAY": None, "RAFTNAME": "LCA-11021_RTM-024"}),
        ("exposure.fits", NO_PLACE | {"LSST_NUM": " lca-e2v-ccd250-382 "}),
        ("exposure.fits", NO_PLACE | {"DETECTOR": 94}),
        ("exposure.fits", NO_PLACE | {"DETECTOR": "det094"}),
        ("exposure.fits", NO_PLACE | {"DETECTOR": "R22-S11"}),
        ("exposure.fits", NO_PLACE | {"CHIPID": "r22s11"}),
        ("exposure.fits", {"RAFTBAY": None, "CHIPID": "R22"}),
        ("exposure.fits", {"DETECTOR": "CCD250"}),
        ("30191028000001-R22-S11-det094.fits", NO_PLACE),
        (RAFT_NAME, NO_PLACE | {"RAFTNAME": "LCA-11021_RTM-024-Dev"}),
        ("E2V-CCD250-382_lambda_flat_0700_6006D_20180724102845.fits", NO_PLACE),
        ("201807241028453-RTM-024-S11-det094.fits", NO_PLACE | {"RAFTNAME": "RTM-024"}),
    ],
)
def test_statements_about_the_detector(write_primary: RawWriter, lsstcam: Camera, name: str, cards: dict[str, Any]) -> None:
    assert read_exposure(write_primary(name=name, **cards), lsstcam).detector == "R22_S11"


@pytest.mark.parametrize(
    ("name", "cards", "reason"),
    [
        ("exposure.fits", {"DETECTOR": 95}, r"header says detector R22_S11, card DETECTOR 95 \(R22_S12\)"),
        ("exposure.fits", {"DETECTOR": "R21_S11"}, "header says detector R22_S11, card DETECTOR R21_S11"),
        ("exposure.fits", {"CHIPID": "S12"}, "header says detector R22_S11, card CHIPID S12"),
        ("22_CCOB_red_0.012A_0.06s_X300_Y192_0000_20171215013413.fits", {}, "header says detector R22_S11, the file name S22"),
        ("30191028000001-R22-S11-det095.fits", {}, "header says detector R22_S11, the number in the file name R22_S12"),
        ("exposure.fits", {"RAFTBAY": "R22", "CCDSLOT": "R21_S11"}, "has no detector 'R22_R21_S11'"),
        (RAFT_NAME, NO_PLACE, "identifies the detector .the file name says S11."),
    ],
)
def test_statements_that_exclude_each_other(
    write_primary: RawWriter, lsstcam: Camera, name: str, cards: dict[str, Any], reason: str
) -> None:
    with pytest.raises(InputError, match=reason):
        read_exposure(write_primary(name=name, **cards), lsstcam)


def test_exposures_of_single_rafts(write_primary: RawWriter, lsstcam: Camera) -> None:
    removed = dict.fromkeys(("OBSID", "DAYOBS", "RAFTBAY", "CCOBLED", "CCOBCURR", "EXPTIME"))
    names = [
        f"{slot}_CCOB_red_0.012A_0.06s_X{x}_Y192_{x:04d}_2017121501{x:04d}.fits" for slot in ("11", "12") for x in (300, 304)
    ]
    cards = {"RAFTNAME": "LCA-11021_RTM-024", "MJD-OBS": 58102.1, "SEQNUM": None} | removed
    exposures = [read_exposure(write_primary(name=name, CCDSLOT=f"S{name[:2]}", **cards), lsstcam) for name in names]
    assert [exposure.obsid for exposure in exposures[:2]] == [exposure.obsid for exposure in exposures[2:]]
    assert len({exposure.obsid for exposure in exposures}) == 2
    assert [exposure.detector for exposure in exposures] == ["R22_S11", "R22_S11", "R22_S12", "R22_S12"]
    assert {(exposure.led, exposure.current_a, exposure.exposure_s, exposure.day_obs) for exposure in exposures} == {
        ("red", 0.012, 0.06, "20171215")
    }
    assert {exposure.note for exposure in exposures} == {""}


def test_exposures_without_a_name(write_primary: RawWriter, lsstcam: Camera) -> None:
    """OBSID is made of day and sequence number where it is missing, else of folder and name."""
    bare = dict.fromkeys(("OBSID", "SEQNUM", "DAYOBS"))
    first, second = (
        read_exposure(write_primary(name="a.fits", folder=f"7/ccob_red_{x}.0_0.0_00{x}", TSEQNUM=x, **bare), lsstcam)
        for x in (0, 5)
    )
    assert first.obsid != second.obsid
    numbered = read_exposure(write_primary(name="b.fits", OBSID=None, CONTRLLR="O"), lsstcam)
    assert numbered.obsid == "MC_O_20191028_000001"


@pytest.mark.parametrize(
    ("cards", "note"),
    [
        ({"EXPTIME": "0,32"}, r"card EXPTIME is not a number \('0,32'\)"),
        ({"CCOBADC": "broken"}, "card CCOBADC is not a number"),
        ({"EXPTIME": -1.0}, r"card EXPTIME is negative \(-1\)"),
        ({"EXPTIME": 7.0, "DARKTIME": 0.45}, "EXPTIME 7 s exceeds DARKTIME 0.45 s"),
        ({"EXPTIME": 0.5, "IMGTYPE": "BIAS", "folder": "bias_bias_001"}, "a bias with an exposure time of 0.5 s"),
        ({"SEQNUM": 10**20}, "card SEQNUM is not an integer"),
        ({"SEQNUM": 558}, "OBSID MC_C_20191028_000001 contradicts DAYOBS 20191028 and SEQNUM 558"),
        ({"DAYOBS": "20191029"}, "OBSID MC_C_20191028_000001 contradicts DAYOBS 20191029"),
        ({"OBSID": "MC_C_20191028_000007"}, "header says exposure MC_C_20191028_000007, the file name MC_C_20191028_000001"),
        ({"OBSID": "garbage"}, "header says exposure garbage, the file name MC_C_20191028_000001"),
        ({"DAYOBS": "someday"}, "card DAYOBS is not a date .'someday'."),
        ({"DAYOBS": "99999999999999"}, "card DAYOBS is not a date"),
        ({"DAYOBS": "20191331"}, "card DAYOBS is not a date"),
        ({"LSST_NUM": "--5"}, "card LSST_NUM is not a serial number .'--5'."),
        ({"TSEQNUM": 9}, "TSEQNUM is 9, the folder's number 1"),
        ({"MJD-OBS": 58790.1}, "MJD 58790.10000 is not on day 20191028"),
        ({"MJD-OBS": 1.5}, r"card MJD-OBS is not a date in the era of the camera \(1.5\)"),
        ({"TEMPLED1": -273.15}, r"card TEMPLED1 has an impossible temperature \(-273.15 degree C\)"),
        ({"LSST_NUM": "E2V-CCD250-112-09"}, "R22_S11 is sensor E2V-CCD250-112-09, but E2V-CCD250-382 in camera lsstcam$"),
        ({"RAFTNAME": "LCA-11021_RTM-003_ETU2"}, "R22_S11 is in raft LCA-11021_RTM-003_ETU2, but in LCA-11021_RTM-024 in camera lsstcam"),
        ({"LSST_NUM": "E2V-CCD250-1", "RAFTNAME": "RTM-024_ETU1"}, "sensor E2V-CCD250-1 of raft RTM-024_ETU1, but "),
    ],
)  # fmt: skip
def test_odd_headers_are_used_with_a_note(write_primary: RawWriter, lsstcam: Camera, cards: dict[str, Any], note: str) -> None:
    folder = {"folder": "1/BOT_acq/v0/2/ccob_red_0.0_0.0_001", "name": "MC_C_20191028_000001_R22_S11.fits"}
    exposure = read_exposure(write_primary(**folder | cards), lsstcam)
    assert re.search(note, exposure.note)
    assert ";" not in exposure.note


@pytest.mark.parametrize(
    "serial", ["E2V-CCD250-382", "e2v-ccd250-382 ", "LCA-E2V-CCD250-382", "E2V_CCD250_382", "E2V CCD250 382"]
)
def test_spellings_of_a_serial_number(write_primary: RawWriter, lsstcam: Camera, serial: str) -> None:
    exposure = read_exposure(write_primary(LSST_NUM=serial, RAFTNAME="LCA-11021_RTM-024"), lsstcam)
    assert (exposure.serial, exposure.note) == ("E2V-CCD250-382", "")


@pytest.mark.parametrize("serial", [None, "", "  ", "none", "UNKNOWN", fits.card.UNDEFINED, "0"])
def test_serials_that_say_nothing(write_primary: RawWriter, lsstcam: Camera, serial: Any) -> None:
    exposure = read_exposure(write_primary(LSST_NUM=serial), lsstcam)
    assert (exposure.serial, exposure.note) == ("", "")


@pytest.mark.parametrize("day", ["20191028", 20191028, 20191028.0, "2019-10-28"])
def test_days(write_primary: RawWriter, lsstcam: Camera, day: Any) -> None:
    exposure = read_exposure(write_primary(DAYOBS=day), lsstcam)
    assert (exposure.day_obs, exposure.note) == ("20191028", "")


def test_leds_in_capitals(write_primary: RawWriter, lsstcam: Camera) -> None:
    exposure = read_exposure(write_primary(CCOBLED="RED", folder="ccob_Red_0.0_0.0_001"), lsstcam)
    assert (exposure.led, exposure.note) == ("red", "")


@pytest.mark.parametrize(
    ("folder", "image_type"), [("ccob_red_0.0_0.0_001", "BIAS"), ("ccob_red_0.0_0.0_001", "DARK"), ("bias_bias_003", "CCOB")]
)
def test_kind_of_header_and_folder(write_primary: RawWriter, lsstcam: Camera, folder: str, image_type: str) -> None:
    with pytest.raises(InputError, match=f"the header says {image_type}, the folder {folder}"):
        read_exposure(write_primary(folder=folder, IMGTYPE=image_type), lsstcam)


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
    # A raft of engineering sensors stood in R10 in March 2019.
    assert early.note == (
        "R10_S22 is sensor ITL-3800C-103 of raft LCA-11021_RTM-003_ETU2, but ITL-3800C-207 of raft LCA-11021_RTM-023 in camera lsstcam"
    )
    assert (stand.note, late.note) == ("", "")
    assert stand.obsid == "201807241028453_RTM-010"


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
