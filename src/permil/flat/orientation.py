"""Detectors whose signals contradict their assumed position or orientation.

The level of a detector's signals, divided by the photodiode, follows the beam at its middle as the projector moves; their slope across the
detector follows the gradient of the beam there. The levels of all detectors give a coarse beam, whatever the orientation of each is.
Then:

- levels that follow the beam at the position of another detector show that files were exchanged;
- slopes that follow the gradient only after a reflection or a rotation show that pixels are in another order.

Where the beam is known well (`permil.flat.steps.divided_flat`), a pattern that changes from exposure to exposure unlike that of the beam
shows any other order of pixels. The flat adds a constant to level and slope of all exposures, which cancels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from permil.arrays import BoolArray, FloatArray, IntArray
from permil.camera import Detector
from permil.camera.frames import ccs_affine
from permil.errors import FlatError
from permil.flat.joint.data import DetectorSignals, ExposureList

SYMMETRIES = tuple(
    np.array(matrix, dtype=np.float64)
    for first, second in product((1, -1), repeat=2)
    for matrix in ([[first, 0], [0, second]], [[0, first], [second, 0]])
)
"""Reflections and rotations of a square; the first is the identity."""

BETTER = 6.0
"""Factor by which another position or orientation must reduce the sum of squared residuals."""

_LEAST_MISFIT, _LEAST_SLOPE = 4e-3, 5e-4
"""Deviation of a level (relative), and of a slope over half a detector, below which nothing is contradicted."""
MOST_UNEXPLAINED = 0.25
"""Fraction of the change of the beam between pointings that may be missing in the signals."""
_LEAST_CHANGE = 5e-3

MOST_OFF = 0.1
"""Scatter of the levels of pointings about the beam beyond errors of the photodiode."""

FEWEST_POSITIONS = 4
"""Minimum number of positions of the projector for a test of the moving light."""

_FEWEST_LIT = 0.9
_LARGEST_DEGREE = 10
_ROUNDS = 12
_MOST_CANDIDATES = 8
_MOST_LEVELS = 20_000


@dataclass(frozen=True)
class DetectorLevels:
    """Level and slope of the logarithm of the signals of one detector over the photodiode, by exposure.

    Parameters
    ----------
    name
        Of the detector.
    place : ndarray, shape (2,)
        Its middle, CCS mm.
    half_width : float
        Half its side, mm.
    exposures : ndarray of int, shape (n,)
        Numbers of the exposures.
    projector : ndarray, shape (n, 2)
        Where the projector was, CCS mm.
    level : ndarray, shape (n,)
        At its middle.
    slope : ndarray, shape (n, 2)
        Along CCS X and Y, 1/mm.
    """

    name: str
    place: FloatArray
    half_width: float
    exposures: IntArray
    projector: FloatArray
    level: FloatArray
    slope: FloatArray


@dataclass(frozen=True)
class Contradiction:
    """A detector whose signals contradict its position or orientation.

    Parameters
    ----------
    name
        Of the detector.
    symmetry : ndarray, shape (2, 2)
        Symmetry that turns the gradient of the beam (CCS) into that of the signals; None if there is none.
    fits
        Name of the detector whose place its levels fit; its own where they fit that.
    """

    name: str
    symmetry: FloatArray | None
    fits: str


def levels_of(x_mm: FloatArray, y_mm: FloatArray, log_signal: FloatArray) -> tuple[FloatArray, FloatArray, BoolArray]:
    """Return level at the middle and slopes (1/mm) of each exposure, and whether enough of the detector is lit.

    Parameters
    ----------
    x_mm, y_mm : ndarray, shape (p,)
        Places of the super-pixels.
    log_signal : ndarray, shape (e, p)
        NaN where there is none.
    """
    lit = np.isfinite(log_signal)
    enough = lit.sum(axis=1) >= max(_FEWEST_LIT * x_mm.size, 4)
    basis = np.column_stack([np.ones(x_mm.size), x_mm - _middle(x_mm), y_mm - _middle(y_mm)])
    chosen = lit[enough].astype(np.float64)
    matrix = np.einsum("ep,pi,pj->eij", chosen, basis, basis)
    right = np.where(lit[enough], log_signal[enough], 0.0) @ basis
    found = np.linalg.solve(matrix, right[..., None])[..., 0] if enough.any() else np.empty((0, 3))
    return found[:, 0], found[:, 1:], enough


def _middle(places: FloatArray) -> float:
    return float(places.min() + places.max()) / 2


def detector_levels(exposures: ExposureList, detector: DetectorSignals) -> DetectorLevels:
    """Return levels and slopes of a detector in the exposures that light it."""
    level, slope, enough = levels_of(detector.x_mm, detector.y_mm, np.asarray(detector.log_signal, dtype=np.float64))
    numbers = detector.exposures[enough]
    reading = exposures.log_photodiode
    known = np.isfinite(reading)
    # Where there is no reading the light is taken for the usual one.
    light = np.where(known, reading, np.median(reading[known]) if known.any() else 0.0)
    place = np.array([_middle(detector.x_mm), _middle(detector.y_mm)])
    half_width = float(max(np.ptp(detector.x_mm), np.ptp(detector.y_mm))) / 2
    return DetectorLevels(detector.name, place, half_width, numbers, exposures.positions[numbers], level - light[numbers], slope)


def find_contradictions(levels: Sequence[DetectorLevels]) -> list[Contradiction]:
    """Return the detectors whose signals contradict their position or orientation.

    Parameters
    ----------
    levels
        Of all detectors that were lit by one LED.
    """
    levels = [each for each in levels if len(np.unique(each.projector, axis=0)) >= FEWEST_POSITIONS]
    if not levels:
        return []
    fits = _best_places(levels)
    places = [levels[index].place for index in fits]
    beam = _Beam.fitted(levels, places)
    found: list[Contradiction] = []
    for index, (each, place) in enumerate(zip(levels, places, strict=True)):
        symmetry = best_symmetry(each.slope, beam.gradient(place - each.projector), each.half_width)
        if fits[index] != index or not np.array_equal(symmetry, SYMMETRIES[0]):
            found.append(Contradiction(each.name, symmetry, levels[fits[index]].name))
    return found


def unexplained_share(pattern: FloatArray, expected: FloatArray) -> float:
    """Return the fraction of the expected change that is missing: 0 for signals that follow the beam, about 1 for any others.

    Parameters
    ----------
    pattern, expected : ndarray, shape (n, m)
        Logarithm of signals and of the beam, of exposures at super-pixels; NaN where there is none. What exposures, or super-pixels, have
        in common does not count.
    """
    known = np.isfinite(pattern) & np.isfinite(expected)
    own, other = (_double_centred(np.where(known, part, 0.0), known) for part in (pattern, expected))
    change = float(np.square(other).sum())
    if change < _LEAST_CHANGE**2 * max(int(known.sum()), 1):
        return 0.0
    return float(np.square(own - other).sum()) / change


def scatter(values: FloatArray) -> float:
    """Return the robust standard deviation of values (median absolute deviation)."""
    return float(1.4826 * np.median(np.abs(values - np.median(values))))


def _double_centred(values: FloatArray, known: BoolArray) -> FloatArray:
    """Return values without the means of rows and columns."""
    for _ in range(3):
        for axis in (0, 1):
            count = np.maximum(known.sum(axis=axis, keepdims=True), 1)
            values = np.where(known, values - values.sum(axis=axis, keepdims=True) / count, 0.0)
    return values


def best_symmetry(slope: FloatArray, gradient: FloatArray, half_width: float) -> FloatArray:
    """Return the symmetry that turns the gradient of the beam into the slopes of the signals; the identity if none is clearly better.

    Parameters
    ----------
    slope, gradient : ndarray, shape (n, 2)
        1/mm; the part common to all exposures does not count.
    half_width
        Of the detector, mm.
    """
    slope, gradient = slope - slope.mean(axis=0), gradient - gradient.mean(axis=0)
    squares = [float(np.square(slope - gradient @ symmetry.T).sum()) for symmetry in SYMMETRIES]
    best = int(np.argmin(squares))
    misfit = half_width * np.sqrt(squares[0] / slope.size)
    contradicted = misfit > _LEAST_SLOPE and squares[0] > BETTER * squares[best] and _follows_beam(slope, gradient)
    return SYMMETRIES[best if contradicted else 0]


def _follows_beam(slope: FloatArray, gradient: FloatArray) -> bool:
    """Return whether the slopes are mostly those of the beam, in any order."""
    rotated, *_ = np.linalg.lstsq(gradient, slope, rcond=None)
    return float(np.square(slope - gradient @ rotated).sum()) < 0.25 * float(np.square(slope).sum())


def _best_places(levels: Sequence[DetectorLevels]) -> list[int]:
    """Return the detector whose position fits the levels of each detector; exchanges of two are tried as long as one is clearly better."""
    fits = list(range(len(levels)))
    misfits = _misfits(levels, fits)
    for _ in levels:
        candidates = np.argsort(-misfits)[:_MOST_CANDIDATES].tolist()
        candidates = [index for index in candidates if misfits[index] > _LEAST_MISFIT]
        tried = {}
        for place, first in enumerate(candidates):
            for second in [1 - first] if len(levels) == 2 else candidates[place + 1 :]:
                exchanged = fits.copy()
                exchanged[first], exchanged[second] = fits[second], fits[first]
                after = _misfits(levels, exchanged)
                pair = [first, second]
                tried[first, second] = np.square(misfits[pair]).sum() / max(np.square(after[pair]).sum(), 1e-12), exchanged, after
        if not tried:
            break
        gain, exchanged, after = max(tried.values(), key=lambda each: each[0])
        if gain < BETTER:
            break
        fits, misfits = exchanged, after
    return fits


def _misfits(levels: Sequence[DetectorLevels], fits: Sequence[int]) -> FloatArray:
    """Return the rms deviation of the levels of each detector from a beam that is fitted to all.

    What the detectors of an exposure have in common (their median, of three and more) is noise of the photodiode.
    """
    places = [levels[index].place for index in fits]
    beam = _Beam.fitted(levels, places)
    count = max(int(each.exposures.max()) for each in levels) + 1
    deviations = np.full((len(levels), count), np.nan)
    for own, each, place in zip(deviations, levels, places, strict=True):
        deviation = each.level - beam(place - each.projector)
        own[each.exposures] = deviation - np.median(deviation)
    shared = np.isfinite(deviations).sum(axis=0) >= 3
    deviations[:, shared] -= np.nanmedian(deviations[:, shared], axis=0)
    return np.asarray(np.nanstd(deviations, axis=1), dtype=np.float64)


@dataclass(frozen=True)
class _Beam:
    """A polynomial of the place relative to the projector, the logarithm of the beam up to a constant."""

    powers: IntArray
    coefficients: FloatArray
    middle: FloatArray
    scale: float

    @classmethod
    def fitted(cls, levels: Sequence[DetectorLevels], places: Sequence[FloatArray]) -> _Beam:
        """Fit a beam, with a constant for each detector, by least absolute deviations (reweighted least squares)."""
        u = np.concatenate([place - each.projector for each, place in zip(levels, places, strict=True)])
        owner = np.repeat(np.arange(len(levels)), [len(each.level) for each in levels])
        level = np.concatenate([each.level for each in levels])
        step = -(-level.size // _MOST_LEVELS)
        u, owner, level = u[::step], owner[::step], level[::step]
        middle, scale = u.mean(axis=0), float(np.abs(u - u.mean(axis=0)).max())
        n_places = len(np.unique(np.round(u, 1), axis=0))
        degree = _LARGEST_DEGREE
        while degree > 2 and 3 * ((degree + 1) * (degree + 2) // 2 - 1) > n_places:
            degree -= 1
        powers = np.array([(i, j) for i in range(degree + 1) for j in range(degree + 1 - i) if i + j > 0])
        beam = cls(powers, np.zeros(len(powers)), middle, scale)
        columns = beam.columns(u)
        weights = np.ones(level.size)
        coefficients = beam.coefficients
        for _ in range(_ROUNDS):
            # The constant of each detector is its weighted mean.
            total = np.maximum(np.bincount(owner, weights, minlength=len(levels)), 1e-12)
            means = np.column_stack([np.bincount(owner, weights * column, minlength=len(levels)) / total for column in columns.T])
            mean_level = np.bincount(owner, weights * level, minlength=len(levels)) / total
            centred, target = columns - means[owner], level - mean_level[owner]
            root = np.sqrt(weights)[:, None]
            coefficients = np.linalg.lstsq(centred * root, target * root[:, 0], rcond=1e-8)[0].astype(np.float64)
            residual = np.abs(target - centred @ coefficients)
            weights = 1 / np.maximum(residual, _LEAST_MISFIT / 4)
        return cls(powers, coefficients, middle, scale)

    def columns(self, u: FloatArray) -> FloatArray:
        """Return the powers at places, shape (n, m)."""
        x, y = ((u - self.middle) / self.scale).T
        return x[:, None] ** self.powers[:, 0] * y[:, None] ** self.powers[:, 1]

    def __call__(self, u: FloatArray) -> FloatArray:
        """Return the logarithm at places."""
        return self.columns(u) @ self.coefficients

    def gradient(self, u: FloatArray) -> FloatArray:
        """Return its gradient, 1/mm, shape (n, 2)."""
        x, y = ((u - self.middle) / self.scale).T
        i, j = self.powers.T
        along_x = i * x[:, None] ** np.maximum(i - 1, 0) * y[:, None] ** j
        along_y = j * x[:, None] ** i * y[:, None] ** np.maximum(j - 1, 0)
        return np.column_stack([along_x @ self.coefficients, along_y @ self.coefficients]) / self.scale


def describe_symmetry(symmetry: FloatArray | None, detector: Detector) -> str:
    """Return a description of the orientation of the pixels of a detector; empty if it is correct.

    Parameters
    ----------
    symmetry
        Of slopes along CCS.
    detector
        The detector: rows and columns run along other axes than those of the CCS.
    """
    if symmetry is None:
        return "they do not follow the beam there, in any order of rows and columns"
    _, matrix = ccs_affine(detector)
    # Slopes along the pixel axes (x, y): chain rule.
    pixels = np.rint(matrix.T @ symmetry @ np.linalg.inv(matrix.T)).astype(int)
    (xx, xy), (yx, yy) = pixels.tolist()
    if xx and yy:
        return {(1, 1): "", (1, -1): "its rows look flipped", (-1, 1): "its columns look flipped"}.get(
            (xx, yy), "it looks rotated by 180 degrees"
        )
    return "its rows and columns look exchanged" if xy == yx else "it looks rotated by 90 degrees"


def contradiction_error(found: Sequence[Contradiction], detectors: dict[str, Detector], *, led: str) -> FlatError:
    """Return the error that names the detectors and the orientation of their signals."""
    sentences = []
    for each in found:
        own = detectors[each.name]
        parts = [f"they fit the position of {each.fits}"] if each.fits != each.name else []
        parts += [text] if (text := describe_symmetry(each.symmetry, detectors.get(each.fits, own))) else []
        sentences.append(f"the signals of {each.name} contradict its position or orientation: {' and '.join(parts)}")
    return FlatError(
        f"LED {led}: {'; '.join(sentences)}",
        remedy="check the files and headers of these detectors (amplifier names, DETECTOR, RAFTBAY, CCDSLOT), "
        "or leave them out with flat.detectors",
        led=led,
        contradicting=[each.name for each in found],
    )
