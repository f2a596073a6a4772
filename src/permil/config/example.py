"""Example configuration with every key explained, generated from the models."""

from __future__ import annotations

import textwrap
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from permil.config.model import Config

_WIDTH = 110


def example_yaml() -> str:
    """Return the default configuration as YAML with a comment above every key."""
    return (
        "# Every key with its default value, which is used if the key is left out.\n"
        + "\n".join(_section(Config, Config(), 0))
        + "\n"
    )


def _section(model: type[BaseModel], defaults: BaseModel, depth: int) -> list[str]:
    lines = []
    indent = "  " * depth
    for name, entry in model.model_fields.items():
        content = getattr(defaults, name)
        if depth == 0 and isinstance(content, BaseModel):
            lines.append("")
        text = entry.description or ""
        lines += textwrap.wrap(text, _WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")
        if isinstance(content, BaseModel):
            lines.append(f"{indent}{name}:")
            lines += _section(type(content), content, depth + 1)
        else:
            lines.append(f"{indent}{name}: {_inline(defaults.model_dump(mode='json')[name])}")
        lines += _list_entry(entry.annotation, content, depth + 1)
    return lines


def _list_entry(annotation: Any, content: Any, depth: int) -> list[str]:
    """Return the keys of list entries as comments if the default list is empty."""
    inner = next(
        (kind for kind in getattr(annotation, "__args__", ()) if isinstance(kind, type) and issubclass(kind, BaseModel)), None
    )
    if inner is None or content:
        return []
    indent = "  " * depth
    lines = [f"{indent}# each entry has:"]
    for name, entry in inner.model_fields.items():
        default = "" if entry.default is PydanticUndefined else f" (default {_inline(entry.default)})"
        lines += textwrap.wrap(
            f"{name}: {entry.description}{default}", _WIDTH, initial_indent=f"{indent}#   ", subsequent_indent=f"{indent}#     "
        )
    return lines


def _inline(content: Any) -> str:
    return yaml.safe_dump(content, default_flow_style=True, width=10_000).strip().removesuffix("...").strip()
