"""From the stacks of one detector, and the beam that lit each, to its flat with everything that is known of its errors."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from permil.camera import frames
from permil.errors import FlatError
from permil.flat.boundaries import BoundarySteps, amplifier_factors, fit_boundary_steps
from permil.flat.combine import CombinedFlat, PointingCombination
from permil.flat.divide import LitImage, PointingFlat, PointingWeights, divide_by_beam
from permil.flat.gradient import Plane, fit_plane, shared_covariance
from permil.flat.metrics import flat_metrics, metrics_table
from permil.flat.product import DetectorSolution, good_pixels
from permil.flat.superpixel import size_in_pixels, super_pixels
from permil.products import is_usable

if TYPE_CHECKING:
    from permil.beam import BeamModel
    from permil.camera import Detector

_PLACES = 6
"""Places along each axis of a detector at which the shared errors are followed; the beam is smooth between them."""


@dataclass(frozen=True)
class PointingStack:
    """Stack of the exposures of one detector at one pointing.

    Attributes
    ----------
    number
        Number of the pointing on this detector.
    x_mm, y_mm
        Projector position, CCS.
    signal, variance, mask
        Mean signal in electrons at the mean photodiode reading, its variance (without that of the superbias, which all stacks
        share), mask planes; shape (ny, nx).
    photodiode
        Mean photodiode reading, 1 where it is not used.
    scale_error
        Relative error of the scale that the photodiode gives.
    exposures, rejected
        Exposures in the stack; measurements rejected as outliers.
    chi_square
        Reduced chi-square of the exposures about their mean.
    aimed
        Whether the projector points at this detector.
    scan
        Whether this is an exposure of the scan rather than a pointing.
    """

    number: int
    x_mm: float
    y_mm: float
    signal: NDArray[np.float32]
    variance: NDArray[np.float32]
    mask: NDArray[np.integer]
    photodiode: float
    scale_error: float
    exposures: int
    rejected: int
    chi_square: float
    aimed: bool
    scan: bool = False


@dataclass(frozen=True)
class LitStack:
    """A stack with the light that fell on it: beam (1 at its maximum) and its error in each pixel, NaN where not known."""

    stack: PointingStack
    beam: NDArray[np.float32]
    beam_error: NDArray[np.float32]


@dataclass
class SeenPointings:
    """What is kept of the pointings while they stream by."""

    rows: list[dict[str, object]] = field(default_factory=list)
    stacks: list[NDArray[np.float64]] = field(default_factory=list)
    beams: list[NDArray[np.float64]] = field(default_factory=list)
    responses: list[NDArray[np.float64]] = field(default_factory=list)
    ux: list[NDArray[np.float64]] = field(default_factory=list)
    uy: list[NDArray[np.float64]] = field(default_factory=list)
    weights: list[NDArray[np.float64]] = field(default_factory=list)


def solve_detector(
    lit_stacks: Iterable[LitStack],
    shared: Callable[[SeenPointings], NDArray[np.float64]],
    detector: Detector,
    *,
    led: str,
    super_pixel_mm: float,
    common_variance: Callable[[], NDArray[np.float32] | None] = lambda: None,
    remove_steps: bool = False,
    keep: Callable[[PointingStack, PointingFlat], None] | None = None,
) -> DetectorSolution:
    """Divide each stack by its light and combine.

    Parameters
    ----------
    lit_stacks
        One per pointing, taken one at a time.
    shared
        Gives the relative covariance of what pixels have in common at the places of `shared_places`, once all stacks are seen.
    super_pixel_mm
        Side of the super-pixels of small maps.
    common_variance
        Gives the variance, in each pixel, of the superbias that was subtracted from every exposure, electrons^2; called at the end.
    remove_steps
        Divide the amplifiers by their factors from the steps at their borders.
    keep
        Called with each stack that is aimed at the detector and its flat, for example to write it.

    Raises
    ------
    FlatError
        If no pointing has light on the detector, or the steps to be removed cannot be measured.
    """
    block = size_in_pixels(super_pixel_mm, detector.pixel_mm)
    places_x, places_y = shared_places(detector)
    combination = PointingCombination(detector.shape)
    seen = SeenPointings()
    for lit in lit_stacks:
        stack = lit.stack
        image = LitImage(stack.signal, stack.variance, stack.mask, lit.beam, lit.beam_error, stack.photodiode, stack.scale_error)
        weights = combination.add(image)
        _record(seen, stack, image, weights, detector, block, (places_x, places_y))
        if stack.aimed:
            response = divide_by_beam(image)
            _record_aimed(seen, image, response, block)
            if keep is not None:
                keep(stack, response)
            del response
        # At full size each of these takes hundreds of megabytes: let go of them before the next stack is made.
        del lit, stack, image
    flat = combination.result(common_variance=common_variance())
    del combination
    steps = _steps(flat, detector)
    if remove_steps:
        flat = _without_steps(flat, steps, detector)
    covariance = shared(seen)
    place_x_mm, place_y_mm = frames.detector_to_ccs(detector, places_x, places_y)
    good = good_pixels(flat)
    plane = _plane(flat, good, detector, block, (place_x_mm, place_y_mm), covariance)
    rows = flat_metrics(
        flat.response, flat.variance, flat.scatter, flat.count, good, detector=detector, led=led, plane=plane, steps=steps
    )
    return DetectorSolution(
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


def divide_covariance(beam: BeamModel) -> Callable[[SeenPointings], NDArray[np.float64]]:
    """Return what gives the shared covariance of a flat from a beam model and the scale errors of its pointings."""

    def shared(seen: SeenPointings) -> NDArray[np.float64]:
        return shared_covariance(
            beam.covariance,
            np.array(seen.ux),
            np.array(seen.uy),
            np.array(seen.weights),
            np.array([float(row["scale_error"]) for row in seen.rows]),  # type: ignore[arg-type]
        )

    return shared


def shared_places(detector: Detector) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the places (x, y in pixels) at which shared errors are followed: cell centres of a regular grid."""
    fractions = (np.arange(_PLACES) + 0.5) / _PLACES
    x, y = np.meshgrid(fractions * detector.nx - 0.5, fractions * detector.ny - 0.5)
    return x.ravel(), y.ravel()


def _record(
    seen: SeenPointings,
    stack: PointingStack,
    lit: LitImage,
    weights: PointingWeights,
    detector: Detector,
    block: int,
    places: tuple[NDArray[np.float64], NDArray[np.float64]],
) -> None:
    x_mm, y_mm = frames.detector_to_ccs(detector, *places)
    ux, uy = frames.projector_relative(x_mm, y_mm, stack.x_mm, stack.y_mm)
    seen.ux.append(ux)
    seen.uy.append(uy)
    half = max(1, block // 2)
    at_places = []
    for x, y in zip(*places, strict=True):
        around = weights.at(lit.part(*(slice(max(0, int(place) - half), int(place) + half + 1) for place in (y, x))))
        at_places.append(float(np.median(around[around > 0])) if (around > 0).any() else 0.0)
    seen.weights.append(np.array(at_places))
    seen.rows.append(
        {
            "number": stack.number,
            "x_mm": stack.x_mm,
            "y_mm": stack.y_mm,
            "exposures": stack.exposures,
            "photodiode": stack.photodiode,
            "scale_error": 0.0 if np.isnan(stack.scale_error) else stack.scale_error,
            "rejected": stack.rejected,
            "chi_square": stack.chi_square,
            "aimed": stack.aimed,
            "scan": stack.scan,
            "weight": weights.mean(lit),
        }
    )


def _record_aimed(seen: SeenPointings, lit: LitImage, flat: PointingFlat, block: int) -> None:
    usable = is_usable(flat.mask)
    seen.stacks.append(super_pixels(lit.signal, usable, block).mean)
    seen.beams.append(super_pixels(lit.beam, usable, block).mean)
    seen.responses.append(super_pixels(flat.response, usable, block).mean)


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
    return CombinedFlat(flat.response / factor, flat.variance / factor**2, flat.mask, flat.scatter / factor, flat.count)


def _plane(
    flat: CombinedFlat,
    good: NDArray[np.bool_],
    detector: Detector,
    block: int,
    places: tuple[NDArray[np.float64], NDArray[np.float64]],
    covariance: NDArray[np.float64],
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
