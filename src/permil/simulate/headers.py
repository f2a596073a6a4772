"""Raw files as bytes, with the cards, types and order of real ones (a CCOB exposure of 2019, segments of 2019 and 2021).

The readout board and the configuration are those of a real file (MC_C_20211212_000310_R22_S22). FITS standard 4.0, sections 3 and 4.4.2;
checksums after Seaman, Pence & Rots (FITS Checksum Proposal, 2012; standard, appendix J).

RICE_1 compression (Rice, Yeh & Miller 1993; FITS standard 4.0, section 10.4.1): differences of neighbours, mapped to non-negative
integers, in blocks with a common number of uncoded bits. `astropy` compresses tile by tile from Python; the compiled loop over a whole
segment is some ten times faster.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from permil._kernels import simulate as kernels
from permil.arrays import Int32Array
from permil.camera import Amplifier, Detector
from permil.products.atomic import writing
from permil.simulate.campaign import PlannedExposure, Position, modified_julian_date

BLOCK = 2880
CARD = 80
CHECKSUM_OFF = "0" * 16

CardValue = bool | int | float | str
Card = tuple[str, CardValue, str]

_NOT_IN_CHECKSUM = frozenset((*range(0x3A, 0x41), *range(0x5B, 0x61)))


def format_card(keyword: str, value: CardValue, comment: str = "") -> bytes:
    """Return one card of 80 characters; a comment that is too long is cut."""
    if isinstance(value, bool):
        text = f"{'T' if value else 'F':>20}"
    elif isinstance(value, str):
        escaped = value.replace("'", "''")
        quoted = f"'{escaped:8}'"
        text = f"{quoted:20}"
    elif isinstance(value, int):
        text = f"{value:>20}"
    else:
        text = f"{repr(float(value)).upper():>20}"
    card = f"{keyword:8}= {text}"
    if comment:
        card += f" / {comment}"
    return f"{card[:CARD]:{CARD}}".encode("ascii")


def padded(data: bytes, fill: bytes = b"\0") -> bytes:
    """Return data padded to whole blocks."""
    return data + fill * (-len(data) % BLOCK)


def word_sum(data: bytes | bytearray) -> int:
    """Return the ones' complement sum of 32-bit big-endian words; the length must be a multiple of 4."""
    return add_sums(int(np.frombuffer(data, dtype=">u4").sum(dtype=np.uint64)), 0)


def add_sums(first: int, second: int) -> int:
    """Return the ones' complement sum of two sums."""
    total = first + second
    while total >> 32:
        total = (total & 0xFFFFFFFF) + (total >> 32)
    return total


def encode_checksum(total: int) -> str:
    """Return the 16 letters that bring the sum of an HDU, with 16 zeros in their place, to minus zero."""
    complement = 0xFFFFFFFF - total
    letters = [""] * 16
    for place in range(4):
        byte = (complement >> (24 - 8 * place)) & 0xFF
        quotient, remainder = byte // 4 + 0x30, byte % 4
        codes = [quotient + remainder, quotient, quotient, quotient]
        while any(code in _NOT_IN_CHECKSUM for code in codes):
            for pair in (0, 2):
                if codes[pair] in _NOT_IN_CHECKSUM or codes[pair + 1] in _NOT_IN_CHECKSUM:
                    codes[pair] += 1
                    codes[pair + 1] -= 1
        for group, code in enumerate(codes):
            letters[4 * group + place] = chr(code)
    return letters[15] + "".join(letters[:15])


@dataclass(frozen=True)
class HeaderTemplate:
    """The bytes of a header with cards that change from file to file, such as its checksums.

    Attributes
    ----------
    content
        Whole blocks, including END.
    places
        Offset of the card of each keyword.
    """

    content: bytes
    places: dict[str, int]

    @classmethod
    def from_cards(cls, cards: Iterable[Card]) -> HeaderTemplate:
        """Return the template for cards that include CHECKSUM and DATASUM."""
        listed = list(cards)
        content = b"".join(format_card(*card) for card in listed) + f"{'END':{CARD}}".encode("ascii")
        return cls(padded(content, b" "), {card[0]: CARD * index for index, card in enumerate(listed)})

    def filled(self, data_sum: int, changes: Iterable[Card] = ()) -> bytearray:
        """Return the header with changed cards and both checksums, for data with the given sum."""
        header = bytearray(self.content)
        for card in changes:
            self._put(header, *card)
        self._put(header, "DATASUM", str(data_sum), "checksum of the data records")
        comment = "checksum for the current HDU"
        self._put(header, "CHECKSUM", CHECKSUM_OFF, comment)
        total = add_sums(word_sum(header), data_sum)
        self._put(header, "CHECKSUM", encode_checksum(total), comment)
        return header

    def _put(self, header: bytearray, keyword: str, value: CardValue, comment: str) -> None:
        place = self.places[keyword]
        header[place : place + CARD] = format_card(keyword, value, comment)


_BOT_CENTRE = (405.0, 400.0)
_PIXELS_PER_BLOCK = 32
_RAFT_PITCH_MM, _SLOT_PITCH_MM = 127.0, 42.25
_CHECKSUM: Card = ("CHECKSUM", CHECKSUM_OFF, "checksum for the current HDU")
_DATASUM: Card = ("DATASUM", "0", "checksum of the data records")


@dataclass(frozen=True)
class Conditions:
    """Measurements of the bench during an exposure.

    Attributes
    ----------
    photodiode
        Control photodiode, CCOBADC.
    position
        Recorded projector position, CCS mm.
    board_temperature
        Readout-board temperature minus that of the template, deg C.
    sensor_temperature
        Deg C.
    """

    photodiode: float
    position: Position
    board_temperature: float
    sensor_temperature: float


def primary_cards(detector: Detector, exposure: PlannedExposure, conditions: Conditions) -> list[Card]:
    """Return the primary header of one file.

    A bias carries the CCOB cards that the last CCOB exposure left behind, as real files of other tests do.
    """
    bias = exposure.kind == "bias"
    written = exposure.end + timedelta(milliseconds=2394)
    trigger, trigger_mjd = _timestamp(exposure.end), modified_julian_date(exposure.end)
    x, y = conditions.position
    hex_of_board = f"{0x18EE0000 + zlib.crc32(f'{detector.raft}/{detector.reb}'.encode()) % 0x10000:08x}"
    return [
        ("SIMPLE", True, "Simulated by permil"),
        ("BITPIX", 8, "bits per data value"),
        ("NAXIS", 0, "number of axes"),
        ("EXTEND", True, "Extensions are permitted"),
        ("DATE", _timestamp(written), "Creation Date and Time of File"),
        ("DATE-OBS", trigger, "Date of the image trigger (readout), UTC"),
        ("MJD", modified_julian_date(written), "Modified Julian Date that the file was written"),
        ("MJD-OBS", trigger_mjd, "Modified Julian Date of image trigger"),
        ("RUNNUM", exposure.run, "The Run Number"),
        ("IMAGETAG", f"{zlib.crc32(exposure.obsid.encode()):016x}", "DAQ Image id (Hex)"),
        ("TSTAND", "BOT", "Camera test stand BOT or CCOB"),
        ("INSTRUME", "lsstCam", "Instrument"),
        ("CONTNUM", hex_of_board, "REB serial # (Hex)"),
        ("SEQFILE", f"FP_{detector.vendor}_2s_ir2_v2.seq", "Sequencer file name"),
        ("CCDSLOT", detector.slot, "The CCD Slot"),
        ("RAFTBAY", detector.raft, "The RAFT Bay"),
        ("LSST_NUM", detector.serial, "LSST Assigned CCD Number"),
        ("RAFTNAME", detector.raft_serial, "LSST Assigned Raft name"),
        ("TESTTYPE", "BIAS" if bias else "CCOB", "DARK:FLAT:OBS:PPUMP:QE:SFLAT"),
        ("IMGTYPE", "BIAS" if bias else "CCOB", "BIAS, DARK, ?"),
        ("SEQNUM", exposure.sequence, "The sequence number from the image name"),
        ("DETSIZE", detector.amplifiers[0].detsize, ""),
        ("CCDTEMP", round(conditions.sensor_temperature, 3), "Measured temperature (deg C)"),
        ("EXPTIME", exposure.exposure_time, "Exposure Time in Seconds"),
        ("BINX", 1, "[pixels] binning along X axis"),
        ("BINY", 1, "[pixels] binning along Y axis"),
        ("HEADVER", 2, "Version number of header"),
        ("CCDGAIN", 1.0, "Rough guess at overall system gain (e-/DNB)"),
        ("CCDNOISE", 10.0, "Rough guess at system noise (e- rms)"),
        ("DATE-TRG", trigger, "Date of the image trigger (readout), UTC"),
        ("MJD-TRG", trigger_mjd, "Modified Julian Date of image trigger"),
        ("FIRMWARE", "31345004", "DAQ firmware version (Hex)"),
        ("PLATFORM", "ir2-camera", "DAQ platform version"),
        ("DAQVERS", "R4-V2.7 2019-10-25T19:27:48Z (52b5939b)", "DAQ version"),
        ("DAQPART", "camera", "DAQ partition"),
        ("DAQFOLD", "raw", "DAQ folder the image was initially created in"),
        ("DAQANNOT", "", "DAQ image annotation"),
        ("OBSID", exposure.obsid, "The image name or obs-id"),
        ("TELCODE", "MC", 'The "code" for MainCamera'),
        ("CONTRLLR", "C", "The controller (e.g. O for OCS, C for CCS)"),
        ("DAYOBS", exposure.day, "The observation day as defined in the image name"),
        ("TELESCOP", "LSST", "Telescope"),
        ("SEQCKSUM", "3510424385", "Checksum of Sequencer"),
        ("DARKTIME", round(dark_time(exposure), 3), "Dark Time in Seconds (see TSEIA-91)"),
        ("TSEQNUM", exposure.test_sequence, "Sequence number within current test"),
        ("TEMPLED1", 19.973, "CCOB daughter board temperature, front"),
        ("TEMPLED2", 19.217, "CCOB daughter board temperature, back"),
        ("TEMPSPH", 18.492, "CCOB sphere temperature"),
        ("TEMPBRD", 33.351, "CCOB board temperature"),
        ("CCOBLED", exposure.led, "CCOB LED"),
        ("CCOBCURR", exposure.current, "CCOB LED current"),
        ("CCOBADC", conditions.photodiode, "CCOB control photodiode"),
        ("BOTXCAM", x, "X position of lamp/source in camera coordinate system"),
        ("BOTYCAM", y, "Y position of lamp/source in camera coordinate system"),
        ("BOTX", _BOT_CENTRE[0] - x, "X position of BOT in raw bot coordinates"),
        ("BOTY", _BOT_CENTRE[1] - y, "Y position of BOT in raw bot coordinates"),
        _CHECKSUM,
        _DATASUM,
    ]


def dark_time(exposure: PlannedExposure) -> float:
    """Return the time (s) of charge collection before the readout."""
    return exposure.exposure_time + 0.127


def _timestamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}"


def plain_segment_cards(detector: Detector, amplifier: Amplifier) -> list[Card]:
    """Return the header of a segment stored as a plain image (2019)."""
    return [
        ("XTENSION", "IMAGE", "marks beginning of new HDU"),
        ("BITPIX", 32, "bits per data value"),
        ("NAXIS", 2, "number of axis"),
        ("NAXIS1", amplifier.nx_raw, "size of the n'th axis"),
        ("NAXIS2", amplifier.ny_raw, "size of the n'th axis"),
        ("PCOUNT", 0, "Required value"),
        ("GCOUNT", 1, "Required value"),
        _CHECKSUM,
        ("HEADVER", 1, "Version number of header"),
        *_segment_cards(detector, amplifier),
        ("BSCALE", 1.0, ""),
        ("BZERO", 0.0, ""),
        _DATASUM,
    ]


def rice_segment_cards(detector: Detector, amplifier: Amplifier) -> list[Card]:
    """Return the header of a RICE-compressed segment (2021), one row per tile; PCOUNT and TFORM1 follow from the data."""
    return [
        ("XTENSION", "BINTABLE", "binary table extension"),
        ("BITPIX", 8, "array data type"),
        ("NAXIS", 2, "number of array dimensions"),
        ("NAXIS1", 8, "width of table in bytes"),
        ("NAXIS2", amplifier.ny_raw, "number of rows in table"),
        ("PCOUNT", 0, "number of group parameters"),
        ("GCOUNT", 1, "number of groups"),
        ("TFIELDS", 1, "number of fields in each row"),
        ("TTYPE1", "COMPRESSED_DATA", "label for field 1"),
        ("TFORM1", "1PB(0)", "data format of field: variable length array"),
        ("ZIMAGE", True, "extension contains compressed image"),
        ("ZTENSION", "IMAGE", "marks beginning of new HDU"),
        ("ZBITPIX", 32, "bits per data value"),
        ("ZNAXIS", 2, "number of axis"),
        ("ZNAXIS1", amplifier.nx_raw, "size of the n'th axis"),
        ("ZNAXIS2", amplifier.ny_raw, "size of the n'th axis"),
        ("ZPCOUNT", 0, "Required value"),
        ("ZGCOUNT", 1, "Required value"),
        ("ZTILE1", amplifier.nx_raw, "size of tiles to be compressed"),
        ("ZTILE2", 1, "size of tiles to be compressed"),
        ("ZCMPTYPE", "RICE_1", "compression algorithm"),
        ("ZNAME1", "BLOCKSIZE", "compression block size"),
        ("ZVAL1", _PIXELS_PER_BLOCK, "pixels per block"),
        ("ZNAME2", "BYTEPIX", "bytes per pixel (1, 2, 4, or 8)"),
        ("ZVAL2", 4, "bytes per pixel (1, 2, 4, or 8)"),
        _CHECKSUM,
        *_segment_cards(detector, amplifier),
        _DATASUM,
    ]


def empty_table_cards(name: str, cards: tuple[Card, ...]) -> list[Card]:
    """Return the header of a table without rows and columns that carries ``cards``."""
    return [
        ("XTENSION", "BINTABLE", "marks beginning of new HDU"),
        ("BITPIX", 8, "bits per data value"),
        ("NAXIS", 2, "number of axes"),
        ("NAXIS1", 0, "size of the n'th axis"),
        ("NAXIS2", 0, "size of the n'th axis"),
        ("PCOUNT", 0, "Required value"),
        ("GCOUNT", 1, "Required value"),
        ("TFIELDS", 0, "Number of table fields"),
        _CHECKSUM,
        ("EXTNAME", name, "Name of the extension"),
        *cards,
        _DATASUM,
    ]


def _segment_cards(detector: Detector, amplifier: Amplifier) -> list[Card]:
    """Return the geometry in a segment's header: sections, detector transformation and alternate coordinate systems."""
    serial_sign = -1.0 if amplifier.flip_x else 1.0
    parallel_sign = 1.0 if amplifier.flip_y else -1.0
    serial_origin = (
        amplifier.x_min + amplifier.nx + amplifier.prescan + 1 if amplifier.flip_x else amplifier.x_min - amplifier.prescan
    )
    parallel_origin = 0 if amplifier.flip_y else detector.ny + 1
    return [
        ("CHANNEL", amplifier.channel, ""),
        ("EXTNAME", amplifier.extname, ""),
        ("CCDSUM", "1 1", ""),
        ("DATASEC", amplifier.datasec, ""),
        ("DETSEC", amplifier.detsec, ""),
        ("DETSIZE", amplifier.detsize, ""),
        ("DTV1", serial_origin, "detector transformation vector"),
        ("DTV2", parallel_origin, "detector transformation vector"),
        ("DTM1_1", serial_sign, "detector transformation matrix"),
        ("DTM2_2", parallel_sign, "detector transformation matrix"),
        ("DTM1_2", 0.0, "detector transformation matrix"),
        ("DTM2_1", 0.0, "detector transformation matrix"),
        *_coordinate_cards(detector, amplifier, serial_origin, parallel_origin, serial_sign, -parallel_sign),
    ]


def _coordinate_cards(
    detector: Detector, amplifier: Amplifier, serial_origin: int, parallel_origin: int, serial_sign: float, parallel_sign: float
) -> list[Card]:
    """Return the alternate linear coordinate systems, in pixels; nominal, half a pixel from the true place as in real files."""
    raft_pitch, slot_pitch = _RAFT_PITCH_MM / detector.pixel_mm, _SLOT_PITCH_MM / detector.pixel_mm
    # The upper half is counted from the far edge, hence the difference to the detector transformation.
    in_ccd = (float(detector.ny + 1 - parallel_origin), float(serial_origin))
    in_segment = (float(amplifier.ny + 1) if amplifier.flip_y else 0.0, float(serial_origin - amplifier.x_min))
    sides = (detector.ny, detector.nx)
    in_raft = tuple(
        origin + int(digit) * slot_pitch + (raft_pitch - 2 * slot_pitch - side) / 2 - shift
        for origin, digit, side, shift in zip(in_ccd, detector.slot[1:], sides, (0.5, 0.0), strict=True)
    )
    in_plane = tuple(origin + int(digit) * raft_pitch for origin, digit in zip(in_raft, detector.raft[1:], strict=True))
    transposed = (0.0, parallel_sign, serial_sign, 0.0)
    straight = (serial_sign, 0.0, 0.0, parallel_sign)
    return [
        *_coordinate_system("A", "AMPLIFIER", "Seg_X", "Seg_Y", transposed, in_segment),
        *_coordinate_system("C", "CCD", "CCD_X", "CCD_Y", transposed, in_ccd),
        *_coordinate_system("R", "RAFT", "RAFT_X", "RAFT_Y", transposed, in_raft),
        *_coordinate_system("F", "FOCAL_PLANE", "FP_X", "FP_Y", transposed, in_plane),
        *_coordinate_system("E", "FP_SERPAR", "FP_S", "FP_P", straight, in_plane[::-1]),
        *_coordinate_system("B", "CCD_SERPAR", "CCD_S", "CCD_P", straight, in_ccd[::-1]),
        *_coordinate_system("Q", "RAFT_SERPAR", "RAFT_S", "RAFT_P", straight, in_raft[::-1]),
    ]


def _coordinate_system(
    letter: str, name: str, first: str, second: str, matrix: tuple[float, ...], origin: tuple[float, ...]
) -> list[Card]:
    frame = "In the serial-parallel coordinate system" if letter in "BQ" else "In the camera coordinate system"
    elements = zip(("PC1_1", "PC1_2", "PC2_1", "PC2_2"), matrix, strict=True)
    return [
        (f"WCSNAME{letter}", name, "Name of coordinate system"),
        (f"CTYPE1{letter}", first, frame),
        (f"CTYPE2{letter}", second, frame),
        *((f"{keyword}{letter}", element, "") for keyword, element in elements),
        (f"CDELT1{letter}", 1.0, ""),
        (f"CDELT2{letter}", 1.0, ""),
        (f"CRPIX1{letter}", 0.0, ""),
        (f"CRPIX2{letter}", 0.0, ""),
        (f"CRVAL1{letter}", origin[0], ""),
        (f"CRVAL2{letter}", origin[1], ""),
    ]


BOARD_TEMPERATURES = tuple(f"TEMP{number}" for number in range(1, 11))
"""Cards of the readout board's thermometers."""

TEMPERATURE_STEP = 0.0625
"""Resolution of these thermometers, deg C."""

REB_COND: tuple[Card, ...] = (
    ("TEMP1", 9.875, "REB Board temperature 1"),
    ("TEMP2", 9.875, "REB Board temperature 2"),
    ("TEMP3", -4.3125, "REB Board temperature 3"),
    ("TEMP4", -0.4375, "REB Board temperature 4"),
    ("TEMP5", -1.5625, "REB Board temperature 5"),
    ("TEMP6", -0.5, "REB Board temperature 6"),
    ("TEMP7", -3.25, "REB Board temperature 7"),
    ("TEMP8", -0.1875, "REB Board temperature 8"),
    ("TEMP9", -1.5625, "REB Board temperature 9"),
    ("TEMP10", -0.25, "REB Board temperature 10"),
    ("ATEMPU", -11.5186, "ASPIC 0 upper temperature"),
    ("ATEMPL", -8.90276, "ASPIC 0 lower temperature"),
    ("CCDTEMP", -99.9828, "CCD temperature"),
    ("RTDTEMP", -105.801, "RTD temperature"),
    ("DIGPS_V", 5.425, "REB Digital PS voltage"),
    ("DIGPS_I", 656.25, "REB Digital PS current"),
    ("ANAPS_V", 7.825, "REB Analog PS voltage"),
    ("ANAPS_I", 636.0, "REB Analog PS current"),
    ("CLKHPS_V", 15.325, "REB CLK_H PS voltage"),
    ("CLKHPS_I", 144.833, "REB CLK_H PS current"),
    ("CLKLPS_V", 13.575, "REB CLK_L PS voltage"),
    ("CLKLPS_I", 84.625, "REB CLK_L PS current"),
    ("ODPS_V", 38.675, "REB OD PS voltage"),
    ("ODPS_I", 73.0833, "REB OD PS current"),
    ("HTRPS_V", 2.99087, "REB Heater PS voltage"),
    ("HTRPS_W", 0.592162, "REB Heater PS power"),
    ("PCKU_V", 3.28938, "REB clock rails PCK_U Voltage"),
    ("PCKL_V", -6.0, "REB clock rails PCK_L Voltage"),
    ("SCKU_V", 3.90476, "REB clock rails SCK_U Voltage"),
    ("SCKL_V", -5.39927, "REB clock rails SCK_L Voltage"),
    ("RGU_V", 6.09524, "REB clock rails RG_U Voltage"),
    ("RGL_V", -4.0, "REB clock rails RG_L Voltage"),
    ("ODV", 23.3968, "REB bias OD voltage"),
    ("OGV", -3.42125, "REB bias OG voltage"),
    ("RDV", 11.6044, "REB bias RD voltage"),
    ("GDV", 26.0024, "REB bias GD voltage"),
    ("GDP", 26.0, "REB config bias GD (requested)"),
    ("RDP", 11.6, "REB config bias RD (requested)"),
    ("OGP", -3.4, "REB config bias OG (requested)"),
    ("ODP", 23.4, "REB config bias OD (requested)"),
    ("CSGATEP", 1.0, "REB config bias CS gate (requested)"),
    ("SCK_LOWP", -5.4, "REB DAC SCLK Low (requested)"),
    ("SCK_HIP", 3.9, "REB DAC SCLK High (requested)"),
    ("PCK_LOWP", -6.0, "REB DAC PCLK Low (requested)"),
    ("PCK_HIP", 3.3, "REB DAC PCLK High (requested)"),
    ("RG_LOWP", -4.0, "REB DAC RG Low (requested)"),
    ("RG_HIP", 6.1, "REB DAC RG High (requested)"),
    ("AP0_RC", 14, "CCD ASPIC 0 RC"),
    ("AP1_RC", 14, "CCD ASPIC 1 RC"),
    ("AP0_GAIN", 0, "CCD ASPIC 0 gain"),
    ("AP1_GAIN", 0, "CCD ASPIC 1 gain"),
    ("AP0_CLMP", 0, "CCD ASPIC 0 clamp"),
    ("AP1_CLMP", 0, "CCD ASPIC 1 clamp"),
    ("AP0_AF1", 0, "CCD ASPIC 0 af1"),
    ("AP1_AF1", 0, "CCD ASPIC 1 af1"),
    ("AP0_TM", 0, "CCD ASPIC 0 Transparent Mode"),
    ("AP1_TM", 0, "CCD ASPIC 1 Transparent Mode"),
    ("HVBIAS", "ON", "REB HVBias Switch state"),
    ("IDLEFLSH", 0, "IDLE FLUSH setting"),
    ("POWER", 17.7593, "Total REB PS power"),
    ("DIGVB", 6.3, "REB PS Digi Voltage before LDO"),
    ("DIGIB", 677.67, "REB PS Digi Current before LDO"),
    ("DIGVA", 6.02976, "REB PS Digi Voltage after LDO"),
    ("DIGIA", 604.368, "REB PS Digi Current after LDO"),
    ("DIGVS", 5.99935, "REB PS Digi Voltage after Switch"),
    ("ANAVB", 8.975, "REB PS Ana Voltage before LDO"),
    ("ANAIB", 628.86, "REB PS Ana Current before LDO"),
    ("ANAVA", 8.26848, "REB PS Ana Voltage after LDO"),
    ("ANAIA", 621.24, "REB PS Ana  Current after LDO"),
    ("ANAIS", 8.3387, "REB PS Ana Voltage after Switch"),
    ("ODVB", 40.5, "REB PS OD Voltage before LDO"),
    ("ODIB", 78.3014, "REB PS OD Current before LDO"),
    ("ODVA", 38.8722, "REB PS OD Voltage after LDO"),
    ("ODVA2", 38.875, "REB PS OD Voltage after LDO2"),
    ("ODIA", 75.1936, "REB PS OD Current after LDO"),
    ("ODVS", 38.3366, "REB PS OD Voltage after Switch"),
    ("CKHVB", 16.225, "REB PS Clk HI Voltage before LDO"),
    ("CKHIB", 136.512, "REB PS Clk HI Current before LDO"),
    ("CKHVA", 15.3991, "REB PS Clk HI Voltage after LDO"),
    ("CKHIA", 137.942, "REB PS Clk HI Current after LDO"),
    ("CKHVS", 15.402, "REB PS Clk HI Voltage after Switch"),
    ("CKLVB", 14.375, "REB PS Clk LO Voltage before LDO"),
    ("CKLIB", 93.0732, "REB PS Clk LO Current before LDO"),
    ("CKLVA", 0.72864, "REB PS Clk LO Voltage after LDO"),
    ("CKLV2", 13.6714, "REB PS Clk LO Voltage after LDO2"),
    ("CKLIA", 91.9194, "REB PS Clk LO Current after LDO"),
    ("CKLVS", 13.9234, "REB PS Clk LO Voltage after Switch"),
    ("HTRVB", 12.325, "REB PS Clk Heater Voltage before LDO"),
    ("HTRIB", 175.064, "REB PS Clk Heater Current before LDO"),
    ("HTRVA", 11.7524, "REB PS Clk Heater Voltage after LDO"),
    ("HTRIA", 390.698, "REB PS Clk Heater Current after LDO"),
    ("HTRVAS", 11.7, "REB PS Clk Heater Voltage after Switch"),
    ("BSSVBS", 50.0, "REB PS HV Bias Voltage before Switch"),
    ("BSSIBS", 0.077559, "REB PS HV Bias Current before Switch"),
)
"""Readout board: temperatures (deg C), voltages (V), currents (mA) and settings."""

CONFIG_COND: tuple[Card, ...] = (
    ("FPDAQCS", "2338216281", "Focal Plane checksum for DAQ configuration category"),
    ("FPHIDCS", "2186941357", "Focal Plane checksum for HardwareId configuration categ"),
    ("FPINSCS", "793777589", "Focal Plane checksum for Instrument configuration catego"),
    ("FPLIMCS", "1697061544", "Focal Plane checksum for Limits configuration category"),
    ("FPRTCCS", "1001686671", "Focal Plane checksum for RaftTempControl configuration"),
    ("FPRTCSCS", "286424954", "Focal Plane checksum for RaftTempControlStatus configura"),
    ("FPRCS", "406077237", "Focal Plane checksum for Rafts configuration category"),
    ("FPRLCS", "258571231", "Focal Plane checksum for RaftsLimits configuration categ"),
    ("FPRPCS", "363017692", "Focal Plane checksum for RaftsRaftsPowerLimits configura"),
    ("FPSEQCS", "3050900511", "Focal Plane checksum for Sequencer configuration catego"),
    ("FPTIMCS", "3730781616", "Focal Plane checksum for timers configuration category"),
    ("RPLIMCS", "2143271720", "REB Power checksum for Limits configuration category"),
    ("RPPOWCS", "2756012582", "REB Power checksum for Power configuration category"),
    ("RPTIMCS", "3709782328", "REB Power checksum for timers configuration category"),
)
"""Checksums of the configuration."""


BLOCK_PIXELS = 32


def compress_rows(pixels: Int32Array) -> tuple[NDArray[np.uint8], Int32Array]:
    """Compress each row of an image as one tile.

    Parameters
    ----------
    pixels : ndarray of int32, shape (ny, nx)

    Returns
    -------
    heap : ndarray of uint8
        The tiles one after the other.
    descriptors : ndarray of int32, shape (ny, 2)
        Length and offset of each tile in bytes.
    """
    rows, columns = pixels.shape
    # An incompressible block takes 32 bits per pixel and its 5 bits of split; the first pixel is stored in addition.
    largest = rows * (8 + 4 * columns + columns // BLOCK_PIXELS + 1)
    heap = np.empty(largest, dtype=np.uint8)
    descriptors = np.empty((rows, 2), dtype=np.int32)
    used = kernels.compress_rows(np.ascontiguousarray(pixels), heap, descriptors)
    return heap[:used], descriptors


class RawFileWriter:
    """Writes the files of one detector from header templates, which are built once."""

    def __init__(self, detector: Detector) -> None:
        self._plain = [HeaderTemplate.from_cards(plain_segment_cards(detector, amplifier)) for amplifier in detector.amplifiers]
        self._rice = [HeaderTemplate.from_cards(rice_segment_cards(detector, amplifier)) for amplifier in detector.amplifiers]
        self._board = HeaderTemplate.from_cards(empty_table_cards("REB_COND", REB_COND))
        self._configuration = bytes(HeaderTemplate.from_cards(empty_table_cards("CONFIG_COND", CONFIG_COND)).filled(0))
        self._board_cards = {card[0]: card for card in REB_COND}

    def write(
        self, path: Path, primary: Sequence[Card], conditions: Conditions, segments: Int32Array, *, compressed: bool
    ) -> int:
        """Write one file under a temporary name and rename it when it is complete.

        Parameters
        ----------
        primary
            Cards of the primary header.
        conditions
            Temperatures for the table of the readout board.
        segments : ndarray of int32, shape (n, ny_raw, nx_raw)
            Raw segments in the order of the amplifiers.
        compressed
            RICE or plain.

        Returns
        -------
        int
            Size of the file, bytes.

        Raises
        ------
        OutputError
            If the file cannot be written.
        """
        parts: list[bytes | bytearray] = [HeaderTemplate.from_cards(primary).filled(0)]
        for number, segment in enumerate(segments):
            parts += self._rice_segment(number, segment) if compressed else self._plain_segment(number, segment)
        parts += [self._board.filled(0, self._temperatures(conditions)), self._configuration]
        # Raw files can be simulated again, so they are not synchronised to disk one by one, which would take most of the time.
        temporary = path.with_name(f".{path.name}.partial.fits")
        with writing(path):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with temporary.open("wb") as stream:
                    stream.writelines(parts)
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
        return sum(len(part) for part in parts)

    def _plain_segment(self, number: int, segment: Int32Array) -> list[bytes | bytearray]:
        data = padded(segment.astype(">i4").tobytes())
        return [self._plain[number].filled(word_sum(data)), data]

    def _rice_segment(self, number: int, segment: Int32Array) -> list[bytes | bytearray]:
        heap, descriptors = compress_rows(segment)
        data = padded(descriptors.astype(">i4").tobytes() + heap.tobytes())
        changes: list[Card] = [
            ("PCOUNT", heap.size, "number of group parameters"),
            ("TFORM1", f"1PB({descriptors[:, 0].max()})", "data format of field: variable length array"),
        ]
        return [self._rice[number].filled(word_sum(data), changes), data]

    def _temperatures(self, conditions: Conditions) -> list[Card]:
        def changed(keyword: str, content: float) -> Card:
            return keyword, content, self._board_cards[keyword][2]

        def measured(keyword: str) -> float:
            exact = float(self._board_cards[keyword][1]) + conditions.board_temperature
            return round(exact / TEMPERATURE_STEP) * TEMPERATURE_STEP

        return [
            *(changed(keyword, measured(keyword)) for keyword in BOARD_TEMPERATURES),
            changed("CCDTEMP", round(conditions.sensor_temperature, 4)),
        ]
