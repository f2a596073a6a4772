"""The index page and the table of all results: dependencies and content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from permil.beam.stage import load_beam
from permil.engine import Task, Work
from permil.errors import InputError
from permil.products import write_table
from permil.report.index.figures import beam_pictures, timeline_picture
from permil.report.index.text import (
    beam_measurements,
    beam_table,
    cost_table,
    exposure_table,
    facts,
    noted_files,
    outlier_table,
    stage_table,
    truth_plane_table,
    verdict_table,
)
from permil.report.kit.elements import reason_lists
from permil.report.kit.pages import (
    LAYOUT,
    Declaration,
    IndexSection,
    LedContext,
    PageKind,
    render,
    write_html,
)
from permil.report.kit.results import truth_grid
from permil.report.kit.run import LedProducts, RunProducts
from permil.report.kit.summary import NO, OPEN, YES, Measurement, flat_measurements, summary_table, verdicts, with_verdict

_FLATS = "composite flat field"


@dataclass(frozen=True)
class LedRequest:
    """The section of one LED, with the blocks added by other pages."""

    context: LedContext
    blocks: tuple[Declaration, ...]


@dataclass(frozen=True)
class IndexRequest:
    """The index page of a run, with the blocks and sections added by other pages.

    Attributes
    ----------
    blocks
        Blocks by the name of the LED.
    """

    run: RunProducts
    blocks: Mapping[str, tuple[Declaration, ...]]
    sections: tuple[Declaration, ...]

    @property
    def absent(self) -> tuple[str, ...]:
        """Names of the products that are missing; flats are not needed if there are other sections."""
        if self.run.leds:
            return self.run.absent
        return () if self.sections else (*self.run.absent, "beam models and flats")


def request_index(run: RunProducts, kinds: Sequence[PageKind]) -> IndexRequest:
    """Return the content of the index page of a run, declared but not yet made.

    Raises
    ------
    InputError
        If the folder holds no products.
    """
    blocks = {led.led: tuple(found for kind in kinds if (found := kind.led_block(run, led)) is not None) for led in run.leds}
    sections = tuple(found for kind in kinds if (found := kind.section(run)) is not None)
    if run.exposures is None and not run.leds and not sections:
        raise InputError("the folder holds no products of a run", path=run.folder.root, remedy="run other stages first")
    return IndexRequest(run, blocks, sections)


def index_task(request: IndexRequest) -> Task:
    """Declare the index page and the table of results."""
    run, folder = request.run, request.run.folder
    parts = [*request.sections, *(block for blocks in request.blocks.values() for block in blocks)]
    facts = {
        "layout": LAYOUT,
        "camera": run.config.camera,
        "limits": run.config.report.model_dump(mode="json"),
        "absent": request.absent,
        "parts": [part.facts for part in parts],
    }
    tables = (
        folder.configuration, folder.exposures, folder.unreadable, folder.left_out, folder.stages, folder.performance,
        folder.comparison,
    )  # fmt: skip
    products = [path(led.led) for led in run.leds for path in (folder.beam, folder.metrics)]

    def work(task: Task) -> Work:
        requests = [LedRequest(_context(run, led), request.blocks[led.led]) for led in run.leds]
        return Work(make_led_section, requests, lambda sections: _write_index(request, sections, task.fingerprint))

    return Task(
        ("report",),
        "LEDs",
        work,
        outputs=(folder.report, folder.summary),
        facts=facts,
        files=tables,
        products=[*products, *(path for part in parts for path in part.sources)],
    )


def _write_index(request: IndexRequest, sections: list[IndexSection], print_: str) -> tuple[str, ...]:
    """Write the index page and the table of results."""
    run, folder = request.run, request.run.folder
    sections = [*sections, *(section.make() for section in request.sections)]
    measurements = [entry for section in sections for entry in section.measurements]
    summary = summary_table(measurements, run.config.report)
    summary.meta = {"fingerprint": print_}
    write_table(folder.summary, summary)
    write_html(folder.report, _index_html(request, sections, measurements, print_))
    return ()


def make_led_section(request: LedRequest) -> IndexSection:
    """Return the section of one LED.

    Raises
    ------
    InputError
        If a product cannot be read.
    """
    context, limits = request.context, request.context.config.report
    led = context.products.led
    beam = load_beam(context.products.beam) if context.products.beam is not None else None
    blocks = [block.make(context) for block in request.blocks]
    of_beam = beam_measurements(beam, led) if beam is not None else []
    measurements = [*of_beam, *context.measurements, *(entry for block in blocks for entry in block.measurements)]
    failed, undecided = (
        sum(len(entries) for entries in with_verdict(measurements, limits, verdict).values()) for verdict in (NO, OPEN)
    )
    return IndexSection(
        anchor=f"led-{led}",
        link=f"LED {led}",
        subject=_FLATS,
        heading=render("index/led_heading.html", led=led, failed=failed, undecided=undecided),
        content=render(
            "index/led.html",
            results=beam_table(of_beam, limits) if beam is not None else None,
            pictures=beam_pictures(beam) if beam is not None else (),
            outliers=outlier_table(beam) if beam is not None and beam.outliers else None,
            blocks=blocks,
        ),
        measurements=measurements,
    )


def _context(run: RunProducts, led: LedProducts) -> LedContext:
    exposures = run.exposures
    return LedContext(
        config=run.config,
        folder=run.folder,
        products=led,
        exposures=exposures[np.asarray(exposures["led"]) == led.led] if exposures is not None else None,
        measurements=flat_measurements(led.metrics) if led.metrics is not None else [],
    )


def _index_html(
    request: IndexRequest, sections: Sequence[IndexSection], measurements: Sequence[Measurement], current: str
) -> str:
    run, judged, comparison = request.run, verdicts(measurements, request.run.config.report), request.run.comparison
    return render(
        "index/page.html",
        fingerprint=current,
        title=f"Run {run.folder.root.name}",
        subjects=list(dict.fromkeys(section.subject for section in sections)) or [_FLATS],
        facts=facts(run),
        absent=request.absent,
        verdicts=verdict_table(judged, run.config.report) if judged else None,
        state=next((state for state in (NO, OPEN) if any(verdict.state == state for verdict in judged)), YES),
        truth=truth_grid(comparison, with_led=True) if comparison is not None and len(comparison) else None,
        truth_planes=truth_plane_table(comparison.meta["planes"])
        if comparison is not None and comparison.meta.get("planes")
        else None,
        exposures=exposure_table(run.exposures) if run.exposures is not None else None,
        timeline=timeline_picture(run),
        unused=(
            ("Files not used", reason_lists(run.unreadable)),
            ("Exposures left out", reason_lists(run.left_out)),
            ("Files used with a note", reason_lists(noted_files(run.exposures))),
        ),
        sections=sections,
        stages=stage_table(run.stages) if run.stages is not None else None,
        costs=cost_table(run.folder),
        configuration=run.configuration,
    )
