"""Write a simulated spot campaign: raw files with their headers, inputs of the reduction, and the truth."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table

from permil.camera import Detector
from permil.config.simulate import SimulateSpotsConfig
from permil.exposures import file_names
from permil.products import RunFolder, provenance, write_hdus, write_image, write_table
from permil.progress import parallel_map
from permil.simulate import handover
from permil.simulate.bench import bench_of
from permil.simulate.campaign import READOUT_SECONDS, PlannedExposure
from permil.simulate.headers import Card, CardValue, Conditions, RawFileWriter, dark_time, primary_cards
from permil.simulate.spots.bench import SpotBench, SpotExposure, SpotReadout, bench_recipe
from permil.simulate.stage import WrittenFiles, claim_folder, write_campaign

TRUTH_FOLDER = "spots"
"""Folder of the truth products below that of the run's truth."""

_SENSOR_TEMPERATURE = -99.2006
_PHOTODIODE = 0.459757


@dataclass(frozen=True)
class SpotSimulationSummary:
    """Files written by a simulation of spots.

    Attributes
    ----------
    folder, truth
        Folders of the campaign and of the truth.
    configuration
        Configuration file to reduce the files.
    files
        Raw spot exposures in order of time.
    biases
        Raw biases.
    flats
        Number of raw files for flats: beam scan, pointings, and own biases if the scan reads another detector.
    skipped
        Number of raw files that already existed.
    size
        Bytes of raw files that were written.
    seconds
        Elapsed time.
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
    """Simulate a campaign of the spot projector, and flats of the same sensor if the configuration has any.

    The same configuration gives the same bytes in every raw file, for any number of workers and after any interruption.

    Parameters
    ----------
    config
        Section ``simulate_spots``.
    folder
        Output folder for ``raw/``, tables and configuration for the reduction, ``truth/spots/``, and with flats the truth of the bench.
    workers
        Number of processes.

    Returns
    -------
    SpotSimulationSummary

    Raises
    ------
    OutputError
        If the folder cannot be written or holds other files.
    CameraError, PositionError, ConfigError
        If camera, detector or sensor are not possible.
    """
    begin = time.monotonic()
    folder = Path(folder)
    bench = _bench(config)
    claim_folder(folder, config)
    truths = bench.exposures()
    planned = planned_exposures(config, truths)
    truth_folder = RunFolder(folder).truth / TRUTH_FOLDER
    write_truth(bench, planned, truths, truth_folder)
    configuration = _write_inputs(config, folder)
    flats = WrittenFiles(0, 0, 0)
    if config.flats.images:
        flats = write_campaign(bench_recipe(config), folder, workers=workers)
    tasks = [
        _FileTask(
            config,
            folder / "raw" / raw_file(exposure, config.detector),
            exposure,
            truths[exposure.image if exposure.kind == "spot" else 0],
        )
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
    """Write one raw file; return whether it already existed, and the bytes written."""
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


def _write_inputs(config: SimulateSpotsConfig, folder: Path) -> Path:
    """Write the tables and the configuration of the reduction; return the path of the configuration."""
    bench = bench_of(bench_recipe(config))
    content = handover.configuration(bench, handover.write_tables(bench, folder), flats=config.flats.images > 0)
    if not config.campaign.biases:
        content["isr"]["bias"] = "none"
    content["spots"] = {"columns": config.mask.spots, "rows": config.mask.spots}
    return handover.write_configuration(folder, content)


_START = datetime(2019, 10, 31, 19, 0, 0, tzinfo=UTC)
_RUN, _JOB = "6868D", "48201"
_SHUTTER_SECONDS = 2.859
"""Dark time minus exposure time of a spot exposure."""
# Leftovers of the last exposure of the other projector, as real spot files have them; some are impossible.
_STALE: dict[str, CardValue] = {
    "CCOBLED": "uv",
    "CCOBCURR": 0.1,
    "CCOBADC": 0.459757,
    "TEMPLED1": 391.866,
    "TEMPSPH": -64.086,
}


def planned_exposures(config: SimulateSpotsConfig, truths: list[SpotExposure]) -> list[PlannedExposure]:
    """Return all exposures in order of time: biases (kind ``bias``), then one of kind ``spot`` for each truth."""
    biases = [_planned(config, number, number, truths[0], kind="bias") for number in range(config.campaign.biases)]
    return biases + [_planned(config, len(biases) + truth.number, truth.number, truth, kind="spot") for truth in truths]


def _planned(config: SimulateSpotsConfig, place: int, number: int, truth: SpotExposure, *, kind: str) -> PlannedExposure:
    seconds = config.campaign.exposure_time_s
    total = max(config.campaign.biases + config.campaign.exposures - 1, 1)
    return PlannedExposure(
        kind=kind,
        run=_RUN,
        job=_JOB,
        led=str(_STALE["CCOBLED"]),
        point=number if config.campaign.mode == "dithered" else 0,
        image=number,
        test_sequence=number,
        commanded=truth.commanded,
        target=config.detector if kind == "spot" else "",
        detectors=(config.detector,),
        end=_START + timedelta(seconds=(place + 1) * (seconds + READOUT_SECONDS)),
        sequence=place + 1,
        exposure_time=0.0 if kind == "bias" else seconds,
        current=0.1,
        phase=place / total,
        compressed=config.campaign.compressed,
    )


def raw_file(exposure: PlannedExposure, detector: str) -> str:
    """Return the path of a file below the root of raw files; folders of spot exposures follow no known pattern."""
    if exposure.kind == "bias":
        return exposure.file(detector)
    folder = file_names.run_folder(exposure.run, exposure.job) / f"spot_flat_{exposure.test_sequence:03d}"
    return str(folder / file_names.file_name(exposure.obsid, detector))


def spot_cards(detector: Detector, exposure: PlannedExposure, conditions: Conditions, *, filter_name: str = "") -> list[Card]:
    """Return the primary header of a spot exposure, or of a bias of its run, with the stale CCOB cards of real files."""
    changes = dict(_STALE)
    added: list[Card] = []
    if exposure.kind == "spot":
        changes |= {
            "TESTTYPE": "SPOT_FLAT",
            "IMGTYPE": "SPOT",
            "DARKTIME": round(exposure.exposure_time + _SHUTTER_SECONDS, 3),
        }
        added.append(("EXPTIME2", 0.0, "Exposure Time in Seconds of the second light"))
    if filter_name:
        added.append(("FILTER", filter_name, "Filter of the projector"))
    cards = [
        (keyword, changes.get(keyword, content), comment)
        for keyword, content, comment in primary_cards(detector, exposure, conditions)
    ]
    # CHECKSUM and DATASUM stay last.
    return [*cards[:-2], *added, *cards[-2:]]


def write_truth(bench: SpotBench, planned: Sequence[PlannedExposure], truths: Sequence[SpotExposure], folder: Path) -> None:
    """Write ``flat.fits``, ``sensor.fits``, ``mask.ecsv`` and ``exposures.ecsv``; existing files stay untouched.

    Raises
    ------
    OutputError
        If a product cannot be written.
    """
    write_table(folder / "mask.ecsv", mask_table(bench), keep_same=True)
    write_table(folder / "exposures.ecsv", exposure_table(planned, truths), keep_same=True)
    if (folder / "flat.fits").is_file() and (folder / "sensor.fits").is_file():
        return
    header = {
        "CAMERA": (bench.camera.name, "camera"),
        "DETECTOR": (bench.detector.name, "detector"),
        "SEED": (bench.config.seed, "seed of the simulation"),
    }
    flat = bench.maps.flat()
    nothing = np.zeros(flat.shape)
    write_image(folder / "flat.fits", flat, nothing, nothing, header={"CONTENT": ("true flat", "content of the image"), **header})
    maps = bench.maps
    planes = (
        ("EFFICIENCY", maps.efficiency, "", "quantum efficiency over its mean"),
        ("DISPLACEMENT_X", maps.displacement[0], "pix", "recorded minus true x at pixel centres"),
        ("DISPLACEMENT_Y", maps.displacement[1], "pix", "recorded minus true y at pixel centres"),
        ("DIFFUSION", maps.diffusion, "pix2", "variance per axis that is added to the charge"),
        ("AREA", maps.area, "", "pixel area in the flat: minus the divergence"),
        ("DIFFUSION_FLAT", maps.diffusion_flat, "", "diffusion in the flat: half the Laplacian"),
    )
    hdus = [fits.PrimaryHDU(header=provenance({"CONTENT": ("true sensor maps", "content of the image"), **header}))]
    for name, image, unit, meaning in planes:
        hdu = fits.ImageHDU(image.astype(np.float32), name=name)
        hdu.header["CONTENT"] = (meaning, "content of the image")
        if unit:
            hdu.header["BUNIT"] = unit
        hdus.append(hdu)
    write_hdus(folder / "sensor.fits", hdus)


def mask_table(bench: SpotBench) -> Table:
    """Return the spots of the mask: grid index, place relative to the mask's centre, flux, covariance of the core."""
    mask = bench.mask
    columns = {name: getattr(mask, name) for name in ("grid_i", "grid_j", "x", "y", "flux", "xx", "yy", "xy")}
    units = {"x": "pix", "y": "pix", "flux": "electron", "xx": "pix2", "yy": "pix2", "xy": "pix2"}
    table = Table(columns, units=units)
    table.meta = {
        "core_fraction": mask.profile.core_fraction,
        "round_fractions": list(mask.profile.fractions),
        "round_sigmas_px": list(mask.profile.sigmas),
    }
    return table


def exposure_table(planned: Sequence[PlannedExposure], truths: Sequence[SpotExposure]) -> Table:
    """Return place and brightness of the spot exposures."""
    spots = [exposure for exposure in planned if exposure.kind == "spot"]
    names = [
        f"{what}_{axis}_{unit}" for what, unit in (("commanded", "mm"), ("projector", "mm"), ("centre", "px")) for axis in "xy"
    ]
    rows = [
        (exposure.obsid, *truth.commanded, *truth.projector, *truth.centre, truth.lamp)
        for exposure, truth in zip(spots, truths, strict=True)
    ]
    units = {name: "mm" if name.endswith("_mm") else "pix" for name in names}
    return Table(rows=rows, names=("exposure", *names, "lamp"), units=units)
