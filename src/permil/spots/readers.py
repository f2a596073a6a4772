"""Spot catalogs of any make, told apart by content: the LSST stack, processed grid files, permil's own.

Error columns that are zero or NaN throughout carry no information and become NaN, as does any single error that is not positive.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from permil.errors import InputError
from permil.spots.catalog import QUANTITIES, SpotCatalog, SpotFlag
from permil.spots.grid_fit import RigidGrid
from permil.spots.names import facts_of_name

if TYPE_CHECKING:
    from collections.abc import Iterator

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

DEFAULT_FLUX = "base_CircularApertureFlux_12_0_instFlux"
GRID_CARDS = ("X0", "Y0", "XSTEP", "YSTEP", "THETA", "NCOLS", "NROWS")
_CENTROID, _SHAPE = "base_SdssCentroid", "base_SdssShape"
_EXPECTED = (
    "columns of the LSST stack (base_SdssCentroid_x, base_SdssCentroid_y, base_SdssShape_xx, base_SdssShape_yy, base_SdssShape_xy, "
    f"{DEFAULT_FLUX}), of a processed grid file (X, Y, XX, YY, FLUX) or of permil (x, y, xx, yy, xy, flux)"
)
_PIXEL_FLAGS = {
    "saturated": SpotFlag.SATURATED,
    "edge": SpotFlag.EDGE,
    "offimage": SpotFlag.EDGE,
    "bad": SpotFlag.MASKED,
    "cr": SpotFlag.MASKED,
    "suspect": SpotFlag.MASKED,
    "interpolated": SpotFlag.MASKED,
}
_PIXEL_FLAG_PREFIX = "base_PixelFlags_flag_"


@dataclass(frozen=True)
class SourceTable:
    """A table of sources as it stands in a file.

    Attributes
    ----------
    path
        The file.
    header
        Primary header.
    hdu
        The table.
    kind
        ``stack``, ``processed`` or ``permil``.
    """

    path: Path
    header: fits.Header
    hdu: fits.BinTableHDU
    kind: str

    @property
    def names(self) -> list[str]:
        """Names of the columns."""
        return list(self.hdu.columns.names)


@contextmanager
def open_source_table(path: str | Path) -> Iterator[SourceTable]:
    """Open a file of sources and find its table; the file is closed at the end of the ``with`` block.

    Raises
    ------
    InputError
        If it cannot be read, has no table of spots, or the table is empty.
    """
    path = Path(path)
    try:
        hdus = fits.open(path, memmap=False)
    except (OSError, TypeError, ValueError) as error:
        raise InputError(
            f"cannot be read as FITS ({error})", path=path, remedy="check the path; a FITS table is needed"
        ) from error
    with hdus:
        tables = [hdu for hdu in hdus if isinstance(hdu, fits.BinTableHDU)]
        for hdu in tables:
            kind = _kind(set(hdu.columns.names))
            if kind is None:
                continue
            if len(hdu.data) == 0:
                raise InputError(
                    "the catalog is empty: it has no source", path=path, remedy="check the exposure and the detection"
                )
            yield SourceTable(path, hdus[0].header, hdu, kind)
            return
        names = [name for hdu in tables for name in hdu.columns.names]
        near = [name for name in names if "entroid" in name or name.lower() in {"x", "y"}]
        raise InputError(
            "no table of spots: columns of positions are missing (base_SdssCentroid_x, base_SdssCentroid_y)",
            path=path,
            remedy=f"give a table with {_EXPECTED}; this file has {_some(near or names)}",
            missing=[f"{_CENTROID}_x", f"{_CENTROID}_y"],
        )


def _kind(names: set[str]) -> str | None:
    if {f"{_CENTROID}_x", f"{_CENTROID}_y"} <= names:
        return "stack"
    if {"x", "y"} <= names:
        return "permil"
    if {"X", "Y"} <= names:
        return "processed"
    return None


def _some(names: list[str], most: int = 12) -> str:
    if not names:
        return "no columns"
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def read_catalog(
    path: str | Path,
    *,
    flux: str = DEFAULT_FLUX,
    band: str = "",
    needed: tuple[str, ...] = ("x", "y", "xx", "yy", "flux"),
) -> SpotCatalog:
    """Read a catalog of spots.

    Parameters
    ----------
    path
        FITS file: of the LSST stack, a processed grid file, or permil's own.
    flux
        Column of the flux in catalogs of the stack.
    band
        Filter or LED; empty: the FILTER card. The CCOB cards of spot exposures are stale and never used.
    needed
        Quantities without which the catalog is of no use.

    Raises
    ------
    InputError
        If the file has no such table, lacks a column (which are named) or is empty.
    """
    with open_source_table(path) as table:
        return catalog_of(table, flux=flux, band=band, needed=needed)


def catalog_of(
    table: SourceTable, *, flux: str = DEFAULT_FLUX, band: str = "", needed: tuple[str, ...] = ("x", "y")
) -> SpotCatalog:
    """Return the catalog of a table; see `read_catalog`."""
    columns = {"stack": _stack_columns, "processed": _processed_columns, "permil": _permil_columns}[table.kind](flux)
    _require(table, {name: columns[name] for name in needed})
    read: dict[str, Any] = {}
    for name in QUANTITIES:
        read[name] = _floats(table, columns[name])
        read[f"{name}_err"] = _errors(table, columns[f"{name}_err"])
    read["background"] = _floats(table, columns.get("background", ""))
    usable = np.isfinite(read["x"]) & np.isfinite(read["y"])
    if not usable.any():
        raise InputError(
            f"all positions ({columns['x']}, {columns['y']}) are NaN", path=table.path, remedy="check how the catalog was made"
        )
    flags = {"stack": _stack_flags, "processed": _no_flags, "permil": _own_flags}[table.kind](table, columns)
    grid_i, grid_j = _labels(table, read["x"], read["y"])
    return SpotCatalog(**read, flags=flags, grid_i=grid_i, grid_j=grid_j, **_metadata(table, columns["flux"], band))


def _stack_columns(flux: str) -> dict[str, str]:
    columns = {"flux": flux, "flux_err": f"{flux}Err"}
    for name in ("x", "y"):
        columns |= {name: f"{_CENTROID}_{name}", f"{name}_err": f"{_CENTROID}_{name}Err"}
    for name in ("xx", "yy", "xy"):
        columns |= {name: f"{_SHAPE}_{name}", f"{name}_err": f"{_SHAPE}_{name}Err"}
    return columns


def _processed_columns(_flux: str) -> dict[str, str]:
    return {name: name.upper() for name in QUANTITIES} | {f"{name}_err": f"{name.upper()}ERR" for name in QUANTITIES}


def _permil_columns(_flux: str) -> dict[str, str]:
    own = {name: name for name in QUANTITIES} | {f"{name}_err": f"{name}_err" for name in QUANTITIES}
    return own | {"background": "background"}


def _require(table: SourceTable, columns: dict[str, str]) -> None:
    missing = [column for column in columns.values() if column not in table.names]
    if not missing:
        return
    fluxes = [name for name in table.names if name.endswith("instFlux")]
    would_do = f"; fluxes that are there: {_some(fluxes, 24)}" if columns.get("flux") in missing and fluxes else ""
    raise InputError(
        f"column {', '.join(missing)} is missing",
        path=table.path,
        remedy=f"give a table with {_EXPECTED}{would_do}",
        missing=missing,
    )


def _floats(table: SourceTable, column: str) -> FloatArray:
    if column not in table.names:
        return np.full(len(table.hdu.data), np.nan)
    return np.asarray(table.hdu.data[column], dtype=np.float64)


def _errors(table: SourceTable, column: str) -> FloatArray:
    errors = _floats(table, column)
    return np.where(np.isfinite(errors) & (errors > 0), errors, np.nan)


def _no_flags(table: SourceTable, _columns: dict[str, str]) -> IntArray:
    return np.zeros(len(table.hdu.data), dtype=np.int64)


def _own_flags(table: SourceTable, columns: dict[str, str]) -> IntArray:
    if "flags" not in table.names:
        return _no_flags(table, columns)
    return np.asarray(table.hdu.data["flags"], dtype=np.int64)


def _stack_flags(table: SourceTable, columns: dict[str, str]) -> IntArray:
    """Translate the flags of the measurements that are used, and of the pixels."""
    flags = _no_flags(table, columns)
    failures = tuple({f"{columns[name].rsplit('_', 1)[0]}_flag" for name in ("x", "xx", "flux")})
    for name, raised in _named_flags(table):
        if name.startswith(failures):
            meaning = SpotFlag.BAD_FIT
        elif name.startswith(_PIXEL_FLAG_PREFIX):
            what = name.removeprefix(_PIXEL_FLAG_PREFIX)
            meaning = next((flag for key, flag in _PIXEL_FLAGS.items() if what.startswith(key)), SpotFlag(0))
        else:
            continue
        flags[raised] |= int(meaning)
    return flags


def _named_flags(table: SourceTable) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Yield name and values of boolean columns, and of the bits of the column ``flags`` as far as TFLAG cards name them.

    Tables that went through other programs lose these names; their bits then say nothing (most are set for good sources as well).
    """
    for column in table.hdu.columns:
        values = np.asarray(table.hdu.data[column.name])
        if values.dtype != np.bool_:
            continue
        if values.ndim == 1:
            yield column.name, values
            continue
        for bit in range(values.shape[1]):
            if f"TFLAG{bit + 1}" in table.hdu.header:
                yield str(table.hdu.header[f"TFLAG{bit + 1}"]), values[:, bit]


def _labels(table: SourceTable, x: FloatArray, y: FloatArray) -> tuple[IntArray, IntArray]:
    """Return labels from their columns, or from the grid in the header of a processed file; -1 where there are none."""
    if {"grid_i", "grid_j"} <= set(table.names):
        return np.asarray(table.hdu.data["grid_i"], np.int64), np.asarray(table.hdu.data["grid_j"], np.int64)
    none = np.full(len(x), -1, dtype=np.int64)
    if table.kind != "processed" or not all(card in table.header for card in GRID_CARDS):
        return none, none
    x0, y0, xstep, ystep, theta, columns, rows = (float(table.header[card]) for card in GRID_CARDS)
    grid = RigidGrid(x0, y0, xstep, ystep, theta, int(columns), int(rows))
    nodes = np.rint(np.nan_to_num(grid.nodes(x, y), nan=-1.0)).astype(np.int64)
    inside = ((nodes >= 0) & (nodes < (grid.columns, grid.rows))).all(axis=1)
    nodes[~inside] = -1
    _, counts = np.unique(nodes[inside], axis=0, return_counts=True)
    if (counts > 1).any():
        return none, none
    return nodes[:, 0], nodes[:, 1]


def _metadata(table: SourceTable, flux_column: str, band: str) -> dict[str, Any]:
    facts = facts_of_name(table.path)
    header = table.header

    def card(names: tuple[str, ...], otherwise: Any, convert: Callable[[Any], Any]) -> Any:
        return next((convert(header[name]) for name in names if name in header and header[name] not in ("", None)), otherwise)

    aperture = np.nan
    if "ApertureFlux_" in flux_column:
        whole, tenths = flux_column.split("ApertureFlux_")[1].split("_")[:2]
        aperture = float(f"{whole}.{tenths}")
    return {
        "detector": card(("DETECTOR",), facts.detector, str) or facts.detector,
        "exposure": card(("EXPOSURE", "OBSID"), facts.exposure or table.path.stem, str),
        "exposure_time": card(("EXPTIME",), facts.exposure_time, float),
        "projector_x": card(("PROJX", "BOTXCAM"), facts.projector_x, float),
        "projector_y": card(("PROJY", "BOTYCAM"), facts.projector_y, float),
        "band": band or card(("BAND", "FILTER"), "", str),
        "mjd": card(("MJD", "MJD-OBS"), np.nan, float),
        "aperture": card(("APERTURE",), aperture, float),
        "flux_unit": card(("FLUXUNIT",), "count" if table.kind != "permil" else "electron", str),
    }
