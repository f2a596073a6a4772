"""Tables of defects: the layout of Rubin's curated defects, boxes of masks, and union with what the user gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from permil.camera import Camera
from permil.defects import DefectBox, defect_table
from permil.defects.table import COLUMNS, boxes_of, led_agreement, table_boxes, with_given
from permil.errors import CalibrationError, InputError
from permil.isr.inputs import given_defects
from permil.products import write_table

DARK = DefectBox(
    5, 7, 1, 1, "dark_pixel", amp="C00", defect=1, value=-0.3, value_err=0.01, quantity="deviation", significance=30.0,
    leds=("red", "uv"), searched=("red", "uv"),
)  # fmt: skip
HOT = DefectBox(2, 3, 1, 2, "hot_bias", amp="C00", defect=2, value=80.0, value_err=2.0, quantity="electrons", significance=40.0)


@given(arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_boxes_are_the_pixels_of_a_mask_and_do_not_overlap(mask: np.ndarray) -> None:
    count = np.zeros(mask.shape, dtype=int)
    for x, y, width, height in boxes_of(mask):
        assert min(width, height) >= 1
        count[y : y + height, x : x + width] += 1
    assert np.array_equal(count, mask.astype(int))


def test_equal_columns_side_by_side_are_one_box() -> None:
    mask = np.zeros((20, 20), dtype=bool)
    mask[3:18, 4:7] = True
    mask[5, 12] = True
    assert boxes_of(mask) == [(4, 3, 3, 15), (12, 5, 1, 1)]


def test_layout_and_round_trip(tmp_path: Path) -> None:
    table = defect_table([DARK, HOT], cards={"INSTRUME": "LSSTCam", "DETECTOR": 94})
    path = tmp_path / "R22_S11.ecsv"
    write_table(path, table)
    read = Table.read(path, format="ascii.ecsv")
    assert read.colnames[:4] == ["x0", "y0", "width", "height"]
    assert all(read[name].dtype.kind == "i" and str(read[name].unit) == "pix" for name in read.colnames[:4])
    assert read.meta["OBSTYPE"] == "defects"
    assert (read.meta["DEFECTS_SCHEMA"], read.meta["DEFECTS_SCHEMA_VERSION"]) == ("Simple", 1)
    assert (read.meta["INSTRUME"], read.meta["DETECTOR"]) == ("LSSTCam", 94)
    assert table_boxes(read) == [HOT, DARK]
    assert set(read.colnames) == set(COLUMNS)


def test_a_table_without_defects(tmp_path: Path) -> None:
    write_table(tmp_path / "none.ecsv", defect_table([]))
    read = Table.read(tmp_path / "none.ecsv", format="ascii.ecsv")
    assert table_boxes(read) == []
    assert set(read.colnames) == set(COLUMNS)


def test_given_defects_are_united_and_marked() -> None:
    united = with_given([DARK, HOT], [(4, 6, 3, 3), (9, 9, 1, 2)], (20, 20))
    assert [(box.reason, box.source, box.defect) for box in united] == [
        ("dark_pixel", "both", 1),
        ("hot_bias", "found", 2),
        ("given", "both", 3),
        ("given", "given", 4),
    ]
    assert all(np.isnan(box.value) and box.leds == () for box in united[2:])


def test_agreement_of_leds() -> None:
    rows = [("red", "red,uv"), ("red,uv", "red,uv"), ("red,uv", "red,uv"), ("uv", "uv"), ("-", "-")]
    boxes = [
        DefectBox(
            number,
            0,
            1,
            1,
            "dark_pixel",
            defect=number,
            leds=tuple(leds.strip("-").split(",")),
            searched=tuple(searched.split(",")),
        )
        for number, (leds, searched) in enumerate(rows)
    ]
    share, error = led_agreement(defect_table(boxes), ("red", "uv", "blue"))
    assert share[:2, :2] == pytest.approx(np.array([[1, 2 / 3], [2 / 3, 1]]))
    assert error[0, 1] == pytest.approx(np.sqrt(0.625 * 0.375 / 4))
    assert np.isnan(share[2]).all()


def test_a_folder_of_tables_is_given_to_the_reduction(tmp_path: Path, bin8: Camera) -> None:
    detector = bin8["R22_S11"]
    write_table(tmp_path / "R22_S11.ecsv", defect_table([DARK, HOT], cards={"DETECTOR": 94}))
    assert given_defects(str(tmp_path), detector, camera=bin8) == [(2, 3, 1, 2), (5, 7, 1, 1)]
    # Rubin's tables hold floats, and nothing else.
    plain = Table({"x0": [5.0], "y0": [7.0], "width": [1.0], "height": [1.0]}, meta={"OBSTYPE": "manual_defects", "DETECTOR": 94})
    write_table(tmp_path / "R22_S11.ecsv", plain)
    assert given_defects(str(tmp_path), detector, camera=bin8) == [(5, 7, 1, 1)]
    with pytest.raises(CalibrationError, match=r"R22_S12.ecsv: there is no table of the defects of R22_S12"):
        given_defects(str(tmp_path), bin8["R22_S12"], camera=bin8)


@pytest.mark.parametrize(
    ("cards", "sentence"),
    [
        (
            {"INSTRUME": "LSSTCam"},
            "these defects are in pixels of camera lsstcam, not of lsstcam-bin8; give a table of this camera",
        ),
        ({"INSTRUME": "lsstcam", "DETECTOR": 94}, "these defects are in pixels of camera lsstcam, not of lsstcam-bin8"),
        ({"INSTRUME": "lsstcam-bin8"}, ""),
        ({"INSTRUME": "LSST-TS8"}, ""),
    ],
    ids=str,
)
def test_defects_of_another_binning_are_refused(tmp_path: Path, bin8: Camera, cards: dict[str, object], sentence: str) -> None:
    """They would be within the detector, at other places."""
    write_table(tmp_path / "R22_S11.ecsv", defect_table([DARK, HOT], cards=cards))
    if sentence:
        with pytest.raises(CalibrationError, match=sentence):
            given_defects(str(tmp_path), bin8["R22_S11"], camera=bin8)
    else:
        assert len(given_defects(str(tmp_path), bin8["R22_S11"], camera=bin8)) == 2


@pytest.mark.parametrize(
    ("table", "error", "sentence"),
    [
        (
            Table({"x0": [1], "y0": [1], "width": [1], "height": [1]}, meta={"DETECTOR": 93}),
            CalibrationError,
            "of detector 93, not of",
        ),
        (Table({"x0": [600], "y0": [1], "width": [1], "height": [1]}), CalibrationError, "leaves detector R22_S11"),
        (Table({"x0": [1.5], "y0": [1], "width": [1], "height": [1]}), CalibrationError, "not in whole pixels"),
        (Table({"x0": [1], "y0": [1], "width": [1]}), InputError, "height"),
    ],
)
def test_tables_that_do_not_fit(tmp_path: Path, bin8: Camera, table: Table, error: type[Exception], sentence: str) -> None:
    write_table(tmp_path / "R22_S11.ecsv", table)
    with pytest.raises(error, match=sentence):
        given_defects(str(tmp_path), bin8["R22_S11"], camera=bin8)
