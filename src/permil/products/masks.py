"""Mask planes: their meaning, and the translation of masks of other programs by plane name.

A plane is identified by its name, never by its bit: the header card ``MP_<NAME>`` holds the bit number, as in files of the LSST stack.
Planes of other programs are kept on bits that `MaskPlane` does not use.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntFlag
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.io.fits.verify import VerifyError

from permil.arrays import BoolArray, Int32Array, plain_array
from permil.errors import InputError

if TYPE_CHECKING:
    from astropy.io.fits import Header
    from numpy.typing import ArrayLike, NDArray


class MaskPlane(IntFlag):
    """Conditions of a pixel.

    Examples
    --------
    >>> import permil
    >>> flat = permil.Flat.read("out/flat/red/R22_S11.fits")
    >>> bool(((flat.mask & permil.MaskPlane.EDGE) != 0)[0].all())
    True
    """

    BAD = 1
    """Defect: dead, hot, bad column, or listed in the defect table."""
    SAT = 2
    """Saturated in the exposures used."""
    NO_DATA = 4
    """Not measured (outside the known area of the beam, or all exposures rejected)."""
    EDGE = 8
    """In the zone along the outer edge of the sensor, where charge is displaced."""
    MIDLINE = 16
    """Along the line between the two halves of the sensor."""
    REJECTED = 32
    """At least one exposure was rejected as an outlier; the others are good."""
    SUSPECT = 64
    """Usable with care: scatters more than its noise model allows, or was not measured but interpolated."""


UNUSABLE = MaskPlane.BAD | MaskPlane.SAT | MaskPlane.NO_DATA
"""Planes of pixels without a measurement."""

NOT_GOOD = UNUSABLE | MaskPlane.EDGE | MaskPlane.MIDLINE | MaskPlane.SUSPECT
"""Planes excluded from medians, scales and quality metrics."""

FIRST_FREE_BIT = max(plane.bit_length() for plane in MaskPlane)
LAST_BIT = 30
"""Bits of a 32-bit mask for planes of other programs; the sign bit is not used."""

_OWN_BITS = {str(plane.name): plane.bit_length() - 1 for plane in MaskPlane}
_CARD = "MP_"
_NAME_CARD, _VALUE_CARD = "MSKN", "MSKM"
_SHORT_CARD = 8
_MOST_BITS = 64
_MOST_LISTED = 8
_NOTHING = MaskPlane(0)
_MEANINGS = {
    # Unusable.
    "CR": MaskPlane.BAD, "COSMIC": MaskPlane.BAD, "COSMICRAY": MaskPlane.BAD, "COSMIC_RAY": MaskPlane.BAD, "DEAD": MaskPlane.BAD,
    "HOT": MaskPlane.BAD, "DEFECT": MaskPlane.BAD, "BAD_PIXEL": MaskPlane.BAD, "BAD_COLUMN": MaskPlane.BAD,
    "DO_NOT_USE": MaskPlane.BAD, "VIGNETTED": MaskPlane.BAD, "SATURATED": MaskPlane.SAT, "NODATA": MaskPlane.NO_DATA,
    "UNMASKEDNAN": MaskPlane.NO_DATA,
    # Usable with care.
    "INTRP": MaskPlane.SUSPECT, "INTERP": MaskPlane.SUSPECT, "INTERPOLATED": MaskPlane.SUSPECT, "CROSSTALK": MaskPlane.SUSPECT,
    "STREAK": MaskPlane.SUSPECT, "SPIKE": MaskPlane.SUSPECT, "PARTLY_VIGNETTED": MaskPlane.SUSPECT, "ITL_DIP": MaskPlane.SUSPECT,
    "HIGH_VARIANCE": MaskPlane.SUSPECT,
    # Not a fault of the pixel.
    "DETECTED": _NOTHING, "DETECTED_NEGATIVE": _NOTHING, "NOT_DEBLENDED": _NOTHING, "BRIGHT_OBJECT": _NOTHING, "CLIPPED": _NOTHING,
    "INEXACT_PSF": _NOTHING, "SENSOR_EDGE": MaskPlane.EDGE, "DETECTION_EDGE": MaskPlane.EDGE, "INJECTED": _NOTHING,
    "INJECTED_CORE": _NOTHING,
    "INJECTED_TEMPLATE": _NOTHING, "SAT_TEMPLATE": _NOTHING, "STREAK_TEMPLATE": _NOTHING, "FAKE": _NOTHING,
}  # fmt: skip
"""Translation of planes of other programs that have a different name here."""


@dataclass(frozen=True)
class TranslatedMask:
    """A mask translated to the planes of this package.

    Attributes
    ----------
    mask
        Bits of `MaskPlane`, and those of ``planes``.
    planes
        Bits by name of planes of other programs.
    remarks
        Messages to the user about the translation.
    """

    mask: Int32Array
    planes: dict[str, int]
    remarks: tuple[str, ...] = ()


def planes_of(values: ArrayLike | None, name: str, shape: tuple[int, ...]) -> Int32Array:
    """Return mask planes; no data where a mask of bool is true or the mask itself is masked.

    Raises
    ------
    InputError
        If a value is not a whole number, or the shape differs.
    """
    if values is None:
        return np.zeros(shape, dtype=np.int32)
    if type(values) is np.ndarray and values.dtype.kind in "iu" and values.shape == shape:
        return values.astype(np.int32)
    plain = plain_array(values, name=name, shape=shape)
    if np.any(plain != np.rint(plain), where=np.isfinite(plain)):
        raise InputError(f"{name} holds no mask planes", remedy="give whole numbers or bool")
    no_data = int(MaskPlane.NO_DATA)
    if np.asarray(np.ma.getdata(values)).dtype.kind == "b":
        plain = np.where(plain == 1.0, no_data, plain)
    return np.where(np.isfinite(plain), plain, no_data).astype(np.int32)


def add_mask_cards(header: Header, planes: Mapping[str, int] | None = None) -> None:
    """Name the planes in a header: ``MP_SAT = 1`` means that bit 1 (value 2) is plane ``SAT``.

    Parameters
    ----------
    planes
        Bits by name of planes of other programs.
    """
    for name, bit in {**_OWN_BITS, **(planes or {})}.items():
        card = f"{_CARD}{name}"
        # Longer keywords need the HIERARCH convention.
        keyword = card if len(card) <= _SHORT_CARD else f"HIERARCH {card}"
        header[keyword] = (bit, f"mask bit of plane {name}"[: max(0, 60 - 2 * len(name))])


def mask_bits(*headers: Header, path: str | Path | None = None) -> dict[str, int]:
    """Return the bits of a mask by the names of its planes; the first header that names a plane is used.

    A card ``MP_<NAME>`` holds the number of a bit; of a pair of cards ``MSKN0001`` and ``MSKM0001`` (of the package lsst.images) the
    first holds the name, the second the value of the bit. Names that earlier versions of permil cut to eight characters
    (``MP_NO_DA``) are completed.

    Raises
    ------
    InputError
        If such a card does not hold the number of a bit.
    """
    bits: dict[str, int] = {}
    for header in headers:
        for card in header.cards:
            keyword = str(card.keyword).upper()
            if not keyword.startswith((_CARD, _NAME_CARD)):
                continue
            try:
                name, bit = _named_bit(keyword, card.value, header)
            except (VerifyError, KeyError):
                name, bit = keyword, card.image[_SHORT_CARD:].strip()
            if isinstance(bit, bool) or not isinstance(bit, int | float) or bit not in range(_MOST_BITS):
                raise InputError(
                    f"card {keyword} is {bit!r}, not the number of a mask bit",
                    path=path,
                    remedy="correct the header: the card holds the number of the bit, 0 for the value 1",
                    value=bit,
                )
            bits.setdefault(name, int(bit))
    return bits


def translate_mask(
    mask: NDArray[Any], bits: Mapping[str, int], *, planes: Mapping[str, int] | None = None, path: str | Path | None = None
) -> TranslatedMask:
    """Translate a mask to the planes of this package; planes of other programs keep their names.

    In a mask without plane names every nonzero pixel is BAD. An unnamed bit in a mask with names makes a pixel SUSPECT.

    Parameters
    ----------
    mask
        Integers, booleans, or floating-point numbers with integral values; NaN is NO_DATA.
    bits
        Bits by the names of the planes.
    planes
        Bits already assigned to planes of other programs.

    Raises
    ------
    InputError
        If values are not bits, or a mask without names marks most pixels and may therefore mark the good ones.
    """
    values, lost = _as_bits(mask, path)
    if bits == _OWN_BITS and not lost.any():
        # Bits already used by this package, as in all products of a run.
        own_mask = values.astype(np.int32)
        if not np.bitwise_or.reduce(own_mask, axis=None) >> FIRST_FREE_BIT:
            return TranslatedMask(own_mask, dict(planes or {}))
    translated = np.where(lost, np.int32(MaskPlane.NO_DATA), np.int32(0))
    used = int(np.bitwise_or.reduce(values, axis=None)) if values.size else 0
    remarks: list[str] = []
    if not bits:
        bits, remarks = _unnamed(values, used, path)
        translated[values != 0] |= np.int32(MaskPlane.BAD)
    elif nameless := {f"BIT{bit}": bit for bit in range(_MOST_BITS) if used >> bit & 1 and bit not in bits.values()}:
        listed = ", ".join(nameless) if len(nameless) <= _MOST_LISTED else f"{len(nameless)} of them"
        remarks.append(f"mask bits without a name ({listed}) are set to SUSPECT")
        bits = {**bits, **nameless}
    carried = _carried(bits, used, planes or {})
    marking = {name: bit for name, bit in bits.items() if used >> bit & 1}
    for name, bit in marking.items():
        value = int(_meaning(name) or 0) | (1 << carried[name] if name in carried else 0)
        translated[(values >> values.dtype.type(bit)) & values.dtype.type(1) != 0] |= np.int32(value)
    if unknown := sorted(name for name in marking if _meaning(name) is None):
        remarks.append(f"mask planes {', '.join(unknown)} are unknown; they are kept and do not exclude pixels")
    if dropped := sorted(name for name in marking if name not in carried and name not in _OWN_BITS):
        remarks.append(f"mask planes {', '.join(dropped)} are dropped: no bit is free")
    return TranslatedMask(translated, carried, tuple(remarks))


def is_good(mask: NDArray[np.integer]) -> BoolArray:
    """Return which pixels have none of the planes `NOT_GOOD`."""
    return (mask & int(NOT_GOOD)) == 0


def is_usable(mask: NDArray[np.integer]) -> BoolArray:
    """Return which pixels have none of the planes `UNUSABLE`."""
    return (mask & int(UNUSABLE)) == 0


def _named_bit(keyword: str, value: Any, header: Header) -> tuple[str, Any]:
    """Return the name of a plane and the number of its bit from a card."""
    if keyword.startswith(_CARD):
        return _whole_name(keyword.removeprefix(_CARD).strip()), value
    bit = header[_VALUE_CARD + keyword.removeprefix(_NAME_CARD)]
    is_power = isinstance(bit, int) and bit > 0 and bit.bit_count() == 1
    return str(value).strip().upper(), bit.bit_length() - 1 if is_power else bit


def _whole_name(name: str) -> str:
    if len(name) == _SHORT_CARD - len(_CARD):
        return next((str(plane.name) for plane in MaskPlane if str(plane.name).startswith(name)), name)
    return name


def _carried(bits: Mapping[str, int], used: int, planes: Mapping[str, int]) -> dict[str, int]:
    """Assign bits to planes of other programs; planes that mark no pixel come last."""
    carried = dict(planes)
    for name, _ in sorted(bits.items(), key=lambda entry: not used >> entry[1] & 1):
        free = next((bit for bit in range(FIRST_FREE_BIT, LAST_BIT + 1) if bit not in carried.values()), None)
        if name not in _OWN_BITS and name not in carried and free is not None:
            carried[name] = free
    return carried


def _meaning(name: str) -> MaskPlane | None:
    """Return the corresponding plane of this package, None if unknown."""
    if name in _OWN_BITS:
        return MaskPlane[name]
    if name.startswith("BIT") and name[3:].isdecimal():
        return MaskPlane.SUSPECT
    return _MEANINGS.get(name)


def _as_bits(mask: NDArray[Any], path: str | Path | None) -> tuple[NDArray[np.unsignedinteger], BoolArray]:
    """Return a mask as unsigned integers in native byte order, and which pixels have no value."""
    if mask.dtype.kind == "f":
        lost = ~np.isfinite(mask)
        filled = np.where(lost, 0, mask)
        if (filled != np.floor(filled)).any() or (np.abs(filled) >= 2**53).any():
            raise InputError("the mask holds values that are not integers", path=path, remedy="give a mask of integers")
        mask = filled.astype(np.int64)
    else:
        lost = np.zeros(mask.shape, dtype=bool)
    kind = np.uint8 if mask.dtype.kind == "b" else np.dtype(f"u{mask.dtype.itemsize}")
    return mask.astype(mask.dtype.newbyteorder("=")).view(kind), lost


def _unnamed(values: NDArray[np.unsignedinteger], used: int, path: str | Path | None) -> tuple[dict[str, int], list[str]]:
    """Return names for the bits of a mask without names, and remarks; a mask with one value needs no names."""
    if not used:
        return {}, []
    marked = np.count_nonzero(values)
    if 2 * marked > values.size:
        raise InputError(
            f"the mask names no planes and marks {marked} of {values.size} pixels: it may mark the good ones",
            path=path,
            remedy="name its planes (MP_BAD = 0 where bit 0 marks bad pixels), or call the extension GOOD if it marks good ones",
            value=marked,
        )
    notes = [f"the mask names no planes: {marked} pixels whose value is not 0 are set to BAD"]
    several = (values[values != 0] != values.max()).any()
    return ({f"BIT{bit}": bit for bit in range(_MOST_BITS) if used >> bit & 1} if several else {}), notes
