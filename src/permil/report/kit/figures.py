"""Colours and limits of all pictures; figures of matplotlib: their style, maps, arrows, encoding as PNG and SVG."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any, ParamSpec

import matplotlib as mpl
import matplotlib.patheffects as effects
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from permil.arrays import FloatArray
from permil.plotting import own_settings

DIVERGING = "RdBu_r"
SEQUENTIAL = "viridis"
SPREAD = "cividis"
"""Colour maps: for deviations from a reference, for light, for scatter and errors."""

INK, FAINT, ACCENT, ALARM, NO_DATA = "#1f2430", "#b8bec9", "#4477aa", "#cc3311", "#e4e6ea"
# Paul Tol's bright scheme (SRON technical note 09-002), in the order of the wavelengths.
LED_COLOURS = {
    "uv": "#aa3377",
    "blue": "#4477aa",
    "red": "#ee6677",
    "nm750": "#ccbb44",
    "nm850": "#228833",
    "nm960": "#66ccee",
}
# Number of the 256 palette colours per colour map; the others are for ink, lines and points.
MAP_COLOURS = 60
_INK_COLOURS = 32
_PNG_DPI = 100
_RC: dict[Any, Any] = {
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9.0,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.formatter.useoffset": False,
    "axes.unicode_minus": True,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.fontsize": 8.0,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "image.interpolation": "nearest",
    "image.origin": "lower",
    "svg.fonttype": "path",
    "svg.hashsalt": "permil",
}

Arguments = ParamSpec("Arguments")


def styled(draw: Callable[Arguments, Figure]) -> Callable[Arguments, Figure]:
    """Decorate a function so that it draws its figure in the style of the pages, independent of the user's settings."""

    @wraps(draw)
    def draw_in_style(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Figure:
        with own_settings(_RC):
            return draw(*args, **kwargs)

    return draw_in_style


def led_colour(led: str) -> str:
    """Return the colour of an LED, grey for an LED that is not one of the six of the bench."""
    return LED_COLOURS.get(led, "#777777")


def subplots(
    size: tuple[float, float], margins: tuple[float, float, float, float], rows: int = 1, columns: int = 1, **options: Any
) -> tuple[Figure, Any]:
    """Return a figure with axes in rows and columns; a single one without an array around it.

    Parameters
    ----------
    size
        Width and height, inches.
    margins
        Left, right, bottom and top end of the axes, fractions of the figure.
    **options
        Options of `matplotlib.figure.Figure.subplots`, ``wspace`` and ``hspace`` among them.
    """
    figure = Figure(figsize=size)
    spaces = {name: options.pop(name) for name in ("wspace", "hspace") if name in options}
    grid = dict(zip(("left", "right", "bottom", "top"), margins, strict=True)) | spaces
    return figure, figure.subplots(rows, columns, gridspec_kw=grid, **options)


def framed(axes: Axes) -> None:
    """Draw all four frame lines around a map."""
    axes.spines[:].set_visible(True)


def png(figure: Figure) -> bytes:
    """Return a figure as PNG with a palette, a third of the size of full colour without visible difference."""
    figure.set_dpi(_PNG_DPI)
    canvas = FigureCanvasAgg(figure)
    with own_settings(_RC):
        canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    reduced = picture.quantize(palette=_palette(), dither=Image.Dither.NONE)
    stream = io.BytesIO()
    reduced.save(stream, format="png", compress_level=9)
    return stream.getvalue()


@lru_cache(maxsize=1)
def _palette() -> Image.Image:
    """Return an image with the palette: all colours of the maps, and shades of ink and lines towards white."""
    steps = np.linspace(0.0, 1.0, MAP_COLOURS)
    maps = [mpl.colormaps[name].resampled(MAP_COLOURS)(steps)[:, :3] for name in (DIVERGING, SEQUENTIAL, SPREAD)]
    white = np.ones(3)
    shades = [_shades(INK, _INK_COLOURS)]
    shades += [_shades(colour, 4) for colour in (FAINT, ACCENT, ALARM, *LED_COLOURS.values())]
    levels = np.vstack([*maps, *shades, white, mpl.colors.to_rgb(NO_DATA)])
    palette = Image.new("P", (1, 1))
    palette.putpalette(np.round(255 * levels).astype(np.uint8).tobytes())
    return palette


def _shades(colour: str, count: int) -> FloatArray:
    share = np.linspace(1.0, 0.0, count, endpoint=False)[:, None]
    return share * np.array(mpl.colors.to_rgb(colour)) + (1 - share)


def svg(figure: Figure) -> bytes:
    """Return a figure as SVG without font dependencies."""
    stream = io.BytesIO()
    with own_settings(_RC):
        FigureCanvasSVG(figure).print_svg(stream, metadata={"Date": None})
    return stream.getvalue()


def embedded(content: bytes, kind: str) -> str:
    """Return a data URL of a picture; ``kind`` is png or svg+xml."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


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
    framed(axes)
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
    figure, axes = subplots((6.4, 6.2), (0.12, 0.97, 0.09, 0.94))
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


def displacement_of_maps(dx: FloatArray, dy: FloatArray, cell: int, *, shape: tuple[int, int], title: str) -> Figure:
    """Draw maps of displacements (pixels) on cells of some pixels as arrows; see `displacement_figure`."""
    y, x = (cell * np.asarray(index.ravel(), dtype=np.float64) + (cell - 1) / 2 for index in np.indices(dx.shape))
    return displacement_figure(x, y, dx.ravel(), dy.ravel(), shape=shape, title=title)


def detector_frame(axes: Axes, shape: tuple[int, int]) -> None:
    """Show a whole detector; ``shape`` is rows, columns."""
    framed(axes)
    axes.set(xlim=(-0.5, shape[1] - 0.5), ylim=(-0.5, shape[0] - 0.5), xlabel="x (pixels)", ylabel="y (pixels)", aspect="equal")
