"""A Dask cluster: any that has a scheduler, or one of jobs that the batch system of a computing centre runs, through dask-jobqueue."""

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
from permil.engine.executor import Executor
from permil.errors import EngineError

_SECONDS_TO_CONNECT = 10.0
_SECONDS_BETWEEN_LOOKS = 1.0
_TCP_ADDRESS = re.compile(r"(tcp|tls)://(?P<host>[^/]+):(?P<port>\d+)")
_EXTRA = "install the extra `cluster` (pip install 'permil[cluster]')"


class DaskCluster(Executor):
    """The workers of a Dask scheduler; what becomes of calls comes back as they end.

    Parameters
    ----------
    address
        Of the scheduler, ``tcp://host:port``, or a cluster object of Dask.
    folder
        Of the run, which every worker must see.
    tell
        Called with a sentence about the workers.

    Raises
    ------
    EngineError
        If Dask is not installed, nobody answers at the address, or a worker does not see the folder.
    """

    def __init__(self, address: Any, *, folder: Path, tell: Callable[[str], None]) -> None:
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
            self._wait_for_workers(tell)
            self._check_workers(folder)
        except BaseException:
            self._client.close()
            raise

    def has_capacity(self) -> bool:
        """Return True: the scheduler keeps what its workers cannot begin yet."""
        return True

    def begin(self, call: Call) -> None:
        """Hand a call to the scheduler."""
        # Not pure: what a task returns depends on files, so that nothing that Dask remembers may stand for it.
        future = self._client.submit(_run, call.function, call.argument, pure=False, priority=-call.rank)
        self._calls[future.key] = call, future
        future.add_done_callback(self._ended.put)

    def outcome(self) -> Outcome:
        """Wait for a call.

        Raises
        ------
        EngineError
            If the scheduler is gone.
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
        """Take back what has not ended."""
        futures = [future for _, future in self._calls.values()]
        self._calls.clear()
        # The scheduler may be gone; then there is nothing to take back.
        with suppress(OSError, asyncio.TimeoutError, asyncio.CancelledError):
            if futures and self._client.status == "running":
                self._client.cancel(futures, force=True)

    def close(self) -> None:
        """Leave the scheduler; it and its workers go on."""
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
                f"{call.label}: {deaths} workers died of this task, the last at {error.last_worker.address}",
                remedy="see the logs of the workers and whether their memory suffices",
                task=call.label,
                deaths=deaths,
            )
            return Outcome(call, error=killed, deaths=deaths)
        return Outcome(call, error=error)

    def _gone(self) -> EngineError:
        return EngineError(
            f"the Dask scheduler at {self.address} is gone",
            remedy="start it and run the same command again: what was done is kept",
            address=self.address,
        )

    def _wait_for_workers(self, tell: Callable[[str], None]) -> None:
        """Wait until there is a worker."""
        told = False
        while not (workers := self._client.nthreads()):
            if not told:
                tell(f"waiting for workers of the Dask scheduler at {self.address}")
                told = True
            with suppress(asyncio.TimeoutError):
                self._client.wait_for_workers(1, timeout=10 * _SECONDS_BETWEEN_LOOKS)
        if max(workers.values()) > 1:
            tell("Dask workers with several threads: each does one task at a time here; start them with --nthreads 1")
        tell(f"Dask scheduler at {self.address}: connected to {len(workers)} workers")

    def _check_workers(self, folder: Path) -> None:
        try:
            sees = self._client.run(_sees, str(folder))
        except ModuleNotFoundError as error:
            raise EngineError(
                f"the workers of {self.address} do not have permil ({error})",
                remedy="install the same version where they run",
                address=self.address,
            ) from error
        blind = [address for address, found in sees.items() if not found]
        if blind:
            raise EngineError(
                f"the worker at {blind[0]} does not see this folder",
                path=folder,
                remedy="workers need the same paths as this machine: use a folder of the shared file system",
                workers=blind,
            )


def _require_listener(address: str) -> None:
    """Raise an error at once if nothing listens at an address of TCP; Dask itself would try for long."""
    match = _TCP_ADDRESS.fullmatch(address)
    if match is None:
        if "://" in address and not address.startswith(("tcp", "tls")):
            # Other transports of Dask have their own forms.
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


def _sees(folder: str) -> bool:
    return Path(folder).is_dir()


_CLUSTERS = {"slurm": ("SLURMCluster", "sbatch"), "htcondor": ("HTCondorCluster", "condor_submit")}
"""Class of dask-jobqueue and the command that submits."""
_WITHOUT_WALLTIME = {"htcondor"}
"""Systems whose jobs say their longest time, if they must, in an option of their own."""


class JobCluster(DaskCluster):
    """Jobs that are submitted when the run begins and cancelled when it ends.

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


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameters of ``mallopt`` (malloc.h)."""
_LARGEST_KEPT = 32 << 20
"""Bytes of an array; to this value, and twice as much for the other, the library goes up by itself."""


@lru_cache(maxsize=1)
def keep_freed_memory() -> None:
    """Undo what Dask tells the C library; where there is no such library nothing happens."""
    if "MALLOC_TRIM_THRESHOLD_" not in os.environ:
        return
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT)
        mallopt(_TRIM_THRESHOLD, 2 * _LARGEST_KEPT)
