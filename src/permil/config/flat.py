"""Sections `beam`, `flat` and `defects`: measurement and fit of the beam, the solution for the response, limits of defects."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from permil.config.base import Section
from permil.config.names import DetectorOrRaft, DetectorText, KnownLed


class ReferenceConfig(Section):
    """One bunch of pixels on which the scan is measured."""

    detector: DetectorText = Field(description="detector, for example R22_S11")
    amp: str | int = Field(description="amplifier: C14, Segment14 or the eotest number 5")
    row: int = Field(ge=0, description="row of the centre in the trimmed raw segment, 0-based")
    column: int = Field(ge=0, description="column of the centre in the trimmed raw segment, 0-based")
    box: PositiveInt = Field(30, description="side of the bunch in pixels")


class BeamConfig(Section):
    """Measurement and model of the beam."""

    reference: list[ReferenceConfig] = Field(
        [],
        description="bunches of pixels that measure the beam during the scan (any number); empty: the camera's reference bunch",
    )
    leds: list[KnownLed] = Field([], description="LEDs whose beam is fitted; empty: all with a scan")
    outlier_threshold: PositiveFloat = Field(
        5.0, description="nodes that deviate by more than this many standard errors are suspect, and are down-weighted if bad"
    )


LARGEST_SUPER_PIXEL_MM = 100.0
"""Larger than any detector, mm."""
SuperPixel = Annotated[float, Field(gt=0, le=LARGEST_SUPER_PIXEL_MM)]


class JointConfig(Section):
    """Options of the joint solution for beam, flat and exposure scales."""

    spacing_mm: PositiveFloat | None = Field(
        None, description="distance of the knots of the beam, mm; null: determined from the data"
    )
    least_signal: PositiveFloat = Field(
        5000.0, description="mean signal, electrons, below which a super-pixel is not used in an exposure"
    )
    signal_pixels: int = Field(
        500, ge=1, description="number of pixels for the signal of a super-pixel; rows of larger super-pixels are skipped"
    )
    threshold: PositiveFloat = Field(6.0, description="standard deviations beyond which a signal is down-weighted")
    geometry: bool = Field(True, description="fit rotation and scale of the stage's axes")
    position_errors: bool = Field(True, description="fit an error of each stage move")
    reflection: bool = Field(False, description="fit a pattern that moves against the projector")
    drift: bool = Field(True, description="whether the photodiode may drift")
    modes: int = Field(20, ge=1, description="number of modes of correlated errors")
    checks: bool = Field(True, description="compare halves of the exposures (four more solutions) in the error budget")


class FlatConfig(Section):
    """Options of flats from pointings and beam."""

    solver: Literal["divide", "joint"] = Field(
        "joint",
        description="joint: beam, flat and exposure scales together; divide: each pointing over the beam, combined by weight",
    )
    joint: JointConfig = Field(JointConfig(), description="the joint solution")
    leds: list[KnownLed] = Field([], description="LEDs whose flats are made; empty: all with pointings")
    detectors: list[DetectorOrRaft] = Field(
        [], description="detectors (R22_S11) or rafts (R22) whose flats are made; empty: all that were read out"
    )
    beam_of: dict[KnownLed, KnownLed] = Field(
        {}, description="LED whose beam is used for another one without a scan, for example {uv: blue}"
    )
    remove_amplifier_steps: bool = Field(
        False, description="divide out the steps at amplifier borders (a substitute for correct gains); recorded"
    )
    keep_pointings: bool = Field(
        True, description="write the flat of each pointing aimed at a detector (needs as much disk as five flats)"
    )
    super_pixel_mm: SuperPixel = Field(0.64, description="side of the super-pixels of metrics and small maps, mm")
    mosaic_mm: SuperPixel = Field(0.64, description="cell of the binned mosaic of the focal plane, mm")


Part = Annotated[float, Field(gt=0.0, lt=1.0)]


class DefectsConfig(Section):
    """Limits of defects: fractions of the response of the neighbours, beyond which ordinary pixels do not scatter."""

    pixel: Part = Field(0.2, description="deviation of the response of a dark or bright pixel from its neighbours, relative")
    column: Part = Field(0.05, description="mean deviation of a part of a column from its neighbours, relative")
    cluster: Part = Field(0.1, description="mean deviation of a cluster of pixels from its neighbours, relative")
    scatter: Part = Field(
        0.1, description="scatter of a pixel between exposures in excess of noise, relative rms, from which it is unstable"
    )
    nonlinearity: Part = Field(
        0.2, description="change of the response of a pixel from no light to the brightest exposure, relative"
    )
    hot_electrons: Annotated[float, Field(gt=0.0)] = Field(
        50.0, description="excess of a hot pixel over its neighbours in the superbias, electrons"
    )
    significance: Annotated[float, Field(ge=3.0)] = Field(
        8.0,
        description="least deviation, integrated over the pixels of a defect, in units of the local scatter of the response; it "
        "matters where there is little light",
    )
    exposures: Annotated[int, Field(ge=0)] = Field(
        24, description="exposures of each LED that are searched for unstable and non-linear pixels; fewer than 5: no search"
    )
