"""Inputs of the stage: catalog files, raw exposures to be measured, and the labels of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from astropy.table import Table

from permil.camera import Camera, detector_key, shared_camera
from permil.config import Config
from permil.config.spots import MeasureConfig, SpotsConfig
from permil.context import Run
from permil.engine import Task, Work
from permil.errors import GridError, InputError, OutputError, PermilError, SpotError
from permil.exposures import SPOT
from permil.exposures.exposure import Exposure, read_exposure
from permil.exposures.hdu import Checksums
from permil.isr import Calibration
from permil.isr.inputs import shared_calibration
from permil.isr.reduce import reduce_file
from permil.isr.stage import Reduction, memory_for, reduction_of
from permil.products import RunFolder, fingerprint_card
from permil.products.folder import SpotsFolder
from permil.spots.catalog import SpotCatalog, facts_of_name, growth_hdu, stem_of, write_catalog
from permil.spots.files import grid_warnings, label_catalog, write_grid
from permil.spots.measure import SpotMeasurement, measure_spots
from permil.spots.readers import catalog_of, open_source_table

_NEEDED = ("x", "y", "xx", "yy", "flux")
_SUFFIXES = (".fits", ".fit", ".fts", ".cat")
_PACKED = (".gz", ".fz", ".bz2", ".xz")
# A catalog with a larger fraction of sources outside the detector is of another detector.
_MOST_OUTSIDE = 0.05


def measure_exposure(
    path: str | Path,
    camera: Camera,
    calibration: Calibration,
    *,
    options: MeasureConfig | None = None,
    band: str = "",
    checksums: Checksums = "refuse",
) -> SpotMeasurement:
    """Reduce one raw spot exposure of one detector and measure its spots.

    Parameters
    ----------
    path
        Raw file.
    calibration
        Calibration of the expected detector.
    band
        Filter or LED of the exposure; by default the card FILTER. The CCOB cards of a spot exposure are stale.
    checksums
        See `permil.exposures.RawFile`.

    Returns
    -------
    SpotMeasurement

    Raises
    ------
    InputError
        If the file cannot be used, is not a spot exposure, or is of another detector.
    CalibrationError
        If a calibration input is missing or does not match.
    SpotError
        If the image cannot be measured.
    """
    exposure = read_exposure(path, camera, checksums=checksums)
    if not is_spot_exposure(exposure):
        raise InputError(
            f"not a spot exposure (IMGTYPE {exposure.image_type.upper()}, TESTTYPE {exposure.test_type.upper() or 'missing'})",
            path=path,
            remedy="give exposures of the spot projector",
            value=exposure.image_type,
        )
    reduced = reduce_file(path, camera, calibration, checksums=checksums)
    try:
        measurement = measure_spots(
            reduced.image,
            reduced.variance(),
            reduced.mask,
            reduced.detector,
            options=options,
            row_variance=reduced.level_variance,
        )
    except SpotError as error:
        raise SpotError(error.what, path=path, remedy=error.remedy, **error.data) from error
    catalog = replace(
        measurement.catalog,
        exposure=exposure.obsid,
        exposure_time=exposure.exposure_s,
        projector_x=exposure.x_header_mm,
        projector_y=exposure.y_header_mm,
        band=band_of(exposure.filter, band),
        mjd=exposure.mjd,
        flux_unit="electron" if calibration.unit == "electron" else "count",
        serial=exposure.serial,
    )
    return replace(measurement, catalog=catalog)


def band_of(filter_name: str, band: str) -> str:
    """Return the band of an exposure: the configured one, else its filter."""
    return band or (filter_name if filter_name.lower() not in ("none", "empty") else "")


def is_spot_exposure(exposure: Exposure) -> bool:
    """Return whether an exposure is of the spot projector: IMGTYPE is SPOT, or TESTTYPE starts with it."""
    return exposure.image_type == "spot" or (
        exposure.image_type not in ("bias", "dark") and exposure.test_type.startswith("spot")
    )


@dataclass(frozen=True)
class CatalogFile:
    """A file of a catalog; ``name`` is the exposure if neither header nor file name contains it."""

    path: Path
    name: str = ""


@dataclass(frozen=True)
class LabelledExposure:
    """A catalog with labels; ``decided`` if they are absolute, ``error`` if it cannot be used.

    ``path`` is its file, ``warnings`` are about its grid.
    """

    catalog: SpotCatalog
    decided: bool
    error: PermilError | None = None
    path: str = ""
    warnings: tuple[str, ...] = ()


def catalog_files(entries: Sequence[str | Path]) -> tuple[list[CatalogFile], list[tuple[str, str]]]:
    """Find catalog files in files and folders.

    Returns
    -------
    files
        Sorted by path; a file reached in several ways (folder and file, links) is listed once.
    remarks
        Repeated files: path and clause.

    Raises
    ------
    InputError
        If an entry does not exist, or there is no catalog.
    """
    found: list[Path] = []
    for entry in map(Path, entries):
        if entry.is_dir():
            found += [path for path in sorted(entry.rglob("*")) if path.is_file() and _is_catalog(path.name)]
        elif entry.is_file():
            found.append(entry)
        else:
            raise InputError("the catalog does not exist", path=entry, remedy="check spots.catalogs")
    if not found:
        raise InputError(
            "no catalogs were found",
            path=entries[0] if entries else None,
            remedy=f"check spots.catalogs; files in folders are used if their names end in {', '.join(_SUFFIXES)}",
        )
    remarks: list[tuple[str, str]] = []
    places: dict[tuple[int, int], Path] = {}
    for path in sorted(set(found)):
        status = path.stat()
        first = places.setdefault((status.st_dev, status.st_ino), path)
        if first != path:
            remarks.append((str(path), f"is the same file as {first}: counted once"))
    remarks += [
        (str(path), "is given more than once: counted once") for path, times in sorted(Counter(found).items()) if times > 1
    ]
    files = sorted(places.values())
    stems = [stem_of(path) for path in files]
    return [
        CatalogFile(path, f"{path.absolute().parent.name}_{stem}" if stems.count(stem) > 1 else stem)
        for path, stem in zip(files, stems, strict=True)
    ], remarks


def _is_catalog(name: str) -> bool:
    """Return whether a file in a folder is a catalog by its name; hidden files are incomplete, or left over from a copy."""
    lower = name.lower()
    for suffix in _PACKED:
        lower = lower.removesuffix(suffix)
    return not name.startswith(".") and lower.endswith(_SUFFIXES)


def catalog_tasks(run: Run) -> list[Task]:
    """Declare the catalogs of the raw spot exposures that are wanted, one task for each.

    Raises
    ------
    InputError
        If there are none, or none of a detector that is named.
    """
    wanted = [run.camera[label].name for label in run.config.spots.detectors]
    rows = list(run.index.select(purpose=SPOT)) if run.config.exposures.has_raw_files else []
    missing = [name for name in wanted if name not in {str(row["detector"]) for row in rows}]
    if rows and missing:
        raise InputError(
            f"there are no spot exposures (IMGTYPE SPOT) of {', '.join(missing)}",
            remedy=f"detectors with spot exposures: {', '.join(sorted({str(row['detector']) for row in rows}))}; check spots.detectors",
            value=missing,
        )
    if wanted:
        rows = [row for row in rows if row["detector"] in wanted]
    if not rows:
        raise InputError(
            "there are no spot exposures (IMGTYPE SPOT)" + (f" of {', '.join(wanted)}" if wanted else ""),
            remedy="give catalogs in spots.catalogs, or folders of raw spot exposures in exposures.roots",
        )
    reductions = {name: reduction_of(run, name) for name in sorted({str(row["detector"]) for row in rows})}
    return [_catalog_task(run, row, reductions[str(row["detector"])]) for row in rows]


def _catalog_task(run: Run, row: Table.Row, reduction: Reduction) -> Task:
    detector, exposure, path = (str(row[name]) for name in ("detector", "obsid", "path"))
    output = SpotsFolder(run.folder.root).catalog(detector, exposure)
    return Task(
        ("catalog", detector, exposure),
        "spots of exposures",
        lambda task: Work(
            partial(
                _measure, config=run.config, folder=run.folder, detector=detector, output=output, fingerprint=task.fingerprint
            ),
            [path],
        ),
        outputs=(output,),
        options=reduction.options | run.options("spots.measure", "spots.band"),
        files=[path, *reduction.files],
        needs=reduction.needs,
        leaves_out=(InputError,),
        command=("spots", "--detector", detector),
        # Its labels follow: the grid of the spots is found in each catalog.
        seconds=0.1 + 4.5e-8 * run.camera[detector].nx * run.camera[detector].ny,
        memory=memory_for(run.camera[detector], bytes_per_pixel=100),
    )


def _measure(path: str, *, config: Config, folder: RunFolder, detector: str, output: Path, fingerprint: str) -> None:
    """Measure an exposure and write its catalog."""
    measurement = measure_exposure(
        path,
        shared_camera(config.camera),
        shared_calibration(config, folder, detector),
        options=config.spots.measure,
        band=config.spots.band,
        checksums=config.exposures.checksums,
    )
    write_catalog(
        output,
        measurement.catalog,
        header=fingerprint_card(fingerprint),
        extensions=[growth_hdu(measurement.growth)],
    )


def detector_outlines(camera: Camera) -> Camera:
    """Return a camera without amplifiers: names, serial numbers and sizes of the detectors, for fast transfer to workers."""
    return replace(camera, detectors={name: replace(entry, amplifiers=()) for name, entry in camera.detectors.items()})


def label_file(
    source: CatalogFile, *, options: SpotsConfig, camera: Camera, products: SpotsFolder | None = None
) -> LabelledExposure:
    """Label one catalog unless it has labels, and write it if a folder is given; record why it cannot be used.

    Parameters
    ----------
    source
        The catalog.
    options
        Section `spots`.
    camera
        The camera with the detector; amplifiers are not needed.
    products
        Where labelled catalogs are written; None: they are not written.

    Returns
    -------
    LabelledExposure
        ``catalog.detector`` is the camera's name of the detector. A catalog that cannot be read is empty.
    """
    path, facts = str(source.path), facts_of_name(source.path)
    read: SpotCatalog | None = None
    try:
        with open_source_table(source.path) as table:
            read = catalog_of(table, flux=options.flux, band=options.band, name=source.name, needed=_NEEDED)
            catalog = read = _of_camera(read, facts.detector, options, camera)
            if catalog.labelled.any():
                _require_light(catalog)
                decided = table.header.text("WINDOW").lower() in ("", "decided")
                return LabelledExposure(catalog, decided, path=path)
            grid = label_catalog(catalog, columns=options.columns, rows=options.rows, degree=options.degree, path=source.path)
            labelled = catalog.with_labels(grid.grid_i, grid.grid_j)
            _require_light(labelled)
            if products is not None:
                write_grid(products.grid(catalog.detector, catalog.exposure), table, catalog, grid)
    except OutputError:
        raise
    except PermilError as error:
        empty = np.zeros(0)
        nothing = SpotCatalog(empty, empty, exposure=facts.exposure or source.path.name, detector=facts.detector)
        return LabelledExposure(read or nothing, False, error, path)
    return LabelledExposure(labelled, grid.window == "decided", path=path, warnings=tuple(grid_warnings(grid)))


def _require_light(catalog: SpotCatalog) -> None:
    """Raise an error if a labelled catalog has no measurement that can be calibrated.

    Raises
    ------
    SpotError
        If no labelled spot is good, or most fluxes are not positive.
    """
    flux = catalog.flux[catalog.labelled & catalog.good]
    if not len(flux):
        raise SpotError(
            "no spot is good: all are saturated, blended, cut, masked or without flux",
            remedy="check the exposure time and the flags of the catalog",
        )
    if not np.median(flux) > 0:
        raise SpotError(
            f"most spots have no positive flux: the median flux is {np.median(flux):.3g}",
            remedy="check that the projector was on, and the background",
            value=float(np.median(flux)),
        )


def _of_camera(catalog: SpotCatalog, in_name: str, options: SpotsConfig, camera: Camera) -> SpotCatalog:
    """Return a catalog with the camera's name of its detector; positions off the detector are NaN.

    Raises
    ------
    PermilError
        If it does not identify its detector, the camera has no such detector, the file name contradicts it, too many sources lie
        outside, or its detector is not requested.
    """
    wanted = [camera[label].name for label in options.detectors]
    stated = catalog.detector or (wanted[0] if len(wanted) == 1 else "")
    if not stated:
        raise SpotError(
            "the catalogs do not identify their detector in header (DETECTOR) or file name",
            remedy="give one detector in spots.detectors, or include its name (R22_S11) in file names",
        )
    detector = camera.find(stated)
    if detector is None:
        raise InputError(
            f"its detector {stated!r} is not in camera {camera.name}",
            remedy="check the card DETECTOR and the camera",
            value=stated,
        )
    if in_name and camera.find(in_name) not in (None, detector):
        raise InputError(
            f"header and file name contradict each other: detector {stated} and {in_name}",
            remedy="correct the wrong one",
            value=stated,
            other=in_name,
        )
    if wanted and detector.name not in wanted:
        raise GridError(f"it is of {detector.name}, not of {', '.join(wanted)}")
    remarks = list(catalog.remarks)
    if catalog.serial and detector.serial and detector_key(catalog.serial) != detector_key(detector.serial):
        remarks.append(
            f"it is of sensor {catalog.serial}, but {detector.name} of camera {camera.name} is sensor {detector.serial}"
        )
    low, high = -0.5, np.array([[detector.nx], [detector.ny]]) - 0.5
    places = np.stack([catalog.x, catalog.y])
    located = np.isfinite(places).all(axis=0)
    outside = located & ((places < low) | (places > high)).any(axis=0)
    if outside.any():
        count, first = int(outside.sum()), int(np.flatnonzero(outside)[0])
        where = f"({catalog.x[first]:.1f}, {catalog.y[first]:.1f})"
        where = f"lie outside {detector.name} ({detector.nx} x {detector.ny} pixels), the first at {where}"
        if count > _MOST_OUTSIDE * located.sum():
            raise SpotError(
                f"{count} of {located.sum()} sources {where}",
                remedy="check that the exposure is of this detector, not binned, and positions are 0-based pixels of the whole detector",
                value=count,
            )
        remarks.append(f"{count} sources {where}: not used")
    return replace(
        catalog,
        detector=detector.name,
        x=np.where(outside, np.nan, catalog.x),
        y=np.where(outside, np.nan, catalog.y),
        grid_i=np.where(outside, -1, catalog.grid_i),
        grid_j=np.where(outside, -1, catalog.grid_j),
        remarks=tuple(remarks),
    )
