"""Map of the predicted errors over the focal plane (PNG)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from permil.camera import Detector, frames
from permil.plan.prediction import PlanPrediction
from permil.plotting import own_settings
from permil.products import atomic_output

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FloatArray = NDArray[np.float64]


def write_error_map(path: Path, prediction: PlanPrediction) -> None:
    """Draw the pixel errors (photon noise) and the errors of undetermined modes on the focal plane, DVCS mm (PNG)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    pixel_errors = [np.where(np.isfinite(each.pixel_error), each.pixel_error, np.nan) for each in prediction.signals]
    with own_settings():
        figure = Figure(figsize=(12, 5.5), layout="constrained")
        canvas = FigureCanvasAgg(figure)
        photon_axes, mode_axes = figure.subplots(1, 2, sharex=True, sharey=True)
        _draw(photon_axes, prediction, pixel_errors)
        photon_axes.set_title("one pixel: photon and read noise")
        _draw(mode_axes, prediction, prediction.mode_error_maps())
        mode_axes.set_title("modes not determined by signals")
        photon_axes.set_ylabel("y (DVCS, mm)")
        with atomic_output(path) as temporary:
            canvas.print_figure(temporary, format="png", dpi=110)


def _draw(axes: Axes, prediction: PlanPrediction, errors: list[FloatArray]) -> None:
    from matplotlib.collections import PolyCollection

    outlines = np.concatenate([_cell_outlines(each.detector, int(np.sqrt(len(each.pixel_error)))) for each in prediction.signals])
    cells = PolyCollection(list(outlines), cmap="viridis", linewidths=0)
    cells.set_array(np.ma.masked_invalid(1e3 * np.concatenate(errors)))
    axes.add_collection(cells)
    axes.autoscale_view()
    axes.set_aspect("equal")
    axes.set_xlabel("x (DVCS, mm)")
    axes.figure.colorbar(cells, ax=axes, label="predicted error (‰)")


def _cell_outlines(detector: Detector, cells: int) -> FloatArray:
    """Return the corners (DVCS mm) of the cells of a detector, shape (cells^2, 4, 2)."""
    along_x, along_y = (np.arange(cells) / cells * side - 0.5 for side in (detector.nx, detector.ny))
    left, low = (part.ravel() for part in np.meshgrid(along_x, along_y))
    right, high = left + detector.nx / cells, low + detector.ny / cells
    x = np.stack([left, right, right, left], axis=1)
    y = np.stack([low, low, high, high], axis=1)
    return np.stack(frames.detector_to_dvcs(detector, x, y), axis=-1)
