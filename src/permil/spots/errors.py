"""The errors of this package."""

from __future__ import annotations

from permil.errors import PermilError


class GridError(PermilError):
    """Points are not a grid of spots, or not one that can be told."""


class SpotError(PermilError):
    """Spot measurements cannot be calibrated or mapped."""
