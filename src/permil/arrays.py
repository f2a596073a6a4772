"""One gate for arrays: whatever holds numbers becomes a plain array, NaN where a value is masked, in the unit that is asked for.

Public functions pass their array arguments through `plain_array`, readers of tables and images pass their columns and planes. A
mask, a unit or a foreign byte order is therefore honoured everywhere or nowhere.
"""

from __future__ import annotations

import re
import warnings
from typing import Any

import numpy as np
from astropy import units as u
from numpy.typing import NDArray

from permil.errors import InputError

FloatArray = NDArray[np.float64]

_UNIT_NAMES = {
    "e-": "electron", "e": "electron", "electrons": "electron", "photoelectron": "electron", "photoelectrons": "electron",
    "adu": "adu", "adus": "adu", "dn": "adu", "dns": "adu", "count": "adu", "counts": "adu", "ct": "adu", "cts": "adu",
    "pixels": "pixel", "px": "pixel", "microns": "micron", "per cent": "%", "percent": "%",
}  # fmt: skip
_ELECTRON = re.compile(r"(?<![\w.])e-(?![\w.])")
_NAME = re.compile(r"(?<![\w.])[A-Za-z]+")
_POWER_OF_BRACKET = re.compile(r"\(([^()]*)\)(?:\^|\*\*)?(\d)$")
_COUNTS = (u.ct, u.DN, u.Unit("adu"))


def plain_array(
    values: Any, *, name: str, unit: str | u.UnitBase | None = None, ndim: int | None = None, shape: tuple[int, ...] | None = None
) -> FloatArray:
    """Return numbers as a float64 array in native byte order, NaN where they are masked.

    Parameters
    ----------
    values
        A number, sequence, array, masked array, column, quantity, series, or anything that NumPy can make an array of.
    name
        What the values are, for messages.
    unit
        Unit of the result. Values with another unit are converted, values without a unit are taken to be in this one. None keeps
        the values as they are.
    ndim, shape
        Number of dimensions or shape that the values must have.

    Returns
    -------
    ndarray of float64
        A copy; masked and missing (None) values are NaN.

    Raises
    ------
    InputError
        If the values are not real numbers, have a unit that cannot be converted, or another shape.

    Examples
    --------
    >>> import numpy as np
    >>> plain_array(np.ma.array([1, 2], mask=[False, True]), name="signal")
    array([ 1., nan])
    """
    data, mask = _data_and_mask(values)
    numbers = _numbers(data, mask, name)
    if mask is not None:
        numbers[np.broadcast_to(mask, numbers.shape)] = np.nan
    if unit is not None:
        numbers = numbers * unit_factor(unit_of(values), unit, name=name)
    if ndim is not None and numbers.ndim != ndim:
        raise InputError(f"{name} has {numbers.ndim} dimensions, not {ndim}", remedy=f"give an array of {ndim} dimensions")
    if shape is not None and numbers.shape != shape:
        raise InputError(f"{name} has the shape {numbers.shape}, not {shape}", remedy="give arrays that belong together")
    return numbers


def mask_of(values: Any) -> NDArray[np.bool_]:
    """Return where values are masked or missing, in the shape of the values."""
    data, mask = _data_and_mask(values)
    return np.zeros(np.shape(data), dtype=bool) if mask is None else np.broadcast_to(mask, np.shape(data)).copy()


def unit_of(values: Any) -> u.UnitBase | None:
    """Return the unit that values declare, None where they declare none.

    Raises
    ------
    InputError
        If the unit is not one that exists.
    """
    if isinstance(values, list | tuple) and any(isinstance(entry, u.Quantity) for entry in values):
        values = u.Quantity(values)
    declared = getattr(values, "unit", None)
    return None if declared is None else parse_unit(declared)


def parse_unit(text: str | u.UnitBase) -> u.UnitBase | None:
    """Return the unit of a name in any usual spelling (``e-/ADU``, ``electron / DN``); None for an empty name.

    Counts, ADU and DN are one unit.

    Raises
    ------
    InputError
        If there is no such unit.
    """
    if not isinstance(text, u.UnrecognizedUnit) and isinstance(text, u.UnitBase | u.function.FunctionUnitBase):
        return None if text == u.dimensionless_unscaled else _with_one_count(text)
    words = str(text).strip()
    if not words:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", u.UnitsWarning)
            bracket = _POWER_OF_BRACKET.fullmatch(words)
            if bracket:
                return _with_one_count(u.Unit(_usual_spelling(bracket[1])) ** int(bracket[2]))
            return _with_one_count(u.Unit(_usual_spelling(words)))
    except (ValueError, TypeError) as error:
        raise InputError(
            f"unit {words!r} is unknown", remedy="write a unit of the FITS standard, such as mm or electron/adu", value=words
        ) from error


def unit_factor(declared: u.UnitBase | None, wanted: str | u.UnitBase, *, name: str) -> float:
    """Return by what values in a declared unit are multiplied to be in the wanted one; 1 where no unit is declared.

    Raises
    ------
    InputError
        If one cannot be converted to the other.
    """
    target = parse_unit(wanted) or u.dimensionless_unscaled
    if declared is None:
        return 1.0
    try:
        return float((1.0 * declared).to_value(target))
    except (u.UnitConversionError, u.UnitTypeError, TypeError) as error:
        raise InputError(
            f"{name} is given in {declared}, which cannot be converted to {wanted}",
            remedy=f"give it in {wanted}",
            value=str(declared),
            expected=str(wanted),
        ) from error


def _with_one_count(unit: Any) -> Any:
    """Return the unit with counts and DN replaced by ADU."""
    if not isinstance(unit, u.UnitBase) or isinstance(unit, u.UnrecognizedUnit):
        return unit
    bases = [u.adu if base in _COUNTS else base for base in unit.bases]
    return u.CompositeUnit(unit.scale, bases, unit.powers)


def _usual_spelling(words: str) -> str:
    """Return a unit with the names that astropy knows."""
    if words.lower() in _UNIT_NAMES:
        return _UNIT_NAMES[words.lower()]
    electrons = _ELECTRON.sub("electron", words)
    return _NAME.sub(lambda match: _UNIT_NAMES.get(match[0].lower(), match[0]), electrons)


def _data_and_mask(values: Any) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """Return plain data and mask (None where nothing is masked)."""
    if isinstance(values, np.ma.MaskedArray):
        return np.asarray(np.ma.getdata(values)), np.asarray(np.ma.getmaskarray(values))
    if hasattr(values, "unmasked") and hasattr(values, "mask"):  # astropy's Masked
        return np.asarray(getattr(values.unmasked, "value", values.unmasked)), np.asarray(values.mask)
    if isinstance(values, u.Quantity):
        return np.asarray(values.value), None
    if isinstance(values, list | tuple) and any(isinstance(entry, u.Quantity) for entry in values):
        return np.asarray(u.Quantity(values).value), None
    if isinstance(values, list | tuple) and any(np.ma.isMaskedArray(entry) or hasattr(entry, "unmasked") for entry in values):
        parts = [_data_and_mask(entry) for entry in values]
        return np.array([data for data, _ in parts]), np.array(
            [np.zeros(data.shape, bool) if mask is None else mask for data, mask in parts]
        )
    data = np.asarray(values)
    if data.dtype.kind == "O":
        missing = np.array([_is_missing(entry) for entry in data.ravel()], dtype=bool).reshape(data.shape)
        return data, missing if missing.any() else None
    return data, None


def _is_missing(entry: Any) -> bool:
    return entry is None or entry is np.ma.masked or type(entry).__name__ in ("NAType", "NaTType")


def _numbers(data: NDArray[Any], mask: NDArray[np.bool_] | None, name: str) -> FloatArray:
    if data.dtype.kind in "fiub":
        return np.array(data, dtype=np.float64)
    if data.dtype.kind == "O":
        flat = np.full(data.size, np.nan)
        for index, entry in enumerate(data.ravel()):
            if mask is None or not np.broadcast_to(mask, data.shape).ravel()[index]:
                if isinstance(entry, str | bytes) or not np.isscalar(entry) or np.iscomplexobj(entry):
                    raise _not_numbers(name, entry)
                flat[index] = float(entry)  # type: ignore[arg-type]
        return flat.reshape(data.shape)
    raise _not_numbers(name, data.ravel()[0] if data.size else data.dtype.name)


def _not_numbers(name: str, example: Any) -> InputError:
    return InputError(f"{name} does not hold real numbers (there is {example!r})", remedy="give numbers", value=example)
