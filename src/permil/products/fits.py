"""Image products: FITS with a primary header of provenance, then IMAGE, MASK and VARIANCE."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.io import fits
from astropy.io.fits.verify import VerifyError
from astropy.utils.exceptions import AstropyUserWarning, AstropyWarning
from numpy.typing import NDArray

from permil import __version__
from permil.arrays import Int32Array, parse_unit
from permil.errors import InputError, PermilError
from permil.products.atomic import ORIGIN_CARD, PROGRAM, atomic_output
from permil.products.masks import add_mask_cards, is_usable, mask_bits, translate_mask

if TYPE_CHECKING:
    from astropy.nddata import CCDData

FINGERPRINT_CARD = "FINGERPR"

_OF_FILE = re.compile(
    r"SIMPLE|XTENSION|BITPIX|NAXIS\d*|EXTEND|NEXTEND|PCOUNT|GCOUNT|GROUPS|TFIELDS|EXT(?:NAME|TYPE|VER|LEVEL)|INHERIT|B(?:SCALE|ZERO)|BLANK"
    r"|(?:Z?DATASUM|Z?CHECKSUM|ZHECKSUM)|ORIGIN|PERMILVE|DATE|FINGERPR|PRODUCT|AR HDU|MP_.*|UTYPE|FZ.*|END|"
)
_OF_WCS = re.compile(
    r"(?:CTYPE|CRVAL|CRPIX|CDELT|CUNIT|CROTA|CNAME|CRDER|CSYER)\d[A-Z]?|(?:CD|PC|PV|PS)\d_\d+[A-Z]?|(?:WCSAXES|WCSNAME|RADESYS|EQUINOX"
    r"|LONPOLE|LATPOLE|SPECSYS)[A-Z]?|(?:A|B|AP|BP)_(?:ORDER|DMAX|\d_\d)|LT[VM]\d(?:_\d)?"
)


def fingerprint_card(fingerprint: str) -> dict[str, tuple[str, str]]:
    """Return the card with the fingerprint of a product."""
    return {FINGERPRINT_CARD: (fingerprint, "digest of inputs and options")}


def kind_card(kind: str) -> dict[str, tuple[str, str]]:
    """Return the card with the kind of a product (``flat``, ``superbias``)."""
    return {"PRODUCT": (kind, "kind of product")}


@dataclass(frozen=True)
class ImageProduct:
    """An image with its mask and variance, all ``[row, column]`` of one shape.

    ``extensions`` holds further HDUs by name (tables, small images), ``planes`` the bits of mask planes beyond those of `MaskPlane`.
    ``remarks`` holds messages to the user about a file of another program. 64-bit floating-point numbers are kept.
    """

    image: NDArray[np.floating]
    mask: Int32Array
    variance: NDArray[np.floating]
    header: fits.Header = field(repr=False)
    image_header: fits.Header = field(repr=False)
    extensions: dict[str, Any] = field(default_factory=dict, repr=False)
    planes: dict[str, int] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    def to_ccddata(self) -> CCDData:
        """Return the image as CCDData: mask of pixels without a measurement, variance, header, world coordinates."""
        from astropy.nddata import CCDData, VarianceUncertainty
        from astropy.wcs import WCS

        unit = self.image_header.get("BUNIT") or self.header.get("BUNIT")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AstropyWarning)
            world = WCS(self.image_header) if "CTYPE1" in self.image_header else None
        meta = kept_cards(self.header)
        meta.update(kept_cards(self.image_header))
        return CCDData(
            self.image.copy(),
            unit=(parse_unit(str(unit)) if unit else None) or "",
            mask=~is_usable(self.mask),
            uncertainty=VarianceUncertainty(self.variance.copy()) if np.any(self.variance > 0) else None,
            meta=meta,
            wcs=world,
        )


def provenance(entries: Mapping[str, Any] | fits.Header | None = None) -> fits.Header:
    """Return a primary header with the program, its version, the time, and the given cards.

    Values of ``entries`` may be plain or ``(value, comment)``; None and NaN are skipped.
    """
    header = fits.Header()
    header[ORIGIN_CARD] = (PROGRAM, "program")
    header["PERMILVE"] = (__version__, "version of the program")
    header["DATE"] = (datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S"), "UTC of writing")
    if isinstance(entries, fits.Header):
        header.update(entries)
        return header
    for key, entry in (entries or {}).items():
        content, comment = entry if isinstance(entry, tuple) else (entry, "")
        if isinstance(content, np.generic):
            content = content.item()
        if content is None or (isinstance(content, float) and not np.isfinite(content)):
            continue
        header[key] = (content, comment)
    return header


def kept_cards(header: fits.Header) -> fits.Header:
    """Return the cards that a product inherits from an input: all but structural cards and those that cannot be parsed."""
    has_archive = "AR HDU" in header
    kept = fits.Header()
    for card in header.cards:
        try:
            card.verify("silentfix+exception")
            keyword = str(card.keyword).upper()
            # Archive pointers of LSST stack exposures are meaningless in another file.
            if not _OF_FILE.fullmatch(keyword) and not (has_archive and keyword.endswith("_ID")):
                kept.append(card)
        except (VerifyError, ValueError):
            continue
    return kept


def wcs_cards(header: fits.Header) -> fits.Header:
    """Return the world coordinate cards."""
    return fits.Header([card for card in header.cards if _OF_WCS.fullmatch(str(card.keyword))])


def image_of_cells(name: str, array: NDArray[Any], cell: int, unit: str) -> fits.ImageHDU:
    """Return an image of square cells of the pixels of a detector, real numbers in single precision, as an HDU.

    Parameters
    ----------
    cell
        Side of a cell, pixels.
    unit
        Of the values; empty for none.
    """
    hdu = fits.ImageHDU(array.astype(np.float32) if array.dtype.kind == "f" else array, name=name)
    # Linear coordinates: 0-based pixels of the detector (DM frame) at the centre of each cell.
    for axis, label in ((1, "X"), (2, "Y")):
        hdu.header[f"CTYPE{axis}"] = (label, "pixel of the detector, 0-based")
        hdu.header[f"CUNIT{axis}"] = "pixel"
        hdu.header[f"CRPIX{axis}"] = 1.0
        hdu.header[f"CRVAL{axis}"] = (cell - 1) / 2
        hdu.header[f"CDELT{axis}"] = float(cell)
    if unit:
        hdu.header["BUNIT"] = unit
    return hdu


def table_hdu(name: str, columns: Mapping[str, NDArray[Any]], units: Mapping[str, str] | None = None) -> fits.BinTableHDU:
    """Return columns as the HDU of a table; integers have 32 bits.

    Parameters
    ----------
    columns
        Arrays by name: text, logical values, or numbers, real ones in their precision.
    units
        Units by name; an error, with the suffix ``_err``, has the unit of its quantity.
    """
    known = units or {}
    stored = {key: array.astype(np.int32) if array.dtype.kind == "i" else array for key, array in columns.items()}
    return fits.BinTableHDU.from_columns(
        [
            fits.Column(key, _form_of(array), unit=known.get(key.removesuffix("_err")) or None, array=array)
            for key, array in stored.items()
        ],
        name=name,
    )


def _form_of(array: NDArray[Any]) -> str:
    """Return the format of a column of a FITS table."""
    if array.dtype.kind == "U":
        return f"{max(1, array.dtype.itemsize // 4)}A"
    return {"b1": "L", "u1": "B", "i4": "J", "f4": "E", "f8": "D"}[array.dtype.str[1:]]


def write_hdus(path: str | Path, hdus: Sequence[Any]) -> None:
    """Write HDUs (the first a PrimaryHDU) atomically, with CHECKSUM and DATASUM everywhere and ORIGIN in the primary header.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    # This card identifies a file that may be replaced.
    hdus[0].header[ORIGIN_CARD] = (PROGRAM, "program")
    with atomic_output(path) as temporary:
        fits.HDUList(list(hdus)).writeto(temporary, checksum=True, overwrite=True)


def write_image(
    path: str | Path,
    image: NDArray[Any],
    mask: NDArray[Any],
    variance: NDArray[Any],
    *,
    header: Mapping[str, Any] | fits.Header | None = None,
    image_cards: Mapping[str, Any] | fits.Header | None = None,
    extensions: Sequence[Any] = (),
    planes: Mapping[str, int] | None = None,
) -> None:
    """Write an image product.

    Parameters
    ----------
    image, mask, variance
        Arrays of one shape; stored as float32, int32 and float32.
    header
        Cards of the primary header, added to the provenance.
    image_cards
        Cards of all three image extensions (unit, WCS).
    extensions
        Further HDUs, each with a name.
    planes
        Bits by name of mask planes beyond those of `MaskPlane`.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    hdus = [
        fits.ImageHDU(np.ascontiguousarray(image, dtype=np.float32), name="IMAGE"),
        fits.ImageHDU(np.ascontiguousarray(mask, dtype=np.int32), name="MASK"),
        fits.ImageHDU(np.ascontiguousarray(variance, dtype=np.float32), name="VARIANCE"),
    ]
    for hdu in hdus:
        hdu.header.update(image_cards.copy() if isinstance(image_cards, fits.Header) else dict(image_cards or {}))
    hdus[1].header.pop("BUNIT", None)
    add_mask_cards(hdus[1].header, planes)
    if "BUNIT" in hdus[2].header and hdus[2].header["BUNIT"]:
        hdus[2].header["BUNIT"] = f"({hdus[2].header['BUNIT']})2"
    write_hdus(path, [fits.PrimaryHDU(header=provenance(header)), *hdus, *extensions])


@contextlib.contextmanager
def whole_file(path: str | Path) -> Iterator[None]:
    """Convert astropy's warnings about a damaged file into an error; astropy only warns about a truncated file.

    Raises
    ------
    InputError
        If astropy warned.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", AstropyUserWarning)
        yield
    complaints = [str(entry.message) for entry in caught if issubclass(entry.category, AstropyUserWarning)]
    if complaints:
        # Some have several lines.
        raise InputError(f"damaged ({' '.join(complaints[0].split())})", path=path, remedy="make the file again")


@contextlib.contextmanager
def open_product(path: str | Path, kind: str, *, remedy: str) -> Iterator[fits.HDUList]:
    """Open a FITS product for reading; errors of reading or decoding in the ``with`` block name the file.

    Parameters
    ----------
    kind
        Expected kind of the file, with its article, for the message.
    remedy
        How to make the file again.

    Raises
    ------
    InputError
        If the file is missing, damaged, or lacks requested content.
    """
    try:
        with whole_file(path), fits.open(path, memmap=False) as hdus:
            yield hdus
    except PermilError:
        raise
    except Exception as error:
        raise InputError(f"cannot be read as {kind} ({error})", path=path, remedy=remedy) from error


def is_own_product(header: fits.Header) -> bool:
    """Return whether permil wrote a file, according to its primary header."""
    return header.get(ORIGIN_CARD) == PROGRAM


def file_card(path: str | Path, comment: str) -> tuple[str, str]:
    """Return the name of a file and a comment for one card; the end of a name that is too long for it is cut off."""
    # A card has 80 characters: keyword, two quotes, text and separator leave these for text and comment; quotes in a text are doubled.
    name = Path(path).name
    length = 65 - len(comment)
    while len(name.replace("'", "''")) > length:
        name = name[:-1]
    return name, comment


def has_wrong_sum(hdu: Any) -> bool:
    """Return whether the data of an HDU contradict its card DATASUM. The data must not have been accessed before."""
    try:
        return hdu.verify_datasum() == 0
    except ValueError:
        # The card is not a number and cannot be compared.
        return False


def wrong_sum(path: str | Path, hdus: Sequence[str | int]) -> InputError:
    """Return the error for a product whose data have changed since it was written."""
    return InputError(
        f"damaged: the data of HDU {', '.join(map(str, hdus))} do not match the checksum in the header (DATASUM)",
        path=path,
        remedy="make the file again; if the data were changed on purpose, remove the card DATASUM",
        value=list(hdus),
    )


def check_sums(hdus: fits.HDUList, path: str | Path) -> None:
    """Check the data checksums of a product; the data must not have been accessed before.

    Raises
    ------
    InputError
        If data changed; the message names the HDUs.
    """
    changed = [hdu.name for hdu in hdus if has_wrong_sum(hdu)]
    if changed:
        raise wrong_sum(path, changed)


def read_image(path: str | Path) -> ImageProduct:
    """Read an image product of permil; see `permil.products.read_any_image` for files of other programs.

    Mask planes are identified by their ``MP_`` cards. All data checksums are checked.

    Raises
    ------
    InputError
        If the file is missing, damaged or not an image product.
    """
    try:
        with whole_file(path), fits.open(path, memmap=False) as hdus:
            names = [hdu.name for hdu in hdus]
            check_sums(hdus, path)
            missing = [name for name in ("IMAGE", "MASK", "VARIANCE") if name not in names]
            if missing:
                raise InputError(
                    f"not an image product: extension {', '.join(missing)} is missing",
                    path=path,
                    remedy="give a FITS file with IMAGE, MASK and VARIANCE, as permil writes them",
                )
            if repeated := sorted(name for name in ("IMAGE", "MASK", "VARIANCE") if names.count(name) > 1):
                raise InputError(
                    f"extension {', '.join(repeated)} is duplicated",
                    path=path,
                    remedy="make the file again, or remove all but one",
                    value=repeated,
                )
            # Files are big-endian: this copies.
            image, variance = (np.asarray(hdus[name].data, dtype=np.float32) for name in ("IMAGE", "VARIANCE"))
            mask = translate_mask(hdus["MASK"].data, mask_bits(hdus["MASK"].header, path=path), path=path)
            further = {hdu.name: hdu for hdu in hdus[1:] if hdu.name not in ("IMAGE", "MASK", "VARIANCE")}
            for hdu in further.values():
                # Once its data are read an HDU does not need the file.
                _ = hdu.data
            return ImageProduct(
                image=image,
                mask=mask.mask,
                variance=variance,
                header=hdus[0].header.copy(),
                image_header=hdus["IMAGE"].header.copy(),
                extensions=further,
                planes=mask.planes,
                remarks=mask.remarks,
            )
    except InputError:
        raise
    except (OSError, TypeError, ValueError) as error:
        raise InputError(
            f"cannot be read as FITS ({error})", path=path, remedy="check the path, or make the file again"
        ) from error
