"""Errors of means over regions of flats, from what their files say of independent and of correlated errors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from permil.arrays import plain_array
from permil.errors import FlatError, InputError
from permil.flat.superpixel import block_sums
from permil.products import is_usable, read_image

Regions = Mapping[Path, NDArray[Any]]
"""Pixels of the flats that take part, by file: a mask, or weights; shape (ny, nx)."""


def covariance_of_means(first: Regions, second: Regions) -> float:
    """Return the relative covariance of the mean responses of two regions; of a region with itself, the variance of its mean.

    Parameters
    ----------
    first, second
        Regions of flats of one LED from the joint solution; each may extend over several detectors. Unusable pixels do not count, nor
        do masked weights.

    Notes
    -----
    ``cov = sum(w v VARIANCE) + sum_k (sum(w m_k)) (sum(v m_k)) + sum(w v REMAINDER)`` with weights ``w`` and ``v`` of sum 1 and
    the modes ``m_k`` of the extension MODES. Errors beyond the modes are taken as independent between super-pixels.

    Raises
    ------
    InputError
        If a file is not a flat from the joint solution.
    FlatError
        If a region has no usable pixel, another shape than its flat, or infinite weights.
    """
    totals = [0.0, 0.0]
    common: list[Any] = [0.0, 0.0]
    own = 0.0
    for path in dict.fromkeys([*first, *second]):
        product = read_image(path)
        missing = [name for name in ("MODES", "REMAINDER") if name not in product.extensions]
        if missing:
            raise InputError(
                f"extension {', '.join(missing)} is missing", path=path, remedy="make the flat with flat.solver: joint"
            )
        modes, remainder = (np.asarray(product.extensions[name].data, dtype=np.float64) for name in ("MODES", "REMAINDER"))
        block = int(product.extensions["MODES"].header["BLOCKPIX"])
        usable = is_usable(product.mask) & (product.image > 0)
        variance = np.where(usable, product.variance / np.where(usable, product.image, 1.0).astype(np.float64) ** 2, 0.0)
        weights = [_weights(region, path, usable) for region in (first, second)]
        own += float(np.sum(weights[0] * weights[1] * variance))
        sums = [block_sums(part, block) for part in weights]
        own += float(np.sum(sums[0] * sums[1] * remainder))
        for number, part in enumerate(sums):
            totals[number] += float(part.sum())
            common[number] = common[number] + np.tensordot(modes, part, axes=2)
    if min(totals) <= 0:
        raise FlatError("a region has no usable pixel", remedy="choose pixels that are not masked")
    return float(own + common[0] @ common[1]) / (totals[0] * totals[1])


def _weights(region: Regions, path: Path, usable: NDArray[np.bool_]) -> NDArray[np.float64]:
    if path not in region:
        return np.zeros(usable.shape)
    weights = plain_array(region[path], name="a region", unit="")
    if weights.shape != usable.shape:
        raise FlatError(
            f"a region of shape {weights.shape} for an image of shape {usable.shape}",
            path=path,
            remedy="give one weight per pixel",
        )
    if np.isinf(weights).any():
        raise FlatError("a region has infinite weights", path=path, remedy="give finite weights")
    return np.where(usable & np.isfinite(weights), weights, 0.0)
