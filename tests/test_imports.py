"""Imports run one way, from the ground up, and never in a circle; names of classes are unique, and lists of parameters short."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "permil"
ARCHITECTURE = (ROOT / "docs" / "development" / "architecture.md").read_text(encoding="utf-8")


def _name(path: Path) -> str:
    parts = ("permil", *path.relative_to(SOURCE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_name(path): path for path in sorted(SOURCE.rglob("*.py"))}


def _imported(module: str, *, for_annotations: bool = True) -> Iterator[str]:
    """Yield the modules of the package that a module imports, anywhere in it, or without those that only annotations need."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    if not for_annotations:
        tree.body = [node for node in tree.body if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "permil":
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else str(node.module)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "permil")


def _definitions(kind: type[ast.stmt]) -> Iterator[tuple[str, ast.stmt]]:
    """Yield the definitions of a kind in all modules, each with the name of its module."""
    for module, path in MODULES.items():
        yield from ((module, node) for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, kind))


def _package(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def _levels() -> dict[str, int]:
    """Return the line of each package in the documented table."""
    table = ARCHITECTURE.split("## Packages")[1].split("## Tasks")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    return {name: level for level, row in enumerate(rows) for name in re.findall(r"`(\w+)`", row)}


def test_every_package_has_its_place() -> None:
    present = {_package(module) for module in MODULES} - {"", "__main__"}
    assert set(_levels()) - {"_kernels"} == present


@pytest.mark.parametrize("module", [module for module in MODULES if _package(module) not in ("", "__main__")])
def test_a_package_imports_those_above_it(module: str) -> None:
    levels = _levels()
    for other in _imported(module):
        if _package(other) not in ("", _package(module)):
            assert levels[_package(other)] <= levels[_package(module)], f"{module} imports {other}"


def test_no_modules_import_each_other() -> None:
    graph = {
        module: {other for other in _imported(module, for_annotations=False) if other in MODULES and other != module}
        for module in MODULES
    }
    # The modules of a package are loaded after its own one, which lists names of theirs.
    for module, others in graph.items():
        graph[module] = {other for other in others if not module.startswith(f"{other}.")}
    TopologicalSorter(graph).prepare()


def test_no_two_classes_have_one_name() -> None:
    places: dict[str, list[str]] = {}
    for module, node in _definitions(ast.ClassDef):
        assert isinstance(node, ast.ClassDef)
        places.setdefault(node.name, []).append(module)
    assert {name: modules for name, modules in places.items() if len(modules) > 1} == {}


def test_a_function_takes_at_most_eight_parameters() -> None:
    """Those that are keyword-only and have a default are not counted."""
    long = []
    for module, node in _definitions(ast.FunctionDef):
        assert isinstance(node, ast.FunctionDef)
        positional = [parameter.arg for parameter in (*node.args.posonlyargs, *node.args.args)]
        required = [default for default in node.args.kw_defaults if default is None]
        if len(positional[positional[:1] in (["self"], ["cls"]) :]) + len(required) > 8 and "_kernels" not in module:
            long.append(f"{module}.{node.name}")
    assert long == []


def test_no_package_uses_private_names_of_another() -> None:
    for module, node in _definitions(ast.ImportFrom):
        assert isinstance(node, ast.ImportFrom)
        origin = node.module or ""
        if origin.split(".")[0] == "permil" and _package(origin) not in ("_kernels", _package(module)):
            parts = [*origin.split(".")[2:], *(alias.name for alias in node.names)]
            assert not any(re.match(r"_(?!_|kernels$)", part) for part in parts), f"{module} imports {origin}"


def test_what_the_architecture_names_exists() -> None:
    for name in re.findall(r"`((?:\w+\.)+\w+)`", ARCHITECTURE):
        if name.endswith((".py", ".yaml", ".md", ".ecsv")) or _package(f"permil.{name}") not in _levels():
            continue
        parts = name.split(".")
        place = max(n for n in range(1, len(parts) + 1) if f"permil.{'.'.join(parts[:n])}" in MODULES)
        found = import_module(f"permil.{'.'.join(parts[:place])}")
        for attribute in parts[place:]:
            assert hasattr(found, attribute) or attribute in getattr(found, "__dataclass_fields__", {}), name
            found = getattr(found, attribute, None)
    for file in re.findall(r"`((?:\w+/)+\w+\.(?:py|yaml|md))`", ARCHITECTURE):
        assert any((folder / file).is_file() for folder in (ROOT, SOURCE)), file


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_what_benchmarks_import_exists(path: Path) -> None:
    """Benchmarks import much of it in functions, and are run rarely."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "permil":
            module = import_module(str(node.module))
            for alias in node.names:
                assert hasattr(module, alias.name) or f"{node.module}.{alias.name}" in MODULES, f"{node.module}.{alias.name}"
