"""Read and write the calibration of a mask as a FITS product."""

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
from permil.errors import InputError
from permil.products import open_product, provenance, table_hdu, write_hdus
from permil.products.tables import numbers
from permil.spots.calibration import SpotCalibration
from permil.spots.catalog import flux_unit_of
from permil.spots.positions import SpotPlaces
from permil.spots.residuals import MOMENTS, ExposureTable, Repeatability, Residuals, SpotTable

_GRID = ("x0", "y0", "xstep", "ystep", "theta")
_UNITS = {"dx": "pixel", "dy": "pixel", **dict.fromkeys(MOMENTS, "pixel2")}


@dataclass(frozen=True)
class StoredCalibration:
    """A stored calibration: the spots, and properties that other exposures must share."""

    spots: SpotTable
    columns: int
    rows: int
    detector: str
    band: str
    aperture: float
    flux_unit: str
    serial: str = ""


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
        "MODE": (calibration.mode, "exposures at one place, or dithered"),
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
        "EXCESSUN": (own, "the part that the sensor does not explain"),
        "EXCUNERR": (own_error, "its error"),
        "NPAIRS": (calibration.excess.pairs, "neighbours that were compared for it"),
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
    units = {"mjd": "d", "projector_x": "mm", "projector_y": "mm", **dict.fromkeys(_GRID, "pixel"), "theta": "rad"}
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
        "DRIFTIN": ("date" if repeatability.in_time else "order", "what the drift is a line in"),
    }
