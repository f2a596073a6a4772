"""Matplotlib for report pages and figures, independent of the user's settings.

Import this module before matplotlib. The user's own figures keep their settings: nothing changes outside of `own_settings`, and matplotlib
is loaded with the user's settings unless these prevent it from loading.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from permil.environment import prepare_matplotlib

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
