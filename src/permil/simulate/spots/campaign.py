"""What is exposed, when, and what its header says: spot exposures of one run, with biases before them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from permil.camera import Detector
from permil.config.simulate_spots import SimulateSpotsConfig
from permil.exposures import file_names
from permil.simulate.campaign import READOUT_SECONDS, PlannedExposure
from permil.simulate.cards import Card, CardValue
from permil.simulate.headers import Conditions, primary_cards
from permil.simulate.spots.exposing import SpotExposure

_START = datetime(2019, 10, 31, 19, 0, 0, tzinfo=UTC)
_RUN, _JOB = "6868D", "48201"
_SHUTTER_SECONDS = 2.859
"""What a spot exposure's dark time has above its exposure time."""
# Leftovers of the last exposure of the other projector, as real spot files have them; some are impossible.
_STALE: dict[str, CardValue] = {
    "CCOBLED": "uv",
    "CCOBCURR": 0.1,
    "CCOBADC": 0.459757,
    "TEMPLED1": 391.866,
    "TEMPSPH": -64.086,
}


def planned_exposures(config: SimulateSpotsConfig, truths: list[SpotExposure]) -> list[PlannedExposure]:
    """Return all exposures in the order of time: biases (kind ``bias``), then one of kind ``spot`` for each truth."""
    biases = [_planned(config, number, number, truths[0], kind="bias") for number in range(config.campaign.biases)]
    return biases + [_planned(config, len(biases) + truth.number, truth.number, truth, kind="spot") for truth in truths]


def _planned(config: SimulateSpotsConfig, place: int, number: int, truth: SpotExposure, *, kind: str) -> PlannedExposure:
    seconds = config.campaign.exposure_time_s
    total = max(config.campaign.biases + config.campaign.exposures - 1, 1)
    return PlannedExposure(
        kind=kind,
        run=_RUN,
        job=_JOB,
        led=str(_STALE["CCOBLED"]),
        point=number if config.campaign.mode == "dithered" else 0,
        image=number,
        test_sequence=number,
        commanded=truth.commanded,
        target=config.detector if kind == "spot" else "",
        detectors=(config.detector,),
        end=_START + timedelta(seconds=(place + 1) * (seconds + READOUT_SECONDS)),
        sequence=place + 1,
        exposure_time=0.0 if kind == "bias" else seconds,
        current=0.1,
        phase=place / total,
        compressed=config.campaign.compressed,
    )


def raw_file(exposure: PlannedExposure, detector: str) -> str:
    """Return the path of a file below the root of raw files; folders of spot exposures follow no known pattern."""
    if exposure.kind == "bias":
        return exposure.file(detector)
    folder = file_names.run_folder(exposure.run, exposure.job) / f"spot_flat_{exposure.test_sequence:03d}"
    return str(folder / file_names.file_name(exposure.obsid, detector))


def spot_cards(detector: Detector, exposure: PlannedExposure, conditions: Conditions, *, filter_name: str = "") -> list[Card]:
    """Return the primary header of a spot exposure, or of a bias of its run, with the stale CCOB cards of real files."""
    changes = dict(_STALE)
    added: list[Card] = []
    if exposure.kind == "spot":
        changes |= {
            "TESTTYPE": "SPOT_FLAT",
            "IMGTYPE": "SPOT",
            "DARKTIME": round(exposure.exposure_time + _SHUTTER_SECONDS, 3),
        }
        added.append(("EXPTIME2", 0.0, "Exposure Time in Seconds of the second light"))
    if filter_name:
        added.append(("FILTER", filter_name, "Filter of the projector"))
    cards = [
        (keyword, changes.get(keyword, content), comment)
        for keyword, content, comment in primary_cards(detector, exposure, conditions)
    ]
    # CHECKSUM and DATASUM stay last.
    return [*cards[:-2], *added, *cards[-2:]]
