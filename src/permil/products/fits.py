"""Image products: FITS with a primary header of provenance, then IMAGE, MASK and VARIANCE."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyUserWarning
from numpy.typing import NDArray

from permil import __version__
from permil.errors import InputError
from permil.products.atomic import ORIGIN_CARD, PROGRAM, atomic_output
from permil.products.masks import add_mask_cards

FINGERPRINT_CARD = "FINGERPR"


@dataclass(frozen=True)
class ImageProduct:
    """An image with its mask and variance, all ``[row, column]`` of one shape.

    ``extensions`` holds further HDUs by name (tables, small images).
    """

    image: NDArray[np.float32]
    mask: NDArray[np.int32]
    variance: NDArray[np.float32]
    header: fits.Header = field(repr=False)
    image_header: fits.Header = field(repr=False)
    extensions: dict[str, Any] = field(default_factory=dict, repr=False)


def provenance(entries: Mapping[str, Any] | fits.Header | None = None) -> fits.Header:
    """Return a primary header that names the program, its version and the time, then the given cards.

    Values of ``entries`` may be plain or ``(value, comment)``; None and NaN say nothing and get no card.
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


def write_hdus(path: str | Path, hdus: Sequence[Any]) -> None:
    """Write HDUs (the first a PrimaryHDU) atomically, with CHECKSUM and DATASUM everywhere and ORIGIN in the primary header.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    # By this card the file is known as one that may be replaced.
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

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    planes = [
        fits.ImageHDU(np.ascontiguousarray(image, dtype=np.float32), name="IMAGE"),
        fits.ImageHDU(np.ascontiguousarray(mask, dtype=np.int32), name="MASK"),
        fits.ImageHDU(np.ascontiguousarray(variance, dtype=np.float32), name="VARIANCE"),
    ]
    for plane in planes:
        plane.header.update(fits.Header(image_cards) if isinstance(image_cards, fits.Header) else dict(image_cards or {}))
    planes[1].header.pop("BUNIT", None)
    add_mask_cards(planes[1].header)
    if "BUNIT" in planes[2].header and planes[2].header["BUNIT"]:
        planes[2].header["BUNIT"] = f"({planes[2].header['BUNIT']})2"
    write_hdus(path, [fits.PrimaryHDU(header=provenance(header)), *planes, *extensions])


@contextlib.contextmanager
def whole_file(path: str | Path) -> Iterator[None]:
    """Turn astropy's warnings of a damaged file into an error: a file that is cut short only makes it warn.

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
        raise InputError(f"damaged ({complaints[0]})", path=path, remedy="make the file again")


def read_image(path: str | Path) -> ImageProduct:
    """Read an image product.

    Raises
    ------
    InputError
        If the file is missing, damaged or not an image product.
    """
    try:
        with whole_file(path), fits.open(path, memmap=False) as hdus:
            names = [hdu.name for hdu in hdus]
            missing = [name for name in ("IMAGE", "MASK", "VARIANCE") if name not in names]
            if missing:
                raise InputError(
                    f"not an image product: extension {', '.join(missing)} is missing",
                    path=path,
                    remedy="give a FITS file with IMAGE, MASK and VARIANCE, as permil writes them",
                )
            kinds = {"IMAGE": np.float32, "MASK": np.int32, "VARIANCE": np.float32}
            # Files are big-endian: this copies.
            arrays: dict[str, NDArray[Any]] = {name: np.asarray(hdus[name].data, dtype=kind) for name, kind in kinds.items()}
            others = {hdu.name: hdu.copy() for hdu in hdus[1:] if hdu.name not in arrays}
            return ImageProduct(
                image=arrays["IMAGE"],
                mask=arrays["MASK"],
                variance=arrays["VARIANCE"],
                header=hdus[0].header.copy(),
                image_header=hdus["IMAGE"].header.copy(),
                extensions=others,
            )
    except InputError:
        raise
    except (OSError, TypeError, ValueError) as error:
        raise InputError(
            f"cannot be read as FITS ({error})", path=path, remedy="check the path, or make the file again"
        ) from error
