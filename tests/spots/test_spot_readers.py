"""Catalogs of all makes, and what is wrong with bad ones."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from permil.errors import InputError
from permil.spots.catalog import SpotCatalog, SpotFlag, facts_of_name, write_catalog
from permil.spots.readers import read_catalog

STACK = ("base_SdssCentroid_x", "base_SdssCentroid_y", "base_SdssShape_xx", "base_SdssShape_yy", "base_SdssShape_xy")
FLUX = "base_CircularApertureFlux_12_0_instFlux"


def _stack_table(count=12, **columns):
    table = Table({name: np.arange(count) + 1.5 * number for number, name in enumerate((*STACK, FLUX), start=1)})
    for name, values in columns.items():
        table[name] = values
    return table


def _write(path, table, cards=None):
    hdu = fits.BinTableHDU(table)
    hdu.header.update(cards or {})
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path)
    return path


def test_names_give_exposure_time_and_position():
    facts = facts_of_name("MC_C_20191030_000363_R22_S11_15.0s_0.1x_-3.5y_processed_grid.fits")
    assert (facts.exposure, facts.detector) == ("MC_C_20191030_000363", "R22_S11")
    assert (facts.exposure_time, facts.projector_x, facts.projector_y) == (15.0, 0.1, -3.5)
    facts = facts_of_name("/a/MC_C_20191031_001500_R02_S02_20.0s_-293.2x_39.6y_gridfit.cat")
    assert (facts.detector, facts.exposure_time, facts.projector_x, facts.projector_y) == ("R02_S02", 20.0, -293.2, 39.6)
    nothing = facts_of_name("spots.fits")
    assert (nothing.exposure, nothing.detector) == ("", "")
    assert np.isnan([nothing.exposure_time, nothing.projector_x, nothing.projector_y]).all()


def test_real_catalog(shared_data):
    catalog = read_catalog(shared_data / "spot_catalog_R02_S02_20191031.fits")
    assert len(catalog) == 2423
    assert (catalog.detector, catalog.aperture, catalog.flux_unit) == ("R02_S02", 12.0, "count")
    # All centroid errors are 0 and all shape errors NaN in this file: neither says anything.
    for name in ("x_err", "y_err", "xx_err", "yy_err", "xy_err"):
        assert np.isnan(getattr(catalog, name)).all(), name
    assert catalog.flux.max() == pytest.approx(2_428_473, abs=1)
    assert catalog.good.all()
    wide = read_catalog(shared_data / "spot_catalog_R02_S02_20191031.fits", flux="base_CircularApertureFlux_25_0_instFlux")
    assert wide.aperture == 25.0
    assert wide.flux.min() == pytest.approx(-5108, abs=1)


def test_flags_of_the_stack(tmp_path):
    flagged = {name: np.arange(12) == row for row, name in enumerate((
        "base_SdssCentroid_flag", "base_SdssShape_flag_unweightedBad", "base_CircularApertureFlux_12_0_flag",
        "base_PixelFlags_flag_saturatedCenter", "base_PixelFlags_flag_edge", "base_PixelFlags_flag_bad",
        "ext_shapeHSM_HsmPsfMoments_flag"))}  # fmt: skip
    catalog = read_catalog(_write(tmp_path / "a.fits", _stack_table(**flagged)))
    expected = [SpotFlag.BAD_FIT] * 3 + [SpotFlag.SATURATED, SpotFlag.EDGE, SpotFlag.MASKED] + [SpotFlag(0)] * 6
    np.testing.assert_array_equal(catalog.flags, [int(flag) for flag in expected])
    np.testing.assert_array_equal(catalog.good, np.arange(12) >= 6)


def test_named_bits_of_the_stack(tmp_path):
    bits = np.zeros((12, 3), dtype=bool)
    bits[4, 1] = bits[5, 2] = bits[:, 0] = True
    path = _write(
        tmp_path / "a.fits", _stack_table(flags=bits), {"TFLAG2": "base_SdssShape_flag", "TFLAG3": "base_PixelFlags_flag_cr"}
    )
    flags = read_catalog(path).flags
    assert flags[4] == int(SpotFlag.BAD_FIT)
    assert flags[5] == int(SpotFlag.MASKED)
    assert not np.delete(flags, [4, 5]).any()  # a bit without a name says nothing


def test_errors_that_say_nothing(tmp_path):
    errors = {"base_SdssCentroid_xErr": np.zeros(12), "base_SdssShape_xxErr": np.full(12, np.nan), f"{FLUX}Err": np.arange(12.0)}
    catalog = read_catalog(_write(tmp_path / "a.fits", _stack_table(**errors)))
    assert np.isnan(catalog.x_err).all()
    assert np.isnan(catalog.xx_err).all()
    np.testing.assert_array_equal(catalog.flux_err, [np.nan, *range(1, 12)])


def test_band_is_never_that_of_the_ccob_cards(tmp_path):
    path = _write(tmp_path / "a.fits", _stack_table())
    with fits.open(path, mode="update") as hdus:
        hdus[0].header["CCOBLED"] = "uv"
    assert read_catalog(path).band == ""
    assert read_catalog(path, band="red").band == "red"
    with fits.open(path, mode="update") as hdus:
        hdus[0].header["FILTER"] = "SDSSi"
    assert read_catalog(path).band == "SDSSi"


def test_processed_grid_file(tmp_path):
    i, j = (index.ravel() for index in np.meshgrid(np.arange(5), np.arange(4), indexing="ij"))
    theta = 0.1
    u, v = (i - 2) * 60.0, (j - 1.5) * 61.0
    x, y = 500 + u * np.cos(theta) - v * np.sin(theta), 600 + u * np.sin(theta) + v * np.cos(theta)
    table = Table({"X": x, "Y": y, "XX": 5 + 0 * x, "YY": 6 + 0 * x, "FLUX": 1e5 + x})
    primary = fits.PrimaryHDU()
    primary.header.update({"X0": 500.0, "Y0": 600.0, "XSTEP": 60.0, "YSTEP": 61.0, "THETA": theta, "NCOLS": 5, "NROWS": 4})
    path = tmp_path / "MC_C_20191030_000363_R22_S11_15.0s_0.1x_-3.5y_processed_grid.fits"
    fits.HDUList([primary, fits.BinTableHDU(table)]).writeto(path)
    catalog = read_catalog(path)
    np.testing.assert_array_equal(catalog.grid_i, i)
    np.testing.assert_array_equal(catalog.grid_j, j)
    np.testing.assert_array_equal(catalog.flux, 1e5 + x)
    assert (catalog.exposure_time, catalog.projector_x, catalog.projector_y) == (15.0, 0.1, -3.5)
    assert np.isnan(catalog.xy).all()


def test_own_catalogs_come_back(tmp_path):
    rng = np.random.default_rng(0)
    values = {name: rng.random(7) for name in ("x", "y", "xx", "yy", "xy", "flux", "x_err", "flux_err")}
    catalog = SpotCatalog(
        **values,
        flags=np.arange(7),
        grid_i=np.arange(7) - 1,
        grid_j=np.arange(7),
        detector="R22_S11",
        exposure="MC_C_20191030_000363",
        exposure_time=15.0,
        projector_x=-0.5,
        projector_y=3.0,
        band="red",
        mjd=58786.25,
        aperture=9.0,
    )
    write_catalog(tmp_path / "any_name.fits", catalog)
    again = read_catalog(tmp_path / "any_name.fits")
    for name, value in vars(catalog).items():
        np.testing.assert_array_equal(getattr(again, name), value, err_msg=name)


@pytest.mark.parametrize("missing", ["base_SdssCentroid_x", "base_SdssShape_yy", FLUX])
def test_missing_columns_are_named(tmp_path, missing):
    table = _stack_table(base_PsfFlux_instFlux=np.ones(12))
    table.remove_column(missing)
    with pytest.raises(InputError) as caught:
        read_catalog(_write(tmp_path / "a.fits", table))
    assert missing in caught.value.what
    assert "of a processed grid file (X, Y, XX, YY, FLUX)" in str(caught.value)
    if missing == FLUX:
        assert "base_PsfFlux_instFlux" in str(caught.value)


def test_bad_files(tmp_path):
    with pytest.raises(InputError, match="empty"):
        read_catalog(_write(tmp_path / "empty.fits", _stack_table()[:0]))
    with pytest.raises(InputError, match="NaN"):
        read_catalog(_write(tmp_path / "nan.fits", _stack_table(base_SdssCentroid_x=np.full(12, np.nan))))
    (tmp_path / "text.fits").write_text("not FITS at all")
    with pytest.raises(InputError, match="cannot be read as FITS"):
        read_catalog(tmp_path / "text.fits")
    with pytest.raises(InputError, match="cannot be read"):
        read_catalog(tmp_path / "absent.fits")


def test_columns_of_one_length():
    with pytest.raises(InputError, match="flux"):
        SpotCatalog(np.zeros(3), np.zeros(3), flux=np.zeros(2))
