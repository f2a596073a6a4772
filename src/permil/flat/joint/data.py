"""Data of the joint solution: exposures, and the signals of detectors on super-pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from permil.arrays import BoolArray, FloatArray, IntArray, plain_array, plain_flags, plain_image
from permil.errors import FlatError


@dataclass(frozen=True)
class ExposureList:
    """The exposures of one LED, in any order.

    Parameters
    ----------
    x_mm, y_mm : ndarray, shape (n,)
        Projector positions, CCS.
    log_photodiode : ndarray, shape (n,)
        Logarithm of the photodiode reading; NaN where there is none.
    time : ndarray, shape (n,)
        When, in any unit; only the drift of the photodiode depends on it.
    move : ndarray of int, shape (n,)
        Exposures of one number share one stage move, hence one position error. Default: exposures one after the other in time at
        the same position.
    regressors : ndarray, shape (n, m)
        What the photodiode may depend on linearly (the LED's temperature), centred by the fit.
    epoch : ndarray of int, shape (n,)
        The photodiode may respond differently in each epoch (run, job). Default: a new one after each pause.

    Raises
    ------
    FlatError
        If lengths differ, or positions or times are not finite.
    InputError
        If an array does not hold real numbers, or its unit cannot be converted.

    Examples
    --------
    >>> import numpy as np, permil
    >>> len(permil.ExposureList([0.0, 5.0], [0.0, 0.0], np.log([2.0, 2.1]), time=[0.0, 1.0]))
    2
    """

    x_mm: FloatArray
    y_mm: FloatArray
    log_photodiode: FloatArray
    time: FloatArray
    move: IntArray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    regressors: FloatArray = field(default_factory=lambda: np.empty((0, 0)))
    epoch: IntArray = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    def __post_init__(self) -> None:
        """Check the arrays, and number the stage moves if they are not given."""
        self._make_plain()
        count = len(self.x_mm)
        for name in ("y_mm", "log_photodiode", "time"):
            if len(getattr(self, name)) != count:
                raise FlatError(f"{len(getattr(self, name))} values of {name} for {count} exposures", remedy="give one for each")
        for name in ("x_mm", "y_mm", "time"):
            if not np.isfinite(getattr(self, name)).all():
                raise FlatError(f"{name} of an exposure is not finite", remedy="leave this exposure out")
        if self.regressors.size == 0:
            object.__setattr__(self, "regressors", np.zeros((count, 0)))
        if self.regressors.shape[0] != count or not np.isfinite(self.regressors).all():
            raise FlatError("regressors must be finite, one row for each exposure", remedy="leave out exposures without them")
        if self.move.size == 0:
            object.__setattr__(self, "move", self._moves())
        if self.epoch.size == 0:
            object.__setattr__(self, "epoch", epochs_between_pauses(self.time))
        for name, what in (("move", "stage moves"), ("epoch", "epochs")):
            if getattr(self, name).shape != (count,):
                raise FlatError(
                    f"{getattr(self, name).size} {what} for {count} exposures", remedy="give one number for each exposure"
                )

    def _make_plain(self) -> None:
        for name, unit in (("x_mm", "mm"), ("y_mm", "mm"), ("log_photodiode", ""), ("time", None)):
            object.__setattr__(self, name, plain_array(getattr(self, name), name=name, unit=unit, ndim=1))
        for name in ("move", "epoch"):
            object.__setattr__(self, name, _whole(getattr(self, name), name))
        object.__setattr__(self, "regressors", plain_array(self.regressors, name="regressors", ndim=2))

    def _moves(self) -> IntArray:
        order = np.argsort(self.time, kind="stable")
        moved = (np.diff(self.x_mm[order]) != 0) | (np.diff(self.y_mm[order]) != 0)
        numbers = np.empty(len(order), dtype=np.int64)
        numbers[order] = np.concatenate([[0], np.cumsum(moved)])
        return numbers

    def __len__(self) -> int:
        """Return the number of exposures."""
        return len(self.x_mm)

    @property
    def positions(self) -> FloatArray:
        """Projector positions, shape (n, 2), mm."""
        return np.column_stack([self.x_mm, self.y_mm])


def _whole(values: Any, name: str) -> IntArray:
    """Return whole numbers as a plain array.

    Raises
    ------
    FlatError
        If one is masked or not whole.
    """
    if type(values) is np.ndarray and values.dtype == np.int64:
        return values
    numbers = plain_array(values, name=name, ndim=1)
    if not np.isfinite(numbers).all() or (numbers != np.rint(numbers)).any():
        raise FlatError(f"{name} are not whole numbers", remedy="give whole numbers, without masked ones")
    return numbers.astype(np.int64)


def epochs_between_pauses(time: FloatArray) -> IntArray:
    """Return the number of the epoch of each exposure, counted from 0: a new one begins after each pause.

    A pause lasts more than `PAUSE` times the usual time from one exposure to the next.
    """
    order = np.argsort(time, kind="stable")
    gaps = np.diff(time[order])
    usual = np.median(gaps[gaps > 0]) if (gaps > 0).any() else np.inf
    epoch = np.empty(len(time), dtype=np.int64)
    epoch[order] = np.concatenate([[0], np.cumsum(gaps > PAUSE * usual)])[: len(time)]
    return epoch


def epochs_of_readout(exposures: ExposureList, detectors: Sequence[DetectorSignals]) -> ExposureList:
    """Return the exposures with a new epoch where a long series that reads one set of detectors begins or ends.

    A scan and the pointings after it are two programs, with time between them in which the photodiode may have changed. A series is
    long from `LONG_SERIES` exposures on. Exposures that have epochs already are returned as they are.
    """
    if not len(exposures) or exposures.epoch.max() > 0:
        return exposures
    sets: list[list[int]] = [[] for _ in range(len(exposures))]
    for number, detector in enumerate(detectors):
        for exposure in detector.exposures:
            sets[exposure].append(number)
    order = np.argsort(exposures.time, kind="stable")
    changes = np.array([sets[before] != sets[after] for before, after in pairwise(order)], dtype=bool)
    series = np.concatenate([[0], np.cumsum(changes)])
    is_long = np.bincount(series) >= LONG_SERIES
    begins = np.flatnonzero(changes) + 1
    begins = begins[is_long[series[begins]] | is_long[series[begins - 1]]]
    epoch = np.zeros(len(order), dtype=np.int64)
    epoch[order] = np.searchsorted(begins, np.arange(len(order)), side="right")
    return replace(exposures, epoch=epoch)


LONG_SERIES = 25
"""Number of consecutive exposures of one set of detectors that count as a separate program."""

PAUSE = 30.0
"""Time without exposures that counts as a pause, in units of the usual time between exposures."""


@dataclass(frozen=True)
class DetectorSignals:
    """Signals of one detector on its super-pixels.

    Parameters
    ----------
    name : str
        Of the detector.
    x_mm, y_mm : ndarray, shape (p,)
        Mean CCS position of the good pixels of each super-pixel (a mask moves it).
    exposures : ndarray of int, shape (e,)
        Which exposures of the list these are.
    log_signal : ndarray, shape (e, p)
        Expectation of the logarithm's argument: ``log(signal) + variance / 2`` corrects a logarithm for its noise
        (`logarithm_of`). NaN where there is none.
    variance : ndarray, shape (e, p)
        Variance of the logarithm (relative variance of the signal), expected rather than measured, so that a weight does not
        follow its own pixel's noise.

    Raises
    ------
    FlatError
        If shapes do not fit or a variance is not positive where there is a signal.
    InputError
        If an array does not hold real numbers, or its unit cannot be converted.

    Examples
    --------
    >>> import numpy as np, permil
    >>> permil.DetectorSignals("R22_S11", [1.0, 2.0], [0.0, 0.0], [0], np.zeros((1, 2)), np.full((1, 2), 1e-6)).weights.shape
    (1, 2)
    """

    name: str
    x_mm: FloatArray
    y_mm: FloatArray
    exposures: IntArray
    log_signal: NDArray[np.floating]
    variance: NDArray[np.floating]

    def __post_init__(self) -> None:
        """Check shapes and variances."""
        for name in ("x_mm", "y_mm"):
            object.__setattr__(self, name, plain_array(getattr(self, name), name=name, unit="mm", ndim=1))
        object.__setattr__(self, "exposures", _whole(self.exposures, "exposures"))
        for name in ("log_signal", "variance"):
            object.__setattr__(self, name, plain_image(getattr(self, name), name=name, unit=""))
        shape = (len(self.exposures), len(self.x_mm))
        if self.log_signal.shape != shape or self.variance.shape != shape or len(self.y_mm) != shape[1]:
            raise FlatError(
                f"{self.name}: signals {self.log_signal.shape} and variances {self.variance.shape} for {shape[0]} exposures of "
                f"{shape[1]} super-pixels",
                remedy="give one row for each exposure and one column for each super-pixel",
            )
        if len(np.unique(self.exposures)) != shape[0]:
            raise FlatError(f"{self.name}: an exposure occurs twice", remedy="leave out one of the two")
        present = np.isfinite(self.log_signal)
        if not (self.variance[present] > 0).all():
            raise FlatError(f"{self.name}: a variance is not positive", remedy="mask signals without a variance")

    @property
    def weights(self) -> FloatArray:
        """Inverse variances, 0 where there is no signal, shape (e, p)."""
        with np.errstate(invalid="ignore", divide="ignore"):
            weights = 1.0 / self.variance.astype(np.float64, order="C")
        weights[~np.isfinite(self.log_signal)] = 0.0
        return weights

    def only(self, exposures: BoolArray) -> DetectorSignals:
        """Return the signals in those exposures of the list for which the mask is true."""
        kept = plain_flags(exposures, name="exposures")[self.exposures]
        return DetectorSignals(self.name, self.x_mm, self.y_mm, self.exposures[kept], self.log_signal[kept], self.variance[kept])


_IN_CELL, _MOST_THINNED = 8.0, 4
"""Super-pixels in a cell of the knots that determine its beam, and the largest factor by which they may be fewer."""


def thinned(detectors: Sequence[DetectorSignals], spacing_mm: float) -> Sequence[DetectorSignals]:
    """Return every n-th super-pixel of detectors, as few as determine a beam with a knot spacing."""
    cell = spacing_mm**2
    in_cell = [len(one.x_mm) * cell / max(np.ptp(one.x_mm) * np.ptp(one.y_mm), cell) for one in detectors if len(one.x_mm)]
    step = int(np.clip(min(in_cell, default=0.0) / _IN_CELL, 1, _MOST_THINNED))
    if step == 1:
        return detectors
    return [
        DetectorSignals(
            one.name, one.x_mm[::step], one.y_mm[::step], one.exposures, one.log_signal[:, ::step], one.variance[:, ::step]
        )
        for one in detectors
    ]


def logarithm_of(signal: FloatArray, variance: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the logarithm of signals without the bias of its noise, and its variance.

    ``E log(mu + n) = log mu - var(n) / (2 mu^2)`` to second order. Signals that are not positive by 5 standard deviations have no
    useful logarithm and become NaN.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        usable = (signal > 0) & (variance > 0) & (signal**2 > 25 * variance)
        relative = np.where(usable, variance / signal**2, np.nan)
        return np.where(usable, np.log(np.where(usable, signal, 1.0)) + relative / 2, np.nan), relative
