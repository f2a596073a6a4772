"""The campaign against the documented real ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from permil.camera import Camera
from permil.config.simulate import SimulateConfig
from permil.errors import PositionError
from permil.simulate import Bench, campaign_size
from permil.simulate.campaign import pointing_positions, scan_centre, scan_positions, select_detectors, sequence_in_test

LEDS = ("nm960", "nm850", "nm750", "red", "blue", "uv")


@pytest.mark.parametrize(
    ("point", "led", "images", "first"),
    [(20, "nm960", 5, 600), (20, "red", 5, 615), (1, "nm960", 1, 6), (35, "red", 1, 213)],
)
def test_counter_equals_that_of_real_runs(point, led, images, first):
    counters = [
        sequence_in_test(point=point, led=LEDS.index(led), image=image, leds=len(LEDS), images=images) for image in range(images)
    ]
    assert counters == list(range(first, first + images))


def test_scan_window_is_the_documented_one(lsstcam: Camera):
    centre = scan_centre(lsstcam)
    assert centre == pytest.approx((10.015, 2.565), abs=1e-9)
    positions = scan_positions(centre, size=12, width=80.0)
    assert len(positions) == 144
    assert positions[0] == (-29.985, -37.435)
    assert positions[-1] == (50.015, 42.565)
    assert positions[1] == (-29.985, -30.162), "Y runs fast"
    assert positions[12][0] == pytest.approx(-29.985 + 80 / 11, abs=6e-4)
    dense = scan_positions(centre, size=60, width=80.0)
    assert len(dense) == 3600
    assert -0.154 in {x for x, _ in dense}, "a column of the real scan"


@pytest.mark.parametrize(
    ("name", "offsets"),
    [
        ("R22_S11", [(10.01, -10.24), (10.01, 10.24), (0, 0), (-10.01, -10.24), (-10.01, 10.24)]),
        ("R02_S00", [(10.0, -10.18), (10.0, 10.18), (0, 0), (-10.0, -10.18), (-10.0, 10.18)]),
    ],
)
def test_pointings_have_the_documented_order_and_offsets(lsstcam: Camera, name, offsets):
    positions = np.array(pointing_positions(lsstcam[name]))
    np.testing.assert_allclose(positions - positions[2], offsets, atol=2e-3)


def test_a_random_scan_visits_the_same_positions():
    planned, shuffled, other = (
        [
            exposure
            for exposure in Bench(SimulateConfig(seed=seed, campaign={"scan_order": order})).exposures
            if exposure.kind == "scan"
        ]
        for order, seed in (("planned", 1), ("random", 1), ("random", 2))
    )
    paths = [[exposure.commanded for exposure in scan] for scan in (planned, shuffled, other)]
    assert paths[0] != paths[1] != paths[2]
    assert set(paths[0]) == set(paths[1]) == set(paths[2])
    # Positions in random order do not follow their place in the scan.
    order = [paths[0].index(position) for position in paths[1][::2]]
    assert abs(np.corrcoef(order, np.arange(len(order)))[0, 1]) < 4 / len(order) ** 0.5
    assert [exposure.test_sequence for exposure in shuffled] == list(range(len(shuffled)))


def test_pointings_equal_the_documented_positions_but_for_the_geometry_of_2019(lsstcam: Camera):
    # R02_S21: raft and slot stood at (-254.1 + 42.285, -0.395) in 2019, at (-254 + 42.25, 0) since; ITL aims are a pixel off.
    documented = np.array([(-201.815, -10.575), (-201.815, 9.785), (-211.815, -0.395), (-221.815, -10.575), (-221.815, 9.785)])
    shift = documented - pointing_positions(lsstcam["R02_S21"])
    assert np.ptp(shift, axis=0).max() < 1e-6
    assert np.abs(shift).max() < 0.7
    assert set(lsstcam.detector_at(documented[:, 0], documented[:, 1])) == {"R02_S21"}


def test_binned_camera_aims_at_the_same_places(lsstcam: Camera, bin8: Camera):
    for name in ("R22_S11", "R02_S00"):
        full, binned = np.array(pointing_positions(lsstcam[name])), np.array(pointing_positions(bin8[name]))
        np.testing.assert_allclose(full, binned, atol=1e-9)


def test_other_vendors_are_pointed_at_by_quarters(lsstcam: Camera):
    detector = lsstcam["R22_S11"]
    other = replace(detector, vendor="Other")
    np.testing.assert_allclose(pointing_positions(other), pointing_positions(detector), atol=1e-9)


def test_mini_is_the_documented_campaign():
    bench = Bench(SimulateConfig())
    scan = [exposure for exposure in bench.exposures if exposure.kind == "scan"]
    pointings = [exposure for exposure in bench.exposures if exposure.kind == "pointing"]
    biases = [exposure for exposure in bench.exposures if exposure.kind == "bias"]
    assert (len(scan), len(pointings), len(biases)) == (144 * 2, 45 * 5 * 2, 10)
    assert {exposure.detectors for exposure in scan} == {("R22_S10", "R22_S11", "R22_S12")}
    assert all(len(exposure.detectors) == 9 for exposure in (*pointings, *biases))
    assert [exposure.target for exposure in pointings[:100:50]] == ["R22_S00", "R22_S01"]
    assert [exposure.image for exposure in pointings[:10]] == [0, 1, 2, 3, 4] * 2, "images innermost"
    assert [exposure.led for exposure in pointings[:10]] == ["red"] * 5 + ["nm960"] * 5
    for run in (scan, pointings):
        assert [exposure.test_sequence for exposure in run] == list(range(len(run)))
        assert len({(exposure.run, exposure.job) for exposure in run}) == 1
    assert scan[0].run != pointings[0].run
    assert sum(exposure.compressed for exposure in bench.exposures) == 2
    assert biases[0].folder == f"{biases[0].run}/BOT_acq/v0/{biases[0].job}/bias_bias_000"
    first = scan[0]
    x, y = first.commanded
    assert first.folder == f"{first.run}/BOT_acq/v0/{first.job}/ccob_red_{x}_{y}_000"
    assert first.file("R22_S11").endswith("/MC_C_20191028_000001_R22_S11.fits")
    assert len({exposure.obsid for exposure in bench.exposures}) == len(bench.exposures)


def test_focal_plane_reads_only_the_target():
    bench = Bench(SimulateConfig(preset="focal-plane", light=True))
    pointings = [exposure for exposure in bench.exposures if exposure.kind == "pointing"]
    assert len(pointings) == 189 * 5 * 6
    assert all(exposure.detectors == (exposure.target,) for exposure in pointings)
    assert bench.leds == LEDS
    days = {exposure.day for exposure in bench.exposures}
    assert len({exposure.obsid for exposure in bench.exposures}) == len(bench.exposures), f"over {days}"


def test_raft_can_be_restricted_to_one_detector_and_led():
    config = SimulateConfig(preset="raft", detectors=["R22_S11"], leds=["red"])
    size = campaign_size(config)
    assert size.exposures == size.files == 144 + 25 + 10
    bench = Bench(config)
    assert bench.camera.pixel_mm == 0.01
    assert all(exposure.compressed for exposure in bench.exposures)


def test_scan_reads_the_reference_detector_wherever_the_pointings_are():
    bench = Bench(SimulateConfig(rafts=["R01"], detectors=["R01_S11"], leds=["red"]))
    assert [detector.name for detector in bench.read] == ["R01_S11", "R22_S11"]
    bias = next(exposure for exposure in bench.exposures if exposure.kind == "bias")
    assert set(bias.detectors) == {"R01_S11", "R22_S11"}


@pytest.mark.parametrize(
    ("rafts", "detectors", "message"),
    [
        (["R99"], [], "no science raft 'R99'"),
        ([], ["R22_S33"], "no science detector 'R22_S33'"),
        (["R22"], ["R01_S11"], "none of"),
    ],
)
def test_unknown_detectors_are_an_error(bin8: Camera, rafts, detectors, message):
    with pytest.raises(PositionError, match=message):
        select_detectors(bin8, rafts, detectors)
