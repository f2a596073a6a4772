"""Figures of the page that compares stars with the flat: scatter, maps, scales, significance, hypotheses, tree rings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from astropy.table import Table
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy import ndimage

from permil.arrays import FloatArray
from permil.compare.comparison import WHOLE
from permil.compare.hypotheses.results import KINDS, TOTAL
from permil.report.compare.inputs import NAIVE, CompareProducts
from permil.report.kit.elements import Picture, drawing, number_in, raster, text_in
from permil.report.kit.figures import (
    ACCENT,
    ALARM,
    DIVERGING,
    FAINT,
    INK,
    LED_COLOURS,
    colour_bar,
    displacement_of_maps,
    show_image,
    styled,
    subplots,
    symmetric_limits,
    write_on_map,
)
from permil.report.kit.results import format_measurement, two_digits

_COLOURS = (ACCENT, LED_COLOURS["red"], LED_COLOURS["nm850"], LED_COLOURS["uv"], LED_COLOURS["nm750"])
_STYLES = ("--", ":", "-.")
_SHOWN_PERCENT = 0.2
"""Percentage of points on each side that are ignored for the limits of a scatter plot."""
_DENSITY_BINS = 40
_DENSITY_SMOOTHING = 1.5
_DENSITY_SHARES = (0.9, 0.6, 0.3)
_FEWEST_FOR_DENSITY = 200
_GROUPS = 12
_EDGE_PERCENT = 1.0
_MAP_TITLES = ("the flat predicts", "stars show", "difference: stars minus flat")
_FAR_APART = 10.0
"""Ratio of the flat's prediction to the stars above which the predicted map is divided."""
_NULL_BINS = 40
_FEWEST_DRAWS = 30
_KIND_COLOURS = (ACCENT, LED_COLOURS["red"], LED_COLOURS["nm850"])
_MARKERS = ("o", "s", "D")
_WELL_KNOWN = 0.5
"""Fractions with larger errors are ignored for the limits of a panel."""
_LEAST_REACH = (-0.1, 1.1)
_MOST_REACH = (-1.0, 2.0)
_ENOUGH_FILLED = 0.6
_FACTORS = (1, 2, 4, 8)
_MOST_ARROWS = 24
_SHIFTS_AND_SHAPES = (
    ("DX", "dx", "10⁻³ px"), ("DY", "dy", "10⁻³ px"), ("XX", "XX", "10⁻³ px²"), ("YY", "YY", "10⁻³ px²"), ("XY", "XY", "10⁻³ px²"),
)  # fmt: skip
_NAMES = {"flux": "flux", "dx": "dx", "dy": "dy", "xx": "XX", "yy": "YY", "xy": "XY"}


def scatter_picture(products: CompareProducts, absent: list[str]) -> Picture | None:
    """Return star fluxes against the flat, of single stars and in the cells of the maps."""
    flat, star = products.column("STARS", "flux_flat"), products.column("STARS", "flux")
    if flat is None or star is None:
        absent.append("star fluxes and flat (table STARS)")
        return None
    clouds = [_cloud("single stars", products, 0, flat, star)]
    if "FLUX" in products.maps and "FLUX_FLAT" in products.maps:
        title = f"means over cells of {products.cell} pixels"
        clouds.append(_cloud(title, products, products.cell, products.maps["FLUX_FLAT"].ravel(), products.maps["FLUX"].ravel()))
    divided = bool(products.header.get("FLATFLD", False))
    expected = {"efficiency": 0.0 if divided else 1.0, "pixel area or diffusion": -1.0 if divided else 0.0}
    caption = (
        "Each point is one measurement of a star: its brightness, and the flat in the pixels that it covers. The thin lines contain 30, 60 "
        "and 90 % of the points. The fitted line allows for the noise of stars and flat. Dividing by the flat removes the effect on stars "
        "that follow the line of the efficiency, and biases stars that follow the line of the pixel area."
    )
    return raster(flux_against_flat(clouds, expected), caption)


def _cloud(title: str, products: CompareProducts, cell: int, flat: FloatArray, star: FloatArray) -> Cloud:
    rows = products.rows("CORRELATIONS", quantity="flux", region=WHOLE, cell=cell)
    slope, error = (number_in(rows[0], name) for name in ("slope", "slope_err")) if rows else (np.nan, np.nan)
    if rows:
        title += f": r = {format_measurement(number_in(rows[0], 'r'), number_in(rows[0], 'r_err'))}"
    return Cloud(title, 1e3 * flat, 1e3 * star, slope, error)


def map_pictures(products: CompareProducts, absent: list[str]) -> list[Picture]:
    """Return maps predicted by the flat next to those of the stars: flux, shifts and shapes, displacement."""
    names = [name for name in ("FLUX", *(entry[0] for entry in _SHIFTS_AND_SHAPES)) if _has_pair(products, name)]
    if "FLUX" not in names:
        absent.append("maps of stars and flat (images FLUX and FLUX_FLAT)")
    pictures = []
    if names:
        factor = _factor(products.maps[names[0]])
        cell = factor * products.cell
        if "FLUX" in names:
            pair, extent = _pair(products, "FLUX", "relative flux", "‰", factor)
            caption = (
                f"Star fluxes and the flat averaged over their light, in cells of {cell} pixels; grey: no stars. All three have the "
                "same colour scale: the difference is not explained by the flat."
            )
            pictures.append(raster(map_pairs([pair], extent=extent), caption))
        others = [_pair(products, name, label, unit, factor) for name, label, unit in _SHIFTS_AND_SHAPES if name in names]
        if others:
            caption = (
                "Shifts (dx, dy) and shapes (second moments XX, YY, XY) of stars next to the prediction of the flat: for shifts and "
                "XY if all of it were pixel area (charge moves towards larger pixels), for XX and YY if all of it were diffusion. "
                "Stars show only the part of the flat that is of this kind. Each row has one colour scale."
            )
            pictures.append(raster(map_pairs([pair for pair, _ in others], extent=others[0][1]), caption))
    arrows = _displacement_picture(products)
    return [*pictures, arrows] if arrows is not None else pictures


def _has_pair(products: CompareProducts, name: str) -> bool:
    images = [products.maps.get(key) for key in (name, f"{name}_FLAT")]
    return all(image is not None and np.isfinite(image).any() for image in images)


def _factor(star: FloatArray) -> int:
    """Return the number of cells per side that are averaged so that most cells have stars."""
    for factor in _FACTORS:
        filled = np.isfinite(coarse(star, np.ones(star.shape), factor))
        if filled.mean() >= _ENOUGH_FILLED:
            return factor
    return _FACTORS[-1]


def _pair(
    products: CompareProducts, name: str, label: str, unit: str, factor: int
) -> tuple[MapPair, tuple[float, float, float, float]]:
    star, flat = products.maps[name], products.maps[f"{name}_FLAT"]
    error = products.maps.get(f"{name}_ERR")
    with np.errstate(divide="ignore", invalid="ignore"):
        weight = np.ones(star.shape) if error is None else np.where(error > 0, error**-2.0, 0.0)
    images = [1e3 * coarse(image, weight, factor) for image in (flat, star)]
    rows, columns = images[0].shape
    cell = factor * products.cell
    return MapPair(label, unit, *images), (-0.5, columns * cell - 0.5, -0.5, rows * cell - 0.5)


def coarse(image: FloatArray, weight: FloatArray, factor: int) -> FloatArray:
    """Return weighted means of an image over ``factor`` x ``factor`` cells, NaN where none has a value and weight.

    Parameters
    ----------
    image, weight : ndarray, shape (rows, columns)
        Values, NaN where missing, and their weights.
    """
    known = np.isfinite(image) & np.isfinite(weight) & (weight > 0)
    rows, columns = (-(-size // factor) for size in image.shape)
    padding = [(0, blocks * factor - size) for blocks, size in zip((rows, columns), image.shape, strict=True)]
    sums = [
        np.pad(np.where(known, array, 0.0), padding).reshape(rows, factor, columns, factor).sum(axis=(1, 3))
        for array in (weight * np.where(known, image, 0.0), weight)
    ]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(sums[1] > 0, sums[0] / sums[1], np.nan)


def _displacement_picture(products: CompareProducts) -> Picture | None:
    if not all(name in products.maps for name in ("SHIFT_X", "SHIFT_Y")):
        return None
    shape = products.maps["SHIFT_X"].shape
    factor = max(1, -(-max(shape) // _MOST_ARROWS))
    dx, dy = (coarse(products.maps[name], np.ones(shape), factor) for name in ("SHIFT_X", "SHIFT_Y"))
    cell = factor * products.cell
    whole = (shape[0] * products.cell, shape[1] * products.cell)
    figure = displacement_of_maps(dx, dy, cell, shape=whole, title="shift if the flat were only pixel area")
    caption = (
        f"Shift of each position if the flat were only pixel area, on all scales (means over {cell} pixels). The positions of stars "
        "are compared with the part that the calibration has not removed."
    )
    return raster(figure, caption, narrow=True)


def scale_picture(products: CompareProducts) -> Picture | None:
    """Return r by the size of the cells, for fluxes and for shifts and shapes; None without correlations."""
    wanted = {
        "flux": [("flux", "r", "as measured"), ("flux", "r_corrected", "without measurement errors")],
        "shifts and shapes": [(name, "r", label) for name, label in _NAMES.items() if name != "flux"],
    }
    panels = {
        title: [series for entry in entries if (series := _series(products, *entry)) is not None]
        for title, entries in wanted.items()
    }
    panels = {title: found for title, found in panels.items() if found}
    if not panels:
        return None
    caption = (
        "Correlation by scale: of single stars, and of means over increasingly large cells, in which the noise of single stars averages "
        "out. Errors allow for correlated neighbours; shifts and shapes are compared with the prediction of pixel area or diffusion."
    )
    return drawing(correlation_by_scale(panels), caption)


def _series(products: CompareProducts, quantity: str, column: str, label: str) -> ScaleSeries | None:
    rows = [row for row in products.rows("CORRELATIONS", quantity=quantity, region=WHOLE) if np.isfinite(number_in(row, column))]
    rows.sort(key=lambda row: number_in(row, "cell"))
    if not rows:
        return None
    columns = (np.array([number_in(row, name) for row in rows]) for name in ("cell", column, f"{column}_err"))
    return ScaleSeries(label, *columns)


def chance_pictures(products: CompareProducts, row: Table.Row) -> list[Picture]:
    """Return the null distribution with the observed r, and the error of r against block size."""
    pictures = []
    table = products.tables.get("NULL")
    if table is not None and len(table):
        draws = {f"random maps ({name})": np.asarray(table[name], dtype=float) for name in table.colnames}
        figure = null_distribution(draws, r=number_in(row, "r"), n_eff=number_in(row, "n_eff"), n=number_in(row, "n"))
        caption = (
            "Correlations of unrelated maps with the same texture, and the normal curve for the quoted number of independent values. The "
            "dotted curve is that of a test that counts every star as independent: it overestimates significance."
        )
        pictures.append(drawing(figure, caption, narrow=True))
    side, error = products.column("BLOCKS", "side"), products.column("BLOCKS", "error")
    if side is not None and error is not None:
        figure = error_by_block(
            side, error, quoted=number_in(row, "r_err"), naive=number_in(row, f"{NAIVE}_r_err"), plateau=products.plateau
        )
        caption = (
            "Error of r from resampling whole blocks of the sensor. Blocks smaller than the correlated areas give too small an error; "
            "above the size where the error is constant, blocks are independent."
        )
        pictures.append(drawing(figure, caption, narrow=True))
    return pictures


def fraction_picture(products: CompareProducts) -> Picture | None:
    """Return the fractions by scale and by region; None without any."""
    rows = products.rows("HYPOTHESES", figure="fraction")
    scales = list(dict.fromkeys(text_in(row, "scale") for row in rows if text_in(row, "region") == WHOLE))
    regions = list(dict.fromkeys(text_in(row, "region") for row in rows))
    if not scales:
        return None
    found = {(text_in(row, "region"), text_in(row, "scale"), text_in(row, "of")): row for row in rows}
    panels = [
        _fraction_panel("by the period of the structure, whole detector", [(WHOLE, scale) for scale in scales], scales, found)
    ]
    if len(regions) > 1:
        names = [name.replace(" ", "\n") for name in regions]
        panels.append(_fraction_panel("by region, all scales together", [(region, TOTAL) for region in regions], names, found))
    caption = (
        "Fractions of the variance of the flat due to efficiency (which dividing removes), pixel area and diffusion "
        "(which dividing adds to star fluxes). The "
        "three are fitted without constraints: a fraction may lie below 0 or above 1 within its error. Bars without a point lie "
        "beyond the panel."
    )
    return drawing(fractions(panels, KINDS), caption)


def _fraction_panel(
    title: str, keys: list[tuple[str, str]], names: list[str], found: dict[tuple[str, str, str], Table.Row]
) -> FractionPanel:
    def table(column: str) -> FloatArray:
        return np.array(
            [[number_in(found[*key, kind], column) if (*key, kind) in found else np.nan for key in keys] for kind in KINDS]
        )

    return FractionPanel(title, tuple(names), table("value"), table("error"))


def ring_picture(products: CompareProducts) -> Picture | None:
    """Return the profile of the tree rings, None without a profile."""
    columns = [products.column("RINGS", name) for name in ("radius", "level", "error")]
    if any(column is None or not np.isfinite(column).any() for column in columns):
        return None
    radius, level, error = (np.asarray(column) for column in columns)
    caption = (
        "The flat averaged along circles around the centre, without structure larger than the rings. Rings of pixel area also move "
        "stars."
    )
    return drawing(ring_profile(radius, 1e3 * level, 1e3 * error), caption)


@dataclass(frozen=True)
class Cloud:
    """Points of a scatter plot (per mil) with the fitted slope and its error."""

    title: str
    flat: FloatArray
    star: FloatArray
    slope: float
    slope_error: float


@dataclass(frozen=True)
class MapPair:
    """Prediction of the flat and measurement of the stars, in the same unit: two images ``[row, column]``, NaN without data."""

    name: str
    unit: str
    flat: FloatArray
    star: FloatArray


@dataclass(frozen=True)
class ScaleSeries:
    """Correlations of one quantity by the side of the cells (pixels; 0 for single stars) with their errors."""

    label: str
    cells: FloatArray
    r: FloatArray
    error: FloatArray


@styled
def flux_against_flat(clouds: Sequence[Cloud], expected: Mapping[str, float]) -> Figure:
    """Draw star fluxes against the flat, each cloud with density contours, the fitted line and the lines of the hypotheses.

    Parameters
    ----------
    clouds
        One cloud or more.
    expected
        Expected slope by name of the hypothesis.
    """
    count, margins = len(clouds), (0.42 / len(clouds) * 0.28, 0.985, 0.11, 0.93)
    figure, axes_of = subplots((5.9 * count, 4.9), margins, 1, count, wspace=0.17, squeeze=False)
    for axes, cloud in zip(axes_of[0], clouds, strict=True):
        known = np.isfinite(cloud.flat + cloud.star)
        x, y = cloud.flat[known], cloud.star[known]
        if x.size:
            axes.scatter(x, y, s=float(np.clip(1e4 / x.size, 3.0, 10.0)), color=ACCENT, alpha=0.6, linewidths=0)
            _density(axes, x, y)
            _limits(axes, x, y)
            _lines(axes, (float(x.mean()), float(y.mean())), cloud, expected)
            _group_means(axes, x, y)
            _legend(axes)
        axes.set(xlabel="flat averaged over the star, minus 1 (‰)", ylabel="star flux, minus 1 (‰)", title=cloud.title)
    return figure


def _density(axes: Axes, x: FloatArray, y: FloatArray) -> None:
    """Draw contours that contain given fractions of the points."""
    if x.size < _FEWEST_FOR_DENSITY:
        return
    ranges = [np.percentile(column, [_SHOWN_PERCENT, 100 - _SHOWN_PERCENT]) for column in (x, y)]
    if any(high <= low for low, high in ranges):
        return
    count, x_edges, y_edges = np.histogram2d(x, y, bins=_DENSITY_BINS, range=ranges)
    smooth = ndimage.gaussian_filter(count.T, _DENSITY_SMOOTHING, mode="constant")
    ordered = np.sort(smooth.ravel())[::-1]
    within = np.cumsum(ordered) / ordered.sum()
    levels = sorted({float(ordered[np.searchsorted(within, share)]) for share in _DENSITY_SHARES})
    centres = [(edges[:-1] + edges[1:]) / 2 for edges in (x_edges, y_edges)]
    axes.contour(*centres, smooth, levels=levels, colors=INK, linewidths=0.7, alpha=0.8)


def _limits(axes: Axes, x: FloatArray, y: FloatArray) -> None:
    for column, set_limits in ((x, axes.set_xlim), (y, axes.set_ylim)):
        low, high = np.percentile(column, [_SHOWN_PERCENT, 100 - _SHOWN_PERCENT])
        margin = 0.08 * (high - low) or 1.0
        set_limits(low - margin, high + margin)


def _lines(axes: Axes, middle: tuple[float, float], cloud: Cloud, expected: Mapping[str, float]) -> None:
    ends = np.array(axes.get_xlim())
    for style, (name, slope) in zip(_STYLES, expected.items(), strict=False):
        axes.plot(ends, middle[1] + slope * (ends - middle[0]), style, color=INK, linewidth=1.1, label=f"{name}: slope {slope:g}")
    if np.isfinite(cloud.slope):
        label = f"fitted: slope {format_measurement(cloud.slope, cloud.slope_error)}"
        axes.plot(ends, middle[1] + cloud.slope * (ends - middle[0]), color=ALARM, linewidth=1.6, label=label)


def _group_means(axes: Axes, x: FloatArray, y: FloatArray) -> None:
    """Draw the means of groups of equal size, in the order of the flat."""
    groups = np.array_split(np.argsort(x), min(_GROUPS, x.size))
    places = [(float(x[group].mean()), float(y[group].mean())) for group in groups]
    axes.plot(
        *zip(*places, strict=True), "o", color="white", markeredgecolor=INK, markersize=5, label=f"means of {len(groups)} groups"
    )


@styled
def map_pairs(pairs: Sequence[MapPair], *, extent: tuple[float, float, float, float]) -> Figure:
    """Draw prediction of the flat, measurement of the stars, and difference; one row per pair, one colour scale per row.

    Parameters
    ----------
    extent
        Left, right, bottom, top in pixels.
    """
    large = len(pairs) == 1
    side = 3.35 if large else 2.35
    width, height = (11.6, 0.9 + side) if large else (8.6, 0.75 + (side + 0.12) * len(pairs))
    margins, spaces = (0.75 / width, 1 - 0.95 / width, 0.5 / height, 1 - 0.35 / height), {"wspace": 0.06, "hspace": 0.07}
    figure, axes_of = subplots((width, height), margins, len(pairs), 3, squeeze=False, sharex=True, sharey=True, **spaces)
    for row, (line, pair) in enumerate(zip(axes_of, pairs, strict=True)):
        divisor = _divisor(pair)
        flat = pair.flat / divisor
        limits = symmetric_limits(flat, pair.star, centre=0.0, percent=_EDGE_PERCENT)
        difference = pair.star - flat if divisor == 1 else np.full(flat.shape, np.nan)
        for axes, title, image in zip(line, _MAP_TITLES, (flat, pair.star, difference), strict=True):
            shown = show_image(axes, image, extent=extent, limits=limits, colours=DIVERGING)
            if row == 0:
                axes.set_title(title)
            # Labels at the ends of neighbouring narrow panels would overlap.
            axes.xaxis.set_major_locator(MaxNLocator(5 if large else 3))
            if row == len(pairs) - 1:
                axes.set_xlabel("x (pixels)")
        if divisor > 1:
            middle = (extent[0] + extent[1]) / 2, (extent[2] + extent[3]) / 2
            write_on_map(line[0], middle, f"divided by {divisor:,.0f}", size=8)
            write_on_map(
                line[2], middle, f"not drawn: the flat predicts\nmore than {divisor:,.0f} times\nthe signal of stars", size=8
            )
        line[0].set_ylabel(f"{pair.name}\ny (pixels)")
        colour_bar(figure, shown, line[-1], f"{pair.name} ({pair.unit})")
    return figure


def _divisor(pair: MapPair) -> float:
    """Return the power of ten that divides the flat's map to show it on the scale of the stars, 1 if none is needed."""
    flat, stars = (symmetric_limits(image, centre=0.0, percent=_EDGE_PERCENT)[1] for image in (pair.flat, pair.star))
    return float(10.0 ** np.floor(np.log10(flat / stars))) if flat > _FAR_APART * stars > 0 else 1.0


@styled
def correlation_by_scale(panels: Mapping[str, Sequence[ScaleSeries]]) -> Figure:
    """Draw r with its error against the size of the cells, one panel per title."""
    margins = (0.06, 0.985, 0.14, 0.91)
    figure, axes_of = subplots((11.6, 3.7), margins, 1, len(panels), wspace=0.14, squeeze=False)
    every = sorted({float(cell) for each in panels.values() for series in each for cell in series.cells})
    place = {cell: float(number) for number, cell in enumerate(every)}
    for axes, (title, each) in zip(axes_of[0], panels.items(), strict=True):
        for number, series in enumerate(each):
            shift = 0.09 * (number - (len(each) - 1) / 2)
            x = np.array([place[float(cell)] for cell in series.cells]) + shift
            colour = _COLOURS[number % len(_COLOURS)]
            axes.errorbar(x, series.r, yerr=series.error, fmt="o-", color=colour, markersize=4, linewidth=0.8, label=series.label)
        axes.axhline(0.0, color=INK, linewidth=0.6)
        axes.set_xticks(range(len(every)), ["single stars" if cell == 0 else f"{cell:g}" for cell in every])
        axes.set(xlabel="side of the cells (pixels)", ylabel="correlation r", title=title)
        if each:
            low, high = (float(np.clip(limit, -1.05, 1.05)) for limit in axes.get_ylim())
            axes.set_ylim(low, high + 0.15 * (high - low))
            axes.legend(loc="upper left", ncols=len(each))
    return figure


@styled
def null_distribution(draws: Mapping[str, FloatArray], *, r: float, n_eff: float, n: float) -> Figure:
    """Draw the correlations of unrelated maps, and the observed one.

    Parameters
    ----------
    draws
        Correlations of surrogates, by method; methods with few of them are skipped.
    r
        Observed correlation.
    n_eff, n
        Effective and actual number of stars; a normal curve is drawn for each.
    """
    figure, axes = subplots((5.7, 3.9), (0.1, 0.97, 0.13, 0.92))
    for number, (name, found) in enumerate(draws.items()):
        known = found[np.isfinite(found)]
        if known.size >= _FEWEST_DRAWS:
            axes.hist(
                known,
                bins=_NULL_BINS,
                density=True,
                alpha=0.45,
                color=_COLOURS[number % len(_COLOURS)],
                label=f"{known.size} {name}",
            )
    for count, style, colour, label in (
        (n_eff, "-", INK, "effective number, as quoted"),
        (n, ":", ALARM, "every star independent"),
    ):
        if count > 1:
            width = (count - 1) ** -0.5
            grid = np.linspace(-5 * width, 5 * width, 300)
            curve = np.exp(-0.5 * (grid / width) ** 2) / width / np.sqrt(2 * np.pi)
            axes.plot(grid, curve, style, color=colour, linewidth=1.1, label=label)
    if np.isfinite(r):
        axes.axvline(r, color=ALARM, linewidth=2.0, label=f"observed: {two_digits(r)}")
    axes.set(xlabel="correlation r of unrelated maps", ylabel="frequency", yticks=[])
    axes.set_title("unrelated maps")
    low, high = axes.get_ylim()
    axes.set_ylim(low, 1.45 * high)
    _legend(axes)
    return figure


@styled
def error_by_block(side: FloatArray, error: FloatArray, *, quoted: float, naive: float, plateau: float) -> Figure:
    """Draw the error of r from resampled blocks against the side of the blocks (pixels), with the quoted error."""
    figure, axes = subplots((5.7, 3.9), (0.14, 0.97, 0.13, 0.92))
    known = np.isfinite(side + error)
    axes.plot(side[known], error[known], "o-", color=ACCENT, markersize=4, label="from resampled blocks")
    for level, style, colour, label in (
        (quoted, "-", INK, "quoted"),
        (naive, ":", ALARM, "every star independent"),
    ):
        if np.isfinite(level):
            axes.axhline(level, linestyle=style, color=colour, linewidth=1.1, label=f"{label}: {two_digits(level)}")
    if np.isfinite(plateau):
        axes.axvline(plateau, linestyle="--", color=FAINT, label=f"constant above {plateau:.3g} px")
    if known.any():
        axes.set_xscale("log")
        ticks = side[known][:: max(1, int(known.sum()) // 4)]
        axes.set_xticks(ticks, [f"{tick:.0f}" for tick in ticks])
        axes.set_xticks([], minor=True)
    axes.set_ylim(0, 1.35 * max([*error[known], *(level for level in (quoted, naive) if np.isfinite(level)), 1e-9]))
    axes.set(xlabel="side of the blocks (pixels)", ylabel="error of r", title="error of r by size of blocks")
    _legend(axes, columns=2)
    return figure


def _legend(axes: Axes, *, columns: int = 1) -> None:
    """Draw a legend on top, none for empty axes."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        axes.legend(handles, labels, loc="upper left", ncols=columns, frameon=True, framealpha=0.9, edgecolor="none")


@dataclass(frozen=True)
class FractionPanel:
    """Fractions of the flat's variance: ``value`` and ``error`` of shape (kinds, places), and names of the places."""

    title: str
    places: tuple[str, ...]
    value: FloatArray
    error: FloatArray


@styled
def fractions(panels: Sequence[FractionPanel], kinds: Sequence[str]) -> Figure:
    """Draw fractions with errors as points, and as bars from 0."""
    widths = [max(len(panel.places), 2) for panel in panels]
    margins = (0.06, 0.985, 0.14, 0.85)
    figure, grid = subplots((11.6, 3.9), margins, 1, len(panels), wspace=0.1, squeeze=False, width_ratios=widths)
    axes_of = grid[0]
    for axes, panel in zip(axes_of, panels, strict=True):
        _draw_fractions(axes, panel, kinds)
    axes_of[0].set_ylabel("fraction of the flat's variance")
    handles, labels = axes_of[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", ncols=len(labels), bbox_to_anchor=(0.5, 1.0))
    return figure


def _draw_fractions(axes: Axes, panel: FractionPanel, kinds: Sequence[str]) -> None:
    x = np.arange(len(panel.places), dtype=float)
    for number, kind in enumerate(kinds):
        shift = 0.26 * (number - (len(kinds) - 1) / 2)
        colour = _KIND_COLOURS[number % len(_KIND_COLOURS)]
        axes.bar(x + shift, panel.value[number], width=0.24, color=colour, alpha=0.3)
        axes.errorbar(
            x + shift, panel.value[number], yerr=panel.error[number], fmt=_MARKERS[number % len(_MARKERS)],
            color=colour, markersize=4.5, elinewidth=1.3, capsize=2, label=kind,
        )  # fmt: skip
    for level, style in ((0.0, "-"), (1.0, ":")):
        axes.axhline(level, linestyle=style, color=INK, linewidth=0.6)
    axes.set_ylim(*_reach(panel))
    axes.set_xticks(x, panel.places)
    axes.set_title(panel.title)


def _reach(panel: FractionPanel) -> tuple[float, float]:
    known = np.isfinite(panel.value + panel.error) & (panel.error <= _WELL_KNOWN)
    low = np.min((panel.value - panel.error)[known], initial=_LEAST_REACH[0])
    high = np.max((panel.value + panel.error)[known], initial=_LEAST_REACH[1])
    return max(float(low) - 0.05, _MOST_REACH[0]), min(float(high) + 0.05, _MOST_REACH[1])


@styled
def ring_profile(radius: FloatArray, level: FloatArray, error: FloatArray) -> Figure:
    """Draw the flat averaged along circles around the centre of tree rings; radius in pixels, all else in per mil."""
    figure, axes = subplots((11.6, 2.9), (0.06, 0.985, 0.17, 0.9))
    known = np.isfinite(radius + level + error)
    radius, level, error = radius[known], level[known], error[known]
    axes.fill_between(radius, level - error, level + error, color=FAINT, linewidth=0, label="± standard error")
    axes.plot(radius, level, color=ACCENT, linewidth=0.9, label="flat")
    axes.axhline(0.0, color=INK, linewidth=0.6)
    if radius.size:
        reach = 1.3 * float(np.max(np.abs(level[error <= 2 * np.median(error)])))
        axes.set_ylim(-reach, reach)
        axes.set_xlim(radius[0], radius[-1])
    axes.set(xlabel="distance from the centre of the rings (pixels)", ylabel="flat (‰)", title="flat along the radius")
    axes.legend(loc="upper right", ncols=2)
    return figure
