"""Section ``exposures``: location and classification of the raw files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from permil.config.base import ConfigPath, Section

Label = Annotated[str, BeforeValidator(lambda entry: str(entry) if isinstance(entry, int) else entry)]
"""A detector's name or number."""


class RunSelection(Section):
    """Runs with exposures of one kind."""

    runs: list[str] = Field(default=[], description="run numbers, as in RUNNUM; empty: classified by positions")


class ExposuresConfig(Section):
    """Location and classification of the raw files."""

    roots: list[Annotated[Path, ConfigPath()]] = Field(default=[], description="folders with raw files, searched recursively")
    leds: list[str] = Field(
        default=["uv", "blue", "red", "nm750", "nm850", "nm960"], min_length=1, description="accepted names of LEDs"
    )
    position: Literal["auto", "header", "folder"] = Field(
        default="auto",
        description=(
            "projector position in use: header (measured), folder (commanded, plus the measured offset of the run), or auto: header "
            "if all exposures of a run and LED have it, else folder for all of them"
        ),
    )
    scan: RunSelection = Field(default=RunSelection(), description="runs that hold beam scans")
    pointings: RunSelection = Field(default=RunSelection(), description="runs that hold pointings of the flat")
    same_position_mm: float = Field(
        default=0.1, gt=0, description="projector positions within this distance (mm) count as one; the stage repeats to 0.01 mm"
    )
    checksums: Literal["refuse", "warn", "off"] = Field(
        default="refuse",
        description=(
            "treatment of raw files whose data do not match DATASUM in the header: refuse (the file is left out), warn, or off "
            "(no check); an edited header (only CHECKSUM is wrong) gives a warning"
        ),
    )
    serials: dict[Label, Annotated[list[str], Field(min_length=1)]] = Field(
        default={},
        description=(
            "serial numbers (as in LSST_NUM) of the sensors to use, by detector, for example {R22_S11: "
            "E2V-CCD250-382}; needed if a bay held two sensors. Files of other sensors are left out; several sensors given for one "
            "detector may enter one product"
        ),
    )
