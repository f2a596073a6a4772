"""Sphinx extension that writes the parts of the reference that come from the code.

Pages of `docs/reference` include the files that this module writes into `docs/generated` before Sphinx reads any page: keys of the
configuration from their models, commands from the command line, messages from the source. Nothing here needs Sphinx to be installed.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
GENERATED = ROOT / "docs" / "generated"
SOURCE = ROOT / "src" / "permil"


def setup(app: Any) -> dict[str, bool]:
    """Register the writing of the pages; called by Sphinx."""
    # Before autosummary writes its pages.
    app.connect("builder-inited", _prepare, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _prepare(_: Any) -> None:
    write_pages(GENERATED)
    for folder, names in (("reference", public_names()), ("development", inner_names())):
        for page in (ROOT / "docs" / folder / "api").glob("*.rst"):
            if page.stem not in names:
                page.unlink()


def public_names() -> list[str]:
    """Return the names that the reference of Python lists."""
    return _listed("reference/api.md")


def inner_names() -> list[str]:
    """Return the names that are listed for contributors."""
    return _listed("development/inside.md")


def _listed(page: str) -> list[str]:
    return re.findall(r"^   (permil[\w.]*)$", (ROOT / "docs" / page).read_text(encoding="utf-8"), re.MULTILINE)


def write_pages(folder: Path) -> None:
    """Write all generated parts; a file whose content stays the same is left alone."""
    folder.mkdir(exist_ok=True)
    pages = {
        "configuration": configuration_text,
        "command_line": command_line_text,
        "messages": messages_text,
        "products": products_text,
    }
    for name, make in pages.items():
        path, text = folder / f"{name}.md", make()
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def configuration_text() -> str:
    """Return every key of the configuration with its type, default and meaning, one table per section."""
    from permil.config import Config

    schema = Config.model_json_schema()
    lines = ["## Top level", "", *_key_table(schema, schema, "", nested=False)]
    for name, entry in schema["properties"].items():
        section = _resolve(entry, schema)
        if "properties" in section:
            lines += ["", f"## `{name}`", "", _sentence(entry.get("description") or section.get("description", "")), ""]
            lines += _key_table(section, schema, f"{name}.")
    return "\n".join(lines) + "\n"


def _key_table(section: dict[str, Any], schema: dict[str, Any], prefix: str, *, nested: bool = True) -> list[str]:
    lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
    return lines + list(_key_rows(section, schema, prefix, nested=nested))


def _key_rows(section: dict[str, Any], schema: dict[str, Any], prefix: str, *, nested: bool = True) -> Iterator[str]:
    for name, entry in section["properties"].items():
        inner = _resolve(entry, schema)
        if "properties" in inner:
            if nested:
                yield from _key_rows(inner, schema, f"{prefix}{name}.")
            continue
        default = f"`{_plain(entry['default'])}`" if "default" in entry else "needed"
        yield f"| `{prefix}{name}` | {_type(entry, schema)} | {default} | {_cell(entry.get('description', ''))} |"
        listed = _resolve(inner.get("items", {}), schema) if isinstance(inner.get("items"), dict) else {}
        if "properties" in listed:
            yield from _key_rows(listed, schema, f"{prefix}{name}[].")


def _resolve(entry: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """Return what a reference of the schema stands for."""
    if "$ref" in entry:
        return schema["$defs"][entry["$ref"].rsplit("/", 1)[-1]]
    if len(entry.get("allOf", [])) == 1:
        return _resolve(entry["allOf"][0], schema)
    return entry


def _type(entry: dict[str, Any], schema: dict[str, Any]) -> str:
    """Return the type of a key in a few words."""
    entry = _resolve(entry, schema)
    if "enum" in entry:
        return " or ".join(f"`{value}`" for value in entry["enum"])
    if "const" in entry:
        return f"`{entry['const']}`"
    if "anyOf" in entry:
        return " or ".join(dict.fromkeys(_type(option, schema) for option in entry["anyOf"]))
    kind = entry.get("type")
    if kind == "array":
        items = entry.get("items") or {"anyOf": entry.get("prefixItems", [{}])}
        return f"list of {_type(items, schema)}"
    if kind == "object":
        return "map" if "properties" not in entry else "section"
    names = {"boolean": "true or false", "integer": "integer", "number": "number", "string": "text", "null": "none"}
    text = "path" if entry.get("format") == "path" else names.get(str(kind), "text")
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = [f"{sign} {entry[key]:g}" for key, sign in signs.items() if isinstance(entry.get(key), int | float)]
    return f"{text} {', '.join(limits)}".strip()


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return value or '""'
    return str(value).replace("'", "").replace("|", "\\|")


def command_line_text() -> str:
    """Return the help of every command."""
    import typer.main

    from permil.cli import app

    return "\n".join(_command_help(typer.main.get_command(app), "permil")) + "\n"


def _command_help(command: Any, name: str) -> Iterator[str]:
    commands = dict(getattr(command, "commands", {}))
    hidden = commands.pop("run", None) if getattr(commands.get("run"), "hidden", False) else None
    for key, entry in (("", hidden),) if hidden is not None else ():
        yield from _one_command(entry, name + key)
    if not commands and hidden is None:
        yield from _one_command(command, name)
    for key in sorted(commands):
        if not commands[key].hidden:
            yield from _command_help(commands[key], f"{name} {key}")


def _one_command(command: Any, name: str) -> Iterator[str]:
    import click

    context = click.Context(command, info_name=name, terminal_width=100, max_content_width=100)
    yield from (f"## `{name}`", "", "```text", inspect.cleandoc(command.get_help(context)), "```", "")


@dataclass(frozen=True)
class Message:
    """An error of the source: class, sentence and remedy with the names of the values in braces, and the module that raises it."""

    error: str
    what: str
    remedy: str
    module: str


def messages() -> list[Message]:
    """Return the errors that the source raises with a sentence of its own."""
    found: dict[Message, None] = {}
    names = _error_names()
    for path in sorted(SOURCE.rglob("*.py")):
        module = ".".join(("permil", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names and node.args:
                remedy = next((word.value for word in node.keywords if word.arg == "remedy"), None)
                what = _text_of(node.args[0])
                if what:
                    found[Message(node.func.id, what, _text_of(remedy), module)] = None
    return list(found)


def _error_names() -> dict[str, str]:
    """Return the classes of errors of the package with the first line of their docstrings."""
    names = {}
    for path in sorted(SOURCE.rglob("errors.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and node.name.endswith("Error"):
                names[node.name] = (ast.get_docstring(node) or "").split("\n", 1)[0]
    return names


def _text_of(node: ast.expr | None) -> str:
    """Return a text of the source with its values in braces; "" if it is made elsewhere."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(
            _text_of(part) or (f"{{{_name_of(part)}}}" if isinstance(part, ast.FormattedValue) else "") for part in node.values
        )
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _text_of(node.left) + _text_of(node.right)
    if isinstance(node, ast.IfExp):
        return " / ".join(filter(None, (_text_of(node.body), _text_of(node.orelse))))
    return ""


def _name_of(part: ast.FormattedValue) -> str:
    names = re.findall(r"[A-Za-z_]\w*", ast.unparse(part.value))
    return names[-1] if names else "..."


def messages_text() -> str:
    """Return the messages of errors with their remedies, one table per class of error."""
    lines: list[str] = []
    every = messages()
    for error, meaning in sorted(_error_names().items()):
        rows = sorted({(message.what, message.remedy) for message in every if message.error == error})
        if rows:
            lines += ["", f"## {error}", "", meaning, "", "| message | what to do |", "|---|---|"]
            lines += [f"| {_quoted(what)} | {_quoted(remedy)} |" for what, remedy in rows]
    return "\n".join(lines).strip() + "\n"


def products() -> list[dict[str, Any]]:
    """Return the products of a run: path, content, and extensions or columns with their meaning."""
    import yaml

    listed: list[dict[str, Any]] = yaml.safe_load((Path(__file__).parent / "products.yaml").read_text(encoding="utf-8"))
    return listed


def products_text() -> str:
    """Return the products of a run with their extensions and columns."""
    lines = []
    for product in products():
        paths = ", ".join(f"`{path}`" for path in product["path"].split(", "))
        lines += ["", f"({product['anchor']})="] if "anchor" in product else [""]
        lines += [f"### {paths}", "", product["what"]]
        rows = list(_product_rows(product))
        if rows:
            lines += ["", f"| {'extension' if 'hdus' in product else 'column'} | content |", "|---|---|", *rows]
    return "\n".join(lines).strip() + "\n"


def _product_rows(product: dict[str, Any]) -> Iterator[str]:
    for names, meaning in product.get("columns", {}).items():
        yield f"| {_code(names)} | {_meaning(meaning)} |"
    for names, content in product.get("hdus", {}).items():
        if isinstance(content, str):
            yield f"| {names.replace('_', chr(92) + '_')} | {_meaning(content)} |"
            continue
        columns = "; ".join(f"{_code(inner)}: {_meaning(meaning)}" for inner, meaning in content.items())
        yield f"| {names} | table. {columns} |"


def _code(names: str) -> str:
    return ", ".join(f"`{name}`" for name in names.split(", "))


def _meaning(text: str) -> str:
    return text.replace("|", "\\|")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") or not text else ".")


def _cell(text: str) -> str:
    """Return a text as the cell of a table of MyST."""
    return re.sub(r"([|<>*_\[\]{}$\\])", r"\\\1", " ".join(text.split()))


def _quoted(text: str) -> str:
    return _cell(text) if text else "see the sentence"
