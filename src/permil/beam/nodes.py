"""Nodes of a beam scan: what one bunch of pixels saw with the projector at one position."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from permil.errors import BeamError, InputError, PhotodiodeError

if TYPE_CHECKING:
    from astropy.table import Table

    from permil.camera import Camera

FloatArray = NDArray[np.float64]

REQUIRED_COLUMNS = ("x_mm", "y_mm", "signal")
PLACE_COLUMNS = ("ref_x_mm", "ref_y_mm")
BOX_COLUMNS = ("detector", "amp", "row", "column", "box")


@dataclass(frozen=True)
class BeamNodes:
    """Measured nodes of one LED, one row per bunch and exposure.

    Parameters
    ----------
    x_mm, y_mm : ndarray, shape (n,)
        Projector positions, CCS mm.
    ref_x_mm, ref_y_mm : ndarray, shape (n,)
        Place of the bunch of pixels, CCS mm.
    signal : ndarray, shape (n,)
        Positive signal of the bunch, any unit.
    signal_err : ndarray, shape (n,)
        Its standard error; NaN where unknown.
    bunch : ndarray of str, shape (n,)
        Which bunch: each has its own relative gain.
    exposure : ndarray of int, shape (n,)
        Which exposure: nodes of one exposure share its scale error; -1 for a node on its own.
    mjd : ndarray, shape (n,)
        Time; NaN where unknown.
    rows : ndarray of int, shape (n,)
        Row of each node in the table that it came from.
    dropped : dict
        Rows that were left out, by reason.
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
    exposure: NDArray[np.int64]
    mjd: FloatArray
    rows: NDArray[np.int64]
    dropped: dict[str, list[int]] = field(default_factory=dict)
    unit: str = ""

    def __post_init__(self) -> None:
        """Check the arrays."""
        lengths = {name: np.shape(getattr(self, name)) for name in _ARRAYS}
        if any(shape != (self.signal.size,) for shape in lengths.values()):
            raise BeamError(
                f"the node arrays differ in shape: {', '.join(f'{name} {shape}' for name, shape in lengths.items())}",
                remedy="give one-dimensional arrays of one length",
            )
        positions = (self.x_mm, self.y_mm, self.ref_x_mm, self.ref_y_mm)
        if not all(np.isfinite(position).all() for position in positions):
            raise BeamError("a node has a position that is not finite", remedy="leave such nodes out")
        if not (np.isfinite(self.signal) & (self.signal > 0)).all():
            raise BeamError("a node has a signal that is not positive", remedy="leave such nodes out")

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
        """Make nodes from columns in any order; unusable rows are left out and listed in `dropped`.

        Parameters
        ----------
        photodiode
            Reading of the control photodiode; signal and error are divided by it.
        exposure
            Labels of the exposures (any integers, -1 for none). By default nodes of different bunches with equal projector
            position and time belong to one exposure.

        Raises
        ------
        PhotodiodeError
            If photodiode readings are given and none is usable.
        """
        given = {"x_mm": x_mm, "y_mm": y_mm, "ref_x_mm": ref_x_mm, "ref_y_mm": ref_y_mm}
        given |= {"signal": signal, "signal_err": signal_err, "mjd": mjd}
        floats: list[Any] = [np.atleast_1d(np.asarray(column, dtype=float)) for column in given.values()]
        *floats, labels = np.broadcast_arrays(*floats, np.atleast_1d(np.asarray(bunch, dtype=str)))
        columns: dict[str, Any] = {**dict(zip(given, floats, strict=True)), "bunch": labels}
        columns["rows"] = np.arange(labels.size) if rows is None else np.asarray(rows)
        positions = columns["x_mm"] + columns["y_mm"] + columns["ref_x_mm"] + columns["ref_y_mm"]
        reasons = {"position is not finite": ~np.isfinite(positions)}
        if photodiode is not None:
            reading = np.asarray(photodiode, dtype=float)
            unusable = ~(np.isfinite(reading) & (reading > 0))
            if unusable.all():
                raise PhotodiodeError(
                    "no node has a usable photodiode reading", remedy="leave the column photodiode out to do without it"
                )
            reasons["photodiode is missing, zero or negative"] = unusable
            reading = np.where(unusable, 1.0, reading)
            columns["signal"], columns["signal_err"] = columns["signal"] / reading, columns["signal_err"] / reading
        reasons["signal is missing, zero or negative"] = ~(np.isfinite(columns["signal"]) & (columns["signal"] > 0))
        columns["signal_err"] = np.where(columns["signal_err"] > 0, columns["signal_err"], np.nan)
        good = ~np.any(list(reasons.values()), axis=0)
        dropped = {reason: columns["rows"][bad].tolist() for reason, bad in reasons.items() if bad.any()}
        columns = {name: np.array(column[good]) for name, column in columns.items()}
        numbers = _exposures_by_position(columns) if exposure is None else np.asarray(exposure, dtype=np.int64)[good]
        return cls(**columns, exposure=numbers, dropped=dropped, unit=unit)

    @property
    def ux(self) -> FloatArray:
        """First beam coordinate, place minus projector, mm."""
        return self.ref_x_mm - self.x_mm

    @property
    def uy(self) -> FloatArray:
        """Second beam coordinate, place minus projector, mm."""
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
        return replace(self, **{name: getattr(self, name)[index] for name in _ARRAYS})

    def canonical(self) -> BeamNodes:
        """Return the same nodes in an order that does not depend on the order of the rows."""
        keys = (self.mjd, self.signal_err, self.signal, self.bunch, self.uy, self.ux)
        return self[np.lexsort(keys)]


_ARRAYS = ("x_mm", "y_mm", "ref_x_mm", "ref_y_mm", "signal", "signal_err", "bunch", "exposure", "mjd", "rows")


def _exposures_by_position(columns: dict[str, Any]) -> NDArray[np.int64]:
    """Number the exposures by projector position and time; -1 where that does not tell them apart or says nothing."""
    mjd = np.where(np.isfinite(columns["mjd"]), columns["mjd"], -1.0)
    keys = np.column_stack([columns["x_mm"], columns["y_mm"], mjd])
    _, label = np.unique(keys, axis=0, return_inverse=True)
    label = label.reshape(-1).astype(np.int64)
    _, bunch = np.unique(columns["bunch"], return_inverse=True)
    pairs, counts = np.unique(np.column_stack([label, bunch.reshape(-1)]), axis=0, return_counts=True)
    # A bunch that occurs twice at one position means several exposures there: which node belongs to which is not known.
    ambiguous = np.unique(pairs[counts > 1, 0]) if len(pairs) else label
    label[np.isin(label, ambiguous)] = -1
    return label


def nodes_from_table(table: Table, *, amp: str | int | None = None, camera: Camera | None = None) -> BeamNodes:
    """Take the nodes from a table, rows in any order.

    Parameters
    ----------
    table
        Columns ``x_mm``, ``y_mm`` (projector, CCS mm), ``signal``; optionally ``signal_err``, ``photodiode``, ``mjd``, ``amp``,
        ``exposure``, and the place of the bunch: ``ref_x_mm``, ``ref_y_mm``, or ``detector``, ``amp``, ``row``, ``column``,
        ``box`` (trimmed raw segment; needs ``camera``). Without a place the bunch is at (0, 0).
    amp
        Take only the rows of this amplifier.
    camera
        Where the amplifiers are.

    Raises
    ------
    InputError
        If a column is missing, or ``amp`` is not in the table.
    BeamError
        If the table holds several amplifiers and their places are not known.
    """
    missing = [name for name in REQUIRED_COLUMNS if name not in table.colnames]
    if missing:
        raise InputError(
            f"column {', '.join(missing)} is missing from the node table",
            remedy=f"it needs x_mm, y_mm (projector position) and signal; it has {', '.join(table.colnames)}",
            missing=missing,
            allowed=list(REQUIRED_COLUMNS),
        )
    rows = np.arange(len(table))
    if amp is not None:
        rows = rows[_rows_of_amplifier(table, amp)]
        table = table[rows]
    bunch = bunch_labels(table)
    ref_x_mm, ref_y_mm = _places(table, bunch, camera)
    optional = {name: float_column(table, name) for name in ("signal_err", "mjd") if name in table.colnames}
    return BeamNodes.from_columns(
        float_column(table, "x_mm"),
        float_column(table, "y_mm"),
        float_column(table, "signal"),
        ref_x_mm=ref_x_mm,
        ref_y_mm=ref_y_mm,
        bunch=bunch,
        exposure=np.asarray(table["exposure"]) if "exposure" in table.colnames else None,
        photodiode=float_column(table, "photodiode") if "photodiode" in table.colnames else None,
        rows=rows,
        unit=str(table["signal"].unit or ""),
        **optional,
    )


def float_column(table: Table, name: str) -> FloatArray:
    """Return a column as floats, masked entries as NaN."""
    try:
        return np.ma.filled(np.ma.asarray(table[name]).astype(float), np.nan)
    except (TypeError, ValueError) as error:
        raise InputError(f"column {name} of the node table is not numeric", remedy="give numbers (nan where unknown)") from error


def _rows_of_amplifier(table: Table, amp: str | int) -> NDArray[np.bool_]:
    if "amp" not in table.colnames:
        raise InputError(
            f"amplifier {amp} was asked for, but the node table has no column amp", remedy="leave the amplifier out", value=amp
        )
    labels = np.asarray(table["amp"], dtype=str)
    if str(amp) not in labels:
        allowed = sorted(set(labels.tolist()), key=lambda label: (len(label), label))
        raise InputError(
            f"the node table has no amplifier {amp}", remedy=f"it has {', '.join(allowed)}", value=amp, allowed=allowed
        )
    return labels == str(amp)


def bunch_labels(table: Table) -> NDArray[np.str_]:
    """Return one label per row, made of the columns that tell bunches apart."""
    names = [name for name in BOX_COLUMNS if name in table.colnames and name != "box"]
    if not names and set(PLACE_COLUMNS) <= set(table.colnames):
        names = list(PLACE_COLUMNS)
    columns = [np.asarray(table[name]).astype(str) for name in names]
    return np.array([" ".join(parts) for parts in zip(*columns, strict=True)] if columns else ["all"] * len(table), dtype=str)


def _places(table: Table, bunch: NDArray[np.str_], camera: Camera | None) -> tuple[FloatArray, FloatArray]:
    """Return the place of the bunch of each row, CCS mm."""
    given = [name for name in PLACE_COLUMNS if name in table.colnames]
    if len(given) == len(PLACE_COLUMNS):
        return float_column(table, "ref_x_mm"), float_column(table, "ref_y_mm")
    if given:
        raise InputError(f"the node table has column {given[0]} alone", remedy="give both ref_x_mm and ref_y_mm, or neither")
    if camera is not None and set(BOX_COLUMNS) <= set(table.colnames):
        return _places_in_camera(table, bunch, camera)
    bunches = np.unique(bunch)
    if bunches.size > 1:
        raise BeamError(
            f"the node table holds {bunches.size} amplifiers but not where they are",
            remedy="add columns ref_x_mm and ref_y_mm (or detector, row, column and box), or choose one amplifier with --amp",
            allowed=bunches.tolist(),
        )
    return np.zeros(len(table)), np.zeros(len(table))


def _places_in_camera(table: Table, bunch: NDArray[np.str_], camera: Camera) -> tuple[FloatArray, FloatArray]:
    from permil.camera.frames import box_in_detector, detector_to_ccs

    x_mm, y_mm = np.empty(len(table)), np.empty(len(table))
    for label in np.unique(bunch):
        members = bunch == label
        row = table[np.flatnonzero(members)[0]]
        detector = camera[str(row["detector"])]
        key = row["amp"]
        amplifier = detector.amplifier(int(key) if str(key).isdigit() else str(key))
        rows, columns = box_in_detector(amplifier, row=int(row["row"]), column=int(row["column"]), box=int(row["box"]))
        place = detector_to_ccs(detector, (columns.start + columns.stop - 1) / 2, (rows.start + rows.stop - 1) / 2)
        x_mm[members], y_mm[members] = place
    return x_mm, y_mm
