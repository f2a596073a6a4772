"""Reader of YAML files (configurations, camera files, files of the old analysis), and the base class of their models.

Plain YAML 1.1, as in PyYAML, changes input silently: of duplicate keys the last one wins, ``12:00:00`` becomes 43200, ``0123`` becomes 83,
``1e3`` stays text and ``on:`` becomes the key True. Here a duplicate key is an error, keys are always text, numbers keep their original
spelling, and values with a surprising YAML type stay text.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator
from yaml.reader import Reader

from permil.errors import ConfigError, PermilError

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAG = "tag:yaml.org,2002:"
_MERGE = f"{_TAG}merge"
_LARGEST_FILE = 10_000_000
_MOST_ENTRIES = 100_000
_DEEPEST = 100
_EXPONENT_ONLY = re.compile(r"[-+]?(\d[\d_]*\.?\d*|\.\d+)[eE][-+]?\d+")
"""Numbers such as ``1e3``, which YAML 1.1 reads as text."""
_LEADING_ZERO = re.compile(r"[-+]?0[0-9_]+")
_TRUE, _FALSE = ("true", "yes", "on"), ("false", "no", "off")


class WrittenInt(int):
    """An integer of a YAML file with its original spelling."""

    written: str

    def __repr__(self) -> str:
        """Return the original spelling."""
        return self.written


class WrittenFloat(float):
    """A real number of a YAML file with its original spelling."""

    written: str

    def __repr__(self) -> str:
        """Return the original spelling."""
        return self.written


def read_yaml(path: Path, *, kind: str = "configuration", error: type[PermilError] = ConfigError) -> dict[str, Any]:
    """Return the content of a YAML file whose top level is a map; an empty file is an empty map.

    Parameters
    ----------
    path
        The file: UTF-8, or UTF-16 with a byte order mark.
    kind
        Name of the kind of file in messages.
    error
        Class of the errors.

    Raises
    ------
    PermilError
        Of class ``error``, if the file cannot be read, is not YAML, has a duplicate key, or its top level is not a map.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(_LARGEST_FILE + 1)
    except (OSError, ValueError) as problem:
        reason = getattr(problem, "strerror", None) or problem
        raise error(f"the {kind} cannot be read ({reason})", path=path, remedy="check the path") from problem
    if len(content) > _LARGEST_FILE:
        raise error(f"larger than 10 MB: not a {kind}", path=path, remedy="give a YAML file")
    parsed = _Parser(_decoded(content, path, kind, error), path=path, error=error).content()
    if parsed is None:
        return {}
    if not isinstance(parsed, dict):
        raise error(f"not a {kind} (keys with values are expected)", path=path, remedy="write `key: value`, one key per line")
    return parsed


def parse_yaml(text: str) -> Any:
    """Return the content of a YAML text, such as the value of a command-line option.

    Raises
    ------
    ConfigError
        If it is not YAML or has a duplicate key.
    """
    return _Parser(text, path=None, error=ConfigError).content()


def _decoded(content: bytes, path: Path, kind: str, error: type[PermilError]) -> str:
    is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return content.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError as problem:
        line = 1 + content.count(b"\n", 0, problem.start)
        raise error(
            f"not UTF-8 text (byte 0x{content[problem.start]:02x} in line {line})",
            path=path,
            remedy=f"give a {kind} in YAML and save it as UTF-8",
        ) from problem


class _Parser:
    """Converter of the nodes of a YAML text to plain maps, lists and scalars."""

    def __init__(self, text: str, *, path: Path | None, error: type[PermilError]) -> None:
        self._text, self._path, self._error_class = text, path, error
        self._open: list[int] = []
        self._keys: list[str] = []
        self._entries = 0

    def content(self) -> Any:
        """Return the content of the only document."""
        wrong = Reader.NON_PRINTABLE.search(self._text)
        if wrong is not None:
            line = 1 + self._text.count("\n", 0, wrong.start())
            raise self._error(f"line {line} has the character U+{ord(wrong.group()):04X}, which YAML does not allow", "remove it")
        try:
            self._require_shallow()
            node = yaml.compose(self._text, Loader=_LOADER)
        except yaml.MarkedYAMLError as problem:
            raise self._not_yaml(problem) from problem
        return None if node is None else self._value(node)

    def _require_shallow(self) -> None:
        # Nodes are composed recursively; a text of brackets alone could exhaust the recursion limit.
        depth = 0
        for event in yaml.parse(self._text, Loader=_LOADER):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST:
                line = 1 if event.start_mark is None else event.start_mark.line + 1
                raise self._error(f"line {line} is nested more than {_DEEPEST} levels deep", "check the brackets there")

    def _not_yaml(self, problem: yaml.MarkedYAMLError) -> PermilError:
        mark = problem.problem_mark or problem.context_mark
        line = "" if mark is None else f" in line {mark.line + 1}"
        if problem.problem == "but found another document":
            return self._error(f"a second document starts{line}", "keep one, and no other line of ---")
        if mark is not None and mark.line < len(lines := self._text.splitlines()) and "\t" in lines[mark.line]:
            return self._error(f"not valid YAML{line}, which has a tab", "indent with spaces")
        return self._error(f"not valid YAML{line} ({problem.problem})", "check indentation, colons, quotes and brackets there")

    def _value(self, node: yaml.Node) -> Any:
        self._entries += 1
        line = node.start_mark.line + 1
        if self._entries > _MOST_ENTRIES:
            raise self._error(
                f"more than {_MOST_ENTRIES} entries, including those repeated by aliases", "write fewer aliases (*name)"
            )
        if id(node) in self._open:
            raise self._error(f"the entry that starts in line {line} contains itself by an alias (*name)", "remove the alias")
        self._open.append(id(node))
        try:
            if isinstance(node, yaml.MappingNode) and node.tag == f"{_TAG}map":
                return self._map(node)
            if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
                return [self._value(entry) for entry in node.value]
            if isinstance(node, yaml.ScalarNode):
                return self._scalar(node)
        finally:
            self._open.pop()
        raise self._unknown_tag(node)

    def _map(self, node: yaml.MappingNode) -> dict[str, Any]:
        own: dict[str, Any] = {}
        inherited: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            key, line = self._key(key_node), key_node.start_mark.line + 1
            if key in lines:
                name, before = ".".join([*self._keys, key]), lines[key]
                where = f"in line {line}" if line == before else f"in line {before} and in line {line}"
                raise self._error(f"key {name} is given twice, {where}", "keep one of them")
            lines[key] = line
            if key_node.tag == _MERGE:
                inherited = self._merged(value_node)
                continue
            self._keys.append(key)
            own[key] = self._value(value_node)
            self._keys.pop()
        # Keys of the map itself take precedence over those of a merge key.
        return inherited | own

    def _merged(self, node: yaml.Node) -> dict[str, Any]:
        """Return the map of a merge key (<<); of several maps the first takes precedence."""
        maps = node.value if isinstance(node, yaml.SequenceNode) else [node]
        merged: dict[str, Any] = {}
        for one in maps:
            if not isinstance(one, yaml.MappingNode):
                raise self._error(
                    f"the merge key << in line {node.start_mark.line + 1} names no map", "write `<<: *name` of a map"
                )
            merged = self._value(one) | merged
        return merged

    def _key(self, node: yaml.Node) -> str:
        line = node.start_mark.line + 1
        if not isinstance(node, yaml.ScalarNode) or not node.value.strip():
            raise self._error(f"a key in line {line} is empty or not a name", "write `key: value`")
        key = str(node.value)
        hidden = next((letter for letter in key if letter != " " and not letter.isprintable()), None)
        if hidden is not None:
            raise self._error(
                f"the key {key.strip()} in line {line} has the invisible character U+{ord(hidden):04X}", "retype the line"
            )
        return key

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        text, tag = str(node.value), node.tag.removeprefix(_TAG)
        is_plain = node.style is None or node.style == ""
        if tag in ("str", "timestamp", "value", "merge"):
            return self._number(text, float) if is_plain and tag == "str" and _EXPONENT_ONLY.fullmatch(text) else text
        if tag == "null":
            return None
        if tag == "bool":
            return text.lower() in _TRUE
        if tag in ("int", "float"):
            # YAML 1.1 reads 12:00:00 and 0123 as 43200 and 83, which is never intended.
            if ":" in text or (tag == "int" and _LEADING_ZERO.fullmatch(text)):
                return text
            return self._number(text, _integer if tag == "int" else _real)
        raise self._unknown_tag(node)

    def _number(self, text: str, kind: Callable[[str], Any]) -> Any:
        try:
            number = kind(text.replace("_", ""))
        except ValueError:
            return text
        written: Any = WrittenInt(number) if isinstance(number, int) else WrittenFloat(number)
        written.written = text
        return written

    def _unknown_tag(self, node: yaml.Node) -> PermilError:
        tag = node.tag.replace(_TAG, "!!")
        return self._error(f"the tag {tag} in line {node.start_mark.line + 1} is not supported", "write the value without it")

    def _error(self, what: str, remedy: str) -> PermilError:
        return self._error_class(what, path=self._path, remedy=remedy)


def _integer(text: str) -> int:
    sign = -1 if text.startswith("-") else 1
    digits = text.lstrip("+-").lower()
    for prefix, base in (("0b", 2), ("0x", 16)):
        if digits.startswith(prefix):
            return sign * int(digits[2:], base)
    return sign * int(digits)


def _real(text: str) -> float:
    # YAML writes .inf and .nan.
    return float(re.sub(r"\.(inf|nan)$", r"\1", text.lower()))


class YamlModel(BaseModel):
    """Base class of models of YAML files: immutable; unknown keys are errors; numbers are finite unless a key declares otherwise.

    Values are converted to the declared type: numbers to their original spelling if text is declared, a single entry to a list of one, an
    empty section to the section with its defaults. Booleans and numbers are never converted to each other.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False, ser_json_inf_nan="constants"
    )

    @field_validator("*", mode="before")
    @classmethod
    def _fit(cls, value: Any, info: ValidationInfo) -> Any:
        return _fitted(cls.model_fields[info.field_name or ""].annotation, value)


def merged(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """Merge a map over another, map by map; an empty entry leaves a map unchanged."""
    result = dict(base)
    for key, value in change.items():
        below = result.get(key)
        if isinstance(below, dict) and (value is None or isinstance(value, dict)):
            result[key] = merged(below, value or {})
        else:
            result[key] = value
    return result


@lru_cache(maxsize=1000)
def _alternatives(annotation: Any) -> list[Any]:
    """Return the types of a union, without annotations."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _alternatives(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return [kind for part in get_args(annotation) for kind in _alternatives(part)]
    return [annotation]


def _fitted(annotation: Any, value: Any) -> Any:
    """Convert a value of a YAML file to the declared type."""
    kinds = _alternatives(annotation)
    if Any in kinds:
        return plain(value)
    sections = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
    choices = [choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
    items = next((get_args(kind)[0] for kind in kinds if _is_list(kind)), None)
    if value is None and NoneType not in kinds:
        if sections:
            return {}
        raise ValueError("it is empty; give a value, or leave the key out")
    if isinstance(value, list | tuple):
        fixed = next((get_args(kind) for kind in kinds if get_origin(kind) is tuple), ())
        if items is None and len(fixed) == len(value):
            return [_fitted(kind, entry) for kind, entry in zip(fixed, value, strict=True)]
        return value if items is None else [_fitted(items, entry) for entry in value]
    if isinstance(value, dict):
        entries = next((get_args(kind)[1] for kind in kinds if get_origin(kind) is dict), None)
        if entries is not None:
            return {key: _fitted(entries, entry) for key, entry in value.items()}
        return [value] if items is not None and not sections else value
    if items is not None and isinstance(value, str | int | float | Path) and not isinstance(value, bool) and str not in kinds:
        if isinstance(value, str) and "," in value and not choices and Path not in _alternatives(items):
            raise ValueError(f"write a list: [{', '.join(part.strip() for part in value.split(','))}]")
        return value if value in choices else [_fitted(items, value)]
    return _fitted_scalar(kinds, choices, value)


def _is_list(kind: Any) -> bool:
    arguments = get_args(kind)
    return get_origin(kind) is list or (get_origin(kind) is tuple and len(arguments) == 2 and arguments[1] is Ellipsis)


def _fitted_scalar(kinds: list[Any], choices: list[Any], value: Any) -> Any:
    takes_text, takes_number = str in kinds or Path in kinds, int in kinds or float in kinds
    if isinstance(value, bool):
        meant = [choice for choice in choices if choice in (_TRUE if value else _FALSE)]
        if len(meant) == 1:
            return meant[0]
        if bool not in kinds:
            need = "write a number" if takes_number and not takes_text else "put the text in quotes"
            raise ValueError(f"yes, no, on, off, true and false are truth values in YAML; {need}")
        return value
    if bool in kinds and isinstance(value, str | int | float):
        raise ValueError("write true or false")
    if isinstance(value, int | float):
        if takes_number:
            return plain(value)
        if takes_text or choices:
            return getattr(value, "written", str(value) if isinstance(value, int) else value)
        return plain(value)
    if isinstance(value, str) and not takes_text:
        if takes_number and _LEADING_ZERO.fullmatch(value.strip()):
            digits = value.strip().lstrip("+-0_") or "0"
            raise ValueError(f"numbers with leading zeros are octal in YAML; write {digits}")
        if takes_number and _EXPONENT_ONLY.fullmatch(value.strip()):
            return float(value)
        same = [choice for choice in choices if str(choice).casefold() == value.casefold()]
        return same[0] if len(same) == 1 else value
    return value


def plain(value: Any) -> Any:
    """Return a value with plain numbers."""
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, WrittenInt):
        return int(value)
    return float(value) if isinstance(value, WrittenFloat) else value
