"""Executors on a Dask cluster: one with a running scheduler, or jobs of a batch system through dask-jobqueue."""

from __future__ import annotations

import asyncio
import ctypes
import os
import queue
import re
import shutil
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from permil.config.model import JobsConfig
from permil.engine.call import Call, Measure, Outcome, run_measured
from permil.engine.executors import Executor
from permil.errors import EngineError

_SECONDS_TO_CONNECT = 10.0
_SECONDS_BETWEEN_LOOKS = 1.0
_TCP_ADDRESS = re.compile(r"(tcp|tls)://(?P<host>[^/]+):(?P<port>\d+)")
_EXTRA = "install the extra `cluster` (pip install 'permil[cluster]')"


class DaskCluster(Executor):
    """The workers of a Dask scheduler; outcomes are returned as calls end.

    Parameters
    ----------
    address
        Address of the scheduler, ``tcp://host:port``, or a cluster object of Dask.
    folder
        Folder of the run, to which every worker needs access.
    show
        Called with messages about the workers.

    Raises
    ------
    EngineError
        If Dask is not installed, no scheduler answers at the address, or a worker has no access to the folder.
    """

    def __init__(self, address: Any, *, folder: Path, show: Callable[[str], None]) -> None:
        try:
            from distributed import Client
        except ImportError as error:
            raise EngineError("Dask is not installed here", remedy=_EXTRA) from error
        self.address = address if isinstance(address, str) else address.scheduler_address
        _require_listener(self.address)
        try:
            self._client = Client(address, timeout=_SECONDS_TO_CONNECT, set_as_default=False)
        except (TimeoutError, OSError, ValueError) as error:
            raise _no_scheduler(self.address) from error
        self._ended: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._calls: dict[Any, tuple[Call, Any]] = {}
        try:
            self._wait_for_workers(show)
            self._check_workers(folder)
        except BaseException:
            self._client.close()
            raise

    def has_capacity(self) -> bool:
        """Return True: the scheduler queues calls for its workers."""
        return True

    def begin(self, call: Call) -> None:
        """Submit a call to the scheduler."""
        # Not pure: results depend on files, so that Dask must not return remembered ones.
        future = self._client.submit(_run, call.function, call.argument, pure=False, priority=-call.rank)
        self._calls[future.key] = call, future
        future.add_done_callback(self._ended.put)

    def outcome(self) -> Outcome:
        """Wait for a call.

        Raises
        ------
        EngineError
            If the connection to the scheduler is lost.
        """
        while True:
            try:
                ended = self._ended.get(timeout=_SECONDS_BETWEEN_LOOKS)
            except queue.Empty:
                if self._client.status != "running":
                    raise self._gone() from None
                continue
            if ended.key in self._calls:
                call, future = self._calls.pop(ended.key)
                return self._outcome_of(call, future)

    def drop(self) -> None:
        """Cancel the calls that have not ended."""
        futures = [future for _, future in self._calls.values()]
        self._calls.clear()
        # Without a connection to the scheduler there is nothing to cancel.
        with suppress(OSError, asyncio.TimeoutError, asyncio.CancelledError):
            if futures and self._client.status == "running":
                self._client.cancel(futures, force=True)

    def close(self) -> None:
        """Disconnect from the scheduler, which continues with its workers."""
        self._client.close()

    def _outcome_of(self, call: Call, future: Any) -> Outcome:
        from distributed import KilledWorker

        if future.status == "cancelled":
            raise self._gone()
        error = future.exception()
        if error is None:
            result, measure = future.result()
            return Outcome(call, result, measure)
        if isinstance(error, KilledWorker):
            deaths = error.allowed_failures + 1
            killed = EngineError(
                f"{call.label}: {deaths} workers died during this task, the last at {error.last_worker.address}",
                remedy="check the logs of the workers and their memory",
                task=call.label,
                deaths=deaths,
            )
            return Outcome(call, error=killed, deaths=deaths)
        return Outcome(call, error=error)

    def _gone(self) -> EngineError:
        return EngineError(
            f"the Dask scheduler at {self.address} no longer answers",
            remedy="start it and run the same command again: finished work is kept",
            address=self.address,
        )

    def _wait_for_workers(self, show: Callable[[str], None]) -> None:
        """Wait until there is a worker."""
        is_announced = False
        while not (workers := self._client.nthreads()):
            if not is_announced:
                show(f"waiting for workers of the Dask scheduler at {self.address}")
                is_announced = True
            with suppress(asyncio.TimeoutError):
                self._client.wait_for_workers(1, timeout=10 * _SECONDS_BETWEEN_LOOKS)
        if max(workers.values()) > 1:
            show("Dask workers with several threads: each does one task at a time here; start them with --nthreads 1")
        show(f"Dask scheduler at {self.address}: connected to {len(workers)} workers")

    def _check_workers(self, folder: Path) -> None:
        try:
            accessible = self._client.run(_is_folder, str(folder))
        except ModuleNotFoundError as error:
            raise EngineError(
                f"the workers of {self.address} do not have permil ({error})",
                remedy="install the same version where they run",
                address=self.address,
            ) from error
        blind = [address for address, found in accessible.items() if not found]
        if blind:
            raise EngineError(
                f"the worker at {blind[0]} cannot access this folder",
                path=folder,
                remedy="workers need the same paths as this machine: use a folder of the shared file system",
                workers=blind,
            )


def _require_listener(address: str) -> None:
    """Raise an error at once if nothing listens at a TCP address; Dask itself would retry for a long time."""
    match = _TCP_ADDRESS.fullmatch(address)
    if match is None:
        if "://" in address and not address.startswith(("tcp", "tls")):
            # Addresses of other transports of Dask are not checked.
            return
        raise _no_scheduler(address)
    try:
        socket.create_connection((match["host"].strip("[]"), int(match["port"])), timeout=_SECONDS_TO_CONNECT).close()
    except (OSError, OverflowError) as error:
        raise _no_scheduler(address) from error


def _no_scheduler(address: str) -> EngineError:
    return EngineError(
        f"no Dask scheduler answers at {address}",
        remedy="check the address, which has the form tcp://host:port, and that `dask scheduler` runs there",
        address=address,
    )


def _run(function: Callable[[Any], Any], argument: object) -> tuple[Any, Measure]:
    keep_freed_memory()
    return run_measured(function, argument)


def _is_folder(folder: str) -> bool:
    return Path(folder).is_dir()


_CLUSTERS = {"slurm": ("SLURMCluster", "sbatch"), "htcondor": ("HTCondorCluster", "condor_submit")}
"""Class of dask-jobqueue and submit command of each batch system."""
_WITHOUT_WALLTIME = {"htcondor"}
"""Batch systems without a walltime argument in dask-jobqueue."""


class JobCluster(DaskCluster):
    """Jobs that are submitted at the start of the run and cancelled at its end.

    Raises
    ------
    EngineError
        If dask-jobqueue or the batch system is not installed, or the jobs are refused.
    """

    def __init__(self, jobs: JobsConfig, *, folder: Path, show: Callable[[str], None]) -> None:
        self._cluster = make_cluster(jobs, folder=folder)
        try:
            super().__init__(self._cluster, folder=folder, show=show)
        except BaseException:
            self._cluster.close()
            raise

    def close(self) -> None:
        """Disconnect from the scheduler and cancel the jobs."""
        super().close()
        self._cluster.close()


def make_cluster(jobs: JobsConfig, *, folder: Path) -> Any:
    """Start a scheduler in this process and submit the jobs.

    Parameters
    ----------
    jobs
        Section ``pipeline.jobs``.
    folder
        Folder of the run, with the logs of the jobs.

    Raises
    ------
    EngineError
        See `JobCluster`.
    """
    try:
        import dask_jobqueue
    except ImportError as error:
        raise EngineError("dask-jobqueue is not installed here", remedy=_EXTRA) from error
    name, command = _CLUSTERS[jobs.system]
    if shutil.which(command) is None:
        raise EngineError(
            f"the command {command} is not available here",
            remedy=f"run permil where {jobs.system} jobs can be submitted, or set pipeline.jobs.system=none",
            value=jobs.system,
        )
    try:
        cluster = getattr(dask_jobqueue, name)(**cluster_options(jobs, folder=folder))
    except (TypeError, ValueError) as error:
        raise EngineError(
            f"dask-jobqueue rejects these options ({error})", remedy="check pipeline.jobs", options=jobs.options
        ) from error
    try:
        cluster.scale(jobs=jobs.count)
    except (OSError, RuntimeError) as error:
        cluster.close()
        raise EngineError(f"{jobs.system} rejects the jobs ({error})", remedy="check pipeline.jobs") from error
    return cluster


def cluster_options(jobs: JobsConfig, *, folder: Path) -> dict[str, Any]:
    """Return the arguments of a cluster of dask-jobqueue: one worker process with one thread per core."""
    options: dict[str, Any] = {
        "cores": jobs.cores,
        "processes": jobs.cores,
        "memory": jobs.memory,
        "log_directory": str(folder / ".state" / "jobs"),
        # Any free port: the machine may run other schedulers.
        "scheduler_options": {"dashboard_address": ":0"},
    }
    if jobs.system not in _WITHOUT_WALLTIME:
        options["walltime"] = jobs.walltime
    return options | jobs.options


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameters of ``mallopt`` (malloc.h)."""
_LARGEST_KEPT = 32 << 20
"""Bytes of an array: the limits up to which the C library raises its thresholds automatically are this value and twice it."""


@lru_cache(maxsize=1)
def keep_freed_memory() -> None:
    """Reset the thresholds of the C library that Dask changes; do nothing without such a library."""
    if "MALLOC_TRIM_THRESHOLD_" not in os.environ:
        return
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT)
        mallopt(_TRIM_THRESHOLD, 2 * _LARGEST_KEPT)
