"""Sections `beam` and `flat`: measurement and fit of the beam, and the solution for the response."""

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
    box: PositiveInt = Field(default=30, description="side of the bunch in pixels")


class BeamConfig(Section):
    """Measurement and model of the beam."""

    reference: list[ReferenceConfig] = Field(
        default=[],
        description="bunches of pixels that measure the beam during the scan (any number); empty: the camera's reference bunch",
    )
    leds: list[KnownLed] = Field(default=[], description="LEDs whose beam is fitted; empty: all with a scan")
    outlier_threshold: PositiveFloat = Field(
        default=5.0,
        description="nodes that deviate by more than this many standard errors are suspect, and are down-weighted if bad",
    )


LARGEST_SUPER_PIXEL_MM = 100.0
"""Larger than any detector, mm."""
SuperPixel = Annotated[float, Field(gt=0, le=LARGEST_SUPER_PIXEL_MM)]


class JointConfig(Section):
    """How beam, flat and exposure scales are solved for together."""

    spacing_mm: PositiveFloat | None = Field(
        default=None, description="distance of the knots of the beam, mm; null: as far apart as the data want"
    )
    least_signal: PositiveFloat = Field(
        default=5000.0, description="mean signal, electrons, below which a super-pixel says nothing in an exposure"
    )
    signal_pixels: int = Field(
        default=500,
        ge=1,
        description="pixels of a super-pixel that are enough for its signal; where it has more, rows in between are not read",
    )
    threshold: PositiveFloat = Field(default=6.0, description="standard deviations beyond which a signal counts less")
    geometry: bool = Field(default=True, description="fit rotation and scale of the stage's axes")
    position_errors: bool = Field(default=True, description="fit an error of each stage move")
    reflection: bool = Field(default=False, description="fit a pattern that moves against the projector")
    drift: bool = Field(default=True, description="whether the photodiode may drift")
    modes: int = Field(default=20, ge=1, description="modes of correlated errors that are kept")
    checks: bool = Field(default=True, description="compare halves of the exposures (four more solutions) in the error budget")


class FlatConfig(Section):
    """How flats are made from pointings and beam."""

    solver: Literal["divide", "joint"] = Field(
        default="joint",
        description="joint: beam, flat and exposure scales together; divide: each pointing over the beam, combined by weight",
    )
    joint: JointConfig = Field(default=JointConfig(), description="the joint solution")
    leds: list[KnownLed] = Field(default=[], description="LEDs whose flats are made; empty: all that were pointed with")
    detectors: list[DetectorOrRaft] = Field(
        default=[], description="detectors (R22_S11) or rafts (R22) whose flats are made; empty: all that were read"
    )
    beam_of: dict[KnownLed, KnownLed] = Field(
        default={}, description="LED whose beam stands in for that of another that was not scanned, for example {uv: blue}"
    )
    remove_amplifier_steps: bool = Field(
        default=False, description="divide out the steps at amplifier borders (a stand-in for wrong gains); recorded"
    )
    keep_pointings: bool = Field(
        default=True, description="write the flat of each pointing aimed at a detector (needs as much disk as five flats)"
    )
    super_pixel_mm: SuperPixel = Field(default=0.64, description="side of the super-pixels of metrics and small maps, mm")
    mosaic_mm: SuperPixel = Field(default=0.64, description="cell of the binned mosaic of the focal plane, mm")
