"""Paths of all products in the folder of a run."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class _At:
    """The path of a product at a fixed place below the root of a folder."""

    def __init__(self, place: str) -> None:
        self.place = place

    def __get__(self, folder: Any, owner: object = None) -> Path:
        """Return the path in a folder."""
        return Path(folder.root / self.place)


@dataclass(frozen=True)
class RunFolder:
    """Paths of the products of one run below ``root``; the disk is not accessed."""

    root: Path

    configuration = _At("run.yaml")  # resolved configuration, versions, seed
    exposures = _At("exposures.parquet")  # the index of exposures
    fetched_raws = _At("raw")  # copies of raw files that a repository has on another machine
    unreadable = _At("unreadable.ecsv")  # files that could not be read, with the reason
    left_out = _At("left_out.ecsv")  # excluded exposures, with the reason
    stages = _At("stages.ecsv")  # work and duration of each stage of the last run
    performance = _At("performance.ecsv")  # cost of the tasks of each stage: time, bytes read, memory
    comparison = _At("comparison.ecsv")  # recovered over true flat; only after a demonstration
    state = _At(".state")  # fingerprints of all stages, so that current stages are skipped

    def superbias(self, detector: str) -> Path:
        """Return the path of the superbias of one detector."""
        return self.root / "calib" / f"superbias_{detector}.fits"

    gains = _At("calib/gains.ecsv")  # gains in use

    def noise_moments(self, detector: str) -> Path:
        """Noise of the repeated images of one detector."""
        return self.root / "calib" / ".noise" / f"{detector}.ecsv"

    measured_gains = _At("calib/measured_gains.ecsv")  # gains from the noise of repeated images, beside the given ones
    measured_linearity = _At("calib/measured_linearity.ecsv")  # linearity of amplifiers from the residuals of joint solutions

    def beam(self, led: str) -> Path:
        """Return the path of the beam model of one LED."""
        return self.root / "beam" / f"{led}.fits"

    def beam_nodes(self, led: str) -> Path:
        """Return the path of the measurements to which the beam model of one LED was fitted."""
        return self.root / "beam" / f"{led}_nodes.ecsv"

    def flat(self, led: str, detector: str) -> Path:
        """Return the path of the composite-scaled flat of one detector."""
        return self.root / "flat" / led / f"{detector}.fits"

    def efficiency_flat(self, led: str, detector: str) -> Path:
        """Return the path of the flat of one detector without pixel area and diffusion."""
        return self.root / "flat" / led / f"{detector}_efficiency.fits"

    def joint(self, led: str) -> Path:
        """Return the path of the joint solution of beam, flat and exposure scales of one LED."""
        return self.root / "flat" / led / "joint.fits"

    def super_pixels(self, led: str, detector: str) -> Path:
        """Return the path of the signals of one detector on super-pixels, to which the joint solution is fitted."""
        return self.root / "flat" / led / ".superpixels" / f"{detector}.fits"

    def pointing(self, led: str, detector: str, number: int) -> Path:
        """Return the path of the flat of one detector from one pointing."""
        return self.root / "flat" / led / "pointings" / f"{detector}_{number}.fits"

    def focal_plane(self, led: str) -> Path:
        """Return the path of the binned mosaic of the focal plane."""
        return self.root / "flat" / led / "focal_plane.fits"

    def metrics(self, led: str) -> Path:
        """Return the path of the quality metrics of the flat per detector and amplifier."""
        return self.root / "flat" / led / "metrics.ecsv"

    def stability(self, led: str) -> Path:
        """Return the path of the results on the stability of light, photodiode and electronics in the exposures of one LED."""
        return self.root / "stability" / f"{led}.ecsv"

    def stability_exposures(self, led: str) -> Path:
        """Return the path of light, photodiode and temperatures of each exposure of one LED."""
        return self.root / "stability" / f"{led}_exposures.ecsv"

    def stability_amplifiers(self, led: str) -> Path:
        """Return the path of the results on the stability of each amplifier in the exposures of one LED."""
        return self.root / "stability" / f"{led}_amplifiers.parquet"

    def stability_readings(self, led: str) -> Path:
        """Return the path of flux, bias level and read noise of each amplifier in each exposure of one LED."""
        return self.root / "stability" / f"{led}_readings.parquet"

    def defects(self, detector: str) -> Path:
        """Return the path of the table of defects of one detector."""
        return self.root / "defects" / f"{detector}.ecsv"

    report = _At("report/index.html")  # start page of the report
    summary = _At("summary.ecsv")  # all metrics with specification and verdict
    truth = _At("truth")  # the truth of a simulation; only when simulated

    def truth_flat(self, led: str, detector: str) -> Path:
        """Return the path of the true flat of one detector."""
        return self.truth / "flat" / led / f"{detector}.fits"

    def truth_beam(self, led: str) -> Path:
        """Return the path of the true beam of one LED."""
        return self.truth / "beam" / f"{led}.fits"


@dataclass(frozen=True)
class ColourFolder:
    """Paths below ``root / colour``; the disk is not accessed."""

    root: Path

    path = _At("colour")  # the folder of this package

    def detector(self, detector: str) -> Path:
        """Return the path of the colour of one detector."""
        return self.path / f"{detector}.fits"

    def ratio(self, led: str, over_led: str) -> Path:
        """Return the path of the binned ratio of two LEDs over the focal plane."""
        return self.path / _file_name(f"{led}_over_{over_led}")

    def table(self, name: str) -> Path:
        """Return the path of a table of the whole run: responses, ratios, vendors, gradients, correlations, variances or waves."""
        return self.path / f"{name}.ecsv"


@dataclass(frozen=True)
class CompareFolder:
    """Paths below ``root / compare``; the disk is not accessed. ``band`` may be empty."""

    root: Path

    path = _At("compare")  # the folder of this package

    def comparison(self, detector: str, band: str) -> Path:
        """Return the path of the comparison of one detector and band."""
        return self.path / ("_".join(part for part in ("compare", detector, band) if part) + ".fits")

    correlations = _At("compare/correlations.ecsv")  # correlations of all detectors and bands
    hypotheses = _At("compare/hypotheses.ecsv")  # fractions and slopes of all detectors and bands
    verdicts = _At("compare/verdicts.ecsv")  # effect of dividing star fluxes by the flats, in sentences and numbers
    efficiency = _At("compare/efficiency.ecsv")  # scatter of star fluxes on left-out dithers, undivided and divided by each flat
    truth = _At("compare/truth.ecsv")  # recovered and true fractions; only after a demonstration
    sensors = _At(
        "compare/sensors.ecsv"
    )  # most important results of each detector and band, of this run and those combined with it
    combined = _At("compare/combined.ecsv")  # means of several sensors with their heterogeneity, and differences of vendors
    tests = _At("compare/tests.ecsv")  # all p-values, with the false-discovery rate at which each is significant
    origins = _At("compare/origins.ecsv")  # parts of the variance of raw star fluxes
    levels = _At(
        "compare/levels.ecsv"
    )  # variation of flats and stars, split into light source, raft, detector, amplifier and variation within amplifiers


# Names of exposures and bands are read from headers and may contain any character.
_UNSAFE = re.compile(r"[^\w.+\-]")


@dataclass(frozen=True)
class SpotsFolder:
    """Paths below ``root / spots``; the disk is not accessed. ``band`` may be empty."""

    root: Path

    path = _At("spots")  # the folder of this package

    def catalog(self, detector: str, exposure: str) -> Path:
        """Return the path of the catalog measured on one exposure."""
        return self.path / "catalogs" / _file_name(exposure, detector)

    def grid(self, detector: str, exposure: str) -> Path:
        """Return the path of the labelled catalog of one exposure."""
        return self.path / "grids" / _file_name(exposure, detector)

    def calibration(self, detector: str, band: str) -> Path:
        """Return the path of the calibration of the mask."""
        return self.path / _file_name("calibration", detector, band)

    def residuals(self, detector: str, band: str) -> Path:
        """Return the path of the residual of each measurement at its position on the detector."""
        return self.path / _file_name("residuals", detector, band)

    def throughput(self, detector: str, band: str) -> Path:
        """Return the path of the binned maps of the residuals."""
        return self.path / _file_name("throughput", detector, band)

    summary = _At("spots/summary.ecsv")  # results of all detectors and bands
    remarks = _At(
        "spots/remarks.ecsv"
    )  # inconsistencies of catalogs: unused cards and values, repeated catalogs and rows, second grids
    left_out = _At("spots/left_out.ecsv")  # excluded exposures, with the reason


def _file_name(*parts: str) -> str:
    return _UNSAFE.sub("-", "_".join(part for part in parts if part)) + ".fits"
