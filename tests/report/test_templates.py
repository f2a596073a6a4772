"""Templates: every name that one uses is given to it, or is a function of the module of its page."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from jinja2 import meta

import permil.report
from permil.report.kit.pages import _templates

ROOT = Path(permil.report.__file__).parent
ALWAYS = {"fingerprint", "title", "links", "facts", "meta", "parts"}
"""Names of the templates that pages extend."""


def _rendered() -> Iterator[tuple[str, set[str]]]:
    """Yield each template that the code fills, with the names that it can use."""
    for path in sorted(ROOT.rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "render" and isinstance(call.args[0], ast.Constant):
                names = {str(keyword.arg) for keyword in call.keywords}
                if len(call.args) > 1:
                    module = ".".join(("permil", *path.relative_to(ROOT.parent).with_suffix("").parts))
                    names |= set(vars(import_module(module)))
                yield str(call.args[0].value), names


@pytest.mark.parametrize(("template", "names"), list(_rendered()))
def test_names_of_a_template_are_known(template: str, names: set[str]) -> None:
    environment = _templates()
    tree = environment.parse((ROOT / "templates" / template).read_text(encoding="utf-8"))
    set_by_itself = {node.name for node in tree.find_all(import_module("jinja2.nodes").Name) if node.ctx == "store"}
    assert meta.find_undeclared_variables(tree) - names - set(environment.globals) - ALWAYS - set_by_itself == set()


def test_all_templates_are_filled_or_included() -> None:
    used = {template for template, _ in _rendered()}
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "templates").glob("*.html")]
    for path in (ROOT / "templates").glob("*.html"):
        assert path.name in used or any(f'"{path.name}"' in text for text in texts), path.name
