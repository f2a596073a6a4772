"""What a person reads of a plan, and the files that are written."""

from __future__ import annotations

import re

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from plan_bench import toy_camera

from permil.beam import BeamModel, nodes_from_table
from permil.beam.fits import model_to_hdus
from permil.config.plan import PlanConfig
from permil.errors import FlatError, InputError, PositionError
from permil.plan.stage import write_plan_check
from permil.products import RunFolder, read_table

POINTS = [(-8.0, 0.5), (-8.0, -2.0), (-6.5, 1.0)]
POINTS_OF_A_CORNER = [(-20.0, -4.0), (-19.0, -1.0), (-17.0, -3.0), (-20.0, 0.0)]
FINE = {"beam_knots_mm": 2.0, "cells": 16}


def checked(tmp_path, camera, *, has_photodiode=True, **plan):
    return write_plan_check(PlanConfig(**plan), camera, RunFolder(tmp_path), has_photodiode=has_photodiode)


def plain(text):
    return re.sub(r"\s+", " ", text)


def waves(tmp_path):
    modes = read_table(tmp_path / "plan" / "modes.ecsv")
    return modes[modes["name"] == "lattice"]


def test_five_points_of_one_detector_leave_the_waves_of_their_lattice(tmp_path):
    camera = toy_camera(1, 1)
    text = plain(checked(tmp_path, camera, pointings={}, **FINE))
    assert "This plan cannot determine from signals alone: - the gradient of the flat along X and Y" in text
    assert re.search(r"\d+ waves of the flat with periods of .* A scan of the same detectors \(plan\.scan\)", text)
    found = waves(tmp_path)
    assert len(found) >= 4
    # Pointings 4 mm off the centre along both axes: k.(c - c') is a multiple of 2 pi.
    turns = 4.0 * np.array([found["wave_x"] + found["wave_y"], found["wave_x"] - found["wave_y"]]) / (2 * np.pi)
    np.testing.assert_allclose(turns, np.round(turns), atol=0.03)
    assert (found["error"] > 0).all()


@pytest.mark.parametrize(
    "remedy",
    [
        {"scan": {"nx": 8, "ny": 8, "width_mm": 20}, "pointings": {}},
        {"pointings": {"aim": ["R00"], "points": [(3.1, 0.7), (-2.3, 5.9), (6.7, -1.3), (-4.7, -2.9), (1.7, -6.1), (-6.2, 1.6)]}},
    ],
)
def test_what_is_advised_determines_the_waves(tmp_path, remedy):
    text = checked(tmp_path, toy_camera(1, 1), **FINE, **remedy)
    assert "wave" not in text
    assert len(waves(tmp_path)) == 0


def test_detectors_that_are_never_read_together_are_named(tmp_path):
    camera = toy_camera(2, 1)
    plan = {"beam_knots_mm": 4.0, "cells": 8}
    text = plain(checked(tmp_path, camera, pointings={"read": "raft"}, **plan))
    assert "the level of 1 set of detectors relative to the others, as no exposure illuminates and reads out both: R0" in text
    assert "Also read out the neighbours (plan.pointings.read: all)." in text
    apart = read_table(tmp_path / "plan" / "check.ecsv")["level_error"]
    assert "set of detectors" not in checked(tmp_path, camera, pointings={"read": "all"}, **plan)
    together = read_table(tmp_path / "plan" / "check.ecsv")["level_error"]
    # Each is tied by the photodiode alone: 2e-3 over the root of 25 images, and half the difference counts.
    np.testing.assert_allclose(apart, 2e-3 / 5 / np.sqrt(2), rtol=0.35)
    assert (together < apart).all()


def test_tables(tmp_path):
    camera = toy_camera(3, 1)
    checked(
        tmp_path, camera, pointings={"aim": ["R00", "R01"], "images": 2, "read": "all"}, super_pixel_mm=1.0, beam_knots_mm=4.0
    )
    table = read_table(tmp_path / "plan" / "check.ecsv")
    assert table["detector"].tolist() == ["R00_S00", "R01_S00", "R02_S00"]
    assert table["images"].tolist() == [20, 20, 20]
    np.testing.assert_allclose(table["super_pixel_error"], table["pixel_error"] / 10)
    np.testing.assert_allclose(table["pixel_error"], table["electrons"] ** -0.5, rtol=0.01)
    assert table.meta["images"] == 20
    assert table.meta["undetermined"] == {"gradient x": 1, "gradient y": 1}
    assert (tmp_path / "plan" / "check.png").read_bytes()[:4] == b"\x89PNG"


def test_without_a_photodiode(tmp_path):
    camera = toy_camera(1, 1)
    text = plain(checked(tmp_path, camera, scan={}, has_photodiode=False))
    assert "without a photodiode only a prior limits it" in text
    blind = read_table(tmp_path / "plan" / "check.ecsv").meta["gradient_error_x_per_mm"]
    checked(tmp_path, camera, scan={})
    assert blind > 100 * read_table(tmp_path / "plan" / "check.ecsv").meta["gradient_error_x_per_mm"]


def test_detectors_without_light_are_named(tmp_path):
    camera = toy_camera(3, 1)
    text = plain(checked(tmp_path, camera, detectors=["R00", "R02"], pointings={"aim": ["R00"]}, beam_knots_mm=4.0))
    assert "No position illuminates and reads out R02_S00: add pointings there (plan.pointings.aim)." in text
    text = plain(checked(tmp_path, camera, pointings={"points": POINTS_OF_A_CORNER}, beam_knots_mm=4.0, beam_fwhm_mm=12.0))
    assert "Part of these detectors is never illuminated: R00_S00 (" in text


def test_drift(tmp_path):
    text = plain(checked(tmp_path, toy_camera(1, 1), scan={}, photodiode_drift=2e-3))
    assert "Positions in random order (plan.order: shuffled)" in text


def test_nothing_is_lit(tmp_path):
    with pytest.raises(PositionError, match="no position of the plan illuminates a detector"):
        checked(tmp_path, toy_camera(1, 1), pointings={"points": [(500.0, 0.0)]})


def test_nothing_is_read(tmp_path, lsstcam):
    with pytest.raises(PositionError, match="no position of the plan illuminates a detector"):
        checked(tmp_path, lsstcam, detectors=["R10_S00"], pointings={"points": [(0.0, 0.0)]})


def test_too_few_pointings_for_the_knots(tmp_path, monkeypatch):
    def singular(*_args, **_options):
        raise np.linalg.LinAlgError

    monkeypatch.setattr("permil.plan.prediction.check_design", singular)
    with pytest.raises(FlatError, match=r"2 positions hardly constrain .* add pointings"):
        checked(tmp_path, toy_camera(1, 1), pointings={"points": [(0.0, 0.0), (3.0, 4.0)]}, **FINE)


def test_one_pointing(tmp_path):
    with pytest.raises(PositionError, match="no pixel is illuminated from two positions"):
        checked(tmp_path, toy_camera(1, 1), pointings={"points": [(0.0, 0.0)]})


def test_beam_model_of_a_scan(tmp_path):
    steps = np.linspace(-10, 10, 9)
    x, y = (part.ravel() for part in np.meshgrid(steps, steps))
    noise = 1 + 1e-4 * np.random.default_rng(2).standard_normal(x.size)
    table = Table({"x_mm": x, "y_mm": y, "signal": 5e4 * np.exp(-(x**2 + y**2) / 800) * noise})
    path = tmp_path / "red.fits"
    fits.HDUList(model_to_hdus(BeamModel.from_nodes(nodes_from_table(table)))).writeto(path)
    camera = toy_camera(2, 1)
    text = plain(checked(tmp_path, camera, pointings={"points": POINTS, "read": "all"}, beam=str(path), cells=8))
    # Nothing is known of the beam beyond 10 mm: the neighbour gets light only next to the border.
    assert "Part of these detectors is never illuminated: R01_S00 (" in text
    with pytest.raises(InputError, match="cannot be read as a beam model"):
        checked(tmp_path, camera, beam=str(tmp_path / "none.fits"))
