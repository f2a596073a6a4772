"""Public functions use one thread of numerical libraries: on a busy machine, threads wait for each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from threadpoolctl import threadpool_info, threadpool_limits

import permil

GRID = np.array([(x, y) for x in np.linspace(-20.0, 20.0, 12) for y in np.linspace(-20.0, 20.0, 12)])


def threads() -> set[int]:
    """Return the numbers of threads that numerical libraries may use now."""
    return {int(library["num_threads"]) for library in threadpool_info()}


class Watched:
    """An array that notes the threads that may be used when a function reads it."""

    def __init__(self, values: NDArray[np.float64]) -> None:
        self.values = values
        self.seen: set[int] = set()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[np.float64]:
        """Return the values."""
        self.seen |= threads()
        return np.array(self.values, dtype=dtype)

    def __len__(self) -> int:
        """Return their number."""
        return len(self.values)

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the values."""
        self.seen |= threads()
        return iter(self.values)


def solve_joint() -> set[int]:
    x, y = GRID.T
    cx, cy = 1.2 * GRID[::3].T
    light = 0.01 * np.sin(x) - ((x - cx[:, None]) ** 2 + (y - cy[:, None]) ** 2) / 4000
    exposures = permil.ExposureList(cx, cy, np.zeros(len(cx)), np.arange(float(len(cx))))
    detector = permil.DetectorSignals("mine", x, y, range(len(cx)), light, np.full(light.shape, 1e-6))
    seen: set[int] = set()
    permil.solve_joint(exposures, [detector], spacing_mm=15.0, progress=lambda _: seen.update(threads()))
    return seen


def correlate() -> set[int]:
    a = Watched(np.random.default_rng(1).standard_normal(len(GRID)))
    permil.correlate(a, a.values, *GRID.T, methods=())
    return a.seen


def check_plan() -> set[int]:
    positions = Watched(GRID[::6])
    permil.check_plan(positions, "lsstcam", detectors=["R22_S11"])
    return positions.seen


def calibrate_spots() -> set[int]:
    seen: set[int] = set()

    class Catalogs(list[Any]):
        def __iter__(self) -> Iterator[Any]:
            """Iterate over no catalog."""
            seen.update(threads())
            return super().__iter__()

    with pytest.raises(permil.PermilError):
        permil.calibrate_spots(Catalogs())
    return seen


@pytest.mark.parametrize("function", [solve_joint, correlate, check_plan, calibrate_spots])
def test_numerical_libraries_have_one_thread_within_and_as_many_as_before_after(function: Callable[[], set[int]]) -> None:
    function()  # loads all libraries
    with threadpool_limits(2):
        before = threads()
        if before != {2}:
            pytest.skip("numerical libraries have one thread here")
        assert function() == {1}
        assert threads() == before
