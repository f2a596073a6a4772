"""The stage `spots`: grids, calibration, residuals and throughput maps from exposures or catalogs of the mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from astropy.table import Table

from permil.camera import Camera, Detector
from permil.config import Config
from permil.config.spots import SpotsConfig
from permil.errors import PermilError
from permil.exposures import Index
from permil.products import FINGERPRINT_CARD, RunFolder, check_output, fingerprint, is_current, write_table
from permil.progress import StageReport, parallel_map
from permil.spots.basis import TensorSplines
from permil.spots.calibration import SpotCalibration, apply_spots, calibrate
from permil.spots.calibration_file import (
    StoredCalibration,
    calibration_cards,
    read_calibration,
    write_calibration,
    write_residuals,
)
from permil.spots.duplicate_catalogs import repeated_catalogs
from permil.spots.errors import GridError, SpotError
from permil.spots.flux_model import FluxSolution
from permil.spots.folder import SpotsFolder
from permil.spots.inputs import LabelledExposure, catalog_files, detector_outlines, label_file, measured_catalogs
from permil.spots.measurements import Measurements, gather
from permil.spots.repeatability import LEAST_EXPOSURES, Repeatability, repeatability
from permil.spots.residuals import ExposureTable, Residuals
from permil.spots.summary import applied_rows, calibration_rows, describe_calibration, summary_table, summed_up
from permil.spots.throughput import MAPPED, amplifier_table, bin_residuals, check_cell, radial_profile, require_inside, ring_edges
from permil.spots.throughput_file import model_map, write_throughput
from permil.spots.window import common_window


def run_spots(
    options: SpotsConfig, config: Config, camera: Camera, folder: RunFolder, *, index: Index | None = None, workers: int = 1
) -> StageReport:
    """Reduce catalogs or raw exposures to throughput maps, per detector and band.

    Parameters
    ----------
    options
        Section `spots`.
    config
        Configuration of the reduction of raw exposures (sections `isr` and `camera`).
    index
        Index of exposures; required if no catalogs are given.

    Raises
    ------
    InputError
        If there is neither a catalog nor a spot exposure, or a file cannot be used.
    GridError
        If no exposure has a grid.
    SpotError
        If the measurements cannot be calibrated.
    """
    report, products = StageReport("spots"), SpotsFolder(folder.root)
    options = options.model_copy(update={"detectors": [camera[label].name for label in options.detectors]})
    sources, remarks = (
        catalog_files(options.catalogs)
        if options.catalogs
        else (measured_catalogs(options, config, folder, index, workers, report), [])
    )
    files = [source.path for source in sources]
    inputs = [*files, Path(options.calibration)] if options.calibration else files
    print_ = fingerprint({"spots": options.model_dump(mode="json"), "camera": config.camera}, files=inputs)
    if is_current(products.summary, print_):
        report.skipped += 1
        return report
    exposures = parallel_map(
        partial(label_file, options=options, camera=detector_outlines(camera), products=products),
        sources,
        workers=workers,
        description="grids of spots",
    )
    usable, left_out, found = _usable(exposures)
    rows: list[dict[str, Any]] = []
    failures: list[PermilError] = []
    for detector, band in sorted({(entry.catalog.detector, entry.catalog.band) for entry in usable}):
        members = [entry for entry in usable if (entry.catalog.detector, entry.catalog.band) == (detector, band)]
        try:
            group = _gather(members, options, camera)
            rows += _reduce_group(options, group, products, print_, report)
        except SpotError as error:
            failures.append(error)
            left_out += [(entry.catalog.exposure, detector, str(error)) for entry in members]
            continue
        left_out += [(name, detector, reason) for name, reason in group.left_out]
        report.done += 1
    remarks += found
    if not rows and failures:
        _add_remarks(failures[0], remarks)
        raise failures[0]
    report.messages += summed_up(remarks)
    _write_list(products.remarks, remarks, ("catalog", "remark"))
    _write_list(products.left_out, left_out, ("exposure", "detector", "reason"))
    if left_out:
        report.messages.append(f"{len(left_out)} exposures left out, see {products.left_out.name}")
    write_table(products.summary, summary_table(rows, fingerprint=print_))
    return report


def _usable(
    exposures: Sequence[LabelledExposure],
) -> tuple[list[LabelledExposure], list[tuple[str, str, str]], list[tuple[str, str]]]:
    """Return the distinct usable exposures; exposure, detector and reason of the others; and remarks on all.

    Raises
    ------
    PermilError
        If there is none; the class is that of the first error.
    SpotError
        If two catalogs of one exposure and detector differ.
    """
    left_out = [(entry.catalog.exposure, entry.catalog.detector, str(entry.error)) for entry in exposures if entry.error]
    usable = [entry for entry in exposures if not entry.error]
    if not usable:
        raise type(exposures[0].error or GridError(""))(
            f"no exposure has a usable grid ({len(exposures)} catalogs); the first: {left_out[0][0]}: {left_out[0][2]}",
            remedy="check the catalogs and spots.columns",
            value=len(exposures),
        )
    remarks = [(entry.catalog.exposure, remark) for entry in exposures for remark in (*entry.catalog.remarks, *entry.warnings)]
    repeated = repeated_catalogs([entry.catalog for entry in usable], [entry.path for entry in usable])
    remarks += [(usable[copy.number].path, f"repeats {usable[copy.of].path}: counted once") for copy in repeated]
    again = {copy.number for copy in repeated}
    return [entry for number, entry in enumerate(usable) if number not in again], left_out, remarks


@dataclass(frozen=True)
class _Group:
    """Measurements of one detector and band, in one window."""

    measurements: Measurements
    detector: Detector
    decided: bool
    left_out: tuple[tuple[str, str], ...]


def _gather(exposures: Sequence[LabelledExposure], options: SpotsConfig, camera: Camera) -> _Group:
    placed = common_window(
        [entry.catalog for entry in exposures], [entry.decided for entry in exposures], columns=options.columns, rows=options.rows
    )
    measurements = gather(placed.catalogs, columns=options.columns, rows=options.rows)
    return _Group(measurements, camera[measurements.detector], placed.decided, placed.left_out)


def throughput_splines(options: SpotsConfig, detector: Detector) -> TensorSplines:
    """Return the throughput model of the configuration."""
    return TensorSplines(detector.shape, options.knot_px, 3 if options.basis == "splines" else 0)


def _calibrate(group: _Group, options: SpotsConfig) -> tuple[SpotCalibration, Repeatability | None]:
    measurements = group.measurements
    require_inside(measurements.quantities["x"], measurements.quantities["y"], group.detector)
    calibration = calibrate(
        measurements,
        method=options.method,
        splines=throughput_splines(options, group.detector),
        mode=None if options.mode == "auto" else options.mode,
    )
    if calibration.mode == "dithered" or measurements.exposures < LEAST_EXPOSURES:
        return calibration, None
    return calibration, repeatability(calibration.residuals, calibration.exposures, spots=measurements.spots)


def _reduce_group(
    options: SpotsConfig, group: _Group, products: SpotsFolder, print_: str, report: StageReport
) -> list[dict[str, Any]]:
    """Calibrate the exposures of one detector and band, or apply a calibration to them, and write all products."""
    detector, measurements = group.detector, group.measurements
    check_cell(options.cell_px, detector)
    cards: dict[str, Any] = {
        FINGERPRINT_CARD: (print_, "what this was made from"),
        "DETECTOR": (detector.name, "detector"),
        "BAND": (measurements.band or None, "filter or LED"),
    }
    if options.calibration:
        stored = read_calibration(options.calibration)
        require_same_mask(stored, measurements, path=options.calibration)
        require_inside(measurements.quantities["x"], measurements.quantities["y"], detector)
        exposures, residuals = apply_spots(stored.spots, measurements)
        cards["CALIB"] = (Path(options.calibration).name[:60], "calibration that was applied")
        _write_maps(options, group, products, residuals, exposures, cards)
        report.messages.append(f"{detector.name}: calibration applied to {len(exposures.names)} exposures")
        return applied_rows(exposures, residuals, detector=detector.name, band=measurements.band)
    calibration, repeated = _calibrate(group, options)
    path = products.calibration(detector.name, measurements.band)
    write_calibration(path, calibration, decided=group.decided, repeatability=repeated, header=cards)
    cards = calibration_cards(calibration, decided=group.decided) | cards
    _write_maps(options, group, products, calibration.residuals, calibration.exposures, cards, calibration.solution)
    report.messages.append(describe_calibration(calibration, repeated))
    return calibration_rows(calibration, repeated, detector=detector.name)


def require_same_mask(stored: StoredCalibration, measurements: Measurements, *, path: str | Path) -> None:
    """Raise an error if calibration and measurements differ in mask, sensor, band or aperture.

    Raises
    ------
    SpotError
        If they differ; the message names the difference.
    """
    for name, of_calibration, of_exposures in (
        ("detector", stored.detector, measurements.detector),
        ("sensor", stored.serial, measurements.serial),
        ("band", stored.band, measurements.band),
        ("flux unit", stored.flux_unit, measurements.flux_unit),
        ("aperture", stored.aperture, measurements.aperture),
        ("mask", (stored.columns, stored.rows), (measurements.columns, measurements.rows)),
    ):
        unknown = of_calibration in ("", None) or of_exposures in ("", None) or of_calibration != of_calibration
        if not unknown and of_exposures == of_exposures and of_calibration != of_exposures:
            raise SpotError(
                f"the calibration is of {name} {of_calibration}, but the exposures are of {of_exposures}",
                path=path,
                remedy="give the calibration of the same mask, detector and band",
                value=of_exposures,
                allowed=of_calibration,
            )


def _write_maps(
    options: SpotsConfig,
    group: _Group,
    products: SpotsFolder,
    residuals: Residuals,
    exposures: ExposureTable,
    cards: dict[str, Any],
    solution: FluxSolution | None = None,
) -> None:
    """Write residuals, and their maps on the detector."""
    detector, measurements = group.detector, group.measurements
    path = products.residuals(detector.name, measurements.band)
    write_residuals(path, residuals, exposures, rows=measurements.rows, header=cards)
    maps = {quantity: bin_residuals(residuals, quantity, detector, cell=options.cell_px) for quantity in MAPPED}
    cards = cards | {"CELL": (options.cell_px, "[pixel] side of a cell")}
    profile, model = None, None
    if options.rings is not None:
        edges = ring_edges(detector, options.rings, options.ring_px)
        profile = radial_profile(residuals, centre=options.rings, edges=edges)
        cards |= {"RINGX": (options.rings[0], "[pixel] centre of the rings"), "RINGY": (options.rings[1], "[pixel]")}
    if solution is not None:
        model = model_map(solution, detector, cell=options.cell_px, count=maps["flux"].count)
    write_throughput(
        products.throughput(detector.name, measurements.band),
        maps,
        amplifier_table(residuals, detector),
        model=model,
        profile=profile,
        header=cards,
    )


def _add_remarks(error: PermilError, remarks: list[tuple[str, str]]) -> None:
    """Add remarks about the catalogs to an error, since they may explain it."""
    if remarks:
        error.remedy = f"{error.remedy} ({'; '.join(summed_up(remarks))})"


def _write_list(path: Path, rows: Sequence[tuple[str, ...]], names: tuple[str, ...]) -> None:
    """Write a table of text; remove it if there are no rows."""
    if rows:
        write_table(path, Table(rows=rows, names=names))
    else:
        path.unlink(missing_ok=True)


def calibrate_files(catalogs: Sequence[str | Path], out: str | Path, *, options: SpotsConfig, camera: Camera) -> str:
    """Calibrate a mask from catalogs alone and write the calibration product.

    Parameters
    ----------
    catalogs
        Files or folders, all of one detector and band.
    out
        FITS file to write.

    Returns
    -------
    str
        Summary text.

    Raises
    ------
    PermilError
        See `run_spots`.
    """
    options = options.model_copy(update={"detectors": [camera[label].name for label in options.detectors]})
    sources, remarks = catalog_files(catalogs)
    check_output(out, inputs=[source.path for source in sources])
    usable, left_out, found = _usable([label_file(source, options=options, camera=camera) for source in sources])
    remarks += found
    try:
        group = _gather(usable, options, camera)
        calibration, repeated = _calibrate(group, options)
    except SpotError as error:
        _add_remarks(error, remarks)
        raise
    write_calibration(out, calibration, decided=group.decided, repeatability=repeated)
    reasons = [(name, reason) for name, _, reason in left_out] + list(group.left_out)
    return "\n".join(
        [
            describe_calibration(calibration, repeated),
            *summed_up(remarks),
            *(f"left out: {name}: {reason}" for name, reason in reasons),
        ]
    )
