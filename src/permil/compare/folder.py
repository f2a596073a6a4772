"""The names of the products of this package below a run's folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class CompareFolder:
    """Paths below ``root / compare``; nothing here touches the disk. ``band`` may be empty."""

    root: Path

    @property
    def path(self) -> Path:
        """The folder of this package."""
        return self.root / "compare"

    def comparison(self, detector: str, band: str) -> Path:
        """Everything about one detector and band."""
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
        """What dividing by the flats does to star fluxes, in sentences and figures."""
        return self.path / "verdicts.ecsv"

    @property
    def truth(self) -> Path:
        """Fractions that were found and that are true; only after a demonstration."""
        return self.path / "truth.ecsv"

    @property
    def levels(self) -> Path:
        """Variation of flats and stars, split into light source, raft, detector, amplifier and what is within amplifiers."""
        return self.path / "levels.ecsv"
