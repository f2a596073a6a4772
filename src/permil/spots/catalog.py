"""Catalog of measured sources of one exposure on one detector: columns, metadata from headers and names, missing values, FITS file.

`permil.spots.readers` reads such files.

Cards are read with `permil.exposures.cards`: unusable values count as missing and are listed.

Names of the spot measurements of 2019 have the form
``MC_C_20191030_000363_R22_S11_15.0s_0.1x_-3.5y_processed_grid.fits``; detectors are also written ``R22-S11`` or ``r22_s11``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import IntFlag
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.time import Time
from numpy.typing import ArrayLike

from permil.arrays import BoolArray, FloatArray, IntArray, parse_unit, plain_array, plain_rows
from permil.camera import detector_key
from permil.errors import InputError
from permil.exposures import LEDS
from permil.exposures.cards import Cards
from permil.exposures.file_names import parse_file_name
from permil.products import provenance, table_hdu, write_hdus
from permil.spots.apertures import GrowthCurve

QUANTITIES = ("x", "y", "xx", "yy", "xy", "flux")
"""Measured quantities of each source; each has a column of errors with the suffix ``_err``."""

FLUX_UNITS = ("electron", "count")
_UNITS = {"x": "pixel", "y": "pixel", "xx": "pixel2", "yy": "pixel2", "xy": "pixel2"}
METADATA = (
    "detector", "exposure", "exposure_time", "projector_x", "projector_y", "band", "mjd", "aperture", "flux_unit", "serial", "remarks"
)  # fmt: skip
"""Fields of `SpotCatalog` that apply to the whole exposure."""


class SpotFlag(IntFlag):
    """Defects of a measured source."""

    BLEND = 1
    """Shares light with a neighbour."""
    EDGE = 2
    """Its aperture extends beyond the detector."""
    SATURATED = 4
    """Has saturated pixels."""
    MASKED = 8
    """Its aperture contains bad pixels or pixels without data."""
    AMP_BOUNDARY = 16
    """Its aperture crosses the border of two amplifiers, so that both gains contribute."""
    MIDLINE = 32
    """Its aperture touches the line between the two halves of the detector."""
    BAD_FIT = 64
    """The measurement of position, moments or flux failed, or the program that wrote the catalog set a flag."""


BAD_FLAGS = SpotFlag.BLEND | SpotFlag.EDGE | SpotFlag.SATURATED | SpotFlag.MASKED | SpotFlag.BAD_FIT
"""Flags of sources excluded from calibration and maps. AMP_BOUNDARY and MIDLINE are informative: the measurement is valid."""


def flux_unit_of(label: str) -> str:
    """Return the unit in `FLUX_UNITS` with a name in any spelling (``e-``, ``adu``, ``DN``); "" for an empty label.

    Raises
    ------
    InputError
        If it is another unit.
    """
    try:
        unit = parse_unit(label)
        if unit is None:
            return ""
        return next(name for name in FLUX_UNITS if unit == parse_unit(name))
    except (InputError, StopIteration) as error:
        raise InputError(
            f"fluxes are given in {label}", remedy="give them in electron or adu: other units cannot be converted", value=label
        ) from error


def _absent() -> Any:
    return np.zeros(0)


@dataclass(frozen=True)
class SpotCatalog:
    """Measured sources of one exposure on one detector; all arrays have shape (n,).

    Arrays not given are filled: NaN for measurements and errors, 0 for flags, -1 for labels. Masks, units and byte order are respected (see
    `permil.arrays.plain_array`): masked measurements are NaN, quantities in other units are converted.

    Attributes
    ----------
    x, y
        Centroid in the DM pixel frame of the detector (0-based, pixel centres at integers), pixels.
    xx, yy, xy
        Second moments of the light, pixel^2 (including the extent of the pixel).
    flux
        Flux in ``flux_unit``.
    x_err, y_err, xx_err, yy_err, xy_err, flux_err
        Standard errors; NaN where unknown.
    background
        Subtracted background under the source, ``flux_unit`` per pixel; NaN where unknown.
    flags
        Bits of `SpotFlag`.
    grid_i, grid_j
        Column and row in the grid of the mask; -1 for a source without a label.
    detector
        Name, for example ``R22_S11``; empty if unknown.
    exposure
        Name of the exposure, for example ``MC_C_20191030_000363``; empty if unknown.
    exposure_time
        Seconds; NaN if unknown.
    projector_x, projector_y
        Position of the projector, mm; NaN if unknown.
    band
        Filter or LED; empty if unknown.
    mjd
        Modified Julian date; NaN if unknown.
    aperture
        Radius of the flux aperture, pixels; NaN if unknown or not circular.
    flux_unit
        ``electron`` or ``count``; other spellings (``e-``, ``adu``) are accepted.
    serial
        Serial number of the sensor; empty if unknown.
    remarks
        Inconsistencies of the catalog, as clauses.

    Examples
    --------
    >>> import permil
    >>> permil.SpotCatalog([10.0, 20.0], [5.0, 5.0], flux=[1e4, 2e4], detector="R22_S11").good.tolist()
    [True, True]
    """

    x: FloatArray
    y: FloatArray
    xx: FloatArray = field(default_factory=_absent)
    yy: FloatArray = field(default_factory=_absent)
    xy: FloatArray = field(default_factory=_absent)
    flux: FloatArray = field(default_factory=_absent)
    x_err: FloatArray = field(default_factory=_absent)
    y_err: FloatArray = field(default_factory=_absent)
    xx_err: FloatArray = field(default_factory=_absent)
    yy_err: FloatArray = field(default_factory=_absent)
    xy_err: FloatArray = field(default_factory=_absent)
    flux_err: FloatArray = field(default_factory=_absent)
    background: FloatArray = field(default_factory=_absent)
    flags: IntArray = field(default_factory=_absent)
    grid_i: IntArray = field(default_factory=_absent)
    grid_j: IntArray = field(default_factory=_absent)
    detector: str = ""
    exposure: str = ""
    exposure_time: float = np.nan
    projector_x: float = np.nan
    projector_y: float = np.nan
    band: str = ""
    mjd: float = np.nan
    aperture: float = np.nan
    flux_unit: str = "electron"
    serial: str = ""
    remarks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Fill missing arrays, and check that all have the same length.

        Raises
        ------
        InputError
            If arrays differ in length, are not numbers, or have a unit that cannot be converted; if flags or labels are not integers.
        """
        object.__setattr__(self, "flux_unit", flux_unit_of(self.flux_unit) or "electron")
        flux_unit = "adu" if self.flux_unit == "count" else self.flux_unit
        for quantity in QUANTITIES:
            self._fill(quantity, _UNITS.get(quantity, flux_unit))
            self._fill(f"{quantity}_err", _UNITS.get(quantity, flux_unit))
        self._fill("background", f"{flux_unit} / pixel")
        for name, absent in (("flags", 0), ("grid_i", -1), ("grid_j", -1)):
            self._fill_whole(name, absent)

    def _fill(self, name: str, unit: str) -> None:
        given = plain_array(getattr(self, name), name=f"column {name} of a spot catalog", unit=unit)
        length = np.size(self.x)
        if given.size == 0 and length:
            given = np.full(length, np.nan)
        if given.shape != (length,):
            raise InputError(
                f"column {name} of a spot catalog has shape {given.shape}",
                remedy=f"give one value per source: shape ({length},)",
                value=given.shape,
            )
        object.__setattr__(self, name, given)

    def _fill_whole(self, name: str, absent: int) -> None:
        self._fill(name, "")
        given = getattr(self, name)
        whole = np.where(np.isnan(given), absent, np.rint(given))
        if (np.isfinite(given) & (given != whole)).any() or np.isinf(given).any():
            raise InputError(f"column {name} of a spot catalog has values that are not integers", remedy="give integers")
        object.__setattr__(self, name, whole.astype(np.int64))

    def __len__(self) -> int:
        """Return the number of sources."""
        return len(self.x)

    @property
    def good(self) -> BoolArray:
        """Mask of sources with finite position and flux and none of `BAD_FLAGS`."""
        return np.isfinite(self.x) & np.isfinite(self.y) & np.isfinite(self.flux) & ((self.flags & int(BAD_FLAGS)) == 0)

    @property
    def labelled(self) -> BoolArray:
        """Mask of sources with a label."""
        return (self.grid_i >= 0) & (self.grid_j >= 0)

    def select(self, rows: ArrayLike) -> SpotCatalog:
        """Return the catalog of some rows.

        Parameters
        ----------
        rows : array_like of bool, shape (n,); or of int
            Flags, of which masked ones do not count, or indices.

        Raises
        ------
        InputError
            If they are neither.
        """
        rows = plain_rows(rows, name="rows", count=len(self))
        return replace(
            self, **{entry.name: getattr(self, entry.name)[rows] for entry in fields(self) if entry.name not in METADATA}
        )

    def with_labels(self, grid_i: ArrayLike, grid_j: ArrayLike) -> SpotCatalog:
        """Return the same sources with labels."""
        return replace(self, grid_i=grid_i, grid_j=grid_j)  # type: ignore[arg-type]


def catalog_hdu(catalog: SpotCatalog) -> fits.BinTableHDU:
    """Return the table ``SPOTS`` of a catalog; its header names the bits of the flags (``FL_*``: bit number)."""
    measured = [name for quantity in QUANTITIES for name in (quantity, f"{quantity}_err")]
    columns = {name: getattr(catalog, name) for name in (*measured, "background", "flags", "grid_i", "grid_j")}
    hdu = table_hdu("SPOTS", columns, {**_UNITS, "flux": catalog.flux_unit, "background": f"{catalog.flux_unit} pixel-1"})
    for flag in SpotFlag:
        hdu.header[f"FL_{flag.name}"[:8]] = (flag.value.bit_length() - 1, f"bit of flag {flag.name}")
    return hdu


def catalog_cards(catalog: SpotCatalog) -> dict[str, Any]:
    """Return the cards that apply to the whole exposure."""
    return {
        "DETECTOR": (catalog.detector or None, "detector"),
        "EXPOSURE": (catalog.exposure or None, "exposure"),
        "EXPTIME": (catalog.exposure_time, "[s] exposure time"),
        "PROJX": (catalog.projector_x, "[mm] projector X"),
        "PROJY": (catalog.projector_y, "[mm] projector Y"),
        "BAND": (catalog.band or None, "filter or LED"),
        "MJD": (catalog.mjd, "[d] modified Julian date"),
        "LSST_NUM": (catalog.serial or None, "serial number of the sensor"),
        "APERTURE": (catalog.aperture, "[pixel] radius of the flux aperture"),
        "FLUXUNIT": (catalog.flux_unit, "unit of flux"),
        "PIXFRAME": ("DM", "pixel frame: x = column, y = row, 0-based"),
    }


def growth_hdu(growth: GrowthCurve) -> fits.BinTableHDU:
    """Return a growth curve as a table."""
    columns = {"radius": growth.radii, "fraction": growth.fraction, "error": growth.error}
    hdu = table_hdu("GROWTH", columns, {"radius": "pixel"})
    hdu.header["REFRAD"] = (growth.reference, "[pix] radius at which the fraction is 1")
    hdu.header["NSPOTS"] = (growth.spots, "spots in the median")
    return hdu


def write_catalog(
    path: str | Path, catalog: SpotCatalog, *, header: Mapping[str, Any] | None = None, extensions: Sequence[Any] = ()
) -> None:
    """Write a catalog with its metadata, further cards and further HDUs.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    primary = fits.PrimaryHDU(header=provenance(catalog_cards(catalog) | dict(header or {})))
    write_hdus(path, [primary, catalog_hdu(catalog), *extensions])


_EXPOSURE = re.compile(r"[A-Z]{2}_[A-Z]_\d{8}_\d{6}")
_DETECTOR = re.compile(r"(?<![A-Z])(R\d\d)[_-]?(S[\dGW]\d)(?!\d)", re.IGNORECASE)
_NUMBER = r"([-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)"
_CONDITIONS = re.compile(rf"_{_NUMBER}s_{_NUMBER}x_{_NUMBER}y(?:_|\.|$)")

_NOTHING = frozenset({"", "none", "empty", "null", "undefined", "undef", "unknown", "n/a", "na", "nan", "-"})
_ISO_DATE = re.compile(r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d*)?)?Z?)?")
# Exposures take less than a day, projectors move by less than a metre; modified Julian dates of this and the last century.
_LONGEST_S, _FARTHEST_MM = 86400.0, 1000.0
_FIRST_MJD, _LAST_MJD = 15000.0, 120000.0


def exposure_key(name: str) -> str:
    """Normalise the name of an exposure: the number ``3019103000363`` is ``MC_C_20191030_000363``."""
    numbered = parse_file_name(f"{name}-R22-S11-det094.fits") if name.isdigit() else None
    return numbered.obsid if numbered else name


@dataclass(frozen=True)
class NameFacts:
    """Information in a file name; empty or NaN if absent."""

    exposure: str
    detector: str
    exposure_time: float
    projector_x: float
    projector_y: float


def facts_of_name(path: str | Path) -> NameFacts:
    """Parse a file name."""
    name = Path(path).name
    exposure, detector, conditions = _EXPOSURE.search(name), _DETECTOR.search(name), _CONDITIONS.search(name)
    seconds, x, y = (float(entry) for entry in conditions.groups()) if conditions else (np.nan,) * 3
    return NameFacts(
        exposure=exposure.group() if exposure else "",
        detector="_".join(detector.groups()).upper() if detector else "",
        exposure_time=seconds,
        projector_x=x,
        projector_y=y,
    )


@dataclass(frozen=True)
class CatalogHeader:
    """The cards of a catalog, from the primary header and from the table header, which some programs use.

    Attributes
    ----------
    primary, table
        The headers.
    further
        Clauses about impossible values.
    """

    primary: Cards
    table: Cards
    further: list[str] = field(default_factory=list)

    def text(self, *names: str) -> str:
        """Return the first text among some cards in either header, "" if there is none or it marks a missing value."""
        for name in names:
            for cards in (self.primary, self.table):
                text = cards.text(name)
                if text.lower() not in _NOTHING:
                    return text
        return ""

    def number(self, *names: str, unit: str | None = None) -> float:
        """Return the first number among some cards in either header, NaN if there is none."""
        found = (cards.number(name, unit=unit) for name in names for cards in (self.primary, self.table))
        return next((number for number in found if number == number), float("nan"))

    def number_between(self, low: float, high: float, *names: str, unit: str | None = None) -> float:
        """Return the first number among some cards; outside an open interval, NaN with a clause in `problems`."""
        number = self.number(*names, unit=unit)
        if number == number and not low < number < high:
            self.further.append(f"card {names[0]} has an impossible value ({number:g})")
            return float("nan")
        return number

    def problems(self) -> list[str]:
        """Return clauses about faults of the requested cards."""
        known = [*self.primary.problems.values(), *self.table.problems.values(), *self.further]
        return [f"{clause}: not used" for clause in dict.fromkeys(known)]


def catalog_facts(header: CatalogHeader, path: Path, *, name: str = "") -> dict[str, Any]:
    """Return the metadata of a `SpotCatalog` by field.

    Parameters
    ----------
    header, path
        Headers and path of the catalog.
    name
        Name of the exposure if neither header nor file name contains it; empty: the file name without suffix.

    Raises
    ------
    InputError
        If the headers or the file name contradict each other about detector or exposure.
    """
    in_name = facts_of_name(path)
    serial, slot = header.text("LSST_NUM"), "_".join(filter(None, (header.text("RAFTBAY"), header.text("CCDSLOT"))))
    _require_one(path, "detector", [*_texts(header, "DETECTOR"), slot, in_name.detector], detector_key)
    exposures = [*_texts(header, "EXPOSURE", "OBSID"), in_name.exposure]
    # Only identifiers of the camera's controller are comparable; other names may denote the same exposure.
    _require_one(path, "exposure", [entry for entry in exposures if facts_of_name(entry).exposure == entry], str)
    band = header.text("BAND", "FILTER")
    return {
        "detector": header.text("DETECTOR") or slot or in_name.detector or serial,
        "serial": serial,
        "exposure": header.text("EXPOSURE", "OBSID") or in_name.exposure or name or stem_of(path),
        "exposure_time": _or(header.number_between(-1e-9, _LONGEST_S, "EXPTIME", unit="s"), in_name.exposure_time),
        "projector_x": _or(
            header.number_between(-_FARTHEST_MM, _FARTHEST_MM, "PROJX", "BOTXCAM", unit="mm"), in_name.projector_x
        ),
        "projector_y": _or(
            header.number_between(-_FARTHEST_MM, _FARTHEST_MM, "PROJY", "BOTYCAM", unit="mm"), in_name.projector_y
        ),
        "band": band.lower() if band.lower() in LEDS else band,
        "mjd": _date(header),
        "aperture": header.number_between(0.0, 1e4, "APERTURE", unit="pixel"),
    }


def _texts(header: CatalogHeader, *names: str) -> list[str]:
    return [cards.text(name) for name in names for cards in (header.primary, header.table)]


def _require_one(path: Path, what: str, statements: list[str], key: Any) -> None:
    stated = {key(text): text for text in reversed(statements) if text.lower() not in _NOTHING}
    # A number or serial number may denote the same detector as a name, which only the camera can decide.
    comparable = {entry: text for entry, text in stated.items() if facts_of_name(text).detector} if what == "detector" else stated
    if len(comparable) > 1:
        first, second = list(comparable.values())[:2]
        raise InputError(
            f"header and file name contradict each other: {what} {second} and {first}",
            path=path,
            remedy="correct the wrong one",
            value=first,
            other=second,
        )


def _date(header: CatalogHeader) -> float:
    """Return the modified Julian date; a calendar date is converted."""
    for name in ("MJD", "MJD-OBS"):
        text = header.text(name)
        if _ISO_DATE.fullmatch(text):
            try:
                return float(Time(text.removesuffix("Z").replace(" ", "T")).mjd)
            except ValueError:
                header.further.append(f"card {name} is not a date ({text!r})")
        else:
            number = header.number_between(_FIRST_MJD, _LAST_MJD, name, unit="d")
            if number == number:
                return number
    return float("nan")


def _or(number: float, otherwise: float) -> float:
    return number if number == number else otherwise


def stem_of(path: Path) -> str:
    """Return the name of a file without the suffixes of its format and compression."""
    name = path.name
    for suffix in (".gz", ".fz", ".bz2", ".xz"):
        name = name.removesuffix(suffix)
    return Path(name).stem


# Values that programs write for missing measurements. They are ambiguous individually: see `drop_nulls`.
_NEGATIVE = (-99.0, -99.9, -999.0, -9999.0, -99999.0, -999999.0, -32768.0, -2147483648.0)
_OTHER = (-1.0, 0.0, 99.0, 99.9, 999.0, 9999.0, 99999.0, 999999.0, 32767.0, 2147483647.0)
# Larger than any sensor (pixels) or flux.
_FAR, _BRIGHT = 1e6, 1e15
# Single precision rounds markers.
_ROUNDING = 1e-6


def drop_nulls(values: dict[str, FloatArray], columns: dict[str, str]) -> list[str]:
    """Replace unambiguous markers of missing values by NaN; return clauses that describe the changes.

    Markers are: a position, moment or flux of enormous size; a negative marker (-99, -999, -9999 ...) as a position or moment, or as a flux
    that occurs twice or has such an error; the same marker (also -1, 0, 99 ...) in both coordinates, in both moments, or in a flux and its
    error, unless all values are integers. Errors that are enormous or not positive are also removed.

    Parameters
    ----------
    values
        Arrays by quantity (``x``, ``y``, ``xx``, ``yy``, ``xy``, ``flux``), and their errors; changed in place.
    columns
        Names of the columns, for the clauses.
    """
    x, y, xx, yy, xy = (values[name] for name in ("x", "y", "xx", "yy", "xy"))
    flux, flux_err = values["flux"], values["flux_err"]
    found: dict[str, BoolArray] = {}
    # If one coordinate is a marker, neither is a measurement.
    nowhere = _impossible(x) | _impossible(y) | _same_marker(x, y)
    found["x"], found["y"] = nowhere & np.isfinite(x), nowhere & np.isfinite(y)
    shapeless = _same_marker(xx, yy)
    for name in ("xx", "yy"):
        found[name] = _impossible(values[name]) | _is_one_of(values[name], (-1.0,)) | shapeless
    found["xy"] = _impossible(xy) | (_is_one_of(xy, _NEGATIVE + _OTHER) & (found["xx"] | found["yy"]))
    marked = _is_one_of(flux, _NEGATIVE)
    repeated = marked & (np.isin(flux, _values_that_repeat(flux[marked])))
    no_error = np.isfinite(flux_err) & ((flux_err <= 0) | _is_one_of(flux_err, _NEGATIVE + _OTHER))
    found["flux"] = (np.abs(flux) >= _BRIGHT) | repeated | (marked & no_error) | _same_marker(flux, flux_err)
    clauses = []
    for name, missing in found.items():
        if missing.any():
            example = values[name][np.flatnonzero(missing)[0]]
            clauses.append(f"{int(missing.sum())} values of {columns[name]} mark missing data ({example:g}): not used")
            values[name][missing] = np.nan
    for name in found:
        value, error = values[name], values[f"{name}_err"]
        error[~((error > 0) & (error < _BRIGHT)) | ~np.isfinite(value)] = np.nan
    values["background"][np.abs(values["background"]) >= _BRIGHT] = np.nan
    return clauses


def repeated_rows(values: dict[str, FloatArray]) -> IntArray:
    """Return the rows whose positions, moments and flux equal those of an earlier row exactly; rows without a position are ignored."""
    located = np.flatnonzero(np.isfinite(values["x"]) & np.isfinite(values["y"]))
    rows = np.stack([values[name][located] for name in ("x", "y", "xx", "yy", "xy", "flux")], axis=1)
    _, first = np.unique(np.nan_to_num(rows, nan=np.inf), axis=0, return_index=True)
    return np.delete(located, first)


def _impossible(values: FloatArray) -> BoolArray:
    return (np.abs(values) >= _FAR) | _is_one_of(values, _NEGATIVE)


def _same_marker(first: FloatArray, second: FloatArray) -> BoolArray:
    """Return which rows have the same marker in two quantities; none if all values are integers, which may be equal by chance."""
    known = np.concatenate([first[np.isfinite(first)], second[np.isfinite(second)]])
    if (known == np.rint(known)).all():
        return (first == second) & _is_one_of(first, (*_NEGATIVE, -1.0))
    return (first == second) & _is_one_of(first, _NEGATIVE + _OTHER)


def _is_one_of(values: FloatArray, markers: tuple[float, ...]) -> BoolArray:
    return np.isclose(values[:, None], np.array(markers), rtol=_ROUNDING, atol=0.0).any(axis=1)


def _values_that_repeat(values: FloatArray) -> FloatArray:
    distinct, counts = np.unique(values, return_counts=True)
    return distinct[counts > 1]
