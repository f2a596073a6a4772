"""Maps: colour limits, images with colour bars, arrows of displacements."""

from __future__ import annotations

import matplotlib as mpl
import matplotlib.patheffects as effects
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from numpy.typing import NDArray

from permil.report.kit.style import ACCENT, INK, MAP_COLOURS, NO_DATA, styled

FloatArray = NDArray[np.float64]

_ARROW_SHARE = 0.7
"""Length of a typical arrow, in distances of neighbouring arrows."""


def robust_limits(*images: NDArray[np.floating], percent: float = 1.0) -> tuple[float, float]:
    """Return colour limits that exclude ``percent`` of the finite pixels of all images on either side."""
    levels = np.concatenate([image[np.isfinite(image)].ravel() for image in images]) if images else np.array([])
    if levels.size == 0:
        return 0.0, 1.0
    low, high = np.percentile(levels, [percent, 100 - percent])
    if high > low:
        return float(low), float(high)
    margin = 0.5 * abs(float(low)) or 0.5
    return float(low) - margin, float(high) + margin


def symmetric_limits(*images: NDArray[np.floating], centre: float, percent: float = 1.0) -> tuple[float, float]:
    """Return robust colour limits at equal distances from ``centre``."""
    low, high = robust_limits(*images, percent=percent)
    half = max(abs(low - centre), abs(high - centre))
    return centre - half, centre + half


def show_image(
    axes: Axes,
    image: NDArray[np.floating],
    *,
    extent: tuple[float, float, float, float],
    limits: tuple[float, float],
    colours: str,
) -> ScalarMappable:
    """Draw an image, NaN in light grey; ``extent`` is left, right, bottom, top."""
    colour_map = mpl.colormaps[colours].resampled(MAP_COLOURS).with_extremes(bad=NO_DATA)
    return axes.imshow(
        np.ma.masked_invalid(image), extent=extent, vmin=limits[0], vmax=limits[1], cmap=colour_map, aspect="equal"
    )


def colour_bar(figure: Figure, mappable: ScalarMappable, axes: Axes, label: str) -> None:
    """Add a thin colour bar to the right of axes, of the same height."""
    bar_axes = axes.inset_axes((1.03, 0.0, 0.045, 1.0))
    bar = figure.colorbar(mappable, cax=bar_axes)
    bar.set_label(label)
    bar.outline.set_linewidth(0.5)
    bar.ax.tick_params(width=0.5, length=2.5)


def write_on_map(axes: Axes, place: tuple[float, float], text: str, *, size: float = 7.0, vertical: str = "center") -> None:
    """Write on a map, legible over every colour."""
    halo = effects.withStroke(linewidth=2.0, foreground="white", alpha=0.75)
    axes.text(*place, text, ha="center", va=vertical, fontsize=size, color=INK, path_effects=[halo])


@styled
def displacement_figure(
    x: FloatArray, y: FloatArray, dx: FloatArray, dy: FloatArray, *, shape: tuple[int, int], title: str
) -> Figure:
    """Draw displacements (pixels) as arrows at their positions on the detector, much enlarged."""
    figure = Figure(figsize=(6.4, 6.2))
    axes = figure.add_axes((0.12, 0.09, 0.85, 0.85))
    known = np.isfinite(dx) & np.isfinite(dy)
    length = np.hypot(dx[known], dy[known])
    rms = float(np.sqrt(np.mean(length**2))) if known.any() else 0.0
    spacing = np.sqrt(shape[0] * shape[1] / max(int(known.sum()), 1))
    enlarged = _ARROW_SHARE * spacing / rms if rms > 0 else 1.0
    arrows = axes.quiver(
        x[known], y[known], dx[known], dy[known],
        angles="xy", scale_units="xy", scale=1 / enlarged, color=ACCENT, width=0.002, headwidth=4,
    )  # fmt: skip
    if rms > 0:
        axes.quiverkey(arrows, 0.86, 1.025, rms, f"rms {rms:.3g} px", labelpos="E", coordinates="axes", color=INK)
    axes.set_title(title)
    detector_frame(axes, shape)
    return figure


def detector_frame(axes: Axes, shape: tuple[int, int]) -> None:
    """Show a whole detector; ``shape`` is rows, columns."""
    axes.set(xlim=(-0.5, shape[1] - 0.5), ylim=(-0.5, shape[0] - 0.5), xlabel="x (pixels)", ylabel="y (pixels)", aspect="equal")
