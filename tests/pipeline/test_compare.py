"""Stars against flats through the command line: what is found, what is true, and what the user sees when something is wrong."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from permil import Flat
from permil.compare.efficiency.stage import efficiency_tasks
from permil.compare.stage import comparison_tasks
from permil.config import load_config
from permil.config.simulate import SimulateSpotsConfig
from permil.context import Run
from permil.pipeline import run_pipeline
from permil.products import RunFolder, is_usable, read_table
from permil.products.folder import CompareFolder, SpotsFolder
from permil.simulate.spots import simulate_spots
from permil.truth import compare_fractions
from pictures import without_pictures

from .test_engine_run import products

Permil = Callable[..., tuple[int, str, str]]

DETECTOR = "R22_S11"
EXPOSURES = 12
STAGES = ("index", "isr", "beam", "flat", "spots", "compare", "report")
QUICK = ("pipeline.workers=1", "compare.resamples=100", "compare.cells_px=[32]")


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A campaign with flats and stars of one sensor, reduced and compared. It is shared: copy before changing anything."""
    folder = tmp_path_factory.mktemp("compared")
    config = SimulateSpotsConfig.model_validate(
        {
            "preset": "stars-and-flats",
            "seed": 8,
            "campaign": {"exposures": EXPOSURES, "biases": 6},
            "flats": {"images": 4, "scan_size": 7},
        }
    )
    simulate_spots(config, folder, workers=1)
    # Pages and figures are made of real products; to render the figures is what tests of the report do.
    with without_pictures():
        run_pipeline(load_config(folder / "config.yaml", list(QUICK)), stages=STAGES)
    return folder


@pytest.fixture
def spoiled(compared: Path, tmp_path: Path) -> Path:
    """A copy of the campaign (hard links, no raw files) that a test may spoil: replace files, do not write into them."""
    copy = tmp_path / "run"
    shutil.copytree(compared, copy, copy_function=os.link, ignore=shutil.ignore_patterns("raw", "truth", "compare", "report"))
    return copy


def rewrite(path: Path, change: Callable[[fits.HDUList], None]) -> None:
    """Change a FITS file without touching what it is linked to."""
    with fits.open(path, memmap=False) as hdus:
        hdus = fits.HDUList([hdu.copy() for hdu in hdus])
    change(hdus)
    path.unlink()
    hdus.writeto(path, checksum=True)


def test_fractions_are_true(compared: Path) -> None:
    table = compare_fractions(CompareFolder(compared))
    pulls = (table["value"] - table["true"]) / table["error"]
    assert np.abs(pulls).max() < 4
    errors = dict(zip(table["kind"], table["error"], strict=True))
    assert errors["efficiency"] < 0.05
    assert errors["pixel area"] < 0.1


def test_correlation_of_flux_is_that_of_the_true_mixture(compared: Path) -> None:
    table = read_table(CompareFolder(compared).correlations)
    headline = table[0]
    assert (headline["quantity"], headline["scale"]) == ("flux", "stars")
    # Stars see efficiency, which is about half of the variance of the flat, and none of the rest: r is its root.
    true = compare_fractions(CompareFolder(compared))["true"][0]
    assert headline["r_corrected"] == pytest.approx(np.sqrt(true), abs=4 * headline["r_corrected_err"] + 0.05)
    assert headline["n_eff"] < headline["n"]
    if np.isfinite(headline["p_value"]):
        assert headline["p_value"] < 1e-6
    else:
        assert len(headline["reason"]) > 20
    assert set(table["quantity"]) == {"flux", "dx", "dy", "xx", "yy", "xy"}


def test_products_are_whole_and_not_made_twice(compared: Path, permil: Permil) -> None:
    products = CompareFolder(compared)
    path = products.comparison(DETECTOR, "red")
    before = path.stat().st_mtime_ns
    with fits.open(path, checksum=True) as hdus:
        names = {hdu.name for hdu in hdus}
        header = hdus[0].header
        stars = hdus["STARS"].data
        seen, shown = hdus["FLUX_FLAT"].data, hdus["FLUX"].data
    assert {"STARS", "CORRELATIONS", "NULL", "BLOCKS", "CELLS", "HYPOTHESES", "VERDICTS", "SHIFT_X", "DX_FLAT"} <= names
    assert header["SUMMARY2"].startswith(f"{DETECTOR} red: Dividing")
    assert header["AMPSLERR"] > 0
    assert seen.shape == shown.shape == (32, 32)
    used = np.isfinite(stars["flux"])
    assert np.corrcoef(stars["flux"][used], stars["flux_flat"][used])[0, 1] > 0.3
    assert all(table.is_file() for table in (products.hypotheses, products.verdicts, products.levels))
    code, _, messages = permil("compare", compared / "config.yaml", *QUICK)
    assert code == 0
    assert "compare: 0 done, 2 up to date" in messages
    # One sentence on the flat, not two.
    assert f"{DETECTOR} red: Use the efficiency flat for fluxes of stars and the plain flat for the sky: on " in messages
    assert "Dividing by the plain flat" not in messages
    code, out, _ = permil("show", compared, "--json")
    facts = json.loads(out)
    assert (code, facts["flat_for_fluxes"]) == (0, {f"{DETECTOR} red": "efficiency flat"})
    assert facts["flat_for_sky"] == {f"{DETECTOR} red": "plain flat"}
    assert path.stat().st_mtime_ns == before


def test_runs_that_are_combined_do_not_change_the_efficiency_flat(compared: Path) -> None:
    fingerprints = set()
    for overrides in ((), (f"compare.with_runs=[{compared / 'none'}]",), ("compare.edge_mm=1",)):
        run = Run.from_config(load_config(compared / "config.yaml", [*QUICK, *overrides]))
        (task,) = efficiency_tasks(run, comparison_tasks(run), {"red": "red"}, compared, compared)
        fingerprints.add(task.fingerprint)
    assert len(fingerprints) == 2


@pytest.mark.full
def test_tasks_one_by_one_make_what_a_run_makes(spoiled: Path, permil: Permil) -> None:
    config, quick = spoiled / "config.yaml", (*QUICK, "compare.flat_out=false")
    shutil.rmtree(spoiled / "spots")
    of_detector = ("--detector", DETECTOR)
    for stage, tasks, ended in (
        ("spots", (of_detector, ("--step", "spots")), "spots: 0 done"),
        ("compare", (of_detector,), "compare: 0 done"),
    ):
        for words in tasks:
            code, _, messages = permil(stage, config, *quick, *words)
            assert code == 0, messages
        by_tasks = products(spoiled, stage)
        code, _, messages = permil(stage, config, *quick)
        assert (code, ended in messages) == (0, True), messages
        shutil.rmtree(spoiled / stage)
        assert permil(stage, config, *quick)[0] == 0
        by_run = products(spoiled, stage)
        # Tables of all comparisons have no command of their own.
        assert set(by_run) - set(by_tasks) == (
            {name for name in by_run if name.endswith(".ecsv")} if stage == "compare" else set()
        )
        assert [name for name in by_tasks if by_tasks[name] != by_run[name]] == []


@pytest.mark.full
def test_further_runs_are_combined(compared: Path, spoiled: Path, tmp_path: Path, permil: Permil) -> None:
    other = tmp_path / "other"
    for folder in ("spots", "compare"):
        shutil.copytree(compared / folder, other / folder)
    code, _, messages = permil("compare", spoiled / "config.yaml", *QUICK, f"compare.with_runs=[{other}]")
    assert code == 0, messages
    products = CompareFolder(spoiled)
    sensors, combined, tests, origins = (
        read_table(path) for path in (products.sensors, products.combined, products.tests, products.origins)
    )
    assert list(sensors["run"]) == ["run", "other"]
    assert set(sensors["vendor"]) == {"E2V"}
    whole = combined[
        (combined["quantity"] == "r") & (combined["region"] == "whole detector") & (combined["kind"] == "all sensors")
    ][0]
    # The same sensor twice is one sensor.
    assert (whole["sensors"], whole["estimates"]) == (1, 2)
    assert whole["error"] == pytest.approx(sensors["r_err"][0])
    assert len(tests) > 10
    parts = {str(row["part"]): row for row in origins}
    simulated = {"lamp: between exposures": 2e-3, "pixels: structure within amplifiers": 2.4e-3}
    for name, rms in simulated.items():
        assert parts[name]["rms_per_mil"] == pytest.approx(1e3 * rms, rel=0.4)
    assert parts["sensor"]["reason"] == "all stars were measured on one sensor"
    within = parts["sum within a sensor and band"]["variance"]
    assert within == pytest.approx(parts["measured variance within a sensor and band"]["variance"], rel=0.02)


def test_a_further_run_without_comparisons(permil: Permil, spoiled: Path, tmp_path: Path) -> None:
    messages = fails(permil, spoiled, f"compare.with_runs=[{tmp_path / 'nothing'}]")
    assert "there are no comparisons of stars and flats" in messages
    assert "run permil compare in that run first" in messages


def test_efficiency_flat_is_nearer_to_the_true_efficiency(compared: Path) -> None:
    folder = RunFolder(compared)
    found, plain = (Flat.read(path) for path in (folder.efficiency_flat("red", DETECTOR), folder.flat("red", DETECTOR)))
    with fits.open(folder.efficiency_flat("red", DETECTOR), checksum=True) as hdus:
        header, names = hdus[0].header, {hdu.name for hdu in hdus}
        bit = hdus["MASK"].header["MP_PLAIN_FLAT"]
        shift_x = hdus["SHIFT_X"].data
    assert names >= {"IMAGE", "MASK", "VARIANCE", "SHIFT_X", "SHIFT_Y", "SIZE", "FILTER", "SCATTER", "AMPLIFIERS"}
    assert (header["PRODUCT"], header["FLATKIND"], header["USESKY"]) == ("flat", "efficiency", "plain flat")
    with fits.open(compared / "truth" / "spots" / "sensor.fits") as hdus:
        truth, displacement = hdus["EFFICIENCY"].data, hdus["DISPLACEMENT_X"].data
    plain_kept = (found.mask >> bit & 1).astype(bool)
    filtered = ~plain_kept & is_usable(found.mask)
    assert 0.5 < filtered.mean() < 1
    assert np.array_equal(found.mask & ~np.int32(1 << bit), plain.mask)
    assert found.image[plain_kept] == pytest.approx(plain.image[plain_kept], rel=1e-6)
    errors = [
        (flat.image / np.median(flat.image[filtered]) - truth / np.median(truth[filtered]))[filtered] for flat in (found, plain)
    ]
    assert errors[0].std() < 0.9 * errors[1].std()
    assert errors[0].var() == pytest.approx(found.variance[filtered].mean(), rel=0.2)
    cells = (256, 4, 256, 4)
    known = filtered.reshape(cells).all(axis=(1, 3))
    assert np.corrcoef(shift_x[known], displacement.reshape(cells).mean(axis=(1, 3))[known])[0, 1] > 0.4


def test_table_of_efficiency_flats(compared: Path) -> None:
    table = read_table(CompareFolder(compared).efficiency)
    scatter = {row["division"]: row["scatter"] for row in table}
    assert list(scatter) == ["undivided", "plain flat", "efficiency flat", "best filter", "noise"]
    assert scatter["noise"] < scatter["efficiency flat"] < min(scatter["undivided"], scatter["plain flat"])
    assert set(table["use_for_fluxes"]) == {"efficiency flat"}
    assert set(table["exposures"]) == {EXPOSURES}


@pytest.mark.full
def test_no_efficiency_flat(permil: Permil, spoiled: Path) -> None:
    made = RunFolder(spoiled).efficiency_flat("red", DETECTOR)
    made.unlink()
    code, _, messages = permil("compare", spoiled / "config.yaml", *QUICK, "--no-flat-out")
    assert code == 0, messages
    assert not made.exists()
    assert not CompareFolder(spoiled).efficiency.exists()
    # Few exposures cannot be left out: the comparison is made, the efficiency flat is not.
    rewrite(SpotsFolder(spoiled).residuals(DETECTOR, "red"), few_exposures)
    code, _, messages = permil("compare", spoiled / "config.yaml", *QUICK, "--flat-out")
    assert code == 0, messages
    assert "there is no efficiency flat" in messages
    assert "5 exposures of stars are too few to leave some out" in messages
    assert not made.exists()


def few_exposures(hdus: fits.HDUList) -> None:
    data = hdus["RESIDUALS"].data
    hdus["RESIDUALS"].data = data[data["exposure"] < 5]


def fails(permil: Permil, folder: Path, *options: str) -> str:
    code, _, messages = permil("compare", folder / "config.yaml", *QUICK, *options)
    assert code == 2, messages
    assert not CompareFolder(folder).correlations.exists()
    assert not list(folder.rglob("*.partial"))
    return messages


def test_flat_of_another_led(permil: Permil, spoiled: Path) -> None:
    messages = fails(permil, spoiled, "compare.led_of={red: blue}")
    assert "the flat of R22_S11 in LED blue does not exist" in messages
    assert "compare.led_of" in messages


def test_flat_that_is_not_what_its_name_says(permil: Permil, spoiled: Path) -> None:
    path = RunFolder(spoiled).flat("red", DETECTOR)
    for card, entry in (("DETECTOR", "R02_S02"), ("LED", "blue"), ("PIXFRAME", "raw")):
        rewrite(path, lambda hdus, card=card, entry=entry: hdus[0].header.set(card, entry))
        messages = fails(permil, spoiled)
        assert str(path.name) in messages
        assert entry in messages
        rewrite(path, lambda hdus, card=card: hdus[0].header.remove(card))


def test_flat_of_other_pixels(permil: Permil, spoiled: Path) -> None:
    path = RunFolder(spoiled).flat("red", DETECTOR)

    def bin_pixels(hdus: fits.HDUList) -> None:
        for name in ("IMAGE", "MASK", "VARIANCE"):
            hdus[name].data = hdus[name].data[::2, ::2].copy()

    rewrite(path, bin_pixels)
    messages = fails(permil, spoiled)
    assert "512 x 512 pixels" in messages
    assert "1024 x 1024" in messages


def test_constant_flat(permil: Permil, spoiled: Path) -> None:
    rewrite(RunFolder(spoiled).flat("red", DETECTOR), lambda hdus: hdus["IMAGE"].data.fill(1.0))
    assert "constant" in fails(permil, spoiled)


def test_flat_masked_everywhere(permil: Permil, spoiled: Path) -> None:
    rewrite(RunFolder(spoiled).flat("red", DETECTOR), lambda hdus: hdus["MASK"].data.fill(1))
    assert "mask" in fails(permil, spoiled)


def test_damaged_residuals(permil: Permil, spoiled: Path) -> None:
    path = SpotsFolder(spoiled).residuals(DETECTOR, "red")
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[: len(content) // 2])
    messages = fails(permil, spoiled)
    assert path.name in messages
    assert "permil spots" in messages


def test_too_few_stars(permil: Permil, spoiled: Path) -> None:
    def keep_few(hdus: fits.HDUList) -> None:
        hdus["RESIDUALS"].data["used"][25:] = False

    rewrite(SpotsFolder(spoiled).residuals(DETECTOR, "red"), keep_few)
    messages = fails(permil, spoiled)
    assert "30 are needed" in messages
    assert "residuals_R22_S11_red.fits" in messages


def test_no_stars_at_all(permil: Permil, spoiled: Path) -> None:
    SpotsFolder(spoiled).residuals(DETECTOR, "red").unlink()
    assert "run permil spots first" in fails(permil, spoiled)


def test_detector_without_stars(permil: Permil, spoiled: Path) -> None:
    assert "R02_S02" in fails(permil, spoiled, "compare.detectors=[R02_S02]")
