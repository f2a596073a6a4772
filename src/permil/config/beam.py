"""Section `beam`: reference pixels of the beam scan, and the fit of the beam model."""

from __future__ import annotations

from pydantic import Field, PositiveFloat, PositiveInt

from permil.config.base import Section
from permil.config.names import DetectorText, KnownLed


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
