"""Files of signals on super-pixels, and detectors that are loaded from them when asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray

from permil.arrays import BoolArray, Float32Array, FloatArray, IntArray
from permil.errors import InputError
from permil.flat.joint.data import DetectorSignals, logarithm_of
from permil.flat.superpixel import SuperPixelLayout
from permil.products import FINGERPRINT_CARD, provenance, whole_file, write_hdus

SIGNALS_FORMAT = 2
"""Version of the file's format. Increase it when older files lack something."""
ELECTRONICS = ("overscan_level", "read_noise", "read_noise_err")
"""Of each exposure and amplifier."""


@dataclass(frozen=True)
class SuperPixelSignals:
    """Signals of one detector on super-pixels, as written.

    Parameters
    ----------
    detector : str
        Its name.
    obsid : ndarray of str, shape (e,)
        Exposures.
    signal, variance : ndarray, shape (e, p)
        Electrons; NaN where too many pixels are lost.
    row, column : ndarray of int, shape (p,)
        Places on the grid of super-pixels.
    x_mm, y_mm : ndarray, shape (p,)
        Places, CCS.
    shape : tuple of int
        Of that grid.
    block : int
        Side of a super-pixel in pixels.
    left_out : tuple
        Path and reason of files that could not be used.
    temperature : ndarray, shape (e, thermometers)
        Of the readout board, deg C; NaN where there is none. By default there are none.
    amplifier : ndarray of int, shape (p,)
        Number of the amplifier of each super-pixel. By default all are of the first.
    overscan_level, read_noise, read_noise_err : ndarray, shape (e, amplifiers)
        Mean overscan level, adu, and read noise with its error, electrons, of the rows that were read; NaN for files that could not be
        used. By default there are no amplifiers.
    """

    detector: str
    obsid: NDArray[np.str_]
    signal: Float32Array
    variance: Float32Array
    row: IntArray
    column: IntArray
    x_mm: FloatArray
    y_mm: FloatArray
    shape: tuple[int, int]
    block: int
    left_out: tuple[tuple[str, str], ...] = ()
    temperature: FloatArray = field(default_factory=lambda: np.empty((0, 0)))
    amplifier: IntArray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    overscan_level: FloatArray = field(default_factory=lambda: np.empty((0, 0)))
    read_noise: FloatArray = field(default_factory=lambda: np.empty((0, 0)))
    read_noise_err: FloatArray = field(default_factory=lambda: np.empty((0, 0)))

    def __post_init__(self) -> None:
        """Fill what is not known."""
        if not self.temperature.size:
            object.__setattr__(self, "temperature", np.full((len(self.obsid), 1), np.nan))
        if not self.amplifier.size:
            object.__setattr__(self, "amplifier", np.zeros(len(self.row), dtype=np.int64))
        for name in ELECTRONICS:
            if not getattr(self, name).size:
                object.__setattr__(self, name, np.full((len(self.obsid), 0), np.nan))

    @classmethod
    def of(cls, detector: str, layout: SuperPixelLayout, obsid: list[str], **arrays: Any) -> SuperPixelSignals:
        """Return the signals on the super-pixels of a layout."""
        return cls(
            detector=detector,
            obsid=np.array(obsid, dtype=np.str_),
            row=layout.row,
            column=layout.column,
            x_mm=layout.x_mm,
            y_mm=layout.y_mm,
            shape=layout.shape,
            block=layout.block,
            **arrays,
        )

    def lit(self, least_signal: float, exposures: slice = slice(None)) -> BoolArray:
        """Return where there is enough light in some exposures, shape (e, p).

        The mean signal of the super-pixels beside one decides, not its own: near the limit only upward noise would be kept.
        """
        signal = self.signal[exposures]
        grid = np.full((len(signal), self.shape[0] + 2, self.shape[1] + 2), np.nan, dtype=signal.dtype)
        grid[:, self.row + 1, self.column + 1] = signal
        total, count = (_sums_beside(part) for part in (np.nan_to_num(grid), np.isfinite(grid).astype(np.float32)))
        with np.errstate(invalid="ignore", divide="ignore"):
            beside = np.where(count > 0, total / count, grid[:, 1:-1, 1:-1])
            return (beside[:, self.row, self.column] >= least_signal) & (signal > 0)

    def footprint(self, exposure: int, least_signal: float) -> BoolArray:
        """Return which super-pixels of the grid an exposure lights, and those beside them that have no signal (too few good pixels)."""
        is_lit, has_signal = np.zeros(self.shape, dtype=bool), np.zeros(self.shape, dtype=bool)
        is_lit[self.row, self.column] = self.lit(least_signal, slice(exposure, exposure + 1))[0]
        has_signal[self.row, self.column] = np.isfinite(self.signal[exposure])
        is_beside = _sums_beside(np.pad(is_lit, 1)[None].astype(np.float32))[0] > 0
        return is_lit | (~has_signal & is_beside)

    def to_detector(self, number_of: dict[str, int], least_signal: float) -> DetectorSignals:
        """Return what the solver takes; exposures that it does not know, or without enough light, are left out.

        Parameters
        ----------
        number_of
            Number of each exposure in the list of exposures.
        least_signal
            Electrons below which a signal says nothing.
        """
        lit = self.lit(least_signal)
        known = np.array([str(obsid) in number_of for obsid in self.obsid], dtype=bool)
        rows = np.flatnonzero(known & lit.any(axis=1))
        numbers = np.array([number_of[str(self.obsid[row])] for row in rows], dtype=np.int64)
        signal = np.where(lit[rows], self.signal[rows].astype(np.float64), np.nan)
        logarithm, variance = logarithm_of(signal, self.variance[rows].astype(np.float64))
        return DetectorSignals(self.detector, self.x_mm, self.y_mm, numbers, logarithm, variance)


def _sums_beside(grid: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the sum over the eight neighbours of each inner cell, shape (e, rows - 2, columns - 2)."""
    rows = grid[:, :-2] + grid[:, 1:-1] + grid[:, 2:]
    return rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:] - grid[:, 1:-1, 1:-1]


def write_signals(path: Path, signals: SuperPixelSignals, *, fingerprint: str, led: str) -> None:
    """Write signals.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    header = provenance(
        {
            FINGERPRINT_CARD: (fingerprint, "what this was made from"),
            "DETECTOR": (signals.detector, "detector"),
            "LED": (led, "LED"),
            "ROWS": (signals.shape[0], "rows of super-pixels"),
            "COLUMNS": (signals.shape[1], "columns of super-pixels"),
            "BLOCKPIX": (signals.block, "side of a super-pixel, pixels"),
        }
    )
    places = Table({name: getattr(signals, name) for name in ("row", "column", "x_mm", "y_mm", "amplifier")})
    electronics = {name: values for name in ELECTRONICS if (values := getattr(signals, name)).size}
    left_out = Table(rows=list(signals.left_out) or None, names=("path", "reason"), dtype=("U512", "U512"))
    write_hdus(
        path,
        [
            fits.PrimaryHDU(header=header),
            fits.ImageHDU(signals.signal, name="SIGNAL"),
            fits.ImageHDU(signals.variance, name="VARIANCE"),
            fits.BinTableHDU(Table({"obsid": signals.obsid, "temperature": signals.temperature} | electronics), name="EXPOSURES"),
            fits.BinTableHDU(places, name="SUPERPIXELS"),
            fits.BinTableHDU(left_out, name="LEFT_OUT"),
        ],
    )


def read_signals(path: Path) -> SuperPixelSignals:
    """Read signals.

    Raises
    ------
    InputError
        If the file is missing or damaged.
    """
    try:
        with whole_file(path), fits.open(path, memmap=False) as hdus:
            header, places = hdus[0].header, hdus["SUPERPIXELS"].data
            left_out, exposures = hdus["LEFT_OUT"].data, hdus["EXPOSURES"].data
            return SuperPixelSignals(
                detector=str(header["DETECTOR"]),
                obsid=np.array(exposures["obsid"], dtype=np.str_),
                signal=np.array(hdus["SIGNAL"].data, dtype=np.float32).reshape(-1, len(places)),
                variance=np.array(hdus["VARIANCE"].data, dtype=np.float32).reshape(-1, len(places)),
                row=np.array(places["row"], dtype=np.int64),
                column=np.array(places["column"], dtype=np.int64),
                x_mm=np.array(places["x_mm"], dtype=np.float64),
                y_mm=np.array(places["y_mm"], dtype=np.float64),
                shape=(int(header["ROWS"]), int(header["COLUMNS"])),
                block=int(header["BLOCKPIX"]),
                temperature=_by_exposure(exposures, "temperature"),
                amplifier=np.array(places["amplifier"], dtype=np.int64),
                left_out=tuple((str(row["path"]), str(row["reason"])) for row in left_out),
                **{name: _by_exposure(exposures, name) for name in ELECTRONICS if name in exposures.names},
            )
    except InputError:
        raise
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"cannot be read as super-pixel signals ({error})", path=path, remedy="make the flat again") from error


def _by_exposure(exposures: Any, name: str) -> FloatArray:
    """Return a column of numbers as an array with one row for each exposure."""
    return np.array(exposures[name], dtype=np.float64).reshape(len(exposures), -1)


_MOST_KEPT_BYTES = 2**28
"""Memory of the signals that are kept once they have been read: those of a focal plane with some twenty exposures of each detector."""


class StoredDetectors(Sequence[DetectorSignals]):
    """Detectors whose signals are read when asked for, and kept as long as they are few; beyond that one at a time is in memory.

    Parameters
    ----------
    paths
        Their files.
    number_of, least_signal
        See `SuperPixelSignals.to_detector`.
    """

    def __init__(self, paths: Sequence[Path], number_of: dict[str, int], least_signal: float) -> None:
        self._paths = list(paths)
        self._number_of = number_of
        self._least_signal = least_signal
        self._kept: dict[Path, DetectorSignals] = {}
        self._layouts: dict[Path, SuperPixelSignals] = {}

    def __len__(self) -> int:
        """Return the number of detectors."""
        return len(self._paths)

    @overload
    def __getitem__(self, index: int) -> DetectorSignals: ...

    @overload
    def __getitem__(self, index: slice) -> StoredDetectors: ...

    def __getitem__(self, index: int | slice) -> DetectorSignals | StoredDetectors:
        """Return the signals of a detector, or some of the detectors."""
        if isinstance(index, slice):
            return self.only(range(len(self))[index])
        path = self._paths[index]
        kept = self._kept.get(path)
        if kept is None:
            signals = read_signals(path)
            kept = signals.to_detector(self._number_of, self._least_signal)
            none = np.empty((0, len(signals.row)), dtype=np.float32)
            self._layouts[path] = replace(signals, signal=none, variance=none)
            if sum(map(_bytes_of, self._kept.values())) + _bytes_of(kept) <= _MOST_KEPT_BYTES:
                self._kept[path] = kept
        return kept

    def only(self, indices: Iterable[int]) -> StoredDetectors:
        """Return some of the detectors, with what is kept of them."""
        chosen = StoredDetectors([self._paths[index] for index in indices], self._number_of, self._least_signal)
        chosen._kept = {path: self._kept[path] for path in chosen._paths if path in self._kept}
        chosen._layouts = {path: self._layouts[path] for path in chosen._paths if path in self._layouts}
        return chosen

    def layout(self, index: int) -> SuperPixelSignals:
        """Return a detector as written, without its signals."""
        path = self._paths[index]
        if path not in self._layouts:
            _ = self[index]
        return self._layouts[path]

    def layouts(self) -> Iterator[SuperPixelSignals]:
        """Yield all detectors as written, without their signals."""
        return map(self.layout, range(len(self)))


def _bytes_of(detector: DetectorSignals) -> int:
    return int(detector.log_signal.nbytes + detector.variance.nbytes)
