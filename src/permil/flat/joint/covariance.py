"""Errors of the joint flat: independent and shared errors of super-pixels.

``cov(f_p, f_q) = delta_pq / W_p + A_p V A_q'`` with the covariance ``V`` of all other unknowns and the rows ``A`` of
`permil.flat.joint.normal`. The flat is relative to its mean over all super-pixels, which is subtracted from ``A``. No matrix of
super-pixels is ever formed: means over regions are rows ``R A``, and the largest modes of ``A V A'`` are those of the small matrix
``W (A'A) W'`` with ``V = W' W``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import numpy as np
from scipy import linalg
from scipy.sparse.linalg import LinearOperator, eigsh

from permil.arrays import BoolArray, FloatArray, IntArray
from permil.engine import threaded_map
from permil.errors import FlatError
from permil.flat.joint.data import DetectorSignals
from permil.flat.joint.details import covariance_with_details
from permil.flat.joint.normal import DetectorFit, Tile, subtract_products, tiles
from permil.flat.joint.solution import JointSolution
from permil.flat.shared_errors import plane_matrix

Region = Mapping[str, FloatArray]
"""Weights of the super-pixels of each detector that takes part; a mean has weights that sum to 1."""

_MODE_TOLERANCE = 1e-8
"""Relative tolerance of the strength of a mode: the remainder includes the rest."""

_PROBES = 64
"""Random vectors from which a trace is estimated."""

_MOST_OF_PLANES, _FEW_DETECTORS = 81, 27
"""Modes beyond the largest that make levels and gradients exact of up to 27 detectors; of more detectors fewer modes are kept, since their
size on file grows with both."""

_NEGLIGIBLE = 1e-3
"""Part of the noise variance of a level or gradient below which the part beyond the largest modes is neglected."""

_TILES = 4
"""Number of tiles that are summed before their products are added."""


@dataclass(frozen=True)
class CorrelatedModes:
    """The largest modes of the shared errors of super-pixels: ``cov(f) ~ diag(independent) + sum_k modes_k modes_k'``.

    Parameters
    ----------
    patterns : dict
        Modes on the super-pixels of each detector, shape (k, p), in the size of one standard deviation; largest first.
    independent : dict
        Variance of each super-pixel that is not in the modes, shape (p,); NaN where there is no response.
    remainder : dict
        The part of it that is correlated errors beyond the modes, not noise of the super-pixel's own signals, shape (p,).
    variance : ndarray, shape (k,)
        Mean square of each mode over all super-pixels.
    total : float
        Mean over all super-pixels of the variance that they have in common, all modes.
    """

    patterns: dict[str, FloatArray]
    independent: dict[str, FloatArray]
    remainder: dict[str, FloatArray]
    variance: FloatArray
    total: float

    def covariance_of_means(self, first: Region, second: Region) -> float:
        """Return the covariance of two weighted sums of the log response over regions."""
        independent = 0.0
        for name, weights in first.items():
            if name in second:
                independent += float(np.nansum(self.independent[name] * weights * second[name]))
        return float(self._common(first) @ self._common(second)) + independent

    def _common(self, region: Region) -> FloatArray:
        """Return the amplitude of each mode in the mean of a region."""
        result = np.zeros(len(self.variance))
        for name, weights in region.items():
            result += self.patterns[name] @ weights
        return result


@dataclass(frozen=True)
class PlaneResponses:
    """Derivatives of level and gradients of each detector with respect to terms common to LEDs of one run.

    Parameters
    ----------
    readings : ndarray, shape (3 detectors, exposures)
        Per relative deviation of a photodiode reading.
    moves : ndarray, shape (3 detectors, 2 moves)
        Per mm of deviation of the stage, x and y of each move in turn.
    boards : ndarray, shape (3 detectors, terms of boards)
        Per deviation of the temperature coefficient of each readout board, and of each of its functions of time.
    """

    readings: FloatArray
    moves: FloatArray
    boards: FloatArray


class _RegionRows:
    """Rows of weighted sums of the log response over regions, to which tiles are added one at a time."""

    def __init__(self, regions: Sequence[Region], size: int) -> None:
        self._rows, self._independent = np.zeros((len(regions), size)), np.zeros((len(regions), len(regions)))
        self._total = np.array([sum(float(weights.sum()) for weights in region.values()) for region in regions])
        self._weights: dict[str, tuple[IntArray, FloatArray]] = {}
        for name in {name for region in regions for name in region}:
            own = [number for number, region in enumerate(regions) if name in region]
            self._weights[name] = np.array(own), np.array([regions[number][name] for number in own])

    def are_in(self, name: str) -> bool:
        """Return whether any region has super-pixels of a detector."""
        return name in self._weights

    def add(self, name: str, tile: Tile) -> None:
        """Add the super-pixels of a tile of a detector."""
        own, weights = self._weights[name]
        part = weights[:, tile.pixels]
        self._rows[np.ix_(own, tile.columns)] += part @ tile.shifts
        self._independent[np.ix_(own, own)] += (part / tile.moments) @ part.T

    def without(self, mean: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the rows ``A`` of the sums minus the mean row of all super-pixels, and the covariance of their own noise."""
        return self._rows - np.outer(self._total, mean), self._independent


class FlatCovariance:
    """Covariance of the log response on super-pixels.

    That of regions is exact; where the beam has fine structure (`permil.flat.joint.details`) all else is that with coarse knots, which
    differs by some 1e-3 of itself.

    Parameters
    ----------
    solution : JointSolution
    detectors : sequence of DetectorSignals
        That it was solved from; passed through once for each question.
    """

    def __init__(self, solution: JointSolution, detectors: Sequence[DetectorSignals]) -> None:
        self.solution = solution
        self.detectors = detectors
        self._mean, self._gram, self._pixels, *self._linear = self._sums()

    def under(self, solution: JointSolution) -> FlatCovariance:
        """Return the errors for a solution that differs only in its prior and factor; the sums over the data are reused."""
        other = copy(self)
        other.solution = solution
        other.__dict__.pop("_answers", None)
        return other

    def _fits(self) -> Iterator[tuple[DetectorSignals, DetectorFit, Iterator[Tile]]]:
        solution = self.solution
        for detector in self.detectors:
            fit = solution.fit(detector)
            yield detector, fit, tiles(solution.model, detector, fit, solution.vector)

    def _sums(self) -> tuple[FloatArray, FloatArray, int, FloatArray, FloatArray]:
        """Return the mean of the rows ``A``, ``A'A`` of the rows without it (upper triangle), their number, and `_linear`."""
        size = self.solution.model.size
        total, gram, pixels = np.zeros(size), np.zeros((size, size)), 0
        linear = _RegionRows(self._linear_regions(), size)
        for detector, _, pieces in self._fits():
            # Few at a time: their rows take memory.
            while some := list(islice(pieces, _TILES)):
                for tile in some:
                    linear.add(detector.name, tile)
                products = [(tile.columns, tile.shifts) for tile in some]
                for columns, shifts in products:
                    total[columns] += shifts.sum(axis=0)
                    pixels += len(shifts)
                subtract_products(gram, products)
        mean = total / pixels
        np.negative(gram, out=gram)
        for row, level in zip(gram, mean, strict=True):
            row -= (pixels * level) * mean
        return mean, gram, pixels, *linear.without(mean)

    def covariance(self, regions: Sequence[Region]) -> FloatArray:
        """Return the covariance of weighted sums of the log response over regions, shape (n, n).

        The response is relative to its mean over all super-pixels; what that mean's own independent noise adds (at most the
        variance of a super-pixel over their number) is left out.

        Raises
        ------
        FlatError
            If a region has weight where there is no response.
        """
        self._require_responses(regions)
        if self.solution.model.details is not None:
            return covariance_with_details(self.solution, self.detectors, regions)
        sums = _RegionRows(regions, self.solution.model.size)
        for detector, _, pieces in self._fits():
            if sums.are_in(detector.name):
                for tile in pieces:
                    sums.add(detector.name, tile)
        return self._covariance(*sums.without(self._mean))

    def _covariance(self, rows: FloatArray, independent: FloatArray) -> FloatArray:
        whitened = self.solution.factor.whiten(rows.T)
        return whitened.T @ whitened + independent

    def _require_responses(self, regions: Sequence[Region]) -> None:
        for region in regions:
            for name, weights in region.items():
                if (weights[~np.isfinite(self.solution.log_response[name])] != 0).any():
                    raise FlatError(f"{name}: a region has weight where there is no response", remedy="mask it", detector=name)

    def planes(self) -> tuple[FloatArray, FloatArray]:
        """Fit a plane to the log response of each detector.

        Returns
        -------
        planes : ndarray, shape (detectors, 3)
            Level at the mean place, and gradient along X and Y (1/mm).
        covariance : ndarray, shape (3 detectors, 3 detectors)
            Of all of them in turn.
        """
        operators: list[Region] = []
        values = []
        for name, rows in self.plane_operators():
            operators += [{name: row} for row in rows]
            values.append(rows @ np.nan_to_num(self.solution.log_response[name]))
        return np.array(values), self.covariance(operators)

    def plane_covariance(self) -> FloatArray:
        """Return the covariance of `planes` from the dense factor, shape (3 detectors, 3 detectors).

        It takes one pass for any number of detectors. Where the beam has fine structure it is that with coarse knots.
        """
        return self._covariance(*self._plane_rows)

    def plane_responses(self) -> PlaneResponses:
        """Return the derivatives of levels and gradients of detectors with respect to terms from outside the signals of this LED.

        With the rows ``T A`` of the planes, the covariance ``V`` of the unknowns and the precision ``P`` of a block of the prior, a
        deviation ``d`` of its centre from the truth changes the planes by ``-T A V P d``.
        """
        solution, model = self.solution, self.solution.model
        unknowns = self._answers[:, :-2]
        readings = -unknowns[model.scales].T @ solution.prior.scale_precision
        readings[:, ~solution.prior.has_photodiode] = 0.0
        held = solution.prior.stage_as_recorded or not model.position_errors
        moves = (
            np.zeros_like(unknowns[model.errors].T) if held else -unknowns[model.errors].T / solution.prior.position_error_mm**2
        )
        boards = np.zeros((len(readings), 0))
        if solution.prior.boards is not None:
            terms = solution.prior.boards.terms
            boards = -unknowns[model.board_gains].T @ solution.prior.boards.precision[:, : terms.times.stop]
        return PlaneResponses(readings, moves, boards)

    @property
    def _plane_rows(self) -> tuple[FloatArray, FloatArray]:
        rows, independent = self._linear
        return rows[:-2], independent[:-2, :-2]

    def plane_operators(self) -> Iterator[tuple[str, FloatArray]]:
        """Yield the name of each detector and the rows that fit a plane to its super-pixels with a response, shape (3, p)."""
        for detector in self.detectors:
            used = np.isfinite(self.solution.log_response[detector.name])
            yield detector.name, plane_operator(detector.x_mm, detector.y_mm, used)

    def responses_to(self, unknowns: FloatArray) -> Iterator[tuple[str, FloatArray]]:
        """Yield the derivatives of the response of each detector with respect to other unknowns, minus their mean over all super-pixels.

        Parameters
        ----------
        unknowns : ndarray, shape (m, k)
            Changes of all other unknowns.

        Yields
        ------
        name : str
        change : ndarray, shape (k, p)
            0 where there is no response.
        """
        mean = self._mean @ unknowns
        for detector, _, pieces in self._fits():
            change = np.zeros((unknowns.shape[1], len(detector.x_mm)))
            for tile in pieces:
                change[:, tile.pixels] = (mean - tile.shifts @ unknowns[tile.columns]).T
            yield detector.name, change

    def added_by(self, places: slice) -> FloatArray:
        """Return the part of the covariance of the mean over all super-pixels of each detector that is due to some unknowns."""
        # The level of a plane at the mean place is the mean.
        return self._added(places, self._answers[:, :-2:3])

    def composite_gradient_added_by(self, places: slice) -> FloatArray:
        """Return the contribution of some unknowns to the covariance of the composite's gradient, shape (2, 2)."""
        return self._added(places, self._answers[:, -2:])

    def common_variance_added_by(self, places: slice) -> float:
        """Return the mean over all super-pixels of the variance contributed by some unknowns.

        The trace is estimated from random vectors (Hutchinson 1990), which takes a small part of the time and is good to some per cent.
        """
        factor = self.solution.factor
        probes = np.zeros((factor.size, _PROBES))
        drawn = np.random.default_rng(0).choice([-1.0, 1.0], (places.stop - places.start, _PROBES))
        lower = linalg.cholesky(self.solution.covariance_of(places), lower=True, check_finite=False)
        probes[places] = linalg.solve_triangular(lower, drawn, lower=True, trans="T", check_finite=False)
        unknowns = factor.solve(probes)
        inner = linalg.blas.dsymm(1.0, self._gram.T, unknowns, lower=1)
        return max(float(np.sum(unknowns * inner)), 0.0) / (_PROBES * self._pixels)

    def _added(self, places: slice, answers: FloatArray) -> FloatArray:
        """Return the part of the covariance of sums that is due to some unknowns: with the covariance ``V``, ``r' V_S V_SS^-1 V_S' r``.

        Parameters
        ----------
        answers : ndarray, shape (n, k)
            ``V r`` of each sum.
        """
        own = answers[places]
        return np.asarray(own.T @ linalg.solve(self.solution.covariance_of(places), own, assume_a="pos"))

    def composite_gradient(self) -> tuple[FloatArray, FloatArray]:
        """Return the gradient (X, Y; 1/mm) of the log response over all detectors together, and its covariance."""
        rows, independent = self._linear
        response = np.concatenate([self.solution.log_response[detector.name] for detector in self.detectors])
        gradient = self._gradient_operator() @ np.nan_to_num(response)
        return gradient, self._covariance(rows[-2:], independent[-2:, -2:])

    def _gradient_operator(self) -> FloatArray:
        """Return the rows that turn the responses of all detectors in turn into the gradient over all of them."""
        x = np.concatenate([detector.x_mm for detector in self.detectors])
        y = np.concatenate([detector.y_mm for detector in self.detectors])
        response = np.concatenate([self.solution.log_response[detector.name] for detector in self.detectors])
        return plane_operator(x, y, np.isfinite(response))[1:]

    def _linear_regions(self) -> list[Region]:
        """Return the weights of levels and gradients of each detector, then of the gradient over all."""
        ends = np.cumsum([len(detector.x_mm) for detector in self.detectors])[:-1]
        names = [detector.name for detector in self.detectors]
        regions: list[Region] = [{name: row} for name, operators in self.plane_operators() for row in operators]
        return regions + [dict(zip(names, np.split(row, ends), strict=True)) for row in self._gradient_operator()]

    @cached_property
    def _answers(self) -> FloatArray:
        """Covariance of the unknowns times the rows of levels and gradients of each detector, then of that gradient over all."""
        return self.solution.factor.solve(self._linear[0].T)

    def modes_and_shared(self, count: int, rows: Mapping[str, FloatArray]) -> tuple[CorrelatedModes, dict[str, FloatArray]]:
        """Return the largest modes of the shared errors of super-pixels, and further ones; the rest counts as independent.

        The further modes make the covariance of levels and gradients of all detectors that of `planes`, for the
        combinations of them that the largest modes lack most. What is left is smooth over a detector, so that independent noise of the same
        size has too small errors of levels and gradients.

        Parameters
        ----------
        count
            Number of the largest modes.
        rows
            Weights of sums over the super-pixels of some detectors, shape (n, p); without weight where there is no response.

        Returns
        -------
        modes : CorrelatedModes
        shared : dict
            Covariance, within each of these detectors, of the sums of the errors that its super-pixels share, shape (n, n); NaN in rows and
            columns of sums without any weight.
        """
        factor = self.solution.factor
        unknowns = factor.unwhiten(self._directions_of_modes(count))
        with_mean = factor.solve(self._mean)
        of_mean = float(self._mean @ with_mean)
        patterns, independent, remainder, shared, common = {}, {}, {}, {}, 0.0
        for detector, _, pieces in self._fits():
            pattern = np.full((unknowns.shape[1], len(detector.x_mm)), np.nan)
            variance, beyond = (np.full(len(detector.x_mm), np.nan) for _ in range(2))
            # The super-pixels of a detector depend on few unknowns, those of a tile on fewer.
            own = list(pieces)
            columns = np.unique(np.concatenate([tile.columns for tile in own])) if own else np.zeros(0, dtype=np.int64)
            covariance = factor.covariance(columns)

            def squares(tile: Tile, columns: IntArray = columns, covariance: FloatArray = covariance) -> tuple[Tile, FloatArray]:
                inside, shifts = np.searchsorted(columns, tile.columns), tile.shifts
                products = shifts @ covariance[np.ix_(inside, inside)] - 2 * with_mean[tile.columns]
                return tile, np.einsum("pk,pk->p", products, shifts) + of_mean

            if detector.name in rows:
                shared[detector.name] = self._shared(rows[detector.name], own, columns, covariance, with_mean)
            for tile, variances in threaded_map(squares, own):
                pattern[:, tile.pixels] = (tile.shifts @ unknowns[tile.columns] - self._mean @ unknowns).T
                common += float(variances.sum())
                inside = np.square(pattern[:, tile.pixels]).sum(axis=0)
                of_details = self.solution.detail_errors.noise_share / tile.moments
                common += float(of_details.sum())
                beyond[tile.pixels] = np.maximum(variances - inside, 0.0) + of_details
                variance[tile.pixels] = 1.0 / tile.moments + beyond[tile.pixels]
            patterns[detector.name] = np.nan_to_num(pattern)
            independent[detector.name], remainder[detector.name] = variance, beyond
        variance_of = sum(np.square(pattern).sum(axis=1) for pattern in patterns.values()) / self._pixels
        return CorrelatedModes(patterns, independent, remainder, variance_of, common / self._pixels), shared

    def _directions_of_modes(self, count: int) -> FloatArray:
        """Return the whitened unknowns of the largest modes, and of further ones for levels and gradients, shape (size, modes)."""
        factor = self.solution.factor
        size = factor.size

        def apply(vector: FloatArray) -> FloatArray:
            return factor.whiten(linalg.blas.dsymv(1.0, self._gram.T, factor.unwhiten(vector), lower=1))

        start = np.random.default_rng(0).standard_normal(size)
        operator = LinearOperator((size, size), matvec=apply, dtype=np.float64)
        strength, directions = eigsh(operator, k=min(count, size - 1), v0=start, tol=_MODE_TOLERANCE)
        order = np.argsort(strength)[::-1]
        further = self._directions_of_planes(directions)
        seen = np.column_stack([further[:, :0], *(apply(column) for column in further.T)])
        further = further @ np.linalg.eigh(further.T @ seen)[1][:, ::-1]
        return np.hstack([directions[:, order], further])

    def _shared(
        self, weights: FloatArray, pieces: Sequence[Tile], columns: IntArray, known: FloatArray, with_mean: FloatArray
    ) -> FloatArray:
        """Return the covariance of sums due to the shared errors of the super-pixels of a detector.

        Parameters
        ----------
        columns, known
            Unknowns that the detector depends on, rising, and their covariance.
        with_mean : ndarray, shape (unknowns,)
            Covariance of all unknowns times the mean of the rows ``A``, on which all of them act.
        """
        total, sums = weights.sum(axis=1), np.zeros((len(weights), columns.size))
        for tile in pieces:
            sums[:, np.searchsorted(columns, tile.columns)] += weights[:, tile.pixels] @ tile.shifts
        half = sums @ known @ sums.T / 2 - np.outer(sums @ with_mean[columns], total)
        covariance = half + half.T + float(self._mean @ with_mean) * np.outer(total, total)
        # The mean of a single detector is a convention: nothing is left of its variance but rounding.
        np.fill_diagonal(covariance, np.maximum(np.diag(covariance), 0.0))
        empty = ~weights.any(axis=1)
        covariance[empty], covariance[:, empty] = np.nan, np.nan
        return np.asarray(covariance)

    def _directions_of_planes(self, known: FloatArray) -> FloatArray:
        """Return orthonormal directions of levels and gradients of detectors besides known ones, shape (m, k).

        With ``A W' = B`` and operators ``T`` of planes, modes ``B D`` of directions ``D`` leave ``B (1 - D D') B'``. The part of it that
        planes see is ``B Q Q' B'`` with an orthonormal basis ``Q`` of ``(1 - D D') B' T'`` (Nystroem).
        """
        rows, independent = self._plane_rows
        seen = self.solution.factor.whiten(rows.T)
        seen -= known @ (known.T @ seen)
        seen /= np.sqrt(np.diag(independent))
        # The first left singular vectors of a tall matrix, from its products.
        strength, turn = np.linalg.eigh(seen.T @ seen)
        most = _MOST_OF_PLANES * _FEW_DETECTORS // max(len(self.detectors), _FEW_DETECTORS)
        kept = slice(-1, -1 - min(int(np.sum(strength > _NEGLIGIBLE)), most), -1)
        return np.asarray(seen @ turn[:, kept] / np.sqrt(strength[kept]))


def plane_operator(x_mm: FloatArray, y_mm: FloatArray, used: BoolArray) -> FloatArray:
    """Return the rows that turn values at places into level at their mean place and gradients (least squares), shape (3, p)."""
    rows = np.zeros((3, x_mm.size))
    if used.sum() < 3:
        raise FlatError("a plane needs three super-pixels with a response", remedy="leave this detector out")
    rows[:, used] = plane_matrix(x_mm[used], y_mm[used])
    return rows
