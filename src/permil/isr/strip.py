"""Strips: some rows of a detector that are read, reduced and used together, while they are in the cache of a core."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from permil.camera import Detector
from permil.camera.frames import segment_to_detector


@dataclass(frozen=True, eq=False)
class Strip:
    """The same raw rows of all segments: one run of rows of the detector, or two from opposite sides.

    Parameters
    ----------
    first, last
        Raw rows from ``first`` to ``last - 1`` are read, neighbours included.
    runs
        Rows of the detector without neighbours.
    detector_rows : ndarray of int, shape (n,)
        Rows of the detector with neighbours, rising.
    """

    first: int
    last: int
    runs: tuple[slice, ...]
    detector_rows: NDArray[np.int64]

    @cached_property
    def own_rows(self) -> tuple[slice, ...]:
        """Where the runs lie among ``detector_rows``."""
        begins = np.searchsorted(self.detector_rows, [run.start for run in self.runs])
        return tuple(slice(begin, begin + run.stop - run.start) for begin, run in zip(begins.tolist(), self.runs, strict=True))

    @cached_property
    def adjoining(self) -> tuple[slice, ...]:
        """Parts of ``detector_rows`` within which rows are neighbours on the detector."""
        return tuple(slice(*bounds) for bounds in _bounds(self.detector_rows))


def strips_of(detector: Detector, *, rows: int, neighbours: int) -> list[Strip]:
    """Return the strips of a detector; every row belongs to one.

    Parameters
    ----------
    rows
        Raw rows of a strip.
    neighbours
        Rows beside them that are read too.
    """
    n_rows = detector.amplifiers[0].ny
    strips = []
    for begin in range(0, n_rows, rows):
        end = min(begin + rows, n_rows)
        first, last = max(begin - neighbours, 0), min(end + neighbours, n_rows)
        own = _detector_rows(detector, begin, end)
        runs = tuple(slice(int(own[start]), int(own[stop - 1]) + 1) for start, stop in _bounds(own))
        strips.append(Strip(first, last, runs, _detector_rows(detector, first, last)))
    return strips


def _detector_rows(detector: Detector, first: int, last: int) -> NDArray[np.int64]:
    raw_rows = np.arange(first, last)
    places = [segment_to_detector(amplifier, np.zeros(raw_rows.size), raw_rows)[1] for amplifier in detector.amplifiers]
    return np.unique(np.concatenate(places)).astype(np.int64)


def _bounds(rows: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return where runs of numbers that follow each other begin and end."""
    breaks = (np.flatnonzero(np.diff(rows) != 1) + 1).tolist()
    return list(zip([0, *breaks], [*breaks, rows.size], strict=True))
