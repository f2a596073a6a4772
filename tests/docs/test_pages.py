"""Pages link to what exists, and the reference is complete."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

import permil
from documentation_pages import DOCS, PAGES, ROOT, reference_pages
from permil.config import Config

GENERATED = reference_pages()
LISTED = GENERATED.public_names()
INNER = GENERATED.inner_names()


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "README.md", ROOT / "CHANGELOG.md"], ids=lambda page: str(page.relative_to(ROOT))
)
def test_links_lead_to_files(page: Path) -> None:
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path = target.split("#")[0]
        if path and "://" not in path:
            # API pages are made by the build from the list of names.
            assert (page.parent / path).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_page_is_in_a_table_of_contents(page: Path) -> None:
    name = page.relative_to(DOCS).with_suffix("")
    if str(name) == "index":
        return
    parent = DOCS / ("index.md" if len(name.parts) == 1 or name.name == "index" else name.parent / "index.md")
    entry = str(DOCS / name)[len(str(parent.parent)) + 1 :]
    trees = re.findall(r"```\{toctree\}\n(.*?)```", parent.read_text(encoding="utf-8"), re.DOTALL)
    assert any(re.search(rf"^{re.escape(entry)}$", tree, re.MULTILINE) for tree in trees), entry


def test_reference_lists_the_public_names_and_no_others() -> None:
    public = [f"permil.{name}" for name in permil.__all__ if name != "__version__"]
    assert sorted(LISTED) == sorted([*public, "permil.nddata.read_ccddata"])
    assert set(INNER) & set(LISTED) == set()


@pytest.mark.parametrize("name", [*LISTED, *INNER])
def test_listed_names_exist_and_are_described(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    assert (getattr(import_module(module), attribute).__doc__ or "").strip(), name


def test_reference_has_every_key_of_the_configuration() -> None:
    text = GENERATED.configuration_text()

    def keys(content: dict[str, object], prefix: str) -> list[str]:
        return [
            key
            for name, value in content.items()
            for key in (keys(value, f"{prefix}{name}.") if isinstance(value, dict) and value else [f"{prefix}{name}"])
        ]

    missing = [key for key in keys(Config().model_dump(), "") if f"| `{key}` |" not in text]
    assert missing == []


def test_reference_has_every_error_with_its_remedy() -> None:
    found = GENERATED.messages()
    assert len(found) > 300
    assert {message.error for message in found} <= set(GENERATED._error_names())
    text = GENERATED.messages_text()
    assert "are too few for the beam model" in text


def test_reference_has_every_command() -> None:
    text = GENERATED.command_line_text()
    for command in ("run", "flat apply", "flat", "plan check", "config import", "spots calibrate"):
        assert f"## `permil {command}`" in text
