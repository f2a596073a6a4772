"""The errors of this package."""

from __future__ import annotations

from permil.errors import PermilError


class CompareError(PermilError):
    """Stars and flat cannot be compared."""
