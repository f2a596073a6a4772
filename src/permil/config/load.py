"""Read configuration files, apply overrides and validate them."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_origin

from pydantic import BaseModel, ValidationError

from permil.config.base import FOLDER, Section
from permil.config.model import Config
from permil.config.names import with_names
from permil.errors import ConfigError, path_of, texts_of
from permil.yaml_file import parse_yaml, read_yaml

RECORD = "run.yaml"
"""Name of the file with the resolved configuration in a run's folder."""

_EXPLAINED = "`permil config example` explains every key"
_LONGEST_SHOWN = 200


def load_config(source: str | Path | Mapping[str, Any] | Config, overrides: Sequence[str] | None = None) -> Config:
    """Load a configuration from a file, or from its content.

    Relative paths in the file and in the overrides refer to the folder of the file, and ``~`` is the home folder. Detectors, rafts and LEDs
    may be written in any known spelling (see `permil.config.names`).

    Parameters
    ----------
    source
        YAML file; or its content as nested mappings or as a `Config`, where relative paths refer to the working folder.
    overrides
        ``section.key=value`` strings; the value is parsed as YAML. They take precedence over the file; a section given as a map
        replaces only the keys in the map.

    Returns
    -------
    Config
        Every key with its value.

    Raises
    ------
    ConfigError
        If the file is missing or not YAML, a key is unknown or duplicated, a value is not allowed, or a name is unknown.
    CameraError
        If a detector is named and the camera cannot be loaded.

    Examples
    --------
    >>> import permil
    >>> permil.load_config({"camera": "lsstcam-bin8", "flat": {"leds": ["red"]}}, ["seed=3"]).seed
    3
    """
    path = None if isinstance(source, Config | Mapping) else path_of(source, "the configuration")
    if path is not None:
        content = read_yaml(path)
    elif isinstance(source, Config):
        content = source.model_dump(exclude_unset=True)
    else:
        content = copy.deepcopy(dict(source))  # type: ignore[arg-type]
    _apply_overrides(content, [] if overrides is None else texts_of(overrides, "overrides of the configuration"))
    try:
        config = Config.model_validate(content, context={FOLDER: Path.cwd() if path is None else path.resolve().parent})
        own = {"simulate": config.simulate.camera, "simulate_spots": config.simulate_spots.camera}
        config = with_names(config, camera=config.camera, cameras=own, leds=config.exposures.leds)
    except ValidationError as error:
        raise _config_error(error, path) from error
    except ConfigError as error:
        error.path = None if path is None else str(path)
        raise
    record = config.output / RECORD
    if path is not None and record.exists() and record.samefile(path):
        raise ConfigError(
            f"the run would write {RECORD} over this file", path=path, remedy="rename it, or choose another folder with output="
        )
    return config


def read_record(path: Path) -> Config:
    """Read the resolved configuration that a run wrote (`RECORD`).

    Raises
    ------
    ConfigError
        If it is not that of this version.
    """
    try:
        return Config.model_validate(read_yaml(path).get("config"))
    except ValidationError as error:
        raise _config_error(error, path) from error


Kind = TypeVar("Kind", bound=Section)


def make_section(kind: type[Kind], given: Mapping[str, Any]) -> Kind:
    """Return one section of the configuration from its keys; relative paths refer to the working folder.

    Parameters
    ----------
    kind
        Class of a section of `Config`.

    Raises
    ------
    ConfigError
        If a key is unknown or a value is not allowed.
    """
    name = next(name for name, field in Config.model_fields.items() if field.annotation is kind)
    try:
        section: Kind = getattr(Config.model_validate({name: dict(given)}, context={FOLDER: Path.cwd()}), name)
    except ValidationError as error:
        raise _config_error(error, None) from error
    return section


def _apply_overrides(content: dict[str, Any], overrides: Sequence[str]) -> None:
    given: dict[tuple[str, ...], str] = {}
    for override in overrides:
        key, separator, text = override.partition("=")
        parts = tuple(key.strip().split("."))
        if not separator or not all(parts):
            raise ConfigError(
                f"the option {override!r} is not of the form section.key=value", remedy="write section.key=value", value=override
            )
        for before, other in given.items():
            shorter = min(len(before), len(parts))
            if before[:shorter] == parts[:shorter]:
                raise ConfigError(f"{other!r} and {override!r} set the same key", remedy="keep one of them", value=override)
        given[parts] = override
        try:
            value = parse_yaml(text)
        except ConfigError as error:
            raise ConfigError(f"the value of {key}: {error.what}", remedy="put it in quotes", value=text) from error
        _set(content, parts, value, override)


def _set(content: dict[str, Any], parts: tuple[str, ...], value: Any, override: str) -> None:
    here = content
    for part in parts[:-1]:
        # YAML reads a section without keys as None.
        deeper = here[part] = here.get(part) if here.get(part) is not None else {}
        if not isinstance(deeper, dict):
            raise ConfigError(f"{part} in {override!r} is not a section", remedy="write section.key=value", value=override)
        here = deeper
    before = here.get(parts[-1])
    if _section(list(parts)) is not None and isinstance(before, dict) and (value is None or isinstance(value, dict)):
        value = _merged(before, value or {}, list(parts))
    here[parts[-1]] = value


def _merged(before: dict[str, Any], change: dict[str, Any], location: list[str]) -> dict[str, Any]:
    """Merge a section over another, section by section."""
    merged = dict(before)
    for key, value in change.items():
        deeper = [*location, key]
        both_maps = isinstance(value, dict) and isinstance(before.get(key), dict)
        merged[key] = _merged(before[key], value, deeper) if both_maps and _section(deeper) is not None else value
    return merged


def _config_error(error: ValidationError, path: Path | None) -> ConfigError:
    # A misspelt key often leaves a required one missing: report the misspelling.
    entries = error.errors()
    first = next((entry for entry in entries if entry["type"] == "extra_forbidden"), entries[0])
    location = _location(first["loc"])
    key = ".".join(str(part) for part in location)
    if first["type"] == "extra_forbidden":
        known = sorted(model.model_fields) if (model := _section(location[:-1])) is not None else []
        close = difflib.get_close_matches(str(location[-1]).lower(), known, n=1)
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
        return ConfigError(f"key {key} is missing", path=path, remedy=f"give it; {_EXPLAINED}", key=key)
    # If several types are allowed, each of them gives an error.
    messages = [_message(entry) for entry in entries if _location(entry["loc"]) == location]
    value = first["input"]
    what = f"key {key}" if value is None else f"key {key} = {_shown(value)}"
    return ConfigError(f"{what}: {', or '.join(dict.fromkeys(messages))}", path=path, remedy=_EXPLAINED, key=key, value=value)


def _message(entry: Any) -> str:
    message = str(entry["msg"]).removeprefix("Value error, ")
    return message[:1].lower() + message[1:]


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]} ..."


def _location(loc: tuple[int | str, ...]) -> list[int | str]:
    """Return the keys and list indices of an error's location, without the union types that pydantic appends."""
    location: list[int | str] = []
    annotation: Any = Config
    for part in loc:
        model = _section_of(annotation)
        if isinstance(part, str) and model is None:
            if get_origin(annotation) is not dict or part == "[key]":
                break
            annotation = None
        elif isinstance(part, str) and model is not None:
            annotation = model.model_fields[part].annotation if part in model.model_fields else None
        location.append(part)
    return location


def _section(location: list[Any]) -> type[BaseModel] | None:
    """Return the section at a location, or of the list entries there; None for a plain value."""
    model: type[BaseModel] | None = Config
    for part in location:
        if isinstance(part, int):
            continue
        if model is None or part not in model.model_fields:
            return None
        model = _section_of(model.model_fields[part].annotation)
    return model


def _section_of(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for kind in getattr(annotation, "__args__", ()) if (found := _section_of(kind)) is not None), None)
