"""Names that a repository has for instrument, detectors and light sources."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from permil.butler.repository import asking
from permil.camera import Detector
from permil.errors import ButlerError

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
