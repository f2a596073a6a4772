"""`permil spots grid` on files."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from grids import draw_grid

from permil.errors import GridError, InputError
from permil.spots.files import grid_file
from permil.spots.readers import read_catalog

NAME = "spot_catalog_R02_S02_20191031.fits"


@pytest.fixture(scope="module")
def labelled(shared_data, tmp_path_factory):
    out = tmp_path_factory.mktemp("grid") / "grid.fits"
    return out, grid_file(shared_data / NAME, out)


def test_all_rows_and_columns_are_kept(labelled, shared_data):
    with fits.open(shared_data / NAME) as before, fits.open(labelled[0], checksum=True) as after:
        old, new = before[1], after[1]
        assert new.columns.names == [*old.columns.names, "grid_i", "grid_j"]
        assert [column.format for column in new.columns][:106] == [column.format for column in old.columns]
        for name in old.columns.names:
            np.testing.assert_array_equal(new.data[name], old.data[name], err_msg=name)
        matched = np.isfinite(old.data["spotgrid_index"])
        np.testing.assert_array_equal(new.data["grid_i"] >= 0, matched)
        np.testing.assert_array_equal(
            (49 * new.data["grid_i"] + new.data["grid_j"])[matched], old.data["spotgrid_index"][matched]
        )
        assert (new.data["grid_i"][~matched] == -1).all()
        assert (new.data["grid_j"][~matched] == -1).all()


def test_header_and_text(labelled, shared_data):
    header, expected = fits.getheader(labelled[0]), fits.getheader(shared_data / NAME, "GRID_INFO")
    assert abs(header["X0"] - expected["X0"]) < 0.001
    assert abs(header["Y0"] - expected["Y0"]) < 0.001
    assert (header["NCOLS"], header["NROWS"], header["NSPOTS"], header["NREJECT"]) == (49, 49, 2401, 22)
    assert header["RMS"] == pytest.approx(1.143, rel=0.02)
    assert header["RMSAFF"] == pytest.approx(1.137, rel=0.02)
    assert header["RMSPOLY"] == pytest.approx(0.156, rel=0.02)
    for card in ("X0", "Y0", "XSTEP", "YSTEP", "THETA"):
        assert f"{header[card]:.6f}" in labelled[1]
        assert header[f"{card}ERR"[:8]] > 0
    assert "22 rejected" in labelled[1]
    assert "decided" in labelled[1]


def test_header_gives_the_nodes(labelled):
    """The convention of the header, written out: the rms of the residuals must be the one that is stored."""
    header, table = fits.getheader(labelled[0]), fits.getdata(labelled[0], 1)
    spot = table["grid_i"] >= 0
    u = (table["grid_i"][spot] - (header["NCOLS"] - 1) / 2) * header["XSTEP"]
    v = (table["grid_j"][spot] - (header["NROWS"] - 1) / 2) * header["YSTEP"]
    x = header["X0"] + u * np.cos(header["THETA"]) - v * np.sin(header["THETA"])
    y = header["Y0"] + u * np.sin(header["THETA"]) + v * np.cos(header["THETA"])
    dx, dy = table["base_SdssCentroid_x"][spot] - x, table["base_SdssCentroid_y"][spot] - y
    assert np.sqrt(np.mean(dx**2 + dy**2)) == pytest.approx(header["RMS"], rel=1e-9)
    nodes = fits.getdata(labelled[0], "NODES")
    np.testing.assert_allclose(nodes["dx"], dx, atol=1e-8)
    assert np.sqrt(np.mean(nodes["dx_free"] ** 2 + nodes["dy_free"] ** 2)) == pytest.approx(header["RMSPOLY"], rel=1e-9)


def test_labels_are_read_back_and_replaced(labelled, tmp_path):
    catalog = read_catalog(labelled[0])
    assert catalog.labelled.sum() == 2401
    grid_file(labelled[0], tmp_path / "again.fits")
    again = fits.getdata(tmp_path / "again.fits", 1)
    np.testing.assert_array_equal(again["grid_i"], catalog.grid_i)
    assert list(again.names).count("grid_i") == 1


def test_fitsverify(labelled):
    program = shutil.which("fitsverify")
    if program is None:
        pytest.skip("fitsverify is not installed")
    done = subprocess.run([program, "-q", str(labelled[0])], capture_output=True, text=True, check=False)  # noqa: S603
    assert "verification OK" in done.stdout, done.stdout


def test_cut_grid_is_ambiguous(tmp_path):
    true = draw_grid(np.random.default_rng(2), centre=(600.0, 2000.0), angle_deg=3)
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU(Table({"X": true.x, "Y": true.y}))]).writeto(tmp_path / "cut.fits")
    text = grid_file(tmp_path / "cut.fits", tmp_path / "out.fits")
    header = fits.getheader(tmp_path / "out.fits")
    assert "ambiguous along i;" in text
    assert (header["WINDOW"], header["WINDOWI"], header["WINDOWJ"]) == ("ambiguous", False, True)
    assert header["NROWS"] == 49
    assert header["NCOLS"] == len(np.unique(true.i))


def test_errors_name_the_file_and_leave_nothing(tmp_path):
    x, y = np.random.default_rng(0).random((2, 500)) * 4000
    path = tmp_path / "stars.fits"
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU(Table({"X": x, "Y": y}))]).writeto(path)
    with pytest.raises(GridError, match=r"stars\.fits: the sources do not lie on a grid"):
        grid_file(path, tmp_path / "out.fits")
    few = tmp_path / "few.fits"
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU(Table({"X": x[:5], "Y": y[:5]}))]).writeto(few)
    with pytest.raises(GridError, match=r"few\.fits: 5 sources"):
        grid_file(few, tmp_path / "out.fits")
    with pytest.raises(InputError, match="positions are missing"):
        grid_file(_only_flux(tmp_path), tmp_path / "out.fits")
    assert not (tmp_path / "out.fits").exists()


def _only_flux(folder):
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU(Table({"FLUX": np.ones(20)}))]).writeto(folder / "flux.fits")
    return folder / "flux.fits"
