"""Nodes from tables, and what is wrong with a table."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.table import Table
from beams import plateau, scan_positions

from permil.beam import BeamModel, BeamNodes, nodes_from_table
from permil.camera import Camera
from permil.camera.frames import detector_to_ccs, segment_to_detector
from permil.errors import BeamError, InputError, PermilError, PhotodiodeError


def table_of(count: int = 6, **columns: object) -> Table:
    x, y = scan_positions(count)
    table = Table({"x_mm": x, "y_mm": y, "signal": 1e4 * plateau(-x, -y)})
    for name, column in columns.items():
        table[name] = column
    return table


def test_without_a_place_the_beam_is_reflected() -> None:
    nodes = nodes_from_table(table_of())
    np.testing.assert_array_equal(nodes.ux, -nodes.x_mm)
    np.testing.assert_array_equal(nodes.uy, -nodes.y_mm)


def test_places_from_columns() -> None:
    nodes = nodes_from_table(table_of(ref_x_mm=10.0, ref_y_mm=-3.0))
    np.testing.assert_array_equal(nodes.ux, 10.0 - nodes.x_mm)
    np.testing.assert_array_equal(nodes.uy, -3.0 - nodes.y_mm)


@pytest.mark.parametrize("amp", ["C14", 5])
def test_places_from_the_camera(lsstcam: Camera, amp: str | int) -> None:
    nodes = nodes_from_table(table_of(detector="R22_S11", amp=amp, row=1000, column=256, box=30), camera=lsstcam)
    detector = lsstcam["R22_S11"]
    # The bunch covers 15 pixels below its centre and 14 above.
    expected = detector_to_ccs(detector, *segment_to_detector(detector.amplifier("C14"), 255.5, 999.5))
    np.testing.assert_allclose(nodes.ref_x_mm, expected[0], atol=1e-9)
    np.testing.assert_allclose(nodes.ref_y_mm, expected[1], atol=1e-9)
    assert expected == pytest.approx((10.015, 2.565), abs=0.02)


def test_photodiode_divides_signal_and_error_and_bad_readings_are_listed() -> None:
    photodiode = np.full(36, 0.5)
    photodiode[[3, 8, 11]] = np.nan, 0.0, -1.0
    nodes = nodes_from_table(table_of(photodiode=photodiode, signal_err=2.0))
    assert nodes.dropped == {"photodiode is missing, zero or negative": [3, 8, 11]}
    assert len(nodes) == 33
    np.testing.assert_allclose(nodes.signal_err, 4.0)
    np.testing.assert_allclose(nodes.signal[0], table_of()["signal"][0] / 0.5)


def test_no_usable_photodiode_is_an_error() -> None:
    with pytest.raises(PhotodiodeError, match="no node has a usable photodiode"):
        nodes_from_table(table_of(photodiode=np.nan))


def test_missing_and_negative_signals_are_dropped_and_listed() -> None:
    table = table_of()
    table["signal"][[1, 5, 9]] = np.nan, -3.0, 0.0
    table["x_mm"][20] = np.inf
    nodes = nodes_from_table(table)
    assert nodes.dropped == {"position is not finite": [20], "signal is missing, zero or negative": [1, 5, 9]}
    assert set(nodes.rows.tolist()) == set(range(36)) - {1, 5, 9, 20}
    assert np.isfinite(BeamModel.fit(nodes).evaluate(0.0, 0.0)[0])


def test_masked_signals_are_missing() -> None:
    table = Table(table_of(), masked=True)
    table["signal"].mask[4] = True
    assert nodes_from_table(table).dropped == {"signal is missing, zero or negative": [4]}


def test_missing_columns_are_named() -> None:
    table = table_of()
    table.rename_column("signal", "flux")
    with pytest.raises(InputError, match=r"column signal is missing; .* this one has x_mm, y_mm, flux"):
        nodes_from_table(table)


def test_text_in_a_numeric_column() -> None:
    with pytest.raises(InputError, match="column signal_err holds 'bright' in row 1, which is not a number"):
        nodes_from_table(table_of(signal_err="bright"))


def test_half_a_place_is_an_error() -> None:
    with pytest.raises(InputError, match="column ref_x_mm alone"):
        nodes_from_table(table_of(ref_x_mm=1.0))


def test_several_amplifiers_without_places() -> None:
    with pytest.raises(
        BeamError, match=r"2 amplifiers but not where they are; add columns ref_x_mm and ref_y_mm .* or choose one"
    ):
        nodes_from_table(table_of(amp=np.arange(36) % 2))


def test_one_amplifier_is_taken() -> None:
    nodes = nodes_from_table(table_of(amp=np.arange(36) % 2 + 1), amp=2)
    np.testing.assert_array_equal(nodes.rows, np.arange(1, 36, 2))


@pytest.mark.parametrize(("columns", "message"), [({"amp": 1}, "no amplifier 7; it has 1"), ({}, "no column amp")])
def test_amplifier_that_is_not_there(columns: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        nodes_from_table(table_of(**columns), amp=7)


def test_exposures_are_told_by_position() -> None:
    x = np.tile([0.0, 1.0, 2.0], 2)
    nodes = BeamNodes.from_columns(x, 0.0, 1.0, bunch=np.repeat(["a", "b"], 3))
    np.testing.assert_array_equal(nodes.exposure[:3], nodes.exposure[3:])
    assert len(set(nodes.exposure.tolist())) == 3


def test_repeated_positions_without_time_are_not_guessed() -> None:
    x, signal = [0.0, 0.0, 0.0, 0.0, 5.0, 5.0], [1.0, 1.1, 1.2, 1.3, 1.4, 1.5]
    nodes = BeamNodes.from_columns(x, 0.0, signal, bunch=["a", "a", "b", "b", "a", "b"])
    assert nodes.exposure[:4].tolist() == [-1] * 4
    assert nodes.exposure[4] == nodes.exposure[5] >= 0
    timed = BeamNodes.from_columns(0.0, 0.0, np.ones(4), bunch=["a", "a", "b", "b"], mjd=[1.0, 2.0, 2.0, 1.0])
    assert timed.exposure[0] == timed.exposure[3] != timed.exposure[1] == timed.exposure[2]


def test_too_few_nodes_says_how_many() -> None:
    with pytest.raises(BeamError, match=r"9 nodes at 9 positions are too few .* it needs 10") as caught:
        BeamModel.fit(nodes_from_table(table_of(3)))
    assert caught.value.needed == 10


def test_too_few_nodes_names_what_was_left_out() -> None:
    table = table_of(4)
    table["signal"][:8] = -1.0
    with pytest.raises(BeamError, match=r"8 more were left out: signal is missing, zero or negative"):
        BeamModel.fit(nodes_from_table(table))


def test_many_repeated_positions_are_still_too_few() -> None:
    x, y = (np.tile(axis, 10) for axis in scan_positions(3))
    with pytest.raises(BeamError, match="90 nodes at 9 positions are too few"):
        BeamModel.fit(BeamNodes.from_columns(x, y, plateau(x, y) * (1 + 1e-4 * np.random.default_rng(0).standard_normal(90))))


@pytest.mark.parametrize("angle", [0.0, 0.3, np.pi / 2])
def test_collinear_nodes(angle: float) -> None:
    place = np.linspace(-30.0, 30.0, 20)
    with pytest.raises(BeamError, match="20 nodes lie on one line"):
        BeamModel.fit(BeamNodes.from_columns(place * np.cos(angle), place * np.sin(angle), plateau(place, 0.0)))


def test_equal_signals() -> None:
    with pytest.raises(BeamError, match="all 36 nodes have the same signal"):
        BeamModel.fit(nodes_from_table(table_of(signal=5.0)))


@pytest.mark.parametrize("name", ["signal", "x_mm"])
def test_the_class_itself_takes_nothing_unusable(name: str) -> None:
    nodes = nodes_from_table(table_of())
    arrays = {field: getattr(nodes, field) for field in BeamNodes.__dataclass_fields__}
    arrays[name] = np.where(np.arange(36) == 3, np.nan, arrays[name])
    with pytest.raises(BeamError, match=r"not finite|not positive"):
        BeamNodes(**arrays)
    arrays[name] = arrays[name][:5]
    with pytest.raises(PermilError, match="differ in shape"):
        BeamNodes(**arrays)
