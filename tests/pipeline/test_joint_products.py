"""What a flat of the joint solution says of its errors, from raw files, against the true flat."""

from __future__ import annotations

import os
import shutil
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from permil.config import load_config
from permil.errors import FlatError, InputError
from permil.flat.shared_errors import covariance_of_means
from permil.flat.superpixel import super_pixels
from permil.pipeline import run_pipeline
from permil.products import RunFolder, is_usable, read_image

from .conftest import DETECTOR, Permil


@pytest.fixture
def flat_path(reduced: Path) -> Path:
    """Return the file of the flat."""
    return RunFolder(reduced).flat("red", DETECTOR)


def halves_of(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return masks of the left and of the right half of a detector."""
    left = np.zeros(shape, dtype=bool)
    left[:, : shape[1] // 2] = True
    return left, ~left


def test_every_exposure_takes_part_and_the_solution_converged(reduced: Path, flat_path: Path) -> None:
    header = fits.getheader(flat_path)
    assert (header["SOLVER"], header["NSCAN"], header["NEXPOSUR"]) == ("joint", 64, 64 + 25)
    solution = fits.getheader(RunFolder(reduced).joint("red"))
    assert solution["DECREMEN"] <= solution["DECRETOL"]
    assert 0.97 < solution["REDCHI2"] < 1.1
    assert abs(solution["ROTATION"] - 0.2e-3) < 4 * solution["ROTATERR"]


def test_difference_of_halves_of_the_detector_is_within_its_error(reduced: Path, flat_path: Path) -> None:
    made, true = read_image(flat_path), read_image(RunFolder(reduced).truth_flat("red", DETECTOR))
    ratio = np.where(is_usable(made.mask) & (true.image > 0), made.image / true.image, np.nan)
    left, right = halves_of(ratio.shape)
    deviation = float(np.nanmean(ratio[left]) - np.nanmean(ratio[right]))
    regions = [{flat_path: left}, {flat_path: right}]
    (first, between), (_, second) = [[covariance_of_means(one, other) for other in regions] for one in regions]
    error = np.sqrt(first + second - 2 * between)
    # The gradient is a correlated error: without it the halves would be known a hundred times better.
    assert abs(deviation) < 4 * error
    count = left.sum()
    assert error > 5 * np.sqrt(2 * np.nanmedian(made.variance) / count)


def test_covariance_of_single_pixels_has_their_own_variance(flat_path: Path) -> None:
    flat = read_image(flat_path)
    row, column = (index[0] for index in np.nonzero(is_usable(flat.mask) & (flat.image > 0.9)))
    one = np.zeros(flat.image.shape)
    one[row, column] = 2.0
    modes = flat.extensions["MODES"]
    block = modes.header["BLOCKPIX"]
    shared = float(np.sum(np.square(modes.data[:, row // block, column // block].astype(float))))
    shared += float(flat.extensions["REMAINDER"].data[row // block, column // block])
    expected = flat.variance[row, column] / flat.image[row, column] ** 2 + shared
    assert covariance_of_means({flat_path: one}, {flat_path: one}) == pytest.approx(expected, rel=1e-4)


def test_halves_of_the_exposures_differ_by_their_noise(flat_path: Path) -> None:
    budget = {row["term"]: row["error"] for row in Table(fits.getdata(flat_path, "BUDGET"))}
    assert 0.9 < budget["split_half"] / budget["split_half_noise"] < 1.5
    # Half of so coarse a scan does not follow the beam's structure everywhere.
    assert 0.98 < budget["cross_validation"] < 2.0
    odd, early = fits.getdata(flat_path, "HALVES")
    assert np.nanstd(odd) == pytest.approx(budget["split_half"], rel=0.2)
    assert np.isfinite(early).mean() > 0.8
    flat = read_image(flat_path)
    noise = super_pixels(flat.variance / flat.image**2, is_usable(flat.mask), 8)
    assert np.nanmedian(noise.mean / noise.count) ** 0.5 == pytest.approx(budget["photon"], rel=0.1)


def test_what_is_no_region_or_no_joint_flat_is_refused(reduced: Path, flat_path: Path, tmp_path: Path) -> None:
    nothing = np.zeros(read_image(flat_path).image.shape)
    with pytest.raises(FlatError, match="no usable pixel"):
        covariance_of_means({flat_path: nothing}, {flat_path: nothing})
    with pytest.raises(FlatError, match="shape"):
        covariance_of_means({flat_path: nothing[:9]}, {flat_path: nothing[:9]})
    true = RunFolder(reduced).truth_flat("red", DETECTOR)
    with pytest.raises(InputError, match=r"MODES.*flat\.solver: joint"):
        covariance_of_means({true: nothing + 1}, {true: nothing + 1})


def test_a_damaged_solution_is_made_again(copied: Path) -> None:
    path = RunFolder(copied).joint("red")
    before = path.read_bytes()
    path.write_bytes(before[: len(before) // 2 + 100])
    run_pipeline(load_config(copied / "config.yaml", ["pipeline.workers=1"]), stages=("flat",))
    with fits.open(path) as made, fits.open(BytesIO(before)) as first:
        np.testing.assert_array_equal(made["BEAM"].data, first["BEAM"].data)


def test_an_led_without_a_scan_of_its_own_is_divided(campaign: Path, copied: Path, permil: Permil) -> None:
    shutil.copytree(campaign / "raw", copied / "raw", copy_function=os.link, ignore=shutil.ignore_patterns("6840D"))
    for stage in ("index", "isr", "flat"):
        code, _, messages = permil(stage, copied / "config.yaml", "pipeline.workers=1", f"exposures.roots=[{copied / 'raw'}]")
        assert code == 0, messages
    assert "a joint solution needs its scan" in messages
    assert fits.getheader(RunFolder(copied).flat("red", DETECTOR))["SOLVER"] == "divide"
