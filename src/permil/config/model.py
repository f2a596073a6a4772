"""The complete configuration: one section per stage; the sections `pipeline` and `report`."""

from __future__ import annotations

import re
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BeforeValidator, Field, PositiveFloat, model_validator

from permil.config.base import ConfigPath, Section
from permil.config.exposures import ExposuresConfig
from permil.config.flat import BeamConfig, DefectsConfig, FlatConfig
from permil.config.isr import IsrConfig
from permil.config.plan import PlanConfig
from permil.config.simulate import SimulateConfig, SimulateSpotsConfig
from permil.config.spots import CompareConfig, SpotsConfig

_DATE = re.compile(r"\d{4}-\d\d-\d\d(T\d\d:\d\d(:\d\d)?)?")
_CLOCK = re.compile(r"(\d+-)?\d+:[0-5]\d:[0-5]\d")


def _require_clock(text: str) -> str:
    # Batch systems read 4 as four minutes and 4:00 as minutes and seconds.
    if _CLOCK.fullmatch(text) is None:
        raise ValueError("write hours, minutes and seconds, 04:00:00, or with days, 2-04:00:00")
    return text


class JobsConfig(Section):
    """Jobs of a batch system that run the workers, through dask-jobqueue."""

    system: Literal["none", "slurm", "htcondor"] = Field(
        "none", description="batch system to which jobs are submitted: none, slurm or htcondor"
    )
    count: Annotated[int, Field(ge=1)] = Field(1, description="number of jobs")
    cores: Annotated[int, Field(ge=1)] = Field(1, description="cores of each job, each with a worker")
    memory: str = Field("4 GiB", description="memory of each job, for all of its workers")
    walltime: Annotated[str, AfterValidator(_require_clock)] = Field(
        "04:00:00", description="maximum duration of a job, HH:MM:SS or D-HH:MM:SS (slurm)"
    )
    options: dict[str, Any] = Field(
        {},
        description="further options of SLURMCluster or HTCondorCluster of dask-jobqueue, such as {account: lsst, queue: milano} or "
        "{disk: 1 GB}",
    )


class PipelineConfig(Section):
    """Workers of a run."""

    workers: int = Field(0, ge=0, description="worker processes of this machine; 0 means one per processor core")
    scheduler: str = Field(
        "", description="address of a Dask scheduler, tcp://host:port, whose workers are used; empty: this machine"
    )
    jobs: JobsConfig = Field(JobsConfig(), description="jobs of a batch system that run the workers")

    @model_validator(mode="after")
    def _one_of_them(self) -> PipelineConfig:
        if self.scheduler and self.jobs.system != "none":
            raise ValueError("give the address of a scheduler or jobs of a batch system, not both")
        return self


class ReportConfig(Section):
    """Specifications (relative, so 0.001 is one per mil) and options of the pages."""

    detector_pages: bool = Field(True, description="one page per detector")
    scatter_limit: PositiveFloat = Field(0.005, description="largest scatter between pointings in excess of noise")
    step_limit: PositiveFloat = Field(0.003, description="largest step of an amplifier")
    noise_limit: PositiveFloat = Field(0.002, description="largest typical error of a pixel")
    node_noise_limit: PositiveFloat = Field(0.001, description="largest relative noise of the beam nodes")
    repeatability_limit: PositiveFloat = Field(
        0.002, description="largest scatter of the light over the exposures of an LED, the requirement of the bench"
    )
    spot_excess_limit: PositiveFloat = Field(
        0.001, description="largest scatter of spot fluxes in excess of their errors and of the sensor"
    )


def _require_date(text: str) -> str:
    if text and _DATE.fullmatch(text) is None:
        raise ValueError("write a date, 2021-12-03, or date and time, 2021-12-03T18:00:00")
    try:
        datetime.fromisoformat(text or "2000-01-01")
    except ValueError as error:
        raise ValueError(f"{text} is not a date ({error})") from error
    return text


Date = Annotated[
    str, BeforeValidator(lambda entry: entry.isoformat() if isinstance(entry, date) else entry), AfterValidator(_require_date)
]


class ValidityConfig(Section):
    """Dates between which the products are valid calibrations: written to their headers, not used otherwise."""

    begin: Date = Field("", description="first date (UTC), 2021-12-03 or 2021-12-03T18:00:00; empty: not stated")
    end: Date = Field("", description="last date (UTC); empty: not stated")

    @model_validator(mode="after")
    def _in_order(self) -> ValidityConfig:
        if self.begin and self.end and datetime.fromisoformat(self.end) < datetime.fromisoformat(self.begin):
            raise ValueError(f"the end, {self.end}, is before the beginning, {self.begin}")
        return self


class Config(Section):
    """Complete configuration of a run.

    Examples
    --------
    >>> import permil
    >>> permil.Config(camera="lsstcam-bin8", output="out").flat.solver
    'joint'
    """

    camera: Annotated[str, ConfigPath(is_camera=True)] = Field(
        "lsstcam", description="camera: lsstcam, lsstcam-bin8 or the path of a camera file"
    )
    output: Annotated[Path, ConfigPath()] = Field(Path("out"), description="folder of the run")
    seed: int = Field(0, ge=0, description="seed of every random step")
    exposures: ExposuresConfig = Field(ExposuresConfig(), description="location and classification of the raw files")
    isr: IsrConfig = Field(IsrConfig(), description="raw counts to electrons")
    beam: BeamConfig = Field(BeamConfig(), description="the projector's light")
    flat: FlatConfig = Field(FlatConfig(), description="the response")
    defects: DefectsConfig = Field(DefectsConfig(), description="the limits of defects of the sensors")
    spots: SpotsConfig = Field(SpotsConfig(), description="the artificial stars")
    compare: CompareConfig = Field(CompareConfig(), description="comparison of artificial stars with the flat")
    validity: ValidityConfig = Field(ValidityConfig(), description="dates between which the products are valid")
    plan: PlanConfig = Field(PlanConfig(), description="planned pointings")
    report: ReportConfig = Field(ReportConfig(), description="report pages and specifications")
    simulate: SimulateConfig = Field(SimulateConfig(), description="a test stand with known truth")
    simulate_spots: SimulateSpotsConfig = Field(
        SimulateSpotsConfig(), description="exposures of the spot projector with known truth"
    )
    pipeline: PipelineConfig = Field(PipelineConfig(), description="worker processes and batch jobs")

    def as_yaml(self) -> str:
        """Return the configuration as YAML, every key with its value."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
