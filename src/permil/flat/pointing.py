"""Pointings of one detector with the light that fell on them, as the combination takes them: whole, or strip by strip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

import numpy as np

from permil.flat.divide import LitImage
from permil.isr.open_exposure import Strip


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
        """Return about every so many-th pixel in rows and columns."""

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
        """Return every so many-th pixel, without a copy."""
        every = slice(step // 2, None, step)
        return self.image.part(every, every)

    def whole(self) -> LitImage:
        """Return all rows."""
        return self.image
