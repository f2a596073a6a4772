"""Normal prior of all unknowns, and the estimates of its strengths."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache

import numpy as np
from scipy import optimize, sparse

from permil.arrays import BoolArray, FloatArray, IntArray
from permil.flat.joint.factor import Tridiagonal
from permil.flat.joint.gains import STEP_DEVIATION, BoardPrior
from permil.flat.joint.grouped import PriorTerms
from permil.flat.joint.model import JointModel
from permil.flat.joint.photodiode import PhotodiodeModel
from permil.flat.joint.spline import SplineGrid
from permil.flat.joint.weather import ORDERS, Weather

ROTATION_RAD = 0.02
"""Prior standard deviation of the stage's rotation."""

STAGE_SCALE = 0.01
"""Prior standard deviation of the relative scale of the stage's axes."""

UNKNOWN_SCALE = 1.0
"""Prior standard deviation of the logarithm of an exposure's scale without a photodiode reading, about the median reading."""

_HELD = 1e-4


@dataclass(frozen=True)
class Prior:
    """A normal prior of the unknowns.

    Parameters
    ----------
    model : JointModel
    stiffness : tuple of float
        Factor of the roughness of each pattern, mm^2; its inverse square root is the expected curvature.
    photodiode : PhotodiodeModel
    has_photodiode : ndarray of bool, shape (n,)
        Exposures whose reading counts.
    position_error_mm : float
        Standard deviation of the stage's position errors.
    stage_as_recorded : bool
        Hold position errors, rotation and scale of the stage at 0.
    weather : Weather, optional
        Of the light path; without it nothing is known of its coefficients where these are unknowns.
    boards : BoardPrior, optional
        Of the readout boards, where the model has these.
    """

    model: JointModel
    stiffness: tuple[float, ...]
    photodiode: PhotodiodeModel
    has_photodiode: BoolArray
    position_error_mm: float = 0.01
    stage_as_recorded: bool = False
    weather: Weather | None = None
    boards: BoardPrior | None = None
    _precisions: dict[tuple[PhotodiodeModel, bytes], FloatArray] = field(default_factory=dict, repr=False, compare=False)
    """Precision of the scales, shared by priors that differ only in other terms."""

    @property
    def scale_centre(self) -> FloatArray:
        """Prior mean of the logarithm of the exposure scales, up to a constant."""
        reading = self.model.exposures.log_photodiode
        usual = np.median(reading[self.has_photodiode]) if self.has_photodiode.any() else 0.0
        return np.where(self.has_photodiode, reading, usual)

    @property
    def _centre(self) -> FloatArray:
        """Prior mean of all unknowns."""
        centre = np.zeros(self.model.size)
        centre[self.model.scales] = self.scale_centre
        if self.boards is not None:
            centre[self.model.board_gains] = self.boards.terms.centre
        return centre

    @cached_property
    def scale_precision(self) -> FloatArray:
        """Precision of the exposure scales, shape (n, n)."""
        known, exposures = self.has_photodiode, self.model.exposures
        key = self.photodiode, known.tobytes()
        if key in self._precisions:
            return self._precisions[key]
        precision = np.zeros((len(known), len(known)))
        if known.any():
            precision[np.ix_(known, known)] = self.photodiode.precision(
                exposures.time[known], exposures.regressors[known], exposures.epoch[known]
            )
        precision[~known, ~known] = UNKNOWN_SCALE**-2
        self._precisions.clear()
        self._precisions[key] = precision
        return precision

    def with_stiffness(self, stiffness: tuple[float, ...]) -> Prior:
        """Return the prior with another stiffness."""
        return replace(self, stiffness=stiffness)

    def add_to(self, matrix: FloatArray) -> None:
        """Add the precision to a matrix of the unknowns (both triangles).

        Directions that change no signal at all (constants shared by patterns, scales and response; planes of a reflected
        pattern) are held where they are, by terms of the size of the data's.
        """
        hold = self.scale_hold(matrix)
        self.add_to_patterns(matrix)
        start = self.model.scales.start
        self.add_to_others(matrix[start:, start:], hold)

    def add_to_patterns(self, matrix: FloatArray) -> None:
        """Add the precision of the patterns to a matrix of the unknowns (both triangles)."""
        model = self.model
        for number, (pattern, where, stiffness) in enumerate(
            zip(model.patterns, model.pattern_slices, self.stiffness, strict=True)
        ):
            block = matrix[where, where]
            functions = free_functions(pattern.grid, number)
            weighted = hold_strength(block) * functions
            # By rows: the whole product would be as large as the matrix.
            for rows, left in zip(block, weighted, strict=True):
                rows += functions @ left
            rough = roughness_of(pattern.grid).tocoo()
            block[rough.row, rough.col] += stiffness * rough.data

    def scale_hold(self, matrix: FloatArray) -> float:
        """Return the size of the term that holds the mean of all scales, from the normal equations."""
        scales = np.diag(matrix)[self.model.scales]
        return float(scales.mean()) / len(scales)

    def add_to_others(self, block: FloatArray, hold: float) -> None:
        """Add the precision of all unknowns behind the patterns to their block of a matrix (both triangles).

        Parameters
        ----------
        hold
            See `scale_hold`.
        """
        start, terms = self.model.scales.start, self.terms(hold)
        block[np.diag_indices_from(block)] += terms.diagonal[start:]
        for first, precision in terms.blocks:
            inside = slice(first - start, first - start + len(precision))
            block[inside, inside] += precision
        errors = slice(self.model.errors.start - start, self.model.errors.stop - start)
        held = terms.held[self.model.errors]
        block[errors, errors] += held @ held.T

    def terms(self, hold: float) -> PriorTerms:
        """Return the precision of all unknowns behind the patterns, in parts.

        Parameters
        ----------
        hold
            See `scale_hold`.
        """
        model = self.model
        diagonal, held = np.zeros(model.size), np.zeros((model.size, 2))
        diagonal[model.errors.start : model.stage.stop] = self._stage_deviations**-2
        held[model.errors] = self._held_errors
        blocks = [(model.scales.start, self.scale_precision + hold)]
        if self.boards is not None:
            coefficients, rest = self.boards.parts
            blocks.append((model.board_gains.start, coefficients))
            diagonal[model.board_gains.start + len(coefficients) : model.board_gains.stop] = rest
        diagonal[model.step_sizes] = STEP_DEVIATION**-2.0
        blocks += [(where.start, precision) for where, precision in self._weather_blocks()]
        return PriorTerms(diagonal, blocks, held)

    @property
    def groupable(self) -> IntArray:
        """Unknowns that the prior couples with others only by the mean of position errors (`terms`)."""
        model = self.model
        first = model.board_gains.start + (0 if self.boards is None else len(self.boards.terms.names))
        return np.concatenate([np.arange(model.errors.start, model.errors.stop), np.arange(first, model.step_sizes.stop)])

    def gain_blocks(self) -> list[tuple[slice, FloatArray]]:
        """Return the places and precisions of the unknowns of readout boards, and of the steps of amplifiers."""
        blocks = [] if self.boards is None else [(self.model.board_gains, self.boards.precision)]
        if self.model.gain_steps:
            blocks.append((self.model.step_sizes, np.eye(len(self.model.gain_steps)) / STEP_DEVIATION**2))
        return blocks

    def _weather_blocks(self) -> list[tuple[slice, FloatArray]]:
        """Return the place of each pattern of weather and the precision of its coefficients."""
        if self.weather is None or not self.weather.found:
            return []
        start, count = self.model.weather.start, len(self.model.exposures)
        return [
            (slice(start + number * count, start + (number + 1) * count), self.weather.precision[order])
            for number, order in enumerate(ORDERS)
        ]

    @property
    def _held_errors(self) -> FloatArray:
        """Term, shape (m, 2), that fixes the mean of all position errors (a shift of the beam's coordinates) at 0: its square is added."""
        count = self.model.errors.stop - self.model.errors.start
        return np.eye(2)[np.arange(count) % 2] / (_HELD * self.position_error_mm * max(count, 1) ** 0.5)

    @property
    def _stage_deviations(self) -> FloatArray:
        """Standard deviations of position errors (mm), rotation and scale."""
        model = self.model
        errors = np.full(model.errors.stop - model.errors.start, self.position_error_mm)
        deviations = np.concatenate([errors, [ROTATION_RAD, STAGE_SCALE] if model.geometry else []])
        return deviations * _HELD if self.stage_as_recorded else deviations

    def times(self, vector: FloatArray) -> FloatArray:
        """Return the precision times a vector of the unknowns, without the terms that hold undetermined combinations."""
        model, result = self.model, np.zeros(self.model.size)
        for pattern, where, stiffness in zip(model.patterns, model.pattern_slices, self.stiffness, strict=True):
            result[where] = stiffness * (roughness_of(pattern.grid) @ vector[where])
        result[model.scales] = self.scale_precision @ vector[model.scales]
        stage = slice(model.scales.stop, model.stage.stop)
        result[stage] = vector[stage] / self._stage_deviations**2
        held = self._held_errors
        result[model.errors] += held @ (held.T @ vector[model.errors])
        for where, precision in [*self.gain_blocks(), *self._weather_blocks()]:
            result[where] = precision @ vector[where]
        return result

    def gradient(self, vector: FloatArray) -> FloatArray:
        """Return the gradient of the logarithm of the prior."""
        return self.times(self._centre - vector)

    def chi_square(self, vector: FloatArray) -> float:
        """Return minus twice the logarithm of the prior, up to a constant; the prior is quadratic with its centre at no pull."""
        return float(-(vector - self._centre) @ self.gradient(vector))


@lru_cache(maxsize=8)
def roughness_of(grid: SplineGrid) -> sparse.csc_array:
    """Return the roughness of a grid, made once."""
    return grid.roughness()


def hold_strength(block: FloatArray) -> float:
    """Return the size of the terms that hold a pattern where no signal depends on it."""
    return float(np.diag(block).mean())


def free_functions(grid: SplineGrid, number: int) -> FloatArray:
    """Return combinations of a pattern that change no signal: the level, and in a reflection (shared with beam and scales) the slopes."""
    functions = grid.planes()[:, : 1 if number == 0 else 3]
    return functions / np.linalg.norm(functions, axis=0)


def common_deviation(information: FloatArray, pull: FloatArray, bounds: tuple[float, float]) -> float:
    """Return the standard deviation, common to normal unknowns about 0, of largest marginal likelihood.

    Parameters
    ----------
    information : ndarray, shape (n, n)
        Information of the signals on these unknowns.
    pull : ndarray, shape (n,)
        Gradient of the log likelihood of the signals where they are 0.
    bounds
        Smallest and largest possible standard deviation.
    """
    matrix = Tridiagonal(information)
    turned = matrix.turned(pull[:, None])

    def cost(log_deviation: float) -> float:
        variance = float(np.exp(2 * log_deviation))
        products, log_determinant = matrix.products(turned, variance)
        return log_determinant - variance * float(products[0, 0])

    limits = (float(np.log(bounds[0])), float(np.log(bounds[1])))
    return float(np.exp(optimize.minimize_scalar(cost, bounds=limits, method="bounded", options={"xatol": 0.01}).x))
