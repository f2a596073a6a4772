"""Exposures that are taken already count as positions of a plan."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from astropy.table import Table
from plan_bench import planned_positions

from permil.config.plan import PlanConfig
from permil.errors import InputError
from permil.exposures import Exposure, exposures_to_table
from permil.exposures.index import Index
from permil.plan.positions import positions_taken
from permil.products import write_table


def row(number, detector, position, x, purpose, led="red"):
    return Exposure(
        obsid=f"E{number}",
        detector=detector,
        led=led,
        x_mm=x,
        y_mm=-x,
        mjd=59000.0 + number,
        purpose=purpose,
        position_id=position,
    )


ROWS = [
    row(3, "R22_S11", 1, 8.0, "pointing"),
    row(3, "R22_S12", 1, 8.0, "pointing"),
    row(4, "R22_S11", 1, 8.0, "pointing"),
    row(4, "R22_S12", 1, 8.0, "pointing"),
    row(1, "R22_S11", 2, 1.0, "scan"),
    row(2, "R22_S11", 3, np.nan, "scan"),
    row(5, "R22_S11", 4, 2.0, "spot"),
    row(0, "R22_S11", -1, 0.0, "bias", led=""),
]


def index_of(rows):
    return Index(exposures_to_table(rows))


def test_positions_in_the_order_of_time():
    positions = positions_taken(index_of(ROWS))
    assert [(position.x_mm, position.images, sorted(position.read)) for position in positions] == [
        (1.0, 1, ["R22_S11"]),
        (8.0, 2, ["R22_S11", "R22_S12"]),
    ]


def test_positions_keep_their_place_without_a_time():
    rows = [replace(each, mjd=np.nan) if each.obsid == "E1" else each for each in ROWS]
    assert [position.x_mm for position in positions_taken(index_of(rows))] == [1.0, 8.0]


def test_further_pointings_join_those_taken(tmp_path, lsstcam):
    write_table(tmp_path / "exposures.parquet", index_of(ROWS).to_table())
    plan = PlanConfig(taken=str(tmp_path), pointings={"points": [(0.0, 0.0)]})
    assert [position.x_mm for position in planned_positions(plan, lsstcam)] == [1.0, 8.0, 0.0]


def test_several_leds_need_a_name():
    index = index_of([*ROWS, row(9, "R22_S11", 7, 3.0, "scan", led="blue")])
    with pytest.raises(InputError, match=r"several LEDs .blue, red.; choose one with plan\.led"):
        positions_taken(index)
    assert [position.x_mm for position in positions_taken(index, "blue")] == [3.0]
    with pytest.raises(InputError, match="of LED uv with a position; the LEDs are blue, red"):
        positions_taken(index, "uv")


def test_nothing_taken():
    with pytest.raises(InputError, match="no scan or pointing with a position; the index has no scan or pointing"):
        positions_taken(index_of(ROWS[-2:]))


def test_a_table_that_is_no_index(tmp_path, lsstcam):
    write_table(tmp_path / "exposures.parquet", Table({"x": [1.0]}))
    with pytest.raises(InputError, match="not an index"):
        planned_positions(PlanConfig(taken=str(tmp_path / "exposures.parquet")), lsstcam)
