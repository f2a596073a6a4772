"""Section `pipeline`: worker processes, Dask scheduler or batch jobs."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from permil.config.base import Section

_CLOCK = re.compile(r"(\d+-)?\d+:[0-5]\d:[0-5]\d")


def _require_clock(text: str) -> str:
    # Batch systems read 4 as four minutes and 4:00 as minutes and seconds.
    if _CLOCK.fullmatch(text) is None:
        raise ValueError("write hours, minutes and seconds, 04:00:00, or with days, 2-04:00:00")
    return text


class JobsConfig(Section):
    """Jobs of a batch system that run the workers, through dask-jobqueue."""

    system: Literal["none", "slurm", "htcondor"] = Field(
        default="none", description="batch system to which jobs are submitted: none, slurm or htcondor"
    )
    count: Annotated[int, Field(ge=1)] = Field(default=1, description="number of jobs")
    cores: Annotated[int, Field(ge=1)] = Field(default=1, description="cores of each job, each with a worker")
    memory: str = Field(default="4 GiB", description="memory of each job, for all of its workers")
    walltime: Annotated[str, AfterValidator(_require_clock)] = Field(
        default="04:00:00", description="maximum duration of a job, HH:MM:SS or D-HH:MM:SS (slurm)"
    )
    options: dict[str, Any] = Field(
        default={},
        description="further options of SLURMCluster or HTCondorCluster of dask-jobqueue, such as {account: lsst, queue: milano} or "
        "{disk: 1 GB}",
    )


class PipelineConfig(Section):
    """Workers of a run."""

    workers: int = Field(default=0, ge=0, description="worker processes of this machine; 0 means one per processor core")
    scheduler: str = Field(
        default="", description="address of a Dask scheduler, tcp://host:port, whose workers are used; empty: this machine"
    )
    jobs: JobsConfig = Field(default=JobsConfig(), description="jobs of a batch system that run the workers")

    @model_validator(mode="after")
    def _one_of_them(self) -> PipelineConfig:
        if self.scheduler and self.jobs.system != "none":
            raise ValueError("give the address of a scheduler or jobs of a batch system, not both")
        return self
