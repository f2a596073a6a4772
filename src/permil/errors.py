"""Errors and warnings of the package.

Every error is one clear sentence that names the file (if any), the fault and the remedy. The values in the sentence are also attributes,
so that a program can use them without parsing text.
"""

from __future__ import annotations

from collections.abc import Iterable
from os import PathLike, fspath
from pathlib import Path
from typing import Any


class PermilError(Exception):
    """Base class of all errors that a user can cause and correct; the command line returns exit code 2.

    Parameters
    ----------
    what
        What is wrong.
    path
        The file or folder concerned.
    remedy
        What to do about it.
    **data
        The values in the sentence; kept as attributes and in ``data``.

    Examples
    --------
    >>> import permil
    >>> try:
    ...     permil.load_camera("megacam")
    ... except permil.PermilError as error:
    ...     print(error.what)
    camera 'megacam' does not exist
    """

    def __init__(self, what: str, *, path: str | PathLike[str] | None = None, remedy: str | None = None, **data: Any) -> None:
        self.what = what
        self.path = None if path is None else str(path)
        self.remedy = remedy
        self.data = data
        for name, value in data.items():
            setattr(self, name, value)
        super().__init__(what)

    def __str__(self) -> str:
        """Return the sentence: ``path: what is wrong; what to do``."""
        sentence = self.what if self.path is None else f"{self.path}: {self.what}"
        return sentence if self.remedy is None else f"{sentence}; {self.remedy}"

    def __reduce__(self) -> tuple[Any, ...]:
        """Support pickling with all data."""
        return _rebuild, (type(self), self.what, self.path, self.remedy, self.data)


def _rebuild(kind: type[PermilError], what: str, path: str | None, remedy: str | None, data: dict[str, Any]) -> PermilError:
    return kind(what, path=path, remedy=remedy, **data)


class ConfigError(PermilError):
    """The configuration is wrong (unknown key, bad value, missing section)."""


class CameraError(PermilError):
    """A camera file is wrong, or a detector or amplifier is not in the camera."""


class InputError(PermilError):
    """A file or folder cannot be used."""


class RawFormatError(InputError):
    """A raw file does not have the documented format or the camera's geometry."""


class PositionError(PermilError):
    """Projector positions are missing, contradict each other or lie off every detector."""


class PhotodiodeError(PermilError):
    """Photodiode readings are missing or unusable."""


class CalibrationError(PermilError):
    """A bias, gain, linearity, crosstalk or defect input does not fit the data."""


class BeamError(PermilError):
    """A beam model cannot be fitted or evaluated."""


class FlatError(PermilError):
    """A flat cannot be made, compared or applied."""


class OutputError(PermilError):
    """A product cannot be written."""


class ButlerError(PermilError):
    """A Butler repository cannot be used, a query is wrong, or a repository refuses a product."""


class EngineError(PermilError):
    """Workers are not available, or a task kills them."""


class FileWarning(UserWarning):
    """A defective file is used, or is left out and processing continues."""


class CompareError(PermilError):
    """Stars and flat cannot be compared."""


class GridError(PermilError):
    """Points do not form an identifiable grid of spots."""


class SpotError(PermilError):
    """Spot measurements cannot be calibrated or mapped."""


def path_of(path: Any, what: str) -> Path:
    """Return a path given as text or as a path.

    Parameters
    ----------
    what
        What it is the path of, for the message.

    Raises
    ------
    InputError
        If it is neither.
    """
    if not isinstance(path, str | PathLike) or not isinstance(fspath(path), str):
        raise InputError(
            f"the path of {what} is {repr(path)[:60]} of type {type(path).__name__}",
            remedy="give it as text or as a pathlib.Path",
            value=path,
        )
    return Path(path)


def texts_of(texts: Any, what: str) -> list[str]:
    """Return texts given as a sequence.

    Raises
    ------
    InputError
        If it is something else, also a single text.
    """
    found = [texts] if isinstance(texts, str) or not isinstance(texts, Iterable) else list(texts)
    if isinstance(texts, str) or not all(isinstance(text, str) for text in found):
        raise InputError(
            f"{what} are {repr(texts)[:60]} of type {type(texts).__name__}", remedy="give a list of texts", value=texts
        )
    return [str(text) for text in found]
