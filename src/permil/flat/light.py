"""The light of one exposure on a detector, computed strip by strip: exact on a lattice of pixels, cubic between them.

A beam is smooth over millimetres. With nodes some tenths of a millimetre apart what is left between them, ``3 h^4 B'''' / 128`` along
each axis (the remainder of Lagrange's formula on four nodes), is below the rounding of single precision.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from permil._kernels import flat as kernels
from permil.camera import Detector
from permil.flat.combine import LitRows, Pointing, flag_outliers
from permil.flat.divide import LitImage
from permil.isr.open_exposure import RowSample, Strip, strips_of
from permil.isr.reduce import DetectorImage

FloatImage = NDArray[np.float32]

CELL = 8
"""Pixels from node to node."""


@dataclass(frozen=True)
class LightLattice:
    """Light on the pixels of a detector.

    Parameters
    ----------
    nodes : ndarray, shape (rows, columns)
        Light at the pixels ``CELL * (index - 1)`` along each axis, as far as `node_shape` says.
    shape
        Rows and columns of the detector.
    """

    nodes: FloatImage
    shape: tuple[int, int]

    @staticmethod
    def node_shape(shape: tuple[int, int]) -> tuple[int, int]:
        """Return rows and columns of nodes that a detector of some shape needs: one cell beyond it on all sides."""
        return -(-shape[0] // CELL) + 3, -(-shape[1] // CELL) + 3

    def on_pixels(self, rows: slice, columns: slice) -> FloatImage:
        """Return the light on rows and columns; NaN where a node nearby has none."""
        chosen = range(self.shape[0])[rows]
        image = np.empty((len(chosen), self.shape[1]), dtype=np.float32)
        kernels.interpolate(self.nodes, chosen.start, chosen.step, image)
        return image[:, columns]


_STRIP_ROWS = 256


class ReadableExposure(Protocol):
    """What gives strips of an exposure (`permil.isr.open_exposure.OpenExposure`)."""

    @property
    def detector(self) -> Detector:
        """The detector."""

    @property
    def noise_variance(self) -> NDArray[np.float64]:
        """Variance that does not depend on the signal, per amplifier, electrons^2."""

    @property
    def neighbours(self) -> int:
        """Rows beside a strip that must be read with it."""

    @property
    def sample(self) -> DetectorImage:
        """Some rows of it."""

    def read(self, strip: Strip) -> tuple[FloatImage, NDArray[np.int16]]:
        """Return image and mask of the rows of a strip; they may be changed, and are overwritten by the next ones."""


class LitExposure:
    """A single exposure, without what stands out of the median of a few others.

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
        light: Callable[[slice, slice], FloatImage],
        *,
        scale: float,
        reference: FloatImage,
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

    def _lit(self, signal: FloatImage, variance: FloatImage, mask: NDArray[np.int16], beam: FloatImage) -> LitImage:
        # The errors of the beam are all in the covariance of the joint solution.
        exact = np.broadcast_to(np.float32(0), beam.shape)
        return LitImage(signal, variance, mask, beam, exact, self._scale, self.pointing.scale_error)
