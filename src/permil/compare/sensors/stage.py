"""The task that combines all detectors and bands of a run, and of further runs: reading and writing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table

from permil.camera import Camera
from permil.camera.frames import amplifier_at, detector_to_ccs
from permil.compare.comparison import level_cell
from permil.compare.sensors.origins import Origin, RawStars, find_origins
from permil.compare.sensors.tables import SensorResults, combined_rows, sensor_rows, significance_rows
from permil.context import Run
from permil.engine import Task, Work
from permil.errors import CameraError, InputError
from permil.products import open_product, read_table, write_table
from permil.products.folder import CompareFolder, SpotsFolder
from permil.products.tables import flags, numbers

_AGAIN = "run permil compare in that run first"
_SPOTS_AGAIN = "run permil spots again"


def sensors_task(run: Run, stars: Path, needs: Sequence[Task]) -> Task:
    """Declare the tables of many sensors.

    Parameters
    ----------
    stars
        Folder of the stars of this run.
    needs
        Tasks of the comparisons of this run and of their tables.

    Raises
    ------
    InputError
        If a further run has no comparisons.
    """
    products = CompareFolder(run.folder.root)
    further = [Path(folder) for folder in run.config.compare.with_runs]
    for folder in further:
        if not CompareFolder(folder).correlations.is_file():
            raise InputError("there are no comparisons of stars and flats", path=CompareFolder(folder).path, remedy=_AGAIN)
    sources = [(run.folder.root, stars), *((folder, folder) for folder in further)]

    def write(fingerprint: str) -> tuple[str, ...]:
        _write_tables(products, sources, run.camera, seed=run.config.seed, fingerprint=fingerprint)
        return ()

    return Task(
        ("sensors",),
        "all sensors together",
        lambda task: Work.here(lambda: write(task.fingerprint)),
        outputs=(products.sensors, products.combined, products.tests, products.origins),
        options=run.options("compare", "camera", "seed"),
        files=tuple(path for folder in further for path in _tables_of(CompareFolder(folder))),
        needs=tuple(needs),
    )


def _tables_of(products: CompareFolder) -> tuple[Path, ...]:
    return tuple(path for path in (products.correlations, products.hypotheses) if path.is_file())


def _write_tables(
    products: CompareFolder, sources: Sequence[tuple[Path, Path]], camera: Camera, *, seed: int, fingerprint: str
) -> None:
    require_distinct([root for root, _ in sources])
    results, stars = [], []
    names = _run_names([root for root, _ in sources])
    for name, (root, spots) in zip(names, sources, strict=True):
        results += read_results(root, name, camera)
        stars += [
            read_raw_stars(SpotsFolder(spots), each.detector, each.band, camera)
            for each in results
            if each.run == name and SpotsFolder(spots).residuals(each.detector, each.band).is_file()
        ]
    combined = combined_rows(results)
    tables = {
        products.sensors: sensor_rows(results),
        products.combined: combined,
        products.tests: significance_rows(results, combined),
        products.origins: [_origin_row(origin) for origin in find_origins(stars, seed=seed)],
    }
    for path, rows in tables.items():
        table = _table(rows)
        table.meta = {"fingerprint": fingerprint}
        write_table(path, table)


def require_distinct(roots: Sequence[Path]) -> None:
    """Check that no run is combined twice, also as a copy or by a link: its stars would count as further ones.

    Raises
    ------
    InputError
        If two runs have the same comparisons.
    """
    found: dict[bytes, Path] = {}
    for root in roots:
        path = CompareFolder(root).correlations
        if not path.is_file():
            continue
        other = found.setdefault(path.read_bytes(), root)
        if other is not root:
            raise InputError(
                f"these comparisons of stars and flats repeat those of the run {other}",
                path=path,
                remedy="list each run once in compare.with_runs, and not this run itself",
                other=str(other),
            )


def _table(rows: Sequence[dict[str, Any]]) -> Table:
    """Return rows as a table; missing texts are dashes, missing numbers NaN."""
    columns = dict.fromkeys(name for row in rows for name in row)
    kinds = {name: next(type(row[name]) for row in rows if name in row) for name in columns}
    empty = {str: "-", bool: False}
    return Table({name: [row.get(name, empty.get(kinds[name], np.nan)) for row in rows] for name in columns})


def _run_names(roots: Sequence[Path]) -> list[str]:
    """Return the names of the folders of runs, or their whole paths if two are equal."""
    names = [root.name for root in roots]
    return names if len(set(names)) == len(names) else [str(root) for root in roots]


def _origin_row(origin: Origin) -> dict[str, Any]:
    return {
        "part": origin.name,
        "variance": origin.variance,
        "variance_err": origin.error,
        "rms_per_mil": origin.rms_per_mil,
        "rms_per_mil_err": origin.rms_error_per_mil,
        "reason": origin.reason or "-",
    }


def read_results(root: Path, name: str, camera: Camera) -> list[SensorResults]:
    """Read the results of all detectors and bands of one run.

    Raises
    ------
    InputError
        If a table is missing or damaged, or a detector is not of this camera.
    """
    products = CompareFolder(root)
    correlations = read_table(
        products.correlations, columns=("detector", "band", "quantity", "region", "scale", "r", "r_err", "p_value")
    )
    hypotheses = read_table(products.hypotheses) if products.hypotheses.is_file() else Table()
    groups = dict.fromkeys((str(row["detector"]), str(row["band"])) for row in correlations)
    results = []
    for detector, band in groups:
        try:
            sensor = camera[detector]
        except CameraError as error:
            raise InputError(
                f"detector {detector} does not belong to camera {camera.name}",
                path=products.correlations,
                remedy="combine runs of one camera",
            ) from error
        x_mm, y_mm = detector_to_ccs(sensor, *sensor.centre_pixel)
        own_band = "" if band == "-" else band
        results.append(
            SensorResults(
                run=name,
                folder=str(root),
                detector=detector,
                vendor=sensor.vendor,
                band=own_band,
                led=_led_of(products.comparison(detector, own_band)),
                x_mm=float(x_mm),
                y_mm=float(y_mm),
                correlations=_rows_of(correlations, detector, band),
                hypotheses=_rows_of(hypotheses, detector, band),
            )
        )
    return results


def _rows_of(table: Table, detector: str, band: str) -> Table:
    if not len(table):
        return table
    return table[(np.asarray(table["detector"]) == detector) & (np.asarray(table["band"]) == band)]


def _led_of(comparison: Path) -> str:
    if not comparison.is_file():
        return ""
    with open_product(comparison, "a comparison of stars and flat", remedy=_AGAIN) as hdus:
        return str(hdus[0].header.get("LED", ""))


def read_raw_stars(folder: SpotsFolder, detector: str, band: str, camera: Camera) -> RawStars:
    """Read raw and calibrated fluxes of one detector and band.

    Raises
    ------
    InputError
        If a file is missing or damaged.
    """
    sensor, path, calibration = camera[detector], folder.residuals(detector, band), folder.calibration(detector, band)
    with open_product(path, "calibrated stars", remedy=_SPOTS_AGAIN) as hdus:
        table, exposures = Table(hdus["RESIDUALS"].data), Table(hdus["EXPOSURES"].data)
    with open_product(calibration, "a calibration of spots", remedy=_SPOTS_AGAIN) as hdus:
        spots, rows = Table(hdus["SPOTS"].data), int(hdus[0].header["NROWS"])
    column = {name: numbers(table, name, path=path) for name in table.colnames if name != "used"}
    flux = column["expected_flux"] * (1.0 + column["flux"])
    used = flags(table, "used", path=path) & np.isfinite(flux) & (flux > 0) & (column["flux_err"] > 0)
    column = {name: values[used] for name, values in column.items()}
    x, y = (np.clip(column[axis], 0.0, size - 1.0) for axis, size in (("x", sensor.nx), ("y", sensor.ny)))
    x_mm, y_mm = detector_to_ccs(sensor, x, y)
    side = level_cell(sensor.shape)
    known = {name: numbers(spots, name, path=calibration) for name in ("flux", "flux_err")}
    with np.errstate(invalid="ignore", divide="ignore"):
        spot_error = known["flux_err"] / known["flux"]
    return RawStars(
        detector=detector,
        vendor=sensor.vendor,
        raft=sensor.raft,
        band=band,
        spot=(column["grid_i"] * rows + column["grid_j"]).astype(np.int64),
        exposure=column["exposure"].astype(np.int64),
        flux=flux[used],
        residual=column["flux"],
        noise=column["flux_err"],
        amplifier=np.array([sensor.amplifiers[number].name for number in amplifier_at(sensor, x, y)]),
        cell=((y + 0.5) // side * -(-sensor.nx // side) + (x + 0.5) // side).astype(np.int64),
        x_mm=np.asarray(x_mm),
        y_mm=np.asarray(y_mm),
        spot_flux=known["flux"],
        spot_error=spot_error,
        scale=numbers(exposures, "scale", path=path),
        scale_error=numbers(exposures, "scale_err", path=path),
    )
