"""The stage `compare`: correlations, hypotheses and verdicts from the stars and flats of a run, per detector and band."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table, vstack
from astropy.wcs import WCS
from astropy.wcs.utils import proj_plane_pixel_scales
from numpy.typing import NDArray

from permil.camera import Camera, shared_camera
from permil.camera.frames import amplifier_at, ccs_to_detector, detector_to_ccs
from permil.compare.comparison import CompareOptions, compare_stars, describe, level_cell
from permil.compare.efficiency.stage import efficiency_messages, efficiency_table_task, efficiency_tasks
from permil.compare.files import COMPARISON_FORMAT, read_flat, read_stars, star_groups, write_comparison
from permil.compare.levels.groups import CellPlaces
from permil.compare.levels.split import pair_levels, split_levels
from permil.compare.regions import RegionWidths
from permil.compare.sensors.stage import sensors_task
from permil.config import Config
from permil.config.spots import CompareConfig
from permil.context import Run
from permil.engine import Task, Work
from permil.errors import CompareError, PermilError
from permil.exposures import SPOT
from permil.flat.superpixel import super_pixels
from permil.isr.stage import memory_for
from permil.products import (
    ImageProduct,
    RunFolder,
    fingerprint_card,
    is_usable,
    read_image,
    write_table,
)
from permil.products.folder import CompareFolder, SpotsFolder
from permil.progress import StageReport, do_tasks
from permil.spots.inputs import band_of
from permil.stages import StageFunctions

_OF_ONE_RUN = tuple(f"compare.{name}" for name in CompareConfig.model_fields if name != "with_runs")
"""Keys that matter to the comparisons of one run."""
_MOST_CELLS = 20_000
"""Largest number of cells of the focal plane per LED; the mosaic is binned accordingly."""

SUMMARY_LINES = 3
"""Prefix of the cards with summary lines in the header of a comparison (SUMMARY0 ...)."""
_FIGURES = ("flat", "flat_err", "star", "star_err")
_LEVEL_COLUMNS: dict[str, Any] = {
    "of": "", "level": "", "part": "", "flat_rms_per_mil": np.nan, "flat_rms_per_mil_err": np.nan, "star_rms_per_mil": np.nan,
    "star_rms_per_mil_err": np.nan, "r": np.nan, "r_err": np.nan, "slope": np.nan, "slope_err": np.nan, "explained": np.nan,
    "explained_err": np.nan, "degrees_of_freedom": -1, "cell_mm": np.nan, "origin": "-", "reason": "-",
}  # fmt: skip


def star_levels(cells: Sequence[tuple[str, str, Table]], camera: Camera, *, seed: int) -> list[dict[str, Any]]:
    """Return the split of flux and flat, one row per level; each detector is relative to its own mean.

    Parameters
    ----------
    cells
        Detector, band and table CELLS of each comparison.
    """
    parts = []
    for name, band, table in cells:
        detector = camera[name]
        x, y = (
            np.minimum(np.asarray(table[axis], dtype=float), size - 1.0)
            for axis, size in (("x", detector.nx), ("y", detector.ny))
        )
        x_mm, y_mm = detector_to_ccs(detector, x, y)
        part = {
            "detector": np.full(len(table), name),
            "amplifier": np.array([detector.amplifiers[index].name for index in amplifier_at(detector, x, y)]),
            "led": np.full(len(table), band or "-"),
            "cell": np.asarray(table["cell"]),
            "x_mm": x_mm,
            "y_mm": y_mm,
        }
        parts.append(part | {figure: np.asarray(table[figure], dtype=float) for figure in _FIGURES})
    cell = _joined(parts)
    flat, flat_error, star, star_error = (cell.pop(figure) for figure in _FIGURES)
    try:
        split = pair_levels(flat, flat_error, star, star_error, CellPlaces(**cell), seed=seed)
    except CompareError as reason:
        return [_absent("stars and flat", str(reason))]
    side = max(level_cell(camera[name].shape) * camera[name].pixel_mm for name, _, _ in cells)
    return [{"of": "stars and flat", "cell_mm": side, **row} for row in split.rows()] + _omitted(
        "stars and flat", split.flat.left_out
    )


def flat_levels(mosaics: Sequence[tuple[str, ImageProduct]], camera: Camera, *, seed: int) -> list[dict[str, Any]]:
    """Return the split of the flats of a run, one row per level.

    Parameters
    ----------
    mosaics
        LED and binned mosaic of the focal plane.
    """
    parts, sides = zip(*(_mosaic_cells(led, mosaic, camera) for led, mosaic in mosaics), strict=True)
    cell = _joined(parts)
    value, error = cell.pop("value"), cell.pop("error")
    try:
        split = split_levels(value, error, CellPlaces(**cell), seed=seed)
    except CompareError as reason:
        return [_absent("flat", str(reason))]
    renamed = {"rms_per_mil": "flat_rms_per_mil", "rms_per_mil_err": "flat_rms_per_mil_err"}
    rows = [
        {"of": "flat", "cell_mm": max(sides), **{renamed.get(name, name): entry for name, entry in row.items()}}
        for row in split.rows()
    ]
    return rows + _omitted("flat", split.left_out)


def _mosaic_cells(led: str, mosaic: ImageProduct, camera: Camera) -> tuple[dict[str, NDArray[Any]], float]:
    """Return places, values and errors of the cells of a mosaic, after binning, and their side (mm)."""
    good = (mosaic.mask == 0) & np.isfinite(mosaic.image) & (mosaic.image > 0)
    block = max(1, int(np.ceil(np.sqrt(good.sum() / _MOST_CELLS))))
    mean, spread = super_pixels(mosaic.image, good, block), super_pixels(mosaic.variance, good, block)
    rows, columns = np.nonzero(mean.count > 0.75 * block**2)
    # The alternate coordinate system C is CCS.
    wcs = WCS(mosaic.image_header, key="C")
    x_mm, y_mm = wcs.pixel_to_world_values(*(block * index + (block - 1) / 2 for index in (columns, rows)))
    names = np.asarray(camera.detector_at(x_mm, y_mm)).astype(str)
    amplifiers = np.full(names.size, "", dtype="U8")
    for name in set(names) - {""}:
        of = names == name
        detector = camera[name]
        number = amplifier_at(detector, *ccs_to_detector(detector, x_mm[of], y_mm[of]))
        amplifiers[of] = [detector.amplifiers[index].name if index >= 0 else "" for index in number]
    known = (names != "") & (amplifiers != "")
    value = mean.mean[rows, columns]
    cells = {
        "detector": names,
        "amplifier": amplifiers,
        "led": np.full(names.size, led),
        "cell": rows * mean.mean.shape[1] + columns,
        "x_mm": x_mm,
        "y_mm": y_mm,
        "value": value / np.median(value[known]) - 1,
        "error": np.sqrt(spread.mean[rows, columns] / mean.count[rows, columns]),
    }
    cells = {name: column[known] for name, column in cells.items()}
    cells["raft"] = np.array([camera[name].raft for name in cells["detector"].tolist()])
    cells["vendor"] = np.array([camera[name].vendor for name in cells["detector"].tolist()])
    return cells, block * float(np.max(proj_plane_pixel_scales(wcs)))


def _joined(parts: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _omitted(of: str, entries: Sequence[Any]) -> list[dict[str, Any]]:
    return [{"of": of, "level": entry.level, "part": entry.part, "reason": entry.reason} for entry in entries]


def _absent(of: str, reason: str) -> dict[str, Any]:
    return {"of": of, "level": "all", "part": "all", "reason": reason}


def run_compare(run: Run) -> StageReport:
    """Compare the stars of all detectors and bands with the flats of the same detectors and light.

    Raises
    ------
    CompareError
        If there are no stars, or stars and flats do not match.
    InputError
        If a product is missing or damaged.
    """
    report, products = StageReport("compare"), CompareFolder(run.folder.root)
    comparisons = comparison_tasks(run)
    efficiency, tables = _efficiency_tasks(run, comparisons), _tables_task(run, comparisons)
    together = sensors_task(run, _sources(run.config, run.folder)[1], [*comparisons, tables])
    choices = [efficiency_table_task(run, efficiency)] if efficiency else []
    ends = do_tasks([*comparisons, tables, together, *efficiency, *choices])
    report.count({task.key: ends[task.key] for task in (*comparisons, *efficiency)})
    chosen = {task.key[1:3] for task in efficiency if ends[task.key].is_there}
    for task in comparisons:
        header = fits.getheader(products.comparison(*task.key[1:]), 0)
        # The choice of the flat contains the effect of the plain flat.
        lines = SUMMARY_LINES - 1 if task.key[1:3] in chosen else SUMMARY_LINES
        report.messages += [str(header[f"SUMMARY{number}"]) for number in range(lines)]
    report.messages += efficiency_messages([ends[task.key] for task in efficiency])
    return report


def has_pairs(config: Config, folder: RunFolder) -> bool:
    """Return whether there are stars and a flat of the same detector and light."""
    flats, stars = _sources(config, folder)
    leds = config.compare.led_of
    return any(RunFolder(flats).flat(leds.get(band, band), name).is_file() for name, band in star_groups(SpotsFolder(stars)))


def _tasks(run: Run, earlier: Sequence[Task]) -> list[Task]:
    """Declare the comparisons of the exposures of stars with the flats that are there or will be made."""
    before = tuple(task for task in earlier if task.key[0] in ("composite", "spots"))
    made = {(task.key[1], task.key[2]) for task in earlier if task.key[0] == "flat"}
    options, flats = run.config.compare, RunFolder(_sources(run.config, run.folder)[0])
    exposures = {task.key[1:] for task in earlier if task.key[0] == "catalog" and not options.stars}
    groups = {
        (str(row["detector"]), band_of(str(row["filter"]), run.config.spots.band))
        for row in (run.index.select(purpose=SPOT) if exposures else ())
        if (row["detector"], row["obsid"]) in exposures and (not options.detectors or row["detector"] in options.detectors)
    }
    return [
        replace(_comparison_task(run, name, band), after=before)
        for name, band in sorted(groups)
        if (not options.flats and (_led_of(run, band), name) in made) or flats.flat(_led_of(run, band), name).is_file()
    ]


STAGE = StageFunctions(
    run_compare,
    is_wanted=lambda run: has_pairs(run.config, run.folder),
    tasks=_tasks,
    single=lambda run, _step, _led, detector: comparison_tasks(run, detector),
)


def _sources(config: Config, folder: RunFolder) -> tuple[Path, Path]:
    """Return the folders of the flats and the stars."""
    options = config.compare
    return Path(options.flats) if options.flats else folder.root, Path(options.stars) if options.stars else folder.root


def comparison_tasks(run: Run, detector: str = "") -> list[Task]:
    """Declare the comparison of each detector and band with stars, or those of one detector.

    Raises
    ------
    CompareError
        If there is none, or a requested detector has no stars.
    InputError
        If a flat is missing.
    """
    options = run.config.compare
    spots = SpotsFolder(_sources(run.config, run.folder)[1])
    groups = [(name, band) for name, band in star_groups(spots) if not options.detectors or name in options.detectors]
    missing = [name for name in options.detectors if name not in {detector for detector, _ in groups}]
    if missing or not groups:
        raise CompareError(
            f"there are no residuals of stars{' of ' + ', '.join(missing) if missing else ''}",
            path=spots.path,
            remedy="run permil spots first, or give the folder of a run with stars in compare.stars",
            value=missing,
        )
    groups = [group for group in groups if detector in ("", group[0])]
    for name, band in groups:
        read_flat(RunFolder(_sources(run.config, run.folder)[0]), _led_of(run, band), run.camera[name])
    return [_comparison_task(run, name, band) for name, band in groups]


def _led_of(run: Run, band: str) -> str:
    return run.config.compare.led_of.get(band, band)


def _comparison_task(run: Run, detector: str, band: str) -> Task:
    (flats, stars), led = _sources(run.config, run.folder), _led_of(run, band)
    flat, residuals = RunFolder(flats).flat(led, detector), SpotsFolder(stars).residuals(detector, band)

    def work(task: Task) -> Work:
        compare = partial(
            _compare_detector, config=run.config, folder=run.folder, band=band, led=led, fingerprint=task.fingerprint
        )
        return Work(compare, [detector])

    return Task(
        ("comparison", detector, band),
        "stars against flats",
        work,
        outputs=(CompareFolder(run.folder.root).comparison(detector, band),),
        options=run.options(*_OF_ONE_RUN, "camera", "seed"),
        facts=COMPARISON_FORMAT,
        # A flat on another composite scale has the same fingerprint.
        files=(flat, residuals),
        command=("compare", "--detector", detector),
        seconds=9.0,
        is_serial=True,
        memory=memory_for(run.camera[detector], bytes_per_pixel=220),
    )


def _efficiency_tasks(run: Run, comparisons: list[Task]) -> list[Task]:
    """Declare the efficiency flats, none if they are not wanted."""
    if not run.config.compare.flat_out:
        return []
    led_of = {task.key[2]: _led_of(run, task.key[2]) for task in comparisons}
    return efficiency_tasks(run, comparisons, led_of, *_sources(run.config, run.folder))


def _tables_task(run: Run, comparisons: list[Task]) -> Task:
    """Declare the tables of correlations, hypotheses, verdicts and levels of all detectors and bands."""
    products, flats = CompareFolder(run.folder.root), RunFolder(_sources(run.config, run.folder)[0])
    groups = [(task.key[1], task.key[2]) for task in comparisons]
    mosaics = {led: flats.focal_plane(led) for led in dict.fromkeys(_led_of(run, band) for _, band in groups)}

    def write(fingerprint: str) -> tuple[str, ...]:
        _write_tables(products, groups, mosaics, run.camera, seed=run.config.seed, fingerprint=fingerprint)
        return ()

    return Task(
        ("levels",),
        "tables of stars and flats",
        lambda task: Work.here(lambda: write(task.fingerprint)),
        outputs=(products.levels, products.correlations, products.hypotheses, products.verdicts),
        options=run.options(*_OF_ONE_RUN, "seed"),
        files=tuple(mosaics.values()),
        needs=tuple(comparisons),
    )


def options_of(config: CompareConfig, seed: int) -> CompareOptions:
    """Return the options of the comparison from the configuration."""
    return CompareOptions(
        reference=config.reference,
        high_pass=config.high_pass_px,
        periods=tuple(config.periods_px),
        cells=tuple(config.cells_px),
        widths=RegionWidths(config.edge_mm, config.mid_line_mm, config.amplifier_boundary_mm),
        rings=config.rings if isinstance(config.rings, tuple) else None,
        find_rings=config.rings == "find",
        boundary=config.boundary,
        flat_fielded=config.flat_fielded,
        resamples=config.resamples,
        seed=seed,
    )


def _compare_detector(name: str, *, config: Config, folder: RunFolder, band: str, led: str, fingerprint: str) -> None:
    """Compare one detector and band and write the result.

    Raises
    ------
    PermilError
        With the detector in the message if it names no file.
    """
    detector = shared_camera(config.camera)[name]
    flats, stars = _sources(config, folder)
    flat = read_flat(RunFolder(flats), led, detector)
    product = read_stars(SpotsFolder(stars), name, band)
    options = options_of(config.compare, config.seed)
    usable = is_usable(flat.mask) & np.isfinite(flat.image) & np.isfinite(flat.variance)
    try:
        comparison = compare_stars(product.stars, product.response, flat.image, flat.variance, usable, detector, options)
    except PermilError as error:
        if error.path is None:
            error.path = str(product.path)
        raise
    cards: dict[str, Any] = {
        **fingerprint_card(fingerprint),
        "DETECTOR": (name, "detector"),
        "BAND": (band or None, "band of the stars"),
        "LED": (led, "LED of the flat"),
        "NEXPOSUR": (len(product.exposures), "exposures of stars"),
        "CELL": (options.cells[0], "[pixel] side of a cell of the maps"),
        "HIGHPASS": (options.high_pass, "[pixel] sigma of the high-pass"),
        "FLATFLD": (options.flat_fielded, "stars were flat-fielded"),
        "SEED": (options.seed, "seed of bootstrap and surrogates"),
    }
    cards |= {f"SUMMARY{number}": line for number, line in enumerate(describe(comparison, f"{name} {band}".strip()))}
    write_comparison(CompareFolder(folder.root).comparison(name, band), comparison, header=cards)


def _write_tables(
    products: CompareFolder,
    groups: Sequence[tuple[str, str]],
    mosaics: Mapping[str, Path],
    camera: Camera,
    *,
    seed: int,
    fingerprint: str,
) -> None:
    """Write correlations, hypotheses, verdicts and levels of all detectors and bands; ``mosaics`` are the flats of each LED."""
    tables: dict[str, list[Table]] = {"CORRELATIONS": [], "HYPOTHESES": [], "VERDICTS": [], "CELLS": []}
    for detector, band in groups:
        with fits.open(products.comparison(detector, band), memmap=False) as hdus:
            for name, parts in tables.items():
                table = _text(Table(hdus[name].data))
                if name != "CELLS":
                    table.add_column(detector, name="detector", index=0)
                    table.add_column(band or "-", name="band", index=1)
                parts.append(table)
    for name, path in (
        ("CORRELATIONS", products.correlations),
        ("HYPOTHESES", products.hypotheses),
        ("VERDICTS", products.verdicts),
    ):
        table = vstack(tables[name], metadata_conflicts="silent")
        table.meta = {"fingerprint": fingerprint}
        write_table(path, table)
    cells = [(*group, table) for group, table in zip(groups, tables["CELLS"], strict=True)]
    rows = star_levels(cells, camera, seed=seed)
    images = [(led, read_image(path)) for led, path in mosaics.items() if path.is_file()]
    if images:
        rows += flat_levels(images, camera, seed=seed)
    levels = Table({name: [row.get(name, absent) for row in rows] for name, absent in _LEVEL_COLUMNS.items()})
    levels.meta = {"fingerprint": fingerprint}
    write_table(products.levels, levels)


def _text(table: Table) -> Table:
    """Return a FITS table with trailing blanks removed from text; empty text becomes a dash."""
    for name in table.colnames:
        if table[name].dtype.kind in "SU":
            table[name] = [str(entry).strip() or "-" for entry in table[name]]
    return table
