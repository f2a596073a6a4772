"""Sections `spots` and `compare`: measurement and calibration of the artificial stars, and their comparison with the flat."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from permil.config.base import ConfigPath, Section
from permil.config.names import AnyLed, DetectorText

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=3)]


class MeasureConfig(Section):
    """Detection and measurement of spots on images; lengths in pixels."""

    threshold: Positive = Field(5.0, description="detection threshold, in units of the noise of 2 x 2 pixels")
    background_box: Annotated[int, Field(ge=8)] = Field(
        64, description="box of the background mesh; about the pitch of the spots"
    )
    mask_radius: Positive = Field(28.0, description="radius around each spot that is excluded from the background")
    radii: tuple[float, ...] = Field(
        (3.0, 4.5, 6.0, 9.0, 12.0, 17.0, 25.0, 35.0), min_length=1, description="radii of the apertures"
    )
    flux_radius: Positive = Field(12.0, description="radius (one of them) whose flux is the flux of the spot")
    reference_radius: Positive = Field(25.0, description="radius (one of them) to which the growth curve is relative")
    largest_sigma: Positive = Field(8.0, description="wider sources are not measured")

    @model_validator(mode="after")
    def _check_radii(self) -> MeasureConfig:
        if list(self.radii) != sorted(set(self.radii)) or self.radii[0] <= 0:
            raise ValueError("aperture radii must be positive and increase: sort them")
        for name in ("flux_radius", "reference_radius"):
            if getattr(self, name) not in self.radii:
                allowed = ", ".join(f"{radius:g}" for radius in self.radii)
                raise ValueError(f"{name} {getattr(self, name):g} is not one of the aperture radii: choose one of {allowed}")
        return self


class SpotsConfig(Section):
    """Calibrated throughput from exposures or catalogs of the spot mask."""

    catalogs: list[Annotated[str, ConfigPath()]] = Field(
        [], description="catalogs (FITS), or folders of them; empty: raw spot exposures in exposures.roots are measured"
    )
    detectors: list[DetectorText] = Field([], description="detectors whose exposures are used; empty: all")
    band: str = Field("", description="LED or filter of the exposures; empty: the FILTER card (CCOB cards are stale there)")
    flux: str = Field("base_CircularApertureFlux_12_0_instFlux", description="column of the flux in catalogs of the LSST stack")
    columns: Count = Field(49, description="spots of the mask along x")
    rows: Count = Field(49, description="spots of the mask along y")
    degree: int = Field(3, ge=1, le=12, description="degree of the polynomial that describes the optical distortion")
    mode: Literal["auto", "dithered", "fixed"] = Field(
        "auto",
        description="dithered: maps; fixed: repeatability, all exposures at one position; auto: from the positions of the grids",
    )
    method: Literal["joint", "mean"] = Field(
        "joint", description="joint: spots, exposures and throughput in one fit; mean: means of each spot over the exposures"
    )
    basis: Literal["splines", "cells"] = Field(
        "splines", description="throughput model of the joint fit: cubic B-splines, or cells of constant throughput"
    )
    knot_px: Positive = Field(64.0, description="knot spacing or cell size of that model, pixels")
    cell_px: Annotated[int, Field(ge=1)] = Field(64, description="cell of the binned maps, pixels")
    rings: tuple[float, float] | None = Field(
        None, description="centre x, y of tree rings in pixels of the detector, for radial profiles"
    )
    ring_px: Positive = Field(20.0, description="width of a ring of the radial profiles, pixels")
    calibration: Annotated[str, ConfigPath("")] = Field(
        "", description="calibration product of the same mask to apply; empty: the exposures are self-calibrated"
    )
    measure: MeasureConfig = Field(MeasureConfig(), description="detection and measurement of spots on images")


NotNegative = Annotated[float, Field(ge=0)]


class CompareConfig(Section):
    """Inputs, spatial scales and significance tests of the comparison."""

    flats: Annotated[str, ConfigPath("")] = Field(
        "", description="folder of another run that provides the flats; empty: this run"
    )
    stars: Annotated[str, ConfigPath("")] = Field(
        "", description="folder of another run that provides the artificial stars; empty: this run"
    )
    with_runs: list[Annotated[str, ConfigPath()]] = Field(
        [], description="folders of further runs whose comparisons are combined with those of this run"
    )
    detectors: list[DetectorText] = Field([], description="detectors to compare; empty: all with stars and a flat")
    led_of: dict[str, AnyLed] = Field(
        {},
        description="LED of the flat compared with the stars of a band, for example {r: red}; else the LED with the name of the band",
    )
    flat_fielded: bool = Field(
        False, description="stars were measured on images divided by the flat (expected flux slopes 0, -1, -1)"
    )
    reference: Literal["amplifier", "detector"] = Field(
        "amplifier", description="region whose mean normalises the flat; amplifier: wrong gains cancel"
    )
    high_pass_px: Positive = Field(
        64.0, description="structure larger than this (sigma of a Gaussian, pixels) is subtracted from stars and flat"
    )
    periods_px: list[float] = Field(
        [16.0, 32.0, 64.0, 128.0, 256.0],
        min_length=2,
        description="limits of the scales of the three hypotheses: periods of the structure, pixels",
    )
    cells_px: list[Annotated[int, Field(ge=1)]] = Field(
        [16, 32, 64, 128], min_length=1, description="cell sizes of the correlated maps, pixels; the first is plotted"
    )
    edge_mm: NotNegative = Field(0.3, description="width of the region `edge` along the border of the sensor, mm")
    mid_line_mm: NotNegative = Field(0.1, description="half width of the region `mid line`, mm")
    amplifier_boundary_mm: NotNegative = Field(0.1, description="half width of the regions at the borders of amplifiers, mm")
    rings: Literal["find", "none"] | tuple[float, float] = Field(
        "find", description="centre x, y of the tree rings in pixels, or find: determined from the flat"
    )
    boundary: Literal["closed", "open"] = Field(
        "closed",
        description="boundary of the displacement map: no displacement across the border of the sensor, or the sensor continues there",
    )
    resamples: Annotated[int, Field(ge=100)] = Field(1000, description="number of bootstrap and surrogate samples")
    flat_out: bool = Field(
        True, description="make the efficiency flat: corrected for pixel area and diffusion measured by the stars"
    )
