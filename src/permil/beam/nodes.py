"""Nodes of a beam scan: the signals of bunches of pixels with the projector at one position."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from permil.arrays import BoolArray, FloatArray, IntArray, plain_array, require_linear, unit_of
from permil.camera import detector_key, is_bay_and_slot
from permil.errors import BeamError, InputError, PhotodiodeError
from permil.products.tables import labels, numbers, recognise

if TYPE_CHECKING:
    from astropy.table import Table

    from permil.camera import Camera, Detector


REQUIRED_COLUMNS = ("x_mm", "y_mm", "signal")
PLACE_COLUMNS = ("ref_x_mm", "ref_y_mm")
BOX_COLUMNS = ("detector", "amp", "row", "column", "box")
BUNCH_COLUMNS = ("bunch", *BOX_COLUMNS, *PLACE_COLUMNS)
"""Columns that identify bunches, or locate them."""
_OPTIONAL_COLUMNS = ("signal_err", "photodiode", "mjd", "exposure", *BUNCH_COLUMNS)
_OTHER_NAMES = {
    "signal_err": ("err", "error", "sigma", "std", "uncertainty", "sigma_signal", "signal_sigma", "signal_std", "flux_err"),
    "photodiode": ("pd", "diode", "photo", "monitor", "ccobadc", "adc", "reading"),
}
_ALSO_KNOWN = ("rows", "obsid")

REPEATED = "the same measurement as another row, counted once"
# Signals with no more digits than this can agree by chance.
_DIGITS = 6
_AMPLIFIER = re.compile(r"(?:amp(?:lifier)?|(c|seg|segment))?[\s_-]*0*(\d{1,2})", re.IGNORECASE)
_COPIED_NODES = 3


@dataclass(frozen=True)
class BeamNodes:
    """Measured nodes of one LED, one row per bunch and exposure.

    Parameters
    ----------
    x_mm, y_mm : ndarray, shape (n,)
        Projector positions, CCS mm.
    ref_x_mm, ref_y_mm : ndarray, shape (n,)
        Position of the bunch of pixels, CCS mm.
    signal : ndarray, shape (n,)
        Positive signal of the bunch, any unit.
    signal_err : ndarray, shape (n,)
        Its standard error; NaN where unknown.
    bunch : ndarray of str, shape (n,)
        Label of the bunch; each bunch has its own relative gain.
    exposure : ndarray of int, shape (n,)
        Number of the exposure: nodes of one exposure share its scale error; -1 for a single node.
    mjd : ndarray, shape (n,)
        Time; NaN where unknown.
    rows : ndarray of int, shape (n,)
        Row of each node in its table.
    dropped : dict
        Rows left out, by reason.
    unit : str
        Unit of the signal.

    Raises
    ------
    BeamError
        If the arrays differ in length, or a position is not finite, or a signal is not positive.
    """

    x_mm: FloatArray
    y_mm: FloatArray
    ref_x_mm: FloatArray
    ref_y_mm: FloatArray
    signal: FloatArray
    signal_err: FloatArray
    bunch: NDArray[np.str_]
    exposure: IntArray
    mjd: FloatArray
    rows: IntArray
    dropped: dict[str, list[int]] = field(default_factory=dict)
    unit: str = ""

    def __post_init__(self) -> None:
        """Check the arrays."""
        for name in ("x_mm", "y_mm", "ref_x_mm", "ref_y_mm", "signal", "signal_err", "mjd"):
            unit = "mm" if name.endswith("_mm") else "d" if name == "mjd" else None
            object.__setattr__(self, name, plain_array(getattr(self, name), name=name, unit=unit))
        lengths = {name: np.shape(getattr(self, name)) for name in NODE_ARRAYS}
        if any(shape != (self.signal.size,) for shape in lengths.values()):
            raise BeamError(
                f"the node arrays differ in shape: {', '.join(f'{name} {shape}' for name, shape in lengths.items())}",
                remedy="give one-dimensional arrays of equal length",
            )
        if not np.isfinite([self.x_mm, self.y_mm, self.ref_x_mm, self.ref_y_mm]).all():
            raise BeamError("a node has a position that is not finite", remedy="remove such nodes")
        if not (np.isfinite(self.signal) & (self.signal > 0)).all():
            raise BeamError("a node has a signal that is not positive", remedy="remove such nodes")

    @classmethod
    def from_columns(
        cls,
        x_mm: ArrayLike,
        y_mm: ArrayLike,
        signal: ArrayLike,
        *,
        signal_err: ArrayLike = np.nan,
        ref_x_mm: ArrayLike = 0.0,
        ref_y_mm: ArrayLike = 0.0,
        bunch: ArrayLike = "all",
        exposure: ArrayLike | None = None,
        mjd: ArrayLike = np.nan,
        photodiode: ArrayLike | None = None,
        rows: ArrayLike | None = None,
        unit: str = "",
    ) -> BeamNodes:
        """Create nodes from columns with rows in any order; unusable rows are left out and listed in `dropped`.

        Masks and units are respected: positions in other units are converted, the error must be convertible to the unit of the signal,
        and a signal in magnitudes is refused. A row that repeats another one, with equal position, signal, error and photodiode, is
        left out. Signals of at most six digits can agree by chance: they must also have the same time and exposure.

        Parameters
        ----------
        photodiode
            Reading of the control photodiode; signal and error are divided by it.
        exposure
            Labels of the exposures (integers or text; -1, masked or empty for none). By default nodes of different bunches with equal
            projector position and time belong to one exposure.

        Raises
        ------
        InputError
            If a column does not hold real numbers, or its unit cannot be converted.
        BeamError
            If the columns differ in length, or two bunches at different positions have the same signals.
        PhotodiodeError
            If photodiode readings are given and none is usable.
        """
        signal_unit = unit or unit_of(signal) or unit_of(signal_err)
        given: dict[str, tuple[Any, Any]] = {
            "x_mm": (x_mm, "mm"),
            "y_mm": (y_mm, "mm"),
            "ref_x_mm": (ref_x_mm, "mm"),
            "ref_y_mm": (ref_y_mm, "mm"),
        }
        given |= {"signal": (signal, signal_unit), "signal_err": (signal_err, signal_unit), "mjd": (mjd, "d")}
        require_linear(unit_of(signal), name="signal")
        floats: list[Any] = [np.atleast_1d(plain_array(column, name=name, unit=of)) for name, (column, of) in given.items()]
        *floats, named = _broadcast([*floats, np.atleast_1d(np.asarray(bunch, dtype=str))], [*given, "bunch"])
        columns: dict[str, Any] = {**dict(zip(given, floats, strict=True)), "bunch": named}
        columns["rows"] = np.arange(named.size) if rows is None else np.asarray(rows)
        numbered = None if exposure is None else _numbered_exposures(exposure, named.shape)
        positions = columns["x_mm"] + columns["y_mm"] + columns["ref_x_mm"] + columns["ref_y_mm"]
        reasons = {"position is not finite": ~np.isfinite(positions)}
        measured = [columns["signal"], columns["signal_err"]]
        if photodiode is not None:
            require_linear(unit_of(photodiode), name="photodiode")
            reading, _ = _broadcast([np.atleast_1d(plain_array(photodiode, name="photodiode")), named], ["photodiode", "bunch"])
            measured.append(reading)
            unusable = ~(np.isfinite(reading) & (reading > 0))
            if unusable.all():
                raise PhotodiodeError(
                    "no node has a usable photodiode reading", remedy="remove the column photodiode to fit without it"
                )
            reasons["photodiode is missing, zero or negative"] = unusable
            reading = np.where(unusable, 1.0, reading)
            columns["signal"], columns["signal_err"] = columns["signal"] / reading, columns["signal_err"] / reading
        reasons["signal is missing, zero or negative"] = ~(np.isfinite(columns["signal"]) & (columns["signal"] > 0))
        columns["signal_err"] = np.where(
            np.isfinite(columns["signal_err"]) & (columns["signal_err"] > 0), columns["signal_err"], np.nan
        )
        reasons[REPEATED] = _repeated(columns, measured, numbered, ~np.any(list(reasons.values()), axis=0))
        good = ~np.any(list(reasons.values()), axis=0)
        dropped = {reason: columns["rows"][bad].tolist() for reason, bad in reasons.items() if bad.any()}
        columns = {name: np.array(column[good]) for name, column in columns.items()}
        numbers_of = _exposures_by_position(columns) if numbered is None else numbered[good]
        return cls(**columns, exposure=numbers_of, dropped=dropped, unit=unit or _unit_name(signal, signal_unit))

    @property
    def ux(self) -> FloatArray:
        """First beam coordinate, position minus projector, mm."""
        return self.ref_x_mm - self.x_mm

    @property
    def uy(self) -> FloatArray:
        """Second beam coordinate, position minus projector, mm."""
        return self.ref_y_mm - self.y_mm

    @property
    def u(self) -> FloatArray:
        """Beam coordinates, shape (n, 2)."""
        return np.column_stack([self.ux, self.uy])

    def __len__(self) -> int:
        """Return the number of nodes."""
        return self.signal.size

    def __getitem__(self, index: Any) -> BeamNodes:
        """Return the nodes of an index array, mask or slice."""
        return replace(self, **{name: getattr(self, name)[index] for name in NODE_ARRAYS})

    def canonical(self) -> BeamNodes:
        """Return the nodes in an order independent of the order of the rows."""
        keys = (self.mjd, self.signal_err, self.signal, self.bunch, self.uy, self.ux)
        return self[np.lexsort(keys)]


NODE_ARRAYS = ("x_mm", "y_mm", "ref_x_mm", "ref_y_mm", "signal", "signal_err", "bunch", "exposure", "mjd", "rows")


def _broadcast(arrays: list[Any], names: list[str]) -> list[Any]:
    try:
        return list(np.broadcast_arrays(*arrays))
    except ValueError as error:
        sizes = ", ".join(f"{name} {array.shape}" for name, array in zip(names, arrays, strict=True))
        raise BeamError(
            f"the node arrays differ in shape: {sizes}", remedy="give one-dimensional arrays of equal length"
        ) from error


def _numbered_exposures(exposure: Any, shape: tuple[int, ...]) -> IntArray:
    """Return a number for each exposure label, -1 for none."""
    plain = np.asarray(getattr(exposure, "unmasked", np.ma.getdata(exposure)))
    if plain.dtype.kind in "USO" and not all(
        isinstance(entry, int | float | np.number) or entry is None for entry in plain.ravel()
    ):
        named = np.array([entry.decode() if isinstance(entry, bytes) else str(entry) for entry in plain.ravel()]).reshape(
            plain.shape
        )
        named = np.where(np.ma.getmaskarray(exposure) | np.isin(named, ["", "-1", "None"]), "", np.char.strip(named))
        different, number = np.unique(named, return_inverse=True)
        found = np.where(named == "", -1, number.reshape(named.shape) - int(different[0] == ""))
    else:
        values = plain_array(exposure, name="exposure")
        if np.any(np.isfinite(values) & (values != np.rint(values))):
            raise InputError("exposure holds numbers that are not integers", remedy="give integers or names of exposures")
        found = np.where(np.isfinite(values), values, -1.0).astype(np.int64)
    if found.shape not in (shape, ()):
        raise BeamError(
            f"the node arrays differ in shape: exposure {found.shape}, signal {shape}", remedy="give one label per node"
        )
    return np.broadcast_to(found, shape).astype(np.int64)


def _repeated(columns: dict[str, Any], measured: list[FloatArray], exposure: IntArray | None, usable: BoolArray) -> BoolArray:
    """Return which rows repeat an earlier measurement.

    Raises
    ------
    BeamError
        If all signals of a bunch equal those of a bunch at another position.
    """
    positions = [columns["x_mm"], columns["y_mm"]]
    places = [columns["ref_x_mm"], columns["ref_y_mm"]]
    _, bunch = np.unique(columns["bunch"], return_inverse=True)
    own = _groups([*positions, *places, *measured])
    if _has_few_digits(measured[0][usable]):
        further = [columns["mjd"]] if exposure is None else [columns["mjd"], exposure.astype(float)]
        own = _groups([own.astype(float), bunch.reshape(-1).astype(float), *further])
    repeated = np.zeros(usable.size, dtype=bool)
    repeated[usable] = True
    repeated[np.flatnonzero(usable)[np.unique(own[usable], return_index=True)[1]]] = False
    return repeated | _copied_bunches(columns, _groups([*positions, *measured]), usable & ~repeated)


def _groups(columns: Iterable[FloatArray]) -> IntArray:
    """Return a group number for each row, equal for rows with equal values; NaN equals NaN."""
    table = np.column_stack([np.where(np.isnan(column), np.inf, column) + 0.0 for column in columns])
    return np.unique(table, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)


def _has_few_digits(signal: FloatArray) -> bool:
    """Return whether all signals have so few digits that different measurements may agree by chance."""
    return all(float(f"{value:.{_DIGITS - 1}e}") == value for value in signal.tolist())


def _copied_bunches(columns: dict[str, Any], node: IntArray, usable: BoolArray) -> BoolArray:
    """Return the rows of bunches whose nodes all equal those of a bunch with another name at the same position.

    Raises
    ------
    BeamError
        If they equal those of a bunch at another position.
    """
    copied = np.zeros(usable.size, dtype=bool)
    bunches: dict[tuple[str, float, float], list[int]] = {}
    keys = zip(columns["bunch"].tolist(), columns["ref_x_mm"].tolist(), columns["ref_y_mm"].tolist(), strict=True)
    for row, key in enumerate(keys):
        if usable[row]:
            bunches.setdefault(key, []).append(row)
    known = [(key, rows, set(node[rows].tolist())) for key, rows in bunches.items()]
    for number, (key, rows, nodes) in enumerate(known):
        if len(nodes) < _COPIED_NODES or np.ptp(columns["signal"][rows]) == 0.0:
            continue
        for other, _, others in known[:number]:
            if nodes <= others and key[1:] != other[1:]:
                raise BeamError(
                    f"bunch {key[0]} at ({key[1]:g}, {key[2]:g}) mm has the same signals in all its {len(nodes)} nodes as bunch "
                    f"{other[0]} at ({other[1]:g}, {other[2]:g}) mm",
                    remedy="remove the copy",
                    value=[key[0], other[0]],
                )
            copied[rows] |= nodes <= others
    return copied


def _exposures_by_position(columns: dict[str, Any]) -> IntArray:
    """Number the exposures by projector position and time; -1 if these are ambiguous or unknown."""
    mjd = np.where(np.isfinite(columns["mjd"]), columns["mjd"], -1.0)
    keys = np.column_stack([columns["x_mm"], columns["y_mm"], mjd])
    _, label = np.unique(keys, axis=0, return_inverse=True)
    label = label.reshape(-1).astype(np.int64)
    _, bunch = np.unique(columns["bunch"], return_inverse=True)
    pairs, counts = np.unique(np.column_stack([label, bunch.reshape(-1)]), axis=0, return_counts=True)
    # A bunch that occurs twice at one position implies several exposures, to which nodes cannot be assigned.
    ambiguous = np.unique(pairs[counts > 1, 0]) if len(pairs) else label
    label[np.isin(label, ambiguous)] = -1
    return label


def nodes_from_table(table: Table, *, amp: str | int | None = None, camera: Camera | None = None) -> BeamNodes:
    """Create nodes from a table with rows in any order.

    Parameters
    ----------
    table
        Columns ``x_mm``, ``y_mm`` (projector, CCS mm), ``signal``; optionally ``signal_err``, ``photodiode``, ``mjd``, ``amp``,
        ``exposure``, and the position of the bunch: ``ref_x_mm``, ``ref_y_mm``, or ``detector``, ``amp``, ``row``, ``column``,
        ``box`` (trimmed raw segment; needs ``camera``). Without a position the bunch is at (0, 0).
    amp
        Use only the rows of this amplifier.
    camera
        Camera with the positions of the amplifiers.

    Raises
    ------
    InputError
        If a column is missing, or ``amp`` is not in the table.
    BeamError
        If the table has several amplifiers at unknown positions.
    """
    table = recognise(
        table, needed=REQUIRED_COLUMNS, optional=(*_OPTIONAL_COLUMNS, *_ALSO_KNOWN), hints=_OTHER_NAMES, purpose="node table"
    )
    rows = np.arange(len(table))
    if amp is not None:
        rows = rows[_rows_of_amplifier(table, amp)]
        table = table[rows]
    bunch = bunch_labels(table, camera)
    ref_x_mm, ref_y_mm = _places(table, bunch, camera)
    signal_unit = _common_unit(table, ("signal", "signal_err"))
    return BeamNodes.from_columns(
        numbers(table, "x_mm", unit="mm"),
        numbers(table, "y_mm", unit="mm"),
        numbers(table, "signal", unit=signal_unit),
        signal_err=numbers(table, "signal_err", unit=signal_unit, default=np.nan),
        mjd=numbers(table, "mjd", unit="d", default=np.nan),
        ref_x_mm=ref_x_mm,
        ref_y_mm=ref_y_mm,
        bunch=bunch,
        exposure=table["exposure"] if "exposure" in table.colnames else None,
        photodiode=_photodiode(table),
        rows=rows,
        unit=_unit_name(table["signal"], signal_unit),
    )


def _common_unit(table: Table, names: tuple[str, ...]) -> Any:
    """Return the unit of the first column that declares one, which must be linear."""
    for name in names:
        unit = unit_of(table[name]) if name in table.colnames else None
        if unit is not None:
            require_linear(unit, name=f"column {name}")
            return unit
    return None


def _unit_name(signal: Any, unit: Any) -> str:
    """Return the declared unit of signals, or that of their errors; empty if there is none."""
    declared = getattr(signal, "unit", None)
    return str(declared or unit or "")


def _photodiode(table: Table) -> FloatArray | None:
    if "photodiode" not in table.colnames:
        return None
    require_linear(unit_of(table["photodiode"]), name="column photodiode")
    return numbers(table, "photodiode")


def _rows_of_amplifier(table: Table, amp: str | int) -> BoolArray:
    if "amp" not in table.colnames:
        raise InputError(
            f"amplifier {amp} was requested, but the node table has no column amp", remedy="omit the amplifier", value=amp
        )
    named = np.array(_amplifier_labels(table))
    if amplifier_label(amp) not in named:
        allowed = sorted(set(named.tolist()) - {""}, key=lambda label: (len(label), label))
        raise InputError(
            f"the node table has no amplifier {amp}", remedy=f"amplifiers are {', '.join(allowed)}", value=amp, allowed=allowed
        )
    return named == amplifier_label(amp)


def amplifier_label(label: Any) -> str:
    """Normalise the name of an amplifier: ``C14`` for ``c14`` and ``Segment14``, ``5`` for ``Amp05`` and 5.0."""
    text = str(label).strip()
    match = _AMPLIFIER.fullmatch(text)
    if match is None:
        return text
    return f"C{int(match[2]):02d}" if match[1] else str(int(match[2]))


def _amplifier_labels(table: Table) -> list[str]:
    return [amplifier_label(label) for label in labels(table, "amp")]


def bunch_labels(table: Table, camera: Camera | None = None) -> NDArray[np.str_]:
    """Return one label per row from the columns that identify bunches.

    Raises
    ------
    InputError
        If a row does not name its bunch, or names a detector unknown to the camera.
    """
    names = [name for name in BOX_COLUMNS if name in table.colnames and name != "box"]
    if "bunch" in table.colnames:
        names = ["bunch"]
    elif not names and set(PLACE_COLUMNS) <= set(table.colnames):
        places = [numbers(table, name, unit="mm") for name in PLACE_COLUMNS]
        return np.array([f"{x} {y}" for x, y in zip(*places, strict=True)], dtype=str)
    columns = []
    for name in names:
        named = _amplifier_labels(table) if name == "amp" else [str(label) for label in labels(table, name)]
        if name == "detector":
            named = [_detector_label(label, camera, row) for row, label in enumerate(named)]
        if "" in named:
            raise InputError(
                f"column {name} is empty in row {named.index('') + 1}",
                remedy="name the bunch in each row, or remove the row",
                row=named.index("") + 1,
            )
        columns.append(named)
    return np.array([" ".join(parts) for parts in zip(*columns, strict=True)] if columns else ["all"] * len(table), dtype=str)


def _detector_label(label: str, camera: Camera | None, row: int) -> str:
    """Return the camera's name of a detector, or its usual spelling."""
    if camera is not None and label:
        return _detector_of(camera, label, row).name
    key = detector_key(label)
    return f"{str(key)[:3]}_{str(key)[3:]}" if is_bay_and_slot(label) else label


def _detector_of(camera: Camera, label: str | int, row: int) -> Detector:
    detector = camera.find(label)
    if detector is None:
        raise InputError(
            f"column detector holds {label!r} in row {row + 1}, which is not a detector of camera {camera.name}",
            remedy="write it as R22_S11, or as its number or serial number",
            value=label,
            row=row + 1,
        )
    return detector


def _places(table: Table, bunch: NDArray[np.str_], camera: Camera | None) -> tuple[FloatArray, FloatArray]:
    """Return the position of the bunch of each row, CCS mm."""
    given = [name for name in PLACE_COLUMNS if name in table.colnames]
    if len(given) == len(PLACE_COLUMNS):
        return numbers(table, "ref_x_mm", unit="mm"), numbers(table, "ref_y_mm", unit="mm")
    if given:
        raise InputError(
            f"the node table has column {given[0]} without its pair", remedy="give both ref_x_mm and ref_y_mm, or neither"
        )
    if camera is not None and set(BOX_COLUMNS) <= set(table.colnames):
        return _places_in_camera(table, bunch, camera)
    bunches = np.unique(bunch)
    if bunches.size > 1:
        raise BeamError(
            f"the node table holds {bunches.size} amplifiers without their positions",
            remedy="add columns ref_x_mm and ref_y_mm (or detector, row, column and box), or choose one amplifier with --amp",
            allowed=bunches.tolist(),
        )
    return np.zeros(len(table)), np.zeros(len(table))


def _places_in_camera(table: Table, bunch: NDArray[np.str_], camera: Camera) -> tuple[FloatArray, FloatArray]:
    from permil.camera.frames import box_in_detector, detector_to_ccs

    x_mm, y_mm = np.empty(len(table)), np.empty(len(table))
    boxes = np.column_stack([numbers(table, name, unit="pixel") for name in ("row", "column", "box")])
    detectors, amplifiers = labels(table, "detector"), _amplifier_labels(table)
    for label in np.unique(bunch):
        members = bunch == label
        first = int(np.flatnonzero(members)[0])
        box = boxes[first]
        if not np.array_equal(box, np.rint(box)):
            raise InputError(
                f"columns row, column and box hold {box.tolist()} in row {first + 1}", remedy="give integers", row=first + 1
            )
        detector = _detector_of(camera, detectors[first], first)
        key = amplifiers[first]
        amplifier = detector.amplifier(int(key) if key.isdigit() else key)
        rows, columns = box_in_detector(amplifier, row=int(box[0]), column=int(box[1]), box=int(box[2]))
        place = detector_to_ccs(detector, (columns.start + columns.stop - 1) / 2, (rows.start + rows.stop - 1) / 2)
        x_mm[members], y_mm[members] = place
    return x_mm, y_mm
