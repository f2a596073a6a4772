"""Section `flat`: how the response is solved for and what is kept."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveFloat

from permil.config.base import Section


class FlatConfig(Section):
    """How flats are made from pointings and beam."""

    solver: Literal["divide"] = Field(default="divide", description="divide: each pointing over the beam, combined by weight")
    leds: list[str] = Field(default=[], description="LEDs whose flats are made; empty: all that were pointed with")
    detectors: list[str] = Field(
        default=[], description="detectors (R22_S11) or rafts (R22) whose flats are made; empty: all that were read"
    )
    beam_of: dict[str, str] = Field(
        default={}, description="LED whose beam stands in for that of another that was not scanned, for example {uv: blue}"
    )
    remove_amplifier_steps: bool = Field(
        default=False, description="divide out the steps at amplifier borders (a stand-in for wrong gains); recorded"
    )
    keep_pointings: bool = Field(
        default=True, description="write the flat of each pointing aimed at a detector (needs as much disk as five flats)"
    )
    super_pixel_mm: PositiveFloat = Field(default=0.64, description="side of the super-pixels of metrics and small maps, mm")
    mosaic_mm: PositiveFloat = Field(default=0.64, description="cell of the binned mosaic of the focal plane, mm")
