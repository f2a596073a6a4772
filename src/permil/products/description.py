"""The result of a command, as text for the user and as plain values for programs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self


class Description(str):
    """Text for a person, with the same content as values for a program.

    Attributes
    ----------
    facts : dict
        Names and plain values: numbers, text, None, lists and mappings of them. None is a number that is not known.

    Examples
    --------
    >>> from permil.products import Description
    >>> Description("3 nodes, noise unknown", {"nodes": 3, "noise": float("nan")}).facts
    {'nodes': 3, 'noise': None}
    """

    facts: dict[str, Any]

    def __new__(cls, text: str, facts: Mapping[str, Any]) -> Self:
        """Return the text with its values."""
        description = super().__new__(cls, text)
        description.facts = plain_facts(facts)
        return description


def plain_facts(value: Any) -> Any:
    """Return values as JSON has them: NumPy numbers and arrays become numbers and lists, NaN and infinity None, paths text."""
    if isinstance(value, Mapping):
        return {str(name): plain_facts(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain_facts(entry) for entry in value]
    if hasattr(value, "tolist"):
        return plain_facts(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value) if isinstance(value, Path) else repr(value)
