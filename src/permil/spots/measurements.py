"""Measurements of all exposures of one mask on one detector: labels in a common window, and flat arrays.

The labels of many exposures of one mask are shifted to a common window, if the edge of the detector cuts off part of the mask. If an
exposure shows the whole mask, its labels are absolute. Otherwise the fluxes of its spots identify the visible part: at the right shift the
ratio of its fluxes to those of the same spots in other exposures scatters least.

Each measurement counts once, whatever the names of the files that contain it: repeated catalogs are found by their values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from permil.arrays import BoolArray, FloatArray, IntArray
from permil.camera import detector_key
from permil.errors import SpotError
from permil.spots.catalog import QUANTITIES, SpotCatalog, exposure_key

# Smallest ratio of the scatter at the second best shift to that at the best.
_CLEARLY = 1.3
_LEAST_OVERLAP = 0.5
_LEAST_SPOTS = 9
# Cosine between the steps of two grids from which they have one direction.
_SAME_DIRECTION = 0.7


@dataclass(frozen=True)
class WindowedCatalogs:
    """Catalogs with labels in one window.

    Attributes
    ----------
    catalogs
        Catalogs whose position in the mask is known or was found, in input order.
    decided
        Whether node (0, 0) is certainly the first of the mask; otherwise the labels are only mutually consistent.
    left_out
        Name and reason of the excluded catalogs.
    """

    catalogs: tuple[SpotCatalog, ...]
    decided: bool
    left_out: tuple[tuple[str, str], ...]


def common_window(catalogs: list[SpotCatalog], decided: list[bool], *, columns: int, rows: int) -> WindowedCatalogs:
    """Shift labels so that the same label is the same spot in all catalogs.

    Parameters
    ----------
    catalogs
        Labelled catalogs of one mask.
    decided
        Whether the labels of each are absolute.
    columns, rows
        Spots of the mask.
    """
    if not catalogs:
        return WindowedCatalogs((), decided=False, left_out=())
    absolute = any(decided)
    # If no catalog is absolute, the largest one is centred in a frame with margins on all sides.
    margin = (0, 0) if absolute else (columns, rows)
    frame = (columns + 2 * margin[0], rows + 2 * margin[1])
    sizes = [int(catalog.labelled.sum()) for catalog in catalogs]
    known = list(decided) if absolute else [number == int(np.argmax(sizes)) for number in range(len(catalogs))]
    shifts: dict[int, tuple[int, int]] = {number: margin for number, is_known in enumerate(known) if is_known}
    images = [_flux_image(catalogs[number], frame, shift) for number, shift in shifts.items()]
    left_out = []
    for number in sorted((number for number, is_known in enumerate(known) if not is_known), key=lambda number: -sizes[number]):
        shift = _best_shift(catalogs[number], _median_image(images), frame)
        if shift is None:
            left_out.append(
                (catalogs[number].exposure, "its position in the mask is ambiguous, also from the fluxes of its spots")
            )
            continue
        shifts[number] = shift
        if not absolute:
            images.append(_flux_image(catalogs[number], frame, shift))
    first = np.zeros(2, dtype=np.int64) if absolute else _first_nodes(catalogs, shifts)
    placed = tuple(_shifted(catalogs[number], np.array(shifts[number]) - first) for number in sorted(shifts))
    return WindowedCatalogs(placed, absolute, tuple(left_out))


def _median_image(images: list[FloatArray]) -> FloatArray:
    stack = np.stack(images)
    median = np.full(stack.shape[1:], np.nan)
    seen = np.isfinite(stack).any(axis=0)
    median[seen] = np.nanmedian(stack[:, seen], axis=0)
    return median


def _flux_image(catalog: SpotCatalog, frame: tuple[int, int], shift: tuple[int, int]) -> FloatArray:
    """Return the fluxes over their median at the nodes of a frame, NaN at empty nodes."""
    image = np.full(frame, np.nan)
    used = catalog.labelled & np.isfinite(catalog.flux) & (catalog.flux > 0)
    if not used.any():
        return image
    i, j = catalog.grid_i[used] + shift[0], catalog.grid_j[used] + shift[1]
    inside = (i < frame[0]) & (j < frame[1])
    image[i[inside], j[inside]] = catalog.flux[used][inside] / np.median(catalog.flux[used])
    return image


def _best_shift(catalog: SpotCatalog, reference: FloatArray, frame: tuple[int, int]) -> tuple[int, int] | None:
    """Return the shift at which the ratios to the reference scatter least, None if no shift is clearly the best."""
    used = catalog.labelled & np.isfinite(catalog.flux) & (catalog.flux > 0)
    i, j, flux = catalog.grid_i[used], catalog.grid_j[used], catalog.flux[used]
    if len(flux) < _LEAST_SPOTS:
        return None
    scatters: list[tuple[float, tuple[int, int]]] = []
    for shift_i in range(frame[0] - int(i.max())):
        for shift_j in range(frame[1] - int(j.max())):
            expected = reference[i + shift_i, j + shift_j]
            both = np.isfinite(expected)
            if both.sum() < max(_LEAST_SPOTS, _LEAST_OVERLAP * len(flux)):
                continue
            ratio = flux[both] / expected[both]
            middle = np.median(ratio)
            scatters.append((float(np.median(np.abs(ratio - middle)) / middle), (shift_i, shift_j)))
    if not scatters:
        return None
    scatters.sort()
    if len(scatters) > 1 and scatters[1][0] < _CLEARLY * scatters[0][0]:
        return None
    return scatters[0][1]


def _first_nodes(catalogs: list[SpotCatalog], shifts: dict[int, tuple[int, int]]) -> IntArray:
    lows = []
    for number, shift in shifts.items():
        catalog = catalogs[number].select(catalogs[number].labelled)
        lows.append((int(catalog.grid_i.min()) + shift[0], int(catalog.grid_j.min()) + shift[1]))
    return np.min(lows, axis=0)


def _shifted(catalog: SpotCatalog, shift: IntArray) -> SpotCatalog:
    labelled = catalog.labelled
    return catalog.with_labels(
        np.where(labelled, catalog.grid_i + shift[0], -1), np.where(labelled, catalog.grid_j + shift[1], -1)
    )


@dataclass(frozen=True, kw_only=True)
class MaskIdentity:
    """Facts that all measurements of a mask share: its spots along i and j, detector, band, aperture, unit of the fluxes, serial number."""

    columns: int
    rows: int
    detector: str
    band: str
    aperture: float
    flux_unit: str
    serial: str = ""

    @property
    def identity(self) -> dict[str, Any]:
        """The shared properties by name."""
        return {entry.name: getattr(self, entry.name) for entry in fields(MaskIdentity)}


@dataclass(frozen=True, kw_only=True)
class Measurements(MaskIdentity):
    """Measurements of labelled spots; arrays of shape (n,) unless stated otherwise.

    Attributes
    ----------
    spot
        Number of the spot, ``grid_i * rows + grid_j``.
    exposure
        Number of the exposure.
    quantities, errors
        x, y, xx, yy, xy, flux by name, and their errors (NaN where unknown).
    background
        Subtracted background under each spot, ``flux_unit`` per pixel; NaN where unknown.
    good
        Measurements without a bad flag.
    names, mjd, projector : shapes (k,), (k,), (k, 2)
        Names, dates and projector positions of the exposures.
    """

    spot: IntArray
    exposure: IntArray
    quantities: dict[str, FloatArray]
    errors: dict[str, FloatArray]
    background: FloatArray
    good: BoolArray
    names: tuple[str, ...]
    mjd: FloatArray
    projector: FloatArray

    @property
    def spots(self) -> int:
        """Number of spots of the mask."""
        return self.columns * self.rows

    @property
    def exposures(self) -> int:
        """Number of exposures."""
        return len(self.names)

    @property
    def positions(self) -> FloatArray:
        """Return x and y, shape (n, 2)."""
        return np.stack([self.quantities["x"], self.quantities["y"]], axis=1)


def _turned(catalogs: Sequence[SpotCatalog]) -> list[int]:
    """Return the numbers of labelled catalogs whose grid has another direction on the detector than that of most."""
    known, steps = [], []
    for number, catalog in enumerate(catalogs):
        design = np.column_stack([np.ones(len(catalog)), catalog.grid_i, catalog.grid_j]).astype(np.float64)
        placed = np.isfinite(catalog.x) & np.isfinite(catalog.y)
        found, _, rank, _ = np.linalg.lstsq(design[placed], np.column_stack([catalog.x, catalog.y])[placed], rcond=None)
        length = float(np.linalg.norm(found[1:]))
        if rank == design.shape[1] and length > 0:
            known.append(number)
            steps.append(found[1:].ravel() / length)
    if not known:
        return []
    agrees = np.array(steps) @ np.array(steps).T > _SAME_DIRECTION
    return [number for number, same in zip(known, agrees[int(agrees.sum(axis=1).argmax())], strict=True) if not same]


def gather(catalogs: Sequence[SpotCatalog], *, columns: int, rows: int) -> Measurements:
    """Combine labelled catalogs of one mask.

    Parameters
    ----------
    catalogs
        One per exposure, with labels in one window.
    columns, rows
        Spots of the mask.

    Raises
    ------
    SpotError
        If there are no catalogs, one repeats another, they differ in detector, sensor, band, aperture or flux unit, a label lies outside
        the mask or is duplicated within an exposure, the grid of one is rotated or mirrored against the others, or no measurement is good
        (saturated spots, for example).
    """
    if not catalogs:
        raise SpotError("there is no catalog with a grid of spots", remedy="give at least one")
    shared: dict[str, str] = {}
    for name, what, remedy in (
        ("detector", "detectors", "give the exposures of one detector at a time"),
        ("serial", "sensors", "give the exposures of one sensor at a time: the bay held different sensors"),
        ("band", "bands", "give the exposures of one filter or LED at a time, or set the band"),
        ("flux_unit", "flux units", "give catalogs of one kind at a time"),
    ):
        shared[name] = _common(catalogs, name, what, remedy)
    repeated = repeated_catalogs(catalogs, [f"catalog {number} ({entry.exposure})" for number, entry in enumerate(catalogs)])
    for number, first in repeated.items():
        raise SpotError(
            f"catalog {number} ({catalogs[number].exposure}) repeats catalog {first} ({catalogs[first].exposure})",
            remedy="give each exposure once",
            value=number,
        )
    apertures = {catalog.aperture for catalog in catalogs if np.isfinite(catalog.aperture)}
    if len(apertures) > 1:
        raise SpotError(
            f"fluxes are of different apertures: {', '.join(f'{radius:g}' for radius in sorted(apertures))} pixels",
            remedy="measure all exposures with the same aperture",
            value=sorted(apertures),
        )
    labelled = [catalog.select(catalog.labelled) for catalog in catalogs]
    if turned := _turned(labelled):
        raise SpotError(
            f"the grid of {catalogs[turned[0]].exposure} is rotated or mirrored on the detector against that of the other exposures",
            remedy="give positions in the frame of the detector for all exposures, or leave this one out",
            value=[catalogs[number].exposure for number in turned],
        )
    good = np.concatenate([entry.good for entry in labelled])
    if not good.any():
        raise SpotError(
            "no measurement of a labelled spot is good: all are saturated, blended, cut, masked or without flux",
            remedy="check the exposure time and the flags of the catalogs",
        )
    return Measurements(
        spot=np.concatenate([_spot_numbers(entry, columns, rows) for entry in labelled]),
        exposure=np.repeat(np.arange(len(labelled)), [len(entry) for entry in labelled]),
        quantities={name: _together(labelled, name) for name in QUANTITIES},
        errors={name: _together(labelled, f"{name}_err") for name in QUANTITIES},
        background=_together(labelled, "background"),
        good=good,
        columns=columns,
        rows=rows,
        names=tuple(catalog.exposure for catalog in catalogs),
        mjd=np.array([catalog.mjd for catalog in catalogs]),
        projector=np.array([(catalog.projector_x, catalog.projector_y) for catalog in catalogs]),
        aperture=next(iter(apertures), np.nan),
        **shared,
    )


def _common(catalogs: Sequence[SpotCatalog], name: str, what: str, remedy: str) -> str:
    """Return the common statement of all catalogs that have one, "" if none does."""
    found = sorted({getattr(catalog, name) for catalog in catalogs} - {""})
    if len(found) > 1:
        odd = next(catalog for catalog in catalogs if getattr(catalog, name) == found[-1])
        raise SpotError(
            f"exposures of different {what} ({', '.join(found)}; {found[-1]}: {odd.exposure})", remedy=remedy, value=found
        )
    return found[0] if found else ""


def _together(catalogs: Sequence[SpotCatalog], name: str) -> FloatArray:
    return np.concatenate([getattr(catalog, name) for catalog in catalogs])


def _spot_numbers(catalog: SpotCatalog, columns: int, rows: int) -> IntArray:
    i, j = catalog.grid_i, catalog.grid_j
    if len(i) and (i.max() >= columns or j.max() >= rows):
        raise SpotError(
            f"exposure {catalog.exposure} has the label ({i.max()}, {j.max()}), outside a mask of {columns} x {rows}",
            remedy="check the size of the mask (columns, rows)",
            value=(int(i.max()), int(j.max())),
        )
    spot = i * rows + j
    if len(np.unique(spot)) < len(spot):
        raise SpotError(f"exposure {catalog.exposure} has a duplicate label", remedy="label it again: permil spots grid")
    return spot


def grouped_median(values: FloatArray, group: IntArray, groups: int) -> FloatArray:
    """Return the median of each group, NaN for empty ones."""
    order = np.argsort(values)
    # NumPy sorts small integers in linear time.
    order = order[np.argsort(group[order].astype(np.min_scalar_type(groups)), kind="stable")]
    counts = np.bincount(group, minlength=groups)
    starts = np.cumsum(counts) - counts
    median = np.full(groups, np.nan)
    there = counts > 0
    low, high = starts[there] + (counts[there] - 1) // 2, starts[there] + counts[there] // 2
    median[there] = (values[order][low] + values[order][high]) / 2
    return median


# Different exposures share rows only through rounding.
_LEAST_COMMON, _COMMON_PART = 5, 0.1


def repeated_catalogs(catalogs: Sequence[SpotCatalog], names: Sequence[str]) -> dict[int, int]:
    """Find catalogs of the same exposure and detector, or of one detector with equal values and any exposure name.

    Values are equal if positions, moments and fluxes of all sources are identical in single precision, in any order of the rows. Repeated
    images of one position are different measurements, with different values.

    Parameters
    ----------
    catalogs
        Catalogs with normalised detector names.
    names
        Name of each catalog in messages (its file).

    Returns
    -------
    dict
        Index of each repeated catalog, and that of the earlier one.

    Raises
    ------
    SpotError
        If catalogs of one exposure and detector differ, catalogs of two detectors are equal, or a catalog contains part of the rows of
        another.
    """
    repeated: dict[int, int] = {}
    by_exposure: dict[tuple[str, str | int], int] = {}
    by_values: dict[bytes, int] = {}
    rows = [_row_keys(catalog) for catalog in catalogs]
    for number, catalog in enumerate(catalogs):
        detector = detector_key(catalog.detector)
        equal = by_values.setdefault(rows[number].tobytes(), number)
        same = by_exposure.setdefault((exposure_key(catalog.exposure), detector), number) if catalog.exposure else number
        if same != number and not np.array_equal(rows[same], rows[number]):
            raise SpotError(
                f"{names[number]} and {names[same]} differ, although both hold {catalog.detector or 'the same detector'} "
                f"of exposure {catalog.exposure}",
                remedy="give only the right one: an exposure is used once, whichever program measured it",
                value=names[number],
                other=names[same],
            )
        if detector_key(catalogs[equal].detector) != detector:
            raise SpotError(
                f"{names[number]} and {names[equal]} have equal values, but one is of {catalog.detector or 'an unknown detector'}, "
                f"the other of {catalogs[equal].detector or 'an unknown detector'}",
                remedy="give each catalog under its own detector",
                value=names[number],
                other=names[equal],
            )
        if equal != number:
            repeated[number] = equal
    _require_no_parts([rows[number] if number not in repeated else rows[number][:0] for number in range(len(rows))], names)
    return repeated


def _require_no_parts(rows: Sequence[NDArray[np.uint64]], names: Sequence[str]) -> None:
    """Raise an error if many rows of one catalog are also in another."""
    keys = np.concatenate([*rows, np.zeros(0, dtype=np.uint64)])
    owner = np.repeat(np.arange(len(rows)), [len(entry) for entry in rows])
    order = np.argsort(keys, kind="stable")
    twice = np.flatnonzero(keys[order[1:]] == keys[order[:-1]])
    pairs = np.stack([owner[order[twice]], owner[order[twice + 1]]], axis=1)
    pairs, counts = np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0, return_counts=True)
    for (first, second), count in zip(pairs, counts, strict=True):
        if count > max(_LEAST_COMMON, _COMMON_PART * min(len(rows[first]), len(rows[second]))):
            raise SpotError(
                f"{count} rows of {names[second]} are identical to rows of {names[first]}: they hold parts of one measurement",
                remedy="give each exposure once",
                value=int(count),
                other=names[first],
            )


def _row_keys(catalog: SpotCatalog) -> NDArray[np.uint64]:
    """Return a sorted array of 64-bit hashes of the rows with a position."""
    located = np.isfinite(catalog.x) & np.isfinite(catalog.y)
    values = np.stack([getattr(catalog, name)[located] for name in QUANTITIES], axis=1)
    # Single precision, to recognise copies in that format; adding 0 converts -0 to 0.
    bits = (np.nan_to_num(values.astype(np.float32), nan=np.inf) + np.float32(0)).view(np.uint32)
    keys = np.zeros(len(bits), dtype=np.uint64)
    for column in bits.T:
        # Mixing function of splitmix64 (Steele et al. 2014).
        keys = (keys ^ column) * np.uint64(0xBF58476D1CE4E5B9)
        keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        keys ^= keys >> np.uint64(31)
    return np.sort(keys)
