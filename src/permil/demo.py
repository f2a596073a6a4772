"""The demonstration: simulate small campaigns, reduce them and compare the results with the truth.

The first has a beam scan and pointings on a raft of binned CCDs, and yields composite flats. The others have flats and artificial stars of
cut-out sensors, an E2V sensor in two bands and an ITL sensor in one of them, and test whether stars respond like the flat.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table as TextTable

from permil.camera import load_camera
from permil.compare.comparison import SINGLE, WHOLE
from permil.compare.sensors.tables import ALL, FRACTIONS
from permil.config import load_config
from permil.config.simulate import SimulateCampaign, SimulateConfig, SimulateSpotsConfig
from permil.pipeline import run_pipeline
from permil.products import RunFolder, read_table
from permil.products.folder import CompareFolder
from permil.progress import StageReport, console, default_workers, parallel_map, say, show_report
from permil.rounding import rounded, rounded_like
from permil.simulate.spots import simulate_spots
from permil.simulate.stage import simulate_bench
from permil.truth import TruthSummary, compare_fractions, compare_with_truth, summarise
from permil.yaml_file import merged

_PER_MIL = 1e3
STARS = "stars"
"""Subfolder of the demonstration with the campaign of artificial stars."""
_SMALLER: dict[str, Any] = {"flats": {"images": 3, "scan_size": 8}, "campaign": {"exposures": 20}}
_BEFORE_PAGES = ("index", "isr", "beam", "flat", "spots", "compare")
FURTHER_STARS: dict[str, dict[str, Any]] = {
    "stars-itl": {"detector": "R02_S02", **_SMALLER},
    # Dithers at other places: stars of the same sensor that are independent of those in the first band.
    "stars-blue": merged(_SMALLER, {"flats": {"led": "blue"}, "campaign": {"filter": "blue", "window_pitches": 9.5}}),
}
"""Subfolders with further campaigns of stars, and their differences: another sensor in the same band, the same sensor in another band."""


def run_demo(out: Path, *, seed: int) -> None:
    """Simulate the presets `mini` and `stars-and-flats` in a folder, run the pipeline on both and print recovered and true values.

    Existing files of the same simulation are reused.

    Raises
    ------
    PermilError
        If the folder is not writable.
    """
    begin = time.perf_counter()
    out = out.absolute()
    folder = RunFolder(out)
    say(f"simulating a small campaign (raft R22, 80 um pixels, two LEDs, seed {seed}) in {out}")
    simulate_bench(SimulateConfig(preset="mini", seed=seed, campaign=SimulateCampaign(images=3)), out, workers=default_workers())
    config = load_config(out / "config.yaml")
    run_pipeline(config, stages=("index", "isr", "beam", "flat", "stability", "defects", "colour"))
    comparison = compare_with_truth(folder, load_camera(config.camera), super_pixel_mm=config.flat.super_pixel_mm)
    run_pipeline(config, stages=("report",))
    stars = _demonstrate_stars(out, seed=seed)
    figures = summarise(comparison)
    console.print(truth_table(figures, config.flat.super_pixel_mm))
    console.print(pull_table(figures))
    say(_stars_text(stars))
    say(
        f"done in {time.perf_counter() - begin:.0f} s\n"
        f"  pages    {folder.report}\n"
        f"           {RunFolder(stars.root).report} (artificial stars)\n"
        f"           {RunFolder(stars.root).report.parent / 'compare' / 'index.html'} (all sensors and bands)\n"
        f"  flats    {out / 'flat'}\n"
        f"  metrics  {folder.comparison} (recovered over true), {folder.summary}"
    )


def _demonstrate_stars(out: Path, *, seed: int) -> CompareFolder:
    """Simulate flats and artificial stars of two sensors, one of them in two bands, and reduce and compare them."""
    further = [
        StarCampaign(out / name, _stars_config(seed, changes), ("compare.resamples=300", "pipeline.workers=1"))
        for name, changes in FURTHER_STARS.items()
    ]
    found = parallel_map(reduce_stars, further, workers=default_workers(), description="further campaigns of artificial stars")
    for campaign, reports in zip(further, found, strict=True):
        _describe_campaign(campaign.config, campaign.folder)
        for report in reports:
            show_report(report)
    config = _stars_config(seed, {})
    _describe_campaign(config, out / STARS)
    simulate_spots(config, out / STARS, workers=default_workers())
    configuration = out / STARS / "config.yaml"
    # The comparisons of the other campaigns are combined with those of this one whenever it runs.
    with configuration.open("a", encoding="utf-8") as stream:
        stream.write(f"compare: {{with_runs: {json.dumps([f'../{name}' for name in FURTHER_STARS])}}}\n")
    run_pipeline(load_config(configuration))
    return CompareFolder(out / STARS)


@dataclass(frozen=True)
class StarCampaign:
    """A campaign of artificial stars that is simulated, reduced and compared: folder, simulation, overrides of the configuration."""

    folder: Path
    config: SimulateSpotsConfig
    overrides: tuple[str, ...]


def reduce_stars(campaign: StarCampaign) -> list[StageReport]:
    """Simulate a campaign of artificial stars, reduce it and compare it with its flats in this process; return the reports of the stages.

    Nothing is printed: others run at the same time.
    """
    was_quiet, console.quiet = console.quiet, True
    try:
        simulate_spots(campaign.config, campaign.folder, workers=1)
        return run_pipeline(load_config(campaign.folder / "config.yaml", campaign.overrides), stages=_BEFORE_PAGES)
    finally:
        console.quiet = was_quiet


def _stars_config(seed: int, changes: dict[str, Any]) -> SimulateSpotsConfig:
    return SimulateSpotsConfig.model_validate({"preset": "stars-and-flats", "seed": seed, **changes})


def _describe_campaign(config: SimulateSpotsConfig, folder: Path) -> None:
    say(
        f"flats and {config.campaign.exposures} dithers of artificial stars of {config.detector} in {config.campaign.filter} in {folder}"
    )


def _stars_text(folder: CompareFolder) -> str:
    """Return the comparison of stars and flat, with the true values."""
    correlations, choices = read_table(folder.correlations), read_table(folder.efficiency)
    headline = correlations[(correlations["quantity"] == "flux") & (correlations["scale"] == SINGLE)][0]
    fractions = ", ".join(
        f"{row['kind']} {rounded(row['value'], row['error'], plus_minus='±')} (true {rounded_like(row['true'], row['error'])})"
        for row in compare_fractions(folder)
    )
    p_value = float(headline["p_value"])
    chance = f"p = {p_value:.2g}" if np.isfinite(p_value) else f"no p-value: {headline['reason']}"
    return (
        f"correlation of stars and flat: r = {rounded(headline['r'], headline['r_err'], plus_minus='±', sign=True)}, {chance}; "
        f"{headline['n']} stars, equivalent to {headline['n_eff']:.0f} independent ones\n"
        f"fractions of the flat's variance: {fractions}\n"
        f"{choices['sentence'][0]}\n"
        f"{_together_text(folder)}\n"
    )


def _together_text(folder: CompareFolder) -> str:
    """Return the combined fractions of all sensors, and the number of tests."""
    combined, tests = read_table(folder.combined), read_table(folder.tests)
    chosen = combined[(combined["kind"] == ALL) & (combined["region"] == WHOLE)]
    means = ", ".join(
        f"{str(row['quantity']).removeprefix('fraction_').replace('_', ' ')} {rounded(row['value'], row['error'], plus_minus='±')}"
        for row in chosen
        if str(row["quantity"]) in FRACTIONS
    )
    significant = int(np.sum(tests["significant"]))
    return (
        f"all {chosen['sensors'][0]:.0f} sensors together: {means}; {significant} of {len(tests)} tests are significant at a "
        "false-discovery rate of 5 %"
    )


def pull_table(summaries: list[TruthSummary]) -> TextTable:
    """Return deviations from the truth relative to their stated errors, per LED, as a printable table."""
    rows = [
        (
            s.led,
            f"{s.level_pull:.2f}",
            f"{s.gradient_pull:.2f}",
            f"{s.super_pull:.2f}±{s.super_pull_err:.2f}",
            f"{s.tilt_x / s.tilt_x_err:+.1f}, {s.tilt_y / s.tilt_y_err:+.1f}",
            f"{s.planes_chi_square:.1f} / {s.planes_freedom}",
            f"{s.p_value:.2g}",
        )
        for s in summaries
    ]
    caption = (
        "rms over CCDs of their levels (relative to the mean of all) and gradients, rms of super-pixels, plane through all CCDs "
        "along X and Y; chi-square of levels and gradients with their covariance, degrees of freedom, and the probability of a larger one"
    )
    headings = ("LED", "levels", "gradients", "super-pixels", "plane X, Y", "chi-square", "chance")
    return _text_table("deviations from the truth relative to their stated errors", caption, headings, rows)


def truth_table(summaries: list[TruthSummary], super_pixel_mm: float) -> TextTable:
    """Return the metrics per LED as a printable table."""
    rows = [
        (
            s.led,
            f"{_PER_MIL * s.rms_pixel:.3f}",
            f"{_PER_MIL * s.rms_super:.3f}±{_PER_MIL * s.rms_super_err:.3f}",
            f"{_PER_MIL * s.super_noise:.3f}",
            f"{_PER_MIL * s.scale_rms:.3f}±{_PER_MIL * s.scale_rms_err:.3f}",
            f"{_PER_MIL * s.gradient:.4f}±{_PER_MIL * s.gradient_err:.4f}",
            f"{s.chi_square:.3f}±{s.chi_square_err:.3f}",
        )
        for s in summaries
    ]
    caption = (
        f"rms of pixels and of {super_pixel_mm:g} mm super-pixels, expected rms from photon and read noise alone, scatter "
        "of the scale from CCD to CCD, gradient per mm; chi-square per pixel of the small-scale part over the variance plane"
    )
    headings = ("LED", "pixels", f"{super_pixel_mm:g} mm", "noise", "CCD scale", "gradient", "chi-square")
    title = f"recovered flat over true flat, per mil, {max(s.detectors for s in summaries)} CCDs"
    return _text_table(title, caption, headings, rows)


def _text_table(title: str, caption: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> TextTable:
    table = TextTable(title=title, caption=caption, caption_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "LED" else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table
