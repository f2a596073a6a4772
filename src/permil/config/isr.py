"""Section ``isr``: from raw counts to electrons."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from permil.config.base import ConfigPath, Section

Count = Annotated[int, Field(ge=0)]


class IsrConfig(Section):
    """Options of the reduction from raw counts to electrons."""

    overscan: Literal["row_median", "row_mean", "smoothed", "constant"] = Field(
        "row_median",
        description="Level under the signal, from the serial overscan: median or mean of each row, running mean of the row medians, "
        "or one constant per segment.",
    )
    overscan_skip_first: Count = Field(5, description="Leading overscan columns left out: they hold deferred charge.")
    overscan_skip_last: Count = Field(2, description="Trailing overscan columns left out.")
    overscan_window: Annotated[int, Field(ge=1)] = Field(31, description="Rows in the running mean of `overscan: smoothed`.")
    bias: Annotated[str, ConfigPath("auto", "none")] = Field(
        "auto",
        description="Superbias: `auto` makes one from the bias exposures of the run, `none` subtracts none, a path names a superbias "
        "file or a folder of superbias_<CCD>.fits.",
    )
    gains: Annotated[str, ConfigPath("nominal", "none", "measured")] = Field(
        "nominal",
        description="Gains in e-/adu: an ECSV table (detector, segment or amp, gain), an eotest results file or a folder of them, "
        "`nominal` (approximate values of the camera, not of your run), `measured` (from an earlier run with "
        "`photon_transfer` in the output folder) or `none` (stay in adu).",
    )
    gain_column: Literal["GAIN", "PTC_GAIN"] = Field(
        "PTC_GAIN",
        description="Which gain of an eotest results file is used: Fe55 (`GAIN`) or photon transfer curve (`PTC_GAIN`).",
    )
    photon_transfer: bool = Field(
        False, description="Measure the gains from the noise of repeated images and compare them with the input gains."
    )
    linearity: Annotated[str, ConfigPath("none", "measured")] = Field(
        "none",
        description="ECSV table of the linearity correction per amplifier (columns detector, segment or amp, and a1 or the knots adu, "
        "corrected_adu), `measured` (from the joint solutions of an earlier run in the output folder), or `none`.",
    )
    crosstalk: Annotated[str, ConfigPath("none")] = Field(
        "none", description="ECSV table of crosstalk coefficients (detector, victim, source, coefficient), or `none`."
    )
    defects: Annotated[str, ConfigPath("none")] = Field(
        "none",
        description="ECSV table of bad pixels (detector, x, y, and optionally width, height), a folder with a table <CCD>.ecsv of each "
        "detector as `permil defects` writes it (x0, y0, width, height), or `none`.",
    )
    hot_pixel_threshold: Annotated[float, Field(gt=0)] = Field(
        20.0, description="A pixel of the superbias that deviates by this many sigma of its amplifier is bad."
    )
    temperature_coefficient: float = Field(
        0.0,
        description="Relative change of the gain (e-/adu) per degree C of the readout board that is applied; about 6.5e-4 for LSSTCam. "
        "The joint solution fits the remaining change, also with 0.",
    )
    temperature_reference: float = Field(0.0, description="Board temperature of the gains, degree C.")
    temperature_card: str | Annotated[list[str], Field(min_length=1)] = Field(
        "mean",
        description="Card of the REB_COND extension that holds the board temperature, a list of cards whose mean is taken, or `mean` "
        "of TEMP1 to TEMP6. An exposure that lacks one of them is left out.",
    )
    photodiode: Literal["header", "none"] = Field(
        "header",
        description="Normalise each exposure by the photodiode card of its header, or not at all (recorded in the products).",
    )
    saturation: Literal["nominal", "none"] | Annotated[float, Field(gt=0)] = Field(
        "nominal",
        description="Signal in electrons from which a pixel is saturated: a number, the camera's `nominal` values, or `none`.",
    )
    saturation_adu: Annotated[float, Field(gt=0)] = Field(
        262143.0,
        description="Raw count (bias included) from which a pixel is saturated; the default is the end of an 18-bit converter.",
    )
    saturation_grow: Count = Field(1, description="Radius in pixels around a saturated pixel that is flagged as well.")
    rejection_threshold: Annotated[float, Field(ge=3, allow_inf_nan=True)] = Field(
        5.0,
        description="Deviation, in sigma of the noise model, from which a frame is rejected in a pixel of a stack; `.inf` rejects none.",
    )
    edge_mm: Annotated[float, Field(ge=0)] | None = Field(
        None, description="Width of the zone flagged EDGE along the detector's outline, mm; the camera's when empty."
    )
    midline_mm: Annotated[float, Field(ge=0)] | None = Field(
        None, description="Half width of the zone flagged MIDLINE between the two halves, mm; the camera's when empty."
    )
