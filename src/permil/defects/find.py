"""All defects of a detector from the flats of its LEDs, its superbias and single exposures, amplifier by amplifier."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np

from permil.arrays import BoolArray, Float32Array, FloatArray, IntArray
from permil.camera import Amplifier, Detector
from permil.config.flat import DefectsConfig
from permil.defects.exposures import PixelFits
from permil.defects.neighbourhood import RelativeResponse, connected, relative_response
from permil.defects.pixels import bias_excess, clusters, defective_columns, deviating_pixels, vampires
from permil.defects.table import DefectBox, boxes_of
from permil.engine import threaded_map
from permil.errors import InputError
from permil.flat.combine import DEAD_RESPONSE


class DefectKind(StrEnum):
    """Kinds of defects; the reason in a table."""

    DARK_PIXEL = "dark_pixel"
    """Less response than its neighbours."""
    BRIGHT_PIXEL = "bright_pixel"
    """More response than its neighbours."""
    VAMPIRE = "vampire"
    """Bright with a dark surround, from which it takes charge."""
    DARK_CLUSTER = "dark_cluster"
    """Four or more dark pixels that touch."""
    BRIGHT_CLUSTER = "bright_cluster"
    """Four or more bright pixels that touch."""
    WEAK_COLUMN = "weak_column"
    """Part of a column with less response than the columns beside it."""
    DEAD_COLUMN = "dead_column"
    """Part of a column with less than a fifth of the response beside it."""
    BRIGHT_COLUMN = "bright_column"
    """Part of a column with more response than the columns beside it."""
    HOT_BIAS = "hot_bias"
    """Charge without light, in the superbias."""
    BIAS_OUTLIER = "bias_outlier"
    """Masked by isr.hot_pixel_threshold, below the limit of a hot pixel."""
    UNSTABLE = "unstable"
    """Response that changes from exposure to exposure."""
    NONLINEAR = "nonlinear"
    """Response that changes with the signal."""
    GIVEN = "given"
    """Listed in the table of the user."""


@dataclass(frozen=True)
class VaryingPixels:
    """Pixels whose signal scatters more than noise in single exposures: rows, columns, and their fits."""

    rows: IntArray
    columns: IntArray
    fits: PixelFits


@dataclass(frozen=True)
class LedResponse:
    """The flat of one LED.

    Attributes
    ----------
    led
        Its name.
    response, variance : ndarray, shape (ny, nx)
        NaN where nothing was measured, or where defects are not searched.
    varying
        Pixels that vary between exposures; None where they were not searched.
    """

    led: str
    response: Float32Array
    variance: Float32Array
    varying: VaryingPixels | None = None


@dataclass(frozen=True)
class DarkImage:
    """The superbias.

    Attributes
    ----------
    image, variance : ndarray, shape (ny, nx)
        Electrons, electrons^2.
    outliers : ndarray of bool, shape (ny, nx)
        Pixels that the reduction masks because of their superbias.
    """

    image: Float32Array
    variance: Float32Array
    outliers: BoolArray


def find_defects(
    flats: Sequence[LedResponse], detector: Detector, *, options: DefectsConfig | None = None, dark: DarkImage | None = None
) -> list[DefectBox]:
    """Find the defects of a detector.

    Parameters
    ----------
    flats
        Flats of its LEDs, on any scale.
    options
        Limits; default those of the configuration.
    dark
        Its superbias, or None.

    Returns
    -------
    list of DefectBox
        Boxes in pixels of the detector; each has the LEDs that show it, and the mean deviation in these.

    Raises
    ------
    InputError
        If an array has another shape than the detector.
    """
    limits = options or DefectsConfig()
    for name, image in [(flat.led, flat.response) for flat in flats] + ([("superbias", dark.image)] if dark else []):
        if image.shape != detector.shape:
            raise InputError(
                f"{name} has {image.shape} pixels, detector {detector.name} has {detector.shape}",
                remedy="give images of whole detectors",
                value=image.shape,
            )
    usual = {flat.led: _usual(flat.response) for flat in flats}

    def search(amplifier: Amplifier) -> list[DefectBox]:
        return list(_AmplifierSearch(flats, amplifier, limits, usual).boxes(dark))

    found: list[DefectBox] = []
    for boxes in threaded_map(search, detector.amplifiers):
        first = len({box.defect for box in found})
        found += [replace(box, defect=box.defect + first) for box in boxes]
    return found


def _usual(response: Float32Array) -> float:
    """Return the median response of a sample of pixels; NaN without any."""
    sample = response[::7, ::5]
    known = sample[np.isfinite(sample)]
    return float(np.median(known)) if known.size else np.nan


Pixels = tuple[IntArray, IntArray]
"""Rows and columns in the amplifier of the pixels of a defect."""

Measure = Callable[[Pixels, tuple[str, ...]], tuple[float, float, float]]
"""Returns value, standard error and significance of the pixels of a defect in the LEDs that show it."""


@dataclass
class _AmplifierSearch:
    """The search of one amplifier."""

    flats: Sequence[LedResponse]
    amplifier: Amplifier
    options: DefectsConfig
    usual: dict[str, float]
    _count: int = 0
    _relatives: dict[str, RelativeResponse] = field(init=False)

    def __post_init__(self) -> None:
        own = self.amplifier.slices
        self._relatives = {
            flat.led: relative_response(flat.response[own], flat.variance[own], usual=self.usual[flat.led])
            for flat in self.flats
            if np.isfinite(flat.response[own]).any()
        }

    def boxes(self, dark: DarkImage | None) -> Iterator[DefectBox]:
        """Yield the boxes of all defects; columns first, since their pixels are not searched for other kinds."""
        options, searched = self.options, dict(self._relatives)
        columns = {
            led: defective_columns(relative, threshold=options.column, significance=options.significance)
            for led, relative in searched.items()
        }
        yield from self._columns(columns)
        searched = self._without(searched, columns)
        single = {led: deviating_pixels(relative, options) for led, relative in searched.items()}
        draining = {
            led: vampires(relative, single[led][1], significance=options.significance) for led, relative in searched.items()
        }
        yield from self._groups(draining, DefectKind.VAMPIRE, self._brightest)
        taken = _any(draining)
        for sign, in_group, alone in (
            (-1, DefectKind.DARK_CLUSTER, DefectKind.DARK_PIXEL),
            (1, DefectKind.BRIGHT_CLUSTER, DefectKind.BRIGHT_PIXEL),
        ):
            rest = self._without(searched, draining)
            found = {
                led: clusters(relative, single[led][int(sign > 0)] & ~taken, options, sign=sign) for led, relative in rest.items()
            }
            groups = {led: masks[0] for led, masks in found.items()}
            in_groups = _any(groups)
            yield from self._groups(groups, in_group, self._mean)
            yield from self._groups({led: masks[1] & ~in_groups for led, masks in found.items()}, alone, self._mean)
        yield from self._varying(DefectKind.UNSTABLE)
        yield from self._varying(DefectKind.NONLINEAR)
        if dark is not None:
            yield from self._dark(dark)

    def _columns(self, masks: dict[str, BoolArray]) -> Iterator[DefectBox]:
        for x, y, width, height in boxes_of(_any(masks)) if masks else ():
            rows, columns = np.mgrid[y : y + height, x : x + width]
            own = rows.ravel(), columns.ravel()
            seen = _seen(masks, own)
            measured = self._mean(own, seen)
            kind = DefectKind.WEAK_COLUMN if measured[0] < 0 else DefectKind.BRIGHT_COLUMN
            if measured[0] < DEAD_RESPONSE - 1:
                kind = DefectKind.DEAD_COLUMN
            yield from self._defect(own, kind, "deviation", measured, seen)

    def _groups(
        self, masks: dict[str, BoolArray], kind: DefectKind, measure: Measure, quantity: str = "deviation"
    ) -> Iterator[DefectBox]:
        """Yield the boxes of groups of pixels that touch."""
        if not masks:
            return
        labels, count = connected(_any(masks))
        rows, columns = np.nonzero(labels)
        numbers = labels[rows, columns]
        order = np.argsort(numbers, kind="stable")
        bounds = np.searchsorted(numbers[order], np.arange(1, count + 2))
        for begin, end in itertools.pairwise(bounds):
            own = rows[order[begin:end]], columns[order[begin:end]]
            seen = _seen(masks, own)
            yield from self._defect(own, kind, quantity, measure(own, seen), seen)

    def _defect(
        self, own: Pixels, kind: DefectKind, quantity: str, measured: tuple[float, float, float], seen: tuple[str, ...]
    ) -> Iterator[DefectBox]:
        self._count += 1
        amplifier = self.amplifier
        first_row, first_column = (int(each.min()) for each in own)
        shape = int(np.ptp(own[0])) + 1, int(np.ptp(own[1])) + 1
        mask = np.zeros(shape, dtype=bool)
        mask[own[0] - first_row, own[1] - first_column] = True
        searched = tuple(led for led, relative in self._relatives.items() if np.isfinite(relative.deviation[own]).any())
        in_light = quantity != "electrons"
        for x, y, width, height in boxes_of(mask):
            yield DefectBox(
                x0=x + first_column + amplifier.x_min,
                y0=y + first_row + amplifier.y_min,
                width=width,
                height=height,
                reason=str(kind),
                amp=amplifier.name,
                defect=self._count,
                value=measured[0],
                value_err=measured[1],
                quantity=quantity,
                significance=measured[2],
                leds=seen if in_light else (),
                searched=searched if in_light else (),
            )

    def _mean(self, own: Pixels, seen: tuple[str, ...]) -> tuple[float, float, float]:
        """Return the mean deviation of pixels over some LEDs, weighted by errors, its error, and the largest significance."""
        rows = []
        for relative in (self._relatives[led] for led in seen):
            deviation, sigma, error = (
                image[own].astype(np.float64) for image in (relative.deviation, relative.sigma, relative.error)
            )
            known = np.isfinite(deviation)
            if known.any():
                integrated = abs(deviation[known].sum()) / np.sqrt(np.sum(sigma[known] ** 2))
                rows.append((deviation[known].mean(), np.sqrt(np.sum(error[known] ** 2)) / np.count_nonzero(known), integrated))
        return _weighted(np.array(rows))

    def _brightest(self, own: Pixels, seen: tuple[str, ...]) -> tuple[float, float, float]:
        """Return the result of `_mean` for the brightest pixel."""
        total = np.sum([np.nan_to_num(relative.deviation[own]) for relative in (self._relatives[led] for led in seen)], axis=0)
        brightest = int(np.argmax(total))
        return self._mean((own[0][[brightest]], own[1][[brightest]]), seen)

    def _without(self, relatives: dict[str, RelativeResponse], masks: dict[str, BoolArray]) -> dict[str, RelativeResponse]:
        """Return deviations without pixels of known defects."""
        if not masks:
            return relatives
        known = _any(masks)
        return {
            led: replace(relative, deviation=np.where(known, np.float32(np.nan), relative.deviation))
            for led, relative in relatives.items()
        }

    def _varying(self, kind: DefectKind) -> Iterator[DefectBox]:
        rows, columns = self.amplifier.slices
        shape = rows.stop - rows.start, columns.stop - columns.start
        masks, parts = dict[str, BoolArray](), list[FloatArray]()
        for flat in self.flats:
            if flat.varying is None:
                continue
            fits = flat.varying.fits
            chosen = fits.unstable(self.options) if kind == DefectKind.UNSTABLE else fits.nonlinear(self.options)
            y, x = flat.varying.rows - rows.start, flat.varying.columns - columns.start
            chosen &= (y >= 0) & (y < shape[0]) & (x >= 0) & (x < shape[1])
            masks[flat.led] = np.zeros(shape, dtype=bool)
            masks[flat.led][y[chosen], x[chosen]] = True
            found = (
                (fits.scatter, fits.scatter_err, fits.scatter_significance)
                if kind == DefectKind.UNSTABLE
                else (fits.nonlinearity, fits.nonlinearity_err, np.abs(fits.nonlinearity) / fits.nonlinearity_err)
            )
            parts.append(np.column_stack([y, x, *found])[chosen])
        measured = np.concatenate(parts) if parts else np.empty((0, 5))

        where = measured[:, :2].astype(np.int64)

        def measure(own: Pixels, _seen: tuple[str, ...]) -> tuple[float, float, float]:
            is_in = (where[:, None, :] == np.column_stack(own)).all(axis=-1).any(axis=-1)
            return _weighted(measured[is_in, 2:])

        quantity = "scatter" if kind == DefectKind.UNSTABLE else "nonlinearity"
        yield from self._groups(masks, kind, measure, quantity)

    def _dark(self, dark: DarkImage) -> Iterator[DefectBox]:
        own = self.amplifier.slices
        bias = bias_excess(dark.image[own], dark.variance[own])
        hot = bias.hot(self.options)

        def measure(pixels: Pixels, _seen: tuple[str, ...]) -> tuple[float, float, float]:
            count = pixels[0].size
            excess = float(bias.excess[pixels].mean())
            error = float(np.sqrt(np.sum(bias.error[pixels].astype(np.float64) ** 2))) / count
            return excess, error, abs(excess) * np.sqrt(count) / max(bias.sigma, 1e-6)

        yield from self._groups({"": hot}, DefectKind.HOT_BIAS, measure, "electrons")
        others = dark.outliers[own] & ~hot
        yield from self._groups({"": others}, DefectKind.BIAS_OUTLIER, measure, "electrons")


def _any(masks: dict[str, BoolArray]) -> BoolArray:
    return np.logical_or.reduce(list(masks.values()))


def _seen(masks: dict[str, BoolArray], own: Pixels) -> tuple[str, ...]:
    return tuple(led for led, mask in masks.items() if mask[own].any())


def _weighted(rows: FloatArray) -> tuple[float, float, float]:
    """Return the mean of values by inverse variance, its error, and the largest significance; rows of value, error, significance."""
    rows = rows.reshape(-1, 3)
    if not len(rows):
        return np.nan, np.nan, np.nan
    weight = 1 / np.maximum(rows[:, 1], 1e-12) ** 2
    return float(np.sum(weight * rows[:, 0]) / weight.sum()), float(weight.sum() ** -0.5), float(rows[:, 2].max())
