"""Products of a run that all pages share; declaration and writing of pages, and their blocks on the index page.

A kind of pages is one `PageKind` in `permil.report.registry`. Writing, skipping of current pages, removal of stale pages and links on
the index page follow from it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from astropy.table import Table
from markupsafe import Markup

from permil.camera import Camera
from permil.config import Config
from permil.engine import Task, Work
from permil.errors import InputError
from permil.products import RunFolder, atomic_output, configuration_digest, read_table
from permil.products.fingerprint import FINGERPRINT_META
from permil.report.kit.elements import Link, header_grid, reason_lists, truth_grid
from permil.yaml_file import read_yaml

if TYPE_CHECKING:
    from permil.report.kit.results import Measurement

_EXPOSURE_COLUMNS = ("obsid", "detector", "led", "purpose", "photodiode", "x_mm", "y_mm", "mjd")


@dataclass(frozen=True)
class LedProducts:
    """Products of one LED: paths of beam model and mosaic (None where absent), metrics, names of the detectors with a flat."""

    led: str
    beam: Path | None
    focal_plane: Path | None
    metrics: Table | None
    detectors: tuple[str, ...]


@dataclass(frozen=True)
class RunProducts:
    """Products in a run's folder that are read before any page is made.

    Attributes
    ----------
    config, camera, folder
        Configuration of the report, camera and folder of the run.
    configuration, versions, digest
        Text of ``run.yaml``, the versions in it, and the digest of the configuration, which is in the headers of products, too.
    exposures, unreadable, left_out, stages, comparison
        Tables, None where absent.
    leds
        Products of each LED.
    absent
        Products of a run with flats that are missing in this run.
    """

    config: Config
    camera: Camera
    folder: RunFolder
    configuration: str
    versions: dict[str, str]
    digest: str
    exposures: Table | None
    unreadable: Table | None
    left_out: Table | None
    stages: Table | None
    comparison: Table | None
    leds: tuple[LedProducts, ...]
    absent: tuple[str, ...]


def read_run(config: Config, camera: Camera, folder: RunFolder) -> RunProducts:
    """Read the products of a run that are not specific to one page.

    LEDs are in the order of the configuration; others follow.

    Raises
    ------
    InputError
        If the folder does not exist, or a table cannot be read.
    """
    if not folder.root.is_dir():
        raise InputError(
            "the run does not exist", path=folder.root, remedy="check the key `output`, or run the other stages first"
        )
    absent: list[str] = []
    return RunProducts(
        config=config,
        camera=camera,
        folder=folder,
        **_configuration(folder.configuration, absent),
        exposures=_table(folder.exposures, "the index of exposures", absent, columns=_EXPOSURE_COLUMNS),
        unreadable=_table(folder.unreadable, "the list of unreadable files", absent, columns=("path", "reason")),
        left_out=_table(folder.left_out, "the list of exposures left out", absent, columns=("path", "reason")),
        stages=_table(folder.stages, "the times of the stages", absent, columns=("stage", "seconds")),
        comparison=_table(folder.comparison, "", [], columns=("led", "detector")),
        leds=tuple(_led_products(folder, camera, led, absent) for led in _leds(folder, config.exposures.leds)),
        absent=tuple(absent),
    )


def _configuration(path: Path, absent: list[str]) -> dict[str, Any]:
    if not path.is_file():
        absent.append("the resolved configuration (run.yaml)")
        return {"configuration": "", "versions": {}, "digest": ""}
    try:
        content = read_yaml(path, kind="record of a run", error=InputError)
    except InputError as error:
        raise InputError(error.what, path=path, remedy="run any stage again to rewrite it") from error
    text = path.read_text(encoding="utf-8")
    return {
        "configuration": text,
        "versions": {str(key): str(entry) for key, entry in (content.get("versions") or {}).items()},
        "digest": configuration_digest(content.get("config") or {}),
    }


def _table(path: Path, what: str, absent: list[str], *, columns: tuple[str, ...]) -> Table | None:
    if not path.is_file():
        absent.append(what)
        return None
    # A table written without rows has no columns.
    table = read_table(path)
    return read_table(path, columns=columns) if len(table.colnames) else None


def _leds(folder: RunFolder, order: list[str]) -> list[str]:
    found = {path.stem for path in (folder.root / "beam").glob("*.fits")}
    found |= {path.name for path in (folder.root / "flat").glob("*") if path.is_dir()}
    return [led for led in order if led in found] + sorted(found - set(order))


def _led_products(folder: RunFolder, camera: Camera, led: str, absent: list[str]) -> LedProducts:
    beam, focal_plane = folder.beam(led), folder.focal_plane(led)
    detectors = tuple(name for name in camera.detectors if folder.flat(led, name).is_file())
    for path, what in ((beam, "beam model"), (focal_plane, "mosaic of the focal plane")):
        if not path.is_file():
            absent.append(f"LED {led}: {what}")
    if not detectors:
        absent.append(f"LED {led}: flats")
    return LedProducts(
        led=led,
        beam=beam if beam.is_file() else None,
        focal_plane=focal_plane if focal_plane.is_file() else None,
        metrics=_table(folder.metrics(led), f"LED {led}: metrics", absent, columns=("detector", "amp", "led")),
        detectors=detectors,
    )


LAYOUT = 11
"""Version of the layout. Increase it when the same products give different pages."""


@dataclass(frozen=True)
class Declaration:
    """A part of the report.

    Attributes
    ----------
    sources
        Products on which it depends; they need not exist.
    options
        Everything else on which it depends, as values that JSON can represent.
    make
        Function that computes it; must be picklable.
    """

    sources: tuple[Path, ...]
    options: Mapping[str, Any]
    make: Callable[..., Any]

    @property
    def facts(self) -> dict[str, Any]:
        """Everything that it depends on besides its sources."""
        return {"layout": LAYOUT, **self.options}


@dataclass(frozen=True)
class Page(Declaration):
    """A page, written to ``path``; ``make(fingerprint)`` returns its HTML."""

    path: Path

    def task(self, description: str) -> Task:
        """Declare the task that writes the page."""
        return Task(
            ("page", str(self.path)),
            description,
            lambda task: Work(_write_page, [(self, task.fingerprint)]),
            outputs=(self.path,),
            facts=self.facts,
            products=self.sources,
        )


@dataclass(frozen=True)
class LedContext:
    """Inputs of a block in the section of an LED.

    Attributes
    ----------
    config, folder
        Configuration and folder of the run.
    products
        Products of this LED.
    exposures
        Rows of the index of exposures with this LED, None if there is no index.
    measurements
        Results of the beam model and the flats.
    """

    config: Config
    folder: RunFolder
    products: LedProducts
    exposures: Table | None
    measurements: Sequence[Measurement]


@dataclass(frozen=True)
class IndexPart:
    """HTML on the index page, and its measurements for the summary."""

    content: Markup
    measurements: Sequence[Measurement] = ()


@dataclass(frozen=True)
class PageKind:
    """A kind of pages.

    Attributes
    ----------
    folder
        Folder below ``report``; used by this kind alone.
    description
        Name of the pages in progress bars.
    pages
        Function that returns the pages of a run.
    led_block
        Function that declares the block in the section of an LED, None if an LED has none; ``make(context)`` returns an `IndexPart`.
    section
        Function that declares the section of the index page, None if a run has none; ``make()`` returns an `IndexPart`.
    link, heading
        Text of the link to the section, and its heading; the link is to an anchor of the name of the folder.
    """

    folder: str
    description: str
    pages: Callable[[RunProducts], list[Page]]
    led_block: Callable[[RunProducts, LedProducts], Declaration | None] = lambda _run, _led: None
    section: Callable[[RunProducts], Declaration | None] = lambda _run: None
    link: str = ""
    heading: str = ""


def page_path(folder: RunFolder, *names: str) -> Path:
    """Return the path of a page from the names of its folders below ``report`` and its own name; empty names are skipped."""
    *folders, name = (part for part in names if part)
    return folder.report.parent.joinpath(*folders, f"{name}.html")


def group_name(detector: str, band: str) -> str:
    """Return the name of a detector and band for pages; ``band`` may be empty."""
    return " ".join(part for part in (detector, band) if part)


def group_path(folder: RunFolder, kind: str, detector: str, band: str) -> Path:
    """Return the path of the page of a detector and band; ``band`` may be empty."""
    return page_path(folder, kind, "_".join(part for part in (detector, band) if part))


def group_addresses(run: RunProducts, kind: str, groups: Sequence[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Return the addresses, relative to the index page, of the pages of all detectors and bands; "" without pages."""
    return {group: index_address(run.config, run.folder, group_path(run.folder, kind, *group)) for group in groups}


def group_links(
    folder: RunFolder, kind: str, own: tuple[str, str], groups: Sequence[tuple[str, str]], *, home: str
) -> list[Link]:
    """Return the links from the page of a detector and band to the section of the index page, named ``home``, and to all others."""
    path = group_path(folder, kind, *own)
    others = [group for group in groups if group != own]
    return [
        Link(home, f"{relative_address(path, folder.report)}#{kind}"),
        *(Link(group_name(*group), relative_address(path, group_path(folder, kind, *group))) for group in others),
    ]


def relative_address(page: Path, target: Path) -> str:
    """Return the address of a page relative to another."""
    return Path(os.path.relpath(target, page.parent)).as_posix()


def index_address(config: Config, folder: RunFolder, page: Path) -> str:
    """Return the address of a page relative to the index page, "" if only the index page is configured."""
    return relative_address(folder.report, page) if config.report.detector_pages else ""


def _write_page(page: tuple[Page, str]) -> None:
    """Make a page with its fingerprint and write it."""
    declared, fingerprint = page
    write_html(declared.path, declared.make(fingerprint))


def write_html(path: Path, html: str) -> None:
    """Write HTML atomically."""
    with atomic_output(path) as temporary:
        temporary.write_text(html, encoding="utf-8")


def remove_stale_pages(folder: RunFolder, kind: PageKind, pages: Sequence[Page]) -> None:
    """Remove pages of a kind that are no longer part of the run."""
    wanted = {page.path for page in pages}
    own = folder.report.parent / kind.folder
    for path in (*own.rglob("*.html"), own.with_suffix(".html")):
        if path not in wanted and path.is_file():
            path.unlink()


def render(template: str, module: str = "", **content: Any) -> Markup:
    """Return a template of the report, such as ``detector.html``, filled with content, as HTML.

    Parameters
    ----------
    module
        Name of the module whose functions the template calls.
    """
    functions = vars(sys.modules[module]) if module else {}
    filled = _templates().get_template(template).render(functions, **content, meta=FINGERPRINT_META)
    return Markup(filled)  # noqa: S704 - autoescaped


@lru_cache(maxsize=1)
def _templates() -> jinja2.Environment:
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("permil.report", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    templates.globals |= {"header_grid": header_grid, "reason_lists": reason_lists, "truth_grid": truth_grid}
    return templates
