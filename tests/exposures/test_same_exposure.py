"""The same measurement in several files, two sensors in one bay, and cards that contradict other files."""

from __future__ import annotations

import gzip
import itertools
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from permil.camera import Camera
from permil.config.exposures import ExposuresConfig
from permil.errors import ConfigError, InputError
from permil.exposures import Exposure, Index, build_index, exposures_to_table, summarise_files
from permil.exposures.consistency import note_unusual

from .campaigns import REB1, scan_nodes, table_of, take
from .conftest import RawWriter

E2V, OTHER_E2V = "E2V-CCD250-382", "E2V-CCD250-112-09"
BIAS = {"IMGTYPE": "BIAS", "TESTTYPE": "BIAS", "EXPTIME": 0.0}


def rewritten(path: Path, target: Path, *, packed: bool = False, **cards: Any) -> Path:
    """Write a raw file again with changed primary cards, its images compressed if wanted."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with fits.open(path) as hdus:
        hdus[0].header.update(cards)
        images = [
            fits.CompImageHDU(hdu.data, hdu.header, compression_type="RICE_1") if packed and hdu.is_image else hdu
            for hdu in hdus[1:]
        ]
        fits.HDUList([hdus[0], *images]).writeto(target, checksum=True)
    return target


@pytest.mark.parametrize("how", ["renamed", "gzip", "rice", "edited comment", "folder of another position", "capitals"])
def test_copies_count_once(write_raw: RawWriter, bin8: Camera, tmp_path: Path, how: str) -> None:
    first = write_raw(path="raw/a/ccob_red_0.0_0.0_001/MC_C_20191028_000001_R22_S11.fits")
    copies = {
        "renamed": lambda: shutil.copy(first, tmp_path / "raw" / "copy of it.fits"),
        "gzip": lambda: (tmp_path / "raw" / "x.fits.gz").write_bytes(gzip.compress(first.read_bytes(), compresslevel=1)),
        "rice": lambda: rewritten(first, tmp_path / "raw" / "packed" / f"{first.name}.fz", packed=True),
        "edited comment": lambda: rewritten(first, tmp_path / "raw" / "edited.fits", COMMENT="looked at", OBSERVER="me"),
        "folder of another position": lambda: rewritten(
            first, tmp_path / "raw" / "a" / "ccob_red_-5.0_0.0_000" / first.name, OBSERVER="me"
        ),
        "capitals": lambda: shutil.copy(first, tmp_path / "raw" / "A.FITS"),
    }
    copies[how]()
    index = build_index([tmp_path / "raw"], bin8)
    # Of the copies the one is kept that contradicts nothing.
    assert index.table["path"].tolist() == [str(first)]
    assert [entry.kept for entry in index.duplicates] == [str(first)]
    assert index.unreadable == []


@pytest.mark.parametrize("cards", [{"OBSID": "MC_C_20191028_000009", "SEQNUM": 9}, {"OBSID": "again"}])
def test_copies_under_the_name_of_another_exposure(
    write_raw: RawWriter, bin8: Camera, tmp_path: Path, cards: dict[str, Any]
) -> None:
    first = write_raw(path="raw/MC_C_20191028_000001_R22_S11.fits")
    copy = rewritten(first, tmp_path / "raw" / "other" / "exposure.fits", **cards)
    repeated = write_raw(path="raw/MC_C_20191028_000002_R22_S11.fits", seed=2, cards={"seqnum": 2})
    index = build_index([tmp_path / "raw"], bin8)
    assert index.table["path"].tolist() == [str(first), str(repeated)]
    assert [(entry.kept, entry.left_out) for entry in index.duplicates] == [(str(first), str(copy))]


def test_links_and_roots_given_twice_are_no_copies(
    write_raw: RawWriter, bin8: Camera, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = write_raw(path="raw/a/MC_C_20191028_000001_R22_S11.fits")
    os.link(first, tmp_path / "raw" / "hard.fits")
    (tmp_path / "raw" / "soft.fits").symlink_to(first)
    (tmp_path / "again").symlink_to(tmp_path / "raw")
    monkeypatch.chdir(tmp_path)
    index = build_index(["raw", "raw/", "raw/a/..", tmp_path / "again", tmp_path / "raw" / "a"], bin8)
    assert len(index.table) == 1
    assert index.duplicates == []


@pytest.mark.parametrize(
    ("cards", "reason"),
    [
        ({"EXPTIME": 0.7}, "a different header: exposure_s 0.7 instead of 0.32"),
        ({"CCOBADC": 3.3}, "a different header: photodiode 3.3 instead of 0.3319"),
        ({"BOTXCAM": 5.0}, "a different header: x_header_mm 5.0 instead of 0.0"),
        ({"LSST_NUM": OTHER_E2V}, f"a different header: serial {OTHER_E2V} instead of "),
    ],
)
def test_the_same_pixels_with_another_header_are_an_error(
    write_raw: RawWriter, bin8: Camera, tmp_path: Path, cards: dict[str, Any], reason: str
) -> None:
    first = write_raw(path="raw/MC_C_20191028_000001_R22_S11.fits")
    copy = rewritten(first, tmp_path / "raw" / "copy.fits", **cards)
    with pytest.raises(InputError, match=reason) as caught:
        build_index([tmp_path / "raw"], bin8)
    assert {caught.value.path, str(caught.value.other)} == {str(first), str(copy)}


def test_other_pixels_of_one_exposure_are_an_error(write_raw: RawWriter, bin8: Camera, tmp_path: Path) -> None:
    write_raw(path="raw/MC_C_20191028_000001_R22_S11.fits")
    write_raw(path="raw/packed.fits", compressed=True, seed=2)
    with pytest.raises(InputError, match=r"differs from .*although both hold R22_S11 of exposure"):
        build_index([tmp_path / "raw"], bin8)


def _two_sensors(write: RawWriter, second: str, *, kind: dict[str, Any] = BIAS) -> None:
    for number, serial in enumerate((E2V, E2V, E2V, second, second), start=1):
        write(folder="raw", seqnum=number, LSST_NUM=serial, **kind)


@pytest.mark.parametrize("kind", [BIAS, {}, {"IMGTYPE": "SPOT", "TESTTYPE": "SPOT_FLAT"}])
def test_two_sensors_of_one_detector(write_primary: RawWriter, bin8: Camera, tmp_path: Path, kind: dict[str, Any]) -> None:
    _two_sensors(write_primary, OTHER_E2V, kind=kind)
    with pytest.raises(
        InputError, match=f"R22_S11 are of different sensors: {E2V} in 3 files .*{OTHER_E2V} in 2 files"
    ) as caught:
        build_index([tmp_path / "raw"], bin8)
    assert "MC_C_20191028_000001_R22_S11.fits" in str(caught.value)
    assert "MC_C_20191028_000004_R22_S11.fits" in str(caught.value)
    assert "exposures.serials: {R22_S11: E2V-CCD250-382}" in str(caught.value)


def test_sensors_of_bias_and_light_are_compared(write_primary: RawWriter, bin8: Camera, tmp_path: Path) -> None:
    write_primary(folder="raw", seqnum=1, LSST_NUM=E2V, **BIAS)
    write_primary(folder="raw", seqnum=2, LSST_NUM=OTHER_E2V)
    with pytest.raises(InputError, match="different sensors"):
        build_index([tmp_path / "raw"], bin8)


@pytest.mark.parametrize("second", ["e2v-ccd250-382", "LCA-E2V-CCD250-382", "", None, "unknown"])
def test_one_sensor_in_several_spellings(write_primary: RawWriter, bin8: Camera, tmp_path: Path, second: str | None) -> None:
    _two_sensors(write_primary, second)  # type: ignore[arg-type]
    index = build_index([tmp_path / "raw"], bin8)
    assert len(index.select(purpose="bias")) == 5
    assert index.notes == []


def test_exposures_of_no_product_may_be_of_another_sensor(write_primary: RawWriter, bin8: Camera, tmp_path: Path) -> None:
    _two_sensors(write_primary, OTHER_E2V, kind={"IMGTYPE": "DARK", "TESTTYPE": "DARK"})
    index = build_index([tmp_path / "raw"], bin8)
    assert [note for _, note in index.notes] == [f"R22_S11 is sensor {OTHER_E2V}, but {E2V} in camera lsstcam-bin8"] * 2


@pytest.mark.parametrize("label", ["R22_S11", "r22-s11", 94, "det094"])
def test_the_sensor_may_be_chosen(write_primary: RawWriter, bin8: Camera, tmp_path: Path, label: str | int) -> None:
    _two_sensors(write_primary, OTHER_E2V)
    write_primary("R22_S12", folder="raw", seqnum=9, LSST_NUM="E2V-CCD250-1", **BIAS)
    options = ExposuresConfig.model_validate({"serials": {label: "e2v-ccd250-112-09"}})
    index = build_index([tmp_path / "raw"], bin8, options=options)
    assert index.table["serial"].tolist() == [OTHER_E2V, OTHER_E2V, "E2V-CCD250-1"]
    assert [entry.reason for entry in index.unreadable] == [f"R22_S11 is sensor {E2V}, requested is e2v-ccd250-112-09"] * 3
    both = ExposuresConfig.model_validate({"serials": {label: [E2V, OTHER_E2V]}})
    assert len(build_index([tmp_path / "raw"], bin8, options=both).table) == 6


def test_sensors_that_match_nothing(write_primary: RawWriter, bin8: Camera, tmp_path: Path) -> None:
    _two_sensors(write_primary, OTHER_E2V)
    for serials, reason in (
        ({"R22_S11": "E2V-CCD250-999"}, "none of the 5 exposures of R22_S11 is of sensor E2V-CCD250-999"),
        ({"R99_S11": E2V}, "has no detector 'R99_S11'"),
    ):
        with pytest.raises((InputError, ConfigError), match=reason):
            build_index([tmp_path / "raw"], bin8, options=ExposuresConfig.model_validate({"serials": serials}))


@pytest.mark.parametrize(
    ("cards", "reason"),
    [
        ({"EXPTIME": 3.2}, "EXPTIME is 3.2, but 0.32 in 2 other files of exposure MC_C_20191028_000001"),
        ({"CCOBADC": 0.1}, "CCOBADC is 0.1, but 0.3"),
        ({"CCOBCURR": 0.09}, "CCOBCURR is 0.09, but 0.0"),
        ({"CCOBLED": "blue"}, "CCOBLED is blue, but red in 2 other files of exposure MC_C_20191028_000001"),
        ({"BOTXCAM": 7.0}, "BOTXCAM is 7.0, but 0.0 in 2 other files"),
        ({"IMGTYPE": "FLAT"}, "IMGTYPE is flat, but ccob in 2 other files"),
    ],
)
def test_files_that_contradict_their_exposure(
    write_primary: RawWriter, bin8: Camera, tmp_path: Path, cards: dict[str, Any], reason: str
) -> None:
    paths = [write_primary(name, folder="raw", **(cards if name == REB1[1] else {})) for name in REB1]
    index = build_index([tmp_path / "raw"], bin8)
    assert index.table["path"].tolist() == [str(paths[0]), str(paths[2])]
    ((path, found),) = [(entry.path, entry.reason) for entry in index.unreadable]
    assert (path, found[: len(reason)]) == (str(paths[1]), reason)


def test_two_files_that_contradict_each_other(write_primary: RawWriter, bin8: Camera, tmp_path: Path) -> None:
    for name, time in zip(REB1[:2], (0.32, 3.2), strict=True):
        write_primary(name, folder="raw", EXPTIME=time)
    kept = write_primary(folder="raw", seqnum=2)
    index = build_index([tmp_path / "raw"], bin8)
    assert index.table["path"].tolist() == [str(kept)]
    assert {entry.reason for entry in index.unreadable} == {"the files of exposure MC_C_20191028_000001 disagree about EXPTIME"}


def test_detectors_of_an_exposure_may_differ_in_what_is_theirs(write_primary: RawWriter, bin8: Camera, tmp_path: Path) -> None:
    for number, name in enumerate(REB1):
        write_primary(name, folder="raw", CCDTEMP=-90.0 - number, CCOBADC=0.3319 + 1e-6 * number, TSEQNUM=None if number else 1)
    index = build_index([tmp_path / "raw"], bin8)
    assert len(index.table) == 3
    assert index.notes == []


def test_position_that_contradicts_the_stage(write_primary: RawWriter, bin8: Camera, tmp_path: Path) -> None:
    paths = []
    for number, (x, y) in enumerate(scan_nodes(4), start=1):
        header_x = x + (10.0 if number == 7 else 0.0)
        cards = {"BOTXCAM": header_x, "BOTYCAM": y, "BOTX": 405.0 - x, "BOTY": 400.0 - y}
        paths.append(write_primary(folder="raw", seqnum=number, **cards))
    index = build_index([tmp_path / "raw"], bin8)
    assert sorted(index.table["path"]) == sorted(str(path) for path in paths if path != paths[6])
    ((path, reason),) = [(entry.path, entry.reason) for entry in index.unreadable]
    assert path == str(paths[6])
    assert "differs from that of the stage (BOTX, BOTY) by 10.000 mm" in reason


def test_projectors_with_constants_of_their_own(write_primary: RawWriter, bin8: Camera, tmp_path: Path) -> None:
    for number, (x, y) in enumerate(scan_nodes(4), start=1):
        kind, centre = ({}, 405.0) if number > 5 else ({"IMGTYPE": "SPOT", "TESTTYPE": "SPOT_FLAT"}, 295.3)
        write_primary(folder="raw", seqnum=number, BOTXCAM=x, BOTYCAM=y, BOTX=centre - x, BOTY=400.0 - y, **kind)
    assert len(build_index([tmp_path / "raw"], bin8).table) == 16


def noted(exposures: list[Exposure]) -> dict[str, str]:
    """Return the notes on exposures that are pointings."""
    table = table_of(replace(entry, purpose="pointing") for entry in exposures)
    note_unusual(table)
    return {row["path"]: row["note"] for row in table if row["note"]}


def test_settings_and_readings_unlike_those_of_the_run() -> None:
    exposures = [
        replace(entry, photodiode=0.33 + 0.001 * (number % 7), mjd=58785.0 + number, seqnum=number, day_obs="20191028")
        for number, entry in enumerate(take(scan_nodes(5), ["R22_S11"]))
    ]
    assert noted(exposures) == {}
    changed = [
        replace(exposures[3], exposure_s=0.7),
        replace(exposures[9], photodiode=3.3),
        replace(exposures[15], mjd=58700.0),
    ]
    spoilt = list(exposures)
    spoilt[3], spoilt[9], spoilt[15] = changed
    notes = noted(spoilt)
    assert list(notes) == [entry.path for entry in changed]
    assert notes[changed[0].path] == "EXPTIME is 0.7, but 0.07 in the other exposures of run 6840D with LED red"
    assert notes[changed[1].path].startswith("CCOBADC is 3.3, but 0.333 in exposures of run 6840D")
    assert notes[changed[2].path] == "MJD 58700.00000 contradicts the order of the exposures of day 20191028"


def with_readings(readings: Any, *, leds: tuple[str, ...] = ("red",)) -> Table:
    """Return pointings with photodiode readings, in the order of time."""
    exposures = take([(0.0, 0.0)] * (len(readings) // len(leds)), ["R22_S11", "R22_S12"], leds=leds)
    table = table_of(
        replace(entry, purpose="pointing", photodiode=float(readings[number // 2]), mjd=58785.0 + number // 2)
        for number, entry in enumerate(exposures)
    )
    note_unusual(table)
    return table[np.asarray(table["detector"]) == "R22_S12"]


def fine_readings(count: int = 40) -> Any:
    return 0.33 * (1.0 + np.random.default_rng(5).normal(0.0, 1e-3, count))


def test_usual_readings_are_used() -> None:
    coarse = np.round(fine_readings(200), 3)
    for readings in (fine_readings(), coarse, np.full(40, 0.33), np.repeat(fine_readings(10), 5), fine_readings(4)):
        table = with_readings(readings)
        np.testing.assert_array_equal(table["photodiode"], readings)
        assert set(table["note"]) == {""}


@pytest.mark.parametrize("where", [slice(28, None), slice(3, 9), slice(7, 8)], ids=str)
@pytest.mark.parametrize("factor", [1e3, 1e-3, 2.1])
def test_readings_in_another_unit_are_not_used(where: slice, factor: float) -> None:
    old = fine_readings()
    readings, expected = old.copy(), old.copy()
    readings[where] *= factor
    expected[where] = np.nan
    table = with_readings(readings)
    np.testing.assert_array_equal(table["photodiode"], expected)
    for reading, known, note in zip(readings, np.isfinite(expected), table["note"], strict=True):
        sentence = (
            rf"CCOBADC is {reading:g}, but 0\.3\d+ in exposures of run 6840D with the same settings: the reading is not used"
        )
        assert note == "" if known else re.fullmatch(sentence, note)


NUMBERS = np.arange(40)
STALE = "CCOBADC {:g} repeats that of the exposure before"


@pytest.mark.parametrize(
    ("change", "bad", "note"),
    [
        (lambda old: np.where((NUMBERS > 8) & (NUMBERS < 20), old[8], old), (NUMBERS > 8) & (NUMBERS < 20), STALE),
        (lambda old: np.where(NUMBERS == 20, old[19], old), NUMBERS == 20, STALE),
        (lambda old: np.minimum(old, np.sort(old)[30]), fine_readings() >= np.sort(fine_readings())[30],
         "CCOBADC is {:g} in 10 exposures, none is larger"),
    ],
    ids=["stuck", "one stale", "saturated"],
)  # fmt: skip
def test_readings_that_are_no_measurements_are_named(change: Any, bad: Any, note: str) -> None:
    readings = change(fine_readings())
    table = with_readings(readings)
    np.testing.assert_array_equal(table["photodiode"], readings)
    assert table["note"].tolist() == [
        note.format(reading) if is_bad else "" for reading, is_bad in zip(readings, bad, strict=True)
    ]


def test_a_reading_of_another_led() -> None:
    readings = fine_readings(40) * np.where(np.arange(40) % 2, 0.945, 1.0)
    assert set(with_readings(readings, leds=("red", "nm850"))["note"]) == {""}
    other = readings.copy()
    other[21] = 0.33 * 1.0004
    table = with_readings(other, leds=("red", "nm850"))
    np.testing.assert_array_equal(table["photodiode"], other)
    assert [note for note in table["note"] if note] == [
        f"CCOBADC is 0.330132, but {np.median(other[1::2]):g} in exposures of run 6840D with the same settings"
    ]


def test_campaigns_of_several_settings_are_nothing_unusual() -> None:
    """Exposure series, two currents and few exposures: no value is the usual one."""
    series = [
        take([(0.0, 0.0)], ["R22_S11"], images=3, start=10 * number, exposure_s=0.1 * (number + 1), photodiode=0.2 * (number + 1))
        for number in range(8)
    ]
    assert noted(list(itertools.chain.from_iterable(series))) == {}
    assert noted(take([(0.0, 0.0)], ["R22_S11"], images=2) + take([(0.0, 0.0)], ["R22_S11"], start=5, exposure_s=9.0)) == {}


def test_numbers_that_begin_anew_with_each_test_say_nothing_of_the_time() -> None:
    exposures = [
        replace(entry, obsid=f"CCOB_{led}_{entry.seqnum}", mjd=58102.0 + 0.1 * place + 0.001 * entry.seqnum, day_obs="20171215")
        for place, led in enumerate(("red", "blue"))
        for entry in [replace(entry, seqnum=number) for number, entry in enumerate(take(scan_nodes(3), ["R22_S11"], leds=[led]))]
    ]
    assert noted(exposures) == {}


def test_one_sentence_for_all_files_of_a_reason() -> None:
    paths = [f"/raw/{number}.fits" for number in range(30)]
    assert summarise_files([(path, "the file is empty") for path in paths]) == [
        "30 files, for example /raw/0.fits: the file is empty"
    ]
    numbers = summarise_files([(path, f"EXPTIME is {number}.5") for number, path in enumerate(paths)] + [("/x", "damaged")])
    assert numbers == ["30 files, for example /raw/0.fits: EXPTIME is 0.5", "/x: damaged"]
    sensors = [(f"/{number}-{name}", f"{name} is another sensor") for name in REB1 for number in range(4)]
    assert [sentence.split(":")[1] for sentence in summarise_files(sensors)] == [f" {name} is another sensor" for name in REB1]
    assert summarise_files([("/a", "R22_S11 is sensor 1"), ("/b", "R22_S12 is sensor 2")]) == [
        "/a: R22_S11 is sensor 1",
        "/b: R22_S12 is sensor 2",
    ]
    assert summarise_files([]) == []


def test_nothing_usable_for_one_reason(write_primary: RawWriter, bin8: Camera, tmp_path: Path) -> None:
    for number in range(4):
        write_primary(folder="raw", seqnum=number, RAFTBAY=f"R8{number}", name=f"{number}.fits")
    with pytest.raises(
        InputError, match=r"none of 4 FITS files can be used; the reason for all of them: .*no detector 'R80_S11'"
    ):
        build_index([tmp_path / "raw"], bin8)


def test_notes_are_kept_in_the_file_of_the_index() -> None:
    table = exposures_to_table([Exposure(path="a", note="odd"), Exposure(path="b")])
    found = Index.from_table(Index(Table(table)).to_table())
    assert found.notes == [("a", "odd")]
    np.testing.assert_array_equal(found.table["note"], ["odd", ""])
