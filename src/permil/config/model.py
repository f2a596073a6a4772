"""The whole configuration: one section per room."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from permil.config.base import Section
from permil.config.beam import BeamConfig
from permil.config.compare import CompareConfig
from permil.config.exposures import ExposuresConfig
from permil.config.flat import FlatConfig
from permil.config.isr import IsrConfig
from permil.config.pipeline import PipelineConfig
from permil.config.plan import PlanConfig
from permil.config.report import ReportConfig
from permil.config.simulate import SimulateConfig
from permil.config.simulate_spots import SimulateSpotsConfig
from permil.config.spots import SpotsConfig

_ISR_FILES = ("bias", "gains", "linearity", "crosstalk", "defects")
_WORDS = ("auto", "none", "nominal")
"""Entries of the section isr that are no paths."""


class Config(Section):
    """Everything that a run can be told."""

    camera: str = Field(default="lsstcam", description="camera: lsstcam, lsstcam-bin8 or the path of a camera file")
    output: Path = Field(default=Path("out"), description="folder of the run")
    seed: int = Field(default=0, ge=0, description="seed of every random step")
    exposures: ExposuresConfig = Field(default=ExposuresConfig(), description="what was taken and where it lies")
    isr: IsrConfig = Field(default=IsrConfig(), description="raw counts to electrons")
    beam: BeamConfig = Field(default=BeamConfig(), description="the projector's light")
    flat: FlatConfig = Field(default=FlatConfig(), description="the response")
    spots: SpotsConfig = Field(default=SpotsConfig(), description="the artificial stars")
    compare: CompareConfig = Field(default=CompareConfig(), description="stars against the flat")
    plan: PlanConfig = Field(default=PlanConfig(), description="pointings that are planned")
    report: ReportConfig = Field(default=ReportConfig(), description="what a person looks at")
    simulate: SimulateConfig = Field(default=SimulateConfig(), description="a test stand with known truth")
    simulate_spots: SimulateSpotsConfig = Field(
        default=SimulateSpotsConfig(), description="exposures of the spot projector with known truth"
    )
    pipeline: PipelineConfig = Field(default=PipelineConfig(), description="how the work is spread")

    def resolved(self, folder: Path) -> Config:
        """Return the configuration with relative paths made absolute below ``folder``."""
        changes: dict[str, Any] = {"output": folder / self.output}
        if (folder / self.camera).is_file():
            changes["camera"] = str(folder / self.camera)
        roots = [str(folder / root) for root in self.exposures.roots]
        changes["exposures"] = self.exposures.model_copy(update={"roots": roots})
        inputs = {name: getattr(self.isr, name) for name in _ISR_FILES}
        paths = {name: str(folder / entry) for name, entry in inputs.items() if entry not in _WORDS}
        changes["isr"] = self.isr.model_copy(update=paths)
        changes["spots"] = self.spots.resolved(folder)
        changes["plan"] = self.plan.resolved(folder)
        changes["compare"] = self.compare.resolved(folder)
        return self.model_copy(update=changes)

    def as_yaml(self) -> str:
        """Return the configuration as YAML, every key with its value."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
