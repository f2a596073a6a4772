"""Section ``defects``: what counts as a defect of a sensor."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from permil.config.base import Section

Part = Annotated[float, Field(gt=0.0, lt=1.0)]


class DefectsConfig(Section):
    """Limits of defects: fractions of the response of the neighbours, beyond which ordinary pixels do not scatter."""

    pixel: Part = Field(0.2, description="deviation of the response of a dark or bright pixel from its neighbours, relative")
    column: Part = Field(0.05, description="mean deviation of a part of a column from its neighbours, relative")
    cluster: Part = Field(0.1, description="mean deviation of a cluster of pixels from its neighbours, relative")
    scatter: Part = Field(
        0.1, description="scatter of a pixel between exposures in excess of noise, relative rms, from which it is unstable"
    )
    nonlinearity: Part = Field(
        0.2, description="change of the response of a pixel from no light to the brightest exposure, relative"
    )
    hot_electrons: Annotated[float, Field(gt=0.0)] = Field(
        50.0, description="excess of a hot pixel over its neighbours in the superbias, electrons"
    )
    significance: Annotated[float, Field(ge=3.0)] = Field(
        8.0,
        description="least deviation, integrated over the pixels of a defect, in units of the local scatter of the response; it "
        "matters where there is little light",
    )
    exposures: Annotated[int, Field(ge=0)] = Field(
        24, description="exposures of each LED that are searched for unstable and non-linear pixels; fewer than 5: no search"
    )
