"""The calibration of one detector as plain arrays, and in the form of the kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from permil.arrays import BoolArray, Float32Array, FloatArray, IntArray
from permil.camera import Amplifier, Detector
from permil.camera.frames import segment_to_detector
from permil.isr.calibration.crosstalk import correction_matrix, source_segments
from permil.isr.calibration.gains import Gains, temperature_factor
from permil.isr.calibration.linearity import LinearityCurve, Response
from permil.isr.overscan import OverscanOptions, overscan_columns


@dataclass(frozen=True)
class Superbias:
    """Mean of bias exposures after overscan subtraction, DM frame, with its variance (adu, adu^2), shapes (ny, nx)."""

    image: Float32Array
    variance: Float32Array


@dataclass(frozen=True)
class Calibration:
    """The calibration of one detector; arrays per amplifier are in the order of ``detector.amplifiers``.

    Parameters
    ----------
    detector
        The detector.
    gains
        Electrons per adu.
    superbias
        None if no bias structure is subtracted.
    linearity
        One curve per amplifier, or None.
    crosstalk
        Matrix [victim, source], or None.
    static_mask
        Planes common to all exposures (BAD, EDGE, MIDLINE), shape (ny, nx).
    saturation
        Signal per amplifier, in electrons, from which a pixel is saturated (infinite if unknown).
    saturation_adu
        Raw count from which a pixel is saturated.
    saturation_grow
        Radius in pixels around a saturated pixel that is flagged as well.
    overscan
        Options of the overscan level.
    temperature_coefficient, temperature_reference
        Change of the gain with the board temperature; see `permil.isr.calibration.gains.temperature_factor`.
    temperature_card
        Cards of the sensors of the readout board, as ``isr.temperature_card``.
    """

    detector: Detector
    gains: Gains
    static_mask: NDArray[np.int16]
    saturation: FloatArray
    superbias: Superbias | None = None
    linearity: tuple[LinearityCurve, ...] | None = None
    crosstalk: FloatArray | None = None
    saturation_adu: float = 262143.0
    saturation_grow: int = 1
    overscan: OverscanOptions = field(default_factory=OverscanOptions)
    temperature_coefficient: float = 0.0
    temperature_reference: float = 0.0
    temperature_card: str | Sequence[str] = "mean"

    @property
    def unit(self) -> Literal["electron", "adu"]:
        """Unit of reduced signals."""
        return "adu" if self.gains.source == "none" else "electron"

    def gain_at(self, temperature: float | None) -> FloatArray:
        """Return the gains at a board temperature (degree C), shape (n_amplifiers,).

        Raises
        ------
        CalibrationError
            If the gain depends on the temperature and the temperature is not known.
        """
        gain = np.ascontiguousarray(self.gains.gain, dtype=np.float64)
        if self.temperature_coefficient == 0:
            return gain
        factor = temperature_factor(
            np.nan if temperature is None else temperature,
            coefficient=self.temperature_coefficient,
            reference=self.temperature_reference,
        )
        return gain * factor

    @cached_property
    def whole_group(self) -> SegmentGroup:
        """All segments together, for detectors whose segments have one size."""
        return SegmentGroup.of(self, range(len(self.detector.amplifiers)))

    @cached_property
    def groups(self) -> list[SegmentGroup]:
        """Segments that are reduced together: each alone, or with crosstalk all of them."""
        if self.crosstalk is not None:
            return [self.whole_group]
        return [SegmentGroup.of(self, [index]) for index in range(len(self.detector.amplifiers))]

    @property
    def bias_image(self) -> Float32Array:
        """Superbias for the kernels: one row without pixels if none is subtracted."""
        return np.empty((1, 0), dtype=np.float32) if self.superbias is None else self.superbias.image

    def curve(self, index: int) -> LinearityCurve:
        """Return the linearity curve of an amplifier."""
        return LinearityCurve.identity() if self.linearity is None else self.linearity[index]

    def response(self, index: int, gain: float) -> Response:
        """Return the conversion of counts of an amplifier to electrons with a gain."""
        return Response.of(self.curve(index), gain, self.saturation[index])

    def crosstalk_correction(self) -> FloatArray | None:
        """Return the matrix that corrects the crosstalk; None without crosstalk."""
        return None if self.crosstalk is None else correction_matrix(self.crosstalk)

    def needed_segments(self, name: str) -> list[str]:
        """Return the amplifiers whose segments are needed to reduce one amplifier: itself and its crosstalk sources."""
        names = [amplifier.name for amplifier in self.detector.amplifiers]
        correction = self.crosstalk_correction()
        index = names.index(self.detector.amplifier(name).name)
        sources = [] if correction is None else source_segments(correction, index)
        return [names[index], *(names[source] for source in sources)]

    def superbias_variance(self) -> Float32Array | None:
        """Return the variance of the superbias in the unit of reduced signals, squared; None without superbias."""
        if self.superbias is None:
            return None
        variance = self.superbias.variance.copy()
        for amplifier, gain in zip(self.detector.amplifiers, self.gains.gain, strict=True):
            variance[amplifier.slices] *= np.float32(gain**2)
        return variance


class Placement(NamedTuple):
    """The place of the active pixels of a segment in the DM frame: row r is image row ``y_first + y_step * r``."""

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
    """Calibration of segments of one size that are reduced together, as the kernels take it; arrays per segment.

    ``amplifiers``: indices in the detector; ``width``: columns of a raw row; ``n_columns``, ``first_column``: the active columns;
    ``first_overscan``, ``last_overscan``: the used columns of the overscan; ``row_mean``: whether the level of a row is their mean instead
    of their median; ``x_min``, ``flip_x``, ``y_first``, ``y_step``: see `Placement`; ``bias``, ``static_mask``: of the whole detector;
    ``knots``, ``n_knots``, ``coefficients``, ``limit``, ``straight``, ``saturation``: see `Response`; ``saturation_adu``: raw count
    from which a pixel is saturated; ``factors``: crosstalk correction [victim, source], empty without crosstalk.
    """

    amplifiers: IntArray
    width: int
    n_columns: int
    first_column: int
    first_overscan: int
    last_overscan: int
    row_mean: bool
    x_min: IntArray
    flip_x: BoolArray
    y_first: IntArray
    y_step: IntArray
    bias: Float32Array
    static_mask: NDArray[np.int16]
    knots: FloatArray
    n_knots: IntArray
    coefficients: FloatArray
    limit: FloatArray
    straight: BoolArray
    saturation: FloatArray
    saturation_adu: float
    factors: Float32Array

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
