"""Data that are not those that were written are never taken for them, and nothing else is refused."""

from __future__ import annotations

import gzip
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from astropy.io import fits
from pydantic import ValidationError

from permil.camera import Camera
from permil.config.exposures import ExposuresConfig
from permil.config.isr import IsrConfig
from permil.errors import CalibrationError, FileWarning, InputError, RawFormatError
from permil.exposures import RawFile, build_index, read_exposure, read_raw
from permil.exposures.hdu import sum_of_words
from permil.exposures.segment_rows import read_rows
from permil.isr.bias_exposures import build_superbias
from permil.isr.calibration.superbias import superbias_notes

from .conftest import RawWriter, segment_pixels

LAYOUTS: list[dict[str, Any]] = [
    {},
    {"kind": np.uint16},
    {"compressed": True},
    {"compressed": True, "tile_shape": (7, 50)},
    {"compressed": True, "compression_type": "GZIP_2"},
]


def places(path: Path, number: int) -> tuple[int, int, int]:
    """Return where header and data of an HDU begin, and where the data end."""
    with fits.open(path, disable_image_compression=True) as hdus:
        found = hdus[number].fileinfo()
        return found["hdrLoc"], found["datLoc"], found["datLoc"] + hdus[number].size


def damage(path: Path, number: int, *, place: float = 0.5) -> None:
    """Flip one bit of the data of an HDU."""
    _, begin, end = places(path, number)
    content = bytearray(path.read_bytes())
    content[begin + int(place * (end - begin))] ^= 1
    path.write_bytes(content)


def set_card(path: Path, number: int, name: str, value: str | None) -> None:
    """Write over the card of an HDU; None blanks it."""
    header, data, _ = places(path, number)
    content = bytearray(path.read_bytes())
    start = content.index(f"{name:<8}=".encode(), header, data)
    content[start : start + 80] = b" " * 80 if value is None else f"{name:<8}= {value}".encode().ljust(80)
    path.write_bytes(content)


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 7, 2880, 100_001])
@pytest.mark.parametrize("kind", ["noise", "ones", "zeros"])
def test_sum_of_words(size: int, kind: str) -> None:
    octets = {"noise": np.random.default_rng(size).bytes(size), "ones": b"\xff" * size, "zeros": bytes(size)}[kind]
    total = 0
    padded = octets + bytes(-size % 4)
    for start in range(0, len(padded), 4):
        total += int.from_bytes(padded[start : start + 4], "big")
        # The carry comes in again at the other end.
        total = (total & 0xFFFFFFFF) + (total >> 32)
    assert sum_of_words(octets) % 0xFFFFFFFF == total % 0xFFFFFFFF
    assert sum_of_words(np.frombuffer(octets, dtype=np.uint8)) == sum_of_words(octets)


@pytest.mark.parametrize("stored", LAYOUTS, ids=str)
@pytest.mark.parametrize("zipped", [False, True])
def test_one_bit_of_the_data(write_raw: RawWriter, bin8: Camera, stored: dict[str, Any], zipped: bool) -> None:
    path = write_raw(**stored)
    damage(path, 5, place=0.9)
    if zipped:
        path.write_bytes(gzip.compress(path.read_bytes(), 1))
    with pytest.raises(
        RawFormatError, match=r"HDU 5 \(Segment14\): its data have changed .* exposures\.checksums to warn"
    ) as caught:
        read_raw(path, bin8)
    assert caught.value.path == str(path)
    # Rows that were not damaged are refused with the others; other segments are as they were written.
    with RawFile(path, bin8) as raw_file:
        for read in (lambda: read_rows(raw_file, "C14", slice(3, 5)), lambda: raw_file.rows("C14"), raw_file.mapped_rows):
            with pytest.raises(RawFormatError, match="Segment14"):
                read()
        amplifier = bin8["R22_S11"].amplifier("C13")
        np.testing.assert_array_equal(read_rows(raw_file, "C13", slice(3, 5)), segment_pixels(amplifier, 1)[3:5])
    assert "C14" not in read_raw(path, bin8, segments=["C13", "C15"]).segments


@pytest.mark.parametrize("stored", LAYOUTS[:2], ids=str)
def test_warn_and_off(write_raw: RawWriter, bin8: Camera, stored: dict[str, Any]) -> None:
    path = write_raw(**stored)
    damage(path, 5)
    true = segment_pixels(bin8["R22_S11"].amplifier("C14"), 1)
    with pytest.warns(FileWarning, match=r"HDU 5 \(Segment14\): its data have changed") as caught:
        pixels = read_raw(path, bin8, checksums="warn").segments["C14"]
    assert len(caught) == 1
    assert np.count_nonzero(pixels != true) == 1
    np.testing.assert_array_equal(read_raw(path, bin8, checksums="off").segments["C14"], pixels)
    with pytest.raises(InputError, match=r"unknown treatment of checksums 'maybe'.*refuse, warn, off"):
        RawFile(path, bin8, checksums="maybe")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("number", "name", "value"),
    [
        (0, "EXPTIME", "                 9.5"),
        (17, "TEMP1", "                -3.5"),
        (5, "DETSEC", "'[320:257, 1:250]'"),
        (5, "CHECKSUM", "'abc'"),
    ],
)
@pytest.mark.parametrize("compressed", [False, True])
def test_an_edited_header_is_warned_of(
    write_raw: RawWriter, bin8: Camera, number: int, name: str, value: str, compressed: bool
) -> None:
    path = write_raw(compressed=compressed)
    set_card(path, number, name, value)
    with pytest.warns(FileWarning, match=rf"HDU {number}.*header was changed after its CHECKSUM was written") as caught:
        raw = read_raw(path, bin8)
    assert len(caught) == 1
    np.testing.assert_array_equal(raw.segments["C14"], segment_pixels(raw.detector.amplifier("C14"), 1))
    read_raw(path, bin8, checksums="off")


@pytest.mark.parametrize(
    ("datasum", "checksum", "outcome"),
    [
        ("as it is", None, "read"),
        (None, "as it is", "refused"),
        (None, None, "read"),
        ("''", None, "read"),
        ("'        '", "''", "read"),
        ("", "'0000000000000000'", "read"),
        ("a number", None, "read"),
        ("'0'", None, "refused"),
        ("'4294967295'", None, "refused"),
        ("'abc'", None, "warned"),
        ("1.5E9", None, "warned"),
        ("'-1'", "'0000000000000000'", "warned"),
        ("'abc'", "as it is", "refused"),
        ("'99999999999999999999999999'", "''", "refused"),
    ],
)
def test_cards_of_sums(write_raw: RawWriter, bin8: Camera, datasum: str | None, checksum: str | None, outcome: str) -> None:
    path = write_raw()
    if datasum == "a number":
        datasum = f"{int(fits.getheader(path, 5)['DATASUM']):>20}"
    for name, value in (("DATASUM", datasum), ("CHECKSUM", checksum)):
        if value != "as it is":
            set_card(path, 5, name, value)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if outcome == "refused":
            with pytest.raises(RawFormatError, match="HDU 5"):
                read_raw(path, bin8)
        else:
            np.testing.assert_array_equal(
                read_raw(path, bin8).segments["C14"], segment_pixels(bin8["R22_S11"].amplifier("C14"), 1)
            )
    assert len(caught) == (outcome == "warned")


def test_sums_of_the_image_before_it_was_compressed_are_not_those_of_the_table(write_raw: RawWriter, bin8: Camera) -> None:
    path = write_raw()
    with fits.open(path) as hdus:
        # A compressor keeps the old cards as ZHECKSUM and ZDATASUM.
        packed = [fits.CompImageHDU(hdu.data, hdu.header, compression_type="RICE_1") for hdu in hdus[1:17]]
        fits.HDUList([hdus[0], *packed]).writeto(path.with_suffix(".fz"))
    with fits.open(path.with_suffix(".fz"), disable_image_compression=True) as hdus:
        assert "ZDATASUM" in hdus[1].header
        assert "DATASUM" not in hdus[1].header
    raw = read_raw(path.with_suffix(".fz"), bin8)
    np.testing.assert_array_equal(raw.segments["C14"], segment_pixels(raw.detector.amplifier("C14"), 1))


def test_real_files_whose_pixels_were_replaced(shared_data: Path, lsstcam: Camera) -> None:
    for path in sorted((shared_data / "raw").glob("*.fits")):
        with pytest.raises(RawFormatError, match=r"DATASUM is .* set exposures\.checksums to warn"):
            read_raw(path, lsstcam)
        with pytest.warns(FileWarning, match="its data have changed since they were written") as caught:
            read_raw(path, lsstcam, segments=["C10", "C11"], checksums="warn")
        assert len(caught) == 2


def test_the_index_warns_of_edited_headers_and_reads_on(write_raw: RawWriter, bin8: Camera, tmp_path: Path) -> None:
    for number in (1, 2):
        write_raw(
            path=f"raw/MC_C_20191028_{number:06d}_R22_S11.fits", seed=number, cards={"OBSID": f"MC_C_20191028_{number:06d}"}
        )
    changed = tmp_path / "raw" / "MC_C_20191028_000002_R22_S11.fits"
    set_card(changed, 0, "CCOBADC", "                 3.5")
    with pytest.warns(FileWarning, match=f"{changed.name}: HDU 0: its header was changed") as caught:
        index = build_index([tmp_path / "raw"], bin8)
    assert len(caught) == 1
    assert list(index.table["photodiode"]) == [0.3319, 3.5]
    build_index([tmp_path / "raw"], bin8, options=ExposuresConfig(checksums="off"))
    read_exposure(changed, bin8, checksums="off")


@pytest.mark.parametrize(
    ("written", "meant"), [("off", "off"), ("'off'", "off"), ("no", "off"), ("warn", "warn"), ("refuse", "refuse")]
)
def test_the_option_as_yaml_reads_it(written: str, meant: str) -> None:
    assert ExposuresConfig.model_validate(yaml.safe_load(f"checksums: {written}")).checksums == meant
    for wrong in ("on", "maybe", "0", "~"):
        with pytest.raises(ValidationError, match=r"refuse|truth values|is empty"):
            ExposuresConfig.model_validate(yaml.safe_load(f"checksums: {wrong}"))


def test_a_superbias_is_made_without_a_damaged_file(write_raw: RawWriter, bin8: Camera, tmp_path: Path) -> None:
    detector = bin8["R22_S11"]
    paths = [write_raw(path=f"bias_{number}.fits", seed=number, compressed=number > 1) for number in range(4)]
    out, config = tmp_path / "superbias.fits", IsrConfig()
    damage(paths[1], 9)
    damage(paths[3], 16)
    build_superbias(paths, detector, bin8, config, out)
    assert all(re.search(r"bias_[13].fits: HDU \d+ .*data have changed", note) for note in superbias_notes(out))
    assert len(superbias_notes(out)) == 2
    header = fits.getheader(out)
    assert (header["NFRAMES"], header["NLEFTOUT"]) == (2, 2)
    found = fits.getdata(out, "IMAGE")
    build_superbias([paths[0], paths[2]], detector, bin8, config, out)
    np.testing.assert_array_equal(found, fits.getdata(out, "IMAGE"))
    with pytest.raises(CalibrationError, match=r"no usable bias.*set exposures\.checksums to warn"):
        build_superbias([paths[1], paths[3]], detector, bin8, config, out)
    build_superbias(paths, detector, bin8, config, out, checksums="off")
    assert fits.getheader(out)["NFRAMES"] == 4
