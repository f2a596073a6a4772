"""The flat of one detector: its pointings combined by inverse variance (formulas: `permil.flat.divide`), its errors and figures.

Pointings are added one at a time, whole or by strips, so that memory does not grow with their number. Deviations are counted from the
first response of each pixel, so that sums in single precision are enough (Chan, Golub & LeVeque 1983, The American Statistician 37, 242).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray
from scipy.special import chdtri

from permil._kernels import flat as kernels
from permil.arrays import BoolArray, Float32Array, FloatArray, Int32Array, median
from permil.camera import frames
from permil.engine import threaded_map
from permil.errors import FlatError
from permil.flat.boundaries import BoundarySteps, amplifier_factors, fit_boundary_steps
from permil.flat.divide import PointingFlat, PointingWeights, divide_by_beam, sampling_step
from permil.flat.metrics import flat_metrics, metrics_table
from permil.flat.pointings import LitImage, LitPointing
from permil.flat.shared_errors import Plane, SharedErrors, fit_plane, shared_places
from permil.flat.superpixel import block_medians, size_in_pixels, super_pixels
from permil.isr.open_exposure import Strip, strips_of
from permil.products import MaskPlane, is_good, is_usable

if TYPE_CHECKING:
    from permil.camera import Detector

CHANCE = 1e-9
"""Probability below which the scatter of a pixel between pointings is not chance: the pixel is SUSPECT (hot, or unstable)."""

_NEIGHBOURHOOD = 32
"""Side in pixels of the blocks in which pixels are compared."""

DEAD_RESPONSE = 0.2
"""Response over the detector's median below which a pixel is BAD (dead)."""

_ROWS_OF_RESULT = 8 * _NEIGHBOURHOOD
"""Rows of the result computed together: whole neighbourhoods."""

STRIP_ROWS = 32
"""Raw rows that are combined together."""


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
            Weights of its pixels.
        rows
            Rows of the detector.
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
            Variance that all exposures share, electrons^2 per pixel: the superbias. More exposures do not reduce it.

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
        # A pixel is usable if it was usable in one pointing; informative planes are kept if any pointing had them.
        informative = int(MaskPlane.EDGE | MaskPlane.MIDLINE | MaskPlane.REJECTED | MaskPlane.SUSPECT)
        without = self._all_planes[rows] | int(MaskPlane.NO_DATA)
        mask = np.where(covered, self._any_planes[rows] & informative, without).astype(np.int32)
        mask[inconstant & covered] |= int(MaskPlane.SUSPECT)
        mask[covered & (response < DEAD_RESPONSE * level)] |= int(MaskPlane.BAD)
        return mask


@dataclass(frozen=True)
class CombinedFlat:
    """Response of one detector from all its pointings.

    ``scatter`` is the weighted rms deviation of the pointings from their mean, ``predicted_scatter`` its expectation from
    photon and read noise alone, ``count`` the number of pointings, per pixel. With weights ``w`` and independent variances ``v``

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


@dataclass(frozen=True)
class DetectorFlat:
    """The flat of one detector and LED on its own scale, before the composite.

    ``stacks``, ``beams`` and ``responses`` are cubes on super-pixels, one layer per aimed pointing; ``scan`` lists exposures of the
    scan that took part, as ``pointings`` does the pointings. ``modes``, ``remainder``, ``halves`` and ``budget`` come from the
    joint solution.
    """

    flat: CombinedFlat
    pointings: Table
    scan: Table
    metrics: Table
    stacks: Float32Array
    beams: Float32Array
    responses: Float32Array
    places: Table
    covariance: FloatArray
    block_pixels: int
    block_mm: float
    modes: Float32Array | None = None
    remainder: Float32Array | None = None
    halves: Float32Array | None = None
    budget: Table | None = None


def good_pixels(flat: CombinedFlat) -> BoolArray:
    """Return where a combined flat is good and positive."""
    with np.errstate(invalid="ignore"):
        return is_good(flat.mask) & (flat.response > 0)


@dataclass
class SeenPointings:
    """Figures and small maps of the pointings that were combined so far."""

    rows: list[dict[str, object]] = field(default_factory=list)
    stacks: list[FloatArray] = field(default_factory=list)
    beams: list[FloatArray] = field(default_factory=list)
    responses: list[FloatArray] = field(default_factory=list)


def combine_detector(
    batches: Iterable[Sequence[LitPointing]],
    shared: SharedErrors,
    detector: Detector,
    *,
    led: str,
    super_pixel_mm: float,
    common_variance: Callable[[], Float32Array | None] = lambda: None,
    remove_steps: bool = False,
    keep: Callable[[LitPointing, PointingFlat], None] | None = None,
) -> DetectorFlat:
    """Divide each pointing by its light and combine.

    Parameters
    ----------
    batches
        Pointings that are combined together, strip by strip, before the next batch is requested.
    shared
        Accumulates the errors that pixels share; gives their covariance after all pointings.
    super_pixel_mm
        Side of the super-pixels of small maps.
    common_variance
        Gives the variance, in each pixel, of the superbias that was subtracted from every exposure, electrons^2; called at the end.
    remove_steps
        Divide the amplifiers by their factors from the steps at their borders.
    keep
        Called with each pointing that is aimed at the detector and its flat, for example to write it.

    Raises
    ------
    FlatError
        If no pointing has light on the detector, or the steps to be removed cannot be measured.
    """
    block = size_in_pixels(super_pixel_mm, detector.pixel_mm)
    places_x, places_y = shared_places(detector)
    combination = PointingCombination(detector.shape)
    seen = SeenPointings()

    @cache
    def strips(neighbours: int) -> list[Strip]:
        return strips_of(detector, rows=STRIP_ROWS, neighbours=neighbours)

    for batch in batches:
        neighbours = max((lit.neighbours for lit in batch), default=0)
        _combine(batch, strips(neighbours), combination, shared, seen, block, keep)
        # At full size a stack takes hundreds of megabytes: release it before the next one is made.
        del batch
    flat = combination.result(common_variance=common_variance())
    del combination
    steps = _steps(flat, detector)
    if remove_steps:
        flat = _without_steps(flat, steps, detector)
    covariance = shared.covariance()
    place_x_mm, place_y_mm = frames.detector_to_ccs(detector, places_x, places_y)
    good = good_pixels(flat)
    plane = _plane(flat, good, detector, block, (place_x_mm, place_y_mm), covariance)
    rows = flat_metrics(flat, good, detector=detector, led=led, plane=plane, steps=steps)
    return DetectorFlat(
        flat=flat,
        pointings=Table(rows=[row for row in seen.rows if not row["scan"]]),
        scan=Table(rows=[row for row in seen.rows if row["scan"]]),
        metrics=metrics_table(rows),
        stacks=np.array(seen.stacks, dtype=np.float32),
        beams=np.array(seen.beams, dtype=np.float32),
        responses=np.array(seen.responses, dtype=np.float32),
        places=Table({"x_pixel": places_x, "y_pixel": places_y, "x_mm": place_x_mm, "y_mm": place_y_mm}),
        covariance=covariance,
        block_pixels=block,
        block_mm=block * detector.pixel_mm,
    )


def _combine(
    batch: Sequence[LitPointing],
    strips: Sequence[Strip],
    combination: PointingCombination,
    shared: SharedErrors,
    seen: SeenPointings,
    block: int,
    keep: Callable[[LitPointing, PointingFlat], None] | None,
) -> None:
    """Add pointings, and record their figures and maps."""
    samples = [lit.sample(sampling_step(combination.shape)) for lit in batch]
    weights = [PointingWeights.of(sample) for sample in samples]

    def add(strip: Strip) -> None:
        # The sums of these rows stay in the cache while the pointings pass by.
        for lit, own in zip(batch, weights, strict=True):
            for rows, image in lit.strip(strip):
                combination.add(image, own, rows)

    for _ in threaded_map(add, strips):
        pass
    for lit, own, sample in zip(batch, weights, samples, strict=True):
        shared.add(lit, own, block)
        seen.rows.append(_record(lit, own, sample))
        if lit.pointing.aimed:
            _divide_aimed(lit, seen, block, keep)


def _record(lit: LitPointing, weights: PointingWeights, sample: LitImage) -> dict[str, object]:
    pointing = lit.pointing
    return {
        "number": pointing.number,
        "x_mm": pointing.x_mm,
        "y_mm": pointing.y_mm,
        "exposures": pointing.exposures,
        "photodiode": pointing.photodiode,
        "scale": sample.scale,
        "scale_error": pointing.known_scale_error,
        "rejected": lit.rejected,
        "chi_square": pointing.chi_square,
        "aimed": pointing.aimed,
        "scan": pointing.scan,
        "weight": float(weights.at(sample).mean(dtype=np.float64)),
    }


def _divide_aimed(
    lit: LitPointing, seen: SeenPointings, block: int, keep: Callable[[LitPointing, PointingFlat], None] | None
) -> None:
    image = lit.whole()
    flat = divide_by_beam(image)
    usable = is_usable(flat.mask)
    seen.stacks.append(super_pixels(image.signal, usable, block).mean)
    seen.beams.append(super_pixels(image.beam, usable, block).mean)
    seen.responses.append(super_pixels(flat.response, usable, block).mean)
    if keep is not None:
        keep(lit, flat)


def _steps(flat: CombinedFlat, detector: Detector) -> BoundarySteps | None:
    try:
        return fit_boundary_steps(flat.response, good_pixels(flat), detector)
    except FlatError:
        return None


def _without_steps(flat: CombinedFlat, steps: BoundarySteps | None, detector: Detector) -> CombinedFlat:
    if steps is None:
        raise FlatError(
            f"the steps at the amplifier borders of {detector.name} cannot be measured",
            remedy="set flat.remove_amplifier_steps to false or look at the mask of this detector",
            detector=detector.name,
        )
    factor = amplifier_factors(detector, steps.factor)
    return replace(
        flat,
        response=flat.response / factor,
        variance=flat.variance / factor**2,
        scatter=flat.scatter / factor,
        predicted_scatter=flat.predicted_scatter / factor,
    )


def _plane(
    flat: CombinedFlat,
    good: BoolArray,
    detector: Detector,
    block: int,
    places: tuple[FloatArray, FloatArray],
    covariance: FloatArray,
) -> Plane:
    blocks = super_pixels(flat.response, good, block)
    x, y = np.meshgrid(*blocks.centres(detector.shape))
    x_mm, y_mm = frames.detector_to_ccs(detector, x.ravel(), y.ravel())
    centre_x, centre_y = frames.detector_to_ccs(detector, *detector.centre_pixel)
    return fit_plane(
        blocks.mean.ravel(),
        x_mm,
        y_mm,
        centre=(float(centre_x), float(centre_y)),
        places=places,
        covariance=covariance,
    )
