"""A campaign on three detectors whose truth is known, solved jointly: files of signals, index and joint solution in a run's folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.table import Table

from permil.camera import Camera, frames
from permil.config import Config
from permil.flat.signals import SuperPixelSignals, write_signals
from permil.flat.steps.exposures import unique_exposures
from permil.flat.steps.solve_led import SolutionRequest, solve_led
from permil.products import RunFolder, write_table

BLOCK = 32
ELECTRONS = 5e4
DETECTORS = ("R22_S10", "R22_S11", "R22_S12")
PHOTODIODE_NOISE = 2e-3
ROTATION = 1e-3
CENTRE = (2.0, -1.0)
MOVED, MISREAD = 20, 40
"""Exposures whose projector is displaced, and whose reading is wrong."""


@dataclass(frozen=True)
class SolvedCampaign:
    """A run's folder with the joint solution of an LED, and the truth."""

    folder: RunFolder
    config: Config
    led: str
    obsids: tuple[str, ...]
    log_scale: np.ndarray
    log_response: dict[str, np.ndarray]
    messages: list[str]


def log_beam(ux: np.ndarray, uy: np.ndarray) -> np.ndarray:
    """Logarithm of a smooth beam around `CENTRE`."""
    radius2 = ((ux - CENTRE[0]) ** 2 + (uy - CENTRE[1]) ** 2) / 40.0**2
    return -0.3 * radius2 / (1 + 0.2 * radius2)


def solved_campaign(root: Path, camera: Camera, *, led: str = "red", seed: int = 3) -> SolvedCampaign:
    """Simulate a scan of the middle detector and pointings at all, and solve."""
    rng = np.random.default_rng(seed)
    folder = RunFolder(root)
    config = Config(camera=camera.name, output=root)
    config = config.model_copy(
        update={
            "flat": config.flat.model_copy(update={"joint": config.flat.joint.model_copy(update={"spacing_mm": 9.0, "modes": 8})})
        }
    )
    index, log_scale, lamp = _exposures(camera, led, rng)
    exposures = unique_exposures(index)
    obsids = tuple(str(obsid) for obsid in exposures["obsid"])
    write_table(folder.exposures, index)
    responses = {}
    for name in DETECTORS:
        detector = camera[name]
        rows, columns = (-(-length // BLOCK) for length in detector.shape)
        row, column = (part.ravel() for part in np.mgrid[:rows, :columns])
        last = [np.minimum(BLOCK * (part + 1), length) for part, length in ((row, detector.ny), (column, detector.nx))]
        y, x = (BLOCK * part + (end - 1 - BLOCK * part) / 2 for part, end in zip((row, column), last, strict=True))
        pixels = (last[0] - BLOCK * row) * (last[1] - BLOCK * column)
        x_mm, y_mm = frames.detector_to_ccs(detector, x, y)
        response = 0.01 * rng.standard_normal() + 2e-3 * rng.standard_normal(row.size)
        beam = log_beam(x_mm - lamp[:, :1], y_mm - lamp[:, 1:])
        mean = ELECTRONS * np.exp(log_scale[:, None] + response + beam)
        variance = mean / pixels
        signal = mean + np.sqrt(variance) * rng.standard_normal(mean.shape)
        signals = SuperPixelSignals(
            name,
            np.array(obsids),
            signal.astype(np.float32),
            variance.astype(np.float32),
            row,
            column,
            x_mm,
            y_mm,
            (rows, columns),
            BLOCK,
        )
        write_signals(folder.super_pixels(led, name), signals, fingerprint=f"aa{name}", led=led)
        responses[name] = response.reshape(rows, columns)
    messages = solve_led(SolutionRequest(config, root, led, exposures, DETECTORS, "ff01"))
    mean = np.mean(list(responses.values()))
    return SolvedCampaign(
        folder, config, led, obsids, log_scale, {name: part - mean for name, part in responses.items()}, messages
    )


def _exposures(camera: Camera, led: str, rng: np.random.Generator) -> tuple[Table, np.ndarray, np.ndarray]:
    """Return the index, the true logarithms of the scales, and where the projector stood, shape (n, 2)."""
    middle = np.array(frames.detector_to_ccs(camera["R22_S11"], *camera["R22_S11"].centre_pixel), dtype=float)
    steps = np.linspace(-30, 30, 8)
    places = [("scan", np.add(middle, (x, y))) for x in steps for y in steps]
    for name in DETECTORS:
        centre = np.array(frames.detector_to_ccs(camera[name], *camera[name].centre_pixel), dtype=float)
        for point in ((-10, 10), (10, 10), (0, 0), (-10, -10), (10, -10)):
            places += [("pointing", np.add(centre, point))] * 2
    recorded = np.array([place for _, place in places])
    count = len(places)
    temperature = 20 + 0.5 * np.linspace(0, 1, count)
    log_scale = np.log(1.2) + 2e-3 * np.sin(np.arange(count) / 9)
    reading = 0.33 * np.exp(log_scale - np.log(1.2) + PHOTODIODE_NOISE * rng.standard_normal(count))
    reading[MISREAD] *= 1.05
    cosine, sine = np.cos(ROTATION), np.sin(ROTATION)
    lamp = recorded @ np.array([[cosine, sine], [-sine, cosine]])
    lamp[MOVED] += (1.5, 0.0)
    rows = [
        (
            f"{led}{number:04d}", detector, led, purpose, reading[number], *recorded[number], 58784.0 + number / 2880,
            "20191028", number, int(np.flatnonzero((recorded == recorded[number]).all(axis=1))[0]), temperature[number],
        )
        for number, (purpose, _) in enumerate(places)
        for detector in DETECTORS
    ]  # fmt: skip
    names = (
        "obsid",
        "detector",
        "led",
        "purpose",
        "photodiode",
        "x_mm",
        "y_mm",
        "mjd",
        "day_obs",
        "seqnum",
        "position_id",
        "led_temp",
    )
    return Table(rows=rows, names=names), log_scale, lamp
