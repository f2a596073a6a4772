"""What the pixels of a flat have in common: errors of the beam and of the scales, followed at a few places of a detector."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from permil.camera import frames
from permil.flat.gradient import shared_covariance

if TYPE_CHECKING:
    from permil.beam import BeamModel
    from permil.camera import Detector
    from permil.flat.divide import PointingWeights
    from permil.flat.pointing import LitPointing

_PLACES = 6
"""Places along each axis of a detector at which the shared errors are followed; the beam is smooth between them."""


class SharedErrors(Protocol):
    """What pixels have in common, followed at the places of `shared_places`."""

    def see(self, lit: LitPointing, weights: PointingWeights, block: int) -> None:
        """Take note of a pointing, and of the weights in super-pixels of ``block`` pixels."""

    def covariance(self) -> NDArray[np.float64]:
        """Return the relative covariance at the places, once all pointings are seen."""


@dataclass(frozen=True)
class KnownErrors:
    """Errors that are known before any pointing is seen."""

    known: NDArray[np.float64]

    def see(self, lit: LitPointing, weights: PointingWeights, block: int) -> None:
        """Take note of nothing."""

    def covariance(self) -> NDArray[np.float64]:
        """Return the covariance that is known."""
        return self.known


@dataclass
class DivideErrors:
    """Errors from a beam model and the scale errors of pointings."""

    beam: BeamModel
    detector: Detector
    _ux: list[NDArray[np.float64]] = field(default_factory=list)
    _uy: list[NDArray[np.float64]] = field(default_factory=list)
    _weights: list[NDArray[np.float64]] = field(default_factory=list)
    _scale_errors: list[float] = field(default_factory=list)

    def see(self, lit: LitPointing, weights: PointingWeights, block: int) -> None:
        """Take note of where the pointing's light lies at the places, and of its weights there."""
        places = shared_places(self.detector)
        ux, uy = frames.projector_relative(*frames.detector_to_ccs(self.detector, *places), lit.pointing.x_mm, lit.pointing.y_mm)
        half, image = max(1, block // 2), lit.whole()
        at_places = []
        for x, y in zip(*places, strict=True):
            around = weights.at(image.part(*(slice(max(0, int(place) - half), int(place) + half + 1) for place in (y, x))))
            at_places.append(float(np.median(around[around > 0])) if (around > 0).any() else 0.0)
        self._ux.append(ux)
        self._uy.append(uy)
        self._weights.append(np.array(at_places))
        self._scale_errors.append(lit.pointing.known_scale_error)

    def covariance(self) -> NDArray[np.float64]:
        """Return the covariance of the weighted mean of all pointings."""
        seen = (np.array(each) for each in (self._ux, self._uy, self._weights, self._scale_errors))
        return shared_covariance(self.beam.covariance, *seen)


def shared_places(detector: Detector) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the places (x, y in pixels) at which shared errors are followed: cell centres of a regular grid."""
    fractions = (np.arange(_PLACES) + 0.5) / _PLACES
    x, y = np.meshgrid(fractions * detector.nx - 0.5, fractions * detector.ny - 0.5)
    return x.ravel(), y.ravel()
