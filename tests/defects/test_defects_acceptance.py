"""Completeness and purity of each kind on at least 300 defects, from raw files to the table, binned and at full size; long."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from permil.config import load_config
from permil.config.simulate import SimulateConfig
from permil.defects.table import table_boxes
from permil.pipeline import run_pipeline
from permil.products import read_table
from permil.simulate import Bench, simulate_bench

from .scores import FOUND_AS, Score, scores

pytestmark = pytest.mark.full

DETECTOR = "R22_S11"
STRENGTHS = {
    "pixel_strength": (0.25, 0.9), "weak_column_depth": (0.0625, 0.5), "unstable_strength": (0.125, 0.5),
    "nonlinear_strength": (0.25, 0.6), "hot_pixel_rate": 4000.0, "bad_columns": 0,
}  # fmt: skip
PIXELS = ("dark_pixels", "vampire_pixels", "dark_clusters", "unstable_pixels", "nonlinear_pixels", "hot_pixels")
STAGES = ("index", "isr", "beam", "flat", "defects")


def score_campaign(folder: Path, changes: dict[str, Any]) -> dict[str, Score]:
    """Simulate a campaign, find its defects, and return the score of each kind."""
    config = SimulateConfig.model_validate({"detectors": [DETECTOR], "handover": {"defects": False}} | changes)
    simulate_bench(config, folder, workers=2)
    run_pipeline(load_config(folder / "config.yaml", ["flat.solver=divide", "pipeline.workers=2"]), stages=STAGES)
    bench = Bench(config)
    detector = bench.camera[DETECTOR]
    (rows, columns), rates = bench.sensors.hot_pixels(detector)
    return scores(
        table_boxes(read_table(folder / "defects" / f"{DETECTOR}.ecsv")),
        bench.sensors.defects(detector),
        detector,
        brightest=config.lamp.electrons,
        hot=np.column_stack([rows, columns, 0.127 * rates]),
    )


def require(found: Sequence[dict[str, Score]], name: str, capsys: pytest.CaptureFixture[str]) -> None:
    total = {kind: sum((each[kind] for each in found), Score()) for kind in (*FOUND_AS, "other")}
    with capsys.disabled():
        for kind, score in total.items():
            print(f"{name}: {kind}: {score.complete} of {score.drawn} found, {score.pure} of {score.found} true")
    for kind in FOUND_AS:
        assert total[kind].drawn >= 300, kind
        assert total[kind].complete >= 0.98 * total[kind].drawn, kind
        assert total[kind].pure >= 0.98 * total[kind].found, kind
    assert total["other"].pure >= 0.98 * total["other"].found


def test_binned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    campaign = {"scan_size": 8, "images": 4, "biases": 6, "readout": "target"}
    pixels = STRENGTHS | dict.fromkeys(PIXELS, 60) | {"weak_columns": 6, "dead_columns": 6, "hot_pixels": 80}
    columns = STRENGTHS | {"weak_columns": 34, "dead_columns": 34, "hot_pixels": 0}
    found = []
    for seed in range(9201, 9207):
        leds = {"preset": "mini", "seed": seed, "leds": ["red", "nm960"], "sensor": pixels, "campaign": campaign}
        found.append(score_campaign(tmp_path / str(seed), leds))
    for seed in range(9211, 9220):
        leds = {"preset": "mini", "seed": seed, "leds": ["red"], "sensor": columns, "campaign": campaign}
        found.append(score_campaign(tmp_path / str(seed), leds))
    require(found, "binned", capsys)


def test_full_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sensor = STRENGTHS | dict.fromkeys(PIXELS, 400) | {"weak_columns": 310, "dead_columns": 310}
    campaign = {"scan_size": 6, "images": 3, "biases": 6, "readout": "target", "compression": "rice"}
    found = score_campaign(tmp_path, {"preset": "raft", "seed": 9300, "leds": ["red"], "sensor": sensor, "campaign": campaign})
    require([found], "full size", capsys)
