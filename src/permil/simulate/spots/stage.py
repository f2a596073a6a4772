"""Writes a simulated spot campaign: raw files, what is handed to the reduction, and the truth."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from permil.config.simulate_spots import SimulateSpotsConfig
from permil.products import RunFolder
from permil.progress import parallel_map
from permil.simulate import handover
from permil.simulate.bench import bench_of
from permil.simulate.campaign import PlannedExposure
from permil.simulate.claim import claim_folder
from permil.simulate.headers import Conditions, dark_time
from permil.simulate.rawfile import RawFileWriter
from permil.simulate.spots.campaign import planned_exposures, raw_file, spot_cards
from permil.simulate.spots.exposing import SpotBench, SpotExposure
from permil.simulate.spots.flats import bench_recipe
from permil.simulate.spots.readout import SpotReadout
from permil.simulate.spots.truth import write_truth
from permil.simulate.writing import WrittenFiles, write_campaign

TRUTH_FOLDER = "spots"
"""Folder of the truth products below that of the run's truth."""

_SENSOR_TEMPERATURE = -99.2006
_PHOTODIODE = 0.459757


@dataclass(frozen=True)
class SpotSimulationSummary:
    """What a simulation wrote.

    Attributes
    ----------
    folder, truth
        Where everything lies; folder of the truth.
    configuration
        Configuration file with which the files can be reduced.
    files
        Raw spot exposures in the order of time.
    biases
        Raw biases.
    flats
        Number of raw files for flats: beam scan, pointings, and biases of their own where the scan reads another detector.
    skipped
        Number of raw files that were there already.
    size
        Bytes of raw files that were written.
    seconds
        Time it took.
    """

    folder: Path
    truth: Path
    configuration: Path
    files: tuple[Path, ...]
    biases: tuple[Path, ...]
    flats: int
    skipped: int
    size: int
    seconds: float

    def __str__(self) -> str:
        """Return a sentence for the user."""
        flats = f", {self.flats} files for flats" if self.flats else ""
        return (
            f"{self.folder}: {len(self.files)} spot exposures, {len(self.biases)} biases{flats} ({self.skipped} there already), "
            f"{self.size / 1e9:.2f} GB in {self.seconds:.1f} s; reduce them with {self.configuration}"
        )


@dataclass(frozen=True)
class _FileTask:
    config: SimulateSpotsConfig
    path: Path
    planned: PlannedExposure
    truth: SpotExposure


def simulate_spots(config: SimulateSpotsConfig, folder: str | Path, *, workers: int) -> SpotSimulationSummary:
    """Simulate a campaign of the spot projector, and flats of the same sensor where they are asked for.

    The same configuration gives the same bytes in every raw file, by however many workers and however often it was interrupted.

    Parameters
    ----------
    config
        Section ``simulate_spots``.
    folder
        Receives ``raw/``, tables and configuration for the reduction, and ``truth/spots/``; with flats, the truth of the bench.
    workers
        Number of processes.

    Returns
    -------
    SpotSimulationSummary

    Raises
    ------
    OutputError
        If the folder cannot be written or holds something else.
    CameraError, PositionError, ConfigError
        If camera, detector or sensor cannot be.
    """
    begin = time.monotonic()
    folder = Path(folder)
    bench = _bench(config)
    claim_folder(folder, config)
    truths = bench.exposures()
    planned = planned_exposures(config, truths)
    truth_folder = RunFolder(folder).truth / TRUTH_FOLDER
    write_truth(bench, planned, truths, truth_folder)
    configuration = _hand_over(config, folder)
    flats = WrittenFiles(0, 0, 0)
    if config.flats.images:
        flats = write_campaign(bench_recipe(config), folder, workers=workers)
    tasks = [
        _FileTask(config, folder / "raw" / raw_file(exposure, config.detector), exposure, truths[exposure.image])
        if exposure.kind == "spot"
        else _FileTask(config, folder / "raw" / raw_file(exposure, config.detector), exposure, truths[0])
        for exposure in planned
    ]
    results = parallel_map(_write_file, tasks, workers=workers, description="raw spot files")
    return SpotSimulationSummary(
        folder=folder,
        truth=truth_folder,
        configuration=configuration,
        files=tuple(task.path for task in tasks if task.planned.kind == "spot"),
        biases=tuple(task.path for task in tasks if task.planned.kind == "bias"),
        flats=flats.files,
        skipped=flats.skipped + sum(skipped for skipped, _ in results),
        size=flats.size + sum(size for _, size in results),
        seconds=time.monotonic() - begin,
    )


@lru_cache(maxsize=1)
def _bench(config: SimulateSpotsConfig) -> SpotBench:
    return SpotBench(config)


@lru_cache(maxsize=1)
def _readout(config: SimulateSpotsConfig) -> tuple[SpotReadout, RawFileWriter]:
    detector = _bench(config).detector
    return SpotReadout(config, detector), RawFileWriter(detector)


def _write_file(task: _FileTask) -> tuple[bool, int]:
    """Write one raw file; return whether it was there already, and the bytes written."""
    if task.path.is_file():
        return True, 0
    bench, (readout, writer) = _bench(task.config), _readout(task.config)
    detector, planned = bench.detector, task.planned
    charge = bench.charge(task.truth) if planned.kind == "spot" else np.zeros(detector.shape, dtype=np.float32)
    conditions = Conditions(_PHOTODIODE, task.truth.projector, 0.0, _SENSOR_TEMPERATURE)
    size = writer.write(
        task.path,
        spot_cards(detector, planned, conditions, filter_name=task.config.campaign.filter),
        conditions,
        readout.raw_segments(charge, planned, dark_time(planned)),
        compressed=planned.compressed,
    )
    return False, size


def _hand_over(config: SimulateSpotsConfig, folder: Path) -> Path:
    """Write the tables and the configuration of the reduction; return the latter's path."""
    bench = bench_of(bench_recipe(config))
    content = handover.configuration(bench, handover.write_tables(bench, folder), flats=config.flats.images > 0)
    if not config.campaign.biases:
        content["isr"]["bias"] = "none"
    content["spots"] = {"columns": config.mask.spots, "rows": config.mask.spots}
    return handover.write_configuration(folder, content)
