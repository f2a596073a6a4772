"""The pages of joint solutions: dependencies and content."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from permil.beam.stage import load_beam
from permil.camera import shared_camera
from permil.config import Config
from permil.products import RunFolder
from permil.report.detector.page import detector_path
from permil.report.joint.figures import (
    beam_picture,
    exposure_picture,
    mode_picture,
    reflection_picture,
    residual_pictures,
    stage_picture,
)
from permil.report.joint.inputs import JointProducts, read_joint, solution_path
from permil.report.joint.text import (
    board_table,
    budget_table,
    cautions,
    convergence_text,
    detector_table,
    drift_table,
    drift_text,
    facts,
    finding_table,
    fit_text,
    frame_table,
    gain_step_table,
    gradient_text,
    mode_table,
    solution_text,
    stage_table,
    stage_text,
)
from permil.report.kit.elements import Link, header_grid
from permil.report.kit.pages import (
    Declaration,
    LedBlock,
    LedContext,
    Page,
    PageKind,
    index_address,
    page_path,
    relative_address,
    render,
)
from permil.report.kit.results import Measurement
from permil.report.kit.run import LedProducts, RunProducts

_RESULTS = (
    ("joint_fit", "REDCHI2", ""),
    ("joint_photodiode_noise", "PDNOISE", "PDNOISER"),
    ("joint_gradient_x", "GRADX", "GRADXERR"),
    ("joint_gradient_y", "GRADY", "GRADYERR"),
    ("joint_beam_x", "BEAMX", "BEAMXERR"),
    ("joint_beam_y", "BEAMY", "BEAMYERR"),
    ("joint_rotation", "ROTATION", "ROTATERR"),
    ("joint_stage_scale", "STAGESCL", "STAGESER"),
)
"""Results in the summary, with the cards of their values and errors."""


def joint_path(folder: RunFolder, led: str) -> Path:
    """Return the path of the page of an LED."""
    return page_path(folder, JOINT_PAGES.folder, led)


def joint_pages(run: RunProducts) -> list[Page]:
    """Return one page for each LED with a joint solution."""
    solved = [led for led in run.leds if solution_path(run.folder, led.led, led.detectors) is not None]
    pages = []
    for led in solved:
        others = tuple(other.led for other in solved if other is not led)
        make = partial(make_joint_page, run.config, run.folder, led, others)
        pages.append(Page(_sources(run, led), _options(run, led) | {"others": others}, make, joint_path(run.folder, led.led)))
    return pages


def make_joint_page(config: Config, folder: RunFolder, led: LedProducts, other_leds: Sequence[str], fingerprint: str) -> str:
    """Return the page of one LED as HTML.

    Parameters
    ----------
    other_leds
        Other LEDs with a joint solution.

    Raises
    ------
    InputError
        If a product cannot be read.
    """
    camera, path = shared_camera(config.camera), joint_path(folder, led.led)
    products = read_joint(folder, camera, led.led)
    detectors = [camera[name] for name in products.detectors]
    scan = load_beam(led.beam) if led.beam is not None else None
    links = {name: relative_address(path, detector_path(folder, led.led, name)) for name in led.detectors}
    return render(
        "joint/page.html",
        fingerprint=fingerprint,
        title=f"LED {led.led}, joint solution - permil",
        links=[
            Link("all results", f"{relative_address(path, folder.report)}#led-{led.led}"),
            *(Link(f"LED {other}", relative_address(path, joint_path(folder, other))) for other in other_leds),
        ],
        led=led.led,
        sentence=solution_text(products),
        cautions=cautions(products),
        facts=facts(products),
        convergence=convergence_text(products),
        budget=budget_table(products),
        has_checks="split_half" in products.budget,
        gradient=gradient_text(products),
        detectors=detector_table(products, links),
        exposures=exposure_picture(products),
        findings=finding_table(products),
        drift_text=drift_text(products),
        drifts=drift_table(products),
        boards=board_table(products),
        gain_steps=gain_step_table(products),
        stage_text=stage_text(products),
        stage=stage_table(products),
        stage_picture=stage_picture(products),
        beam=beam_picture(products, scan),
        reflection=reflection_picture(products),
        fit_text=fit_text(products),
        frames=frame_table(products),
        residuals=residual_pictures(products, detectors),
        modes=mode_picture(products, detectors),
        mode_table=mode_table(products),
        header=header_grid(products.header),
    )


def declare_block(run: RunProducts, led: LedProducts) -> Declaration | None:
    """Declare the block about the joint solution in the section of an LED, None without one."""
    if solution_path(run.folder, led.led, led.detectors) is None:
        return None
    return Declaration(_sources(run, led), _options(run, led), make_block)


def make_block(context: LedContext) -> LedBlock:
    """Return the sentence about the joint solution of an LED, with the link to its page.

    Raises
    ------
    InputError
        If a product cannot be read.
    """
    led = context.products.led
    products = read_joint(context.folder, shared_camera(context.config.camera), led)
    address = index_address(context.config, context.folder, joint_path(context.folder, led))
    content = render("joint/block.html", sentence=solution_text(products), address=address)
    return LedBlock(content, joint_measurements(products))


def joint_measurements(products: JointProducts) -> list[Measurement]:
    """Return the results of a joint solution for the summary."""
    found = []
    freedom = products.card("NSIGNAL") - products.card("NUNKNOWN")
    for metric, card, error in _RESULTS:
        known = products.has_photodiode or card != "PDNOISE"
        if card in products.header and known:
            size = products.card(error) if error else math.sqrt(2 / max(freedom, 1.0))
            found.append(Measurement(metric, products.led, products.card(card), size))
    return found


def _sources(run: RunProducts, led: LedProducts) -> tuple[Path, ...]:
    return run.folder.joint(led.led), run.folder.beam(led.led), run.folder.exposures


def _options(run: RunProducts, led: LedProducts) -> dict[str, object]:
    signals = [run.folder.super_pixels(led.led, name).is_file() for name in run.camera.detectors]
    return {"camera": run.config.camera, "detectors": led.detectors, "signals": signals}


JOINT_PAGES = PageKind("joint", "pages of joint solutions", joint_pages, led_block=declare_block)
