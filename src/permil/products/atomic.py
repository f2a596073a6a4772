"""Nothing half-written: a product appears under its name only when it is complete."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from permil.errors import OutputError


def make_folder(path: Path) -> Path:
    """Make a folder and those above it.

    Raises
    ------
    OutputError
        If it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"the folder cannot be made ({error.strerror})", path=path, remedy="choose a folder that you may write to"
        ) from error
    return path


@contextlib.contextmanager
def atomic_output(path: str | Path) -> Iterator[Path]:
    """Give a temporary file beside ``path``; on success it takes the name, on any failure it vanishes.

    Raises
    ------
    OutputError
        If the file cannot be written (no space, no permission).
    """
    path = Path(path)
    make_folder(path.parent)
    temporary = None
    try:
        # The name keeps the suffix, since writers choose the format by it.
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=f".partial{path.suffix}", dir=path.parent)
        temporary = Path(name)
        os.close(handle)
        yield temporary
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        remedy = (
            "free some space and run again" if error.errno == errno.ENOSPC else "check the folder's permissions and run again"
        )
        raise OutputError(
            f"cannot be written ({error.strerror or error})", path=path, remedy=remedy, errno=error.errno
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def remove_partial_files(folder: Path) -> int:
    """Remove what an interrupted run left behind; return how many files that were."""
    leftovers = [path for path in folder.rglob(".*.partial*") if path.is_file()]
    for path in leftovers:
        path.unlink(missing_ok=True)
    return len(leftovers)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
