"""Section `compare`: comparison of artificial stars with the flat."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from permil.config.base import ConfigPath, Section
from permil.config.names import AnyLed, DetectorText

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]


class CompareConfig(Section):
    """Inputs, spatial scales and significance tests of the comparison."""

    flats: Annotated[str, ConfigPath("")] = Field(
        default="", description="folder of another run that provides the flats; empty: this run"
    )
    stars: Annotated[str, ConfigPath("")] = Field(
        default="", description="folder of another run that provides the artificial stars; empty: this run"
    )
    detectors: list[DetectorText] = Field(default=[], description="detectors to compare; empty: all with stars and a flat")
    led_of: dict[str, AnyLed] = Field(
        default={},
        description="LED of the flat compared with the stars of a band, for example {r: red}; else the LED with the name of the band",
    )
    flat_fielded: bool = Field(
        default=False, description="stars were measured on images divided by the flat (expected flux slopes 0, -1, -1)"
    )
    reference: Literal["amplifier", "detector"] = Field(
        default="amplifier", description="region whose mean normalises the flat; amplifier: wrong gains cancel"
    )
    high_pass_px: Positive = Field(
        default=64.0, description="structure larger than this (sigma of a Gaussian, pixels) is subtracted from stars and flat"
    )
    periods_px: list[float] = Field(
        default=[16.0, 32.0, 64.0, 128.0, 256.0],
        min_length=2,
        description="limits of the scales of the three hypotheses: periods of the structure, pixels",
    )
    cells_px: list[Annotated[int, Field(ge=1)]] = Field(
        default=[16, 32, 64, 128], min_length=1, description="cell sizes of the correlated maps, pixels; the first is plotted"
    )
    edge_mm: NotNegative = Field(default=0.3, description="width of the region `edge` along the border of the sensor, mm")
    mid_line_mm: NotNegative = Field(default=0.1, description="half width of the region `mid line`, mm")
    amplifier_boundary_mm: NotNegative = Field(
        default=0.1, description="half width of the regions at the borders of amplifiers, mm"
    )
    rings: Literal["find", "none"] | tuple[float, float] = Field(
        default="find", description="centre x, y of the tree rings in pixels, or find: determined from the flat"
    )
    boundary: Literal["closed", "open"] = Field(
        default="closed",
        description="boundary of the displacement map: no displacement across the border of the sensor, or the sensor continues there",
    )
    resamples: Annotated[int, Field(ge=100)] = Field(default=1000, description="number of bootstrap and surrogate samples")
