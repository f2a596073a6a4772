"""The content of the page of a joint solution, of its part of the index page, and its rows of the summary."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from permil.report.inputs import provenance_cards
from permil.report.joint_faults import faults
from permil.report.joint_figures import photodiode_figure, scale_figure, stage_figure
from permil.report.joint_inputs import JointProducts
from permil.report.joint_maps import (
    detector_residual_figure,
    joint_beam_figure,
    mode_figure,
    moving_residual_figure,
    reflection_figure,
    view_joint_beam,
)
from permil.report.joint_tables import (
    budget_table,
    detector_table,
    drift_table,
    facts,
    finding_table,
    frame_table,
    mode_table,
    stage_table,
)
from permil.report.joint_words import certificate_words, drift_words, fit_words, gradient_words, sentence, stage_words
from permil.report.pages import JointPage, JointSummary, Link, Picture, grid, raster, text_cell
from permil.report.summary import Measurement

if TYPE_CHECKING:
    from permil.beam import BeamModel
    from permil.camera import Detector

_FIGURES = (
    ("joint_fit", "REDCHI2", ""),
    ("joint_photodiode_noise", "PDNOISE", "PDNOISER"),
    ("joint_gradient_x", "GRADX", "GRADXERR"),
    ("joint_gradient_y", "GRADY", "GRADYERR"),
    ("joint_beam_x", "BEAMX", "BEAMXERR"),
    ("joint_beam_y", "BEAMY", "BEAMYERR"),
    ("joint_rotation", "ROTATION", "ROTATERR"),
    ("joint_stage_scale", "STAGESCL", "STAGESER"),
)


def joint_page(
    products: JointProducts,
    detectors: Sequence[Detector],
    *,
    scan: BeamModel | None,
    detector_links: dict[str, str],
    home: Link,
    others: Sequence[Link],
    fingerprint: str,
) -> JointPage:
    """Return the content of the page of one LED.

    Parameters
    ----------
    detectors
        Those of the solution, in its order.
    scan
        The beam model from the scan alone.
    detector_links
        Addresses of the pages of detectors that have one.
    home, others
        Links to the index and to other LEDs.
    """
    return JointPage(
        title=f"LED {products.led}, joint solution - permil",
        led=products.led,
        sentence=sentence(products),
        warnings=tuple(fault.words for fault in faults(products)),
        facts=facts(products),
        certificate=certificate_words(products),
        budget=budget_table(products),
        has_checks="split_half" in products.budget,
        gradient=gradient_words(products),
        detectors=detector_table(products, detector_links),
        exposures=_exposures(products),
        findings=finding_table(products),
        drift_words=drift_words(products),
        drifts=drift_table(products),
        stage_words=stage_words(products),
        stage=stage_table(products),
        stage_picture=raster(
            stage_figure(products),
            "Fitted minus recorded positions of the projector: as they are, without rotation and scale (one arrow for each position), and "
            "those of single exposures with their errors.",
        ),
        beam=_beam(products, scan),
        reflection=_reflection(products),
        fit_words=fit_words(products),
        frames=frame_table(products),
        residuals=_residuals(products, detectors),
        modes=raster(
            mode_figure(products, detectors),
            "The largest modes of the errors that super-pixels have in common: where a mode is red, all is too high together, or too low, "
            "by one standard deviation. The colours of each map have their own range.",
        ),
        mode_table=mode_table(products),
        provenance=grid(
            ("card", "content", "meaning"),
            [[text_cell(part) for part in card] for card in provenance_cards(products.header)],
            text_columns=3,
        ),
        home=home,
        others=tuple(others),
        fingerprint=fingerprint,
    )


def joint_summary(products: JointProducts, address: str) -> JointSummary:
    """Return what the index page says of the joint solution of an LED; ``address`` is that of its page, "" without pages."""
    return JointSummary(sentence(products), address)


def joint_measurements(products: JointProducts) -> list[Measurement]:
    """Return the figures of a joint solution for the summary."""
    found = []
    freedom = products.card("NSIGNAL") - products.card("NUNKNOWN")
    for metric, card, error in _FIGURES:
        known = products.has_photodiode or card != "PDNOISE"
        if card in products.header and known:
            size = products.card(error) if error else math.sqrt(2 / max(freedom, 1.0))
            found.append(Measurement(metric, products.led, products.card(card), size))
    return found


def _beam(products: JointProducts, scan: BeamModel | None) -> Picture:
    view = view_joint_beam(products, scan)
    caption = "The beam as a function of place minus projector; its centre is the centroid above 0.9 of its maximum."
    if view.over_scan is not None:
        caption += " What the beam model from the scan alone has over it is what dividing by that model would put into the flat."
    figure = joint_beam_figure(view, _pair(products, "BEAMX", "BEAMY"), _pair(products, "BEAMXERR", "BEAMYERR"))
    return raster(figure, caption)


def _reflection(products: JointProducts) -> Picture | None:
    if products.reflection is None:
        return None
    return raster(
        reflection_figure(products, products.reflection),
        "The pattern that moves against the projector, as a reflection does, fitted beside the beam.",
        narrow=True,
    )


def _exposures(products: JointProducts) -> Picture:
    if not products.has_photodiode:
        return raster(scale_figure(products), "The joint scales with their errors: the light of the LED, exposure by exposure.")
    return raster(
        photodiode_figure(products),
        "Readings of the photodiode over the joint scales, with the error of both; readings that were not used, and exposures that were "
        "left out, are red. What lies beyond the axes stands at their edge.",
    )


def _residuals(products: JointProducts, detectors: Sequence[Detector]) -> tuple[Picture, ...]:
    if products.residuals is None:
        return ()
    return (
        raster(
            moving_residual_figure(products.residuals, products),
            "Mean residuals in cells of 2 mm that move with the projector, and against it; the chi-square of each exposure where the "
            "projector stood (the mean residual of an exposure vanishes: its scale takes it), crosses are exposures that were left out.",
        ),
        raster(
            detector_residual_figure(products.residuals, detectors),
            "By place on the focal plane: mean residual of the later half of the exposures of each detector minus that of the earlier "
            "half, and the chi-square of each super-pixel (the mean residual of all exposures vanishes: the flat takes it).",
        ),
    )


def _pair(products: JointProducts, first: str, second: str) -> tuple[float, float]:
    return products.card(first), products.card(second)
