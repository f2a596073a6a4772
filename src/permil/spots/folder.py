"""Paths of the products of this package in a run's folder."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

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
