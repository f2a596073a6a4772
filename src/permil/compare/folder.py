"""Paths of the products of this package in a run's folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


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
    def truth(self) -> Path:
        """Recovered and true fractions; only after a demonstration."""
        return self.path / "truth.ecsv"

    @property
    def levels(self) -> Path:
        """Variation of flats and stars, split into light source, raft, detector, amplifier and variation within amplifiers."""
        return self.path / "levels.ecsv"
