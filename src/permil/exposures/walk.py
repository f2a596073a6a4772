"""Search folders for raw files."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from permil.errors import InputError
from permil.exposures.file_names import is_fits_name


@dataclass(frozen=True)
class Unreadable:
    """A file or folder that could not be used, and why."""

    path: str
    reason: str


def find_files(roots: Iterable[str | Path]) -> tuple[list[Path], list[Unreadable]]:
    """Search folders recursively for files with a FITS suffix.

    Symbolic links are followed; a folder or file that is reached twice counts once.

    Returns
    -------
    files
        Sorted by path.
    unreadable
        Folders that cannot be opened.

    Raises
    ------
    InputError
        If no roots are given, one of them does not exist, or there is no FITS file at all.
    """
    starts = [Path(root) for root in roots]
    if not starts:
        raise InputError("no folders to search", remedy="name at least one in exposures.roots")
    # Visited folders and files, by device and inode: ends loops of links and allows overlapping roots.
    seen: set[tuple[int, int]] = set()
    files: list[Path] = []
    unreadable: list[Unreadable] = []
    waiting = []
    for root in starts:
        if not root.exists():
            raise InputError("the folder does not exist", path=root, remedy="check exposures.roots")
        waiting.append(root.absolute())
    waiting.reverse()
    while waiting:
        path = waiting.pop()
        try:
            status = path.stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            if path.is_file():
                files.append(path)
                continue
            with os.scandir(path) as entries:
                inside = sorted(entry.path for entry in entries if _is_candidate(entry))
        except OSError as error:
            unreadable.append(Unreadable(str(path), f"cannot be opened ({error.strerror or error})"))
            continue
        waiting.extend(Path(entry) for entry in reversed(inside))
    if not files and not unreadable:
        names = ", ".join(str(root) for root in starts)
        raise InputError(f"no FITS files in {names}", remedy="check exposures.roots", value=[str(root) for root in starts])
    return sorted(files), unreadable


def _is_candidate(entry: os.DirEntry[str]) -> bool:
    # Hidden files are still being written.
    if entry.name.startswith("."):
        return False
    if is_fits_name(entry.name):
        return True
    try:
        return entry.is_dir()
    except OSError:
        return False
