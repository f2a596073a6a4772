"""Matplotlib for report pages and figures, independent of the user's settings.

Import this module before matplotlib. The user's own figures keep their settings: nothing changes outside of `own_settings`, and matplotlib
is loaded with the user's settings unless these prevent it from loading.

Cache folder of matplotlib for its fonts if the home folder is not writable: a private temporary folder.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

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


if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

_NAMED_BACKEND, _NAMED_FILE = "MPLBACKEND", "MATPLOTLIBRC"


@contextlib.contextmanager
def own_settings(settings: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Use matplotlib's defaults and the given settings, ignoring the user's settings."""
    import matplotlib as mpl

    defaults: Any = mpl.rcParamsDefault
    changed = {key: entry for key, entry in defaults.items() if key != "backend" and mpl.rcParams[key] != entry}
    with mpl.rc_context(changed | dict(settings or {})):
        yield


def new_axes() -> Axes:
    """Return new axes, which a notebook shows when the cell ends."""
    import matplotlib.pyplot as plt

    return plt.subplots(layout="constrained")[1]


def draw_image(ax: Axes, image: NDArray[np.floating], *, spread: float = 5.0, **options: Any) -> None:
    """Draw an image with a colour bar, the first row below; NaN is blank.

    Parameters
    ----------
    spread
        Half width of the colour scale, in robust standard deviations around the median; options ``vmin`` and ``vmax`` win.
    """
    import numpy as np

    known = image[np.isfinite(image)]
    if known.size:
        low, middle, high = np.percentile(known, (15.87, 50, 84.13))
        half = spread * max((high - low) / 2, 1e-6 * abs(middle))
        options = {"vmin": middle - half, "vmax": middle + half} | options
    shown = ax.imshow(image, **{"origin": "lower", "interpolation": "nearest", "cmap": "gray"} | options)
    ax.figure.colorbar(shown, ax=ax)


def _load() -> None:
    """Load matplotlib, even if the user's backend is not installed or the settings file cannot be read."""
    found = find_spec("matplotlib")
    if found is None or found.origin is None or "matplotlib" in sys.modules:
        return
    prepare_matplotlib()
    try:
        import_module("matplotlib")
    except (ValueError, OSError):
        # Remove partly imported modules before the next attempt.
        for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
            del sys.modules[name]
        with _without_settings(Path(found.origin).parent):
            import_module("matplotlib")


@contextlib.contextmanager
def _without_settings(package: Path) -> Iterator[None]:
    """Hide the user's settings: environment variables, and a file in the working folder, which takes precedence."""
    saved = {name: os.environ.pop(name, None) for name in (_NAMED_BACKEND, _NAMED_FILE)}
    os.environ[_NAMED_FILE] = str(package / "mpl-data" / "matplotlibrc")
    before = Path.cwd() if Path("matplotlibrc").exists() else None
    if before is not None:
        os.chdir(package)
    try:
        yield
    finally:
        if before is not None:
            os.chdir(before)
        os.environ.pop(_NAMED_FILE)
        os.environ.update({name: value for name, value in saved.items() if value is not None})


_load()
