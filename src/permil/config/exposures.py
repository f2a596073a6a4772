"""Section ``exposures``: where the raw files are and how to tell them apart."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from permil.config.base import FileName, Section

Label = Annotated[str, BeforeValidator(lambda entry: str(entry) if isinstance(entry, int) else entry)]
"""A detector's name or number."""


class RunSelection(Section):
    """Runs that are known to hold one kind of exposure."""

    runs: list[str] = Field(default=[], description="run numbers, as in RUNNUM; empty: told apart by positions")


class ExposuresConfig(Section):
    """Where the raw files are and how to tell them apart."""

    roots: list[Annotated[Path, FileName()]] = Field(default=[], description="folders with raw files, searched recursively")
    leds: list[str] = Field(
        default=["uv", "blue", "red", "nm750", "nm850", "nm960"], min_length=1, description="names that an LED may have"
    )
    position: Literal["auto", "header", "folder"] = Field(
        default="auto",
        description=(
            "projector position in use: header (measured), folder (commanded, plus the measured offset of the run), or auto: header "
            "where all exposures of a run and LED have it, else folder for all of them"
        ),
    )
    scan: RunSelection = Field(default=RunSelection(), description="runs that hold beam scans")
    pointings: RunSelection = Field(default=RunSelection(), description="runs that hold the pointings of the flat")
    same_position_mm: float = Field(
        default=0.1, gt=0, description="projector positions within this distance (mm) are one place; the stage repeats to 0.01 mm"
    )
    checksums: Literal["refuse", "warn", "off"] = Field(
        default="refuse",
        description=(
            "data of raw files that do not have the sum that their header states (DATASUM): refuse (the file is left out), warn, or off "
            "(not looked at); a header that was edited (CHECKSUM alone) is warned of"
        ),
    )
    serials: dict[Label, Annotated[list[str], Field(min_length=1)]] = Field(
        default={},
        description=(
            "by detector, serial numbers (as in LSST_NUM) of the sensors whose exposures are used, for example {R22_S11: "
            "E2V-CCD250-382}; needed where a bay held two sensors. Files of other sensors are left out; those that are named together "
            "may enter one product"
        ),
    )
