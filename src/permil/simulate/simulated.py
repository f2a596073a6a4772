"""A simulated campaign in memory, or written as raw files with known truth."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import QTable

from permil.arrays import FloatArray, Int32Array, plain_array
from permil.camera import Camera
from permil.config.load import make_section
from permil.config.simulate import SimulateConfig
from permil.errors import InputError
from permil.flat.flat import Flat
from permil.simulate import handover
from permil.simulate.bench import Bench, BenchRecipe, ExposedDetector, ExposureTruth, bench_of
from permil.simulate.handover import CONFIGURATION
from permil.simulate.stage import SimulationSummary, simulate_bench


@dataclass(frozen=True, eq=False)
class SimulatedCampaign:
    """A campaign of the projector with known truth: arrays on request, and files if it was written.

    Attributes
    ----------
    bench : Bench
        The truth: beams, lamp, stage, sensors and amplifiers.
    summary : SimulationSummary or None
        Files that were written; None for a campaign in memory.

    Examples
    --------
    >>> import permil
    >>> campaign = permil.simulate_campaign(preset="mini", leds=["red"], detectors=["R22_S11"])
    >>> campaign.raw(0, "R22_S11")["C14"].shape
    (256, 128)
    """

    bench: Bench
    summary: SimulationSummary | None = None

    @property
    def camera(self) -> Camera:
        """The camera."""
        return self.bench.camera

    @property
    def leds(self) -> tuple[str, ...]:
        """LEDs."""
        return self.bench.leds

    @property
    def detectors(self) -> tuple[str, ...]:
        """Detectors that are read out."""
        return tuple(detector.name for detector in self.bench.read)

    @property
    def folder(self) -> Path:
        """Folder of the files.

        Raises
        ------
        InputError
            If no files were written.
        """
        if self.summary is None:
            raise InputError("this campaign was not written", remedy="give a folder: permil.simulate_campaign(folder, ...)")
        return self.summary.folder

    @property
    def configuration(self) -> Path:
        """Configuration to reduce the files."""
        return self.folder / CONFIGURATION

    @cached_property
    def exposures(self) -> QTable:
        """One row per exposure in order of time: kind, LED, commanded position (CCS), photodiode and electrons at the beam's maximum."""
        rows = []
        for exposure, one in zip(self.bench.exposures, self._truths, strict=True):
            led, light = "" if exposure.kind == "bias" else exposure.led, (one.photodiode, one.electrons)
            rows.append((exposure.obsid, exposure.kind, led, *exposure.commanded, *light, ",".join(exposure.detectors)))
        columns = ("obsid", "kind", "led", "x", "y", "photodiode", "electrons", "detectors")
        return QTable(rows=rows, names=columns, units={"x": "mm", "y": "mm", "electrons": "electron"})

    @cached_property
    def _truths(self) -> list[ExposureTruth]:
        return self.bench.exposure_truths()

    @cached_property
    def _scales(self) -> dict[str, float]:
        """Median response of all science detectors for each LED, the scale of the flats."""
        return {
            led: handover.median_of_histogram(
                np.sum([handover.response_histogram(self.bench, detector.name, led) for detector in self.bench.science], axis=0)
            )
            for led in self.leds
        }

    def raw(self, exposure: int, detector: str) -> dict[str, Int32Array]:
        """Return the raw segments of one exposure of a detector, adu, by amplifier; the same counts as in the files.

        Parameters
        ----------
        exposure
            Row of `exposures`.
        detector
            Name of a detector that this exposure reads.

        Raises
        ------
        InputError
            If the exposure does not exist, or does not read the detector.
        """
        if not 0 <= exposure < len(self.bench.exposures):
            raise InputError(
                f"there is no exposure {exposure}", remedy=f"give 0 to {len(self.bench.exposures) - 1}", value=exposure
            )
        planned = self.bench.exposures[exposure]
        if detector not in planned.detectors:
            raise InputError(f"exposure {exposure} does not read {detector}", remedy=f"it reads {', '.join(planned.detectors)}")
        own = self.camera[detector]
        segments = ExposedDetector(self.bench, own, self._scales).raw_segments(planned, self._truths[exposure])
        return {amplifier.name: segment for amplifier, segment in zip(own.amplifiers, segments, strict=True)}

    def flat(self, led: str, detector: str) -> Flat:
        """Return the true flat; the median over all science detectors is 1.

        Raises
        ------
        InputError
            If the campaign does not have the LED.
        CameraError
            If the camera does not have the detector.
        """
        self._require_led(led)
        own = self.camera[detector]
        response = self.bench.sensors.response(own, led) / np.float32(self._scales[led])
        return Flat(response, mask=self.bench.sensors.mask(own), camera=self.bench.config.camera, detector=own, led=led)

    def beam(self, led: str, ux: Any, uy: Any) -> FloatArray:
        """Return the true beam at places minus the beam's centre, mm; 1 at its maximum."""
        self._require_led(led)
        return self.bench.beam(led)(*(plain_array(axis, name=name, unit="mm") for name, axis in (("ux", ux), ("uy", uy))))

    def _require_led(self, led: str) -> None:
        if led not in self.leds:
            raise InputError(f"the campaign has no LED {led}", remedy=f"its LEDs are {', '.join(self.leds)}", value=led)

    def gains(self) -> QTable:
        """Return the true gain of each amplifier."""
        return QTable(handover.amplifier_table(self.bench))

    def write(self, folder: str | Path, *, workers: int = 1) -> SimulatedCampaign:
        """Write raw files, tables, a configuration to reduce them, and the truth; return the campaign with its files.

        Raises
        ------
        OutputError
            If the folder cannot be written or holds other files.
        """
        return SimulatedCampaign(self.bench, simulate_bench(self.bench.config, Path(folder), workers=workers))

    def __repr__(self) -> str:
        """Return size and place in one line."""
        where = "in memory" if self.summary is None else str(self.summary.folder)
        return (
            f"<SimulatedCampaign {where}; {len(self.bench.exposures)} exposures, {len(self.detectors)} detectors, "
            f"LEDs {', '.join(self.leds)}>"
        )


def simulate_campaign(
    folder: str | Path | None = None, config: SimulateConfig | None = None, *, workers: int = 1, **options: Any
) -> SimulatedCampaign:
    """Simulate a campaign of the projector, in memory or as raw files with known truth.

    The same configuration gives the same counts, for any number of workers. A folder that holds this campaign already is completed, and its
    files stay untouched: a run on them does not start again.

    Parameters
    ----------
    folder
        Folder for raw files, tables, configuration and truth; None: nothing is written, and arrays are made on request.
    config
        Section ``simulate`` of a configuration.
    workers
        Number of processes that write files.
    **options
        Keys of the section ``simulate`` instead of ``config``, such as ``preset="mini"``, ``leds=["red"]``, ``seed=3``.

    Returns
    -------
    SimulatedCampaign

    Raises
    ------
    ConfigError
        If an option is unknown or not allowed.
    OutputError
        If the folder cannot be written or holds other files.
    CameraError, PositionError
        If camera, rafts or detectors are not possible.

    Examples
    --------
    >>> import permil
    >>> campaign = permil.simulate_campaign(preset="mini", leds=["red"], detectors=["R22_S11"])
    >>> campaign.flat("red", "R22_S11").shape
    (500, 512)
    """
    if config is not None and options:
        raise InputError(f"{next(iter(options))} is given together with a complete configuration", remedy="give one of the two")
    config = config or make_section(SimulateConfig, options)
    campaign = SimulatedCampaign(bench_of(BenchRecipe(config)))
    return campaign if folder is None else campaign.write(folder, workers=workers)
