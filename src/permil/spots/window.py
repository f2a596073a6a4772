"""Shift the labels of many exposures of one mask to a common window, if the edge of the detector cuts off part of the mask.

If an exposure shows the whole mask, its labels are absolute. Otherwise the fluxes of its spots identify the visible part: at the right
shift the ratio of its fluxes to those of the same spots in other exposures scatters least.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from permil.spots.catalog import SpotCatalog

FloatArray = NDArray[np.float64]

# Smallest ratio of the scatter at the second best shift to that at the best.
_CLEARLY = 1.3
_LEAST_OVERLAP = 0.5
_LEAST_SPOTS = 9


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


def _first_nodes(catalogs: list[SpotCatalog], shifts: dict[int, tuple[int, int]]) -> NDArray[np.int64]:
    lows = []
    for number, shift in shifts.items():
        catalog = catalogs[number].select(catalogs[number].labelled)
        lows.append((int(catalog.grid_i.min()) + shift[0], int(catalog.grid_j.min()) + shift[1]))
    return np.min(lows, axis=0)


def _shifted(catalog: SpotCatalog, shift: NDArray[np.int64]) -> SpotCatalog:
    labelled = catalog.labelled
    return catalog.with_labels(
        np.where(labelled, catalog.grid_i + shift[0], -1), np.where(labelled, catalog.grid_j + shift[1], -1)
    )
