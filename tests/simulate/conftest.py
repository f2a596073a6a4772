"""A small campaign, simulated once."""

from __future__ import annotations

from pathlib import Path

import pytest

from permil.config.simulate import SimulateConfig
from permil.simulate import SimulationSummary, simulate_bench

SMALL = SimulateConfig(
    detectors=["R22_S11"],
    leds=["red", "uv"],
    seed=11,
    campaign={"scan_size": 2, "images": 2, "biases": 2},
)


@pytest.fixture(scope="session")
def small_config() -> SimulateConfig:
    """Return the configuration of the small campaign."""
    return SMALL


@pytest.fixture(scope="session")
def small_campaign(tmp_path_factory: pytest.TempPathFactory) -> SimulationSummary:
    """Return what the small campaign wrote."""
    return simulate_bench(SMALL, tmp_path_factory.mktemp("small"), workers=1)


@pytest.fixture(scope="session")
def small_folder(small_campaign: SimulationSummary) -> Path:
    """Return the folder of the small campaign."""
    return small_campaign.folder
