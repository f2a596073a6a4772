"""Which executor a configuration asks for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from permil.config.pipeline import PipelineConfig
from permil.engine.executor import Executor, InProcess
from permil.engine.processes import LocalProcesses, start_server


def prepare_workers(options: PipelineConfig) -> None:
    """Let the libraries of worker processes of this machine, where a configuration asks for any, be loaded from now on."""
    if options.jobs.system == "none" and not options.scheduler and options.workers != 1:
        start_server()


def make_executor(options: PipelineConfig, *, workers: int, folder: Path, tell: Callable[[str], None]) -> Executor:
    """Return the executor: jobs of a batch system, a Dask cluster, processes of this machine, or this process.

    Parameters
    ----------
    options
        Section ``pipeline``.
    workers
        Processes on this machine.
    folder
        Of the run.
    tell
        Called with what a person should know of the workers.

    Raises
    ------
    EngineError
        If there are no workers to be had.
    """
    # Dask takes a second to load: it is loaded only where it is asked for.
    if options.jobs.system != "none":
        from permil.engine.jobs import JobCluster

        return JobCluster(options.jobs, folder=folder, tell=tell)
    if options.scheduler:
        from permil.engine.dask_cluster import DaskCluster

        return DaskCluster(options.scheduler, folder=folder, tell=tell)
    return LocalProcesses(workers) if workers > 1 else InProcess()
