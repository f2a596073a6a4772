"""The flat of one detector from its pointings, with its errors and figures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from astropy.table import Table

from permil.arrays import BoolArray, Float32Array, FloatArray
from permil.camera import frames
from permil.engine import threaded_map
from permil.errors import FlatError
from permil.flat.boundaries import BoundarySteps, amplifier_factors, fit_boundary_steps
from permil.flat.combine import CombinedFlat, PointingCombination
from permil.flat.divide import PointingFlat, PointingWeights, divide_by_beam, sampling_step
from permil.flat.metrics import flat_metrics, metrics_table
from permil.flat.pointings import LitImage, LitPointing
from permil.flat.shared_errors import Plane, SharedErrors, fit_plane, shared_places
from permil.flat.superpixel import size_in_pixels, super_pixels
from permil.isr.open_exposure import Strip, strips_of
from permil.products import is_good, is_usable

if TYPE_CHECKING:
    from permil.camera import Detector


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


STRIP_ROWS = 32
"""Raw rows that are combined together."""


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
        shared.see(lit, own, block)
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
