"""What a page is made of, and its way to HTML: one file with its styles and pictures inside."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import jinja2
from astropy.table import Table
from matplotlib.figure import Figure

from permil.report.quantities import MISSING, QUANTITIES, format_count
from permil.report.style import embedded, png, svg

FINGERPRINT_META = "permil-fingerprint"
"""Name of the meta element that says what a page was made from."""

_MOST_PATHS = 50


@dataclass(frozen=True)
class Cell:
    """One cell of a table: what it shows, what it is sorted by, the verdict that marks it (no or open), where it leads."""

    text: str
    key: float | str = ""
    verdict: str = ""
    link: str = ""


@dataclass(frozen=True)
class Grid:
    """A table of a page; ``numeric`` says which columns are set to the right."""

    headings: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    numeric: tuple[bool, ...]


@dataclass(frozen=True)
class Picture:
    """A picture with its whole content in ``address``; ``caption`` says what to see in it."""

    address: str
    caption: str
    narrow: bool = False


@dataclass(frozen=True)
class Link:
    """A link of the navigation."""

    text: str
    address: str


@dataclass(frozen=True)
class ReasonList:
    """Files that share a reason; ``paths`` may be cut, ``count`` is how many there are."""

    reason: str
    count: int
    paths: tuple[str, ...]


@dataclass(frozen=True)
class JointSummary:
    """What the index page says of a joint solution: a sentence, and the address of its page ("" without pages)."""

    sentence: str
    address: str


@dataclass(frozen=True)
class LedSection:
    """The part of the index page about one LED."""

    led: str
    beam_facts: Grid | None
    beam_pictures: tuple[Picture, ...]
    outliers: Grid | None
    plane_pictures: tuple[Picture, ...]
    detectors: Grid | None
    failed: int = 0
    undecided: int = 0
    joint: JointSummary | None = None


@dataclass(frozen=True)
class SpotsSection:
    """The part of the index page about artificial stars: a row per detector and band, and exposures that were left out."""

    groups: Grid
    left_out: tuple[ReasonList, ...]


@dataclass(frozen=True)
class CompareSection:
    """The part of the index page about stars and flats.

    ``sentences`` and ``no_chance`` (why there is no p-value) are pairs of detector with band, and words.
    """

    groups: Grid
    sentences: tuple[tuple[str, str], ...]
    no_chance: tuple[tuple[str, str], ...]
    levels: Grid | None
    not_told_apart: tuple[ReasonList, ...]


@dataclass(frozen=True)
class IndexPage:
    """Content of the index page."""

    title: str
    facts: tuple[tuple[str, str], ...]
    absent: tuple[str, ...]
    verdicts: Grid | None
    state: str
    truth: Grid | None
    truth_planes: Grid | None
    exposures: Grid | None
    timeline: Picture | None
    unused: tuple[tuple[str, tuple[ReasonList, ...]], ...]
    sections: tuple[LedSection, ...]
    spots: SpotsSection | None
    compare: CompareSection | None
    stages: Grid | None
    performance: Grid | None
    configuration: str
    fingerprint: str


@dataclass(frozen=True)
class DetectorPage:
    """Content of the page of one detector and LED."""

    title: str
    detector: str
    led: str
    facts: tuple[tuple[str, str], ...]
    results: Grid | None
    truth: Grid | None
    pictures: tuple[Picture, ...]
    truth_picture: Picture | None
    amplifiers: Grid | None
    pointings: Grid | None
    mask: Grid
    provenance: Grid
    absent: tuple[str, ...]
    home: Link
    previous: Link | None
    following: Link | None
    others: tuple[Link, ...]
    fingerprint: str
    failed: tuple[str, ...] = field(default=())
    undecided: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class SpotsPage:
    """Content of the page of the artificial stars of one detector and band."""

    title: str
    detector: str
    band: str
    facts: tuple[tuple[str, str], ...]
    results: Grid
    words: str
    mask: tuple[Picture, ...]
    sensor: tuple[Picture, ...]
    amplifiers: Grid
    repeatability: Picture | None
    lamp: Picture | None
    degeneracy: Grid | None
    exposures: Grid
    provenance: Grid
    absent: tuple[str, ...]
    home: Link
    others: tuple[Link, ...]
    fingerprint: str


@dataclass(frozen=True)
class ComparePage:
    """Content of the page that compares the stars of one detector and band with its flat.

    ``sentence`` is the verdict on the whole detector, ``words`` what the correlation means; ``silent`` are pairs of what nothing can be
    said of, and why.
    """

    title: str
    detector: str
    band: str
    facts: tuple[tuple[str, str], ...]
    sentence: str
    words: tuple[str, ...]
    headline: Grid | None
    scatter: Picture | None
    maps: tuple[Picture, ...]
    scales: Picture | None
    chance: tuple[Picture, ...]
    methods: Grid | None
    fraction_picture: Picture | None
    fractions: Grid | None
    slopes: Grid | None
    verdicts: Grid | None
    silent: tuple[tuple[str, str], ...]
    amplifiers: str
    rings: str
    ring_picture: Picture | None
    pairs: Grid | None
    provenance: Grid
    absent: tuple[str, ...]
    home: Link
    others: tuple[Link, ...]
    fingerprint: str


@dataclass(frozen=True)
class JointPage:
    """Content of the page of the joint solution of one LED.

    ``warnings`` are sentences about what is wrong; ``has_checks`` says whether the budget was tested on halves of the data; ``residuals``
    is empty where the signals are not there any more.
    """

    title: str
    led: str
    sentence: str
    warnings: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    certificate: str
    budget: Grid
    has_checks: bool
    gradient: str
    detectors: Grid
    exposures: Picture
    findings: Grid | None
    drift_words: str
    drifts: Grid | None
    stage_words: str
    stage: Grid
    stage_picture: Picture
    beam: Picture
    reflection: Picture | None
    fit_words: str
    frames: Grid | None
    residuals: tuple[Picture, ...]
    modes: Picture
    mode_table: Grid
    provenance: Grid
    home: Link
    others: tuple[Link, ...]
    fingerprint: str


def raster(figure: Figure, caption: str, *, narrow: bool = False) -> Picture:
    """Return a figure as a picture made of pixels, for maps."""
    return Picture(embedded(png(figure), "png"), caption, narrow)


def drawing(figure: Figure, caption: str, *, narrow: bool = False) -> Picture:
    """Return a figure as a picture made of lines."""
    return Picture(embedded(svg(figure), "svg+xml"), caption, narrow)


def text_cell(text: object, *, link: str = "") -> Cell:
    """Return a cell with text."""
    return Cell(str(text), str(text), link=link)


def count_cell(number: float) -> Cell:
    """Return a cell with a whole number, a dash for NaN."""
    return Cell(format_count(round(number)), float(number)) if math.isfinite(number) else Cell(MISSING)


def result_cell(name: str, number: float, error: float, *, verdict: str = "") -> Cell:
    """Return a cell with a quantity and its error."""
    return Cell(QUANTITIES[name].show(number, error), float(number) if math.isfinite(number) else "", verdict)


def grid(headings: Sequence[str], rows: Sequence[Sequence[Cell]], *, text_columns: int = 1) -> Grid:
    """Return a table whose first columns are text and all others numbers."""
    numeric = tuple(number >= text_columns for number in range(len(headings)))
    return Grid(tuple(headings), tuple(tuple(row) for row in rows), numeric)


def reason_lists(table: Table | None, *, column: str = "path") -> tuple[ReasonList, ...]:
    """Return the files (or whatever ``column`` names) of a table with the column ``reason``, grouped by their reasons."""
    if table is None:
        return ()
    groups: dict[str, list[str]] = {}
    for row in table:
        groups.setdefault(str(row["reason"]), []).append(str(row[column]))
    return tuple(ReasonList(reason, len(names), tuple(names[:_MOST_PATHS])) for reason, names in groups.items())


def render_index(page: IndexPage) -> str:
    """Return the index page as HTML."""
    return _templates().get_template("index.html").render(page=page, meta=FINGERPRINT_META)


def render_detector(page: DetectorPage) -> str:
    """Return the page of a detector as HTML."""
    return _templates().get_template("detector.html").render(page=page, meta=FINGERPRINT_META)


def render_spots(page: SpotsPage) -> str:
    """Return the page of the artificial stars of a detector as HTML."""
    return _templates().get_template("spots.html").render(page=page, meta=FINGERPRINT_META)


def render_compare(page: ComparePage) -> str:
    """Return the page that compares stars with the flat as HTML."""
    return _templates().get_template("compare.html").render(page=page, meta=FINGERPRINT_META)


def render_joint(page: JointPage) -> str:
    """Return the page of a joint solution as HTML."""
    return _templates().get_template("joint.html").render(page=page, meta=FINGERPRINT_META)


@lru_cache(maxsize=1)
def _templates() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("permil.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
