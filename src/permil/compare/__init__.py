"""Comparison of artificial stars with the flat: predictions for stars, correlations, and their interpretation.

Data flow of `permil.compare.comparison.compare_stars`, for the stars of one detector and band::

    flat -> relative_flat -> predict_bands      predictions for each star if the flat were of one kind (stars, hypotheses)
      predictions, residuals -> pair_up         measured and predicted values of stars or cells (stars)
      pairs -> correlate                        correlation with error and significance (correlation)
      predictions -> fit_hypotheses -> verdict  fractions of efficiency, pixel area, diffusion (hypotheses)
      predictions -> fit_filter -> filter_flat  flat without pixel area and diffusion, proof on left-out dithers (efficiency)
      flat -> find_rings -> region_labels       axis of tree rings, regions of the detector (rings, regions)
      cells of all detectors -> pair_levels     variation between LEDs, rafts, detectors, amplifiers (levels)

`correlate` works on plain arrays. `permil.compare.files` reads stars and flats and writes the product; `permil.compare.stage` declares the
tasks of a run.
"""

from permil.compare.correlation import CorrelationResult, correlate, split_half_reliability
from permil.errors import CompareError

__all__ = ["CompareError", "CorrelationResult", "correlate", "split_half_reliability"]
