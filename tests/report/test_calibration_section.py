"""The section of measured gains and linearity: rows, verdicts, figures, and what a run without them shows."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.table import Table
from synthetic_run import SyntheticRun, make_pages
from test_report import Page

from permil.camera import Camera
from permil.products import read_table, write_table
from permil.report.calibration import steps_against_gains


def write_measured(run: SyntheticRun, camera: Camera) -> None:
    """Write tables of measured gains and linearity: the second amplifier contradicts, the last was not measured."""
    name = run.detectors[0]
    amps = [amplifier.name for amplifier in camera[name].amplifiers]
    ratio = np.ones(len(amps))
    ratio[1], ratio[-1] = 0.98, np.nan
    contradicts = np.zeros(len(amps), dtype=bool)
    contradicts[1] = True
    gains = Table(
        {
            "detector": [name] * len(amps),
            "amp": amps,
            "configured": np.full(len(amps), 1.25),
            "measured": 1.25 * ratio,
            "measured_err": np.full(len(amps), 0.005),
            "systematic_err": np.full(len(amps), 0.001),
            "ratio": ratio,
            "ratio_err": np.full(len(amps), 1e-3),
            "pull": (ratio - 1) / 1e-3,
            "contradicts": contradicts,
        }
    )
    write_table(run.folder.measured_gains, gains)
    losses = Table({"detector": [name] * 2, "amp": amps[:2], "a1": [1e-8, 0.0], "loss": [6e-4, -6e-4], "loss_err": [1e-4, 1e-4]})
    write_table(run.folder.measured_linearity, losses)


def test_a_run_without_measured_tables_has_no_section(written_run: SyntheticRun) -> None:
    assert "#calibration" not in Page(written_run.folder.report).links


@pytest.mark.usefixtures("no_pictures")
def test_measured_gains_and_linearity_are_shown_and_summarised(run: SyntheticRun, bin8: Camera) -> None:
    write_measured(run, bin8)
    index = Page(make_pages(run.config, bin8, run.folder))
    assert "#calibration" in index.links
    assert "contradicts the configured gain of 1 of 15 amplifiers" in index.body
    summary = read_table(run.folder.summary)
    ratios, losses = (summary[summary["metric"] == name] for name in ("gain_ratio", "linearity_loss"))
    assert len(ratios) == 15
    assert ratios["value"][1] == pytest.approx(-0.02)
    assert losses["value"].tolist() == [6e-4, -6e-4]
    assert set(summary["pass"][summary["metric"] == "gain_ratio"]) == {"-"}


def test_the_line_of_wrong_gains_reaches_all_points() -> None:
    points = np.array([[0.02, 1e-3, 0.021, 2e-4], [-0.005, 1e-3, -0.004, 2e-4]])
    axes = steps_against_gains.__wrapped__(points).axes[0]
    low, high = axes.get_xlim()
    assert low < -5.0
    assert high > 21.0
    assert axes.get_ylim() == (low, high)
