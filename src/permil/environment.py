"""Cache folder of matplotlib for its fonts if the home folder is not writable: a private temporary folder."""

from __future__ import annotations

import atexit
import os
import shutil
import stat
import tempfile
from functools import lru_cache
from pathlib import Path

MATPLOTLIB_CACHE = "MPLCONFIGDIR"


def prepare_matplotlib() -> None:
    """Set a font cache folder for matplotlib if it would find none; call it before matplotlib is loaded."""
    named = os.environ.get(MATPLOTLIB_CACHE)
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path(os.path.expanduser("~"), ".config"))  # noqa: PTH111 - raises nothing
    places = [Path(named)] if named else [home / "matplotlib", _user_cache() / "matplotlib"]
    if all(_is_usable(place) for place in places):
        return
    folder = private_folder()
    if folder is not None:
        os.environ[MATPLOTLIB_CACHE] = str(folder / "matplotlib")


@lru_cache(maxsize=1)
def private_folder() -> Path | None:
    """Return a private folder among the temporary files; None if it cannot be created.

    All processes of a user share it, unless another user owns a folder of that name: then a new one is created and removed when the
    process ends.
    """
    try:
        folder = Path(tempfile.gettempdir(), f"permil-{os.geteuid()}")
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
        is_private = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not stat.S_IMODE(status.st_mode) & 0o077
        if is_private and os.access(folder, os.W_OK | os.X_OK):
            return folder
    except FileExistsError:
        pass
    except OSError:
        return None
    try:
        folder = Path(tempfile.mkdtemp(prefix="permil-"))
    except OSError:
        return None
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path(os.path.expanduser("~"), ".cache"))  # noqa: PTH111 - raises nothing


def _is_usable(folder: Path) -> bool:
    """Return whether a folder exists or can be created, and is writable."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True
