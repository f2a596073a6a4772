"""Estimate of the photodiode's noise, drift and steps from its readings and the signals' information on the scales.

White noise and drift of a real photodiode differ by orders of magnitude, and a drift looks like a gradient of the flat if
position correlates with time. Therefore no single set of their sizes is used: the covariance of the readings is averaged over the
posterior of hypotheses. Each has

- white noise of any size (Jeffreys prior, integrated analytically),
- no process in time, or one of a kernel of `KERNELS` with an amplitude of 0.1 to 300 times the white noise,
- a linear drift, an offset of each epoch, and a step at each time suggested by the readings, each absent or of any amplitude.

Amplitudes have a half-t prior with three degrees of freedom. The joint solution without the photodiode gives an information matrix
of the scales with a score. The directions that it determines are contrasts of the readings, whose restricted likelihood
(Patterson & Thompson 1971) is that of a normal vector. For a kernel ``K`` and white noise ``W = L L'`` the matrix ``L^-1 K L^-T`` is made
tridiagonal once; the evidence of every amplitude then costs no more than sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from permil.arrays import BoolArray, FloatArray, IntArray
from permil.flat.joint.factor import Tridiagonal, inverse_of
from permil.flat.joint.photodiode import READING_LIMIT, Drift, Effect, PhotodiodeModel, constants, drift_correlation, from_middle

NO_DRIFT_PRIOR = 0.8
"""Prior probability that there is no process in time, no linear drift and no offsets of epochs, each."""

USUAL_AMPLITUDE = 2e-3
"""Scale of the prior of all amplitudes, relative: real photodiodes drift by 0.02 to 0.3 per cent in a run."""

KERNELS = ((True, 2.0), (True, 0.6), (True, 0.2), (True, 0.06), (False, 3.0), (False, 0.2))
"""Smooth (Matern 5/2) or rough (exponential; a random walk where it is long), and correlation length as a fraction of the campaign."""

FEW_READINGS, MANY_READINGS = 400, 1200
"""Largest number of readings for the estimate of noise and drift: before convergence, and at the end."""

_RATIOS = np.geomspace(0.1, 300.0, 22)
"""Amplitudes of a process in time over the white noise."""
_EFFECTS = np.concatenate([[0.0], np.geomspace(0.3, 1e6, 24)])
"""Amplitudes of drift, offsets and steps over the white noise."""
_STEP_PRIOR = 0.02
"""Prior probability that the photodiode jumps at an unknown time."""
_STEP_PRESENT = 0.9
"""Prior probability of a step after one was found."""
_MOST_STEPS = 4
_FEWEST_BESIDE_STEP = 3
"""Minimum number of readings before and after a step."""
_SWEEPS = 2
"""Rounds in which the amplitudes of drift, offsets and steps are estimated in turn."""
_COMPARED = 1e-4
"""Correlation of the scales of two exposures above which the signals compare them."""
_LEAST_INFORMATION = 1e-9
"""Eigenvalue, relative to the largest, up to which the signals do not determine a direction."""
_ROUNDING = 1e-5
_LEAST_WHITE, _UNKNOWN_WHITE = 1e-7, 0.01
"""Smallest white noise, and the white noise assumed where the readings do not determine it; relative."""
_LEAST_PROBABILITY = 1e-4
"""Smallest probability of a hypothesis of the drift that is kept."""
_MOST_REFINEMENTS, _SAME_WHITE = 8, 0.002
"""Largest number of iterations of the white noise, relative to which the signals' own noise is weighted, and change at which they end."""


@dataclass(frozen=True)
class Contrasts:
    """Combinations of the readings' errors that the signals determine.

    Parameters
    ----------
    rows : ndarray, shape (m, n)
        ``T``; free of the constant, the regressors and the readings that are not used.
    values : ndarray, shape (m,)
        ``T`` times the errors of the readings, as the signals see them.
    noise : ndarray, shape (m, m)
        Covariance that the signals' own noise gives them.
    """

    rows: FloatArray
    values: FloatArray
    noise: FloatArray

    @classmethod
    def of(cls, information: FloatArray, pull: FloatArray, fixed: FloatArray, used: BoolArray) -> Contrasts:
        """Return all contrasts.

        Parameters
        ----------
        information : ndarray, shape (n, n)
            Information of the signals on the scales: inverse covariance, singular where they have none (constant, gradients).
        pull : ndarray, shape (n,)
            Gradient of the log likelihood of the signals where the scales equal the readings.
        fixed : ndarray, shape (n, k)
            ``X``.
        used : ndarray of bool, shape (n,)
            Readings that count.
        """
        strength, directions = np.linalg.eigh(information)
        known = strength > _LEAST_INFORMATION * strength[-1]
        strength, directions = strength[known], directions[:, known]
        free = np.column_stack([fixed, np.eye(len(used))[:, ~used]])
        outside = _complement(directions.T @ (free / np.linalg.norm(free, axis=0)))
        rows = outside.T @ directions.T
        values = -outside.T @ ((directions.T @ pull) / strength)
        return cls(rows, values, (outside.T / strength) @ outside)

    @property
    def size(self) -> int:
        """Number of contrasts."""
        return len(self.values)


def _complement(columns: FloatArray) -> FloatArray:
    """Return an orthonormal basis of the complement of some columns, which are parts of unit vectors.

    The rest of a vector that the signals do not determine is rounding.
    """
    left, strength, _ = np.linalg.svd(columns, full_matrices=True)
    return left[:, int((strength > _ROUNDING).sum()) :]


@dataclass(frozen=True)
class _Components:
    """Linear drift, offsets of epochs and steps.

    Parameters
    ----------
    columns : ndarray, shape (n, k)
        What each adds to the readings.
    groups : ndarray of int, shape (k,)
        Columns of one group share one amplitude.
    priors : ndarray
        Probability of each group.
    effects : ndarray, shape (m, k)
        What is reported, as rows that act on the coefficients of the columns: differences between epochs that follow one another,
        steps.
    times : ndarray, shape (m,)
        See `Effect`.
    """

    columns: FloatArray
    groups: IntArray
    priors: FloatArray
    effects: FloatArray
    times: FloatArray

    @classmethod
    def of(cls, time: FloatArray, epoch: IntArray, steps: Sequence[float]) -> _Components:
        columns: list[NDArray[Any]] = [from_middle(time)]
        groups, priors = [0], [1.0 - NO_DRIFT_PRIOR]
        starts = sorted((float(time[epoch == number].min()), int(number)) for number in np.unique(epoch))
        if len(starts) > 1:
            columns += [(epoch == number).astype(float) for _, number in starts]
            groups += [1] * len(starts)
            priors.append(1.0 - NO_DRIFT_PRIOR)
        for step in steps:
            columns.append((time >= step) - 0.5)
            groups.append(len(priors))
            priors.append(_STEP_PRESENT)
        unit = np.eye(len(columns))
        offsets = unit[1 : 1 + len(starts)] if len(starts) > 1 else unit[:0]
        effects = np.concatenate([np.diff(offsets, axis=0), unit[1 + len(offsets) :]])
        times = np.array([*(start for start, _ in starts[1:]), *steps])
        return cls(np.column_stack(columns), np.array(groups), np.array(priors), effects, times)


@dataclass
class _Posterior:
    """Evidence and estimates of every hypothesis; arrays over hypotheses."""

    log_evidence: FloatArray
    white_variance: FloatArray
    kernel: IntArray
    ratio: FloatArray
    effect_variance: FloatArray
    effects: FloatArray
    effect_errors: FloatArray
    weights: FloatArray = field(init=False)
    total: float = field(init=False)

    def __post_init__(self) -> None:
        most = float(self.log_evidence.max())
        odds = np.exp(self.log_evidence - most)
        self.total = most + float(np.log(odds.sum()))
        self.weights = odds / odds.sum()

    def mean(self, values: FloatArray) -> FloatArray:
        """Return an average over the hypotheses."""
        return np.tensordot(self.weights, values, axes=1)


def _amplitude_prior(amplitude: FloatArray) -> FloatArray:
    """Return the half-t prior of amplitudes on a logarithmic grid along the last axis, summing to 1."""
    density = amplitude / (1.0 + (amplitude / USUAL_AMPLITUDE) ** 2 / 3.0) ** 2
    return density / density.sum(axis=-1, keepdims=True)


class _HypothesisPosterior:
    """Posterior of all hypotheses for given contrasts."""

    def __init__(self, time: FloatArray, epoch: IntArray, contrasts: Contrasts, white: float, kernels: Sequence[int]) -> None:
        self.time, self.epoch, self.contrasts = time, epoch, contrasts
        self.factor = linalg.cholesky(contrasts.rows @ contrasts.rows.T + contrasts.noise / white**2, lower=True)
        rows = self._whiten(contrasts.rows)
        self.kernels = [(number, Tridiagonal(rows @ self._correlation(number) @ rows.T)) for number in kernels]
        self._inverses: dict[tuple[int, float], FloatArray] = {}

    def _whiten(self, right: FloatArray) -> FloatArray:
        return np.asarray(linalg.solve_triangular(self.factor, right, lower=True, check_finite=False))

    def _correlation(self, kernel: int) -> FloatArray:
        smooth, length = KERNELS[kernel]
        return drift_correlation(self.time, length, smooth=smooth)

    def posterior(self, components: _Components) -> _Posterior:
        """Return the posterior with some components besides white noise and kernels."""
        contrasts = self.contrasts
        columns = self._whiten(np.column_stack([contrasts.values, contrasts.rows @ components.columns]))
        found = [self._of_products((columns.T @ columns)[None], np.zeros(1), -1, np.zeros(1), components)]
        for kernel, matrix in self.kernels:
            turned = matrix.turned(columns)
            products, determinants = zip(*(matrix.products(turned, ratio**2) for ratio in _RATIOS), strict=True)
            found.append(self._of_products(np.array(products), np.array(determinants), kernel, _RATIOS, components))
        return _Posterior(*(np.concatenate([each[place] for each in found]) for place in range(7)))

    def _of_products(
        self, products: FloatArray, log_determinant: FloatArray, kernel: int, ratios: FloatArray, components: _Components
    ) -> tuple[FloatArray, ...]:
        """Return evidence and estimates of a kernel at some ratios of its amplitude to the white noise.

        Parameters
        ----------
        products : ndarray, shape (ratios, 1 + k, 1 + k)
            Of the contrasts' values and of the columns of the components, with the inverse covariance.
        log_determinant : ndarray, shape (ratios,)
            Of the covariance.
        """
        chi_square, pull, gram = products[:, 0, 0], products[:, 1:, 0], products[:, 1:, 1:]
        # White noise without components sets the unit of their amplitudes at first.
        relative = np.zeros((len(ratios), len(components.priors)))
        log_evidence = np.zeros(len(ratios))
        size = self.contrasts.size
        for sweep in range(_SWEEPS):
            log_evidence = -size / 2 * np.log(chi_square) - log_determinant / 2
            for group, prior in enumerate(components.priors):
                if sweep == 0:
                    relative[:, group:] = 0.0
                trial = np.repeat(relative[:, None], len(_EFFECTS), axis=1)
                trial[:, :, group] = _EFFECTS**2
                if sweep:
                    # In the chain of evidences the later components are absent.
                    chain = trial.copy()
                    chain[:, :, group + 1 :] = 0.0
                gains, quadratic = _gains(products, size, trial[:, :, components.groups])
                white = np.sqrt(quadratic / max(size - 2, 1))
                prior_here = np.concatenate(
                    [np.full((len(ratios), 1), 1 - prior), prior * _amplitude_prior(_EFFECTS[1:] * white[:, :1])], axis=1
                )
                relative[:, group] = _average(gains, prior_here, _EFFECTS**2)
                if sweep:
                    if group < len(components.priors) - 1:
                        gains, _ = _gains(products, size, chain[:, :, components.groups])
                    log_evidence += _log_sum(gains - gains[:, :1], prior_here)
        _, quadratic = _gains(products, size, relative[:, None, components.groups])
        white_variance = quadratic[:, 0] / max(size - 2, 1)
        if kernel < 0:
            log_evidence += np.log(NO_DRIFT_PRIOR)
        else:
            prior_ratio = np.diag(_amplitude_prior(np.sqrt(white_variance)[:, None] * ratios))
            log_evidence += np.log((1 - NO_DRIFT_PRIOR) / max(len(self.kernels), 1) * prior_ratio + 1e-300)
        effects, errors = _effects(gram, pull, relative[:, components.groups], components.effects)
        return (
            log_evidence,
            white_variance,
            np.full(len(ratios), kernel),
            ratios,
            relative * white_variance[:, None],
            effects,
            errors * np.sqrt(white_variance)[:, None],
        )

    def inverse_covariance(self, posterior: _Posterior, components: _Components) -> FloatArray:
        """Return the inverse covariance of the contrasts, over the white variance, under the likeliest hypothesis."""
        best = int(np.argmax(posterior.log_evidence))
        kernel, ratio = int(posterior.kernel[best]), posterior.ratio[best]
        matrix = self._inverse(kernel, float(ratio))
        x = self.contrasts.rows @ components.columns
        weight = np.sqrt(posterior.effect_variance[best] / posterior.white_variance[best])[components.groups]
        projected = matrix @ (x * weight)
        inner = np.eye(len(weight)) + (x * weight).T @ projected
        return matrix - projected @ np.linalg.solve(inner, projected.T)

    def _inverse(self, kernel: int, ratio: float) -> FloatArray:
        """Return the inverse covariance of the contrasts, over the white variance, of one kernel without components."""
        if (kernel, ratio) not in self._inverses:
            factor, rows = self.factor, self.contrasts.rows
            if kernel >= 0:
                drift = ratio**2 * (rows @ self._correlation(kernel) @ rows.T)
                factor = linalg.cholesky(self.factor @ self.factor.T + drift, lower=True)
            self._inverses[kernel, ratio] = inverse_of(factor)
        return self._inverses[kernel, ratio]


def _gains(products: FloatArray, size: int, relative: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the contribution of components of some relative variances to the log evidence, and the remaining quadratic form.

    With the products ``G`` of the columns, ``p`` of these with the values and ``c`` of the values, and ``R`` the roots of the variances, it
    is ``c - p' R (1 + R G R)^-1 R p``: the Schur complement of the values' product in the matrix of all. That is factorised with ``2 c``
    in its place, so that rounding does not take it below 0.

    Parameters
    ----------
    products : ndarray, shape (hypotheses, 1 + k, 1 + k)
        See `_HypothesisPosterior.posterior`.
    relative : ndarray, shape (hypotheses, trials, k)
    """
    order = [*(1 + np.flatnonzero(relative.any(axis=(0, 1)))), 0]
    chi_square, roots = products[:, :1, 0], np.ones((*relative.shape[:2], len(order)))
    np.sqrt(relative[..., np.array(order[:-1], dtype=np.int64) - 1], out=roots[..., :-1])
    matrix = roots[..., :, None] * roots[..., None, :]
    matrix *= products[:, None, order][..., order]
    np.einsum("htkk->htk", matrix)[..., :-1] += 1.0
    matrix[..., -1, -1] = 2.0 * chi_square
    try:
        pivots = np.einsum("htkk->htk", np.linalg.cholesky(matrix)) ** 2
        left, log_determinant = pivots[..., -1], np.log(pivots[..., :-1]).sum(axis=-1)
    except np.linalg.LinAlgError:
        # Variances so large that rounding of the products counts.
        log_determinant, of_all = (np.linalg.slogdet(part)[1] for part in (matrix[..., :-1, :-1], matrix))
        left = np.exp(of_all - log_determinant)
    quadratic = np.maximum(left - chi_square, 1e-14 * chi_square + 1e-300)
    gain = -size / 2 * np.log(quadratic / chi_square) - log_determinant / 2
    return gain, quadratic


def _log_sum(gains: FloatArray, prior: FloatArray) -> FloatArray:
    most = gains.max(axis=1)
    return most + np.log((prior * np.exp(gains - most[:, None])).sum(axis=1))


def _average(gains: FloatArray, prior: FloatArray, values: FloatArray) -> FloatArray:
    weights = prior * np.exp(gains - gains.max(axis=1, keepdims=True))
    return weights @ values / weights.sum(axis=1)


def _effects(gram: FloatArray, pull: FloatArray, relative: FloatArray, rows: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the best linear predictions of combinations of the columns' coefficients, and their errors over the white noise."""
    root = np.sqrt(relative)
    inner = np.eye(gram.shape[-1]) + root[:, :, None] * gram * root[:, None, :]
    inverse = np.linalg.inv(inner)
    coefficients = root * np.einsum("hij,hj->hi", inverse, root * pull)
    scaled = rows * root[:, None, :]
    return coefficients @ rows.T, np.sqrt(np.maximum(np.einsum("hmi,hij,hmj->hm", scaled, inverse, scaled), 0.0))


@dataclass(frozen=True)
class PhotodiodeFit:
    """The photodiode and its used readings.

    Parameters
    ----------
    model : PhotodiodeModel
    used : ndarray of bool, shape (n,)
        Readings that count.
    """

    model: PhotodiodeModel
    used: BoolArray


def fit_photodiode(
    time: FloatArray,
    regressors: FloatArray,
    information: FloatArray,
    pull: FloatArray,
    *,
    epoch: IntArray | None = None,
    used: BoolArray | None = None,
    white: float | None = None,
    with_drift: bool = True,
    reject: bool = True,
    most_readings: int = MANY_READINGS,
) -> PhotodiodeFit:
    """Estimate noise and drift of the photodiode, and find the readings that do not fit it.

    Parameters
    ----------
    time, regressors
        Of the exposures with a reading.
    information, pull
        See `Contrasts.of`.
    epoch : ndarray of int, shape (n,)
        The photodiode may have another response in each epoch. By default there is one.
    used : ndarray of bool, shape (n,)
        Readings that may count; by default all.
    white : float
        White noise to begin with; by default from differences of readings that follow one another.
    with_drift
        Whether it may change in time at all.
    reject
        Whether outlying readings are sought.
    most_readings
        Where there are more, the most informative are taken.
    """
    count = len(time)
    used = np.ones(count, dtype=bool) if used is None else used.copy()
    epoch = np.zeros(count, dtype=np.int64) if epoch is None else epoch
    fixed = constants(regressors, count)
    kept = np.arange(count) if count <= most_readings else _informative_exposures(information, time, most_readings)
    model = PhotodiodeModel(_UNKNOWN_WHITE, _UNKNOWN_WHITE)
    while True:
        reduced = marginal(information, pull, kept) if len(kept) < count else (information, pull)
        contrasts = Contrasts.of(*reduced, fixed[kept], used[kept])
        if contrasts.size < 3:
            return PhotodiodeFit(model, used)
        white = white or _robust_noise(contrasts, time[kept])
        for _ in range(_MOST_REFINEMENTS):
            model, deviations = _fit(time[kept], epoch[kept], contrasts, white, with_drift=with_drift)
            before, white = white, max(model.white, _LEAST_WHITE)
            if abs(np.log(white / before)) < _SAME_WHITE:
                break
        worst = float(np.abs(deviations).max(initial=0.0))
        if not reject or worst <= READING_LIMIT or used.sum() < count / 2:
            return PhotodiodeFit(replace(model, whole_drift=_whole_drift(model, time[kept], epoch[kept], contrasts)), used)
        used[kept[np.abs(deviations) > max(READING_LIMIT, 0.6 * worst)]] = False


def _informative_exposures(information: FloatArray, time: FloatArray, most: int) -> IntArray:
    """Return a number of exposures in the order of time, preferring those whose scales the signals compare with many others.

    Exposures that read one detector each are compared with few others (its pointings), those of a scan with all of the scan: processes
    in time are seen there. Pairs of neighbours in time are kept: their differences separate white noise from drift.
    """
    scale = np.sqrt(np.maximum(np.diag(information), np.finfo(float).tiny))
    compared = (np.abs(information / scale[:, None] / scale) > _COMPARED).sum(axis=1)
    order = np.argsort(time, kind="stable")
    is_rich = compared[order] >= compared.max() / 2
    rich, others = order[is_rich], order[~is_rich]
    number = min(len(rich), max(2 * most // 3, most - len(others)))
    kept = np.concatenate([_pairs(rich, number), _pairs(others, most - number)])
    return kept[np.argsort(time[kept], kind="stable")]


def _pairs(exposures: IntArray, number: int) -> IntArray:
    """Return a number of exposures, as evenly spaced pairs of neighbours."""
    if len(exposures) <= number:
        return exposures
    first = np.linspace(0, len(exposures) - 2, number // 2).astype(int)
    return exposures[np.unique(np.concatenate([first, first + 1]))]


def _robust_noise(contrasts: Contrasts, time: FloatArray) -> float:
    """Return a first estimate of the white noise, from differences of consecutive readings."""
    order = np.argsort(time, kind="stable")
    errors = (contrasts.rows.T @ contrasts.values)[order]
    differences = np.diff(errors)
    return max(float(1.4826 * np.median(np.abs(differences - np.median(differences))) / np.sqrt(2)), _LEAST_WHITE)


def _fit(
    time: FloatArray, epoch: IntArray, contrasts: Contrasts, white: float, *, with_drift: bool
) -> tuple[PhotodiodeModel, FloatArray]:
    """Return the model, and the deviation of each reading from the prediction of all others, in standard deviations."""
    search = _HypothesisPosterior(time, epoch, contrasts, white, range(len(KERNELS)) if with_drift else ())
    steps: list[float] = []
    components = _Components.of(time, epoch, steps)
    if not with_drift:
        components = replace(components, priors=np.full(len(components.priors), 1e-12))
    posterior = search.posterior(components)
    while with_drift and len(steps) < _MOST_STEPS:
        step = _likeliest_step(search, posterior, components, time, steps)
        if step is None:
            break
        trial = _Components.of(time, epoch, [*steps, step])
        with_step = search.posterior(trial)
        if with_step.total + np.log(_STEP_PRIOR / len(time)) <= posterior.total + np.log(0.5):
            break
        steps.append(step)
        components, posterior = trial, with_step
    inverse = search.inverse_covariance(posterior, components)
    best_white = np.sqrt(posterior.white_variance[int(np.argmax(posterior.log_evidence))])
    seen = inverse @ contrasts.rows
    strength = np.einsum("me,me->e", contrasts.rows, seen)
    with np.errstate(invalid="ignore", divide="ignore"):
        deviations = np.where(strength > 1e-9, contrasts.values @ seen / np.sqrt(strength) / best_white, 0.0)
    # Outlying readings raise the estimated noise: the bulk of the deviations shows by how much.
    usual = 1.4826 * float(np.median(np.abs(deviations[strength > 1e-9]))) if (strength > 1e-9).any() else 1.0
    # Fisher information of the logarithm of the white variance.
    share = inverse @ contrasts.rows @ contrasts.rows.T
    fisher = float(np.sum(share * share.T)) / 2
    return _model(posterior, components, steps, fisher), deviations / max(min(usual, 1.0), 1e-3)


def _likeliest_step(
    search: _HypothesisPosterior, posterior: _Posterior, components: _Components, time: FloatArray, steps: Sequence[float]
) -> float | None:
    """Return the time of the most likely step under the likeliest hypothesis, or for a steady photodiode."""
    times = np.unique(time)
    first, last = _FEWEST_BESIDE_STEP, len(times) - _FEWEST_BESIDE_STEP
    times = times[first:last]
    times = times[~np.isin(times, steps)]
    if not len(times):
        return None
    inverse = search.inverse_covariance(posterior, components)
    best = posterior.white_variance[int(np.argmax(posterior.log_evidence))]
    columns = search.contrasts.rows @ ((time[:, None] >= times) - 0.5)
    weighted = inverse @ columns
    strength = np.einsum("mk,mk->k", columns, weighted)
    with np.errstate(invalid="ignore", divide="ignore"):
        gain = np.where(strength > 1e-9 * strength.max(), (search.contrasts.values @ weighted) ** 2 / strength / best, 0.0)
    return float(times[int(np.argmax(gain))])


def _model(posterior: _Posterior, components: _Components, steps: Sequence[float], fisher: float) -> PhotodiodeModel:
    white = float(np.sqrt(posterior.mean(posterior.white_variance)))
    process = posterior.weights * (posterior.kernel >= 0)
    amplitude = posterior.ratio * np.sqrt(posterior.white_variance)
    drifts = tuple(
        Drift(
            float(amplitude[place]),
            KERNELS[posterior.kernel[place]][1],
            float(process[place]),
            KERNELS[posterior.kernel[place]][0],
        )
        for place in np.flatnonzero(process > _LEAST_PROBABILITY)
    )
    sizes = posterior.mean(posterior.effects)
    spread = posterior.mean(posterior.effect_errors**2 + (posterior.effects - sizes) ** 2)
    rms = np.sqrt(posterior.mean(posterior.effect_variance))
    groups = components.groups[np.argmax(components.effects != 0, axis=1)]
    effects = [
        Effect(float(size), float(error), float(rms[group]), float(time))
        for size, error, group, time in zip(sizes, np.sqrt(spread), groups, components.times, strict=True)
    ]
    first_step = len(effects) - len(steps)
    return PhotodiodeModel(
        white,
        white / (2 * np.sqrt(max(fisher, 0.5))),
        drifts,
        float(rms[0]),
        tuple(effects[first_step:]),
        float(rms[1]) if first_step else 0.0,
        tuple(effects[:first_step]),
    )


def _whole_drift(model: PhotodiodeModel, time: FloatArray, epoch: IntArray, contrasts: Contrasts) -> Effect:
    """Return the best linear prediction of the change by drift from the first to the last reading."""
    drift = model.drift_covariance(time)
    change = drift[np.argmax(time)] - drift[np.argmin(time)]
    variance = float(change[np.argmax(time)] - change[np.argmin(time)])
    rows = contrasts.rows
    factor = linalg.cho_factor(rows @ model.covariance(time, epoch) @ rows.T + contrasts.noise, lower=True)
    weights = linalg.cho_solve(factor, rows @ change)
    error = np.sqrt(max(variance - float(weights @ rows @ change), 0.0))
    return Effect(float(weights @ contrasts.values), float(error), float(np.sqrt(max(variance, 0.0))))


def marginal(information: FloatArray, pull: FloatArray, kept: IntArray) -> tuple[FloatArray, FloatArray]:
    """Return information and score of some of the scales, if only the signals constrain the others."""
    others = np.setdiff1d(np.arange(len(information)), kept)
    if not others.size:
        return information[np.ix_(kept, kept)], pull[kept]
    inner = information[np.ix_(others, others)]
    # A little stiffness, for what the signals do not know of the others.
    inner = inner + 1e-10 * np.trace(inner) / len(inner) * np.eye(len(inner))
    cross = information[np.ix_(others, kept)]
    solved = linalg.solve(inner, np.column_stack([cross, pull[others]]), assume_a="pos")
    reduced = information[np.ix_(kept, kept)] - cross.T @ solved[:, :-1]
    return (reduced + reduced.T) / 2, pull[kept] - cross.T @ solved[:, -1]
