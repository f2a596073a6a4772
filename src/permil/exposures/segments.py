"""Match the HDUs of a raw file with the segments of a detector, and check their geometry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from permil.camera import Amplifier, Camera, Detector, camera_names, load_camera
from permil.errors import PermilError, RawFormatError
from permil.exposures.hdu import Hdu


def find_segments(hdus: list[Hdu], detector: Detector, path: Path) -> dict[str, Hdu]:
    """Return the HDU of each amplifier, by EXTNAME or else by CHANNEL.

    Raises
    ------
    RawFormatError
        If a segment is missing, duplicated, contradicts itself or does not belong to the detector.
    """
    by_name = {amplifier.extname.lower(): amplifier for amplifier in detector.amplifiers}
    by_channel = {amplifier.channel: amplifier for amplifier in detector.amplifiers}
    found: dict[str, Hdu] = {}
    strangers = []
    for hdu in hdus[1:]:
        if hdu.cards.get("XTENSION") != "IMAGE" and hdu.cards.get("ZIMAGE") is not True:
            continue
        name, channel = str(hdu.cards.get("EXTNAME") or ""), hdu.cards.get("CHANNEL")
        number = hdu.cards.integer("CHANNEL", 0)
        amplifier = by_name.get(name.lower()) if name else by_channel.get(number)
        if amplifier is None:
            strangers += [name] if name.lower().startswith("segment") else []
            continue
        if channel is not None and number != amplifier.channel:
            raise RawFormatError(
                f"HDU {hdu.number} is named {name}, which is channel {amplifier.channel}, but says channel {channel}",
                path=path,
                remedy="the file is damaged or was edited; leave it out",
                value=channel,
                expected=amplifier.channel,
            )
        if amplifier.name in found:
            raise RawFormatError(
                f"segment {amplifier.extname} is duplicated (HDU {found[amplifier.name].number} and {hdu.number})",
                path=path,
                remedy="use the original file",
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


def image_size(hdu: Hdu) -> tuple[int, int]:
    """Return columns and rows of an image HDU, compressed or not; 0, 0 for another number of axes."""
    prefix = "Z" if hdu.cards.get("ZIMAGE") is True else ""
    if hdu.cards.integer(f"{prefix}NAXIS", 0) != 2:
        return 0, 0
    return hdu.cards.integer(f"{prefix}NAXIS1", 0), hdu.cards.integer(f"{prefix}NAXIS2", 0)


def check_geometry(found: dict[str, Hdu], detector: Detector, camera: Camera, path: Path) -> None:
    """Check sizes, DATASEC and DETSEC of all segments, and that the data of a plain segment are exactly one image.

    Cards that are missing are not checked.

    Raises
    ------
    RawFormatError
        If one differs from the camera.
    """
    for amplifier in detector.amplifiers:
        hdu = found[amplifier.name]
        size, expected = image_size(hdu), (amplifier.nx_raw, amplifier.ny_raw)
        if size != expected:
            raise RawFormatError(
                f"segment {amplifier.extname} has {size[0]} x {size[1]} pixels, but {expected[0]} x {expected[1]} in camera "
                f"{camera.name} ({detector.name})",
                path=path,
                remedy=_geometry_remedy(detector.name, amplifier.name, size),
                value=size,
                expected=expected,
            )
        n_bytes = size[0] * size[1] * abs(hdu.cards.integer("BITPIX", 0)) // 8
        if hdu.cards.get("ZIMAGE") is not True and hdu.data_size != n_bytes:
            raise RawFormatError(
                f"segment {amplifier.extname} has {hdu.data_size} bytes of data for {size[0]} x {size[1]} pixels",
                path=path,
                remedy="the file is damaged or was edited (PCOUNT, GCOUNT); leave it out",
                value=hdu.data_size,
                expected=n_bytes,
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
    _check_places(found, detector, path)


def _check_places(found: dict[str, Hdu], detector: Detector, path: Path) -> None:
    """Check that no segment has the DETSEC of another one: two were swapped.

    Where most segments have another DETSEC than the camera, the file follows another convention (binned sizes, another origin), and says
    nothing of swaps.
    """
    stated = {amplifier.name: _without_blanks(found[amplifier.name].cards.text("DETSEC")) for amplifier in detector.amplifiers}
    own = {amplifier.name: amplifier.detsec for amplifier in detector.amplifiers}
    if 2 * sum(stated[name] == own[name] for name in own) <= len(own):
        return
    extension_of = {amplifier.detsec: amplifier.extname for amplifier in detector.amplifiers}
    for amplifier in detector.amplifiers:
        place = stated[amplifier.name]
        if place != amplifier.detsec and place in extension_of:
            raise RawFormatError(
                f"segment {amplifier.extname} has DETSEC {place}, which is that of {extension_of[place]}; {detector.name} has "
                f"{amplifier.detsec} there",
                path=path,
                remedy="the names of the segments were swapped or the header was edited; use the original file",
                value=place,
                expected=amplifier.detsec,
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
