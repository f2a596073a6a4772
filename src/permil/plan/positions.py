"""Projector positions of a plan or already taken, with images and readout; points of a plan as listed and in the order of time."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from astropy.table import Table

from permil.camera import Camera, Detector, frames
from permil.config.plan import PlanConfig, PlanPointings, PlanScan
from permil.errors import ConfigError, InputError, PositionError
from permil.exposures import POINTING, SCAN, in_time_order
from permil.exposures.files import read_index
from permil.exposures.index import Index
from permil.plan.acquisition import AcquisitionPoint, read_acquisition
from permil.products import RunFolder

Place = tuple[float, float]

_QUARTERS = ((0.25, 0.75), (0.75, 0.75), (0.5, 0.5), (0.25, 0.25), (0.75, 0.25))


@dataclass(frozen=True)
class PlannedPosition:
    """Images at one projector position.

    Parameters
    ----------
    x_mm, y_mm : float
        CCS.
    images : int
        Number of consecutive images.
    read : frozenset of str
        Detectors that are read out.
    """

    x_mm: float
    y_mm: float
    images: int
    read: frozenset[str]


def scan_grid(centre: Place, shape: tuple[int, int], pitch_mm: float) -> list[Place]:
    """Return the positions of a scan; Y varies fastest.

    Parameters
    ----------
    centre
        CCS mm.
    shape
        Number of positions along X and Y.
    pitch_mm
        Distance between positions.
    """
    along_x, along_y = (
        middle + pitch_mm * (np.arange(count) - (count - 1) / 2) for middle, count in zip(centre, shape, strict=True)
    )
    return [(float(x), float(y)) for x in along_x for y in along_y]


def amplifier_centre(camera: Camera, detector: str = "", amp: str | int = "") -> Place:
    """Return the CCS position (mm) of the centre of an amplifier; by default the camera's reference amplifier.

    Without an amplifier, return the centre of the detector.

    Raises
    ------
    CameraError
        If the detector or amplifier does not exist.
    """
    if not detector:
        detector, amp = camera.reference.detector, amp or camera.reference.amp
    sensor = camera[detector]
    if amp == "":
        return quincunx(sensor)[2]
    amplifier = sensor.amplifier(amp)
    x, y = frames.detector_to_ccs(sensor, amplifier.x_min + amplifier.nx / 2, amplifier.y_min + amplifier.ny / 2)
    return float(x), float(y)


def quincunx(detector: Detector) -> list[Place]:
    """Return the five pointings (CCS mm) of a detector.

    They are the centres of its quadrants and its own centre: upper left, upper right, centre, lower left, lower right in the detector
    frame.
    """
    pixels = np.array(_QUARTERS) * (detector.nx, detector.ny)
    x, y = frames.detector_to_ccs(detector, pixels[:, 0], pixels[:, 1])
    return [(float(first), float(second)) for first, second in zip(x, y, strict=True)]


def location_of(aimed: Detector, readout: str) -> str:
    """Return the name of a readout in acquisition files: ``R22/Reb1``, ``R22``, or "" for all.

    Parameters
    ----------
    readout
        See `read_with`. A single ``detector`` is read out with its board.
    """
    if readout == "all":
        return ""
    return aimed.raft if readout == "raft" else f"{aimed.raft}/{aimed.reb}"


def named_detectors(camera: Camera, names: Sequence[str]) -> list[Detector]:
    """Return the science detectors with given names (in any spelling) or in given rafts, in the camera's order; all by default.

    Raises
    ------
    PositionError
        If a name is neither a detector nor a raft.
    """
    for name in names:
        if not any(_is_meant(detector, name) for detector in camera.science):
            rafts = sorted({detector.raft for detector in camera.science})
            raise PositionError(
                f"camera {camera.name} has no science detector and no raft {name!r}",
                remedy=f"detectors look like {camera.science[0].name}, rafts are {', '.join(rafts)}",
                value=name,
            )
    return [detector for detector in camera.science if not names or any(_is_meant(detector, name) for name in names)]


def _is_meant(detector: Detector, name: str) -> bool:
    """Return whether a name is that of the detector, in any spelling, or of its raft."""
    return detector.is_called(name) or detector.raft == name.strip().upper()


def read_with(camera: Camera, place: Place, readout: str) -> frozenset[str]:
    """Return the science detectors that are read out at a projector position.

    Parameters
    ----------
    readout
        The ``detector`` aimed at, its ``board``, its ``raft``, or ``all``. Between detectors the nearest one is used.
    """
    return read_beside(camera, nearest_detector(camera.science, place), readout)


def read_beside(camera: Camera, aimed: Detector, readout: str) -> frozenset[str]:
    """Return the science detectors that are read out with the detector that is aimed at; see `read_with`."""
    if readout == "all":
        return frozenset(detector.name for detector in camera.science)
    if readout == "detector":
        return frozenset([aimed.name])
    whole_raft = readout == "raft"
    return frozenset(
        detector.name for detector in camera.science if detector.raft == aimed.raft and (whole_raft or detector.reb == aimed.reb)
    )


def nearest_detector(detectors: Sequence[Detector], place: Place) -> Detector:
    """Return the detector whose centre is nearest to a position (CCS mm)."""
    centres = np.array([frames.detector_to_ccs(detector, *detector.centre_pixel) for detector in detectors])
    return detectors[int(np.argmin(np.hypot(*(centres - place).T)))]


def read_at_location(camera: Camera, locations: str, *, path: Path | None = None) -> frozenset[str]:
    """Return the science detectors of readout locations, ``R22/Reb1`` or ``R02``; all if empty.

    Parameters
    ----------
    path
        File that names the locations, for the message.

    Raises
    ------
    PositionError
        If the camera does not have the raft or board.
    """
    science = camera.science
    chosen: set[str] = set()
    for location in locations.replace(",", " ").split():
        raft, _, board = location.partition("/")
        found = {
            detector.name
            for detector in science
            if detector.raft == raft.upper() and board.lower() in ("", detector.reb.lower(), detector.slot.lower())
        }
        if not found:
            raise PositionError(
                f"camera {camera.name} has no readout location {location!r}",
                path=path,
                remedy="write R22, or R22/Reb1",
                value=location,
            )
        chosen |= found
    return frozenset(chosen) if locations.strip() else frozenset(detector.name for detector in science)


def only_these(positions: Sequence[PlannedPosition], detectors: Collection[str]) -> list[PlannedPosition]:
    """Return positions with the readout restricted to some detectors, without positions at which none is left."""
    restricted = [
        PlannedPosition(position.x_mm, position.y_mm, position.images, position.read & frozenset(detectors))
        for position in positions
    ]
    return [position for position in restricted if position.read]


def positions_taken(index: Index, led: str = "") -> list[PlannedPosition]:
    """Return the positions of scans and pointings of one LED in time order.

    Parameters
    ----------
    index
        Index of a run.
    led
        LED; empty: the only one.

    Raises
    ------
    InputError
        If there are several LEDs and none is named, or the LED has no scan or pointing.
    """
    purposes = np.asarray(index.table["purpose"], dtype=np.str_)
    rows = index.table[(purposes == SCAN) | (purposes == POINTING)]
    names = np.asarray(rows["led"], dtype=np.str_)
    present = sorted(set(names.tolist()))
    if not led and len(present) > 1:
        raise InputError(
            f"the exposures have several LEDs ({', '.join(present)})", remedy="choose one with plan.led", allowed=present
        )
    rows = rows[names == led] if led else rows
    rows = rows[np.isfinite(np.asarray(rows["x_mm"], dtype=float)) & np.isfinite(np.asarray(rows["y_mm"], dtype=float))]
    if not len(rows):
        listed = f"the LEDs are {', '.join(present)}" if present else "the index has no scan or pointing"
        raise InputError(
            f"the index has no scan or pointing{f' of LED {led}' if led else ''} with a position", remedy=listed, allowed=present
        )
    rows = in_time_order(rows)
    numbers = np.asarray(rows["position_id"])
    _, first = np.unique(numbers, return_index=True)
    return [_position(rows[numbers == number]) for number in numbers[np.sort(first)]]


def _position(rows: Table) -> PlannedPosition:
    read = frozenset(str(name) for name in rows["detector"])
    x_mm, y_mm = (float(np.mean(np.asarray(rows[name], dtype=float))) for name in ("x_mm", "y_mm"))
    return PlannedPosition(x_mm, y_mm, len(set(rows["obsid"])), read)


_SCAN_WIDTH_MM = 80.0


@dataclass(frozen=True)
class PlannedPoint:
    """A projector position of a plan.

    Parameters
    ----------
    position : PlannedPosition
    location : str
        Readout there in acquisition files: ``R22/Reb1``, ``R22``; empty for all.
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
        position = PlannedPosition(
            point.x_mm, point.y_mm, point.images, read_at_location(camera, point.location, path=point.path)
        )
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
    """Return the visits of a plan in the order of time; points already taken come first, unchanged.

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
        Total number of images at each position.
    passes
        Visits to a position that has as many images; they are divided evenly.
    shuffle
        Random generator for a random order of all visits; None for pass after pass.
    fiducial, every
        Position at which one more image is taken at the beginning, after every ``every`` visits, and at the end; ``every`` 0 for none.
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
