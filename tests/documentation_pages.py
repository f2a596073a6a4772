"""The pages of the documentation and their code blocks."""

from __future__ import annotations

import importlib.util
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if path.relative_to(DOCS).parts[0] not in ("generated", "_static"))
"""All pages that are written by hand."""

_FENCE = re.compile(
    r"^(?P<indent> *)(?P<mark>`{3,})(?P<info>[^`\n]*)\n(?P<text>.*?)^(?P=indent)(?P=mark) *$", re.DOTALL | re.MULTILINE
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page: its language and text, and the line on which the text begins."""

    page: Path
    language: str
    text: str
    line: int


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page; executed cells have the language python."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        info = match["info"].strip()
        language = "python" if info == "{code-cell}" else info
        line = text.count("\n", 0, match.start("text")) + 1
        options = "".join(re.findall(r"\A(?::[^\n]*\n)+\n*", match["text"])) if info == "{code-cell}" else ""
        found.append(Block(page, language, match["text"].removeprefix(options), line + options.count("\n")))
    return found


def pages_with(language: str) -> list[str]:
    """Return the pages that have blocks of a language, by their names below docs."""
    return [str(page.relative_to(DOCS)) for page in PAGES if any(block.language == language for block in blocks(page))]


def reference_pages() -> ModuleType:
    """Return the module that generates parts of the reference."""
    spec = importlib.util.spec_from_file_location("reference_pages", DOCS / "extensions" / "reference_pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
