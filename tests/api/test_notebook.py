"""What a scientist does in a notebook, each in at most five lines before it is checked."""

from __future__ import annotations

import ast
import inspect
import sys
from pathlib import Path

import numpy as np
import pytest
from astropy import units as u
from astropy.nddata import CCDData, NDData, StdDevUncertainty, VarianceUncertainty
from astropy.table import Table

import permil
import permil.nddata

from .conftest import OPTIONS

pytestmark = pytest.mark.usefixtures("notebook")
RED, DETECTOR = "out/flat/red/R22_S11.fits", "R22_S11"


def _pointing(led: str = "red") -> Table:
    """Return the files of the first pointing of an LED."""
    index = permil.open_run("out").exposures
    rows = index[(index["purpose"] == "pointing") & (index["led"] == led)]
    return rows[rows["position_id"] == rows["position_id"][0]]


def test_list_the_leds_of_a_run() -> None:
    run = permil.open_run("out")
    leds = run.leds
    assert list(leds["led"]) == ["nm960", "red"]
    assert all(leds["flats"] == 1)
    assert all(leds["has_beam"])


def test_list_the_detectors_of_a_run() -> None:
    detectors = permil.open_run("out").detectors
    assert list(detectors["detector"]) == [DETECTOR]
    assert detectors["x"].unit == u.mm


def test_count_the_scan_exposures_of_an_led() -> None:
    index = permil.open_run("out").exposures
    scan = index[(index["purpose"] == "scan") & (index["led"] == "red")]
    assert len(scan) == 36
    assert scan["x_mm"].unit == u.mm


def test_find_the_largest_steps_of_amplifiers() -> None:
    metrics = permil.open_run("out").metrics
    amplifiers = metrics[(metrics["led"] == "red") & (metrics["amp"] != "all")]
    assert len(amplifiers) == 16


def test_list_what_does_not_meet_its_specification() -> None:
    summary = permil.open_run("out").summary
    failed = summary[summary["pass"] == "no"]  # noqa: S105
    assert set(failed.colnames) >= {"metric", "detector", "led", "value", "error"}


def test_hand_the_metrics_to_pandas() -> None:
    frame = permil.open_run("out").metrics.to_pandas()
    by_led = frame.groupby("led").size()
    assert set(by_led.index) == {"red", "nm960"}


def test_read_a_flat() -> None:
    flat = permil.Flat.read(RED)
    assert flat.image.shape == flat.mask.shape == flat.variance.shape == (500, 512)
    assert np.nanmedian(flat.image) == pytest.approx(1.0, abs=1e-3)
    assert (flat.led, flat.detector.name) == ("red", DETECTOR)


def test_get_the_flat_of_a_run() -> None:
    flat = permil.open_run("out").flat("red", 94)
    assert flat.header["DETECTOR"] == DETECTOR
    assert "modes" in repr(flat)
    assert "<table>" in flat._repr_html_()


def test_plot_a_flat() -> None:
    flat = permil.Flat.read(RED)
    ax = flat.plot()
    assert ax.get_title() == "flat R22_S11 red"
    assert len(ax.images) == 1


def test_plot_a_flat_beside_its_error() -> None:
    import matplotlib.pyplot as plt

    flat = permil.Flat.read(RED)
    figure, (left, right) = plt.subplots(1, 2)
    flat.plot(left, spread=3)
    right.imshow(np.sqrt(flat.variance))
    assert len(figure.axes) == 3


def test_fraction_of_unusable_pixels() -> None:
    flat = permil.Flat.read(RED)
    unusable = 1 - flat.usable.mean()
    assert 0 < unusable < 0.05


def test_pixels_of_a_mask_plane() -> None:
    flat = permil.Flat.read(RED)
    edge = (flat.mask & permil.MaskPlane.EDGE) != 0
    assert edge[0].all()
    assert not edge[250, 256]


def test_ratio_of_two_leds() -> None:
    run = permil.open_run("out")
    ratio = run.flat("red", DETECTOR) / run.flat("nm960", DETECTOR)
    assert np.nanmedian(ratio.image) == pytest.approx(1.0, abs=0.01)
    assert ratio.led == "red / nm960"
    assert (ratio.variance[ratio.usable] > 0).all()


def test_difference_of_two_leds() -> None:
    run = permil.open_run("out")
    difference = run.flat("red", DETECTOR).difference(run.flat("nm960", DETECTOR))
    assert difference.rms_super > difference.super_noise
    assert "rms, 0.64 mm" in str(difference)


def test_mean_over_an_amplifier_with_its_error() -> None:
    flat = permil.Flat.read(RED)
    mean, error = flat.mean("C14")
    assert mean == pytest.approx(1.0, abs=0.05)
    assert 1e-5 < error < 5e-3


def test_do_two_amplifiers_differ() -> None:
    flat = permil.Flat.read(RED)
    (a, error_a), (b, error_b) = flat.mean("C10"), flat.mean("C11")
    error = np.sqrt(error_a**2 + error_b**2 - 2 * a * b * flat.covariance("C10", "C11"))
    significance = (a - b) / error
    assert error < np.hypot(error_a, error_b)
    assert np.isfinite(significance)


def test_error_of_the_slope_from_left_to_right() -> None:
    flat = permil.Flat.read(RED)
    left, right = (slice(0, 500), slice(0, 256)), (slice(0, 500), slice(256, 512))
    variance = flat.covariance(left, left) + flat.covariance(right, right) - 2 * flat.covariance(left, right)
    assert 0 < variance < 1e-5


def test_mean_of_pixels_chosen_by_a_mask() -> None:
    flat = permil.Flat.read(RED)
    bright = flat.image > 1.0
    mean, error = flat.mean(bright)
    assert mean > 1.0
    assert error > 0


def test_flat_of_arrays_of_my_own() -> None:
    image = np.random.default_rng(0).normal(1.0, 0.01, (500, 512))
    flat = permil.Flat(image, np.full(image.shape, 1e-4), detector="R22_S11", camera="lsstcam-bin8", led="lab")
    assert flat.mean("C14")[0] == pytest.approx(1.0, abs=1e-3)
    assert np.isnan(flat.mean("C14")[1])


def test_flat_with_a_mask_of_my_own() -> None:
    image = np.ma.array(np.ones((4, 4)), mask=np.eye(4, dtype=bool))
    flat = permil.Flat(image)
    assert flat.usable.sum() == 12
    assert np.isnan(flat.apply(np.ones((4, 4)))).sum() == 4


def test_write_a_flat_and_read_it_back() -> None:
    flat = permil.Flat.read(RED)
    (flat / 2).write("half.fits")
    back = permil.Flat.read("half.fits")
    np.testing.assert_array_equal(back.image, flat.image * np.float32(0.5))
    assert back.covariance("C14", "C14") == pytest.approx(flat.covariance("C14", "C14"), rel=1e-6)


def test_apply_a_flat_to_an_array() -> None:
    flat = permil.Flat.read(RED)
    corrected = flat.apply(flat.image * 1000)
    np.testing.assert_allclose(corrected[flat.usable], 1000, rtol=1e-6)
    assert np.isnan(corrected[~flat.usable]).all()


def test_apply_a_flat_to_a_quantity_and_to_a_masked_array() -> None:
    flat = permil.Flat.read(RED)
    electrons = flat.apply(np.ones(flat.shape) * u.electron)
    masked = flat.apply(np.ma.array(np.ones(flat.shape), mask=flat.image > 1))
    assert electrons.unit == u.electron
    assert masked.mask[flat.image > 1].all()


def test_apply_a_flat_to_ccddata() -> None:
    flat = permil.Flat.read(RED)
    image = CCDData(flat.image * 1000, unit="electron", uncertainty=StdDevUncertainty(np.full(flat.shape, 30.0)))
    corrected = flat.apply(image)
    assert isinstance(corrected, CCDData)
    assert isinstance(corrected.uncertainty, StdDevUncertainty)
    assert corrected.unit == u.electron
    assert (corrected.mask == ~flat.usable).all()
    expected = np.sqrt(900 / flat.image**2 + 1e6 * flat.variance / flat.image**2)[flat.usable]
    np.testing.assert_allclose(corrected.uncertainty.array[flat.usable], expected, rtol=1e-4)


def test_apply_a_flat_to_nddata_with_a_mask_of_bits() -> None:
    flat = permil.Flat.read(RED)
    bits = np.full(flat.shape, int(permil.MaskPlane.SUSPECT), dtype=np.int32)
    corrected = flat.apply(NDData(np.ones(flat.shape), mask=bits, unit="adu"))
    assert type(corrected) is NDData
    assert (corrected.mask == (flat.mask | bits | np.where(flat.usable, 0, int(permil.MaskPlane.NO_DATA)))).all()


def test_plot_the_difference_of_two_leds() -> None:
    run = permil.open_run("out")
    difference = run.flat("red", DETECTOR).difference(run.flat("nm960", DETECTOR))
    ax = difference.plot(cmap="RdBu")
    assert ax.images[0].get_cmap().name == "RdBu"
    assert repr(difference).startswith("<FlatDifference: median ratio")


def test_apply_a_flat_to_a_file() -> None:
    CCDData(np.full((500, 512), 3.0), unit="adu", meta={"DETECTOR": DETECTOR}).write("image.fits")
    written = permil.Flat.read(RED).apply("image.fits", out="flattened.fits")
    image = CCDData.read(written, format="permil")
    assert image.unit == u.adu
    assert np.nanmedian(image.data) == pytest.approx(3.0, rel=0.01)


def test_correct_an_image_with_ccdproc() -> None:
    ccdproc = pytest.importorskip("ccdproc")
    flat = permil.Flat.read(RED) * 0.9
    image = CCDData(np.full(flat.shape, 900.0), unit="electron")
    corrected = ccdproc.flat_correct(image, flat.to_ccddata(), norm_value=1)
    levelled = ccdproc.flat_correct(image, flat.to_ccddata())
    np.testing.assert_allclose(corrected.data[flat.usable], 900.0 / flat.image[flat.usable], rtol=1e-6)
    assert np.median(levelled.data[flat.usable]) != pytest.approx(1000.0, rel=0.01, nan_ok=True)
    assert np.median(corrected.data[flat.usable]) == pytest.approx(1000.0, rel=0.01)


def test_read_a_flat_as_ccddata() -> None:
    flat = CCDData.read(RED, format="permil")
    assert flat.unit == u.dimensionless_unscaled
    assert isinstance(flat.uncertainty, VarianceUncertainty)
    assert flat.meta["LED"] == "red"


def test_compare_a_flat_with_the_truth(made: Path) -> None:
    truth = permil.Flat.read(made / "campaign/truth/flat/red/R22_S11.fits")
    flat = permil.Flat.read(RED)
    difference = flat.difference(truth)
    assert difference.scale == pytest.approx(1.0, abs=2e-3)
    assert difference.chi_square == pytest.approx(1.0, abs=0.1)


def test_light_of_the_beam_at_places() -> None:
    beam = permil.open_run("out").beam("red")
    light, error = beam.evaluate([0.0, 20.0], [0.0, 0.0])
    assert light[0] == pytest.approx(1.0, abs=0.01)
    assert 0 < error[1] < 0.01


def test_plot_a_beam() -> None:
    beam = permil.load_beam("out/beam/red.fits")
    ax = beam.plot(points=50)
    assert ax.get_xlabel() == "u along CCS X (mm)"
    assert repr(beam).startswith("<BeamModel of 36 nodes")


def test_fit_a_table_of_nodes() -> None:
    table = Table.read("out/beam/red_nodes.ecsv")
    beam = permil.BeamModel.fit(table["x_mm"] - table["ref_x_mm"], table["y_mm"] - table["ref_y_mm"], table["signal"])
    assert beam(0.0, 0.0) == pytest.approx(1.0, abs=0.01)


def test_fit_a_beam_in_other_units_with_the_photodiode() -> None:
    x, y = (axis.ravel() for axis in np.meshgrid(np.linspace(-4, 4, 8), np.linspace(-4, 4, 8)))
    lamp = np.random.default_rng(0).normal(1, 0.01, x.size)
    signal = lamp * 5e4 * np.exp(-(x**2 + y**2) / 60) * u.electron
    beam = permil.BeamModel.fit(x * u.cm, y * u.cm, signal, photodiode=lamp)
    assert beam(20.0 * u.mm, 0.0) == pytest.approx(np.exp(-4 / 60), rel=5e-3)


def test_assemble_a_raw_file() -> None:
    image = permil.assemble(_pointing()["path"][0], "lsstcam-bin8")
    assert image.shape == (500, 512)
    assert image.dtype == np.int32


def test_reduce_a_raw_file() -> None:
    run, path = permil.open_run("out"), _pointing()["path"][0]
    reduced = permil.reduce(path, run.calibration(DETECTOR), camera=run.camera)
    nominal = permil.reduce(path, camera="lsstcam-bin8")
    assert 1e3 < np.nanmedian(reduced.image) < 1e5
    assert np.nanmedian(reduced.image) == pytest.approx(np.nanmedian(nominal.image), rel=0.1)
    assert (reduced.variance()[np.isfinite(reduced.image)] > 0).all()


def test_stack_the_exposures_of_a_pointing() -> None:
    run, pointing = permil.open_run("out"), _pointing()
    stack = permil.stack(list(pointing["path"]), run.calibration(DETECTOR), camera=run.camera)
    assert len(stack.used) == 2
    assert stack.photodiode == pytest.approx(np.mean(pointing["photodiode"]))
    assert stack.image.shape == stack.variance.shape == stack.mask.shape


def test_flat_of_one_pointing() -> None:
    run, pointing = permil.open_run("out"), _pointing()
    stack = permil.stack(list(pointing["path"]), run.calibration(DETECTOR), camera=run.camera)
    position = pointing["x_mm"][0].value, pointing["y_mm"][0].value
    flat = permil.divide(stack, position, run.beam("red"), run.camera[DETECTOR])
    ratio = flat / run.flat("red", DETECTOR)
    assert np.nanstd(ratio.image) / np.nanmedian(ratio.image) < 0.02
    assert flat.detector.name == DETECTOR


def test_joint_solution_of_arrays() -> None:
    rng = np.random.default_rng(0)
    (x, y), (cx, cy) = rng.uniform(-20, 20, (2, 400)), (axis.ravel() for axis in np.meshgrid(*[np.linspace(-25, 25, 9)] * 2))
    light = -((x - cx[:, None]) ** 2 + (y - cy[:, None]) ** 2) / 4000 + 0.01 * np.sin(x) + 1e-3 * rng.standard_normal((81, 400))
    exposures = permil.ExposureList(cx, cy, np.zeros(81), np.arange(81.0))
    solution = permil.solve_joint(exposures, [permil.DetectorSignals("mine", x, y, range(81), light, np.full(light.shape, 1e-6))])
    assert solution.certificate.converged
    residual = solution.log_response["mine"] - 0.01 * np.sin(x)
    slopes = np.linalg.lstsq(np.column_stack([np.ones(400), x, y]), residual, rcond=None)[0]
    assert np.std(residual - slopes @ [np.ones(400), x, y]) < 1e-3


def test_correlation_of_two_maps() -> None:
    y, x = np.mgrid[:20, :20]
    a, b = np.random.default_rng(1).standard_normal((2, 20, 20))
    result = permil.correlate(a, b + 0.5 * a, x, y, methods=())
    assert result.r == pytest.approx(0.45, abs=0.1)
    assert result.p_value < 1e-4


def test_correlation_of_two_leds() -> None:
    run = permil.open_run("out")
    red, infrared = (run.flat(led, DETECTOR).image[::16, ::16] for led in ("red", "nm960"))
    y, x = np.mgrid[: red.shape[0], : red.shape[1]]
    result = permil.correlate(red, infrared, x * 1.28, y * 1.28, methods=())
    assert result.n > 900
    assert "<pre>r = " in result._repr_html_()


def test_plot_a_correlation() -> None:
    y, x = np.mgrid[:20, :20]
    a, b = np.random.default_rng(1).standard_normal((2, 20, 20))
    ax = permil.correlate(a, b, x, y, a_err=0.1, methods=()).plot()
    assert ax.get_title().startswith("r = ")


def _spots(shift: float = 0.0) -> np.ndarray:
    """Return an image of 5 x 4 spots."""
    y, x = np.mgrid[:400, :400]
    image = 50 + np.random.default_rng(int(10 * shift)).normal(0, 5, x.shape)
    for i, j in np.ndindex(5, 4):
        image += 2e3 * np.exp(-((x - 80 - 60 * i - shift) ** 2 + (y - 90 - 60 * j - shift) ** 2) / 9)
    return image


def test_measure_spots_of_an_image() -> None:
    catalog = permil.measure_spots(_spots()).catalog
    assert len(catalog) == 20
    assert np.median(catalog.flux) == pytest.approx(2e3 * 9 * np.pi, rel=0.02)


def test_measure_spots_of_ccddata() -> None:
    image = CCDData(_spots(), unit="electron", uncertainty=StdDevUncertainty(np.sqrt(_spots().clip(25))))
    found = permil.measure_spots(image)
    assert len(found.catalog) == 20
    assert (found.catalog.flux_err > 0).all()


def test_find_a_grid() -> None:
    catalog = permil.measure_spots(_spots()).catalog
    grid = permil.find_grid(catalog.x, catalog.y, columns=5, rows=4, degree=1)
    assert grid.window == "decided"
    assert grid.rigid.xstep == pytest.approx(60, abs=0.05)


def test_calibrate_the_spots_of_a_mask() -> None:
    found = [permil.measure_spots(_spots(shift)).catalog for shift in (0.0, 0.4, 0.8)]
    named = [
        permil.SpotCatalog(one.x, one.y, flux=one.flux, flux_err=one.flux_err, detector=DETECTOR, exposure=str(number))
        for number, one in enumerate(found)
    ]
    calibration = permil.calibrate_spots(named, columns=5, rows=4, degree=1)
    assert calibration.spots.flux.shape == (20,)
    assert np.std(calibration.spots.flux) / np.mean(calibration.spots.flux) < 0.02


def test_place_of_a_pixel_in_the_focal_plane() -> None:
    detector = permil.load_camera("lsstcam")["R22_S11"]
    x_mm, y_mm = detector.to_ccs([0, 4095], [0, 4003])
    x, y = detector.from_ccs(x_mm * u.mm, y_mm * u.mm)
    np.testing.assert_allclose(x, [0, 4095], atol=1e-9)
    np.testing.assert_allclose(y, [0, 4003], atol=1e-9)


def test_detector_at_a_place() -> None:
    camera = permil.load_camera("lsstcam")
    names = camera.detector_at([0.0, 1.0] * u.cm, [0.0, 400.0] * u.mm)
    assert list(names) == ["R22_S11", ""]


def test_check_a_plan() -> None:
    camera = permil.load_camera("lsstcam-bin8")
    x, y = camera["R22_S11"].to_ccs(*camera["R22_S11"].centre_pixel)
    grid = np.array([(x + dx, y + dy) for dx in np.linspace(-30, 30, 7) for dy in np.linspace(-30, 30, 7)])
    check = permil.check_plan(grid, camera, cells=8, beam_knots_mm=8.0, photodiode_noise=1e-3)
    assert 0 < check.super_pixel_error < 0.01
    assert "49 projector positions, 49 images" in str(check)


def test_map_of_the_errors_of_a_plan() -> None:
    check = permil.check_plan([(0.0, 0.0), (9.0, 0.0), (0.0, 9.0)], "lsstcam-bin8", read="raft", cells=4, beam_knots_mm=20.0)
    ax = check.plot()
    assert len(check.detectors) > 1
    assert ax.get_title() == "one pixel: photon and read noise"
    assert len(check.modes) > 0


def test_simulate_a_raw_exposure() -> None:
    campaign = permil.simulate_campaign(preset="mini", leds=["red"], detectors=["R22_S11"], seed=3)
    segments = campaign.raw(0, "R22_S11")
    assert set(segments) == {amplifier.name for amplifier in campaign.camera["R22_S11"].amplifiers}
    assert campaign.exposures["x"].unit == u.mm


def test_simulated_arrays_are_those_of_the_files(made: Path) -> None:
    campaign = permil.simulate_campaign(**OPTIONS)
    row = next(number for number, kind in enumerate(campaign.exposures["kind"]) if kind == "pointing")
    path = next((made / "campaign/raw").rglob(f"*{campaign.bench.exposures[row].obsid}*.fits"))
    raw = campaign.raw(row, DETECTOR)
    assert permil.assemble(path, "lsstcam-bin8").sum() == sum(
        int(raw[one.name][one.data_slices].sum()) for one in campaign.camera[DETECTOR].amplifiers
    )


def test_true_flat_of_a_simulation() -> None:
    campaign = permil.simulate_campaign(preset="mini", leds=["red"], detectors=["R22_S11"])
    flat = campaign.flat("red", "R22_S11")
    assert np.nanmedian(flat.image) == pytest.approx(1.0, abs=1e-3)
    assert campaign.beam("red", 0.0, 0.0) == pytest.approx(1.0, abs=0.01)


def test_mistakes_are_one_sentence() -> None:
    run = permil.open_run("out")
    for mistake in (lambda: run.flat("red", "R22_S12"), lambda: run.flat("green", DETECTOR), lambda: permil.open_run("raw")):
        with pytest.raises(permil.PermilError, match=r"; "):
            mistake()


def test_each_takes_at_most_five_lines() -> None:
    """Count the statements before the first assertion, but for imports and doc strings."""
    recipes = [entry for name, entry in vars(sys.modules[__name__]).items() if name.startswith("test_")]
    assert len(recipes) > 40
    for recipe in recipes:
        (function,) = ast.parse(inspect.getsource(recipe)).body
        taken = 0
        for node in function.body:
            if isinstance(node, ast.Assert | ast.With | ast.For) or ast.unparse(node).startswith("np.testing"):
                break
            is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            taken += not is_text and not isinstance(node, ast.Import | ast.ImportFrom)
        if recipe is not test_each_takes_at_most_five_lines:
            assert taken <= 5, recipe.__name__
