"""Which flat to use, on all pages that compare stars with flats, and the efficiency flat: left-out dithers, filter and maps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Row, Table
from matplotlib.figure import Figure
from numpy.typing import NDArray

from permil.arrays import BoolArray, FloatArray
from permil.compare.comparison import WHOLE
from permil.compare.efficiency.proof import BEST_FILTER, NOISE, Division
from permil.errors import InputError
from permil.flat.metrics import WHOLE_DETECTOR
from permil.flat.superpixel import super_pixels
from permil.products import RunFolder, is_usable, read_image, read_table
from permil.products.folder import CompareFolder
from permil.report.compare.figures import coarse
from permil.report.kit.elements import (
    Column,
    Grid,
    Picture,
    captioned,
    measured_column,
    number_in,
    raster,
    table_of,
    text_column,
    text_in,
)
from permil.report.kit.figures import (
    ACCENT,
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
)
from permil.report.kit.results import MISSING, Measurement, plain_sentence

_PER_MIL = 1e3
_MOST_CELLS = 256
_MOST_ARROWS = 24
_TITLES = ("plain flat", "efficiency flat", "plain minus efficiency flat")
_CARDS = ("LED", "CHOICE", "NLEFTOUT", "NLEFTEXP", "NPARTS", "DITHSPAN", "PLAINFRA")
_COMPONENTS = {"other": ("structure other than rings", ACCENT, "o"), "rings": ("tree rings", LED_COLOURS["red"], "s")}
DIVISIONS = (*Division, BEST_FILTER, NOISE)
"""Rows of the table of each detector and band."""
_CODES = {division.value: float(number) for number, division in enumerate(Division)}
"""Numbers of the flats in the summary; undecided is NaN."""
_CHOICE_COLUMNS = (
    "detector", "band", "division", "scatter", "scatter_err", "change", "change_err", "use_for_fluxes", "use_for_sky",
    "left_in_sky", "left_in_sky_err", "sentence",
)  # fmt: skip
_LABELS = {BEST_FILTER: "best possible with a filter of this flat (expected)", NOISE: "noise alone"}


@dataclass(frozen=True)
class EfficiencyPart:
    """Part of a page: the sentence on the choice of the flat, table of the left-out dithers, and pictures."""

    sentence: str
    scatter: Grid
    pictures: tuple[Picture, ...]
    facts: str


def efficiency_source(folder: RunFolder, detector: str, band: str) -> Path | None:
    """Return the efficiency flat made from the stars of a detector and band, None without one."""
    path = CompareFolder(folder.root).efficiency
    if not path.is_file():
        return None
    table = read_table(path, columns=("detector", "band", "led"))
    rows = [row for row in table if row["detector"] == detector and str(row["band"]) == (band or "-")]
    made = folder.efficiency_flat(str(rows[0]["led"]), detector) if rows else None
    return made if made is not None and made.is_file() else None


def efficiency_part(folder: RunFolder, detector: str, band: str) -> EfficiencyPart | None:
    """Return the part of a page on the efficiency flat, None without one.

    Raises
    ------
    InputError
        If the product cannot be read.
    """
    path = efficiency_source(folder, detector, band)
    if path is None:
        return None
    product = read_image(path)
    missing = [name for name in ("FILTER", "SCATTER", "SHIFT_X", "SHIFT_Y") if name not in product.extensions]
    missing += [card for card in _CARDS if card not in product.header]
    if missing:
        raise InputError(f"{', '.join(missing)} is missing", path=path, remedy="run permil compare again", missing=missing)
    header = product.header
    bands, scatter = (Table(product.extensions[name].data) for name in ("FILTER", "SCATTER"))
    shifts = [np.asarray(product.extensions[name].data, dtype=np.float64) for name in ("SHIFT_X", "SHIFT_Y")]
    plain = folder.flat(str(header["LED"]), detector)
    pictures = [_scatter_picture(scatter), _filter_picture(bands)]
    if plain.is_file():
        pictures.append(_map_picture(product.image, read_image(plain).image, is_usable(product.mask)))
    if "SHIFTERR" in header:
        pictures.append(_shift_picture(shifts, product.image.shape, float(header["SHIFTERR"])))
    return EfficiencyPart(
        sentence=plain_sentence(str(header["CHOICE"])),
        scatter=scatter_table(scatter),
        pictures=tuple(pictures),
        facts=_facts(header),
    )


@dataclass(frozen=True)
class Choice:
    """Which flat to use for a detector and band, from the table of efficiency flats of a run.

    Attributes
    ----------
    run
        Name of the run, "" where there is one run.
    detector, band
        Where.
    rows
        Scatter of left-out fluxes by division; each row has the choice.
    """

    run: str
    detector: str
    band: str
    rows: Mapping[str, Row]

    @property
    def sentence(self) -> str:
        """The choice as a sentence."""
        return plain_sentence(text_in(self.rows[Division.UNDIVIDED], "sentence"))


def read_choices(folder: RunFolder, *, run: str = "") -> list[Choice]:
    """Return which flat to use for each detector and band of a run, none without efficiency flats.

    Raises
    ------
    InputError
        If the table cannot be read.
    """
    path = CompareFolder(folder.root).efficiency
    if not path.is_file():
        return []
    groups: dict[tuple[str, str], dict[str, Row]] = {}
    for row in read_table(path, columns=_CHOICE_COLUMNS, purpose="table of efficiency flats"):
        band = str(row["band"])
        groups.setdefault((str(row["detector"]), "" if band == "-" else band), {})[str(row["division"])] = row
    return [Choice(run, detector, band, rows) for (detector, band), rows in groups.items()]


def choice_table(choices: Sequence[Choice]) -> Grid | None:
    """Return which flat to use for each detector and band, with the scatter on left-out dithers, None without any."""

    def of(division: str, heading: str, figure: str = "scatter") -> Column:
        return measured_column(heading, figure, scale=_PER_MIL).of(lambda choice: choice.rows[division])

    columns = (
        text_column("detector"),
        text_column("band", absent=MISSING),
        *([text_column("run")] if len({choice.run for choice in choices}) > 1 else []),
        text_column("for fluxes", lambda choice: choice.rows[Division.PLAIN]["use_for_fluxes"]),
        text_column("for the sky", lambda choice: choice.rows[Division.PLAIN]["use_for_sky"]),
        of(Division.UNDIVIDED, "undivided (‰)"),
        of(Division.PLAIN, "plain flat (‰)"),
        of(Division.EFFICIENCY, "efficiency flat (‰)"),
        of(BEST_FILTER, "best possible (‰)"),
        of(NOISE, "noise alone (‰)"),
        of(Division.PLAIN, "efficiency minus plain flat (‰)", "change"),
        of(Division.PLAIN, "left in the sky (‰)", "left_in_sky"),
    )
    return table_of(choices, columns) if choices else None


def choice_measurements(choices: Sequence[Choice]) -> list[Measurement]:
    """Return the scatter of left-out fluxes after each division, its changes, and which flat to use, of all detectors and bands."""
    found = []
    for choice in choices:
        figures = [(f"left_out_scatter_{str(name).replace(' ', '_')}", name, "scatter") for name in DIVISIONS]
        figures += [
            ("efficiency_flat_minus_undivided", Division.UNDIVIDED, "change"),
            ("efficiency_flat_minus_plain_flat", Division.PLAIN, "change"),
            ("efficiency_flat_left_in_sky", Division.PLAIN, "left_in_sky"),
        ]
        for metric, division, name in figures:
            value, error = (number_in(choice.rows[division], each) for each in (name, f"{name}_err"))
            found.append(Measurement(metric, choice.band, value, error, choice.detector, WHOLE_DETECTOR))
        for use in ("fluxes", "sky"):
            number = _CODES.get(text_in(choice.rows[Division.PLAIN], f"use_for_{use}"), math.nan)
            found.append(Measurement(f"flat_for_{use}", choice.band, number, 0.0, choice.detector, WHOLE_DETECTOR))
    return found


def scatter_table(scatter: Table) -> Grid:
    """Return the scatter of fluxes on left-out dithers after each division."""

    def name(row: Row) -> str:
        stored = str(row["division"]).strip()
        return _LABELS.get(stored, stored)

    columns = (
        text_column("star fluxes", name),
        measured_column("scatter (‰)", "scatter", scale=_PER_MIL),
        measured_column("without noise (‰)", "sensor_scatter", scale=_PER_MIL),
        measured_column("efficiency flat minus this (‰)", "change", scale=_PER_MIL),
    )
    return table_of(scatter, columns)


def _facts(header: fits.Header) -> str:
    kept = 100 * float(header["PLAINFRA"])
    return (
        f"{header['NLEFTOUT']} measurements of {header['NLEFTEXP']} exposures, left out in {header['NPARTS']} parts in turn; the filter "
        f"was fitted without them. Spots moved by {float(header['DITHSPAN']):.0f} pixels between exposures. The plain flat is kept in "
        f"{kept:.1f} % of the pixels (mask plane PLAIN_FLAT), which have too few stars, and at periods that the stars do not measure."
    )


@captioned(
    "Scatter of star fluxes on dithers that were left out of the fit (total rms; means of spots and exposures are removed). Dashed: noise "
    "alone. Error bars of neighbouring points are correlated: the table has the errors of the differences.",
    kind="svg",
    narrow=True,
)
def _scatter_picture(scatter: Table) -> Figure:
    names = [str(name).strip() for name in scatter["division"]]
    value, error = (_PER_MIL * np.asarray(scatter[name], dtype=float) for name in ("scatter", "scatter_err"))
    shown = [number for number, name in enumerate(names) if name != NOISE]
    figure, axes = subplots((6.4, 2.6), (0.24, 0.97, 0.2, 0.95))
    place = np.arange(len(shown))[::-1]
    axes.errorbar(
        value[shown], place, xerr=np.nan_to_num(error[shown]), fmt="o", color=ACCENT, markersize=5, elinewidth=1.3, capsize=2
    )
    axes.axvline(value[names.index(NOISE)], color=INK, linestyle="--", linewidth=0.8)
    axes.set_yticks(place, [names[number] for number in shown])
    axes.set(xlabel="scatter (‰)", ylim=(-0.6, len(shown) - 0.4))
    return figure


@captioned(
    "Fraction of the flat's variance that is efficiency, by the period of the structure, with errors; lines are the weights of the filter. "
    "Open symbols: the stars do not measure it, and the plain flat is kept (weight 1).",
    kind="svg",
)
def _filter_picture(bands: Table) -> Figure:
    figure, axes = subplots((11.6, 3.6), (0.06, 0.985, 0.15, 0.91))
    for name, (label, colour, marker) in _COMPONENTS.items():
        rows = [row for row in bands if str(row["component"]).strip() == name and str(row["region"]).strip() == WHOLE]
        if not rows:
            continue
        limits = [(max(float(row["shortest"]), 2.0), min(float(row["longest"]), 2 * float(row["shortest"]) + 8)) for row in rows]
        middle = np.array([math.sqrt(low * high) for low, high in limits])
        value, error, weight = (np.array([float(row[key]) for row in rows]) for key in ("efficiency", "efficiency_err", "weight"))
        measured = np.array([bool(row["measured"]) for row in rows])
        edges = np.array([limits[0][0], *(high for _, high in limits)])
        axes.stairs(weight, edges, color=colour, linewidth=1.2, baseline=None)
        for chosen, face in ((measured, colour), (~measured, "white")):
            axes.errorbar(
                middle[chosen], value[chosen], yerr=error[chosen], fmt=marker, color=colour, markerfacecolor=face,
                markersize=4.5, elinewidth=1.2, capsize=2, label=label if face == colour else None,
            )  # fmt: skip
    for level, style in ((0.0, "-"), (1.0, ":")):
        axes.axhline(level, linestyle=style, color=FAINT, linewidth=0.6)
    axes.set(xscale="log", xlabel="period (pixels)", ylabel="efficiency", ylim=(-0.1, 1.15))
    axes.legend(loc="upper center", ncols=2, bbox_to_anchor=(0.5, 1.14))
    return figure


def _map_picture(efficiency: NDArray[np.floating], plain: NDArray[np.floating], usable: BoolArray) -> Picture:
    usable = usable & np.isfinite(plain) & np.isfinite(efficiency)
    level = float(np.median(plain[usable]))
    cell = max(1, -(-max(plain.shape) // _MOST_CELLS))
    maps = [_PER_MIL * (super_pixels(image / level, usable, cell).mean - 1) for image in (plain, efficiency)]
    caption = (
        f"Plain flat, efficiency flat, and the removed pixel area and diffusion, relative to the median (means over {cell} pixels). "
        "Steps between amplifiers are kept: they may be gains."
    )
    return raster(_map_figure((*maps, maps[0] - maps[1]), (-0.5, plain.shape[1] - 0.5, -0.5, plain.shape[0] - 0.5)), caption)


@styled
def _map_figure(maps: tuple[FloatArray, ...], extent: tuple[float, float, float, float]) -> Figure:
    figure, axes_of = subplots((11.6, 4.25), (0.065, 0.92, 0.12, 0.92), 1, len(maps), wspace=0.06, sharex=True, sharey=True)
    limits = symmetric_limits(*maps[:2], centre=0.0)
    for axes, title, image in zip(axes_of, _TITLES, maps, strict=True):
        shown = show_image(axes, image[:, :], extent=extent, limits=limits, colours=DIVERGING)
        axes.set(title=title, xlabel="x (pixels)")
    axes_of[0].set_ylabel("y (pixels)")
    colour_bar(figure, shown, axes_of[-1], "‰")
    return figure


def _shift_picture(shifts: list[FloatArray], shape: tuple[int, ...], error: float) -> Picture:
    size = shifts[0].shape
    factor = max(1, -(-max(size) // _MOST_ARROWS))
    dx, dy = (coarse(shift, np.ones(size), factor) for shift in shifts)
    pixels = factor * max(1, -(-shape[0] // size[0]))
    title = "displacement by the measured pixel area"
    figure = displacement_of_maps(dx, dy, pixels, shape=(shape[0], shape[1]), title=title)
    caption = (
        f"Displacement of stars (recorded minus true position) by the removed pixel area, means over {pixels} pixels. Its error "
        f"is {error:.3f} pixels per axis (rms), mostly from structure that the flat alone cannot distinguish from efficiency."
    )
    return raster(figure, caption, narrow=True)
