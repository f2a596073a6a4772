"""Gains that change: of readout boards with temperature and in time, of single amplifiers by steps.

A readout board digitises several detectors. Besides the light and the response, the logarithm of their signals contains::

    -k_b (T_be - mean T_b) + time_b(t_e)

with the residual coefficient ``k_b`` of the gain (e-/adu per deg C, minus the coefficient applied by the reduction) and a slow change in
time of mean 0. Means are over the exposures that a board shares with other boards, in proportion to their number, or over all of its
exposures if it shares none. The flat refers to the mean temperature and the mean gain of each board. The coefficient that the reduction
applied to rounded readings converts the signals to a reference temperature: the effect of rounding is corrected, including its mean.

The change in time is a random walk. Without its mean its functions are ``cos(j pi u)`` of the campaign's phase ``u``, with variances
``rms^2 / (j pi)^2`` (Karhunen-Loeve), ``rms`` being that of the change from the first to the last exposure. The first is nearly a linear
drift; the ``TIME_FUNCTIONS`` first have 92 % of the variance, and nearly all of the changes slower than the pointings of a detector. The
largest modes of the error of the temperature (`permil.flat.joint.temperature`) are further unknowns of unit variance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from scipy import linalg

from permil.arrays import BoolArray, FloatArray, IntArray
from permil.flat.joint.temperature import smooth_temperature

OWN_COEFFICIENT, COMMON_COEFFICIENT = 1.5e-4, 1.5e-4
"""Standard deviations of a board's coefficient about the mean of all boards, and of this mean about the camera's nominal one, per deg C."""

UNKNOWN_COEFFICIENT = 1e-3
"""Standard deviation of the mean coefficient if the camera has no nominal one: larger than those of known boards."""

TIME_FUNCTIONS = 8
_USUAL_TIME_RMS, _TIME_SPREAD = 5e-5, 0.7
"""Prior of the size of the change in time: median, and standard deviation of its logarithm (a factor of two)."""

BLIND_RMS = 2e-4
"""Addition to it for a board without temperatures: the change of the gain by 0.3 deg C."""

_RMS_GRID = np.geomspace(2e-6, 2e-3, 40)
_ERROR_MODES = 12
_NEGLIGIBLE = 1e-6
"""Rms of the gain in an exposure below which a mode of the temperature's error is left out."""

STEP_DEVIATION = 0.05
"""Prior standard deviation of the size of a step: hardly any constraint."""


@dataclass(frozen=True)
class Coefficient:
    """Prior of the relative change of gains (e-/adu) per deg C.

    Parameters
    ----------
    nominal : float, optional
        Of the camera.
    applied : float
        By the reduction.
    """

    nominal: float | None = None
    applied: float = 0.0

    @property
    def centre(self) -> float:
        """Expected coefficient beyond the applied one."""
        return 0.0 if self.nominal is None else self.nominal - self.applied

    @property
    def common_deviation(self) -> float:
        """Standard deviation of the mean of all boards about the expected one."""
        return UNKNOWN_COEFFICIENT if self.nominal is None else COMMON_COEFFICIENT

    @property
    def deviation(self) -> float:
        """Standard deviation of the coefficient of one board about the mean."""
        return float(np.hypot(self.common_deviation, OWN_COEFFICIENT))

    @property
    def size(self) -> float:
        """Size of the whole coefficient, the factor of temperature errors."""
        return float(np.hypot(self.applied + self.centre, self.deviation))


@dataclass(frozen=True)
class BoardReadings:
    """A readout board, the exposures that it reads, and its thermometers.

    Parameters
    ----------
    name : str
    detectors : tuple of str
    exposures : ndarray of int, shape (e,)
        In the list of exposures.
    temperature : ndarray, shape (e, thermometers)
        Deg C; NaN where there is none.
    """

    name: str
    detectors: tuple[str, ...]
    exposures: IntArray
    temperature: FloatArray


@dataclass(frozen=True)
class BoardTerms:
    """Unknowns of the readout boards, and how the logarithm of the signals depends on them.

    Parameters
    ----------
    names : tuple of str
        Of the boards.
    board_of : mapping
        Number of the board of each detector that has one.
    values : ndarray, shape (terms, boards, n)
        Derivative of the logarithm in each exposure: coefficient, functions of time, errors of the temperature.
    offset : ndarray, shape (boards, n)
        Logarithm of what the reduction changed by the difference between a reading and the smooth temperature, its mean included.
    blind : ndarray of bool, shape (boards,)
        Boards whose temperature is not known.
    read : ndarray of bool, shape (boards, n)
        Exposures that each board reads.
    coefficient : Coefficient
    """

    names: tuple[str, ...]
    board_of: Mapping[str, int]
    values: FloatArray = field(repr=False)
    offset: FloatArray = field(repr=False)
    blind: BoolArray
    read: BoolArray = field(repr=False)
    coefficient: Coefficient

    @property
    def count(self) -> int:
        """Number of unknowns: of all boards for one term, then for the next."""
        return self.values.shape[0] * self.values.shape[1]

    @property
    def coefficients(self) -> slice:
        """Place of the coefficients among the unknowns."""
        return slice(0, len(self.names))

    @property
    def times(self) -> slice:
        """Place of the functions of time."""
        return slice(len(self.names), (1 + TIME_FUNCTIONS) * len(self.names))

    @property
    def centre(self) -> FloatArray:
        """Prior mean of the unknowns."""
        centre = np.zeros(self.count)
        centre[self.coefficients] = self.coefficient.centre
        return centre

    def covariance(self, time_rms: float) -> FloatArray:
        """Return the prior covariance of the unknowns.

        Parameters
        ----------
        time_rms
            Of the change in time from the first to the last exposure.
        """
        boards = len(self.names)
        coefficients = OWN_COEFFICIENT**2 * np.eye(boards) + self.coefficient.common_deviation**2
        rest = np.ones(self.count - boards)
        rest[: TIME_FUNCTIONS * boards] = self.time_variance(time_rms)
        return linalg.block_diag(coefficients, np.diag(rest))

    def time_variance(self, time_rms: float) -> FloatArray:
        """Return the prior variance of the functions of time, shape (TIME_FUNCTIONS * boards,)."""
        of_function = (np.pi * np.arange(1, TIME_FUNCTIONS + 1)) ** -2.0
        return np.outer(of_function, time_rms**2 + BLIND_RMS**2 * self.blind).ravel()

    def changes(self, unknowns: FloatArray) -> FloatArray:
        """Return the logarithm of the signals' change in each exposure for some values of the unknowns, shape (boards, n)."""
        return self.offset + np.einsum("tbe,tb->be", self.values, unknowns.reshape(self.values.shape[:2]))


def board_terms(time: FloatArray, boards: Sequence[BoardReadings], coefficient: Coefficient) -> BoardTerms | None:
    """Return the unknowns of readout boards; None without boards.

    Parameters
    ----------
    time : ndarray, shape (n,)
        Of all exposures.
    """
    if not boards:
        return None
    shape = len(boards), len(time)
    phase = (time - time.min()) / max(float(np.ptp(time)), np.finfo(float).tiny)
    functions = np.sqrt(2) * np.cos(np.pi * np.arange(1, TIME_FUNCTIONS + 1)[:, None] * phase)
    values = np.zeros((1 + TIME_FUNCTIONS + _ERROR_MODES, *shape))
    offset = np.zeros(shape)
    read = np.zeros((len(boards), len(time)), dtype=bool)
    blind = np.zeros(len(boards), dtype=bool)
    for number, board in enumerate(boards):
        read[number, board.exposures] = True
    for number, board in enumerate(boards):
        own = board.exposures
        shared = read[:, own].sum(axis=0) - 1.0
        weights = shared / shared.sum() if shared.any() else np.full(len(own), 1.0 / len(own))
        of_time = functions[:, own]
        values[1 : 1 + TIME_FUNCTIONS, number, own] = of_time - (of_time @ weights)[:, None]
        temperature = smooth_temperature(time[own], board.temperature)
        if temperature is None:
            blind[number] = True
            continue
        smooth = temperature.value - weights @ temperature.value
        values[0, number, own] = -smooth
        # The applied coefficient refers to a fixed temperature, the remaining one to the mean temperature.
        means = (temperature.errors @ weights)[:, None]
        errors = _largest(coefficient.size * (temperature.errors - means) + coefficient.applied * means)
        values[1 + TIME_FUNCTIONS : 1 + TIME_FUNCTIONS + len(errors), number, own] = errors
        if coefficient.applied != 0:
            reading = board.temperature.mean(axis=1)
            offset[number, own] = coefficient.applied * np.nan_to_num(
                reading - np.nanmean(reading) - temperature.level - temperature.value
            )
    used = np.asarray(values.any(axis=(1, 2)))
    used[: 1 + TIME_FUNCTIONS] = True
    board_of = {name: number for number, board in enumerate(boards) for name in board.detectors}
    names = tuple(board.name for board in boards)
    return BoardTerms(names, board_of, values[used], offset, blind, read, coefficient)


def _largest(errors: FloatArray) -> FloatArray:
    """Return the largest modes of errors, rows whose products sum to nearly the same covariance."""
    modes = np.linalg.eigh(errors @ errors.T)[1][:, : -_ERROR_MODES - 1 : -1].T @ errors
    return np.asarray(modes[np.sqrt(np.mean(modes**2, axis=1)) >= _NEGLIGIBLE])


@dataclass(frozen=True)
class BoardPrior:
    """Prior of the unknowns of the readout boards.

    Parameters
    ----------
    terms : BoardTerms
    time_rms : float
        Rms of the change in time from the first to the last exposure, averaged over what the signals allow.
    """

    terms: BoardTerms
    time_rms: float = _USUAL_TIME_RMS

    @cached_property
    def precision(self) -> FloatArray:
        """Inverse of the covariance, shape (m, m)."""
        coefficients, rest = self.parts
        return np.asarray(linalg.block_diag(coefficients, np.diag(rest)))

    @cached_property
    def parts(self) -> tuple[FloatArray, FloatArray]:
        """Precision of the coefficients, shape (boards, boards), and that of each of the other unknowns."""
        covariance, boards = self.terms.covariance(self.time_rms), len(self.terms.names)
        return np.asarray(np.linalg.inv(covariance[:boards, :boards])), 1.0 / np.diag(covariance)[boards:]


def fit_time_rms(terms: BoardTerms, information: FloatArray, pull: FloatArray) -> float:
    """Return the rms size of the change in time of all boards: the root of the mean square over its posterior.

    Parameters
    ----------
    information : ndarray, shape (m, m)
        Information of the signals on the functions of time (`BoardTerms.times`).
    pull : ndarray, shape (m,)
        Gradient of the log likelihood of the signals where they are 0.
    """
    evidence = -((np.log(_RMS_GRID / _USUAL_TIME_RMS) / _TIME_SPREAD) ** 2) / 2
    for place, rms in enumerate(_RMS_GRID):
        root = np.sqrt(terms.time_variance(float(rms)))
        factor = linalg.cholesky(np.eye(len(root)) + root[:, None] * information * root, lower=True)
        drawn = linalg.solve_triangular(factor, root * pull, lower=True)
        evidence[place] += drawn @ drawn / 2 - np.log(np.diag(factor)).sum()
    weights = np.exp(evidence - evidence.max())
    return float(np.sqrt(weights @ _RMS_GRID**2 / weights.sum()))


@dataclass(frozen=True)
class StepTerm:
    """A step of the gain of one amplifier: its signals before it are divided by ``1 + size``, those of the last epoch stay.

    Parameters
    ----------
    detector : str
    amplifier : int
        Its place among the amplifiers of the detector.
    exposure : int
        The first exposure after it.
    pixels : ndarray of bool, shape (p,)
        Super-pixels of the amplifier.
    before : ndarray of bool, shape (n,)
        Exposures before it.
    """

    detector: str
    amplifier: int
    exposure: int
    pixels: BoolArray = field(repr=False)
    before: BoolArray = field(repr=False)
