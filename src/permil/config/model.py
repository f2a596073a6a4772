"""The whole configuration: one section per stage."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import yaml
from pydantic import Field

from permil.config.base import FileName, Section
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


class Config(Section):
    """Everything that a run can be told."""

    camera: Annotated[str, FileName(is_camera=True)] = Field(
        default="lsstcam", description="camera: lsstcam, lsstcam-bin8 or the path of a camera file"
    )
    output: Annotated[Path, FileName()] = Field(default=Path("out"), description="folder of the run")
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

    def as_yaml(self) -> str:
        """Return the configuration as YAML, every key with its value."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
