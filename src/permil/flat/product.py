"""A detector's flat as HDUs: the maps that a user divides by, and the small extensions that say how it came about.

``SCATTER``, ``STACKS``, ``BEAMS`` and ``RESPONSES`` are on super-pixels, so that a page or a check needs no full-size image;
``POINTINGS`` and ``SCAN`` list what was used, ``METRICS`` the figures, ``HISTOGRAM`` the distribution that the composite median is
taken from, ``PLACES`` and ``COVARIANCE`` what the pixels have in common through beam and photodiode; from the joint solution,
``MODES`` and ``REMAINDER`` hold correlated errors and ``BUDGET`` their causes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray

from permil.flat.combine import CombinedFlat
from permil.flat.composite import ResponseHistogram
from permil.flat.superpixel import super_pixels
from permil.products import ImageProduct, is_good, is_usable

SCALE_CARD = "FLATSCAL"
"""Card with the response, in electrons per photodiode unit at the beam's maximum, that the composite calls 1."""

_SCALED_EXTENSIONS = ("RESPONSES",)


@dataclass(frozen=True)
class DetectorSolution:
    """What the solver found for one detector and LED, before the composite scale.

    ``stacks``, ``beams`` and ``responses`` are cubes on super-pixels, one layer per aimed pointing; ``scan`` lists exposures of the
    scan that took part, as ``pointings`` does the pointings. ``modes``, ``remainder``, ``halves`` and ``budget`` come from the
    joint solution.
    """

    flat: CombinedFlat
    pointings: Table
    scan: Table
    metrics: Table
    stacks: NDArray[np.float32]
    beams: NDArray[np.float32]
    responses: NDArray[np.float32]
    places: Table
    covariance: NDArray[np.float64]
    block_pixels: int
    block_mm: float
    modes: NDArray[np.float32] | None = None
    remainder: NDArray[np.float32] | None = None
    halves: NDArray[np.float32] | None = None
    budget: Table | None = None


def solution_extensions(solution: DetectorSolution, histogram: ResponseHistogram) -> list[Any]:
    """Return the HDUs that follow IMAGE, MASK and VARIANCE."""
    flat = solution.flat
    with np.errstate(invalid="ignore", divide="ignore"):
        relative = flat.scatter / flat.response
    usable = is_usable(flat.mask) & np.isfinite(relative)
    scatter = np.sqrt(super_pixels(relative.astype(np.float64) ** 2, usable, solution.block_pixels).mean)
    images = {
        "SCATTER": (scatter, "relative scatter between pointings (rms over the super-pixel)"),
        "STACKS": (solution.stacks, "mean signal of the aimed pointings"),
        "BEAMS": (solution.beams, "beam model at the aimed pointings, 1 at its maximum"),
        "RESPONSES": (solution.responses, "flat of each aimed pointing alone"),
        "COVARIANCE": (solution.covariance, "relative covariance between PLACES (beam, photodiode)"),
    }
    if solution.modes is not None and solution.remainder is not None:
        images["MODES"] = (solution.modes, "modes of correlated errors, relative, one standard deviation")
        images["REMAINDER"] = (solution.remainder, "relative variance of correlated errors beyond MODES")
    if solution.halves is not None and np.isfinite(solution.halves).any():
        images["HALVES"] = (solution.halves, "half of flat of odd minus even, early minus late exposures")
    hdus: list[Any] = []
    for name, (data, meaning) in images.items():
        if data.size == 0:
            continue
        hdu = fits.ImageHDU(np.ascontiguousarray(data, dtype=np.float32 if name != "COVARIANCE" else np.float64), name=name)
        hdu.header["MEANING"] = meaning
        hdu.header["BLOCK_MM"] = (solution.block_mm, "side of a super-pixel, mm")
        hdu.header["BLOCKPIX"] = (solution.block_pixels, "side of a super-pixel, pixels")
        hdus.append(hdu)
    hdus += [
        fits.BinTableHDU(solution.pointings, name="POINTINGS"),
        fits.BinTableHDU(solution.metrics, name="METRICS"),
        fits.BinTableHDU(solution.places, name="PLACES"),
    ]
    if solution.budget is not None:
        hdus.append(fits.BinTableHDU(solution.budget, name="BUDGET"))
    if len(solution.scan):
        hdus.append(fits.BinTableHDU(solution.scan, name="SCAN"))
    counts = fits.BinTableHDU(Table({"count": histogram.counts}), name="HISTOGRAM")
    counts.header["FIRSTBIN"] = (histogram.first, "number of the first bin of ln(response)")
    hdus.append(counts)
    return hdus


def read_histogram(path: str | Any) -> tuple[ResponseHistogram, float]:
    """Return the histogram of a flat (before the composite scale) and the scale that is applied in the file (0 if none)."""
    with fits.open(path, memmap=False) as hdus:
        table = hdus["HISTOGRAM"]
        counts = np.array(table.data["count"], dtype=np.int64)
        return ResponseHistogram(int(table.header["FIRSTBIN"]), counts), float(hdus[0].header.get(SCALE_CARD, 0.0))


def rescaled(product: ImageProduct, scale: float) -> tuple[NDArray[np.float32], NDArray[np.float32], list[Any]]:
    """Return image, variance and extensions of a flat on a composite scale, whatever scale it had.

    Parameters
    ----------
    product
        A detector's flat as read.
    scale
        Response that becomes 1.
    """
    factor = (float(product.header.get(SCALE_CARD, 0.0)) or 1.0) / scale
    image = (product.image.astype(np.float64) * factor).astype(np.float32)
    variance = (product.variance.astype(np.float64) * factor**2).astype(np.float32)
    extensions = []
    for name, hdu in product.extensions.items():
        if name in _SCALED_EXTENSIONS:
            hdu.data = (hdu.data.astype(np.float64) * factor).astype(np.float32)
        elif name == "METRICS":
            for column in ("median", "median_err"):
                hdu.data[column] = hdu.data[column] * factor
        extensions.append(hdu)
    return image, variance, extensions


def good_pixels(flat: CombinedFlat) -> NDArray[np.bool_]:
    """Return where a combined flat is good and positive."""
    with np.errstate(invalid="ignore"):
        return is_good(flat.mask) & (flat.response > 0)
