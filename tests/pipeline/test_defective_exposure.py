"""One defective exposure among two hundred, from raw files: the flat does not move by more than its error, and the report names it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from permil.camera import Camera
from permil.config import load_config
from permil.exposures import RawFile
from permil.flat.difference import difference_of_products
from permil.pipeline import run_pipeline
from permil.products import RunFolder, read_image, read_table
from permil.simulate.stage import simulate_bench
from permil.truth import compare_with_truth, summarise

from .conftest import DETECTOR, SCANNED, edit_header, raw_files, replace_bytes, small_campaign
from .test_engine_run import QUICK

STAGES_TO_FLAT = ("index", "isr", "beam", "flat")
POINTING = "6841D/BOT_acq/v0/*/ccob_red_*"
SHUTTER_HALF = {f"C1{number}" for number in range(8)}
MOVED_MM = (0.6, -0.4)


def reduce_campaign(folder: Path) -> RunFolder:
    """Make the flats of LED red."""
    # Where header and folder disagree, a run stops and says so: the header is believed, so that it comes to the joint solution.
    options = ["pipeline.workers=1", "flat.leds=[red]", "exposures.position=header"]
    run_pipeline(load_config(folder / "config.yaml", options), stages=STAGES_TO_FLAT)
    return RunFolder(folder)


def scale_light(hdus: fits.HDUList, factor: float, names: set[str] | None = None) -> None:
    """Take a part of the light away, in all segments or some."""
    for hdu in hdus[1:]:
        if hdu.name.upper().startswith("SEGMENT") and (names is None or f"C{hdu.name[-2:]}" in names):
            level = np.median(hdu.data[:, -20:-2], axis=1, keepdims=True)
            hdu.data = np.rint(level + factor * (hdu.data - level)).astype(np.int32)


def of_another(other: Path) -> Callable[[fits.HDUList], None]:
    """Return what puts the pixels of another file below the headers."""

    def change(hdus: fits.HDUList) -> None:
        with fits.open(other) as others:
            for hdu in hdus[1:]:
                if hdu.name.upper().startswith("SEGMENT"):
                    hdu.data = others[hdu.name].data.copy()

    return change


def moved(hdus: fits.HDUList) -> None:
    """Record a position at which the stage was not."""
    hdus[0].header["BOTXCAM"] += MOVED_MM[0]
    hdus[0].header["BOTYCAM"] += MOVED_MM[1]


def compress(path: Path) -> None:
    """Write a raw file anew with compressed segments."""
    with fits.open(path, memmap=False) as hdus:
        images = [
            fits.CompImageHDU(hdu.data, hdu.header, compression_type="RICE_1")
            if hdu.name.upper().startswith("SEGMENT")
            else hdu.copy()
            for hdu in hdus
        ]
    path.unlink()
    fits.HDUList(images).writeto(path)


def check_defects(campaign: Path, clean: RunFolder, tmp_path: Path, camera: Camera, defects: list[str]) -> None:
    """Spoil one exposure at a time in copies of a campaign and compare the flats."""
    chosen = raw_files(campaign, POINTING)[13]
    position = "_".join(chosen.parent.name.split("_")[2:4])
    (other_led, *_) = raw_files(campaign, f"6841D/BOT_acq/v0/*/ccob_blue_{position}_*")
    changes: dict[str, tuple[Callable[[fits.HDUList], None], str]] = {
        "shutter": (lambda hdus: scale_light(hdus, 0.5, SHUTTER_HALF), "different shape"),
        "half light": (lambda hdus: scale_light(hdus, 0.5), "photodiode reading off"),
        "wrong LED": (of_another(other_led), "."),
        "moved stage": (moved, "projector displaced"),
    }
    whole = read_table(clean.metrics("red"))
    whole = whole[whole["amp"] == "all"][0]
    for defect in defects:
        change, named = changes[defect]
        copy = tmp_path / defect.replace(" ", "_")
        shutil.copytree(campaign / "raw", copy / "raw", copy_function=os.link)
        for name in ("config.yaml", "gains.ecsv", "linearity.ecsv", "crosstalk.ecsv", "defects.ecsv"):
            shutil.copy(campaign / name, copy / name)
        spoiled = copy / chosen.relative_to(campaign)
        edit_header(spoiled, change)
        found = reduce_campaign(copy)
        exposures = fits.getdata(found.joint("red"), "EXPOSURES")
        obsid = "_".join(chosen.name.split("_")[:4])
        findings = {str(row["obsid"]): str(row["finding"]) for row in exposures if str(row["finding"])}
        assert list(findings) == [obsid], defect
        assert named in findings[obsid], (defect, findings)
        before, after = (read_image(folder.flat("red", DETECTOR)) for folder in (clean, found))
        difference = difference_of_products(after, before, camera[DETECTOR], super_pixel_mm=0.64)
        # Both variances enter what is predicted for the difference; of one flat alone it is smaller by the root of 2.
        assert difference.rms_super < 0.5 * difference.super_noise / np.sqrt(2), defect
        deviation = np.abs(after.image / before.image - difference.scale)
        error = np.sqrt(before.variance) / before.image
        assert np.nanmean(deviation < error) > 0.998, defect
        assert abs(difference.gradient_x) < whole["gradient_x_err"]
        assert abs(difference.gradient_y) < whole["gradient_y_err"]
        shutil.rmtree(copy)


@pytest.mark.full
def test_one_defective_exposure_among_two_hundred(tmp_path: Path, bin8: Camera) -> None:
    campaign = tmp_path / "clean"
    options = {"scan_size": 12, "images": 11, "biases": 4, "readout": "target"}
    simulate_bench(small_campaign(campaign=options, leds=["red", "blue"]), campaign, workers=2)
    clean = reduce_campaign(campaign)
    assert not any(str(row["finding"]) for row in fits.getdata(clean.joint("red"), "EXPOSURES"))
    check_defects(campaign, clean, tmp_path, bin8, ["shutter", "half light", "wrong LED", "moved stage"])


def test_damage_that_only_the_last_pass_meets_leaves_the_exposure_out(one_ccd: Path, tmp_path: Path, bin8: Camera) -> None:
    copy = tmp_path / "campaign"
    shutil.copytree(one_ccd, copy, copy_function=os.link)
    spoiled = raw_files(copy, "6840D/BOT_acq/v0/*/*")[20]
    compress(spoiled)
    with RawFile(spoiled, bin8, checksums="off") as raw_file:
        places = raw_file.stored_rows("C14")
    assert places is not None
    content = bytearray(spoiled.read_bytes())
    # A row that is neither among those of the signals, nor in the sample of the last pass.
    start, stop = (int(place[0]) for place in places.bounds(np.array([52])))
    content[start:stop] = b"\xff" * (stop - start)
    replace_bytes(spoiled, bytes(content))
    # Checksums would tell at once.
    options = [
        *QUICK,
        "pipeline.workers=1",
        "flat.joint.signal_pixels=16",
        "flat.keep_pointings=false",
        "exposures.checksums=off",
    ]
    run_pipeline(load_config(copy / "config.yaml", options), stages=STAGES_TO_FLAT)
    flat = RunFolder(copy).flat("red", DETECTOR)
    notes = Table.read(flat, "LEFT_OUT")
    assert [Path(path).name for path in notes["path"]] == [spoiled.name]
    assert re.fullmatch(r"rows \d+ to \d+ of segment Segment14 cannot be decompressed", notes["reason"][0])
    assert fits.getheader(flat)["NSCAN"] == SCANNED - 1
    # Nothing of the rows before the damaged one is left in the sums.
    comparison = compare_with_truth(RunFolder(copy), bin8, super_pixel_mm=0.64)
    (summary,) = summarise(comparison)
    assert abs(summary.chi_square - 1) < 5 * summary.chi_square_err + 0.01
