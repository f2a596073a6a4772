"""The stage `report`: products of a run to the summary and the pages; pages that are up to date are left as they are."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table

from permil.camera import Camera, shared_camera
from permil.compare.folder import CompareFolder
from permil.config import Config
from permil.errors import OutputError
from permil.products import RunFolder, fingerprint, read_image, stored_fingerprint, write_table
from permil.progress import parallel_map
from permil.report.compare_stage import compare_tasks, make_compare_page
from permil.report.inputs import LedProducts, RunProducts, read_detector, read_run, read_scatter
from permil.report.joint_stage import joint_tasks, make_joint_page
from permil.report.page_files import (
    LAYOUT,
    compare_path,
    detector_path,
    joint_path,
    page_fingerprint,
    remove_stale_pages,
    source_fingerprint,
    spots_path,
    write_page,
)
from permil.report.spots_stage import make_spots_page, spots_tasks
from permil.report.summary import Measurement, flat_measurements, summary_table
from permil.spots.folder import SpotsFolder


@dataclass(frozen=True)
class DetectorTask:
    """One page of a detector: what it is made of and where it leads."""

    config: Config
    root: Path
    led: str
    detector: str
    previous: str
    following: str
    other_leds: tuple[str, ...]
    comparison: tuple[dict[str, Any], ...]
    fingerprint: str

    @property
    def path(self) -> Path:
        """Where the page lies."""
        return detector_path(RunFolder(self.root), self.led, self.detector)


@dataclass(frozen=True)
class LedTask:
    """The section of one LED in the index page."""

    config: Config
    root: Path
    products: LedProducts
    exposures: Table | None


def make_report(config: Config, camera: Camera, folder: RunFolder, *, workers: int) -> Path:
    """Write ``summary.ecsv`` and the pages of a run.

    Parameters
    ----------
    config
        Configuration of the run; the section ``report`` holds the specifications.
    camera
        Camera of the run.
    folder
        Folder of the run; whatever is not there yet is named on the pages.
    workers
        Number of processes.

    Returns
    -------
    Path
        The index page.

    Raises
    ------
    OutputError
        If the packages that pages need are not installed, or a page cannot be written.
    InputError
        If there is nothing to report on, or a product is damaged.
    """
    _require_packages()
    products = read_run(folder, camera, leds=config.exposures.leds)
    has_pages = config.report.detector_pages
    tasks = _detector_tasks(config, products) if has_pages else []
    spots_pages = spots_tasks(folder, camera, products.spots, config.report) if has_pages else []
    waiting = [task for task in tasks if page_fingerprint(task.path) != task.fingerprint]
    parallel_map(make_detector_page, waiting, workers=workers, description="detector pages")
    waiting_spots = [task for task in spots_pages if page_fingerprint(task.path) != task.fingerprint]
    parallel_map(make_spots_page, waiting_spots, workers=workers, description="pages of artificial stars")
    compare_pages = compare_tasks(folder, camera, products.compare) if has_pages else []
    waiting_compare = [task for task in compare_pages if page_fingerprint(task.path) != task.fingerprint]
    parallel_map(make_compare_page, waiting_compare, workers=workers, description="pages of stars against flats")
    joint_solutions = joint_tasks(folder, camera, products.leds)
    joint_pages = joint_solutions if has_pages else []
    waiting_joint = [task for task in joint_pages if page_fingerprint(task.path) != task.fingerprint]
    parallel_map(make_joint_page, waiting_joint, workers=workers, description="pages of joint solutions")
    wanted = (
        {task.path for task in tasks}
        | {task.path for task in joint_pages}
        | {task.path for task in spots_pages}
        | {task.path for task in compare_pages}
    )
    remove_stale_pages(folder, wanted)
    index_print = _index_fingerprint(config, products, [task.fingerprint for task in joint_solutions])
    if page_fingerprint(folder.report) != index_print or stored_fingerprint(folder.summary) != index_print:
        _make_index(config, camera, products, index_print, workers=workers)
    return folder.report


def make_detector_page(task: DetectorTask) -> None:
    """Make the page of one detector and LED."""
    from permil.report.detector_page import Neighbours, detector_page
    from permil.report.pages import Link, render_detector

    folder, camera = RunFolder(task.root), shared_camera(task.config.camera)
    products = read_detector(folder, camera, task.led, task.detector)
    links = Neighbours(
        home=Link("all detectors", f"../../index.html#led-{task.led}"),
        previous=Link(task.previous, f"{task.previous}.html") if task.previous else None,
        following=Link(task.following, f"{task.following}.html") if task.following else None,
        others=tuple(Link(led, f"../{led}/{task.detector}.html") for led in task.other_leds),
    )
    page = detector_page(
        products,
        camera[task.detector],
        task.led,
        limits=task.config.report,
        comparison=Table(rows=list(task.comparison)) if task.comparison else None,
        links=links,
        fingerprint=task.fingerprint,
    )
    write_page(task.path, render_detector(page))


def make_led_section(task: LedTask) -> tuple[Any, list[Measurement]]:
    """Return the section of one LED and all its measurements, the beam's first."""
    from permil.beam.stage import load_beam
    from permil.report.beam_view import beam_measurements
    from permil.report.joint_inputs import read_joint
    from permil.report.joint_page import joint_measurements, joint_summary
    from permil.report.led_section import led_section

    folder, camera = RunFolder(task.root), shared_camera(task.config.camera)
    products = task.products
    beam = load_beam(products.beam) if products.beam is not None else None
    measurements = beam_measurements(beam, products.led) if beam is not None else []
    if products.metrics is not None:
        measurements += flat_measurements(products.metrics)
    has_pages = task.config.report.detector_pages
    joint = read_joint(folder, camera, products.led) if products.joint is not None else None
    address = joint_path(folder, products.led).relative_to(folder.report.parent).as_posix() if has_pages else ""
    section = led_section(
        products.led,
        camera,
        beam=beam,
        plane=_plane_maps(folder, camera, products),
        exposures=task.exposures,
        measurements=measurements,
        detectors=products.detectors,
        links={name: f"detectors/{products.led}/{name}.html" for name in products.detectors} if has_pages else {},
        limits=task.config.report,
        joint=joint_summary(joint, address) if joint is not None else None,
    )
    return section, measurements + (joint_measurements(joint) if joint is not None else [])


def _plane_maps(folder: RunFolder, camera: Camera, products: LedProducts) -> Any:
    from permil.flat.superpixel import size_in_pixels
    from permil.report import focal_plane
    from permil.report.led_section import PlaneMaps

    if products.focal_plane is None:
        return None
    mosaic = read_image(products.focal_plane)
    shape = (mosaic.image.shape[0], mosaic.image.shape[1])
    grid = focal_plane.grid_of(mosaic.image_header, shape)
    image = np.where(mosaic.mask == 0, mosaic.image, np.nan)
    scatters, rejected, block_pixels = {}, {}, 1
    for name in products.detectors:
        scatter, block_mm, rejected[name] = read_scatter(folder.flat(products.led, name))
        if scatter is not None:
            scatters[camera[name]] = scatter
            block_pixels = size_in_pixels(block_mm, camera.pixel_mm)
    sampled = focal_plane.sample(grid, scatters, block_pixels=block_pixels) if scatters else None
    return PlaneMaps(grid, image, sampled, rejected)


def _make_index(config: Config, camera: Camera, products: RunProducts, index_print: str, *, workers: int) -> None:
    from permil.report.compare_page import compare_measurements
    from permil.report.index_page import index_page
    from permil.report.pages import render_index
    from permil.report.spots_page import spots_measurements

    folder, exposures = products.folder, products.exposures
    tasks = [
        LedTask(config, folder.root, led, None if exposures is None else exposures[exposures["led"] == led.led])
        for led in products.leds
    ]
    results = parallel_map(make_led_section, tasks, workers=workers, description="LEDs")
    measurements = [entry for _, of_led in results for entry in of_led]
    measurements += spots_measurements(products.spots) if products.spots is not None else []
    measurements += compare_measurements(products.compare) if products.compare is not None else []
    summary = summary_table(measurements, config.report)
    summary.meta = {"fingerprint": index_print}

    def address(path: Path) -> str:
        return str(path.relative_to(folder.report.parent)) if config.report.detector_pages else ""

    page = index_page(
        products,
        camera,
        measurements,
        [section for section, _ in results],
        limits=config.report,
        spots_address=lambda detector, band: address(spots_path(folder, detector, band)),
        compare_address=lambda detector, band: address(compare_path(folder, detector, band)),
        fingerprint=index_print,
    )
    write_table(folder.summary, summary)
    write_page(folder.report, render_index(page))


def _detector_tasks(config: Config, products: RunProducts) -> list[DetectorTask]:
    tasks = []
    for led in products.leds:
        for number, name in enumerate(led.detectors):
            before = led.detectors[number - 1] if number else ""
            after = led.detectors[number + 1] if number + 1 < len(led.detectors) else ""
            others = tuple(other.led for other in products.leds if other is not led and name in other.detectors)
            comparison = tuple(_comparison_rows(products.comparison, led.led, name))
            options = {
                "layout": LAYOUT,
                "camera": config.camera,
                "limits": config.report.model_dump(mode="json"),
                "links": [before, after, others],
                "comparison": comparison,
            }
            folder = products.folder
            sources = folder.flat(led.led, name), folder.metrics(led.led), folder.truth_flat(led.led, name)
            print_ = fingerprint(options, upstream=[source_fingerprint(path) for path in sources])
            tasks.append(DetectorTask(config, folder.root, led.led, name, before, after, others, comparison, print_))
    return tasks


def _comparison_rows(comparison: Table | None, led: str, detector: str) -> list[dict[str, Any]]:
    if comparison is None:
        return []
    chosen = comparison[(comparison["led"] == led) & (comparison["detector"] == detector)]
    return [_plain(dict(zip(chosen.colnames, row, strict=True))) for row in chosen.iterrows()]


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: entry.item() if isinstance(entry, np.generic) else entry for name, entry in row.items()}


def _index_fingerprint(config: Config, products: RunProducts, joint_prints: Sequence[str]) -> str:
    folder = products.folder
    upstream = list(joint_prints)
    for led in products.leds:
        paths = [folder.beam(led.led), folder.focal_plane(led.led), folder.metrics(led.led)]
        upstream += [source_fingerprint(path) for path in (*paths, *(folder.flat(led.led, name) for name in led.detectors))]
    spots, compare = SpotsFolder(folder.root), CompareFolder(folder.root)
    of_compare = (compare.correlations, compare.hypotheses, compare.verdicts, compare.levels)
    upstream += [source_fingerprint(path) for path in (spots.summary, *of_compare)]
    tables = (
        spots.left_out,
        folder.configuration,
        folder.exposures,
        folder.unreadable,
        folder.left_out,
        folder.stages,
        folder.performance,
        folder.comparison,
    )
    options = {
        "layout": LAYOUT,
        "camera": config.camera,
        "limits": config.report.model_dump(mode="json"),
        "absent": products.absent,
    }
    return fingerprint(options, files=tables, upstream=upstream)


def _require_packages() -> None:
    missing = [name for name in ("matplotlib", "jinja2") if importlib.util.find_spec(name) is None]
    if missing:
        raise OutputError(
            f"the report needs {' and '.join(missing)}, not installed here",
            remedy="install the extra `report` (pip install 'permil[report]'), or run the stages without the report",
            missing=missing,
        )
