"""Inputs of the stage, stars of one detector and band and the flat of the same detector and light, and its FITS product."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray

from permil.camera import Detector
from permil.compare.comparison import Comparison
from permil.compare.hypotheses.predict import Stars
from permil.compare.stars.pairs import CellPairs
from permil.compare.stars.profile import StarProfile, fit_profile
from permil.compare.stars.response import QUANTITIES, StarPlaces, StarResponse
from permil.errors import CompareError, InputError
from permil.products import ImageProduct, RunFolder, open_product, provenance, read_image, table_hdu, write_hdus
from permil.products.fits import image_of_cells
from permil.products.folder import SpotsFolder
from permil.products.tables import flags, numbers

COMPARISON_FORMAT = 2
"""Version of the format: comparisons of another version are made again."""
_NEEDED = ("grid_i", "grid_j", "exposure", "x", "y", "used", "expected_flux", "expected_xx", "expected_yy", "expected_xy")
_DEFAULT_APERTURE = 12.0

_UNITS = {"flux": "", "dx": "pixel", "dy": "pixel", "xx": "pixel2", "yy": "pixel2", "xy": "pixel2"}


@dataclass(frozen=True)
class StarsProduct:
    """The stars of one detector and band.

    Attributes
    ----------
    stars
        Measurements used in the calibration.
    response
        Response of their measurement to a flat.
    exposures
        Names of the exposures.
    header
        Primary header of the file.
    path
        Path of the file.
    """

    stars: Stars
    response: StarResponse
    exposures: tuple[str, ...]
    header: fits.Header
    path: Path


def star_groups(folder: SpotsFolder) -> list[tuple[str, str]]:
    """Return detector and band of all residuals in a folder, sorted by name.

    Raises
    ------
    InputError
        If a file is damaged.
    """
    groups = []
    for path in sorted(folder.path.glob("residuals_*.fits")):
        with open_product(path, "residuals of stars", remedy="run permil spots again") as hdus:
            groups.append((str(hdus[0].header.get("DETECTOR", "")), str(hdus[0].header.get("BAND", ""))))
    return groups


def read_stars(folder: SpotsFolder, detector: str, band: str) -> StarsProduct:
    """Read the residuals of the stars of one detector and band.

    Raises
    ------
    InputError
        If the file is missing, damaged, or made by an older version.
    """
    path = folder.residuals(detector, band)
    with open_product(path, "residuals of stars", remedy="run permil spots first") as hdus:
        header, table = hdus[0].header.copy(), Table(hdus["RESIDUALS"].data)
        exposures = Table(hdus["EXPOSURES"].data)
    missing = [name for name in (*_NEEDED, *QUANTITIES) if name not in table.colnames]
    if missing:
        raise InputError(f"column {', '.join(missing)} is missing", path=path, remedy="run permil spots again", missing=missing)
    table = table[flags(table, "used", path=path)]
    column = {name: numbers(table, name, path=path) for name in table.colnames if name != "used"}
    names = tuple(str(name).strip() for name in exposures["exposure"])
    with np.errstate(invalid="ignore", divide="ignore"):
        glow = column["background"] / column["expected_flux"]
    stars = Stars(
        places=StarPlaces(
            x=column["x"],
            y=column["y"],
            xx=column["expected_xx"],
            yy=column["expected_yy"],
            xy=column["expected_xy"],
            glow=glow,
        ),
        spot=(column["grid_i"] * 1_000_000 + column["grid_j"]).astype(np.int64),
        exposure=column["exposure"].astype(np.int64),
        values={name: column[name] for name in QUANTITIES},
        errors={name: column[f"{name}_err"] for name in QUANTITIES},
    )
    stated = header.get("APERTURE")
    aperture = float(stated) if isinstance(stated, int | float) else np.nan
    moment = float(np.nanmedian((column["expected_xx"] + column["expected_yy"]) / 2)) if len(table) else np.nan
    profile = _profile(folder, detector, names, moment, path)
    response = StarResponse(profile, aperture if np.isfinite(aperture) else _DEFAULT_APERTURE)
    return StarsProduct(stars, response, names, header, path)


def _profile(folder: SpotsFolder, detector: str, exposures: tuple[str, ...], moment: float, path: Path) -> StarProfile:
    """Return the light of the mean star: from measured growth curves if available, else from its moments alone."""
    if not moment > 0:
        raise CompareError("the stars have no second moments", path=path, remedy="give catalogs with shapes", value=moment)
    curves = []
    for exposure in exposures:
        catalog = folder.catalog(detector, exposure)
        if not catalog.is_file():
            continue
        with open_product(catalog, "a catalog of stars", remedy="remove it and run permil spots again") as hdus:
            if "GROWTH" not in hdus:
                continue
            growth = Table(hdus["GROWTH"].data)
        curves.append((numbers(growth, "radius", path=catalog), numbers(growth, "fraction", path=catalog)))
    known = [(radius, fraction) for radius, fraction in curves if np.isfinite(fraction).all()]
    if not known:
        return StarProfile.gaussian(moment)
    return fit_profile(known[0][0], np.median([fraction for _, fraction in known], axis=0), moment=moment)


def read_flat(folder: RunFolder, led: str, detector: Detector) -> ImageProduct:
    """Read the flat of a detector and LED, and check that it matches its path.

    Raises
    ------
    InputError
        If it is missing or damaged.
    CompareError
        If it is the flat of another detector or LED, or has other pixels.
    """
    path = folder.flat(led, detector.name)
    if not path.is_file():
        raise InputError(
            f"the flat of {detector.name} in LED {led or '?'} does not exist",
            path=path,
            remedy="make it with permil flat, or give the LED for the band of the stars in compare.led_of",
        )
    product = read_image(path)
    for card, expected, what in (("DETECTOR", detector.name, "detector"), ("LED", led, "LED"), ("PIXFRAME", "DM", "pixel frame")):
        found = str(product.header.get(card, expected))
        if found != expected and not (card == "DETECTOR" and detector.is_called(product.header[card])):
            raise CompareError(
                f"the flat is of {what} {found}, but the stars are of {expected}",
                path=path,
                remedy="compare stars with the flat of the same detector and light",
                value=found,
                allowed=expected,
            )
    if product.image.shape != detector.shape:
        raise CompareError(
            f"the flat has {product.image.shape[1]} x {product.image.shape[0]} pixels, {detector.name} {detector.nx} x {detector.ny}",
            path=path,
            remedy="give an unbinned flat of this camera",
            value=product.image.shape,
            allowed=detector.shape,
        )
    return product


def write_comparison(path: Path, comparison: Comparison, *, header: Mapping[str, Any]) -> None:
    """Write a comparison.

    Tables: STARS (one row per measurement: predicted and measured values), CORRELATIONS, NULL (correlations of
    surrogates of the headline), BLOCKS (its error against block size), CELLS (flux and flat on all scales), HYPOTHESES, VERDICTS,
    SILENT, RINGS. Images, in cells: ``<QUANTITY>`` and ``<QUANTITY>_ERR`` of the stars, ``<QUANTITY>_FLAT`` and ``<QUANTITY>_FLAT_ERR`` of
    the predictions of the flat; SHIFT_X and SHIFT_Y, the displacement if the whole flat were pixel area.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    cells = comparison.cells["flux"]
    hdus: list[Any] = [fits.PrimaryHDU(header=provenance(_cards(comparison) | dict(header)))]
    hdus.append(_star_table(comparison))
    for quantity, each in comparison.cells.items():
        hdus += _maps(each, quantity)
    for name, image in (("SHIFT_X", comparison.shift_x), ("SHIFT_Y", comparison.shift_y)):
        hdus.append(image_of_cells(name, image, cells.cell, "pixel"))
    hdus.append(_level_table(comparison))
    hdus.append(fits.BinTableHDU(_filled(Table(rows=[entry.row() for entry in comparison.correlations])), name="CORRELATIONS"))
    hdus += _headline_tables(comparison)
    hdus.append(fits.BinTableHDU(Table(rows=hypothesis_rows(comparison)), name="HYPOTHESES"))
    hdus.append(fits.BinTableHDU(Table(rows=verdict_rows(comparison)), name="VERDICTS"))
    if comparison.silent:
        hdus.append(fits.BinTableHDU(Table(rows=list(comparison.silent.items()), names=("of", "reason")), name="SILENT"))
    if comparison.rings is not None:
        profile = comparison.rings
        columns = {"radius": profile.radius, "level": profile.level, "error": profile.error, "count": profile.count}
        hdus.append(fits.BinTableHDU(Table(columns), name="RINGS"))
    write_hdus(path, hdus)


def hypothesis_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Return fractions and slopes of all regions, one row each."""
    return [{"region": region, **row} for region, fit in comparison.fits.items() for row in fit.rows()]


def verdict_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Return the effect of dividing by the flat, one row per region."""
    return [
        {
            "region": region,
            "outcome": verdict.outcome,
            "before": verdict.before,
            "after": verdict.after,
            "change": verdict.change,
            "change_err": verdict.change_error,
            "significance": verdict.significance,
            "stars": comparison.fits[region].stars,
            "sentence": verdict.sentence,
        }
        for region, verdict in comparison.verdicts.items()
    ]


def _cards(comparison: Comparison) -> dict[str, Any]:
    between, search, profile = comparison.amplifiers, comparison.search, comparison.rings
    cards: dict[str, Any] = {
        "NSTARS": (len(comparison.predicted.stars), "stars that are compared"),
        "NLOST": (comparison.predicted.lost, "left out: light on unusable pixels"),
        "REFERENC": (comparison.flat.reference, "mean by which the flat is divided"),
        "AMPSLOPE": (between.slope, "star fluxes on flat's amplifier means"),
        "AMPSLERR": (between.error, "its error"),
        "AMPRMS": (between.rms, "rms of the flat's amplifier means"),
        "AMPRMSER": (between.rms_error, "its error"),
    }
    if search is not None:
        cards["RINGP"] = (search.p_value, "p-value from maps without rings")
        cards["RINGNULL"] = (len(search.null_scores), "random maps for RINGP")
    if profile is not None:
        cards |= {"RINGX": (profile.centre[0], "[pixel] centre of the tree rings"), "RINGY": (profile.centre[1], "[pixel]")}
    if search is not None and profile is not None:
        cards |= {"RINGXERR": (search.centre_error[0], "[pixel] its error"), "RINGYERR": (search.centre_error[1], "[pixel]")}
    return cards


def _star_table(comparison: Comparison) -> fits.BinTableHDU:
    """Return measured and predicted values on the rows of all stars; NaN if a star is not used for a quantity."""
    stars = comparison.predicted.stars
    columns: dict[str, NDArray[Any]] = {
        "exposure": stars.exposure,
        "x": stars.places.x,
        "y": stars.places.y,
        "region": comparison.regions.astype(np.uint8),
    }
    units = {"x": "pixel", "y": "pixel"}
    for quantity, pairs in comparison.pairs.items():
        parts = {"": pairs.star, "_err": pairs.star_error, "_flat": pairs.flat, "_flat_err": pairs.flat_error}
        for suffix, values in parts.items():
            whole = np.full(len(stars), np.nan, dtype=np.float32)
            whole[pairs.row] = values
            columns[f"{quantity}{suffix}"] = whole
            units[f"{quantity}{suffix}"] = _UNITS[quantity]
    return table_hdu("STARS", columns, units)


def _maps(cells: CellPairs, quantity: str) -> list[fits.ImageHDU]:
    parts = (("", cells.star), ("_ERR", cells.star_error), ("_FLAT", cells.flat), ("_FLAT_ERR", cells.flat_error))
    return [image_of_cells(f"{quantity.upper()}{suffix}", image, cells.cell, _UNITS[quantity]) for suffix, image in parts]


def _level_table(comparison: Comparison) -> fits.BinTableHDU:
    cells = comparison.level_cells
    filled = cells.count > 0
    x, y = cells.places
    columns = {"x": x, "y": y, "flat": cells.flat, "flat_err": cells.flat_error, "star": cells.star, "star_err": cells.star_error}
    table = Table({name: column[filled] for name, column in columns.items()})
    table["cell"] = np.flatnonzero(filled)
    hdu = fits.BinTableHDU(table, name="CELLS")
    hdu.header["CELL"] = (cells.cell, "[pixel] side of a cell")
    return hdu


def _headline_tables(comparison: Comparison) -> list[fits.BinTableHDU]:
    result = comparison.headline
    hdus = []
    draws = {name: null.draws for name, null in result.nulls.items()}
    if draws:
        longest = max(len(values) for values in draws.values())
        padded = {name: np.pad(values, (0, longest - len(values)), constant_values=np.nan) for name, values in draws.items()}
        hdus.append(fits.BinTableHDU(Table(padded), name="NULL"))
    if result.scan is not None:
        hdu = fits.BinTableHDU(Table({"side": result.scan.sizes, "error": result.scan.errors}), name="BLOCKS")
        if np.isfinite(result.scan.plateau):
            hdu.header["PLATEAU"] = (float(result.scan.plateau), "[pixel] side above which it is constant")
        hdus.append(hdu)
    return hdus


def _filled(table: Table) -> Table:
    """Return a table of rows with different columns, with NaN for missing entries."""
    return table.filled(np.nan) if table.masked or table.has_masked_columns else table
