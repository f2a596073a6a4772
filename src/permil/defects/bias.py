"""Pixels that are hot in the superbias."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from permil.arrays import BoolArray, FloatImage
from permil.config.defects import DefectsConfig
from permil.defects.neighbourhood import block_levels

_TO_SIGMA = 1.4826


@dataclass(frozen=True)
class BiasExcess:
    """Excess of the pixels of an amplifier over their neighbours in the superbias, its standard error, and the local scatter."""

    excess: FloatImage
    error: FloatImage
    sigma: float

    def hot(self, options: DefectsConfig) -> BoolArray:
        """Return which pixels are hot."""
        return self.excess > max(options.hot_electrons, options.significance * self.sigma)


def bias_excess(superbias: FloatImage, variance: FloatImage) -> BiasExcess:
    """Compare the superbias of an amplifier with the medians of its columns, rows and blocks of pixels.

    Parameters
    ----------
    superbias, variance : ndarray, shape (rows, columns)
        Electrons and electrons^2.
    """
    rows, columns = (np.arange(length, dtype=np.float64) for length in superbias.shape)
    flattened: FloatImage = superbias - np.median(superbias, axis=0).astype(np.float32)
    flattened -= np.median(flattened, axis=1)[:, None].astype(np.float32)
    excess = flattened - block_levels(flattened, rows, columns).smoothed().filled(0.0).on(rows, columns)
    return BiasExcess(excess, np.sqrt(variance).astype(np.float32), _TO_SIGMA * float(np.median(np.abs(excess))))
