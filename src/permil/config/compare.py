"""Section `compare`: artificial stars against the flat."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from permil.config.base import FileName, Section
from permil.config.names import AnyLed, DetectorText

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]


class CompareConfig(Section):
    """What stars and flat are compared with, on which scales, and how significance is found."""

    flats: Annotated[str, FileName("")] = Field(
        default="", description="folder of another run whose flats are used; empty: those of this run"
    )
    stars: Annotated[str, FileName("")] = Field(
        default="", description="folder of another run whose artificial stars are used; empty: those of this run"
    )
    detectors: list[DetectorText] = Field(
        default=[], description="detectors that are compared; empty: all that have stars and a flat"
    )
    led_of: dict[str, AnyLed] = Field(
        default={}, description="LED whose flat stars of a band are compared with, for example {r: red}; else the one of its name"
    )
    flat_fielded: bool = Field(
        default=False, description="stars were measured on images divided by the flat (expected flux slopes 0, -1, -1)"
    )
    reference: Literal["amplifier", "detector"] = Field(
        default="amplifier", description="mean that pixels of the flat are taken over; amplifier: wrong gains drop out"
    )
    high_pass_px: Positive = Field(
        default=64.0, description="structure larger than this (sigma of a Gaussian, pixels) is taken off stars and flat"
    )
    periods_px: list[float] = Field(
        default=[16.0, 32.0, 64.0, 128.0, 256.0],
        min_length=2,
        description="limits of the scales of the three hypotheses: periods of the structure, pixels",
    )
    cells_px: list[Annotated[int, Field(ge=1)]] = Field(
        default=[16, 32, 64, 128], min_length=1, description="cells of the maps that are correlated, pixels; the first is shown"
    )
    edge_mm: NotNegative = Field(default=0.3, description="width of the region `edge` along the border of the sensor, mm")
    mid_line_mm: NotNegative = Field(default=0.1, description="half width of the region `mid line`, mm")
    amplifier_boundary_mm: NotNegative = Field(
        default=0.1, description="half width of the regions at the borders of amplifiers, mm"
    )
    rings: Literal["find", "none"] | tuple[float, float] = Field(
        default="find", description="centre x, y of the tree rings in pixels, or find: it is searched for in the flat"
    )
    boundary: Literal["closed", "open"] = Field(
        default="closed",
        description="map of the displacement: nothing crosses the border of the sensor, or the sensor goes on there",
    )
    resamples: Annotated[int, Field(ge=100)] = Field(default=1000, description="draws of bootstrap and surrogates")
