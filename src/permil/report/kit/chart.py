"""Charts of pages, written directly as SVG: maps with colour bars, lines, points, bars."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from functools import lru_cache

import matplotlib as mpl
import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray
from PIL import Image

from permil.arrays import FloatArray
from permil.flat.superpixel import super_pixels
from permil.report.kit.elements import Picture
from permil.report.kit.figures import FAINT, INK, MAP_COLOURS, NO_DATA, embedded
from permil.report.kit.results import with_minus

Extent = tuple[float, float, float, float]
"""Left, right, bottom, top in the coordinates of a chart."""

_GAP, _BAR_WIDTH, _LETTER = 14, 13, 6.0
_MOST_TICKS = 6
_LEAST_CELL = 1.35
"""Side of the smallest cell of an image, pixels."""

_LEFT, _LEFT_BARE, _RIGHT, _RIGHT_BAR, _TOP, _BOTTOM = 56, 8, 10, 84, 20, 36
"""Margins around the axes: with and without a label on the left, without and with a colour bar on the right, title, label below."""


class Chart:
    """Axes with a title, on which content is drawn in the coordinates of the data.

    Parameters
    ----------
    size
        Width and height of the axes, pixels.
    x, y
        Range of each axis; ``y`` is that of the decimal logarithm if ``is_log``.
    labels
        Labels of the axes; without the second, the vertical axis has no numbers.
    names
        Names of the places 0, 1, ... along X, instead of numbers.
    """

    def __init__(
        self,
        size: tuple[float, float],
        x: tuple[float, float],
        y: tuple[float, float],
        *,
        title: str = "",
        labels: tuple[str, str] = ("", ""),
        names: Sequence[str] | None = None,
        is_log: bool = False,
    ) -> None:
        self._size, self._x, self._y = size, x, y
        self._content: list[str] = []
        self._left = _LEFT if labels[1] else _LEFT_BARE
        self._right, self._bottom = _RIGHT, _BOTTOM
        self._frame = self._axes(title, labels, names, is_log=is_log)

    @property
    def width(self) -> float:
        """Width with margins, pixels."""
        return self._left + self._size[0] + self._right

    @property
    def height(self) -> float:
        """Height with margins, pixels."""
        return _TOP + self._size[1] + self._bottom

    def line(self, x: FloatArray, y: FloatArray, colour: str = INK, *, width: float = 1.2, style: str = "") -> None:
        """Draw a line; ``style`` are further attributes."""
        self._content.append(f'<path d="{self._path(x, y)}" fill="none" stroke="{colour}" stroke-width="{width}" {style}/>')

    def level(self, y: float, colour: str = INK, *, dashed: bool = False) -> None:
        """Draw a horizontal line across the axes."""
        self.line(np.array(self._x), np.array([y, y]), colour, width=0.9, style='stroke-dasharray="5 3"' if dashed else "")

    def upright(self, x: float, colour: str) -> None:
        """Draw a dashed vertical line across the axes."""
        self.line(np.array([x, x]), np.array(self._y), colour, width=0.9, style='stroke-dasharray="5 3"')

    def area(self, x: FloatArray, low: FloatArray, high: FloatArray, colour: str) -> None:
        """Fill the area between two lines."""
        path = self._path(np.append(x, x[::-1]), np.append(low, high[::-1]))
        self._content.append(f'<path d="{path}z" fill="{colour}" fill-opacity="0.3"/>')

    def steps(self, edges: FloatArray, heights: FloatArray) -> None:
        """Fill a histogram."""
        foot = self._y[0]
        y = np.concatenate([[foot], np.repeat(heights, 2), [foot]])
        self._content.append(f'<path d="{self._path(np.repeat(edges, 2), y)}z" fill="{FAINT}"/>')

    def bars(self, heights: FloatArray, colours: Sequence[str]) -> None:
        """Draw bars from 0 at the places 0, 1, ...; none for NaN."""
        for place, (height, colour) in enumerate(zip(heights, colours, strict=True)):
            if math.isfinite(height):
                x, y = np.array([place - 0.33, place + 0.33]), np.array([0.0, height])
                self._content.append(f'<path d="{self._box(x, y)}" fill="{colour}"/>')

    def errors(self, x: FloatArray, y: FloatArray, error: FloatArray) -> None:
        """Draw error bars; none where either is NaN."""
        known = np.isfinite(y) & np.isfinite(error)
        parts = (self._path(np.array([a, a]), np.array([b - c, b + c])) for a, b, c in np.transpose([x, y, error])[known])
        self._content.append(f'<path d="{"".join(parts)}" stroke="{INK}"/>')

    def points(self, places: FloatArray, colour: str, *, radius: float = 4.0, is_edged: bool = True) -> None:
        """Draw points, shape (n, 2); none for NaN."""
        x, y = np.transpose(places)
        known = np.isfinite(x) & np.isfinite(y)
        dots = "".join(f"M{a:.1f} {b:.1f}h0" for a, b in zip(*self._pixels(x[known], y[known]), strict=True))
        widths = ((INK, 2 * radius + 1.2), (colour, 2 * radius)) if is_edged else ((colour, 2 * radius),)
        self._content += [f'<path d="{dots}" class="dots" stroke="{shade}" stroke-width="{width}"/>' for shade, width in widths]

    def image(
        self, image: NDArray[np.floating], extent: Extent, limits: tuple[float, float], colours: str, label: str = ""
    ) -> None:
        """Draw an image ``[row, column]``, row 0 at the foot, NaN in light grey; binned to visible cells.

        With a label it has a colour bar.
        """
        left, right, bottom, top = extent
        rows, columns = image.shape
        size = math.ceil(max(image.shape) * _LEAST_CELL / max(self._size))
        if size > 1:
            image = super_pixels(image, np.isfinite(image), size).mean
            # The last bins may extend beyond the image.
            right = left + (right - left) * image.shape[1] * size / columns
            top = bottom + (top - bottom) * image.shape[0] * size / rows
        x, y = self._pixels(np.array([left, right]), np.array([top, bottom]))
        self._content.append(
            f'<image href="{embedded(coloured(image, limits, colours), "png")}" x="{x[0]:.1f}" y="{y[0]:.1f}" '
            f'width="{np.ptp(x):.1f}" height="{np.ptp(y):.1f}" preserveAspectRatio="none"/>'
        )
        if label:
            self.colour_bar(limits, colours, label)

    def colour_bar(self, limits: tuple[float, float], colours: str, label: str) -> None:
        """Draw a colour bar to the right of the axes."""
        self._right = _RIGHT_BAR
        width, height = self._size
        left = width + 8
        shown = embedded(coloured(np.linspace(*limits, MAP_COLOURS)[:, None], limits, colours), "png")
        parts = [f'<image href="{shown}" x="{left}" y="0" width="{_BAR_WIDTH}" height="{height}" preserveAspectRatio="none"/>']
        left, marks = left + _BAR_WIDTH, ticks(limits, height)
        for tick, text in marks:
            place = height * (1 - (tick - limits[0]) / (limits[1] - limits[0]))
            parts.append(_line(left, place, 3, 0) + _text(left + 6, place + 3.5, text))
        parts.append(_upright(left + 22 + _LETTER * max(len(text) for _, text in marks), height / 2, label))
        self._frame += "".join(parts)

    def outlines(self, outlines: Sequence[FloatArray], *, width: float = 0.5) -> None:
        """Draw closed outlines, each of shape (n, 2)."""
        path = "".join(self._path(*corners[:-1].T) + "z" for corners in outlines)
        self._content.append(f'<path d="{path}" fill="none" stroke="{INK}" stroke-width="{width}" stroke-opacity="0.7"/>')

    def region(self, outline: FloatArray, title: str, *, fill: str = "", link: str = "", verdict: str = "") -> None:
        """Draw an area that shows its title under the pointer, and that is a link where ``link`` is not empty."""
        shade = f' style="fill:{fill}"' if fill else ""
        area = f'<path class="region {verdict}" d="{self._path(*outline[:-1].T)}z"{shade}><title>{escape(title)}</title></path>'
        self._content.append(f'<a href="{escape(link)}">{area}</a>' if link else area)

    def write(self, place: tuple[float, float], text: str, *, size: float = 9.5) -> None:
        """Write on the content, legible over every colour."""
        x, y = self._pixels(np.array(place[0]), np.array(place[1]))
        self._content.append(f'<text class="on" x="{x:.1f}" y="{y + 3:.1f}" font-size="{size}">{escape(with_minus(text))}</text>')

    def legend(self, entries: Sequence[tuple[str, str]], *, at_foot: bool = False) -> None:
        """Write a legend of colours and texts in one line, to the right in the upper corner or at the foot."""
        right, y = self._size[0] - 4, self._size[1] - 8 if at_foot else 12
        for colour, text in reversed(entries):
            self._frame += f'<text class="end" x="{right:.1f}" y="{y}">{escape(text)}</text>'
            right -= _LETTER * len(text) + 6
            self._frame += f'<path d="M{right - 12:.1f} {y - 4}h12" stroke="{colour}" stroke-width="5"/>'
            right -= 24

    def svg(self, left: float, top: float) -> str:
        """Return the chart as a group whose margins begin at a place."""
        width, height = self._size
        inside = f'<svg width="{width}" height="{height}">{"".join(self._content)}</svg>'
        return f'<g transform="translate({left + self._left:.1f} {top + _TOP})">{inside}{self._frame}</g>'

    def _pixels(self, x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
        width, height = self._size
        return (
            width * (x - self._x[0]) / (self._x[1] - self._x[0]),
            height * (1 - (y - self._y[0]) / (self._y[1] - self._y[0])),
        )

    def _path(self, x: FloatArray, y: FloatArray) -> str:
        return "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(*self._pixels(x, y), strict=True))

    def _box(self, x: FloatArray, y: FloatArray) -> str:
        return self._path(x[[0, 1, 1, 0]], y[[0, 0, 1, 1]]) + "z"

    def _axes(self, title: str, labels: tuple[str, str], names: Sequence[str] | None, *, is_log: bool) -> str:
        width, height = self._size
        parts = [f'<path d="M0 0V{height}H{width}" fill="none" stroke="{INK}"/>', _text(0, -7, title, kind="title")]
        turned = names is not None and len("".join(names)) * _LETTER > width
        for tick, text in ticks(self._x, width) if names is None else enumerate(names):
            x = float(self._pixels(np.array(tick), np.array(0.0))[0])
            parts.append(_line(x, height, 0, 3))
            parts.append(_upright(x + 3.5, height + 5, text, "end small") if turned else _text(x, height + 14, text, kind="mid"))
        self._bottom += 12 if turned else 0
        parts.append(_text(width / 2, height + self._bottom - 7, labels[0], kind="mid label"))
        if labels[1]:
            y_ticks = _decades(self._y) if is_log else ticks(self._y, height)
            for tick, text in y_ticks:
                y = float(self._pixels(np.array(0.0), np.array(tick))[1])
                parts.append(_line(-3, y, 3, 0) + _text(-6, y + 3.5, text, kind="end"))
            parts.append(_upright(-44, height / 2, labels[1]))
        return "".join(parts)


def chart_picture(rows: Sequence[Sequence[Chart]], caption: str, *, narrow: bool = False) -> Picture:
    """Return charts in rows as one picture."""
    parts, top, width = [], 0.0, 0.0
    for row in rows:
        left = 0.0
        for chart in row:
            parts.append(chart.svg(left, top))
            left += chart.width + _GAP
        width, top = max(width, left - _GAP), top + max(chart.height for chart in row)
    head = (
        f'<svg class="chart" role="img" aria-label="{escape(caption)}" width="{width:.0f}" viewBox="0 0 {width:.0f} {top:.0f}">'
    )
    return Picture("", caption, narrow, Markup(f"{head}{''.join(parts)}</svg>"))  # noqa: S704 - texts are escaped


def coloured(image: NDArray[np.floating], limits: tuple[float, float], colours: str) -> bytes:
    """Return an image ``[row, column]``, row 0 at the foot, as a PNG with the palette of a colour map; NaN in light grey."""
    low, high = limits
    known = np.isfinite(image)
    level = np.clip((np.where(known, image, low) - low) * (MAP_COLOURS / (high - low)), 0, MAP_COLOURS - 1)
    picture = Image.fromarray(np.where(known, level + 1, 0).astype(np.uint8)[::-1])
    picture.putpalette(_palette(colours))
    stream = io.BytesIO()
    picture.save(stream, format="png", compress_level=9)
    return stream.getvalue()


def colour_of(number: float, limits: tuple[float, float], colours: str) -> str:
    """Return the colour of a number in a map, as HTML has it; light grey for NaN."""
    if not math.isfinite(number):
        return NO_DATA
    return str(mpl.colors.to_hex(mpl.colormaps[colours]((number - limits[0]) / (limits[1] - limits[0]))))


@lru_cache
def _palette(colours: str) -> bytes:
    levels = mpl.colormaps[colours].resampled(MAP_COLOURS)(np.arange(MAP_COLOURS))[:, :3]
    return np.round(255 * np.vstack([mpl.colors.to_rgb(NO_DATA), levels])).astype(np.uint8).tobytes()


def ticks(limits: tuple[float, float], length: float) -> list[tuple[float, str]]:
    """Return places and texts of round numbers between limits, fewer on short axes."""
    low, high = limits
    most = min(_MOST_TICKS, max(int(length / 30), 2))
    step = 10.0 ** math.floor(math.log10((high - low) / most))
    step *= next(factor for factor in (1, 2, 2.5, 5, 10) if (high - low) / (factor * step) <= most)
    numbers = range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    return [(number * step, with_minus(f"{round(number * step, 12):.6g}")) for number in numbers]


def _decades(limits: tuple[float, float]) -> list[tuple[float, str]]:
    return [(float(power), f"{10.0**power:g}") for power in range(math.ceil(limits[0]), math.floor(limits[1]) + 1)]


def _line(x: float, y: float, dx: float, dy: float) -> str:
    return f'<path d="M{x:.1f} {y:.1f}l{dx} {dy}" stroke="{INK}"/>'


def _text(x: float, y: float, text: str, *, kind: str = "") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>' if text else ""


def _upright(x: float, y: float, text: str, kind: str = "mid label") -> str:
    return f'<text class="{kind}" transform="translate({x:.1f} {y:.1f}) rotate(-90)">{escape(text)}</text>' if text else ""
