"""Nodes from tables, and what is wrong with a table."""

from __future__ import annotations

import numpy as np
import pytest
from astropy import units as u
from astropy.table import MaskedColumn, Table, vstack
from astropy.utils.masked import Masked
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
    assert np.isfinite(BeamModel.from_nodes(nodes).evaluate(0.0, 0.0)[0])


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
    with pytest.raises(InputError, match="column ref_x_mm without its pair"):
        nodes_from_table(table_of(ref_x_mm=1.0))


def test_several_amplifiers_without_places() -> None:
    with pytest.raises(
        BeamError, match=r"2 amplifiers without their positions; add columns ref_x_mm and ref_y_mm .* or choose one"
    ):
        nodes_from_table(table_of(amp=np.arange(36) % 2))


def test_one_amplifier_is_taken() -> None:
    nodes = nodes_from_table(table_of(amp=np.arange(36) % 2 + 1), amp=2)
    np.testing.assert_array_equal(nodes.rows, np.arange(1, 36, 2))


@pytest.mark.parametrize(("columns", "message"), [({"amp": 1}, "no amplifier 7; amplifiers are 1"), ({}, "no column amp")])
def test_amplifier_that_is_not_there(columns: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        nodes_from_table(table_of(**columns), amp=7)


def test_exposures_are_identified_by_position() -> None:
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
        BeamModel.from_nodes(nodes_from_table(table_of(3)))
    assert caught.value.needed == 10


def test_too_few_nodes_names_what_was_left_out() -> None:
    table = table_of(4)
    table["signal"][:8] = -1.0
    with pytest.raises(BeamError, match=r"8 more were left out: signal is missing, zero or negative"):
        BeamModel.from_nodes(nodes_from_table(table))


def test_many_repeated_positions_are_still_too_few() -> None:
    x, y = (np.tile(axis, 10) for axis in scan_positions(3))
    with pytest.raises(BeamError, match="90 nodes at 9 positions are too few"):
        BeamModel.from_nodes(
            BeamNodes.from_columns(x, y, plateau(x, y) * (1 + 1e-4 * np.random.default_rng(0).standard_normal(90)))
        )


@pytest.mark.parametrize("angle", [0.0, 0.3, np.pi / 2])
def test_collinear_nodes(angle: float) -> None:
    place = np.linspace(-30.0, 30.0, 20)
    with pytest.raises(BeamError, match="20 nodes lie on one line"):
        BeamModel.from_nodes(BeamNodes.from_columns(place * np.cos(angle), place * np.sin(angle), plateau(place, 0.0)))


def test_equal_signals() -> None:
    with pytest.raises(BeamError, match="all 36 nodes have the same signal"):
        BeamModel.from_nodes(nodes_from_table(table_of(signal=5.0)))


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


def noisy_table(count: int = 8, seed: int = 0) -> Table:
    table = table_of(count)
    table["signal"] *= 1 + 3e-4 * np.random.default_rng(seed).standard_normal(len(table))
    return table


@pytest.mark.parametrize(("unit", "factor"), [("um", 1e3), ("cm", 0.1), ("m", 1e-3), ("mm", 1.0), ("micron", 1e3), (None, 1.0)])
def test_positions_in_any_unit_of_length(unit: str | None, factor: float) -> None:
    table = table_of(ref_x_mm=10.0, ref_y_mm=-3.0)
    expected = nodes_from_table(table)
    for name in ("x_mm", "y_mm", "ref_x_mm", "ref_y_mm"):
        table[name] = table[name] * factor
        table[name].unit = unit
    np.testing.assert_allclose(nodes_from_table(table).u, expected.u, rtol=1e-12)


@pytest.mark.parametrize(
    ("column", "unit"),
    [
        ("x_mm", "pixel"), ("x_mm", "deg"), ("signal", "mag"), ("signal", "mag(electron)"), ("signal_err", "electron"), ("mjd", "mm"),
        ("ref_x_mm", "s"),
    ],
)  # fmt: skip
def test_units_that_do_not_fit(column: str, unit: str) -> None:
    table = table_of(signal_err=2.0, mjd=58000.0, ref_x_mm=1.0, ref_y_mm=1.0)
    table["signal"].unit = "adu"
    table[column].unit = unit
    with pytest.raises(InputError, match=rf"{column} is given in"):
        nodes_from_table(table)


def test_signal_and_error_in_units_of_one_kind() -> None:
    table = table_of(signal_err=2.0)
    table["signal"].unit, table["signal_err"].unit = "kadu", "adu"
    nodes = nodes_from_table(table)
    np.testing.assert_allclose(nodes.signal_err, 2e-3)
    assert nodes.unit == "kadu"


@pytest.mark.parametrize("column", ["detector", "amp", "row"])
def test_a_masked_label_names_its_row(column: str) -> None:
    table = table_of(detector="R22_S11", amp="C14", row=1000, column=256, box=30, ref_x_mm=0.0, ref_y_mm=0.0)
    table[column] = MaskedColumn(table[column], mask=np.arange(36) == 6)
    with pytest.raises(InputError, match=f"column {column} is empty in row 7"):
        nodes_from_table(table)


@pytest.mark.parametrize(
    "name", ["photodoide", "signal_error", "ref_xmm", "exposures", "detectors", "sigma", "PD", "ccobadc", "flux_err"]
)
def test_a_misspelt_column_of_nodes_is_not_ignored(name: str) -> None:
    with pytest.raises(InputError, match="did you mean"):
        nodes_from_table(table_of(**{name: 1.0}))


@pytest.mark.parametrize(("label", "amp"), [("R22-S11", "c14"), ("94", "Segment14"), ("det094", "Amp05"), (94.0, 5.0)])
def test_places_of_labels_in_any_spelling(lsstcam: Camera, label: object, amp: object) -> None:
    box = {"row": 1000, "column": 256, "box": 30}
    expected = nodes_from_table(table_of(detector="R22_S11", amp="C14", **box), camera=lsstcam)
    found = nodes_from_table(table_of(detector=label, amp=amp, **box), camera=lsstcam)
    np.testing.assert_array_equal(found.u, expected.u)
    with pytest.raises(InputError, match="'R22_S13' in row 1, which is not a detector of camera lsstcam"):
        nodes_from_table(table_of(detector="R22_S13", amp="C14", **box), camera=lsstcam)


@pytest.mark.parametrize("asked", ["C14", "c14", "Segment14"])
def test_the_amplifier_that_is_asked_for_in_any_spelling(asked: str) -> None:
    table = table_of(amp=np.where(np.arange(36) % 2, "SEGMENT14", "C10"))
    np.testing.assert_array_equal(nodes_from_table(table, amp=asked).rows, np.arange(1, 36, 2))


def test_exposures_named_by_text() -> None:
    table = table_of(exposure=MaskedColumn([f"MC_C_{number // 2:03d}" for number in range(36)], mask=np.arange(36) == 3))
    exposure = nodes_from_table(table).exposure
    assert exposure[3] == -1
    assert exposure[0] == exposure[1] != exposure[4] == exposure[5]
    with pytest.raises(InputError, match="not integers"):
        nodes_from_table(table_of(exposure=1.5))


@pytest.mark.parametrize(
    "repeat",
    ["appended", "shuffled", "three copies", "other row labels", "a part", "another exposure", "another bunch name", "coarse"],
)
def test_rows_given_twice_count_once(repeat: str) -> None:
    once = noisy_table()
    once["seq"], once["exposure"], once["ref_x_mm"], once["ref_y_mm"], once["amp"] = np.arange(64), np.arange(64), 1.0, 2.0, "C10"
    if repeat == "coarse":
        once["signal"] = np.round(once["signal"])
    again = (
        once[np.random.default_rng(1).permutation(64)]
        if repeat == "shuffled"
        else once[:10]
        if repeat == "a part"
        else once.copy()
    )
    if repeat == "other row labels":
        again["seq"] += 100
    if repeat == "another exposure":
        again["exposure"] += 100
    if repeat == "another bunch name":
        again["amp"] = "C11"
    copies = [again, again] if repeat == "three copies" else [again]
    alone, nodes = nodes_from_table(once), nodes_from_table(vstack([once, *copies]))
    rows = list(range(64, 64 + sum(len(copy) for copy in copies)))
    assert nodes.dropped == {"the same measurement as another row, counted once": rows}
    np.testing.assert_array_equal(nodes.signal, alone.signal)
    if repeat in ("appended", "another bunch name"):
        model = BeamModel.from_nodes(nodes)
        assert model.node_noise == BeamModel.from_nodes(alone).node_noise
        assert (
            "64 rows left out: the same measurement as another row, counted once (row 64 to 127 of the table" in model.describe()
        )


def test_repeated_images_and_revisits_count_each() -> None:
    first, second = noisy_table(seed=0), noisy_table(seed=1)
    assert len(nodes_from_table(vstack([first, second]))) == 128
    # Signals of a few digits can agree by chance: the time tells them apart.
    for table, day in ((first, 58000.0), (second, 58001.0)):
        table["signal"], table["mjd"] = 1000.0 + np.arange(64) % 7, day
    assert len(nodes_from_table(vstack([first, second]))) == 128


def test_a_bunch_copied_to_another_place_is_refused() -> None:
    first = noisy_table()
    first["amp"], first["ref_x_mm"], first["ref_y_mm"] = "C10", 0.0, 0.0
    second = first.copy()
    second["amp"], second["ref_x_mm"] = "C11", 5.0
    with pytest.raises(BeamError, match=r"bunch C11 at \(5, 0\) mm has the same signals in all its 64 nodes as bunch C10"):
        nodes_from_table(vstack([first, second]))
    second["signal"] *= 1.1
    assert len(nodes_from_table(vstack([first, second]))) == 128


@pytest.mark.parametrize(
    "kind",
    [lambda a: np.ma.array(a, mask=np.arange(64) == 5), lambda a: Masked(a, mask=np.arange(64) == 5), lambda a: [*a[:5], None, *a[6:]]],
)  # fmt: skip
@pytest.mark.parametrize("name", ["x_mm", "signal"])
def test_masked_arrays_are_left_out(name: str, kind) -> None:
    table = noisy_table()
    columns = {column: np.array(table[column]) for column in ("x_mm", "y_mm", "signal")}
    columns[name] = kind(columns[name])
    nodes = BeamNodes.from_columns(**columns)
    assert nodes.rows.tolist() == [row for row in range(64) if row != 5]


def test_other_kinds_of_arrays_and_places() -> None:
    table = noisy_table()
    x, y, signal = (np.array(table[name]) for name in ("x_mm", "y_mm", "signal"))
    plain = BeamModel.from_nodes(BeamNodes.from_columns(x, y, signal))
    other = BeamModel.from_nodes(BeamNodes.from_columns(x.astype(">f8"), list(y), (signal / 1e3) * u.Unit("kadu"), unit="adu"))
    assert other.evaluate(20.0, -20.0) == pytest.approx(plain.evaluate(20.0, -20.0), rel=1e-12)
    beam, error = plain.evaluate(np.ma.array([20.0, 0.0], mask=[False, True]), -2.0 * u.cm)
    assert beam[0] == plain.evaluate(20.0, -20.0)[0]
    assert np.isnan(beam[1])
    assert np.isnan(error[1])
    with pytest.raises(InputError, match="ux is given in"):
        plain.evaluate([1.0] * u.pixel, 0.0)
