"""Markers of missing values in catalogs, and duplicate rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

# Values that programs write for missing measurements. They are ambiguous individually: see `drop_nulls`.
_NEGATIVE = (-99.0, -99.9, -999.0, -9999.0, -99999.0, -999999.0, -32768.0, -2147483648.0)
_OTHER = (-1.0, 0.0, 99.0, 99.9, 999.0, 9999.0, 99999.0, 999999.0, 32767.0, 2147483647.0)
# Larger than any sensor (pixels) or flux.
_FAR, _BRIGHT = 1e6, 1e15
# Single precision rounds markers.
_ROUNDING = 1e-6


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
    found: dict[str, NDArray[np.bool_]] = {}
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


def _impossible(values: FloatArray) -> NDArray[np.bool_]:
    return (np.abs(values) >= _FAR) | _is_one_of(values, _NEGATIVE)


def _same_marker(first: FloatArray, second: FloatArray) -> NDArray[np.bool_]:
    """Return which rows have the same marker in two quantities; none if all values are integers, which may be equal by chance."""
    known = np.concatenate([first[np.isfinite(first)], second[np.isfinite(second)]])
    if (known == np.rint(known)).all():
        return (first == second) & _is_one_of(first, (*_NEGATIVE, -1.0))
    return (first == second) & _is_one_of(first, _NEGATIVE + _OTHER)


def _is_one_of(values: FloatArray, markers: tuple[float, ...]) -> NDArray[np.bool_]:
    return np.isclose(values[:, None], np.array(markers), rtol=_ROUNDING, atol=0.0).any(axis=1)


def _values_that_repeat(values: FloatArray) -> FloatArray:
    distinct, counts = np.unique(values, return_counts=True)
    return distinct[counts > 1]
