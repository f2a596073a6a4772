"""The public interface: loaded when first used, complete, documented, with examples that run."""

from __future__ import annotations

import ast
import doctest
import inspect
import re
import subprocess
import sys
import typing
from pathlib import Path
from types import ModuleType

import pytest

import permil
import permil.nddata

SOURCE = Path(permil.__file__).parent
PUBLIC = {name: getattr(permil, name) for name in permil.__all__ if name != "__version__"}
HEAVY = ("numpy", "astropy", "scipy", "pyarrow", "pydantic", "matplotlib", "numba", "rich", "typer", "permil._kernels")


def _python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout  # noqa: S603


def test_import_loads_nothing_else() -> None:
    code = f"import sys, permil; dir(permil); print([name for name in {HEAVY} if name in sys.modules])"
    assert _python(code).strip() == "[]"


def test_names_survive_the_import_of_every_module() -> None:
    code = """
import importlib, pkgutil, permil
for module in pkgutil.walk_packages(permil.__path__, "permil."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
modules = [name for name in permil.__all__ if type(getattr(permil, name)).__name__ == "module"]
homes = {name: importlib.import_module(f"permil.{home}") for name, home in permil._MODULE_OF.items()}
print(modules, [name for name, home in homes.items() if getattr(permil, name) is not getattr(home, name)])
"""
    assert _python(code).strip() == "[] []"


def test_all_lists_of_names_agree() -> None:
    assert permil.__all__ == sorted(permil.__all__)
    assert set(permil.__all__) <= set(dir(permil))
    assert set(permil._MODULE_OF) == set(permil.__all__) - {"__version__"}
    tree = ast.parse((SOURCE / "__init__.py").read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: str(node.module).removeprefix("permil.")
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == permil._MODULE_OF


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'flatten'"):
        permil.flatten  # noqa: B018


def _methods(kind: type) -> dict[str, object]:
    """Return the public methods that a class of the package defines itself."""
    return {
        name: entry.__func__ if isinstance(entry, classmethod | staticmethod) else entry
        for name, entry in vars(kind).items()
        if not name.startswith("_") and (inspect.isfunction(entry) or isinstance(entry, classmethod | staticmethod))
    }


@pytest.mark.parametrize("name", PUBLIC)
def test_docstrings_are_complete(name: str) -> None:
    entry = PUBLIC[name]
    text = inspect.getdoc(entry) or ""
    assert text, name
    if inspect.isclass(entry):
        for method, function in _methods(entry).items():
            assert inspect.getdoc(function), f"{name}.{method}"
        assert "Examples\n--------" in text, name
        assert "+SKIP" not in text, name
        return
    parameters = [one for one in inspect.signature(entry).parameters.values() if one.name != "self"]
    described = text.partition("Parameters\n----------\n")[2].partition("\n\n")[0] if parameters else ""
    section = re.split(r"\n(?:Returns|Raises|Yields|Notes|Examples|Warns)\n-+\n", text.partition("Parameters\n----------\n")[2])[
        0
    ]
    listed = set(re.findall(r"^(\**\w+(?:, \**\w+)*)(?: :|$)", section, flags=re.MULTILINE))
    names = {part.strip("* ") for group in listed for part in group.split(",")}
    assert described or not parameters
    assert {one.name for one in parameters} <= names, name
    for heading in ("Returns", "Raises", "Examples"):
        assert f"{heading}\n{'-' * len(heading)}" in text, f"{name}: {heading}"
    assert "+SKIP" not in text, name


def _documented() -> list[tuple[str, object]]:
    found = list(PUBLIC.items())
    found += [
        (f"{name}.{method}", function)
        for name, kind in PUBLIC.items()
        if inspect.isclass(kind)
        for method, function in _methods(kind).items()
    ]
    return [*found, ("nddata.read_ccddata", permil.nddata.read_ccddata)]


EXAMPLES = [
    (name, test)
    for name, entry in _documented()
    for test in [doctest.DocTestParser().get_doctest(inspect.getdoc(entry) or "", {}, name, None, 0)]
    if test.examples
]


@pytest.mark.usefixtures("notebook")
@pytest.mark.parametrize(("name", "test"), EXAMPLES, ids=[name for name, _ in EXAMPLES])
def test_examples_run(name: str, test: doctest.DocTest) -> None:
    failures: list[str] = []
    doctest.DocTestRunner(verbose=False).run(test, out=failures.append)
    assert not failures, "".join(failures)


def test_types_are_those_of_the_modules() -> None:
    for name, entry in PUBLIC.items():
        assert not isinstance(entry, ModuleType), name
        if inspect.isfunction(entry):
            assert "return" in typing.get_type_hints(entry, include_extras=True) or entry.__annotations__["return"]


def test_pages_that_messages_name_exist() -> None:
    root = SOURCE.parents[1]
    for path in sorted(SOURCE.rglob("*.py")):
        for page in re.findall(r"docs/[\w/.-]+\.(?:md|yaml|ipynb)", path.read_text(encoding="utf-8")):
            assert (root / page).is_file(), f"{path.name} names {page}"
