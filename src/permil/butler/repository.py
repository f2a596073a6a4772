"""Open a Butler repository; its errors as messages for the user; its names of instrument, detectors and light sources."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from permil.camera import Detector
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
        Repository or dataset that is requested, for the message.

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
    """Open a repository; it is closed at the end of the context.

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
    """Raise an error if a named file is not the configuration of a repository: the Butler would create a database next to it."""
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
    """Convert exceptions of a repository into errors of permil.

    Parameters
    ----------
    what
        The operation that fails, as a sentence.
    remedy
        Advice to the user, unless the exception is of a known kind.

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


_SKY_BANDS = frozenset("ugrizy")
_EMPTY_SLOT = re.compile(r"ef_\d+~(.+)")
_MOST_LISTED = 8


@dataclass(frozen=True)
class RepositoryNames:
    """Instrument, detectors and filters of a repository.

    Attributes
    ----------
    repo
        The repository, for messages.
    instrument
        Name of the instrument.
    detectors
        Numbers of detectors by their names.
    bands
        Bands of physical filters by their names.
    """

    repo: str
    instrument: str
    detectors: Mapping[str, int]
    bands: Mapping[str, str]

    @classmethod
    def read(cls, butler: Any, repo: str, instrument: str = "", *, option: str = "--instrument") -> RepositoryNames:
        """Read the names from a registry.

        Parameters
        ----------
        instrument
            Name of the instrument; empty: the only one.
        option
            How a user names it, for messages.

        Raises
        ------
        ButlerError
            If there is no such instrument, or several and none is named.
        """
        with asking(repo, "the registry cannot be read"):
            known = sorted(record.name for record in butler.query_dimension_records("instrument", explain=False))
            if instrument not in known and (instrument or len(known) != 1):
                what = f"there is no instrument {instrument}" if instrument else f"there are {len(known)} instruments"
                raise ButlerError(
                    f"{what} in this repository",
                    path=repo,
                    remedy=f"give {option}: {', '.join(known)}" if known else "register the instrument first",
                    value=instrument,
                    allowed=known,
                )
            name = instrument or known[0]
            detectors, filters = (
                butler.query_dimension_records(element, instrument=name, explain=False, limit=None)
                for element in ("detector", "physical_filter")
            )
            return cls(
                repo,
                name,
                {record.full_name: record.id for record in detectors},
                {record.name: str(record.band or "") for record in filters},
            )

    def detector_number(self, detector: Detector) -> int:
        """Return the number of a detector.

        Raises
        ------
        ButlerError
            If the repository does not have the detector, or under another number.
        """
        number = self.detectors.get(detector.name)
        if number == detector.id:
            return number
        what = (
            f"no detector {detector.name}"
            if number is None
            else f"detector {detector.name} as number {number}, not {detector.id}"
        )
        raise ButlerError(
            f"instrument {self.instrument} has {what} in this repository",
            path=self.repo,
            remedy="give the repository, or the --instrument, of this camera",
            value=detector.name,
        )

    def physical_filter(self, led: str, given: Mapping[str, str]) -> str:
        """Return the physical filter of an LED: that given, else one of its name, else that of an empty filter slot with the LED.

        Parameters
        ----------
        given
            Filters by LED. Only a filter that is given may be one of the sky.

        Raises
        ------
        ButlerError
            If there is none, several, or it is a filter of the sky.
        """
        wanted = given.get(led, led)
        if wanted in self.bands:
            if led not in given and self.bands[wanted] in _SKY_BANDS:
                raise ButlerError(
                    f"{wanted} is a filter of the sky (band {self.bands[wanted]})",
                    path=self.repo,
                    remedy=f"give --filter {led}={wanted} if the flat of the LED is meant for it",
                    value=wanted,
                )
            return wanted
        slots = [name for name in self.bands if (match := _EMPTY_SLOT.fullmatch(name)) and match[1] == wanted]
        if len(slots) == 1:
            return slots[0]
        listed = sorted(slots or self.bands)
        shown = ", ".join(listed[:_MOST_LISTED]) + (" ..." if len(listed) > _MOST_LISTED else "")
        raise ButlerError(
            f"instrument {self.instrument} has {'several filters' if slots else f'no physical filter {wanted}'} for LED {led}",
            path=self.repo,
            remedy=f"give --filter {led}=NAME, one of: {shown}" if listed else "register the filters of the instrument first",
            value=wanted,
            allowed=listed,
        )
