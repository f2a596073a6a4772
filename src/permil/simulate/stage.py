"""Write a simulated campaign: raw files, inputs of the reduction, and the truth."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import yaml

from permil.config.base import Section
from permil.config.simulate import SimulateConfig
from permil.errors import OutputError
from permil.products import RunFolder, atomic_output, make_folder, remove_partial_files, write_image, write_table
from permil.progress import parallel_map
from permil.simulate import handover
from permil.simulate.bench import BenchRecipe, ExposedDetector, ExposureTruth, bench_of
from permil.simulate.campaign import PlannedExposure
from permil.simulate.handover import CONFIGURATION
from permil.simulate.headers import Conditions, RawFileWriter, primary_cards
from permil.simulate.sensor import defect_table

_RICE_RATIO = 0.36
_HEADER_BYTES = 11_520


@dataclass(frozen=True)
class SimulationSummary:
    """Files written by a simulation.

    Attributes
    ----------
    folder
        Folder of the campaign.
    configuration
        Configuration file to reduce it.
    exposures, files, skipped
        Number of exposures, of raw files, and of raw files that already existed.
    size
        Bytes of raw files that were written.
    detectors, leds
        Detectors that were read out; LEDs.
    seconds
        Elapsed time.
    """

    folder: Path
    configuration: Path
    exposures: int
    files: int
    skipped: int
    size: int
    detectors: tuple[str, ...]
    leds: tuple[str, ...]
    seconds: float

    def __str__(self) -> str:
        """Return a sentence for the user."""
        return (
            f"{self.folder}: {self.files} raw files ({self.skipped} there already) of {self.exposures} exposures, "
            f"{len(self.detectors)} detectors and LEDs {', '.join(self.leds)}; {self.size / 1e9:.2f} GB in {self.seconds:.1f} s; "
            f"reduce them with {self.configuration}"
        )


@dataclass(frozen=True)
class CampaignSize:
    """Size of a simulation: exposures, raw files, and approximate bytes."""

    exposures: int
    files: int
    size: int


def campaign_size(config: SimulateConfig) -> CampaignSize:
    """Return the number of files of a simulation and their size on disk (RICE within some 10 %)."""
    bench = bench_of(BenchRecipe(config))
    plain = {
        detector.name: sum(4 * amplifier.nx_raw * amplifier.ny_raw + _HEADER_BYTES for amplifier in detector.amplifiers)
        for detector in bench.read
    }
    sizes = [
        plain[name] * (_RICE_RATIO if exposure.compressed else 1.0) for exposure in bench.exposures for name in exposure.detectors
    ]
    return CampaignSize(exposures=len(bench.exposures), files=len(sizes), size=round(sum(sizes)))


def simulate_bench(config: SimulateConfig, folder: Path, *, workers: int) -> SimulationSummary:
    """Simulate a campaign.

    The same configuration gives the same bytes in every raw file, for any number of workers and after any interruption. In a folder that
    holds the campaign already nothing is written, so that products made from its files stay up to date.

    Parameters
    ----------
    config
        Section ``simulate``.
    folder
        Output folder for ``raw/``, the tables and the configuration for the reduction, and ``truth/``.
    workers
        Number of processes.

    Returns
    -------
    SimulationSummary

    Raises
    ------
    OutputError
        If the folder cannot be written or holds other files.
    CameraError, PositionError, ConfigError
        If camera, rafts, detectors or beam are not possible.
    """
    begin = time.monotonic()
    folder = Path(folder)
    recipe = BenchRecipe(config)
    bench = bench_of(recipe)
    claim_folder(folder, config)
    tables = handover.write_tables(bench, folder)
    configuration = handover.write_configuration(folder, handover.configuration(bench, tables))
    written = write_campaign(recipe, folder, workers=workers)
    return SimulationSummary(
        folder=folder,
        configuration=configuration,
        exposures=len(bench.exposures),
        files=written.files,
        skipped=written.skipped,
        size=written.size,
        detectors=tuple(detector.name for detector in bench.read),
        leds=bench.leds,
        seconds=time.monotonic() - begin,
    )


FINGERPRINT = "simulation.yaml"
"""File with the parameters of the simulation in a folder."""


def claim_folder(folder: Path, config: Section) -> None:
    """Mark a folder as that of a simulation, or continue an interrupted one.

    Raises
    ------
    OutputError
        If the folder cannot be written or holds other files.
    """
    path = make_folder(folder) / FINGERPRINT
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    if path.is_file():
        if path.read_text(encoding="utf-8") != text:
            raise OutputError(
                "this folder holds a simulation with other parameters",
                path=folder,
                remedy="choose another folder, or remove this one first",
            )
        remove_partial_files(folder)
        return
    for name in ("raw", CONFIGURATION):
        if (folder / name).exists():
            raise OutputError(
                f"{name} in this folder was not simulated here", path=folder, remedy="choose another folder for the simulation"
            )
    with atomic_output(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


_PIXELS_PER_TASK = 2.5e7


@dataclass(frozen=True)
class WrittenFiles:
    """Number of raw files of a campaign, number that already existed, and bytes that were written."""

    files: int
    skipped: int
    size: int


@dataclass(frozen=True)
class _ResponseTask:
    """A detector and an LED whose response is measured or, with a scale, written as true flat."""

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
    return {led: handover.median_of_histogram(total) for led, total in totals.items()}


def _survey_response(task: _ResponseTask) -> np.ndarray:
    return handover.response_histogram(bench_of(task.recipe), task.detector, task.led)


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
        path = run.truth_beam(led)
        if not path.is_file():
            primary, cards = handover.beam_cards(bench, led)
            image = handover.beam_image(bench, led)
            write_image(path, image, np.zeros(image.shape), np.zeros(image.shape), header=primary, image_cards=cards)
    write_table(run.truth / "scales.ecsv", handover.scale_table(bench, truths), keep_same=True)
    write_table(run.truth / "positions.ecsv", handover.position_table(bench, truths), keep_same=True)
    write_table(run.truth / "gains.ecsv", handover.amplifier_table(bench), keep_same=True)
    write_table(run.truth / "boards.ecsv", handover.board_table(bench), keep_same=True)
    drawn = {detector.name: bench.sensors.defects(detector) for detector in bench.read}
    if any(drawn.values()):
        write_table(run.truth / "defects.ecsv", defect_table(drawn), keep_same=True)


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
        header=handover.flat_cards(bench, task.detector, task.led, task.scale),
    )


def _exposure_tasks(
    recipe: BenchRecipe, truths: list[ExposureTruth], scales: dict[str, float], folder: Path
) -> list[_ExposureTask]:
    """Group exposures by detector and LED, so that a worker builds each flat once, and split large groups."""
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
    """Write the missing files of a task; return the number of existing files, and the bytes written."""
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
