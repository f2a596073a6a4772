"""Section `report`: specifications of the results, and content of the pages."""

from __future__ import annotations

from pydantic import Field, PositiveFloat

from permil.config.base import Section


class ReportConfig(Section):
    """Specifications (relative, so 0.001 is one per mil) and options of the pages."""

    detector_pages: bool = Field(default=True, description="one page per detector")
    scatter_limit: PositiveFloat = Field(default=0.005, description="largest scatter between pointings in excess of noise")
    step_limit: PositiveFloat = Field(default=0.003, description="largest step of an amplifier")
    noise_limit: PositiveFloat = Field(default=0.002, description="largest typical error of a pixel")
    node_noise_limit: PositiveFloat = Field(default=0.001, description="largest relative noise of the beam nodes")
    spot_excess_limit: PositiveFloat = Field(
        default=0.001, description="largest scatter of spot fluxes in excess of their errors and of the sensor"
    )
