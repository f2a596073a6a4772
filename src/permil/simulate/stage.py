"""Writes a simulated campaign: raw files, what is handed to the reduction, and the truth."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from permil.config.simulate import SimulateConfig
from permil.simulate import handover
from permil.simulate.bench import Bench, BenchRecipe, bench_of
from permil.simulate.claim import claim_folder
from permil.simulate.writing import write_campaign

_RICE_RATIO = 0.36
_HEADER_BYTES = 11_520


@dataclass(frozen=True)
class SimulationSummary:
    """What a simulation wrote.

    Attributes
    ----------
    folder
        Where everything lies.
    configuration
        Configuration file with which it can be reduced.
    exposures, files, skipped
        Number of exposures, of raw files, and of those that were there already.
    size
        Bytes of raw files that were written.
    detectors, leds
        Detectors that were read; LEDs.
    seconds
        Time it took.
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
    """How large a simulation will be: exposures, raw files, and about how many bytes."""

    exposures: int
    files: int
    size: int


def campaign_size(config: SimulateConfig) -> CampaignSize:
    """Return how many files a simulation will write and how much disk they take (RICE within some 10 %)."""
    bench = bench_of(BenchRecipe(config))
    plain = {detector.name: _plain_size(bench, detector.name) for detector in bench.read}
    sizes = [
        plain[name] * (_RICE_RATIO if exposure.compressed else 1.0) for exposure in bench.exposures for name in exposure.detectors
    ]
    return CampaignSize(exposures=len(bench.exposures), files=len(sizes), size=round(sum(sizes)))


def _plain_size(bench: Bench, detector: str) -> int:
    return sum(4 * amplifier.nx_raw * amplifier.ny_raw + _HEADER_BYTES for amplifier in bench.camera[detector].amplifiers)


def simulate_bench(config: SimulateConfig, folder: Path, *, workers: int) -> SimulationSummary:
    """Simulate a campaign.

    The same configuration gives the same bytes in every raw file, by however many workers and however often it was interrupted.

    Parameters
    ----------
    config
        Section ``simulate``.
    folder
        Receives ``raw/``, the tables and the configuration for the reduction, and ``truth/``.
    workers
        Number of processes.

    Returns
    -------
    SimulationSummary

    Raises
    ------
    OutputError
        If the folder cannot be written or holds something else.
    CameraError, PositionError, ConfigError
        If camera, rafts, detectors or the beam cannot be.
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
