"""The part of the index page about one LED: beam, focal plane, detectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from permil.camera import frames
from permil.report import focal_plane
from permil.report.beam_figures import beam_maps, beam_profiles
from permil.report.beam_view import view_beam
from permil.report.focal_plane_figures import coverage, flat_map, scatter_map
from permil.report.index_page import beam_grid, detector_grid
from permil.report.pages import Cell, Grid, JointSummary, LedSection, Picture, drawing, grid, raster, text_cell
from permil.report.quantities import format_measurement
from permil.report.summary import NO, OPEN, Measurement, with_verdict

if TYPE_CHECKING:
    from permil.beam import BeamModel
    from permil.camera import Camera, Detector
    from permil.config.report import ReportConfig
    from permil.flat.mosaic import MosaicGrid


@dataclass(frozen=True)
class PlaneMaps:
    """The focal plane of one LED on the cells of a mosaic.

    ``flat`` is the binned composite flat, ``scatter`` the relative scatter between pointings (None where no flat has it),
    ``rejected`` the rejected values per million of each detector.
    """

    grid: MosaicGrid
    flat: NDArray[np.floating]
    scatter: NDArray[np.floating] | None
    rejected: Mapping[str, float]


def led_section(
    led: str,
    camera: Camera,
    *,
    beam: BeamModel | None,
    plane: PlaneMaps | None,
    exposures: Table | None,
    measurements: Sequence[Measurement],
    detectors: Sequence[str],
    links: Mapping[str, str],
    limits: ReportConfig,
    joint: JointSummary | None = None,
) -> LedSection:
    """Return the section of one LED.

    Parameters
    ----------
    exposures
        Rows of the index with this LED.
    measurements
        Results of this LED, of its beam and its flats.
    detectors
        Names of the detectors with a flat.
    links
        Addresses of their pages.
    joint
        What there is to say of the joint solution, None without one.
    """
    shown = [camera[name] for name in detectors]
    pictures: list[Picture] = []
    if plane is not None and shown:
        pictures += _plane_pictures(plane, shown)
    if exposures is not None and len(exposures):
        pictures.append(_coverage(exposures, shown or camera.science, led))
    rejected = plane.rejected if plane is not None else {}
    of_beam = [entry for entry in measurements if not entry.detector]
    return LedSection(
        led=led,
        beam_facts=beam_grid(of_beam, limits=limits) if beam is not None else None,
        beam_pictures=_beam_pictures(beam) if beam is not None else (),
        outliers=_outliers(beam) if beam is not None and beam.outliers else None,
        plane_pictures=tuple(pictures),
        detectors=detector_grid(measurements, detectors, links, rejected, limits=limits) if detectors else None,
        failed=sum(len(entries) for entries in with_verdict(measurements, limits, NO).values()),
        undecided=sum(len(entries) for entries in with_verdict(measurements, limits, OPEN).values()),
        joint=joint,
    )


def _beam_pictures(beam: BeamModel) -> tuple[Picture, ...]:
    content = view_beam(beam)
    return (
        raster(
            beam_maps(content),
            "The beam as a function of place minus projector. Each node is compared with what the model predicts from all other nodes.",
        ),
        drawing(beam_profiles(content), "Profiles through the maximum, and the nodes' deviations over their predicted errors."),
    )


def _outliers(beam: BeamModel) -> Grid:
    rows = [
        (
            text_cell(outlier.bunch),
            Cell(f"{outlier.x_mm:.2f}", outlier.x_mm),
            Cell(f"{outlier.y_mm:.2f}", outlier.y_mm),
            Cell(format_measurement(1e3 * outlier.deviation, 1e3 * abs(outlier.deviation / outlier.pull)), outlier.deviation),
            Cell(f"{outlier.pull:.1f}", outlier.pull),
        )
        for outlier in beam.outliers
    ]
    return grid(("bunch", "X (mm, CCS)", "Y (mm, CCS)", "deviation (‰)", "over its error"), rows)


def _plane_pictures(plane: PlaneMaps, detectors: Sequence[Detector]) -> list[Picture]:
    flattened = focal_plane.over_detector_median(plane.flat, focal_plane.detector_cells(plane.grid, detectors))
    pictures = [
        raster(
            flat_map(plane.flat, flattened, plane.grid, detectors),
            "Composite flat on one scale, and each detector over its own median; grey is no data.",
        )
    ]
    if plane.scatter is not None:
        rejected = np.array([plane.rejected.get(detector.name, np.nan) for detector in detectors])
        pictures.append(
            raster(
                scatter_map(plane.scatter, plane.grid, rejected, detectors),
                "Scatter of the pointings about their mean, and the rate of values that the stacks rejected.",
            )
        )
    return pictures


def _coverage(exposures: Table, detectors: Sequence[Detector], led: str) -> Picture:
    places = {purpose: _positions(exposures[exposures["purpose"] == purpose]) for purpose in ("scan", "pointing")}
    figure = coverage(places["scan"], places["pointing"], detectors, led=led)
    return raster(figure, "Positions of the projector over the focal plane.", narrow=True)


def _positions(exposures: Table) -> NDArray[np.float64]:
    """Return the distinct projector positions of some exposures, DVCS mm, shape (n, 2)."""
    x, y = frames.ccs_to_dvcs(exposures["x_mm"], exposures["y_mm"])
    places = np.column_stack([x, y])
    return np.unique(places[np.isfinite(places).all(axis=1)].round(1), axis=0)
