"""Section `report`: specifications that results are held against, and what the pages show."""

from __future__ import annotations

from pydantic import Field, PositiveFloat

from permil.config.base import Section


class ReportConfig(Section):
    """Limits of the verdicts (relative, so 0.001 is one per mil) and choices of the pages."""

    detector_pages: bool = Field(default=True, description="one page per detector")
    scatter_limit: PositiveFloat = Field(default=0.005, description="largest scatter between pointings beyond noise")
    step_limit: PositiveFloat = Field(default=0.003, description="largest step of an amplifier")
    noise_limit: PositiveFloat = Field(default=0.002, description="largest typical error of a pixel")
    node_noise_limit: PositiveFloat = Field(default=0.001, description="largest relative noise of the beam nodes")
    spot_excess_limit: PositiveFloat = Field(
        default=0.001, description="largest scatter of spot fluxes that neither their errors nor the sensor explain"
    )
