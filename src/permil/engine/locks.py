"""Locks of a run's folder: a run has it alone, single tasks share it, and no task is done twice at the same time."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from permil.errors import OutputError

_LOCK = "lock"


@contextmanager
def locked_folder(root: Path, state: Path, *, shared: bool, tell: Callable[[str], None]) -> Iterator[None]:
    """Hold the folder of a run; the lock goes with the process, however it ends.

    Parameters
    ----------
    root
        The folder, for messages.
    state
        Folder below it in which locks lie.
    shared
        Whether others may share it (single tasks), or none (a run).
    tell
        Called with a sentence if the file system knows no locks; the work goes on without.

    Raises
    ------
    OutputError
        If another run is at work there, or the folder cannot be written to.
    """
    with _open(state / _LOCK, root) as stream:
        try:
            fcntl.flock(stream, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OutputError("another run is at work in this folder", path=root, remedy="wait for it or stop it") from error
        except OSError as error:
            tell(f"{root}: the file system knows no locks ({error.strerror}); see that no other run works in this folder")
        yield


@contextmanager
def locked_task(root: Path, state: Path, name: str) -> Iterator[None]:
    """Wait until no other process does a task of this name, and let none do it meanwhile.

    Raises
    ------
    OutputError
        If the folder is not writable.
    """
    with _open(state / "tasks" / name, root) as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX)
        except OSError:
            # Without locks the same task done twice writes the same product twice, atomically each time.
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
