"""Locks of a run's folder: exclusive for a run, shared by single tasks; no task runs twice at the same time."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from permil.errors import OutputError

_LOCK = "lock"


@contextmanager
def locked_folder(root: Path, state: Path, *, shared: bool, show: Callable[[str], None]) -> Iterator[None]:
    """Lock the folder of a run; the lock is released when the process ends for any reason.

    Parameters
    ----------
    root
        The folder, for messages.
    state
        Folder of the lock files.
    shared
        Whether the lock is shared (single tasks) or exclusive (a run).
    show
        Called with a message if the file system does not support locks; the run continues without.

    Raises
    ------
    OutputError
        If another run uses the folder, or the folder cannot be written to.
    """
    with _open(state / _LOCK, root) as stream:
        try:
            fcntl.flock(stream, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OutputError("another run is using this folder", path=root, remedy="wait for it or stop it") from error
        except OSError as error:
            show(f"{root}: file locking is not supported here ({error.strerror}); make sure that no other run uses this folder")
        yield


@contextmanager
def locked_task(root: Path, state: Path, name: str) -> Iterator[None]:
    """Wait until no other process runs a task of this name, and lock it.

    Raises
    ------
    OutputError
        If the folder is not writable.
    """
    with _open(state / "tasks" / name, root) as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX)
        except OSError:
            # Without locks a task that runs twice writes the same product twice, each time atomically.
            yield
            return
        yield


def _open(path: Path, root: Path) -> TextIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a+", encoding="utf-8")
    except OSError as error:
        raise OutputError(
            f"the folder cannot be written to ({error.strerror})",
            path=root,
            remedy="choose an output folder that you may write to, with free space",
        ) from error
