"""Open a Butler repository; errors of it as sentences."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from permil.errors import ButlerError, PermilError

_EXTRAS = {
    "botocore": "s3",
    "boto3": "s3",
    "requests": "https",
    "defusedxml": "https",
    "httpx2": "remote",
    "psycopg2": "postgres",
}
"""Extras of lsst-daf-butler by the module that is missing without them."""
_KEYS = {"cls", "datastore", "includeConfigs", "registry", "remote_butler", "root"}
"""Keys of a butler.yaml; every such file has at least one of them."""


def has_butler() -> bool:
    """Return whether lsst-daf-butler is installed."""
    return find_spec("lsst") is not None and find_spec("lsst.daf") is not None and find_spec("lsst.daf.butler") is not None


def require_butler(repo: str) -> None:
    """Raise an error unless lsst-daf-butler is installed.

    Parameters
    ----------
    repo
        Repository or dataset that is asked for, for the message.

    Raises
    ------
    ButlerError
        If it is not installed.
    """
    if not has_butler():
        raise ButlerError(
            "reading or writing a Butler repository needs lsst-daf-butler",
            path=repo,
            remedy="install it: pip install 'permil[butler]'",
        )


@contextlib.contextmanager
def open_repository(repo: str, *, collections: Sequence[str] = (), writeable: bool = False) -> Iterator[Any]:
    """Open a repository and close it in the end.

    Parameters
    ----------
    repo
        Folder, URI or label.
    collections
        Collections whose instrument, if they have only one, need not be named in a query.

    Yields
    ------
    lsst.daf.butler.Butler

    Raises
    ------
    ButlerError
        If lsst-daf-butler is not installed, there is no repository, or it cannot be opened.
    """
    require_butler(repo)
    from lsst.daf.butler import Butler

    _require_configuration(repo)
    # Without a handler, Python would print messages of the library beside ours.
    logging.getLogger("lsst").addHandler(logging.NullHandler())
    try:
        butler = Butler.from_config(repo, collections=list(collections) or None, writeable=writeable)
    except FileNotFoundError as error:
        raise ButlerError(
            "there is no Butler repository here",
            path=repo,
            remedy="give the folder with butler.yaml, its URI, or a label that DAF_BUTLER_REPOSITORY_INDEX lists",
        ) from error
    # Configurations, database drivers and managers of tables each raise exceptions of their own.
    except Exception as error:
        raise _sentence_of(error, repo, "cannot be opened as a Butler repository") from error
    with contextlib.closing(butler):
        yield butler


def _require_configuration(repo: str) -> None:
    """Raise an error if a file is named that is not the configuration of a repository; the Butler would make a database beside it."""
    path = Path(repo)
    if not path.is_file():
        return
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        found = None
    if not isinstance(found, dict) or not _KEYS & set(found):
        raise ButlerError(
            "this file is not the configuration of a Butler repository",
            path=repo,
            remedy="give the folder with butler.yaml, its URI, or a label that DAF_BUTLER_REPOSITORY_INDEX lists",
        )


@contextlib.contextmanager
def asking(repo: str, what: str, *, remedy: str = "") -> Iterator[None]:
    """Convert exceptions of a repository into sentences.

    Parameters
    ----------
    what
        What cannot be done, with the repository as subject.
    remedy
        What to do, unless the exception is of a known kind.

    Raises
    ------
    ButlerError
        If the context raises an exception that is not of permil.
    """
    try:
        yield
    except (PermilError, NameError, AssertionError):
        raise
    # Databases and datastores raise exceptions of many packages.
    except Exception as error:
        raise _sentence_of(error, repo, what, remedy) from error


def _sentence_of(error: Exception, repo: str, what: str, remedy: str = "") -> ButlerError:
    """Return the error that describes an exception of lsst-daf-butler."""
    kind, reason = type(error).__name__, _first_line(error)
    if isinstance(error, ModuleNotFoundError):
        extra = _EXTRAS.get(str(error.name).split(".")[0], "")
        remedy = f"install it: pip install 'lsst-daf-butler[{extra}]'" if extra else f"install {error.name}"
    elif "universe" in reason.lower() or kind in ("IncompatibleVersionError", "MissingManagerError", "ManagerMismatchError"):
        remedy = f"use a version of lsst-daf-butler that reads this repository; installed is {_version()}"
    elif kind in ("InvalidQueryError", "UserExpressionError", "UserExpressionSyntaxError") and "without constraining" in reason:
        remedy = "add the instrument to the condition: instrument = 'LSSTCam' AND ..."
    return ButlerError(
        f"{what} ({reason})", path=repo, remedy=remedy or f"check butler.yaml; installed is lsst-daf-butler {_version()}"
    )


def _version() -> str:
    from importlib.metadata import version

    return version("lsst-daf-butler")


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    if text[:1] in ("'", '"') and text[0] == text[-1]:
        # As a KeyError writes its message.
        text = text[1:-1]
    lines = text.splitlines() or [type(error).__name__]
    return lines[0].strip().rstrip(".")
