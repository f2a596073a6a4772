"""Scans and pointings are told apart by their positions, whatever else is missing."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from permil.camera import Camera, load_camera
from permil.errors import PositionError
from permil.exposures import Exposure, classify, position_table, resolve_positions

from .campaigns import REB1, quincunx, raft, scan_nodes, table_of, take

CAMERA = load_camera("lsstcam-bin8")
R22 = [detector.name for detector in raft(CAMERA, "R22")]


def classified(exposures: list[Exposure], *, shuffle: int | None = None, **options: Any) -> Any:
    table = table_of(exposures, shuffle=shuffle)
    resolve_positions(table)
    classify(table, CAMERA, **options)
    return table


def purposes(table: Any, run: str) -> set[str]:
    return {str(purpose) for purpose in table["purpose"][table["run"] == run]}


def raft_pointings(name: str = "R22", **options: Any) -> list[Exposure]:
    detectors = raft(CAMERA, name)
    positions = [position for detector in detectors for position in quincunx(detector)]
    return take(positions, [detector.name for detector in detectors], **({"run": "flat", "job": "2", "start": 10_000} | options))


@pytest.mark.parametrize("n", [4, 6, 12, 24, 60])
def test_scan_alone(n: int) -> None:
    table = classified(take(scan_nodes(n), REB1))
    assert set(table["purpose"]) == {"scan"}
    assert len(set(table["position_id"])) == n * n


@pytest.mark.parametrize("images", [1, 5])
@pytest.mark.parametrize("name", ["R22", "R02"])
def test_pointings_alone(images: int, name: str) -> None:
    table = classified(raft_pointings(name, images=images))
    assert set(table["purpose"]) == {"pointing"}
    assert len(set(table["position_id"])) == 45
    assert {str(aimed) for aimed in table["aimed"]} == {detector.name for detector in raft(CAMERA, name)}


@pytest.mark.parametrize("images", [1, 5])
@pytest.mark.parametrize("n", [6, 12, 60])
def test_scan_and_pointings_in_one_job(n: int, images: int) -> None:
    scan = take(scan_nodes(n), REB1, run="all", job="1")
    table = classified(scan + raft_pointings(images=images, run="all", job="1"), shuffle=7)
    is_scan = np.isin(table["obsid"], sorted({exposure.obsid for exposure in scan}))
    assert set(table["purpose"][is_scan]) == {"scan"}
    assert set(table["purpose"][~is_scan]) == {"pointing"}


@pytest.mark.parametrize("read", ["target", "raft", "all"])
def test_light_campaign_of_the_focal_plane(read: str) -> None:
    """945 single images: a quincunx on every detector, five interleaved grids."""
    exposures: list[Exposure] = []
    everywhere = [detector.name for detector in CAMERA.science] if read == "all" else []
    for number, detector in enumerate(CAMERA.science):
        names = {
            "target": [detector.name],
            "raft": [entry.name for entry in raft(CAMERA, detector.raft)],
            "all": everywhere[:20],
        }[read]
        exposures += take(quincunx(detector), names, run="flat", start=10_000 + 5 * number, seed=number)
    table = classified(exposures + take(scan_nodes(), REB1, run="scan"), shuffle=1)
    assert purposes(table, "scan") == {"scan"}
    assert purposes(table, "flat") == {"pointing"}
    flat = table[table["purpose"] == "pointing"]
    assert len(set(flat["position_id"])) == 945
    assert set(flat["aimed"]) == {detector.name for detector in CAMERA.science}


def test_whole_campaign_with_six_leds() -> None:
    leds = ("nm960", "nm850", "nm750", "red", "blue", "uv")
    scan = take(scan_nodes(), ["R22_S11"], leds=leds, run="scan")
    table = classified(scan + raft_pointings(leds=leds, images=2), shuffle=2)
    assert purposes(table, "scan") == {"scan"}
    assert purposes(table, "flat") == {"pointing"}
    positions = position_table(table)
    for led in leds:
        of_led = positions[positions["led"] == led]
        assert (of_led["purpose"] == "scan").sum() == 144
        assert (of_led["purpose"] == "pointing").sum() == 45


@settings(max_examples=40)
@given(
    n=st.integers(8, 20),
    lost=st.floats(0.0, 0.25),
    jitter=st.floats(0.0, 0.012),
    seed=st.integers(0, 2**31),
    window=st.floats(40.0, 110.0),
    images=st.sampled_from([1, 3, 5]),
    rotation=st.floats(-5e-4, 5e-4),
)
def test_random_scans(n: int, lost: float, jitter: float, seed: int, window: float, images: int, rotation: float) -> None:
    """Random order, jitter, a turned stage and missing nodes change nothing; pointings of the raft lie in between."""
    random = np.random.default_rng(seed)
    nodes = [node for node in scan_nodes(n, window=window) if random.random() >= lost]
    assume(len(nodes) > 0.7 * n * n)
    _require_scan(nodes, jitter, seed, images, rotation)


def test_a_scan_that_lost_a_third_of_its_nodes() -> None:
    random = np.random.default_rng(3962329)
    nodes = [node for node in scan_nodes(8, window=90.0) if random.random() >= 0.25]
    assert len(nodes) == 42
    _require_scan(nodes, jitter=0.0, seed=3962329, images=1, rotation=0.0)


def _require_scan(nodes: list[tuple[float, float]], jitter: float, seed: int, images: int, rotation: float) -> None:
    """Check that a scan of these nodes, and pointings of the raft in between, are classified as what they are."""
    turned = [(x - rotation * y, y + rotation * x) for x, y in nodes]
    scan = take(turned, REB1, run="all", jitter=jitter, seed=seed)
    table = classified(scan + raft_pointings(images=images, run="all", jitter=jitter, seed=seed), shuffle=seed)
    is_scan = np.isin(table["obsid"], sorted({exposure.obsid for exposure in scan}))
    positions = position_table(table)
    # A pointing can fall on a node by chance; nothing else may go wrong.
    node_places, flat_places = np.array(turned), np.array([p for d in raft(CAMERA, "R22") for p in quincunx(d)])
    nearest = np.abs(node_places[:, None] - flat_places[None]).max(axis=2).min()
    if nearest > 0.3:
        assert set(table["purpose"][is_scan]) == {"scan"}
        assert set(table["purpose"][~is_scan]) == {"pointing"}
        assert (positions["n_exposures"][positions["purpose"] == "pointing"] == images).all()
    assert (table["purpose"][is_scan] == "scan").mean() > 0.95


@pytest.mark.parametrize("n_taken", [16, 60, 61, 100, 144, 1000])
def test_scan_broken_off(n_taken: int) -> None:
    table = classified(take(scan_nodes(60)[:n_taken], REB1) + raft_pointings(images=5))
    assert purposes(table, "6840D") == {"scan"}
    assert purposes(table, "flat") == {"pointing"}


def test_real_partial_scan(shared_data: Any) -> None:
    from astropy.table import Table

    printed = Table.read(shared_data / "ccob_scan_red_partial.ecsv")
    exposures = take(zip(printed["x_mm"], printed["y_mm"], strict=True), ["R22_S11"])
    assert set(classified(exposures)["purpose"]) == {"scan"}


@pytest.mark.parametrize("name", ["ccob_scan_run5_12x12.ecsv", "ccob_scan_red_12x12_16amps.ecsv"])
def test_real_scans(shared_data: Any, name: str) -> None:
    from astropy.table import Table

    printed = Table.read(shared_data / name)
    places = sorted(set(zip(printed["x_mm"].tolist(), printed["y_mm"].tolist(), strict=True)))
    table = classified(take(places, ["R22_S11"]))
    assert len(places) == 144
    assert set(table["purpose"]) == {"scan"}


def test_scan_resumed_in_another_job() -> None:
    nodes = scan_nodes()
    table = classified(take(nodes[:137], REB1, job="1") + take(nodes[137:], REB1, job="2", start=200))
    assert set(table["purpose"]) == {"scan"}


def test_missing_columns_and_a_node_taken_twice() -> None:
    nodes = [node for number, node in enumerate(scan_nodes()) if number // 12 not in (4, 7)]
    exposures = take(nodes, REB1) + take(nodes[30:31], REB1, start=500)
    table = classified(exposures)
    assert set(table["purpose"]) == {"scan"}
    assert len(set(table["position_id"])) == len(nodes)


def test_files_missing_at_some_nodes() -> None:
    exposures = [exposure for number, exposure in enumerate(take(scan_nodes(), REB1)) if number % 7]
    assert set(classified(exposures)["purpose"]) == {"scan"}


def test_node_that_missed_its_place() -> None:
    nodes = scan_nodes()
    nodes[50] = (nodes[50][0] + 0.4, nodes[50][1])
    table = classified(take(nodes, REB1, run="all") + raft_pointings(images=5, run="all"))
    assert len(np.unique(table["obsid"][table["purpose"] == "scan"])) == 144


def test_two_scans_of_one_led() -> None:
    second = take(scan_nodes(centre=(-116.515, -294.215)), ["R10_S10"], run="other", start=1000)
    third = take(scan_nodes(8, window=60.0), REB1, run="coarse", start=2000)
    table = classified(take(scan_nodes(), REB1) + second + third, shuffle=5)
    assert set(table["purpose"]) == {"scan"}
    assert len(set(table["position_id"])) == 144 + 144 + 64


def test_grid_of_repeated_images_is_no_scan() -> None:
    nodes = [
        (x, y) for detector in raft(CAMERA, "R22") for x, y in scan_nodes(3, centre=detector.centre_dvcs[::-1], window=28.17)
    ]
    table = classified(take(nodes, R22, images=5))
    assert set(table["purpose"]) == {"pointing"}


def test_runs_named_explicitly() -> None:
    exposures = take(scan_nodes(), REB1, run="A") + raft_pointings(run="B") + raft_pointings(run="C", start=20_000)
    table = classified(exposures, pointing_runs=["A"], scan_runs=["B"])
    assert purposes(table, "A") == {"pointing", "other"}
    assert purposes(table, "B") == {"scan"}
    # Run C is in neither list, and both lists are given.
    assert purposes(table, "C") == {"other"}
    table = classified(exposures, pointing_runs=["B"])
    assert (purposes(table, "A"), purposes(table, "B"), purposes(table, "C")) == ({"scan"}, {"pointing"}, {"other"})
    both = take(scan_nodes(), REB1, run="A") + raft_pointings(run="A")
    table = classified(both, scan_runs=["A"], pointing_runs=["A"])
    assert purposes(table, "A") == {"scan", "pointing"}


def test_other_exposures() -> None:
    bias = [Exposure(path="b", obsid="b", image_type="bias", detector="R22_S11", run="6840D")]
    flat = [Exposure(path="f", obsid="f", image_type="flat", detector="R22_S11", x_header_mm=1.0, y_header_mm=1.0)]
    lost = take([(0.0, 0.0)], REB1, header=False, folder=False)
    table = classified(bias + flat + lost)
    assert table["purpose"].tolist() == ["bias", "other", "other", "other", "other"]
    assert set(table["position_id"]) == {-1}


def test_pointing_off_every_detector_is_other() -> None:
    table = classified(take([(400.0, 400.0), (0.0, 0.0)], R22, run="flat"))
    astray = table["x_mm"] > 100
    assert set(table["purpose"][astray]) == {"other"}
    assert set(table["aimed"][astray]) == {""}
    assert set(table["purpose"][~astray]) == {"pointing"}


def test_aimed_detector_needs_the_transpose(lsstcam: Camera) -> None:
    assert lsstcam.detector_at(np.array([-211.815, np.nan]), np.array([-0.395, 0.0])).tolist() == ["R02_S21", ""]


def test_groups_share_led_setting_run_and_place() -> None:
    place = [(0.0, 0.0)]
    exposures = (
        take(place, R22, images=5, run="A")
        + take(place, R22, images=5, run="A", leds=["blue"], start=10)
        + take(place, R22, images=5, run="A", start=20, exposure_s=0.14)
        + take(place, R22, images=5, run="A", start=30, current_a=0.02)
        + take(place, R22, images=5, run="B", start=40)
        + take([(0.5, 0.0)], R22, images=5, run="A", start=50)
        + take(place, R22, images=3, run="A", start=60, current_a=float("nan"))
    )
    positions = position_table(classified(exposures, shuffle=4))
    assert sorted(positions["n_exposures"].tolist()) == [3, 5, 5, 5, 5, 5, 5]
    assert set(positions["n_detectors"]) == {9}


def test_mean_positions() -> None:
    exposures = take([(3.0, -4.0)], R22, images=5, jitter=0.02)
    (row,) = position_table(classified(exposures))
    measured = {(exposure.x_header_mm, exposure.y_header_mm) for exposure in exposures}
    assert (row["x_mm"], row["y_mm"]) == pytest.approx(tuple(np.mean(list(measured), axis=0)))


@pytest.mark.parametrize("shuffle", range(3))
def test_order_of_files_does_not_matter(shuffle: int) -> None:
    exposures = take(scan_nodes(6), REB1) + raft_pointings(images=2)
    tables = [classified(exposures), classified(exposures, shuffle=shuffle)]
    for table in tables:
        table.sort(["obsid", "detector"])
    for name in ("purpose", "position_id", "aimed"):
        assert tables[0][name].tolist() == tables[1][name].tolist()


def test_steps_below_the_tolerance() -> None:
    exposures = take([(0.05 * step, 0.0) for step in range(20)], R22, jitter=0.0)
    with pytest.raises(
        PositionError, match=r"form a chain.*steps cannot be distinguished from jitter; set exposures.same_position_mm"
    ):
        classified(exposures)
    assert len(set(classified(exposures, same_position_mm=0.02)["position_id"])) == 20


def test_files_of_one_exposure_disagree() -> None:
    exposures = take([(0.0, 0.0)], REB1, folder=False)
    exposures[1] = dataclasses.replace(exposures[1], x_header_mm=1.0)
    with pytest.raises(PositionError, match="files of exposure MC_C_20191028_000001 disagree"):
        classified(exposures)


def test_empty_positions() -> None:
    assert len(position_table(classified([Exposure(path="b", image_type="bias")]))) == 0
