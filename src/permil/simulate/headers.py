"""Cards of raw files, in the order and with the types of real ones (a CCOB exposure of 2019, segments of 2019 and 2021)."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from datetime import datetime, timedelta

from permil.camera import Amplifier, Detector
from permil.simulate.campaign import PlannedExposure, modified_julian_date
from permil.simulate.cards import CHECKSUM_OFF, Card
from permil.simulate.targets import Position

_BOT_CENTRE = (405.0, 400.0)
_PIXELS_PER_BLOCK = 32
_RAFT_PITCH_MM, _SLOT_PITCH_MM = 127.0, 42.25
_CHECKSUM: Card = ("CHECKSUM", CHECKSUM_OFF, "checksum for the current HDU")
_DATASUM: Card = ("DATASUM", "0", "checksum of the data records")


@dataclass(frozen=True)
class Conditions:
    """What the bench measured around an exposure.

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
    """Return the time (s) over which charge gathers before the readout."""
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
    """Return what a segment's header says of its place: sections, detector transformation and alternate coordinate systems."""
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
    """Return the alternate linear coordinate systems, in pixels; nominal, half a pixel off the true place as in real files."""
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
