"""Read raw files: the segments of one detector, exactly as the readout wrote them."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from permil.camera import Amplifier, Camera, Detector, camera_names, load_camera
from permil.errors import PermilError, RawFormatError
from permil.exposures.hdu import Hdu, fits_stream, is_compressed, read_structure
from permil.exposures.record import identify_detector
from permil.exposures.rice import decompress_rows, is_rice_by_row

IntegerImage = NDArray[np.int32]


@dataclass(frozen=True)
class RawDetector:
    """One detector in one exposure.

    Attributes
    ----------
    path, detector
        The file, and which detector it holds.
    segments
        Full raw segments ``[row, column]`` with prescan and overscans, by amplifier name.
    headers
        Headers of all HDUs as bytes, the primary first.
    """

    path: str
    detector: Detector
    segments: dict[str, IntegerImage] = field(repr=False)
    headers: tuple[bytes, ...] = field(repr=False)

    @cached_property
    def header(self) -> fits.Header:
        """Primary header."""
        return fits.Header.fromstring(self.headers[0])

    @cached_property
    def readout_board(self) -> fits.Header | None:
        """Header of the extension REB_COND (temperatures, voltages and currents of the readout board); None where there is none.

        In 2019-03 it had no name; its cards tell.
        """
        for header in self.headers[1:]:
            if b"EXTNAME = 'REB_COND" in header or (b"EXTNAME =" not in header and b"TEMP1   =" in header):
                return fits.Header.fromstring(header)
        return None

    @property
    def board_temperatures(self) -> dict[str, float]:
        """Temperatures of the readout board (TEMP1 to TEMP10), deg C."""
        cards = self.readout_board or {}
        names = (f"TEMP{number}" for number in range(1, 11))
        return {name: float(cards[name]) for name in names if isinstance(cards.get(name), int | float)}


def read_raw(path: str | Path, camera: Camera, *, segments: Iterable[str] | None = None) -> RawDetector:
    """Read a raw file.

    Plain and compressed image HDUs, in any order, plain files and gzip (by content) are taken; further HDUs are passed over.

    Parameters
    ----------
    camera
        Whose geometry the file must have.
    segments
        Names of the amplifiers to decode (``C14``); all by default. The others cost next to nothing, but must be there.

    Raises
    ------
    RawFormatError
        If the file is damaged or cut short, a segment is missing or stands twice, or sizes are not those of the camera.
    InputError
        If the file cannot be opened or says of no detector of the camera that it is its own.
    CameraError
        If the detector has no amplifier of that name.
    """
    path = Path(path)
    with fits_stream(path) as opened:
        stream, size = _seekable(opened)
        hdus = read_structure(stream, size, path)
        detector = identify_detector(hdus[0].cards, path, camera)
        wanted = detector.amplifiers if segments is None else [detector.amplifier(name) for name in segments]
        found = _find_segments(hdus, detector, path)
        _check_geometry(found, detector, camera, path)
        decoded = {amplifier.name: _decode(stream, found[amplifier.name], path) for amplifier in wanted}
    return RawDetector(str(path), detector, decoded, tuple(hdu.cards.header for hdu in hdus))


def _seekable(stream: IO[bytes]) -> tuple[IO[bytes], int]:
    if is_compressed(stream):
        content = stream.read()
        return io.BytesIO(content), len(content)
    return stream, os.fstat(stream.fileno()).st_size


def _find_segments(hdus: list[Hdu], detector: Detector, path: Path) -> dict[str, Hdu]:
    """Return the HDU of each amplifier, by EXTNAME or else by CHANNEL."""
    by_name = {amplifier.extname.lower(): amplifier for amplifier in detector.amplifiers}
    by_channel = {amplifier.channel: amplifier for amplifier in detector.amplifiers}
    found: dict[str, Hdu] = {}
    strangers = []
    for hdu in hdus[1:]:
        if hdu.cards.get("XTENSION") != "IMAGE" and hdu.cards.get("ZIMAGE") is not True:
            continue
        name, channel = str(hdu.cards.get("EXTNAME") or ""), hdu.cards.get("CHANNEL")
        amplifier = by_name.get(name.lower()) if name else by_channel.get(hdu.cards.integer("CHANNEL", 0))
        if amplifier is None:
            strangers += [name] if name.lower().startswith("segment") else []
            continue
        if channel is not None and channel != amplifier.channel:
            raise RawFormatError(
                f"HDU {hdu.number} is named {name}, which is channel {amplifier.channel}, but says channel {channel}",
                path=path,
                remedy="the file is damaged or was edited; leave it out",
                value=channel,
                expected=amplifier.channel,
            )
        if amplifier.name in found:
            raise RawFormatError(
                f"segment {amplifier.extname} stands twice (HDU {found[amplifier.name].number} and {hdu.number})",
                path=path,
                remedy="the file was assembled wrongly; take the original",
                segment=amplifier.name,
            )
        found[amplifier.name] = hdu
    missing = [amplifier.extname for amplifier in detector.amplifiers if amplifier.name not in found]
    if missing:
        raise RawFormatError(
            f"segment {', '.join(missing)} of {detector.name} is missing",
            path=path,
            remedy="copy the file again or leave it out",
            missing=missing,
        )
    if strangers:
        raise RawFormatError(
            f"segment {', '.join(strangers)} is not one of {detector.name}, which has {len(detector.amplifiers)}",
            path=path,
            remedy="check RAFTBAY and CCDSLOT in the header and the camera",
            value=strangers,
        )
    return found


def _image_size(hdu: Hdu) -> tuple[int, int]:
    prefix = "Z" if hdu.cards.get("ZIMAGE") is True else ""
    if hdu.cards.integer(f"{prefix}NAXIS", 0) != 2:
        return 0, 0
    return hdu.cards.integer(f"{prefix}NAXIS1", 0), hdu.cards.integer(f"{prefix}NAXIS2", 0)


def _check_geometry(found: dict[str, Hdu], detector: Detector, camera: Camera, path: Path) -> None:
    for amplifier in detector.amplifiers:
        hdu = found[amplifier.name]
        size, expected = _image_size(hdu), (amplifier.nx_raw, amplifier.ny_raw)
        if size != expected:
            raise RawFormatError(
                f"segment {amplifier.extname} has {size[0]} x {size[1]} pixels, but {expected[0]} x {expected[1]} in camera "
                f"{camera.name} ({detector.name})",
                path=path,
                remedy=_geometry_remedy(detector.name, amplifier.name, size),
                value=size,
                expected=expected,
            )
        section = hdu.cards.get("DATASEC")
        if section is not None and _without_blanks(section) != amplifier.datasec:
            raise RawFormatError(
                f"segment {amplifier.extname} has DATASEC {section}, but {amplifier.datasec} in camera {camera.name} "
                f"({detector.name})",
                path=path,
                remedy=_geometry_remedy(detector.name, amplifier.name, size, _without_blanks(section)),
                value=section,
                expected=amplifier.datasec,
            )


def _without_blanks(section: Any) -> str:
    return str(section).replace(" ", "")


def _geometry_remedy(detector: str, amplifier: str, size: tuple[int, int], datasec: str = "") -> str:
    for name in camera_names():
        try:
            candidate: Amplifier = load_camera(name)[detector].amplifier(amplifier)
        except PermilError:
            continue
        if (candidate.nx_raw, candidate.ny_raw) == size and datasec in ("", candidate.datasec):
            return f"set `camera: {name}`, which has this geometry"
    return "write a camera file with this geometry and set `camera:` to its path"


def _decode(stream: IO[bytes], hdu: Hdu, path: Path) -> IntegerImage:
    """Return the pixels of one segment as integers."""
    is_tiled = hdu.cards.get("ZIMAGE") is True
    bits = hdu.cards.integer("ZBITPIX" if is_tiled else "BITPIX", 0)
    scale, zero = hdu.cards.get("BSCALE", 1), hdu.cards.get("BZERO", 0)
    if bits not in (8, 16, 32) or scale != 1 or not isinstance(zero, int | float) or zero != int(zero):
        raise RawFormatError(
            f"HDU {hdu.number} does not hold integers (BITPIX {bits}, BSCALE {scale}, BZERO {zero})",
            path=path,
            remedy="give the file as the readout wrote it",
            value=(bits, scale, zero),
        )
    stored = _decompressed(stream, hdu, path) if is_tiled else _plain(stream, hdu, bits)
    if zero == 0:
        return np.ascontiguousarray(stored, dtype=np.int32)
    shifted = stored.astype(np.int64) + int(zero)
    limits = np.iinfo(np.int32)
    if shifted.min() < limits.min or shifted.max() > limits.max:
        raise RawFormatError(
            f"HDU {hdu.number} has values that signed 32-bit integers cannot hold", path=path, remedy="check BZERO", value=zero
        )
    return shifted.astype(np.int32)


def _plain(stream: IO[bytes], hdu: Hdu, bits: int) -> NDArray[Any]:
    stream.seek(hdu.data_offset)
    kind = np.dtype(np.uint8) if bits == 8 else np.dtype(f">i{bits // 8}")
    columns, rows = _image_size(hdu)
    return np.frombuffer(stream.read(hdu.data_size), dtype=kind).reshape(rows, columns)


def _decompressed(stream: IO[bytes], hdu: Hdu, path: Path) -> NDArray[Any]:
    stream.seek(hdu.data_offset)
    content = stream.read(hdu.end - hdu.data_offset)
    try:
        if is_rice_by_row(hdu):
            return decompress_rows(hdu, content)
        table = fits.BinTableHDU.fromstring(hdu.cards.header + content)
        return np.asarray(fits.CompImageHDU(bintable=table, do_not_scale_image_data=True).data)
    except (OSError, ValueError, IndexError, KeyError, TypeError) as error:
        raise RawFormatError(
            f"HDU {hdu.number} cannot be decompressed ({error})", path=path, remedy="copy the file again or leave it out"
        ) from error
