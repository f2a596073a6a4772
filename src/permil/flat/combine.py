"""One detector's pointings, and the light of each, combined into its flat by inverse variance (formulas: `permil.flat.divide`).

Pointings are added one at a time, whole or by strips, so that memory does not grow with their number. Deviations are counted from the
first response of each pixel, so that sums in single precision are enough (Chan, Golub & LeVeque 1983, The American Statistician 37, 242).

The light of one exposure on a detector is computed strip by strip: exact on a lattice of pixels, cubic between them.

A beam is smooth over millimetres. With nodes some tenths of a millimetre apart what is left between them, ``3 h^4 B'''' / 128`` along
each axis (the remainder of Lagrange's formula on four nodes), is below the rounding of single precision.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtri

from permil._kernels import flat as kernels
from permil.arrays import Float32Array, FloatArray, Int32Array, median
from permil.camera import Detector
from permil.engine import threaded_map
from permil.errors import FlatError
from permil.flat.divide import LitImage, PointingWeights
from permil.flat.superpixel import block_medians
from permil.isr.open_exposure import RowSample, Strip, strips_of
from permil.isr.reduce import DetectorImage
from permil.products import MaskPlane

_MEDIAN_VARIANCE = 0.3
"""Variance of the median of five over that of one."""


def flag_outliers(
    image: Float32Array,
    mask: NDArray[np.int16],
    *,
    detector: Detector,
    noise_variance: FloatArray,
    beam: Float32Array,
    scale: float,
    reference: Float32Array,
    threshold: float,
    first_row: int = 0,
) -> tuple[Float32Array, int]:
    """Flag the pixels of a single exposure that deviate from the expected signal, in its mask.

    Parameters
    ----------
    image, mask
        Exposure in electrons and its planes of `permil.products.MaskPlane`, or some rows of them; outliers get NO_DATA and REJECTED there.
    noise_variance : ndarray, shape (amplifiers,)
        Variance that does not depend on the signal, electrons^2.
    beam
        Beam on these rows, 1 at its maximum; NaN where it is not known.
    scale
        Electrons for beam and response 1.
    reference
        Median response of a few exposures; NaN where there is none, and nothing is flagged.
    threshold
        Standard deviations from which a pixel is an outlier.
    first_row
        Of the detector, of those that are given.

    Returns
    -------
    variance
        Of each pixel: photons (the signal itself, 0 where it is negative) and noise, electrons^2.
    outliers
        Number of pixels that were flagged and had not been before.
    """
    variance = np.empty(image.shape, dtype=np.float32)
    bounds = np.array([(each.y_min, each.y_min + each.ny, each.x_min, each.x_min + each.nx) for each in detector.amplifiers])
    noise, limit = noise_variance.astype(np.float32), threshold**2 * (1 + _MEDIAN_VARIANCE)
    outliers = kernels.flag_outliers(image, mask, beam, reference, bounds, first_row, scale, noise, limit, variance)
    return variance, outliers


@dataclass(frozen=True)
class Pointing:
    """What is known of a pointing besides its pixels.

    Attributes
    ----------
    number
        Number of the pointing on this detector.
    x_mm, y_mm
        Projector position, CCS.
    scale_error
        Relative error of the scale that the photodiode, or the joint solution, gives; NaN where nothing is known.
    exposures
        Exposures in it.
    chi_square
        Reduced chi-square of the exposures about their mean; NaN for a single one.
    aimed
        Whether the projector points at this detector.
    scan
        Whether it belongs to the scan.
    photodiode
        Mean photodiode reading of the exposures; NaN if one has none.
    """

    number: int
    x_mm: float
    y_mm: float
    scale_error: float
    exposures: int
    chi_square: float
    aimed: bool
    scan: bool = False
    photodiode: float = float("nan")

    @property
    def known_scale_error(self) -> float:
        """Error of the scale as far as it is known; 0 where nothing is."""
        return 0.0 if np.isnan(self.scale_error) else self.scale_error


class LitRows(NamedTuple):
    """Some rows of a detector with their light."""

    rows: slice
    image: LitImage


class LitPointing(Protocol):
    """A pointing with its light."""

    @property
    def pointing(self) -> Pointing:
        """What is known of it."""

    @property
    def rejected(self) -> int:
        """Measurements rejected as outliers, of all rows that were asked for."""

    @property
    def neighbours(self) -> int:
        """Rows beside a strip that decide about its pixels."""

    def strip(self, strip: Strip) -> list[LitRows]:
        """Return the rows of a strip; what the last call of the same thread returned may be overwritten."""

    def sample(self, step: int) -> LitImage:
        """Return a sample of the pixels: about every n-th row and column."""

    def whole(self) -> LitImage:
        """Return all rows."""


@dataclass(frozen=True)
class LitStack:
    """A stack of several exposures with its light, all of it in memory."""

    pointing: Pointing
    image: LitImage
    rejected: int
    neighbours: ClassVar[int] = 0

    def strip(self, strip: Strip) -> list[LitRows]:
        """Return the rows of a strip, without a copy."""
        return [LitRows(run, self.image.part(run, slice(None))) for run in strip.runs]

    def sample(self, step: int) -> LitImage:
        """Return every n-th pixel, without a copy."""
        every = slice(step // 2, None, step)
        return self.image.part(every, every)

    def whole(self) -> LitImage:
        """Return all rows."""
        return self.image


CHANCE = 1e-9
"""Probability below which the scatter of a pixel between pointings is not chance: the pixel is SUSPECT (hot, or unstable)."""

_NEIGHBOURHOOD = 32
"""Side in pixels of the blocks in which pixels are compared."""

DEAD_RESPONSE = 0.2
"""Response over the detector's median below which a pixel is BAD (dead)."""

_ROWS_OF_RESULT = 8 * _NEIGHBOURHOOD
"""Rows of the result that are worked on together: whole neighbourhoods."""


@dataclass
class PointingCombination:
    """Streaming combination of pointings of one detector by inverse variance; memory does not grow with their number.

    Parameters
    ----------
    shape
        Rows and columns of the detector.
    """

    shape: tuple[int, int]
    _first: Float32Array = field(init=False, repr=False)
    _sums: Float32Array = field(init=False, repr=False)
    _count: NDArray[np.int16] = field(init=False, repr=False)
    _all_planes: NDArray[np.int16] = field(init=False, repr=False)
    _any_planes: NDArray[np.int16] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Set all sums to zero."""
        # The first response r0 of each pixel; sums of w, w (r - r0), w (r - r0)^2, w^2 var, w / light and w var.
        self._first = np.zeros(self.shape, dtype=np.float32)
        self._sums = np.zeros((self.shape[0], 6, self.shape[1]), dtype=np.float32)
        self._count = np.zeros(self.shape, dtype=np.int16)
        self._all_planes = np.full(self.shape, -1, dtype=np.int16)
        self._any_planes = np.zeros(self.shape, dtype=np.int16)

    def add(self, lit: LitImage, weights: PointingWeights, rows: slice = slice(None)) -> None:
        """Add a pointing, or some rows of it.

        Parameters
        ----------
        lit
            The pointing, shape (number of rows, columns).
        weights
            Of its pixels.
        rows
            Which rows of the detector these are.
        """
        kernels.add_pointing(
            *lit.pixels,
            lit.beam_error,
            weights.arguments(lit),
            self._first[rows],
            self._sums[rows],
            self._count[rows],
            self._all_planes[rows],
            self._any_planes[rows],
        )

    def result(self, *, common_variance: Float32Array | None = None) -> CombinedFlat:
        """Return the combined response.

        Parameters
        ----------
        common_variance
            Variance of what all exposures have in common, electrons^2 per pixel: the superbias. More exposures do not reduce it.

        Raises
        ------
        FlatError
            If no pointing gave any pixel.
        """
        covered = self._count > 0
        if not covered.any():
            raise FlatError("no pointing has light on this detector", remedy="check the positions and the area of the beam scan")
        response, variance, scatter, predicted = (np.empty(self.shape, dtype=np.float32) for _ in range(4))
        mask = np.empty(self.shape, dtype=np.int32)
        # A few rows at a time: at full size each intermediate image would be another 65 MB of fresh memory.
        parts = [slice(first, first + _ROWS_OF_RESULT) for first in range(0, self.shape[0], _ROWS_OF_RESULT)]

        def mean(rows: slice) -> None:
            total, deviations, squares, noise, per_light, weighted = np.moveaxis(self._sums[rows], 1, 0)
            with np.errstate(invalid="ignore", divide="ignore"):
                shift = deviations / total
                response[rows] = np.where(covered[rows], self._first[rows] + shift, np.nan)
                variance[rows] = noise / total**2
                predicted[rows] = np.sqrt(np.maximum(weighted / total - variance[rows], 0))
                if common_variance is not None:
                    variance[rows] += common_variance[rows] * (per_light / total) ** 2
                scatter[rows] = np.sqrt(np.maximum(squares - deviations * shift, 0) / total)

        def flag(rows: slice) -> None:
            mask[rows] = self._mask(rows, response[rows], scatter[rows], level)

        for _ in threaded_map(mean, parts):
            pass
        level = float(median(response[covered]))
        for _ in threaded_map(flag, parts):
            pass
        return CombinedFlat(
            response=response,
            variance=variance,
            mask=mask,
            scatter=scatter,
            predicted_scatter=predicted,
            count=self._count.copy(),
        )

    def _mask(self, rows: slice, response: Float32Array, scatter: Float32Array, level: float) -> Int32Array:
        """Return the mask of some rows."""
        count = self._count[rows]
        covered = count > 0
        with np.errstate(invalid="ignore", divide="ignore"):
            # Weights are inverse relative variances at the typical response; photon noise goes with the pixel's own.
            chi_square = scatter**2 * self._sums[rows, 0] / (level * response)
        # Where the beam model is off, all pixels scatter: a pixel stands out against its neighbours, not against the model alone.
        reduced = (chi_square / np.maximum(count - 1, 1)).astype(np.float32, copy=False)
        usual = np.maximum(block_medians(reduced, _NEIGHBOURHOOD), 1.0)
        inconstant = chi_square > usual * _chi_square_limits(int(self._count.max()))[count]
        # What one pointing saw as usable is usable; informative planes are kept if any pointing had them.
        informative = int(MaskPlane.EDGE | MaskPlane.MIDLINE | MaskPlane.REJECTED | MaskPlane.SUSPECT)
        without = self._all_planes[rows] | int(MaskPlane.NO_DATA)
        mask = np.where(covered, self._any_planes[rows] & informative, without).astype(np.int32)
        mask[inconstant & covered] |= int(MaskPlane.SUSPECT)
        mask[covered & (response < DEAD_RESPONSE * level)] |= int(MaskPlane.BAD)
        return mask


@dataclass(frozen=True)
class CombinedFlat:
    """Response of one detector from all its pointings.

    ``scatter`` is the weighted rms deviation of the pointings from their mean, ``predicted_scatter`` what photon and read noise alone
    would make of it on average, ``count`` the number of pointings, per pixel. With weights ``w`` and independent variances ``v``

        E(scatter^2) = sum(w v) / sum(w) - sum(w^2 v) / sum(w)^2
    """

    response: Float32Array
    variance: Float32Array
    mask: Int32Array
    scatter: Float32Array
    predicted_scatter: Float32Array
    count: NDArray[np.int16]


def _chi_square_limits(most: int) -> Float32Array:
    """Return the chi-square between n pointings that chance exceeds once in `CHANCE`, for n from 0 to ``most``."""
    freedom = np.arange(most + 1) - 1
    limits = np.full(most + 1, np.inf)
    limits[2:] = chdtri(freedom[2:], CHANCE)
    return limits.astype(np.float32)


CELL = 8
"""Pixels from node to node."""


@dataclass(frozen=True)
class LightLattice:
    """Light on the pixels of a detector.

    Parameters
    ----------
    nodes : ndarray, shape (rows, columns)
        Light at the pixels ``CELL * (index - 1)`` along each axis, with the shape of `node_shape`.
    shape
        Rows and columns of the detector.
    """

    nodes: Float32Array
    shape: tuple[int, int]

    @staticmethod
    def node_shape(shape: tuple[int, int]) -> tuple[int, int]:
        """Return rows and columns of nodes that a detector of some shape needs: one cell beyond it on all sides."""
        return -(-shape[0] // CELL) + 3, -(-shape[1] // CELL) + 3

    def on_pixels(self, rows: slice, columns: slice) -> Float32Array:
        """Return the light on rows and columns; NaN where a node nearby has none."""
        chosen = range(self.shape[0])[rows]
        image = np.empty((len(chosen), self.shape[1]), dtype=np.float32)
        kernels.interpolate(self.nodes, chosen.start, chosen.step, image)
        return image[:, columns]


_STRIP_ROWS = 256


class ReadableExposure(Protocol):
    """An exposure that is read by strips (`permil.isr.open_exposure.OpenExposure`)."""

    @property
    def detector(self) -> Detector:
        """The detector."""

    @property
    def noise_variance(self) -> FloatArray:
        """Variance that does not depend on the signal, per amplifier, electrons^2."""

    @property
    def neighbours(self) -> int:
        """Rows beside a strip that must be read with it."""

    @property
    def sample(self) -> DetectorImage:
        """Some rows of it."""

    def read(self, strip: Strip) -> tuple[Float32Array, NDArray[np.int16]]:
        """Return image and mask of the rows of a strip; they may be changed, and are overwritten by the next ones."""


class LitExposure:
    """A single exposure, without pixels that deviate from the median of a few others.

    Parameters
    ----------
    pointing
        What is known of it.
    exposure
        Gives its strips.
    sampled
        Which rows its sample consists of.
    light
        Returns the beam on rows and columns, 1 at its maximum; NaN where it is not known.
    scale
        Electrons for beam and response 1.
    reference
        Median response of a few exposures; NaN where there is none.
    threshold
        Standard deviations from which a pixel is an outlier.
    """

    def __init__(
        self,
        pointing: Pointing,
        exposure: ReadableExposure,
        sampled: RowSample,
        light: Callable[[slice, slice], Float32Array],
        *,
        scale: float,
        reference: Float32Array,
        threshold: float,
    ) -> None:
        self.pointing = pointing
        self._exposure, self._sampled, self._light, self._scale = exposure, sampled, light, scale
        self._reference, self._threshold = reference, threshold
        self._rejected: dict[int, int] = {}

    @property
    def rejected(self) -> int:
        """Measurements rejected as outliers in all strips that were asked for."""
        return sum(self._rejected.values())

    @property
    def neighbours(self) -> int:
        """Rows beside a strip that decide about its pixels."""
        return self._exposure.neighbours

    def strip(self, strip: Strip) -> list[LitRows]:
        """Return the rows of a strip, without its neighbours; outliers among them are flagged."""
        found, self._rejected[strip.first] = self._read(strip)
        return found

    def whole(self) -> LitImage:
        """Return the whole exposure; at full size that takes hundreds of megabytes."""
        shape = self._exposure.detector.shape
        signal, variance, beam = (np.empty(shape, dtype=np.float32) for _ in range(3))
        mask = np.empty(shape, dtype=np.int16)
        for strip in strips_of(self._exposure.detector, rows=_STRIP_ROWS, neighbours=self.neighbours):
            for run, lit in self._read(strip)[0]:
                signal[run], variance[run], mask[run], beam[run] = lit.signal, lit.variance, lit.mask, lit.beam
        return self._lit(signal, variance, mask, beam)

    def sample(self, step: int) -> LitImage:
        """Return a sample of the pixels for medians, which outliers and differences between amplifiers do not change."""
        sample, columns = self._exposure.sample, slice(step // 2, None, step)
        signal, mask = sample.image[:, columns], sample.mask[:, columns]
        variance = np.maximum(signal, np.float32(0)) + np.float32(sample.noise_variance.mean())
        beam = np.concatenate([self._light(rows, columns) for rows in self._sampled.regular_rows])
        return self._lit(signal, variance, mask, beam)

    def _read(self, strip: Strip) -> tuple[list[LitRows], int]:
        """Return the rows of a strip, and how many outliers are among them."""
        image, mask = self._exposure.read(strip)
        found, rejected = [], 0
        for run, rows in zip(strip.runs, strip.own_rows, strict=True):
            signal, planes, beam = image[rows], mask[rows], self._light(run, slice(None))
            variance, outliers = flag_outliers(
                signal,
                planes,
                detector=self._exposure.detector,
                noise_variance=self._exposure.noise_variance,
                beam=beam,
                scale=self._scale,
                reference=self._reference[run],
                threshold=self._threshold,
                first_row=run.start,
            )
            rejected += outliers
            found.append(LitRows(run, self._lit(signal, variance, planes, beam)))
        return found, rejected

    def _lit(self, signal: Float32Array, variance: Float32Array, mask: NDArray[np.int16], beam: Float32Array) -> LitImage:
        # The errors of the beam are all in the covariance of the joint solution.
        exact = np.broadcast_to(np.float32(0), beam.shape)
        return LitImage(signal, variance, mask, beam, exact, self._scale, self.pointing.scale_error)
