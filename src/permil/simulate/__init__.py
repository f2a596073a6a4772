"""A test stand with known truth: raw files of the real format, inputs of the reduction, and the truth."""

from permil.simulate.bench import Bench, ExposureTruth
from permil.simulate.campaign import PlannedExposure
from permil.simulate.projector import BeamTruth
from permil.simulate.stage import CampaignSize, SimulationSummary, campaign_size, simulate_bench

__all__ = [
    "BeamTruth",
    "Bench",
    "CampaignSize",
    "ExposureTruth",
    "PlannedExposure",
    "SimulationSummary",
    "campaign_size",
    "simulate_bench",
]
