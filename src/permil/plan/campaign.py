"""Acquisition files of a plan, and the cost of a campaign: time and data volume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from permil.camera import Camera
from permil.config.plan import PlanConfig, PlanFiles
from permil.errors import ConfigError
from permil.plan.acquisition import AcquisitionFile, LedExposure, led_exposures
from permil.plan.positions import PlannedPoint, in_order, is_reordered, planned_points, read_at_location, with_parts

_EXISTING = "acquisition"


@dataclass(frozen=True)
class PlannedFile:
    """An acquisition file of a plan with its cost.

    Parameters
    ----------
    name : str
    content : AcquisitionFile
    exposures : int
        Images of the projector, without biases.
    seconds : float
        Time that it takes.
    size : float
        Bytes of its raw files.
    """

    name: str
    content: AcquisitionFile
    exposures: int
    seconds: float
    size: float


def planned_files(plan: PlanConfig, camera: Camera, *, seed: int = 0) -> list[PlannedFile]:
    """Return the acquisition files of a plan.

    A scan has one file, pointings one for each unit (``plan.files.per``). A plan with another order than listed, several passes or
    fiducials is one sequence, which has a single file. LEDs that are not interleaved have files of their own.

    Parameters
    ----------
    seed
        Of a shuffled order.

    Raises
    ------
    ConfigError
        If the plan has nothing to write, or an LED without settings.
    PermilError
        If a named detector, raft, LED or file does not exist.
    """
    groups = _groups(plan, camera, seed)
    groups.pop(_EXISTING, None)
    if not groups:
        raise ConfigError(
            "the plan has no scan and no pointings to write", remedy="add plan.scan or plan.pointings", value=plan.acquisition
        )
    files = []
    for name, points in groups.items():
        for chosen in _led_sets(plan):
            ending = chosen[0].led if len(chosen) == 1 else "all"
            files.append(_planned_file(f"ccob_{name}_{ending}.cfg", points, chosen, plan.files, camera))
    return files


def _groups(plan: PlanConfig, camera: Camera, seed: int) -> dict[str, list[PlannedPoint]]:
    """Return the points of each file by its name; those of acquisition files that keep their order are one group."""
    plan = with_parts(plan)
    points = [point for point in planned_points(plan, camera) if point.source != "taken"]
    if is_reordered(plan):
        return {"sequence": in_order(points, plan, seed=seed)} if points else {}
    groups: dict[str, list[PlannedPoint]] = {}
    for point in points:
        if point.source == "acquisition":
            groups.setdefault(_EXISTING, []).append(point)
        elif point.source == "scan" and plan.scan is not None:
            groups.setdefault(f"{plan.scan.nx}x{plan.scan.ny}_{point.aimed}", []).append(point)
        else:
            detector = camera[point.aimed]
            units = {"raft": detector.raft, "board": f"{detector.raft}_{detector.reb}", "detector": detector.name, "all": "all"}
            groups.setdefault(f"qe_{units[plan.files.per]}", []).append(point)
    return groups


def _planned_file(
    name: str, points: Sequence[PlannedPoint], leds: Sequence[LedExposure], files: PlanFiles, camera: Camera
) -> PlannedFile:
    counts = {point.position.images for point in points}
    images = counts.pop() if len(counts) == 1 else 1
    # A file has one number of images for all its points: others are repeated.
    repeated = [point for point in points for _ in range(point.position.images // images)]
    content = AcquisitionFile(
        places=[(point.position.x_mm, point.position.y_mm) for point in repeated],
        locations=[point.location for point in repeated],
        images=images,
        leds=leds,
        offset_mm=files.offset_mm,
        biases=files.biases,
    )
    exposures = len(leds) * sum(point.position.images for point in points)
    pixels = {location: _raw_pixels(camera, location) for location in {point.location for point in points}}
    read = len(leds) * sum(point.position.images * pixels[point.location] for point in points)
    # Without the key LOCATIONS all detectors are read.
    biases = 2 * files.biases * _raw_pixels(camera, points[0].location if files.dialect == "locations" else "")
    seconds = campaign_seconds(points, leds, files)
    return PlannedFile(name, content, exposures, seconds, files.bytes_per_pixel * (read + biases))


def campaign_seconds(points: Sequence[PlannedPoint], leds: Sequence[LedExposure], files: PlanFiles) -> float:
    """Return the time (s) of a sequence of points with all LEDs at each, and the biases before and after.

    The projector moves to the first point, and where a point differs from the one before.
    """
    places = np.array([(point.position.x_mm, point.position.y_mm) for point in points])
    moves = 1 + int((np.abs(np.diff(places, axis=0)) > 0).any(axis=1).sum())
    images = sum(point.position.images for point in points)
    exposing = sum(led.exposure_s for led in leds) + len(leds) * files.readout_s
    return images * exposing + moves * files.move_s + 2 * files.biases * files.readout_s


def plan_seconds(plan: PlanConfig, camera: Camera, *, seed: int = 0) -> float:
    """Return the time (s) of a plan, without positions already taken."""
    groups = _groups(plan, camera, seed)
    return sum(campaign_seconds(points, leds, plan.files) for points in groups.values() for leds in _led_sets(plan))


def _led_sets(plan: PlanConfig) -> list[list[LedExposure]]:
    """Return the LEDs that share a file."""
    leds = led_exposures(plan)
    return [leds] if plan.interleaved else [[led] for led in leds]


def _raw_pixels(camera: Camera, location: str) -> int:
    """Return the number of pixels in the raw files of a readout location."""
    return sum(
        (amplifier.prescan + amplifier.nx + amplifier.serial_overscan) * (amplifier.ny + amplifier.parallel_overscan)
        for name in read_at_location(camera, location)
        for amplifier in camera[name].amplifiers
    )


def with_notes(file: PlannedFile, notes: Sequence[str]) -> AcquisitionFile:
    """Return the content of a file with comments: its cost, and further lines."""
    content = file.content
    cost = (
        f"{len(content.places)} points, {file.exposures} exposures of {', '.join(led.led for led in content.leds)}, "
        f"{2 * content.biases} biases: {duration(file.seconds)}, {file.size / 1e9:.3g} GB"
    )
    return replace(content, notes=(cost, *notes))


def duration(seconds: float) -> str:
    """Return a time as text, in minutes or hours."""
    return f"{seconds / 3600:.2f} h" if seconds >= 5400 else f"{seconds / 60:.1f} min"
