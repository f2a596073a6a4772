"""The page on stability, and its section on the index page."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from permil.camera import shared_camera
from permil.config import Config
from permil.products import RunFolder
from permil.report.kit.elements import Link
from permil.report.kit.pages import Declaration, IndexSection, Page, PageKind, index_address, page_path, relative_address, render
from permil.report.kit.results import two_digits
from permil.report.kit.run import RunProducts
from permil.report.stability.figures import led_picture, level_picture, superbias_picture
from permil.report.stability.inputs import LedStability, read_findings, read_led, read_superbias_stability, with_stability
from permil.report.stability.text import (
    amplifier_summary,
    amplifier_table,
    called_sentences,
    called_table,
    is_cut,
    measurements,
    method_text,
    repeatability_table,
    sentence,
    shape_table,
    stack_table,
    superbias_table,
    trend_table,
)

_NAME = "stability"


@dataclass(frozen=True)
class StabilityRequest:
    """The page of a run: LEDs whose stability was measured, and detectors with a superbias."""

    config: Config
    folder: RunFolder
    leds: tuple[str, ...]
    detectors: tuple[str, ...]


def stability_path(folder: RunFolder) -> Path:
    """Return the path of the page."""
    return page_path(folder, _NAME)


def stability_pages(run: RunProducts) -> list[Page]:
    """Return the page, none if the stability of no LED was measured."""
    request = _request(run)
    if not request.leds:
        return []
    return [Page(_sources(request), _options(request), partial(make_stability_page, request), stability_path(run.folder))]


def _request(run: RunProducts) -> StabilityRequest:
    leds = with_stability(run.folder, [led.led for led in run.leds])
    detectors = tuple(name for name in run.camera.detectors if run.folder.superbias(name).is_file())
    return StabilityRequest(run.config, run.folder, tuple(leds), detectors)


def _sources(request: StabilityRequest) -> tuple[Path, ...]:
    folder = request.folder
    paths = (folder.stability, folder.stability_exposures, folder.stability_amplifiers, folder.stability_readings)
    return (*(path(led) for led in request.leds for path in paths), *(folder.superbias(name) for name in request.detectors))


def _options(request: StabilityRequest) -> dict[str, Any]:
    return {"leds": request.leds, "detectors": request.detectors, "limit": request.config.report.repeatability_limit}


def make_stability_page(request: StabilityRequest, fingerprint: str) -> str:
    """Return the page as HTML.

    Raises
    ------
    InputError
        If a product cannot be read.
    """
    folder, limits, path = request.folder, request.config.report, stability_path(request.folder)
    leds = [read_led(folder, led) for led in request.leds]
    camera = shared_camera(request.config.camera)
    found = [read_superbias_stability(folder.superbias(name)) for name in request.detectors if name in camera.detectors]
    superbiases = [one for one in found if one is not None]
    limit = two_digits(1e3 * limits.repeatability_limit)
    return render(
        "stability/page.html",
        fingerprint=fingerprint,
        title=f"Stability of run {folder.root.name} - permil",
        links=[Link("all results", f"{relative_address(path, folder.report)}#{_NAME}")],
        facts=(),
        sentences=[sentence(led.findings, led.led, limits) for led in leds],
        requirement=f"The bench is required to repeat to {limit} ‰ (report.repeatability_limit). A verdict takes a margin of three errors.",
        repeatability=repeatability_table([(led.led, led.findings) for led in leds], limits),
        method=method_text(leds),
        leds=[_led_content(led, folder) for led in leds],
        superbias=superbias_table(superbiases) if superbiases else None,
        superbias_picture=superbias_picture(superbiases) if superbiases else None,
        level_picture=level_picture(superbiases) if superbiases else None,
    )


def _led_content(led: LedStability, folder: RunFolder) -> dict[str, Any]:
    shape = shape_table(led)
    return {
        "name": led.led,
        "picture": led_picture(led),
        "trends": trend_table(led),
        "shape": shape[0] if shape else None,
        "shape_text": shape[1] if shape else "",
        "stack": stack_table(led),
        "summary": amplifier_summary(led),
        "together": called_sentences(led),
        "called": called_table(led),
        "amplifiers": amplifier_table(led),
        "is_cut": is_cut(led),
        "file": folder.stability_amplifiers(led.led).relative_to(folder.root).as_posix(),
    }


def declare_section(run: RunProducts) -> Declaration | None:
    """Declare the section of the index page, None if the stability of no LED was measured."""
    request = _request(run)
    if not request.leds:
        return None
    return Declaration(
        tuple(run.folder.stability(led) for led in request.leds), _options(request), partial(make_section, request)
    )


def make_section(request: StabilityRequest) -> IndexSection:
    """Return the section of the index page.

    Raises
    ------
    InputError
        If a table cannot be read.
    """
    limits = request.config.report
    found = [(led, read_findings(request.folder, led)) for led in request.leds]
    return IndexSection(
        anchor=_NAME,
        link="Stability",
        subject=_NAME,
        heading="Stability",
        content=render(
            "stability/section.html",
            sentences=[sentence(findings, led, limits) for led, findings in found],
            repeatability=repeatability_table(found, limits),
            address=index_address(request.config, request.folder, stability_path(request.folder)),
        ),
        measurements=[entry for led, findings in found for entry in measurements(findings, led)],
    )


STABILITY_PAGES = PageKind(_NAME, "page on stability", stability_pages, section=declare_section)
