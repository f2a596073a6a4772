"""The correlation of two maps, with its error and significance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from permil.compare.correlation.anisotropy import common_directions
from permil.compare.correlation.blocks import jackknife_labels
from permil.compare.correlation.geometry import Geometry
from permil.compare.correlation.methods import METHODS, other_methods
from permil.compare.correlation.points import Points, prepare
from permil.compare.correlation.reliability import Corrected, Estimate, correct
from permil.compare.correlation.result import CorrelationResult
from permil.compare.correlation.stationarity import changes_in_common
from permil.compare.correlation.summary import FEWEST_EFFECTIVE, Summary, summarise
from permil.compare.errors import CompareError

FloatArray = NDArray[np.float64]

_WAY_OUT = "apply a high-pass filter of a stated scale to both maps and correlate again"


def correlate(
    a: ArrayLike,
    b: ArrayLike,
    x: ArrayLike,
    y: ArrayLike,
    *,
    a_err: ArrayLike | None = None,
    b_err: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    seed: int = 0,
    resamples: int = 1000,
    methods: Sequence[str] = METHODS,
    a_reliability: float | None = None,
    b_reliability: float | None = None,
) -> CorrelationResult:
    """Correlate two maps, with a significance that allows for correlated neighbours.

    The quoted results (``r``, ``r_err``, ``interval``, ``n_eff``, ``p_value``) use the covariances of the maps, estimated from their cosine
    modes and averaged over the posterior (see ``docs/correlation.md``). They use no random numbers and do not depend on ``methods``.

    Parameters
    ----------
    a, b : array_like, 1-D or 2-D
        The maps, of one shape. A point that is masked or not finite in one of them is ignored. A point given several times, with equal
        position, values and errors, counts once (`CorrelationResult.n_repeated`); different values at one position are allowed.
    x, y : array_like
        Positions of the points, finite, same shape, same unit. Points with a masked position are ignored.
    a_err, b_err : array_like or float, optional
        Standard errors of the values, for the noise-corrected results, in the units of a and b. Errors of a and b must be mutually
        independent. Points with a masked error are ignored.
    groups : array_like, optional
        Label of each point (its exposure), for the jackknife over groups; at least five groups.
    seed
        Seed of bootstrap and surrogates.
    resamples
        Number of bootstrap and of surrogate samples.
    methods
        Further methods to run, of `METHODS`; all by default. () is the fastest.
    a_reliability, b_reliability
        Known reliability (see `split_half_reliability`) instead of errors.

    Returns
    -------
    CorrelationResult
        The results; ``print`` shows a summary.

    Raises
    ------
    CompareError
        If the input cannot be used: see `permil.compare.correlation.points.prepare`.

    Examples
    --------
    >>> import numpy as np
    >>> y, x = np.mgrid[:20, :20]
    >>> a, b = np.random.default_rng(0).standard_normal((2, 20, 20))
    >>> correlate(a, b, x, y, methods=()).n
    400
    """
    _check_options(methods, resamples, (a_reliability, b_reliability))
    points = prepare(a, b, x, y, a_err=a_err, b_err=b_err, groups=groups)
    geometry = Geometry.of(points.x, points.y)
    summary = summarise(geometry, points.a, points.b)
    p_value, reason = _quotable(points, summary)
    ranks = [_ranks(values) for values in (points.a, points.b)]
    ranked = summarise(geometry, *ranks)
    found, scan, nulls = other_methods(geometry, points, summary.r, seed, resamples, methods)
    candidates = summary.geometry.candidates
    return CorrelationResult(
        r=summary.r,
        r_err=summary.r_err,
        interval=summary.interval,
        n=points.n,
        n_masked=points.masked,
        n_repeated=points.repeated,
        n_eff=summary.n_eff,
        p_value=p_value,
        reason=reason,
        rank=ranked.r,
        rank_p_value=np.nan if np.isnan(p_value) else ranked.p_value,
        length_a=candidates.length(summary.posterior_a),
        length_b=candidates.length(summary.posterior_b),
        corrected=_corrected(geometry, points, summary.r_err, a_reliability, b_reliability),
        methods=found,
        scan=scan,
        nulls=nulls,
        seed=seed,
        a=points.a * points.a_scale + points.a_mean,
        b=points.b * points.b_scale + points.b_mean,
    )


def _check_options(methods: Sequence[str], resamples: int, reliabilities: tuple[float | None, float | None]) -> None:
    unknown = [name for name in methods if name not in METHODS]
    if unknown:
        raise CompareError(
            f"unknown method {unknown[0]!r}", remedy=f"choose from {', '.join(METHODS)}", value=unknown[0], allowed=METHODS
        )
    if resamples < 20:
        raise CompareError(f"{resamples} resamples are too few for an error", remedy="use at least 20", value=resamples)
    for reliability in reliabilities:
        if reliability is not None and not 0.0 < reliability <= 1.0:
            raise CompareError(
                f"the reliability {reliability} is not a fraction of the variance",
                remedy="give a number above 0, at most 1",
                value=reliability,
            )


def _quotable(points: Points, summary: Summary) -> tuple[float, str]:
    """Return the p-value, or NaN and the reason for it."""
    geometry = summary.geometry
    candidates, cells = geometry.candidates, geometry.cells
    posteriors = summary.posterior_a, summary.posterior_b
    if summary.n_eff_low < FEWEST_EFFECTIVE or np.isnan(summary.p_value):
        lengths = [candidates.length(posterior)[0] for posterior in posteriors]
        return np.nan, (
            f"the maps vary so slowly (over {lengths[0]:.3g} and {lengths[1]:.3g}, in a field of {cells.diagonal:.3g}) that "
            f"{points.n} values are equivalent to only about {summary.n_eff:.0f} (at least {summary.n_eff_low:.0f}) independent ones, but "
            f"{FEWEST_EFFECTIVE:.0f} are needed; {_WAY_OUT}"
        )
    weights_a, weights_b = (candidates.mean_weights(posterior) for posterior in posteriors)
    # Related maps share directions because they are related: the part of one map explained by the other is removed first.
    turning = min(
        common_directions(cells, candidates.expectations, first, second, weights_a, weights_b)
        for first, second in ((summary.a, _unexplained(summary.b, summary.a)), (_unexplained(summary.a, summary.b), summary.b))
    )
    if turning > 1.0:
        return np.nan, (
            "both maps have stripes or rings with the same local direction (non-stationary), along which "
            f"values are not independent (the variance of r would be at least {turning:.2g} times larger); correlate profiles "
            f"across them, or {_WAY_OUT}"
        )
    own_a, own_b = (1.0 + np.exp(-candidates.null_variance(posterior, posterior)[0]) for posterior in posteriors)
    factor = changes_in_common(geometry.x, geometry.y, summary.a, summary.b, own_a, own_b)
    if factor > 1.0:
        return np.nan, (
            "both maps vary much more in the same parts of the field than in others (non-stationary: the variance of r would be "
            f"{factor:.2g} times that of one covariance for the whole field); divide each map by its local scatter, correlate the parts "
            f"separately, or {_WAY_OUT}"
        )
    return summary.p_value, ""


def _unexplained(values: FloatArray, given: FloatArray) -> FloatArray:
    """Return the part of a standardised map not explained by another, standardised."""
    left = values - np.mean(values * given) * given
    spread = left.std()
    return left / spread if spread > 0 else left


def _ranks(values: FloatArray) -> FloatArray:
    ranks = stats.rankdata(values)
    return (ranks - ranks.mean()) / ranks.std()


def _corrected(
    geometry: Geometry, points: Points, r_err: float, a_reliability: float | None, b_reliability: float | None
) -> Corrected:
    """Return the noise-corrected results, with slopes in the units of the input."""
    corrected = correct(
        points.a,
        points.b,
        jackknife_labels(points.x, points.y, geometry.cells),
        a_variance=0.0 if points.a_err is None else points.a_err**2,
        b_variance=0.0 if points.b_err is None else points.b_err**2,
        a_reliability=a_reliability,
        b_reliability=b_reliability,
        r_err=r_err,
    )
    unit = points.b_scale / points.a_scale
    slope, plain = (Estimate(s.value * unit, s.error * unit, s.reason) for s in (corrected.slope, corrected.plain_slope))
    return Corrected(corrected.reliability_a, corrected.reliability_b, corrected.r, slope, plain)
