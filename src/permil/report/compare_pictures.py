"""The pictures of a page that compares stars with the flat."""

from __future__ import annotations

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from permil.compare.comparison import WHOLE
from permil.compare.hypotheses.fractions import KINDS, TOTAL
from permil.report import compare_figures as figures
from permil.report import hypothesis_figures, spot_figures
from permil.report.compare_inputs import CompareProducts, number, text
from permil.report.compare_words import NAIVE
from permil.report.pages import Picture, drawing, raster

FloatArray = NDArray[np.float64]

_ENOUGH_FILLED = 0.6
_FACTORS = (1, 2, 4, 8)
_MOST_ARROWS = 24
_SHIFTS_AND_SHAPES = (
    ("DX", "dx", "10⁻³ px"), ("DY", "dy", "10⁻³ px"), ("XX", "XX", "10⁻³ px²"), ("YY", "YY", "10⁻³ px²"), ("XY", "XY", "10⁻³ px²"),
)  # fmt: skip
_NAMES = {"flux": "flux", "dx": "dx", "dy": "dy", "xx": "XX", "yy": "YY", "xy": "XY"}


def headline(products: CompareProducts) -> Table.Row | None:
    """Return the row of the correlation of single stars' fluxes with the flat, None where there is none."""
    rows = products.rows("CORRELATIONS", quantity="flux", region=WHOLE, cell=0)
    return rows[0] if rows else None


def scatter_picture(products: CompareProducts, absent: list[str]) -> Picture | None:
    """Return star fluxes against the flat, of single stars and in the cells of the maps."""
    flat, star = products.column("STARS", "flux_flat"), products.column("STARS", "flux")
    if flat is None or star is None:
        absent.append("star fluxes beside the flat (table STARS)")
        return None
    clouds = [_cloud("single stars", products, 0, flat, star)]
    if "FLUX" in products.maps and "FLUX_FLAT" in products.maps:
        title = f"means over cells of {products.cell} pixels"
        clouds.append(_cloud(title, products, products.cell, products.maps["FLUX_FLAT"].ravel(), products.maps["FLUX"].ravel()))
    divided = bool(products.header.get("FLATFLD", False))
    expected = {"efficiency": 0.0 if divided else 1.0, "pixel area or diffusion": -1.0 if divided else 0.0}
    caption = (
        "Each point is one measurement of a star: how bright it was beside what the flat says of the pixels that it lay on. 30, 60 and "
        "90 % of the points lie within the thin lines. The fitted line allows for the noise of stars and flat; a star that follows "
        "the line of the efficiency is corrected by dividing by the flat, one on the line of the pixel area is spoiled by it."
    )
    return raster(figures.flux_against_flat(clouds, expected), caption)


def _cloud(title: str, products: CompareProducts, cell: int, flat: FloatArray, star: FloatArray) -> figures.Cloud:
    rows = products.rows("CORRELATIONS", quantity="flux", region=WHOLE, cell=cell)
    slope, error = (number(rows[0], name) for name in ("slope", "slope_err")) if rows else (np.nan, np.nan)
    if rows:
        title += f": r = {number(rows[0], 'r'):.3f} ± {number(rows[0], 'r_err'):.3f}"
    return figures.Cloud(title, 1e3 * flat, 1e3 * star, slope, error)


def map_pictures(products: CompareProducts, absent: list[str]) -> list[Picture]:
    """Return the maps of what the flat predicts beside those of the stars: flux, then shifts and shapes, then the displacement."""
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
                f"Star fluxes and the flat as those stars see it, averaged over cells of {cell} pixels; grey: no stars. All three have the "
                "same colours: what the flat explains is absent from the difference."
            )
            pictures.append(raster(figures.map_pairs([pair], extent=extent), caption))
        others = [_pair(products, name, label, unit, factor) for name, label, unit in _SHIFTS_AND_SHAPES if name in names]
        if others:
            caption = (
                "Shifts (dx, dy) and shapes (second moments XX, YY, XY) of stars beside what the flat would make of them: shifts and "
                "XY were all of it the area of pixels (charge moves towards the pixels that are larger), XX and YY were all of it "
                "diffusion. Stars show only the part of the flat that is of this kind. Each row has one colour scale."
            )
            pictures.append(raster(figures.map_pairs([pair for pair, _ in others], extent=others[0][1]), caption))
    arrows = _displacement_picture(products)
    return [*pictures, arrows] if arrows is not None else pictures


def _has_pair(products: CompareProducts, name: str) -> bool:
    images = [products.maps.get(key) for key in (name, f"{name}_FLAT")]
    return all(image is not None and np.isfinite(image).any() for image in images)


def _factor(star: FloatArray) -> int:
    """Return by how many cells a map is coarsened so that most cells have stars."""
    for factor in _FACTORS:
        filled = np.isfinite(coarse(star, np.ones(star.shape), factor))
        if filled.mean() >= _ENOUGH_FILLED:
            return factor
    return _FACTORS[-1]


def _pair(
    products: CompareProducts, name: str, label: str, unit: str, factor: int
) -> tuple[figures.MapPair, tuple[float, float, float, float]]:
    star, flat = products.maps[name], products.maps[f"{name}_FLAT"]
    error = products.maps.get(f"{name}_ERR")
    with np.errstate(divide="ignore", invalid="ignore"):
        weight = np.ones(star.shape) if error is None else np.where(error > 0, error**-2.0, 0.0)
    images = [1e3 * coarse(image, weight, factor) for image in (flat, star)]
    rows, columns = images[0].shape
    cell = factor * products.cell
    return figures.MapPair(label, unit, *images), (-0.5, columns * cell - 0.5, -0.5, rows * cell - 0.5)


def coarse(image: FloatArray, weight: FloatArray, factor: int) -> FloatArray:
    """Return weighted means of an image over ``factor`` x ``factor`` cells, NaN where none has a value and weight.

    Parameters
    ----------
    image, weight : ndarray, shape (rows, columns)
        Values, NaN where there is none, and their weights.
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
    row, column = np.indices(dx.shape)
    x, y = (np.asarray(cell * index.ravel() + (cell - 1) / 2, dtype=np.float64) for index in (column, row))
    whole = (shape[0] * products.cell, shape[1] * products.cell)
    figure = spot_figures.distortion(x, y, dx.ravel(), dy.ravel(), shape=whole, title="shift, were the flat all pixel area")
    caption = (
        f"How far each place would be moved were the whole flat a matter of pixel sizes, on all scales (means over {cell} pixels). Star "
        "places are compared with the part of it that calibration has not taken out."
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
        "Correlation by scale: of single stars, and of means over larger and larger cells, where the noise of single stars averages "
        "down. Errors count neighbours as what they are worth; shifts and shapes are compared with what pixel area or diffusion predicts."
    )
    return drawing(figures.correlation_by_scale(panels), caption)


def _series(products: CompareProducts, quantity: str, column: str, label: str) -> figures.ScaleSeries | None:
    rows = [row for row in products.rows("CORRELATIONS", quantity=quantity, region=WHOLE) if np.isfinite(number(row, column))]
    rows.sort(key=lambda row: number(row, "cell"))
    if not rows:
        return None
    columns = (np.array([number(row, name) for row in rows]) for name in ("cell", column, f"{column}_err"))
    return figures.ScaleSeries(label, *columns)


def chance_pictures(products: CompareProducts, row: Table.Row) -> list[Picture]:
    """Return the null distribution with the observed r, and the error of r against block size."""
    pictures = []
    table = products.tables.get("NULL")
    if table is not None and len(table):
        draws = {f"random maps ({name})": np.asarray(table[name], dtype=float) for name in table.colnames}
        figure = figures.null_distribution(draws, r=number(row, "r"), n_eff=number(row, "n_eff"), n=number(row, "n"))
        caption = (
            "Correlations of maps that have nothing to do with each other but look like these, and the normal curve that the quoted number "
            "of independent values stands for. The dotted curve is that of a test which takes every star as independent: it calls chance "
            "significant."
        )
        pictures.append(drawing(figure, caption, narrow=True))
    side, error = products.column("BLOCKS", "side"), products.column("BLOCKS", "error")
    if side is not None and error is not None:
        figure = figures.error_by_block(
            side, error, quoted=number(row, "r_err"), naive=number(row, f"{NAIVE}_r_err"), plateau=products.plateau
        )
        caption = (
            "Error of r from whole blocks of the sensor drawn at random. Blocks that are too small cut through what belongs together "
            "and give too small an error; from where it stays constant, blocks are independent."
        )
        pictures.append(drawing(figure, caption, narrow=True))
    return pictures


def fraction_picture(products: CompareProducts) -> Picture | None:
    """Return the fractions by scale and by region; None where there are none."""
    rows = products.rows("HYPOTHESES", figure="fraction")
    scales = list(dict.fromkeys(text(row, "scale") for row in rows if text(row, "region") == WHOLE))
    regions = list(dict.fromkeys(text(row, "region") for row in rows))
    if not scales:
        return None
    found = {(text(row, "region"), text(row, "scale"), text(row, "of")): row for row in rows}
    panels = [_panel("by the period of the structure, whole detector", [(WHOLE, scale) for scale in scales], scales, found)]
    if len(regions) > 1:
        names = [name.replace(" ", "\n") for name in regions]
        panels.append(_panel("by region, all scales together", [(region, TOTAL) for region in regions], names, found))
    caption = (
        "How much of the variance of the flat is efficiency (dividing corrects it), pixel area and diffusion (dividing spoils it). The "
        "three are fitted freely: a fraction may come out below 0 or above 1 within its error. Bars without a point lie beyond the panel."
    )
    return drawing(hypothesis_figures.fractions(panels, KINDS), caption)


def _panel(
    title: str, keys: list[tuple[str, str]], names: list[str], found: dict[tuple[str, str, str], Table.Row]
) -> hypothesis_figures.FractionPanel:
    def table(column: str) -> FloatArray:
        return np.array(
            [[number(found[*key, kind], column) if (*key, kind) in found else np.nan for key in keys] for kind in KINDS]
        )

    return hypothesis_figures.FractionPanel(title, tuple(names), table("value"), table("error"))


def ring_picture(products: CompareProducts) -> Picture | None:
    """Return the profile of the tree rings, None where none were found."""
    columns = [products.column("RINGS", name) for name in ("radius", "level", "error")]
    if any(column is None or not np.isfinite(column).any() for column in columns):
        return None
    radius, level, error = (np.asarray(column) for column in columns)
    caption = (
        "The flat averaged along circles around the centre, structure larger than the rings taken off. Rings that are pixel area move "
        "stars, too."
    )
    return drawing(hypothesis_figures.ring_profile(radius, 1e3 * level, 1e3 * error), caption)
