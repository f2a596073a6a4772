"""Read images of any program: identify image, mask and variance, and interpret their values.

Supported are products of permil, exposures and calibrations of the LSST stack (planes by EXTNAME or, in older files, by EXTTYPE), files of
astropy and ccdproc (MASK, UNCERT), of HST and JWST (SCI, ERR, DQ), of ESO (DATA, STAT, QUAL), images with weight maps, and plain images.
A file with several candidate images is refused.
"""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from astropy import units as u
from astropy.io import fits
from astropy.utils.exceptions import AstropyUserWarning
from numpy.typing import NDArray

from permil.arrays import BoolArray, Int32Array, parse_unit
from permil.errors import InputError, PermilError
from permil.products.fits import ImageProduct, has_wrong_sum, is_own_product, wrong_sum
from permil.products.masks import MaskPlane, is_usable, mask_bits, translate_mask
from permil.products.sensor_identity import Sensor, card_of, identify_sensor, sensor_statements, without_label

Role = Literal["image", "mask", "good", "variance", "error", "inverse", "weight", "other", ""]

_ROLES: dict[str, Role] = {
    "IMAGE": "image", "SCI": "image", "DATA": "image", "FLUX": "image",
    "MASK": "mask", "DQ": "mask", "BPM": "mask", "FLAGS": "mask", "FLAG": "mask", "QUAL": "mask", "QUALITY": "mask", "BADPIX": "mask",
    "GOOD": "good", "GOODPIX": "good", "GPM": "good", "VALID": "good",
    "VARIANCE": "variance", "VAR": "variance", "STAT": "variance",
    "ERR": "error", "ERROR": "error", "STDDEV": "error", "STD": "error", "SIGMA": "error", "RMS": "error", "UNCERT": "error",
    "UNCERTAINTY": "error",
    "IVAR": "inverse", "INVVAR": "inverse", "INVERSE_VARIANCE": "inverse",
    "WEIGHT": "weight", "WHT": "weight", "WGT": "weight", "WEIGHTS": "weight",
}  # fmt: skip
_UNCERTAINTIES: dict[str, Role] = {
    "std": "error", "stddevuncertainty": "error", "var": "variance", "varianceuncertainty": "variance", "ivar": "inverse",
    "inversevariance": "inverse",
}  # fmt: skip
_NAMELESS = {"", "PRIMARY", "COMPRESSED_IMAGE"}
_SEGMENT = re.compile(r"(?:SEGMENT|AMP|CHAN(?:NEL)?)[\s_]?\d+|C[01]\d", re.IGNORECASE)
_VARIANCE_ROLES = ("variance", "error", "inverse")
_TRUNCATED = "truncated"


@dataclass(frozen=True)
class _Plane:
    """An HDU with a two-dimensional image."""

    number: int
    hdu: Any
    role: Role
    verdict: bool | None

    @property
    def header(self) -> fits.Header:
        return self.hdu.header

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.hdu.shape[-2:]
        return int(rows), int(columns)

    @property
    def name(self) -> str:
        return str(card_of(self.header, "EXTTYPE" if self.hdu.name in _NAMELESS else "EXTNAME") or "")

    def __str__(self) -> str:
        size = f"{self.shape[0]} x {self.shape[1]}"
        return f"HDU {self.number} ({self.name}, {size})" if self.name else f"HDU {self.number} ({size})"


def read_any_image(
    path: str | Path,
    *,
    sensor: Sensor | None = None,
    shape: tuple[int, int] | None = None,
    planes: Mapping[str, int] | None = None,
    purpose: str = "FITS",
    with_extensions: bool = True,
) -> ImageProduct:
    """Read an image of one detector from a FITS file of any program, or from an array of NumPy (``.npy``).

    Segments of real numbers (calibrations of eotest) are assembled with the camera of the sensor.

    Parameters
    ----------
    sensor, shape
        Expected sensor, and rows and columns of its array: used to choose among several images. The caller must still check that the image
        is of this sensor (`permil.products.check_sensor`).
    planes
        Bits already assigned to mask planes of other programs.
    purpose
        Name of the kind of file in messages.
    with_extensions
        Whether the other extensions of a product of permil are read.

    Returns
    -------
    ImageProduct
        Image as floating-point numbers, NaN where the file has no value (NaN, infinite, BLANK); mask in the planes of `MaskPlane`
        with those of other programs on the bits in ``planes``, NO_DATA where the image is NaN; variance in the square of the
        image unit, 0 everywhere if the file has none, NaN where it is unknown. ``remarks`` describes the interpretation.

    Raises
    ------
    InputError
        If the file cannot be read, has no image or several candidates, is a raw file of segments, or its planes do not belong together.
    """
    path = Path(path)
    with _readable(path, purpose), _opened(path) as hdus:
        found = _planes(hdus, sensor, path)
        segments = [plane for plane in found if _SEGMENT.fullmatch(plane.name) is not None]
        if len(segments) > 1:
            return _assembled(segments, hdus[0].header, sensor, path)
        chosen = _choose_image(found, path, sensor, shape)
        by_version = sum(plane.role == "image" for plane in found) > 1
        others = [plane for plane in found if plane is not chosen and _belongs(plane, chosen, by_version=by_version)]
        _check_owners(found, chosen, path)
        for plane in others:
            if plane.role in ("mask", "good", "weight", *_VARIANCE_ROLES) and plane.shape != chosen.shape:
                raise InputError(
                    f"{plane} does not have the shape of the image, {chosen}", path=path, remedy="give planes of one shape"
                )
        remarks = _sum_remarks(hdus, path, [chosen, *others], is_own=is_own_product(hdus[0].header))
        image = _image(chosen)
        bits = _Masks(image, dict(planes or {}), hdus[0].header, path)
        used = bits.add(others, chosen)
        own = hdus[1:] if with_extensions and is_own_product(hdus[0].header) else []
        variance, sources, on_variance = _variance(others, chosen, bits.mask, path)
        used += [plane for plane in sources if plane not in used]
        if used and [plane.name for plane in (chosen, *used)] != ["IMAGE", "MASK", "VARIANCE"]:
            remarks.append(f"read {chosen} with {', '.join(map(str, used))}")
        return ImageProduct(
            image=image,
            mask=bits.mask,
            variance=variance,
            header=hdus[0].header.copy(),
            image_header=chosen.header.copy(),
            extensions={hdu.name: hdu.copy() for hdu in own if hdu.name not in ("IMAGE", "MASK", "VARIANCE")},
            planes=bits.planes,
            remarks=(*remarks, *bits.remarks, *on_variance),
        )


def read_headers(path: str | Path) -> list[fits.Header]:
    """Return the headers of all HDUs of a FITS file; no data are read.

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    with _readable(Path(path), "FITS"), fits.open(path, memmap=False) as hdus:
        return [hdu.header.copy() for hdu in hdus]


@contextlib.contextmanager
def _readable(path: Path, purpose: str) -> Iterator[None]:
    """Convert exceptions of a foreign reader into InputError, and ignore harmless warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield
        except (PermilError, NameError, AssertionError):
            raise
        except MemoryError as error:
            raise InputError("there is not enough memory for this file", path=path, remedy="check its NAXIS cards") from error
        except Exception as error:
            what = str(error).strip().splitlines()
            raise InputError(
                f"cannot be read as {purpose} ({what[0] if what else type(error).__name__})",
                path=path,
                remedy="check the path, or make the file again",
            ) from error
    cut = [str(entry.message) for entry in caught if issubclass(entry.category, AstropyUserWarning)]
    if complaint := next((text for text in cut if _TRUNCATED in text), ""):
        raise InputError(f"damaged ({complaint})", path=path, remedy="make the file again")


def _opened(path: Path) -> fits.HDUList:
    """Open a FITS file, or an array of NumPy as one of an image without cards."""
    if path.suffix.lower() != ".npy":
        return fits.open(path, memmap=False, do_not_scale_image_data=True)
    values = np.load(path, allow_pickle=False)
    if values.ndim != 2 or values.dtype.kind not in "fiu":
        raise InputError(
            f"an array of type {values.dtype} with {values.ndim} axes is not an image",
            path=path,
            remedy="give an array of real numbers with two axes",
            value=values.shape,
        )
    return fits.HDUList([fits.PrimaryHDU(values.astype(np.float32 if values.dtype.itemsize <= 2 else np.float64))])


def _assembled(segments: Sequence[_Plane], primary: fits.Header, sensor: Sensor | None, path: Path) -> ImageProduct:
    """Assemble the segments of a calibration (eotest): real numbers, with or without overscans."""
    if any(plane.hdu.header["BITPIX"] > 0 for plane in segments):
        raise InputError("this is a raw file of segments", path=path, remedy="assemble it first (permil assemble)")
    sensor = sensor or identify_sensor(primary, path=path)
    detector = None if sensor is None else sensor.detector
    if detector is None:
        raise InputError(
            "the sensor of the segments is unknown",
            path=path,
            remedy="name it (--detector R22_S11) for a calibration, or assemble a raw file (permil assemble)",
            value=len(segments),
        )
    image = np.full(detector.shape, np.nan)
    names = {
        name.lower(): entry for entry in detector.amplifiers for name in (entry.name, entry.extname, f"amp{entry.number:02d}")
    }
    taken = set()
    for plane in segments:
        amplifier = names.get(plane.name.replace(" ", "").replace("_", "").lower())
        if amplifier is None or amplifier.name in taken:
            raise InputError(
                f"{plane} is not a segment of {detector.name}, or is duplicated",
                path=path,
                remedy="check the sensor and the file",
            )
        taken.add(amplifier.name)
        if plane.shape == (amplifier.ny_raw, amplifier.nx_raw):
            values = _image(plane)[amplifier.data_slices]
        elif plane.shape == (amplifier.ny, amplifier.nx):
            values = _image(plane)
        else:
            raise InputError(
                f"{plane} does not have the {amplifier.ny} x {amplifier.nx} pixels of {amplifier.name}, nor with its overscans",
                path=path,
                remedy="name the camera with this geometry (--camera)",
                value=plane.shape,
            )
        image[amplifier.slices] = values[:: -1 if amplifier.flip_y else 1, :: -1 if amplifier.flip_x else 1]
    mask = np.where(np.isnan(image), np.int32(MaskPlane.NO_DATA), np.int32(0))
    return ImageProduct(
        image=image,
        mask=mask,
        variance=np.zeros(image.shape, dtype=np.float32),
        header=primary.copy(),
        image_header=fits.Header(),
        extensions={},
        planes={},
        remarks=(f"assembled from {len(segments)} segments",),
    )


def _planes(hdus: fits.HDUList, sensor: Sensor | None, path: Path) -> list[_Plane]:
    camera = None if sensor is None else sensor.camera
    found = []
    for number, hdu in enumerate(hdus):
        size = getattr(hdu, "shape", ()) if hdu.is_image else ()
        if len(size) < 2 or min(size) == 0:
            continue
        if any(length != 1 for length in size[:-2]):
            if _role(hdu, sensor) not in ("other", ""):
                raise InputError(
                    f"HDU {number} ({hdu.name}) has {len(size)} axes ({' x '.join(map(str, size))})",
                    path=path,
                    remedy="give planes of two axes",
                    value=size,
                )
            continue
        verdict = None if sensor is None else sensor.verdict(sensor_statements(hdu.header, camera=camera))
        if isinstance(hdu, fits.PrimaryHDU) and verdict:
            # The primary header applies to the whole file.
            verdict = None
        found.append(_Plane(number, hdu, _role(hdu, sensor), verdict))
    return found


def _role(hdu: Any, sensor: Sensor | None) -> Role:
    """Return the role of an HDU according to its name; "" for an image without a name."""
    name = str(card_of(hdu.header, "EXTNAME") or "")
    kind = str(card_of(hdu.header, "EXTTYPE") or "")
    if name.upper() in _NAMELESS or (kind.upper() in _ROLES and without_label(name).upper() not in _ROLES):
        name = kind
    rest = without_label(name).upper()
    if rest in _NAMELESS:
        integers = int(card_of(hdu.header, "BITPIX") or 0) > 0 and not isinstance(hdu, fits.PrimaryHDU)
        if integers and any(str(card.keyword).upper().startswith("MP_") for card in hdu.header.cards):
            return "mask"
        # An extension named only after a detector is an image.
        return "image" if name.upper() not in _NAMELESS else ""
    if rest == "UNCERT":
        return _UNCERTAINTIES.get(str(card_of(hdu.header, "UTYPE") or "std").lower(), "other")
    if rest in _ROLES:
        return _ROLES[rest]
    known = sensor is not None and sensor.camera is not None and sensor.camera.find(name) is not None
    return "image" if known else "other"


def _choose_image(found: Sequence[_Plane], path: Path, sensor: Sensor | None, shape: tuple[int, int] | None) -> _Plane:
    """Return the single candidate for the image."""
    candidates = next((some for role in ("image", "", "other") if (some := [plane for plane in found if plane.role == role])), [])
    if not candidates:
        there = f" ({', '.join(map(str, found))} is not an image)" if found else ""
        raise InputError(f"there is no image in this file{there}", path=path, remedy="give an assembled image (permil assemble)")
    for verdict in (True, None, False):
        some = [plane for plane in candidates if plane.verdict is verdict]
        if len(some) > 1 and any(not plane.role for plane in some):
            # Unnamed images can only be chosen by size: a preview does not have the size of the sensor.
            some = [plane for plane in some if plane.shape == shape] or some
        if len(some) == 1:
            return some[0]
        if some:
            other = f"the file has no image of {sensor}" if verdict is False else "the image is ambiguous"
            raise InputError(
                f"{other}: {', '.join(map(str, some))}",
                path=path,
                remedy="give a file with one image, or name the extensions IMAGE, MASK and VARIANCE",
                value=[plane.number for plane in some],
            )
    raise AssertionError


def _belongs(plane: _Plane, image: _Plane, *, by_version: bool) -> bool:
    """Return whether a plane may belong to the image: not of another sensor, nor of another EXTVER."""
    if plane.verdict not in (None, image.verdict):
        return False
    versions = {card_of(entry.header, "EXTVER") or 1 for entry in (plane, image)}
    return not by_version or len(versions) == 1


def _check_owners(found: Sequence[_Plane], image: _Plane, path: Path) -> None:
    """Check that every plane of another sensor belongs to another image of the file."""
    strangers = [plane for plane in found if plane.verdict is False and image.verdict is not False]
    if strangers and not any(plane.role in ("image", "") for plane in strangers):
        named = next((plane for plane in strangers if plane.role != "other"), None)
        if named is not None:
            raise InputError(
                f"{named} is of another sensor than {image}",
                path=path,
                remedy="give planes that belong together",
                value=named.number,
            )


def _values(plane: _Plane) -> tuple[NDArray[Any], BoolArray]:
    """Return the values of a plane in native byte order, and a mask of missing values.

    Integers, also unsigned ones, stay integers if the scale is 1; values equal to BLANK are missing.
    """
    scale, zero = (float(card_of(plane.header, card) or default) for card, default in (("BSCALE", 1), ("BZERO", 0)))
    blank = card_of(plane.header, "BLANK")
    raw = np.asarray(plane.hdu.data).reshape(plane.shape)
    raw = raw.astype(raw.dtype.newbyteorder("="))
    is_integer = raw.dtype.kind in "iu"
    lost = raw == int(blank) if is_integer and isinstance(blank, int | float) and blank == int(blank) else ~np.isfinite(raw)
    if scale == 1 and zero == 0:
        return raw, lost
    if scale == 1 and is_integer and zero == int(zero):
        bits = 8 * raw.dtype.itemsize
        if raw.dtype.kind == "i" and zero == 2.0 ** (bits - 1):
            unsigned = raw.view(f"u{raw.dtype.itemsize}")
            return unsigned ^ unsigned.dtype.type(1 << (bits - 1)), lost
        return raw.astype(np.int64) + int(zero), lost
    return raw * scale + zero, lost


def _image(plane: _Plane) -> NDArray[np.floating]:
    values, lost = _values(plane)
    image = values if values.dtype.kind == "f" else values.astype(np.float64)
    image[lost | ~np.isfinite(image)] = np.nan
    return image


class _Masks:
    """The mask of an image, combined from all mask and weight planes of a file."""

    def __init__(self, image: NDArray[np.floating], planes: dict[str, int], primary: fits.Header, path: Path) -> None:
        self.mask = np.where(np.isnan(image), np.int32(MaskPlane.NO_DATA), np.int32(0))
        self.planes = planes
        self.remarks: list[str] = []
        self._primary, self._path = primary, path

    def add(self, planes: Sequence[_Plane], image: _Plane) -> list[_Plane]:
        """Add masks and weights; return the planes used."""
        used = []
        for plane in planes:
            if plane.role == "mask":
                self._add_mask(plane, image)
            elif plane.role == "good":
                values, lost = _values(plane)
                self._mark(lost, MaskPlane.NO_DATA)
                self._mark(~lost & (values == 0), MaskPlane.BAD)
                self.remarks.append(f"{plane} marks good pixels; all others are set to BAD")
            elif plane.role in ("weight", "inverse"):
                values, lost = _values(plane)
                self._mark(lost | ~(values > 0), MaskPlane.NO_DATA)
            else:
                continue
            used.append(plane)
        # Named planes may be distributed over several masks.
        nameless = [plane.name.upper() for plane in used if plane.role == "mask" and not mask_bits(plane.header)]
        if len(set(nameless)) < len(nameless):
            raise InputError(
                f"the mask is ambiguous: {', '.join(map(str, used))}",
                path=self._path,
                remedy="give a file with one of them",
            )
        return used

    def _add_mask(self, plane: _Plane, image: _Plane) -> None:
        values, lost = _values(plane)
        bits = mask_bits(plane.header, image.header, self._primary, path=self._path)
        if values.dtype.kind in "iu" and lost.any():
            values = np.where(lost, values.dtype.type(0), values)
        translated = translate_mask(values, bits, planes=self.planes, path=self._path)
        self.mask |= translated.mask
        self._mark(lost, MaskPlane.NO_DATA)
        self.planes = translated.planes
        self.remarks += translated.remarks

    def _mark(self, where: BoolArray, plane: MaskPlane) -> None:
        self.mask[where] |= np.int32(plane)


def _variance(
    planes: Sequence[_Plane], image: _Plane, mask: Int32Array, path: Path
) -> tuple[NDArray[np.floating], list[_Plane], tuple[str, ...]]:
    """Return the variance of an image (0 if the file has none), the planes used, and remarks."""
    none = np.zeros(image.shape, dtype=np.float32)
    candidates = next((some for role in _VARIANCE_ROLES if (some := [plane for plane in planes if plane.role == role])), [])
    if len(candidates) > 1:
        raise InputError(
            f"the variance is ambiguous: {', '.join(map(str, candidates))}",
            path=path,
            remedy="give a file with one of them",
        )
    if not candidates:
        weights = [plane for plane in planes if plane.role == "weight"]
        return none, [], (f"{weights[0]} has no absolute scale and is not used as a variance",) if weights else ()
    plane = candidates[0]
    factor = _unit_factor(plane, image)
    if factor is None:
        units = [card_of(entry.header, "BUNIT") for entry in (plane, image)]
        return none, [], (f"{plane} has the unit {units[0]!r}, the image {units[1]!r}: its variance is not used",)
    variance = _image(plane)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        if plane.role == "error":
            variance = np.where(variance > 0, np.square(variance, dtype=np.float64), np.nan)
        elif plane.role == "inverse":
            variance = 1 / variance.astype(np.float64)
    variance, remarks = known_variance(variance if factor == 1 else variance * factor, mask)
    return variance, [plane], remarks


def known_variance(variance: NDArray[np.floating], mask: NDArray[np.integer]) -> tuple[NDArray[np.floating], tuple[str, ...]]:
    """Return a variance that is NaN where unknown, or 0 everywhere if unknown for all pixels; and remarks.

    A variance that is not finite or not positive is unknown.
    """
    known = np.isfinite(variance) & (variance > 0)
    if not known.any():
        return np.zeros(variance.shape, dtype=variance.dtype), ()
    unknown = int(np.count_nonzero(~known & is_usable(mask)))
    remarks = (f"the variance of {unknown} usable pixels is unknown",) if unknown else ()
    return np.where(known, variance, np.nan).astype(variance.dtype), remarks


def _unit_factor(plane: _Plane, image: _Plane) -> float | None:
    """Return the factor that converts a variance or error to the unit of the image; None if units are incompatible."""
    declared, of_image = (card_of(entry.header, "BUNIT") for entry in (plane, image))
    # Some programs copy the cards of the image to all planes.
    if not declared or not of_image or declared == of_image:
        return 1.0
    power = {"variance": 2, "error": 1, "inverse": -2}[plane.role]
    try:
        own, wanted = parse_unit(str(declared)), parse_unit(str(of_image))
        ratio = u.Quantity(1, own).to_value((wanted or u.dimensionless_unscaled) ** power)
    except (PermilError, u.UnitConversionError, TypeError, ValueError):
        return None
    return float(1 / ratio if plane.role == "inverse" else ratio**2 if plane.role == "error" else ratio)


def _sum_remarks(hdus: fits.HDUList, path: Path, planes: Sequence[_Plane], *, is_own: bool) -> list[str]:
    """Check data checksums: a changed product of permil is an error, a changed file of another program gives a remark."""
    numbers = {plane.number for plane in planes if plane.role != "other"}
    if path.suffix.lower() == ".npy":
        return []
    with contextlib.ExitStack() as opened:
        if any(isinstance(hdu, fits.CompImageHDU) for hdu in hdus):
            # The sums are those of the compressed data.
            hdus = opened.enter_context(fits.open(path, memmap=False, disable_image_compression=True))
        changed = [number for number, hdu in enumerate(hdus) if number in numbers and has_wrong_sum(hdu)]
    if changed and is_own:
        raise wrong_sum(path, changed)
    return [f"the data of HDU {', '.join(map(str, changed))} do not match DATASUM: they were changed"] if changed else []
