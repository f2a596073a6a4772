"""Jobs of a batch system that are Dask workers, through dask-jobqueue."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from permil.config.pipeline import JobsConfig
from permil.engine.dask_cluster import DaskCluster
from permil.engine.errors import EngineError

_CLUSTERS = {"slurm": ("SLURMCluster", "sbatch"), "htcondor": ("HTCondorCluster", "condor_submit")}
"""Class of dask-jobqueue and the command that submits."""
_WITHOUT_WALLTIME = {"htcondor"}
"""Systems whose jobs say their longest time, if they must, in an option of their own."""


class JobCluster(DaskCluster):
    """Jobs that are submitted at the begin and taken back at the end.

    Raises
    ------
    EngineError
        If dask-jobqueue is not installed, the batch system is not here, or does not take the jobs.
    """

    def __init__(self, jobs: JobsConfig, *, folder: Path, tell: Callable[[str], None]) -> None:
        self._cluster = make_cluster(jobs, folder=folder)
        try:
            super().__init__(self._cluster, folder=folder, tell=tell)
        except BaseException:
            self._cluster.close()
            raise

    def close(self) -> None:
        """Leave the scheduler and take the jobs back."""
        super().close()
        self._cluster.close()


def make_cluster(jobs: JobsConfig, *, folder: Path) -> Any:
    """Start a scheduler in this process and submit the jobs.

    Parameters
    ----------
    jobs
        Section ``pipeline.jobs``.
    folder
        Of the run; the jobs' logs go below it.

    Raises
    ------
    EngineError
        See `JobCluster`.
    """
    try:
        import dask_jobqueue
    except ImportError as error:
        raise EngineError(
            "dask-jobqueue is not installed here", remedy="install the extra `cluster` (pip install 'permil[cluster]')"
        ) from error
    name, command = _CLUSTERS[jobs.system]
    if shutil.which(command) is None:
        raise EngineError(
            f"there is no command {command} here",
            remedy=f"run permil where {jobs.system} jobs can be submitted, or set pipeline.jobs.system=none",
            value=jobs.system,
        )
    try:
        cluster = getattr(dask_jobqueue, name)(**cluster_options(jobs, folder=folder))
    except (TypeError, ValueError) as error:
        raise EngineError(
            f"dask-jobqueue does not take these options ({error})", remedy="check pipeline.jobs", options=jobs.options
        ) from error
    try:
        cluster.scale(jobs=jobs.count)
    except (OSError, RuntimeError) as error:
        cluster.close()
        raise EngineError(f"{jobs.system} does not take the jobs ({error})", remedy="check pipeline.jobs") from error
    return cluster


def cluster_options(jobs: JobsConfig, *, folder: Path) -> dict[str, Any]:
    """Return what a cluster of dask-jobqueue is made with: one worker process of one thread per core."""
    options: dict[str, Any] = {
        "cores": jobs.cores,
        "processes": jobs.cores,
        "memory": jobs.memory,
        "log_directory": str(folder / ".state" / "jobs"),
        # Any free port: other people's schedulers run on the same machine.
        "scheduler_options": {"dashboard_address": ":0"},
    }
    if jobs.system not in _WITHOUT_WALLTIME:
        options["walltime"] = jobs.walltime
    return options | jobs.options
