"""Campaigns as rows of the index: scans and pointings as they were really taken, without files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from permil.camera import Camera, Detector
from permil.exposures import Exposure, exposures_to_table

REB1 = ("R22_S10", "R22_S11", "R22_S12")


def scan_nodes(n: int = 12, *, centre: tuple[float, float] = (10.015, 2.565), window: float = 80.0) -> list[tuple[float, float]]:
    """Return the nodes of a scan, X slow and Y fast, rounded as in the acquisition files."""
    steps = np.linspace(-window / 2, window / 2, n)
    return [(round(float(centre[0] + x), 3), round(float(centre[1] + y), 3)) for x in steps for y in steps]


def quincunx(detector: Detector) -> list[tuple[float, float]]:
    """Return the five pointings of a detector: centre and the middle of each quadrant."""
    across, along = (10.24, 10.01) if detector.vendor == "E2V" else (10.18, 10.0)
    y, x = detector.centre_dvcs
    return [(x + a * along, y + b * across) for a, b in ((1, -1), (1, 1), (0, 0), (-1, -1), (-1, 1))]


def raft(camera: Camera, name: str) -> list[Detector]:
    """Return the detectors of a raft."""
    return [detector for detector in camera.science if detector.raft == name]


def take(
    positions: Iterable[tuple[float, float]],
    detectors: Sequence[str],
    *,
    start: int = 0,
    images: int = 1,
    leds: Sequence[str] = ("red",),
    jitter: float = 0.01,
    seed: int = 1,
    header: bool = True,
    folder: bool = True,
    offset: tuple[float, float] = (0.0, 0.0),
    **entries: Any,
) -> list[Exposure]:
    """Return the exposures of an acquisition: positions outermost, then LEDs, then repeats."""
    random = np.random.default_rng(seed)
    taken = []
    number = start
    for x_mm, y_mm in positions:
        for led in leds:
            for _ in range(images):
                number += 1
                true_x, true_y = np.array([x_mm, y_mm]) + offset + random.normal(0.0, jitter, 2)
                places: dict[str, Any] = {}
                if header:
                    places |= {"x_header_mm": float(true_x), "y_header_mm": float(true_y)}
                if folder:
                    places |= {"x_folder_mm": x_mm, "y_folder_mm": y_mm}
                common: dict[str, Any] = {
                    "obsid": f"MC_C_20191028_{number:06d}",
                    "run": "6840D",
                    "job": "48024",
                    "image_type": "ccob",
                    "test_type": "ccob",
                    "led": led,
                    "current_a": 0.009,
                    "exposure_s": 0.07,
                    "photodiode": 0.33,
                }
                row = common | places | entries
                taken += [Exposure(path=f"/d/{number:06d}/{name}", detector=name, **row) for name in detectors]
    return taken


def table_of(exposures: Iterable[Exposure], *, shuffle: int | None = None) -> Any:
    """Return the index table of exposures, in random order if asked for."""
    rows = list(exposures)
    if shuffle is not None:
        rows = [rows[index] for index in np.random.default_rng(shuffle).permutation(len(rows))]
    return exposures_to_table(rows)
