"""Section `plan`: a list of pointings, and the assumed lamp, photodiode and beam."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from permil.config.base import ConfigPath, Section
from permil.config.flat import SuperPixel
from permil.config.names import AnyLed, DetectorOrRaft, DetectorText

Readout = Literal["detector", "board", "raft", "all"]
NotNegative = Annotated[float, Field(ge=0)]


class PlanScan(Section):
    """A beam scan on a grid."""

    detector: DetectorText = Field(
        "", description="detector whose amplifier is at the centre of the scan; empty: the camera's reference detector"
    )
    amp: str | int = Field(
        "",
        description="amplifier at whose centre the scan is centred; empty: the camera's reference amplifier, else the detector",
    )
    centre_mm: tuple[float, float] | None = Field(None, description="centre, CCS X, Y in mm, instead of an amplifier")
    nx: PositiveInt = Field(12, description="positions along CCS X")
    ny: PositiveInt = Field(12, description="positions along CCS Y")
    width_mm: PositiveFloat | None = Field(
        None, description="distance from the first to the last position along the longer axis, mm; 80 without pitch_mm"
    )
    pitch_mm: PositiveFloat | None = Field(None, description="distance of positions, mm, instead of width_mm")
    images: PositiveInt = Field(1, description="images at each position")
    read: Readout = Field("board", description="detectors read out: the one aimed at, its readout board, its raft, or all")

    @model_validator(mode="after")
    def _one_size_and_one_centre(self) -> PlanScan:
        if self.pitch_mm is not None and self.width_mm is not None:
            raise ValueError("give width_mm or pitch_mm, not both")
        if self.centre_mm is not None and (self.detector or self.amp != ""):
            raise ValueError("give centre_mm or detector and amp, not both")
        return self


class PlanPointings(Section):
    """Pointings of the flat: the sum of all keys given; by default five points of each detector of the plan."""

    aim: list[DetectorOrRaft] = Field(
        [], description="detectors (R22_S11) or rafts (R22) that get five points: the centre and the middle of each quadrant"
    )
    points: list[tuple[float, float]] = Field([], description="further positions, CCS X, Y in mm")
    images: PositiveInt = Field(5, description="images at each position")
    read: Readout = Field("raft", description="detectors read out: the one aimed at, its readout board, its raft, or all")


class PlanLed(Section):
    """An LED of the acquisition files."""

    led: AnyLed = Field(description="name of the LED")
    current_a: PositiveFloat | None = Field(None, description="current, A; by default that of the LED")
    exposure_s: PositiveFloat | None = Field(None, description="exposure time, s; by default that of the LED")
    electrons: PositiveFloat | None = Field(
        None,
        description="electrons per pixel at the beam's maximum for this exposure; the time is then scaled to plan.electrons",
    )


class PlanFiles(Section):
    """Acquisition files of `permil plan write`, and the cost of their images."""

    dialect: Literal["locations", "columns"] = Field(
        "locations", description="readout in the key LOCATIONS of a file, or in a third column of its points (as in files by REB)"
    )
    per: Literal["raft", "board", "detector", "all"] = Field(
        "raft", description="pointings that share a file: those of a raft, a readout board, a detector, or all"
    )
    leds: list[PlanLed] = Field([], description="LEDs in the order of acquisition; by default all six with default settings")
    offset_mm: tuple[float, float] = Field(
        (0.0, 0.0), description="XOFFSET and YOFFSET, mm, which the test stand adds to each point"
    )
    biases: Annotated[int, Field(ge=0)] = Field(10, description="biases before and after the images of a file")
    readout_s: NotNegative = Field(3.0, description="time for an image in addition to its exposure time, s")
    move_s: NotNegative = Field(5.0, description="time of a move of the projector, s")
    bytes_per_pixel: PositiveFloat = Field(1.4, description="size of a raw file for each of its pixels; 4 without compression")


class PlanConfig(Section):
    """The plan; without scan, pointings, acquisition and taken: a 12 x 12 scan and five points per detector."""

    detectors: list[DetectorOrRaft] = Field(
        [],
        description="detectors (R22_S11) or rafts (R22) whose flat is planned, plus the detector at the scan centre; empty: all "
        "illuminated science detectors",
    )
    led: AnyLed = Field("", description="LED whose positions are used from acquisition files and the index; empty: the only one")
    scan: PlanScan | None = Field(None, description="a beam scan, for example {nx: 12, ny: 12, width_mm: 80}")
    pointings: PlanPointings | None = Field(None, description="pointings of the flat, for example {aim: [R22], images: 5}")
    acquisition: list[Annotated[str, ConfigPath()]] = Field(
        [], description="acquisition files (cfg) with planned positions, scan or pointings"
    )
    taken: Annotated[str, ConfigPath("")] = Field(
        "", description="folder of a run, or its exposures.parquet, with exposures already taken"
    )
    order: Literal["listed", "shuffled"] = Field(
        "listed",
        description="order in time: as listed, or shuffled with the seed (so that a drift resembles a gradient less)",
    )
    passes: PositiveInt = Field(
        1, description="number of passes; the images of each position are divided among them, at least one in each"
    )
    fiducial_every: Annotated[int, Field(ge=0)] = Field(
        0,
        description="number of visits after which an image is taken at a fixed central position, to measure drift; 0: none",
    )
    interleaved: bool = Field(
        True, description="all LEDs at each position; if false, one LED after the other, each with its own files"
    )
    budget_hours: PositiveFloat | None = Field(
        None, description="time budget of `permil plan improve`; by default the time of the plan"
    )
    files: PlanFiles = Field(PlanFiles(), description="acquisition files")
    electrons: PositiveFloat = Field(50_000.0, description="electrons per pixel of one image at the beam's maximum")
    beam_fwhm_mm: PositiveFloat = Field(140.0, description="full width at half maximum of the beam, mm")
    beam: Annotated[str, ConfigPath("")] = Field(
        "", description="beam model (FITS) whose shape is used instead; no light outside its scan"
    )
    lit_above: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.1, description="fraction of the beam's maximum above which a pixel counts as illuminated"
    )
    photodiode_noise: PositiveFloat = Field(2e-3, description="noise of one photodiode reading, relative rms")
    photodiode_drift: NotNegative = Field(
        0.0, description="smooth random change of the photodiode's response from start to end, relative rms"
    )
    beam_knots_mm: PositiveFloat | None = Field(
        None,
        description="knot spacing of the fitted beam, mm: a finer beam is degenerate with more modes of the flat; by default "
        "2 mm, or more to keep about 3000 knots",
    )
    super_pixel_mm: SuperPixel = Field(0.64, description="side of the super-pixels of the predicted error, mm")
    cells: Annotated[int, Field(ge=2)] | None = Field(
        None,
        description="cells along each side of a detector in the check of the design; by default finer than the knots, 8000 in all",
    )
    mode_limit: PositiveFloat = Field(
        1e-4, description="a mode whose error from signals alone exceeds this (relative rms) is undetermined"
    )
