"""The stage `compare`: correlations, hypotheses and verdicts from the stars and flats of a run, per detector and band."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table, vstack

from permil.camera import Camera, shared_camera
from permil.compare.comparison import CompareOptions, compare_stars, describe
from permil.compare.errors import CompareError
from permil.compare.folder import CompareFolder
from permil.compare.inputs import read_flat, read_stars, star_groups
from permil.compare.levels.tables import flat_levels, star_levels
from permil.compare.product import write_comparison
from permil.compare.regions import RegionWidths
from permil.config import Config
from permil.config.compare import CompareConfig
from permil.errors import PermilError
from permil.products import (
    FINGERPRINT_CARD,
    RunFolder,
    fingerprint,
    is_current,
    is_usable,
    read_image,
    stored_fingerprint,
    write_table,
)
from permil.progress import StageReport, parallel_map
from permil.spots.folder import SpotsFolder

SUMMARY_LINES = 3
"""Prefix of the cards with summary lines in the header of a comparison (SUMMARY0 ...)."""

_LEVEL_COLUMNS: dict[str, Any] = {
    "of": "", "level": "", "part": "", "flat_rms_per_mil": np.nan, "flat_rms_per_mil_err": np.nan, "star_rms_per_mil": np.nan,
    "star_rms_per_mil_err": np.nan, "r": np.nan, "r_err": np.nan, "slope": np.nan, "slope_err": np.nan, "explained": np.nan,
    "explained_err": np.nan, "degrees_of_freedom": -1, "origin": "-", "reason": "-",
}  # fmt: skip


@dataclass(frozen=True)
class CompareTask:
    """One detector and band."""

    config: Config
    flats: Path
    stars: Path
    root: Path
    detector: str
    band: str
    led: str
    fingerprint: str


def run_compare(config: Config, camera: Camera, folder: RunFolder, *, workers: int = 1) -> StageReport:
    """Compare the stars of all detectors and bands with the flats of the same detectors and light.

    Raises
    ------
    CompareError
        If there are no stars, or stars and flats do not match.
    InputError
        If a product is missing or damaged.
    """
    report = StageReport("compare")
    tasks = compare_tasks(config, camera, folder)
    products = CompareFolder(folder.root)
    waiting = [task for task in tasks if not is_current(products.comparison(task.detector, task.band), task.fingerprint)]
    report.done, report.skipped = len(waiting), len(tasks) - len(waiting)
    parallel_map(compare_detector, waiting, workers=workers, description="stars against flats")
    together = fingerprint(config.compare.model_dump(mode="json"), upstream=[task.fingerprint for task in tasks])
    _write_tables(config, products, camera, tasks, together)
    report.messages += _messages(products, tasks)
    return report


def has_pairs(config: Config, folder: RunFolder) -> bool:
    """Return whether there are stars and a flat of the same detector and light."""
    stars = SpotsFolder(Path(config.compare.stars) if config.compare.stars else folder.root)
    flats = RunFolder(Path(config.compare.flats) if config.compare.flats else folder.root)
    leds = config.compare.led_of
    return any(flats.flat(leds.get(band, band), name).is_file() for name, band in star_groups(stars))


def compare_tasks(config: Config, camera: Camera, folder: RunFolder) -> list[CompareTask]:
    """Return one task per detector and band with stars.

    Raises
    ------
    CompareError
        If there is none, or a requested detector has no stars.
    InputError
        If a flat is missing.
    """
    options = config.compare
    flats = Path(options.flats) if options.flats else folder.root
    stars = Path(options.stars) if options.stars else folder.root
    spots = SpotsFolder(stars)
    groups = [(name, band) for name, band in star_groups(spots) if not options.detectors or name in options.detectors]
    missing = [name for name in options.detectors if name not in {detector for detector, _ in groups}]
    if missing or not groups:
        raise CompareError(
            f"there are no residuals of stars{' of ' + ', '.join(missing) if missing else ''}",
            path=spots.path,
            remedy="run permil spots first, or give the folder of a run with stars in compare.stars",
            value=missing,
        )
    tasks = []
    for name, band in groups:
        led = options.led_of.get(band, band)
        read_flat(RunFolder(flats), led, camera[name])
        flat_print = stored_fingerprint(RunFolder(flats).flat(led, name)) or ""
        star_print = stored_fingerprint(spots.residuals(name, band)) or ""
        print_ = fingerprint(
            {"compare": options.model_dump(mode="json"), "camera": config.camera, "seed": config.seed, "led": led},
            files=[RunFolder(flats).flat(led, name), spots.residuals(name, band)],
            upstream=[flat_print, star_print],
        )
        tasks.append(CompareTask(config, flats, stars, folder.root, name, band, led, print_))
    return tasks


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


def compare_detector(task: CompareTask) -> None:
    """Compare one detector and band and write the result.

    Raises
    ------
    PermilError
        With the detector in the message if it names no file.
    """
    detector = shared_camera(task.config.camera)[task.detector]
    flat = read_flat(RunFolder(task.flats), task.led, detector)
    product = read_stars(SpotsFolder(task.stars), task.detector, task.band)
    options = options_of(task.config.compare, task.config.seed)
    usable = is_usable(flat.mask) & np.isfinite(flat.image) & np.isfinite(flat.variance)
    name = " ".join(part for part in (task.detector, task.band) if part)
    try:
        comparison = compare_stars(product.stars, product.response, flat.image, flat.variance, usable, detector, options)
    except PermilError as error:
        if error.path is None:
            error.path = str(product.path)
        raise
    cards: dict[str, Any] = {
        FINGERPRINT_CARD: (task.fingerprint, "what this was made from"),
        "DETECTOR": (task.detector, "detector"),
        "BAND": (task.band or None, "band of the stars"),
        "LED": (task.led, "LED of the flat"),
        "NEXPOSUR": (len(product.exposures), "exposures of stars"),
        "CELL": (options.cells[0], "[pixel] side of a cell of the maps"),
        "HIGHPASS": (options.high_pass, "[pixel] sigma of the high-pass"),
        "FLATFLD": (options.flat_fielded, "stars were flat-fielded"),
        "SEED": (options.seed, "seed of bootstrap and surrogates"),
    }
    cards |= {f"SUMMARY{number}": line for number, line in enumerate(describe(comparison, name))}
    write_comparison(CompareFolder(task.root).comparison(task.detector, task.band), comparison, header=cards)


def _write_tables(config: Config, products: CompareFolder, camera: Camera, tasks: list[CompareTask], print_: str) -> None:
    """Write correlations, hypotheses, verdicts and levels of all detectors and bands, unless they are up to date."""
    if is_current(products.levels, print_):
        return
    tables: dict[str, list[Table]] = {"CORRELATIONS": [], "HYPOTHESES": [], "VERDICTS": [], "CELLS": []}
    for task in tasks:
        with fits.open(products.comparison(task.detector, task.band), memmap=False) as hdus:
            for name, parts in tables.items():
                table = _text(Table(hdus[name].data))
                if name != "CELLS":
                    table.add_column(task.detector, name="detector", index=0)
                    table.add_column(task.band or "-", name="band", index=1)
                parts.append(table)
    for name, path in (
        ("CORRELATIONS", products.correlations),
        ("HYPOTHESES", products.hypotheses),
        ("VERDICTS", products.verdicts),
    ):
        table = vstack(tables[name], metadata_conflicts="silent")
        table.meta = {"fingerprint": print_}
        write_table(path, table)
    cells = [(task.detector, task.band, table) for task, table in zip(tasks, tables["CELLS"], strict=True)]
    rows = star_levels(cells, camera, seed=config.seed)
    flats = {task.led: RunFolder(task.flats).focal_plane(task.led) for task in tasks}
    mosaics = [(led, read_image(path)) for led, path in flats.items() if path.is_file()]
    if mosaics:
        rows += flat_levels(mosaics, camera, seed=config.seed)
    levels = Table({name: [row.get(name, absent) for row in rows] for name, absent in _LEVEL_COLUMNS.items()})
    levels.meta = {"fingerprint": print_}
    write_table(products.levels, levels)


def _text(table: Table) -> Table:
    """Return a FITS table with trailing blanks removed from text; empty text becomes a dash."""
    for name in table.colnames:
        if table[name].dtype.kind in "SU":
            table[name] = [str(entry).strip() or "-" for entry in table[name]]
    return table


def _messages(products: CompareFolder, tasks: list[CompareTask]) -> list[str]:
    messages = []
    for task in tasks:
        header = fits.getheader(products.comparison(task.detector, task.band), 0)
        messages += [str(header[f"SUMMARY{number}"]) for number in range(SUMMARY_LINES)]
    return messages
