"""What a run will need, said before it begins."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from permil.camera import Camera
from permil.config import Config
from permil.errors import OutputError
from permil.exposures import BIAS, POINTING, SCAN, Index
from permil.products import RunFolder


def estimate(config: Config, camera: Camera, folder: RunFolder, index: Index, *, workers: int) -> str:
    """Return what the run will need; see that the disk has it.

    Raises
    ------
    OutputError
        If the disk cannot hold the products.
    """
    pointings, scans, biases = (index.select(purpose=purpose) for purpose in (POINTING, SCAN, BIAS))
    flats = {(str(row["led"]), str(row["detector"])) for row in pointings}
    aimed = {
        (str(row["led"]), str(row["detector"]), int(row["position_id"])) for row in pointings if row["aimed"] == row["detector"]
    }
    images = len(flats) + len(set(biases["detector"])) + (len(aimed) if config.flat.keep_pointings else 0)
    pixels = max((detector.nx * detector.ny for detector in camera.detectors.values()), default=0)
    need = 12.5 * pixels * images
    free = shutil.disk_usage(_existing(folder.root)).free
    if need > free:
        raise OutputError(
            f"the products need about {need / 1e9:.2g} GB, the disk has {free / 1e9:.2g} GB free",
            path=folder.root,
            remedy="choose another output folder, fewer detectors (flat.detectors), or set flat.keep_pointings=false",
            value=need,
            allowed=free,
        )
    leds = {led for led, _ in flats}
    joint = [led for led in leds if config.flat.solver == "joint" and led not in config.flat.beam_of and led in set(scans["led"])]
    seconds = _seconds_of_files(pixels, len(biases), len(scans), len(pointings)) / workers + _seconds_of_flats(pixels, len(flats))
    seconds += _seconds_of_report(config, len(flats)) / workers
    if joint:
        files = [int(np.isin(np.asarray(rows["led"]), joint).sum()) for rows in (scans, pointings)]
        area = max(detector.nx * detector.ny * detector.pixel_mm**2 for detector in camera.detectors.values())
        signals = sum(files) * area / config.flat.super_pixel_mm**2
        seconds += _seconds_of_joint(pixels, files, workers) + _seconds_of_solutions(config, signals, len(joint), workers)
    return f"this run will take about {_duration(seconds)} and {max(need, 1e6) / 1e9:.2g} GB of disk, if nothing is there yet"


# Measured on two cores of 2 to 3 GHz: a fixed cost per file, and a cost per pixel.


def _seconds_of_files(pixels: int, biases: int, scans: int, pointings: int) -> float:
    return (0.01 + 5e-9 * pixels) * (biases + pointings) + (0.01 + 1e-9 * pixels) * scans


def _seconds_of_flats(pixels: int, flats: int) -> float:
    """Return the time of what is made of each flat once: figures, files, its place in the composite."""
    return (0.3 + 1.5e-7 * pixels) * flats


def _seconds_of_report(config: Config, flats: int) -> float:
    return 6.0 + 3.0 * flats * config.report.detector_pages


def _seconds_of_joint(pixels: int, files: list[int], workers: int) -> float:
    """Return the time of both passes of the joint solution through the files of scan and pointings."""
    scans, pointings = files
    return ((0.03 + 1.2e-8 * pixels) * scans + (0.02 + 1.2e-8 * pixels) * pointings) / workers


def _seconds_of_solutions(config: Config, signals: float, leds: int, workers: int) -> float:
    """Return the time of the solutions themselves, which LEDs have side by side."""
    each = 1.5 + 2.2e-6 * signals / leds
    if config.flat.joint.checks:
        each *= 2.0
    return each * leds / min(workers, leds)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _existing(path: Path) -> Path:
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path
