"""What can go wrong between the tasks and those who do them."""

from __future__ import annotations

from permil.errors import PermilError


class EngineError(PermilError):
    """Workers cannot be had, or a task kills them."""
