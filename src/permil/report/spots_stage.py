"""The pages of artificial stars: which there are, what they were made from, and how one is made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from permil.camera import Camera, Detector
from permil.config.report import ReportConfig
from permil.products import RunFolder, fingerprint
from permil.report.page_files import LAYOUT, source_fingerprint, spots_path, write_page
from permil.report.spots_inputs import SpotsRun, read_spots
from permil.spots.folder import SpotsFolder


@dataclass(frozen=True)
class SpotsTask:
    """One page of artificial stars: what it is made of."""

    folder: RunFolder
    run: SpotsRun
    detector: Detector
    band: str
    limits: ReportConfig
    fingerprint: str

    @property
    def path(self) -> Path:
        """Where the page lies."""
        return spots_path(self.folder, self.detector.name, self.band)


def spots_tasks(folder: RunFolder, camera: Camera, run: SpotsRun | None, limits: ReportConfig) -> list[SpotsTask]:
    """Return the pages of a run, none if it has no artificial stars."""
    if run is None:
        return []
    spots = SpotsFolder(folder.root)
    tasks = []
    for detector, band in run.groups:
        products = [make(detector, band) for make in (spots.residuals, spots.throughput, spots.calibration)]
        options = {"layout": LAYOUT, "camera": camera.name, "groups": run.groups, "limits": limits.model_dump(mode="json")}
        print_ = fingerprint(options, upstream=[source_fingerprint(path) for path in (spots.summary, *products)])
        tasks.append(SpotsTask(folder, run, camera[detector], band, limits, print_))
    return tasks


def make_spots_page(task: SpotsTask) -> None:
    """Make the page of one detector and band."""
    from permil.report.pages import Link, render_spots
    from permil.report.spots_page import group_name, spots_page

    name, band = task.detector.name, task.band
    page = spots_page(
        read_spots(task.folder, task.detector, band),
        task.detector,
        band,
        results=task.run.rows(name, band),
        limits=task.limits,
        home=Link("all artificial stars", "../index.html#spots"),
        others=[
            Link(group_name(*group), spots_path(task.folder, *group).name) for group in task.run.groups if group != (name, band)
        ],
        fingerprint=task.fingerprint,
    )
    write_page(task.path, render_spots(page))
