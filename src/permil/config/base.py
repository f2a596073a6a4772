"""The base of every section of the configuration, and the one type of its paths."""

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
"""Entry of the validation context: the folder that relative paths are relative to."""

_VARIABLE = re.compile(r"(^|/)\$(\w+|\{\w+\})")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


class Section(YamlModel):
    """One section of the configuration.

    Give every field a ``Field(description=...)``: the example configuration and the documentation are made from it. Annotate every
    field that holds a path with `FileName`.
    """


@dataclass(frozen=True)
class FileName:
    """What makes a key of the configuration a path: ``Annotated[str, FileName("none")]`` or ``Annotated[Path, FileName()]``.

    ``~`` and ``~user`` are the home folder, a relative path is relative to the folder of the configuration, and environment variables
    are not expanded: a path that begins with one, or has one as a part of its own, is an error unless a file of just that name exists.

    Attributes
    ----------
    words
        Entries that are no paths, in any letter case; a file of such a name is written ``./none``. The empty text is one of them where
        a path may be left out.
    is_camera
        Whether the entry may be the name of a camera that comes with the package.
    """

    words: tuple[str, ...] = ()
    is_camera: bool = False

    def __init__(self, *words: str, is_camera: bool = False) -> None:
        object.__setattr__(self, "words", words)
        object.__setattr__(self, "is_camera", is_camera)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Let pydantic locate the path before it is taken as text or path."""
        return core_schema.with_info_before_validator_function(self._located, handler(source))

    def _located(self, entry: Any, info: ValidationInfo) -> Any:
        if not isinstance(entry, str | os.PathLike):
            return entry
        text = os.fspath(entry)
        if text.casefold() in self.words:
            return text.casefold()
        folder = (info.context or {}).get(FOLDER)
        if self.is_camera and _names_camera(text, folder):
            return text
        return str(located(text, folder))


def located(text: str, folder: Path | None = None) -> Path:
    """Return the path that a user's text means.

    Parameters
    ----------
    text
        A path, relative or not, or one that begins with ``~``.
    folder
        What a relative path is relative to; None leaves it as it is.

    Raises
    ------
    ValueError
        If it is empty, holds an environment variable or is an address; the message says what to write.
    """
    if not text or "\0" in text:
        raise ValueError("a path is expected; write `.` for the folder of the configuration itself")
    if _URL.match(text):
        raise ValueError("an address is no path; copy the files and name their folder")
    try:
        path = Path(text).expanduser()
    except RuntimeError as error:
        raise ValueError("the home folder is not known; write the whole path") from error
    path = path if folder is None else folder / path
    variable = _VARIABLE.search(text)
    if variable is not None and not os.path.lexists(path):
        raise ValueError(f"environment variables such as {variable[0].lstrip('/')} are not expanded; write the path itself")
    return path


def _names_camera(text: str, folder: Path | None) -> bool:
    """Return whether an entry is the name of a camera, not the path of a camera file."""
    if "/" in text or text.startswith("~") or text.endswith((".yaml", ".yml")):
        return False
    from permil.camera.load import camera_names

    return text in camera_names() or folder is None or not (folder / text).is_file()
