"""Check a plan: positions from the configuration, predicted errors, tables and a summary text."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from astropy.table import Table

from permil.beam.fits import model_from_hdus
from permil.camera import Camera
from permil.config.plan import PlanConfig, PlanPointings, PlanScan
from permil.errors import ConfigError, PositionError
from permil.exposures.stage import read_index
from permil.plan.positions import (
    AcquisitionPoint,
    Place,
    PlannedPosition,
    amplifier_centre,
    named_detectors,
    nearest_detector,
    only_these,
    positions_taken,
    quincunx,
    read_acquisition,
    read_at_location,
    read_with,
    scan_grid,
)
from permil.plan.prediction import (
    FEWEST_CELLS,
    BeamShape,
    PlannedSignals,
    PlanPrediction,
    cells_for,
    knots_for,
    mode_table,
    planned_signals,
    plateau,
    predict,
)
from permil.plan.summary import describe
from permil.products import RunFolder, write_table
from permil.progress import console, parallel_map

_SCAN_WIDTH_MM = 80.0


def check_plan(plan: PlanConfig, camera: Camera, folder: RunFolder, *, has_photodiode: bool = True, seed: int = 0) -> str:
    """Predict the errors of a plan, write them below ``plan/`` in the run's folder, and return a summary text.

    Parameters
    ----------
    plan
        Section ``plan``.
    camera
        Camera with the positions of the detectors.
    folder
        Folder of the run; ``plan/check.ecsv``, ``plan/modes.ecsv`` and, if matplotlib is installed, ``plan/check.png`` are written.
    has_photodiode
        Whether exposures will have a photodiode reading.
    seed
        Seed of a shuffled order.

    Returns
    -------
    str
        Summary text.

    Raises
    ------
    PermilError
        If a named detector, file or LED does not exist, or no detector is illuminated.
    """
    positions = planned_positions(plan, camera)
    signals, knots_mm = _signals(plan, camera, positions)
    cells = sum(len(each.pixel_error) for each in signals)
    console.print(
        f"  checking {len(positions)} positions on {cells} cells of {len(signals)} detectors, beam with knots every {knots_mm:g} mm",
        highlight=False,
        soft_wrap=True,
    )
    with console.status("checking which modes the signals determine"):
        prediction = predict(
            positions,
            signals,
            photodiode_noise=plan.photodiode_noise if has_photodiode else None,
            photodiode_drift=plan.photodiode_drift,
            knots_mm=knots_mm,
            limit=plan.mode_limit,
            shuffle=np.random.default_rng(seed) if plan.order == "shuffled" else None,
        )
    where = folder.root / "plan"
    write_table(where / "check.ecsv", detector_table(prediction, plan))
    write_table(where / "modes.ecsv", mode_table(prediction))
    if importlib.util.find_spec("matplotlib") is not None:
        from permil.plan.summary import write_error_map

        write_error_map(where / "check.png", prediction)
    text = describe(
        prediction,
        super_pixel_mm=plan.super_pixel_mm,
        knots_mm=knots_mm,
        wanted=[detector.name for detector in named_detectors(camera, plan.detectors)] if plan.detectors else [],
        has_photodiode=has_photodiode,
        with_drift=has_photodiode and plan.photodiode_drift > 0,
    )
    return f"{text}\nDetails: {where / 'check.ecsv'}, {where / 'modes.ecsv'}"


def planned_positions(plan: PlanConfig, camera: Camera) -> list[PlannedPosition]:
    """Return all positions of a plan in this order: taken, scan, pointings, acquisition files.

    The readout is restricted to the detectors of the plan.

    Raises
    ------
    PermilError
        If a named detector, raft, LED, file or index does not exist.
    """
    wanted = named_detectors(camera, plan.detectors)
    names = {detector.name for detector in wanted}
    scan, pointings = plan.scan, plan.pointings
    if scan is None and pointings is None and not plan.acquisition and not plan.taken:
        scan, pointings = PlanScan(), PlanPointings()
    positions: list[PlannedPosition] = []
    if plan.taken:
        path = Path(plan.taken)
        index = read_index(path if path.suffix == ".parquet" else RunFolder(path).exposures)
        positions += positions_taken(index, plan.led)
    if scan is not None:
        centre = scan.centre_mm or amplifier_centre(camera, scan.detector, scan.amp)
        names.add(nearest_detector(camera.science, centre).name)
        positions += _scan_positions(scan, centre, camera)
    if pointings is not None:
        places: list[Place] = list(pointings.points)
        if pointings.aim or not pointings.points:
            aimed = named_detectors(camera, pointings.aim) if pointings.aim else wanted
            places += [place for detector in aimed for place in quincunx(detector)]
        positions += [PlannedPosition(*place, pointings.images, read_with(camera, place, pointings.read)) for place in places]
    positions += _acquisition_positions(plan, camera)
    return only_these(positions, names)


def _scan_positions(scan: PlanScan, centre: Place, camera: Camera) -> list[PlannedPosition]:
    pitch = scan.pitch_mm or (scan.width_mm or _SCAN_WIDTH_MM) / max(scan.nx - 1, scan.ny - 1, 1)
    # The detectors read out are those at the centre of the scan, for all positions.
    read = read_with(camera, centre, scan.read)
    return [PlannedPosition(*place, scan.images, read) for place in scan_grid(centre, (scan.nx, scan.ny), pitch)]


def _acquisition_positions(plan: PlanConfig, camera: Camera) -> list[PlannedPosition]:
    points = [point for path in plan.acquisition for point in read_acquisition(path)]
    return [
        PlannedPosition(point.x_mm, point.y_mm, point.images, read_at_location(camera, point.location))
        for point in _of_one_led(points, plan.led)
    ]


def _of_one_led(points: Sequence[AcquisitionPoint], led: str) -> list[AcquisitionPoint]:
    """Return the points of an LED; without a name all points must share one LED."""
    listed = sorted({name for point in points for name in point.leds})
    if led:
        chosen = [point for point in points if led in point.leds or not point.leds]
        if points and not chosen:
            raise ConfigError(
                f"no acquisition file uses the LED {led!r}", remedy=f"plan.led can be {', '.join(listed)}", value=led
            )
        return chosen
    if listed and not set.intersection(*(set(point.leds or listed) for point in points)):
        raise ConfigError(
            "the acquisition files have no LED in common",
            remedy=f"choose one with plan.led: {', '.join(listed)}",
            allowed=listed,
        )
    return list(points)


def _signals(plan: PlanConfig, camera: Camera, positions: Sequence[PlannedPosition]) -> tuple[list[PlannedSignals], float]:
    """Return the planned signals of all detectors, and the knot spacing of the beam, mm."""
    read = set().union(*(position.read for position in positions)) if positions else set()
    detectors = [detector for detector in camera.science if detector.name in read]
    beam = _beam_shape(plan)

    def seen(cells: int) -> list[PlannedSignals]:
        function = partial(
            planned_signals, positions=positions, beam=beam, cells=cells, electrons=plan.electrons, lit_above=plan.lit_above
        )
        found = parallel_map(function, detectors, workers=1, description="light on the detectors")
        return [each for each in found if each is not None]

    coarse = seen(FEWEST_CELLS)
    if not coarse:
        raise PositionError(
            "no position of the plan illuminates a detector of the plan that it reads out",
            remedy="check plan.detectors, the positions, their readout and the width of the beam",
        )
    if max(int(np.isfinite(each.footprint.log_signal).sum(axis=0).max()) for each in coarse) < 2:
        raise PositionError(
            "no pixel is illuminated from two positions, so that beam and flat cannot be separated",
            remedy="add pointings that illuminate the same detectors (plan.scan, plan.pointings)",
        )
    knots_mm = plan.beam_knots_mm or knots_for(coarse, positions)
    return seen(plan.cells or cells_for([each.detector for each in coarse], knots_mm)), knots_mm


def _beam_shape(plan: PlanConfig) -> BeamShape:
    if not plan.beam:
        return plateau(plan.beam_fwhm_mm)
    model = model_from_hdus(plan.beam)
    return lambda ux, uy: model.evaluate(ux, uy)[0]


def detector_table(prediction: PlanPrediction, plan: PlanConfig) -> Table:
    """Return the predicted errors, one row for each detector.

    Returns
    -------
    Table
        ``detector``; ``images`` that illuminate it; ``electrons`` per pixel, summed over all images (median); relative errors:
        ``pixel_error`` and ``super_pixel_error`` from photon and read noise (medians), ``level_error`` of its level relative to the mean
        of all, ``mode_error`` from modes not determined by signals (rms). Errors of the whole flat are in the metadata.
    """
    signals, design = prediction.signals, prediction.design
    table = Table(
        {
            "detector": [each.detector.name for each in signals],
            "images": [each.images for each in signals],
            "electrons": [float(np.median(each.electrons)) for each in signals],
            "pixel_error": [float(np.median(each.pixel_error)) for each in signals],
            "super_pixel_error": [each.independent_error(plan.super_pixel_mm) for each in signals],
            "level_error": design.level_error,
            "mode_error": [float(np.sqrt(np.nanmean(np.square(errors)))) for errors in prediction.mode_error_maps()],
        }
    )
    table["electrons"].unit = "electron"
    table.meta = {
        "positions": len(prediction.positions),
        "images": prediction.images,
        "super_pixel_mm": plan.super_pixel_mm,
        "pixel_error": prediction.pixel_error,
        "large_scale_error": design.large_scale_error,
        "gradient_error_x_per_mm": float(design.gradient_error[0]),
        "gradient_error_y_per_mm": float(design.gradient_error[1]),
        "undetermined": {name: int(count) for name, count in design.counts().items()},
    }
    return table
