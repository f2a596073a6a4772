"""One row of a segment of a group, compiled: what the overscan tells, and counts to signal."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from permil.isr.rows import (
    Response,
    any_saturated,
    clipped_sums,
    copy_flipped,
    copy_row,
    flag_response,
    flag_saturated,
    median_of_counts,
    to_electrons,
)
from permil.isr.segment_group import SegmentGroup


class RowOverscan(NamedTuple):
    """What the overscan of a row tells: its level, the sum of squared deviations from its mean, and their degrees of freedom."""

    level: float
    squares: float
    freedom: int


@njit(cache=True, nogil=True)
def response_of(group: SegmentGroup, segment: int, gain: float) -> Response:
    """Return how the counts of a segment become electrons with a gain."""
    count = group.n_knots[segment]
    return Response(
        group.knots[segment, :count],
        group.coefficients[segment, :count],
        group.limit[segment],
        group.straight[segment],
        gain,
        group.saturation[segment],
    )


@njit(cache=True, nogil=True)
def take_row(group: SegmentGroup, segment: int, row: int, bias: NDArray[np.float32], planes: NDArray[np.int16]) -> None:
    """Take superbias (where there is one) and static mask of a raw row, in the order of readout."""
    y = group.y_first[segment] + group.y_step[segment] * row
    first, last = group.x_min[segment], group.x_min[segment] + group.n_columns
    if group.flip_x[segment]:
        copy_flipped(group.static_mask[y, first:last], planes)
        if bias.size:
            copy_flipped(group.bias[y, first:last], bias)
    else:
        copy_row(group.static_mask[y, first:last], planes)
        if bias.size:
            copy_row(group.bias[y, first:last], bias)


@njit(cache=True, nogil=True)
def overscan_of_row(counts: NDArray[np.int32], guess: float, clip: float, row_mean: bool) -> RowOverscan:
    """Measure the overscan of a row.

    Parameters
    ----------
    counts
        Overscan.
    guess
        Of the level.
    clip
        Deviation from the median from which a count is an outlier.
    row_mean
        Whether the level is the mean of what is no outlier, not the median.
    """
    median = median_of_counts(counts, guess)
    kept, total, squares = clipped_sums(counts, median, clip)
    if kept == 0:
        return RowOverscan(median, 0.0, 0)
    return RowOverscan(median + total / kept if row_mean else median, squares - total * total / kept, kept - 1)


@njit(cache=True, nogil=True)
def to_signal(
    counts: NDArray[np.int32],
    measured: NDArray[np.float32],
    response: Response,
    saturation_adu: float,
    signal: NDArray[np.float32],
) -> bool:
    """Turn adu into electrons; return whether any pixel may have to be flagged (by `flag_signal`) or is NaN."""
    beyond = to_electrons(measured, response, signal)
    return any_saturated(counts, saturation_adu) or beyond


@njit(cache=True, nogil=True)
def flag_signal(
    counts: NDArray[np.int32],
    measured: NDArray[np.float32],
    response: Response,
    saturation_adu: float,
    planes: NDArray[np.int16],
) -> None:
    """Flag what is saturated or beyond the linearity curve."""
    flag_saturated(counts, saturation_adu, planes)
    flag_response(measured, response, planes)
