"""Products of the package `compare` whose numbers are known, written column by column as its documentation has them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table

from permil.products import write_hdus, write_table
from permil.products.folder import CompareFolder

SIDE, CELL = 1024, 16
SLOPE, NAIVE_ERROR, ERROR, WORTH = 0.6, 0.01, 0.03, 123.0
SENTENCE = (
    "Dividing by the plain flat lowers the scatter of star fluxes here: 2.50 per mil without and 1.80 per mil with it, noise "
    "subtracted (change -0.70 +- 0.10 per mil, 7.0 sigma)."
)
CHOICE = "Use the efficiency flat for fluxes of stars and the plain flat for the sky: (change -0.496 +- 0.044 per mil)."
SCATTER = {
    "undivided": (2.5e-3, 2e-5), "plain flat": (2.2e-3, 2e-5), "efficiency flat": (1.7e-3, 2e-5), "best filter": (1.6e-3, 5e-5),
    "noise": (1e-3, 1e-5),
}  # fmt: skip
STRIPES = "both maps have stripes; subtract from both maps what is smooth"
QUANTITIES = ("flux", "dx", "dy", "xx", "yy", "xy")


def correlation_row(quantity: str, region: str, cell: int, *, p_value: float = 1e-4, **more: float) -> dict[str, Any]:
    """Return a row with the columns of a correlation and those of two methods."""
    scale = f"{cell} px" if cell else "stars"
    row = {
        "quantity": quantity, "region": region, "scale": scale, "cell": cell, "r": 0.7, "r_err": ERROR, "r_low": 0.67, "r_high": 0.73,
        "n": 2000, "n_masked": 0, "n_eff": WORTH, "n_eff_test": 240.0, "p_value": p_value,
        "reason": "" if np.isfinite(p_value) else STRIPES,
        "rank": 0.69, "rank_p_value": 2e-4, "r_corrected": 0.8, "r_corrected_err": 0.02, "slope": SLOPE, "slope_err": 0.025,
        "naive_r_err": NAIVE_ERROR, "naive_p_value": 0.0, "some_new_method_r_err": 0.04, "some_new_method_p_value": 3e-3,
        "phases_r_err": 0.034, "phases_p_value": 1 / 200, "phases_p_floor": 1 / 200, "shifts_r_err": np.nan, "shifts_p_value": np.nan,
    }  # fmt: skip
    return row | more


def correlations(*, p_value: float) -> list[dict[str, Any]]:
    """Return the headline, which has the p-value given, and correlations on scales and in a region, which have one."""
    rows = [correlation_row("flux", "whole detector", 0, p_value=p_value)]
    rows += [correlation_row("flux", "whole detector", cell, r=0.75) for cell in (16, 64)]
    rows += [correlation_row(name, "whole detector", cell, r=0.3) for name in QUANTITIES[1:] for cell in (0, 16)]
    # A quantity of which nothing is known, and a region.
    rows.append(correlation_row("xy", "whole detector", 64, r=np.nan, r_err=np.nan, r_low=np.nan, p_value=np.nan, slope=np.nan))
    return [*rows, correlation_row("flux", "edge", 0, r=0.5)]


def hypotheses() -> list[dict[str, Any]]:
    """Return fractions on two scales and slopes, of the whole detector and of one region."""
    shares = {"efficiency": 0.6, "pixel area": 0.35, "diffusion": 0.05, "sum": 1.0}
    rows = []
    for region in ("whole detector", "mid line"):
        common = {"region": region, "stars": 2000}
        for scale in ("16-32 px", "total"):
            for kind, share in shares.items():
                unknown = region == "mid line" and scale == "16-32 px"
                figures = {"value": np.nan if unknown else share, "error": np.nan if unknown else 0.04}
                rows.append(
                    common
                    | {"figure": "fraction", "of": kind, "scale": scale, "population_error": 0.05, "flat_rms": 3e-3}
                    | figures
                )
        for name, slope in (("flux", 0.61), ("shift", 0.33), ("size", 0.04)):
            entry = {"figure": "slope", "of": name, "scale": "total", "value": slope, "error": 0.02, "population_error": np.nan}
            rows.append(common | entry | {"flat_rms": np.nan})
    return rows


def verdicts() -> list[dict[str, Any]]:
    """Return a verdict on the whole detector."""
    entry = {"outcome": "lowers", "before": 2.5e-3, "after": 1.8e-3, "change": -7e-4, "change_err": 1e-4, "significance": -7.0}
    return [{"region": "whole detector", **entry, "stars": 2000, "sentence": SENTENCE}]


def write_comparison(root: Path, detector: str, band: str, *, p_value: float = np.nan, without: Sequence[str] = ()) -> Path:
    """Write the comparison of one detector and band, some extensions left out."""
    rng = np.random.default_rng(4)
    cards = {
        "FINGERPR": f"f{detector}{band}", "DETECTOR": detector, "BAND": band, "LED": "red", "NEXPOSUR": 40, "CELL": CELL,
        "HIGHPASS": 128.0, "FLATFLD": False, "SEED": 5, "NSTARS": 2000, "NLOST": 3, "REFERENC": "amplifier", "AMPSLOPE": 0.9,
        "AMPSLERR": 0.2, "AMPRMS": 1.1e-3, "AMPRMSER": 1e-5, "RINGP": 0.01, "RINGX": -40.0, "RINGY": -50.0, "RINGXERR": 9.0,
        "RINGYERR": 8.0,
    }  # fmt: skip
    tables = {
        "STARS": _stars(rng),
        "CORRELATIONS": Table(rows=correlations(p_value=p_value)),
        "NULL": Table({"phases": 0.09 * rng.standard_normal(500), "shifts": np.append([0.1, -0.1], np.full(498, np.nan))}),
        "BLOCKS": Table({"side": [20.0, 40.0, 80.0, 160.0], "error": [0.02, 0.028, 0.03, np.nan]}),
        "HYPOTHESES": Table(rows=hypotheses()),
        "VERDICTS": Table(rows=verdicts()),
        "CELLS": Table(
            {"x": [15.5, 47.5, 15.5], "y": [15.5, 15.5, 47.5], "star": [1e-3, -2e-3, 5e-3], "star_err": [1e-4, 1e-4, 1e-2]}
        ),
        "SILENT": Table({"of": ["edge"], "reason": ["12 stars are too few"]}),
        "RINGS": Table(
            {"radius": np.arange(60, 1400, 2.0), "level": 2e-3 * np.sin(np.arange(670) / 9), "error": np.full(670, 3e-4)}
        ),
    }
    hdus: list[Any] = [fits.PrimaryHDU(header=fits.Header(list(cards.items())))]
    hdus += [fits.BinTableHDU(table, name=name) for name, table in tables.items() if name not in without]
    hdus += [hdu for hdu in _images(rng) if hdu.name not in without]
    path = CompareFolder(root).comparison(detector, band)
    write_hdus(path, hdus)
    return path


def scatter_rows() -> list[dict[str, Any]]:
    """Return the scatter of star fluxes on left-out dithers."""
    return [
        {
            "division": name, "scatter": value, "scatter_err": error, "sensor_scatter": value - 1e-3, "sensor_scatter_err": error,
            "change": -4.96e-4 if name == "plain flat" else np.nan, "change_err": 4.4e-5,
        }
        for name, (value, error) in SCATTER.items()
    ]  # fmt: skip


def write_choice(root: Path, detector: str, band: str, *, use: str = "efficiency flat") -> None:
    """Write the table of efficiency flats of a run."""
    choice = {"use_for_fluxes": use, "use_for_sky": "plain flat", "left_in_sky": 1.5e-3, "left_in_sky_err": 1e-4}
    rows = [{"detector": detector, "band": band, "led": "red", **row, **choice, "sentence": CHOICE} for row in scatter_rows()]
    write_table(CompareFolder(root).efficiency, Table(rows=rows))


def _stars(rng: np.random.Generator) -> Table:
    size = 2000
    columns: dict[str, Any] = {"exposure": np.arange(size) % 40, "x": rng.uniform(0, SIDE, size), "y": rng.uniform(0, SIDE, size)}
    columns["region"] = np.full(size, 5, dtype=np.uint8)
    columns["flux_flat"] = 3e-3 * rng.standard_normal(size)
    columns["flux"] = SLOPE * columns["flux_flat"] + 2e-3 * rng.standard_normal(size)
    columns["flux"][::3] = np.nan
    return Table(columns)


def _images(rng: np.random.Generator) -> list[fits.ImageHDU]:
    shape = (SIDE // CELL, SIDE // CELL)
    hdus = []
    for name in QUANTITIES:
        flat = 3e-3 * rng.standard_normal(shape)
        star = SLOPE * flat + 1e-3 * rng.standard_normal(shape)
        # Most small cells have no star.
        star[rng.random(shape) < 0.7] = np.nan
        flat[np.isnan(star)] = np.nan
        scale = 1000.0 if name == "xx" else 1.0
        images = {"": star, "_ERR": np.full(shape, 1e-3), "_FLAT": scale * flat, "_FLAT_ERR": np.full(shape, 1e-4)}
        hdus += [fits.ImageHDU(image.astype(np.float32), name=f"{name.upper()}{suffix}") for suffix, image in images.items()]
    hdus += [fits.ImageHDU(rng.standard_normal(shape).astype(np.float32), name=f"SHIFT_{axis}") for axis in "XY"]
    for hdu in hdus:
        hdu.header["CDELT1"] = float(CELL)
    return hdus


def write_tables(root: Path, groups: Sequence[tuple[str, str]], *, p_value: float = np.nan, without: Sequence[str] = ()) -> None:
    """Write the tables of the run; names without text are dashes, as the package writes them."""
    folder = CompareFolder(root)
    levels = {
        "of": ["flat", "flat", "stars and flat"], "level": ["amplifier", "raft", "detector"], "part": ["both", "both", "both"],
        "flat_rms_per_mil": [0.54, np.nan, 1.3], "flat_rms_per_mil_err": [0.1, np.nan, 0.2], "degrees_of_freedom": [3, -1, 1],
        "star_rms_per_mil": [np.nan, np.nan, 1.1], "star_rms_per_mil_err": [np.nan, np.nan, 0.3], "cell_mm": [0.64, np.nan, 0.32],
        "origin": ["response of the CCD or light source", "-", "response of the CCD"], "reason": ["-", "all cells lie on one raft", "-"],
    }  # fmt: skip
    for path, rows in (
        (folder.correlations, correlations(p_value=p_value)),
        (folder.hypotheses, hypotheses()),
        (folder.verdicts, verdicts()),
        (folder.levels, None),
    ):
        if path.stem in without:
            continue
        if rows is None:
            table = Table(levels)
        else:
            table = Table(rows=[{"detector": name, "band": band or "-", **row} for name, band in groups for row in rows])
            for name in table.colnames:
                if table[name].dtype.kind == "U":
                    table[name] = [entry or "-" for entry in table[name]]
        table.meta = {"fingerprint": "ab12"}
        write_table(path, table)
