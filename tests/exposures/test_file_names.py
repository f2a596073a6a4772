"""Names: real ones, and round trips of any."""

from __future__ import annotations

from pathlib import PurePath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from permil.exposures.file_names import (
    CcobFolder,
    bias_folder,
    exposure_name,
    file_name,
    is_bias_folder,
    is_fits_name,
    observation_id,
    parse_ccob_folder,
    parse_file_name,
    run_and_job,
    run_folder,
)


@pytest.mark.parametrize(
    ("name", "obsid", "day_obs", "seqnum", "detector"),
    [
        ("MC_C_20191028_005273_R12_S00.fits", "MC_C_20191028_005273", "20191028", 5273, "R12_S00"),
        ("MC_C_20191028_005273_R12_S00.fits.gz", "MC_C_20191028_005273", "20191028", 5273, "R12_S00"),
        ("MC_C_20191028_005273_R12_S00.fits.fz", "MC_C_20191028_005273", "20191028", 5273, "R12_S00"),
        ("MC_O_20231125_000600_R44_SG1.fits", "MC_O_20231125_000600", "20231125", 600, "R44_SG1"),
        ("MC_C_20211212_000310_R00_SW0.fits", "MC_C_20211212_000310", "20211212", 310, "R00_SW0"),
        ("30211212000310-R22-S22-det098.fits", "MC_C_20211212_000310", "20211212", 310, "R22_S22"),
        ("3019032200002-R10-S22-det035.fits", "MC_C_20190322_000002", "20190322", 2, "R10_S22"),
        ("00_CCOB_nm750_0.012A_0.06s_X300_Y192_0000_20171215013413.fits", "", "20171215", 0, ""),
    ],
)
def test_real_file_names(name: str, obsid: str, day_obs: str, seqnum: int, detector: str) -> None:
    parsed = parse_file_name(name)
    assert parsed is not None
    assert (parsed.obsid, parsed.day_obs, parsed.seqnum, parsed.detector) == (obsid, day_obs, seqnum, detector)


@pytest.mark.parametrize(
    ("name", "exposure", "day_obs", "slot", "sensor"),
    [
        ("201807241028453-RTM-010-S11-det067.fits", "201807241028453_RTM-010", "20180724", "S11", ""),
        (
            "11_CCOB_red_0.012A_0.06s_X300_Y192_0000_20171215013413.fits.fz",
            "CCOB_red_0.012A_0.06s_X300_Y192_0000_20171215013413",
            "20171215",
            "S11",
            "",
        ),
        (
            "22_CCOB_uv_1e-3A_.5s_X-3.5_Y192._0012_20171215013520.FITS",
            "CCOB_uv_1e-3A_.5s_X-3.5_Y192._0012_20171215013520",
            "20171215",
            "S22",
            "",
        ),
        (
            "E2V-CCD250-179_lambda_flat_0700_6006D_20180724102845.fits",
            "lambda_flat_0700_6006D_20180724102845",
            "20180724",
            "",
            "E2V-CCD250-179",
        ),
        ("ITL-3800C-041_fe55_fe55_000_4910D_20170522101010.fits.gz", "fe55_fe55_000_4910D_20170522101010", "20170522", "", "ITL-3800C-041"),
    ],
)  # fmt: skip
def test_names_of_older_stands(name: str, exposure: str, day_obs: str, slot: str, sensor: str) -> None:
    parsed = parse_file_name(name)
    assert parsed is not None
    assert (parsed.obsid, parsed.exposure, parsed.day_obs) == ("", exposure, day_obs)
    assert (parsed.detector, parsed.slot, parsed.sensor) == ("", slot, sensor)


@pytest.mark.parametrize(
    "name",
    [
        "MC_C_20191028_005273_R12_S00.FITS",
        "mc_c_20191028_005273_r12_s00.fits.fz",
        "MC_C_20191028_005273_R12_S00 (1).fits",
        "copy of MC_C_20191028_005273_R12_S00.fits",
        "copy_of_MC_C_20191028_005273_R12_S00.fit",
        "[raw] MC_C_20191028_005273_R12_S00.fits.gz",
        "MC_C_20191028_005273_R12_S00-det045.fits",
        "30191028005273-R12-S00-det045.fits.FZ",
    ],
)
def test_what_copying_makes_of_a_name(name: str) -> None:
    parsed = parse_file_name(name)
    assert parsed is not None
    assert is_fits_name(name)
    assert (parsed.obsid, parsed.exposure, parsed.detector) == ("MC_C_20191028_005273", "MC_C_20191028_005273", "R12_S00")


def test_exposures_of_names_that_say_nothing() -> None:
    """The same for all detectors of an exposure, different for the exposures of different folders."""
    same = ["/d/48113/ccob_red_0_0_000/R22_S11.fits", "/d/48113/ccob_red_0_0_000/r22-s12-det095.fits.fz"]
    assert len({exposure_name(PurePath(path)) for path in same}) == 1
    others = ["/d/48113/ccob_red_0_0_000/a.fits", "/d/48113/ccob_red_5_0_001/a.fits", "/d/48114/ccob_red_0_0_000/a.fits"]
    others += ["/d/48113/ccob_red_0_0_000/0.012A.fits", "/d/48113/ccob_red_0_0_000/0.013A.fits", "R22_S11.fits"]
    assert len({exposure_name(PurePath(path)) for path in others}) == len(others)
    assert all(exposure_name(PurePath(path)) for path in others)


def test_single_raft_position_is_that_of_the_stage() -> None:
    parsed = parse_file_name("11_CCOB_red_0.009A_0.25s_X-30.5_Y192_0012_20171215013413.fits")
    assert parsed is not None
    assert (parsed.led, parsed.stage_x, parsed.stage_y) == ("red", -30.5, 192.0)
    assert (parsed.current_a, parsed.exposure_s) == (0.009, 0.25)


@pytest.mark.parametrize(
    "name",
    [
        "MC_C_20191028_005273.fits",
        "MC_C_20191028_5273_R12_S00.fits",
        "MC_C_20191028_005273_R12_S00.cfg",
        "R12_S00_6852D_eotest_results.fits",
        "xMC_C_20191028_005273_R12_S00.fits",
        "90211212000310-R22-S22-det098.fits",
        "",
    ],
)
def test_other_file_names(name: str) -> None:
    assert parse_file_name(name) is None


@given(
    st.dates().map(lambda date: date.strftime("%Y%m%d").zfill(8)),
    st.integers(0, 999_999),
    st.sampled_from("COHPQS"),
    st.tuples(st.integers(0, 4), st.integers(0, 4), st.sampled_from(["S00", "S12", "S22", "SG0", "SG1", "SW0", "SW1"])),
)
def test_file_name_round_trip(day_obs: str, seqnum: int, controller: str, place: tuple[int, int, str]) -> None:
    detector = f"R{place[0]}{place[1]}_{place[2]}"
    obsid = observation_id(day_obs, seqnum, controller=controller)
    parsed = parse_file_name(file_name(obsid, detector))
    assert parsed is not None
    assert (parsed.obsid, parsed.day_obs, parsed.seqnum, parsed.detector) == (obsid, day_obs, seqnum, detector)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ccob_nm960_-159.175_-32.325_006", CcobFolder("nm960", -159.175, -32.325, 6)),
        ("ccob_red_0.0_-0.825_4041", CcobFolder("red", 0.0, -0.825, 4041)),
        ("ccob_uv_10_2.5654_600", CcobFolder("uv", 10.0, 2.5654, 600)),
        ("ccob_blue_-.5_5._000", CcobFolder("blue", -0.5, 5.0, 0)),
    ],
)
def test_real_folder_names(name: str, expected: CcobFolder) -> None:
    assert parse_ccob_folder(name) == expected


@pytest.mark.parametrize(
    "name", ["bias_bias_000", "ccob_red_0.0_000", "ccob_red_a_b_000", "ccob_red_1.0_2.0", "flat_ccob_red_1_2_3", ""]
)
def test_other_folder_names(name: str) -> None:
    assert parse_ccob_folder(name) is None


@given(
    st.sampled_from(["uv", "blue", "red", "nm750", "nm850", "nm960"]),
    st.floats(-500, 500),
    st.floats(-500, 500),
    st.integers(0, 99_999),
)
def test_folder_name_round_trip(led: str, x_mm: float, y_mm: float, sequence: int) -> None:
    folder = CcobFolder(led, x_mm, y_mm, sequence)
    assert parse_ccob_folder(folder.name) == folder


@given(st.text(max_size=60))
def test_any_text_is_no_error(name: str) -> None:
    parse_file_name(name)
    parse_ccob_folder(name)
    exposure_name(PurePath(name))
    is_bias_folder(name)


@pytest.mark.parametrize(
    ("path", "run", "job"),
    [
        ("/d/6852D/BOT_acq/v0/48113/ccob_nm960_-159.175_-32.325_006/MC_C_20191028_005273_R12_S00.fits", "6852D", "48113"),
        ("/d/6852D/BOT_acq/v0/48113/bias_bias_003/MC_C_20191028_005273_R12_S00.fits", "6852D", "48113"),
        ("/d/focal-plane/20211212/MC_C_20211212_000310/MC_C_20211212_000310_R22_S11.fits", "", "20211212"),
        ("/d/some/folder/MC_C_20211212_000310_R22_S11.fits", "", "folder"),
        ("MC_C_20211212_000310_R22_S11.fits", "", ""),
        ("ccob_red_0.0_0.0_000/MC_C_20211212_000310_R22_S11.fits", "", ""),
    ],
)
def test_run_and_job(path: str, run: str, job: str) -> None:
    assert run_and_job(PurePath(path)) == (run, job)


def test_run_folder_round_trip() -> None:
    path = run_folder("13260", "107781") / bias_folder(7) / "MC_C_20211212_000310_R22_S11.fits"
    assert is_bias_folder(path.parent.name)
    assert run_and_job(path) == ("13260", "107781")
