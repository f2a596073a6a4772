"""The stage `spots`: grids, calibration, residuals and throughput maps from exposures or catalogs of the mask, and their summary."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table

from permil.camera import Camera, Detector, load_camera
from permil.config.load import make_section
from permil.config.spots import SpotsConfig
from permil.context import Run
from permil.engine import Task, Work
from permil.engine.threads import one_thread
from permil.errors import GridError, InputError, PermilError, SpotError
from permil.products import Description, check_output, fingerprint_card, write_table
from permil.products.fits import file_card
from permil.products.folder import SpotsFolder
from permil.progress import StageReport, do_tasks, show_message
from permil.rounding import rounded
from permil.spots.calibration import SpotCalibration, apply_spots, calibrate
from permil.spots.catalog import SpotCatalog
from permil.spots.files import (
    StoredCalibration,
    calibration_cards,
    label_catalog,
    read_calibration,
    write_calibration,
    write_residuals,
)
from permil.spots.flux_model import FluxExcess, FluxSolution, TensorSplines
from permil.spots.inputs import CatalogFile, LabelledExposure, catalog_files, catalog_tasks, detector_outlines, label_file
from permil.spots.measurements import Measurements, common_window, gather, repeated_catalogs
from permil.spots.residuals import (
    LEAST_EXPOSURES,
    MAPPED,
    UNITS,
    ExposureTable,
    Repeatability,
    Residuals,
    amplifier_table,
    bin_residuals,
    check_cell,
    model_map,
    radial_profile,
    repeatability,
    require_inside,
    ring_edges,
    write_throughput,
)
from permil.stages import StageFunctions

_NUMBER = re.compile(r"[-+]?\d+(?:\.\d*)?(?:e[-+]?\d+)?")
COLUMNS = ("metric", "detector", "band", "value", "error", "unit")


def run_spots(run: Run) -> StageReport:
    """Reduce catalogs or raw exposures to throughput maps, per detector and band.

    Raises
    ------
    InputError
        If there is neither a catalog nor a spot exposure, or a file cannot be used.
    GridError
        If no exposure has a grid.
    SpotError
        If the measurements cannot be calibrated.
    """
    report = StageReport("spots")
    catalogs, calibrations = spots_tasks(run)
    ends = do_tasks([*catalogs, calibrations])
    failed = [ends[task.key].error for task in catalogs if ends[task.key].error is not None]
    if catalogs and len(failed) == len(catalogs):
        raise InputError(f"none of {len(catalogs)} spot exposures can be used; the first: {failed[0]}")
    report.count(ends)
    report.messages += [f"left out: {error}" for error in failed]
    report.messages += ends[calibrations.key].messages
    return report


def calibrations_task(run: Run, catalogs: Sequence[Task]) -> Task:
    """Declare the calibrations, residuals and maps of all detectors and bands.

    Parameters
    ----------
    catalogs
        Tasks that make the catalogs, where the configuration names none.

    Raises
    ------
    InputError
        If a catalog that is named does not exist, or there is none.
    """
    options, products = run.config.spots, SpotsFolder(run.folder.root)
    named, remarks = catalog_files(options.catalogs) if options.catalogs else ([], [])

    def work(task: Task) -> Work:
        sources = [*named, *(CatalogFile(need.outputs[0]) for need in task.needs)]
        function = partial(label_file, options=options, camera=detector_outlines(run.camera), products=products)
        return Work(function, sources, lambda exposures: _reduce(run, exposures, remarks, task.fingerprint))

    return Task(
        ("spots",),
        "grids of spots",
        work,
        outputs=(products.summary,),
        options=run.options("spots", "camera"),
        files=[*(source.path for source in named), *([Path(options.calibration)] if options.calibration else [])],
        needs=tuple(catalogs),
        tolerant=True,
        command=("spots", "--step", "spots"),
    )


def spots_tasks(run: Run) -> tuple[list[Task], Task]:
    """Declare the catalogs of raw exposures, where the configuration names none, and the products of all catalogs.

    Raises
    ------
    InputError
        If there is neither a catalog nor a spot exposure.
    """
    catalogs = [] if run.config.spots.catalogs else catalog_tasks(run)
    return catalogs, calibrations_task(run, catalogs)


def _tasks(run: Run, _earlier: Sequence[Task]) -> list[Task]:
    try:
        return _single(run, "spots", "", "") if run.has_stars else []
    except InputError as error:
        show_message(f"stars: {error}")
        return []


def _single(run: Run, step: str, _led: str, detector: str) -> list[Task]:
    catalogs, calibrations = spots_tasks(run)
    if step == "catalog":
        return [task for task in catalogs if task.key[1] == detector]
    # An exposure that is left out is so again: the calibration does without it.
    return [*catalogs, calibrations]


STAGE = StageFunctions(run_spots, is_wanted=lambda run: run.has_stars, tasks=_tasks, single=_single)


def _reduce(run: Run, exposures: Sequence[LabelledExposure], remarks: Sequence[tuple[str, str]], fingerprint: str) -> list[str]:
    """Write calibrations, residuals, maps and the summary of labelled exposures; return the messages of the stage."""
    options, products, camera = run.config.spots, SpotsFolder(run.folder.root), run.camera
    usable, left_out, found = _usable(exposures)
    remarks = [*remarks, *found]
    rows: list[dict[str, Any]] = []
    messages: list[str] = []
    failures: list[PermilError] = []
    for detector, band in sorted({(entry.catalog.detector, entry.catalog.band) for entry in usable}):
        members = [entry for entry in usable if (entry.catalog.detector, entry.catalog.band) == (detector, band)]
        try:
            group = _gather(members, options, camera)
            found_rows, message = _reduce_group(options, group, products, fingerprint)
        except SpotError as error:
            failures.append(error)
            left_out += [(entry.catalog.exposure, detector, str(error)) for entry in members]
            continue
        rows += found_rows
        messages.append(message)
        left_out += [(name, detector, reason) for name, reason in group.left_out]
    if not rows and failures:
        _add_remarks(failures[0], remarks)
        raise failures[0]
    messages += summed_up(remarks)
    _write_list(products.remarks, remarks, ("catalog", "remark"))
    _write_list(products.left_out, left_out, ("exposure", "detector", "reason"))
    if left_out:
        messages.append(f"{len(left_out)} exposures left out, see {products.left_out.name}")
    write_table(products.summary, summary_table(rows, fingerprint=fingerprint))
    return messages


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
    remarks += [(usable[number].path, f"repeats {usable[first].path}: counted once") for number, first in repeated.items()]
    return [entry for number, entry in enumerate(usable) if number not in repeated], left_out, remarks


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
    options: SpotsConfig, group: _Group, products: SpotsFolder, fingerprint: str
) -> tuple[list[dict[str, Any]], str]:
    """Calibrate the exposures of one detector and band, or apply a calibration to them; return rows of the summary and a sentence."""
    detector, measurements = group.detector, group.measurements
    check_cell(options.cell_px, detector)
    cards: dict[str, Any] = {
        **fingerprint_card(fingerprint),
        "DETECTOR": (detector.name, "detector"),
        "BAND": (measurements.band or None, "filter or LED"),
    }
    if options.calibration:
        stored = read_calibration(options.calibration)
        require_same_mask(stored, measurements, path=options.calibration)
        require_inside(measurements.quantities["x"], measurements.quantities["y"], detector)
        exposures, residuals = apply_spots(stored.spots, measurements)
        cards["CALIB"] = file_card(options.calibration, "calibration that was applied")
        _write_maps(options, group, products, residuals, exposures, cards)
        rows = applied_rows(exposures, residuals, detector=detector.name, band=measurements.band)
        return rows, f"{detector.name}: calibration applied to {len(exposures.names)} exposures"
    calibration, repeated = _calibrate(group, options)
    path = products.calibration(detector.name, measurements.band)
    write_calibration(path, calibration, decided=group.decided, repeatability=repeated, header=cards)
    cards = calibration_cards(calibration, decided=group.decided) | cards
    _write_maps(options, group, products, calibration.residuals, calibration.exposures, cards, calibration.solution)
    return calibration_rows(calibration, repeated, detector=detector.name), describe_calibration(calibration, repeated)


@one_thread()
def calibrate_spots(
    catalogs: Sequence[SpotCatalog], *, camera: Camera | str = "lsstcam", decided: Sequence[bool] | None = None, **options: Any
) -> SpotCalibration:
    """Calibrate a mask: flux, position and moments of each spot from catalogs of many exposures.

    Parameters
    ----------
    catalogs
        One per exposure, all of one detector and band. Those without labels are labelled (`permil.find_grid`).
    camera
        Camera with the detector that the catalogs name.
    decided : sequence of bool, optional
        Whether the labels of each catalog are those of the mask, not of the part of it that was found; by default all are.
    **options
        Keys of the section ``spots``, such as ``columns=49``, ``rows=49``, ``method="joint"``.

    Returns
    -------
    SpotCalibration
        Spots, exposures and residuals, with errors.

    Raises
    ------
    ConfigError
        If an option is unknown or not allowed.
    SpotError
        If there are fewer than two catalogs, or they do not belong together.
    GridError
        If the sources of a catalog without labels do not form a grid.

    Examples
    --------
    >>> import numpy as np, permil
    >>> i, j = (axis.ravel() for axis in np.meshgrid(np.arange(5), np.arange(4)))
    >>> rng = np.random.default_rng(0)
    >>> catalogs = [
    ...     permil.SpotCatalog(
    ...         80.0 + 60 * i + shift, 90.0 + 60 * j, flux=1e5 * rng.normal(1, 1e-3, 20), flux_err=np.full(20, 100.0),
    ...         detector="R22_S11", exposure=f"exposure {shift}",
    ...     )
    ...     for shift in range(3)
    ... ]
    >>> permil.calibrate_spots(catalogs, columns=5, rows=4, degree=1).spots.flux.shape
    (20,)
    """
    keys = make_section(SpotsConfig, options)
    if decided is not None and len(decided) != len(catalogs):
        raise SpotError(f"{len(decided)} values of decided for {len(catalogs)} catalogs", remedy="give one for each")
    labelled, known = [], []
    for number, catalog in enumerate(catalogs):
        is_decided = True if decided is None else bool(decided[number])
        if not catalog.labelled.any():
            grid = label_catalog(catalog, columns=keys.columns, rows=keys.rows, degree=keys.degree)
            catalog, is_decided = catalog.with_labels(grid.grid_i, grid.grid_j), grid.window == "decided"
        labelled.append(LabelledExposure(catalog, is_decided))
        known.append(catalog.detector)
    if any(not name for name in known):
        raise SpotError("a catalog does not name its detector", remedy='create it with SpotCatalog(..., detector="R22_S11")')
    group = _gather(labelled, keys, load_camera(camera) if isinstance(camera, str) else camera)
    return _calibrate(group, keys)[0]


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


def calibrate_files(catalogs: Sequence[str | Path], out: str | Path, *, options: SpotsConfig, camera: Camera) -> Description:
    """Calibrate a mask from catalogs alone and write the calibration product.

    Parameters
    ----------
    catalogs
        Files or folders, all of one detector and band.
    out
        FITS file to write.

    Returns
    -------
    Description
        Summary text; ``facts`` are its values.

    Raises
    ------
    PermilError
        See `run_spots`.
    """
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
    lines = [
        describe_calibration(calibration, repeated),
        *summed_up(remarks),
        *(f"left out: {name}: {reason}" for name, reason in reasons),
    ]
    rows = calibration_rows(calibration, repeated, detector=calibration.detector)
    facts = {
        "out": out, "detector": calibration.detector, "band": calibration.band, "mode": calibration.mode,
        "metrics": {row["metric"]: {name: row[name] for name in ("value", "error", "unit")} for row in rows},
        "remarks": [{"catalog": name, "remark": clause} for name, clause in remarks],
        "left_out": [{"catalog": name, "reason": reason} for name, reason in reasons],
    }  # fmt: skip
    return Description("\n".join(lines), facts)


def summary_table(rows: Sequence[dict[str, Any]], *, fingerprint: str) -> Table:
    """Return the table of all rows."""
    table = Table({name: [row[name] for row in rows] for name in COLUMNS})
    table.meta["fingerprint"] = fingerprint
    return table


def calibration_rows(calibration: SpotCalibration, repeated: Repeatability | None, *, detector: str) -> list[dict[str, Any]]:
    """Return the rows of a calibration."""
    freedom = max(calibration.freedom, 1)
    metrics: list[tuple[str, float, float, str]] = [
        ("spots", float(np.isfinite(calibration.spots.flux).sum()), 0.0, ""),
        ("exposures", float(len(calibration.exposures.names)), 0.0, ""),
        ("chi_square_per_freedom", calibration.chi_square / freedom, float(np.sqrt(2 / freedom)), ""),
        *_excess_metrics(calibration.excess),
        _median("spot_flux_error", calibration.spots.flux_error / calibration.spots.flux, ""),
        *_residual_metrics(calibration.residuals),
    ]
    for entry in calibration.degeneracies:
        metrics.append((f"gradient_{entry.axis}_from_trend", entry.exposure_trend, entry.exposure_trend_error, "(1000 pixel)-1"))
        metrics.append((f"gradient_{entry.axis}_free", 0.0, entry.free_error, "(1000 pixel)-1"))
    if repeated is not None:
        metrics.append(("scatter_over_predicted", repeated.ratio, repeated.ratio_error, ""))
        metrics.append(("lamp_drift", repeated.drift, repeated.drift_error, ""))
    return _rows(metrics, detector, calibration.band)


def applied_rows(exposures: ExposureTable, residuals: Residuals, *, detector: str, band: str) -> list[dict[str, Any]]:
    """Return the rows of a calibration applied to other exposures."""
    metrics = [("exposures", float(len(exposures.names)), 0.0, ""), *_residual_metrics(residuals)]
    return _rows(metrics, detector, band)


def describe_calibration(calibration: SpotCalibration, repeated: Repeatability | None) -> str:
    """Return the most important results as one line of text."""
    name = " ".join(part for part in (calibration.detector, calibration.band) if part)
    text = (
        f"{name}: {int(np.isfinite(calibration.spots.flux).sum())} spots, {len(calibration.exposures.names)} exposures "
        f"({calibration.mode}), chi-square per degree of freedom {calibration.chi_square / max(calibration.freedom, 1):.3f}"
    )
    excess = calibration.excess
    if not np.isnan(excess.variance):
        text += f", scatter in excess of errors {_per_mil(*excess.scatter)} per mil, part not explained by the sensor "
        text += _per_mil(*excess.unexplained)
    if repeated is None:
        return text
    return (
        f"{text}, scatter over predicted error {rounded(repeated.ratio, repeated.ratio_error)}, "
        f"lamp drift {_per_mil(repeated.drift, repeated.drift_error)} per mil"
    )


def _per_mil(number: float, error: float) -> str:
    return rounded(1e3 * number, 1e3 * error)


def summed_up(remarks: Sequence[tuple[str, str]]) -> list[str]:
    """Return remarks (name of the catalog, clause) as lines of text, merging those that differ only in numbers."""
    alike: dict[str, list[tuple[str, str]]] = {}
    for name, clause in remarks:
        alike.setdefault(_NUMBER.sub("", clause), []).append((name, clause))
    lines = []
    for group in alike.values():
        others = f" (and {len(group) - 1} more like this)" if len(group) > 1 else ""
        lines.append(f"{group[0][0]}: {group[0][1]}{others}")
    return lines


def _excess_metrics(excess: FluxExcess) -> list[tuple[str, float, float, str]]:
    parts = {
        "flux_excess": excess.scatter,
        "flux_excess_structure": excess.structure,
        "flux_excess_unexplained": excess.unexplained,
    }
    return [(name, *part, "") for name, part in parts.items() if not np.isnan(part[0])]


def _residual_metrics(residuals: Residuals) -> list[tuple[str, float, float, str]]:
    metrics = []
    for quantity, unit in UNITS.items():
        values = getattr(residuals, quantity)[residuals.used]
        values = values[np.isfinite(values)]
        scatter = 1.4826 * float(np.median(np.abs(values))) if len(values) else np.nan
        # The error of a scatter from the median of absolute values, Gaussian (Rousseeuw and Croux 1993: efficiency 37 %).
        error = scatter / np.sqrt(2 * 0.37 * len(values)) if len(values) else np.nan
        metrics.append((f"{quantity}_residual_scatter", scatter, float(error), unit))
    return metrics


def _median(name: str, values: np.ndarray[Any, Any], unit: str) -> tuple[str, float, float, str]:
    known = values[np.isfinite(values)]
    if not len(known):
        return name, np.nan, np.nan, unit
    return name, float(np.median(known)), float(1.2533 * known.std() / np.sqrt(len(known))), unit


def _rows(metrics: Sequence[tuple[str, float, float, str]], detector: str, band: str) -> list[dict[str, Any]]:
    return [dict(zip(COLUMNS, (name, detector, band, value, error, unit), strict=True)) for name, value, error, unit in metrics]
