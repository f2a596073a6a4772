"""The page of a joint solution: figures against truth, residuals in their frames, words, bad input, and what it does to the rest."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from synthetic_joint import (
    CENTRE,
    DETECTORS,
    MISREAD,
    MOVED,
    PHOTODIODE_NOISE,
    ROTATION,
    SolvedCampaign,
)
from synthetic_run import SyntheticRun, make_pages

from permil.camera import Camera
from permil.errors import InputError
from permil.flat.joint.file import read_light
from permil.flat.joint.residuals import JointResiduals, joint_residuals
from permil.flat.signals import SuperPixelSignals, read_signals, write_signals
from permil.products import RunFolder, read_table
from permil.report.joint.figures import mode_maps, photodiode_picture, reflection_picture, stage_picture, view_joint_beam
from permil.report.joint.inputs import JointProducts, mode_sizes, read_joint, read_solution
from permil.report.joint.page import (
    board_table,
    budget_table,
    cautions,
    detector_table,
    finding_table,
    gain_step_table,
    joint_path,
    solution_text,
    stage_table,
)
from permil.report.kit.chart import chart_picture
from permil.report.kit.results import MISSING, two_digits

WAVE_MM = 24.0
WAVE = 1e-3


@pytest.fixture(scope="module")
def products(solved: SolvedCampaign, bin8: Camera) -> JointProducts:
    return read_joint(solved.folder, bin8, solved.led)


@pytest.fixture
def copy(solved: SolvedCampaign, tmp_path: Path) -> RunFolder:
    """Return a copy of the solved run that a test may change."""
    shutil.copytree(solved.folder.root, tmp_path / "run")
    return RunFolder(tmp_path / "run")


def residuals_of(folder: RunFolder) -> JointResiduals:
    files = [folder.super_pixels("red", name) for name in DETECTORS]
    return joint_residuals(read_light(folder.joint("red")), files, least_signal=5000.0, threshold=6.0)


def with_pattern(folder: RunFolder, *, sign: float) -> None:
    """Put a wave along X of place plus ``sign`` times projector into the signals."""
    exposures = read_light(folder.joint("red")).exposures
    for name in DETECTORS:
        stored = read_signals(folder.super_pixels("red", name))
        lamp = np.array([exposures[obsid].x_mm if obsid in exposures else 0.0 for obsid in stored.obsid.tolist()])
        factor = np.exp(WAVE * np.sin(2 * np.pi * (stored.x_mm + sign * lamp[:, None]) / WAVE_MM))
        rewritten(folder, stored, (stored.signal * factor).astype(np.float32))


def rewritten(folder: RunFolder, stored: SuperPixelSignals, signal: np.ndarray) -> None:
    write_signals(
        folder.super_pixels("red", stored.detector),
        SuperPixelSignals(**{**vars(stored), "signal": signal}),
        fingerprint="bb",
        led="red",
    )


def test_residuals_of_files_are_noise_and_their_response_is_true(solved: SolvedCampaign, products: JointProducts) -> None:
    found = products.residuals
    assert found is not None
    for one in (found.beam, found.reflected):
        # Weighted means of some 1000 cells; what was fitted takes a few per cent.
        assert 0.85 < one.rms / one.noise < 1.1
        assert one.excess_rms < 0.5 * one.noise
    rms, noise = found.change_rms
    assert 0.85 < rms / noise < 1.1
    pulls = []
    for name, truth in solved.log_response.items():
        error = found.detectors[name].log_response - truth
        own = error - error.mean()
        rows, columns = np.mgrid[: own.shape[0], : own.shape[1]]
        plane = np.column_stack([np.ones(own.size), rows.ravel(), columns.ravel()])
        own = own.ravel() - plane @ np.linalg.lstsq(plane, own.ravel(), rcond=None)[0]
        pulls.append(own / found.detectors[name].error.ravel())
        assert np.nanmean(found.detectors[name].chi_square) == pytest.approx(1.0, abs=0.05)
        assert abs(error.mean()) < 5 * products.detectors[name].level_error
    assert 0.85 < np.std(np.concatenate(pulls)) < 1.25


@pytest.mark.parametrize(("sign", "frame", "other"), [(-1.0, "beam", "reflected"), (1.0, "reflected", "beam")])
def test_a_pattern_is_seen_in_its_frame_with_its_size_and_sign(copy: RunFolder, sign: float, frame: str, other: str) -> None:
    before = residuals_of(copy)
    with_pattern(copy, sign=sign)
    after = residuals_of(copy)
    found, start = getattr(after, frame), getattr(before, frame)
    assert found.mean.shape == start.mean.shape
    centres = found.lower[0] + found.cell_mm * (np.arange(found.mean.shape[0]) + 0.5)
    wave = WAVE * np.sin(2 * np.pi * centres / WAVE_MM)
    added = found.mean - start.mean
    well = np.isfinite(added) & (found.error < 2 * np.nanmedian(found.error))
    # The response of each super-pixel takes the mean over its exposures.
    slope = np.sum((added * wave[:, None])[well]) / np.sum((wave[:, None] ** 2 * np.ones(added.shape))[well])
    assert 0.75 < slope < 1.05
    # Places that few exposures see cannot tell the frames apart.
    assert found.excess_rms > 1.7 * getattr(after, other).excess_rms
    assert found.excess_rms == pytest.approx(WAVE / np.sqrt(2), rel=0.3)


def test_the_frame_of_the_largest_pattern_is_named(copy: RunFolder, bin8: Camera) -> None:
    with_pattern(copy, sign=1.0)
    shorts = [caution.phrase for caution in cautions(read_joint(copy, bin8, "red"))]
    assert "a pattern moves against the projector" in shorts
    assert not {"residual structure of the beam", "the response changed"} & set(shorts)


def test_a_change_of_the_response_is_found_where_it_is(copy: RunFolder, bin8: Camera) -> None:
    stored = read_signals(copy.super_pixels("red", "R22_S12"))
    lit = np.flatnonzero((stored.signal >= 5000).any(axis=1))
    patch = (stored.row >= 8) & (stored.column >= 8)
    signal = stored.signal.copy()
    signal[np.ix_(lit[lit.size // 2 + 1 :], patch)] *= 1.004
    rewritten(copy, stored, signal)
    products = read_joint(copy, bin8, "red")
    assert products.residuals is not None
    change = products.residuals.detectors["R22_S12"].change
    assert np.nanmean(change[8:, 8:]) == pytest.approx(0.004, rel=0.1)
    assert abs(np.nanmean(change[:8, :8])) < 2e-4
    assert "the response changed" in [caution.phrase for caution in cautions(products)]


def test_the_figures_are_those_of_the_campaign(solved: SolvedCampaign, products: JointProducts) -> None:
    log_scale = np.log(products.column("scale")) - solved.log_scale
    kept = ~products.left_out
    # A scale is known but for a constant and the gradient, which the photodiode tells.
    design = np.column_stack([np.ones(kept.sum()), products.column("x_mm")[kept], products.column("y_mm")[kept]])
    rest = log_scale[kept] - design @ np.linalg.lstsq(design, log_scale[kept], rcond=None)[0]
    assert 0.6 < np.std(rest / products.column("scale_err")[kept]) < 1.5
    assert abs(products.card("ROTATION") - ROTATION) < 4 * products.card("ROTATERR")
    for axis, truth in zip("XY", CENTRE, strict=True):
        assert abs(products.card(f"BEAM{axis}") - truth) < 4 * products.card(f"BEAM{axis}ERR")
    deviation, error = products.deviations
    used = np.isfinite(products.column("deviation")) & kept
    assert np.isfinite(error).all()
    assert np.std(deviation[used] / error[used]) == pytest.approx(1.0, abs=0.25)
    assert deviation[MISREAD] == pytest.approx(0.05, abs=4 * PHOTODIODE_NOISE)
    assert np.ptp(products.column("led_temp")) == pytest.approx(0.5)
    assert set(products.exposures["purpose"]) == {"scan", "pointing"}
    assert products.in_hours


def test_faulty_exposures_are_named_with_the_reason(solved: SolvedCampaign, products: JointProducts) -> None:
    table = finding_table(products)
    assert table is not None
    rows = {row[0].text: [cell.text for cell in row] for row in table.rows}
    assert set(rows) == {solved.obsids[MOVED], solved.obsids[MISREAD]}
    assert rows[solved.obsids[MOVED]][2] == "left out"
    assert "displaced by (1.5" in rows[solved.obsids[MOVED]][3]
    assert rows[solved.obsids[MISREAD]][2] == "reading not used"
    assert "photodiode reading off" in rows[solved.obsids[MISREAD]][3]
    shorts = [caution.phrase for caution in cautions(products)]
    assert shorts[:3] == ["1 exposure left out", "1 photodiode reading not used", "photodiode noisier than the joint scales"]
    assert "converged" in solution_text(products)
    assert all(short in solution_text(products) for short in shorts)


def test_the_budget_has_units_of_people(products: JointProducts) -> None:
    rows = {row[0].text: (row[1].text, row[2].text) for row in budget_table(products).rows}
    assert rows["scale of a detector"] == (two_digits(1e3 * products.error_of("detector_scale")), "‰")
    assert rows["gradient along X"][1] == "‰/mm"
    assert rows["stage move"][1] == "µm"
    number, error = rows["photodiode, noise"][0].split(" ± ")
    assert abs(float(number) - 1e3 * PHOTODIODE_NOISE) < 4 * float(error)


@pytest.mark.parametrize(
    ("number", "text"), [(0.0996, "0.10"), (1.04, "1.0"), (427.3, "427"), (0.0, "0"), (np.nan, MISSING), (4.64e-3, "0.0046")]
)
def test_two_digits(number: float, text: str) -> None:
    assert two_digits(number) == text


def test_levels_have_the_errors_that_the_covariance_gives(solved: SolvedCampaign, products: JointProducts) -> None:
    budget = products.error_of("detector_scale")
    assert np.sqrt(np.mean([share.level_error**2 for share in products.detectors.values()])) == pytest.approx(budget, rel=0.05)
    assert np.sqrt(np.mean([share.common_rms**2 for share in products.detectors.values()])) == pytest.approx(
        products.error_of("common"), rel=0.02
    )
    sizes = mode_sizes(products)
    assert (np.diff(sizes) <= 1e-12).all()
    assert np.sqrt(np.sum(sizes**2)) == pytest.approx(products.error_of("modes"), rel=0.02)
    assert [row[0].text for row in detector_table(products, {}).rows] == list(DETECTORS)
    assert solved.led == products.led


def test_the_beam_is_drawn_as_it_is(products: JointProducts) -> None:
    view = view_joint_beam(products, None)
    known = np.isfinite(view.beam)
    assert known.mean() > 0.3
    assert np.nanmax(view.beam) == pytest.approx(1.0, abs=2e-3)
    ux, uy = np.meshgrid(view.ux, view.uy)
    radius2 = ((ux - CENTRE[0]) ** 2 + (uy - CENTRE[1]) ** 2) / 40.0**2
    truth = np.exp(-0.3 * radius2 / (1 + 0.2 * radius2))
    # The gradient is as good as the photodiode.
    assert np.nanmax(np.abs(view.beam - truth)[known & (radius2 < 1)]) < 0.01


def test_pictures_are_drawn_with_all_exposures(products: JointProducts, bin8: Camera) -> None:
    time_axes, _, _, temperature_axes = photodiode_picture.__wrapped__(products).axes
    drawn = {line.get_label(): np.size(line.get_xdata()) for line in time_axes.lines}
    assert drawn["reading not used"] == 1
    assert drawn["left out"] == 1
    assert temperature_axes.get_xlabel() == "temperature of the LED (°C)"
    assert len(stage_picture.__wrapped__(products).axes) == 3
    maps = mode_maps(products, [bin8[name] for name in DETECTORS])
    assert [len(row) for row in maps] == [3, 3]
    assert "mode 6: " in chart_picture(maps, "").markup


def test_a_drifting_photodiode_stays_within_its_panel(products: JointProducts) -> None:
    """A drift that is far larger than the errors sets the limits of the panel, one wrong reading does not."""
    exposures = products.exposures.copy()
    drift = np.linspace(-0.01, 0.01, len(exposures))
    exposures["photodiode"] = products.column("photodiode") * np.exp(drift)
    time_axes = photodiode_picture.__wrapped__(replace(products, exposures=exposures)).axes[0]
    low, high = time_axes.get_ylim()
    assert low < -10
    assert 10 < high < 20
    low, high = photodiode_picture.__wrapped__(products).axes[0].get_ylim()
    assert low == pytest.approx(-5e3 * PHOTODIODE_NOISE, rel=0.3)


@pytest.mark.usefixtures("no_pictures")
def test_a_solution_without_photodiode_says_so(copy: RunFolder, bin8: Camera) -> None:
    with fits.open(copy.joint("red")) as hdus:
        budget = Table(hdus["BUDGET"].data)
        kept = ~np.isin(np.char.strip(np.asarray(budget["term"], dtype=np.str_)), ["photodiode", "photodiode_drift"])
        hdus["BUDGET"] = fits.BinTableHDU(budget[kept], name="BUDGET")
        hdus["EXPOSURES"].data["photodiode"] = np.nan
        hdus["EXPOSURES"].data["deviation"] = np.nan
        hdus.writeto(copy.joint("red"), overwrite=True)
    products = read_joint(copy, bin8, "red")
    assert "no photodiode" in [caution.phrase for caution in cautions(products)]
    page = joint_path(copy, "red")
    make_pages(run_config(copy, bin8), bin8, copy)
    assert "No photodiode reading was used" in page.read_text(encoding="utf-8")


def run_config(folder: RunFolder, camera: Camera):  # type: ignore[no-untyped-def]
    from permil.config import Config

    return Config(camera=camera.name, output=folder.root)


def test_the_report_has_the_page_and_leads_to_it(copy: RunFolder, bin8: Camera) -> None:
    make_pages(run_config(copy, bin8), bin8, copy)
    page = joint_path(copy, "red")
    text, index = page.read_text(encoding="utf-8"), copy.report.read_text(encoding="utf-8")
    assert 'href="joint/red.html"' in index
    assert 'href="../index.html#led-red"' in text
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?:https?:)?//""", re.sub(r'src="data:[^"]*"', "", text))
    assert text.count("<figure") == 6
    words = re.sub(r'src="data:[^"]*"|<script>.*?</script>|<style>.*?</style>', "", text, flags=re.DOTALL)
    assert not re.search(r"\bnan\b", words)
    assert "red0020" in text
    summary = read_table(copy.summary)
    rows = {str(row["metric"]): (float(row["value"]), float(row["error"])) for row in summary if row["led"] == "red"}
    assert abs(rows["joint_rotation"][0] - ROTATION) < 4 * rows["joint_rotation"][1]
    written = page.stat().st_mtime_ns
    make_pages(run_config(copy, bin8), bin8, copy)
    assert page.stat().st_mtime_ns == written
    copy.joint("red").unlink()
    (copy.root / "beam").mkdir()
    make_pages(run_config(copy, bin8), bin8, copy)
    assert not page.exists()
    assert "Joint solution" not in copy.report.read_text(encoding="utf-8")


@pytest.mark.usefixtures("no_pictures")
def test_without_signals_the_page_says_so(copy: RunFolder, bin8: Camera) -> None:
    for name in DETECTORS:
        copy.super_pixels("red", name).unlink()
    products = read_joint(copy, bin8, "red")
    assert products.residuals is None
    assert [row[1].text[0] for row in detector_table(products, {}).rows] == ["±"] * 3
    make_pages(run_config(copy, bin8), bin8, copy)
    text = joint_path(copy, "red").read_text(encoding="utf-8")
    assert "no residuals can be shown" in text
    assert text.count("<figure") == 4


def test_a_run_without_joint_solution_has_no_such_page(written_run: SyntheticRun) -> None:
    assert not (written_run.folder.report.parent / "joint").exists()
    assert "Joint solution" not in written_run.folder.report.read_text(encoding="utf-8")


@pytest.mark.usefixtures("no_pictures")
def test_flats_that_were_since_divided_have_no_such_page(run: SyntheticRun, solved: SolvedCampaign, bin8: Camera) -> None:
    shutil.copy(solved.folder.joint("red"), run.folder.joint("red"))
    make_pages(run.config, bin8, run.folder)
    assert not joint_path(run.folder, "red").exists()
    with fits.open(run.folder.flat("red", "R22_S00"), mode="update") as hdus:
        hdus[0].header["SOLVER"] = "joint"
    make_pages(run.config, bin8, run.folder)
    assert "../detectors/red/R22_S00.html" not in joint_path(run.folder, "red").read_text(encoding="utf-8")
    assert 'href="joint/red.html"' in run.folder.report.read_text(encoding="utf-8")


def cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def without_column(path: Path) -> None:
    with fits.open(path) as hdus:
        table = Table(hdus["EXPOSURES"].data)
        table.remove_column("shift_x_err_mm")
        hdus["EXPOSURES"] = fits.BinTableHDU(table, name="EXPOSURES")
        hdus.writeto(path, overwrite=True)


def without_modes(path: Path) -> None:
    with fits.open(path) as hdus:
        del hdus["MODES"]
        hdus.writeto(path, overwrite=True)


def without_card(path: Path) -> None:
    with fits.open(path) as hdus:
        del hdus[0].header["REDCHI2"]
        hdus.writeto(path, overwrite=True)


def other_shape(path: Path) -> None:
    with fits.open(path) as hdus:
        hdus["REMAINDER"].data = np.zeros(9, dtype=np.float32)
        hdus.writeto(path, overwrite=True)


def older_format(path: Path) -> None:
    with fits.open(path) as hdus:
        del hdus["DETECTORS"]
        hdus.append(fits.ImageHDU(np.eye(2), name="COVARIANCE_R22_S11"))
        hdus.writeto(path, overwrite=True)


def test_a_board_without_temperatures_is_named_and_has_no_coefficient(solved: SolvedCampaign, products: JointProducts) -> None:
    said = [message for message in solved.messages if "readout board" in message]
    assert len(said) == 1
    assert said[0].startswith(
        "red: there are no usable temperatures of readout board R22/Reb1: changes of its gain are modelled in time"
    )
    table = board_table(products)
    assert table is not None
    assert [cell.text for cell in table.rows[0]][:2] == ["R22/Reb1", MISSING]
    assert gain_step_table(products) is None


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (cut, "joint.fits"),
        (without_column, "column shift_x_err_mm of EXPOSURES missing"),
        (without_modes, "MODES"),
        (without_card, "card REDCHI2 missing"),
        (other_shape, "REMAINDER has the shape (9,)"),
        (older_format, "older version of permil; run `permil flat` again"),
    ],
)
def test_a_damaged_solution_is_one_clear_sentence(copy: RunFolder, bin8: Camera, damage, words: str) -> None:  # type: ignore[no-untyped-def]
    damage(copy.joint("red"))
    with pytest.raises(InputError, match=re.escape(words)) as raised:
        make_pages(run_config(copy, bin8), bin8, copy)
    assert "\n" not in str(raised.value)
    assert "joint.fits" in str(raised.value)


def test_signals_of_another_run_are_refused(copy: RunFolder, bin8: Camera) -> None:
    stored = read_signals(copy.super_pixels("red", "R22_S12"))
    other = SuperPixelSignals(**{**vars(stored), "shape": (stored.shape[0] + 1, stored.shape[1])})
    write_signals(copy.super_pixels("red", "R22_S12"), other, fingerprint="bb", led="red")
    with pytest.raises(InputError, match="super-pixels"):
        read_joint(copy, bin8, "red")


def test_no_such_solution(tmp_path: Path, bin8: Camera) -> None:
    with pytest.raises(InputError, match="the joint solution does not exist"):
        read_solution(RunFolder(tmp_path), bin8, "red")


def test_positions_that_were_taken_as_recorded_are_doubted(copy: RunFolder, bin8: Camera) -> None:
    with fits.open(copy.joint("red")) as hdus:
        budget = Table(hdus["BUDGET"].data)
        terms = np.char.strip(np.asarray(budget["term"], dtype=np.str_))
        hdus["BUDGET"] = fits.BinTableHDU(budget[terms != "position"], name="BUDGET")
        hdus["EXPOSURES"].data["shift_x_mm"] += np.where(np.arange(len(hdus["EXPOSURES"].data)) % 2, 0.05, -0.05)
        hdus.writeto(copy.joint("red"), overwrite=True)
    found = {caution.phrase: caution.sentence for caution in cautions(read_solution(copy, bin8, "red"))}
    # 50 um along one of two axes, rms over both.
    assert "projector 35 µm" in found["positions differ from the recorded ones"]


def test_a_reflection_that_was_fitted_is_drawn(copy: RunFolder, bin8: Camera) -> None:
    with fits.open(copy.joint("red")) as hdus:
        beam = hdus["BEAM"]
        wave = 1e-3 * np.sin(np.arange(beam.shape[0]))[:, None] * np.ones(beam.shape)
        hdu = fits.ImageHDU(wave, header=beam.header, name="REFLECTION")
        hdu.header["SIGN"] = 1.0
        hdus.append(hdu)
        hdus.writeto(copy.joint("red"), overwrite=True)
    products = read_solution(copy, bin8, "red")
    assert products.reflection is not None
    axes = reflection_picture.__wrapped__(products).axes[0]
    # A cubic B-spline through a wave of one radian per knot has 0.85 of the size of its coefficients.
    found = re.fullmatch(r"reflected pattern: rms ([0-9.]+) ‰", axes.get_title(loc="left"))
    assert found is not None
    assert float(found.group(1)) == pytest.approx(0.847 / np.sqrt(2), rel=0.06)


def test_the_stage_table_has_errors(products: JointProducts) -> None:
    rows = {row[0].text: row[2].text for row in stage_table(products).rows}
    number, error = rows["rotation of the stage's axes"].split(" ± ")
    assert abs(float(number) - 1e3 * ROTATION) < 4 * float(error)
    assert "±" in rows["beam centre, u_x"]
    assert "±" in rows["scatter of positions, X"]
