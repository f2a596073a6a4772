"""Section `pipeline`: how the work is spread."""

from __future__ import annotations

from pydantic import Field

from permil.config.base import Section


class PipelineConfig(Section):
    """How the stages run."""

    workers: int = Field(default=0, ge=0, description="worker processes; 0 means one per processor core")
