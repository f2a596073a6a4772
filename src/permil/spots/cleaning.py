"""Missing values and duplicates in catalogs: markers of missing values, duplicate rows, duplicate catalogs.

Each measurement counts once, whatever the names of the files that contain it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from permil.arrays import BoolArray, FloatArray, IntArray
from permil.camera import detector_key
from permil.errors import SpotError
from permil.spots.catalog import QUANTITIES, SpotCatalog, exposure_key

# Values that programs write for missing measurements. They are ambiguous individually: see `drop_nulls`.
_NEGATIVE = (-99.0, -99.9, -999.0, -9999.0, -99999.0, -999999.0, -32768.0, -2147483648.0)
_OTHER = (-1.0, 0.0, 99.0, 99.9, 999.0, 9999.0, 99999.0, 999999.0, 32767.0, 2147483647.0)
# Larger than any sensor (pixels) or flux.
_FAR, _BRIGHT = 1e6, 1e15
# Single precision rounds markers.
_ROUNDING = 1e-6

# Different exposures share rows only through rounding.
_LEAST_COMMON, _COMMON_PART = 5, 0.1


def drop_nulls(values: dict[str, FloatArray], columns: dict[str, str]) -> list[str]:
    """Replace unambiguous markers of missing values by NaN; return clauses that describe the changes.

    Markers are: a position, moment or flux of enormous size; a negative marker (-99, -999, -9999 ...) as a position or moment, or as a flux
    that occurs twice or has such an error; the same marker (also -1, 0, 99 ...) in both coordinates, in both moments, or in a flux and its
    error, unless all values are integers. Errors that are enormous or not positive are also removed.

    Parameters
    ----------
    values
        Arrays by quantity (``x``, ``y``, ``xx``, ``yy``, ``xy``, ``flux``), and their errors; changed in place.
    columns
        Names of the columns, for the clauses.
    """
    x, y, xx, yy, xy = (values[name] for name in ("x", "y", "xx", "yy", "xy"))
    flux, flux_err = values["flux"], values["flux_err"]
    found: dict[str, BoolArray] = {}
    # If one coordinate is a marker, neither is a measurement.
    nowhere = _impossible(x) | _impossible(y) | _same_marker(x, y)
    found["x"], found["y"] = nowhere & np.isfinite(x), nowhere & np.isfinite(y)
    shapeless = _same_marker(xx, yy)
    for name in ("xx", "yy"):
        found[name] = _impossible(values[name]) | _is_one_of(values[name], (-1.0,)) | shapeless
    found["xy"] = _impossible(xy) | (_is_one_of(xy, _NEGATIVE + _OTHER) & (found["xx"] | found["yy"]))
    marked = _is_one_of(flux, _NEGATIVE)
    repeated = marked & (np.isin(flux, _values_that_repeat(flux[marked])))
    no_error = np.isfinite(flux_err) & ((flux_err <= 0) | _is_one_of(flux_err, _NEGATIVE + _OTHER))
    found["flux"] = (np.abs(flux) >= _BRIGHT) | repeated | (marked & no_error) | _same_marker(flux, flux_err)
    clauses = []
    for name, missing in found.items():
        if missing.any():
            example = values[name][np.flatnonzero(missing)[0]]
            clauses.append(f"{int(missing.sum())} values of {columns[name]} mark missing data ({example:g}): not used")
            values[name][missing] = np.nan
    for name in found:
        value, error = values[name], values[f"{name}_err"]
        error[~((error > 0) & (error < _BRIGHT)) | ~np.isfinite(value)] = np.nan
    values["background"][np.abs(values["background"]) >= _BRIGHT] = np.nan
    return clauses


def repeated_rows(values: dict[str, FloatArray]) -> IntArray:
    """Return the rows whose positions, moments and flux equal those of an earlier row exactly; rows without a position are ignored."""
    located = np.flatnonzero(np.isfinite(values["x"]) & np.isfinite(values["y"]))
    rows = np.stack([values[name][located] for name in ("x", "y", "xx", "yy", "xy", "flux")], axis=1)
    _, first = np.unique(np.nan_to_num(rows, nan=np.inf), axis=0, return_index=True)
    return np.delete(located, first)


def _impossible(values: FloatArray) -> BoolArray:
    return (np.abs(values) >= _FAR) | _is_one_of(values, _NEGATIVE)


def _same_marker(first: FloatArray, second: FloatArray) -> BoolArray:
    """Return which rows have the same marker in two quantities; none if all values are integers, which may be equal by chance."""
    known = np.concatenate([first[np.isfinite(first)], second[np.isfinite(second)]])
    if (known == np.rint(known)).all():
        return (first == second) & _is_one_of(first, (*_NEGATIVE, -1.0))
    return (first == second) & _is_one_of(first, _NEGATIVE + _OTHER)


def _is_one_of(values: FloatArray, markers: tuple[float, ...]) -> BoolArray:
    return np.isclose(values[:, None], np.array(markers), rtol=_ROUNDING, atol=0.0).any(axis=1)


def _values_that_repeat(values: FloatArray) -> FloatArray:
    distinct, counts = np.unique(values, return_counts=True)
    return distinct[counts > 1]


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
