"""Fit of the beam to nodes, and the beam model: the beam as a function of position minus projector, with errors.

For whole detectors the model is tabulated once as a tensor cubic B-spline and evaluated by a compiled loop. A uniform cubic B-spline
interpolates a lattice of the model with an error that falls with the fourth power of the step (Unser 1999, IEEE Signal Processing
Magazine 16(6), 22); the step is halved until the error between the lattice points is below 5e-7.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.ndimage import spline_filter

from permil._kernels import beam as kernels
from permil.arrays import Float32Array, FloatArray, plain_array
from permil.beam.gaussian_process import GaussianProcess
from permil.beam.likelihood import KernelFamily, cubic_family, ladder_family, maximise_likelihood
from permil.beam.mixture import (
    LATTICE,
    BeamPosition,
    Mixture,
    calibration_nodes,
    centroid_of,
    inflation,
    maximum_of,
    peak_of,
    stacking_weights,
)
from permil.beam.nodes import BeamNodes
from permil.beam.outliers import Suspects, hypotheses, judge, screen
from permil.beam.parameters import TOLERANCE_MM, BeamParameters, Hull, Member, centres_of, hole_of, observations_of, spacing_of
from permil.engine import threaded_map
from permil.errors import BeamError

if TYPE_CHECKING:
    from matplotlib.axes import Axes


SPARE_NODES = 4
PRIOR_NODES = (25.0, 5.0)  # prior weight of the cubic spline and of the ladder of lengths
MAX_ROUNDS = 12
TOP_LEVEL = 0.985
FEWEST_TOP_NODES = 16
FINEST_PER_SPACING = 0.8
FINEST_PER_LATTICE = 1.5
UNKNOWN = 1.0  # variance of a log signal without information
CONSTANT_SIGNAL = 1e-9  # relative scatter of signals below which there is no beam to model


def fit_nodes(nodes: BeamNodes, *, outlier_threshold: float, seed: int) -> tuple[BeamParameters, Mixture, BeamPosition]:
    """Fit the beam to nodes.

    Parameters
    ----------
    nodes
        Nodes in canonical order.
    outlier_threshold
        Nodes, and scales of whole exposures, that deviate from the prediction of all others by more than this many robust standard
        deviations are down-weighted.

    Returns
    -------
    parameters, mixture, maximum
        Parameters of the model, the log beam, and the position of its maximum.

    Raises
    ------
    BeamError
        If there are too few nodes, they lie on one line, or all have the same signal.
    """
    _check_number(nodes)
    hull = Hull.of(nodes.u)
    if np.ptp(np.log(nodes.signal)) < CONSTANT_SIGNAL:
        raise BeamError(
            f"all {len(nodes)} nodes have the same signal: there is no beam to model", remedy="check the column signal"
        )
    parameters, mixture = _fit_robustly(nodes, hull, outlier_threshold)
    return parameters, mixture, _best_maximum(nodes, hull, parameters, mixture, seed=seed)


def _best_maximum(nodes: BeamNodes, hull: Hull, parameters: BeamParameters, mixture: Mixture, *, seed: int) -> BeamPosition:
    """Return the maximum from the full fit or from a fit to the top of the beam alone, whichever has the smaller error.

    A plateau can be much smoother than the ring around it; its own nodes then constrain the maximum better than all nodes.
    """
    candidates = (lambda: maximum_of(mixture, hull, seed=seed), lambda: _maximum_of_top(nodes, parameters, mixture, seed=seed))
    found = threaded_map(lambda candidate: candidate(), candidates)
    return min((maximum for maximum in found if maximum is not None), key=lambda maximum: np.trace(maximum.covariance))


def _maximum_of_top(nodes: BeamNodes, parameters: BeamParameters, mixture: Mixture, *, seed: int) -> BeamPosition | None:
    """Return the maximum from a fit to the top of the beam alone; None if it contains too few nodes, or almost all."""
    log_beam = mixture.mean(nodes.u)
    top = nodes[(parameters.outlier_probability < 0.5) & (log_beam > log_beam.max() + np.log(TOP_LEVEL))]
    if not FEWEST_TOP_NODES * max(np.unique(top.bunch).size, 1) <= len(top) < len(nodes):
        return None
    try:
        hull = Hull.of(top.u)
    except BeamError:  # the nodes of the top lie on one line
        return None
    _, top_mixture = _fit_members(top, hull, Suspects.start(top))
    return maximum_of(top_mixture, hull, seed=seed)


def _fit_robustly(nodes: BeamNodes, hull: Hull, threshold: float) -> tuple[BeamParameters, Mixture]:
    """Fit and down-weight outliers until none remain, then fit once for each plausible set of outliers."""
    state = Suspects.start(nodes)
    first = screen(nodes, hull, threshold)
    if first.any():
        _, mixture = _fit_members(nodes, hull, replace(state, extra_variance=np.where(first, UNKNOWN, 0.0)))
        state.admit(first, mixture, threshold)
    parameters, mixture = _fit_members(nodes, hull, state)
    for _ in range(MAX_ROUNDS):
        if not state.flag(mixture, threshold):
            break
        parameters, mixture = _fit_members(nodes, hull, state)
    if state.release(mixture, threshold):
        parameters, mixture = _fit_members(nodes, hull, state)
    if not np.any(state.extra_variance):
        return parameters, mixture
    members, processes = [], []
    bad, roughness = judge(mixture, nodes.u, hull)
    for probability, extra_variance in hypotheses(state.extra_variance, bad):
        good = np.where(extra_variance == 0.0, roughness, 1.0)
        chosen, fitted = _fit_members(nodes, hull, replace(state, extra_variance=extra_variance, roughness=good))
        members += [replace(member, weight=probability * member.weight) for member in chosen.members]
        processes += fitted.processes
    parameters = BeamParameters(tuple(members), state.exposure_weight)
    return parameters, Mixture(processes, parameters, nodes, hull)


def _check_number(nodes: BeamNodes) -> None:
    bunches = np.unique(nodes.bunch).size
    needed = 5 + bunches + SPARE_NODES
    distinct = len(np.unique(nodes.u.round(6), axis=0))
    if len(nodes) < needed or distinct < 6 + SPARE_NODES:
        left_out = sum(len(rows) for rows in nodes.dropped.values())
        also = f" ({left_out} more were left out: {', '.join(nodes.dropped)})" if left_out else ""
        raise BeamError(
            f"{len(nodes)} nodes at {distinct} positions{also} are too few for the beam model",
            remedy=f"it needs {max(needed, 6 + SPARE_NODES)}: 5 for the drift, {bunches} for the gains and {SPARE_NODES} in excess",
            value=len(nodes),
            needed=max(needed, 6 + SPARE_NODES),
        )


def _fit_members(nodes: BeamNodes, hull: Hull, state: Suspects) -> tuple[BeamParameters, Mixture]:
    """Fit every kernel family with the current down-weighting, and compute their weights."""
    observations = observations_of(nodes, state.extra_variance, state.exposure_weight)
    centres, hole = centres_of(nodes.u, hull), hole_of(nodes, hull)
    families = _families(nodes, hull)
    variances = [maximise_likelihood(observations, family) for family in families]
    processes = [GaussianProcess(observations, *fitted, centres, hole) for fitted in zip(families, variances, strict=True)]
    left_out = [process.leave_one_out for process in processes]
    use = calibration_nodes(hull, state.extra_variance)
    prior = PRIOR_NODES[-len(families) :]
    weights = stacking_weights(left_out, [inflation(part, use) for part in left_out], use, prior)
    members = tuple(
        Member(family, fitted, float(weight), state.extra_variance, state.roughness)
        for family, fitted, weight in zip(families, variances, weights, strict=True)
    )
    parameters = BeamParameters(members, state.exposure_weight)
    return parameters, Mixture(processes, parameters, nodes, hull)


def _families(nodes: BeamNodes, hull: Hull) -> list[KernelFamily]:
    """Return the kernel families for the scan; with a reduced set of centres only the ladder is used."""
    u = nodes.u
    centre = (float(0.5 * (hull.lower + hull.upper)[0]), float(0.5 * (hull.lower + hull.upper)[1]))
    extent = float(np.sqrt(hull.area))
    centres = centres_of(u, hull)
    reduced = len(centres) < len(np.unique(u, axis=0))
    finest = FINEST_PER_LATTICE * spacing_of(centres, hull) if reduced else FINEST_PER_SPACING * spacing_of(u, hull)
    ladder = ladder_family(centre, extent, finest)
    return [ladder] if reduced else [cubic_family(centre, extent), ladder]


TOLERANCE = 5e-7
FIRST_STEPS = 80
MAX_LATTICE_POINTS = 2_000_000
CHECK_POINTS = 500
PADDING = 12  # lattice points beyond the hull: what the filter does at the border has decayed by 0.27 per point


@dataclass(frozen=True)
class SplineTable:
    """A function on a lattice as the coefficients of a tensor cubic B-spline.

    Parameters
    ----------
    coefficients : ndarray, shape (nx, ny)
        Of the B-splines centred on the lattice points.
    origin : ndarray, shape (2,)
        Place of the first lattice point, mm.
    step : float
        Step of the lattice, mm.
    """

    coefficients: FloatArray
    origin: FloatArray
    step: float

    def __post_init__(self) -> None:
        """Lay the arrays out as kernels take them."""
        for name in ("coefficients", "origin"):
            object.__setattr__(self, name, np.ascontiguousarray(getattr(self, name), np.float64))

    @classmethod
    def of(cls, function: Callable[[FloatArray], FloatArray], hull: Hull, step: float) -> SplineTable:
        """Tabulate a function of points (n, 2) over the bounding box of a hull."""
        origin = hull.lower - PADDING * step
        counts = np.ceil((hull.upper - hull.lower) / step).astype(int) + 2 * PADDING + 1
        axes = [start + step * np.arange(count) for start, count in zip(origin, counts, strict=True)]
        points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
        values = function(points).reshape(counts)
        return cls(spline_filter(values, order=3, mode="mirror"), origin, step)

    @classmethod
    def accurate(cls, function: Callable[[FloatArray], FloatArray], hull: Hull) -> SplineTable:
        """Tabulate a positive function with a step fine enough for a relative error of 5e-7."""
        step = float((hull.upper - hull.lower).max()) / FIRST_STEPS
        rng = np.random.default_rng(0)
        points = rng.uniform(hull.lower, hull.upper, (CHECK_POINTS, 2))
        points = points[hull.contains(*points.T)]
        exact = function(points)
        while True:
            table = cls.of(function, hull, step)
            error = np.abs(table.at(points) / exact - 1.0).max()
            if error < TOLERANCE or 4 * table.coefficients.size > MAX_LATTICE_POINTS:
                return table
            step *= 0.5

    def at(self, u: FloatArray) -> FloatArray:
        """Return the spline at points ``u`` (n, 2) inside the hull."""
        values = np.empty(len(u))
        kernels.values_at(np.ascontiguousarray(u, np.float64), self.coefficients, self.origin, self.step, values)
        return values

    def image(self, shape: tuple[int, int], origin: FloatArray, matrix: FloatArray, hull: Hull) -> Float32Array:
        """Return the spline on an image whose pixels map linearly to the beam's coordinates.

        Parameters
        ----------
        shape
            Rows and columns.
        origin : ndarray, shape (2,)
            ``u`` of the pixel in row 0, column 0, mm.
        matrix : ndarray, shape (2, 2)
            ``u = origin + matrix @ (column, row)``, mm per pixel.
        hull
            Outside it the image is NaN.
        """
        image = np.empty(shape, dtype=np.float32)
        half_planes = hull.half_planes.copy()
        half_planes[:, 2] -= TOLERANCE_MM
        origin, matrix = np.asarray(origin, np.float64), np.ascontiguousarray(matrix, np.float64)
        kernels.fill_image(image, origin, matrix, half_planes, self.coefficients, self.origin, self.step)
        return image


STEPS_PER_SPACING = 4
MAX_ERROR_STEPS = 60
RUNS_NAMED = 8


@dataclass(frozen=True)
class Outlier:
    """A down-weighted node.

    Parameters
    ----------
    row : int
        Its row in the table that the nodes came from.
    bunch : str
        Its bunch.
    x_mm, y_mm : float
        Its projector position, mm.
    deviation : float
        Relative deviation of its signal from the prediction of all other nodes.
    pull : float
        The same, divided by its predicted error.
    probability : float
        Probability that it is bad: the weight of the fits that down-weight it.
    """

    row: int
    bunch: str
    x_mm: float
    y_mm: float
    deviation: float
    pull: float
    probability: float


class BeamModel:
    """Beam of one LED, 1 at its maximum; created by `fit` or read from FITS.

    The log of the beam is a weighted mixture of Gaussian processes (see `permil.beam.likelihood`); errors are the standard deviation of the
    mixture, with each member inflated by its own leave-one-out calibration. Outside the convex hull of the nodes the beam is NaN.

    Parameters
    ----------
    nodes
        The nodes in canonical order.
    parameters
        Kernel families, variances, weights and down-weighting.
    mixture
        The log beam determined by nodes and parameters.
    maximum
        Position of the maximum, with its error.

    Examples
    --------
    >>> import permil
    >>> beam, error = permil.load_beam("out/beam/red.fits").evaluate([0.0, 500.0], [0.0, 0.0])
    >>> round(float(beam[0]), 1), float(beam[1])
    (1.0, nan)
    """

    def __init__(self, nodes: BeamNodes, parameters: BeamParameters, mixture: Mixture, maximum: BeamPosition) -> None:
        self.nodes = nodes
        self.parameters = parameters
        self.maximum = maximum
        self.hull = Hull.of(nodes.u)
        self._mixture = mixture
        _, self._log_peak = peak_of(mixture, self.hull)

    @classmethod
    def fit(
        cls,
        x_mm: ArrayLike,
        y_mm: ArrayLike,
        signal: ArrayLike,
        *,
        signal_err: ArrayLike = np.nan,
        photodiode: ArrayLike | None = None,
        outlier_threshold: float = 5.0,
        seed: int = 0,
    ) -> BeamModel:
        """Fit the beam model to the signals of one bunch of pixels, with the projector at many positions.

        Parameters
        ----------
        x_mm, y_mm : array_like, shape (n,)
            Projector positions minus the position of the bunch, mm, in any order, on any grid or none.
        signal : array_like, shape (n,)
            Signals, any linear unit; rows that are masked, not finite or not positive are left out.
        signal_err : array_like, shape (n,), optional
            Standard errors in the same unit.
        photodiode : array_like, shape (n,), optional
            Readings of the photodiode; signals and errors are divided by them.
        outlier_threshold, seed
            See `from_nodes`.

        Returns
        -------
        BeamModel
            ``beam(ux, uy)`` is the beam at the place ``u``, pixel minus projector: here ``(-x_mm, -y_mm)``.

        Raises
        ------
        InputError
            If a column does not hold real numbers, or its unit cannot be converted.
        BeamError
            If lengths differ, there are too few nodes, they lie on one line, or all have the same signal.
        PhotodiodeError
            If no photodiode reading is usable.

        Examples
        --------
        >>> import numpy as np, permil
        >>> x, y = (axis.ravel() for axis in np.meshgrid(np.linspace(-40, 40, 8), np.linspace(-40, 40, 8)))
        >>> beam = permil.BeamModel.fit(x, y, 5e4 * np.exp(-(x**2 + y**2) / 6000))
        >>> round(float(beam(0.0, 0.0)), 3)
        1.0
        """
        nodes = BeamNodes.from_columns(x_mm, y_mm, signal, signal_err=signal_err, photodiode=photodiode)
        return cls.from_nodes(nodes, outlier_threshold=outlier_threshold, seed=seed)

    @classmethod
    def from_nodes(cls, nodes: BeamNodes, *, outlier_threshold: float = 5.0, seed: int = 0) -> BeamModel:
        """Fit the beam model to nodes.

        Parameters
        ----------
        nodes
            Nodes in any order, on any grid or none; duplicates and several bunches are allowed.
        outlier_threshold
            Nodes, and scales of whole exposures, that deviate from the prediction of all others by more than this many robust standard
            deviations are suspects: they are down-weighted, and listed if probably bad.
        seed
            Seed of the draws for the error of the maximum.

        Raises
        ------
        BeamError
            If there are too few nodes, they lie on one line, or all have the same signal.
        """
        nodes = nodes.canonical()
        return cls(nodes, *fit_nodes(nodes, outlier_threshold=outlier_threshold, seed=seed))

    # Values of the beam

    def evaluate(self, ux: ArrayLike, uy: ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Return the beam and its standard error at positions.

        Parameters
        ----------
        ux, uy : array_like
            Position minus projector, mm; broadcast against each other.

        Returns
        -------
        beam, beam_err : ndarray
            Beam, 1 at its maximum, and its error; the scale of the maximum is taken as exact. NaN outside the hull of the nodes.
        """
        log_beam, variance = self._on_hull(ux, uy)
        beam = np.exp(log_beam - self._log_peak)
        return beam, beam * np.sqrt(variance)

    def __call__(self, ux: ArrayLike, uy: ArrayLike) -> FloatArray:
        """Return the beam at positions, as `evaluate` does, without its error."""
        return self.evaluate(ux, uy)[0]

    def predict_signal(self, ux: ArrayLike, uy: ArrayLike, *, bunch: str | None = None) -> tuple[FloatArray, FloatArray]:
        """Return the predicted signal of a bunch, and its standard error, in the unit of the fitted signal.

        Parameters
        ----------
        bunch
            Label of the bunch; by default the geometric mean of all.

        Raises
        ------
        BeamError
            If the bunch does not exist.
        """
        log_beam, variance = self._on_hull(ux, uy)
        log_gain = 0.0
        if bunch is not None:
            if bunch not in self.gains:
                raise BeamError(
                    f"the beam model has no bunch {bunch!r}", remedy=f"bunches are {', '.join(self.gains)}", value=bunch
                )
            gain, error = self.gains[bunch]
            log_gain = np.log(gain)
            variance = variance + (error / gain) ** 2
        signal = np.exp(log_beam + log_gain)
        return signal, signal * np.sqrt(variance)

    def covariance(self, ux: ArrayLike, uy: ArrayLike) -> FloatArray:
        """Return the posterior covariance matrix of the relative beam (of its logarithm) at a moderate number of positions.

        Parameters
        ----------
        ux, uy : array_like, shape (n,)
            Position minus projector, mm.

        Returns
        -------
        ndarray, shape (n, n)
            NaN in the rows and columns of positions outside the hull.
        """
        u = np.column_stack(np.broadcast_arrays(*(np.atleast_1d(axis) for axis in _places(ux, uy))))
        inside = self.hull.contains(*u.T)
        result = np.full((len(u), len(u)), np.nan)
        result[np.ix_(inside, inside)] = self._mixture.covariance(u[inside])
        return result

    def evaluate_image(self, shape: tuple[int, int], origin: ArrayLike, matrix: ArrayLike) -> tuple[Float32Array, Float32Array]:
        """Return the beam and its error on an image, such as that of a detector.

        Parameters
        ----------
        shape
            Rows and columns.
        origin : ndarray, shape (2,)
            Position minus projector of the pixel in column 0, row 0, mm.
        matrix : ndarray, shape (2, 2)
            ``u = origin + matrix @ (column, row)``, mm per pixel.

        Returns
        -------
        beam, beam_err : ndarray of float32
            As from `evaluate`; the beam from a table with a relative error below 1e-6, its error from a coarser one.
        """
        origin = plain_array(origin, name="origin", unit="mm", shape=(2,))
        matrix = plain_array(matrix, name="matrix", unit="mm", shape=(2, 2))
        beam = self._beam_table.image(shape, origin, matrix, self.hull)
        error = self._error_table.image(shape, origin, matrix, self.hull)
        return beam, np.maximum(error, 0.0, out=error)

    @cached_property
    def _beam_table(self) -> SplineTable:
        return SplineTable.accurate(lambda u: np.exp(self.log_beam(u)), self.hull)

    @cached_property
    def _error_table(self) -> SplineTable:
        step = max(spacing_of(self.nodes.u, self.hull) / STEPS_PER_SPACING, np.sqrt(self.hull.area) / MAX_ERROR_STEPS)
        return SplineTable.of(lambda u: np.exp(self.log_beam(u)) * self.relative_error(u), self.hull, step)

    def log_beam(self, u: ArrayLike) -> FloatArray:
        """Return the log of the beam at points ``u`` (n, 2), also outside the hull, where it is an extrapolation."""
        return self._mixture.mean(plain_array(u, name="u", unit="mm", ndim=2)) - self._log_peak

    def relative_error(self, u: ArrayLike) -> FloatArray:
        """Return the relative standard error of the beam at points ``u`` (n, 2), also outside the hull."""
        return np.sqrt(self._mixture.mean_and_variance(plain_array(u, name="u", unit="mm", ndim=2))[1])

    # Position of the beam

    @cached_property
    def centroid(self) -> BeamPosition:
        """Centroid of the part of the beam above 0.9 of its maximum, with its error."""
        return centroid_of(self._mixture, self.hull)

    @property
    def offset_mm(self) -> tuple[float, float]:
        """Offset from a position to the projector position (CCS mm) that puts the beam's maximum on it."""
        return -self.maximum.ux, -self.maximum.uy

    # Accuracy of the model

    @property
    def node_noise(self) -> float:
        """Relative noise of a typical node, in addition to the error of the model."""
        known = np.where(np.isfinite(self.nodes.signal_err), self.nodes.signal_err / self.nodes.signal, 0.0) ** 2
        return self._mixture.noise(float(np.median(known)))[0]

    @property
    def exposure_noise(self) -> float:
        """Relative error of the scale of an exposure, common to its nodes; 0 with a single bunch."""
        return self._mixture.noise(0.0)[1]

    @cached_property
    def gains(self) -> dict[str, tuple[float, float]]:
        """Gain of each bunch relative to their geometric mean, with its error."""
        labels = np.unique(self.nodes.bunch).tolist()
        gains = zip(labels, *self._mixture.log_gains(), strict=True)
        return {label: (float(np.exp(gain)), float(np.exp(gain) * error)) for label, gain, error in gains}

    @cached_property
    def outliers(self) -> list[Outlier]:
        """Nodes down-weighted by all or some fits, worst first."""
        nodes, (deviation, pull), probability = self.nodes, self.left_out_pulls(), self.parameters.outlier_probability
        columns = (nodes.rows, nodes.bunch, nodes.x_mm, nodes.y_mm, np.expm1(deviation), pull, probability)
        listed = [Outlier(*(column[index].item() for column in columns)) for index in np.flatnonzero(probability)]
        return sorted(listed, key=lambda outlier: -abs(outlier.pull))

    @property
    def outlying_exposures(self) -> list[tuple[float, float]]:
        """Projector positions (mm) of the exposures whose common scale deviates and was left free."""
        glitches = np.flatnonzero(self.parameters.exposure_weight > 1.0)
        number = observations_of(self.nodes, np.zeros(len(self.nodes)), self.parameters.exposure_weight).exposure
        first = [int(np.flatnonzero(number == glitch)[0]) for glitch in glitches]
        return [(float(self.nodes.x_mm[index]), float(self.nodes.y_mm[index])) for index in first]

    def __repr__(self) -> str:
        """Return the number of nodes and the error of the model in one line."""
        return f"<BeamModel of {len(self.nodes)} nodes; node noise {self.node_noise:.2e}; maximum at {_mm(self.maximum)} mm>"

    def _repr_html_(self) -> str:
        """Return the summary as a paragraph."""
        return f"<p>permil.BeamModel: {escape(self.describe())}</p>"

    def plot(self, ax: Axes | None = None, *, points: int = 200, **options: Any) -> Axes:
        """Draw the beam and its nodes.

        Parameters
        ----------
        ax
            Axes to draw in; by default new ones.
        points
            Pixels of the image along each axis.
        **options
            Further options of `matplotlib.axes.Axes.imshow`.

        Returns
        -------
        matplotlib.axes.Axes
        """
        from permil.plotting import draw_image, new_axes

        ax = new_axes() if ax is None else ax
        (left, low), (right, high) = self.hull.lower, self.hull.upper
        image = self(*np.meshgrid(np.linspace(left, right, points), np.linspace(low, high, points)))
        limits: dict[str, Any] = {"extent": (left, right, low, high), "vmin": np.nanmin(image), "vmax": 1.0}
        draw_image(ax, image, **limits | options)
        ax.plot(self.nodes.ux, self.nodes.uy, ".", markersize=2, color="tab:red")
        ax.set(title="beam, 1 at its maximum", xlabel="u along CCS X (mm)", ylabel="u along CCS Y (mm)")
        return ax

    def facts(self) -> dict[str, Any]:
        """Return the figures of `describe` by name; errors and noise are relative, rows counted from 0."""
        maximum = self.maximum
        return {
            "nodes": len(self.nodes),
            "bunches": len(self.gains),
            "maximum_mm": (maximum.ux, maximum.uy),
            "maximum_err_mm": (maximum.ux_err, maximum.uy_err),
            "median_error": float(np.median(self.relative_error(self.hull.lattice(LATTICE)))),
            "node_noise": self.node_noise,
            "exposure_noise": self.exposure_noise,
            "outliers": [
                {"row": outlier.row, "deviation": outlier.deviation, "probability": outlier.probability}
                for outlier in self.outliers
            ],
            "outlying_exposures_mm": list(self.outlying_exposures),
            "left_out": {reason: list(rows) for reason, rows in self.nodes.dropped.items()},
        }

    def describe(self) -> str:
        """Return a summary of one paragraph: noise, error, maximum, outliers and omitted rows."""
        maximum, bunches = self.maximum, len(self.gains)
        lattice_error = self.relative_error(self.hull.lattice(LATTICE))
        sentences = [
            f"{len(self.nodes)} nodes of {bunches} bunch{'es' if bunches > 1 else ''}",
            f"maximum at u = ({maximum.ux:.3f} +- {maximum.ux_err:.3f}, {maximum.uy:.3f} +- {maximum.uy_err:.3f}) mm",
            f"median model error {np.median(lattice_error):.2e}",
            f"node noise {self.node_noise:.2e} (in addition to the model error)",
        ]
        if self.exposure_noise:
            sentences.append(f"exposure scale noise {self.exposure_noise:.2e}")
        if self.outliers:
            rows = ", ".join(
                f"{outlier.row} ({outlier.deviation:+.2%}, probability {outlier.probability:.2g})" for outlier in self.outliers
            )
            sentences.append(f"down-weighted rows: {rows}")
        if self.outlying_exposures:
            places = ", ".join(f"({x:g}, {y:g})" for x, y in self.outlying_exposures)
            sentences.append(f"deviating exposures at {places} mm")
        sentences += [
            f"{len(rows)} row{'s' if len(rows) > 1 else ''} left out: {reason} (row {_ranges(rows)} of the table, from 0)"
            for reason, rows in self.nodes.dropped.items()
        ]
        return "; ".join(sentences)

    def left_out_pulls(self) -> tuple[FloatArray, FloatArray]:
        """Return deviation (log) and pull of each node relative to the prediction of all others (ignoring outlier down-weighting)."""
        return self._mixture.left_out_pulls()

    def _on_hull(self, ux: ArrayLike, uy: ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Return log signal and variance at positions, NaN outside the hull."""
        ux, uy = np.broadcast_arrays(*_places(ux, uy))
        log_signal, variance = np.full(ux.shape, np.nan), np.full(ux.shape, np.nan)
        inside = self.hull.contains(ux, uy)
        log_signal[inside], variance[inside] = self._mixture.mean_and_variance(np.column_stack([ux[inside], uy[inside]]))
        return log_signal, variance


def _mm(place: BeamPosition) -> str:
    return f"({place.ux:.2f} +- {place.ux_err:.2f}, {place.uy:.2f} +- {place.uy_err:.2f})"


def _places(ux: ArrayLike, uy: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Return coordinates as plain arrays in mm; masked ones are NaN, which is outside any hull."""
    return plain_array(ux, name="ux", unit="mm"), plain_array(uy, name="uy", unit="mm")


def _ranges(rows: list[int]) -> str:
    """Abbreviate row numbers: ``3, 7 to 12``; only the first few ranges if there are many."""
    order = np.unique(np.asarray(rows, dtype=np.int64))
    runs = np.split(order, np.flatnonzero(np.diff(order) > 1) + 1)
    named = [f"{run[0]}" if run.size == 1 else f"{run[0]} to {run[-1]}" for run in runs[:RUNS_NAMED]]
    return ", ".join([*named, "..."] if len(runs) > RUNS_NAMED else named)
