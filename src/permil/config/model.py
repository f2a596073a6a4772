"""The complete configuration: one section per stage."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import yaml
from pydantic import Field

from permil.config.base import ConfigPath, Section
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
    """Complete configuration of a run."""

    camera: Annotated[str, ConfigPath(is_camera=True)] = Field(
        default="lsstcam", description="camera: lsstcam, lsstcam-bin8 or the path of a camera file"
    )
    output: Annotated[Path, ConfigPath()] = Field(default=Path("out"), description="folder of the run")
    seed: int = Field(default=0, ge=0, description="seed of every random step")
    exposures: ExposuresConfig = Field(default=ExposuresConfig(), description="location and classification of the raw files")
    isr: IsrConfig = Field(default=IsrConfig(), description="raw counts to electrons")
    beam: BeamConfig = Field(default=BeamConfig(), description="the projector's light")
    flat: FlatConfig = Field(default=FlatConfig(), description="the response")
    spots: SpotsConfig = Field(default=SpotsConfig(), description="the artificial stars")
    compare: CompareConfig = Field(default=CompareConfig(), description="comparison of artificial stars with the flat")
    plan: PlanConfig = Field(default=PlanConfig(), description="planned pointings")
    report: ReportConfig = Field(default=ReportConfig(), description="report pages and specifications")
    simulate: SimulateConfig = Field(default=SimulateConfig(), description="a test stand with known truth")
    simulate_spots: SimulateSpotsConfig = Field(
        default=SimulateSpotsConfig(), description="exposures of the spot projector with known truth"
    )
    pipeline: PipelineConfig = Field(default=PipelineConfig(), description="worker processes and batch jobs")

    def as_yaml(self) -> str:
        """Return the configuration as YAML, every key with its value."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
