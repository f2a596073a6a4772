"""The errors of this package."""

from __future__ import annotations

from permil.errors import PermilError


class GridError(PermilError):
    """Points do not form an identifiable grid of spots."""


class SpotError(PermilError):
    """Spot measurements cannot be calibrated or mapped."""
