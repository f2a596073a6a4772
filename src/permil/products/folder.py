"""Paths of all products in the folder of a run."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunFolder:
    """Paths of the products of one run below ``root``; the disk is not accessed."""

    root: Path

    @property
    def configuration(self) -> Path:
        """Resolved configuration, versions, seed."""
        return self.root / "run.yaml"

    @property
    def exposures(self) -> Path:
        """The index of exposures."""
        return self.root / "exposures.parquet"

    @property
    def fetched_raws(self) -> Path:
        """Copies of raw files that a repository has on another machine."""
        return self.root / "raw"

    @property
    def unreadable(self) -> Path:
        """Files that could not be read, with the reason."""
        return self.root / "unreadable.ecsv"

    @property
    def left_out(self) -> Path:
        """Excluded exposures, with the reason."""
        return self.root / "left_out.ecsv"

    @property
    def stages(self) -> Path:
        """Work and duration of each stage of the last run."""
        return self.root / "stages.ecsv"

    @property
    def performance(self) -> Path:
        """Cost of the tasks of each stage: time, bytes read, memory."""
        return self.root / "performance.ecsv"

    @property
    def comparison(self) -> Path:
        """Recovered over true flat; only after a demonstration."""
        return self.root / "comparison.ecsv"

    @property
    def state(self) -> Path:
        """Fingerprints of all stages, so that current stages are skipped."""
        return self.root / ".state"

    def superbias(self, detector: str) -> Path:
        """Return the path of the superbias of one detector."""
        return self.root / "calib" / f"superbias_{detector}.fits"

    @property
    def gains(self) -> Path:
        """Gains in use."""
        return self.root / "calib" / "gains.ecsv"

    def noise_moments(self, detector: str) -> Path:
        """Noise of the repeated images of one detector."""
        return self.root / "calib" / ".noise" / f"{detector}.ecsv"

    @property
    def measured_gains(self) -> Path:
        """Gains from the noise of repeated images, beside those handed over."""
        return self.root / "calib" / "measured_gains.ecsv"

    @property
    def measured_linearity(self) -> Path:
        """Linearity of amplifiers from the residuals of joint solutions."""
        return self.root / "calib" / "measured_linearity.ecsv"

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
        """Return the path of the signals of one detector on super-pixels, which the joint solution is fitted to."""
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

    @property
    def report(self) -> Path:
        """Start page of the report."""
        return self.root / "report" / "index.html"

    @property
    def summary(self) -> Path:
        """All metrics with specification and verdict."""
        return self.root / "summary.ecsv"

    @property
    def truth(self) -> Path:
        """The truth of a simulation; only when simulated."""
        return self.root / "truth"

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

    @property
    def path(self) -> Path:
        """The folder of this package."""
        return self.root / "colour"

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

    @property
    def path(self) -> Path:
        """The folder of this package."""
        return self.root / "compare"

    def comparison(self, detector: str, band: str) -> Path:
        """Return the path of the comparison of one detector and band."""
        return self.path / ("_".join(part for part in ("compare", detector, band) if part) + ".fits")

    @property
    def correlations(self) -> Path:
        """Correlations of all detectors and bands."""
        return self.path / "correlations.ecsv"

    @property
    def hypotheses(self) -> Path:
        """Fractions and slopes of all detectors and bands."""
        return self.path / "hypotheses.ecsv"

    @property
    def verdicts(self) -> Path:
        """Effect of dividing star fluxes by the flats, in sentences and numbers."""
        return self.path / "verdicts.ecsv"

    @property
    def efficiency(self) -> Path:
        """Scatter of star fluxes on left-out dithers, undivided and divided by each flat."""
        return self.path / "efficiency.ecsv"

    @property
    def truth(self) -> Path:
        """Recovered and true fractions; only after a demonstration."""
        return self.path / "truth.ecsv"

    @property
    def sensors(self) -> Path:
        """Most important results of each detector and band, of this run and those combined with it."""
        return self.path / "sensors.ecsv"

    @property
    def combined(self) -> Path:
        """Means of several sensors with their heterogeneity, and differences of vendors."""
        return self.path / "combined.ecsv"

    @property
    def tests(self) -> Path:
        """All p-values, with the false-discovery rate at which each is significant."""
        return self.path / "tests.ecsv"

    @property
    def origins(self) -> Path:
        """Parts of the variance of raw star fluxes."""
        return self.path / "origins.ecsv"

    @property
    def levels(self) -> Path:
        """Variation of flats and stars, split into light source, raft, detector, amplifier and variation within amplifiers."""
        return self.path / "levels.ecsv"


# Names of exposures and bands are read from headers and may contain any character.
_UNSAFE = re.compile(r"[^\w.+\-]")


@dataclass(frozen=True)
class SpotsFolder:
    """Paths below ``root / spots``; the disk is not accessed. ``band`` may be empty."""

    root: Path

    @property
    def path(self) -> Path:
        """The folder of this package."""
        return self.root / "spots"

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

    @property
    def summary(self) -> Path:
        """Results of all detectors and bands."""
        return self.path / "summary.ecsv"

    @property
    def remarks(self) -> Path:
        """Inconsistencies of catalogs: unused cards and values, repeated catalogs and rows, second grids."""
        return self.path / "remarks.ecsv"

    @property
    def left_out(self) -> Path:
        """Excluded exposures, with the reason."""
        return self.path / "left_out.ecsv"


def _file_name(*parts: str) -> str:
    return _UNSAFE.sub("-", "_".join(part for part in parts if part)) + ".fits"
