"""Writes a simulated spot campaign: raw files, what is handed to the reduction, and the truth."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from permil.config.simulate_spots import SimulateSpotsConfig
from permil.errors import OutputError
from permil.products import RunFolder, atomic_output, write_table
from permil.progress import parallel_map
from permil.simulate import handover
from permil.simulate.campaign import PlannedExposure
from permil.simulate.headers import Conditions, dark_time
from permil.simulate.rawfile import RawFileWriter
from permil.simulate.spots.campaign import planned_exposures, raw_file, spot_cards
from permil.simulate.spots.exposing import SpotBench, SpotExposure
from permil.simulate.spots.readout import SpotReadout, readout_bench
from permil.simulate.spots.truth import write_truth

CONFIGURATION = "config.yaml"
"""Configuration with which the simulated files can be reduced."""

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
    size
        Bytes of raw files.
    seconds
        Time it took.
    """

    folder: Path
    truth: Path
    configuration: Path
    files: tuple[Path, ...]
    biases: tuple[Path, ...]
    size: int
    seconds: float

    def __str__(self) -> str:
        """Return a sentence for the user."""
        return (
            f"{self.folder}: {len(self.files)} spot exposures and {len(self.biases)} biases, {self.size / 1e9:.2f} GB "
            f"in {self.seconds:.1f} s; reduce them with {self.configuration}"
        )


@dataclass(frozen=True)
class _FileTask:
    config: SimulateSpotsConfig
    path: Path
    planned: PlannedExposure
    truth: SpotExposure


def simulate_spots(config: SimulateSpotsConfig, folder: str | Path, *, workers: int) -> SpotSimulationSummary:
    """Simulate a campaign of the spot projector.

    The same configuration gives the same bytes in every raw file, by however many workers.

    Parameters
    ----------
    config
        Section ``simulate_spots``.
    folder
        Receives ``raw/``, tables and configuration for the reduction, and ``truth/spots/``.
    workers
        Number of processes.

    Returns
    -------
    SpotSimulationSummary

    Raises
    ------
    OutputError
        If the folder cannot be written or holds raw files already.
    CameraError, PositionError
        If camera or detector cannot be.
    """
    begin = time.monotonic()
    folder = Path(folder)
    if (folder / "raw").exists():
        raise OutputError("this folder holds raw files already", path=folder, remedy="choose another folder for the simulation")
    bench = _bench(config)
    truths = bench.exposures()
    planned = planned_exposures(config, truths)
    truth_folder = RunFolder(folder).truth / TRUTH_FOLDER
    write_truth(bench, planned, truths, truth_folder)
    configuration = _hand_over(config, folder)
    tasks = [
        _FileTask(config, folder / "raw" / raw_file(exposure, config.detector), exposure, truths[exposure.image])
        if exposure.kind == "spot"
        else _FileTask(config, folder / "raw" / raw_file(exposure, config.detector), exposure, truths[0])
        for exposure in planned
    ]
    sizes = parallel_map(_write_file, tasks, workers=workers, description="raw spot files")
    return SpotSimulationSummary(
        folder=folder,
        truth=truth_folder,
        configuration=configuration,
        files=tuple(task.path for task in tasks if task.planned.kind == "spot"),
        biases=tuple(task.path for task in tasks if task.planned.kind == "bias"),
        size=sum(sizes),
        seconds=time.monotonic() - begin,
    )


@lru_cache(maxsize=1)
def _bench(config: SimulateSpotsConfig) -> SpotBench:
    return SpotBench(config)


@lru_cache(maxsize=1)
def _readout(config: SimulateSpotsConfig) -> tuple[SpotReadout, RawFileWriter]:
    detector = _bench(config).detector
    return SpotReadout(config, detector), RawFileWriter(detector)


def _write_file(task: _FileTask) -> int:
    """Write one raw file; return its size in bytes."""
    bench, (readout, writer) = _bench(task.config), _readout(task.config)
    detector, planned = bench.detector, task.planned
    charge = bench.charge(task.truth) if planned.kind == "spot" else np.zeros(detector.shape, dtype=np.float32)
    conditions = Conditions(_PHOTODIODE, task.truth.projector, 0.0, _SENSOR_TEMPERATURE)
    return writer.write(
        task.path,
        spot_cards(detector, planned, conditions, filter_name=task.config.campaign.filter),
        conditions,
        readout.raw_segments(charge, planned, dark_time(planned)),
        compressed=planned.compressed,
    )


def _hand_over(config: SimulateSpotsConfig, folder: Path) -> Path:
    """Write the tables and the configuration of the reduction; return the latter's path."""
    bench = readout_bench(config)
    tables = {"gains": handover.gains(bench)}
    if config.effects.nonlinearity:
        tables["linearity"] = handover.linearity(bench)
    if config.effects.crosstalk:
        tables["crosstalk"] = handover.crosstalk(bench)
    for name, table in tables.items():
        write_table(folder / f"{name}.ecsv", table)
    isr: dict[str, Any] = {name: f"{name}.ecsv" for name in tables}
    if not config.campaign.biases:
        isr["bias"] = "none"
    content = {
        "camera": config.camera,
        "output": ".",
        "seed": config.seed,
        "exposures": {"roots": ["raw"]},
        "isr": isr,
        "spots": {"columns": config.mask.spots, "rows": config.mask.spots},
    }
    path = folder / CONFIGURATION
    with atomic_output(path) as temporary:
        temporary.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path
