"""Calibration of the segments that are reduced together, as the kernels take it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from permil.camera import Amplifier
from permil.camera.frames import segment_to_detector
from permil.isr.calibration import Calibration
from permil.isr.overscan import overscan_columns

FloatArray = NDArray[np.float64]


class Placement(NamedTuple):
    """Where the active pixels of a segment lie in the DM frame: row r in image row ``y_first + y_step * r``."""

    x_min: int
    n_columns: int
    flip_x: bool
    y_first: int
    y_step: int

    @classmethod
    def of(cls, amplifier: Amplifier) -> Placement:
        """Return the place of an amplifier."""
        x, y = segment_to_detector(amplifier, np.array([0, amplifier.nx - 1]), np.array([0, amplifier.ny - 1]))
        return cls(int(x.min()), amplifier.nx, bool(x[0] > x[1]), int(y[0]), 1 if y[1] > y[0] else -1)


class SegmentGroup(NamedTuple):
    """Segments of one size; arrays per segment in the order of the group.

    ``amplifiers``: their numbers in the detector; ``width``: columns of a raw row; ``n_columns``, ``first_column``: the active ones;
    ``first_overscan``, ``last_overscan``: the used ones of the overscan; ``row_mean``: whether the level of a row is their mean and not
    their median; ``x_min``, ``flip_x``, ``y_first``, ``y_step``: see `Placement`; ``bias``, ``static_mask``: of the whole detector;
    ``knots``, ``n_knots``, ``coefficients``, ``limit``, ``straight``, ``saturation``: see `Response`; ``saturation_adu``: raw count
    from which a pixel is saturated; ``factors``: crosstalk correction [victim, source], without elements where there is none.
    """

    amplifiers: NDArray[np.int64]
    width: int
    n_columns: int
    first_column: int
    first_overscan: int
    last_overscan: int
    row_mean: bool
    x_min: NDArray[np.int64]
    flip_x: NDArray[np.bool_]
    y_first: NDArray[np.int64]
    y_step: NDArray[np.int64]
    bias: NDArray[np.float32]
    static_mask: NDArray[np.int16]
    knots: FloatArray
    n_knots: NDArray[np.int64]
    coefficients: FloatArray
    limit: FloatArray
    straight: NDArray[np.bool_]
    saturation: FloatArray
    saturation_adu: float
    factors: NDArray[np.float32]

    @classmethod
    def all_of(cls, calibration: Calibration) -> list[SegmentGroup]:
        """Return the groups of a detector: each segment by itself, or all in one where there is crosstalk."""
        indices = range(len(calibration.detector.amplifiers))
        return (
            [cls.of(calibration, [index]) for index in indices]
            if calibration.crosstalk is None
            else [cls.of(calibration, indices)]
        )

    @classmethod
    def of(cls, calibration: Calibration, indices: Sequence[int]) -> SegmentGroup:
        """Return the group of some amplifiers of a detector."""
        detector = calibration.detector
        amplifiers = [detector.amplifiers[index] for index in indices]
        columns = overscan_columns(amplifiers[0], calibration.overscan)
        places = [Placement.of(amplifier) for amplifier in amplifiers]
        responses = [calibration.response(index, 1.0) for index in indices]
        n_knots = np.array([response.knots.size for response in responses])
        knots = np.full((len(indices), n_knots.max()), np.inf)
        coefficients = np.zeros((*knots.shape, 4))
        for number, response in enumerate(responses):
            knots[number, : n_knots[number]] = response.knots
            coefficients[number, : n_knots[number]] = response.coefficients
        correction = calibration.crosstalk_correction()
        if correction is not None:
            correction = correction[np.ix_(indices, indices)]
        return cls(
            amplifiers=np.array(indices),
            width=amplifiers[0].nx_raw,
            n_columns=amplifiers[0].nx,
            first_column=amplifiers[0].data_slices[1].start,
            first_overscan=columns.start,
            last_overscan=columns.stop,
            row_mean=calibration.overscan.method == "row_mean",
            x_min=np.array([place.x_min for place in places]),
            flip_x=np.array([place.flip_x for place in places]),
            y_first=np.array([place.y_first for place in places]),
            y_step=np.array([place.y_step for place in places]),
            bias=np.ascontiguousarray(calibration.bias_image),
            static_mask=np.ascontiguousarray(calibration.static_mask),
            knots=knots,
            n_knots=n_knots,
            coefficients=coefficients,
            limit=np.array([response.limit for response in responses]),
            straight=np.array([response.straight for response in responses]),
            saturation=np.array([response.saturation for response in responses]),
            saturation_adu=calibration.saturation_adu,
            factors=np.empty((0, 0), dtype=np.float32) if correction is None else correction.astype(np.float32),
        )
