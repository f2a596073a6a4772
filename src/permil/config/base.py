"""Base class of all sections of the configuration, and the annotation of keys that hold paths."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import GetCoreSchemaHandler, ValidationInfo
from pydantic_core import CoreSchema, core_schema

from permil.yaml_file import YamlModel

FOLDER = "folder"
"""Entry of the validation context: the folder to which relative paths refer."""

_VARIABLE = re.compile(r"(^|/)\$(\w+|\{\w+\})")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


class Section(YamlModel):
    """One section of the configuration.

    Give every field a ``Field(description=...)``, from which the example configuration and the documentation are generated. Annotate
    every field that holds a path with `ConfigPath`.
    """


@dataclass(frozen=True)
class ConfigPath:
    """Annotation of a key that holds a path: ``Annotated[str, ConfigPath("none")]`` or ``Annotated[Path, ConfigPath()]``.

    ``~`` and ``~user`` are home folders, and a relative path refers to the folder of the configuration. Environment variables are not
    expanded: a path that starts with one, or has one as a component, is an error unless a file of exactly that name exists.

    Attributes
    ----------
    keywords
        Entries that are not paths, case-insensitive; a file of such a name is written ``./none``. The empty text is a keyword if the
        path is optional.
    is_camera
        Whether the entry may be the name of a camera of the package.
    is_repository
        Whether the entry may be a URI, or the label of a Butler repository.
    """

    keywords: tuple[str, ...] = ()
    is_camera: bool = False
    is_repository: bool = False

    def __init__(self, *keywords: str, is_camera: bool = False, is_repository: bool = False) -> None:
        object.__setattr__(self, "keywords", keywords)
        object.__setattr__(self, "is_camera", is_camera)
        object.__setattr__(self, "is_repository", is_repository)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Resolve the path before pydantic validates it as text or path."""
        return core_schema.with_info_before_validator_function(self._located, handler(source))

    def _located(self, entry: Any, info: ValidationInfo) -> Any:
        if not isinstance(entry, str | os.PathLike):
            return entry
        text = os.fspath(entry)
        if text.casefold() in self.keywords:
            return text.casefold()
        folder = (info.context or {}).get(FOLDER)
        if self.is_camera and _names_camera(text, folder):
            return text
        if self.is_repository:
            return located_repository(text, folder)
        return str(located(text, folder))


def located(text: str, folder: Path | None = None) -> Path:
    """Return the path given by a user as text.

    Parameters
    ----------
    text
        A relative or absolute path, or one that starts with ``~``.
    folder
        Folder to which a relative path refers; None leaves the path relative.

    Raises
    ------
    ValueError
        If it is empty, holds an environment variable or is a URL; the message names the accepted form.
    """
    if not text or "\0" in text:
        raise ValueError("a path is expected; write `.` for the folder of the configuration itself")
    if _URL.match(text):
        raise ValueError("a URL is not a path; copy the files and give their folder")
    try:
        path = Path(text).expanduser()
    except RuntimeError as error:
        raise ValueError("the home folder is unknown; write the full path") from error
    path = path if folder is None else folder / path
    variable = _VARIABLE.search(text)
    if variable is not None and not os.path.lexists(path):
        raise ValueError(f"environment variables such as {variable[0].lstrip('/')} are not expanded; write the path itself")
    return path


def is_uri(text: str) -> bool:
    """Return whether a text is a URI, of a file or of a dataset of a Butler repository (``butler:REPO?...``)."""
    return _URL.match(text) is not None or text.startswith("butler:")


def located_repository(text: str, folder: Path | None = None) -> str:
    """Return the Butler repository given by a user: a URI or label as it is, a path as `located` returns it.

    Raises
    ------
    ValueError
        If it is neither; the message names the accepted form.
    """
    return text if _names_repository(text, folder) else str(located(text, folder))


def _names_camera(text: str, folder: Path | None) -> bool:
    """Return whether an entry is the name of a camera, not the path of a camera file."""
    if "/" in text or text.startswith("~") or text.endswith((".yaml", ".yml")):
        return False
    from permil.camera.load import camera_names

    return text in camera_names() or folder is None or not (folder / text).is_file()


def _names_repository(text: str, folder: Path | None) -> bool:
    """Return whether an entry is a URI or the label of a Butler repository, not the path of one."""
    if _URL.match(text):
        return True
    return re.fullmatch(r"\w[\w.+\-]*", text) is not None and not (folder or Path()).joinpath(text).exists()
