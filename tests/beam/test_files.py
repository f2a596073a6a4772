"""The model as FITS, and the two commands on tables."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Column, MaskedColumn, Table
from astropy.wcs import WCS
from beams import lattice_inside, plateau, scan, scan_of_bunches, scan_positions

from permil.beam import BeamModel
from permil.beam.fits import model_from_hdus, model_to_hdus
from permil.beam.stage import load_beam
from permil.beam.tables import fit_table, predict_table
from permil.errors import BeamError, InputError
from permil.products import read_table, write_hdus


@pytest.fixture(scope="module")
def bunches_model() -> BeamModel:
    places = np.array([[-9.0, -8.0], [9.0, 8.0], [0.0, 0.0]])
    nodes = scan_of_bunches(plateau, 7, places, np.array([1.0, 1.1, 0.9]), 3, noise=1e-4, exposure_noise=5e-4)
    signal = nodes.signal.copy()
    signal[30] *= 1.03
    return BeamModel.from_nodes(
        type(nodes)(**{**{name: getattr(nodes, name) for name in nodes.__dataclass_fields__}, "signal": signal})
    )


def node_table(path: Path, count: int = 8) -> Path:
    x, y = scan_positions(count)
    signal = 5e4 * plateau(-x, -y) * (1 + 3e-4 * np.random.default_rng(0).standard_normal(x.size))
    table = Table({"x_mm": x, "y_mm": y, "signal": signal, "remark": np.arange(x.size)})
    table["signal"].unit = "adu"
    table.write(path, format="ascii.ecsv")
    return path


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the model of a table of nodes."""
    folder = tmp_path_factory.mktemp("fitted")
    fit_table(node_table(folder / "nodes.ecsv"), folder / "beam.fits")
    return folder / "beam.fits"


def test_written_and_read_models_are_identical(tmp_path: Path, bunches_model: BeamModel) -> None:
    write_hdus(tmp_path / "beam.fits", model_to_hdus(bunches_model, header={"LED": ("red", "LED")}))
    again = model_from_hdus(tmp_path / "beam.fits")
    ux, uy = lattice_inside(45.0, 20)
    for first, second in zip(bunches_model.evaluate(ux, uy), again.evaluate(ux, uy), strict=True):
        np.testing.assert_allclose(first, second, rtol=0.0, atol=1e-13)
    assert again.outliers == bunches_model.outliers
    assert [outlier.row for outlier in again.outliers] == [30]
    assert again.gains == bunches_model.gains
    assert again.describe() == bunches_model.describe()
    np.testing.assert_array_equal(again.maximum.covariance, bunches_model.maximum.covariance)


def test_a_beam_of_another_led_is_refused(tmp_path: Path, bunches_model: BeamModel) -> None:
    path = tmp_path / "blue.fits"
    write_hdus(path, model_to_hdus(bunches_model, header={"LED": ("red", "LED")}))
    assert load_beam(path, led="RED").describe() == load_beam(path).describe()
    with pytest.raises(InputError, match=r"blue\.fits: this is the beam of LED red, not of blue"):
        load_beam(path, led="blue")


def test_a_beam_whose_nodes_changed_is_refused(tmp_path: Path, bunches_model: BeamModel) -> None:
    path = tmp_path / "beam.fits"
    write_hdus(path, model_to_hdus(bunches_model))
    with fits.open(path) as hdus:
        place = hdus["NODES"].fileinfo()["datLoc"]
    content = bytearray(path.read_bytes())
    content[place + 2] ^= 4
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"beam\.fits: damaged: the data of HDU NODES .*make the file again"):
        model_from_hdus(path)


def test_pictures_have_a_linear_wcs(tmp_path: Path, bunches_model: BeamModel) -> None:
    path = tmp_path / "beam.fits"
    write_hdus(path, model_to_hdus(bunches_model))
    with fits.open(path) as hdus:
        ux, uy = WCS(hdus["BEAM"].header).wcs_pix2world(60, 100, 0)
        beam, error = bunches_model.evaluate(ux, uy)
        assert hdus["BEAM"].data[100, 60] == pytest.approx(float(beam), rel=1e-6)
        assert hdus["BEAM_ERR"].data[100, 60] == pytest.approx(float(error), rel=1e-5)
        assert np.isnan(hdus["BEAM"].data[0, -1])
        assert hdus[0].header["NODENOIS"] == pytest.approx(bunches_model.node_noise)


@pytest.mark.skipif(shutil.which("fitsverify") is None, reason="fitsverify (Debian package) is not installed")
def test_fitsverify(tmp_path: Path, bunches_model: BeamModel) -> None:
    write_hdus(tmp_path / "beam.fits", model_to_hdus(bunches_model))
    result = subprocess.run(["fitsverify", "-q", str(tmp_path / "beam.fits")], capture_output=True, text=True, check=False)  # noqa: S603, S607
    assert "verification OK" in result.stdout


def test_fit_and_predict_tables(tmp_path: Path) -> None:
    nodes = node_table(tmp_path / "nodes.ecsv")
    assert "node noise" in fit_table(nodes, tmp_path / "beam.fits")
    table = read_table(nodes)[::-1]
    table["x_mm"][0] = 200.0
    table.write(tmp_path / "points.ecsv", format="ascii.ecsv")
    assert "1 of them without data" in predict_table(tmp_path / "beam.fits", tmp_path / "points.ecsv", tmp_path / "values.ecsv")
    values = read_table(tmp_path / "values.ecsv")
    assert values.colnames == [*table.colnames, "beam", "beam_err"]
    assert values["remark"].tolist() == list(range(63, -1, -1))
    assert values["beam"].unit == values["beam_err"].unit == "adu"
    assert np.isnan(values["beam"][0])
    np.testing.assert_allclose(values["beam"][1:], values["signal"][1:], rtol=2e-3)
    assert 0.0 < values["beam_err"][20] / values["beam"][20] < 1e-3
    assert values.meta["beam_node_noise"] == pytest.approx(3e-4, rel=0.5)


def test_predictions_for_another_place_are_moved(tmp_path: Path, fitted: Path) -> None:
    Table({"x_mm": [3.0, 13.0], "y_mm": [1.0, 6.0], "ref_x_mm": [0.0, 10.0], "ref_y_mm": [0.0, 5.0]}).write(
        tmp_path / "points.ecsv"
    )
    predict_table(fitted, tmp_path / "points.ecsv", tmp_path / "values.ecsv")
    values = read_table(tmp_path / "values.ecsv")
    assert values["beam"][0] == pytest.approx(values["beam"][1], rel=1e-12)


def test_predictions_of_several_bunches_use_their_gain_and_place(tmp_path: Path, bunches_model: BeamModel) -> None:
    write_hdus(tmp_path / "beam.fits", model_to_hdus(bunches_model))
    points = Table({"x_mm": [5.0, 5.0], "y_mm": [0.0, 0.0]})
    points.write(tmp_path / "points.ecsv")
    with pytest.raises(BeamError, match=r"points.ecsv: the model was fitted to several bunches"):
        predict_table(tmp_path / "beam.fits", tmp_path / "points.ecsv", tmp_path / "values.ecsv")
    points["amp"] = ["bunch00", "bunch01"]
    points.write(tmp_path / "points.ecsv", overwrite=True)
    predict_table(tmp_path / "beam.fits", tmp_path / "points.ecsv", tmp_path / "values.ecsv")
    expected = np.array([plateau(-14.0, -8.0), 1.1 * plateau(4.0, 8.0)])
    np.testing.assert_allclose(read_table(tmp_path / "values.ecsv")["beam"], expected, rtol=1e-3)


def test_errors_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "nodes.ecsv"
    Table({"x": [1.0], "y_mm": [2.0], "signal": [3.0]}).write(path)
    with pytest.raises(InputError, match=r"nodes.ecsv: column x_mm is missing"):
        fit_table(path, tmp_path / "beam.fits")
    assert not (tmp_path / "beam.fits").exists()
    with pytest.raises(BeamError, match=r"few.ecsv: 4 nodes .* too few"):
        fit_table(node_table(tmp_path / "few.ecsv", 2), tmp_path / "beam.fits")


def test_predicted_columns_are_not_overwritten(tmp_path: Path, fitted: Path) -> None:
    Table({"x_mm": [3.0], "y_mm": [1.0], "beam": [1.0]}).write(tmp_path / "points.ecsv")
    with pytest.raises(InputError, match="already has a column beam"):
        predict_table(fitted, tmp_path / "points.ecsv", tmp_path / "values.ecsv")


def test_what_is_no_model(tmp_path: Path) -> None:
    fits.PrimaryHDU().writeto(tmp_path / "empty.fits")
    with pytest.raises(InputError, match="not a beam model: extension BEAM"):
        model_from_hdus(tmp_path / "empty.fits")
    (tmp_path / "broken.fits").write_bytes(b"SIMPLE  = ")
    with pytest.raises(InputError, match="cannot be read as a beam model"):
        model_from_hdus(tmp_path / "broken.fits")
    write_hdus(tmp_path / "short.fits", model_to_hdus(BeamModel.from_nodes(scan(plateau, 6, 1))))
    content = (tmp_path / "short.fits").read_bytes()
    (tmp_path / "short.fits").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"short.fits"):
        model_from_hdus(tmp_path / "short.fits")


def test_positions_in_other_units_and_masked_ones(tmp_path: Path, fitted: Path) -> None:
    Table({"x_mm": [20.0, 3.0], "y_mm": [-20.0, 1.0]}).write(tmp_path / "mm.ecsv")
    x = MaskedColumn([2.0, 0.3], mask=[False, True], unit="cm")
    Table({"X_mm": x, "y_mm": Column([-20000.0, 1000.0], unit="um")}).write(tmp_path / "cm.ecsv")
    for name in ("mm", "cm"):
        predict_table(fitted, tmp_path / f"{name}.ecsv", tmp_path / f"{name}_values.ecsv")
    plain, other = (read_table(tmp_path / f"{name}_values.ecsv") for name in ("mm", "cm"))
    assert other["beam"][0] == pytest.approx(plain["beam"][0], rel=1e-12)
    assert np.isnan(other["beam"][1])
    assert other["x_mm"].unit == "cm"
    Table({"x_mm": Column([2.0], unit="deg"), "y_mm": [0.0]}).write(tmp_path / "deg.ecsv")
    with pytest.raises(InputError, match=r"deg\.ecsv: column x_mm is given in deg"):
        predict_table(fitted, tmp_path / "deg.ecsv", tmp_path / "values.ecsv")


def test_positions_given_twice_are_predicted_twice(tmp_path: Path, fitted: Path) -> None:
    Table({"x_mm": [3.0, 3.0], "y_mm": [1.0, 1.0]}).write(tmp_path / "points.ecsv")
    predict_table(fitted, tmp_path / "points.ecsv", tmp_path / "values.ecsv")
    values = read_table(tmp_path / "values.ecsv")
    assert len(values) == 2
    assert values["beam"][0] == values["beam"][1]
