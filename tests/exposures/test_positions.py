"""Measured and commanded positions: offsets, fallbacks, and no mixtures."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from permil.errors import PositionError
from permil.exposures import measure_offsets, require_one_kind, resolve_positions

from .campaigns import REB1, scan_nodes, table_of, take

POSITIONS = scan_nodes(4)


def test_header_positions_are_taken_as_they_are() -> None:
    table = table_of(take(POSITIONS, REB1))
    (offset,) = resolve_positions(table)
    assert set(table["position_kind"]) == {"header"}
    np.testing.assert_array_equal(table["x_mm"], table["x_header_mm"])
    np.testing.assert_array_equal(table["y_mm"], table["y_header_mm"])
    assert not offset.is_named
    assert offset.n_exposures == len(POSITIONS)
    assert offset.scatter_mm < 0.05


def test_constant_offset_is_found_and_applied_to_fallbacks() -> None:
    with_both = take(POSITIONS, REB1, offset=(5.0, -7.0), leds=["red"])
    folder_only = take(POSITIONS, REB1, offset=(5.0, -7.0), leds=["blue"], header=False, start=500)
    table = table_of(with_both + folder_only)
    (offset,) = resolve_positions(table)
    assert offset.is_named
    assert (offset.x_mm, offset.y_mm) == (pytest.approx(5.0, abs=0.01), pytest.approx(-7.0, abs=0.01))
    blue = table[table["led"] == "blue"]
    assert set(blue["position_kind"]) == {"folder+offset"}
    np.testing.assert_allclose(blue["x_mm"], blue["x_folder_mm"] + 5.0, atol=0.01)
    np.testing.assert_allclose(blue["y_mm"], blue["y_folder_mm"] - 7.0, atol=0.01)
    assert set(table[table["led"] == "red"]["position_kind"]) == {"header"}
    require_one_kind(table)


def test_one_missing_header_turns_the_whole_group_to_commanded_positions() -> None:
    exposures = take(POSITIONS, ["R22_S11"], offset=(5.0, -7.0))
    exposures[3] = dataclasses.replace(exposures[3], x_header_mm=float("nan"), y_header_mm=float("nan"))
    table = table_of(exposures)
    resolve_positions(table)
    assert set(table["position_kind"]) == {"folder+offset"}
    difference = np.stack([table["x_mm"] - table["x_folder_mm"], table["y_mm"] - table["y_folder_mm"]])
    assert np.ptp(difference, axis=1).max() < 1e-12


def test_offsets_of_runs_are_kept_apart() -> None:
    table = table_of(
        take(POSITIONS, REB1, run="13260", offset=(5.0, -7.0)) + take(POSITIONS, REB1, run="6840D", offset=(0.0, 0.0), start=100)
    )
    offsets = measure_offsets(table)
    assert [(offset.run, round(offset.x_mm), round(offset.y_mm), offset.is_named) for offset in offsets] == [
        ("13260", 5, -7, True),
        ("6840D", 0, 0, False),
    ]


def test_jobs_of_a_run_may_differ() -> None:
    exposures = (
        take(POSITIONS, REB1, job="1", offset=(5.0, -7.0))
        + take(POSITIONS, REB1, job="2", start=100)
        + take(POSITIONS, REB1, job="1", offset=(5.0, -7.0), leds=["blue"], header=False, start=200)
    )
    table = table_of(exposures)
    offsets = resolve_positions(table)
    assert [(offset.job, round(offset.x_mm, 1)) for offset in offsets] == [("1", 5.0), ("2", 0.0)]
    blue = table[table["led"] == "blue"]
    np.testing.assert_allclose(blue["x_mm"] - blue["x_folder_mm"], 5.0, atol=0.01)


def test_scatter_is_an_error_that_names_run_and_worst_file() -> None:
    exposures = take(POSITIONS, ["R22_S11"])
    exposures[7] = dataclasses.replace(exposures[7], x_header_mm=exposures[7].x_folder_mm + 3.0)
    table = table_of(exposures, shuffle=3)
    with pytest.raises(PositionError, match=rf"run 6840D: .*scatters by [23]\.\d+ mm.*worst file is {exposures[7].path};"):
        resolve_positions(table)


@pytest.mark.parametrize("preference", ["header", "folder"])
def test_preference_settles_a_scatter(preference: str) -> None:
    exposures = take(POSITIONS, ["R22_S11"], jitter=1.0)
    table = table_of(exposures)
    (offset,) = resolve_positions(table, preference=preference)
    assert not offset.is_constant
    assert set(table["position_kind"]) == {preference}
    np.testing.assert_array_equal(table["x_mm"], table[f"x_{preference}_mm"])


def test_forced_folder_positions_carry_a_constant_offset() -> None:
    table = table_of(take(POSITIONS, ["R22_S11"], offset=(5.0, -7.0), jitter=0.0))
    resolve_positions(table, preference="folder")
    assert set(table["position_kind"]) == {"folder+offset"}
    np.testing.assert_allclose(table["x_mm"], table["x_header_mm"])


def test_no_kind_serves_all() -> None:
    table = table_of(take(POSITIONS, REB1, folder=False) + take(POSITIONS, REB1, header=False, start=100))
    with pytest.raises(
        PositionError, match=r"run 6840D, LED red: of 96 files 48 have a header position and 48 a folder position"
    ):
        resolve_positions(table)


def test_exposures_without_any_position_keep_nan() -> None:
    table = table_of(take(POSITIONS, REB1) + take(POSITIONS, REB1, header=False, folder=False, start=100))
    resolve_positions(table)
    lost = ~np.isfinite(table["x_mm"])
    assert lost.sum() == 48
    assert set(table["position_kind"][lost]) == {""}
    assert set(table["position_kind"][~lost]) == {"header"}


def test_kinds_must_be_comparable() -> None:
    scan = table_of(take(POSITIONS, REB1, run="scan"))
    pointings = table_of(take(POSITIONS, REB1, run="flat", header=False, start=100))
    resolve_positions(scan)
    resolve_positions(pointings)
    assert set(pointings["position_kind"]) == {"folder"}
    require_one_kind(scan)
    require_one_kind(pointings, pointings)
    with pytest.raises(
        PositionError, match=r"position of run flat is known from folder names only.*that of run scan from headers"
    ):
        require_one_kind(scan, pointings)


def test_small_measured_offset_makes_folders_comparable() -> None:
    pointings = table_of(
        take(POSITIONS, REB1, run="flat", offset=(0.008, 0.0))
        + take(POSITIONS, REB1, run="flat", leds=["blue"], header=False, start=100)
    )
    scan = table_of(take(POSITIONS, REB1, run="scan", leds=["blue"], start=200))
    resolve_positions(scan)
    resolve_positions(pointings)
    blue = pointings[pointings["led"] == "blue"]
    assert set(blue["position_kind"]) == {"folder+offset"}
    require_one_kind(scan, blue)


def test_empty_table() -> None:
    table = table_of([])
    assert resolve_positions(table) == []
    require_one_kind(table)
