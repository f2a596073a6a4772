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


THEORY = sorted(path for path in (DOCS / "theory").glob("*.md") if path.stem != "index")
PARTS = ["Model", "Estimator", "Errors", "Where it fails", "In the code", "References"]


@pytest.mark.parametrize("page", THEORY, ids=lambda page: page.stem)
def test_theory_says_what_a_reader_learns_and_has_all_parts(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert re.match(r"# .*\n\nYou learn ", text), page.name
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert [heading for heading in headings if heading in PARTS] == PARTS


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.parent.name != "api"], ids=lambda page: str(page.relative_to(DOCS))
)
def test_names_of_the_package_exist(page: Path) -> None:
    """Functions, classes and modules that a page names in code are in the package."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    named = {name for span in re.findall(r"`([^`\n]+)`", text) for name in re.findall(r"\bpermil(?:\.[A-Za-z_]\w*)+", span)}
    assert sorted(name for name in named if not _exists(name) and not name.endswith((".yaml", ".py"))) == []


def _exists(name: str) -> bool:
    """Return whether a dotted name is a module of the package, or an attribute of one."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found = import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[count:]:
            if not hasattr(found, attribute):
                return False
            found = getattr(found, attribute)
        return True
    return False
