"""Points of a plan: projector positions with what acquisition files say of them, as listed and in the order of time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from permil.camera import Camera
from permil.config.plan import PlanConfig, PlanPointings, PlanScan
from permil.errors import ConfigError
from permil.exposures.stage import read_index
from permil.plan.acquisition import AcquisitionPoint, read_acquisition
from permil.plan.positions import (
    Place,
    PlannedPosition,
    amplifier_centre,
    location_of,
    named_detectors,
    nearest_detector,
    only_these,
    positions_taken,
    quincunx,
    read_at_location,
    read_beside,
    scan_grid,
)
from permil.products import RunFolder

_SCAN_WIDTH_MM = 80.0


@dataclass(frozen=True)
class PlannedPoint:
    """A projector position of a plan.

    Parameters
    ----------
    position : PlannedPosition
    location : str
        What acquisition files read out there: ``R22/Reb1``, ``R22``; empty for all.
    source : str
        ``scan``, ``pointings``, ``acquisition`` (files), or ``taken``.
    aimed : str
        Detector that is aimed at, or at the centre of a scan.
    """

    position: PlannedPosition
    location: str = ""
    source: Literal["scan", "pointings", "acquisition", "taken"] = "pointings"
    aimed: str = ""


def planned_points(plan: PlanConfig, camera: Camera) -> list[PlannedPoint]:
    """Return all points of a plan as listed: taken, scan, pointings, acquisition files.

    The readout is restricted to the detectors of the plan.

    Raises
    ------
    PermilError
        If a named detector, raft, LED, file or index does not exist.
    """
    plan = with_parts(plan)
    wanted = named_detectors(camera, plan.detectors)
    names = {detector.name for detector in wanted}
    scan, pointings = plan.scan, plan.pointings
    points: list[PlannedPoint] = []
    if plan.taken:
        path = Path(plan.taken)
        index = read_index(path if path.suffix == ".parquet" else RunFolder(path).exposures)
        points += [PlannedPoint(position, source="taken") for position in positions_taken(index, plan.led)]
    if scan is not None:
        centre = scan.centre_mm or amplifier_centre(camera, scan.detector, scan.amp)
        names.add(nearest_detector(camera.science, centre).name)
        points += _scan_points(scan, centre, camera)
    if pointings is not None:
        aims = [(place, nearest_detector(camera.science, place)) for place in pointings.points]
        if pointings.aim or not pointings.points:
            chosen = named_detectors(camera, pointings.aim) if pointings.aim else wanted
            aims += [(place, detector) for detector in chosen for place in quincunx(detector)]
        for place, aimed in aims:
            position = PlannedPosition(*place, pointings.images, read_beside(camera, aimed, pointings.read))
            points.append(PlannedPoint(position, location_of(aimed, pointings.read), "pointings", aimed.name))
    points += _acquisition_points(plan, camera)
    restricted = [(point, only_these([point.position], names)) for point in points]
    return [replace(point, position=left[0]) for point, left in restricted if left]


def with_parts(plan: PlanConfig) -> PlanConfig:
    """Return a plan that names its parts: by default a scan and the pointings."""
    if plan.scan is None and plan.pointings is None and not plan.acquisition and not plan.taken:
        return plan.model_copy(update={"scan": PlanScan(), "pointings": PlanPointings()})
    return plan


def _scan_points(scan: PlanScan, centre: Place, camera: Camera) -> list[PlannedPoint]:
    pitch = scan.pitch_mm or (scan.width_mm or _SCAN_WIDTH_MM) / max(scan.nx - 1, scan.ny - 1, 1)
    # The detectors read out are those at the centre of the scan, for all positions.
    aimed = nearest_detector(camera.science, centre)
    read, location = read_beside(camera, aimed, scan.read), location_of(aimed, scan.read)
    places = scan_grid(centre, (scan.nx, scan.ny), pitch)
    return [PlannedPoint(PlannedPosition(*place, scan.images, read), location, "scan", aimed.name) for place in places]


def _acquisition_points(plan: PlanConfig, camera: Camera) -> list[PlannedPoint]:
    found = []
    for point in _of_one_led([point for path in plan.acquisition for point in read_acquisition(path)], plan.led):
        position = PlannedPosition(point.x_mm, point.y_mm, point.images, read_at_location(camera, point.location))
        aimed = nearest_detector(camera.science, (point.x_mm, point.y_mm)).name
        found.append(PlannedPoint(position, point.location, "acquisition", aimed))
    return found


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


def is_reordered(plan: PlanConfig) -> bool:
    """Return whether points are visited in another order than listed, or several times."""
    return plan.order == "shuffled" or plan.passes > 1 or plan.fiducial_every > 0


def in_order(points: Sequence[PlannedPoint], plan: PlanConfig, *, seed: int = 0) -> list[PlannedPoint]:
    """Return the visits of a plan in the order of time; points that are taken already come first, as they are.

    Parameters
    ----------
    plan
        Its keys ``order``, ``passes`` and ``fiducial_every``; the fiducial is the point nearest to the mean of all.
    seed
        Of a shuffled order.
    """
    taken, planned = ([point for point in points if (point.source == "taken") == is_taken] for is_taken in (True, False))
    if not planned or not is_reordered(plan):
        return taken + planned
    places = np.array([(point.position.x_mm, point.position.y_mm) for point in planned])
    fiducial = int(np.argmin(np.hypot(*(places - places.mean(axis=0)).T)))
    order = visits(
        [point.position.images for point in planned],
        passes=plan.passes,
        shuffle=np.random.default_rng(seed) if plan.order == "shuffled" else None,
        fiducial=fiducial,
        every=plan.fiducial_every,
    )
    return taken + [replace(planned[n], position=replace(planned[n].position, images=images)) for n, images in order]


def visits(
    images: Sequence[int], *, passes: int, shuffle: np.random.Generator | None, fiducial: int = 0, every: int = 0
) -> list[tuple[int, int]]:
    """Return visits to positions in the order of time: number of the position, number of images.

    Parameters
    ----------
    images
        Images at each position in all.
    passes
        Visits to a position that has as many images; they are divided evenly.
    shuffle
        Random generator for a random order of all visits; None for pass after pass.
    fiducial, every
        Position that gets one more image at the begin, after every so many visits, and at the end; 0 for none.
    """
    listed = []
    for number in range(passes):
        for position, count in enumerate(images):
            share = (count + passes - 1 - number) // passes
            if share:
                listed.append((position, share))
    if shuffle is not None:
        listed = [listed[number] for number in shuffle.permutation(len(listed))]
    if not every:
        return listed
    chunks = [listed[start : start + every] for start in range(0, len(listed), every)]
    return [(fiducial, 1), *(visit for chunk in chunks for visit in (*chunk, (fiducial, 1)))]
