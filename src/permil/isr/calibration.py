"""Everything that turns the raw counts of one detector into electrons, as arrays."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from permil.camera import Detector
from permil.isr.crosstalk import correction_matrix, source_segments
from permil.isr.gains import Gains, temperature_factor
from permil.isr.linearity import LinearityCurve, Response
from permil.isr.overscan import OverscanOptions

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Superbias:
    """Mean of bias exposures after overscan subtraction, DM frame, with its variance (adu, adu^2), shapes (ny, nx)."""

    image: NDArray[np.float32]
    variance: NDArray[np.float32]


@dataclass(frozen=True)
class Calibration:
    """What the reduction of one detector needs; arrays per amplifier are in the order of ``detector.amplifiers``.

    Parameters
    ----------
    detector
        The detector.
    gains
        Electrons per adu.
    superbias
        None when no bias structure is subtracted.
    linearity
        One curve per amplifier, or None.
    crosstalk
        Matrix [victim, source], or None.
    static_mask
        Planes that hold for every exposure (BAD, EDGE, MIDLINE), shape (ny, nx).
    saturation
        Signal per amplifier, in electrons, from which a pixel is saturated (infinite when unknown).
    saturation_adu
        Raw count from which a pixel is saturated.
    saturation_grow
        Pixels around a saturated one that are flagged too.
    overscan
        How the level is taken.
    temperature_coefficient, temperature_reference
        Change of the gain with the board temperature; see `permil.isr.gains.temperature_factor`.
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

    @property
    def unit(self) -> Literal["electron", "adu"]:
        """Unit of reduced signals."""
        return "adu" if self.gains.source == "none" else "electron"

    def gain_at(self, temperature: float | None) -> FloatArray:
        """Return the gains at a board temperature (degree C), shape (n_amplifiers,).

        Raises
        ------
        CalibrationError
            If the gain depends on the temperature and that is not known.
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

    @property
    def bias_image(self) -> NDArray[np.float32]:
        """Superbias as the compiled loops take it: one row of no pixels where none is subtracted."""
        return np.empty((1, 0), dtype=np.float32) if self.superbias is None else self.superbias.image

    def curve(self, index: int) -> LinearityCurve:
        """Return the linearity curve of an amplifier."""
        return LinearityCurve.identity() if self.linearity is None else self.linearity[index]

    def response(self, index: int, gain: float) -> Response:
        """Return how the counts of an amplifier become electrons with a gain."""
        return Response.of(self.curve(index), gain, self.saturation[index])

    def crosstalk_correction(self) -> FloatArray | None:
        """Return the matrix that corrects the crosstalk, None when there is none."""
        return None if self.crosstalk is None else correction_matrix(self.crosstalk)

    def needed_segments(self, name: str) -> list[str]:
        """Return the amplifiers whose segments the reduction of one amplifier reads: itself and its crosstalk sources."""
        names = [amplifier.name for amplifier in self.detector.amplifiers]
        correction = self.crosstalk_correction()
        index = names.index(self.detector.amplifier(name).name)
        sources = [] if correction is None else source_segments(correction, index)
        return [names[index], *(names[source] for source in sources)]

    def superbias_variance(self) -> NDArray[np.float32] | None:
        """Return the variance of the superbias in the unit of reduced signals, squared; None without superbias."""
        if self.superbias is None:
            return None
        variance = self.superbias.variance.copy()
        for amplifier, gain in zip(self.detector.amplifiers, self.gains.gain, strict=True):
            variance[amplifier.slices] *= np.float32(gain**2)
        return variance
