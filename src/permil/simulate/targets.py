"""Where the projector is pointed: the window of the scan, the aims on each detector, and which detectors take part."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from permil.camera import Camera, Detector, frames
from permil.errors import PositionError

Position = tuple[float, float]

# Aims of the real pointings in mm from the reference pixel, along x and y of the detector: low, middle, high. They are the pixels
# (1024, 2048, 3072) x (1001, 2002, 3003) of an E2V and (1018, 2036, 3054) x (1000, 2000, 3000) of an ITL, of 10 um.
_AIMS_MM = {
    "E2V": ((-10.235, 0.005, 10.245), (-10.005, 0.005, 10.015)),
    "ITL": ((-10.185, -0.005, 10.175), (-10.005, -0.005, 9.995)),
}
_LOW, _MIDDLE, _HIGH = range(3)
_ORDER = ((_LOW, _HIGH), (_HIGH, _HIGH), (_MIDDLE, _MIDDLE), (_LOW, _LOW), (_HIGH, _LOW))

POINTINGS_PER_DETECTOR = len(_ORDER)
"""Pointings of each detector."""


def scan_centre(camera: Camera) -> Position:
    """Return the CCS place (mm) of the middle of the reference amplifier, on which beam scans are centred."""
    detector = camera[camera.reference.detector]
    amplifier = detector.amplifier(camera.reference.amp)
    x, y = frames.detector_to_ccs(detector, amplifier.x_min + amplifier.nx / 2, amplifier.y_min + amplifier.ny / 2)
    return float(x), float(y)


def scan_positions(centre: Position, *, size: int, width: float) -> list[Position]:
    """Return the positions of a beam scan, X slow and Y fast, CCS mm rounded to a micrometre."""
    steps = np.linspace(-width / 2, width / 2, size)
    return [(_micrometre(centre[0] + x), _micrometre(centre[1] + y)) for x in steps for y in steps]


def pointing_positions(detector: Detector) -> list[Position]:
    """Return the five positions of the pointings of a detector in their order, CCS mm rounded to a micrometre.

    The aims are the middles of the quadrants and the centre: upper left, upper right, centre, lower left, lower right in the
    detector frame, at the same millimetres for every pixel size; of a cut-out, at its own quarters.
    """
    along_x, along_y = _AIMS_MM.get(detector.vendor, _quarter_points(detector))
    if max(*along_x, *along_y) > min(detector.nx, detector.ny) * detector.pixel_mm / 2:
        along_x, along_y = _quarter_points(detector)
    aims = np.array([(along_x[i], along_y[j]) for i, j in _ORDER]) / detector.pixel_mm + detector.reference_pixel
    x, y = frames.detector_to_ccs(detector, aims[:, 0], aims[:, 1])
    return [(_micrometre(first), _micrometre(second)) for first, second in zip(x, y, strict=True)]


def _quarter_points(detector: Detector) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return aims (mm from the reference pixel) at the quarters of the array along x and y."""
    sides = zip((detector.nx, detector.ny), detector.reference_pixel, strict=True)
    along_x, along_y = (
        tuple((fraction * side - reference) * detector.pixel_mm for fraction in (0.25, 0.5, 0.75)) for side, reference in sides
    )
    return along_x, along_y


def _micrometre(coordinate: float) -> float:
    # Adding zero turns minus zero into zero, as folder names have it.
    return round(float(coordinate), 3) + 0.0


def select_detectors(camera: Camera, rafts: Sequence[str], detectors: Sequence[str]) -> tuple[Detector, ...]:
    """Return the science detectors of some rafts (all without any named), restricted to ``detectors`` where some are named.

    Raises
    ------
    PositionError
        If a raft or a detector that is named is not there, or none is left.
    """
    science = camera.science
    for what, named, known in (
        ("raft", rafts, {detector.raft for detector in science}),
        ("detector", detectors, {detector.name for detector in science}),
    ):
        for name in named:
            if name not in known:
                raise PositionError(
                    f"camera {camera.name} has no science {what} {name!r}",
                    remedy=f"choose among {', '.join(sorted(known)[:24])}",
                    value=name,
                    allowed=sorted(known),
                )
    chosen = tuple(
        detector
        for detector in science
        if (not rafts or detector.raft in rafts) and (not detectors or detector.name in detectors)
    )
    if not chosen:
        raise PositionError(
            f"none of the detectors {', '.join(detectors)} lies in the rafts {', '.join(rafts)}",
            remedy="name detectors of these rafts, or other rafts",
            value=tuple(detectors),
        )
    return chosen


def scanned_detectors(camera: Camera, detectors: Sequence[str]) -> tuple[Detector, ...]:
    """Return the detectors that the scan reads: those of the reference detector's readout board, restricted as above."""
    reference = camera[camera.reference.detector]
    return tuple(
        detector
        for detector in camera.science
        if detector.raft == reference.raft
        and detector.reb == reference.reb
        and (not detectors or detector.name in detectors or detector.name == reference.name)
    )
