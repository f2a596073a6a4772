"""Readout boards whose temperature moves and an amplifier whose gain changes once, from raw files to flats of full resolution."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from permil.camera import load_camera
from permil.config import load_config
from permil.config.simulate import SimulateConfig
from permil.flat.shared_errors import covariance_of_means
from permil.pipeline import run_pipeline
from permil.products import RunFolder, is_usable, read_image
from permil.simulate.stage import simulate_bench

pytestmark = pytest.mark.full

DETECTORS = ("R22_S01", "R22_S11", "R22_S21")
STEP = 4e-3


def changing_campaign() -> SimulateConfig:
    """Return three CCDs of three boards that move by some degrees, one amplifier that steps among the pointings."""
    return SimulateConfig.model_validate(
        {
            "preset": "mini",
            "seed": 31,
            "detectors": list(DETECTORS),
            "leds": ["red"],
            "campaign": {"scan_size": 8, "images": 3, "biases": 4, "readout": "raft"},
            "electronics": {
                "temperature_amplitude": 1.5,
                "temperature_period_s": 240.0,
                "temperature_coefficient_rms": 1.5e-4,
                "board_drift": 3e-5,
            },
            "gain_steps": {"count": 1, "size": STEP, "at": 0.75},
            "handover": {"temperature_coefficient": False},
        }
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, list[str]]:
    """Return the folder of a reduced campaign, and the messages about it."""
    folder = tmp_path_factory.mktemp("gains")
    simulate_bench(changing_campaign(), folder, workers=1)
    with (folder / "config.yaml").open("a") as stream:
        stream.write("flat: {keep_pointings: false, joint: {spacing_mm: 5.0, checks: false}}\n")
    reports = run_pipeline(load_config(folder / "config.yaml", ["pipeline.workers=1"]), stages=("index", "isr", "beam", "flat"))
    return RunFolder(folder), [message for report in reports for message in report.messages]


def ratio_of(folder: RunFolder, detector: str) -> np.ndarray:
    """Return the flat over the true one, NaN where it cannot be used."""
    made, true = read_image(folder.flat("red", detector)), read_image(folder.truth_flat("red", detector))
    return np.where(is_usable(made.mask) & (true.image > 0), made.image / true.image, np.nan)


def test_coefficients_of_boards_are_those_simulated(run: tuple[RunFolder, list[str]]) -> None:
    folder, _ = run
    with fits.open(folder.joint("red")) as hdus:
        found = Table(hdus["BOARDS"].data)
    truth = Table.read(folder.root / "truth" / "boards.ecsv")
    assert len(found) == len(DETECTORS)
    for row in found:
        raft, board = row["name"].split("/")
        own = truth[(truth["raft"] == raft) & (truth["board"] == board)]
        slope = -np.polyfit(own["temperature"], np.log(own["counts_factor"]), 1)[0]
        assert abs(row["coefficient"] - slope) < 4 * row["coefficient_err"]
        assert row["coefficient_err"] < row["expected_err"] / 5
        assert not row["dominated"]


def test_levels_of_full_resolution_have_the_mean_gain_of_each_board(run: tuple[RunFolder, list[str]]) -> None:
    folder, _ = run
    truth, camera = Table.read(folder.root / "truth" / "boards.ecsv"), load_camera("lsstcam-bin8")
    exposures = Table.read(folder.root / "truth" / "scales.ecsv")
    # The mean is that of the exposures that several boards read: not the scan.
    truth = truth[np.isin(truth["obsid"], exposures["obsid"][exposures["kind"] == "pointing"])]
    levels, regions, uncorrected = [], [], []
    for name in DETECTORS:
        ratio = ratio_of(folder, name)
        own = truth[truth["board"] == camera[name].reb]
        counts = np.log(np.asarray(own["counts_factor"]))
        levels.append(np.nanmean(ratio) / np.exp(counts.mean()) * _without_step(folder, name))
        regions.append({folder.flat("red", name): np.ones(ratio.shape, dtype=bool)})
        uncorrected.append(np.ptp(counts))
    assert min(uncorrected) > 1e-3
    covariance = np.array([[covariance_of_means(one, other) for other in regions] for one in regions])
    for first, second in ((0, 1), (1, 2), (0, 2)):
        error = np.sqrt(covariance[first, first] + covariance[second, second] - 2 * covariance[first, second])
        assert abs(np.log(levels[first] / levels[second])) < 4 * error
        assert error < 2e-4


def _without_step(folder: RunFolder, name: str) -> float:
    """Return by what the step of an amplifier lowers the mean of the flat against the truth, which is that before it."""
    gains = Table.read(folder.root / "truth" / "gains.ecsv")
    return float(1.0 + gains["gain_step"][gains["detector"] == name].mean())


def test_the_flat_is_that_of_the_gain_after_a_step(run: tuple[RunFolder, list[str]]) -> None:
    folder, messages = run
    gains = Table.read(folder.root / "truth" / "gains.ecsv")
    (stepped,) = gains[gains["gain_step"] != 0]
    camera = load_camera("lsstcam-bin8")
    number = [amplifier.name for amplifier in camera[stepped["detector"]].amplifiers].index(stepped["segment"])
    with fits.open(folder.joint("red")) as hdus:
        (step,) = Table(hdus["GAIN_STEPS"].data)
    # Counts fall as the gain (electrons per count) rises.
    assert (step["detector"], step["amplifier"]) == (stepped["detector"], number)
    size = 1 / (1 + stepped["gain_step"]) - 1
    assert abs(step["size"] - size) < 4 * step["size_err"] < 4e-4
    assert any(f"amplifier {stepped['segment']} of {stepped['detector']} change" in message for message in messages)
    amplifiers = camera[stepped["detector"]].amplifier_map()
    ratio = ratio_of(folder, stepped["detector"])
    means = np.array([np.nanmean(ratio[amplifiers == other]) for other in range(16)])
    others = np.delete(means, number)
    assert means[number] / np.median(others) == pytest.approx(1 + size, abs=float(4 * np.hypot(step["size_err"], np.std(others))))
    assert np.std(others) < STEP / 10
