"""`permil spots grid`: label the sources of a catalog by their position in the grid and write the labelled catalog."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from permil.errors import PermilError
from permil.products import Description, check_output, provenance, table_hdu, write_hdus
from permil.spots.catalog import SpotCatalog, SpotFlag
from permil.spots.grid import SpotGrid, find_grid
from permil.spots.readers import SourceTable, catalog_of, open_source_table

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
    errors = rigid.errors
    return {
        "X0": (rigid.x0, "[pixel] x of the centre of the grid"),
        "Y0": (rigid.y0, "[pixel] y of the centre of the grid"),
        "XSTEP": (rigid.xstep, "[pixel] step along i"),
        "YSTEP": (rigid.ystep, "[pixel] step along j"),
        "THETA": (rigid.theta, "[rad] from +x to axis i, in (-pi/4, pi/4]"),
        "NCOLS": (grid.columns, "columns (along i)"),
        "NROWS": (grid.rows, "rows (along j)"),
        "X0ERR": (errors[0], "[pixel] error, from the residual scatter"),
        "Y0ERR": (errors[1], "[pixel] error, from the residual scatter"),
        "XSTEPERR": (errors[2], "[pixel] error, from the residual scatter"),
        "YSTEPERR": (errors[3], "[pixel] error, from the residual scatter"),
        "THETAERR": (errors[4], "[rad] error, from the residual scatter"),
        "RMS": (rigid.rms, "[pixel] radial residual rms, five parameters"),
        "RMSAFF": (grid.affine.rms, "[pixel] radial residual rms, affine"),
        "RMSPOLY": (grid.distortion.rms, "[pixel] radial residual rms, polynomial"),
        "DEGREE": (grid.distortion.degree, "degree of the polynomial"),
        "NSPOTS": (int(grid.labelled.sum()), "sources that are spots of the grid"),
        "NREJECT": (int((~grid.labelled).sum()), "sources that are not"),
        "NSECOND": (grid.second, "of these, sources on a second, weaker grid"),
        "WINDOW": (grid.window, "whether it is certain which node is (0, 0)"),
        "WINDOWI": (grid.decided_i, "certain along i"),
        "WINDOWJ": (grid.decided_j, "certain along j"),
    }


def _source_cards(sources: SpotCatalog, table: SourceTable) -> dict[str, Any]:
    cards = {
        "DETECTOR": (sources.detector or None, "detector"),
        "EXPOSURE": (sources.exposure[:60] or None, "exposure"),
        "EXPTIME": (sources.exposure_time, "[s] exposure time"),
        "PROJX": (sources.projector_x, "[mm] projector X"),
        "PROJY": (sources.projector_y, "[mm] projector Y"),
        "BAND": (sources.band or None, "filter or LED"),
        "MJD": (sources.mjd, "[d] modified Julian date"),
        "LSST_NUM": (sources.serial or None, "serial number of the sensor"),
        "FLUXUNIT": (sources.flux_unit, "unit of flux"),
        "CATKIND": (table.kind, "make of the catalog"),
    }
    # Column names of stack catalogs contain the radius.
    return cards if table.kind == "stack" else cards | {"APERTURE": (sources.aperture, "[pixel] radius of the flux aperture")}


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
    for name, unit, entry, error in zip(
        ("X0", "Y0", "XSTEP", "YSTEP", "THETA"),
        ("px", "px", "px", "px", "rad"),
        (rigid.x0, rigid.y0, rigid.xstep, rigid.ystep, rigid.theta),
        rigid.errors,
        strict=True,
    ):
        lines.append(f"{name:<6}{entry:14.6f} +- {error:.2g} {unit}")
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
