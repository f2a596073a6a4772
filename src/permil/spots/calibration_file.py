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

from permil.errors import InputError
from permil.products import provenance, write_hdus
from permil.products.fits import whole_file
from permil.products.tables import numbers
from permil.spots.calibration import SpotCalibration
from permil.spots.catalog import flux_unit_of
from permil.spots.positions import SpotPlaces
from permil.spots.residuals import MOMENTS, ExposureTable, Repeatability, Residuals, SpotTable

_GRID = ("x0", "y0", "xstep", "ystep", "theta")


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
    columns = [
        fits.Column("grid_i", "J", array=i.astype(np.int32)),
        fits.Column("grid_j", "J", array=j.astype(np.int32)),
        fits.Column("flux", "D", unit=flux_unit, array=spots.flux),
        fits.Column("flux_err", "D", unit=flux_unit, array=spots.flux_error),
        fits.Column("flux_count", "J", array=spots.flux_count.astype(np.int32)),
    ]
    for axis, name in enumerate(("dx", "dy")):
        columns.append(fits.Column(name, "D", unit="pixel", array=spots.places.shift[:, axis]))
        columns.append(fits.Column(f"{name}_err", "D", unit="pixel", array=spots.places.error[:, axis]))
    for name in MOMENTS:
        columns.append(fits.Column(name, "D", unit="pixel2", array=spots.moments[name]))
        columns.append(fits.Column(f"{name}_err", "D", unit="pixel2", array=spots.moment_errors[name]))
    return fits.BinTableHDU.from_columns(columns, name="SPOTS")


def exposures_hdu(exposures: ExposureTable) -> fits.BinTableHDU:
    """Return the table EXPOSURES: scale, grid and moment offsets of each exposure."""
    width = max(1, *(len(name) for name in exposures.names))
    columns = [
        fits.Column("exposure", f"{width}A", array=np.array(exposures.names)),
        fits.Column("mjd", "D", unit="d", array=exposures.mjd),
        fits.Column("projector_x", "D", unit="mm", array=exposures.projector[:, 0]),
        fits.Column("projector_y", "D", unit="mm", array=exposures.projector[:, 1]),
        fits.Column("scale", "D", array=exposures.scale),
        fits.Column("scale_err", "D", array=exposures.scale_error),
    ]
    for number, name in enumerate(_GRID):
        entries = [(getattr(grid, name), grid.errors[number]) if grid else (np.nan, np.nan) for grid in exposures.grids]
        unit = "rad" if name == "theta" else "pixel"
        columns.append(fits.Column(name, "D", unit=unit, array=np.array([entry[0] for entry in entries])))
        columns.append(fits.Column(f"{name}_err", "D", unit=unit, array=np.array([entry[1] for entry in entries])))
    for name in MOMENTS:
        columns.append(fits.Column(f"{name}_offset", "D", unit="pixel2", array=exposures.offsets[name]))
        columns.append(fits.Column(f"{name}_offset_err", "D", unit="pixel2", array=exposures.offset_errors[name]))
    return fits.BinTableHDU.from_columns(columns, name="EXPOSURES")


def residuals_hdu(residuals: Residuals, exposures: ExposureTable, rows: int) -> fits.BinTableHDU:
    """Return the table RESIDUALS: one row per measurement, in single precision except for positions."""
    i, j = np.divmod(residuals.spot, rows)
    columns = [
        fits.Column("grid_i", "J", array=i.astype(np.int32)),
        fits.Column("grid_j", "J", array=j.astype(np.int32)),
        fits.Column("exposure", "J", array=residuals.exposure.astype(np.int32)),
        fits.Column("x", "D", unit="pixel", array=residuals.x),
        fits.Column("y", "D", unit="pixel", array=residuals.y),
        fits.Column("flux", "E", array=residuals.flux.astype(np.float32)),
        fits.Column("flux_err", "E", array=residuals.flux_error.astype(np.float32)),
        fits.Column("dflux", "E", array=residuals.flux_difference.astype(np.float32)),
        fits.Column("dflux_err", "E", array=residuals.flux_difference_error.astype(np.float32)),
    ]
    for name, error in residuals.errors.items():
        unit = "pixel" if name in ("dx", "dy") else "pixel2"
        columns.append(fits.Column(name, "E", unit=unit, array=getattr(residuals, name).astype(np.float32)))
        columns.append(fits.Column(f"{name}_err", "E", unit=unit, array=error.astype(np.float32)))
    for name, values in residuals.expected.items():
        columns.append(
            fits.Column(f"expected_{name}", "E", unit=None if name == "flux" else "pixel2", array=values.astype(np.float32))
        )
    columns.append(fits.Column("background", "E", array=residuals.background.astype(np.float32)))
    columns.append(fits.Column("used", "L", array=residuals.used))
    hdu = fits.BinTableHDU.from_columns(columns, name="RESIDUALS")
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
    try:
        with whole_file(path), fits.open(path, memmap=False) as hdus:
            header = hdus[0].header
            if "SPOTS" not in [hdu.name for hdu in hdus] or "METHOD" not in header:
                raise InputError(
                    "not a calibration of a spot mask", path=path, remedy="give a calibration_*.fits of permil spots"
                )
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
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"cannot be read as a calibration ({error})", path=path, remedy="make it again") from error


def _text(header: fits.Header, card: str) -> str:
    """Return a card as text, "" if it is missing or undefined."""
    value = header.get(card)
    return "" if value is None or isinstance(value, fits.card.Undefined) else str(value).strip()


def _spot_table(column: dict[str, NDArray[np.float64]]) -> SpotTable:
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
    columns = [fits.Column("axis", "1A", array=np.array([entry.axis for entry in entries]))]
    for name in ("free_error", "exposure_trend", "exposure_trend_error", "spot_gradient", "spot_gradient_error"):
        values = np.array([getattr(entry, name) for entry in entries])
        columns.append(fits.Column(name, "D", unit="(1000 pixel)-1", array=values))
    return fits.BinTableHDU.from_columns(columns, name="DEGENERACY")


def _repeatability_hdu(repeatability: Repeatability, rows: int) -> fits.BinTableHDU:
    i, j = np.divmod(np.arange(len(repeatability.scatter)), rows)
    columns = [
        fits.Column("grid_i", "J", array=i.astype(np.int32)),
        fits.Column("grid_j", "J", array=j.astype(np.int32)),
        fits.Column("scatter", "D", array=repeatability.scatter),
        fits.Column("scatter_err", "D", array=repeatability.scatter_error),
        fits.Column("predicted", "D", array=repeatability.predicted),
        fits.Column("count", "J", array=repeatability.count.astype(np.int32)),
    ]
    return fits.BinTableHDU.from_columns(columns, name="REPEATABILITY")


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
