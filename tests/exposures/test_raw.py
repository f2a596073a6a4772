"""Raw segments come out exactly as they were written, and damaged files never do."""

from __future__ import annotations

import errno
import gzip
import io
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from permil.camera import Camera
from permil.errors import CameraError, FileWarning, InputError, OutputError, RawFormatError
from permil.exposures import RawFile, read_raw
from permil.exposures.segment_rows import read_rows

from .conftest import RawWriter, segment_pixels


def assert_as_written(path: Path, camera: Camera, detector: str = "R22_S11", *, shift: int = 0) -> None:
    raw = read_raw(path, camera)
    assert raw.detector.name == detector
    assert set(raw.segments) == {amplifier.name for amplifier in camera[detector].amplifiers}
    for amplifier in camera[detector].amplifiers:
        pixels = raw.segments[amplifier.name]
        assert pixels.dtype == np.int32
        assert pixels.dtype.isnative
        np.testing.assert_array_equal(pixels, segment_pixels(amplifier, 1) + shift)


@pytest.mark.parametrize("detector", ["R22_S11", "R02_S21", "R00_SG0", "R44_SW1"])
@pytest.mark.parametrize("compressed", [False, True])
def test_segments_as_written(write_raw: RawWriter, bin8: Camera, detector: str, compressed: bool) -> None:
    path = write_raw(detector, compressed=compressed)
    assert_as_written(path, bin8, detector)


@pytest.mark.parametrize(
    "options",
    [
        {"compression_type": "GZIP_1"},
        {"compression_type": "GZIP_2"},
        {"compression_type": "RICE_1", "tile_shape": (4, 128)},
        {"compression_type": "RICE_1", "tile_shape": (1, 50)},
    ],
    ids=str,
)
def test_other_compressions(write_raw: RawWriter, bin8: Camera, options: dict[str, object]) -> None:
    assert_as_written(write_raw(compressed=True, **options), bin8)


@pytest.mark.parametrize("compressed", [False, True])
def test_unsigned_16_bits(write_raw: RawWriter, bin8: Camera, compressed: bool) -> None:
    path = write_raw(kind=np.uint16, compressed=compressed)
    assert fits.getheader(path, 1)["BZERO"] == 32768
    assert_as_written(path, bin8)


def test_gzip_by_content(write_raw: RawWriter, bin8: Camera, tmp_path: Path) -> None:
    path = write_raw()
    packed = tmp_path / "packed" / path.name
    packed.parent.mkdir()
    packed.write_bytes(gzip.compress(path.read_bytes(), 1))
    assert_as_written(packed, bin8)


def test_any_order_and_extra_hdus(write_raw: RawWriter, bin8: Camera) -> None:
    def shuffle(hdus: fits.HDUList) -> None:
        segments = [hdus.pop(1) for _ in range(16)]
        np.random.default_rng(3).shuffle(segments)
        for segment in segments:
            hdus.append(segment)
        hdus.insert(1, fits.ImageHDU(np.zeros((3, 3))))
        hdus.append(fits.BinTableHDU.from_columns([fits.Column("t", "D", array=np.arange(5.0))]))

    assert_as_written(write_raw(change=shuffle), bin8)


@pytest.mark.parametrize("card", ["EXTNAME", "CHANNEL"])
def test_either_card_identifies_a_segment(write_raw: RawWriter, bin8: Camera, card: str) -> None:
    def remove(hdus: fits.HDUList) -> None:
        for hdu in hdus[1:17]:
            del hdu.header[card]

    assert_as_written(write_raw(change=remove), bin8)


def board_temperatures(raw):
    """Temperatures of the readout board that can be right, degree C."""
    found = {name: raw.readout_board.temperature(name) for name in (f"TEMP{number}" for number in range(1, 11))}
    return {name: temperature for name, temperature in found.items() if not np.isnan(temperature)}


@pytest.mark.parametrize("named", [True, False])
def test_readout_board(write_raw: RawWriter, bin8: Camera, named: bool) -> None:
    def rename(hdus: fits.HDUList) -> None:
        if not named:
            del hdus["REB_COND"].header["EXTNAME"]

    raw = read_raw(write_raw(change=rename), bin8, segments=[])
    assert board_temperatures(raw) == {"TEMP1": 9.875, "TEMP2": -1.5}
    assert raw.primary.text("CCOBLED") == "red"


def test_only_wanted_segments(write_raw: RawWriter, bin8: Camera) -> None:
    path = write_raw(compressed=True)
    raw = read_raw(path, bin8, segments=["C14", "C03"])
    assert list(raw.segments) == ["C14", "C03"]
    np.testing.assert_array_equal(raw.segments["C14"], segment_pixels(bin8["R22_S11"].amplifier("C14"), 1))
    with pytest.raises(CameraError, match="C20"):
        read_raw(path, bin8, segments=["C20"])


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("lost", [1, 6000, 100_000, 300_000])
def test_truncated_file_never_gives_pixels(write_raw: RawWriter, bin8: Camera, compressed: bool, lost: int) -> None:
    path = write_raw(compressed=compressed)
    content = path.read_bytes()
    path.write_bytes(content[:-lost])
    with pytest.raises(RawFormatError, match=r"cut short|is missing"):
        read_raw(path, bin8, segments=["C10"])


def test_every_truncation_at_a_block(write_raw: RawWriter, bin8: Camera) -> None:
    path = write_raw()
    content = path.read_bytes()
    without_conditions = len(content) - 4 * 2880
    for size in range(0, without_conditions, 20 * 2880):
        path.write_bytes(content[:size])
        with pytest.raises(RawFormatError):
            read_raw(path, bin8)


@pytest.mark.parametrize("lost", [10, 50_000])
def test_truncated_gzip(write_raw: RawWriter, bin8: Camera, lost: int) -> None:
    path = write_raw()
    path.write_bytes(gzip.compress(path.read_bytes(), 1)[:-lost])
    with pytest.raises(RawFormatError, match="damaged or cut short"):
        read_raw(path, bin8)


def test_damaged_tiles_are_noticed(write_raw: RawWriter, bin8: Camera) -> None:
    path = write_raw(compressed=True)
    with fits.open(path, disable_image_compression=True) as hdus:
        start = hdus[1].fileinfo()["datLoc"]
    content = bytearray(path.read_bytes())
    content[start : start + 4] = (2**30).to_bytes(4, "big")
    path.write_bytes(content)
    with pytest.raises(RawFormatError, match=r"HDU 1 \(Segment10\) cannot be read \(tile 0 lies outside the data"):
        read_raw(path, bin8, checksums="off")
    content[start : start + 4] = (8).to_bytes(4, "big")
    path.write_bytes(content)
    with pytest.raises(RawFormatError, match="tile 0 is damaged"):
        read_raw(path, bin8, checksums="off")


def test_missing_segment(write_raw: RawWriter, bin8: Camera) -> None:
    path = write_raw(change=lambda hdus: hdus.pop("Segment05"))
    with pytest.raises(RawFormatError, match="Segment05 of R22_S11 is missing") as caught:
        read_raw(path, bin8, segments=["C10"])
    assert str(path) in str(caught.value)


def test_duplicate_segment(write_raw: RawWriter, bin8: Camera) -> None:
    path = write_raw(change=lambda hdus: hdus.append(hdus["Segment05"].copy()))
    with pytest.raises(RawFormatError, match="Segment05 is duplicated"):
        read_raw(path, bin8)


def test_segment_of_another_detector(write_raw: RawWriter, bin8: Camera) -> None:
    path = write_raw("R22_S11", cards={"RAFTBAY": "R44", "CCDSLOT": "SW0"}, path="exposure.fits")
    with pytest.raises(RawFormatError, match=r"Segment07.*not one of R44_SW0, which has 8"):
        read_raw(path, bin8)


def test_name_and_channel_disagree(write_raw: RawWriter, bin8: Camera) -> None:
    path = write_raw(change=lambda hdus: hdus["Segment05"].header.set("CHANNEL", 3))
    with pytest.raises(RawFormatError, match="says channel 3"):
        read_raw(path, bin8)


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("form", [str, float, "{:02d}".format], ids=["text", "real number", "text of two digits"])
def test_channels_in_other_forms(write_raw: RawWriter, bin8: Camera, form: Callable[[int], Any], named: bool) -> None:
    def change(hdus: fits.HDUList) -> None:
        for hdu in hdus[1:17]:
            hdu.header["CHANNEL"] = form(hdu.header["CHANNEL"])
            if not named:
                del hdu.header["EXTNAME"]

    assert_as_written(write_raw(change=change), bin8)


def test_name_and_channel_as_text_disagree(write_raw: RawWriter, bin8: Camera) -> None:
    path = write_raw(change=lambda hdus: hdus["Segment05"].header.set("CHANNEL", "3"))
    with pytest.raises(RawFormatError, match=r"Segment05, which is channel 11, but says channel 3"):
        read_raw(path, bin8)


BLANK_LAYOUTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "unsigned 16 bits": {"kind": np.uint16},
    "rows of RICE_1": {"compressed": True},
    "tiles of RICE_1": {"compressed": True, "tile_shape": (4, 128)},
    "GZIP_1": {"compressed": True, "compression_type": "GZIP_1"},
}


def _with_blank(path: Path, stored: int, card: bytes = b"BLANK   ") -> Path:
    """Add a BLANK card to the header of Segment05, in place of its DETSEC card."""
    content = path.read_bytes()
    start = content.index(b"'Segment05'")
    start = content.rindex(b"XTENSION", 0, start)
    place = content.index(b"DETSEC  =", start)
    written = card + f"= {stored:20d}".encode().ljust(72)
    path.write_bytes(content[:place] + written + content[place + 80 :])
    return path


@pytest.mark.parametrize("layout", BLANK_LAYOUTS)
@pytest.mark.parametrize("way", ["segment", "rows", "mapped rows"])
def test_undefined_pixels_are_refused(write_raw: RawWriter, bin8: Camera, layout: str, way: str) -> None:
    """Only a file that has such pixels is refused, not one with the card alone."""
    pixels = segment_pixels(bin8["R22_S11"].amplifier("C05"), 1)
    shift = 32768 if layout == "unsigned 16 bits" else 0
    values, counts = np.unique(pixels, return_counts=True)
    ways = {
        "segment": lambda opened: opened.segment("C05"),
        "rows": lambda opened: opened.rows("C05"),
        "mapped rows": lambda opened: opened.mapped_rows(),
    }
    path = _with_blank(write_raw(**BLANK_LAYOUTS[layout]), int(values[0]) - 1 - shift)
    with RawFile(path, bin8, checksums="off") as opened:
        ways[way](opened)
        np.testing.assert_array_equal(opened.segment("C05"), pixels)
    _with_blank(write_raw(path="blank.fits", **BLANK_LAYOUTS[layout]), int(values[3]) - shift)
    with (
        RawFile(path.with_name("blank.fits"), bin8, checksums="off") as opened,
        pytest.raises(RawFormatError, match=rf"HDU \d+ \(Segment05\) has {counts[3]} pixels without a value \(BLANK "),
    ):
        ways[way](opened)


def test_wrong_size_names_the_right_camera(write_raw: RawWriter, bin8: Camera, lsstcam: Camera) -> None:
    path = write_raw()
    with pytest.raises(RawFormatError, match=r"128 x 256 pixels, but 576 x 2048 in camera lsstcam.*`camera: lsstcam-bin8`"):
        read_raw(path, lsstcam)


def test_unknown_geometry_names_both_sizes(write_raw: RawWriter, lsstcam: Camera) -> None:
    def shrink(hdus: fits.HDUList) -> None:
        for hdu in hdus[1:17]:
            hdu.data = np.zeros((2022, 542), dtype=np.int32)

    with pytest.raises(RawFormatError, match=r"542 x 2022 pixels, but 576 x 2048.*write a camera file"):
        read_raw(write_raw(change=shrink), lsstcam)


def test_wrong_datasec(write_raw: RawWriter, bin8: Camera) -> None:
    path = write_raw(change=lambda hdus: hdus["Segment11"].header.set("DATASEC", "[4:66,1:250]"))
    with pytest.raises(RawFormatError, match=r"Segment11 has DATASEC \[4:66,1:250\], but \[11:74,1:250\]"):
        read_raw(path, bin8)


@pytest.mark.parametrize("detector", ["R22_S11", "R02_S21"])
@pytest.mark.parametrize("swapped", [("10", "11"), ("17", "07"), ("12", "02")])
def test_swapped_segments_are_refused(write_raw: RawWriter, bin8: Camera, detector: str, swapped: tuple[str, str]) -> None:
    def swap(hdus: fits.HDUList) -> None:
        first, second = (hdus[f"Segment{number}"].header for number in swapped)
        first["EXTNAME"], second["EXTNAME"] = second["EXTNAME"], first["EXTNAME"]
        for header in (first, second):
            del header["CHANNEL"]

    path = write_raw(detector, change=swap)
    own, other = (bin8[detector].amplifier(f"C{number}").detsec for number in swapped)
    message = f"segment Segment{swapped[0]} has DETSEC {other}, which is that of Segment{swapped[1]}; {detector} has {own} there"
    with pytest.raises(RawFormatError, match=re.escape(message)):
        read_raw(path, bin8)


@pytest.mark.parametrize("written", [None, "", "[ 512 : 449 , 1 : 250 ]"])
def test_a_detsec_that_is_missing_or_spaced_is_no_fault(write_raw: RawWriter, bin8: Camera, written: str | None) -> None:
    def change(hdus: fits.HDUList) -> None:
        header = hdus["Segment17"].header
        assert header["DETSEC"] == "[512:449,1:250]"
        if written is None:
            del header["DETSEC"]
        else:
            header["DETSEC"] = written

    assert_as_written(write_raw(change=change), bin8)


def test_a_detsec_of_no_segment_is_no_fault(write_raw: RawWriter, bin8: Camera) -> None:
    assert_as_written(write_raw(change=lambda hdus: hdus["Segment11"].header.set("DETSEC", "[1:2,3:4]")), bin8)


def test_detsecs_of_another_convention_are_no_fault(write_raw: RawWriter, bin8: Camera) -> None:
    def turn(hdus: fits.HDUList) -> None:
        names = [hdu.name for hdu in hdus if hdu.name.startswith("SEGMENT")]
        places = [hdus[name].header["DETSEC"] for name in names]
        for name, place in zip(names, reversed(places), strict=True):
            hdus[name].header["DETSEC"] = place

    assert_as_written(write_raw(change=turn), bin8)


def test_floats_are_refused(write_raw: RawWriter, bin8: Camera) -> None:
    with pytest.raises(RawFormatError, match="does not hold integers"):
        read_raw(write_raw(kind=np.float32), bin8)


def test_scaled_integers_are_refused(write_raw: RawWriter, bin8: Camera) -> None:
    path = write_raw()
    content = bytearray(path.read_bytes())
    place = content.index(b"DETSEC  =")
    content[place : place + 80] = b"BSCALE  =                  0.5".ljust(80)
    path.write_bytes(content)
    with pytest.raises(RawFormatError, match=r"BSCALE 0.5"):
        read_raw(path, bin8, checksums="off")


def test_files_that_are_none(bin8: Camera, tmp_path: Path) -> None:
    for content, reason in ((b"", "empty"), (b"SIMPLE  = nonsense", "cut short"), (b"not FITS" * 1000, "not FITS")):
        path = tmp_path / "exposure.fits"
        path.write_bytes(content)
        with pytest.raises(RawFormatError, match=reason):
            read_raw(path, bin8)
    with pytest.raises(InputError, match="No such file"):
        read_raw(tmp_path / "absent.fits", bin8)


def test_header_without_end(bin8: Camera, tmp_path: Path) -> None:
    path = tmp_path / "exposure.fits"
    path.write_bytes((b"SIMPLE  =                    T".ljust(80) + b"COMMENT END".ljust(80) * 71) * 600)
    with pytest.raises(RawFormatError, match="no END card"):
        read_raw(path, bin8)


@pytest.mark.parametrize(
    "more",
    [
        bytes(2880),
        b" " * 2880,
        bytes(512),
        b"x",
        b"special record".ljust(5760),
        b"END".ljust(80).ljust(2880),
        b"xtension".ljust(2880),
    ],
    ids=["zeros", "blanks", "less than a block", "a byte", "special records", "END", "lower case"],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_bytes_behind_the_last_hdu_are_warned_of(write_raw: RawWriter, bin8: Camera, more: bytes, zipped: bool) -> None:
    path = write_raw()
    content = path.read_bytes() + more
    path.write_bytes(gzip.compress(content, 1) if zipped else content)
    with pytest.warns(FileWarning, match=rf"{path.name}: {len(more)} bytes after the last HDU \(18\) are ignored"):
        assert_as_written(path, bin8)


@pytest.mark.parametrize(
    "stored", [{}, {"compressed": True}, {"kind": np.uint16}, {"compressed": True, "compression_type": "GZIP_2"}]
)
@pytest.mark.parametrize("zipped", [False, True])
def test_data_without_padding_are_warned_of(write_raw: RawWriter, bin8: Camera, stored: dict[str, Any], zipped: bool) -> None:
    def segments_alone(hdus: fits.HDUList) -> None:
        del hdus[17:]

    path = write_raw(change=segments_alone, **stored)
    with fits.open(path, disable_image_compression=True) as hdus:
        end = hdus[16].fileinfo()["datLoc"] + hdus[16].size
    content = path.read_bytes()
    assert end < len(content)
    path.write_bytes(gzip.compress(content[:end], 1) if zipped else content[:end])
    with pytest.warns(FileWarning, match=r"last HDU \(16\) are not padded"):
        assert_as_written(path, bin8)
    with pytest.warns(FileWarning, match=r"not padded"), RawFile(path, bin8) as raw_file:
        np.testing.assert_array_equal(read_rows(raw_file, "C00", slice(-3, None)), raw_file.segment("C00")[-3:])
    for size in (end - 1, end + 1, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(RawFormatError, match="cut short"):
            read_raw(path, bin8)


@pytest.mark.parametrize(
    ("card", "rest"),
    [
        (b"END".ljust(80, b"\0"), b" "),
        (b"END".ljust(80), b"\0"),
        (b"end".ljust(80), b" "),
        (b"End".ljust(80, b"\0"), b"\0"),
        (b"END".ljust(80), b"NAXIS   =                   77".ljust(80)),
    ],
    ids=["NUL in the card", "NUL behind it", "lower case", "all of it", "cards behind it"],
)
@pytest.mark.parametrize("which", [0, 1, 17])
def test_ends_of_headers_that_no_standard_allows(
    write_raw: RawWriter, bin8: Camera, card: bytes, rest: bytes, which: int
) -> None:
    path = write_raw()
    content = bytearray(path.read_bytes())
    with fits.open(path) as hdus:
        header, data = (hdus[which].fileinfo()[name] for name in ("hdrLoc", "datLoc"))
    place = content.index(b"END".ljust(80), header)
    content[place:data] = card + (rest * data)[: data - place - 80]
    path.write_bytes(content)
    with pytest.warns(FileWarning) as caught:
        assert_as_written(path, bin8)
    reported = " ".join(str(warning.message) for warning in caught)
    assert f"the header of HDU {which} does not end with an END card and blanks" in reported


def set_card(path: Path, number: int, name: str, value: object) -> None:
    """Write over a card of an HDU as it stands in the file; of a name that is not there, over the first comment of its header."""
    content = bytearray(path.read_bytes())
    with fits.open(path, disable_image_compression=True) as hdus:
        header, data = (hdus[number].fileinfo()[part] for part in ("hdrLoc", "datLoc"))
    start = content.find(f"{name:<8}=".encode(), header, data)
    start = start if start >= 0 else content.index(b"DETSEC  =", header, data)
    content[start : start + 80] = f"{name:<8}= {value:>20}".encode("latin-1").ljust(80)[:80]
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NAXIS", 999),
        ("NAXIS", 1000),
        ("NAXIS", -1),
        ("NAXIS", 10**9),
        ("NAXIS", "T"),
        ("NAXIS1", -128),
        ("NAXIS1", 2**63),
        ("NAXIS2", 10**30),
        ("NAXIS2", "nan"),
        ("NAXIS2", "'250'"),
        ("PCOUNT", -(2**31)),
        ("PCOUNT", 10**18),
        ("PCOUNT", 4),
        ("GCOUNT", 2**62),
        ("GCOUNT", -1),
        ("GCOUNT", 0),
        ("GCOUNT", 2),
        ("BITPIX", 0),
        ("BITPIX", 12),
        ("BITPIX", 8),
        ("BITPIX", 10**20),
        ("BZERO", 10**30),
        ("BZERO", "inf"),
        ("BZERO", 2**31),
        ("BZERO", 0.5),
        ("BSCALE", "'1'"),
        ("ZIMAGE", "T"),
        ("DATASEC", "T"),
        ("CHANNEL", 10**30),
    ],
    ids=str,
)
@pytest.mark.parametrize("checksums", ["refuse", "off"])
@pytest.mark.filterwarnings("ignore::permil.errors.FileWarning")
def test_absurd_cards_of_plain_segments(write_raw: RawWriter, bin8: Camera, name: str, value: object, checksums: Any) -> None:
    path = write_raw()
    set_card(path, 5, name, value)
    with pytest.raises(RawFormatError) as caught:
        read_raw(path, bin8, checksums=checksums)
    assert caught.value.path == str(path)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("THEAP", 10**12),
        ("THEAP", -1),
        ("TFIELDS", 999),
        ("TFIELDS", 10**9),
        ("TFORM1", "'999999999PB(1)'"),
        ("TFORM1", "'1PI(7)'"),
        ("TFORM1", "'abc'"),
        ("ZTILE1", 0),
        ("ZTILE1", 10**30),
        ("ZTILE2", -3),
        ("ZTILE2", 2**31),
        ("ZNAXIS", 999),
        ("ZNAXIS1", -1),
        ("ZNAXIS2", 2**40),
        ("ZBITPIX", 16),
        ("ZBITPIX", -32),
        ("ZVAL1", 0),
        ("ZVAL1", 2**40),
        ("ZVAL2", 3),
        ("ZVAL2", 10**30),
        ("ZCMPTYPE", "'GZIP_2'"),
        ("ZCMPTYPE", "'PLIO_1'"),
        ("ZCMPTYPE", "'HCOMPRESS_1'"),
        ("ZCMPTYPE", 5),
        ("NAXIS1", 7),
        ("NAXIS2", 3),
        ("PCOUNT", 0),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore::permil.errors.FileWarning")
def test_absurd_cards_of_compressed_segments(write_raw: RawWriter, bin8: Camera, name: str, value: object) -> None:
    path = write_raw(compressed=True)
    set_card(path, 5, name, value)
    true = segment_pixels(bin8["R22_S11"].amplifier("C14"), 1)
    readers = (lambda: read_raw(path, bin8, checksums="off").segments["C14"], lambda: _mapped_segment(path, bin8))
    for read in readers:
        if (name, value) == ("ZTILE1", 10**30):
            # A tile whose stated size exceeds the image ends with it.
            np.testing.assert_array_equal(read(), true)
        else:
            with pytest.raises(RawFormatError, match=path.name):
                read()


def _mapped_segment(path: Path, camera: Camera) -> np.ndarray:
    with RawFile(path, camera, checksums="off") as raw_file:
        return read_rows(raw_file, "C14", slice(None))


def test_a_header_of_many_blocks_and_a_million_small_hdus(write_raw: RawWriter, bin8: Camera) -> None:
    path = write_raw()
    content = path.read_bytes()
    comments = b"COMMENT END".ljust(80) * (36 * 450)
    path.write_bytes(content[:80] + comments + content[80:])
    with pytest.warns(FileWarning, match="HDU 0: its header was changed"):
        assert_as_written(path, bin8)
    empty = b"".join(card.ljust(80) for card in (b"XTENSION= 'IMAGE   '", b"BITPIX  = 8", b"NAXIS   = 0", b"END")).ljust(2880)
    path.write_bytes(content + empty * 50)
    assert_as_written(path, bin8)
    path.write_bytes(content + empty * 3000)
    with pytest.raises(RawFormatError, match="more than those of any raw file"):
        read_raw(path, bin8)
    path.write_bytes((content[:80] + comments + content[80:2880]) + (empty[:80] + comments + empty[80:]) * 5)
    with pytest.raises(RawFormatError, match="more than those of any raw file"):
        read_raw(path, bin8)


def test_a_gzip_file_of_little_more_than_nothing(write_raw: RawWriter, bin8: Camera) -> None:
    path = write_raw()
    content = path.read_bytes()
    path.write_bytes(gzip.compress(content, 1) + gzip.compress(bytes(10**8), 9))
    with pytest.raises(RawFormatError, match=r"holds more than \d+ bytes, more than any raw file of camera lsstcam-bin8"):
        read_raw(path, bin8)


@pytest.mark.parametrize(
    "error",
    [
        OverflowError("large"),
        MemoryError(),
        RecursionError("deep"),
        AssertionError(),
        EOFError("end"),
        IndexError("at"),
        OSError(5, "I/O"),
    ],
    ids=repr,
)
def test_whatever_goes_wrong_with_a_file_names_it(
    write_raw: RawWriter, bin8: Camera, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    path = write_raw(compressed=True, compression_type="GZIP_1")
    with monkeypatch.context() as patch:
        patch.setattr("permil.exposures.raw_file.decode_tiles", fail)
        with pytest.raises(RawFormatError, match=rf"{path.name}: HDU 1 \(Segment10\) cannot be read \({type(error).__name__}"):
            read_raw(path, bin8)
    with monkeypatch.context() as patch:
        patch.setattr("permil.exposures.raw_file.identify_detector", fail)
        with pytest.raises(RawFormatError, match=rf"{path.name}: the file cannot be read \({type(error).__name__}"):
            read_raw(path, bin8)


def test_an_interrupt_is_no_damage(write_raw: RawWriter, bin8: Camera, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    path = write_raw()
    monkeypatch.setattr("permil.exposures.raw_file.find_segments", interrupt)
    with pytest.raises(KeyboardInterrupt):
        read_raw(path, bin8)


def test_a_full_disk_is_no_damage(write_raw: RawWriter, bin8: Camera, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.BytesIO):
        def write(self, _: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    path = write_raw(compressed=True, compression_type="GZIP_1")
    monkeypatch.setattr("permil.exposures.raw_file.tempfile.TemporaryFile", Full)
    with RawFile(path, bin8) as raw_file, pytest.raises(OutputError, match=r"temporary file cannot be written \(No space left"):
        raw_file.rows("C14")


def test_real_files(shared_data: Path, lsstcam: Camera) -> None:
    found = {}
    for path in sorted((shared_data / "raw").glob("*.fits")):
        raw = read_raw(path, lsstcam, checksums="off")
        found[raw.detector.name] = raw
        with fits.open(path) as hdus:
            for amplifier in raw.detector.amplifiers:
                np.testing.assert_array_equal(raw.segments[amplifier.name], hdus[amplifier.extname].data)
    # The raft test stand has no RAFTBAY and CCDSLOT: its sensor E2V-CCD250-179 now sits in R33_S11.
    assert sorted(found) == ["R10_S22", "R22_S22", "R33_S11"]
    blanked = found["R33_S11"]
    amplifier = blanked.detector.amplifier("C00")
    overscan = blanked.segments["C00"][amplifier.serial_overscan_slices]
    assert np.median(overscan) == pytest.approx(27026, abs=1.0)
    assert np.std(overscan[:, 5:]) == pytest.approx(6.4, abs=0.2)
    assert np.median(blanked.segments["C00"][amplifier.data_slices]) == pytest.approx(47800, rel=0.01)
    assert board_temperatures(found["R10_S22"])["TEMP1"] == -1.5625
    assert board_temperatures(found["R22_S22"])["TEMP10"] == -0.25


def test_truncated_real_file(shared_data: Path, lsstcam: Camera, tmp_path: Path) -> None:
    source = shared_data / "raw" / "30211212000310-R22-S22-det098.fits"
    content = gzip.decompress(source.read_bytes())
    path = tmp_path / source.name
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(RawFormatError, match="cut short"):
        read_raw(path, lsstcam)
    shutil.copy(source, path)
    assert read_raw(path, lsstcam, segments=["C00"], checksums="off").detector.name == "R22_S22"
