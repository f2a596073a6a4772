"""Counts to electrons in plain NumPy and double precision, pixel by pixel as the documentation describes the chain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from permil.camera import Amplifier
from permil.isr import Calibration
from permil.products import MaskPlane


@dataclass(frozen=True)
class Reference:
    """Electrons (NaN without a measurement) and mask in the DM frame, shape (ny, nx), and the level of each row by amplifier, adu."""

    image: NDArray[np.float64]
    mask: NDArray[np.int64]
    level: dict[str, NDArray[np.float64]]


def reference_of(
    segments: Mapping[str, NDArray[np.int32]],
    calibration: Calibration,
    *,
    lost: Mapping[str, NDArray[np.bool_]] | None = None,
) -> Reference:
    """Reduce raw segments.

    Parameters
    ----------
    lost
        Pixels without a measurement, by amplifier, shape (ny, nx) of the trimmed raw segment; rows that are lost as a whole have no level.
    """
    detector = calibration.detector
    level = {each.name: _level(segments[each.name], each, calibration) for each in detector.amplifiers}
    held = {each.name: np.ones((each.ny, each.nx), dtype=bool) for each in detector.amplifiers}
    for name, pixels in (lost or {}).items():
        held[name] &= ~pixels
    adu = {}
    for each in detector.amplifiers:
        adu[each.name] = segments[each.name][each.data_slices] - level[each.name][:, np.newaxis]
        if calibration.superbias is not None:
            adu[each.name] = adu[each.name] - _in_order_of_readout(calibration.superbias.image, each)
        adu[each.name] = np.where(held[each.name], adu[each.name], 0.0)
    if calibration.crosstalk is not None:
        # m = (1 + C) s
        unmix = np.linalg.inv(np.eye(len(adu)) + calibration.crosstalk)
        stacked = np.einsum("vs,sij->vij", unmix, np.stack(list(adu.values())))
        adu = dict(zip(adu, stacked, strict=True))
    image, mask = np.empty(detector.shape), np.empty(detector.shape, dtype=np.int64)
    for index, each in enumerate(detector.amplifiers):
        curve = calibration.curve(index)
        signal = calibration.gains.gain[index] * _linear(adu[each.name], curve.knots, curve.coefficients)
        planes = _in_order_of_readout(calibration.static_mask, each).astype(np.int64)
        counts = segments[each.name][each.data_slices]
        planes[(counts >= calibration.saturation_adu) | (signal >= calibration.saturation[index])] |= MaskPlane.SAT
        planes[adu[each.name] > curve.limit] |= MaskPlane.SUSPECT
        planes[~held[each.name]] |= MaskPlane.NO_DATA
        _in_order_of_readout(image, each)[:] = np.where(held[each.name], signal, np.nan)
        _in_order_of_readout(mask, each)[:] = planes
    return Reference(image, _grown(mask, calibration.saturation_grow), level)


def _level(raw: NDArray[np.int32], amplifier: Amplifier, calibration: Calibration) -> NDArray[np.float64]:
    """Return the level of each active row: the median of the used overscan columns, or the mean of what is within the clip of it."""
    options = calibration.overscan
    first = amplifier.prescan + amplifier.nx + options.skip_first
    counts = raw[: amplifier.ny, first : amplifier.nx_raw - options.skip_last].astype(np.float64)
    medians = np.median(counts, axis=1)
    if options.method == "row_median":
        return medians
    step = max(1, amplifier.ny // 64)
    deviations = np.median(np.abs(counts - medians[:, np.newaxis]), axis=1)[::step]
    inside = np.abs(counts - medians[:, np.newaxis]) <= 6.0 * (1.4826 * np.median(deviations) + 0.5)
    if options.method == "row_mean":
        return np.array([row[kept].mean() for row, kept in zip(counts, inside, strict=True)])
    if options.method == "constant":
        return np.full(amplifier.ny, counts[inside].mean())
    window = min(options.window, amplifier.ny)
    near = [slice(max(row - window // 2, 0), row - window // 2 + window) for row in range(amplifier.ny)]
    return np.array([medians[each].mean() for each in near])


def _linear(adu: NDArray[np.float64], knots: NDArray[np.float64], coefficients: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return linear adu: each pixel by the polynomial of its piece, below the first knot by the straight part of the first one."""
    linear = coefficients[0, 0] + coefficients[0, 1] * (adu - knots[0])
    for knot, c in zip(knots, coefficients, strict=True):
        linear = np.where(adu >= knot, np.polynomial.polynomial.polyval(adu - knot, c), linear)
    return linear


def _in_order_of_readout(image: NDArray, amplifier: Amplifier) -> NDArray:
    """Return the view of a segment of an image whose first pixel is the one that is read first."""
    segment = image[amplifier.y_min : amplifier.y_min + amplifier.ny, amplifier.x_min : amplifier.x_min + amplifier.nx]
    return segment[:: -1 if amplifier.flip_y else 1, :: -1 if amplifier.flip_x else 1]


def _grown(mask: NDArray[np.int64], pixels: int) -> NDArray[np.int64]:
    """Return the mask with all pixels within a square around saturated ones flagged."""
    padded = np.pad((mask & MaskPlane.SAT) != 0, pixels)
    near = [padded[y : y + mask.shape[0], x : x + mask.shape[1]] for y in range(2 * pixels + 1) for x in range(2 * pixels + 1)]
    return np.where(np.any(near, axis=0), mask | MaskPlane.SAT, mask)
