"""Stability of a solved campaign: what was put into signals, electronics and readings is found, and the page says so."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from synthetic_joint import DETECTORS, PHOTODIODE_NOISE, SolvedCampaign

from permil.camera import Camera
from permil.config.model import ReportConfig
from permil.errors import InputError
from permil.flat.signals import SuperPixelSignals, read_signals, write_signals
from permil.products import RunFolder, read_table
from permil.report.kit.results import NO, OPEN, YES, judge_size
from permil.report.stability import (
    StabilityPageRequest,
    called_sentences,
    called_table,
    make_section,
    make_stability_page,
    measurements,
    read_findings,
    read_led,
    read_superbias_stability,
    result_of,
    sentence,
)
from permil.simulate.projector import light
from permil.stability.findings import SeriesGroup, analyse
from permil.stability.stage import StabilityRequest, measure_led

STEPPED, STEP, DRIFTING, DRIFT = 3, 4e-3, 6, 5.0
"""An amplifier whose signals step, by how much; one whose bias level drifts, adu per hour."""


def request_of(campaign: SolvedCampaign, detectors: tuple[str, ...] = DETECTORS) -> StabilityRequest:
    rows = read_table(campaign.folder.exposures)
    for name in ("led_back_temp", "sphere_temp", "board_temp", "ccd_temp"):
        rows[name] = np.full(len(rows), np.nan)
    rows["run"], rows["serial"], rows["filter"] = "6840D", "E2V-CCD250-382", ""
    rows["ccd_temp"] = -100.0 + 0.01 * np.arange(len(rows)) % 7
    return StabilityRequest(campaign.config, campaign.folder.root, campaign.led, rows, detectors, "5ab1e")


def with_electronics(signals: SuperPixelSignals, camera: Camera, hours: dict[str, float]) -> SuperPixelSignals:
    """Return signals with amplifiers, a step of one of them, and overscans of which one drifts."""
    rng = np.random.default_rng(8)
    detector = camera[signals.detector]
    amplifiers = detector.amplifier_map()
    place = [
        np.minimum(signals.block * part + signals.block // 2, side - 1)
        for part, side in zip((signals.row, signals.column), detector.shape, strict=True)
    ]
    amplifier = amplifiers[place[0], place[1]].astype(np.int64)
    times = np.array([hours[str(obsid)] for obsid in signals.obsid])
    factor = np.where((times[:, None] >= np.median(times)) & (amplifier == STEPPED), 1 + STEP, 1.0)
    shape = (len(times), len(detector.amplifiers))
    level = 25_000.0 + 2.0 * rng.standard_normal(shape)
    level[:, DRIFTING] += 10 * DRIFT * times
    return replace(
        signals,
        signal=(signals.signal * factor).astype(np.float32),
        amplifier=amplifier,
        overscan_level=level,
        read_noise=5.0 + 0.03 * rng.standard_normal(shape),
        read_noise_err=np.full(shape, 0.03),
    )


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, solved: SolvedCampaign, bin8: Camera) -> SolvedCampaign:
    """Return a solved campaign with its tables of stability; tests must not change it."""
    root = shutil.copytree(solved.folder.root, tmp_path_factory.mktemp("stable") / "run")
    campaign = replace(solved, folder=RunFolder(root), config=solved.config.model_copy(update={"output": root}))
    index = read_table(campaign.folder.exposures)
    hours = {str(row["obsid"]): 24.0 * (row["mjd"] - index["mjd"].min()) for row in index}
    for name in DETECTORS:
        path = campaign.folder.super_pixels(campaign.led, name)
        changed = with_electronics(read_signals(path), bin8, hours)
        write_signals(path, changed, fingerprint=f"aa{name}", led=campaign.led)
    messages = measure_led(request_of(campaign))
    assert any("repeats to" in message for message in messages)
    assert any("amplifiers change beyond noise" in message for message in messages)
    return campaign


def page_of(campaign: SolvedCampaign) -> str:
    return make_stability_page(StabilityPageRequest(campaign.config, campaign.folder, (campaign.led,), ()), "f00")


def test_light_and_photodiode_are_those_of_the_campaign(measured: SolvedCampaign) -> None:
    led = read_led(measured.folder, measured.led)
    exposures = led.exposures[np.asarray(led.exposures["is_used"], dtype=bool)]
    number = {obsid: row for row, obsid in enumerate(measured.obsids)}
    true = measured.log_scale[[number[str(obsid)] for obsid in exposures["obsid"]]]
    scatter = led.result("light", "scatter")
    assert scatter["value"] == pytest.approx(true.std(ddof=1), rel=0.02)
    assert 0.05 < scatter["error"] / scatter["value"] < 1.0
    follows = led.result("photodiode_over_light", "successive")
    readings = np.log(np.asarray(exposures["photodiode"])) - np.log(np.asarray(exposures["light"]))
    assert follows["value"] == pytest.approx(np.sqrt(np.mean(np.diff(readings) ** 2) / 2), rel=0.1)
    assert follows["value"] > PHOTODIODE_NOISE
    assert led.result("light", "led_temp")["with_time"] == pytest.approx(1.0, abs=1e-3)
    assert str(led.exposures["obsid"][0]) == measured.obsids[0]


def test_a_step_of_an_amplifier_is_found_with_its_size(measured: SolvedCampaign, bin8: Camera) -> None:
    table = read_table(measured.folder.stability_amplifiers(measured.led))
    own = table[(table["series"] == "flux_over_light") & (table["quantity"] == "jump")]
    name = bin8["R22_S11"].amplifiers[STEPPED].name
    called = own[np.asarray(own["called"], dtype=bool)]
    assert set(called["amp"]) == {name}
    assert np.all(np.abs(called["value"] - STEP) < 4 * called["error"] + 0.15 * STEP)
    drift = table[
        (table["series"] == "overscan_level") & (table["quantity"] == "drift") & np.asarray(table["called"], dtype=bool)
    ]
    assert set(drift["amp"]) == {bin8["R22_S11"].amplifiers[DRIFTING].name}
    assert np.all(np.abs(drift["value"] - 10 * DRIFT) < 4 * drift["error"])
    assert not np.asarray(table["called"], dtype=bool)[table["series"] == "read_noise"].any()


def test_readings_have_one_row_for_each_exposure_and_amplifier(measured: SolvedCampaign) -> None:
    readings = read_table(measured.folder.stability_readings(measured.led))
    keys = set(zip(readings["obsid"], readings["detector"], readings["amp"], strict=True))
    assert len(keys) == len(readings)
    assert np.isfinite(readings["overscan_level"]).all()
    assert np.isfinite(readings["flux_over_light"]).mean() > 0.2


def test_the_page_answers_by_name_with_errors(measured: SolvedCampaign, bin8: Camera) -> None:
    page = page_of(measured)
    text = re.sub(r"<[^>]+>", " ", page)
    for words in (
        "Repeatability of the light",
        "required",
        "photodiode over light",
        "drift",
        "Shape of the beam",
        "Repeated images",
    ):
        assert words in text
    assert re.search(r"the light repeats to \d+\.\d+ ± \d+\.\d+ ‰", text)
    name = bin8["R22_S11"].amplifiers[STEPPED].name
    rows = re.findall(r'<table class="sortable" id="called-[^"]*">(.*?)</table>', page, re.DOTALL)
    assert name in rows[0]
    assert "http" not in re.sub(r"http://www.w3.org\S*", "", page)
    section = make_section(StabilityPageRequest(measured.config, measured.folder, (measured.led,), ()))
    assert {entry.metric for entry in section.measurements} >= {
        "light_scatter",
        "light_drift",
        "photodiode_over_light_scatter",
        "stack_chi_square",
    }
    assert "stability.html" in section.content


def test_amplifiers_that_change_together_are_one_sentence(measured: SolvedCampaign) -> None:
    led = read_led(measured.folder, measured.led)
    assert called_sentences(led) == []
    table = led.amplifiers.copy()
    table["called"] = np.asarray(table["called"]) | ((table["series"] == "flux_over_photodiode") & (table["quantity"] == "jump"))
    changed = replace(led, amplifiers=table)
    count = len(set(zip(table["detector"], table["amp"], strict=True)))
    assert called_sentences(changed)[0].startswith(f"Flux over photodiode: {count} of {count} amplifiers change together")
    assert len(called_table(changed).rows) == sum(row["series"] != "flux_over_photodiode" for row in table if row["called"])


def test_results_for_the_summary_have_errors(measured: SolvedCampaign) -> None:
    findings = read_findings(measured.folder, measured.led)
    found = measurements(findings, measured.led)
    assert all(np.isfinite(entry.error) and entry.error > 0 for entry in found)
    assert {entry.detector for entry in found if entry.metric == "stack_chi_square"} <= set(DETECTORS)


@pytest.mark.parametrize(("scatter", "verdict"), [(0.001, YES), (0.003, NO)])
def test_verdict_at_one_and_three_per_mil(scatter: float, verdict: str) -> None:
    states = [light_verdict(seed, scatter) for seed in range(25)]
    assert states.count(verdict) >= 20
    assert set(states) <= {verdict, OPEN}


def light_verdict(seed: int, scatter: float, *, drift: float = 0.001, count: int = 194) -> str:
    """Return the verdict on a lamp of the simulator with a scatter and a slow change, both relative."""
    rng = np.random.default_rng([seed, 9])
    start = rng.uniform(0, 2 * np.pi)
    phases = np.linspace(0, 1, count)
    values = np.log([light(rng, start, phase=phase, instability=scatter, drift=drift) for phase in phases])
    values += 1e-5 * rng.standard_normal(count)
    group = SeriesGroup("light", "", values[:, None], errors=np.full((count, 1), 1e-5))
    row = next(row for row in analyse(group, phases, [""] * count, {}) if row.quantity == "scatter")
    return judge_size(row.value, row.error, ReportConfig().repeatability_limit, beyond_noise=True)


@pytest.mark.full
def test_acceptance_verdicts_with_fresh_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    counts = {}
    for scatter, right in ((0.001, YES), (0.003, NO)):
        for drift in (0.0, 0.001):
            states = [light_verdict(seed, scatter, drift=drift) for seed in range(750_000, 750_200)]
            counts[scatter, drift] = (
                states.count(right),
                states.count(OPEN),
                len(states) - states.count(right) - states.count(OPEN),
            )
    with capsys.disabled():
        print("\nverdicts right, open, wrong:", counts)
    assert all(wrong == 0 and right >= 170 for right, _, wrong in counts.values())


def test_sentences_of_all_verdicts() -> None:
    def findings(value: float, error: float) -> Table:
        rows = [("light", "scatter", value, error), ("light", "drift", 0.0, 1e-3)]
        table = Table(rows=rows, names=("series", "quantity", "value", "error"))
        table.meta["time"] = "h"
        return table

    limits = ReportConfig()
    assert "is within the required 2.0 ‰" in sentence(findings(1e-3, 1e-4), "red", limits)
    assert "exceeds the required 2.0 ‰" in sentence(findings(3e-3, 1e-4), "red", limits)
    assert "too uncertain" in sentence(findings(2e-3, 1e-3), "red", limits)
    assert "too few exposures" in sentence(findings(1e-3, 1e-4)[:0], "red", limits)


def test_without_a_joint_solution_the_photodiode_stands_for_the_light(measured: SolvedCampaign, tmp_path: Path) -> None:
    root = tmp_path / "run"
    root.mkdir()
    request = replace(request_of(measured), root=root, detectors=())
    messages = measure_led(request)
    assert "photodiode repeats to" in messages[0]
    findings = read_findings(RunFolder(root), measured.led)
    assert result_of(findings, "light", "scatter") is None
    assert "the photodiode repeats to" in sentence(findings, measured.led, ReportConfig())
    campaign = replace(measured, folder=RunFolder(root))
    assert "not measured" not in re.sub(r"<[^>]+>", " ", page_of(campaign))


def test_few_exposures_without_times(measured: SolvedCampaign, tmp_path: Path) -> None:
    root = tmp_path / "run"
    root.mkdir()
    request = replace(request_of(measured), root=root, detectors=())
    rows = request.rows[:5].copy()
    rows["mjd"] = np.nan
    assert "too few exposures" in measure_led(replace(request, rows=rows))[0]
    assert read_findings(RunFolder(root), measured.led).meta["time"] == "exposure"
    assert "too few exposures" in page_of(replace(measured, folder=RunFolder(root)))


def test_damaged_tables_are_named(measured: SolvedCampaign, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    shutil.copytree(measured.folder.root, folder.root)
    folder.stability(measured.led).write_text("nothing\n")
    with pytest.raises(InputError, match=re.escape(str(folder.stability(measured.led)))):
        page_of(replace(measured, folder=folder))
    broken = tmp_path / "superbias.fits"
    broken.write_bytes(b"SIMPLE  = T")
    with pytest.raises(InputError, match="superbias"):
        read_superbias_stability(broken)
    old = tmp_path / "old.fits"
    fits.PrimaryHDU().writeto(old)
    assert read_superbias_stability(old) is None
