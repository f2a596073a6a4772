"""Images of one position share what the beam model lacks there: that is not called a jump of an amplifier."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.table import Table
from numpy.typing import NDArray

from permil.stability.findings import Finding, SeriesGroup, analyse, call, means_of
from permil.stability.stage import _of_fluxes

IMAGES = 5


def exposures_of(positions: int) -> Table:
    number = np.arange(positions * IMAGES)
    return Table({"hours": number / 100.0, "obsid": [f"e{place:04d}" for place in number], "move": number // IMAGES + 1})


def fluxes(seed: int, positions: int, *, step: float = 0.0) -> SeriesGroup:
    rng = np.random.default_rng(seed)
    of_position = 1e-4 * np.repeat(rng.standard_normal((positions, 40)), IMAGES, axis=0)
    values = of_position + 3e-5 * rng.standard_normal(of_position.shape)
    values[len(values) // 2 :, 0] += step
    return SeriesGroup("flux_over_light", "", values, [("R22_S11", str(number)) for number in range(40)])


def called(found: list[Finding]) -> set[str]:
    return {row.amp for row in call(found) if row.called}


def test_what_positions_share_is_not_called() -> None:
    exposures = exposures_of(24)
    by_image = by_position = 0
    for seed in range(4):
        group = fluxes(seed, 24)
        hours, obsids = np.asarray(exposures["hours"]), list(exposures["obsid"])
        by_image += len(called(analyse(group, hours, obsids, {})))
        by_position += len(called(list(_of_fluxes(group, exposures, {}))))
    assert by_position <= 1 < by_image


def test_a_step_is_found_at_the_first_image_of_a_position() -> None:
    exposures = exposures_of(24)
    found = call(_of_fluxes(fluxes(7, 24, step=2e-3), exposures, {}))
    (jump,) = (row for row in found if row.called and row.quantity == "jump")
    assert (jump.amp, jump.at, jump.n) == ("0", "e0060", 24)
    assert abs(jump.value - 2e-3) < 4 * jump.error
    scatter = next(row for row in found if row.amp == "1" and row.quantity == "scatter")
    assert scatter.n == 24 * IMAGES


def test_few_positions_are_not_tested() -> None:
    found = list(_of_fluxes(fluxes(8, 5, step=5e-3), exposures_of(5), {}))
    assert {row.quantity for row in found} == {"scatter", "successive", "drift", "jump"}
    assert not any(np.isfinite(row.p_value) for row in found)
    assert called(found) == set()


def test_means_of_groups() -> None:
    values: NDArray[np.float64] = np.array([[1.0, np.nan], [3.0, np.nan], [np.nan, 4.0], [5.0, 6.0]])
    assert means_of(values, np.array([3, 3, 7, 7])) == pytest.approx(np.array([[2.0, np.nan], [5.0, 5.0]]), nan_ok=True)
    assert means_of(np.zeros((0, 2)), np.zeros(0, dtype=np.int64)).shape == (0, 2)
