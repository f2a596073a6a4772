"""The base of every section of the configuration."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """One section: immutable, validated, unknown keys are errors.

    Give every field a ``Field(description=...)``: the example configuration and the documentation are made from it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)
