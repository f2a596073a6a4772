"""What the stage begins with: files of catalogs, raw exposures that are measured first, and the labels of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from permil.camera import shared_camera
from permil.config import Config
from permil.config.spots import SpotsConfig
from permil.errors import InputError
from permil.exposures import SPOT, Index
from permil.isr.calibrate import calibration_fingerprint, shared_calibration
from permil.products import FINGERPRINT_CARD, RunFolder, fingerprint, is_current
from permil.progress import StageReport, parallel_map
from permil.spots.catalog import SpotCatalog
from permil.spots.catalog_file import growth_hdu, write_catalog
from permil.spots.errors import GridError
from permil.spots.exposures import measure_exposure
from permil.spots.folder import SpotsFolder
from permil.spots.grid_file import label_catalog, write_grid
from permil.spots.measure import MeasureOptions
from permil.spots.readers import catalog_of, open_source_table

_NEEDED = ("x", "y", "xx", "yy", "flux")
_FITS = {".fits", ".fit", ".cat", ".fz", ".gz"}


@dataclass(frozen=True)
class LabelledExposure:
    """A catalog with labels; ``decided`` says whether they are absolute, ``reason`` why there are none."""

    catalog: SpotCatalog
    decided: bool
    reason: str = ""


@dataclass(frozen=True)
class _MeasureTask:
    """One raw exposure of one detector."""

    config: Config
    options: SpotsConfig
    root: Path
    detector: str
    path: str
    output: Path
    fingerprint: str


def catalog_files(entries: Sequence[str | Path]) -> list[Path]:
    """Return the files among files and folders, in the order of their names.

    Raises
    ------
    InputError
        If one does not exist, or there is none.
    """
    files: list[Path] = []
    for entry in map(Path, entries):
        if entry.is_dir():
            files += [path for path in sorted(entry.rglob("*")) if path.is_file() and path.suffix in _FITS]
        elif entry.is_file():
            files.append(entry)
        else:
            raise InputError("there is no such catalog", path=entry, remedy="check spots.catalogs")
    if not files:
        raise InputError("there are no catalogs", path=entries[0] if entries else None, remedy="check spots.catalogs")
    return sorted(set(files))


def measured_catalogs(
    options: SpotsConfig, config: Config, folder: RunFolder, index: Index | None, workers: int, report: StageReport
) -> list[Path]:
    """Measure the raw spot exposures of an index that were not measured yet; return the catalogs of all.

    Raises
    ------
    InputError
        If there are none, or none of a detector that is named.
    """
    rows = [] if index is None else list(index.select(purpose=SPOT))
    missing = [name for name in options.detectors if name not in {str(row["detector"]) for row in rows}]
    if rows and missing:
        raise InputError(
            f"there are no spot exposures (IMGTYPE SPOT) of {', '.join(missing)}",
            remedy=f"detectors that have some: {', '.join(sorted({str(row['detector']) for row in rows}))}; check spots.detectors",
            value=missing,
        )
    if options.detectors:
        rows = [row for row in rows if row["detector"] in options.detectors]
    if not rows:
        raise InputError(
            "there are no spot exposures (IMGTYPE SPOT)" + (f" of {', '.join(options.detectors)}" if options.detectors else ""),
            remedy="name catalogs in spots.catalogs, or folders of raw spot exposures in exposures.roots",
        )
    products = SpotsFolder(folder.root)
    prints = {name: calibration_fingerprint(config, folder, name) for name in sorted({str(row["detector"]) for row in rows})}
    tasks = []
    for row in rows:
        name, path = str(row["detector"]), str(row["path"])
        print_ = fingerprint(
            {"measure": options.measure.model_dump(mode="json"), "band": options.band}, files=[path], upstream=[prints[name]]
        )
        output = products.catalog(name, str(row["obsid"]))
        tasks.append(_MeasureTask(config, options, folder.root, name, path, output, print_))
    waiting = [task for task in tasks if not is_current(task.output, task.fingerprint)]
    parallel_map(_measure, waiting, workers=workers, description="spots of exposures")
    report.done += len(waiting)
    report.skipped += len(tasks) - len(waiting)
    return [task.output for task in tasks]


def _measure(task: _MeasureTask) -> None:
    measurement = measure_exposure(
        task.path,
        shared_camera(task.config.camera),
        shared_calibration(task.config, RunFolder(task.root), task.detector),
        task.config.isr,
        options=MeasureOptions(**task.options.measure.model_dump()),
        band=task.options.band,
    )
    write_catalog(
        task.output,
        measurement.catalog,
        header={FINGERPRINT_CARD: (task.fingerprint, "what this was made from")},
        extensions=[growth_hdu(measurement.growth)],
    )


def label_file(path: Path, *, options: SpotsConfig, products: SpotsFolder | None = None) -> LabelledExposure:
    """Label one catalog (unless it has labels) and write it, if there is a folder for it; say why where it has no grid.

    Raises
    ------
    InputError
        If the file cannot be used.
    """
    with open_source_table(path) as table:
        catalog = catalog_of(table, flux=options.flux, band=options.band, needed=_NEEDED)
        if not catalog.detector and len(options.detectors) == 1:
            catalog = replace(catalog, detector=options.detectors[0])
        if options.detectors and catalog.detector not in options.detectors:
            return LabelledExposure(catalog, False, f"it is of {catalog.detector}, not of {', '.join(options.detectors)}")
        if catalog.labelled.any():
            return LabelledExposure(catalog, str(table.header.get("WINDOW", "decided")) == "decided")
        try:
            grid = label_catalog(catalog, columns=options.columns, rows=options.rows, degree=options.degree, path=path)
        except GridError as error:
            return LabelledExposure(catalog, False, str(error))
        if products is not None:
            write_grid(products.grid(catalog.detector, catalog.exposure), table, catalog, grid)
    return LabelledExposure(catalog.with_labels(grid.grid_i, grid.grid_j), grid.window == "decided")
