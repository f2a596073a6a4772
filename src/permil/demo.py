"""The demonstration: simulate two small campaigns, reduce them and compare the results with the truth.

The first has a beam scan and pointings on a raft of binned CCDs, and yields composite flats. The second has flats and artificial stars of
one cut-out sensor, and tests whether stars respond like the flat.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table as TextTable

from permil.camera import load_camera
from permil.compare.comparison import SINGLE
from permil.config import load_config
from permil.config.simulate import SimulateCampaign, SimulateConfig, SimulateSpotsConfig
from permil.pipeline import run_pipeline
from permil.products import RunFolder, read_table
from permil.products.folder import CompareFolder
from permil.progress import console, default_workers
from permil.simulate.spots import simulate_spots
from permil.simulate.stage import simulate_bench
from permil.truth import TruthSummary, compare_fractions, compare_with_truth, summarise

_PER_MIL = 1e3
STARS = "stars"
"""Subfolder of the demonstration with the campaign of artificial stars."""


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
    console.print(
        f"simulating a small campaign (raft R22, 80 um pixels, two LEDs, seed {seed}) in {out}", highlight=False, soft_wrap=True
    )
    simulate_bench(SimulateConfig(preset="mini", seed=seed, campaign=SimulateCampaign(images=3)), out, workers=default_workers())
    # Solving halves of the exposures would double the time of the solution.
    config = load_config(out / "config.yaml", ["flat.joint.checks=false"])
    run_pipeline(config, stages=("index", "isr", "beam", "flat"))
    comparison = compare_with_truth(folder, load_camera(config.camera), super_pixel_mm=config.flat.super_pixel_mm)
    run_pipeline(config, stages=("report",))
    stars = _demonstrate_stars(out / STARS, seed=seed)
    figures = summarise(comparison)
    console.print(truth_table(figures, config.flat.super_pixel_mm))
    console.print(pull_table(figures))
    console.print(_stars_text(stars), highlight=False, soft_wrap=True)
    console.print(
        f"done in {time.perf_counter() - begin:.0f} s\n"
        f"  pages    {folder.report}\n"
        f"           {RunFolder(stars.root).report} (artificial stars)\n"
        f"  flats    {out / 'flat'}\n"
        f"  metrics  {folder.comparison} (recovered over true), {folder.summary}",
        highlight=False,
        soft_wrap=True,
    )


def _demonstrate_stars(out: Path, *, seed: int) -> CompareFolder:
    """Simulate flats and artificial stars of one sensor, and reduce and compare them."""
    console.print(f"simulating flats and 40 dithers of artificial stars of one sensor in {out}", highlight=False, soft_wrap=True)
    simulate_spots(SimulateSpotsConfig(preset="stars-and-flats", seed=seed), out, workers=default_workers())
    run_pipeline(load_config(out / "config.yaml"))
    return CompareFolder(out)


def _stars_text(folder: CompareFolder) -> str:
    """Return the comparison of stars and flat, with the true values."""
    correlations, verdicts = read_table(folder.correlations), read_table(folder.verdicts)
    headline = correlations[(correlations["quantity"] == "flux") & (correlations["scale"] == SINGLE)][0]
    fractions = ", ".join(
        f"{row['kind']} {row['value']:.3f} ± {row['error']:.3f} (true {row['true']:.3f})" for row in compare_fractions(folder)
    )
    p_value = float(headline["p_value"])
    chance = f"p = {p_value:.2g}" if np.isfinite(p_value) else f"no p-value: {headline['reason']}"
    return (
        f"correlation of stars and flat: r = {headline['r']:+.3f} ± {headline['r_err']:.3f}, {chance}; "
        f"{headline['n']} stars, equivalent to {headline['n_eff']:.0f} independent ones\n"
        f"fractions of the flat's variance: {fractions}\n"
        f"{verdicts['sentence'][0]}\n"
    )


def pull_table(summaries: list[TruthSummary]) -> TextTable:
    """Return deviations from the truth relative to their stated errors, per LED, as a printable table."""
    table = TextTable(
        title="deviations from the truth relative to their stated errors",
        caption="rms over CCDs of their levels (relative to the mean of all) and gradients, rms of super-pixels, plane through all CCDs "
        "along X and Y; chi-square of levels and gradients with their covariance, degrees of freedom, and the probability of a larger one",
        caption_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for heading in ("LED", "levels", "gradients", "super-pixels", "plane X, Y", "chi-square", "chance"):
        table.add_column(heading, justify="left" if heading == "LED" else "right", no_wrap=True)
    for s in summaries:
        table.add_row(
            s.led,
            f"{s.level_pull:.2f}",
            f"{s.gradient_pull:.2f}",
            f"{s.super_pull:.2f}±{s.super_pull_err:.2f}",
            f"{s.tilt_x / s.tilt_x_err:+.1f}, {s.tilt_y / s.tilt_y_err:+.1f}",
            f"{s.planes_chi_square:.1f} / {s.planes_freedom}",
            f"{s.p_value:.2g}",
        )
    return table


def truth_table(summaries: list[TruthSummary], super_pixel_mm: float) -> TextTable:
    """Return the metrics per LED as a printable table."""
    table = TextTable(
        title=f"recovered flat over true flat, per mil, {max(s.detectors for s in summaries)} CCDs",
        caption=f"rms of pixels and of {super_pixel_mm:g} mm super-pixels, expected rms from photon and read noise alone, scatter "
        "of the scale from CCD to CCD, gradient per mm; chi-square per pixel of the small-scale part over the variance plane",
        caption_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for heading in ("LED", "pixels", f"{super_pixel_mm:g} mm", "noise", "CCD scale", "gradient", "chi-square"):
        table.add_column(heading, justify="left" if heading == "LED" else "right", no_wrap=True)
    for s in summaries:
        table.add_row(
            s.led,
            f"{_PER_MIL * s.rms_pixel:.3f}",
            f"{_PER_MIL * s.rms_super:.3f}±{_PER_MIL * s.rms_super_err:.3f}",
            f"{_PER_MIL * s.super_noise:.3f}",
            f"{_PER_MIL * s.scale_rms:.3f}±{_PER_MIL * s.scale_rms_err:.3f}",
            f"{_PER_MIL * s.gradient:.4f}±{_PER_MIL * s.gradient_err:.4f}",
            f"{s.chi_square:.3f}±{s.chi_square_err:.3f}",
        )
    return table
