"""The split over levels for a whole run: for its flats, and for stars with their flats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from astropy.table import Table
from astropy.wcs import WCS
from numpy.typing import NDArray

from permil.camera import Camera
from permil.camera.frames import amplifier_at, ccs_to_detector, detector_to_ccs
from permil.compare.errors import CompareError
from permil.compare.levels.groups import CellPlaces
from permil.compare.levels.split import pair_levels, split_levels
from permil.flat.superpixel import super_pixels
from permil.products import ImageProduct

FloatArray = NDArray[np.float64]

_MOST_CELLS = 20_000
"""Largest number of cells of the focal plane per LED; the mosaic is binned accordingly."""


def star_levels(cells: Sequence[tuple[str, str, Table]], camera: Camera, *, seed: int) -> list[dict[str, Any]]:
    """Return the split of flux and flat, one row per level; each detector is relative to its own mean.

    Parameters
    ----------
    cells
        Detector, band and table CELLS of each comparison.
    """
    parts = []
    for name, band, table in cells:
        detector = camera[name]
        x, y = (
            np.minimum(np.asarray(table[axis], dtype=float), size - 1.0)
            for axis, size in (("x", detector.nx), ("y", detector.ny))
        )
        number = amplifier_at(detector, x, y)
        parts.append((name, band, [detector.amplifiers[index].name for index in number], *detector_to_ccs(detector, x, y), table))
    places = CellPlaces(
        detector=np.concatenate([np.full(len(part[-1]), part[0]) for part in parts]),
        amplifier=np.concatenate([np.array(part[2]) for part in parts]),
        led=np.concatenate([np.full(len(part[-1]), part[1] or "-") for part in parts]),
        cell=np.concatenate([np.asarray(part[-1]["cell"]) for part in parts]),
        x_mm=np.concatenate([part[3] for part in parts]),
        y_mm=np.concatenate([part[4] for part in parts]),
    )
    flat, flat_error, star, star_error = (
        np.concatenate([np.asarray(part[-1][name], dtype=float) for part in parts])
        for name in ("flat", "flat_err", "star", "star_err")
    )
    try:
        split = pair_levels(flat, flat_error, star, star_error, places, seed=seed)
    except CompareError as reason:
        return [_absent("stars and flat", str(reason))]
    return [{"of": "stars and flat", **row} for row in split.rows()] + _left_out("stars and flat", split.flat.left_out)


def flat_levels(mosaics: Sequence[tuple[str, ImageProduct]], camera: Camera, *, seed: int) -> list[dict[str, Any]]:
    """Return the split of the flats of a run, one row per level.

    Parameters
    ----------
    mosaics
        LED and binned mosaic of the focal plane.
    """
    parts = [(led, *_mosaic_cells(mosaic, camera)) for led, mosaic in mosaics]
    names = np.concatenate([part[1] for part in parts])
    places = CellPlaces(
        detector=names,
        raft=np.array([camera[str(name)].raft for name in names]),
        amplifier=np.concatenate([part[2] for part in parts]),
        led=np.concatenate([np.full(part[1].size, part[0]) for part in parts]),
        cell=np.concatenate([part[3] for part in parts]),
        x_mm=np.concatenate([part[4] for part in parts]),
        y_mm=np.concatenate([part[5] for part in parts]),
    )
    value, error = (np.concatenate([part[index] for part in parts]) for index in (6, 7))
    try:
        split = split_levels(value, error, places, seed=seed)
    except CompareError as reason:
        return [_absent("flat", str(reason))]
    renamed = {"rms_per_mil": "flat_rms_per_mil", "rms_per_mil_err": "flat_rms_per_mil_err"}
    rows = [{"of": "flat", **{renamed.get(name, name): entry for name, entry in row.items()}} for row in split.rows()]
    return rows + _left_out("flat", split.left_out)


def _mosaic_cells(mosaic: ImageProduct, camera: Camera) -> tuple[Any, ...]:
    """Return detector, amplifier, cell, position (mm), value and error of the cells of a mosaic, after binning."""
    good = (mosaic.mask == 0) & np.isfinite(mosaic.image) & (mosaic.image > 0)
    block = max(1, int(np.ceil(np.sqrt(good.sum() / _MOST_CELLS))))
    mean, spread = super_pixels(mosaic.image, good, block), super_pixels(mosaic.variance, good, block)
    rows, columns = np.nonzero(mean.count > 0.75 * block**2)
    # The alternate coordinate system C is CCS.
    wcs = WCS(mosaic.image_header, key="C")
    x_mm, y_mm = wcs.pixel_to_world_values(*(block * index + (block - 1) / 2 for index in (columns, rows)))
    names = np.asarray(camera.detector_at(x_mm, y_mm)).astype(str)
    amplifiers = np.full(names.size, "", dtype="U8")
    for name in set(names) - {""}:
        of = names == name
        detector = camera[name]
        number = amplifier_at(detector, *ccs_to_detector(detector, x_mm[of], y_mm[of]))
        amplifiers[of] = [detector.amplifiers[index].name if index >= 0 else "" for index in number]
    known = (names != "") & (amplifiers != "")
    value = mean.mean[rows, columns]
    error = np.sqrt(spread.mean[rows, columns] / mean.count[rows, columns])
    cell = rows * mean.mean.shape[1] + columns
    return tuple(array[known] for array in (names, amplifiers, cell, x_mm, y_mm, value / np.median(value[known]) - 1, error))


def _left_out(of: str, entries: Sequence[Any]) -> list[dict[str, Any]]:
    return [{"of": of, "level": entry.level, "part": entry.part, "reason": entry.reason} for entry in entries]


def _absent(of: str, reason: str) -> dict[str, Any]:
    return {"of": of, "level": "all", "part": "all", "reason": reason}
