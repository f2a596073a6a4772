"""Read, override and validate configurations."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from permil.config.model import Config
from permil.errors import ConfigError


def load_config(path: str | Path, overrides: list[str] | None = None) -> Config:
    """Load a configuration file.

    Relative paths in it are relative to the file's own folder.

    Parameters
    ----------
    path
        YAML file.
    overrides
        ``section.key=value`` strings; the value is parsed as YAML. They win over the file.

    Raises
    ------
    ConfigError
        If the file is missing or not YAML, a key is unknown or a value is not allowed.
    """
    path = Path(path)
    content = read_yaml(path)
    for override in overrides or []:
        _set(content, override)
    return validate_config(content, path=path)


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the content of a YAML file whose top level is a map.

    Raises
    ------
    ConfigError
        If it is missing, not YAML or not a map.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise ConfigError(f"the configuration cannot be read ({reason})", path=path, remedy="check the path") from error
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f" in line {where.line + 1}" if where is not None else ""
        raise ConfigError(f"not valid YAML{line}", path=path, remedy="check indentation, colons and brackets there") from error
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise ConfigError("not a configuration (sections with keys are expected)", path=path, remedy="see docs/configuration.md")
    return content


def validate_config(content: dict[str, Any], *, path: Path) -> Config:
    """Validate the content of a configuration file and resolve its paths.

    Raises
    ------
    ConfigError
        With the key, the value and what is allowed.
    """
    try:
        return Config.model_validate(content).resolved(path.resolve().parent)
    except ValidationError as error:
        raise _config_error(error, path) from error


def _set(content: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    parts = key.strip().split(".")
    if not separator or not all(parts):
        raise ConfigError(f"cannot understand the option {override!r}", remedy="write section.key=value", value=override)
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"the value of {key} is not valid YAML", remedy="put it in quotes", value=text) from error
    here = content
    for part in parts[:-1]:
        deeper = here.setdefault(part, {})
        if not isinstance(deeper, dict):
            raise ConfigError(f"{part} in {override!r} is not a section", remedy="write section.key=value", value=override)
        here = deeper
    here[parts[-1]] = value


def _config_error(error: ValidationError, path: Path) -> ConfigError:
    # A misspelt key often leaves a required one missing: the misspelling is what the user should hear of.
    first = next((entry for entry in error.errors() if entry["type"] == "extra_forbidden"), error.errors()[0])
    location = [part for part in first["loc"] if not (isinstance(part, str) and "[" in part)]
    key = ".".join(str(part) for part in location)
    if first["type"] == "extra_forbidden":
        known = _known_keys(location[:-1])
        close = difflib.get_close_matches(str(location[-1]), known, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        where = ".".join(str(part) for part in location[:-1]) or "the top level"
        return ConfigError(
            f"unknown key {key}",
            path=path,
            remedy=f"{hint}keys of {where} are {', '.join(known)}",
            key=key,
            allowed=known,
        )
    if first["type"] == "missing":
        return ConfigError(f"key {key} is missing", path=path, remedy="give it; see docs/configuration.md", key=key)
    message = first["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    return ConfigError(
        f"key {key} = {first['input']!r}: {message}", path=path, remedy="see docs/configuration.md", key=key, value=first["input"]
    )


def _known_keys(location: list[Any]) -> list[str]:
    """Return the keys of the section at a location (list indices are passed over)."""
    model: Any = Config
    for part in location:
        if isinstance(part, int):
            continue
        annotation = model.model_fields[part].annotation
        while not hasattr(annotation, "model_fields"):
            inner = [kind for kind in getattr(annotation, "__args__", ()) if kind is not type(None)]
            if not inner:
                return []
            annotation = inner[-1]
        model = annotation
    return sorted(model.model_fields)
