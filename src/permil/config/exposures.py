"""Section ``exposures``: location and classification of the raw files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from permil.config.base import ConfigPath, Section

Label = Annotated[str, BeforeValidator(lambda entry: str(entry) if isinstance(entry, int) else entry)]
"""A detector's name or number."""


class RunSelection(Section):
    """Runs with exposures of one kind."""

    runs: list[str] = Field([], description="run numbers, as in RUNNUM; empty: classified by positions")


class ButlerQuery(Section):
    """Raw files of a Butler repository."""

    repo: Annotated[str, ConfigPath("", is_repository=True)] = Field(
        "", description="Butler repository with raw files (extra butler): folder, URI or label; empty: none"
    )
    collections: list[str] = Field([], description="collections to search, for example [LSSTCam/raw/all]")
    where: str = Field(
        "", description="condition of a Butler query, for example: exposure.science_program = '6840D' AND detector = 94"
    )
    dataset_type: str = Field("raw", min_length=1, description="dataset type of the raw files")

    @model_validator(mode="after")
    def _complete(self) -> ButlerQuery:
        if any("*" in name for name in self.collections):
            raise ValueError("collections are searched in their order; name each of them, without wildcards")
        if not self.repo and (self.collections or self.where):
            raise ValueError("name the repository, for example repo: /repo/main")
        return self


class ExposuresConfig(Section):
    """Location and classification of the raw files."""

    roots: list[Annotated[Path, ConfigPath()]] = Field([], description="folders with raw files, searched recursively")
    butler: ButlerQuery = Field(ButlerQuery(), description="raw files of a Butler repository, in addition to those in roots")
    leds: list[str] = Field(["uv", "blue", "red", "nm750", "nm850", "nm960"], min_length=1, description="accepted names of LEDs")
    position: Literal["auto", "header", "folder"] = Field(
        "auto",
        description=(
            "projector position in use: header (measured), folder (commanded, plus the measured offset of the run), or auto: header "
            "if all exposures of a run and LED have it, else folder for all of them"
        ),
    )
    scan: RunSelection = Field(RunSelection(), description="runs that hold beam scans")
    pointings: RunSelection = Field(RunSelection(), description="runs that hold pointings of the flat")
    same_position_mm: float = Field(
        0.1, gt=0, description="projector positions within this distance (mm) count as one; the stage repeats to 0.01 mm"
    )
    checksums: Literal["refuse", "warn", "off"] = Field(
        "refuse",
        description=(
            "treatment of raw files whose data do not match DATASUM in the header: refuse (the file is left out), warn, or off "
            "(no check); an edited header (only CHECKSUM is wrong) gives a warning"
        ),
    )
    serials: dict[Label, Annotated[list[str], Field(min_length=1)]] = Field(
        {},
        description=(
            "serial numbers (as in LSST_NUM) of the sensors to use, by detector, for example {R22_S11: "
            "E2V-CCD250-382}; needed if a bay held two sensors. Files of other sensors are left out; several sensors given for one "
            "detector may enter one product"
        ),
    )

    @property
    def has_raw_files(self) -> bool:
        """Whether folders or a repository with raw files are named."""
        return bool(self.roots or self.butler.repo)
