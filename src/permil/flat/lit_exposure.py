"""A single exposure with its light, worked out some rows at a time while they are in the cache of a core."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from permil.flat.divide import LitImage
from permil.flat.outliers import flag_outliers
from permil.flat.pointing import Pointing
from permil.isr.reduce import DetectorImage

FloatImage = NDArray[np.float32]


class LitExposure:
    """A single exposure, without what stands out of the median of a few others.

    Parameters
    ----------
    pointing
        What is known of it.
    image
        The exposure; outliers are flagged in its mask.
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
        image: DetectorImage,
        light: Callable[[slice, slice], FloatImage],
        *,
        scale: float,
        reference: FloatImage,
        threshold: float,
    ) -> None:
        self.pointing, self.image, self.rejected = pointing, image, 0
        self._light, self._scale, self._reference, self._threshold = light, scale, reference, threshold

    def rows(self, rows: slice) -> LitImage:
        """Return some rows; outliers among them are flagged."""
        signal, mask, beam = self.image.image[rows], self.image.mask[rows], self._light(rows, slice(None))
        variance, outliers = flag_outliers(
            signal,
            mask,
            detector=self.image.detector,
            noise_variance=self.image.noise_variance,
            beam=beam,
            scale=self._scale,
            reference=self._reference[rows],
            threshold=self._threshold,
            first_row=rows.indices(len(self.image.image))[0],
        )
        self.rejected += outliers
        return self._lit(signal, variance, mask, beam)

    def sample(self, step: int) -> LitImage:
        """Return every so many-th pixel; for medians of them outliers, and differences between amplifiers, make no difference."""
        every = slice(step // 2, None, step)
        signal, mask = self.image.image[every, every], self.image.mask[every, every]
        variance = np.maximum(signal, np.float32(0)) + np.float32(self.image.noise_variance.mean())
        return self._lit(signal, variance, mask, self._light(every, every))

    def _lit(self, signal: FloatImage, variance: FloatImage, mask: NDArray[np.int16], beam: FloatImage) -> LitImage:
        # The errors of the beam are all in the covariance of the joint solution.
        exact = np.broadcast_to(np.float32(0), beam.shape)
        return LitImage(signal, variance, mask, beam, exact, self._scale, self.pointing.scale_error)
