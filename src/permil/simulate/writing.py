"""Writes what a bench exposes: raw files and the truth; what is there already stays."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from permil.products import RunFolder, write_image, write_table
from permil.progress import parallel_map
from permil.simulate import truth
from permil.simulate.bench import BenchRecipe, ExposureTruth, bench_of
from permil.simulate.campaign import PlannedExposure
from permil.simulate.exposing import ExposedDetector
from permil.simulate.headers import Conditions, primary_cards
from permil.simulate.rawfile import RawFileWriter

_PIXELS_PER_TASK = 2.5e7


@dataclass(frozen=True)
class WrittenFiles:
    """Number of raw files of a campaign, how many of them were there already, and the bytes that were written."""

    files: int
    skipped: int
    size: int


@dataclass(frozen=True)
class _ResponseTask:
    """A detector and an LED whose response is surveyed or, with a scale, written as true flat."""

    recipe: BenchRecipe
    detector: str
    led: str
    scale: float = 1.0
    path: Path = Path()


@dataclass(frozen=True)
class _ExposureTask:
    """Some exposures of one detector with one LED."""

    recipe: BenchRecipe
    folder: Path
    detector: str
    exposures: tuple[PlannedExposure, ...]
    truths: tuple[ExposureTruth, ...]
    scales: tuple[tuple[str, float], ...]


def write_campaign(recipe: BenchRecipe, folder: Path, *, workers: int) -> WrittenFiles:
    """Write the raw files of a bench below ``raw/`` and its truth below ``truth/`` of a folder.

    Raises
    ------
    OutputError
        If the folder cannot be written.
    """
    bench = bench_of(recipe)
    truths = bench.exposure_truths()
    scales = _composite_scales(recipe, workers)
    _write_truth(recipe, truths, scales, RunFolder(folder), workers)
    tasks = _exposure_tasks(recipe, truths, scales, folder / "raw")
    results = parallel_map(_write_exposures, tasks, workers=workers, description="raw files")
    return WrittenFiles(
        files=sum(len(task.exposures) for task in tasks),
        skipped=sum(skipped for skipped, _ in results),
        size=sum(size for _, size in results),
    )


def _composite_scales(recipe: BenchRecipe, workers: int) -> dict[str, float]:
    """Return the median response of the good pixels of all science detectors for each LED."""
    bench = bench_of(recipe)
    tasks = [_ResponseTask(recipe, detector.name, led) for led in bench.leds for detector in bench.science]
    histograms = parallel_map(_survey_response, tasks, workers=workers, description="responses")
    totals: dict[str, np.ndarray] = {}
    for task, histogram in zip(tasks, histograms, strict=True):
        totals[task.led] = totals.get(task.led, 0) + histogram
    return {led: truth.median_of_histogram(total) for led, total in totals.items()}


def _survey_response(task: _ResponseTask) -> np.ndarray:
    return truth.response_histogram(bench_of(task.recipe), task.detector, task.led)


def _write_truth(
    recipe: BenchRecipe, truths: list[ExposureTruth], scales: dict[str, float], run: RunFolder, workers: int
) -> None:
    bench = bench_of(recipe)
    tasks = [
        _ResponseTask(recipe, detector.name, led, scales[led], path)
        for detector in bench.read
        for led in bench.leds
        if not (path := run.truth_flat(led, detector.name)).is_file()
    ]
    parallel_map(_write_flat, tasks, workers=workers, description="true flats")
    for led in bench.leds:
        primary, cards = truth.beam_cards(bench, led)
        image = truth.beam_image(bench, led)
        write_image(run.truth_beam(led), image, np.zeros(image.shape), np.zeros(image.shape), header=primary, image_cards=cards)
    write_table(run.truth / "scales.ecsv", truth.scale_table(bench, truths))
    write_table(run.truth / "positions.ecsv", truth.position_table(bench, truths))
    write_table(run.truth / "gains.ecsv", truth.amplifier_table(bench))
    write_table(run.truth / "boards.ecsv", truth.board_table(bench))


def _write_flat(task: _ResponseTask) -> None:
    bench = bench_of(task.recipe)
    detector = bench.camera[task.detector]
    flat = bench.sensors.response(detector, task.led)
    flat /= np.float32(task.scale)
    write_image(
        task.path,
        flat,
        bench.sensors.mask(detector),
        np.zeros(flat.shape, dtype=np.float32),
        header=truth.flat_cards(bench, task.detector, task.led, task.scale),
    )


def _exposure_tasks(
    recipe: BenchRecipe, truths: list[ExposureTruth], scales: dict[str, float], folder: Path
) -> list[_ExposureTask]:
    """Group exposures by detector and LED, so that a worker builds each flat once, and cut the groups to even size."""
    bench = bench_of(recipe)
    groups: dict[tuple[str, str], list[tuple[PlannedExposure, ExposureTruth]]] = defaultdict(list)
    for exposure, exposure_truth in zip(bench.exposures, truths, strict=True):
        led = "" if exposure.kind == "bias" else exposure.led
        for name in exposure.detectors:
            groups[name, led].append((exposure, exposure_truth))
    tasks = []
    for (name, _), members in sorted(groups.items()):
        detector = bench.camera[name]
        length = max(round(_PIXELS_PER_TASK / (detector.nx * detector.ny)), bench.config.campaign.images)
        for first in range(0, len(members), length):
            exposures, their_truths = zip(*members[first : first + length], strict=True)
            tasks.append(_ExposureTask(recipe, folder, name, exposures, their_truths, tuple(scales.items())))
    return tasks


@lru_cache(maxsize=1)
def _exposed_detector(
    recipe: BenchRecipe, name: str, scales: tuple[tuple[str, float], ...]
) -> tuple[ExposedDetector, RawFileWriter]:
    bench = bench_of(recipe)
    detector = bench.camera[name]
    return ExposedDetector(bench, detector, dict(scales)), RawFileWriter(detector)


def _write_exposures(task: _ExposureTask) -> tuple[int, int]:
    """Write the files of a task that are not there yet; return how many were, and the bytes written."""
    detector = bench_of(task.recipe).camera[task.detector]
    skipped, size = 0, 0
    for exposure, exposure_truth in zip(task.exposures, task.truths, strict=True):
        path = task.folder / exposure.file(task.detector)
        if path.is_file():
            skipped += 1
            continue
        exposed, writer = _exposed_detector(task.recipe, task.detector, task.scales)
        conditions = Conditions(
            photodiode=exposure_truth.photodiode,
            position=exposure_truth.recorded,
            board_temperature=bench_of(task.recipe).board_temperature(detector, exposure),
            sensor_temperature=exposure_truth.sensor_temperature,
        )
        size += writer.write(
            path,
            primary_cards(detector, exposure, conditions),
            conditions,
            exposed.raw_segments(exposure, exposure_truth),
            compressed=exposure.compressed,
        )
    return skipped, size
