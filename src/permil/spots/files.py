"""Files of the stage: labelled catalogs (`permil spots grid`), calibrations of a mask, and residuals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray

from permil.arrays import FloatArray
from permil.errors import InputError, PermilError
from permil.products import Description, check_output, open_product, provenance, table_hdu, write_hdus
from permil.products.tables import numbers
from permil.spots.calibration import SpotCalibration
from permil.spots.catalog import SpotCatalog, SpotFlag, catalog_cards, flux_unit_of
from permil.spots.grid import SpotGrid, find_grid
from permil.spots.measurements import MaskIdentity
from permil.spots.positions import SpotPlaces
from permil.spots.readers import SourceTable, catalog_of, open_source_table
from permil.spots.residuals import MOMENTS, ExposureTable, Repeatability, Residuals, SpotTable

_FIVE = (
    ("X0", "pixel", "x of the centre of the grid"),
    ("Y0", "pixel", "y of the centre of the grid"),
    ("XSTEP", "pixel", "step along i"),
    ("YSTEP", "pixel", "step along j"),
    ("THETA", "rad", "from +x to axis i, in (-pi/4, pi/4]"),
)
"""The parameters of a grid: card, unit and meaning."""
_GRID = {name.lower(): unit for name, unit, _ in _FIVE}
_UNITS = {"dx": "pixel", "dy": "pixel", **dict.fromkeys(MOMENTS, "pixel2")}


@dataclass(frozen=True, kw_only=True)
class StoredCalibration(MaskIdentity):
    """A stored calibration: the spots, and properties that other exposures must share."""

    spots: SpotTable


def write_calibration(
    path: str | Path,
    calibration: SpotCalibration,
    *,
    decided: bool,
    repeatability: Repeatability | None = None,
    header: Mapping[str, Any] | None = None,
) -> None:
    """Write a calibration: tables SPOTS, EXPOSURES and, if available, DEGENERACY and REPEATABILITY.

    Parameters
    ----------
    decided
        Whether label (0, 0) is certainly the first node of the mask.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    tables = [spots_hdu(calibration.spots, calibration.rows, calibration.flux_unit), exposures_hdu(calibration.exposures)]
    if calibration.degeneracies:
        tables.append(_degeneracy_hdu(calibration))
    if repeatability is not None:
        tables.append(_repeatability_hdu(repeatability, calibration.rows))
    cards = calibration_cards(calibration, decided=decided) | _repeatability_cards(repeatability) | dict(header or {})
    write_hdus(path, [fits.PrimaryHDU(header=provenance(cards)), *tables])


def calibration_cards(calibration: SpotCalibration, *, decided: bool) -> dict[str, Any]:
    """Return the cards of a calibration for a primary header."""
    return {
        "DETECTOR": (calibration.detector or None, "detector"),
        "LSST_NUM": (calibration.serial or None, "serial number of the sensor"),
        "BAND": (calibration.band or None, "filter or LED"),
        "NCOLS": (calibration.columns, "columns of the mask (along i)"),
        "NROWS": (calibration.rows, "rows of the mask (along j)"),
        "WINDOW": ("decided" if decided else "ambiguous", "whether node (0, 0) is certain"),
        "APERTURE": (calibration.aperture, "[pixel] radius of the flux aperture"),
        "FLUXUNIT": (calibration.flux_unit, "unit of flux"),
        "METHOD": (calibration.method, "joint fit, or means over exposures"),
        "MODE": (calibration.mode, "exposures at one position, or dithered"),
        "NEXPOSUR": (len(calibration.exposures.names), "exposures"),
        "NMEAS": (int(calibration.residuals.used.sum()), "measurements used"),
        "CHI2": (calibration.chi_square, "of the fluxes over the errors of the catalogs"),
        "DOF": (calibration.freedom, "degrees of freedom"),
        **_excess_cards(calibration),
        "GAUGESC": ("mean exposure scale is 1", "gauge of the common factor"),
        "GAUGETH": ("mean and gradient of throughput are 0", "gauge of the throughput"),
    }


def _excess_cards(calibration: SpotCalibration) -> dict[str, Any]:
    if np.isnan(calibration.excess.variance):
        return {}
    (scatter, scatter_error), (own, own_error) = calibration.excess.scatter, calibration.excess.unexplained
    return {
        "EXCESS": (scatter, "relative scatter of fluxes beyond their errors"),
        "EXCESSER": (scatter_error, "its error"),
        "EXCESSUN": (own, "part not explained by the sensor"),
        "EXCUNERR": (own_error, "its error"),
        "NPAIRS": (calibration.excess.pairs, "neighbours compared for EXCESSUN"),
    }


def spots_hdu(spots: SpotTable, rows: int, flux_unit: str) -> fits.BinTableHDU:
    """Return the table SPOTS: one row per spot of the mask."""
    i, j = np.divmod(np.arange(len(spots.flux)), rows)
    columns = {"grid_i": i, "grid_j": j, "flux": spots.flux, "flux_err": spots.flux_error, "flux_count": spots.flux_count}
    for axis, name in enumerate(("dx", "dy")):
        columns |= {name: spots.places.shift[:, axis], f"{name}_err": spots.places.error[:, axis]}
    for name in MOMENTS:
        columns |= {name: spots.moments[name], f"{name}_err": spots.moment_errors[name]}
    return table_hdu("SPOTS", columns, {"flux": flux_unit, **_UNITS})


def exposures_hdu(exposures: ExposureTable) -> fits.BinTableHDU:
    """Return the table EXPOSURES: scale, grid and moment offsets of each exposure."""
    columns: dict[str, NDArray[Any]] = {
        "exposure": np.array(exposures.names, dtype=np.str_),
        "mjd": exposures.mjd,
        "projector_x": exposures.projector[:, 0],
        "projector_y": exposures.projector[:, 1],
        "scale": exposures.scale,
        "scale_err": exposures.scale_error,
    }
    for number, name in enumerate(_GRID):
        entries = [(getattr(grid, name), grid.errors[number]) if grid else (np.nan, np.nan) for grid in exposures.grids]
        columns[name], columns[f"{name}_err"] = np.array(entries, dtype=np.float64).reshape(-1, 2).T
    for name in MOMENTS:
        columns |= {f"{name}_offset": exposures.offsets[name], f"{name}_offset_err": exposures.offset_errors[name]}
    units = {"mjd": "d", "projector_x": "mm", "projector_y": "mm", **_GRID}
    return table_hdu("EXPOSURES", columns, units | {f"{name}_offset": "pixel2" for name in MOMENTS})


def residuals_hdu(residuals: Residuals, exposures: ExposureTable, rows: int) -> fits.BinTableHDU:
    """Return the table RESIDUALS: one row per measurement, in single precision except for positions."""
    i, j = np.divmod(residuals.spot, rows)
    single = {
        "flux": residuals.flux,
        "flux_err": residuals.flux_error,
        "dflux": residuals.flux_difference,
        "dflux_err": residuals.flux_difference_error,
    }
    for name, error in residuals.errors.items():
        single |= {name: getattr(residuals, name), f"{name}_err": error}
    single |= {f"expected_{name}": values for name, values in residuals.expected.items()}
    single["background"] = residuals.background
    columns = {"grid_i": i, "grid_j": j, "exposure": residuals.exposure, "x": residuals.x, "y": residuals.y}
    columns |= {name: values.astype(np.float32) for name, values in single.items()} | {"used": residuals.used}
    units = {"x": "pixel", "y": "pixel", **_UNITS, **{f"expected_{name}": "pixel2" for name in MOMENTS}}
    hdu = table_hdu("RESIDUALS", columns, units)
    hdu.header["NEXPOSUR"] = (len(exposures.names), "column exposure: row of EXPOSURES")
    return hdu


def write_residuals(
    path: str | Path,
    residuals: Residuals,
    exposures: ExposureTable,
    *,
    rows: int,
    header: Mapping[str, Any] | None = None,
) -> None:
    """Write the residual of each measurement, with the table of exposures.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    write_hdus(
        path,
        [fits.PrimaryHDU(header=provenance(header)), residuals_hdu(residuals, exposures, rows), exposures_hdu(exposures)],
    )


def read_calibration(path: str | Path) -> StoredCalibration:
    """Read a calibration product.

    Raises
    ------
    InputError
        If the file cannot be read or is not a calibration.
    """
    with open_product(path, "a calibration", remedy="make it again") as hdus:
        header = hdus[0].header
        if "SPOTS" not in hdus or "METHOD" not in header:
            raise InputError("not a calibration of a spot mask", path=path, remedy="give a calibration_*.fits of permil spots")
        table = Table(hdus["SPOTS"].data)
        columns, rows = int(header["NCOLS"]), int(header["NROWS"])
        if len(table) != columns * rows:
            raise InputError(
                f"the table SPOTS has {len(table)} rows, but a mask of {columns} x {rows} has {columns * rows}",
                path=path,
                remedy="make it again",
                value=len(table),
                expected=columns * rows,
            )
        return StoredCalibration(
            spots=_spot_table({name: numbers(table, name, path=path) for name in table.colnames}),
            columns=columns,
            rows=rows,
            detector=_text(header, "DETECTOR"),
            band=_text(header, "BAND"),
            aperture=float(header.get("APERTURE", np.nan)),
            flux_unit=flux_unit_of(_text(header, "FLUXUNIT")),
            serial=_text(header, "LSST_NUM"),
        )


def _text(header: fits.Header, card: str) -> str:
    """Return a card as text, "" if it is missing or undefined."""
    value = header.get(card)
    return "" if value is None or isinstance(value, fits.card.Undefined) else str(value).strip()


def _spot_table(column: dict[str, FloatArray]) -> SpotTable:
    return SpotTable(
        flux=column["flux"],
        flux_error=column["flux_err"],
        flux_count=np.nan_to_num(column["flux_count"]).astype(np.int64),
        places=SpotPlaces(np.stack([column["dx"], column["dy"]], axis=1), np.stack([column["dx_err"], column["dy_err"]], axis=1)),
        moments={name: column[name] for name in MOMENTS},
        moment_errors={name: column[f"{name}_err"] for name in MOMENTS},
    )


def _degeneracy_hdu(calibration: SpotCalibration) -> fits.BinTableHDU:
    entries = calibration.degeneracies
    names = ("free_error", "exposure_trend", "exposure_trend_error", "spot_gradient", "spot_gradient_error")
    columns = {name: np.array([getattr(entry, name) for entry in entries]) for name in ("axis", *names)}
    return table_hdu("DEGENERACY", columns, dict.fromkeys(names, "(1000 pixel)-1"))


def _repeatability_hdu(repeatability: Repeatability, rows: int) -> fits.BinTableHDU:
    i, j = np.divmod(np.arange(len(repeatability.scatter)), rows)
    scatter = {"scatter": repeatability.scatter, "scatter_err": repeatability.scatter_error, "predicted": repeatability.predicted}
    return table_hdu("REPEATABILITY", {"grid_i": i, "grid_j": j, **scatter, "count": repeatability.count})


def _repeatability_cards(repeatability: Repeatability | None) -> dict[str, Any]:
    if repeatability is None:
        return {}
    return {
        "SCATRAT": (repeatability.ratio, "median of scatter over predicted error"),
        "SCATRERR": (repeatability.ratio_error, "its error"),
        "DRIFT": (repeatability.drift, "relative change of the lamp, first to last"),
        "DRIFTERR": (repeatability.drift_error, "its error"),
        "LAMPSCAT": (repeatability.lamp_scatter, "relative rms of the lamp around the drift"),
        "DRIFTIN": ("date" if repeatability.in_time else "order", "regressor of the drift"),
    }


POSITION_FLAGS = SpotFlag.BAD_FIT | SpotFlag.EDGE
"""Flags of sources without a reliable position, which get no label. A saturated spot keeps its label."""


def label_catalog(
    catalog: SpotCatalog, *, columns: int = 49, rows: int = 49, degree: int = 3, path: str | Path | None = None
) -> SpotGrid:
    """Find the grid of a catalog; see `permil.spots.grid.find_grid`.

    Raises
    ------
    GridError
        If its sources do not form a grid; the message names ``path``.
    """
    usable = (catalog.flags & int(POSITION_FLAGS)) == 0
    try:
        return find_grid(catalog.x, catalog.y, columns=columns, rows=rows, degree=degree, usable=usable)
    except PermilError as error:
        error.path = error.path or (None if path is None else str(path))
        raise


def grid_file(catalog: str | Path, out: str | Path, *, columns: int = 49, rows: int = 49, degree: int = 3) -> Description:
    """Label the sources of a catalog file.

    Parameters
    ----------
    catalog
        FITS catalog of any kind supported by `permil.spots.readers`.
    out
        FITS file to write: the grid in the primary header; the table of the input, all rows and columns in their order, with
        ``grid_i`` and ``grid_j`` (-1 for sources that are not spots of the grid); the table NODES with the shift of each node.
    columns, rows
        Spots of the mask along i and j.
    degree
        Degree of the polynomial distortion.

    Returns
    -------
    Description
        Summary text; ``facts`` are its values.

    Raises
    ------
    InputError
        If the catalog cannot be used.
    GridError
        If its sources do not form a grid; the message names the catalog.
    """
    check_output(out, inputs=[catalog])
    with open_source_table(catalog) as table:
        sources = catalog_of(table)
        grid = label_catalog(sources, columns=columns, rows=rows, degree=degree, path=catalog)
        write_grid(out, table, sources, grid)
    text = "\n".join([describe_grid(grid, len(sources)), *(f"remark: {remark}" for remark in sources.remarks)])
    facts = {
        "out": out, "sources": len(sources), "spots": int(grid.labelled.sum()), "window": grid.window,
        "rms_px": {"rigid": grid.rigid.rms, "affine": grid.affine.rms, "polynomial": grid.distortion.rms},
        "parameters": {name.lower(): value for name, (value, _) in grid_cards(grid).items()},
        "warnings": grid_warnings(grid), "remarks": list(sources.remarks),
    }  # fmt: skip
    return Description(text, facts)


def write_grid(out: str | Path, table: SourceTable, sources: SpotCatalog, grid: SpotGrid) -> None:
    """Write a labelled catalog.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    primary = fits.PrimaryHDU(header=provenance(grid_cards(grid) | _source_cards(sources, table)))
    write_hdus(out, [primary, labelled_hdu(table, grid), nodes_hdu(sources, grid)])


def grid_cards(grid: SpotGrid) -> dict[str, Any]:
    """Return the cards of a grid for a primary header."""
    rigid = grid.rigid
    return {
        **{name: (getattr(rigid, name.lower()), f"[{unit}] {meaning}") for name, unit, meaning in _FIVE},
        "NCOLS": (grid.columns, "columns (along i)"),
        "NROWS": (grid.rows, "rows (along j)"),
        **{
            f"{name}ERR": (error, f"[{unit}] error, from the residual scatter")
            for (name, unit, _), error in zip(_FIVE, rigid.errors, strict=True)
        },
        "RMS": (rigid.rms, "[pixel] radial residual rms, five parameters"),
        "RMSAFF": (grid.affine.rms, "[pixel] radial residual rms, affine"),
        "RMSPOLY": (grid.distortion.rms, "[pixel] radial residual rms, polynomial"),
        "DEGREE": (grid.distortion.degree, "degree of the polynomial"),
        "NSPOTS": (int(grid.labelled.sum()), "sources that are spots of the grid"),
        "NREJECT": (int((~grid.labelled).sum()), "other sources"),
        "NSECOND": (grid.second, "of these, sources on a second, weaker grid"),
        "WINDOW": (grid.window, "whether it is certain which node is (0, 0)"),
        "WINDOWI": (grid.decided_i, "certain along i"),
        "WINDOWJ": (grid.decided_j, "certain along j"),
    }


def _source_cards(sources: SpotCatalog, table: SourceTable) -> dict[str, Any]:
    cards = catalog_cards(sources) | {"EXPOSURE": (sources.exposure[:60] or None, "exposure")}
    aperture = cards.pop("APERTURE")
    del cards["PIXFRAME"]
    cards["CATKIND"] = (table.kind, "type of the catalog")
    # Column names of stack catalogs contain the radius.
    return cards if table.kind == "stack" else cards | {"APERTURE": aperture}


def labelled_hdu(table: SourceTable, grid: SpotGrid) -> fits.BinTableHDU:
    """Return the table of a catalog with the columns ``grid_i`` and ``grid_j``; existing labels are replaced."""
    kept = [column for column in table.hdu.columns if column.name not in ("grid_i", "grid_j")]
    labels = [
        fits.Column("grid_i", "J", array=grid.grid_i.astype(np.int32)),
        fits.Column("grid_j", "J", array=grid.grid_j.astype(np.int32)),
    ]
    hdu = fits.BinTableHDU.from_columns(fits.ColDefs(kept) + fits.ColDefs(labels), name="CATALOG")
    cards = table.header.table
    for name in (f"TFLAG{number}" for number in range(1, 513)):
        if cards.text(name):
            hdu.header[name] = (cards.text(name), "name of a flag")
    for flag in SpotFlag:
        bit = cards.integer(f"FL_{flag.name}"[:8], -1)
        if bit >= 0:
            hdu.header[f"FL_{flag.name}"[:8]] = (bit, f"bit of flag {flag.name}")
    return hdu


def nodes_hdu(sources: SpotCatalog, grid: SpotGrid) -> fits.BinTableHDU:
    """Return the table of shifts of spots from their nodes, total and relative to the polynomial (pixels)."""
    spots = np.flatnonzero(grid.labelled)
    points = np.stack([sources.x[spots], sources.y[spots]], axis=1)
    shift = points - grid.rigid.positions(grid.grid_i[spots], grid.grid_j[spots])
    free = grid.distortion.residuals
    shifts = {"dx": shift[:, 0], "dy": shift[:, 1], "dx_free": free[:, 0], "dy_free": free[:, 1]}
    labels = {"grid_i": grid.grid_i[spots], "grid_j": grid.grid_j[spots]}
    return table_hdu("NODES", labels | shifts, dict.fromkeys(shifts, "pixel"))


def describe_grid(grid: SpotGrid, sources: int) -> str:
    """Return a summary text of the grid."""
    rigid = grid.rigid
    spots = int(grid.labelled.sum())
    lines = [f"{spots} of {sources} sources are spots of a grid of {grid.columns} x {grid.rows}; {sources - spots} rejected"]
    for (name, unit, _), error in zip(_FIVE, rigid.errors, strict=True):
        short = "px" if unit == "pixel" else unit
        lines.append(f"{name:<6}{getattr(rigid, name.lower()):14.6f} +- {error:.2g} {short}")
    lines.append(f"NCOLS {grid.columns}, NROWS {grid.rows}")
    lines.append(
        f"residual rms (radial): {rigid.rms:.4f} px (five parameters), {grid.affine.rms:.4f} px (affine), "
        f"{grid.distortion.rms:.4f} px (polynomial of degree {grid.distortion.degree})"
    )
    if grid.window == "decided":
        lines.append("window: decided, node (0, 0) is certain")
    else:
        axes = " and ".join(axis for axis, decided in (("i", grid.decided_i), ("j", grid.decided_j)) if not decided)
        lines.append(f"window: ambiguous along {axes}; 0 is the first detected line, not that of the mask")
    return "\n".join([*lines, *(f"warning: {warning}" for warning in grid_warnings(grid))])


def grid_warnings(grid: SpotGrid) -> list[str]:
    """Return warnings about a grid."""
    if not grid.second:
        return []
    where = "half way between spots, along the rim of a bright disc?"
    return [f"{grid.second} sources lie on a second, weaker grid and have no label (false sources {where})"]
