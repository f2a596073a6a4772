"""The pages that compare stars with flats: which there are, what they were made from, and how one is made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from permil.camera import Camera, Detector
from permil.compare.folder import CompareFolder
from permil.products import RunFolder, fingerprint
from permil.report.compare_inputs import CompareRun, read_comparison
from permil.report.page_files import LAYOUT, compare_path, source_fingerprint, write_page


@dataclass(frozen=True)
class CompareTask:
    """One page: what it is made of."""

    folder: RunFolder
    groups: tuple[tuple[str, str], ...]
    detector: Detector
    band: str
    fingerprint: str

    @property
    def path(self) -> Path:
        """Where the page lies."""
        return compare_path(self.folder, self.detector.name, self.band)


def compare_tasks(folder: RunFolder, camera: Camera, run: CompareRun | None) -> list[CompareTask]:
    """Return the pages of a run, none if it does not compare stars with flats."""
    if run is None:
        return []
    products, groups = CompareFolder(folder.root), tuple(run.groups)
    tasks = []
    for detector, band in groups:
        options = {"layout": LAYOUT, "camera": camera.name, "groups": groups}
        print_ = fingerprint(options, upstream=[source_fingerprint(products.comparison(detector, band))])
        tasks.append(CompareTask(folder, groups, camera[detector], band, print_))
    return tasks


def make_compare_page(task: CompareTask) -> None:
    """Make the page of one detector and band."""
    from permil.report.compare_page import compare_page
    from permil.report.pages import Link, render_compare
    from permil.report.spots_page import group_name

    name, band = task.detector.name, task.band
    page = compare_page(
        read_comparison(CompareFolder(task.folder.root).comparison(name, band)),
        task.detector,
        band,
        home=Link("all detectors and bands", "../index.html#compare"),
        others=[
            Link(group_name(*group), compare_path(task.folder, *group).name) for group in task.groups if group != (name, band)
        ],
        fingerprint=task.fingerprint,
    )
    write_page(task.path, render_compare(page))
