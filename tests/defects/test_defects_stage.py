"""The stage `defects` on raw files: drawn defects are found without their truth, told apart from given ones, and remade when needed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from permil.config import load_config
from permil.config.simulate import SimulateConfig
from permil.defects import DefectBox
from permil.defects.table import table_boxes
from permil.errors import CalibrationError, ConfigError, FlatError, InputError
from permil.pipeline import run_pipeline
from permil.products import read_image, read_table, write_image
from permil.simulate import Bench, simulate_bench
from permil.tasks import run_single

from .scores import scores

DETECTOR = "R22_S11"
COUNTS = {
    "dark_pixels": 25, "vampire_pixels": 25, "dark_clusters": 20, "weak_columns": 8, "dead_columns": 4, "unstable_pixels": 25,
    "nonlinear_pixels": 25, "hot_pixels": 25, "hot_pixel_rate": 3000.0,
}  # fmt: skip
CONFIG = SimulateConfig.model_validate(
    {
        "preset": "mini",
        "seed": 77,
        "detectors": [DETECTOR],
        "leds": ["red", "nm960"],
        "sensor": COUNTS,
        "campaign": {"scan_size": 6, "images": 4, "biases": 6, "readout": "target"},
        "handover": {"defects": False},
    }
)
OVERRIDES = ["flat.solver=divide", "pipeline.workers=1"]
STAGES = ("index", "isr", "beam", "flat", "defects")
FillOnce = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def defective(fill_once: FillOnce) -> Path:
    """Return the folder of a run up to its defects. It is shared: copy before changing anything."""

    def fill(folder: Path) -> None:
        simulate_bench(CONFIG, folder, workers=1)
        run_pipeline(load_config(folder / "config.yaml", OVERRIDES), stages=STAGES)

    return fill_once("defective", fill)


@pytest.fixture
def copied(defective: Path, tmp_path: Path) -> Path:
    """Return the folder of a run with the same raw files and products, which may be changed."""
    ignored = shutil.ignore_patterns("raw", "truth")
    copy = shutil.copytree(defective, tmp_path / "run", ignore=ignored)
    text = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(text.replace("- raw", f"- {defective / 'raw'}"))
    return copy


def boxes_in(folder: Path) -> list[DefectBox]:
    return table_boxes(read_table(folder / "defects" / f"{DETECTOR}.ecsv"))


def test_defects_are_found_without_their_truth(defective: Path) -> None:
    bench = Bench(CONFIG)
    detector = bench.camera[DETECTOR]
    (rows, columns), rates = bench.sensors.hot_pixels(detector)
    found = scores(
        boxes_in(defective),
        bench.sensors.defects(detector),
        detector,
        brightest=CONFIG.lamp.electrons,
        hot=np.column_stack([rows, columns, 0.127 * rates]),
        bad_columns=bench.sensors.bad_columns(detector),
    )
    for kind, score in found.items():
        assert score.complete == score.drawn, (kind, score)
        assert score.pure == score.found, (kind, score)
        assert kind == "other" or score.found >= 4, (kind, score)


def test_table_names_detector_sensor_and_leds(defective: Path) -> None:
    table = read_table(defective / "defects" / f"{DETECTOR}.ecsv")
    assert (table.meta["DETECTOR"], table.meta["DET_NAME"], table.meta["OBSTYPE"]) == (94, DETECTOR, "defects")
    assert table.meta["DET_SER"] == Bench(CONFIG).camera[DETECTOR].serial
    assert table.meta["CALIBDATE"].startswith("20")
    assert table.meta["leds"] == ["red", "nm960"]
    # An unstable pixel may deviate in the flat of one LED alone.
    unstable = {(box.x0, box.y0) for box in boxes_in(defective) if box.reason == "unstable"}
    steady = [box for box in boxes_in(defective) if box.quantity == "deviation" and (box.x0, box.y0) not in unstable]
    assert np.mean([box.leds == ("red", "nm960") for box in steady]) > 0.95
    assert np.all(np.isfinite(table["value_err"]) & (table["value_err"] > 0))


def test_flats_are_not_changed(defective: Path, copied: Path) -> None:
    before = read_image(copied / "flat" / "red" / f"{DETECTOR}.fits")
    run_pipeline(load_config(copied / "config.yaml", [*OVERRIDES, "defects.pixel=0.3"]), stages=("defects",))
    after = read_image(copied / "flat" / "red" / f"{DETECTOR}.fits")
    assert np.array_equal(before.mask, after.mask)
    assert np.array_equal(before.image, after.image, equal_nan=True)
    limits = [[abs(box.value) for box in boxes_in(folder) if box.reason == "dark_pixel"] for folder in (defective, copied)]
    assert min(limits[0]) > 0.2
    assert min(limits[1]) > 0.3


def test_a_table_that_is_current_is_kept(copied: Path) -> None:
    (again,) = run_pipeline(load_config(copied / "config.yaml", OVERRIDES), stages=("defects",))
    # Raw files lie elsewhere in the copy of the index.
    assert again.done + again.skipped == 1
    (third,) = run_pipeline(load_config(copied / "config.yaml", OVERRIDES), stages=("defects",))
    assert (third.done, third.skipped) == (0, 1)
    assert any("defects in 1 detector" in message for message in third.messages)
    (changed,) = run_pipeline(load_config(copied / "config.yaml", [*OVERRIDES, "defects.exposures=0"]), stages=("defects",))
    assert changed.done == 1
    assert not {box.reason for box in boxes_in(copied)} & {"unstable", "nonlinear"}


def test_one_detector_by_its_command(copied: Path) -> None:
    path = copied / "defects" / f"{DETECTOR}.ecsv"
    expected = boxes_in(copied)
    path.unlink()
    run_single(load_config(copied / "config.yaml", OVERRIDES), "defects", detector="r22-s11")
    assert boxes_in(copied) == expected
    with pytest.raises(ConfigError, match="name one with --detector"):
        run_single(load_config(copied / "config.yaml", OVERRIDES), "defects")
    shutil.rmtree(copied / "flat")
    with pytest.raises(FlatError, match=r"there is no flat of R22_S11.*permil flat CONFIG"):
        run_single(load_config(copied / "config.yaml", [*OVERRIDES, "defects.pixel=0.3"]), "defects", detector=DETECTOR)
    with pytest.raises(FlatError, match=r"there is no flat of any detector.*permil flat CONFIG"):
        run_pipeline(load_config(copied / "config.yaml", OVERRIDES), stages=("defects",))


def test_found_defects_given_to_the_next_run_are_masked_there(copied: Path) -> None:
    shutil.copytree(copied / "defects", copied / "given")
    found = [box for box in boxes_in(copied) if box.reason != "bias_outlier"]
    config = load_config(copied / "config.yaml", [*OVERRIDES, f"isr.defects={copied / 'given'}"])
    run_pipeline(config, stages=STAGES)
    mask = read_image(copied / "flat" / "red" / f"{DETECTOR}.fits").mask
    assert all(np.all(mask[box.slices] & 1) for box in found)
    united = boxes_in(copied)
    given = [box for box in united if box.reason == "given"]
    assert {box.slices[0].start for box in given} >= {box.slices[0].start for box in found}
    # What is masked in the flats is found in the superbias alone.
    assert {box.source for box in united if box.reason == "hot_bias"} == {"both"}
    assert {box.source for box in given} == {"given", "both"}
    assert not [box for box in united if box.reason == "dark_pixel"]


def test_own_folder_is_no_input(copied: Path) -> None:
    config = load_config(copied / "config.yaml", [*OVERRIDES, f"isr.defects={copied / 'defects'}"])
    with pytest.raises(CalibrationError, match=r"names the folder that this run writes its defects to; copy it"):
        run_pipeline(config, stages=("isr",))


def test_a_flat_of_another_size_is_refused(copied: Path, defective: Path) -> None:
    other = defective / "truth" / "flat" / "red" / f"{DETECTOR}.fits"
    product = read_image(other)
    path = copied / "flat" / "red" / f"{DETECTOR}.fits"
    path.unlink()
    write_image(path, product.image[:100], product.mask[:100], product.variance[:100], header={"CONTENT": "flat"})
    with pytest.raises(InputError, match=r"R22_S11.fits: the flat has \(100, 512\) pixels"):
        run_pipeline(load_config(copied / "config.yaml", OVERRIDES), stages=("defects",))
