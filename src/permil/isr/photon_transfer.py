"""Gains from the noise of repeated images (photon transfer), with the brighter-fatter effect measured from the same images.

The brighter-fatter effect moves a part ``u`` of the variance of a pixel into the covariances with its neighbours, since charge
is only moved (Antilogus et al. 2014, JINST 9, C03048; Astier et al. 2019, A&A 629, A36, who give ``C_ij``). For the mean signal ``M`` in
adu, the gain ``g`` in electrons per adu and ``m = g M``,

    V / M = (1 - u (1 + t) - 3 (c + d) m) / g,        S / M = u (1 + t) / g,        u = a m + b m^2,

with ``V`` the variance without read noise and ``S`` the sum of the covariances (`permil.isr.repeated_images`). ``a`` and ``b`` are those
of the vendor, since the gain from one amplifier alone would follow from ``V + S``, with five times the noise of ``V``. The strength of a
single amplifier may differ by ``t``, with a scatter estimated from the data (restricted likelihood). A curved response,
``M = (m / g) (1 - (c + d) m)`` with ``c`` of the vendor and ``d`` of the amplifier, lowers the slope by twice the curvature, the
variance by four times, and thus ``V / M`` by three times: both are unknowns with a prior.

The unknowns of one amplifier are eliminated (Schur complement); Gauss-Newton steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import scipy

from permil.arrays import BoolArray, FloatArray, IntArray
from permil.errors import CalibrationError
from permil.isr.repeated_images import REACH, NoiseMoments

REFERENCE_ELECTRONS = 50_000.0
"""Signal at which strengths and curvatures are given."""

SYSTEMATIC = 3e-3
"""Relative difference between two gains below which they do not contradict each other, whatever their errors."""

SIGNIFICANT = 5.0
"""Standard errors from which two gains contradict each other."""

_HELD = 1e-9
"""Standard deviation of an unknown that is fixed at 0."""

_SCATTERS = (0.0, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.06, 0.08, 0.12)
"""Scatters of the strength between amplifiers that are tried."""

_NOISE_ERROR = 0.01
"""Relative error of the variance of the read noise: that of pixels may differ from that of the overscan."""

_USUAL_SCATTER = 0.02
"""Prior of that scatter (half-normal): few images cannot separate it from their own noise."""

_LAGS = float((2 * REACH + 1) ** 2 - 1)
_ITERATIONS = 4
_SHARED, _OWN = 3, 3


@dataclass(frozen=True)
class TransferPoints:
    """Noise moments of many amplifiers of one vendor; see `NoiseMoments` for units and shapes.

    Parameters
    ----------
    amplifier, group : ndarray of int, shape (n,)
        Number of the amplifier, and of the group of images.
    mean, variance, covariance, noise, freedom
        Of `NoiseMoments`.
    """

    amplifier: IntArray
    group: IntArray
    mean: FloatArray
    variance: FloatArray
    covariance: FloatArray
    noise: FloatArray
    freedom: FloatArray

    @classmethod
    def of(cls, moments: Sequence[tuple[int, int, NoiseMoments]]) -> TransferPoints:
        """Collect moments, each with the numbers of its amplifier and group."""
        sizes = [each.mean.size for _, _, each in moments]
        parts = [[getattr(each, name) for _, _, each in moments] for name in ("mean", "variance", "noise", "freedom")]
        mean, variance, noise, freedom = (np.concatenate([np.empty(0), *own]) for own in parts)
        covariance = np.concatenate([np.empty((0, REACH)), *(each.covariance for _, _, each in moments)])
        amplifier, group = (np.repeat(np.array([each[at] for each in moments], dtype=np.int64), sizes) for at in (0, 1))
        return cls(amplifier, group, mean, variance, covariance, noise, freedom)

    @classmethod
    def together(cls, parts: Sequence[TransferPoints]) -> TransferPoints:
        """Return the points of several collections."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__dataclass_fields__))

    def __len__(self) -> int:
        """Return the number of points."""
        return self.mean.size

    def only(self, chosen: BoolArray) -> TransferPoints:
        """Return some of the points."""
        return TransferPoints(*(getattr(self, name)[chosen] for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class CurvaturePrior:
    """Accuracy of the linearity of the signals: standard deviations of the curvature at 50,000 electrons, relative.

    Parameters
    ----------
    shared : float
        Of the bend that all amplifiers have in common.
    own : ndarray, shape (n_amplifiers,)
        Of the difference of each amplifier from that.
    """

    shared: float
    own: FloatArray


@dataclass(frozen=True)
class TransferGains:
    """Gains of the amplifiers of one vendor from photon transfer; arrays are of shape (n_amplifiers,), NaN where nothing was measured.

    Parameters
    ----------
    gain, gain_err : ndarray
        Electrons per adu, and the standard error: noise, errors of the shared terms, bends within their prior.
    systematic : ndarray
        Error of the gain that its standard error lacks: brighter-fatter beyond the reach of the covariances, read noise, ``unseen``.
    unseen : ndarray
        The part of it that differs between amplifiers, relative: a scatter of the strength of brighter-fatter that would not be seen.
    scatter, scatter_limit : float
        Likeliest relative scatter of the strength of brighter-fatter between amplifiers, and what it does not exceed (one standard
        deviation).
    loss, loss_err : float
        Part of the variance that flats of 50,000 electrons lose.
    chi_square : float
        Reduced; errors contain its root where it is above 1.
    inconsistent : ndarray
        Significance, in standard deviations, with which the points of an amplifier contradict each other.
    own, rows, shared
        Relative covariance of the gains: ``diag(own) + rows shared rows'``.
    """

    gain: FloatArray
    gain_err: FloatArray
    systematic: FloatArray
    unseen: FloatArray
    scatter: float
    scatter_limit: float
    loss: float
    loss_err: float
    chi_square: float
    inconsistent: FloatArray
    own: FloatArray
    rows: FloatArray
    shared: FloatArray

    def ratio(self, given: FloatArray) -> GainRatio:
        """Compare with other gains of the same amplifiers.

        The mean ratio of the amplifiers that do not contradict the other gains is 1.

        Parameters
        ----------
        given : ndarray, shape (n_amplifiers,)
            Electrons per adu.
        """
        logarithm = np.log(self.gain / given)
        measured = np.isfinite(logarithm)
        reference, centre = measured, float(np.nanmedian(logarithm)) if measured.any() else np.nan
        error = np.full(logarithm.size, np.nan)
        for _ in range(_ITERATIONS):
            if not reference.any():
                break
            weights = reference / reference.sum()
            rows = self.rows - weights[measured] @ self.rows[measured]
            own = np.where(measured, self.own, 0.0)
            variance = own * (1.0 - 2.0 * weights) + float(own @ weights**2)
            variance += np.einsum("ni,ij,nj->n", rows, self.shared, rows)
            error = np.where(measured, np.sqrt(variance), np.nan)
            contradicts = self._contradicts(logarithm - centre, error)
            reference = measured & ~contradicts
            if reference.any():
                centre = float(logarithm[reference].mean())
        deviation = logarithm - centre
        return GainRatio(np.exp(deviation), error, self._contradicts(deviation, error), float(np.exp(centre)))

    def _contradicts(self, deviation: FloatArray, error: FloatArray) -> BoolArray:
        with np.errstate(invalid="ignore"):
            size = np.abs(deviation)
            return (size > SIGNIFICANT * np.hypot(error, self.unseen)) & (size > SYSTEMATIC)


@dataclass(frozen=True)
class GainRatio:
    """Measured over given gains, relative to their mean over the vendor.

    Parameters
    ----------
    ratio, error : ndarray, shape (n_amplifiers,)
        Measured over given, and its standard error.
    contradicts : ndarray of bool, shape (n_amplifiers,)
        Where they differ by more than 5 errors (a scatter of brighter-fatter that would not be seen included) and 3e-3.
    level : float
        Mean ratio of the vendor.
    """

    ratio: FloatArray
    error: FloatArray
    contradicts: BoolArray
    level: float

    @property
    def pull(self) -> FloatArray:
        """Deviation of each ratio from 1 over its error."""
        return (self.ratio - 1.0) / self.error


def fit_gains(points: TransferPoints, n_amplifiers: int, *, curvature: CurvaturePrior) -> TransferGains:
    """Fit the gains of the amplifiers of one vendor together.

    Parameters
    ----------
    points
        Moments of all amplifiers.
    n_amplifiers
        Numbers of amplifiers are below this.
    curvature
        How well the linearity is known.

    Raises
    ------
    CalibrationError
        If there are no points, or too little light in all of them.
    """
    usable = (points.freedom > 0) & (points.mean > 0) & (points.variance > 0)
    if not usable.any():
        raise CalibrationError(
            "no repeated images have light whose noise can be measured",
            remedy="take two or more images of each position, or set isr.photon_transfer to false",
        )
    points = points.only(usable)
    problem = _Problem.of(points, n_amplifiers, curvature)
    fit, limit = _likeliest(problem)
    agree = ~(_inconsistency(problem, fit) > SIGNIFICANT)
    if (problem.measured & agree).any() and not agree[problem.measured].all():
        # Amplifiers whose points agree determine the shared terms.
        problem = replace(problem, trusted=problem.measured & agree)
        fit, limit = _likeliest(problem)
    return _gains(problem, fit, limit)


def _likeliest(problem: _Problem) -> tuple[_TransferFit, float]:
    """Return the fit with the likeliest scatter of the strength, and the largest one that is less likely by a factor of e^(1/2)."""
    start = problem.start()
    trials = [_solve(problem, scatter, start) for scatter in _SCATTERS]
    likelihood = np.array([trial.likelihood - (trial.scatter / _USUAL_SCATTER) ** 2 / 2 for trial in trials])
    within = np.flatnonzero(likelihood > likelihood.max() - 0.5)
    return trials[int(np.argmax(likelihood))], float(_SCATTERS[within[-1]])


@dataclass(frozen=True)
class _Problem:
    """Points, the amplifiers that have any, variance and covariance over the mean, and the amplifiers that determine the shared terms."""

    points: TransferPoints
    curvature: CurvaturePrior
    measured: BoolArray
    variance: FloatArray
    covariance: FloatArray
    trusted: BoolArray

    @classmethod
    def of(cls, points: TransferPoints, n_amplifiers: int, curvature: CurvaturePrior) -> _Problem:
        """Return the problem of some points."""
        counts = np.bincount(points.amplifier, minlength=n_amplifiers)
        covariance = points.covariance.sum(axis=1)
        return cls(points, curvature, counts > 0, points.variance / points.mean, covariance / points.mean, counts > 0)

    def sums(self, values: FloatArray) -> FloatArray:
        """Return the sum over the points of each amplifier, shape (n_amplifiers, ...)."""
        result = np.zeros((self.measured.size, *values.shape[1:]))
        np.add.at(result, self.points.amplifier, values)
        return result

    def start(self) -> _TransferFit:
        """Return a first estimate: the gain from variance and covariances together, brighter-fatter from all points."""
        freedom = self.points.freedom
        total = self.sums(freedom)
        with np.errstate(invalid="ignore", divide="ignore"):
            inverse = self.sums(freedom * self.variance) / total
        shared = np.zeros(_SHARED)
        for _ in range(2):
            x = self.points.mean / inverse[self.points.amplifier] / REFERENCE_ELECTRONS
            shared[0] = np.sum(freedom * x * self.covariance / inverse[self.points.amplifier]) / np.sum(freedom * x**2)
            lost = self.sums(freedom * (1.0 - shared[0] * x)) / np.where(total > 0, total, 1.0)
            with np.errstate(invalid="ignore", divide="ignore"):
                inverse = self.sums(freedom * self.variance) / total / np.clip(lost, 0.3, None)
        return _TransferFit(np.log(inverse), np.zeros((self.measured.size, _OWN - 1)), shared)


@dataclass(frozen=True)
class _TransferFit:
    """Unknowns: logarithm of adu per electron and (t, d) of each amplifier; (a, b, c) of all, at 50,000 electrons."""

    log_inverse: FloatArray
    own: FloatArray
    shared: FloatArray
    scatter: float = 0.0
    likelihood: float = -np.inf
    chi_square: float = np.nan
    freedom: float = np.nan
    local: FloatArray = field(default_factory=lambda: np.empty(0))
    coupling: FloatArray = field(default_factory=lambda: np.empty(0))
    shared_covariance: FloatArray = field(default_factory=lambda: np.empty(0))


def _model(problem: _Problem, fit: _TransferFit) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return residuals of V/M and S/M, shape (n, 2), their errors, and derivatives, shape (n, 2, 6), over their errors."""
    points, of = problem.points, problem.points.amplifier
    inverse = np.exp(fit.log_inverse[of])
    x = points.mean / inverse / REFERENCE_ELECTRONS
    strength, own_bend = fit.own[of].T
    a, b, bend = fit.shared
    base = a * x + b * x**2
    loss, slope = base * (1.0 + strength), (a * x + 2.0 * b * x**2) * (1.0 + strength)
    bent = 3.0 * (bend + own_bend) * x
    expected = np.stack([1.0 - loss - bent, loss], axis=1) * inverse[:, None]
    # A lower gain in adu per electron is more electrons for the same adu.
    by_gain = np.stack([1.0 - loss - bent + slope + bent, loss - slope], axis=1)
    zero = np.zeros_like(x)
    first = [by_gain[:, 0], -base, -3.0 * x, -x * (1.0 + strength), -(x**2) * (1.0 + strength), -3.0 * x]
    second = [by_gain[:, 1], base, zero, x * (1.0 + strength), x**2 * (1.0 + strength), zero]
    derivatives = np.stack([np.stack(first, axis=1), np.stack(second, axis=1)], axis=1) * inverse[:, None, None]
    noise = points.noise / points.mean
    errors = np.stack(
        [
            np.abs(expected[:, 0] + noise) * np.sqrt(2.0 / points.freedom),
            (inverse + noise) * np.sqrt(2.0 * _LAGS / points.freedom),
        ],
        axis=1,
    )
    residual = np.stack([problem.variance, problem.covariance], axis=1) - expected
    return residual / errors, errors, derivatives / errors[:, :, None]


def _solve(problem: _Problem, scatter: float, start: _TransferFit) -> _TransferFit:
    """Return the fit for one scatter of the strength."""
    own_prior = np.zeros((problem.measured.size, _OWN))
    own_prior[:, 1] = max(scatter, _HELD) ** -2.0
    own_prior[:, 2] = np.maximum(problem.curvature.own, _HELD) ** -2.0
    shared_prior = np.array([0.0, 0.0, max(problem.curvature.shared, _HELD) ** -2.0])
    fit = start
    trusted, of = problem.trusted, problem.points.amplifier
    few = np.unique(problem.points.mean.round(-3)).size < _SHARED
    for _ in range(_ITERATIONS):
        residual, _, rows = _model(problem, fit)
        local = problem.sums(np.einsum("nki,nkj->nij", rows[:, :, :_OWN], rows[:, :, :_OWN]))
        pull = problem.sums(np.einsum("nki,nk->ni", rows[:, :, :_OWN], residual))
        own = np.column_stack([np.zeros(len(fit.own)), fit.own])
        local += own_prior[:, :, None] * np.eye(_OWN)
        pull -= own_prior * own
        local[~problem.measured] = np.eye(_OWN)
        pull[~problem.measured] = 0.0
        coupling = problem.sums(np.einsum("nki,nkj->nij", rows[:, :, :_OWN], rows[:, :, _OWN:]))
        known = rows[trusted[of], :, _OWN:]
        matrix = np.einsum("nki,nkj->ij", known, known) + np.diag(shared_prior)
        right = np.einsum("nki,nk->i", known, residual[trusted[of]]) - shared_prior * fit.shared
        if few:
            matrix[1, 1] += _HELD**-2.0
        inverse: FloatArray = np.linalg.inv(local).astype(np.float64, copy=False)
        left = np.einsum("nij,njk->nik", inverse, coupling)
        reduced = matrix - np.einsum("nij,nik->jk", coupling[trusted], left[trusted])
        covariance: FloatArray = np.linalg.inv(reduced).astype(np.float64, copy=False)
        step = covariance @ (right - np.einsum("nij,ni->j", left[trusted], pull[trusted]))
        change = np.einsum("nij,nj->ni", inverse, pull) - left @ step
        fit = replace(fit, log_inverse=fit.log_inverse + change[:, 0], own=fit.own + change[:, 1:], shared=fit.shared + step)
    residual = _model(problem, fit)[0][trusted[of]]
    own = np.column_stack([np.zeros(len(fit.own)), fit.own])[trusted]
    chi_square = float(np.sum(residual**2))
    penalty = float(np.sum(own_prior[trusted] * own**2) + shared_prior @ fit.shared**2)
    volume = np.linalg.slogdet(local[trusted])[1].sum() + np.linalg.slogdet(reduced)[1]
    volume -= trusted.sum() * np.log(own_prior[0, 1])
    freedom = 2.0 * trusted[of].sum() - trusted.sum() - _SHARED + 1
    return replace(
        fit,
        scatter=scatter,
        likelihood=-(chi_square + penalty + volume) / 2,
        chi_square=chi_square,
        freedom=max(float(freedom), 1.0),
        local=inverse,
        coupling=left,
        shared_covariance=covariance,
    )


def _inconsistency(problem: _Problem, fit: _TransferFit) -> FloatArray:
    """Return the excess of the chi-square of V/M of each amplifier, in standard deviations."""
    residual = _model(problem, fit)[0][:, 0]
    freedom = np.bincount(problem.points.amplifier, minlength=problem.measured.size) - 1.0
    chi_square = problem.sums(residual**2)
    with np.errstate(invalid="ignore", divide="ignore"):
        significance = scipy.stats.norm.isf(np.maximum(scipy.stats.chi2.sf(chi_square, np.maximum(freedom, 1.0)), 1e-300))
    return np.where(freedom >= 1, significance, 0.0)


def _gains(problem: _Problem, fit: _TransferFit, limit: float) -> TransferGains:
    reduced = fit.chi_square / fit.freedom
    factor = max(reduced, 1.0) if reduced > 1.0 + 3.0 * (2.0 / fit.freedom) ** 0.5 else 1.0
    measured = problem.measured
    own = np.where(measured, fit.local[:, 0, 0] * factor, np.nan)
    rows, shared = fit.coupling[:, 0, :], fit.shared_covariance * factor
    variance = own + np.einsum("ni,ij,nj->n", rows, shared, rows)
    gain = np.where(measured, np.exp(-fit.log_inverse), np.nan)
    of = problem.points.amplifier
    x = problem.points.mean * gain[of] / REFERENCE_ELECTRONS
    freedom = problem.points.freedom
    total = np.where(measured, problem.sums(freedom), 1.0)
    loss = problem.sums(freedom * (fit.shared[0] * x + fit.shared[1] * x**2)) / total
    # The covariances at the largest distance, and their error: a field that falls with the third power has as much again beyond.
    outer = problem.points.covariance[:, -1] / problem.points.mean * gain[of]
    inside = freedom * problem.trusted[of]
    beyond = abs(float(np.sum(inside * outer) / inside.sum())) + float((8 * REACH * 2.0 / inside.sum()) ** 0.5)
    mean_x = float(np.sum(freedom * x) / freedom.sum())
    light = problem.sums(freedom * x) / total / mean_x
    unseen = np.where(measured, (limit if fit.scatter == 0 else 0.0) * loss, np.nan)
    noise = _NOISE_ERROR * problem.sums(freedom * problem.points.noise / problem.points.mean * gain[of]) / total
    systematic = np.sqrt((beyond * light) ** 2 + unseen**2 + noise**2)
    slope = np.array([1.0, 1.0, 0.0])
    return TransferGains(
        gain=gain,
        gain_err=gain * np.sqrt(variance),
        systematic=gain * systematic,
        unseen=unseen,
        scatter=fit.scatter,
        scatter_limit=limit,
        loss=float(fit.shared @ slope),
        loss_err=float(np.sqrt(slope @ shared @ slope)),
        chi_square=reduced,
        inconsistent=_inconsistency(problem, fit),
        own=own,
        rows=rows,
        shared=shared,
    )
