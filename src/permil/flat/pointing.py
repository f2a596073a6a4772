"""Pointings of one detector with the light that fell on them, as the combination takes them: whole, or some rows at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from permil.flat.divide import LitImage


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
    """

    number: int
    x_mm: float
    y_mm: float
    scale_error: float
    exposures: int
    chi_square: float
    aimed: bool
    scan: bool = False

    @property
    def known_scale_error(self) -> float:
        """Error of the scale as far as it is known; 0 where nothing is."""
        return 0.0 if np.isnan(self.scale_error) else self.scale_error


class LitPointing(Protocol):
    """A pointing with its light."""

    @property
    def pointing(self) -> Pointing:
        """What is known of it."""

    @property
    def rejected(self) -> int:
        """Measurements rejected as outliers, of all rows that were asked for."""

    def rows(self, rows: slice) -> LitImage:
        """Return some rows of the detector; what the last call returned may be overwritten."""

    def sample(self, step: int) -> LitImage:
        """Return every so many-th pixel in rows and columns."""


@dataclass(frozen=True)
class LitStack:
    """A stack of several exposures with its light, all of it in memory."""

    pointing: Pointing
    image: LitImage
    rejected: int

    def rows(self, rows: slice) -> LitImage:
        """Return some rows, without a copy."""
        return self.image.part(rows, slice(None))

    def sample(self, step: int) -> LitImage:
        """Return every so many-th pixel, without a copy."""
        every = slice(step // 2, None, step)
        return self.image.part(every, every)
