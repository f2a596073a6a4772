"""The stage on files: from catalogs to maps, applied calibrations, and bad input."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from campaigns import draw_campaign, no_throughput, throughput

from permil.config import Config
from permil.config.spots import SpotsConfig
from permil.context import Run
from permil.errors import GridError, InputError, SpotError
from permil.products import RunFolder
from permil.products.folder import SpotsFolder
from permil.spots.catalog import write_catalog
from permil.spots.files import read_calibration
from permil.spots.inputs import catalog_tasks
from permil.spots.stage import calibrate_files, run_spots

OPTIONS = SpotsConfig(columns=15, rows=15, knot_px=64.0, cell_px=64, rings=(-300.0, 200.0))


@pytest.fixture(scope="module")
def cutout():
    from permil.camera import load_camera

    return load_camera("spots-cutout")


def _write(folder, catalogs, *, labels=False):
    for catalog in catalogs:
        none = np.full(len(catalog), -1)
        write_catalog(folder / f"{catalog.exposure}.fits", catalog if labels else catalog.with_labels(none, none))
    return folder


def _run(folder, camera, **options):
    return Run(Config(spots=OPTIONS.model_copy(update=options)), camera, RunFolder(folder))


@pytest.fixture(scope="module")
def run(tmp_path_factory, cutout):
    """A dithered run from catalogs without labels; every tenth exposure is cut by the edge of the detector."""
    folder = tmp_path_factory.mktemp("spots")
    campaign = draw_campaign(np.random.default_rng(0), exposures=50)
    catalogs = [
        entry.select(entry.x > np.sort(entry.x)[40]) if number % 10 == 9 else entry
        for number, entry in enumerate(campaign.catalogs)
    ]
    _write(folder / "in", catalogs)
    options = OPTIONS.model_copy(update={"catalogs": [str(folder / "in")]})
    report = run_spots(Run(Config(spots=options), cutout, RunFolder(folder / "out")))
    return folder, options, campaign, report


def test_products(run):
    folder, _, campaign, report = run
    products = SpotsFolder(folder / "out")
    assert report.done == 1
    assert len(list((products.path / "grids").iterdir())) == 50
    assert not products.left_out.exists()
    with fits.open(products.throughput("R22_S11", "red"), checksum=True) as hdus:
        names = [hdu.name for hdu in hdus]
        assert {"FLUX", "FLUX_ERR", "FLUX_N", "DX", "XY_ERR", "MODEL", "AMPLIFIERS", "RADIAL"} <= set(names)
        flux, error, count = (hdus[name].data for name in ("FLUX", "FLUX_ERR", "FLUX_N"))
        x = hdus["FLUX"].header["CRVAL1"] + np.arange(16) * hdus["FLUX"].header["CDELT1"]
        truth = throughput(*np.meshgrid(x, x))
        good = count > 20
        assert np.corrcoef(flux[good], truth[good])[0, 1] > 0.95
        assert (error[good] > 0).all()
    with fits.open(products.residuals("R22_S11", "red")) as hdus:
        table = hdus["RESIDUALS"].data
        assert len(table) == sum(len(np.unique(entry.grid_i * 15 + entry.grid_j)) for entry in campaign.catalogs) - 5 * 41
        np.testing.assert_allclose(table["dflux"], table["flux"] * table["dflux_err"] / table["flux_err"], rtol=1e-4, atol=1.0)
    stored = read_calibration(products.calibration("R22_S11", "red"))
    ratio = stored.spots.flux / campaign.fluxes
    assert np.std(ratio / np.mean(ratio)) < 0.02
    summary = Table.read(products.summary, format="ascii.ecsv")
    assert set(summary.colnames) == {"metric", "detector", "band", "value", "error", "unit"}
    chi_square = summary[summary["metric"] == "chi_square_per_freedom"]["value"][0]
    assert 0.9 < chi_square < 1.1


def test_cut_exposures_have_the_true_labels(run):
    folder, _, campaign, _ = run
    with fits.open(SpotsFolder(folder / "out").residuals("R22_S11", "red")) as hdus:
        table, names = hdus["RESIDUALS"].data, hdus["EXPOSURES"].data["exposure"]
    number = list(names).index(campaign.catalogs[9].exposure)
    rows = table[table["exposure"] == number]
    true = campaign.catalogs[9]
    # Positions come back bit for bit: they say which spot a row is.
    spot_at = dict(zip(true.x.tolist(), zip(true.grid_i.tolist(), true.grid_j.tolist(), strict=True), strict=True))
    assert len(rows) == len(true) - 41
    assert all(spot_at[row["x"]] == (row["grid_i"], row["grid_j"]) for row in rows)


def test_nothing_is_done_twice(run, cutout):
    folder, options, _, _ = run
    before = SpotsFolder(folder / "out").summary.stat().st_mtime_ns
    report = run_spots(Run(Config(spots=options), cutout, RunFolder(folder / "out")))
    assert (report.done, report.skipped) == (0, 1)
    assert SpotsFolder(folder / "out").summary.stat().st_mtime_ns == before


def test_files_pass_fitsverify(run):
    program = shutil.which("fitsverify")
    if program is None:
        pytest.skip("fitsverify is not installed")
    products = SpotsFolder(run[0] / "out")
    files = [products.calibration("R22_S11", "red"), products.residuals("R22_S11", "red"), products.throughput("R22_S11", "red")]
    done = subprocess.run([program, "-q", *map(str, files)], capture_output=True, text=True, check=False)  # noqa: S603
    assert done.stdout.count("verification OK") == 3, done.stdout


def test_calibration_is_applied_to_other_exposures(run, tmp_path, cutout):
    folder, options, _, _ = run
    others = draw_campaign(np.random.default_rng(0), exposures=53).catalogs[50:]
    _write(tmp_path / "in", others)
    calibration = SpotsFolder(folder / "out").calibration("R22_S11", "red")
    update = {"catalogs": [str(tmp_path / "in")], "calibration": str(calibration)}
    report = run_spots(Run(Config(spots=options.model_copy(update=update)), cutout, RunFolder(tmp_path / "out")))
    assert "applied to 3 exposures" in report.messages[0]
    assert fits.getheader(SpotsFolder(tmp_path / "out").throughput("R22_S11", "red"))["CALIB"] == calibration.name
    elsewhere = [replace(entry, detector="R02_S02") for entry in others]
    update["catalogs"] = [str(_write(tmp_path / "elsewhere", elsewhere))]
    with pytest.raises(SpotError, match="the calibration is of detector R22_S11, but the exposures are of R02_S02"):
        run_spots(Run(Config(spots=options.model_copy(update=update)), cutout, RunFolder(tmp_path / "other")))


def test_fixed_place(tmp_path, cutout):
    campaign = draw_campaign(np.random.default_rng(3), fixed=True, drift=0.001, lamp=0.0002, exposures=70, response=no_throughput)
    _write(tmp_path / "in", campaign.catalogs, labels=True)
    text = calibrate_files([tmp_path / "in"], tmp_path / "calibration.fits", options=OPTIONS, camera=cutout)
    with fits.open(tmp_path / "calibration.fits") as hdus:
        header, names = hdus[0].header, [hdu.name for hdu in hdus]
    assert names == ["PRIMARY", "SPOTS", "EXPOSURES", "REPEATABILITY"]
    assert header["MODE"] == "fixed"
    assert header["DRIFTERR"] <= 1e-4
    assert abs(header["DRIFT"] - 1e-3) < 3 * header["DRIFTERR"]
    assert f"{1e3 * header['DRIFT']:.3f} +- {1e3 * header['DRIFTERR']:.3f} per mil" in text


def test_exposures_without_a_grid_are_left_out(tmp_path, cutout):
    catalogs = draw_campaign(np.random.default_rng(4), exposures=4).catalogs
    rng = np.random.default_rng(0)
    stars = replace(catalogs[3], x=rng.random(len(catalogs[3])) * 1000, y=rng.random(len(catalogs[3])) * 1000)
    _write(tmp_path / "in", [*catalogs[:3], stars])
    options = OPTIONS.model_copy(update={"catalogs": [str(tmp_path / "in")], "method": "mean"})
    report = run_spots(Run(Config(spots=options), cutout, RunFolder(tmp_path / "out")))
    left_out = Table.read(SpotsFolder(tmp_path / "out").left_out, format="ascii.ecsv")
    assert list(left_out["exposure"]) == [stars.exposure]
    assert "not lie on a grid" in left_out["reason"][0]
    assert "1 exposures left out" in report.messages[-1]
    only = OPTIONS.model_copy(update={"catalogs": [str(tmp_path / "in" / f"{stars.exposure}.fits")]})
    with pytest.raises(GridError, match="no exposure has a usable grid"):
        run_spots(Run(Config(spots=only), cutout, RunFolder(tmp_path / "none")))


def test_bad_input(tmp_path, cutout):
    with pytest.raises(InputError, match=r"absent.*catalog does not exist"):
        run_spots(_run(tmp_path, cutout, catalogs=[str(tmp_path / "absent")]))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no catalogs"):
        run_spots(_run(tmp_path, cutout, catalogs=[str(tmp_path / "empty")]))
    with pytest.raises(InputError, match="no spot exposures"):
        run_spots(Run(Config(spots=OPTIONS), cutout, RunFolder(tmp_path)))
    catalogs = draw_campaign(np.random.default_rng(5), exposures=3).catalogs
    nameless = [replace(entry, detector="") for entry in catalogs]
    _write(tmp_path / "nameless", nameless)
    with pytest.raises(SpotError, match="do not identify their detector"):
        run_spots(_run(tmp_path / "a", cutout, catalogs=[str(tmp_path / "nameless")]))
    far = [replace(entry, x=entry.x + 500) for entry in catalogs]
    _write(tmp_path / "far", far)
    with pytest.raises(SpotError, match="lie outside R22_S11"):
        run_spots(_run(tmp_path / "b", cutout, catalogs=[str(tmp_path / "far")]))
    _write(tmp_path / "good", catalogs)
    with pytest.raises(InputError, match="not a calibration"):
        read_calibration(tmp_path / "good" / f"{catalogs[0].exposure}.fits")
    both = OPTIONS.model_copy(update={"catalogs": [str(tmp_path / "good")], "detectors": ["R02_S02"]})
    with pytest.raises(GridError, match="it is of R22_S11, not of R02_S02"):
        run_spots(Run(Config(spots=both), cutout, RunFolder(tmp_path / "c")))


def test_named_detector_without_exposures_is_not_ignored(tmp_path, cutout):
    index = SimpleNamespace(
        select=lambda **_: Table({"detector": ["R22_S11", "R22_S11"], "path": ["a", "b"], "obsid": ["1", "2"]})
    )
    indexed = type("Indexed", (Run,), {"index": index})
    options = SpotsConfig(detectors=["R22_S11", "R02_S02"])
    with pytest.raises(
        InputError, match=r"no spot exposures \(IMGTYPE SPOT\) of R02_S02; detectors with spot exposures: R22_S11"
    ):
        catalog_tasks(indexed(Config(spots=options, exposures={"roots": [tmp_path]}), cutout, RunFolder(tmp_path)))
